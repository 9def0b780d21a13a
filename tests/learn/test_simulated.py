"""Simulated errors: how many there are and how sure they are stays as it was, where they fall does not."""

from __future__ import annotations

import numpy as np
import pytest

from w2s.learn import simulated


def world(n=300, classes=2, seed=0):
    """Predictions that are better than chance, worse for class 0, and a judge that is another such model."""
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, classes, n)
    logits = rng.normal(size=(2, n, classes))
    logits[:, np.arange(n), y_N] += np.where(y_N == 0, 0.5, 2.0)
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return p[0].astype(np.float32), p[1].astype(np.float32), y_N, [f"id{i}" for i in range(n)]


def simulate(kind, like, judge, y, ids, seed=0):
    more = (judge,) if kind == "difficult" else ()
    return getattr(simulated, f"{kind}_errors")(like, y, ids, seed, *more)


def sorted_confidences(p, y, right):
    chosen = p[(p.argmax(axis=1) == y) == right]
    return np.sort(chosen.max(axis=1))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", ["random", "class", "difficult"])
def test_accuracy_and_the_confidences_of_right_and_wrong_labels_stay(kind, classes):
    like, judge, y, ids = world(classes=classes)
    p = simulate(kind, like, judge, y, ids)
    assert (p.argmax(axis=1) == y).sum() == (like.argmax(axis=1) == y).sum() < len(y)
    for right in (True, False):
        np.testing.assert_array_equal(sorted_confidences(p, y, right), sorted_confidences(like, y, right))
    np.testing.assert_array_equal(np.sort(p, axis=1)[np.lexsort(np.sort(p, axis=1).T)],
                                  np.sort(like, axis=1)[np.lexsort(np.sort(like, axis=1).T)])  # fmt: skip
    assert (p.argmax(axis=1) != like.argmax(axis=1)).any()


def confusion(p, y, classes):
    return np.array([[((y == a) & (p.argmax(axis=1) == b)).sum() for b in range(classes)] for a in range(classes)])


@pytest.mark.parametrize("classes", [2, 4])
def test_class_errors_keep_the_confusion_matrix_and_random_ones_do_not(classes):
    like, judge, y, ids = world(n=2000, classes=classes)
    before = confusion(like, y, classes)
    np.testing.assert_array_equal(confusion(simulate("class", like, judge, y, ids), y, classes), before)
    random = confusion(simulate("random", like, judge, y, ids), y, classes)
    wrong = 1 - np.diag(random) / random.sum(axis=1)
    error = (like.argmax(axis=1) != y).mean()
    # Binomial: 4 standard errors of the rarest class.
    assert np.abs(wrong - error).max() < 4 * np.sqrt(error * (1 - error) / random.sum(axis=1).min())
    assert np.ptp(1 - np.diag(before) / before.sum(axis=1)) > 0.2


def test_random_errors_choose_each_wrong_class_alike():
    like, judge, y, ids = world(n=4000, classes=4)
    p = simulate("random", like, judge, y, ids)
    wrong = p.argmax(axis=1) != y
    turns = (p.argmax(axis=1)[wrong] - y[wrong]) % 4
    counts = np.bincount(turns, minlength=4)[1:]
    assert np.abs(counts / wrong.sum() - 1 / 3).max() < 4 * np.sqrt(2 / 9 / wrong.sum())


def test_difficult_errors_fall_where_the_judge_is_least_sure_of_the_truth():
    like, judge, y, ids = world()
    wrong = simulate("difficult", like, judge, y, ids).argmax(axis=1) != y
    sure = judge[np.arange(len(y)), y]
    assert sure[wrong].max() <= sure[~wrong].min()


def test_by_its_own_certainty_a_supervisor_gives_its_own_labels_back():
    """Why the judge has to be another model; with two classes and with more."""
    for classes in (2, 4):
        like, _, y, ids = world(classes=classes)
        # Wrong predictions may be surer of the truth than right ones only with more than two classes.
        p = simulate("difficult", like, like, y, ids)
        if classes == 2:
            np.testing.assert_array_equal(p, like)
        assert ((p.argmax(axis=1) != y) == (like.argmax(axis=1) != y)).mean() > 0.9


def test_three_examples_by_hand():
    """The wrong prediction goes to example 1, of whose class the judge is least sure; the surest one to example 0."""
    like = np.array([[0.3, 0.7], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32)
    y = np.array([0, 1, 0])
    judge = np.array([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5]], dtype=np.float32)
    p = simulated.difficult_errors(like, y, ["a", "b", "c"], 0, judge)
    np.testing.assert_allclose(p, [[0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], atol=1e-7)


@pytest.mark.parametrize("kind", ["random", "class"])
def test_seeds_draw_otherwise_and_the_order_of_examples_does_not_matter(kind):
    like, judge, y, ids = world(n=60)
    first = simulate(kind, like, judge, y, ids, 0)
    assert (simulate(kind, like, judge, y, ids, 1) != first).any()
    order = np.random.default_rng(0).permutation(60)
    again = simulate(kind, like[order], judge[order], y[order], [ids[i] for i in order], 0)
    np.testing.assert_array_equal(again, first[order])
