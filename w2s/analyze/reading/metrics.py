"""Arrays of predictions and ground truth in, plain numbers out; joins by example id, strictly. Knows no files.

Shapes: N examples, C classes. Absence is NaN: the AUROC of one class, the agreement over no examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.errors import StepError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """Shares of examples where the student predicts the supervisor's class."""

    overall: float
    right: float  # among examples where the supervisor is right
    wrong: float  # among examples where the supervisor is wrong


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


def accuracy(predicted_N: Ints, y_N: Ints) -> float:
    """Share of examples whose predicted class is the true one."""
    return _share(predicted_N == y_N)


def agreement(student_N: Ints, weak_N: Ints, y_N: Ints) -> Agreement:
    """How often the student predicts what its supervisor predicts. Source: Burns et al. 2023, sec. 5.1.1."""
    same_N, right_N = student_N == weak_N, weak_N == y_N
    return Agreement(_share(same_N), _share(same_N[right_N]), _share(same_N[~right_N]))


def auroc(score_N: Floats, y_N: Ints) -> float:
    """Probability that a random example of class 1 scores above one of class 0; a tie counts half.

    NaN where one of the classes is absent. Source: the Mann-Whitney U statistic, by mid-ranks.
    """
    positive_N = y_N == 1
    n_positive = int(positive_N.sum())
    n_negative = len(y_N) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    _, place_N, count_K = np.unique(score_N, return_inverse=True, return_counts=True)
    midrank_K = np.cumsum(count_K) - (count_K - 1) / 2
    u = midrank_K[place_N][positive_N].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


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


def brier(p_NC: Floats, y_N: Ints) -> float:
    """Mean over examples of the squared error summed over classes, from 0 to 2. Source: Brier 1950."""
    truth_NC = np.eye(p_NC.shape[1])[y_N]
    return float(((p_NC - truth_NC) ** 2).sum(axis=1).mean()) if len(y_N) else float("nan")


def ece(p_NC: Floats, y_N: Ints, bins: int = 15) -> float:
    """Expected calibration error: confidence against accuracy in `bins` equal bins (low, high] of the top
    probability, weighted by the examples in each. Source: Guo et al. 2017, sec. 2."""
    if not len(y_N):
        return float("nan")
    confidence_N = p_NC.max(axis=1)
    right_N = p_NC.argmax(axis=1) == y_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    excess_K = np.bincount(bin_N, weights=confidence_N - right_N, minlength=bins)
    return float(np.abs(excess_K).sum() / len(y_N))


def majority_share(y_N: Ints) -> float:
    """Accuracy of always predicting the most frequent class."""
    return float(np.unique(y_N, return_counts=True)[1].max() / len(y_N)) if len(y_N) else float("nan")


def _share(hit_N: Bools) -> float:
    return float(hit_N.mean()) if len(hit_N) else float("nan")
