"""What students took over from those who labelled for them, counted by hand on eight test examples."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from tampering import write  # type: ignore[import-not-found]

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.inherited import cross_entropy
from w2s.analyze.reading.rows import load

SIZES = {"weak_train": 8, "transfer": 8, "val": 8, "test": 8}
METHODS = {
    "xent": {},
    "rounds": {"labels": {"from": {"student": "same", "method": "xent"}}},
    "vote": {"labels": {"from": ["weak", {"student": "same", "method": "xent"}], "combine": "vote"}},
}
#             right:   1 1 1 1 0 0 0 0
WRONG = {
    "weak": [4, 5, 6, 7],
    "ceiling": [6],
    "xent": [5, 6, 7],
    "rounds": [0, 5, 6],
    "vote": [7],
}  # test examples by model


@pytest.fixture
def cells(synthetic):
    made = synthetic(methods=METHODS, seeds=[0], sizes=SIZES).fill()
    digests = {cell.method: cell.digests for cell in made.plan.experiments}
    steps = {"weak": digests["xent"].weak, "ceiling": digests["xent"].ceiling}
    steps |= {method: digests[method].student for method in METHODS}
    y = made.truth("test", digests["xent"].data)
    for name, step in steps.items():
        label = y.copy()
        label[WRONG[name]] = 1 - label[WRONG[name]]
        table = {"example_id": [f"test-{i:05d}" for i in range(8)], "logits": (2.0 * np.eye(2)[label]).tolist()}
        write(made.store.path("train", step) / "predictions" / "test.parquet", pa.table(table))
    rows = load("one", made.root)
    return {cell.method: cell for cell in aggregate(rows)}


def shares(cell, *names):
    return [getattr(cell, name).value for name in names]


def test_errors_are_repeated_beyond_those_that_the_ceiling_makes_too(cells):
    names = ("error_overlap", "error_overlap_expected", "error_overlap_excess")
    assert shares(cells["xent"], *names) == pytest.approx([3 / 4, 1 / 4, 1 / 2])
    assert shares(cells["rounds"], *names) == pytest.approx([2 / 4, 1 / 4, 1 / 4])
    assert shares(cells["vote"], *names) == pytest.approx([1 / 4, 1 / 4, 0.0])
    excess = cells["xent"].error_overlap_excess
    assert -1 <= excess.low < 0.5 < excess.high <= 1


def test_a_chain_agrees_with_its_own_supervisor_and_with_the_weak_model(cells):
    """rounds learned from xent: both wrong on 5 and 6; they differ on 0 and 7."""
    own = ("supervisor_agreement", "supervisor_agreement_right", "supervisor_agreement_wrong")
    assert shares(cells["rounds"], *own) == pytest.approx([6 / 8, 4 / 5, 2 / 3])
    weak = ("agreement", "agreement_right", "agreement_wrong")
    assert shares(cells["rounds"], *weak) == pytest.approx([5 / 8, 3 / 4, 2 / 4])
    assert cells["xent"].supervisor_agreement.reason == "is the weak model"
    assert cells["vote"].supervisor_agreement.reason.startswith("not one supervisor")


def test_misfit_is_the_loss_against_the_weak_models_soft_predictions(cells):
    """Of logits 2 and 0: where both say the same -(p log p + q log q), elsewhere -(p log q + q log p)."""
    p = math.exp(2) / (math.exp(2) + 1)
    same = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    other = -(p * math.log(1 - p) + (1 - p) * math.log(p))
    assert cells["xent"].misfit.value == pytest.approx((7 * same + other) / 8)
    assert cells["vote"].misfit.value == pytest.approx((5 * same + 3 * other) / 8)
    assert cells["xent"].misfit.low < cells["xent"].misfit.value < cells["xent"].misfit.high


def test_cross_entropy_is_that_of_scipy_for_any_logits():
    from scipy.special import log_softmax, softmax

    rng = np.random.default_rng(0)
    weak, student = rng.normal(0, 30, (2, 50, 4))
    wanted = -(softmax(weak, axis=1) * log_softmax(student, axis=1)).sum(axis=1)
    assert cross_entropy(weak, student) == pytest.approx(wanted)


def test_what_is_not_there_has_a_reason(synthetic):
    made = synthetic(methods=METHODS, seeds=[0], sizes=SIZES, folder="other")
    students = [cell.digests.student for cell in made.plan.experiments]
    made.fill(leave_out=students)
    for cell in aggregate(load("one", made.root)):
        assert cell.error_overlap.reason == cell.misfit.reason == "student missing"
    chosen = {"xent": {"recipe": {"eval_every": 20}}}
    one = synthetic(methods=chosen, seeds=[0], selections=["final", "weak_val"], folder="chosen").fill()
    assert {c.selection: c.misfit.reason for c in aggregate(load("one", one.root))} == {
        "final": "",
        "weak_val": "of final predictions only",
    }
