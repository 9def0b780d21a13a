"""Reliability diagrams: how often predictions of a confidence are right, of weak model, students and ceiling, with how
many predictions have that confidence below; the expected calibration error stands in the legend.

Bins are those of Scored, their counts added over seeds. Students are those that training left; where a sweep has none
of these, those of its first selection. At most MOST_PAIRS pairs are drawn; the figure says so.
Source: Guo et al. 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from w2s.analyze.figures import said
from w2s.analyze.figures.look import DASHED, GREY, Key, keys, names, shortened
from w2s.analyze.figures.reliability import Curve, draw
from w2s.analyze.figures.training import spaced
from w2s.analyze.numbers.cells import Cell
from w2s.analyze.reading.rows import ROLES, Rows
from w2s.analyze.reading.scoring import ece
from w2s.analyze.reading.selection import taken, variant

MOST_PAIRS, MOST_METHODS = 4, 6


def of_task(rows: Rows, cells: Sequence[Cell]) -> Figure | None:
    """The figure of one task; None where there are no predictions."""
    selection = "final" if any(cell.selection == "final" for cell in cells) else cells[0].selection
    own = [cell for cell in cells if cell.selection == selection]
    methods = list(dict.fromkeys(cell.method for cell in own))
    drawn: dict[tuple[str, str], list[Curve]] = {}
    for pair in said.pairs(own):
        curves = _curves(rows, [c for c in own if c.pair == pair and c.method in methods[:MOST_METHODS]], methods)
        if curves:
            drawn[pair] = curves
    if not drawn:
        return None
    kept = spaced(list(drawn), MOST_PAIRS)
    notes = [f"{len(kept)} of {len(drawn)} pairs shown"] if len(kept) < len(drawn) else []
    if len(methods) > MOST_METHODS:
        notes.append(f"{MOST_METHODS} of {len(methods)} methods shown")
    if selection != "final":
        notes.append(f"students: {variant('selected by', selection).replace(',', '')}")
    n = f"n = {said.spread([cell.n for cell in own if cell.n])} test examples"
    title = f"{shortened(own[0].task, 60)}: calibration"
    return draw({pair: drawn[pair] for pair in kept}, title, n, notes, "confidence")


def _curves(rows: Rows, cells: Sequence[Cell], methods: Sequence[str]) -> list[Curve]:
    """Of one pair: the supervisor, each method's student, the ceiling."""
    short = names(methods)
    look = dict(zip(methods, keys([short[method] for method in methods]), strict=True))
    found = [
        _pooled(rows, cells[0], "weak", Key("weak", GREY, "s", "-")),
        *(_pooled(rows, cell, "student", look[cell.method]) for cell in cells),
        _pooled(rows, cells[0], "ceiling", Key("ceiling", "black", "D", DASHED)),
    ]
    return [curve for curve in found if curve.seeds]


def _pooled(rows: Rows, cell: Cell, role: str, key: Key) -> Curve:
    """The counts of a cell's model, added over the seeds that have it."""
    assert role in ROLES
    wanted = [taken(role, getattr(run, role), cell.selection) for run in cell.runs]
    bins = [found.bins_K3 for one in wanted if (found := rows.test.get(one)) is not None and found.bins_K3.any()]
    bins_K3 = np.sum(bins, axis=0) if bins else np.zeros((0, 3))
    return Curve(key, bins_K3, len(bins), f", ECE {float(ece(bins_K3)):.3f}" if bins else "")


def alt() -> str:
    return "share of right predictions by confidence, of weak model, students and ceiling, with counts"
