"""What is read for training curves: losses as they are, accuracies recomputed and joined by example id."""

from __future__ import annotations

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from made_cells import read  # type: ignore[import-not-found]
from tampering import counted, reseal, write  # type: ignore[import-not-found]

from w2s.analyze.figures import curves, style, training

pytestmark = pytest.mark.usefixtures("few_resamples")


def histories(made, steps=80):
    """A history for every training, whose accuracies are lies."""
    for digest, node in made.plan.nodes.items():
        if node.kind == "train":
            lines = [{"step": step, "epoch": 0, "loss": 1.0 / (step + 1)} for step in range(steps)]
            lies = [{"steps_done": step, "split": "test", "accuracy": 0.123} for step in (20, 40, 60, 80)]
            text = "".join(json.dumps(line) + "\n" for line in [*lines, *lies])
            put(made.store.path("train", digest) / "history.jsonl", text)
    return made


def put(file, text):
    """Write a file; its artifact's manifest agrees."""
    file.write_text(text)
    reseal(file)


def table(made, digest, name):
    return made.store.path("train", digest) / name


def test_losses_accuracy_and_the_step_that_weak_val_takes(chosen):
    rows, cells = read(histories(chosen().fill()))
    by = {(cell.method, cell.selection): cell for cell in cells}
    found = curves.of_cell(rows, by["xent", "final"], 5)
    assert found.problems == ()
    assert [course.seed for course in found.found] == [0, 1, 2]
    course = found.found[0]
    assert course.step_L.tolist() == list(range(1, 81))
    assert course.loss_L.tolist() == [1.0 / (step + 1) for step in range(80)]
    assert course.step_E.tolist() == [20, 40, 60, 80]
    # The last evaluation is that of the final model; the one that was chosen has the accuracy of its cell's row.
    final = [one.accuracy_E[-1] for one in found.found]
    assert np.mean(final) == pytest.approx(by["xent", "final"].accuracy.student.value)
    assert [one.chosen for one in found.found] == list(by["xent", "weak_val"].steps)
    taken = [one.accuracy_E[list(one.step_E).index(one.chosen)] for one in found.found]
    assert np.mean(taken) == pytest.approx(by["xent", "weak_val"].accuracy.student.value)
    assert all(one.agreement_E.max() == one.agreement_E[list(one.step_E).index(one.chosen)] for one in found.found)
    assert 0.123 not in course.accuracy_E


def test_without_evaluations_there_are_losses_alone(synthetic):
    rows, cells = read(histories(synthetic().fill()))
    course = curves.of_cell(rows, cells[0], 5).found[0]
    assert len(course.loss_L) == 80
    assert len(course.step_E) == len(course.accuracy_E) == len(course.agreement_E) == 0
    assert course.chosen is None


def test_a_long_history_is_thinned_to_means(synthetic):
    rows, cells = read(histories(synthetic(seeds=[0]).fill(), steps=1001))
    course = curves.of_cell(rows, cells[0], 5).found[0]
    assert course.stretch == 6
    assert len(course.loss_L) == 167 <= curves.MOST_POINTS
    assert course.loss_L[0] == pytest.approx(np.mean([1.0 / (step + 1) for step in range(6)]))
    assert course.step_L[0] == 6
    assert course.step_L[-1] == 1001
    assert course.loss_L[-1] == pytest.approx(np.mean([1.0 / (step + 1) for step in range(996, 1001)]))


def test_no_more_seeds_are_read_than_asked_for(chosen, monkeypatch):
    rows, cells = read(histories(chosen().fill()))
    read_tables = counted(monkeypatch)()
    assert [course.seed for course in curves.of_cell(rows, cells[0], 2).found] == [0, 1]
    assert sum(name == "evaluations.parquet" for _, name in read_tables) == 2


def test_a_student_that_is_not_there_is_passed_over(chosen):
    made = chosen()
    made.fill(leave_out=[made.digests("student")[0]])
    rows, cells = read(histories_of_those_there(made))
    assert sorted(course.seed for cell in cells[:1] for course in curves.of_cell(rows, cell, 5).found) == [1, 2]


