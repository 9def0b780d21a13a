"""Labels steps through the real store, and students that learn from them: who learns what from whom, what is kept."""

from __future__ import annotations

import json
import shutil
import types
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from tiny_models import save_model  # type: ignore[import-not-found]

from w2s import steps
from w2s.errors import StepError
from w2s.learn import labels
from w2s.sources.spec import FileSource
from w2s.spec import Engine, Frozen, LabelsSpec, LogConf, Made, MaterializeSpec, Recipe, Sizes, TrainSpec, Weak
from w2s.store import Store
from w2s.supervision import (
    Confident,
    FileLabels,
    Harden,
    MajorityLabels,
    MixTruth,
    SimulatedLabels,
    Subsample,
    SupervisorLabels,
    TruthLabels,
)
from w2s.tasks.registry import task_of

SIZES = Sizes(weak_train=24, transfer=32, val=8, test=16)
RECIPE = Recipe(lr=3e-3, batch_size=8, head_init="normal", loss=LogConf(warmup_frac=0.3), eval_every=3)
ENGINE = Engine(device="cpu")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A store with the data, two weak models and a student of the first; `step(labels, ...)` makes another student."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 40, rng.integers(2, 12)) for _ in range(200)]
    (folder / "task.jsonl").write_text("".join(
        json.dumps({"text": " ".join(f"w{i}" for i in row), "label": int(row.mean() > 19.5)}) + "\n" for row in rows
    ))  # fmt: skip
    task = task_of({"name": "tiny", "file": "task.jsonl", "text": "text", "label": "label"}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    small, large = (save_model(folder / f"model-{layers}", layers) for layers in (1, 2))
    common: dict[str, Any] = {"data": data.digest(), "recipe": RECIPE, "engine": ENGINE}
    weak, other = (TrainSpec(split="weak_train", model=small, seed=seed, **common) for seed in (0, 1))

    def student(of, **changes):
        return TrainSpec(**{"split": "transfer", "model": large, "labels": of, **common, **changes})

    plain = student(Weak(supervisor=weak.digest()))
    store = Store(folder / "store")
    assert [steps.run_step(spec, store) for spec in (data, weak, other, plain)] == ["done"] * 4
    return types.SimpleNamespace(
        folder=folder, data=data, weak=weak, other=other, plain=plain, student=student, store=store
    )


@pytest.fixture
def copied(grid, tmp_path):
    """Another store with the data and the weak models, to change and to add to."""
    store = Store(tmp_path / "store")
    for spec in (grid.data, grid.weak, grid.other):
        shutil.copytree(grid.store.path(spec.kind, spec.digest()), store.path(spec.kind, spec.digest()))
    return store


def columns(store, spec, name):
    return store.read_table(spec.kind, spec.digest(), name).to_pydict()


def labelled(store, grid, *transforms, source=None, **fields):
    """The spec of a labels step that was carried out."""
    source = source or SupervisorLabels(supervisors=(grid.weak.digest(),))
    spec = LabelsSpec(data=grid.data.digest(), source=source, transforms=transforms, **fields)
    assert steps.run_step(spec, store) == "done"
    return spec


def learned(store, grid, spec, **changes):
    """The spec of a student of that labels step, trained."""
    student = grid.student(Made(labels=spec.digest()), **changes)
    assert steps.run_step(student, store) == "done"
    return student


def summary(store, spec):
    return json.loads((store.path("labels", spec.digest()) / "summary.json").read_text())


def p_weak(store, spec, split):
    logits = np.array(columns(store, spec, f"predictions/{split}.parquet")["logits"], dtype=np.float32)
    return labels.probabilities(logits)


# -- the artifact -------------------------------------------------------------------------------------------------


def test_an_artifact_has_a_label_with_its_origin_for_each_example(grid, copied):
    source = SupervisorLabels(supervisors=(grid.weak.digest(), grid.other.digest()), weights=(0.75, 0.25))
    spec = labelled(copied, grid, source=source)
    manifest = copied.manifest("labels", spec.digest())
    assert set(manifest["files"]) == {"transfer.parquet", "val.parquet", "summary.json"}
    assert manifest["parents"] == [grid.data.digest(), grid.weak.digest(), grid.other.digest()]
    assert copied.damage("labels", spec.digest()) == []
    for split in ("transfer", "val"):
        found = columns(copied, spec, f"{split}.parquet")
        assert found["example_id"] == columns(copied, grid.data, f"{split}.parquet")["example_id"]
        expected = 0.75 * p_weak(copied, grid.weak, split) + 0.25 * p_weak(copied, grid.other, split)
        np.testing.assert_allclose(found["p"], expected, atol=1e-6)
        assert set(found["origin"]) == {"mean of 2 supervisors"}
    schema = copied.read_table("labels", spec.digest(), "transfer.parquet").schema
    assert str(schema.field("p").type) == "list<element: float>"
    assert steps.run_step(spec, copied) == "reused"


def test_the_summary_counts_what_was_kept_and_where_it_came_from(grid, copied):
    spec = labelled(copied, grid, MixTruth(share=0.25), Confident(keep=0.5, per_class=False), Harden(), part=(0, 2))
    found = summary(copied, spec)["splits"]["transfer"]
    assert (found["examples"], found["in_part"], found["labelled"]) == (32, 16, 8)
    assert [(row["kept"], row["dropped"]) for row in found["transforms"]] == [(16, 0), (8, 8), (8, 0)]
    assert found["origins"]["truth"] == 4  # certain, so all of them are kept
    assert sum(found["origins"].values()) == 8
    assert sum(found["classes"].values()) == pytest.approx(1.0, abs=1e-5)
    val = summary(copied, spec)["splits"]["val"]
    assert (val["in_part"], val["labelled"], val["origins"]["truth"]) == (8, 8, 2)


def test_nothing_of_ground_truth_is_read_or_told_unless_it_is_asked_for(grid, copied):
    """Without their label columns: what needs none goes on, what asks for them fails."""
    for split in ("transfer", "val"):
        file = copied.path("materialize", grid.data.digest()) / f"{split}.parquet"
        table = pyarrow.parquet.read_table(file)
        pyarrow.parquet.write_table(table.drop_columns(["label"]), file)
    weak = grid.weak.digest()
    spec = labelled(copied, grid, Confident(keep=0.5), Subsample(share=0.9))
    assert "accuracy" not in summary(copied, spec)["splits"]["transfer"]
    learned(copied, grid, spec)
    labelled(copied, grid, source=MajorityLabels())
    for source, transforms in (
        (TruthLabels(), ()), (SimulatedLabels(like=weak), ()),
        (SupervisorLabels(supervisors=(weak,)), (MixTruth(share=0.5),)),
    ):  # fmt: skip
        with pytest.raises(StepError, match="label"):
            labelled(copied, grid, *transforms, source=source)


def test_simulated_labels_and_ground_truth_as_often_right_as_the_weak_model(grid, copied):
    weak = grid.weak.digest()
    truth = np.array(columns(copied, grid.data, "transfer.parquet")["label"])
    right = (p_weak(copied, grid.weak, "transfer").argmax(axis=1) == truth).sum()
    found = summary(copied, labelled(copied, grid, source=SimulatedLabels(like=weak), seed=4))["splits"]
    assert found["transfer"]["accuracy"] == pytest.approx(right / 32, abs=1e-6)
    some = labelled(copied, grid, Subsample(like=weak), source=TruthLabels())
    assert summary(copied, some)["splits"]["transfer"]["labelled"] == right
    assert summary(copied, some)["splits"]["transfer"]["accuracy"] == 1.0
    assert set(columns(copied, some, "transfer.parquet")["origin"]) == {"truth"}


def test_parts_are_of_their_own(grid, copied):
    ids = [columns(copied, labelled(copied, grid, part=(i, 3)), "transfer.parquet")["example_id"] for i in range(3)]
    assert sorted(i for part in ids for i in part) == sorted(
        columns(copied, grid.data, "transfer.parquet")["example_id"]
    )


# -- students -----------------------------------------------------------------------------------------------------


def test_labels_of_one_supervisor_as_they_are_teach_what_the_supervisor_teaches(grid, copied):
    """The two ways to the same labels: equal logits, to the bit."""
    student = learned(copied, grid, labelled(copied, grid))
    for split in ("test", "val", "transfer"):
        name = f"predictions/{split}.parquet"
        assert columns(copied, student, name) == columns(grid.store, grid.plain, name)
    assert columns(copied, student, "labels.parquet") == columns(grid.store, grid.plain, "labels.parquet")


def test_a_student_trains_on_what_has_a_label_and_says_where_each_came_from(grid, copied):
    spec = labelled(copied, grid, MixTruth(share=0.5), Subsample(share=0.4), seed=1)
    student = learned(copied, grid, spec)
    assert columns(copied, student, "labels.parquet") == columns(copied, spec, "transfer.parquet")
    place, manifest = copied.path("train", student.digest()), copied.manifest("train", student.digest())
    assert json.loads((place / "metrics.json").read_text())["train_n"] == 13
    assert manifest["examples"] == 2 * 13
    assert manifest["parents"] == [grid.data.digest(), spec.digest()]
    assert len(columns(copied, student, "predictions/transfer.parquet")["example_id"]) == 32
    rows = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
    assert {row["against"] for row in rows if row.get("split") == "val"} == {"labels"}
    lengths = [len(text.split()) for text, example_id in zip(
        *(columns(copied, grid.data, "transfer.parquet")[c] for c in ("text", "example_id")), strict=True)
        if example_id in columns(copied, spec, "transfer.parquet")["example_id"]]  # fmt: skip
    predicted = sum(
        times * sum(len(t.split()) for t in columns(copied, grid.data, f"{split}.parquet")["text"])
        for split, times in (("transfer", 1), ("val", 1 + len(rows_of(rows))), ("test", 1 + len(rows_of(rows))))
    )
    assert manifest["tokens"] == 2 * sum(lengths) + predicted


def rows_of(rows):
    return [row for row in rows if row.get("split") == "val"]


@pytest.mark.parametrize("micro", [1, 4])
def test_a_student_of_some_examples_does_not_depend_on_how_batches_are_cut(grid, copied, tmp_path, micro):
    spec = labelled(copied, grid, Subsample(share=0.6))
    whole = learned(copied, grid, spec)
    other = Store(tmp_path / "cut")
    for parent in (grid.data, grid.weak, spec):
        shutil.copytree(copied.path(parent.kind, parent.digest()), other.path(parent.kind, parent.digest()))
    cut = learned(other, grid, spec, engine=Engine(device="cpu", micro_batch_size=micro))
    first, second = (columns(store, one, "predictions/test.parquet")["logits"] for store, one in
                     ((copied, whole), (other, cut)))  # fmt: skip
    np.testing.assert_allclose(first, second, atol=2e-4)


def test_cached_layers_are_those_of_the_examples_that_are_left(grid, copied, tmp_path):
    spec = labelled(copied, grid, Subsample(share=0.6))
    recipe = RECIPE.model_copy(update={"tune": Frozen(layers=1)})
    plain = learned(copied, grid, spec, recipe=recipe)
    other = Store(tmp_path / "cached")
    for parent in (grid.data, grid.weak, spec):
        shutil.copytree(copied.path(parent.kind, parent.digest()), other.path(parent.kind, parent.digest()))
    cached = grid.student(Made(labels=spec.digest()), recipe=recipe, engine=Engine(device="cpu", cache_frozen=True))
    assert len(cached.features()) == 3
    for step in (*cached.features().values(), cached):
        assert steps.run_step(step, other) == "done"
    first, second = (columns(store, one, "predictions/test.parquet")["logits"] for store, one in
                     ((copied, plain), (other, cached)))  # fmt: skip
    np.testing.assert_allclose(first, second, atol=2e-4)


# -- files --------------------------------------------------------------------------------------------------------


def from_file(folder, rows):
    path = folder / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileLabels(source=FileSource(file=str(path)), origin="raters")


def test_labels_from_a_file_for_some_examples(grid, copied, tmp_path):
    transfer, val = (columns(copied, grid.data, f"{split}.parquet") for split in ("transfer", "val"))
    rows = [{"text": text, "label": place % 2} for place, text in enumerate(transfer["text"][:20])]
    rows += [{"example_id": val["example_id"][3], "p": 0.75}, {"text": "a stranger", "label": 0}]
    spec = labelled(copied, grid, source=from_file(tmp_path, rows))
    found = columns(copied, spec, "transfer.parquet")
    assert found["example_id"] == transfer["example_id"][:20]
    assert [p.index(1.0) for p in found["p"]] == [place % 2 for place in range(20)]
    assert set(found["origin"]) == {"file raters"}
    assert columns(copied, spec, "val.parquet")["p"] == [[0.25, 0.75]]
    assert summary(copied, spec)["file"] == {"labels": 22, "used": 21}
    student = learned(copied, grid, spec)
    logits = np.array(columns(copied, student, "evaluations.parquet")["logits"])
    history = (copied.path("train", student.digest()) / "history.jsonl").read_text().splitlines()
    accuracies = [json.loads(line)["accuracy"] for line in history if '"val"' in line]
    own = [p for p, i in zip(logits, columns(copied, student, "evaluations.parquet")["example_id"], strict=True)
           if i == val["example_id"][3]]  # fmt: skip
    assert accuracies == [float(p.argmax() == 1) for p in own]


def test_a_file_without_labels_for_val_teaches_all_the_same(grid, copied, tmp_path):
    rows = [{"text": t, "label": i % 2} for i, t in enumerate(columns(copied, grid.data, "transfer.parquet")["text"])]
    student = learned(copied, grid, labelled(copied, grid, source=from_file(tmp_path, rows)))
    history = (copied.path("train", student.digest()) / "history.jsonl").read_text().splitlines()
    assert {json.loads(line)["split"] for line in history if '"split"' in line} == {"test"}


def test_transforms_have_nothing_to_do_where_a_file_labels_none_of_val(grid, copied, tmp_path):
    rows = [{"text": t, "p": 0.4} for t in columns(copied, grid.data, "transfer.parquet")["text"]]
    rows[1]["p"] = 0.8
    spec = labelled(copied, grid, Harden(), Confident(keep=0.5), source=from_file(tmp_path, rows))
    assert summary(copied, spec)["splits"]["val"]["labelled"] == 0
    assert len(columns(copied, spec, "transfer.parquet")["p"]) == 16 + 1  # of each class half, half up


def test_a_file_of_other_examples_is_refused(grid, copied, tmp_path):
    with pytest.raises(StepError, match=r"none of its 1 labels is for an example of transfer"):
        labelled(copied, grid, source=from_file(tmp_path, [{"text": "a stranger", "label": 0}]))


# -- what is missing ----------------------------------------------------------------------------------------------


def test_a_student_without_its_labels_says_so(grid, copied):
    with pytest.raises(StepError, match=r"labels 0{12} is not finished"):
        steps.run_step(grid.student(Made(labels="0" * 64)), copied)


def test_labels_without_their_supervisor_say_so(grid, copied):
    shutil.rmtree(copied.path("train", grid.other.digest()))
    with pytest.raises(StepError, match=f"train {grid.other.digest()[:12]} is not finished"):
        labelled(copied, grid, source=SupervisorLabels(supervisors=(grid.weak.digest(), grid.other.digest())))


def test_labels_of_strangers_are_refused(grid, copied):
    spec = labelled(copied, grid)
    file = copied.path("labels", spec.digest()) / "transfer.parquet"
    table = pyarrow.parquet.read_table(file)
    ids = ["stranger", *table["example_id"].to_pylist()[1:]]
    pyarrow.parquet.write_table(table.set_column(0, "example_id", [ids]), file)
    with pytest.raises(StepError, match="labels of examples that are not there"):
        steps.run_step(grid.student(Made(labels=spec.digest())), copied)
