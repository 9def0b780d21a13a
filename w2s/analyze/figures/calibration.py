"""Reliability diagrams: how often predictions of a confidence are right, of weak model, students and ceiling, with how
many predictions have that confidence below; the expected calibration error stands in the legend.

Bins are those of Scored, their counts added over seeds. Students are those that training left; where a sweep has none
of these, those of its first selection. At most MOST_PAIRS pairs are drawn; the figure says so.
Source: Guo et al. 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from w2s.analyze.figures import said
from w2s.analyze.figures.frame import Sizes, Words, fitted, frame, sample
from w2s.analyze.figures.look import (
    DASHED,
    GREY,
    SMALL_PT,
    TEXT_PT,
    Key,
    few_ticks,
    height_in,
    keys,
    names,
    shortened,
    width_in,
)
from w2s.analyze.figures.training import spaced
from w2s.analyze.numbers.cells import Cell
from w2s.analyze.reading.rows import ROLES, Rows
from w2s.analyze.reading.scoring import ece
from w2s.analyze.reading.selection import taken, variant

MOST_PAIRS, MOST_METHODS = 4, 6
LEAST_COUNT = 10  # predictions in a bin, for its share to be drawn
PANEL_IN, WIDE_IN, HIGH_IN, COUNTS_IN = 2.5, 3.8, 2.1, 0.55
Bins = NDArray[np.float64]  # (K, 3): examples, sum of their confidence, how many are right


class Curve(NamedTuple):
    """One model's predictions by confidence, over seeds."""

    key: Key
    bins_K3: Bins
    seeds: int


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
    return _figure(own, {pair: drawn[pair] for pair in kept}, notes)


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
    return Curve(key, np.sum(bins, axis=0) if bins else np.zeros((0, 3)), len(bins))


