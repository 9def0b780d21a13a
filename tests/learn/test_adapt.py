"""What the engine asks of a base model: checkpointing and compilation change nothing but time and memory."""

from __future__ import annotations

import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from w2s.errors import StepError
from w2s.learn import adapt, models, trunk
from w2s.spec import Engine, Frozen, Full, Lora, Probe, Recipe

ARCHITECTURES = ("llama", "gpt2", "neox", "qwen2", "qwen3", "bert")
TUNES = {
    "full": Full(),
    "frozen": Frozen(layers=2),
    "frozen, embeddings trained": Frozen(layers=2, embeddings=False),
    "lora": Lora(r=2),
}
CHECKPOINTED = Engine(device="cpu", gradient_checkpointing=True)


def gradients_of(model, chunks):
    """(logits, gradients by name) of one training step on alternating labels."""
    torch.manual_seed(0)  # of dropout
    model.train()
    logits = model(chunks)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 2).backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def passes_of(model, chunks):
    """How often each layer ran in one training step, and what came of it."""
    seen: list[int] = []
    for index, layer in enumerate(adapt.layers_of(model.base)[1]):
        # The whole layer's own hooks stay outside the checkpoint; those of its first product do not.
        first = next(child for child in layer.modules() if isinstance(child, (torch.nn.Linear, Conv1D)))
        first.register_forward_pre_hook(lambda *_, index=index: seen.append(index))
    found = gradients_of(model, chunks)
    return np.bincount(seen, minlength=3).tolist(), found


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


# -- gradient checkpointing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_checkpointing_changes_no_gradient(arch, tune, precision, base_of, chunks):
    recipe = Recipe(tune=TUNES[tune], head_init="normal")
    found = []
    for engine in (Engine(device="cpu"), CHECKPOINTED):
        engine = engine.model_copy(update={"mixed_precision": precision})
        model = models.build(base_of(arch), 2, recipe, 0, engine)
        found.append(passes_of(model, chunks(arch)))
    # Two chunks; a layer through which a gradient goes runs twice for each, or nothing would have been saved.
    again = [2, 2, 4] if tune == "frozen" else [4, 4, 4]
    assert [runs for runs, _ in found] == [[2, 2, 2], again]
    assert_same(found[1][1], found[0][1])


@pytest.mark.parametrize("arch", ["gpt2", "bert"])
def test_checkpointing_repeats_the_same_dropout(arch, base_of, chunks):
    recipe = Recipe(head_init="normal", dropout=0.3)
    found = [gradients_of(models.build(base_of(arch), 2, recipe, 0, e), chunks(arch)) for e in (Engine(), CHECKPOINTED)]
    assert_same(found[1], found[0])
    still = gradients_of(models.build(base_of(arch), 2, Recipe(head_init="normal"), 0), chunks(arch))
    assert float((still[0] - found[0][0]).abs().max()) > 1e-2  # negative control: there is dropout


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_checkpointing_above_replayed_layers(arch, base_of, texts, tmp_path):
    tokens = models.tokenise(base_of(arch), texts)
    trunk.write_hidden(base_of(arch, layers=1).module, 1, tokens, tmp_path / "hidden.npy", 5, "cpu")
    replayed = dataclasses.replace(tokens, hidden_SD=trunk.read_hidden(tmp_path / "hidden.npy"))
    recipe = Recipe(tune=Frozen(layers=1), head_init="normal")
    found = []
    for engine in (Engine(), CHECKPOINTED):
        model = models.build(base_of(arch), 2, recipe, 0, engine)
        trunk.start_from(model, 1)
        # Two chunks: each must be computed again from its own states, not from those of the last one.
        found.append(gradients_of(model, [replayed.padded(np.arange(8)), replayed.padded(np.arange(8, 23))]))
    assert_same(found[1], found[0])
    plain = models.build(base_of(arch), 2, recipe, 0)
    assert_same(gradients_of(plain, [tokens.padded(np.arange(8)), tokens.padded(np.arange(8, 23))]), found[0])


def test_checkpointing_is_for_training_only(base_of, chunks):
    model = models.build(base_of("llama"), 2, Recipe(head_init="normal"), 0, CHECKPOINTED).eval()
    seen: list[int] = []
    adapt.layers_of(model.base)[1][0].get_submodule("self_attn.q_proj").register_forward_pre_hook(
        lambda *_: seen.append(1)
    )
    model(chunks("llama")).sum().backward()
    assert len(seen) == 2  # chunks


def test_an_architecture_without_checkpointing(base_of):
    base = base_of("llama")
    module = models.sharing(base.module)
    module.supports_gradient_checkpointing = False
    with pytest.raises(StepError, match=r"tiny llama: engine\.gradient_checkpointing: LlamaModel does not support it"):
        models.build(dataclasses.replace(base, module=module), 2, Recipe(), 0, CHECKPOINTED)
    models.build(dataclasses.replace(base, module=module), 2, Recipe(tune=Probe()), 0, CHECKPOINTED)  # nothing to save


# -- attention ---------------------------------------------------------------------------------------------------


def test_flash_attention_where_it_is_not_installed(spec_of):
    engine = Engine(device="cpu", attention="flash_attention_2", mixed_precision="bf16")
    with pytest.raises(StepError, match=r"model tiny llama: .*install flash-attn, or set engine\.attention to sdpa"):
        models.load_base(spec_of("llama"), engine)


def test_flash_attention_needs_half_precision(spec_of):
    engine = Engine(device="cpu", attention="flash_attention_2")
    with pytest.raises(StepError, match=r"engine\.attention: .*needs engine\.mixed_precision bf16 or fp16"):
        models.load_base(spec_of("llama"), engine)


# -- compilation -------------------------------------------------------------------------------------------------


@pytest.mark.recipe  # a minute of g++
@pytest.mark.skipif(shutil.which("g++") is None, reason="engine.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_compiling_changes_no_number(base_of, chunks):
    base, recipe = base_of("llama", layers=1), Recipe(head_init="normal")
    plain = models.build(base, 2, recipe, 0)
    compiled = models.build(base, 2, recipe, 0, Engine(device="cpu", compile=True))
    assert compiled.base._compiled_call_impl is not None
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert_same(gradients_of(compiled, chunks("llama")), gradients_of(plain, chunks("llama")))


def test_compiling_without_a_compiler(base_of, monkeypatch, tmp_path):
    """By the same function as before a run (cli.requirements), which honours CXX."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    monkeypatch.setitem(os.environ, "CXX", "absent")
    with pytest.raises(StepError, match=r"engine\.compile: no C\+\+ compiler is on PATH \(CXX is 'absent'\); .* false"):
        models.build(base_of("llama"), 2, Recipe(), 0, Engine(device="cpu", compile=True))
