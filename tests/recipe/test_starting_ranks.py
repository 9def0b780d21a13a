"""Reading texts first and beginning from that: several processes and ZeRO give the numbers of one, killed or not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from rank_grid import ALONE, Readers, job, logits_of, losses_of, weights_of  # type: ignore[import-not-found]

from w2s import steps
from w2s.spec import Engine, LanguageSpec, TrainSpec
from w2s.store import Store

pytestmark = pytest.mark.recipe

TWO = {"device": "cpu", "processes": 2, "checkpoint_every": "3 steps"}
ENGINES = {
    "micro-batches": Engine(device="cpu", micro_batch_size=2, checkpoint_every="never"),
    "two processes": Engine(**TWO),
    "ZeRO 2, micro-batches": Engine(**TWO, zero_stage=2, micro_batch_size=1),
    "ZeRO 3": Engine(**TWO, zero_stage=3),  # but for reading, which needs the language-model head whole
}
TOLERANCE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5}  # of sums over the tokens of a text


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    torch.set_num_threads(1)
    return Readers(tmp_path_factory.mktemp("readers"))


@pytest.fixture(scope="module")
def trained(grid: Readers) -> dict[str, Store]:
    """All three steps alone and under every engine, in a store for each; the group does its part in one launch."""
    stores = {name: grid.store(name) for name in ("alone", *ENGINES)}
    jobs = []
    for name, engine in {"alone": ALONE, **ENGINES}.items():
        for spec in grid.steps(engine):
            if engine.launched:
                jobs.append(job(spec, stores[name]))
            else:
                assert steps.run_step(spec, stores[name]) == "done"
    assert grid.launch(jobs) == [["done"] * len(jobs)] * 2
    return stores


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_weights_and_predictions_are_those_of_one_process(engine, grid, trained):
    one, other = trained["alone"], trained[engine]
    for spec in grid.steps(ALONE):
        np.testing.assert_allclose(losses_of(other, spec), losses_of(one, spec), **TOLERANCE)
        before, after = weights_of(one, spec), weights_of(other, spec)
        assert before.keys() == after.keys()
        for name in before:
            np.testing.assert_allclose(after[name], before[name], rtol=2e-3, atol=2e-4)
        if isinstance(spec, TrainSpec):
            for split in ("test", "val", "transfer"):
                np.testing.assert_allclose(
                    logits_of(other, spec, split), logits_of(one, spec, split), rtol=2e-3, atol=5e-4
                )
    told = [metrics_of(store, grid.reading(ALONE)) for store in (one, other)]
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    assert told[0]["val_loss_per_token_after"] < told[0]["val_loss_per_token_before"] - 0.02


def metrics_of(store: Store, spec: LanguageSpec) -> dict[str, float]:
    told = json.loads((store.path("language", spec.digest()) / "metrics.json").read_text())
    return {name: value for name, value in told.items() if name != "truncated"}


def test_reading_that_was_killed_goes_on_bit_by_bit(grid, trained):
    spec, store = grid.reading(ENGINES["two processes"]), grid.store("killed")
    grid.launch([job(spec, store, die_at=7, die_rank=1)], code=1)
    assert sorted(path.name for path in store.checkpoints(spec.digest()).iterdir() if path.name[0] != ".") == [
        "step-00000003",
        "step-00000006",
    ]
    assert grid.launch([job(spec, store)]) == [["done"]] * 2
    whole = trained["two processes"]
    assert losses_of(store, spec) == losses_of(whole, spec)
    assert metrics_of(store, spec) == metrics_of(whole, spec)
    for name, weight in weights_of(whole, spec).items():
        np.testing.assert_array_equal(weights_of(store, spec)[name], weight)
