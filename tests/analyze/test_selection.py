"""Selections: recomputed in plain Python, marked where they are no result, and damaged one by one."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tampering import counted, write  # type: ignore[import-not-found]

from w2s.analyze.reading.rows import load
from w2s.analyze.reading.selection import choose

ALL = ["final", "weak_val", "oracle"]
EVERY = 20
METHODS = {name: {"recipe": {"eval_every": EVERY}} for name in ("xent", "logconf")}  # as in conftest


@pytest.fixture
def counted_reads(monkeypatch):
    return counted(monkeypatch)


def classes_of(path):
    """By example id, the class of the largest logit."""
    table = pq.read_table(path).to_pydict()
    return {i: max(range(len(z)), key=z.__getitem__) for i, z in zip(table["example_id"], table["logits"], strict=True)}


def history_of(path):
    """By split and step, the predicted class of every example."""
    found: dict[str, dict[int, dict[str, int]]] = {"val": {}, "test": {}}
    for record in pq.read_table(path).to_pylist():
        predicted = max(range(len(record["logits"])), key=record["logits"].__getitem__)
        found[record["split"]].setdefault(record["step"], {})[record["example_id"]] = predicted
    return found


def truth_of(made, split):
    (data,) = made.digests("data movie")
    table = pq.read_table(made.store.path("materialize", data) / f"{split}.parquet").to_pydict()
    return dict(zip(table["example_id"], table["label"], strict=True))


def share(predicted, wanted):
    assert set(predicted) == set(wanted)
    return sum(predicted[i] == wanted[i] for i in wanted) / len(wanted)


def write_history(made, digest, history):
    """Replace a student's evaluations: history[split][step] is the list of predicted classes."""
    columns: dict[str, list[Any]] = {"step": [], "split": [], "example_id": [], "logits": []}
    for split, by_step in history.items():
        for step, predicted in by_step.items():
            for place, label in enumerate(predicted):
                columns["step"].append(step)
                columns["split"].append(split)
                columns["example_id"].append(f"{split}-{place:05d}")
                columns["logits"].append([1.0 - label, float(label)])
    write(made.store.path("train", digest) / "evaluations.parquet", pa.table(columns))


def student(made, method="xent", seed=0):
    (digest,) = made.digests(f"student strong-20l of weak-3l on movie, {method}, seed {seed}")
    return digest


def rows_of(made, **keys):
    frame = load("one", made.root).frame
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    return frame


# -- what is chosen ---------------------------------------------------------------------------------------------------


@given(st.data())
def test_the_earliest_of_the_best_is_chosen(data):
    n = data.draw(st.integers(1, 6))
    labels = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    predicted = data.draw(st.lists(labels, min_size=1, max_size=6))
    wanted = data.draw(labels)
    hits = [sum(a == b for a, b in zip(row, wanted, strict=True)) for row in predicted]
    best = next(place for place, count in enumerate(hits) if count == max(hits))
    found = choose(np.array(predicted), np.array(wanted), np.arange(len(predicted)) * 7 + 3)
    assert found == (best, 7 * best + 3, len(predicted))


def test_selected_rows_equal_what_plain_python_finds_in_the_files(chosen):
    made = chosen().fill()
    rows = load("one", made.root)
    assert (rows.problems, rows.unfinished) == ([], [])
    assert len(rows.frame) == 2 * 3 * 3
    truth = truth_of(made, "test")
    steps: Counter[tuple[str, int]] = Counter()
    for _, row in rows.frame[rows.frame.selection != "final"].iterrows():
        history = history_of(made.store.path("train", row.student_digest) / "evaluations.parquet")
        weak = made.store.path("train", row.weak_digest) / "predictions"
        labels = classes_of(weak / "val.parquet")
        split, wanted = ("val", labels) if row.selection == "weak_val" else ("test", truth)
        score = {step: share(predicted, wanted) for step, predicted in history[split].items()}
        step = max(sorted(score), key=score.__getitem__)  # max takes the first of equals
        assert (row.selected_step, row.evaluations) == (step, 4)
        assert row.student_accuracy == pytest.approx(share(history["test"][step], truth))
        assert row.agreement == pytest.approx(share(history["test"][step], classes_of(weak / "test.parquet")))
        recovered = (row.student_accuracy - row.weak_accuracy) / (row.ceiling_accuracy - row.weak_accuracy)
        assert row.pgr == pytest.approx(recovered)
        steps[row.selection, step] += 1
    assert len(steps) > 3  # the made-up runs do differ, so the test would see a constant step


