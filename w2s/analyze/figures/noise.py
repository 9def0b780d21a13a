"""PGR of methods against the error of the labels that they learned from: what wrong labels cost, and which ones.

A panel for each pair of models; a point for each method under the final selection, with its interval. Drawn where
students learned from labels of different accuracy, such as simulated or mixed ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s.analyze.figures import said
from w2s.analyze.figures.frame import Heads, Sizes, Words, frame
from w2s.analyze.figures.look import DOTTED, GREY, Key, few_ticks, keys, names, shortened
from w2s.analyze.figures.training import spaced
from w2s.analyze.numbers.cells import METRIC_WORDS, Cell
from w2s.analyze.numbers.stats import Estimate

PANEL_IN = (3.1, 2.3)
MOST_PAIRS, COLUMNS = 4, 2
VIEW = (-1.0, 2.0)  # of PGR; what lies outside is drawn at the edge


def of_task(cells: Sequence[Cell], metric: str) -> Figure | None:
    """The figure of one task; None where labels do not differ, or no PGR is known."""
    drawn = [cell for cell in cells if cell.selection == "final" and _known(cell, metric)]
    pairs = [
        pair for pair in said.pairs(drawn)
        if len({round(cell.label_accuracy.value, 9) for cell in drawn if cell.pair == pair}) > 1
    ]  # fmt: skip
    if not pairs or not any(cell.own_labels for cell in drawn):
        return None
    kept = spaced(pairs, MOST_PAIRS)
    drawn = [cell for cell in drawn if cell.pair in kept]
    methods = list(dict.fromkeys(cell.method for cell in drawn))
    short = names(methods)
    look = dict(zip(methods, keys([short[method] for method in methods]), strict=True))
    models = names([name for pair in kept for name in pair])
    heads = {pair: f"{models[pair[0]]} → {models[pair[1]]}" for pair in kept}
    found = [cell.measured(metric).pgr for cell in drawn]
    title = f"{shortened(drawn[0].task, 60)}: {METRIC_WORDS[metric].name} gap recovered against label error"
    notes = [f"{len(kept)} of {len(pairs)} pairs shown"] if len(kept) < len(pairs) else []
    words = Words(title, f"{said.counts(drawn, found)}; {said.INTERVALS}", list(look.values()), "", notes)
    columns, lines = min(len(kept), COLUMNS), Heads(list(heads.values()), PANEL_IN[0])
    sizes = Sizes(*PANEL_IN, left=0.62, head=lines.height_in, foot=0.42, last=0.5)
    figure, made = frame(words, -(-len(kept) // columns), columns, sizes, len(kept))
    for place, (axes, pair) in enumerate(zip(made, kept, strict=True)):
        lines.write(axes, heads[pair])
        for cell in (cell for cell in drawn if cell.pair == pair):
            _point(axes, 1.0 - cell.label_accuracy.value, cell.measured(metric).pgr, look[cell.method])
        _axes(axes, drawn, metric)
        if place % columns:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("PGR")
    return figure


def _known(cell: Cell, metric: str) -> bool:
    return cell.label_accuracy.known and cell.measured(metric).pgr.known


def _point(axes: Axes, error: float, pgr: Estimate, key: Key) -> None:
    low, high = VIEW
    if not math.isnan(pgr.low):
        ends = [min(max(end, low), high) for end in (pgr.low, pgr.high)]
        axes.plot([error, error], ends, color=key.colour, linewidth=1.0, zorder=2)
    marker = "v" if pgr.value < low else "^" if pgr.value > high else key.marker
    face = key.colour if marker == key.marker else "white"
    axes.plot(
        [error],
        [min(max(pgr.value, low), high)],
        marker,
        color=key.colour,
        markerfacecolor=face,
        markersize=5,
        zorder=3,
    )


def _axes(axes: Axes, drawn: Sequence[Cell], metric: str) -> None:
    """One range for all panels."""
    found = [cell.measured(metric).pgr for cell in drawn]
    ends = [min(max(end, VIEW[0]), VIEW[1]) for e in found for end in (e.value, e.low, e.high) if not math.isnan(end)]
    low, high = min(0.0, *ends), max(1.0, *ends)
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    errors = [1.0 - cell.label_accuracy.value for cell in drawn]
    room = 0.08 * (max(errors) - min(errors))
    axes.set_xlim(min(errors) - room, max(errors) + room)
    for level in (0.0, 1.0):
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=DOTTED, zorder=0)
    few_ticks(axes.xaxis, 5)
    few_ticks(axes.yaxis, 6)
    axes.set_xlabel("share of wrong labels")


def alt(cells: Sequence[Cell], metric: str) -> str:
    """The figure in a sentence."""
    errors = [1.0 - cell.label_accuracy.value for cell in cells if _known(cell, metric)]
    reach = f" from {min(errors):.2f} to {max(errors):.2f}" if errors else ""
    return f"performance gap recovered against the share of wrong labels{reach}"
