"""Neighbours, cross-fitted probes and the topological filter: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from w2s.learn import probing

LINE = np.array([[0.0], [1.0], [3.0], [10.0], [11.0]])


def of(*p_one):
    """Two-class labels from the probability of class 1."""
    p = np.array(p_one, dtype=np.float32)
    return np.stack([1 - p, p], axis=1)


def test_neighbours_leave_out_the_example_itself():
    assert probing.neighbours(LINE, 2).tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    assert probing.neighbours(LINE, 1, np.array([[2.9], [0.0]])).tolist() == [[2], [0]]
    assert probing.neighbours(LINE[:2], 5).tolist() == [[1], [0]]  # no more than there are


def test_neighbours_are_those_of_scikit_learn(monkeypatch):
    x = np.random.default_rng(0).normal(size=(70, 6))
    expected = NearestNeighbors(n_neighbors=7).fit(x).kneighbors(return_distance=False)
    np.testing.assert_array_equal(probing.neighbours(x, 7), expected)
    monkeypatch.setattr(probing, "ROWS", 16)  # cut into blocks
    np.testing.assert_array_equal(probing.neighbours(x, 7), expected)


def test_knn_is_the_mean_label_of_the_nearest_others():
    p = of(0.0, 0.2, 1.0, 0.6, 1.0)
    np.testing.assert_allclose(probing.knn(LINE, p, 2)[:, 1], [0.6, 0.5, 0.1, 1.0, 0.8], atol=1e-6)
    np.testing.assert_allclose(probing.knn(LINE, p, 2, np.array([[0.4]]))[:, 1], [0.1], atol=1e-6)


def test_knn_is_that_of_scikit_learn_on_standardized_features():
    rng = np.random.default_rng(1)
    x, p = rng.normal(size=(60, 5)) * [1, 10, 100, 1000, 1], rng.dirichlet(np.ones(3), 60).astype(np.float32)
    scaler = StandardScaler().fit(x[:40])
    theirs = KNeighborsRegressor(4).fit(scaler.transform(x[:40]), p[:40]).predict(scaler.transform(x[40:]))
    np.testing.assert_allclose(probing.knn(x[:40], p[:40], 4, x[40:]), theirs, atol=1e-6)


def test_disagreement_is_the_total_variation_distance():
    p, q = np.array([[0.2, 0.3, 0.5]], dtype=np.float32), np.array([[0.5, 0.5, 0.0]], dtype=np.float32)
    assert probing.disagreement(p, q) == pytest.approx([0.5])
    assert probing.disagreement(of(0.9), of(0.2)) == pytest.approx([0.7])


def test_each_fold_is_labelled_by_a_probe_that_did_not_see_it():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 3))
    y = (x[:, 0] + 0.5 * rng.normal(size=40) > 0).astype(int)
    order = rng.permutation(40).tolist()
    found, l2 = probing.cross_fitted(x, np.eye(2, dtype=np.float32)[y], order, 4, 0.05)
    assert l2 == 0.05
    for fold in range(4):
        own = np.isin(np.arange(40), order[fold::4])
        scaler = StandardScaler().fit(x[~own])
        model = LogisticRegression(C=1 / (30 * 0.05), tol=1e-10).fit(scaler.transform(x[~own]), y[~own])
        np.testing.assert_allclose(found[own], model.predict_proba(scaler.transform(x[own])), atol=1e-5)


def test_a_flipped_label_does_not_vote_for_itself():
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(-3, 1, (30, 2)), rng.normal(3, 1, (30, 2))])
    y = np.repeat([0, 1], 30)
    y[5] = 1
    p = np.eye(2, dtype=np.float32)[y]
    fitted, l2 = probing.cross_fitted(x, p, list(range(60)), 5, None)
    assert l2 in probing.logistic.L2S
    assert fitted[5].argmax() == 0
    assert (np.delete(fitted.argmax(axis=1), 5) == np.delete(y, 5)).all()
    assert probing.knn(x, p, 5)[5].argmax() == 0


# Two classes in two clumps each, the larger of 0 on the left, of 1 on the right; one 1 among the zeros.
CLUMPS = np.array([0.0, 0.1, 0.2, 0.3, 5.0, 5.1, 10.0, 10.1, 10.2, 0.15])[:, None]
LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])


def test_the_largest_component_of_each_class():
    """0.15 has only zeros beside it; edges lead from 5.0 and 5.1 to the other zeros, but none back."""
    kept = probing.largest_components(CLUMPS, LABELS, 3)
    assert kept.tolist() == [True] * 4 + [False, False] + [True] * 3 + [False]


def test_components_need_a_way_back():
    """4.0 is nobody's nearest neighbour: its edge leads to 1.0, and none leads to it."""
    x = np.array([0.0, 1.0, 4.0, 50.0, 51.0])[:, None]
    assert probing.largest_components(x, np.array([0, 0, 0, 1, 1]), 1).tolist() == [True, True, False, True, True]


def test_topofilter_keeps_components_and_then_those_that_agree_with_their_neighbours():
    p = np.eye(2, dtype=np.float32)[LABELS]
    assert probing.topofilter(CLUMPS, p, 3, 0.9) == ([0, 1, 2, 3, 6, 7, 8], 7)  # already less than 9
    p[0] = [0.6, 0.4]  # least like its neighbours
    assert probing.topofilter(CLUMPS, p, 3, 0.6) == ([1, 2, 3, 6, 7, 8], 7)


def test_constant_features_count_for_nothing():
    x = np.concatenate([LINE, np.full((5, 1), 1e6)], axis=1)
    np.testing.assert_array_equal(probing.knn(x, of(0, 0, 1, 1, 1), 2), probing.knn(LINE, of(0, 0, 1, 1, 1), 2))