def _figure(cells: Sequence[Cell], drawn: dict[tuple[str, str], list[Curve]], notes: Sequence[str]) -> Figure:
    models = names([name for pair in drawn for name in pair])
    heads = {pair: (f"{models[pair[0]]} →", models[pair[1]]) for pair in drawn}
    one_line = all(width_in(" ".join(words), TEXT_PT, "bold") < PANEL_IN for words in heads.values())
    most = max(len(curves) for curves in drawn.values())
    seeds = sorted({curve.seeds for curves in drawn.values() for curve in curves})
    remark = "; ".join(
        [
            f"n = {said.spread([cell.n for cell in cells if cell.n])} test examples, {said.spread(seeds)} "
            f"seed{'' if seeds == [1] else 's'} pooled",
            f"bins of fewer than {LEAST_COUNT} predictions are not drawn",
            "small markers: few predictions",
            "dotted: calibrated",
            "below: how many predictions",
            *notes,
        ]
    )
    key_in = most * (height_in(1, SMALL_PT) + 0.03)
    above = 0.12 + height_in(1 if one_line else 2, TEXT_PT) + key_in
    labels = [(key.label, "normal") for curves in drawn.values() for key, _, _ in curves]
    bold = [(word, "bold") for words in heads.values() for word in words]
    widest = max(
        *(0.38 + width_in(f"{text}, ECE 0.000", SMALL_PT) for text, _ in labels),
        *(width_in(text, TEXT_PT, weight) for text, weight in bold),
    )
    wide = WIDE_IN if len(drawn) == 1 else PANEL_IN
    high, between = HIGH_IN + 0.12 + COUNTS_IN, max(0.7, widest - wide + 0.2)
    sizes = Sizes(wide, high, left=0.62, head=above, foot=0.5, last=0.5, between=between)
    columns = fitted(len(drawn), min(len(drawn), 2), sizes, wide)[0]
    title = f"{shortened(cells[0].task, 60)}: calibration"
    figure, made = frame(Words(title, remark), -(-len(drawn) // columns), columns, sizes, len(drawn))
    every = [curve.bins_K3 for curves in drawn.values() for curve in curves]
    lowest, least = min(_lowest(bins_K3) for bins_K3 in every), min(_least(bins_K3) for bins_K3 in every)
    for place, (axes, (pair, curves)) in enumerate(zip(made, drawn.items(), strict=True)):
        upper, lower = _split(figure, axes)
        _reliability(upper, curves, (lowest, min(lowest, least)))
        _counts(lower, curves, lowest)
        _legend(upper, (" ".join(heads[pair]),) if one_line else heads[pair], curves)
        if place % columns == 0:
            upper.set_ylabel("share that is right")
            lower.set_ylabel("count")
        if place >= len(drawn) - columns:
            lower.set_xlabel("confidence")
    return figure


def _drawn(bins_K3: Bins) -> NDArray[np.bool_]:
    """Bins with enough predictions for a share; where none has, those with any."""
    enough_K = bins_K3[:, 0] >= LEAST_COUNT
    return enough_K if enough_K.any() else bins_K3[:, 0] > 0


def _lowest(bins_K3: Bins) -> float:
    """Where the first bin begins that is drawn."""
    return float(np.flatnonzero(_drawn(bins_K3))[0] / len(bins_K3))


def _least(bins_K3: Bins) -> float:
    """The least share that is drawn."""
    count_K, _, right_K = bins_K3[_drawn(bins_K3)].T
    return float((right_K / count_K).min())


def _split(figure: Figure, axes: Axes) -> tuple[Axes, Axes]:
    """A panel as two, one above the other: the diagram, and a low one for counts."""
    box, height = axes.get_position(), float(figure.get_figheight())
    low, gap = COUNTS_IN / height, 0.12 / height
    axes.set_position((box.x0, box.y0 + low + gap, box.width, box.height - low - gap))
    return axes, figure.add_axes((box.x0, box.y0, box.width, low))


def _reliability(axes: Axes, curves: Sequence[Curve], corner: tuple[float, float]) -> None:
    """`corner` is the lower left one that all panels share."""
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    for curve in curves:
        count_K, confidence_K, right_K = curve.bins_K3[_drawn(curve.bins_K3)].T
        x, y = confidence_K / count_K, right_K / count_K
        axes.plot(x, y, color=curve.key.colour, linestyle=curve.key.line or "-", linewidth=1.1, zorder=2)
        # A bin of few predictions says little: it is drawn small.
        area = 6 + 34 * np.sqrt(count_K / count_K.max())
        axes.scatter(
            x, y, s=area, marker=curve.key.marker, color=curve.key.colour, zorder=3, linewidths=0, clip_on=False
        )
    axes.set_xlim(corner[0] - 0.01, 1.0)
    axes.set_ylim(corner[1] - 0.02, 1.01)
    for axis in (axes.xaxis, axes.yaxis):
        few_ticks(axis, 5)
    axes.set_xticklabels([])


def _counts(axes: Axes, curves: Sequence[Curve], lowest: float) -> None:
    for curve in curves:
        count_K = curve.bins_K3[:, 0]
        edges = np.linspace(0.0, 1.0, len(count_K) + 1)
        line: Any = curve.key.line or "-"
        axes.stairs(count_K, edges, color=curve.key.colour, linewidth=1.1, linestyle=line)
    axes.set_xlim(lowest - 0.01, 1.0)
    axes.set_ylim(0.0, None)
    few_ticks(axes.xaxis, 5)
    few_ticks(axes.yaxis, 2, whole=True)


def _legend(axes: Axes, heads: Sequence[str], curves: Sequence[Curve]) -> None:
    """Above the diagram: the pair, and each model with its error."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    box, (width, height) = axes.get_position(), figure.get_size_inches()
    y = box.y1 * height + 0.08
    for place, curve in enumerate(reversed(curves)):
        at = (y + (place + 0.5) * (height_in(1, SMALL_PT) + 0.03)) / height
        x = box.x0 * width
        key = replace(curve.key, line=curve.key.line or "-", width=1.1)
        sample(figure, x / width, at, 0.3 / width, key)
        label = f"{key.label}, ECE {float(ece(curve.bins_K3)):.3f}"
        figure.text((x + 0.38) / width, at, label, fontsize=SMALL_PT, va="center_baseline")
    y += len(curves) * (height_in(1, SMALL_PT) + 0.03) + 0.04
    for place, line in enumerate(reversed(heads)):
        figure.text(box.x0, (y + height_in(place, TEXT_PT)) / height, line, weight="bold", va="bottom")


def alt() -> str:
    return "share of right predictions by confidence, of weak model, students and ceiling, with counts"
