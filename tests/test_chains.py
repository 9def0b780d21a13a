"""Where a method's labels come from: every form, what it leads to for each pair, what is shared, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from w2s.chains import Chains, title_of
from w2s.cost import kept_params
from w2s.errors import SpecError
from w2s.estimate import costs
from w2s.experiments import expand
from w2s.labelling import labelling_of
from w2s.plan import build, write
from w2s.spec import LabelsSpec, Made, TrainSpec, Truth, Weak
from w2s.store import Store
from w2s.supervision import (
    Confident,
    Harden,
    MajorityLabels,
    MixTruth,
    SimulatedLabels,
    Subsample,
    SupervisorLabels,
    TruthLabels,
)
from w2s.sweep import sweep_of

SIZES = {"weak_train": 8, "transfer": 8, "val": 4, "test": 8}
MODELS = {name: {"use": "minilm", "layers": layers} for layers, name in enumerate("abcd", 1)}
BASE = {"name": "s", "tasks": ["movie"], "sizes": SIZES, "models": MODELS, "pairs": [["a", "d"]]}


@pytest.fixture
def made(tmp_path):
    """Methods and other changes of a sweep -> its plan, and its cells by method (of the last pair and seed)."""

    def of(methods, **changes):
        sweep = sweep_of({**BASE, "methods": methods, **changes}, tmp_path, "s.yaml")
        cells = expand(sweep)
        return build(sweep, cells), {cell.method: cell for cell in cells}

    return of


@pytest.fixture
def labels_of(made):
    """A `labels` block -> the spec of the labels step of the student."""

    def of(labels, **more):
        plan, cells = made({"xent": {}, "m": {"labels": labels, **more}})
        found = plan.nodes[cells["m"].digests.labels].spec
        assert isinstance(found, LabelsSpec)
        whole = labels in ("truth", {"from": "truth"})  # which a ceiling learns as well
        assert cells["m"].student_step.labels == (Truth() if whole else Made(labels=found.digest()))
        return found

    return of


@pytest.fixture
def problems(tmp_path):
    def of(methods, **changes):
        with pytest.raises(SpecError) as caught:
            sweep_of({**BASE, "methods": methods, **changes}, tmp_path, "s.yaml")
        return [line.removeprefix("s.yaml: ") for line in caught.value.problems]

    return of


def titles(plan, kind=""):
    return [node.title for node in plan.nodes.values() if node.title.startswith(kind)]


def node(plan, title):
    return next(node for node in plan.nodes.values() if node.title == title)


# -- what needs no labels step ------------------------------------------------------------------------------------


def test_without_labels_a_student_learns_from_the_weak_model_as_ever(made):
    plan, cells = made({"xent": {}, "hard": {"loss": "xent", "hard_labels": True}, "said": {"labels": "weak"}})
    weak = cells["xent"].digests.weak
    assert cells["xent"].student_step.labels == cells["said"].student_step.labels == Weak(supervisor=weak)
    assert cells["hard"].student_step.labels == Weak(supervisor=weak, hard=True)
    assert {cell.digests.labels for cell in cells.values()} == {""}
    assert titles(plan, "labels") == []
    assert len(titles(plan, "student")) == 2


@pytest.mark.parametrize("labels", [{"transforms": ["harden"]}, {"from": "weak", "transforms": [{"harden": None}]}])
def test_hard_labels_of_one_supervisor_are_one_step_however_they_are_asked_for(made, labels):
    _, cells = made({"hard": {"loss": "xent", "hard_labels": True}, "h": {"labels": labels}})
    assert cells["hard"].digests.student == cells["h"].digests.student


@pytest.mark.parametrize(
    "labels",
    ["majority", {"from": ["weak", "b"], "combine": "vote"}, {"transforms": ["harden", {"confident": 0.5}]}],
)
def test_labels_that_are_hard_already_are_one_step_with_and_without_hard_labels(made, labels):
    _, cells = made({"m": {"labels": labels}, "n": {"labels": labels, "hard_labels": True}})
    assert cells["m"].digests == cells["n"].digests
    _, cells = made({"m": {"labels": ["weak", "b"]}, "n": {"labels": ["weak", "b"], "hard_labels": True}})
    assert cells["m"].digests.labels != cells["n"].digests.labels


def test_a_method_about_labels_has_any_name_and_the_loss_of_that_name_where_there_is_one(made):
    _, cells = made({"mine": {"labels": "weak"}, "logconf": {"labels": "weak"}, "p": {"loss": "kl", "labels": "weak"}})
    assert [cells[m].student_step.recipe.loss.name for m in cells] == ["xent", "logconf", "kl"]


def test_another_model_as_supervisor_is_a_weak_model_like_any(made):
    plan, _ = made({"m": {"labels": "b"}}, pairs=[["a", "d"], ["b", "d"]])
    ad, bd = plan.experiments
    other = node(plan, "weak b on movie, seed 0").digest
    assert ad.student_step.labels == bd.student_step.labels == Weak(supervisor=other)
    assert (ad.digests.labels, bd.digests.labels, bd.digests.weak) == (other, "", other)
    assert len(titles(plan, "student")) == 1  # equal labels, equal student


# -- chains -------------------------------------------------------------------------------------------------------

BOOT = {"labels": {"from": {"student": "below", "method": "boot"}}}


def test_bootstrapping_goes_through_every_model_in_between(made):
    plan, cells = made({"xent": {}, "boot": BOOT})
    chain = [node(plan, f"student {m} of a on movie, boot, seed 0") for m in "bcd"]
    a = cells["boot"].digests.weak
    assert [n.spec.labels for n in chain] == [Weak(supervisor=d) for d in (a, chain[0].digest, chain[1].digest)]
    assert cells["boot"].digests.student == chain[2].digest
    assert cells["boot"].digests.labels == chain[1].digest
    assert list(plan.nodes).index(chain[0].digest) < list(plan.nodes).index(chain[1].digest)
    assert titles(plan, "labels") == []


def test_chains_share_what_they_have_in_common(made):
    """Of 3 + 2 + 1 links to three students, xent already trained the first ones."""
    plan, _ = made({"xent": {}, "boot": BOOT}, pairs=[["a", "b"], ["a", "c"], ["a", "d"]])
    students = [n for n in plan.nodes.values() if n.title.startswith("student")]
    assert len(students) == 3 + 2  # xent: b, c, d; boot: c of b, d of c
    plan, _ = made({"boot": BOOT}, pairs="all_upper")
    assert Counter(t.split()[1] for t in titles(plan, "student")) == {"b": 1, "c": 2, "d": 3}


def test_strong_to_strong_rounds(made):
    plan, cells = made({
        "xent": {},
        "rounds2": {"labels": {"from": {"student": "same", "method": "xent"}}},
        "rounds3": {"labels": {"from": {"student": "same", "method": "rounds2"}}},
    })  # fmt: skip
    d = {m: cell.digests for m, cell in cells.items()}
    assert cells["rounds2"].student_step.labels == Weak(supervisor=d["xent"].student)
    assert cells["rounds3"].student_step.labels == Weak(supervisor=d["rounds2"].student)
    assert len(titles(plan, "student")) == 3


def test_where_no_model_is_in_between_below_is_the_weak_model(made):
    for pair in (["a", "b"], ["b", "b"], ["c", "b"]):
        _, cells = made({"xent": {}, "boot": BOOT}, pairs=[pair])
        assert cells["boot"].digests == cells["xent"].digests
        assert cells["boot"].between == ()


def test_links_follow_their_own_methods_recipe(made):
    _, cells = made({"slow": {"loss": "logconf", "recipe": {"lr": 0.5}},
                     "m": {"labels": {"from": {"student": "b", "method": "slow"}}}})  # fmt: skip
    (between,) = cells["m"].between
    assert (between.spec.recipe.lr, between.spec.recipe.loss.name, between.spec.model.layers) == (0.5, "logconf", 2)
    assert cells["m"].student_step.recipe.lr != 0.5


def test_fresh_gives_each_link_a_part_of_its_own(made):
    plan, cells = made({"xent": {}, "boot": {"labels": {**BOOT["labels"], "fresh": True}}})
    specs = [node.spec for node in plan.nodes.values() if node.kind == "labels"]
    assert [spec.part for spec in specs] == [(0, 3), (1, 3), (2, 3)]
    chain = [step for step in cells["boot"].between if isinstance(step.spec, TrainSpec)]
    assert [step.title for step in chain] == [
        "student b of a on movie (part 1 of 3), boot, seed 0", "student c of a on movie (part 2 of 3), boot, seed 0"
    ]  # fmt: skip
    assert specs[0].source == SupervisorLabels(supervisors=(cells["boot"].digests.weak,))
    assert [spec.source.supervisors[0] for spec in specs[1:]] == [step.digest for step in chain]
    assert node(plan, "labels on movie: c by boot; part 3 of 3, seed 0").digest == cells["boot"].digests.labels


def test_fresh_holds_for_the_links_of_other_methods_too(made):
    plan, cells = made({"xent": {}, "r": {"labels": {"from": {"student": "same", "method": "xent"}, "fresh": True}}})
    parts = {node.title: node.spec.part for node in plan.nodes.values() if node.kind == "labels"}
    assert parts == {"labels on movie: a; part 1 of 2, seed 0": (0, 2),
                     "labels on movie: d by xent; part 2 of 2, seed 0": (1, 2)}  # fmt: skip
    assert cells["xent"].student_step.labels == Weak(supervisor=cells["xent"].digests.weak)


def test_a_chain_of_one_link_has_nothing_to_share(made):
    _, cells = made({"xent": {}, "boot": {"labels": {**BOOT["labels"], "fresh": True}}}, pairs=[["a", "b"]])
    assert cells["boot"].digests == cells["xent"].digests


# -- labels steps -------------------------------------------------------------------------------------------------


def test_several_supervisors(labels_of, made):
    asked = {"from": ["weak", "b", {"student": "below", "method": "xent"}], "weights": [0.5, 0.25, 0.25]}
    found = labels_of(asked)
    plan, cells = made({"xent": {}, "m": {"labels": asked}})
    names = ("weak a on movie, seed 0", "weak b on movie, seed 0", "student c of a on movie, xent, seed 0")
    digests = tuple(node(plan, title).digest for title in names)
    assert found.source == SupervisorLabels(supervisors=digests, weights=(0.5, 0.25, 0.25))
    assert found.parents == (cells["m"].digests.data, *digests)
    assert [step.digest for step in cells["m"].between] == [*digests[1:], found.digest()]
    assert labels_of({"from": ["weak", "b"], "combine": "vote"}).source.combine == "vote"
    assert labels_of(["weak", "b"]).source.combine == "mean"


@pytest.mark.parametrize(
    ("labels", "source"),
    [("truth", TruthLabels()), ("majority", MajorityLabels()), ({"from": "truth"}, TruthLabels())],
)
def test_controls(labels_of, labels, source):
    assert labels_of(labels).source == source


def test_simulated_labels(labels_of, made):
    plan, cells = made({"xent": {}, "m": {"labels": {"simulated": "weak", "errors": "difficulty", "by": "b"}}})
    weak, judge = cells["m"].digests.weak, node(plan, "weak b on movie, seed 0").digest
    found = plan.nodes[cells["m"].digests.labels].spec
    assert found.source == SimulatedLabels(like=weak, errors="difficulty", by=judge)
    assert found.parents[1:] == (weak, judge)
    assert labels_of({"from": {"simulated": "weak"}}).source.errors == "random"


def test_transforms_short_and_long(labels_of):
    found = labels_of({"transforms": [{"confident": 0.25}, {"mix_truth": {"share": 0.5}}, "harden"]})
    assert found.transforms == (Confident(keep=0.25), MixTruth(share=0.5), Harden())
    assert (
        labels_of({"transforms": [{"confident": {"keep": 0.5, "per_class": False}}]}).transforms[0].per_class is False
    )
    assert labels_of({"transforms": [{"confident": 0.5}]}, hard_labels=True).transforms[-1] == Harden()


def test_a_student_that_learns_the_truth_by_the_recipe_of_a_ceiling_is_that_ceiling(made):
    methods = {
        "xent": {"labels": "truth"},
        "hard": {"labels": "truth", "loss": "xent", "hard_labels": True},
        "again": {"labels": {"from": "truth", "transforms": ["harden"]}},
        "logconf": {"labels": "truth"},
        "half": {"labels": {"from": "truth", "transforms": [{"subsample": 0.5}]}},
    }
    plan, cells = made(methods)
    own = {name: cell.digests.student for name, cell in cells.items()}
    ceiling = cells["xent"].digests.ceiling
    assert [name for name, digest in own.items() if digest == ceiling] == ["xent", "hard", "again"]
    assert len({*own.values()}) == 3
    for name in methods:  # what it learned from is said all the same, with the accuracy of these labels
        assert isinstance(plan.nodes[cells[name].digests.labels].spec, LabelsSpec)
    assert sum(node.kind == "train" for node in plan.nodes.values()) == 4  # weak, ceiling, logconf, half


def test_ground_truth_subsampled_to_the_accuracy_of_a_supervisor(labels_of, made):
    _, cells = made({"xent": {}})
    found = labels_of({"from": "truth", "transforms": [{"subsample": "weak"}]})
    assert found.transforms == (Subsample(like=cells["xent"].digests.weak),)
    assert found.parents[1:] == (cells["xent"].digests.weak,)
    assert labels_of({"transforms": [{"subsample": 0.5}]}).transforms == (Subsample(share=0.5),)


def test_a_file_counts_by_content_and_says_who_labelled(labels_of, tmp_path):
    (tmp_path / "raters.jsonl").write_text('{"text": "a", "label": 1}\n')
    found = labels_of({"file": "raters.jsonl"})
    assert (found.source.origin, Path(found.source.source.file).name) == ("raters", "raters.jsonl")
    named = labels_of({"from": {"file": "raters.jsonl", "origin": "gpt"}})
    assert named.source.origin == "gpt"
    (tmp_path / "raters.jsonl").write_text('{"text": "a", "label": 0}\n')
    assert labels_of({"file": "raters.jsonl"}).digest() != found.digest()


def test_labels_are_made_once_for_all_losses_and_for_all_seeds_where_nothing_is_drawn(made, tmp_path):
    (tmp_path / "f.jsonl").write_text("{}")
    plan, _ = made(
        {
            "xent": {"labels": {"transforms": [{"confident": 0.5}]}},
            "logconf": {"labels": {"transforms": [{"confident": 0.5}]}},
            "people": {"labels": {"file": "f.jsonl"}},
            "some": {"labels": {"from": "truth", "transforms": [{"subsample": 0.5}]}},
        },
        seeds=[0, 1],
    )
    assert {node.title: node.cells for node in plan.nodes.values() if node.kind == "labels"} == {
        "labels on movie: a; confident 0.5, seed 0": 2,
        "labels on movie: a; confident 0.5, seed 1": 2,
        "labels on movie: f": 2,
        "labels on movie: truth; subsample 0.5, seed 0": 1,
        "labels on movie: truth; subsample 0.5, seed 1": 1,
    }


def test_ground_truth_is_read_by_who_asks_for_it_by_name(labels_of, tmp_path):
    (tmp_path / "f.jsonl").write_text("{}")
    for labels in (
        "majority",
        ["weak", "b"],
        {"file": "f.jsonl"},
        {"transforms": [{"subsample": 0.5}, {"smooth": 0.1}]},
    ):
        assert not labels_of(labels).reads_truth
    for labels in ("truth", {"simulated": "weak"}, {"transforms": [{"mix_truth": 0.1}]}):
        assert labels_of(labels).reads_truth


# -- plans --------------------------------------------------------------------------------------------------------


def test_parents_stand_before_their_children_in_every_plan(made):
    methods = {
        "xent": {},
        "boot": {"labels": {**BOOT["labels"], "fresh": True}},
        "vote": {"labels": {"from": ["weak", "b", {"student": "below", "method": "boot"}], "combine": "vote"}},
        "more": {"labels": {"from": {"student": "same", "method": "vote"}, "transforms": [{"confident": 0.5}]}},
    }
    plan, cells = made(methods, seeds=[0, 1], engine={"cache_frozen": True},
                       recipe={"tune": {"kind": "probe"}}, pairs=[["a", "c"], ["a", "d"]])  # fmt: skip
    order = {digest: place for place, digest in enumerate(plan.nodes)}
    for found in plan.nodes.values():
        assert all(order[parent] < order[found.digest] for parent in found.parents)
        assert found.spec.digest() == found.digest
    for step in cells["more"].between:
        assert step.digest in plan.nodes


def test_plan_json_names_what_a_student_learned_from(made, tmp_path):
    plan, _ = made({"xent": {}, "boot": BOOT, "vote": {"labels": ["weak", "b"]}})
    record = json.loads(write(plan, tmp_path).read_text())
    found = {cell["method"]: cell["digests"]["labels"] for cell in record["cells"]}
    assert found["xent"] == ""
    assert found["boot"] == node(plan, "student c of a on movie, boot, seed 0").digest
    assert found["vote"] == node(plan, "labels on movie: mean of a, b, seed 0").digest
    assert next(s for s in record["steps"] if s["digest"] == found["vote"])["kind"] == "labels"


def test_a_labels_step_costs_next_to_nothing_and_its_students_what_they_train_on(made, tmp_path):
    plan, cells = made({"xent": {}, "half": {"labels": {"transforms": [{"confident": 0.5}]}}})
    found = costs(plan, Store(tmp_path / "store"))
    cost = found[cells["half"].digests.labels]
    assert (cost.tokens, cost.flops) == (0.0, 0.0)
    whole, half = (found[cells[m].digests.student] for m in ("xent", "half"))
    assert whole.tokens is not None
    assert whole.flops is not None
    assert half.flops is not None
    tokens = whole.tokens / (2 * 8 + 4 + 8 + 8)  # two epochs of 8, then val, test and transfer
    assert half.tokens == pytest.approx((2 * 4 + 20) * tokens)
    params = kept_params(cells["xent"].student_step)
    assert params is not None
    assert whole.flops - half.flops == pytest.approx(6 * params * 8 * tokens)


def test_titles():
    assert title_of("t", "a", "b", "m", 3) == "student b of a on t, m, seed 3"
    assert title_of("t", "a", "b", "m", 3, (0, 2)) == "student b of a on t (part 1 of 2), m, seed 3"


def test_ceilings_and_weak_models_learn_from_the_truth_whatever_the_labels(made):
    _, cells = made({"m": {"labels": {"simulated": "weak"}}})
    assert cells["m"].ceiling_step.labels == cells["m"].weak_step.labels == Truth()


# -- mistakes -----------------------------------------------------------------------------------------------------


def chain(student, method):
    return {"labels": {"from": {"student": student, "method": method}}}


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ({"a": chain("same", "a")}, "methods.a.labels.from: leads back to itself: a -> a; "),
        ({"a": chain("same", "b"), "b": chain("same", "a")}, "leads back to itself: a -> b -> a; "),
        ({"a": chain("d", "a")}, "leads back to itself: a -> a; "),
        ({"a": chain("b", "b"), "b": chain("d", "a")}, "leads back to itself: b (b) -> a (d) -> b (b); "),
        ({"a": chain("below", "b"), "b": chain("d", "a")}, "leads back to itself"),
    ],
)
def test_a_chain_that_leads_back_to_itself_is_spelled_out(problems, methods, expected):
    found = problems(methods)
    assert any(expected in line for line in found), found
    assert all("let one of them learn from a smaller student" in line for line in found)


def test_a_ring_is_told_once(problems):
    assert len(problems({"a": chain("same", "b"), "b": chain("same", "a")}, pairs="all_upper", seeds=[0, 1])) == 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("weka", ["from: no model 'weka' (did you mean weak?)"]),
        (3, ["from: expected weak, the name of a model, {student: same, method: NAME}, or outside of lists truth, "
             "majority, {file: PATH} or {simulated: weak} (got 3)"]),
        ({"form": "weak", "transforms": []}, ["form: unknown field (did you mean from?)"]),
        ({"from": []}, ["from: an empty list; name at least one supervisor"]),
        ({"from": ["weak", "truth"]}, ["from[1]: truth is no supervisor; it can only stand alone, as `from: truth`"]),
        ({"from": ["weak", "e"], "combine": "means"},
         ["from[1]: no model 'e' (known: a, b, c, d, majority, truth, weak)",
          "combine: no 'means' (did you mean mean?)"]),
        ({"from": "weak", "combine": "vote"},
         [" combine and weights need two or more supervisors, as a list in `from`"]),
        ({"from": ["b"], "combine": "vote"},  # would not be a vote: the one supervisor's soft labels
         [" combine and weights need two or more supervisors, as a list in `from`"]),
        ({"from": ["weak", "b"], "weights": [0.5, 0.4]}, ["weights: must sum to 1 (got 0.9)"]),
        ({"from": ["weak", "b"], "weights": [1]}, ["weights: expected one for each of 2 supervisors (got 1)"]),
        ({"from": ["weak", "b"], "weights": [1.5, -0.5]}, ["weights: expected 0 or more (got -0.5)"]),
        ({"from": ["weak", "b"], "weights": ["x", 1]}, ["weights: expected a list of numbers (got ['x', 1])"]),
        ({"from": ["weak", "b"], "combine": "vote", "weights": [0.5, 0.5]},
         ["weights: are of a mean, and combine is vote; leave one of them out"]),
        ({"from": ["weak", "b", "weak"]}, ["from: weak is there twice; name each supervisor once"]),
        ({"simulated": "weak", "errors": "difficulty", "by": "a"},
         ["from.by: for students d of a it is the supervisor itself, by whose own certainty its own labels come back; "
          "name another model, or leave this pair out"]),
        ({"student": "blow", "method": "n"},
         ["from.student: no 'blow' (did you mean below?)", "from.method: no method 'n' (known: m)"]),
        ({"student": "same"}, ["from.method: say with `method` how the student learns"]),
        ({"student": "same", "methd": "m"}, ["from.methd: unknown field (did you mean method?)"]),
        ({"from": "weak", "fresh": True},
         ["fresh: is for chains, each link on examples of its own; no student is in `from`"]),
        ({"from": "weak", "fresh": "yes"}, ["fresh: expected true or false (got 'yes')"]),
        ({"simulated": "weak", "errors": "clas"}, ["from.errors: no 'clas' (did you mean class?)"]),
        ({"simulated": "weak", "errors": "difficulty"}, ["from.by: say with `by` which model tells what is difficult"]),
        ({"simulated": "weak", "errors": "class", "by": "b"}, ["from.by: only difficulty has it"]),
        ({"simulated": "b", "errors": "difficulty", "by": "b"},
         ["from.by: by its own certainty the supervisor's own labels come back; name another model"]),
        ({"transforms": "harden"},
         ["transforms: expected a list, such as [harden] or [{temperature: 2}] (got 'harden')"]),
        ({"transforms": ["hardn", {"temperatur": 2}]},
         ["transforms[0]: no transform 'hardn' (did you mean harden?)",
          "transforms[1]: no transform 'temperatur' (did you mean temperature?)"]),
        ({"transforms": [{"temperature": 0}]}, ["transforms[0].temperature.t: expected more than 0 (got 0)"]),
        ({"transforms": [{"confident": {"keeep": 0.5}}]},
         ["transforms[0].confident.keep: missing, and there is no default",
          "transforms[0].confident.keeep: unknown field (did you mean keep?)"]),
        ({"transforms": ["smooth"]}, ["transforms[0]: smooth needs a value, such as {smooth: 0.5}"]),
        ({"transforms": [{"mix_truth": 1.5}]}, ["transforms[0].mix_truth.share: expected 1 or less (got 1.5)"]),
        ({"transforms": [{"subsample": "weak"}]},
         ["transforms[0].subsample: to the accuracy of weak needs the truth, so `from: truth`; or give a share"]),
        ({"transforms": [{"harden": 1}]}, ["transforms[0]: harden takes no value (got 1)"]),
        ({"transforms": [["harden"]]},
         ["transforms[0]: expected a name, or one name with its value, such as {temperature: 2} (got ['harden'])"]),
        ({"file": "none.jsonl"}, ["from.file: no such file or folder 'none.jsonl'"]),
        ({"file": "x", "orign": "y"}, ["from.orign: unknown field (did you mean origin?)"]),
        ({"file": "/"}, ["from.file: / is a folder; name the file with the labels in it"]),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_place_and_what_was_meant(problems, labels, expected):
    found = problems({"m": {"labels": labels}})
    assert len(found) == len(expected), found
    for line, wanted in zip(found, expected, strict=True):
        assert line.startswith(f"methods.m.labels{':' if wanted.startswith(' ') else '.'}{wanted}"), line


def test_all_problems_of_a_sweep_at_once(problems):
    found = problems({"m": {"labels": "x"}, "n": {"labels": {"transforms": ["y"]}}}, recipe={"lrr": 1})
    assert len(found) == 3


def test_labels_are_told_beside_a_loss_that_is_wrong(problems):
    found = problems({"gce": {"loss": {"name": "gce", "q": 2}}, "m": {"labels": "x"}})
    assert [line.split(":")[0] for line in found] == ["methods.gce.loss.q", "methods.m.labels.from"]


def test_chains_that_share_much_are_walked_once(tmp_path, monkeypatch):
    """Each student learns from three of the next smaller model: 3^8 ways lead down, through 25 students."""
    models, names = [f"m{place}" for place in range(10)], ["x", "y", "z"]
    below = [{"student": "below", "method": method} for method in names]
    chains = Chains({m: labelling_of(below, "labels", models, names, tmp_path) for m in names}, models)
    asked: Counter[tuple[str, ...]] = Counter()
    supervisors = Chains.supervisors
    monkeypatch.setattr(Chains, "supervisors", lambda *of: asked.update([of[1:]]) or supervisors(*of))
    assert len(chains.students([("m0", "m9")])) == 27
    assert set(asked.values()) == {1}
    assert len(asked) == 27
    assert (chains.depth("m0", "m9", "x"), max(asked.values())) == (9, 2)


def test_supervisors_that_are_the_same_for_a_pair_count_once(made):
    """Below b of the pair [a, b] nobody stands but a, which is its weak model."""
    below = {"student": "below", "method": "xent"}
    methods = {
        "xent": {},
        "hard": {"loss": "xent", "hard_labels": True},
        "mean": {"labels": {"from": ["weak", below]}},
        "vote": {"labels": {"from": ["weak", below], "combine": "vote"}},
        "some": {"labels": {"from": ["weak", below], "combine": "vote", "transforms": [{"confident": 0.5}]}},
        "shares": {"labels": {"from": ["weak", "c", below], "weights": [0.5, 0.25, 0.25]}},
    }
    plan, cells = made(methods, pairs=[["a", "c"], ["a", "b"]])
    own = {name: cell.digests.student for name, cell in cells.items()}
    assert own["mean"] == own["xent"]
    assert own["vote"] == own["hard"] != own["xent"]
    some = plan.nodes[cells["some"].digests.labels].spec
    weak, c = cells["xent"].digests.weak, node(plan, "weak c on movie, seed 0").digest
    assert (some.source, some.transforms) == (SupervisorLabels(supervisors=(weak,)), (Harden(), Confident(keep=0.5)))
    shares = plan.nodes[cells["shares"].digests.labels].spec
    assert shares.source == SupervisorLabels(supervisors=(weak, c), weights=(0.75, 0.25))
    titles_of_two = [title for title in titles(plan, "labels") if "mean of a, b by xent" in title]
    assert len(titles_of_two) == 1  # of the pair [a, c], where they are two


def test_a_model_may_not_be_called_what_labels_mean_otherwise(problems):
    assert problems({"m": {"labels": "weak"}}, models={**MODELS, "same": "minilm"}) == [
        "models.same: has a meaning of its own in labels; name it otherwise"
    ]


def test_where_no_method_has_labels_a_model_may_have_any_name(made):
    models = {"weak": MODELS["a"], "below": MODELS["b"]}
    _, cells = made({"xent": {}}, models=models, pairs=[["weak", "below"]])
    assert cells["xent"].student_step.labels == Weak(supervisor=cells["xent"].digests.weak)


def test_losses_that_learn_nothing_from_certain_labels(problems):
    for labels in ({"transforms": ["harden"]}, "majority", {"from": ["weak", "b"], "combine": "vote"}):
        (line,) = problems({"product": {"labels": labels}})
        assert line.startswith("methods.product.labels: a product with a hard label is that label")


def test_recipes_of_students_in_between_are_checked_too(problems):
    """c is no student of a pair, but one on the way."""
    models = {**MODELS, "c": {"use": "minilm", "layers": 3}}
    frozen = {"loss": "xent", "recipe": {"tune": {"kind": "frozen", "layers": 4}}}
    assert problems({"f": frozen, "m": {"labels": {"from": {"student": "c", "method": "f"}}}}, models=models) == [
        "methods.f.recipe.tune.layers: cannot freeze 4 layers of c, which keeps 3"
    ]
