"""Ground truth or a supervisor's predictions in, training labels out, joined by example id; never loads a model.

Shapes: N examples, C classes, S supervisors, M other examples. Labels are always probabilities (N, C) in float32; hard
ones are one-hot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from w2s.errors import StepError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def one_hot(y_N: Ints, classes: int) -> Floats:
    """Class indices (N,) as one-hot probabilities (N, C)."""
    return np.asarray(np.eye(classes, dtype=np.float32)[y_N])


def probabilities(logits_NC: Floats) -> Floats:
    """Softmax over classes, computed in float64 so that the labels do not depend on the order of a float32 sum."""
    shifted_NC = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    exp_NC = np.exp(shifted_NC)
    return np.asarray(exp_NC / exp_NC.sum(axis=1, keepdims=True), dtype=np.float32)


def harden(p_NC: Floats) -> Floats:
    """One-hot of the most probable class; ties go to the lower class."""
    return one_hot(p_NC.argmax(axis=1), p_NC.shape[1])


def mean(p_SNC: Floats, weights: Sequence[float] | None = None) -> Floats:
    """The (weighted) mean of the probabilities of S supervisors."""
    return np.asarray(np.average(p_SNC.astype(np.float64), axis=0, weights=weights), dtype=np.float32)


def vote(p_SNC: Floats) -> Floats:
    """One-hot of the class that most of S supervisors choose; of several the one of larger mean probability, then the
    lower one."""
    votes_NC = np.stack([harden(p_NC) for p_NC in p_SNC]).sum(axis=0)
    tied_NC = votes_NC == votes_NC.max(axis=1, keepdims=True)
    return harden(np.where(tied_NC, mean(p_SNC), -1.0))


def route(p_SNC: Floats) -> tuple[Floats, Ints]:
    """For each example the prediction of the supervisor whose most probable class is most probable, the first of
    several, and which one that is (N,)."""
    chosen_N = np.asarray(p_SNC.max(axis=2).argmax(axis=0))
    return np.asarray(p_SNC[chosen_N, np.arange(p_SNC.shape[1])]), chosen_N


def majority(y_M: Ints, examples: int, classes: int) -> Floats:
    """For every example the most frequent class of `y_M`, one-hot; of several the lower one."""
    return one_hot(np.full(examples, np.bincount(y_M, minlength=classes).argmax()), classes)


def join(wanted_ids: list[str], given_ids: list[str], given: Floats, where: str) -> Floats:
    """Rows of `given` in the order of `wanted_ids`. Raises StepError for a missing or a repeated id.

    Extra ids are fine: a supervisor may have labelled more than one student trains on.
    """
    row_of = {example_id: row for row, example_id in enumerate(given_ids)}
    if len(row_of) < len(given_ids):
        raise StepError(f"{where}: an example id is there twice; remove that artifact and run again")
    missing = [example_id for example_id in wanted_ids if example_id not in row_of]
    if missing:
        raise StepError(
            f"{where}: no prediction for {len(missing)} of {len(wanted_ids)} examples (first: {missing[0]}); "
            "the supervisor was trained on other data; remove that artifact and run again"
        )
    return np.asarray(given[[row_of[example_id] for example_id in wanted_ids]])
