"""Students of other labels than the weak model's: by whose labels weak_val chooses, and what sets two of them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tampering import reseal, write  # type: ignore[import-not-found]

from w2s.analyze.figures.curves import of_cell
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.reading import configuration
from w2s.analyze.reading.predictions import judge_of
from w2s.analyze.reading.rows import load
from w2s.analyze.report.runs import gather
from w2s.analyze.tables.sentences import sentences

EVERY = {"recipe": {"eval_every": 20}}
METHODS = {
    "xent": EVERY,
    "rounds": {**EVERY, "labels": {"from": {"student": "same", "method": "xent"}}},
    "half": {**EVERY, "labels": {"transforms": [{"confident": 0.5}]}},
}


@pytest.fixture
def made(synthetic):
    def make(**changes):
        methods = {"methods": METHODS, "selections": ["final", "weak_val"], "seeds": [0], **changes}
        return synthetic(**methods).fill()

    return make


def student(made, method):
    return next(cell.digests.student for cell in made.plan.experiments if cell.method == method)


def labels_of(made, method):
    return next(cell.digests.labels for cell in made.plan.experiments if cell.method == method)


def history(made, digest, val, ids):
    """Evaluations at steps 20 and 40: `val` by step, and test right at step 40 only."""
    truth = made.truth("test", next(iter(made.classes)))
    columns: dict[str, Any] = {"step": [], "split": [], "example_id": [], "logits": []}
    for step, label in ((20, 1 - truth), (40, truth)):
        for split, names, y in (("val", ids, val[step]), ("test", [f"test-{i:05d}" for i in range(len(truth))], label)):
            columns["step"] += [step] * len(y)
            columns["split"] += [split] * len(y)
            columns["example_id"] += names
            columns["logits"] += np.eye(2)[y].tolist()
    columns["step"] = pa.array(columns["step"], pa.int32())
    write(made.store.path("train", digest) / "evaluations.parquet", pa.table(columns))


def selected(made, method):
    frame = load("one", made.root).frame
    (row,) = frame[(frame.method == method) & (frame.selection == "weak_val")].to_dict("records")
    return row


@pytest.mark.parametrize("kept", [slice(None), slice(5)])
def test_weak_val_goes_by_the_labels_that_a_labels_step_made_also_where_some_have_none(made, kept):
    one = made()
    y = one.truth("val", next(iter(one.classes)))
    ids = [f"val-{i:05d}" for i in range(len(y))]
    file = one.store.path("labels", labels_of(one, "half")) / "val.parquet"
    p = np.eye(2, dtype=np.float32)[1 - y][kept].tolist()
    write(file, pa.table({"example_id": ids[kept], "p": p, "origin": ["people"] * len(p)}))
    history(one, student(one, "half"), {20: 1 - y, 40: y}, ids)  # the labels, then the truth
    row = selected(one, "half")
    assert (row["selected_step"], row["student_accuracy"]) == (20, 0.0)
    folder = one.store.path("train", student(one, "half"))
    (folder / "history.jsonl").write_text('{"step": 0, "loss": 0.5}\n')
    reseal(folder / "history.jsonl")
    rows = load("one", one.root)
    cell = next(c for c in aggregate(rows) if (c.method, c.selection) == ("half", "weak_val"))
    (course,) = of_cell(rows, cell, 1).found
    assert (course.agreement_E.tolist(), course.chosen) == ([1.0, 0.0], 20)


def test_weak_val_goes_by_the_student_that_supervised(made):
    one = made()
    y = one.truth("val", next(iter(one.classes)))
    ids = [f"val-{i:05d}" for i in range(len(y))]
    file = one.store.path("train", student(one, "xent")) / "predictions" / "val.parquet"
    write(file, pa.table({"example_id": ids, "logits": np.eye(2)[1 - y].tolist()}))
    history(one, student(one, "rounds"), {20: 1 - y, 40: y}, ids)
    assert selected(one, "rounds")["selected_step"] == 20


def test_without_a_label_for_val_weak_val_says_why_it_cannot_choose(made):
    one = made()
    empty = {
        "example_id": pa.array([], pa.string()),
        "p": pa.array([], pa.list_(pa.float32())),
        "origin": pa.array([], pa.string()),
    }
    write(one.store.path("labels", labels_of(one, "half")) / "val.parquet", pa.table(empty))
    row = selected(one, "half")
    assert row["student_status"] == "damaged"
    assert "no example of val has a label, so that weak_val cannot choose by them" in row["student_reason"]
    frame = load("one", one.root).frame
    assert (frame[frame.selection == "final"].student_status == "done").all()


def test_a_students_judge_is_what_its_labels_came_from(made):
    one = made(methods={**METHODS, "truth": {**EVERY, "loss": "xent", "labels": "truth"}}, recipe={"eval_every": 20})
    steps = {d: {"kind": n.kind, "parents": n.parents} for d, n in one.plan.nodes.items()}
    digests = {cell.method: cell.digests._asdict() for cell in one.plan.experiments}
    assert judge_of(digests["xent"], steps) == digests["xent"]["weak"]
    assert judge_of(digests["rounds"], steps) == student(one, "xent")
    assert judge_of(digests["half"], steps) == f"labels {labels_of(one, 'half')}"
    assert student(one, "truth") == digests["truth"]["ceiling"]  # by its parents it has no judge
    assert judge_of(digests["truth"], steps) == f"labels {labels_of(one, 'truth')}"


def test_what_labels_were_asked_to_be_sets_students_apart(made):
    """Seeds of one configuration may be pooled; students of other labels are none."""
    asked = {}
    for folder, keep in (("a", 0.5), ("b", 0.5), ("c", 0.25)):
        half = {**EVERY, "labels": {"transforms": [{"confident": keep}]}}
        one = made(folder=folder, methods={**METHODS, "half": half}, seeds=[{"a": 0, "b": 1, "c": 0}[folder]])
        asked[folder] = {m: configuration.read(one.store, "train", student(one, m)).text for m in METHODS}
    assert asked["a"] == asked["b"]
    assert {m for m in METHODS if asked["a"][m] != asked["c"][m]} == {"half"}
    other = made(folder="d", methods={**METHODS, "xent": {"recipe": {"eval_every": 20, "lr": 0.5}}})
    text = configuration.read(other.store, "train", student(other, "rounds")).text
    assert text != asked["a"]["rounds"], "its supervisor learned otherwise"


def test_whose_accuracy_decides_how_many_is_no_configuration_but_a_parent(made):
    """Its digest is another one for every seed."""
    asked = {}
    for folder, seed, like in (("a", 0, "weak"), ("b", 1, "weak"), ("c", 0, 0.5)):
        some = {**EVERY, "labels": {"from": "truth", "transforms": [{"subsample": like}]}}
        one = made(folder=folder, methods={"xent": EVERY, "some": some}, seeds=[seed])
        asked[folder] = configuration.read(one.store, "train", student(one, "some")).text
    assert asked["a"] == asked["b"]
    assert asked["a"] != asked["c"]


def test_the_report_tells_of_labels_steps(made):
    runs = gather(load("one", made().root))
    assert [own.role for own in runs.facts].count("labels") == 1


def test_what_ground_truth_had_a_part_in_says_so_beside_its_numbers(synthetic):
    methods = {
        "xent": {},
        "oracle": {"labels": "truth"},
        "taught": {"labels": {"from": {"student": "same", "method": "oracle"}}},
    }
    rows = load("one", synthetic(methods=methods, seeds=[0]).fill().root)
    cells = {cell.method: cell for cell in aggregate(rows)}
    assert {method: cell.taught for method, cell in cells.items()} == {"xent": "", "oracle": "truth", "taught": "truth"}
    assert [method for method, cell in cells.items() if "ground truth used" in cell.notes] == ["oracle", "taught"]
    (said,) = [line for line in sentences(list(cells.values()), "accuracy") if "Ground truth" in line]
    assert "oracle, taught," in said
    assert "xent" not in said


def test_who_read_no_label_has_no_label_accuracy(synthetic):
    models = {"weak": {"use": "minilm", "layers": 3}, "strong": {"use": "smollm2", "layers": 20}}
    methods = {"xent": {}, "asked": {"recipe": {"tune": {"kind": "prompt"}}}}
    made = synthetic(models=models, pairs=[["weak", "strong"]], methods=methods, seeds=[0]).fill()
    cells = {cell.method: cell for cell in aggregate(load("one", made.root))}
    assert cells["xent"].label_accuracy.known
    assert not cells["asked"].label_accuracy.known
    assert cells["asked"].label_accuracy.reason == "no label read"
    assert "no label read" in cells["asked"].notes
