"""One forward per micro-batch, however it is cut into chunks; the head's weights."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from w2s.learn import heads, models, trunk
from w2s.spec import Recipe

NORMAL = Recipe(head_init="normal")


@pytest.fixture
def model(base_of):
    return models.build(base_of("llama"), 3, NORMAL, 0).eval()


@pytest.mark.parametrize("cuts", [(0, 23), (0, 1, 23), (0, 8, 16, 23), tuple(range(24))])
def test_logits_of_all_chunks_in_their_order(cuts, model, tokens):
    rows = np.random.default_rng(0).permutation(len(tokens))
    chunks = [tokens.padded(rows[start:stop]) for start, stop in itertools.pairwise(cuts)]
    with torch.inference_mode():
        logits = model(chunks)
        alone = torch.cat([model([tokens.padded(rows[i : i + 1])]) for i in range(len(rows))])
    assert logits.shape == (23, 3)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=2e-5)
    # Negative control: another order would show.
    assert float((logits.flip(0) - alone).abs().max()) > 1e-2


def test_chunks_do_not_change_the_gradient(base_of, tokens):
    gradients = []
    for parts in ([np.arange(23)], [np.arange(5), np.arange(5, 23)]):
        model = models.build(base_of("llama"), 3, NORMAL, 0).train()
        logits = model([tokens.padded(part) for part in parts])
        torch.nn.functional.cross_entropy(logits, torch.arange(23) % 3).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_where_weights_lie_in_shares_the_chunks_run_as_one(arch, base_of, texts, tmp_path):
    """Other ranks may have fewer chunks, and gather weights as often as they run the model."""
    tokens = models.tokenise(base_of(arch), texts)
    model, seen = models.build(base_of(arch), 3, NORMAL, 0).eval(), []
    model.base.register_forward_pre_hook(lambda *_: seen.append(1))
    trunk.write_hidden(base_of(arch, layers=1).module, 1, tokens, tmp_path / "hidden.npy", 5, "cpu")
    replayed = dataclasses.replace(tokens, hidden_SD=trunk.read_hidden(tmp_path / "hidden.npy"))
    parts = [np.arange(5), np.arange(5, 6), np.arange(6, 23)]
    with torch.no_grad():
        expected = model([tokens.padded(part) for part in parts])
        model.in_shares = True
        together = model([tokens.padded(part) for part in parts])
        assert len(seen) == 3 + 1
        trunk.start_from(model, 1)
        again = model([replayed.padded(part) for part in parts])
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("how", ["last", "mean"])
def test_pooling_is_in_float32(how):
    hidden = torch.randn(2, 300, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.ones(2, 300, dtype=torch.long)
    pooled = heads.pool(hidden, mask, how)
    assert pooled.dtype == torch.float32
    expected = hidden.double().mean(dim=1) if how == "mean" else hidden[:, -1].double()
    assert float((pooled.double() - expected).abs().max()) < 1e-6
    if how == "mean":  # negative control: a sum in bf16 loses what a mean of many small numbers is made of
        assert float((hidden.mean(dim=1).double() - expected).abs().max()) > 1e-6


def test_init_of_the_head():
    head = torch.nn.Linear(64, 500, bias=False)
    heads.init_head(head, "normal", torch.Generator().manual_seed(1))
    assert float(head.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.02)
    first = head.weight.detach().clone()
    heads.init_head(head, "normal", torch.Generator().manual_seed(1))
    assert torch.equal(head.weight, first)
    heads.init_head(head, "zeros", torch.Generator())
    assert not head.weight.any()
