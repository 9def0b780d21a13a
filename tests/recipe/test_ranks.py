"""Real ranks: one process, several, and every ZeRO stage give the same numbers, killed on the way or not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from w2s import steps
from w2s.errors import StepError
from w2s.learn import losses
from w2s.models import ModelSpec
from w2s.sources import FileSource, resolve
from w2s.spec import Engine, Frozen, LogConf, Lora, MaterializeSpec, Recipe, Sizes, TrainSpec, Weak, Xent
from w2s.store import Store
from w2s.tasks.registry import task_of

pytestmark = pytest.mark.recipe

SCRIPT = Path(__file__).with_name("rank_steps.py")
# 33 examples in batches of 8: the last batch has one, so that one of two ranks has none.
SIZES = Sizes(weak_train=24, transfer=33, val=7, test=15)
ALONE = Engine(device="cpu", checkpoint_every="never")
TWO = {"device": "cpu", "processes": 2, "checkpoint_every": "never"}
ENGINES = {
    "micro-batches": Engine(device="cpu", micro_batch_size=3, checkpoint_every="never"),
    "two processes": Engine(**TWO),
    "two processes, micro-batches": Engine(**TWO, micro_batch_size=2),
    **{f"ZeRO {stage}": Engine(**TWO, zero_stage=stage) for stage in (0, 1, 2, 3)},
    **{f"ZeRO {stage}, micro-batches": Engine(**TWO, zero_stage=stage, micro_batch_size=1) for stage in (0, 1, 2, 3)},
}
COMMON: dict[str, Any] = {"lr": 3e-3, "batch_size": 8, "epochs": 2, "head_init": "normal", "warmup_frac": 0.1}
RECIPES = {
    "xent": Recipe(**COMMON, loss=Xent()),
    "logconf": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), eval_every=4),
    "logconf, not clipped": Recipe(**COMMON, loss=LogConf(warmup_frac=0.0), clip_norm=None),
    "logconf, clipped hard": Recipe(**COMMON, loss=LogConf(warmup_frac=0.0), clip_norm=0.05),
    "frozen": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), tune=Frozen(layers=1)),
    "lora": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), tune=Lora(r=2)),
}
TOLERANCE: dict[str, float] = {"rtol": 2e-5, "atol": 2e-6}


def save_model(folder: Path, layers: int) -> ModelSpec:
    words = {"<pad>": 0, "<unk>": 1, **{f"w{i}": i + 2 for i in range(40)}}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "unk_token": "<unk>"})
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=32, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(layers)
    transformers.LlamaModel(config).save_pretrained(folder)
    source = resolve(FileSource(file=str(folder)), folder, "model")
    return ModelSpec(name=f"tiny-{layers}", source=source, params=10_000 * layers, depth=layers)


class Grid:
    """A task, a finished supervisor, and stores in which the same students are trained again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        rows = [rng.integers(0, 40, rng.integers(2, 12)) for _ in range(200)]
        lines = [{"text": " ".join(f"w{i}" for i in row), "label": int(row.mean() > 19.5)} for row in rows]
        (folder / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        task = task_of({"name": "tiny", "file": "task.jsonl", "text": "text", "label": "label"}, folder, "task")
        self.data = MaterializeSpec(task=task, sizes=SIZES)
        small, self.large = (save_model(folder / f"model-{layers}", layers) for layers in (1, 2))
        self.weak = TrainSpec(
            data=self.data.digest(), split="weak_train", model=small, recipe=RECIPES["xent"], engine=ALONE
        )
        self.first = Store(folder / "first" / "store")
        assert [steps.run_step(spec, self.first) for spec in (self.data, self.weak)] == ["done", "done"]

    def student(self, recipe: Recipe, engine: Engine, **more: Any) -> TrainSpec:
        labels = Weak(supervisor=self.weak.digest())
        return TrainSpec(
            data=self.data.digest(), split="transfer", model=self.large, labels=labels, recipe=recipe, engine=engine,
            **more,
        )  # fmt: skip

    def store(self, name: str) -> Store:
        """A store of that name in which the student's parents are finished."""
        store = Store(self.folder / name.replace(" ", "-").replace(",", "") / "store")
        for spec in (self.data, self.weak):
            if not store.has(spec.kind, spec.digest()):
                shutil.copytree(self.first.path(spec.kind, spec.digest()), store.path(spec.kind, spec.digest()))
        return store

    def launch(self, jobs: list[dict[str, Any]], ranks: int = 2, code: int = 0) -> list[list[str]]:
        """Outcomes by rank and job; the ranks are started as the executor starts them."""
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(jobs))
        for left in self.folder.glob("jobs.json.rank*"):
            left.unlink()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        done = subprocess.run(
            [*command, str(SCRIPT), str(file)], capture_output=True, text=True, timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert (done.returncode != 0) == (code != 0), done.stderr[-8000:]
        return [json.loads(Path(f"{file}.rank{rank}").read_text()) for rank in range(ranks)] if code == 0 else []


def job(spec: TrainSpec, store: Store, **more: Any) -> dict[str, Any]:
    return {"spec": spec.model_dump(mode="json"), "store": str(store.root), **more}


def history(store: Store, spec: TrainSpec) -> list[dict[str, Any]]:
    lines = (store.path("train", spec.digest()) / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses_of(store: Store, spec: TrainSpec) -> list[float]:
    return [row["loss"] for row in history(store, spec) if "loss" in row]


def logits_of(store: Store, spec: TrainSpec, split: str) -> np.ndarray:
    table = store.read_table("train", spec.digest(), f"predictions/{split}.parquet")
    return np.array(table["logits"].to_pylist(), dtype=np.float32)


def weights_of(store: Store, spec: TrainSpec) -> dict[str, np.ndarray]:
    import safetensors.numpy

    return dict(safetensors.numpy.load_file(store.path("train", spec.digest()) / "model" / "trained.safetensors"))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    torch.set_num_threads(1)
    return Grid(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def trained(grid: Grid) -> dict[str, Store]:
    """Every recipe under every engine, in a store for each engine; the groups work through all of it in one launch."""
    stores = {name: grid.store(name) for name in ("alone", *ENGINES)}
    jobs = []
    for recipe in RECIPES.values():
        assert steps.run_step(grid.student(recipe, ALONE, keep_weights=True), stores["alone"]) == "done"
        for name, engine in ENGINES.items():
            spec = grid.student(recipe, engine, keep_weights=True)
            if engine.launched:
                jobs.append(job(spec, stores[name]))
            else:
                assert steps.run_step(spec, stores[name]) == "done"
    assert grid.launch(jobs) == [["done"] * len(jobs)] * 2
    return stores


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_losses_predictions_and_weights_are_those_of_one_process(engine, recipe, grid, trained):
    spec = grid.student(RECIPES[recipe], ENGINES[engine])
    one, other = trained["alone"], trained[engine]
    assert len(losses_of(one, spec)) == 10
    np.testing.assert_allclose(losses_of(other, spec), losses_of(one, spec), **TOLERANCE)
    for split in ("test", "val", "transfer"):
        np.testing.assert_allclose(logits_of(other, spec, split), logits_of(one, spec, split), rtol=1e-3, atol=2e-4)
    before, after = weights_of(one, spec), weights_of(other, spec)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-3, atol=1e-4)
    assert other.damage("train", spec.digest()) == []


def test_a_threshold_per_micro_batch_would_be_seen(grid, trained, monkeypatch):
    """Negative control: the confidence loss with a threshold for every two examples is far off."""
    whole = losses.targets

    def by_twos(loss, p_GC, logits_GC, *more):
        pairs = range(0, len(p_GC), 2)
        return torch.cat([whole(loss, p_GC[i : i + 2], logits_GC[i : i + 2], *more) for i in pairs])

    monkeypatch.setattr(losses, "targets", by_twos)
    spec = grid.student(RECIPES["logconf, clipped hard"], ALONE)
    store = grid.store("wrong")
    assert steps.run_step(spec, store) == "done"
    difference = np.abs(np.subtract(losses_of(store, spec), losses_of(trained["alone"], spec)))
    assert difference.max() > 1e-2


def test_evaluations_are_those_of_one_process(grid, trained):
    spec = grid.student(RECIPES["logconf"], ALONE)
    tables = {name: store.read_table("train", spec.digest(), "evaluations.parquet") for name, store in trained.items()}
    one = tables.pop("alone").to_pydict()
    assert sorted(set(one["step"])) == [4, 8, 10]
    assert set(one["split"]) == {"val", "test"}
    for other in tables.values():
        found = other.to_pydict()
        assert [found[name] for name in ("step", "split", "example_id")] == [
            one[name] for name in ("step", "split", "example_id")
        ]
        np.testing.assert_allclose(found["logits"], one["logits"], rtol=1e-3, atol=2e-4)


# -- resuming -----------------------------------------------------------------------------------------------------

SAVING = {"device": "cpu", "checkpoint_every": "3 steps"}
SAVED = {
    "alone": Engine(**SAVING),
    "two processes": Engine(**SAVING, processes=2),
    **{f"ZeRO {stage}": Engine(**SAVING, processes=2, zero_stage=stage) for stage in (0, 1, 2, 3)},
}


def assert_equal(one: Store, other: Store, spec: TrainSpec) -> None:
    """Bit for bit: the loss of every step, evaluations, predictions and weights."""
    without_time = [[{**row, "seconds": 0} for row in history(store, spec)] for store in (one, other)]
    assert without_time[0] == without_time[1]
    for split in ("test", "val", "transfer"):
        np.testing.assert_array_equal(logits_of(one, spec, split), logits_of(other, spec, split))
    before, after = weights_of(one, spec), weights_of(other, spec)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    tables = [store.read_table("train", spec.digest(), "evaluations.parquet") for store in (one, other)]
    assert tables[0].equals(tables[1])


def names_of_checkpoints(store: Store, spec: TrainSpec) -> list[str]:
    return sorted(path.name for path in store.checkpoints(spec.digest()).iterdir() if not path.name.startswith("."))


@pytest.fixture(scope="module")
def killed(grid: Grid) -> dict[str, Store]:
    """Trainings killed after step 7, each in its own store; the last rank is killed, the others follow."""
    stores = {name: grid.store(f"killed {name}") for name in SAVED}
    for name, engine in SAVED.items():
        spec = grid.student(RECIPES["logconf"], engine, keep_weights=True)
        grid.launch([job(spec, stores[name], die_at=7, die_rank=engine.ranks - 1)], engine.ranks, code=1)
        assert names_of_checkpoints(stores[name], spec) == ["step-00000003", "step-00000006"]
        assert not stores[name].has("train", spec.digest())
    return stores


@pytest.fixture(scope="module")
def resumed(grid: Grid, killed: dict[str, Store], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Copies of the killed ones after the same request was made again."""
    folder = tmp_path_factory.mktemp("resumed")
    stores = {name: Store(shutil.copytree(store.root, folder / name)) for name, store in killed.items()}
    for ranks in (1, 2):
        jobs = [
            job(grid.student(RECIPES["logconf"], engine, keep_weights=True), stores[name])
            for name, engine in SAVED.items()
            if engine.ranks == ranks
        ]
        assert grid.launch(jobs, ranks) == [["done"] * len(jobs)] * ranks
    return stores


@pytest.mark.parametrize("engine", SAVED)
def test_a_killed_training_goes_on_bit_by_bit(engine, grid, trained, resumed):
    """From the checkpoint of step 6, and ends as the one that was never interrupted."""
    spec = grid.student(RECIPES["logconf"], SAVED[engine], keep_weights=True)
    log = resumed[engine].path("train", spec.digest())
    assert not resumed[engine].work(spec.digest()).exists()
    assert log.is_dir()
    assert_equal(trained[engine], resumed[engine], spec)


def test_a_training_that_is_asked_to_stop_saves_and_goes_on(grid, trained):
    """Only one rank hears of it, between checkpoints; both leave after the same step, and no step is done twice."""
    spec = grid.student(RECIPES["logconf"], SAVED["ZeRO 2"], keep_weights=True)
    store = grid.store("stopped")
    jobs = [job(spec, store, stop_at=4, stop_rank=1), job(spec, store)]
    assert grid.launch(jobs) == [["stopped", "done"]] * 2
    assert_equal(trained["ZeRO 2"], store, spec)


def test_parts_of_another_number_of_processes_are_refused_and_the_whole_is_taken(grid, trained):
    parts, whole = (grid.student(RECIPES["logconf"], SAVED[name], keep_weights=True) for name in ("ZeRO 2", "ZeRO 0"))
    stores = [grid.store("stopped in parts"), grid.store("stopped whole")]
    jobs = [job(spec, store, stop_at=4) for spec, store in zip((parts, whole), stores, strict=True)]
    assert grid.launch(jobs) == [["stopped", "stopped"]] * 2
    alone = grid.student(RECIPES["logconf"], SAVED["alone"], keep_weights=True)
    with pytest.raises(StepError) as refused:
        steps.run_step(alone, stores[0])
    assert "the parts of 2 processes at ZeRO 2" in str(refused.value)
    assert "--restart-step" in str(refused.value)
    assert steps.run_step(alone, stores[1]) == "done"
    np.testing.assert_allclose(losses_of(stores[1], alone), losses_of(trained["alone"], alone), **TOLERANCE)
    assert stores[0].drop_checkpoints(alone.digest()) == 2  # of step 3, and the one made on stopping
    assert steps.run_step(alone, stores[0]) == "done"
    assert_equal(trained["alone"], stores[0], alone)


@pytest.mark.parametrize("file", ["rank-0.safetensors", "checkpoint.json", "evaluations.safetensors"])
def test_a_damaged_checkpoint_is_passed_over(file, grid, trained, killed, tmp_path, capfd):
    spec = grid.student(RECIPES["logconf"], SAVED["alone"], keep_weights=True)
    store = Store(shutil.copytree(killed["alone"].root, tmp_path / "store"))
    damaged = store.checkpoints(spec.digest()) / "step-00000006" / file
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert steps.run_step(spec, store) == "done"
    said = capfd.readouterr().err
    assert "step-00000006: the checkpoint is damaged" in said
    assert "from the checkpoint of step 3" in said
    assert_equal(trained["alone"], store, spec)
