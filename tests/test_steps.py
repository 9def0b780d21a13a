"""Step bodies on a tiny local task and tiny models, through the real store: who learns from what, and what is kept."""

from __future__ import annotations

import functools
import json
import shutil
import types
from typing import Any

import fake_nfs  # type: ignore[import-not-found]
import numpy as np
import pyarrow.parquet
import pytest
import torch
from tiny_models import save_model  # type: ignore[import-not-found]

from w2s import inference, inputs, steps
from w2s.errors import SpecError, StepError
from w2s.spec import Engine, Frozen, LogConf, Lora, MaterializeSpec, Probe, Recipe, Sizes, TrainSpec, Weak
from w2s.store import Store
from w2s.tasks.registry import task_of

PREDICTED = ("test", "val", "transfer")
SIZES = Sizes(weak_train=24, transfer=32, val=8, test=16)
RECIPE = Recipe(lr=3e-3, batch_size=8, head_init="normal", loss=LogConf(warmup_frac=0.3))
ENGINE = Engine(device="cpu")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The specs of one cell, and a store in which its data, weak and student steps are done."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("steps")
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 40, rng.integers(2, 12)) for _ in range(200)]
    text = "".join(
        json.dumps({"text": " ".join(f"w{i}" for i in row), "label": int(row.mean() > 19.5)}) + "\n" for row in rows
    )
    (folder / "task.jsonl").write_text(text)
    task = task_of({"name": "tiny", "file": "task.jsonl", "text": "text", "label": "label"}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    small, large = (save_model(folder / f"model-{layers}", layers) for layers in (1, 2))
    common: dict[str, Any] = {"data": data.digest(), "recipe": RECIPE, "engine": ENGINE}
    weak = TrainSpec(split="weak_train", model=small, **common)
    student = TrainSpec(split="transfer", model=large, labels=Weak(supervisor=weak.digest()), **common)
    ceiling = TrainSpec(split="transfer", model=large, **common)
    store = Store(folder / "store")
    outcomes = [steps.run_step(spec, store) for spec in (data, weak, student, ceiling)]
    assert outcomes == ["done"] * 4
    return types.SimpleNamespace(data=data, weak=weak, student=student, ceiling=ceiling, store=store)


@pytest.fixture
def copied(grid, tmp_path):
    """Another store with the finished data and weak steps, to change and to add to."""
    store = Store(tmp_path / "store")
    for spec in (grid.data, grid.weak):
        shutil.copytree(grid.store.path(spec.kind, spec.digest()), store.path(spec.kind, spec.digest()))
    return store


def table(store, spec, name, columns=None):
    return store.read_table(spec.kind, spec.digest(), name, columns)


def logits_of(store, spec, split):
    return np.array(table(store, spec, f"predictions/{split}.parquet")["logits"].to_pylist(), dtype=np.float32)


def predictions(store, spec):
    return {split: table(store, spec, f"predictions/{split}.parquet").to_pydict() for split in PREDICTED}


def softmax(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# -- the artifacts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weak", "student", "ceiling"])
def test_an_artifact_has_what_the_design_promises(grid, name):
    spec = getattr(grid, name)
    place, manifest = grid.store.path("train", spec.digest()), grid.store.manifest("train", spec.digest())
    expected = {"metrics.json", "history.jsonl", *(f"predictions/{split}.parquet" for split in PREDICTED)}
    assert set(manifest["files"]) == expected | ({"labels.parquet"} if name == "student" else set())
    assert grid.store.damage("train", spec.digest()) == []
    assert manifest["parents"] == [grid.data.digest(), *([grid.weak.digest()] if name == "student" else [])]
    assert TrainSpec.model_validate_json(json.dumps(manifest["spec"])).digest() == spec.digest()
    assert set(manifest["phases"]) == {"load", "train", "predict"}
    for split in PREDICTED:
        found = table(grid.store, spec, f"predictions/{split}.parquet")
        assert (
            found["example_id"].to_pylist()
            == table(grid.store, grid.data, f"{split}.parquet")["example_id"].to_pylist()
        )
        assert str(found.schema.field("logits").type) == "list<element: float>"
        assert logits_of(grid.store, spec, split).shape == (getattr(SIZES, split), 2)
    history = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
    assert len(history) == 2 * getattr(SIZES, spec.split) / 8
    assert manifest["examples"] == sum(row["examples"] for row in history) == 2 * getattr(SIZES, spec.split)


def test_metrics_and_amounts_are_those_of_the_data(grid):
    """Accuracy from the stored logits; tokens counted from the words of the texts (one word, one token)."""
    manifest = grid.store.manifest("train", grid.student.digest())
    metrics = json.loads((grid.store.path("train", grid.student.digest()) / "metrics.json").read_text())
    truth = np.array(table(grid.store, grid.data, "test.parquet")["label"].to_pylist())
    assert metrics["test_accuracy"] == float(
        (logits_of(grid.store, grid.student, "test").argmax(axis=1) == truth).mean()
    )
    words = {
        split: sum(len(text.split()) for text in table(grid.store, grid.data, f"{split}.parquet")["text"].to_pylist())
        for split in PREDICTED
    }
    trained, predicted = 2 * words["transfer"], sum(words.values())
    assert manifest["tokens"] == trained + predicted
    assert manifest["flops"] == 20_000 * (2 * (trained + predicted) + 4 * trained)
    assert metrics["truncated"] == dict.fromkeys(["transfer", "test", "val"], 0)


# -- labels -----------------------------------------------------------------------------------------------------


def test_a_students_labels_are_its_supervisors_predictions_by_id(grid):
    labels = table(grid.store, grid.student, "labels.parquet")
    predicted = table(grid.store, grid.weak, "predictions/transfer.parquet")
    by_id = dict(
        zip(predicted["example_id"].to_pylist(), softmax(logits_of(grid.store, grid.weak, "transfer")), strict=True)
    )
    assert (
        labels["example_id"].to_pylist() == table(grid.store, grid.data, "transfer.parquet")["example_id"].to_pylist()
    )
    found = np.array(labels["p"].to_pylist())
    np.testing.assert_allclose(found, [by_id[i] for i in labels["example_id"].to_pylist()], atol=1e-7)
    assert found.std(axis=0).min() > 0.01  # they are soft, and they differ
    assert set(labels["origin"].to_pylist()) == {f"supervisor {grid.weak.digest()}"}


def test_labels_are_joined_by_id_and_not_by_place(grid, copied):
    """The supervisor's predictions in another order, with strangers among them: the student is the same, bit by bit."""
    file = copied.path("train", grid.weak.digest()) / "predictions" / "transfer.parquet"
    rows = pyarrow.parquet.read_table(file).to_pylist()
    stranger = {"example_id": "f" * 32, "logits": [5.0, -5.0]}
    shuffled = [stranger, *(rows[i] for i in np.random.default_rng(0).permutation(len(rows)))]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(shuffled), file)
    steps.run_step(grid.student, copied)
    assert predictions(copied, grid.student) == predictions(grid.store, grid.student)


@pytest.mark.parametrize(("change", "message"), [("missing", "no prediction for 1 of 32"), ("twice", "is there twice")])
def test_labels_that_do_not_fit_stop_the_student(change, message, grid, copied):
    file = copied.path("train", grid.weak.digest()) / "predictions" / "transfer.parquet"
    rows = pyarrow.parquet.read_table(file).to_pylist()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[1:] if change == "missing" else [rows[0], *rows]), file)
    with pytest.raises(StepError, match=message):
        steps.run_step(grid.student, copied)
    assert not copied.has("train", grid.student.digest())


