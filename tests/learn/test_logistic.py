"""Logistic regression against scikit-learn, by hand, and against its own conditions of a minimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from w2s.learn import logistic

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 12)) * np.linspace(0.01, 30.0, 12) @ RNG.normal(size=(12, 12)) + 5.0
Y = (X @ RNG.normal(size=12) / 60.0 + RNG.normal(size=150) > 0.0).astype(int)
Y3 = np.digitize(X[:, 0] + RNG.normal(size=150), np.quantile(X[:, 0], [0.3, 0.6]))


def one_hot(y, classes=2):
    return np.eye(classes)[y]


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_two_classes_are_those_of_scikit_learn(l2):
    z = StandardScaler().fit_transform(X)
    theirs = LogisticRegression(C=1 / (len(X) * l2), tol=1e-10, max_iter=5000).fit(z, Y).decision_function(z)
    logits = logistic.fit(X, one_hot(Y), l2).logits(X)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], theirs, atol=1e-4)


def test_more_classes_are_those_of_scikit_learn():
    l2, z = 1e-2, StandardScaler().fit_transform(X)
    theirs = LogisticRegression(C=1 / (len(X) * l2), tol=1e-10, max_iter=5000).fit(z, Y3).predict_proba(z)
    logits = logistic.fit(X, one_hot(Y3, 3), l2).logits(X).astype(float)
    ours = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_soft_labels_are_those_of_scikit_learn_with_each_example_twice():
    p = RNG.random(len(X))
    l2, z = 1e-2, StandardScaler().fit_transform(X)
    twice = np.concatenate([z, z]), np.repeat([0, 1], len(X)), np.concatenate([1 - p, p])
    theirs = LogisticRegression(C=1 / (len(X) * l2), tol=1e-10, max_iter=5000).fit(*twice).decision_function(z)
    logits = logistic.fit(X, np.stack([1 - p, p], axis=1), l2).logits(X)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], theirs, atol=1e-4)


def test_sparse_inputs_are_neither_centred_nor_scaled():
    x = np.where(RNG.random((80, 200)) < 0.05, RNG.random((80, 200)), 0.0)
    y, l2 = (x[:, :20].sum(axis=1) > 0.5).astype(int), 1e-2
    theirs = LogisticRegression(C=1 / (80 * l2), tol=1e-10, max_iter=5000).fit(x, y).decision_function(x)
    logits = logistic.fit(scipy.sparse.csr_matrix(x), one_hot(y), l2).logits(scipy.sparse.csr_matrix(x))
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], theirs, atol=1e-4)


def test_pairs_are_the_logistic_regression_of_their_difference_without_a_bias():
    texts = RNG.normal(size=(2 * 60, 5))
    y = (texts[1::2, 0] > texts[::2, 0] + 0.3 * RNG.normal(size=60)).astype(int)
    difference = (texts[1::2] - texts[::2]) / texts.std(axis=0)
    model = LogisticRegression(C=1 / (60 * 1e-2), tol=1e-10, max_iter=5000, fit_intercept=False)
    theirs = model.fit(difference, y).decision_function(difference)
    linear = logistic.fit(texts, one_hot(y), 1e-2, per_example=2)
    logits = linear.logits(texts)
    assert logits.shape == (60, 2)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], theirs, atol=1e-4)
    np.testing.assert_array_equal(linear.logits(texts[::-1])[::-1, ::-1], logits)  # it scores texts, not places


def test_one_feature_by_hand():
    """x = -1, 1 with labels 0, 1 and no penalty to speak of on a soft label p: logit(p) at each point."""
    p = 0.9
    linear = logistic.fit(np.array([[-1.0], [1.0]]), np.array([[p, 1 - p], [1 - p, p]]), 1e-12)
    logits = linear.logits(np.array([[1.0], [0.0]]))
    np.testing.assert_allclose(logits[0, 1] - logits[0, 0], math.log(p / (1 - p)), atol=1e-5)
    np.testing.assert_allclose(logits[1], [0.0, 0.0], atol=1e-6)


def test_more_features_than_examples_and_constant_ones():
    x = np.concatenate([RNG.normal(size=(20, 50)), np.full((20, 1), 7.0)], axis=1)
    y = RNG.integers(0, 2, 20)
    z = StandardScaler().fit_transform(x)
    theirs = LogisticRegression(C=1 / (20 * 1e-2), tol=1e-10, max_iter=5000).fit(z, y).decision_function(z)
    linear = logistic.fit(x, one_hot(y), 1e-2)
    logits = linear.logits(x)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], theirs, atol=1e-4)
    assert linear.weight_DO[-1] == 0.0


def test_examples_that_are_all_alike_have_the_bias_of_their_labels():
    logits = logistic.fit(np.ones((4, 3)), one_hot(np.array([0, 1, 1, 1])), 0.1).logits(np.ones((1, 3)))
    np.testing.assert_allclose(logits[0, 1] - logits[0, 0], math.log(3), atol=1e-5)


def test_the_strength_is_the_one_of_least_loss_on_val():
    p = one_hot(Y)
    found = logistic.chosen(X[:100], p[:100], X[100:], p[100:])
    losses = {
        l2: logistic.cross_entropy(logistic.fit(X[:100], p[:100], l2).logits(X[100:]), p[100:])
        for l2 in found.val_losses
    }
    assert found.l2 == min(losses, key=losses.__getitem__)
    assert found.val_losses == pytest.approx(losses, abs=1e-5)
    assert list(found.val_losses) == list(logistic.L2S)[: len(found.val_losses)]
    same = logistic.fit(X[:100], p[:100], found.l2)
    np.testing.assert_allclose(found.linear.logits(X), same.logits(X), atol=1e-4)
    assert found.loss == pytest.approx(logistic.cross_entropy(same.logits(X[:100]), p[:100]), abs=1e-6)


def test_a_given_strength_is_taken_without_labels_of_val():
    found = logistic.chosen(X, one_hot(Y), np.empty((0, 12)), np.empty((0, 2)), l2=0.5)
    np.testing.assert_allclose(found.linear.logits(X), logistic.fit(X, one_hot(Y), 0.5).logits(X), atol=1e-6)
    assert found.l2 == 0.5


def test_noise_is_best_fitted_by_the_strongest_penalty():
    y = RNG.integers(0, 2, 150)
    found = logistic.chosen(X[:100], one_hot(y[:100]), X[100:], one_hot(y[100:]))
    assert found.l2 >= 1.0
    assert len(found.val_losses) < len(logistic.L2S)  # it stopped early


def test_cross_entropy_by_hand():
    logits, p = np.array([[0.0, math.log(3)], [0.0, 0.0]]), np.array([[0.5, 0.5], [1.0, 0.0]])
    expected = (-0.5 * math.log(0.25) - 0.5 * math.log(0.75) + math.log(2)) / 2
    assert logistic.cross_entropy(logits, p) == pytest.approx(expected)
