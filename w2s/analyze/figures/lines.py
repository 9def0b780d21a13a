"""Series of estimates over the sizes of models in, panels of lines with 95 % intervals out.

A series may start at an open marker that is no student (a supervisor's own accuracy). Intervals of several series at
one size stand side by side; beyond MOST_INTERVALS series they could not be told apart and are left to the tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s.analyze.figures import scale as scales
from w2s.analyze.figures.frame import Heads, Sizes, Words, fitted, frame
from w2s.analyze.figures.look import DOTTED, GREY, SMALL_PT, Key, few_ticks, height_in, wrapped
from w2s.analyze.figures.scale import Scale

PANEL_IN = (3.1, 2.3)
WIDE_IN = 4.6  # a panel that stands alone
LEAST_IN = 1.3
MODELS_IN = 0.3  # of width for each model, where there is room
MOST_INTERVALS = 6
DODGE_IN = 0.065  # between the intervals of two series at one size
MARKER_PT, CUT_PT = 4.6, 3.2


@dataclass(frozen=True)
class Point:
    """A value at a model's size; `low` and `high` are NaN where no interval is drawn. An open point counts less: it is
    a series' start, or a model at chance."""

    model: str
    value: float
    low: float = math.nan
    high: float = math.nan
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    key: Key
    points: Sequence[Point]
    start: Point | None = None
    beneath: bool = False  # a reference such as the ceiling: wide faint intervals, not moved aside


@dataclass(frozen=True)
class Panel:
    """`said` stands in the upper right corner, such as what has no point."""

    head: str
    series: Sequence[Series]
    said: str = ""
    apart: bool = False


@dataclass(frozen=True)
class Axis:
    """The y axis: what it shows, levels that are marked, and how far it reaches (`view`) at most and (`must`) at least.
    What lies outside the view is drawn at its edge as an arrow."""

    about: str
    levels: Sequence[float] = ()
    view: tuple[float, float] = (-math.inf, math.inf)
    must: tuple[float, float] | None = None
    intervals: bool = field(default=True)


def intervals_fit(series: int) -> bool:
    """True where the intervals of so many series in a panel can be told apart."""
    return series <= MOST_INTERVALS


def draw(words: Words, panels: Sequence[Panel], columns: int, scale: Scale, axis: Axis) -> Figure:
    """A figure of panels that share both axes."""
    count = len(set(scale.place.values()))
    wide = max(WIDE_IN if columns == 1 else PANEL_IN[0], MODELS_IN * count + 0.4)
    alone = len(panels) == 1
    moved = max(sum(not series.beneath for series in panel.series) for panel in panels)
    needed = DODGE_IN * moved if axis.intervals else 0.0
    least = max(LEAST_IN, count * max(needed + 0.04, MODELS_IN if scale.by_order else 0.0))  # names need their room
    columns, width = fitted(len(panels), columns, _sizes(panels, scale, wide, alone=alone), least)
    if scale.nearest() * width < needed:
        scale = scale.even()
    sizes = _sizes(panels, scale, width, alone=alone)
    panels = [replace(panel, said=_wrapped(panel.said, width)) for panel in panels]
    heads = Heads([panel.head for panel in panels], width)
    rows = -(-len(panels) // columns)
    words = replace(words, notes=[*words.notes, *([scale.note] if scale.note else [])])
    figure, made = frame(words, rows, columns, sizes, len(panels))
    low, high = _reach(panels, axis)
    said = max(panel.said.count("\n") + 1 if panel.said else 0 for panel in panels)
    high += (high - low) * said * height_in(1, SMALL_PT) / sizes.height  # such words stand above all points
    for place, (axes, panel) in enumerate(zip(made, panels, strict=True)):
        _panel(axes, panel, scale, axis, width)
        axes.set_ylim(low, high)
        few_ticks(axes.yaxis, 6)
        heads.write(axes, panel.head, apart=panel.apart)
        if place % columns:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel(axis.about)
    _below(figure, made, scale.about, sizes.last - 0.22)
    return figure


def _below(figure: Figure, made: Sequence[Axes], about: str, foot_in: float) -> None:
    """What all x axes show, once below them: narrow panels have no room for it side by side."""
    boxes = [axes.get_position() for axes in made]
    middle = (min(box.x0 for box in boxes) + max(box.x1 for box in boxes)) / 2
    y = min(box.y0 for box in boxes) - foot_in / float(figure.get_figheight())
    figure.text(middle, y, about, ha="center", va="top")


def _sizes(panels: Sequence[Panel], scale: Scale, width: float, *, alone: bool) -> Sizes:
    """Of panels of this width; lower where they are narrow."""
    foot, left = scales.foot_in(scale, width), scales.left_in(scale, width)
    return Sizes(
        width,
        PANEL_IN[1] + 0.5 if alone else min(PANEL_IN[1], 0.7 + 0.5 * width),
        left=max(0.58, left),
        head=Heads([panel.head for panel in panels], width).height_in,
        foot=foot if scale.by_order else max(0.32, foot),
        last=foot + 0.22,
        between=max(0.18, left),
    )


def _wrapped(said: str, width: float) -> str:
    return "\n".join(part for line in said.split("\n") for part in wrapped(line, width - 0.06, SMALL_PT))


def _reach(panels: Sequence[Panel], axis: Axis) -> tuple[float, float]:
    ends = list(axis.must or ())
    for series in (series for panel in panels for series in panel.series):
        for point in [*series.points, *([series.start] if series.start else [])]:
            shown = (point.value, point.low, point.high) if axis.intervals else (point.value,)
            ends += [end for end in shown if math.isfinite(end)]
    ends += [level for level in axis.levels if axis.must]
    low, high = max(min(ends), axis.view[0]), min(max(ends), axis.view[1])
    room = max(0.06 * (high - low), 0.004)
    return low - room, high + room


def _panel(axes: Axes, panel: Panel, scale: Scale, axis: Axis, width_in: float) -> None:
    low, high = scale.ends
    moved = [series for series in panel.series if not series.beneath]
    step = DODGE_IN * (high - low) / width_in if axis.intervals else 0.0
    for level in axis.levels:
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=DOTTED, zorder=0)
    for series in panel.series:
        place = moved.index(series) if series in moved else (len(moved) - 1) / 2
        _series(axes, series, scale, step * (place - (len(moved) - 1) / 2), axis)
    scales.tick(axes, scale, width_in)
    if panel.said:
        axes.text(
            0.99, 0.985, panel.said, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL_PT, color=GREY,
            zorder=6, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )  # fmt: skip