def test_hard_labels_are_the_supervisors_argmax(grid, copied):
    labels = Weak(supervisor=grid.weak.digest(), hard=True)
    spec = grid.student.model_copy(update={"labels": labels})
    assert spec.digest() != grid.student.digest()
    steps.run_step(spec, copied)
    chosen = logits_of(copied, grid.weak, "transfer").argmax(axis=1)
    assert table(copied, spec, "labels.parquet")["p"].to_pylist() == [
        [1.0, 0.0] if y == 0 else [0.0, 1.0] for y in chosen
    ]


# -- the ground truth of transfer and val -----------------------------------------------------------------------


def test_ground_truth_of_transfer_and_val_cannot_reach_a_student(grid, copied):
    """Corrupted there, a student stays the same to the last bit; its ceiling does not (negative control)."""
    for split in ("transfer", "val"):
        file = copied.path("materialize", grid.data.digest()) / f"{split}.parquet"
        found = pyarrow.parquet.read_table(file)
        at = found.schema.get_field_index("label")
        flipped = pyarrow.array([1 - y for y in found["label"].to_pylist()], pyarrow.int64())
        pyarrow.parquet.write_table(found.set_column(at, "label", flipped), file)
    steps.run_step(grid.student, copied)
    steps.run_step(grid.ceiling, copied)
    assert predictions(copied, grid.student) == predictions(grid.store, grid.student)
    assert (
        table(copied, grid.student, "labels.parquet").to_pydict()
        == table(grid.store, grid.student, "labels.parquet").to_pydict()
    )
    changed = logits_of(copied, grid.ceiling, "test") - logits_of(grid.store, grid.ceiling, "test")
    assert np.abs(changed).max() > 0.01


