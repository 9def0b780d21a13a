"""Vectors and labels in, the minimum of the regularized cross-entropy out: logistic regression, without torch.

Labels may be soft. The objective is convex, so the solution depends on nothing but data, labels and l2: no seed, no
learning rate, no order of examples.

Shapes: N examples, M = N k texts, D features, R of them after rotation, C classes, O outputs of the linear map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse
from numpy.typing import NDArray

from w2s.errors import StepError

Array = NDArray[np.float64]
# Strengths that are tried where none is given, strongest first: half decades, 10 to 1e-5.
L2S = tuple(10.0 ** (1.0 - step / 2.0) for step in range(13))
PATIENCE = 2  # so many strengths in a row that labels of val find no better end the search
ITERATIONS = 2000
RANK_TOLERANCE = 1e-7  # directions with a smaller share of the largest spread are left out: they are rounding


@dataclass(frozen=True)
class Linear:
    """A linear map of vectors; `per_example` texts are scored by one output, and otherwise two classes have one."""

    weight_DO: Array
    bias_O: Array
    per_example: int = 1

    def outputs(self, x_MD: Any) -> NDArray[np.float32]:
        """What the map makes of each text (M, O)."""
        return np.asarray(x_MD @ self.weight_DO + self.bias_O, dtype=np.float32)

    def logits(self, x_MD: Any) -> NDArray[np.float32]:
        """Logits (N, C). Of two classes (-z/2, z/2); of compared texts the score of each."""
        return np.asarray(_logits(x_MD @ self.weight_DO + self.bias_O, self.per_example), dtype=np.float32)


class Chosen(NamedTuple):
    """A map, the strength of its l2, its mean loss on its own labels, and that on labels of val by strength."""

    linear: Linear
    l2: float
    loss: float
    val_losses: dict[float, float]


@dataclass(frozen=True)
class Problem:
    """Inputs as they are solved: centred, scaled and rotated where they are dense.

    `curvature_R`: of the mean loss along each input, at equal probabilities; by it the solver scales its steps.
    """

    inputs_MR: Any
    p_NC: Array
    per_example: int
    curvature_R: Array
    back_DR: Array | None = None  # to the features as given; None: the inputs are those
    centre_D: Array | None = None

    @property
    def outputs(self) -> int:
        return 1 if self.per_example > 1 or self.p_NC.shape[1] == 2 else self.p_NC.shape[1]

    @property
    def has_bias(self) -> bool:
        return self.per_example == 1  # a number added to all texts' scores changes none of their differences

    def loss(self, packed: Array, l2: float, scale: Array) -> tuple[float, Array]:
        """(mean cross-entropy + l2 / 2 |w|^2, its gradient) at scaled weights, the bias last."""
        weight_RO, bias_O = self.unpacked(packed / scale)
        logits_NC = _logits(self.inputs_MR @ weight_RO + bias_O, self.per_example)
        log_p_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
        log_p_NC -= np.log(np.exp(log_p_NC).sum(axis=1, keepdims=True))
        value = -float((self.p_NC * log_p_NC).sum()) / len(self.p_NC) + l2 / 2.0 * float((weight_RO**2).sum())
        error_NC = (np.exp(log_p_NC) - self.p_NC) / len(self.p_NC)
        if self.per_example > 1:
            error_MO = error_NC.reshape(-1, 1)
        else:
            error_MO = error_NC[:, 1:] if self.outputs == 1 else error_NC
        slope_RO = self.inputs_MR.T @ error_MO + l2 * weight_RO
        slope_O = error_MO.sum(axis=0) if self.has_bias else np.zeros(0)
        return value, np.concatenate([slope_RO.ravel(), slope_O]) / scale

    def unpacked(self, packed: Array) -> tuple[Array, Array]:
        weights = self.inputs_MR.shape[1] * self.outputs
        bias_O = packed[weights:] if self.has_bias else np.zeros(self.outputs)
        return packed[:weights].reshape(-1, self.outputs), bias_O

    def linear(self, packed: Array) -> Linear:
        """The map in the features as they were given."""
        weight, bias_O = self.unpacked(packed)
        if self.back_DR is not None and self.centre_D is not None:
            weight = self.back_DR @ weight
            bias_O = bias_O - self.centre_D @ weight if self.has_bias else bias_O
        return Linear(np.asarray(weight), np.asarray(bias_O), self.per_example)

    def solved(self, l2: float, start: Array | None) -> Array:
        """Weights and bias at the minimum. Raises StepError where it is not found."""
        scale_RO = np.repeat(np.sqrt(self.curvature_R + l2), self.outputs)
        scale = np.concatenate([scale_RO, np.full(self.outputs if self.has_bias else 0, 0.5)])
        first = np.zeros(len(scale)) if start is None else start * scale
        found = scipy.optimize.minimize(
            self.loss, first, args=(l2, scale), jac=True, method="L-BFGS-B",
            options={"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "ftol": 1e-13, "gtol": 1e-7, "maxcor": 20},
        )  # fmt: skip
        if not np.isfinite(found.x).all() or found.nit >= ITERATIONS:
            raise StepError(f"logistic regression with l2 {l2:g} found no minimum; give a larger recipe.tune.l2")
        return np.asarray(found.x / scale)


def _logits(z_MO: Array, per_example: int) -> Array:
    if per_example > 1:
        return z_MO.reshape(-1, per_example)
    return np.concatenate([-z_MO / 2.0, z_MO / 2.0], axis=1) if z_MO.shape[1] == 1 else z_MO


def problem_of(x_MD: Any, p_NC: Any, per_example: int = 1) -> Problem:
    """Dense features are standardized over the texts and rotated to their principal axes; sparse ones stay as they are.

    The penalty is that on weights of standardized features, as after scikit-learn's StandardScaler; rotation does not
    change it. Along the axes the loss curves independently (at equal probabilities), so few steps suffice.
    """
    p_NC = np.asarray(p_NC, dtype=np.float64)
    classes = p_NC.shape[1]
    # Of the softmax at equal probabilities, between a class and the rest; of a logit of two classes p (1 - p).
    curvature = 0.25 if per_example == 1 and classes == 2 else 1.0 / classes
    if scipy.sparse.issparse(x_MD):
        x_MD = x_MD.tocsr().astype(np.float64)
        squares_D = np.asarray(x_MD.multiply(x_MD).sum(axis=0)).ravel()
        return Problem(x_MD, p_NC, per_example, curvature * squares_D / len(p_NC))
    x_MD = np.asarray(x_MD, dtype=np.float64)
    centre_D, spread_D = x_MD.mean(axis=0), x_MD.std(axis=0)
    flat_D = spread_D <= 1e-12 * np.abs(x_MD).max(initial=1e-300)  # says nothing: its weight stays 0
    by_D = np.where(flat_D, 0.0, 1.0 / np.where(flat_D, 1.0, spread_D))
    z_MD = (x_MD - centre_D) * by_D
    if per_example > 1:  # what the texts of an example have in common changes no difference of their scores
        z_NkD = z_MD.reshape(len(p_NC), per_example, -1)
        z_MD = (z_NkD - z_NkD.mean(axis=1, keepdims=True)).reshape(z_MD.shape)
    axes_DR, squares_R = _axes(z_MD)
    back_DR = by_D[:, None] * axes_DR
    return Problem(z_MD @ axes_DR, p_NC, per_example, curvature * squares_R / len(p_NC), back_DR, centre_D)


def _axes(z_MD: Array) -> tuple[Array, Array]:
    """Principal axes (D, R) and the sum of squares along each (R,), from the smaller of the two Gram matrices."""
    texts, features = z_MD.shape
    squares, vectors = np.linalg.eigh(z_MD.T @ z_MD if features <= texts else z_MD @ z_MD.T)
    kept = squares > RANK_TOLERANCE**2 * max(squares[-1], 1e-300) * max(texts, features)
    squares, vectors = squares[kept], vectors[:, kept]
    return (vectors if features <= texts else z_MD.T @ vectors / np.sqrt(squares)), squares


def fit(x_MD: Any, p_NC: Any, l2: float, per_example: int = 1) -> Linear:
    """The map that minimizes mean cross-entropy + l2 / 2 |w|^2 over vectors and labels (N, C); a bias is free.

    As scikit-learn's LogisticRegression at C = 1 / (N l2), but for soft labels too. Two classes have one weight
    vector; of compared texts each gets a score, and their softmax is the probability (for two: Bradley and Terry 1952).
    """
    problem = problem_of(x_MD, p_NC, per_example)
    return problem.linear(problem.solved(l2, None))


def cross_entropy(logits_NC: Any, p_NC: Any) -> float:
    """Mean over examples, in nats."""
    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    top_N = logits_NC.max(axis=1)
    log_sum_N = top_N + np.log(np.exp(logits_NC - top_N[:, None]).sum(axis=1))
    return float((log_sum_N - (p_NC * logits_NC).sum(axis=1)).mean())


def chosen(
    x_MD: Any, p_NC: Any, x_val: Any, p_val: Any, l2: float | None = None, per_example: int = 1,
    l2s: Sequence[float] = L2S,
) -> Chosen:  # fmt: skip
    """The map of the given l2, or of the one of `l2s` (strongest first) with the least loss on labels of val.

    Of equally good ones the strongest. The search ends early where weaker ones only get worse.
    """
    problem = problem_of(x_MD, p_NC, per_example)
    best: tuple[float, float, Array] | None = None
    losses: dict[float, float] = {}
    at, worse = None, 0
    for strength in (l2,) if l2 is not None else l2s:
        at = problem.solved(strength, at)
        loss = cross_entropy(problem.linear(at).logits(x_val), p_val) if len(p_val) else math.nan
        losses[strength] = loss
        if best is None or loss < best[0]:
            best, worse = (loss, strength, at), 0
        else:
            worse += 1
            if worse == PATIENCE:
                break
    assert best is not None
    linear = problem.linear(best[2])
    return Chosen(linear, best[1], cross_entropy(linear.logits(x_MD), p_NC), losses)
