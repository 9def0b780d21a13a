"""What is left to do and what it costs: by hand, from texts that are there and from steps that were measured."""

from __future__ import annotations

import json

import pytest

from w2s.cost import step_flops
from w2s.estimate import ASSUMED_TOKENS, TOKENS_PER_WORD, Cost, costs, estimate
from w2s.experiments import expand
from w2s.plan import build
from w2s.store import Store
from w2s.sweep import sweep_of

DATA = {
    "name": "s",
    "tasks": ["movie"],
    "sizes": {"weak_train": 10, "transfer": 20, "val": 5, "test": 40},
    "models": ["minilm@1", "minilm@2"],
    "methods": ["xent"],
    "recipe": {"epochs": 3},
}


@pytest.fixture
def planned(tmp_path):
    def make(sets=()):
        sweep = sweep_of(DATA, tmp_path, sets=sets)
        return build(sweep, expand(sweep))

    return make


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def finish(store, node, mean_words=None, **manifest):
    with store.staging(node.kind, node.digest) as staged:
        if mean_words is not None:
            (staged.folder / "summary.json").write_text(json.dumps({"pool": {"mean_words": mean_words}}))
        staged.commit({"spec": node.spec.model_dump(mode="json"), **manifest})


def rate(cost):
    """Seconds per FLOP."""
    assert None not in cost
    return cost.seconds / cost.flops


def by_role(plan, found):
    return {node.title.split()[0]: found.get(node.digest) for node in plan.nodes.values()}


def test_an_empty_store_knows_tokens_by_assumption_and_no_seconds(planned, store):
    """Trained: size x 3 epochs; predicted: test, val and transfer, 65 examples, each of 64 tokens."""
    plan = planned()
    found = by_role(plan, costs(plan, store))
    assert found["data"] == Cost(0.0, 0.0, None)
    assert found["weak"].tokens == (10 * 3 + 65) * ASSUMED_TOKENS
    assert found["student"].tokens == found["ceiling"].tokens == (20 * 3 + 65) * ASSUMED_TOKENS
    ceiling = next(n for n in plan.nodes.values() if n.title.startswith("ceiling"))
    assert found["ceiling"].flops == step_flops(ceiling.spec, 60 * ASSUMED_TOKENS, 65 * ASSUMED_TOKENS)
    assert {cost.seconds for cost in found.values()} == {None}


def test_the_sum_by_kind(planned, store):
    plan = planned()
    found = estimate(plan, store)
    assert {kind: (e.steps, e.to_do) for kind, e in found.items()} == {"materialize": (1, 1), "train": (3, 3)}
    assert found["train"].cost.tokens == (95 + 125 + 125) * ASSUMED_TOKENS
    assert found["train"].cost.seconds is None  # some unknown: the sum is unknown, not the sum of the rest


def test_tokens_are_counted_from_the_words_once_the_data_is_there(planned, store):
    plan = planned()
    data = next(iter(plan.nodes.values()))
    finish(store, data, mean_words=10.0, wall_s=2.0)
    found = by_role(plan, costs(plan, store))
    assert found["data"] is None
    assert found["weak"].tokens == pytest.approx(95 * 10 * TOKENS_PER_WORD)


def test_no_text_is_longer_than_the_model_reads(planned, store):
    plan = planned(["models.minilm@1.max_length=12", "models.minilm@2.max_length=100"])
    found = by_role(plan, costs(plan, store))
    assert (found["weak"].tokens, found["student"].tokens) == (95 * 12, 125 * ASSUMED_TOKENS)
    finish(store, next(iter(plan.nodes.values())), mean_words=1000.0, wall_s=2.0)
    found = by_role(plan, costs(plan, store))
    assert (found["weak"].tokens, found["student"].tokens) == (95 * 12, 125 * 100)