def test_a_student_needs_no_label_column(grid, copied):
    for split in ("transfer", "val", "weak_train"):
        file = copied.path("materialize", grid.data.digest()) / f"{split}.parquet"
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["label"]), file)
    steps.run_step(grid.student, copied)
    assert predictions(copied, grid.student) == predictions(grid.store, grid.student)


# -- what is done once, and what is not -------------------------------------------------------------------------


def test_a_second_run_does_nothing(grid, monkeypatch):
    def fail(*args):
        raise AssertionError("the step was executed again")

    monkeypatch.setattr(steps, "_made", fail)
    heard = []
    for spec in (grid.data, grid.weak, grid.student, grid.ceiling):
        file = grid.store.path(spec.kind, spec.digest()) / "manifest.json"
        before = (file.read_bytes(), file.stat().st_mtime_ns)
        assert steps.run_step(spec, grid.store, lambda *progress: heard.append(progress)) == "reused"
        assert (file.read_bytes(), file.stat().st_mtime_ns) == before
        assert not grid.store.is_claimed(spec.digest())
    assert heard == []


def test_runtime_settings_name_the_same_step_and_give_the_same_numbers(grid, copied):
    engine = Engine(device="cpu", micro_batch_size=3, predict_batch_size=5)
    spec = grid.student.model_copy(update={"engine": engine})
    assert spec.digest() == grid.student.digest()
    assert steps.run_step(spec, copied) == "done"
    for split in PREDICTED:
        ours, theirs = logits_of(copied, spec, split), logits_of(grid.store, grid.student, split)
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_a_busy_step_is_left_alone(grid, copied):
    claim = copied.claim(grid.student.digest())
    assert claim is not None
    try:
        assert steps.run_step(grid.student, copied) == "busy"
        assert not copied.has("train", grid.student.digest())
        assert copied.is_claimed(grid.student.digest())
    finally:
        claim.release()
    assert steps.run_step(grid.student, copied) == "done"
    assert not copied.is_claimed(grid.student.digest())


def test_a_step_that_this_host_believes_absent_is_not_made_again(grid, copied, monkeypatch):
    digest = grid.student.digest()
    fake_nfs.mount(monkeypatch)
    assert not copied.has("train", digest)
    shutil.copytree(grid.store.path("train", digest), copied.path("train", digest))
    assert not copied.has("train", digest)
    assert steps.run_step(grid.student, copied) == "reused"


def test_a_failed_step_leaves_no_artifact_and_no_claim(grid, copied):
    recipe = RECIPE.model_copy(update={"tune": Frozen(layers=3)})
    spec = grid.student.model_copy(update={"recipe": recipe})
    with pytest.raises(StepError, match="cannot freeze 3 of 2 layers"):
        steps.run_step(spec, copied)
    assert not copied.has("train", spec.digest())
    assert not copied.is_claimed(spec.digest())
    assert list(copied.path("train", spec.digest()).parent.glob("*")) == []


def test_a_student_without_its_supervisor_says_so(grid, copied):
    shutil.rmtree(copied.path("train", grid.weak.digest()))
    with pytest.raises(StepError, match=rf"train {grid.weak.digest()[:12]} is not finished"):
        steps.run_step(grid.student, copied)


def test_the_log_of_the_run_joins_the_artifact(grid, copied):
    log = copied.log_path(grid.student.digest())
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\n")
    steps.run_step(grid.student, copied)
    assert (copied.path("train", grid.student.digest()) / "log.txt").read_text() == "epoch 1\n"
    assert not log.exists()


def test_progress_is_reported_to_the_end(grid, copied):
    heard: list[tuple[str, int, int]] = []
    steps.run_step(grid.student, copied, lambda *progress: heard.append(progress))
    last = {what: (done, total) for what, done, total in heard}
    assert last["train"] == (8, 8)
    assert [last[f"predict {split}"] for split in PREDICTED] == [(16, 16), (8, 8), (32, 32)]


