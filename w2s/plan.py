"""Experiments in, the deduplicated graph of steps out, with the state of each step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from w2s import notes
from w2s.chains import title_of, title_of_features
from w2s.cost import kept_params
from w2s.disk import disk_errors, write_lines
from w2s.experiments import Experiment, expand
from w2s.pluginfiles import PluginFile
from w2s.spec import AnyStep, LabelsSpec, TrainSpec, Truth, Unread
from w2s.store import Overview, Store
from w2s.sweep import Sweep
from w2s.sweepfile import Selection

State = Literal["done", "running", "queued", "failed", "blocked", "waiting"]


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a plan. `cells` counts the experiments that need it."""

    digest: str
    kind: str
    spec: AnyStep
    parents: tuple[str, ...]
    title: str
    cells: int


@dataclass
class Plan:
    """The steps of a sweep in an order in which parents come first."""

    name: str
    question: str = ""
    raw: dict[str, Any] = field(default_factory=dict)
    experiments: list[Experiment] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    selections: tuple[Selection, ...] = ("final",)  # of each student, computed from one training run
    plugins: tuple[PluginFile, ...] = ()
    notes: tuple[str, ...] = ()  # for people: what they might not expect


def of_sweep(sweep: Sweep) -> Plan:
    """The graph of all steps that a sweep needs."""
    return build(sweep, expand(sweep))


def build(sweep: Sweep, experiments: list[Experiment]) -> Plan:
    """The graph of steps that the experiments need; steps of equal digest are one step."""
    nodes: dict[str, Node] = {}
    cells: Counter[str] = Counter()
    for cell in experiments:
        named, where = cell.digests, f"on {cell.task}"
        student = title_of(cell.task, cell.weak, cell.student, cell.method, cell.seed)
        trained: Sequence[tuple[str, AnyStep, str]] = [
            *cell.languages,
            (named.weak, cell.weak_step, f"weak {cell.weak} {where}, seed {cell.seed}"),
            (named.ceiling, cell.ceiling_step, f"ceiling {cell.student} {where}, seed {cell.seed}"),
            *cell.between,
            (named.student, cell.student_step, student),
        ]
        roles: list[tuple[str, AnyStep, str]] = [(named.data, cell.data, f"data {cell.task}")]
        for step in trained:
            roles += [*_trunks(step[1], cell.task), step]
        cells.update({digest for digest, _, _ in roles})
        for digest, spec, title in roles:
            if digest not in nodes:
                nodes[digest] = Node(digest, spec.kind, spec, spec.parents, title, 0)
            elif _keeps_weights(spec) and not _keeps_weights(nodes[digest].spec):  # another step begins from it
                nodes[digest] = replace(nodes[digest], spec=spec)
    counted = {d: Node(d, n.kind, n.spec, n.parents, n.title, cells[d]) for d, n in nodes.items()}
    file, told = sweep.file, tuple(notes.of(sweep))
    return Plan(file.name, file.question, sweep.raw, experiments, counted, file.selections, sweep.plugins.files, told)


def _trunks(step: AnyStep, task: str) -> list[tuple[str, AnyStep, str]]:
    """The cached frozen layers that a step starts from, with their titles."""
    specs = step.features().values() if isinstance(step, TrainSpec) else ()
    return [(spec.digest(), spec, title_of_features(task, spec)) for spec in specs]


def is_done(node: Node, store: Store) -> bool:
    """True where the artifact is there and holds all that this step asks for (weights may be asked for later)."""
    manifest = store.manifest(node.kind, node.digest)
    return manifest is not None and not lacks_weights(node.spec, manifest)


def lacks_weights(spec: AnyStep, manifest: Mapping[str, Any]) -> bool:
    """True where the weights are to be kept and the finished artifact was made without them."""
    return _keeps_weights(spec) and not has_weights(manifest)


def has_weights(manifest: Mapping[str, Any]) -> bool:
    """True where a finished artifact holds what was trained."""
    return any(name.startswith("model/") for name in manifest["files"])


def _keeps_weights(spec: AnyStep) -> bool:
    return isinstance(spec, TrainSpec) and spec.keep_weights and not spec.prompted  # which has none


def finished(plan: Plan, store: Store, overview: Overview | None = None) -> set[str]:
    """The steps that are done as far as a listing of the store tells (see `Overview`), for telling people.

    Fast where `is_done` opens every manifest: only steps that keep weights are looked into, for those.
    """
    there = (overview or store.overview()).finished
    return {
        digest
        for digest, node in plan.nodes.items()
        if digest in there and (not _keeps_weights(node.spec) or is_done(node, store))
    }


