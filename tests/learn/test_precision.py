"""Matrix products in lower precision: what is rounded, what never is, and that holding frozen weights moves no bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from w2s.learn import adapt, models, optimizer
from w2s.spec import Engine, Frozen, Full, Lora, Probe, Recipe

ARCHITECTURES = ("llama", "gpt2", "neox", "qwen2", "qwen3", "bert")
PRECISIONS = ("bf16", "fp16")
TUNES = (Probe(), Lora(r=2), Frozen(layers=2))


def recipe_of(tune):
    return Recipe(tune=tune, head_init="normal", lr=1e-2)


def stir(model):
    """Adapters start at zero, where they could hide a difference."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    return model


def step_of(model, chunks):
    """(logits, gradients by name) of one training step on alternating labels."""
    model.train()
    logits = model(chunks)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 2).backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def build(base_of):
    """(arch, tune, precision) -> classifier."""

    def make(arch, tune, precision="no"):
        engine = Engine(device="cpu", mixed_precision=precision)
        return stir(models.build(base_of(arch), 2, recipe_of(tune), 0, engine))

    return make


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tune", TUNES, ids=lambda tune: tune.kind)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_holding_frozen_weights_changes_no_bit(arch, tune, precision, build, chunks):
    held, cast = build(arch, tune, precision), build(arch, tune)
    cast.precision = adapt.PRECISIONS[precision]  # autocast, with every weight in float32
    assert {p.dtype for p in cast.parameters()} == {torch.float32}
    (logits, gradients), (expected, others) = (step_of(model, chunks(arch)) for model in (held, cast))
    assert torch.equal(logits, expected)
    assert gradients.keys() == others.keys()
    assert [name for name in gradients if not torch.equal(gradients[name], others[name])] == []
    exact = build(arch, tune)
    assert 1e-4 < float((exact(chunks(arch)).detach() - logits).abs().max()) < 0.5  # the precision is at work


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rounding_norms_and_embeddings_too_would_show(arch, build, chunks):
    """Negative control of the test above."""
    expected, _ = step_of(build(arch, Probe(), "bf16"), chunks(arch))
    model = build(arch, Probe(), "bf16")
    for parameter in model.base.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    assert not torch.equal(step_of(model, chunks(arch))[0], expected)


@pytest.mark.parametrize("tune", TUNES, ids=lambda tune: tune.kind)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_held_is_every_frozen_linear_weight_and_nothing_else(arch, tune, build):
    model = build(arch, tune, "bf16")
    linear = {
        id(p) for child in model.base.modules() if isinstance(child, (torch.nn.Linear, Conv1D))
        for p in child.parameters(recurse=False)
    }  # fmt: skip
    held = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert held == {name for name, p in model.named_parameters() if id(p) in linear and not p.requires_grad}
    assert held
    assert {p.dtype for p in model.parameters()} == {torch.float32, torch.bfloat16}


def test_a_weight_that_is_read_elsewhere_is_not_held():
    """Such as a projection that is also the embedding, where rounding would show; and what an architecture guards."""
    module: Any = torch.nn.ModuleDict(
        {"embedding": torch.nn.Embedding(5, 4), "tied": torch.nn.Linear(4, 5), "wo": torch.nn.Linear(4, 4)}
        | {"plain": torch.nn.Linear(4, 4)}
    ).requires_grad_(False)
    module["tied"].weight = module["embedding"].weight
    module._keep_in_fp32_modules = ["wo"]
    adapt.hold_frozen(module, torch.bfloat16)
    held = {name for name, p in module.named_parameters() if p.dtype == torch.bfloat16}
    assert held == {"tied.bias", "plain.weight", "plain.bias"}


def test_what_is_trained_stays_in_float32(build, chunks):
    model = build("llama", Full(), "bf16")
    logits, gradients = step_of(model, chunks("llama"))
    assert logits.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {g.dtype for g in gradients.values()} == {torch.float32}
    made = optimizer.make_optimizer(model, recipe_of(Full()))
    made.step()
    states = [value for state in made.state.values() for value in state.values()]
    assert {value.dtype for value in states if value.ndim > 0} == {torch.float32}


@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_head_and_pooling_see_float32(arch, build, chunks):
    """The mean of many states, and the logits, would lose the most by rounding."""
    model, seen = build(arch, Full(), "bf16"), []
    model.head.register_forward_hook(lambda _, args, output: seen.extend([args[0], output]))
    logits = model(chunks(arch))
    assert [value.dtype for value in seen] == [torch.float32] * 2
    assert torch.equal(seen[1], seen[0] @ model.head.weight.T)
    rounded = seen[0].bfloat16() @ model.head.weight.bfloat16().T
    assert not torch.equal(rounded.float(), logits)  # negative control


# -- what is shared with the base --------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", [*TUNES, Full()], ids=lambda tune: tune.kind)
def test_only_what_is_trained_is_copied(tune, build, base_of, chunks):
    model = build("gpt2", tune)
    places = {parameter.data_ptr() for parameter in base_of("gpt2").module.parameters()}
    shared = {name for name, p in model.named_parameters() if p.data_ptr() in places}
    assert shared == {name for name, p in model.named_parameters() if not p.requires_grad}
    before = [parameter.detach().clone() for parameter in base_of("gpt2").module.parameters()]
    made = optimizer.make_optimizer(model, recipe_of(tune))
    step_of(model, chunks("gpt2"))
    made.step()
    model.to(torch.float64)  # as moving it to a device would be
    after = list(base_of("gpt2").module.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(parameter.requires_grad for parameter in after)
    assert {parameter.dtype for parameter in after} == {torch.float32}
