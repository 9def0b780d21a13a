"""Activations and labels in, what neighbours or a probe say of each label out: pure functions, ground truth unseen.

Labels are probabilities, so everything here works for soft labels and several classes. An example never speaks for
itself: neighbours leave it out, and a probe that labels it was fitted without it.

Shapes: N examples, Q queries, D features, C classes, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

from w2s.learn import labels, logistic
from w2s.learn.labels import Floats, Ints

ROWS = 512  # distances of so many examples at once: all pairs of a large split would not fit into memory


def standardized(x_ND: NDArray[np.floating], like_ND: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """Features with mean 0 and variance 1 over `like_ND` (None: over themselves); constant ones become 0.

    A few coordinates of a language model's hidden states are hundreds of times as large as the rest (Sun et al. 2024,
    arXiv 2402.17762), and would alone decide who is whose neighbour.
    """
    like_ND = x_ND if like_ND is None else like_ND
    centre_D, spread_D = like_ND.mean(axis=0, dtype=np.float64), like_ND.std(axis=0, dtype=np.float64)
    flat_D = spread_D <= 1e-7 * np.abs(like_ND).max(initial=1e-300)
    return np.where(flat_D, 0.0, (x_ND - centre_D) / np.where(flat_D, 1.0, spread_D))


def neighbours(x_ND: NDArray[np.float64], k: int, queries_QD: NDArray[np.float64] | None = None) -> Ints:
    """Places (Q, K) of the k nearest examples by Euclidean distance, nearest first, of equally near ones the first.

    Without queries, of each example among the others. Fewer than k examples: all of them.
    """
    others = queries_QD is None
    queries_QD = x_ND if queries_QD is None else queries_QD
    k = min(k, len(x_ND) - others)
    squares_N = (x_ND**2).sum(axis=1)
    found = []
    for start in range(0, len(queries_QD), ROWS):
        rows_BD = queries_QD[start : start + ROWS]
        distance_BN = squares_N - 2.0 * rows_BD @ x_ND.T  # less the query's own square, which changes no order
        if others:
            distance_BN[np.arange(len(rows_BD)), np.arange(start, start + len(rows_BD))] = np.inf
        found.append(np.argsort(distance_BN, axis=1, kind="stable")[:, :k])
    return np.concatenate(found) if found else np.empty((0, k), dtype=np.int64)


def disagreement(p_NC: Floats, q_NC: Floats) -> NDArray[np.float64]:
    """Total variation distance of two probabilities (N,); of two classes |p - q|."""
    return np.asarray(np.abs(p_NC.astype(np.float64) - q_NC).sum(axis=1) / 2.0)


def knn(x_ND: NDArray[np.floating], p_NC: Floats, k: int, queries_QD: NDArray[np.floating] | None = None) -> Floats:
    """The mean label of the k nearest examples; without queries, of each example's k nearest others."""
    queries = None if queries_QD is None else standardized(queries_QD, x_ND)
    near_QK = neighbours(standardized(x_ND), k, queries)
    return np.asarray(p_NC[near_QK].mean(axis=1, dtype=np.float64), dtype=np.float32)


def cross_fitted(
    x_ND: NDArray[np.floating], p_NC: Floats, order: Sequence[int], folds: int, l2: float | None
) -> tuple[Floats, float]:
    """Each example's probabilities by a logistic regression on the folds that it is not in, and the l2 that was used.

    `order` deals examples to folds. l2 None: the strength of least loss on the labels that were left out, over all
    folds together; the search ends as that of w2s.learn.logistic does.
    """
    folds = min(folds, len(p_NC))
    fold_N = np.empty(len(p_NC), dtype=np.int64)
    fold_N[list(order)] = np.arange(len(p_NC)) % folds
    problems = [logistic.problem_of(x_ND[fold_N != fold], p_NC[fold_N != fold]) for fold in range(folds)]
    at: list[logistic.Array | None] = [None] * folds
    best: tuple[float, float, Floats] | None = None
    worse = 0
    for strength in (l2,) if l2 is not None else logistic.L2S:
        logits_NC = np.empty(p_NC.shape, dtype=np.float32)
        for fold, problem in enumerate(problems):
            at[fold] = solution = problem.solved(strength, at[fold])
            logits_NC[fold_N == fold] = problem.linear(solution).logits(x_ND[fold_N == fold])
        loss = logistic.cross_entropy(logits_NC, p_NC)
        if best is None or loss < best[0]:
            best, worse = (loss, strength, logits_NC), 0
        else:
            worse += 1
            if worse == logistic.PATIENCE:
                break
    assert best is not None
    return labels.probabilities(best[2]), best[1]


def largest_components(x_ND: NDArray[np.float64], label_N: Ints, k: int) -> NDArray[np.bool_]:
    """Which examples (N,) are in the largest component of their class.

    An edge leads from each example to those of its k nearest others that have its label; a component is what reaches
    each other along edges. Of equally large components of a class the one that holds the earliest example.
    """
    near_NK = neighbours(x_ND, k)
    source = np.repeat(np.arange(len(x_ND)), near_NK.shape[1])
    target = near_NK.ravel()
    same = label_N[source] == label_N[target]
    edges = scipy.sparse.csr_matrix((np.ones(int(same.sum())), (source[same], target[same])), (len(x_ND), len(x_ND)))
    _, component_N = scipy.sparse.csgraph.connected_components(edges, connection="strong")
    sizes = np.bincount(component_N)
    kept_N = np.zeros(len(x_ND), dtype=bool)
    for label in np.unique(label_N):
        own_N = component_N[label_N == label]
        kept_N |= (component_N == own_N[sizes[own_N].argmax()]) & (label_N == label)
    return kept_N


def topofilter(x_ND: NDArray[np.floating], p_NC: Floats, k: int, keep: float) -> tuple[list[int], int]:
    """Places that are kept, ascending, and how many the components alone left.

    First only the largest component of each class stays; then, down to the share `keep` of all examples, those go whose
    label is farthest from the mean label of their k nearest among what is left. Where the components leave less than
    `keep`, nothing more goes.
    """
    z_ND = standardized(x_ND)
    inside = np.flatnonzero(largest_components(z_ND, p_NC.argmax(axis=1), k))
    wanted = int(keep * len(p_NC) + 0.5)
    if len(inside) <= max(wanted, 1):
        return inside.tolist(), len(inside)
    near_NK = neighbours(z_ND[inside], k)
    far_N = disagreement(p_NC[inside], p_NC[inside][near_NK].mean(axis=1, dtype=np.float64).astype(np.float32))
    return sorted(inside[np.argsort(far_N, kind="stable")[:wanted]].tolist()), len(inside)
