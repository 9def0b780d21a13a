"""One CUDA device against one CPU: the same student under the settings that only a GPU has (pytest -m gpu)."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from rank_grid import ALONE, COMMON, Grid, job, logits_of, losses_of  # type: ignore[import-not-found]

from w2s import steps
from w2s.learn import fitting
from w2s.spec import Engine, LogConf, Lora, Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

CUDA = {"device": "cuda", "checkpoint_every": "3 steps"}
EXACT = {
    "alone": Engine(**CUDA),
    "micro-batches": Engine(**CUDA, micro_batch_size=4),
    "gradient checkpointing": Engine(**CUDA, gradient_checkpointing=True),
    "compiled": Engine(**CUDA, compile=True),
    "auto": Engine(**CUDA, micro_batch_size="auto"),
    **{f"ZeRO {stage}": Engine(**CUDA, zero_stage=stage) for stage in (0, 1, 2, 3)},
    "ZeRO 2, optimizer offloaded": Engine(**CUDA, zero_stage=2, offload="optimizer"),
    "ZeRO 3, parameters offloaded": Engine(**CUDA, zero_stage=3, offload="parameters"),
}
HALF = {
    "bf16": Engine(**CUDA, mixed_precision="bf16"),
    "fp16": Engine(**CUDA, mixed_precision="fp16"),
    "bf16, ZeRO 2": Engine(**CUDA, mixed_precision="bf16", zero_stage=2),
    "bf16, ZeRO 3": Engine(**CUDA, mixed_precision="bf16", zero_stage=3),
}
RECIPES = {
    "full": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3)),
    "lora": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), tune=Lora(r=2)),
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return Grid(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="module")
def on_cpu(grid):
    store = grid.store("on cpu")
    for recipe in RECIPES.values():
        assert steps.run_step(grid.student(recipe, ALONE), store) == "done"
    return store


def carried_out(grid, name, recipe, engine):
    spec, store = grid.student(recipe, engine), grid.store(name)
    if engine.launched:
        assert grid.launch([job(spec, store)], 1, visible="0") == [["done"]]
    else:
        assert steps.run_step(spec, store) == "done"
    return spec, store


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("engine", EXACT)
def test_a_gpu_gives_the_numbers_of_a_cpu_to_rounding(engine, recipe, grid, on_cpu):
    spec, store = carried_out(grid, f"{engine} {recipe}", RECIPES[recipe], EXACT[engine])
    np.testing.assert_allclose(losses_of(store, spec), losses_of(on_cpu, spec), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(logits_of(store, spec, "test"), logits_of(on_cpu, spec, "test"), rtol=1e-2, atol=2e-3)
    assert [name.partition(":")[0] for name in store.manifest("train", spec.digest())["devices"]] == ["cuda"]


@pytest.mark.parametrize("engine", HALF)
def test_half_precision_is_near_and_another_experiment(engine, grid, on_cpu):
    full = grid.student(RECIPES["full"], ALONE)
    spec, store = carried_out(grid, engine, RECIPES["full"], HALF[engine])
    assert spec.digest() != full.digest()
    found, expected = losses_of(store, spec), losses_of(on_cpu, full)
    assert found != expected
    np.testing.assert_allclose(found, expected, rtol=0.1)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash_attn is not installed")
def test_flash_attention_is_sdpa_to_the_rounding_of_bf16(grid):
    losses = []
    for attention in ("sdpa", "flash_attention_2"):
        engine = Engine(**CUDA, mixed_precision="bf16", attention=attention)
        spec, store = carried_out(grid, f"attention {attention}", RECIPES["full"], engine)
        losses.append(losses_of(store, spec))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_the_micro_batch_that_fits_is_found_by_trial(grid, monkeypatch):
    """Most of the memory is taken away, so that not everything fits; what fits is remembered and used."""
    monkeypatch.setattr(fitting, "reserved_bytes", lambda *_: torch.cuda.mem_get_info()[0] - (64 << 20))
    spec, store = carried_out(grid, "little memory", RECIPES["full"], EXACT["auto"])
    assert len(losses_of(store, spec)) == 10
