"""Real ranks: one process, several, and every ZeRO stage give the same numbers, killed on the way or not."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from rank_grid import ALONE, COMMON, Grid, history, job, logits_of, losses_of, weights_of  # type: ignore[import-not-found]

from w2s import steps
from w2s.errors import StepError
from w2s.learn import losses
from w2s.objectives import AdaptConf, Window
from w2s.spec import Engine, Frozen, LogConf, Lora, Recipe, TrainSpec, Xent
from w2s.store import Store

pytestmark = pytest.mark.recipe

TWO = {"device": "cpu", "processes": 2, "checkpoint_every": "never"}
ENGINES = {
    "micro-batches": Engine(device="cpu", micro_batch_size=3, checkpoint_every="never"),
    "two processes": Engine(**TWO),
    "two processes, micro-batches": Engine(**TWO, micro_batch_size=2),
    **{f"ZeRO {stage}": Engine(**TWO, zero_stage=stage) for stage in (0, 1, 2, 3)},
    **{f"ZeRO {stage}, micro-batches": Engine(**TWO, zero_stage=stage, micro_batch_size=1) for stage in (0, 1, 2, 3)},
}
RECIPES = {
    "xent": Recipe(**COMMON, loss=Xent()),
    "logconf": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), eval_every=4),
    "logconf, not clipped": Recipe(**COMMON, loss=LogConf(warmup_frac=0.0), clip_norm=None),
    "logconf, clipped hard": Recipe(**COMMON, loss=LogConf(warmup_frac=0.0), clip_norm=0.05),
    "frozen": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), tune=Frozen(layers=1)),
    "lora": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), tune=Lora(r=2)),
    "window": Recipe(**COMMON, loss=Window(radius="midweak"), clip_norm=None),
    "adaptconf": Recipe(**COMMON, loss=AdaptConf()),
}
TOLERANCE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}


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
    # A group lives long. One ZeRO 3 step that is not let go of keeps half a megabyte.
    assert grid.tensor_bytes < 200_000
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
    whole = losses.aims

    def by_twos(loss, p_GC, logits_GC, course):
        pairs = [whole(loss, p_GC[i : i + 2], logits_GC[i : i + 2], course) for i in range(0, len(p_GC), 2)]
        return losses.Aims(*(torch.cat(column) for column in zip(*pairs, strict=True)))

    monkeypatch.setattr(losses, "aims", by_twos)
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
    """Only one rank hears of it, between checkpoints and after the last step; both leave, and no step is done twice."""
    spec = grid.student(RECIPES["logconf"], SAVED["ZeRO 2"], keep_weights=True)
    store = grid.store("stopped")
    jobs = [job(spec, store, stop_at=4, stop_rank=1), job(spec, store, stop_at=5), job(spec, store)]
    assert grid.launch(jobs) == [["stopped", "stopped", "done"]] * 2
    assert_equal(trained["ZeRO 2"], store, spec)


@pytest.mark.parametrize("recipe", ["logconf, not clipped", "logconf, clipped hard"])
def test_a_gradient_that_is_not_finite_stops_every_engine_before_the_update(recipe, grid, trained):
    """At step 5 of 10, once: what was saved before is sound, and the same request then comes to its end."""
    specs = {name: grid.student(RECIPES[recipe], engine, keep_weights=True) for name, engine in SAVED.items()}
    stores = {name: grid.store(f"endless {name} {recipe}") for name in SAVED}
    for ranks in (1, 2):
        names = [name for name, engine in SAVED.items() if engine.ranks == ranks]
        jobs = [job(specs[name], stores[name], **more) for name in names for more in ({"endless_at": 5}, {})]
        for outcomes in grid.launch(jobs, ranks):
            assert outcomes[1::2] == ["done"] * len(names)
            assert all("gradient of step 5 of 10 is" in outcome for outcome in outcomes[::2]), outcomes
    for name in SAVED:
        assert losses_of(stores[name], specs[name]) == losses_of(trained[name], specs[name])


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
    damaged.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert steps.run_step(spec, store) == "done"
    said = capfd.readouterr().err
    assert "step-00000006: the checkpoint is damaged" in said
    assert "from the checkpoint of step 3" in said
    assert_equal(trained["alone"], store, spec)
