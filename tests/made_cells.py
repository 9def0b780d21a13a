"""Cells of one sweep, made up, and what is said of them; for tests of what a reader is shown."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd

from w2s.analyze.numbers import resamples
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.cells import Cell, Measured
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading.rows import CELL_KEYS, ROLES, load
from w2s.analyze.tables import document

AGGREGATED: dict[object, list[Cell]] = {}


def read(made):
    """Rows and cells of a synthetic sweep; those of another that holds the same have the same cells, made once."""
    rows = load(made.name, made.root)
    held = (
        made.accuracy,
        resamples.RESAMPLES,
        tuple(digest for digest, node in made.plan.nodes.items() if made.store.has(node.kind, digest)),
    )
    if held not in AGGREGATED:
        AGGREGATED[held] = aggregate(rows)
    return rows, list(AGGREGATED[held])


def estimate(value, half=0.025, seeds=3, n=1000):
    return Estimate(value, value - half, value + half, n, seeds)


def measured(weak=0.7, student=0.75, ceiling=0.8, **changes):
    baseline = absent("is the baseline")
    values = {role: estimate(value) for role, value in zip(ROLES, (weak, student, ceiling), strict=True)}
    values |= {"gap": estimate(ceiling - weak), "pgr": estimate((student - weak) / (ceiling - weak), 0.25)}
    values |= {"difference": baseline, "pgr_difference": baseline, "p": math.nan, "p_holm": math.nan, "noise": None}
    return Measured(**{**values, **changes})


def cell(task="movie", weak="weak-3l", student="strong-20l", method="xent", selection="final", **changes):
    given = {"accuracy": measured(), "auroc": measured(0.8, 0.85, 0.9), "baseline": "xent", **changes}
    values = {
        "weak_params": {"weak-3l": 11_000_000}.get(weak, 20_000_000),
        "student_params": 90_000_000,
        "weak_flops": 1e12,
        "student_flops": 2e12,
        "n": 1000,
        "n_classes": 2,
        "majority_share": 0.5,
        "planned": (0, 1, 2),
        "seeds": (0, 1, 2),
        "agreement": estimate(0.9),
        "agreement_right": estimate(0.95),
        "agreement_wrong": estimate(0.7),
        "label_accuracy": estimate(0.71),
        **given,
    }
    if values["baseline"] != method and "accuracy" not in changes:
        better = {"difference": estimate(0.01), "pgr_difference": estimate(0.1, 0.5), "p": 0.0004, "p_holm": 0.0008}
        values["accuracy"] = measured(student=0.76, **better)
    return Cell(task, weak, student, method, selection, **values)


def described(question="", unfinished=(), problems=(), frame=None):
    """What a document reads of Rows."""
    frame = frame if frame is not None else pd.DataFrame(columns=[*CELL_KEYS, "student_status", "student_reason"])
    return SimpleNamespace(
        name="one", question=question, frame=frame, unfinished=list(unfinished), problems=list(problems)
    )


def composed(*cells, metric="accuracy", **what):
    return document.compose(described(**what), cells, metric)


XENT, LOGCONF = cell(), cell(method="logconf", notes=("weak at chance",))