def states(plan: Plan, store: Store, queued: Collection[str] = ()) -> dict[str, State]:
    """The state of every step, as far as a listing of the store tells. `queued`: steps that wait in a scheduler."""
    overview = store.overview()
    done = finished(plan, store, overview)
    return states_of(((n.digest, n.parents, n.digest in done) for n in plan.nodes.values()), store, queued, overview)


def states_of(
    steps: Iterable[tuple[str, Sequence[str], bool]],
    store: Store,
    queued: Collection[str] = (),
    overview: Overview | None = None,
) -> dict[str, State]:
    """The state of steps given as (digest, parents, done), parents first.

    `queued`: digests that wait in a scheduler's queue; a failure there is one of an earlier try, but one of a parent
    that is not in the queue too will block them. `overview`: of the
    store, where the caller has one already.
    """
    overview, queued = overview or store.overview(), frozenset(queued)
    found: dict[str, State] = {}
    for digest, parents, done in steps:
        if done:
            found[digest] = "done"
        elif overview.is_claimed(digest):
            found[digest] = "running"
        elif digest in queued:
            broken = any(found.get(parent) in ("failed", "blocked") for parent in parents)
            found[digest] = "blocked" if broken else "queued"
        elif overview.failure(digest) is not None:
            found[digest] = "failed"
        elif any(found.get(parent) in ("failed", "blocked") for parent in parents):
            found[digest] = "blocked"
        else:
            found[digest] = "waiting"
    return found


def write(plan: Plan, folder: Path) -> Path:
    """Write `plan.json` into the sweep's folder: the sweep as used, its steps, and its cells with their digests.

    A cell is there once for each selection: the steps are the same, what is taken from them differs.
    """
    steps = (
        {"digest": n.digest, "kind": n.kind, "title": n.title, "parents": list(n.parents), "cells": n.cells}
        for n in plan.nodes.values()
    )
    known: dict[str, bool] = {}
    cells = (
        _cell_record(cell, selection) | _taught(cell, plan.nodes, known)
        for cell in plan.experiments for selection in plan.selections
    )  # fmt: skip
    head = {"name": plan.name, "question": plan.question, "sweep": plan.raw}
    head |= {"plugins": {file.name: file.code for file in plan.plugins}} if plan.plugins else {}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / "plan.json", _json_lines(head, {"steps": steps, "cells": cells}))
    return folder / "plan.json"


def _json_lines(head: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> Iterator[str]:
    """A JSON object, line by line: `head` as people like to read it, then each item of the lists on a line of its own.

    Never all of it at once: a sweep of 100,000 steps has a plan.json of 65 MiB.
    """
    yield json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for name, items in lists.items():
        yield f',\n "{name}": ['
        between = "\n  "
        for item in items:
            yield between + encode(item)
            between = ",\n  "
        yield "\n ]"
    yield "\n}\n"


def _taught(cell: Experiment, nodes: Mapping[str, Node], known: dict[str, bool]) -> dict[str, str]:
    """That ground truth of transfer or val had a part in a student, or no label had; nothing of all others."""
    if _is_told_truth(cell.digests.student, nodes, known):
        return {"taught": "truth"}
    learns = any(start.kind == "train" for start in cell.student_step.start)
    return {"taught": "nothing"} if isinstance(cell.student_step.labels, Unread) and not learns else {}


def _is_told_truth(digest: str, nodes: Mapping[str, Node], known: dict[str, bool]) -> bool:
    """True where a step, or one that it was made from, read ground truth beyond that of weak_train and test."""
    if digest not in known:
        spec = nodes[digest].spec
        own = isinstance(spec, TrainSpec) and isinstance(spec.labels, Truth) and spec.split == "transfer"
        own = own or (isinstance(spec, LabelsSpec) and spec.reads_truth)
        known[digest] = own or any(_is_told_truth(parent, nodes, known) for parent in nodes[digest].parents)
    return known[digest]


def _cell_record(cell: Experiment, selection: Selection) -> dict[str, Any]:
    task = cell.data.task
    return {
        "task": cell.task,
        "weak": cell.weak,
        "student": cell.student,
        "method": cell.method,
        "seed": cell.seed,
        "selection": selection,
        "metric": task.metric,
        "n_classes": task.n_classes,
        "weak_params": kept_params(cell.weak_step),
        "student_params": kept_params(cell.student_step),
        "digests": cell.digests._asdict(),
    }
