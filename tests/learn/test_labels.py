"""Labels: softmax, argmax and the join by id, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from w2s.errors import StepError
from w2s.learn import labels


def test_probabilities_by_hand():
    logits = np.array([[0.0, math.log(3.0)], [2.0, 2.0], [1e4, -1e4], [-3e38, 3e38]], dtype=np.float32)
    p_NC = labels.probabilities(logits)
    assert p_NC.dtype == np.float32
    np.testing.assert_allclose(p_NC, [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], atol=1e-7)


def test_a_common_shift_of_the_logits_changes_nothing():
    logits = np.random.default_rng(0).normal(size=(50, 3)).round(2).astype(np.float32)
    np.testing.assert_allclose(labels.probabilities(logits), labels.probabilities(logits + 64), atol=2e-6)


def test_harden_gives_ties_to_the_lower_class():
    p = np.array([[0.2, 0.8], [0.5, 0.5], [0.6, 0.4]], dtype=np.float32)
    assert labels.harden(p).tolist() == [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    assert labels.harden(p).dtype == np.float32


def test_join_by_id():
    given = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
    assert labels.join(["c", "a"], ["a", "b", "c"], given, "train 12").tolist() == [[3.0], [1.0]]
    with pytest.raises(StepError, match=r"train 12: no prediction for 2 of 3 examples \(first: x\)"):
        labels.join(["x", "a", "y"], ["a", "b", "c"], given, "train 12")
    with pytest.raises(StepError, match="train 12: an example id is there twice"):
        labels.join(["a"], ["a", "b", "a"], given, "train 12")


def test_means_are_taken_in_double_precision_and_stay_probabilities():
    p_SNC = np.random.default_rng(0).dirichlet([1, 1, 1], (7, 50)).astype(np.float32)
    p_NC = labels.mean(p_SNC)
    assert p_NC.dtype == np.float32
    np.testing.assert_allclose(p_NC.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(labels.mean(p_SNC[::-1]), p_NC, atol=1e-7)