# -- weights and labelling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", [None, Frozen(layers=1), Lora(r=2), Probe()])
def test_kept_weights_label_as_the_step_predicted(tune, grid, copied):
    recipe = RECIPE if tune is None else RECIPE.model_copy(update={"tune": tune})
    plain = grid.student.model_copy(update={"recipe": recipe})
    kept = plain.model_copy(update={"keep_weights": True})
    assert kept.digest() == plain.digest()
    assert steps.run_step(plain, copied) == "done"
    first = predictions(copied, plain)
    with pytest.raises(SpecError, match=r"weights of .* were not kept.*--keep_weights"):
        inference.label(copied, plain.digest(), ["w1 w2"])
    assert steps.run_step(kept, copied) == "done"  # the artifact is there, but without the weights
    assert predictions(copied, kept) == first
    assert steps.run_step(kept, copied) == "reused"
    assert steps.run_step(plain, copied) == "reused"
    assert copied.damage("train", kept.digest()) == []
    texts = table(copied, grid.data, "test.parquet")["text"].to_pylist()
    classes, p_NC = inference.label(copied, kept.digest(), texts, batch_size=5)
    assert classes == ("0", "1")
    np.testing.assert_allclose(p_NC, softmax(logits_of(copied, kept, "test")), atol=1e-5)
    names = {p.name for p in (copied.path("train", kept.digest()) / "model").iterdir()}
    assert names == {"trained.safetensors"}


def test_label_refuses_what_is_not_there(grid):
    with pytest.raises(SpecError, match="is not a finished train step"):
        inference.label(grid.store, "0" * 64, ["w1"])


def test_weights_that_are_added_leave_the_predictions_alone(grid, copied, tmp_path):
    """Students may have learned from them, and other settings of the engine move them in the last digit."""
    engine = Engine(device="cpu", micro_batch_size=3, predict_batch_size=5)
    assert steps.run_step(grid.student, copied) == "done"
    first = predictions(copied, grid.student)
    kept = grid.student.model_copy(update={"keep_weights": True, "engine": engine})
    assert steps.run_step(kept, copied) == "done"
    assert predictions(copied, kept) == first
    assert copied.damage("train", kept.digest()) == []
    anew = Store(shutil.copytree(copied.root, tmp_path / "anew"))
    shutil.rmtree(anew.path("train", kept.digest()))
    assert steps.run_step(kept, anew) == "done"
    assert predictions(anew, kept) != first  # negative control: they would have been others


def test_label_refuses_weights_that_are_not_the_steps(grid, copied):
    """A part that is missing would silently be the untrained base model's."""
    import safetensors.torch

    kept = grid.student.model_copy(update={"keep_weights": True})
    steps.run_step(kept, copied)
    file = copied.path("train", kept.digest()) / "model" / "trained.safetensors"
    weights = safetensors.torch.load_file(file)
    del weights["head.weight"]
    safetensors.torch.save_file(weights, file)
    with pytest.raises(StepError, match=r"head\.weight"):
        inference.label(copied, kept.digest(), ["w1 w2"])


# -- frozen layers from the cache -------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", [Frozen(layers=1), Probe()])
def test_cached_layers_are_the_same_step_with_the_same_numbers(tune, grid, copied):
    recipe = RECIPE.model_copy(update={"tune": tune})
    plain = grid.student.model_copy(update={"recipe": recipe})
    cached = plain.model_copy(update={"engine": Engine(device="cpu", cache_frozen=True)})
    assert cached.digest() == plain.digest()
    assert set(cached.features()) == {"transfer", "test", "val"}
    assert set(cached.parents) - set(plain.parents) == {spec.digest() for spec in cached.features().values()}
    steps.run_step(plain, copied)
    expected = {split: logits_of(copied, plain, split) for split in PREDICTED}
    shutil.rmtree(copied.path("train", plain.digest()))
    for spec in cached.features().values():
        assert steps.run_step(spec, copied) == "done"
        assert copied.damage("features", spec.digest()) == []
    assert steps.run_step(cached, copied) == "done"
    for split in PREDICTED:
        np.testing.assert_allclose(logits_of(copied, cached, split), expected[split], atol=5e-5)


def test_warm_keeps_what_was_used_last():
    warm, made = inputs.Warm(room=2), []

    def make(key):
        made.append(key)
        return key.upper()

    assert [warm.get(key, functools.partial(make, key)) for key in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"]  # b was the least recently used when c came
