"""What a plan says that is no error: settings without effect, models out of order, supervisors that are the same."""

from __future__ import annotations

import pytest

from w2s import notes
from w2s.cli import describe
from w2s.plan import of_sweep
from w2s.store import Store
from w2s.sweep import sweep_of

BASE = {"name": "s", "tasks": ["movie"], "sizes": {"weak_train": 8, "transfer": 8, "val": 4, "test": 8}}
MODELS = {name: {"use": "minilm", "layers": layers} for layers, name in enumerate("abc", 1)}
PROBE = {"tune": {"kind": "probe", "solver": "logistic"}}
BELOW = {"student": "below", "method": "xent"}


@pytest.fixture
def told(tmp_path):
    def of(**changes):
        return notes.of(sweep_of({**BASE, "models": MODELS, "methods": ["xent"], **changes}, tmp_path, "s.yaml"))

    return of


def test_nothing_is_said_of_a_sweep_that_does_what_it_says(told):
    assert told() == []
    assert told(recipe={"lr": 1e-4, "epochs": 3}) == []
    probe = {"loss": "xent", "recipe": {"tune": {"kind": "probe", "solver": "logistic", "l2": 0.1}, "eval_every": 5}}
    assert told(methods={"xent": {}, "probe": probe}) == []


def test_fields_of_a_recipe_that_count_for_none_that_follow_it(told):
    models = {"tfidf": {"use": "tfidf", "recipe": {"lr": 1e-4, "epochs": 3}}, "b": MODELS["b"]}
    solved = "models.tfidf.recipe: lr, epochs do not count, since tfidf is solved as one convex problem"
    assert told(models=models) == [solved]
    assert told(models={**models, "b": {**MODELS["b"], "recipe": PROBE}}, recipe={"batch_size": 16}) == [
        "recipe: batch_size does not count, since tfidf is solved as one convex problem; the head is found by a solver",
        solved,
    ]
    assert told(models=models, recipe={"batch_size": 16}) == [solved]  # it counts for b
    assert told(methods={"xent": {}, "probe": {"loss": "xent", "recipe": {**PROBE, "lr": 1.0}}}) == [
        "methods.probe.recipe: lr does not count, since the head is found by a solver"
    ]


def test_models_out_of_order_where_it_decides_who_supervises(told):
    models = {"c": MODELS["c"], "a": MODELS["a"], "b": MODELS["b"]}
    assert told(models=models) == []
    (line,) = told(models=models, methods={"xent": {}, "boot": {"labels": BELOW}})
    assert line.startswith(
        "models: c (11.4M parameters) stands before a (3.8M), and below, in methods.boot.labels, goes"
    )
    assert told(methods={"xent": {}, "boot": {"labels": BELOW}}) == []


def test_supervisors_that_are_the_same_for_some_pairs(told):
    methods = {"xent": {}, "both": {"labels": {"from": ["weak", BELOW]}}}
    assert told(methods=methods) == [
        "methods.both.labels.from: supervisors that are the same one count once: a for b of a, b for c of b"
    ]
    assert told(methods=methods, pairs=[["a", "c"]]) == []


def test_plans_have_notes(tmp_path):
    models = {"tfidf": {"use": "tfidf", "recipe": {"lr": 1e-4}}, "b": MODELS["b"]}
    plan = of_sweep(sweep_of({**BASE, "models": models, "methods": ["xent"]}, tmp_path, "s.yaml"))
    line = "note: models.tfidf.recipe: lr does not count, since tfidf is solved as one convex problem"
    assert line in describe.plan(plan, Store(tmp_path / "store"))


def test_ceilings_that_read_no_label_are_none(told):
    models = {"a": MODELS["a"], "c": {"use": "smollm2", "recipe": {"tune": {"kind": "prompt"}}}}
    xent = {"xent": {"recipe": {"tune": {"kind": "full"}}}}
    (said,) = told(models=models, methods=xent)
    assert said.startswith("models.c.recipe.tune: a prompt without examples reads no label, and so the ceiling of c is")
    shown = {"a": MODELS["a"], "c": {"use": "smollm2", "recipe": {"tune": {"kind": "prompt", "shots": 2}}}}
    assert told(models=shown, methods=xent) == []
    assert told(models={"c": "smollm2", "a": "smollm2"}, methods={"p": {"recipe": {"tune": {"kind": "prompt"}}}}) == []
