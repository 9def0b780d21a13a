"""Plans: equal steps are one step, parents come first, and states are read from the store."""

from __future__ import annotations

import json

import pytest

from w2s.errors import SpecError
from w2s.experiments import expand
from w2s.plan import build, finished, is_done, states, states_of, write
from w2s.spec import FeaturesSpec, MaterializeSpec
from w2s.store import Store
from w2s.sweep import sweep_of

MODELS = {"a": "minilm@1", "b": "minilm@2", "c": "minilm@3"}
BASE = {
    "name": "s",
    "question": "Why?",
    "tasks": ["movie"],
    "sizes": {"weak_train": 8, "transfer": 8, "val": 4, "test": 8},
    "models": MODELS,
    "methods": ["xent", "logconf"],
    "seeds": [0, 1],
}
FROZEN = {
    "models": {"a": "minilm@1", "b": {"use": "minilm@2", "recipe": {"tune": {"kind": "frozen", "layers": 1}}}},
    "engine": {"cache_frozen": True},
}


@pytest.fixture
def planned(tmp_path):
    def make(sets=(), **changes):
        sweep = sweep_of({**BASE, **changes}, tmp_path, sets=sets)
        return build(sweep, expand(sweep))

    return make


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results" / "store")


def finish(store, node, *files):
    with store.staging(node.kind, node.digest) as staged:
        for name in files:
            (staged.folder / name).parent.mkdir(exist_ok=True)
            (staged.folder / name).write_bytes(b"x")
        staged.commit({"spec": {}}, replace=True)


def titles(plan, word):
    return [node.title for node in plan.nodes.values() if node.title.split()[0] == word]


def node_of(plan, title):
    return next(node for node in plan.nodes.values() if node.title == title)


# -- what there is to do ----------------------------------------------------------------------------------------------


def test_every_step_once(planned):
    """3 pairs, 2 methods, 2 seeds: one data step, weak a and b, ceilings b and c, a student per cell."""
    plan = planned()
    counts = {word: len(titles(plan, word)) for word in ("data", "weak", "ceiling", "student")}
    assert counts == {"data": 1, "weak": 2 * 2, "ceiling": 2 * 2, "student": 3 * 2 * 2}
    assert len(plan.nodes) == sum(counts.values())
    assert all(node.digest == digest == node.spec.digest() for digest, node in plan.nodes.items())
    assert len({node.title for node in plan.nodes.values()}) == len(plan.nodes)


def test_cells_are_counted_where_they_meet(planned):
    plan = planned()
    assert node_of(plan, "data movie").cells == 12
    assert node_of(plan, "weak a on movie, seed 0").cells == 4  # to b and to c, by two methods
    assert node_of(plan, "weak b on movie, seed 0").cells == 2
    assert node_of(plan, "ceiling c on movie, seed 1").cells == 4
    assert node_of(plan, "student c of a on movie, logconf, seed 1").cells == 1


def test_names_do_not_make_steps(planned):
    """The same model, task and method under two names: nothing is done twice."""
    twins = planned(models={"a": "minilm@1", "b": "minilm@2", "twin": {"use": "minilm", "layers": 2}},
                    pairs=[["a", "b"], ["a", "twin"]], methods={"xent": {}, "again": "xent"})  # fmt: skip
    assert len(twins.experiments) == 8
    assert len(twins.nodes) == 1 + 2 + 2 + 2
    assert set(planned(methods=["xent"]).nodes) < set(planned().nodes)


def test_a_seed_more_adds_the_steps_of_that_seed(planned):
    before, after = planned(), planned(["seeds=[0,1,2]"])
    added = [node.title for digest, node in after.nodes.items() if digest not in before.nodes]
    assert set(before.nodes) < set(after.nodes)
    assert len(added) == 2 + 2 + 6
    assert all(title.endswith("seed 2") for title in added)


@pytest.mark.parametrize("changes", [{}, FROZEN])
def test_parents_come_first_and_are_in_the_plan(changes, planned):
    plan = planned(**changes)
    seen: set[str] = set()
    for digest, node in plan.nodes.items():
        assert set(node.parents) <= seen
        assert node.parents == node.spec.parents
        seen.add(digest)


def test_frozen_layers_are_a_step_shared_by_ceiling_and_students(planned):
    """Of b's lowest layer: test, val and transfer, once for both seeds and methods; a trains all, so it has none."""
    plan = planned(**FROZEN)
    trunks = [node for node in plan.nodes.values() if isinstance(node.spec, FeaturesSpec)]
    assert sorted(node.spec.split for node in trunks) == ["test", "transfer", "val"]
    assert {(node.spec.model.name, node.spec.model.layers) for node in trunks} == {("b", 1)}
    assert {node.cells for node in trunks} == {4}
    users = [node for node in plan.nodes.values() if set(node.parents) & {t.digest for t in trunks}]
    assert sorted({node.title.split()[0] for node in users}) == ["ceiling", "student"]
    assert len(users) == 2 + 4
    without = planned(["engine.cache_frozen=false"], **FROZEN)
    assert {n.digest for n in without.nodes.values()} == set(plan.nodes) - {t.digest for t in trunks}