def histories_of_those_there(made):
    for digest, node in made.plan.nodes.items():
        if node.kind == "train" and made.store.has("train", digest):
            put(made.store.path("train", digest) / "history.jsonl", '{"step": 0, "loss": 1.0}\n')
    return made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{not json\n", "damaged"),
        ("", "no losses"),
        ('{"step": 1, "loss": 0.5}\n{"step": 1, "loss": 0.4}\n', "out of order"),
        ('{"loss": 0.5}\n', "damaged"),
        ("[1]\n", "damaged"),
        (None, "missing"),
    ],
)
def test_a_damaged_history_is_a_sentence_and_no_curve(chosen, text, said):
    made = histories(chosen().fill())
    rows, cells = read(made)
    file = table(made, cells[0].runs[0].student, "history.jsonl")
    file.unlink() if text is None else put(file, text)
    found = curves.of_cell(rows, cells[0], 5)
    assert [course.seed for course in found.found] == [1, 2]
    assert len(found.problems) == 1
    assert said in found.problems[0]
    assert cells[0].runs[0].student[:12] in found.problems[0]
    with style():
        figure = training.of_task(rows, cells)
    assert figure is not None
    assert "1 run could not be read" in " ".join(text.get_text() for text in figure.texts)


def spoil_missing(full):
    return full.slice(1)


def spoil_repeated(full):
    return pyarrow.concat_tables([full, full.slice(0, 1)])


def spoil_stranger(full):
    ids = full["example_id"].to_pylist()
    return full.set_column(full.column_names.index("example_id"), "example_id", [["stranger", *ids[1:]]])


def spoil_split(full):
    return full.filter(pyarrow.compute.equal(full["split"], "val"))


def spoil_column(full):
    return full.drop_columns(["logits"])


def spoil_logits(full):
    logits = full["logits"].to_pylist()
    return full.set_column(full.column_names.index("logits"), "logits", [[[float("nan"), 0.0], *logits[1:]]])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_missing, "missing"),
        (spoil_repeated, "repeated"),
        (spoil_stranger, "stranger"),
        (spoil_split, "no evaluations"),
        (spoil_column, "logits"),
        (spoil_logits, "finite"),
    ],
)
def test_evaluations_that_do_not_fit_are_refused(chosen, spoil, said):
    made = histories(chosen().fill())
    rows, cells = read(made)
    file = table(made, cells[0].runs[0].student, "evaluations.parquet")
    write(file, spoil(pyarrow.parquet.read_table(file)))
    found = curves.of_cell(rows, cells[0], 5)
    assert [course.seed for course in found.found] == [1, 2]
    assert said in found.problems[0]


@pytest.mark.parametrize("name", ["evaluations.parquet", "history.jsonl"])
def test_a_file_that_its_manifest_does_not_know_is_no_curve(chosen, name):
    made = histories(chosen().fill())
    rows, cells = read(made)
    file = table(made, cells[0].runs[0].student, name)
    file.write_bytes(file.read_bytes() + b" ")
    found = curves.of_cell(rows, cells[0], 5)
    assert [course.seed for course in found.found] == [1, 2]
    assert "content differs from the manifest" in found.problems[0]


def test_the_order_of_a_file_does_not_matter(chosen):
    made = histories(chosen(seeds=[0]).fill())
    rows, cells = read(made)
    before = curves.of_cell(rows, cells[0], 5).found[0]
    file = table(made, cells[0].runs[0].student, "evaluations.parquet")
    full = pyarrow.parquet.read_table(file)
    write(file, full.take(np.random.default_rng(5).permutation(len(full))))
    after = curves.of_cell(rows, cells[0], 5).found[0]
    assert before.accuracy_E.tolist() == after.accuracy_E.tolist()
    assert before.agreement_E.tolist() == after.agreement_E.tolist()


def test_a_student_without_a_history_was_not_trained_and_is_no_problem(synthetic):
    rows, cells = read(synthetic().fill())
    assert curves.of_cell(rows, cells[0], 5) == curves.Courses(cells[0].pair, "xent", ())
    assert training.of_task(rows, cells) is None


def test_without_its_supervisor_a_student_has_no_agreement(chosen):
    made = chosen(seeds=[0])
    histories_of_those_there(made.fill(leave_out=made.digests("weak weak")))
    rows, cells = read(made)
    course = curves.of_cell(rows, cells[0], 5).found[0]
    assert len(course.accuracy_E) == 4
    assert len(course.agreement_E) == 0
    assert course.chosen is None


def test_a_figure_of_a_large_sweep_says_what_it_leaves_out(synthetic):
    models = ["pythia-70m", "pythia-160m", "pythia-410m", "pythia-1b"]
    rows, cells = read(histories(synthetic(models=models, seeds=list(range(7)), methods=["xent"]).fill()))
    with style():
        figure = training.of_task(rows, cells)
    assert figure is not None
    said = " ".join(text.get_text() for text in figure.texts)
    assert "4 of 6 pairs shown" in said
    assert "the first 5 seeds shown" in said
