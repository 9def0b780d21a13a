"""A plan and past manifests in, what is still to do out: steps, tokens, FLOPs and seconds by kind."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from w2s.cost import step_flops
from w2s.plan import Node, Plan, finished
from w2s.spec import (
    EVALUATED,
    PREDICTED,
    FeaturesSpec,
    LabelsSpec,
    LanguageSpec,
    Made,
    MaterializeSpec,
    Prompt,
    TrainSpec,
)
from w2s.store import Store

TOKENS_PER_WORD = 1.35  # of English text under the tokenizers of the registry; used until a manifest says better
ASSUMED_TOKENS = 64.0  # per example, while the data is not there to be counted
SOLVED_S = 2.0  # of a training that is solved, before one has been seen
LABELS_S = 1.0  # of a labels step, before one has been seen: it reads a few files and writes two
MODELLESS = ("materialize", "labels")
SEEN_MANIFESTS = 200  # of each kind: reading every manifest of a large store would make `w2s plan` slow


class Cost(NamedTuple):
    """What one step costs; None where nothing is known to tell by. Seconds are those of one worker."""

    tokens: float | None
    flops: float | None
    seconds: float | None


class Estimate(NamedTuple):
    """The steps of one kind, how many are to do, and what those cost in sum."""

    steps: int
    to_do: int
    cost: Cost


def estimate(plan: Plan, store: Store) -> dict[str, Estimate]:
    """Per kind of step: how many there are, how many are to do, and their cost. See `costs` for the sources."""
    left = costs(plan, store)
    found: dict[str, Estimate] = {}
    for kind in dict.fromkeys(node.kind for node in plan.nodes.values()):
        digests = [node.digest for node in plan.nodes.values() if node.kind == kind]
        to_do = [left[digest] for digest in digests if digest in left]
        total = Cost(_sum(c.tokens for c in to_do), _sum(c.flops for c in to_do), _sum(c.seconds for c in to_do))
        found[kind] = Estimate(len(digests), len(to_do), total)
    return found


def costs(plan: Plan, store: Store) -> dict[str, Cost]:
    """The cost of every step that is still to do, by digest; what is done is told from a listing of the store.

    Tokens are counted from the materialized texts where those are there. Seconds come from manifests of this store:
    seconds per FLOP of the same model, else of any model.
    """
    rates, done = _rates(store), finished(plan, store)

    @functools.cache  # one file for all the steps that use the data
    def words_each(data: str) -> float | None:
        return _words_each(data, store)

    return {d: _cost(node, plan, words_each, rates) for d, node in plan.nodes.items() if d not in done}


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _cost(node: Node, plan: Plan, words_each: Callable[[str], float | None], rates: Mapping[str, float]) -> Cost:
    spec = node.spec
    if isinstance(spec, MaterializeSpec):
        return Cost(0.0, 0.0, rates.get(spec.kind))
    if isinstance(spec, LabelsSpec):
        return Cost(0.0, 0.0, rates.get(spec.kind, LABELS_S))
    if isinstance(spec, TrainSpec) and spec.solved:
        return Cost(0.0, 0.0, rates.get("solved", SOLVED_S))
    data = plan.nodes[spec.data].spec
    assert isinstance(data, MaterializeSpec)
    words = words_each(spec.data)
    texts = data.task.n_texts
    tokens_of_text = ASSUMED_TOKENS if words is None else words * TOKENS_PER_WORD / texts
    tokens_each = texts * min(tokens_of_text, float(spec.model.max_length))
    if isinstance(spec, FeaturesSpec):
        trained, predicted = 0.0, getattr(data.sizes, spec.split) * tokens_each
    elif isinstance(spec, LanguageSpec):
        trained = sum(getattr(data.sizes, split) for split in spec.splits) * spec.recipe.epochs * tokens_each
        predicted = 2 * data.sizes.val * tokens_each
    elif isinstance(spec.recipe.tune, Prompt):
        prompt = spec.recipe.tune
        around = (len(prompt.template_for(data.task).split()) - texts) * TOKENS_PER_WORD
        asked = sum(getattr(data.sizes, split) for split in PREDICTED)
        trained, predicted = 0.0, (asked + prompt.shots) * (tokens_each + around)
    else:
        examples = round(getattr(data.sizes, spec.split) * _share(spec, plan))
        trained = examples * spec.recipe.epochs * tokens_each
        predicted = sum(getattr(data.sizes, split) for split in PREDICTED) * tokens_each
        evaluated = sum(getattr(data.sizes, split) for split in EVALUATED) * tokens_each
        predicted += _evaluations(spec, examples) * evaluated
    flops = step_flops(spec, trained, predicted)
    if flops is None:
        return Cost(trained + predicted, None, None)
    rate = rates.get(spec.model.name, rates.get("any model"))
    return Cost(trained + predicted, flops, None if rate is None else flops * rate)


def _share(spec: TrainSpec, plan: Plan) -> float:
    """The share of its split that a training has labels for, as far as specs tell."""
    labels = plan.nodes[spec.labels.labels].spec if isinstance(spec.labels, Made) else None
    return labels.share if isinstance(labels, LabelsSpec) else 1.0


def _evaluations(spec: TrainSpec, examples: int) -> int:
    """How often a training predicts on its way."""
    recipe = spec.recipe
    steps = recipe.epochs * math.ceil(examples / recipe.batch_size)
    return 0 if recipe.eval_every is None else math.ceil(steps / recipe.eval_every)


def _words_each(data: str, store: Store) -> float | None:
    """Mean words of an example, in all its texts; None before the data is there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        summary = json.loads((store.path("materialize", data) / "summary.json").read_text(encoding="utf-8"))
        return float(summary["pool"]["mean_words"])
    return None


def _rates(store: Store) -> dict[str, float]:
    """Seconds per FLOP by model name and under 'any model'; seconds per step, by kind, where no model is used."""
    seen: dict[str, list[float]] = {}
    some = (
        itertools.islice(store.artifacts(kind), SEEN_MANIFESTS)
        for kind in (*MODELLESS, "features", "language", "train")
    )
    for kind, digest in itertools.chain.from_iterable(some):
        manifest = store.manifest(kind, digest)
        if manifest is None:
            continue
        if kind in MODELLESS:
            seen.setdefault(kind, []).append(manifest["wall_s"])
        elif manifest.get("solved"):
            seen.setdefault("solved", []).append(manifest["wall_s"])
        elif manifest.get("flops"):
            for name in (manifest["spec"]["model"]["name"], "any model"):
                seen.setdefault(name, []).append(manifest["wall_s"] / manifest["flops"])
    return {name: statistics.median(values) for name, values in seen.items()}
