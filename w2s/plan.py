"""Experiments in, the deduplicated graph of steps out, with the state of each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from w2s.cost import kept_params
from w2s.disk import disk_errors, write_json
from w2s.spec import AnyStep, FeaturesSpec, TrainSpec
from w2s.store import Store
from w2s.sweep import Experiment, Selection, Sweep

State = Literal["done", "failed", "running", "blocked", "waiting"]


@dataclass(frozen=True)
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


def build(sweep: Sweep, experiments: list[Experiment]) -> Plan:
    """The graph of steps that the experiments need; steps of equal digest are one step."""
    nodes: dict[str, Node] = {}
    cells: Counter[str] = Counter()
    for cell in experiments:
        named, where = cell.digests, f"on {cell.task}"
        student = f"student {cell.student} of {cell.weak} {where}, {cell.method}, seed {cell.seed}"
        roles: Sequence[tuple[str, AnyStep, str]] = [
            (named.data, cell.data, f"data {cell.task}"),
            *_trunks(cell),
            (named.weak, cell.weak_step, f"weak {cell.weak} {where}, seed {cell.seed}"),
            (named.ceiling, cell.ceiling_step, f"ceiling {cell.student} {where}, seed {cell.seed}"),
            (named.student, cell.student_step, student),
        ]
        for digest, spec, title in roles:
            cells[digest] += 1
            if digest not in nodes:
                nodes[digest] = Node(digest, spec.kind, spec, spec.parents, title, 0)
    counted = {d: Node(d, n.kind, n.spec, n.parents, n.title, cells[d]) for d, n in nodes.items()}
    return Plan(sweep.file.name, sweep.file.question, sweep.raw, experiments, counted, sweep.file.selections)


def _trunks(cell: Experiment) -> list[tuple[str, FeaturesSpec, str]]:
    """The cached frozen layers that the cell's steps start from, each once, with their titles."""
    steps = (cell.weak_step, cell.ceiling_step, cell.student_step)
    specs = {spec.digest(): spec for step in steps for spec in step.features().values()}
    return [
        (
            digest,
            spec,
            f"features of {spec.model.name}, lowest {spec.model.layers} layers, on {cell.task}, {spec.split}",
        )
        for digest, spec in specs.items()
    ]


def is_done(node: Node, store: Store) -> bool:
    """True where the artifact is there and holds all that this step asks for (weights may be asked for later)."""
    manifest = store.manifest(node.kind, node.digest)
    return manifest is not None and not lacks_weights(node.spec, manifest)


def lacks_weights(spec: AnyStep, manifest: Mapping[str, Any]) -> bool:
    """True where the weights are to be kept and the finished artifact was made without them."""
    wants = isinstance(spec, TrainSpec) and spec.keep_weights
    return wants and not any(name.startswith("model/") for name in manifest["files"])


def states(plan: Plan, store: Store) -> dict[str, State]:
    """The state of every step, read from the store."""
    return states_of(((n.digest, n.parents, is_done(n, store)) for n in plan.nodes.values()), store)


def states_of(steps: Iterable[tuple[str, Sequence[str], bool]], store: Store) -> dict[str, State]:
    """The state of steps given as (digest, parents, done), parents first."""
    found: dict[str, State] = {}
    for digest, parents, done in steps:
        if done:
            found[digest] = "done"
        elif store.is_claimed(digest):
            found[digest] = "running"
        elif store.failure(digest) is not None:
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
    steps = [
        {"digest": n.digest, "kind": n.kind, "title": n.title, "parents": list(n.parents), "cells": n.cells}
        for n in plan.nodes.values()
    ]
    data = {
        "name": plan.name,
        "question": plan.question,
        "sweep": plan.raw,
        "steps": steps,
        "cells": [_cell_record(cell, selection) for cell in plan.experiments for selection in plan.selections],
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "plan.json", data)
    return folder / "plan.json"


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