def _series(axes: Axes, series: Series, scale: Scale, shift: float, axis: Axis) -> None:
    key, bottom, top = series.key, *axis.view
    points = sorted((p for p in series.points if not math.isnan(p.value)), key=lambda p: scale.place[p.model])
    x = [scale.place[point.model] + shift for point in points]
    y = [min(max(point.value, bottom), top) for point in points]
    start = [series.start] if series.start is not None and not math.isnan(series.start.value) else []
    all_x = [*(scale.place[p.model] for p in start), *x]
    all_y = [*(p.value for p in start), *y]
    layer = 1.0 if series.beneath else 2.0
    axes.plot(all_x, all_y, color=key.colour, linestyle=key.line or "none", linewidth=key.width, zorder=layer)
    bars = [(at, p) for at, p in zip(x, points, strict=True) if math.isfinite(p.low) and math.isfinite(p.high)]
    if axis.intervals and bars:
        # One broken line for all of them: a tenth of the bytes of as many lines.
        bar_x = [part for at, _ in bars for part in (at, at, math.nan)]
        bar_y = [part for _, p in bars for part in (*(min(max(e, bottom), top) for e in (p.low, p.high)), math.nan)]
        width = 3.0 if series.beneath else 1.0
        axes.plot(bar_x, bar_y, color="0.72" if series.beneath else key.colour, linewidth=width, zorder=layer - 0.5)
        axes.lines[-1].set_solid_capstyle("butt")
        _cuts(axes, bars, key, axis.view)
    if key.marker:
        _marks(axes, list(zip(x, y, points, strict=True)), key, (bottom, top))
        _marks(axes, [(scale.place[p.model], p.value, replace(p, hollow=True)) for p in start], key, (bottom, top))


def _cuts(axes: Axes, bars: Sequence[tuple[float, Point]], key: Key, view: tuple[float, float]) -> None:
    """Arrows where an interval goes on beyond the view."""
    below = [x for x, point in bars if point.low < view[0]]
    above = [x for x, point in bars if point.high > view[1]]
    for places, end, marker in ((below, view[0], "v"), (above, view[1], "^")):
        if places:
            axes.plot(places, [end] * len(places), marker, color=key.colour, markersize=CUT_PT, clip_on=False)


def _marks(axes: Axes, marks: Sequence[tuple[float, float, Point]], key: Key, view: tuple[float, float]) -> None:
    """Markers of one series: those of a kind together."""
    kinds: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for x, y, point in marks:
        outside = "v" if point.value < view[0] else "^" if point.value > view[1] else ""
        hollow = key.hollow or point.hollow or bool(outside)
        kinds.setdefault((outside or key.marker, hollow), []).append((x, y))
    for (marker, hollow), places in kinds.items():
        (drawn,) = axes.plot(*zip(*places, strict=True), marker=marker, linestyle="none", zorder=4, clip_on=False)
        drawn.set(color=key.colour, markerfacecolor="white" if hollow else key.colour, markersize=MARKER_PT)
