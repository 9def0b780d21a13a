"""Who is right where the weak model is sure, and where it is not: by hand, and against estimates made without bins."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from tampering import write  # type: ignore[import-not-found]

from w2s.analyze import confidence, figures
from w2s.analyze.numbers import stats
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.cells import UNKNOWN
from w2s.analyze.numbers.pool import Pool
from w2s.analyze.reading.rows import load
from w2s.analyze.reading.selection import Taken
from w2s.analyze.tables import exports, listings

SIZES = {"weak_train": 8, "transfer": 8, "val": 8, "test": 8}
# Of the eight test examples, those that a model is wrong about, and those that the weak model is unsure of.
WRONG = {"weak": [4, 5, 6, 7], "student": [5, 6, 7], "ceiling": [6]}
UNSURE = [2, 3, 4, 5]


def predict(made, step, wrong, p=None, n=8):
    """Have a model be wrong about these, with these probabilities of what it predicts."""
    label_N = np.arange(n) % 2
    label_N[wrong] = 1 - label_N[wrong]
    p_N = np.full(n, 0.9) if p is None else p
    p_NC = np.where(np.eye(2, dtype=bool)[label_N], p_N[:, None], 1 - p_N[:, None])
    table = {"example_id": [f"test-{i:05d}" for i in range(n)], "logits": np.log(p_NC).tolist()}
    write(made.store.path("train", step) / "predictions" / "test.parquet", pa.table(table))


@pytest.fixture
def by_hand(synthetic):
    made = synthetic(methods=["xent"], seeds=[0, 1], sizes=SIZES).fill()
    p_N = np.full(8, 0.92)
    p_N[UNSURE] = 0.57
    for experiment in made.plan.experiments:
        for role, wrong in WRONG.items():
            predict(made, getattr(experiment.digests, role), wrong, p_N if role == "weak" else None)
    return made


def test_shares_of_each_bin_by_hand(by_hand):
    (cell,) = aggregate(load("one", by_hand.root))
    unsure, sure = cell.by_confidence
    assert (unsure.low, unsure.high, unsure.examples) == (8 / 15, 9 / 15, 8)
    assert (sure.low, sure.high, sure.examples) == (13 / 15, 14 / 15, 8)
    assert (unsure.confidence, sure.confidence) == pytest.approx((0.57, 0.92))
    found = [[e.value for e in (one.weak, one.student, one.ceiling, one.gain)] for one in (unsure, sure)]
    assert found == [pytest.approx([2 / 4, 3 / 4, 4 / 4, 1 / 4]), pytest.approx([2 / 4, 2 / 4, 3 / 4, 0.0])]
    for one in (unsure, sure):
        for estimate in (one.weak, one.student, one.ceiling, one.gain):
            assert (estimate.n, estimate.seeds) == (8, 2)
            assert estimate.low <= estimate.value <= estimate.high


def test_one_bin_that_holds_all_says_what_accuracies_say(synthetic):
    """With their intervals: those of shares and of their difference come to those of means and paired differences."""
    made = synthetic(methods=["xent", "logconf"])
    made.fill()
    rng = np.random.default_rng(5)
    steps = {digest for e in made.plan.experiments for digest in (e.digests.weak, e.digests.student, e.digests.ceiling)}
    for place, step in enumerate(sorted(steps)):
        predict(made, step, np.flatnonzero(rng.random(200) < 0.1 + 0.03 * (place % 9)), n=200)
    rows = load("one", made.root)
    pool = Pool(rows)
    for cell in aggregate(rows):
        (one,) = cell.by_confidence
        assert one.examples == 600
        measured = [cell.accuracy.weak, cell.accuracy.student, cell.accuracy.ceiling]
        students, weak = ([Taken(getattr(run, role)) for run in cell.runs] for role in ("student", "weak"))
        data = cell.runs[0].data
        measured.append(
            stats.difference(pool.measure("accuracy", data, students), pool.measure("accuracy", data, weak))
        )
        for found, known in zip((one.weak, one.student, one.ceiling, one.gain), measured, strict=True):
            assert found.value == pytest.approx(known.value)
            assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=2e-3)


def test_bins_add_up_to_the_whole(synthetic):
    rows = load("one", synthetic().fill().root)
    for cell in aggregate(rows):
        assert len(cell.by_confidence) > 2
        count = [one.examples for one in cell.by_confidence]
        assert sum(count) == 3 * cell.n
        for role in ("weak", "student", "ceiling"):
            shares = [getattr(one, role).value for one in cell.by_confidence]
            assert np.average(shares, weights=count) == pytest.approx(getattr(cell.accuracy, role).value)
        for one in cell.by_confidence:
            assert one.low < one.confidence <= one.high
            assert one.gain.value == pytest.approx(one.student.value - one.weak.value)


def test_a_ceiling_that_is_not_there_costs_its_own_column(synthetic):
    made = synthetic(methods=["xent"], seeds=[0, 1])
    ceilings = sorted({e.digests.ceiling for e in made.plan.experiments})
    made.fill(leave_out=ceilings)
    (cell,) = aggregate(load("one", made.root))
    assert {one.ceiling.reason for one in cell.by_confidence} == {"ceiling missing"}
    before = [one._replace(ceiling=UNKNOWN) for one in cell.by_confidence]
    made.commit(ceilings[0])
    (cell,) = aggregate(load("one", made.root))
    assert {one.ceiling.seeds for one in cell.by_confidence if one.ceiling.known} == {1}
    assert [one._replace(ceiling=UNKNOWN) for one in cell.by_confidence] == before


def test_students_that_were_selected_have_none(chosen):
    cells = aggregate(load("one", chosen(methods={"xent": {"recipe": {"eval_every": 20}}}, seeds=[0]).fill().root))
    assert {cell.selection: bool(cell.by_confidence) for cell in cells} == {
        "final": True, "weak_val": False, "oracle": False
    }  # fmt: skip


def test_every_form_says_the_same(by_hand):
    rows = load("one", by_hand.root)
    cells = aggregate(rows)
    table = confidence(rows)
    lines = list(csv.DictReader(io.StringIO(exports.confidence_csv(cells))))
    assert list(table.columns) == list(lines[0])
    assert [float(line["student_accuracy"]) for line in lines] == table["student_accuracy"].tolist() == [0.75, 0.5]
    (sheet,) = listings.by_confidence(cells, "accuracy")
    assert [line[3].text for line in sheet.lines] == ["0.53 to 0.60", "0.87 to 0.93"]
    assert [line[6].text for line in sheet.lines] == ["0.750", "0.500"]
    assert listings.by_confidence(cells, "auroc") == []
    with figures.style():
        (drawn,) = [one for one in figures.figures(rows, cells) if one.kind == "confidence"]
    assert "students less weak models from +0.00 to +0.25" in drawn.alt


def test_too_many_lines_are_left_to_the_file(by_hand, monkeypatch):
    cells = aggregate(load("one", by_hand.root))
    monkeypatch.setattr(listings, "MOST_BINS", 1)
    assert listings.by_confidence(cells, "accuracy") == []
    assert exports.confidence_csv(cells).count("\n") == 3
