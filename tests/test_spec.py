"""Steps as data: what depends on what, and which cached layers a step starts from."""

from __future__ import annotations

import typing

import pytest

from w2s.errors import SpecError
from w2s.identity import validated
from w2s.models import ModelSpec
from w2s.sources.spec import HubSource
from w2s.spec import Engine, Frozen, Full, LogConf, Lora, Probe, Recipe, Sizes, Split, Step, TrainSpec, Weak

D1, D2 = "1" * 64, "2" * 64
MODEL = ModelSpec(name="m", source=HubSource(hub="org/m"), layers=6)
CACHING = Engine(cache_frozen=True)


def step(**fields):
    return TrainSpec(**{"data": D1, "split": "transfer", "model": MODEL, **fields})


def test_kinds_of_steps_have_names_of_their_own():
    kinds = [s.model_fields["kind"].default for s in typing.get_args(typing.get_args(Step)[0])]
    assert sorted(kinds) == ["features", "labels", "language", "materialize", "train"]


def test_a_student_reads_its_data_and_its_supervisor():
    assert step().parents == (D1,)
    assert step(labels=Weak(supervisor=D2)).parents == (D1, D2)


def test_a_supervisor_and_a_student_predict_what_may_be_asked_later():
    assert set(step(split="weak_train").used_splits) == set(typing.get_args(Split))
    assert set(step().used_splits) == {"transfer", "val", "test"}
    assert step(split="weak_train").used_splits[0] == "weak_train"


@pytest.mark.parametrize(("tune", "depth"), [(Frozen(layers=4), 4), (Probe(), 6)])
def test_frozen_layers_are_cached_once_for_every_recipe_that_freezes_them(tune, depth):
    one = step(recipe=Recipe(tune=tune), engine=CACHING)
    other = step(recipe=Recipe(tune=tune, lr=0.5, loss=LogConf()), engine=CACHING, labels=Weak(supervisor=D2))
    assert {f.model.layers for f in one.features().values()} == {depth}
    assert one.features() == other.features()
    assert {f.digest() for f in one.features().values()} < set(one.parents)


@pytest.mark.parametrize(
    ("recipe", "engine"),
    [
        (Recipe(tune=Frozen(layers=4)), Engine()),
        (Recipe(tune=Full()), CACHING),
        (Recipe(tune=Lora()), CACHING),
        (Recipe(tune=Frozen(layers=0)), CACHING),
        (Recipe(tune=Frozen(layers=4), dropout=0.1), CACHING),
        (Recipe(tune=Frozen(layers=4)), Engine(cache_frozen=True, mixed_precision="bf16")),
        (Recipe(tune=Frozen(layers=4)), Engine(cache_frozen=True, zero_stage=3)),
    ],
)
def test_nothing_is_cached_where_hidden_states_may_change(recipe, engine):
    assert step(recipe=recipe, engine=engine).features() == {}


def test_caching_is_no_part_of_the_identity():
    recipe = Recipe(tune=Frozen(layers=4))
    assert step(recipe=recipe, engine=CACHING).digest() == step(recipe=recipe).digest()


@pytest.mark.parametrize("name", ["weak_train", "transfer", "val", "test"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_are_above_zero(name, value):
    sizes = {"weak_train": 1, "transfer": 1, "val": 1, "test": 1}
    with pytest.raises(SpecError, match=rf"^sizes\.{name}: expected more than 0 \(got {value}\)$"):
        validated(Sizes, {**sizes, name: value}, "sizes")


def test_a_supervisor_is_named_by_a_whole_digest():
    with pytest.raises(SpecError, match="supervisor"):
        validated(TrainSpec, {**step().model_dump(mode="json"), "labels": {"kind": "weak", "supervisor": "abc"}})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"offload": "disk"}, "offload: expected 'none', 'optimizer' or 'parameters' (got 'disk')"),
        ({"zero_stage": 4}, "zero_stage: expected 0, 1, 2 or 3 (got 4)"),
        ({"processes": 0}, "processes: expected 1 or more (got 0)"),
        ({"micro_batch_size": 0}, "micro_batch_size: expected 1 or more, or 'auto' (got 0)"),
        ({"micro_batch_size": "big"}, "micro_batch_size: expected a whole number or 'auto' (got 'big')"),
        ({"micro_batch_size": True}, "micro_batch_size: expected a whole number or 'auto' (got True)"),
        *(
            ({"checkpoint_every": wrong}, f"checkpoint_every: write '10 min', '200 steps' or never (got {wrong!r})")
            for wrong in ("5 hours", "0 min", "10", "10min", "1 step", "", "10 min\n", 10, True, None)
        ),
        ({"trackers": ["wandb", "wandb"]}, "trackers: wandb is given twice; keep one (got ['wandb', 'wandb'])"),
        ({"trackers": ["mlflow"]}, "trackers[0]: expected 'jsonl', 'tensorboard' or 'wandb' (got 'mlflow')"),
    ],
)
def test_a_wrong_setting_of_the_engine_is_named(settings, problem):
    with pytest.raises(SpecError) as caught:
        validated(Engine, settings, "engine")
    assert caught.value.problems == [f"engine.{problem}"]


@pytest.mark.parametrize("right", ["never", "1 min", "10 min", "200 steps"])
def test_checkpoints_by_time_by_steps_or_never(right):
    assert validated(Engine, {"checkpoint_every": right}).checkpoint_every == right


def test_trackers_may_be_none_one_or_all():
    for trackers in ([], ["wandb"], ["jsonl", "tensorboard", "wandb"]):
        assert list(validated(Engine, {"trackers": trackers}).trackers) == trackers