# -- states -----------------------------------------------------------------------------------------------------------


def test_states_are_read_from_the_store(planned, store):
    plan = planned(seeds=[0])
    assert set(states(plan, store).values()) == {"waiting"}
    data, weak = node_of(plan, "data movie"), node_of(plan, "weak a on movie, seed 0")
    ceiling = node_of(plan, "ceiling b on movie, seed 0")
    finish(store, data, "test.parquet")
    store.fail(weak.digest, "NaN")
    claim = store.claim(ceiling.digest)
    found = {plan.nodes[digest].title: state for digest, state in states(plan, store).items()}
    claim.release()
    assert found.pop("data movie") == "done"
    assert found.pop("weak a on movie, seed 0") == "failed"
    assert found.pop("ceiling b on movie, seed 0") == "running"
    blocked = {title for title, state in found.items() if state == "blocked"}
    assert blocked == {title for title in found if " of a on" in title}
    assert {state for title, state in found.items() if title not in blocked} == {"waiting"}


def test_steps_in_a_queue_are_queued_whatever_became_of_earlier_tries(planned, store):
    """Unless they are done, or somebody is at work on them; what needs them waits."""
    plan = planned(seeds=[0])
    data, weak = node_of(plan, "data movie"), node_of(plan, "weak a on movie, seed 0")
    ceiling, other = node_of(plan, "ceiling b on movie, seed 0"), node_of(plan, "ceiling c on movie, seed 0")
    finish(store, data)
    for node in (weak, other):
        store.fail(node.digest, "an earlier try")
    claim = store.claim(ceiling.digest)
    found = states(plan, store, queued=[data.digest, weak.digest, ceiling.digest])
    alone = states(plan, store)
    claim.release()
    assert (found[data.digest], found[weak.digest], found[ceiling.digest]) == ("done", "queued", "running")
    assert found[other.digest] == alone[other.digest] == alone[weak.digest] == "failed"
    students = {n.title: (found[n.digest], alone[n.digest]) for n in plan.nodes.values() if " of a on" in n.title}
    assert set(students.values()) == {("waiting", "blocked")}  # without the queue: their supervisor failed


def test_states_are_told_from_a_listing_and_work_from_manifests(planned, store):
    """Somebody took a manifest away: `w2s status` need not know, who is to do the step does, and so does verify."""
    plan = planned(seeds=[0])
    data = node_of(plan, "data movie")
    finish(store, data, "test.parquet")
    assert finished(plan, store) == {data.digest}
    (store.path(data.kind, data.digest) / "manifest.json").unlink()
    assert states(plan, store)[data.digest] == "done"
    assert finished(plan, store) == {data.digest}
    assert not is_done(data, store)
    assert store.damage(data.kind, data.digest)


def test_states_of_recorded_steps_share_one_overview(planned, store):
    plan = planned(seeds=[0])
    finish(store, node_of(plan, "data movie"))
    overview = store.overview()
    finish(store, node_of(plan, "weak a on movie, seed 0"))  # too late for that overview
    steps = [(n.digest, n.parents, n.digest in overview.finished) for n in plan.nodes.values()]
    assert list(states_of(steps, store, overview=overview).values()).count("done") == 1
    assert list(states(plan, store).values()).count("done") == 2


def test_what_is_there_is_done_whatever_became_of_later_tries_or_parents(planned, store):
    plan = planned(seeds=[0])
    weak = node_of(plan, "weak a on movie, seed 0")
    finish(store, weak)
    store.fail(weak.digest, "a later try")
    store.fail(node_of(plan, "data movie").digest, "gone")
    found = states(plan, store)
    assert found[weak.digest] == "done"
    assert found[node_of(plan, "ceiling b on movie, seed 0").digest] == "blocked"


def test_keep_weights_makes_train_steps_without_weights_to_do_again_and_no_other(planned, store):
    plain, keeping = planned(seeds=[0]), planned(["keep_weights=true"], seeds=[0])
    assert set(plain.nodes) == set(keeping.nodes)
    for node in plain.nodes.values():
        finish(store, node, "metrics.json")
    assert all(is_done(node, store) for node in plain.nodes.values())
    assert [n.title for n in keeping.nodes.values() if is_done(n, store)] == ["data movie"]
    weak = node_of(keeping, "weak a on movie, seed 0")
    finish(store, weak, "metrics.json", "model/trained.safetensors")
    assert is_done(weak, store)
    assert is_done(node_of(plain, weak.title), store)
    for plan in (plain, keeping):
        assert finished(plan, store) == {digest for digest, node in plan.nodes.items() if is_done(node, store)}


# -- plan.json --------------------------------------------------------------------------------------------------------


