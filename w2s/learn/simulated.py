"""A supervisor's predictions and the truth in, labels with equally many errors elsewhere out.

Each label is one of the supervisor's own predictions, moved to another example: so accuracy and the confidences of
right and wrong labels are the supervisor's own, exactly (but for predictions in which two classes are equally likely),
and only where errors fall differs.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import hashlib

import numpy as np

from w2s.learn.labels import Floats, Ints
from w2s.randomness import shuffled


def random_errors(p_like_NC: Floats, y_N: Ints, ids: list[str], seed: int) -> Floats:
    """Predictions dealt to examples at random. What a prediction says of the true class it says of the true class of
    its new example; its other classes are turned by a random number of places among the others, so that which wrong
    class is chosen is random, too."""
    to, whence = (shuffled(ids, seed, "simulated", end) for end in ("to", "from"))
    p_NC = np.empty_like(p_like_NC)
    for new, old in zip(to, whence, strict=True):
        others_new, others_old = (_others(int(y_N[place]), p_NC.shape[1]) for place in (new, old))
        turn = int.from_bytes(hashlib.sha256(f"{seed}/{ids[new]}".encode()).digest()[:8], "big") % len(others_old)
        p_NC[new, y_N[new]] = p_like_NC[old, y_N[old]]
        p_NC[new, others_new] = p_like_NC[old, [*others_old[turn:], *others_old[:turn]]]
    return p_NC


def class_errors(p_like_NC: Floats, y_N: Ints, ids: list[str], seed: int) -> Floats:
    """Predictions dealt at random among the examples of each true class: the confusion matrix stays as it is."""
    p_NC = np.empty_like(p_like_NC)
    for label in np.unique(y_N):
        rows = np.flatnonzero(y_N == label)
        to, whence = (shuffled([ids[row] for row in rows], seed, "simulated", end) for end in ("to", "from"))
        p_NC[rows[to]] = p_like_NC[rows[whence]]
    return p_NC


def difficult_errors(p_like_NC: Floats, y_N: Ints, ids: list[str], seed: int, p_judge_NC: Floats) -> Floats:
    """Predictions dealt by difficulty: the worst one goes to the example whose true class the judge finds least likely.

    Worst first means the wrong ones, then those that give the true class the least. Other classes go by rank: the
    likeliest to what the judge finds likeliest.
    """
    rows, tie_N = np.arange(len(ids)), np.empty(len(ids), dtype=np.int64)
    tie_N[shuffled(ids, seed, "simulated", "tie")] = rows
    right_N = p_like_NC.argmax(axis=1) == y_N
    to = np.lexsort((tie_N, p_judge_NC[rows, y_N]))
    whence = np.lexsort((tie_N, p_like_NC[rows, y_N], right_N))
    p_NC = np.empty_like(p_like_NC)
    for new, old in zip(to, whence, strict=True):
        others_new, others_old = (_others(int(y_N[place]), p_NC.shape[1]) for place in (new, old))
        p_NC[new, y_N[new]] = p_like_NC[old, y_N[old]]
        by_judge = sorted(others_new, key=lambda c: -p_judge_NC[new, c])
        p_NC[new, by_judge] = p_like_NC[old, sorted(others_old, key=lambda c: -p_like_NC[old, c])]
    return p_NC


def _others(label: int, classes: int) -> list[int]:
    return [c for c in range(classes) if c != label]