def test_seconds_come_from_steps_that_were_measured(planned, store):
    """Of the same model where there is one, else of any; the median; nothing that is done is counted."""
    plan = planned(["seeds=[0,1,2]"])
    weak = [n for n in plan.nodes.values() if n.title.startswith("weak")]
    ceiling = next(n for n in plan.nodes.values() if n.title.startswith("ceiling"))
    finish(store, weak[0], wall_s=2.0, flops=1e6)
    found = costs(plan, store)
    assert weak[0].digest not in found
    assert rate(found[weak[1].digest]) == pytest.approx(2e-6)
    assert rate(found[ceiling.digest]) == pytest.approx(2e-6)  # of another model
    finish(store, ceiling, wall_s=8.0, flops=1e6)
    finish(store, weak[1], wall_s=4.0, flops=1e6)
    found = costs(plan, store)
    student = next(n for n in plan.nodes.values() if n.title.startswith("student"))
    assert rate(found[student.digest]) == pytest.approx(8e-6)
    assert rate(found[weak[2].digest]) == pytest.approx(3e-6)


def test_data_steps_take_as_long_as_data_steps_took(planned, store):
    other = planned(["split_seed=1"])
    finish(store, next(iter(other.nodes.values())), mean_words=5.0, wall_s=7.0)
    plan = planned()
    assert by_role(plan, costs(plan, store))["data"].seconds == 7.0


def test_a_store_full_of_one_kind_does_not_hide_what_another_took(planned, store, monkeypatch):
    monkeypatch.setattr("w2s.estimate.SEEN_MANIFESTS", 2)
    for seed in (1, 2, 3):
        finish(store, next(iter(planned([f"split_seed={seed}"]).nodes.values())), wall_s=7.0)
    plan = planned(["seeds=[0,1]"])
    finish(store, next(n for n in plan.nodes.values() if n.title.startswith("weak")), wall_s=2.0, flops=1e6)
    found = by_role(plan, costs(plan, store))
    assert found["data"].seconds == 7.0
    assert rate(found["student"]) == pytest.approx(2e-6)


def test_nothing_left_costs_nothing(planned, store):
    plan = planned()
    for node in plan.nodes.values():
        finish(store, node, wall_s=1.0, flops=1.0)
    assert costs(plan, store) == {}
    assert all(e == (e.steps, 0, Cost(0, 0, 0)) for e in estimate(plan, store).values())


def test_weights_that_are_to_be_kept_cost_again(planned, store):
    for node in planned().nodes.values():
        finish(store, node, mean_words=5.0, wall_s=1.0, flops=1e6)
    left = estimate(planned(["keep_weights=true"]), store)
    assert (left["materialize"].to_do, left["train"].to_do) == (0, 3)
    assert rate(left["train"].cost) == pytest.approx(1e-6)


def test_a_damaged_summary_is_as_good_as_none(planned, store):
    plan = planned()
    data = next(iter(plan.nodes.values()))
    finish(store, data, mean_words=5.0, wall_s=1.0)
    (store.path("materialize", data.digest) / "summary.json").write_text("{")
    assert by_role(plan, costs(plan, store))["weak"].tokens == 95 * ASSUMED_TOKENS


def test_evaluations_on_the_way_cost_their_tokens(planned, store):
    """20 examples in batches of 5, three epochs: 12 steps, evaluated after 5, 10 and 12, on val and test."""
    plain, evaluated = (planned(["recipe.batch_size=5", *more]) for more in ([], ["recipe.eval_every=5"]))
    before, after = (by_role(plan, costs(plan, store))["ceiling"] for plan in (plain, evaluated))
    assert after.tokens - before.tokens == 3 * (5 + 40) * ASSUMED_TOKENS


def test_a_prompt_reads_every_example_and_those_it_shows_once(store, tmp_path):
    """The default template has two words besides the text: Text: and Label:."""
    method = {"recipe": {"tune": {"kind": "prompt", "shots": 5}}}
    sweep = sweep_of({**DATA, "models": ["smollm2@2", "smollm2@4"], "methods": {"five": method}}, tmp_path)
    plan = build(sweep, expand(sweep))
    student = by_role(plan, costs(plan, store))["student"]
    assert student.tokens == pytest.approx((65 + 5) * (ASSUMED_TOKENS + 2 * TOKENS_PER_WORD))
    assert student.flops == pytest.approx(2 * student.tokens * 134515008 * 4 / 30, rel=1e-6)
