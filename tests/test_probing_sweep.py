"""Probes, words and activations as written in a sweep: what they lead to, what is shared, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from w2s.errors import SpecError
from w2s.estimate import costs
from w2s.experiments import expand
from w2s.plan import build
from w2s.spec import FeaturesSpec, LabelsSpec, Made, Probe, Recipe, TrainSpec
from w2s.store import Store
from w2s.supervision import Knn, LogisticProbe, TopoFilter
from w2s.sweep import sweep_of

SIZES = {"weak_train": 8, "transfer": 8, "val": 4, "test": 8}
MODELS: dict[str, dict[str, Any]] = {
    "words": {"use": "tfidf"},
    "small": {"use": "minilm", "layers": 2},
    "large": {"use": "smollm2", "layers": 20},
}
BASE = {"name": "s", "tasks": ["movie"], "sizes": SIZES, "models": MODELS, "pairs": [["small", "large"]]}


@pytest.fixture
def made(tmp_path):
    """Methods and other changes of a sweep -> its plan, and its cells."""

    def of(methods, **changes):
        cells = expand(sweep := sweep_of({**BASE, "methods": methods, **changes}, tmp_path, "s.yaml"))
        return build(sweep, cells), cells

    return of


@pytest.fixture
def refused(made):
    """The problems of a sweep, without the name of its file."""

    def of(methods, **changes):
        with pytest.raises(SpecError) as caught:
            made(methods, **changes)
        return [problem.removeprefix("s.yaml: ") for problem in caught.value.problems]

    return of


def by(*transforms, **more):
    return {"m": {"labels": {"transforms": list(transforms)}, **more}}


def made_by(plan, cell):
    """The labels step of a cell, and its features steps."""
    spec = plan.nodes[cell.digests.labels].spec
    assert isinstance(spec, LabelsSpec)
    assert cell.student_step.labels == Made(labels=spec.digest())
    return spec, [plan.nodes[digest].spec for digest in spec.features]


def test_a_transform_reads_the_middle_of_the_untuned_student(made):
    plan, (cell,) = made(by({"knn": "relabel"}))
    spec, features = made_by(plan, cell)
    (transform,) = spec.transforms
    assert isinstance(transform, Knn)
    assert (transform.do, transform.k, transform.keep) == ("relabel", 20, None)
    assert [step.split for step in features] == ["transfer", "val"]
    assert all(step.pooled and step.model.layers == 15 and step.model.pooling == "auto" for step in features)
    assert features[0].model.source == cell.student_step.model.source
    order = list(plan.nodes)
    assert max(order.index(digest) for digest in spec.features) < order.index(spec.digest())
    assert [plan.nodes[digest].title for digest in spec.features] == [
        f"features of large, lowest 15 layers, pooled, on movie, {split}" for split in ("transfer", "val")
    ]
    assert plan.nodes[spec.digest()].title == "labels on movie: small; knn relabel by large, seed 0"


@pytest.mark.parametrize(
    ("fields", "layers", "pooling"),
    [
        ({"layer": 0.25}, 5, "auto"),
        ({"layer": 7, "pooling": "mean"}, 7, "mean"),
        ({"layer": 0.01}, 1, "auto"),
        ({"layer": 1.0}, 20, "auto"),
        ({}, 15, "auto"),
        ({"model": "small"}, 2, "auto"),  # 0.75 of two layers, half up
    ],
)
def test_whose_activations_of_which_layer(made, fields, layers, pooling):
    plan, (cell,) = made(by({"logistic": {"do": "filter", "keep": 0.8, **fields}}))
    spec, features = made_by(plan, cell)
    assert isinstance(spec.transforms[0], LogisticProbe)
    assert {(step.model.layers, step.model.pooling) for step in features} == {(layers, pooling)}


def test_a_probe_and_a_transform_share_the_features_of_all_layers(made):
    probe = {"recipe": {"tune": {"kind": "probe", "solver": "logistic"}}}
    plan, (cell,) = made(by({"topofilter": {"keep": 0.9, "layer": 20}}, **probe))
    spec, _ = made_by(plan, cell)
    assert spec.transforms == (TopoFilter(features=spec.features, keep=0.9),)
    assert set(spec.features) <= set(cell.student_step.parents)
    assert len([1 for node in plan.nodes.values() if node.kind == "features"]) == 3  # and those of test


def test_seeds_and_methods_share_features_and_what_draws_nothing(made):
    methods = {
        "xent": {},
        "a": {"labels": {"transforms": [{"knn": "relabel"}]}},
        "b": {"labels": {"transforms": [{"topofilter": 0.9}]}},
    }
    plan, _ = made(methods, seeds=[0, 1], pairs=[["words", "large"]])
    kinds = [node.kind for node in plan.nodes.values()]
    assert kinds.count("features") == 2
    assert kinds.count("labels") == 2  # of the same words whatever the seed
    weak = [node for node in plan.nodes.values() if node.title.startswith("weak words")]
    assert [node.spec.seed for node in weak] == [0]
    assert kinds.count("train") == 1 + 2 + 6


def test_of_a_solved_recipe_only_what_counts_is_kept(made):
    probe = {"kind": "probe", "solver": "logistic", "l2": 0.5}
    models = {**MODELS, "large": {**MODELS["large"], "recipe": {"tune": probe}}}
    found = []
    for lr, epochs in ((1e-3, 2), (1e-2, 7)):
        plan, (cell,) = made(
            {"xent": {}}, models=models, recipe={"lr": lr, "epochs": epochs}, pairs=[["words", "large"]]
        )
        assert cell.student_step.recipe == Recipe(tune=Probe(solver="logistic", l2=0.5))
        assert cell.weak_step.recipe == Recipe(tune=Probe(solver="logistic"))
        found.append(set(plan.nodes))
    assert found[0] == found[1]


def test_words_have_no_files_to_fetch_and_no_features(made, tmp_path):
    plan, (cell,) = made({"xent": {}}, pairs=[["words", "large"]])
    assert cell.weak_step.model.source is None
    assert cell.weak_step.parents == (cell.digests.data,)
    found = costs(plan, Store(tmp_path / "store"))[cell.digests.weak]
    assert (found.tokens, found.flops) == (0.0, 0.0)
    assert found.seconds is not None


def test_features_of_solved_probes_are_cached_whatever_the_engine(made):
    probe = {"recipe": {"tune": {"kind": "probe", "solver": "logistic"}}}
    for engine in ({}, {"mixed_precision": "bf16"}):
        _, (cell,) = made({"xent": probe}, engine=engine)
        own = cell.student_step.features()
        assert {type(step) for step in own.values()} == {FeaturesSpec}
        assert {step.engine.mixed_precision for step in own.values()} == {engine.get("mixed_precision", "no")}


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        ({"knn": None}, "knn needs a value, such as {knn: relabel}"),
        ({"knn": "relable"}, ".knn.do: expected 'relabel' or 'filter' (got 'relable')"),
        ({"knn": "filter"}, ".knn: filter needs `keep`, the share of examples to keep, such as 0.9"),
        ({"knn": {"do": "relabel", "layer": 0}}, ".knn.layer: expected a share of the layers from below, such as 0.5, "
         "or their number (got 0)"),
        ({"knn": {"do": "relabel", "layer": 21}}, ".knn.layer: large has 20 layers (got 21)"),
        ({"knn": {"do": "relabel", "model": "smal"}}, ".knn.model: no model 'smal' (did you mean small?)"),
        ({"knn": {"do": "relabel", "model": "words"}}, ".knn.model: words has counts of words, no activations"),
        ({"knn": {"do": "relabel", "pooling": "max"}}, ".knn.pooling: no 'max'"),
        ({"knn": {"do": "relabel", "features": ["a", "b"]}}, ".knn.features: unknown field; say with `model`, `layer` "
         "and `pooling` what they are of"),
        ({"topofilter": {"keep": 2}}, ".topofilter.keep: expected 1 or less (got 2)"),
        ({"nn": "relabel"}, ": no transform 'nn' (did you mean knn?)"),
    ],
)  # fmt: skip
def test_transforms_that_are_written_wrong(refused, transform, problem):
    assert any(problem in one for one in refused(by(transform))), refused(by(transform))


def test_every_problem_is_told_at_once(refused):
    found = refused(by({"knn": {"do": "relabel", "layer": 21}}, {"topofilter": {"keep": 0.5, "model": "x"}}))
    assert len(found) == 1  # the one that needs no names of models looked up
    assert refused(by({"knn": {"do": "x", "layer": -1, "model": "y", "k": 0}}))[1:]


def test_comparisons_have_no_single_texts(refused):
    found = refused(by({"knn": "relabel"}), tasks=["movie_pairs"])
    assert found == ["methods.m.labels.transforms[0].knn: movie_pairs compares texts, and neighbours and probes are of "
                     "single texts; leave it out"]  # fmt: skip


def test_models_of_unknown_depth_need_a_number(refused, made):
    models = {**MODELS, "large": {"use": "org/unheard-of"}}
    found = refused(by({"knn": "relabel"}), models=models)
    where = "methods.m.labels.transforms[0].knn.layer"
    assert found == [f"{where}: how many layers large has is not known; give a number of layers (got 0.75)"]
    plan, (cell,) = made(by({"knn": {"do": "relabel", "layer": 4}}), models=models)
    assert {step.model.layers for step in made_by(plan, cell)[1]} == {4}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"methods": {"logconf": {}}, "pairs": [["small", "words"]]},
            "methods.logconf.loss: words has counts of words",
        ),
        (
            {"methods": {"logconf": {"recipe": {"tune": {"kind": "probe", "solver": "logistic"}}}}},
            "methods.logconf.loss: large is a probe by solver: logistic",
        ),
        ({"recipe": {"tune": {"kind": "probe", "l2": 0.1}}}, "l2 is for solver: logistic"),
        ({"models": {**MODELS, "words": {"use": "tfidf", "layers": 2}}}, "counts of words have no layers"),
        (
            {"models": {**MODELS, "words": {"use": "tfidf", "words": {"ngrams": [2, 1]}}}},
            "1 <= least <= most (got [2, 1])",
        ),
    ],
)
def test_what_a_solver_cannot_do(refused, changes, problem):
    changes = {"methods": {"xent": {}}, **changes}
    found = refused(changes.pop("methods"), **changes)
    assert any(problem in one for one in found), found


def test_a_batch_that_cannot_be_shared_does_not_matter_to_a_solver(made):
    probe = {"tune": {"kind": "probe", "solver": "logistic"}}
    _, cells = made({"xent": {}}, recipe=probe, engine={"processes": 3, "device": "cpu"})
    assert isinstance(cells[0].student_step, TrainSpec)


def test_solved_probes_alone_are_no_reason_for_a_cache(refused):
    probe = {"tune": {"kind": "probe", "solver": "logistic"}}
    (problem,) = refused({"xent": {}}, recipe=probe, engine={"cache_frozen": True})
    assert problem.startswith("engine.cache_frozen: no recipe freezes")
