"""Pairs of texts under real ranks: several processes and ZeRO give the numbers of one process, computed or cached."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rank_grid import ALONE, COMMON, Pairs, job, logits_of, losses_of  # type: ignore[import-not-found]

from w2s import steps
from w2s.spec import Engine, Frozen, LogConf, Recipe, Xent
from w2s.store import Store

pytestmark = pytest.mark.recipe

TWO = {"device": "cpu", "processes": 2, "checkpoint_every": "never"}
ENGINES = {
    "micro-batches": Engine(device="cpu", micro_batch_size=3, checkpoint_every="never"),
    "cached": Engine(device="cpu", cache_frozen=True, checkpoint_every="never"),
    "two processes": Engine(**TWO),
    "two processes, micro-batches": Engine(**TWO, micro_batch_size=2),
    "ZeRO 2": Engine(**TWO, zero_stage=2, micro_batch_size=1),
    "ZeRO 3": Engine(**TWO, zero_stage=3, micro_batch_size=1),
}
RECIPES = {
    "xent": Recipe(**COMMON, loss=Xent()),
    "logconf": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), eval_every=4),
    "frozen": Recipe(**COMMON, loss=LogConf(warmup_frac=0.3), tune=Frozen(layers=1)),
}
TOLERANCE: dict[str, Any] = {"rtol": 2e-5, "atol": 3e-6}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    torch.set_num_threads(1)
    return Pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def trained(pairs: Pairs) -> dict[str, Store]:
    """Every recipe under every engine, in a store for each engine."""
    stores = {name: pairs.store(name) for name in ("alone", *ENGINES)}
    jobs = []
    for recipe in RECIPES.values():
        assert steps.run_step(pairs.student(recipe, ALONE), stores["alone"]) == "done"
        for name, engine in ENGINES.items():
            spec = pairs.student(recipe, engine)
            for features in spec.features().values():
                assert steps.run_step(features, stores[name]) == "done"
            if engine.launched:
                jobs.append(job(spec, stores[name]))
            else:
                assert steps.run_step(spec, stores[name]) == "done"
    assert pairs.launch(jobs) == [["done"] * len(jobs)] * 2
    return stores


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_losses_and_predictions_are_those_of_one_process(engine, recipe, pairs, trained):
    spec = pairs.student(RECIPES[recipe], ENGINES[engine])
    one, other = trained["alone"], trained[engine]
    assert len(losses_of(one, spec)) == 10
    np.testing.assert_allclose(losses_of(other, spec), losses_of(one, spec), **TOLERANCE)
    for split, examples in (("test", 15), ("val", 7), ("transfer", 33)):
        expected = logits_of(one, spec, split)
        assert expected.shape == (examples, 2)
        np.testing.assert_allclose(logits_of(other, spec, split), expected, rtol=1e-3, atol=2e-4)
        assert np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-2
