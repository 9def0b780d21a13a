"""`start` in a sweep: which steps it leads to, what they share, what is kept, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from w2s.errors import SpecError
from w2s.estimate import costs
from w2s.execute.schedule import Schedule
from w2s.experiments import expand
from w2s.plan import build, write
from w2s.spec import FeaturesSpec, Full, LanguageSpec, TrainSpec
from w2s.store import Store
from w2s.sweep import sweep_of

READS = {"language": {"recipe": {"epochs": 1, "lr": 1e-4}}}
FROZEN = {"tune": {"kind": "frozen", "layers": 4}}
SWEEP: dict[str, Any] = {
    "name": "s",
    "tasks": ["movie"],
    "sizes": {"weak_train": 10, "transfer": 20, "val": 4, "test": 10},
    "models": {
        "tiny": {"use": "minilm", "layers": 2},
        "plain": {"use": "smollm2", "layers": 6, "recipe": FROZEN},
        "reader": {"use": "smollm2", "layers": 6, "start": READS, "recipe": FROZEN},
    },
    "pairs": [["tiny", "plain"], ["tiny", "reader"]],
    "methods": ["xent"],
    "recipe": {"batch_size": 4, "epochs": 3, "eval_every": 2},
}
SOLVER = {"tune": {"kind": "probe", "solver": "logistic"}}
AFTER = {"start": {"method": "xent"}, "labels": "truth", "recipe": SOLVER}


def swept(**changes):
    return sweep_of({**SWEEP, **changes}, Path("."))


def planned(**changes):
    sweep = swept(**changes)
    return build(sweep, expand(sweep))


def by_title(plan):
    return {node.title: node for node in plan.nodes.values() if not isinstance(node.spec, FeaturesSpec)}


def problems(**changes):
    with pytest.raises(SpecError) as caught:
        swept(**changes)
    return [problem.removeprefix("sweep: ") for problem in caught.value.problems]


def model(**fields):
    return {**SWEEP["models"], "reader": {**SWEEP["models"]["reader"], **fields}}


def test_student_and_ceiling_begin_from_one_step_that_reads_texts():
    plan = planned(seeds=[0, 1], methods=["xent", "logconf"])
    Schedule(plan.nodes.values())  # parents come first
    nodes = by_title(plan)
    language = nodes["language reader on movie, seed 0"]
    assert [title for title, node in nodes.items() if node.kind == "language"] == [
        "language reader on movie, seed 0",
        "language reader on movie, seed 1",
    ]
    begun = [title for title, node in nodes.items() if language.digest in node.parents]
    assert sorted(begun) == [
        "ceiling reader on movie, seed 0",
        "student reader of tiny on movie, logconf, seed 0",
        "student reader of tiny on movie, xent, seed 0",
    ]
    assert language.parents == (nodes["data movie"].digest,)
    assert language.cells == 2  # of two methods
    other = sweep_of(
        {**SWEEP, "models": {k: v for k, v in SWEEP["models"].items() if k != "reader"}, "pairs": "all_upper"},
        Path("."),
    )
    assert set(build(other, expand(other)).nodes) < set(plan.nodes)  # nothing else has another digest


def test_a_supervisor_of_that_name_begins_there_too():
    nodes = by_title(planned(pairs=[["reader", "plain"], ["tiny", "plain"]], methods={
        "xent": {}, "other": {"labels": {"from": ["weak", "reader"]}}}))  # fmt: skip
    language = nodes["language reader on movie, seed 0"].digest
    assert language in nodes["weak reader on movie, seed 0"].parents
    only = by_title(planned(pairs=[["tiny", "plain"]], methods={"other": {"labels": {"from": ["weak", "reader"]}}}))
    assert "language reader on movie, seed 0" in only  # of a supervisor beside the pair


def test_the_recipe_of_reading_is_the_sweeps_and_its_own_without_what_is_about_classes():
    step = next(n.spec for n in planned().nodes.values() if isinstance(n.spec, LanguageSpec))
    recipe = step.recipe
    assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.eval_every) == (1, 1e-4, 4, None)
    assert recipe.tune == Full()  # frozen is for the model's trainings on labels
    assert step.splits == ("transfer",)
    both = swept(models=model(start={"language": {"on": ["transfer", "weak_train"]}})).languages["reader"]
    assert both.splits == ("weak_train", "transfer")  # an order of its own: it changes nothing


def test_probes_after_weak_training_begin_from_the_pairs_student_whose_weights_are_kept():
    plan = planned(methods={"xent": {}, "before": {"labels": "truth", "recipe": SOLVER}, "after": AFTER})
    Schedule(plan.nodes.values())
    nodes = by_title(plan)
    for name in ("plain", "reader"):
        weak = nodes[f"student {name} of tiny on movie, xent, seed 0"]
        after = nodes[f"student {name} of tiny on movie, after, seed 0"].spec
        before = nodes[f"student {name} of tiny on movie, before, seed 0"].spec
        assert weak.spec.keep_weights
        assert after.start[-1].step == weak.digest
        assert after.start[:-1] == weak.spec.start == before.start
        assert all(weak.digest in step.parents for step in after.features().values())
        assert set(after.features()) == set(before.features())
    kept = {title for title, node in nodes.items() if isinstance(node.spec, TrainSpec) and node.spec.keep_weights}
    assert len(kept) == 2  # and no others'
    titles = [node.title for node in plan.nodes.values() if isinstance(node.spec, FeaturesSpec)]
    assert len(titles) == len(set(titles)) == 12


def test_weights_are_kept_whichever_cell_comes_first():
    methods = {"after": AFTER, "again": {"labels": {"from": {"student": "same", "method": "xent"}}}, "xent": {}}
    for order in (list(methods), list(methods)[::-1]):
        nodes = by_title(planned(methods={name: methods[name] for name in order}, seeds=[0, 1]))
        assert nodes["student plain of tiny on movie, xent, seed 1"].spec.keep_weights


def test_the_cost_of_reading_is_known_before_it_is_done(tmp_path):
    plan = planned()
    found = costs(plan, Store(tmp_path / "store"))
    node = next(n for n in plan.nodes.values() if n.kind == "language")
    # 20 texts of 64 tokens once, 4 texts twice; 2 FLOPs per parameter and token forward, 4 more backward.
    params = round(134_515_008 * 6 / 30)
    assert found[node.digest].tokens == (20 + 2 * 4) * 64
    assert found[node.digest].flops == params * (2 * (20 + 8) + 4 * 20) * 64


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"method": "xent"}, ["models.reader.start.language: missing", "models.reader.start.method: unknown field"]),
        ({"language": {"on": "test"}}, ["models.reader.start.language.on: expected"]),
        ({"language": {"on": []}}, ["models.reader.start.language.on: an empty list; name weak_train, transfer"]),
        ({"language": {"on": ["transfer", "transfer"]}}, ["models.reader.start.language.on: transfer is given twice"]),
        ({"language": {"recipe": {"lr": -1}}}, ["models.reader.start.language.recipe.lr: expected more than 0"]),
        ({"language": {"recipe": {"loss": "gce"}}}, ["models.reader.start.language.recipe.loss: what is learned is"]),
        ({"language": {"recipe": {"eval_every": 2}}}, ["models.reader.start.language.recipe.eval_every: val is read"]),
        ({"language": {"recipe": SOLVER}}, ["models.reader.start.language.recipe.tune: probe trains no layers"]),
        (
            {"language": {"recipe": {"tune": {"kind": "frozen", "layers": 7}}}},
            ["models.reader.start.language.recipe.tune.layers: cannot freeze 7 layers of a model that keeps 6"],
        ),
        (
            {"language": {"recipe": {"batch_size": 9}}},
            ["engine.processes: batch_size 9 (of reader.start.language) cannot be shared evenly by 2 processes"],
        ),
    ],
)
def test_what_reading_cannot_be_is_told_with_its_place(start, message):
    engine = {"processes": 2} if "batch_size" in str(start) else {}
    found = problems(models=model(start=start), engine=engine)
    assert len(found) == len(message)
    for line, wanted in zip(found, message, strict=True):
        assert line.startswith(wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": model(use="minilm", recipe={})}, "models.reader.start.language: reader is an encoder, which"),
        ({"models": {**model(), "reader": {"use": "tfidf", "start": READS}}, "recipe": {}}, "models.reader.start.lang"),
        ({"engine": {"zero_stage": 3}}, "engine.zero_stage: 3 cuts apart the language-model head that models.reader"),
        ({"methods": {"after": {**AFTER, "start": {"method": "xnt"}}, "xent": {}}},
         "methods.after.start.method: no method 'xnt' (did you mean xent?)"),
        ({"methods": {"after": {**AFTER, "start": "xent"}, "xent": {}}}, "methods.after.start: expected a mapping"),
        ({"methods": {"xent": {"recipe": SOLVER}, "after": AFTER}},
         "methods.after.start.method: plain by xent trains no layers (tune: probe)"),
        ({"models": {**model(), "plain": "tfidf"}, "methods": {"xent": {}, "after": AFTER}, "recipe": {}},
         "methods.after.start.method: plain has counts of words, no weights to begin from"),
        ({"methods": {"after": {"start": {"method": "after"}}}},
         "methods.after.start: leads back to itself: after -> after; leave out the start"),
        ({"methods": {"a": {"start": {"method": "b"}}, "b": {"start": {"method": "a"}}}},
         "methods.a.start: leads back to itself: a -> b -> a"),
        ({"methods": {"a": {"start": {"method": "b"}}, "b": {"labels": {"from": {"student": "same", "method": "a"}}}}},
         "methods.a.start: leads back to itself: a -> b -> a; leave out the start of one of them, or let it learn"),
    ],
)  # fmt: skip
def test_starts_without_a_beginning_or_without_weights_are_refused(changes, message):
    found = problems(**changes)
    assert [line for line in found if line.startswith(message)], found


def test_all_that_is_wrong_is_told_at_once():
    found = problems(
        models=model(start={"language": {"on": "val"}}), methods={"after": {**AFTER, "start": {"method": "x"}}}
    )
    assert len(found) == 2


def test_a_wrong_start_is_told_beside_what_else_is_wrong_with_the_file():
    found = problems(models=model(start={"language": {"on": "val"}}), seeds=["a"])
    assert [line.split(":")[0] for line in found] == ["seeds[0]", "models.reader.start.language.on"]


def test_starts_of_starts_are_chained():
    methods = {"xent": {}, "second": {"start": {"method": "xent"}}, "third": {"start": {"method": "second"}}}
    nodes = by_title(planned(methods=methods, pairs=[["tiny", "reader"]]))
    digests = [nodes[f"student reader of tiny on movie, {name}, seed 0"].digest for name in methods]
    third = nodes["student reader of tiny on movie, third, seed 0"].spec
    assert [(start.kind, start.step) for start in third.start] == [
        ("language", nodes["language reader on movie, seed 0"].digest),
        ("train", digests[0]),
        ("train", digests[1]),
    ]
    assert [start.lowest for start in third.start] == [0, 4, 4]


def test_a_plan_tells_in_whom_ground_truth_had_a_part_and_who_read_no_label(tmp_path):
    """By whatever way it came: own labels, a start, a supervisor."""
    by = {
        "xent": {},
        "oracle": {"labels": "truth"},
        "mixed": {"labels": {"transforms": [{"mix_truth": 0.1}]}},
        "taught": {"labels": {"from": {"student": "same", "method": "oracle"}}},
        "begun": {"start": {"method": "oracle"}},
        "majority": {"labels": "majority"},
        "asked": {"recipe": {"tune": {"kind": "prompt"}}},
        "asked_after": {"start": {"method": "xent"}, "recipe": {"tune": {"kind": "prompt"}}},
        "asked_after_truth": {"start": {"method": "oracle"}, "recipe": {"tune": {"kind": "prompt"}}},
    }
    file = write(planned(methods=by, recipe={"batch_size": 4}), tmp_path)
    told = {(cell["student"], cell["method"]): cell.get("taught", "") for cell in json.loads(file.read_text())["cells"]}
    truth = dict.fromkeys(("oracle", "mixed", "taught", "begun", "asked_after_truth"), "truth")
    for model_name in ("plain", "reader"):  # texts without labels, which the second one read, teach nothing
        assert {m: told[model_name, m] for m in by} == {**dict.fromkeys(by, ""), **truth, "asked": "nothing"}
