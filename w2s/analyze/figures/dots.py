"""Labelled estimates in, a dot plot out: one line below the other, numbers with their 95 % intervals beside them.

For few models. A block's head may be as wide as the figure; what is absent says why in place of its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s.analyze.figures.frame import Sizes, Words, frame
from w2s.analyze.figures.look import (
    DOTTED,
    FAINT,
    GREY,
    PAGE_IN,
    SMALL_PT,
    TEXT_PT,
    Key,
    bracket,
    few_ticks,
    number,
    width_in,
)
from w2s.analyze.figures.said import label
from w2s.analyze.numbers.stats import Estimate

LINE_IN = 0.25
GAP = 0.5  # of a line, between blocks
PLOT_IN, LEAST_IN = 3.2, 1.1
CUT_PT = 3.8
MOST_LINES = 48  # a figure that fits a page


@dataclass(frozen=True)
class Line:
    """A label and its estimates, one for each panel; without a key it is the head of a block. `remark` stands behind
    the numbers."""

    label: str
    found: Sequence[Estimate] = ()
    key: Key | None = None
    remark: str = ""


@dataclass(frozen=True)
class Column:
    """A panel of the dot plot: what it shows, levels that are marked, how far it reaches at most and at least."""

    about: str
    digits: int
    view: tuple[float, float] = (-math.inf, math.inf)
    must: tuple[float, ...] = ()
    levels: Sequence[float] = ()


def draw(words: Words, lines: Sequence[Line | None], columns: Sequence[Column]) -> Figure:
    """The figure; None leaves a gap between blocks."""
    heights, top = [], 0.0
    for line in lines:
        heights.append(top)
        top += GAP if line is None else 1.0
    left = 0.15 + max(width_in(line.label) for line in lines if line is not None and line.key is not None)
    numbers = [
        max((width_in(_said(line, place, column.digits), SMALL_PT) for line in lines if line and line.key), default=0.0)
        for place, column in enumerate(columns)
    ]
    room = 0.14 + max(numbers)
    free = (PAGE_IN - left - len(columns) * room) / len(columns) - (0.25 if len(columns) > 1 else 0.0)
    each = max(LEAST_IN, min(free, PLOT_IN))
    foot = 0.62 if len(columns) > 1 else 0.55
    sizes = Sizes(each, LINE_IN * max(top, 2.0), left=left, right=room, head=0.0, last=foot, between=room + 0.25)
    figure, made = frame(words, 1, len(columns), sizes)
    for place, (axes, column) in enumerate(zip(made, columns, strict=True)):
        axes.set_xlim(*_reach([line.found[place] for line in lines if line is not None and line.found], column))
        axes.set_ylim(max(top, 2.0) - 0.5, -0.5)
        for height, line in zip(heights, lines, strict=True):
            if line is not None and line.key is not None:
                for level in column.levels:  # not through the heads of blocks
                    axes.plot([level] * 2, [height - 0.5, height + 0.5], color=GREY, linewidth=0.8, linestyle=DOTTED)
                _line(axes, height, line, line.key, place, column)
        axes.set_xlabel(column.about)
        few_ticks(axes.xaxis, 5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
    _labels(figure, made[0], [(h, line) for h, line in zip(heights, lines, strict=True) if line is not None], left)
    return figure


def _labels(figure: Figure, axes: Axes, drawn: Sequence[tuple[float, Line]], left_in: float) -> None:
    """Labels left of the first panel; heads begin at the edge and may run above the panels."""
    box, width = axes.get_position(), float(figure.get_figwidth())
    bottom, top = axes.get_ylim()
    for height, line in drawn:
        y = box.y0 + box.height * (height - bottom) / (top - bottom)
        if line.key is None:
            figure.text(0.0, y, line.label, fontsize=TEXT_PT, weight="bold", va="center_baseline")
        else:
            figure.text((left_in - 0.08) / width, y, line.label, fontsize=TEXT_PT, ha="right", va="center_baseline")


def _line(axes: Axes, height: float, line: Line, key: Key, place: int, column: Column) -> None:
    """A point with its interval; a point outside the view is an arrow at its edge."""
    found = line.found[place]
    axes.axhline(height, color=FAINT, linewidth=0.8, zorder=0)
    if found.known:
        low, high = column.view
        marker = "<" if found.value < low else ">" if found.value > high else key.marker
        value = min(max(found.value, low), high)
        if not math.isnan(found.low):
            ends = [min(max(end, low), high) for end in (found.low, found.high)]
            axes.plot(ends, [height, height], color=key.colour, linewidth=1.5, zorder=2, solid_capstyle="butt")
            for cut, end, arrow in ((found.low < low, low, "<"), (found.high > high, high, ">")):
                if cut:
                    axes.plot([end], [height], arrow, color=key.colour, markersize=CUT_PT, zorder=2)
        face = key.face if marker == key.marker else "white"
        axes.plot([value], [height], marker, color=key.colour, markerfacecolor=face, markersize=5.8, zorder=3)
    axes.annotate(
        _said(line, place, column.digits), (1.0, height), xycoords=("axes fraction", "data"), xytext=(9, 0),
        textcoords="offset points", va="center_baseline", annotation_clip=False, fontsize=SMALL_PT,
        color="black" if found.known else GREY,
    )  # fmt: skip


def _said(line: Line, place: int, digits: int) -> str:
    found = line.found[place]
    if not found.known:
        return label(found)
    said = f"{number(found.value, digits)}  {bracket(found.low, found.high, digits)}".rstrip()
    return f"{said}  {line.remark}".rstrip()


def _reach(estimates: Sequence[Estimate], column: Column) -> tuple[float, float]:
    ends = [end for e in estimates if e.known for end in (e.value, e.low, e.high) if math.isfinite(end)]
    ends += column.must
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    low, high = max(low, column.view[0]), min(high, column.view[1])
    room = max(0.06 * (high - low), 0.005)
    return low - room, high + room
