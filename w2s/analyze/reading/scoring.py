"""Logits and ground truth in, what they come to out, for many models at once; reads no files.

Every number of a model is the same to the last bit whether it is scored alone or with others: sums run along its own
examples only, and what is added across classes is added class by class.

Shapes: C classes, B models, N examples, K bins of confidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.reading.metrics import Bools, Floats, Ints

BINS = 15  # of confidence, equal in width. Source: Guo et al. 2017, sec. 2


@dataclass(frozen=True)
class Scored:
    """What one train step's predictions come to against the ground truth of a split."""

    # Classes, in the order of the truth's ids; of generated texts a number that equal ones share.
    predicted_N: NDArray[np.int16] | NDArray[np.int64]
    right_N: NDArray[np.bool_]
    auroc: float  # NaN where there are not two classes, or one of the two is not in the split
    ece: float
    brier: float
    # Dense ranks of logit 1 - logit 0, all that AUROC depends on; None where there are more than two classes.
    margin_rank_N: NDArray[np.unsignedinteger[Any]] | None
    # Of each bin: examples, sum of their confidence, how many of them are right; all zero for generated texts.
    bins_K3: NDArray[np.float64]
    bin_N: NDArray[np.uint8] | None = None  # where each example stands among them; None for generated texts

    @property
    def accuracy(self) -> float:
        return np.count_nonzero(self.right_N) / len(self.right_N)


def rank_type(n: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type that holds the dense ranks of `n` examples."""
    return np.uint16 if n <= 1 << 16 else np.uint32


def score(logits_CBN: NDArray[np.float64], y_N: Ints) -> list[Scored]:
    """Each model's predictions, in the order of `y_N`, against it."""
    classes, models, _ = logits_CBN.shape
    if not models:
        return []
    predicted_BN = _predicted(logits_CBN)
    right_BN = predicted_BN == y_N
    confidence_BN, brier_B = _probabilities(logits_CBN, y_N)
    bin_BN = bins_of(confidence_BN)
    bins_BK3 = confidence_bins(confidence_BN, right_BN, bin_BN)
    ece_B = ece(bins_BK3)
    # The difference of logits, not the probability: it keeps apart what saturates at 1.0.
    ranked = _ranked(logits_CBN[1] - logits_CBN[0], y_N) if classes == 2 else ((float("nan"), None),) * models
    return [
        Scored(predicted_BN[b], right_BN[b], auroc, float(ece_B[b]), float(brier_B[b]), rank_N, bins_BK3[b], bin_BN[b])
        for b, (auroc, rank_N) in enumerate(ranked)
    ]


def score_texts(text_N: Ints, y_N: Ints) -> Scored:
    """Generated texts, as numbers that equal texts share, against the truth's: right where they are the same.

    A text that was generated has no probability of being right, so there is no AUROC, ECE and Brier score.
    """
    nan, bins_K3 = float("nan"), np.zeros((BINS, 3))
    return Scored(text_N.astype(np.int64), text_N == y_N, nan, nan, nan, None, bins_K3)


def bins_of(confidence_BN: Floats) -> NDArray[np.uint8]:
    """The bin of each confidence, of BINS equal ones (low, high]."""
    return np.clip(np.ceil(confidence_BN * BINS).astype(np.int64) - 1, 0, BINS - 1).astype(np.uint8)


def confidence_bins(confidence_BN: Floats, right_BN: Bools, bin_BN: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(B, K, 3): examples, sum of their confidence, number right, by their bins."""
    models = len(confidence_BN)
    place = (bin_BN + BINS * np.arange(models)[:, None]).ravel()
    sums = [
        np.bincount(place, minlength=BINS * models),
        np.bincount(place, weights=confidence_BN.ravel(), minlength=BINS * models),
        np.bincount(place[right_BN.ravel()], minlength=BINS * models),
    ]
    return np.stack(sums, axis=-1).astype(np.float64).reshape(models, BINS, 3)


def ece(bins_BK3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected calibration error of each model: confidence against accuracy, weighted by the examples in each bin.
    Source: Guo et al. 2017, sec. 2."""
    excess_BK = np.abs(bins_BK3[..., 1] - bins_BK3[..., 2])
    return np.asarray(excess_BK.sum(axis=-1) / bins_BK3[..., 0].sum(axis=-1))


def _predicted(logits_CBN: NDArray[np.float64]) -> NDArray[np.int16]:
    """The class of the largest logit, the first of equals."""
    predicted_BN = np.zeros(logits_CBN.shape[1:], dtype=np.int16)
    best_BN = logits_CBN[0].copy()
    for label, logit_BN in enumerate(logits_CBN[1:], start=1):
        predicted_BN[logit_BN > best_BN] = label
        np.maximum(best_BN, logit_BN, out=best_BN)
    return predicted_BN


def _probabilities(logits_CBN: NDArray[np.float64], y_N: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(the largest probability of each example (B, N), the Brier score of each model (B,))."""
    e_CBN = np.exp(logits_CBN - logits_CBN.max(axis=0))
    total_BN = e_CBN[0].copy()
    for e_BN in e_CBN[1:]:
        total_BN += e_BN
    brier_BN = np.zeros_like(total_BN)
    for label, e_BN in enumerate(e_CBN):
        brier_BN += (e_BN / total_BN - (y_N == label)) ** 2
    return 1.0 / total_BN, brier_BN.mean(axis=1)


def _ranked(margin_BN: NDArray[np.float64], y_N: Ints) -> Iterator[tuple[float, NDArray[np.unsignedinteger[Any]]]]:
    """Of each model its AUROC and the dense ranks of its margins. Source: the Mann-Whitney U statistic, by mid-ranks,
    counted in whole numbers."""
    models, n = margin_BN.shape
    order_BN = np.argsort(margin_BN, axis=1)
    sorted_BN = np.take_along_axis(margin_BN, order_BN, axis=1)
    place_N = np.arange(n)
    begins_BN = np.ones((models, n), dtype=bool)  # a run of equal margins
    np.not_equal(sorted_BN[:, 1:], sorted_BN[:, :-1], out=begins_BN[:, 1:])
    ends_BN = np.ones((models, n), dtype=bool)
    ends_BN[:, :-1] = begins_BN[:, 1:]
    rank_BN = np.empty((models, n), dtype=rank_type(n))
    np.put_along_axis(rank_BN, order_BN, (np.cumsum(begins_BN, axis=1) - 1).astype(rank_BN.dtype), axis=1)
    first_BN = np.maximum.accumulate(np.where(begins_BN, place_N, 0), axis=1)
    last_BN = np.minimum.accumulate(np.where(ends_BN, place_N, n)[:, ::-1], axis=1)[:, ::-1]
    positive = np.count_nonzero(y_N == 1)
    pairs = positive * (n - positive)
    # Twice the mid-rank, counted from 1, of each example of class 1; summed, it is twice U and a constant.
    doubled_B = ((first_BN + last_BN + 2) * (y_N[order_BN] == 1)).sum(axis=1) - positive * (positive + 1)
    for b in range(models):
        yield (int(doubled_B[b]) / 2 / pairs if pairs else float("nan")), rank_BN[b]
