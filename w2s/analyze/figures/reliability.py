"""Shares of right predictions by confidence, how many there are below: a panel for each pair, its models above it.

Counts in, added over seeds; what a bin of few predictions would say is not drawn.
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
from w2s.analyze.figures.look import GREY, SMALL_PT, TEXT_PT, Key, few_ticks, height_in, names, width_in

LEAST_COUNT = 10  # predictions in a bin, for its share to be drawn
PANEL_IN, WIDE_IN, HIGH_IN, COUNTS_IN = 2.5, 3.8, 2.1, 0.55
MOST_BELOW = 0.2  # that a panel reaches below the least share, for intervals
ASIDE = 0.004  # of confidence, by which bars of several models stand beside each other
Bins = NDArray[np.float64]  # (K, 3): examples, sum of their confidence, how many are right


class Curve(NamedTuple):
    """One model's predictions by confidence, over seeds. `said` stands behind its name; `ends_K2` are
    intervals of the shares, where they are drawn."""

    key: Key
    bins_K3: Bins
    seeds: int
    said: str = ""
    ends_K2: NDArray[np.float64] | None = None


def draw(drawn: dict[tuple[str, str], list[Curve]], title: str, n: str, notes: Sequence[str], axis: str) -> Figure:
    """The figure: curves by pair. `n` says what was counted, `axis` whose confidence it is."""
    models = names([name for pair in drawn for name in pair])
    heads = {pair: (f"{models[pair[0]]} →", models[pair[1]]) for pair in drawn}
    one_line = all(width_in(" ".join(words), TEXT_PT, "bold") < PANEL_IN for words in heads.values())
    most = max(len(curves) for curves in drawn.values())
    seeds = sorted({curve.seeds for curves in drawn.values() for curve in curves})
    remark = "; ".join(
        [
            f"{n}, {said.spread(seeds)} seed{'' if seeds == [1] else 's'} pooled",
            f"bins of fewer than {LEAST_COUNT} predictions are not drawn",
            "small markers: few predictions",
            "dotted: calibrated",
            "below: how many predictions",
            *notes,
        ]
    )
    key_in = most * (height_in(1, SMALL_PT) + 0.03)
    above = 0.12 + height_in(1 if one_line else 2, TEXT_PT) + key_in
    labels = [curve.key.label + curve.said for curves in drawn.values() for curve in curves]
    bold = [(word, "bold") for words in heads.values() for word in words]
    widest = max(
        *(0.38 + width_in(text, SMALL_PT) for text in labels),
        *(width_in(text, TEXT_PT, weight) for text, weight in bold),
    )
    wide = WIDE_IN if len(drawn) == 1 else PANEL_IN
    high, between = HIGH_IN + 0.12 + COUNTS_IN, max(0.7, widest - wide + 0.2)
    sizes = Sizes(wide, high, left=0.62, head=above, foot=0.5, last=0.5, between=between)
    columns = fitted(len(drawn), min(len(drawn), 2), sizes, wide)[0]
    figure, made = frame(Words(title, remark), -(-len(drawn) // columns), columns, sizes, len(drawn))
    every = [curve for curves in drawn.values() for curve in curves]
    lowest, least = min(_lowest(curve.bins_K3) for curve in every), min(_least(curve) for curve in every)
    for place, (axes, (pair, curves)) in enumerate(zip(made, drawn.items(), strict=True)):
        upper, lower = _split(figure, axes)
        _reliability(upper, curves, (lowest, min(lowest, least)))
        _counts(lower, curves, lowest)
        _legend(upper, (" ".join(heads[pair]),) if one_line else heads[pair], curves)
        if place % columns == 0:
            upper.set_ylabel("share that is right")
            lower.set_ylabel("count")
        if place >= len(drawn) - columns:
            lower.set_xlabel(axis)
    return figure


def _drawn(bins_K3: Bins) -> NDArray[np.bool_]:
    """Bins with enough predictions for a share; where none has, those with any."""
    enough_K = bins_K3[:, 0] >= LEAST_COUNT
    return enough_K if enough_K.any() else bins_K3[:, 0] > 0


def _lowest(bins_K3: Bins) -> float:
    """Where the first bin begins that is drawn."""
    return float(np.flatnonzero(_drawn(bins_K3))[0] / len(bins_K3))


def _least(curve: Curve) -> float:
    """The least share that is drawn, with room for its interval but not for one that says nothing."""
    drawn_K = _drawn(curve.bins_K3)
    count_K, _, right_K = curve.bins_K3[drawn_K].T
    least = float((right_K / count_K).min())
    return least if curve.ends_K2 is None else max(float(curve.ends_K2[drawn_K, 0].min()), least - MOST_BELOW)


def _split(figure: Figure, axes: Axes) -> tuple[Axes, Axes]:
    """A panel as two, one above the other: the diagram, and a low one for counts."""
    box, height = axes.get_position(), float(figure.get_figheight())
    low, gap = COUNTS_IN / height, 0.12 / height
    axes.set_position((box.x0, box.y0 + low + gap, box.width, box.height - low - gap))
    return axes, figure.add_axes((box.x0, box.y0, box.width, low))


def _reliability(axes: Axes, curves: Sequence[Curve], corner: tuple[float, float]) -> None:
    """`corner` is the lower left one that all panels share."""
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    for place, curve in enumerate(curves):
        drawn_K = _drawn(curve.bins_K3)
        count_K, confidence_K, right_K = curve.bins_K3[drawn_K].T
        x, y = confidence_K / count_K, right_K / count_K
        if curve.ends_K2 is not None:
            x = x + ASIDE * (place - (len(curves) - 1) / 2)
            axes.vlines(x, *curve.ends_K2[drawn_K].T, color=curve.key.colour, linewidth=0.9, alpha=0.6, zorder=2)
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
    counts = [curve.bins_K3[:, 0] for curve in curves]
    for place, (curve, count_K) in enumerate(zip(curves, counts, strict=True)):
        if any(np.array_equal(count_K, other_K) for other_K in counts[:place]):
            continue  # of the same predictions, which have a line
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
        figure.text((x + 0.38) / width, at, key.label + curve.said, fontsize=SMALL_PT, va="center_baseline")
    y += len(curves) * (height_in(1, SMALL_PT) + 0.03) + 0.04
    for place, line in enumerate(reversed(heads)):
        figure.text(box.x0, (y + height_in(place, TEXT_PT)) / height, line, weight="bold", va="bottom")
