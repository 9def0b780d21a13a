"""Accuracy (or AUROC) of ceilings and students against their size, with the law fitted to each and its 95 % band.

A panel for each method, with the students of every supervisor whose law is known; where there are many panels the
first MOST_PANELS are drawn, and the figure says so. Dotted: the limit of the ceilings' law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s.analyze.figures import said
from w2s.analyze.figures.frame import Heads, Sizes, Words, frame
from w2s.analyze.figures.look import DOTTED, GREY, Key, few_ticks, keys, names, power, short_count, shortened
from w2s.analyze.numbers.cells import METRIC_WORDS
from w2s.analyze.numbers.scaling import Fit

PANEL_IN = (3.1, 2.3)
MOST_PANELS = 6
TICKS = 4


def of_task(fits: Sequence[Fit], metric: str, size: str) -> Figure | None:
    """The figure of one task; None where no law of accuracy is known."""
    known = [fit for fit in fits if fit.law is not None and fit.series.of != "pgr"]
    if not known:
        return None
    ceilings = [fit for fit in known if fit.series.of == "ceiling"]
    methods = list(dict.fromkeys(fit.series.method for fit in known if fit.series.of == "student")) or [""]
    weak = list(dict.fromkeys(fit.series.weak for fit in known if fit.series.of == "student"))
    short = names(weak)
    look = dict(zip(weak, keys([short[name] for name in weak]), strict=True))
    black = Key("ceiling", "black", "D", "-")
    notes = [f"{MOST_PANELS} of {len(methods)} methods shown"] if len(methods) > MOST_PANELS else []
    shown = methods[:MOST_PANELS]
    columns = min(len(shown), 2)
    heads = Heads([shortened(method) for method in shown], PANEL_IN[0])
    counts = {one.seeds for fit in known for one in fit.series.found}
    remark = f"{said.spread(sorted(counts))} seed{'' if counts == {1} else 's'}; laws y = c - a x^-b; {said.INTERVALS}"
    title = f"{shortened(known[0].series.task, 60)}: {METRIC_WORDS[metric].name} against size, with fitted laws"
    words = Words(title, remark, [*([black] if ceilings else []), *look.values()], "", notes)
    sizes = Sizes(*PANEL_IN, left=0.62, head=heads.height_in, foot=0.42, last=0.5)
    figure, made = frame(words, -(-len(shown) // columns), columns, sizes, len(shown))
    for place, (axes, method) in enumerate(zip(made, shown, strict=True)):
        heads.write(axes, shortened(method))
        own = [fit for fit in known if fit.series.method == method and fit.series.of == "student"]
        for fit in (*ceilings, *own):
            _draw(axes, fit, look.get(fit.series.weak, black))
        if ceilings and ceilings[0].limit.value <= 1.0:
            axes.axhline(ceilings[0].limit.value, color=GREY, linewidth=0.8, linestyle=DOTTED, zorder=0)
        _axes(axes, known, size)
        if place % columns:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel(METRIC_WORDS[metric].name)
    return figure


def _draw(axes: Axes, fit: Fit, key: Key) -> None:
    assert fit.law is not None
    x_X = np.log10(fit.place_X)
    axes.fill_between(x_X, fit.low_X, fit.high_X, color=key.colour, alpha=0.15, linewidth=0, zorder=1)
    axes.plot(x_X, fit.law.at(fit.place_X), color=key.colour, linestyle=key.line, linewidth=key.width, zorder=2)
    x_M = np.log10(fit.series.x_M)
    y_M = [one.value for one in fit.series.found]
    for x, one in zip(x_M, fit.series.found, strict=True):
        if math.isfinite(one.low) and math.isfinite(one.high):
            axes.plot([x, x], [one.low, one.high], color=key.colour, linewidth=1.0, zorder=2)
    axes.plot(x_M, y_M, key.marker, color=key.colour, markersize=4.6, zorder=3)


def _axes(axes: Axes, known: Sequence[Fit], size: str) -> None:
    """One range for all panels, and sizes as people write them."""
    x_M = np.concatenate([fit.series.x_M for fit in known])
    ends = [end for fit in known for one in fit.series.found for end in (one.value, one.low, one.high)]
    finite = [end for end in ends if math.isfinite(end)]
    room = 0.06 * (max(finite) - min(finite)) or 0.01
    axes.set_ylim(min(finite) - room, max(finite) + room)
    low, high = math.log10(x_M.min()), math.log10(x_M.max())
    axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    places = np.linspace(low, high, TICKS)
    written = short_count if size == "params" else power
    axes.set_xticks(places.tolist(), [written(10.0**place) for place in places])
    few_ticks(axes.yaxis, 6)
    axes.set_xlabel(f"{'parameters' if size == 'params' else 'training FLOPs'}")


def alt(fits: Sequence[Fit]) -> str:
    """The figure in a sentence."""
    limits = [fit.limit.value for fit in fits if fit.law is not None and fit.series.of != "pgr"]
    reach = f", with limits from {min(limits):.2f} to {max(limits):.2f}" if limits else ""
    return f"fitted laws of ceilings and students against their size{reach}"
