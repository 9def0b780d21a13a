"""Short flags reach the field that they are short for, and none is forgotten on the way."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from w2s.cli.commands import COMMANDS
from w2s.cli.shorthand import PATHS, changes, model_of, name_of
from w2s.errors import SpecError
from w2s.resources import Slurm
from w2s.sweep import sweep_of

DATA = {
    "name": "s",
    "tasks": ["movie"],
    "sizes": {"weak_train": 8, "transfer": 8, "test": 8},
    "models": ["minilm@1", "minilm@2"],
    "methods": ["xent"],
}
OTHER = {
    "set_",
    "name",
    "results",
    "dry_run",
    "restart_step",
    "yaml",
    "launcher",
}  # no field of a sweep, or its very name
OF_ARRAYS = {"steps_per_task", "max_parallel"}
OF_ONE_CELL = {"task", "weak", "strong", "method", "seed", "weak_train", "transfer", "val", "test"}


def made(**given):
    return sweep_of(DATA, Path.cwd(), "run", changes({"set_": [], **given}))


@pytest.mark.parametrize(
    ("parameter", "value", "field"),
    [
        ("workers", 3, 3),
        ("devices_per_step", 2, 2),
        ("processes", 2, 2),
        ("zero_stage", 0, 0),
        ("mixed_precision", "bf16", "bf16"),
        ("mixed_precision", "no", "no"),
        ("micro_batch_size", "8", 8),
        ("micro_batch_size", "auto", "auto"),
        ("gradient_checkpointing", True, True),
        ("attention", "sdpa", "sdpa"),
        ("compile_", True, True),
        ("checkpoint_every", "200 steps", "200 steps"),
        ("checkpoint_every", "never", "never"),
    ],
)
def test_a_flag_sets_the_field_of_its_name(parameter, value, field):
    assert getattr(made(**{parameter: value}).file.engine, parameter.rstrip("_")) == field


def test_flags_beside_the_engine():
    assert made(eval_every=5).recipes["minilm@2"].eval_every == 5
    assert made(keep_weights=True).file.keep_weights is True
    assert made(steps_per_task=4, max_parallel=50).file.slurm == Slurm(steps_per_task=4, max_parallel=50)
    assert made(offload="parameters", zero_stage=3).file.engine.offload == "parameters"


def test_what_was_not_given_changes_nothing_and_a_flag_wins_over_set():
    nothing = dict.fromkeys(PATHS) | {"keep_weights": False, "compile_": False}
    assert changes({"set_": ["a=1"], **nothing}) == ["a=1"]
    assert made(set_=["engine.workers=5", "engine.processes=2"], workers=3).file.engine.workers == 3


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"zero_stage": 5}, "engine.zero_stage: expected 0, 1, 2 or 3 (got 5)"),
        ({"offload": "[x"}, "engine.offload: expected 'none', 'optimizer' or 'parameters' (got '[x')"),
        ({"mixed_precision": "16"}, "engine.mixed_precision: expected 'no', 'bf16' or 'fp16' (got '16')"),
        ({"micro_batch_size": "0"}, "engine.micro_batch_size: expected 1 or more, or 'auto' (got 0)"),
        ({"micro_batch_size": "-1"}, "engine.micro_batch_size: expected 1 or more, or 'auto' (got -1)"),
        ({"checkpoint_every": "10"}, "engine.checkpoint_every: write '10 min', '200 steps' or never (got '10')"),
        ({"eval_every": 0}, "recipe.eval_every: expected 1 or more (got 0)"),
        ({"processes": 0}, "engine.processes: expected 1 or more (got 0)"),
    ],
)
def test_a_wrong_value_is_named_by_its_field(given, problem):
    with pytest.raises(SpecError) as caught:
        made(**given)
    assert caught.value.problems == [f"run: {problem}"]


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_no_flag_is_forgotten(command):
    parameters = set(inspect.signature(COMMANDS[command]).parameters)
    assert parameters - set(PATHS) - OTHER - OF_ONE_CELL == set()
    if command == "run":
        assert set(PATHS) - OF_ARRAYS <= parameters, "each stands for something that run takes"


@pytest.mark.parametrize(
    ("model", "name", "meant"),
    [
        ("minilm@2", "minilm@2", {"use": "minilm", "layers": 2}),
        ("org/big model", "big-model", {"use": "org/big model"}),
        ("org/m@main", "m@main", {"use": "org/m@main"}),
        ("./a/b/", "b", {"use": "./a/b/"}),
        ("/", "model", {"use": "/"}),
    ],
)
def test_names_of_models(model, name, meant):
    assert (name_of(model), model_of(model)) == (name, meant)
