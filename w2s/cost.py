"""Specs in, parameters and FLOPs out: closed formulas, nothing measured."""

from __future__ import annotations

from w2s.models import ModelSpec
from w2s.spec import FeaturesSpec, Frozen, LanguageSpec, Probe, Prompt, TrainSpec


def kept_params(step: TrainSpec | FeaturesSpec | LanguageSpec) -> int | None:
    """Parameters of a step's model as used; see `params_of`."""
    return params_of(step.model)


def params_of(model: ModelSpec) -> int | None:
    """Parameters of a model as used (truncation counted evenly by layers); None where the size is not known."""
    if model.params is None:
        return None
    if model.layers is None or model.depth is None:
        return model.params
    return round(model.params * min(model.layers, model.depth) / model.depth)


def frozen_fraction(step: TrainSpec | LanguageSpec) -> float:
    """The share of the layers, counted from below, that no gradient goes through."""
    tune, kept = step.recipe.tune, step.model.layers or step.model.depth
    if isinstance(tune, (Probe, Prompt)):
        return 1.0
    if isinstance(tune, Frozen) and kept:
        return min(1.0, tune.layers / kept)
    return 0.0


def step_flops(
    step: TrainSpec | FeaturesSpec | LanguageSpec, trained_tokens: float, predicted_tokens: float
) -> float | None:
    """FLOPs of training and predicting on so many tokens; None where the model's size is not known.

    2 per parameter and token forward, 4 more backward where layers are trained; layers replayed from a cache cost
    nothing. Source: Kaplan et al. 2020, sec. 2.1 (attention over the context is left out, as there).
    """
    params = kept_params(step)
    if params is None:
        return None
    if isinstance(step, FeaturesSpec):
        return 2.0 * params * predicted_tokens
    if isinstance(step, TrainSpec) and step.solved:
        return 0.0  # the features are a step of their own, and the solver is nothing beside them
    frozen = frozen_fraction(step)
    computed = 1.0 - frozen if isinstance(step, TrainSpec) and step.features() else 1.0
    return params * (2 * computed * (trained_tokens + predicted_tokens) + 4 * (1.0 - frozen) * trained_tokens)
