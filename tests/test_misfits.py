"""What cannot be done together is said before any work, and what can be is left alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s.misfits import SHOWN, Use, of_cache, of_classes, of_engine, of_hard_labels, of_recipes
from w2s.models import ModelSpec
from w2s.objectives import AdaptConf, Entropy, Gce, Kl, LogConf, Product, Window, Xent
from w2s.sources.spec import HubSource
from w2s.spec import Engine, Frozen, Full, Lora, Probe, Recipe
from w2s.tasks.task import TaskSpec, TextFormat

MODEL = ModelSpec(name="m", source=HubSource(hub="org/m"), layers=6)


def uses(recipe=Recipe(), **students):  # noqa: B008  # a recipe never changes
    """Model `m` by its recipe, and by the recipe of each method."""
    return [Use("m", None, MODEL, recipe), *(Use("m", method, MODEL, r) for method, r in students.items())]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"offload": "optimizer"},
         "engine.offload: optimizer needs zero_stage 1, 2 or 3 (got no zero_stage)"),
        ({"offload": "optimizer", "zero_stage": 0},
         "engine.offload: optimizer needs zero_stage 1, 2 or 3 (got zero_stage 0)"),
        ({"offload": "parameters", "zero_stage": 2},
         "engine.offload: parameters needs zero_stage 3 (got zero_stage 2)"),
        ({"mixed_precision": "fp16", "device": "cpu"},
         "engine.mixed_precision: fp16 needs a CUDA device, and engine.device is cpu; use bf16 or no"),
        ({"mixed_precision": "fp16", "zero_stage": 0},
         "engine.mixed_precision: fp16 is not offered with zero_stage (got 0), because DeepSpeed would hold the head "
         "in fp16; use bf16, or leave zero_stage out"),
        ({"attention": "flash_attention_2"},
         "engine.attention: flash_attention_2 works in 16 bits only, and engine.mixed_precision is no; use "
         "mixed_precision bf16 or fp16, or attention sdpa"),
        ({"attention": "flash_attention_2", "mixed_precision": "bf16", "device": "cpu"},
         "engine.attention: flash_attention_2 needs a CUDA device, and engine.device is cpu; use sdpa"),
        ({"devices_per_step": 2, "processes": 3},
         "engine.processes: 3 on 2 devices, but each device runs one process; leave processes out, or set "
         "devices_per_step to 3"),
        ({"device": "cuda", "processes": 2},
         "engine.processes: 2 on 1 device, but each device runs one process; leave processes out, or set "
         "devices_per_step to 2"),
        ({"devices_per_step": 2, "device": "cpu"},
         "engine.devices_per_step: 2 are CUDA devices, and engine.device is cpu; engine.processes=2 gives 2 processes "
         "on a CPU"),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other(settings, problem):
    assert of_engine(Engine(**settings)) == [problem]


def test_all_of_them_are_told_at_once():
    engine = Engine(offload="parameters", mixed_precision="fp16", zero_stage=1, device="cpu", devices_per_step=2)
    assert [line.partition(":")[0] for line in of_engine(engine)] == [
        "engine.offload",
        "engine.mixed_precision",
        "engine.mixed_precision",
        "engine.devices_per_step",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *({"offload": "optimizer", "zero_stage": stage} for stage in (1, 2, 3)),
        {"offload": "parameters", "zero_stage": 3},
        {"mixed_precision": "fp16"},
        {"mixed_precision": "bf16", "device": "cpu", "zero_stage": 3},
        {"attention": "flash_attention_2", "mixed_precision": "fp16"},
        {"processes": 2},
        {"processes": 2, "device": "cpu"},
        {"devices_per_step": 2, "processes": 2, "device": "cuda"},
        {"processes": 1, "device": "cuda"},
    ],
)
def test_settings_that_go_together(settings):
    assert of_engine(Engine(**settings)) == of_recipes(Engine(**settings), uses()) == []


@pytest.mark.parametrize(
    ("settings", "batch_size", "problem"),
    [
        ({"processes": 2, "micro_batch_size": 5}, 32,
         "engine.micro_batch_size: batch_size 32 over 2 processes is 16 each, which 5 does not divide; "
         "use 8, 4, 2 or 1"),
        ({"micro_batch_size": 5}, 32, "engine.micro_batch_size: 5 does not divide batch_size 32; use 16, 8, 4, 2 or 1"),
        ({"micro_batch_size": 4}, 13, "engine.micro_batch_size: 4 does not divide batch_size 13; use 1"),
        ({"processes": 3}, 32,
         "engine.processes: batch_size 32 cannot be shared evenly by 3 processes; use 2 or 4, or a batch_size of 30 "
         "or 33"),
        ({"devices_per_step": 2}, 1,
         "engine.devices_per_step: batch_size 1 cannot be shared evenly by 2 processes; use 1, or a batch_size of 2"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_cut_evenly(settings, batch_size, problem):
    recipe = Recipe(batch_size=batch_size)
    assert of_recipes(Engine(**settings), uses(recipe, one=recipe, other=recipe)) == [problem]


@given(st.integers(1, 64), st.integers(1, 9), st.none() | st.just("auto") | st.integers(1, 70))
def test_a_batch_is_refused_exactly_where_processes_or_micro_batches_would_differ(batch_size, ranks, micro):
    """And what a message suggests is accepted."""
    share = batch_size / ranks
    fits = share.is_integer() and (not isinstance(micro, int) or micro >= share or share % micro == 0)
    engine = Engine(processes=ranks, micro_batch_size=micro)
    found = of_recipes(engine, uses(Recipe(batch_size=batch_size)))
    assert (found == []) == fits
    if not fits:
        advice = found[0].partition("; use ")[2].partition(", or a batch_size of ")
        for number in advice[0].replace(" or ", ", ").split(", "):
            field = "micro_batch_size" if share.is_integer() else "processes"
            other = engine.model_copy(update={"micro_batch_size": None, field: int(number)})
            assert of_recipes(other, uses(Recipe(batch_size=batch_size))) == []
        for number in advice[2].replace(" or ", ", ").split(", ") if advice[2] else ():
            whole = engine.model_copy(update={"micro_batch_size": None})
            assert of_recipes(whole, uses(Recipe(batch_size=int(number)))) == []


def test_advice_stays_short():
    found = of_recipes(Engine(micro_batch_size=math.factorial(6) - 1), uses(Recipe(batch_size=math.factorial(8))))
    numbers = found[0].partition("; use ")[2].replace(" or ", ", ").split(", ")
    assert len(numbers) == SHOWN
    assert str(math.factorial(6)) in numbers, "the nearest is among them"


def test_of_several_batch_sizes_those_that_do_not_fit_are_named():
    found = of_recipes(Engine(processes=2), uses(small=Recipe(batch_size=7), large=Recipe(batch_size=64)))
    assert found == [
        "engine.processes: batch_size 7 (of m by small) cannot be shared evenly by 2 processes; "
        "use 1 or 7, or a batch_size of 6 or 8"
    ]


@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_adafactor_needs_whole_matrices(stage):
    found = of_recipes(Engine(zero_stage=stage), uses(Recipe(optimizer="adafactor"), m=Recipe(optimizer="adamw")))
    assert found == (
        [
            f"engine.zero_stage: {stage} cuts weights into pieces, and adafactor (of m) needs whole matrices; "
            "use optimizer adamw, or zero_stage 0"
        ]
        if stage
        else []
    )


@pytest.mark.parametrize(
    ("settings", "recipe", "why"),
    [
        ({"mixed_precision": "bf16"}, Recipe(tune=Frozen(layers=2)), "with mixed_precision bf16 nothing is cached"),
        ({}, Recipe(tune=Probe(), dropout=0.1), "with dropout nothing is cached, because no two passes are equal"),
        ({}, Recipe(tune=Full()), "no recipe freezes embeddings and lower layers (tune: frozen or probe), so there is "
                                  "nothing to cache"),
        ({}, Recipe(tune=Lora()), "no recipe freezes embeddings and lower layers (tune: frozen or probe), so there is "
                                  "nothing to cache"),
    ],
)  # fmt: skip
def test_a_cache_that_nothing_can_use_is_not_dropped_silently(settings, recipe, why):
    found = of_cache(Engine(cache_frozen=True, **settings), uses(recipe, other=recipe))
    assert found == [f"engine.cache_frozen: {why}; set it to false, or leave it out"]
    assert of_cache(Engine(**settings), uses(recipe, other=recipe)) == [], "nobody asked for it"


def test_a_cache_that_one_recipe_can_use_is_fine():
    assert of_cache(Engine(cache_frozen=True), uses(Recipe(), frozen=Recipe(tune=Frozen(layers=2)))) == []


def task_of(classes):
    format_ = TextFormat(text="a", label="b")
    return TaskSpec(name="t", source=HubSource(hub="o/t"), format=format_, classes=tuple("abcd"[:classes]))


@pytest.mark.parametrize(
    ("loss", "classes", "path"),
    [
        (LogConf(threshold=0.3), 3, "methods.m.loss.threshold: 0.3 is a number"),
        (LogConf(threshold=0.3), 2, None),
        (Window(radius=0.499), 2, None),
        (Window(radius=0.5), 2, "methods.m.loss.radius: 0.5 leaves no example out, because with the 2 classes of t no"),
        (Window(radius=0.5), 3, None),
        (Window(radius=0.67), 3, "methods.m.loss.radius: 0.67 leaves no example out"),
        (Window(radius="midweak"), 3, None),
        *((loss, 4, None) for loss in (Xent(), Product(), Kl(), Entropy(), AdaptConf(), Gce(), LogConf())),
    ],
)
def test_losses_and_the_number_of_classes(loss, classes, path):
    told = of_classes("t", task_of(classes), {"m": loss}, [])
    assert len(told) == (path is not None)
    assert all(line.startswith(path) for line in told)


def test_losses_that_learn_nothing_of_their_own_from_hard_labels():
    told = {type(loss).__name__: len(of_hard_labels("m", loss)) for loss in (Product(), Window(), Xent(), Kl(), Gce())}
    assert told == {"Product": 1, "Window": 0, "Xent": 0, "Kl": 0, "Gce": 0}
    assert len(of_hard_labels("m", Window(radius="midweak"))) == 1
