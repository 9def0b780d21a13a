"""Where students mend their supervisor's labels: how often weak model, students and ceiling are right about the test
examples for whose label the weak model is so sure, with how many these are below.

At most MOST_PAIRS pairs and MOST_METHODS methods are drawn; the figure says so. Final predictions only.
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
from w2s.analyze.reading.scoring import BINS

MOST_PAIRS, MOST_METHODS = 4, 6
AXIS = "confidence of the weak model"


def of_task(cells: Sequence[Cell]) -> Figure | None:
    """The figure of one task; None where there are no bins."""
    own = [cell for cell in cells if cell.by_confidence]
    if not own:
        return None
    methods = list(dict.fromkeys(cell.method for cell in own))
    pairs = said.pairs(own)
    kept, first = spaced(pairs, MOST_PAIRS), methods[:MOST_METHODS]
    drawn = {pair: _curves([c for c in own if c.pair == pair and c.method in first], methods) for pair in kept}
    counted = {"pairs": (len(kept), len(pairs)), "methods": (len(first), len(methods))}
    notes = [f"{few} of {every} {what} shown" for what, (few, every) in counted.items() if few < every]
    n = f"n = {said.spread([cell.n for cell in own])} test examples"
    title = f"{shortened(own[0].task, 60)}: accuracy by the weak model's confidence"
    return draw({pair: curves for pair, curves in drawn.items() if curves}, title, n, [said.INTERVALS, *notes], AXIS)


def _curves(cells: Sequence[Cell], methods: Sequence[str]) -> list[Curve]:
    """Of one pair: the supervisor, each method's student, the ceiling."""
    short = names(methods)
    look = dict(zip(methods, keys([short[method] for method in methods]), strict=True))
    if not cells:
        return []
    every = [
        _curve(cells[0], "weak", Key("weak", GREY, "s", "-")),
        *(_curve(cell, "student", look[cell.method]) for cell in cells),
        _curve(cells[0], "ceiling", Key("ceiling", "black", "D", DASHED)),
    ]
    return [curve for curve in every if curve.bins_K3.any()]


def _curve(cell: Cell, role: str, key: Key) -> Curve:
    """One model's shares, with their intervals."""
    bins_K3, ends_K2 = np.zeros((BINS, 3)), np.full((BINS, 2), np.nan)
    seeds = 0
    for one in cell.by_confidence:
        found, k = getattr(one, role), round(one.low * BINS)
        if found.known:
            bins_K3[k] = one.examples, one.examples * one.confidence, one.examples * found.value
            ends_K2[k] = found.low, found.high
            seeds = max(seeds, found.seeds)
    return Curve(key, bins_K3, seeds, ends_K2=ends_K2)


def alt(cells: Sequence[Cell]) -> str:
    """The figure in a sentence."""
    gains = [one.gain.value for cell in cells for one in cell.by_confidence]
    reach = f"; students less weak models from {min(gains):+.2f} to {max(gains):+.2f}" if gains else ""
    return f"share of right predictions by the weak model's confidence, of weak model, students and ceiling{reach}"