def test_plan_json_has_all_that_the_tables_need(planned, tmp_path):
    plan = planned(["seeds=[7]"], pairs=[["a", "b"]], methods=["logconf"])
    assert write(plan, tmp_path / "new" / "s") == tmp_path / "new" / "s" / "plan.json"
    record = json.loads((tmp_path / "new" / "s" / "plan.json").read_text())
    assert (record["name"], record["question"]) == ("s", "Why?")
    assert record["sweep"]["seeds"] == [7]
    assert [(s["digest"], s["parents"], s["cells"]) for s in record["steps"]] == [
        (n.digest, list(n.parents), 1) for n in plan.nodes.values()
    ]
    assert [s["kind"] for s in record["steps"]] == ["materialize", "train", "train", "train"]
    [cell] = record["cells"]
    digests = cell.pop("digests")
    assert cell == {
        "task": "movie", "weak": "a", "student": "b", "method": "logconf", "seed": 7, "selection": "final",
        "metric": "accuracy", "n_classes": 2, "weak_params": round(22713216 / 6), "student_params": 22713216 // 3,
    }  # fmt: skip
    roles = {"data": "data movie", "weak": "weak a on movie, seed 7", "ceiling": "ceiling b on movie, seed 7",
             "student": "student b of a on movie, logconf, seed 7"}  # fmt: skip
    assert digests == {**{role: node_of(plan, title).digest for role, title in roles.items()}, "labels": ""}


def test_plan_json_has_a_line_for_each_step_and_cell(planned, tmp_path):
    plan = planned(question='"Why"?\nü')
    text = write(plan, tmp_path / "s").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["question"] == '"Why"?\nü'
    lines = [line.strip().removesuffix(",") for line in text.splitlines()]
    for item in record["steps"] + record["cells"]:
        assert json.dumps(item, ensure_ascii=False) in lines
    assert text.endswith("}\n")


EVALUATED = {"selections": ["final", "weak_val", "oracle"], "recipe": {"eval_every": 10}}


def test_selections_are_cells_and_no_steps(planned, tmp_path):
    plain, plan = planned(recipe=EVALUATED["recipe"]), planned(**EVALUATED)
    assert list(plan.nodes.values()) == list(plain.nodes.values())
    cells = json.loads(write(plan, tmp_path / "s").read_text())["cells"]
    once = json.loads(write(plain, tmp_path / "s").read_text())["cells"]
    assert {cell["selection"] for cell in once} == {"final"}
    assert cells == [{**cell, "selection": s} for cell in once for s in EVALUATED["selections"]]


def test_evaluating_is_part_of_what_a_step_is(planned):
    """Its artifact holds more, so it is another one; where only students are evaluated the others are shared."""
    all_of_them, students = planned(["recipe.eval_every=10"]), planned(["methods.xent.recipe.eval_every=10"])
    before = planned()
    assert [n.title for d, n in all_of_them.nodes.items() if d in before.nodes] == ["data movie"]
    new = [n.title for d, n in students.nodes.items() if d not in before.nodes]
    assert len(new) == 3 * 2
    assert all(title.startswith("student") and "xent" in title for title in new)


@pytest.mark.parametrize("selection", ["weak_val", "oracle"])
def test_choosing_needs_evaluations_to_choose_from(planned, selection):
    with pytest.raises(SpecError) as caught:
        planned(selections=["final", selection])
    assert len(caught.value.problems) == 2
    for method, problem in zip(("xent", "logconf"), caught.value.problems, strict=True):
        assert f"selections: {selection} " in problem
        assert problem.endswith(f"write methods.{method}.recipe.eval_every: N, in optimizer steps")
    planned(["methods.xent.recipe.eval_every=5", "methods.logconf.recipe.eval_every=5"], selections=[selection])


def test_students_without_evaluations_are_named(planned):
    models = {**MODELS, "b": {"use": "minilm@2", "recipe": {"eval_every": 7}}}
    with pytest.raises(SpecError, match=r"methods\.xent makes none for c; write methods\.xent\.recipe\.eval_every: N"):
        planned(models=models, methods=["xent"], selections=["weak_val"])
    planned(models=models, methods=["xent"], selections=["weak_val"], pairs=[["a", "b"]])  # c is no student, nor is a


@pytest.mark.parametrize(
    ("selections", "said"),
    [
        (["oracle", "final", "oracle"], "selections: oracle is given twice"),
        (["best"], "selections"),
        ([], "selections: expected at least 1"),
        ("final", "selections: expected a list"),
    ],
)
def test_wrong_selections_are_refused(planned, selections, said):
    with pytest.raises(SpecError, match=said):
        planned(**{**EVALUATED, "selections": selections})


def test_the_recorded_sweep_plans_the_same_steps_again(planned, tmp_path):
    plan = planned(["recipe.lr=1e-3"])
    record = json.loads(write(plan, tmp_path / "s").read_text())
    again = sweep_of(record["sweep"], tmp_path)
    assert list(build(again, expand(again)).nodes) == list(plan.nodes)


def test_data_steps_of_two_tasks_are_two(planned):
    plan = planned(tasks=["movie", "nyt"])
    assert [n.title for n in plan.nodes.values() if isinstance(n.spec, MaterializeSpec)] == ["data movie", "data nyt"]
