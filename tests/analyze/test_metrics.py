"""Softmax and placements against values by hand and scikit-learn; joins refuse whatever does not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from w2s.analyze.reading import metrics
from w2s.errors import StepError


def test_join_puts_values_into_the_wanted_order():
    assert metrics.join(["c", "a", "b"], ["a", "b", "c"], "x", "y").tolist() == [1, 2, 0]
    assert metrics.join(["a", "b"], ["a", "b"], "x", "y").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("ids", "wanted", "said"),
    [
        (["a"], ["a", "b"], "1 example ids missing in pred (first: 'b')"),
        (["a", "b", "z"], ["a", "b"], "1 example ids not asked for in pred (first: 'z')"),
        (["a", "b", "b"], ["a", "b"], "1 example ids repeated in pred (first: 'b')"),
        (["a", "b"], ["a", "b", "a"], "1 example ids repeated in truth (first: 'a')"),
        (["a", "a"], ["a", "a"], "repeated in pred"),
    ],
)
def test_join_refuses_what_does_not_fit_and_names_both(ids, wanted, said):
    with pytest.raises(StepError) as error:
        metrics.join(ids, wanted, "pred", "truth")
    assert said in str(error.value)
    assert "pred does not fit truth" in str(error.value)


def test_softmax_by_hand_and_without_overflow():
    p = metrics.softmax(np.array([[0.0, math.log(3.0)], [10000.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(p, [[0.25, 0.75], [1.0, 0.0]], atol=1e-7)


def test_majority_share():
    assert metrics.majority_share(np.array([0, 1, 1, 2])) == 0.5


def test_placements_have_the_auroc_as_their_mean_and_follow_ties():
    rng = np.random.default_rng(0)
    y_N = (rng.random(200) < 0.3).astype(np.int64)
    for score_N in (rng.normal(size=200) + y_N, np.round(rng.normal(size=200) + y_N), np.zeros(200)):
        assert metrics.placements(score_N, y_N).mean() == pytest.approx(roc_auc_score(y_N, score_N))
    ranks_N = np.unique(score := rng.normal(size=200), return_inverse=True)[1]
    np.testing.assert_array_equal(metrics.placements(ranks_N, y_N), metrics.placements(score, y_N))


def test_placements_tell_what_leaving_an_example_out_does():
    """The influence of an example, by the jackknife: n A - (n - 1) A without it, to first order."""
    rng = np.random.default_rng(1)
    y_N = (rng.random(300) < 0.4).astype(np.int64)
    score_N = rng.normal(size=300) + y_N
    whole = roc_auc_score(y_N, score_N)
    without = np.array([roc_auc_score(np.delete(y_N, i), np.delete(score_N, i)) for i in range(300)])
    pseudo_N = 300 * whole - 299 * without
    np.testing.assert_allclose(metrics.placements(score_N, y_N), pseudo_N, atol=0.03)


def test_placements_of_one_class_are_absent():
    assert np.isnan(metrics.placements(np.arange(5.0), np.ones(5, dtype=np.int64))).all()
