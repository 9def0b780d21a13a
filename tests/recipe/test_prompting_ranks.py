"""Prompts under real ranks: two processes share the batches and give the numbers of one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rank_grid import ALONE, Grid, job, logits_of  # type: ignore[import-not-found]
from tiny_models import save_language_model  # type: ignore[import-not-found]

from w2s import steps
from w2s.spec import Engine, Prompt, Recipe

pytestmark = pytest.mark.recipe

RECIPE = Recipe(tune=Prompt(shots=2, template="w1 {text} w2", words=(" w3", " w4 w5")))
TWO = Engine(device="cpu", processes=2, predict_batch_size=4, checkpoint_every="never")


def test_two_processes_give_the_numbers_of_one(tmp_path):
    torch.set_num_threads(1)
    grid = Grid(tmp_path)
    grid.large = save_language_model(tmp_path / "prompted", 2)
    one, two = grid.store("alone"), grid.store("two")
    alone, shared = grid.student(RECIPE, ALONE), grid.student(RECIPE, TWO)
    assert alone.digest() == shared.digest()
    assert steps.run_step(alone, one) == "done"
    assert grid.launch([job(shared, two)]) == [["done"]] * 2
    for split, examples in (("test", 15), ("val", 7), ("transfer", 33)):
        expected = logits_of(one, alone, split)
        assert expected.shape == (examples, 2)
        np.testing.assert_allclose(logits_of(two, shared, split), expected, rtol=1e-5, atol=1e-5)
    said = [json.loads((s.path("train", alone.digest()) / "prompt.json").read_text()) for s in (one, two)]
    assert said[0]["shown"] == said[1]["shown"]
    np.testing.assert_allclose(said[0]["calibration"], said[1]["calibration"], atol=1e-5)
