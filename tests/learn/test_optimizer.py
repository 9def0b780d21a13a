"""AdamW and Adafactor as the recipe says: what is decayed, and Adafactor against its formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from w2s.errors import StepError
from w2s.learn import models
from w2s.learn.optimizer import make_optimizer
from w2s.spec import Engine, Frozen, Full, Lora, Probe, Recipe

OPTIMIZERS = ("adamw", "adafactor")


@pytest.mark.parametrize("tune", [Full(), Frozen(layers=1), Lora(r=2), Probe()], ids=lambda tune: tune.kind)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_matrices_are_decayed_and_vectors_are_not(optimizer, tune, base_of):
    recipe = Recipe(optimizer=optimizer, tune=tune, weight_decay=0.3, lr=2e-3)
    model = models.build(base_of("gpt2"), 2, recipe, 0)
    made = make_optimizer(model, recipe)
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sorted(decay) == sorted(map(id, trained))
    assert [decay[id(p)] for p in trained] == [0.3 if p.ndim == 2 else 0.0 for p in trained]
    assert {group["lr"] for group in made.param_groups} == {2e-3}
    assert all(group["params"] for group in made.param_groups)  # a probe has no vectors, and an empty group none either


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decay_by_hand(optimizer):
    """Decoupled: with a zero gradient a matrix shrinks by lr times the decay and a vector stays."""
    recipe = Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.5)
    model = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    made = make_optimizer(model, recipe)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    torch.testing.assert_close(model.weight.detach(), before[0] * 0.95)
    assert torch.equal(model.bias, before[1])


def slow_adafactor(weight, gradients, lr):
    """Updates from the paper's formulas (Shazeer and Stern 2018, algorithms 4 and 5) in double precision."""
    row = column = second = None
    for step, gradient in enumerate(gradients, start=1):
        beta2 = 1 - step**-0.8
        square = gradient**2 + 1e-30
        if weight.ndim == 2:
            row = (0 if row is None else beta2 * row) + (1 - beta2) * square.mean(axis=1)
            column = (0 if column is None else beta2 * column) + (1 - beta2) * square.mean(axis=0)
            second = np.outer(row, column) / row.mean()
        else:
            second = (0 if second is None else beta2 * second) + (1 - beta2) * square
        update = gradient / np.sqrt(second)
        update /= max(1.0, math.sqrt((update**2).mean()))
        weight = weight - lr * update
    return weight


@pytest.mark.parametrize("shape", [(5, 3), (7,)])
def test_adafactor_follows_its_formulas(shape):
    rng = np.random.default_rng(0)
    weight, gradients = rng.normal(size=shape), rng.normal(size=(6, *shape)) * 1e-3
    gradients[3] *= 50  # so that the update is clipped
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(weight, dtype=torch.float32))])
    made = make_optimizer(model, Recipe(optimizer="adafactor", lr=0.02))
    for gradient in gradients:
        model[0].grad = torch.tensor(gradient, dtype=torch.float32)
        made.step()
    expected = slow_adafactor(weight, gradients, 0.02)
    np.testing.assert_allclose(model[0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    adam = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(weight, dtype=torch.float32))])
    made = make_optimizer(adam, Recipe(lr=0.02))
    for gradient in gradients:
        adam[0].grad = torch.tensor(gradient, dtype=torch.float32)
        made.step()
    assert np.abs(adam[0].detach().numpy() - expected).max() > 1e-3  # negative control


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix():
    model = torch.nn.Linear(30, 20, bias=False)
    made = make_optimizer(model, Recipe(optimizer="adafactor"))
    model.weight.grad = torch.ones_like(model.weight)
    made.step()
    kept = sum(value.numel() for value in made.state[model.weight].values() if torch.is_tensor(value))
    assert kept <= 30 + 20 + 1


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_adafactor_where_matrices_are_cut_apart(stage, base_of):
    engine = Engine(device="cpu", processes=2, zero_stage=stage)
    with pytest.raises(StepError, match=rf"engine\.zero_stage: adafactor .*ZeRO {stage} .*recipe\.optimizer: adamw"):
        models.build(base_of("llama"), 2, Recipe(optimizer="adafactor"), 0, engine)