def test_the_oracle_is_never_below_final_or_weak_val(chosen):
    made = chosen().fill()
    wide = load("one", made.root).frame.pivot(index=["method", "seed"], columns="selection", values="student_accuracy")
    assert (wide["oracle"] >= wide[["final", "weak_val"]].max(axis=1)).all()
    assert (wide["oracle"] > wide["final"]).any()


def test_only_the_student_is_selected(chosen):
    made = chosen().fill()
    frame = load("one", made.root).frame
    assert (frame.groupby(["method", "seed"])[["weak_accuracy", "ceiling_accuracy"]].nunique() == 1).all(axis=None)
    assert frame.groupby(["method", "seed"])["student_accuracy"].nunique().max() > 1


def test_final_rows_are_those_of_a_sweep_that_selects_nothing(chosen, synthetic):
    """The same steps, planned twice over one store: `final` neither reads the evaluations nor differs."""
    made = chosen().fill()
    with_selections = rows_of(made, selection="final").reset_index(drop=True)
    synthetic(methods=METHODS)
    for digest in made.digests("student"):
        (made.store.path("train", digest) / "evaluations.parquet").unlink()
    assert load("one", made.root).frame.equals(with_selections)
    assert with_selections[["selected_step", "evaluations"]].isna().all(axis=None)
    assert set(with_selections.selection_note) == {""}


def test_of_equally_good_evaluations_the_earliest_counts(chosen):
    made = chosen(seeds=[0], methods={"xent": METHODS["xent"]}).fill()
    (weak,) = made.digests("weak weak-3l")
    labels = [
        label for _, label in sorted(classes_of(made.store.path("train", weak) / "predictions/val.parquet").items())
    ]
    truth = [label for _, label in sorted(truth_of(made, "test").items())]
    worse = [1 - labels[0], *labels[1:]]
    wrong = [1 - label for label in truth]
    history = {
        "val": {30: labels, 10: worse, 40: labels, 20: labels},  # rows in no order of steps
        "test": {10: wrong, 20: wrong, 30: truth, 40: truth},
    }
    write_history(made, student(made), history)
    frame = load("one", made.root).frame.set_index("selection")
    assert frame.selected_step.dropna().to_dict() == {"weak_val": 20, "oracle": 30}
    assert frame.student_accuracy["weak_val"] == 0.0
    assert frame.student_accuracy["oracle"] == 1.0


def test_weak_val_follows_the_supervisors_labels_even_where_they_are_wrong(chosen):
    """The supervisor is wrong about every example of val: the evaluation that repeats its errors is taken, and not the
    one that val's ground truth, or the oracle, would take."""
    made = chosen(seeds=[0], methods={"xent": METHODS["xent"]}).fill()
    (weak,) = made.digests("weak weak-3l")
    truth = {split: [label for _, label in sorted(truth_of(made, split).items())] for split in ("val", "test")}
    flipped = {split: [1 - label for label in truth[split]] for split in truth}
    ids = [f"val-{place:05d}" for place in range(len(truth["val"]))]
    logits = [[1.0 - label, float(label)] for label in flipped["val"]]
    write(
        made.store.path("train", weak) / "predictions" / "val.parquet", pa.table({"example_id": ids, "logits": logits})
    )
    write_history(made, student(made), {s: {10: truth[s], 20: flipped[s], 30: truth[s]} for s in ("val", "test")})
    frame = load("one", made.root).frame.set_index("selection")
    by_truth = choose(
        np.array([truth["val"], flipped["val"], truth["val"]]), np.array(truth["val"]), np.array([10, 20, 30])
    )
    assert frame.selected_step["weak_val"] == 20 != by_truth.step
    assert frame.selected_step["oracle"] == 10 == by_truth.step
    assert (frame.student_accuracy["weak_val"], frame.student_accuracy["oracle"]) == (0.0, 1.0)


