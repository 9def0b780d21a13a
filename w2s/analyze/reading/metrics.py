"""Example ids, scores and ground truth in, arrays in one order and shares of single examples out. Knows no files.

Joins are strict: they refuse (StepError) whatever does not fit. What predictions come to is said by scoring.py.
Shapes: N examples, C classes. Absence is NaN: the AUROC of one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.errors import StepError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


def join(ids: Sequence[str], wanted: Sequence[str], name: str, wanted_name: str) -> Ints:
    """Positions in `ids` of each of `wanted`, so that `values[join(...)]` stands in the order of `wanted`.

    Raises StepError, naming both artifacts, where an id is missing, repeated or extra on either side.
    """
    if list(ids) == list(wanted) and len(set(ids)) == len(ids):
        return np.arange(len(ids))
    place = {example_id: position for position, example_id in enumerate(ids)}
    known = set(wanted)
    faults = [
        _fault("missing", [i for i in wanted if i not in place], name),
        _fault("not asked for", [i for i in ids if i not in known], name),
        _fault("repeated", _repeated(ids), name),
        _fault("repeated", _repeated(wanted), wanted_name),
    ]
    found = [fault for fault in faults if fault]
    if found:
        raise StepError(
            f"{name} does not fit {wanted_name}, example by example: {'; '.join(found)}; "
            "remove the damaged artifact and run the sweep again"
        )
    return np.array([place[example_id] for example_id in wanted], dtype=np.int64)


def _fault(what: str, ids: list[str], name: str) -> str:
    return f"{len(ids)} example ids {what} in {name} (first: {ids[0]!r})" if ids else ""


def _repeated(ids: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [i for i in ids if i in seen or seen.add(i)]  # type: ignore[func-returns-value]  # add() is for its effect


def softmax(logits_NC: Floats) -> NDArray[np.float64]:
    """Probabilities along the last axis, in float64; large logits do not overflow."""
    shifted_NC = logits_NC.astype(np.float64) - logits_NC.max(axis=-1, keepdims=True)
    e_NC = np.exp(shifted_NC)
    return np.asarray(e_NC / e_NC.sum(axis=-1, keepdims=True))


def placements(score_N: Floats | Ints, y_N: Ints) -> NDArray[np.float64]:
    """AUROC as a mean over examples, (N,): each one's share in it, so that means over resamples of examples are AUROCs
    of those to first order, and their variance is DeLong's. NaN where one of the classes is absent.

    Only the order of scores matters. Source: DeLong et al. 1988; the influence function of the Mann-Whitney statistic.
    """
    positive_N = y_N == 1
    n_positive, n = int(positive_N.sum()), len(y_N)
    n_negative = n - n_positive
    if n_positive == 0 or n_negative == 0:
        return np.full(n, np.nan)
    _, place_N, count_K = np.unique(score_N, return_inverse=True, return_counts=True)
    positive_K = np.bincount(place_N, weights=positive_N, minlength=len(count_K)).astype(np.float64)
    negative_below_K, positive_below_K = _below(count_K - positive_K), _below(positive_K)
    beaten_N = np.where(positive_N, negative_below_K[place_N] / n_negative, 1 - positive_below_K[place_N] / n_positive)
    area = float(beaten_N[positive_N].mean())
    share_N = np.where(positive_N, n_positive / n, n_negative / n)
    return np.asarray(area + (beaten_N - area) / share_N)


def _below(count_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of those counted lie below each place, one at the place itself counting half."""
    return np.asarray(np.cumsum(count_K) - count_K / 2)


def majority_share(y_N: Ints) -> float:
    """Accuracy of always predicting the most frequent class."""
    return float(np.unique(y_N, return_counts=True)[1].max() / len(y_N)) if len(y_N) else float("nan")
