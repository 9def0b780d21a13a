"""Parameters and FLOPs by hand."""

from __future__ import annotations

import pytest

from w2s.cost import frozen_fraction, kept_params, step_flops
from w2s.models import ModelSpec
from w2s.sources import HubSource
from w2s.spec import Engine, FeaturesSpec, Frozen, Full, Lora, Probe, Prompt, Recipe, TrainSpec

DATA = "0" * 64


def step(tune=None, *, params=1000, depth=10, layers=None, cache=False):
    model = ModelSpec(name="m", source=HubSource(hub="a/b"), params=params, depth=depth, layers=layers)
    recipe = Recipe(tune=tune or Full())
    return TrainSpec(data=DATA, split="transfer", model=model, recipe=recipe, engine=Engine(cache_frozen=cache))


@pytest.mark.parametrize(
    ("params", "depth", "layers", "kept"),
    [
        (1000, 10, None, 1000),
        (1000, 10, 4, 400),
        (1000, 3, 2, 667),
        (1000, None, 4, 1000),  # the share of a layer is not known
        (None, 10, 4, None),
    ],
)
def test_parameters_of_a_cut_model(params, depth, layers, kept):
    assert kept_params(step(params=params, depth=depth, layers=layers)) == kept


@pytest.mark.parametrize(
    ("tune", "depth", "layers", "share"),
    [
        (Full(), 10, None, 0.0),
        (Probe(), 10, None, 1.0),
        (Prompt(), 10, None, 1.0),
        (Frozen(layers=4), 10, None, 0.4),
        (Frozen(layers=4), 10, 8, 0.5),  # of the layers that are kept
        (Frozen(layers=0), 10, 8, 0.0),
        (Frozen(layers=4), None, None, 0.0),
        (Lora(), 10, None, 0.0),  # gradients go through every layer
    ],
)
def test_the_share_of_layers_that_no_gradient_goes_through(tune, depth, layers, share):
    assert frozen_fraction(step(tune, depth=depth, layers=layers)) == share


@pytest.mark.parametrize(
    ("tune", "cache", "flops"),
    [
        # 50 tokens trained, 30 predicted: 2 a parameter and token forward, 4 more backward where trained.
        (Full(), False, 1000 * (2 * 80 + 4 * 50)),
        (Frozen(layers=4), False, 1000 * (2 * 80 + 4 * 0.6 * 50)),
        (Frozen(layers=4), True, 1000 * (2 * 0.6 * 80 + 4 * 0.6 * 50)),
        (Probe(), False, 1000 * 2 * 80),
        (Prompt(shots=5), True, 1000 * 2 * 80),  # forward alone, and of nothing that is cached
        (Probe(), True, 0.0),
        (Full(), True, 1000 * (2 * 80 + 4 * 50)),  # nothing is frozen, so nothing is cached
    ],
)
def test_flops_of_training(tune, cache, flops):
    assert step_flops(step(tune, cache=cache), 50.0, 30.0) == pytest.approx(flops)


def test_flops_of_features_are_one_pass_through_the_frozen_layers():
    [features] = {spec.digest(): spec for spec in step(Frozen(layers=4), cache=True).features().values()
                  if spec.split == "test"}.values()  # fmt: skip
    assert isinstance(features, FeaturesSpec)
    assert kept_params(features) == 400
    assert step_flops(features, 0.0, 30.0) == 400 * 2 * 30


def test_a_model_of_unknown_size_has_unknown_flops():
    assert step_flops(step(params=None), 50.0, 30.0) is None