def test_ground_truth_of_val_is_not_even_read_and_evaluations_are_read_once(chosen, counted_reads):
    made = chosen().fill()
    (data,) = made.digests("data movie")
    before = load("one", made.root).frame
    (made.store.path("materialize", data) / "val.parquet").unlink()
    shutil.rmtree(made.root / "scores")
    read = counted_reads()
    assert load("one", made.root).frame.equals(before)
    assert set(read.values()) == {1}
    assert sum(name == "evaluations.parquet" for _, name in read) == 6
    assert sum(name == "predictions/val.parquet" for _, name in read) == 3  # of the three supervisors


def test_many_classes(synthetic, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "three.csv").write_text("t,y\nx,a\n")
    task = {"file": "three.csv", "text": "t", "label": "y", "classes": ["a", "b", "c"]}
    made = synthetic(tasks={"movie": task}, methods=METHODS, selections=ALL, seeds=[0]).fill()
    row = rows_of(made, selection="oracle").iloc[0]
    history = history_of(made.store.path("train", row.student_digest) / "evaluations.parquet")["test"]
    assert max(max(predicted.values()) for predicted in history.values()) == 2
    assert row.student_accuracy == pytest.approx(max(share(p, truth_of(made, "test")) for p in history.values()))


# -- what is damaged --------------------------------------------------------------------------------------------------


def without(condition):
    """Removes the rows of evaluations.parquet that meet a condition."""

    def harm(path):
        table = pq.read_table(path)
        write(path, table.filter(pc.invert(condition(table))))

    return harm


def changed(column, change):
    def harm(path):
        table = pq.read_table(path).to_pydict()
        table[column] = [change(table, place) for place in range(len(table["step"]))]
        write(path, pa.table(table))

    return harm


def at(table, place, split):
    return table["split"][place] == split and table["step"][place] == 2 * EVERY


def one_row(split):
    return lambda t: pc.and_(pc.equal(t["example_id"], f"{split}-00003"), pc.equal(t["step"], 2 * EVERY))


HARMS = {
    "gone": (lambda path: path.unlink(), ALL[1:], "evaluations.parquet"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:60]), ALL[1:], "evaluations.parquet"),
    "no such column": (
        lambda path: write(path, pq.read_table(path).drop_columns(["split"])), ALL[1:], "no column split"),
    "another content": (
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), ALL[1:], "content differs from the manifest"),
    "a test example missing": (
        without(one_row("test")), ALL[1:], "test, step 40, does not fit test.parquet of materialize"),
    "a val example missing": (without(one_row("val")), ["weak_val"], "1 example ids missing in evaluations.parquet"),
    "a stranger": (
        changed("example_id", lambda t, i: "x" if at(t, i, "test") else t["example_id"][i]), ALL[1:], "not asked for"),
    "an example twice": (
        changed("example_id", lambda t, i: "val-00001" if at(t, i, "val") else t["example_id"][i]),
        ["weak_val"], "repeated in"),
    "a step without val": (
        without(lambda t: pc.and_(pc.equal(t["split"], "val"), pc.equal(t["step"], EVERY))),
        ["weak_val"], "val was evaluated at steps 40, 60, 80 and test at 20, 40, 60, 80"),
    "no val": (without(lambda t: pc.equal(t["split"], "val")), ["weak_val"], "no evaluations"),
    "nothing": (without(lambda t: pc.greater(t["step"], 0)), ALL[1:], "no evaluations"),
    "a step empty": (
        changed("step", lambda t, i: None if at(t, i, "test") else t["step"][i]), ALL[1:], "a step is empty"),
    "steps in words": (changed("step", lambda t, i: "first"), ALL[1:], "not what they should be"),
    "splits in numbers": (changed("split", lambda t, i: 1), ALL[1:], "not what they should be"),
    "three logits": (changed("logits", lambda t, i: [0.0, 1.0, 2.0]), ALL[1:], "expected 2 logits"),
    "not a number": (
        changed("logits", lambda t, i: [0.0, float("nan")] if at(t, i, "val") else t["logits"][i]),
        ["weak_val"], "not a finite number"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "lost", "said"), HARMS.values(), ids=HARMS)
def test_damaged_evaluations_cost_the_selections_that_need_them(chosen, harm, lost, said):
    made = chosen(seeds=[0], selections=ALL[::-1]).fill()
    keys = ["selection", "method"]
    before = load("one", made.root).frame.set_index(keys)
    digest = student(made, "logconf")
    harm(made.store.path("train", digest) / "evaluations.parquet")
    rows = load("one", made.root)
    frame = rows.frame.set_index(keys)
    hurt = [(selection, "logconf") for selection in lost]
    for key in hurt:
        row = frame.loc[key]
        assert (row.student_status, row.pgr_reason) == ("damaged", "student damaged")
        assert np.isnan(row.student_accuracy)
        assert row[["selected_step", "evaluations"]].isna().all()
        assert said in row.selection_note
        assert f"no step chosen: {row.student_reason}" in row.selection_note
        assert row.student_reason in rows.problems
        assert digest[:12] in row.student_reason
    assert frame.drop(index=hurt).equals(before.drop(index=hurt))


def test_labels_of_the_supervisor_that_do_not_fit_are_refused(chosen):
    made = chosen(seeds=[0]).fill()
    (weak,) = made.digests("weak weak-3l")
    path = made.store.path("train", weak) / "predictions" / "val.parquet"
    write(path, pq.read_table(path).slice(1))
    rows = load("one", made.root)
    frame = rows.frame.set_index(["selection", "method"])
    assert set(frame.student_status["weak_val"]) == {"damaged"}
    assert set(frame.student_status[["final", "oracle"]]) == {"done"}
    assert all(f"does not fit predictions/val.parquet of train {weak[:12]}" in line for line in rows.problems)
    assert len(rows.problems) == 2  # one for each method's student
    path.unlink()
    assert all(str(path) in line for line in load("one", made.root).problems)
    assert set(frame.weak_status) == {"done"}


def test_weak_val_waits_for_its_supervisor(chosen):
    made = chosen(seeds=[0]).fill()
    (weak,) = made.digests("weak weak-3l")
    shutil.rmtree(made.store.path("train", weak))
    frame = load("one", made.root).frame.set_index(["selection", "method"])
    assert frame.student_status["weak_val", "xent"] == "blocked"
    assert "supervisor missing" in frame.student_reason["weak_val", "xent"]
    assert frame.student_status["oracle", "xent"] == "done"


def test_damaged_final_predictions_take_every_selection_in_any_order(chosen):
    for order in (ALL, ALL[::-1]):
        made = chosen(seeds=[0], selections=order).fill()
        (made.store.path("train", student(made)) / "predictions" / "test.parquet").write_bytes(b"PAR1")
        frame = load("one", made.root).frame
        assert set(frame[frame.method == "xent"].student_status) == {"damaged"}
        assert set(frame[frame.method == "logconf"].student_status) == {"done"}
        shutil.rmtree(made.root)


def test_a_student_that_is_not_there_says_so_for_every_selection(chosen):
    made = chosen(seeds=[0])
    made.fill(leave_out=[student(made)])
    frame = rows_of(made, method="xent").set_index("selection")
    assert set(frame.student_status) == {"missing"}
    assert frame.selection_note.to_dict() == {
        "final": "",
        "weak_val": "no step chosen: not run yet",
        "oracle": "diagnostic: chosen on test; no step chosen: not run yet",
    }


def test_a_selection_that_does_not_exist_is_a_damaged_plan(chosen):
    made = chosen()
    path = made.root / "sweeps" / "one" / "plan.json"
    path.write_text(path.read_text().replace('"oracle"', '"orakel"'))
    with pytest.raises(Exception, match=r"plan\.json: damaged .*no selection orakel.*writes it again"):
        load("one", made.root)
