"""Cells in, matplotlib figures out: accuracy of weak, student and ceiling, and PGR, each with its interval.

Colours are told apart by the colour-blind and in grey (they differ in lightness), and every method or supervisor has
its own marker as well. No global state: figures are made without pyplot, under a private style.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import matplotlib
import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from w2s.analyze.cells import Cell
from w2s.analyze.document import label, one_line
from w2s.analyze.selection import variant
from w2s.analyze.stats import Estimate

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "w2s",  # the same store gives the same file
    "svg.fonttype": "path",
}
MARKERS = "o^vPX*hpdHs"  # of methods and supervisors; squares and diamonds are weak models and ceilings
GREY = "0.45"
PNG_DPI = 160
PGR_VIEW = (-1.0, 2.0)  # an interval may reach far beyond; it is cut here and its numbers stand beside it
ROW_IN = 0.3  # inches for one line of a dot plot
LABEL_IN = 0.5  # inches for the label of a size
DODGE = 0.012  # of a panel's width between the intervals of two supervisors of one student
MAX_INTERVALS = 6  # supervisors in a panel whose intervals can still be told apart


@contextmanager
def style() -> Iterator[None]:
    """Our settings while figures are made and written, then the user's again; a glyph no font has makes no warning."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def figures(cells: Sequence[Cell]) -> dict[str, Figure]:
    """Figures by name: `accuracy-<task>`, and `pgr-<task>` where a PGR is known. Call and save under `style()`."""
    made: dict[str, Figure] = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        own = [cell for cell in cells if cell.task == task]
        if any(cell.weak.known or cell.student.known or cell.ceiling.known for cell in own):
            made[f"accuracy-{task}"] = ladder(own) if _is_ladder(own) else accuracies(own)
        if any(cell.pgr.known for cell in own):
            made[f"pgr-{task}"] = recovered(own)
    return made


def save(figure: Figure, to: IO[bytes], ending: str) -> None:
    """Write a figure as `png` or `svg`, without a date."""
    metadata: dict[str, Any] = {"Date": None} if ending == "svg" else {"Software": None}
    figure.savefig(to, format=ending, dpi=PNG_DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.1)


def colours(count: int) -> list[str]:
    """`count` colours of falling lightness, from dark to light; none so light that it is lost on white."""
    ramp = matplotlib.colormaps["viridis"]
    return [matplotlib.colors.to_hex(ramp(0.05 + 0.7 * place / max(count - 1, 1))) for place in range(count)]


def _is_ladder(cells: Sequence[Cell]) -> bool:
    """Three sizes or more make a curve; fewer are better read one below the other."""
    sizes = {cell.student_params for cell in cells}
    return None not in sizes and len({size for c in cells for size in (c.weak_params, c.student_params)}) > 2


def accuracies(cells: Sequence[Cell]) -> Figure:
    """Of one task: a block for each pair with weak, each method's student and the ceiling, one below the other."""
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    shade = dict(zip(variants, colours(len(variants)), strict=True))
    lines: list[_Line | None] = []
    for pair in dict.fromkeys(cell.pair for cell in cells):
        own = [cell for cell in cells if cell.pair == pair]
        lines.append(_Line(f"weak: {pair[0]}", own[0].weak, GREY, "s"))
        for cell in own:
            marker = MARKERS[variants.index(cell.variant) % len(MARKERS)]
            label = f"student: {pair[1]}, {cell.variant}"
            lines.append(_Line(label, cell.student, shade[cell.variant], marker))
        lines += [_Line(f"ceiling: {pair[1]}", own[0].ceiling, "black", "D"), None]
    figure, axes = _dots(lines[:-1], 3)
    chance = _chance(cells, axes.get_xlim())
    if chance is not None:
        axes.axvline(chance, color=GREY, linewidth=0.8, linestyle=":")
    dotted = "" if chance is None else "; dotted: majority class"
    axes.set_xlabel(f"test accuracy, 95 % interval ({_counts(cells)}{dotted})")
    axes.set_title(f"{one_line(cells[0].task)}: accuracy")
    return figure


def recovered(cells: Sequence[Cell]) -> Figure:
    """Of one task: PGR of each method, a block for each pair; what is absent says why."""
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    shade = dict(zip(variants, colours(len(variants)), strict=True))
    pairs = list(dict.fromkeys(cell.pair for cell in cells))
    lines: list[_Line | None] = []
    for pair in pairs:
        if len(pairs) > 1:
            lines.append(_Line(" → ".join(pair)))
        for cell in (cell for cell in cells if cell.pair == pair):
            marker = MARKERS[variants.index(cell.variant) % len(MARKERS)]
            lines.append(_Line(cell.variant, cell.pgr, shade[cell.variant], marker))
        lines.append(None)
    figure, axes = _dots(lines[:-1], 2, PGR_VIEW)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.05), max(high, 1.05))
    for place in (0.0, 1.0):
        axes.axvline(place, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"PGR, 95 % interval (0: weak, 1: ceiling; {_counts(cells)})")
    of = f", {pairs[0][0]} → {pairs[0][1]}" if len(pairs) == 1 else ""
    axes.set_title(one_line(f"{cells[0].task}: performance gap recovered{of}"))
    return figure


class _Line:
    """One line of a dot plot: a label and an estimate, or the head of a block."""

    def __init__(self, label: str, estimate: Estimate | None = None, colour: str = "", marker: str = "") -> None:
        self.label, self.estimate, self.colour, self.marker = one_line(label), estimate, colour, marker


def _dots(lines: Sequence[_Line | None], digits: int, view: tuple[float, float] | None = None) -> tuple[Figure, Axes]:
    """Estimates one below the other, their numbers at the right edge; None leaves a gap between blocks."""
    heights: list[float] = []
    top = 0.0
    for line in lines:
        heights.append(top)
        top += 1.0 if line is not None else 0.4
    figure = Figure(figsize=(5.2, 0.25 + ROW_IN * max(top, 2.0)))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    drawn = [(height, line) for height, line in zip(heights, lines, strict=True) if line is not None]
    axes.set_xlim(*_limits([line.estimate for _, line in drawn if line.estimate is not None], view))
    for height, line in drawn:
        if line.estimate is not None:
            axes.axhline(height, color="0.92", linewidth=0.8, zorder=0)
            _dot(axes, height, line, line.estimate, digits, view)
    axes.set_yticks([height for height, _ in drawn], [line.label for _, line in drawn])
    for (_, line), text in zip(drawn, axes.get_yticklabels(), strict=True):
        text.set_fontweight("bold" if line.estimate is None else "normal")
    axes.set_ylim(max(top - 0.4, 0.6), -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _dot(
    axes: Axes, height: float, line: _Line, found: Estimate, digits: int, view: tuple[float, float] | None
) -> None:
    """A point with its interval; a point outside the view is an arrow at its edge."""
    if found.known:
        low, high = view or (-math.inf, math.inf)
        marker = "<" if found.value < low else ">" if found.value > high else line.marker
        value = min(max(found.value, low), high)
        axes.plot([found.low, found.high], [height, height], color=line.colour, linewidth=1.6, zorder=2)
        face = line.colour if marker == line.marker else "white"
        axes.plot([value], [height], marker, color=line.colour, markerfacecolor=face, markersize=6.5, zorder=3)
        said = f"{found.value:.{digits}f}  [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    else:
        said = label(found)
    axes.annotate(
        said,
        (1.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        color="black" if found.known else GREY,
    )


def _limits(estimates: Sequence[Estimate], view: tuple[float, float] | None) -> tuple[float, float]:
    ends = [end for e in estimates if e.known for end in (e.low, e.high)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    if view is not None:
        low, high = max(low, view[0]), min(high, view[1])
    room = max(0.06 * (high - low), 0.005)
    return low - room, high + room


def ladder(cells: Sequence[Cell]) -> Figure:
    """Of one task: accuracy against student parameters, a panel for each method (and a row of panels for each
    selection), a line for each supervisor that starts at its own accuracy (open marker), the ceiling dashed.
    Source: the main figure of Burns et al. 2023."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    selections = list(dict.fromkeys(cell.selection for cell in cells))
    size = {cell.weak_model: cell.weak_params or 0 for cell in cells}
    weak_models = sorted(size, key=lambda name: (size[name], name))
    shade = dict(zip(weak_models, colours(len(weak_models)), strict=True))
    sizes = sorted({s for c in cells for s in (c.weak_params, c.student_params) if s is not None})
    reach = math.log(sizes[-1] / sizes[0])
    intervals = len(weak_models) <= MAX_INTERVALS
    panel_in = max(3.0 + 0.25 * max(len(sizes) - 5, 0), 5.0 / len(methods))
    legend_in = 0.9 + 0.075 * max(len(name) for name in weak_models)
    figure = Figure(
        figsize=(panel_in * len(methods) + legend_in, 3.6 + 2.8 * (len(selections) - 1)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(selections), len(methods), sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes, (selection, method) in zip(panels, itertools.product(selections, methods), strict=True):
        own = [cell for cell in cells if (cell.selection, cell.method) == (selection, method)]
        for place, weak in enumerate(weak_models):
            shift = math.exp(DODGE * reach * (place - (len(weak_models) - 1) / 2)) if intervals else 1.0
            curve = [cell for cell in own if cell.weak_model == weak]
            _curve(axes, curve, shade[weak], MARKERS[place % len(MARKERS)], shift, intervals)
        _ceiling(axes, cells)
        axes.set_title(one_line(variant(method, selection)))
        axes.set_xscale("log")
    chance = _chance(cells, panels[0].get_ylim())
    for axes in panels:
        if chance is not None:
            axes.axhline(chance, color=GREY, linewidth=0.8, linestyle=":", label="majority class")
        _size_ticks(axes, sizes, LABEL_IN / panel_in)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy")
    figure.supxlabel("parameters of the student", fontsize=9)
    said = "95 % intervals" if intervals else "intervals of students in the table"
    title = f"{one_line(cells[0].task)}: accuracy, {said} ({_counts(cells)})"
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside right center", title="supervisor", alignment="left")
    return figure


def _chance(cells: Sequence[Cell], view: tuple[float, float]) -> float | None:
    """The majority class's share, where it can be seen."""
    share = next((cell.majority_share for cell in cells if not math.isnan(cell.majority_share)), None)
    return share if share is not None and view[0] <= share <= view[1] else None


def _curve(axes: Axes, cells: Sequence[Cell], colour: str, marker: str, shift: float, intervals: bool) -> None:
    """One supervisor's students in a panel, in the order of their size; `shift` keeps intervals apart."""
    known = sorted((c.student_params or 0, c.student_model, c.student) for c in cells if c.student.known)
    if not cells:
        return
    name = one_line(cells[0].weak_model)
    x = [size * shift for size, _, _ in known]
    y = [found.value for _, _, found in known]
    reach = [[f.value - f.low for _, _, f in known], [f.high - f.value for _, _, f in known]]
    start = [(c.weak_params, c.weak.value) for c in cells[:1] if c.weak.known and c.weak_params is not None]
    start_x, start_y = [size for size, _ in start], [value for _, value in start]
    axes.plot([*start_x, *x], [*start_y, *y], color=colour, linewidth=1.3, zorder=2)
    bars = reach if intervals else None
    axes.errorbar(x, y, yerr=bars, fmt=marker, color=colour, markersize=5, elinewidth=1.1, label=name, zorder=3)
    axes.plot(start_x, start_y, marker, color=colour, markerfacecolor="white", markersize=5, zorder=4)


def _ceiling(axes: Axes, cells: Sequence[Cell]) -> None:
    known = {(c.student_params or 0, c.student_model): c.ceiling for c in cells if c.ceiling.known}
    points = sorted(known.items(), key=lambda item: item[0])
    x = [size for (size, _), _ in points]
    y = [found.value for _, found in points]
    reach = [[f.value - f.low for _, f in points], [f.high - f.value for _, f in points]]
    axes.errorbar(
        x, y, yerr=reach, fmt="--", color="black", ecolor="0.6", linewidth=1.3, elinewidth=3, label="ceiling", zorder=1
    )


def _size_ticks(axes: Axes, sizes: Sequence[int], room: float) -> None:
    """A tick for each model's size; its label takes `room` of the axis, and stands one line lower, or nowhere, where
    the label before leaves none."""
    span = math.log(sizes[-1] / sizes[0]) or 1.0
    ends = [-math.inf, -math.inf]  # of the labels on each of the two lines, as shares of the axis
    labels: list[str] = []
    for size in sizes:
        place = math.log(size / sizes[0]) / span
        line = next((line for line, end in enumerate(ends) if place - end >= room), None)
        labels.append("" if line is None else "\n" * line + short_count(size))
        if line is not None:
            ends[line] = place
    axes.set_xticks(sizes, labels)
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / math.exp(0.08 * span), sizes[-1] * math.exp(0.08 * span))


def short_count(number: int) -> str:
    """A count as people write model sizes: 22M, 1.4B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.{0 if number >= 9.95 * size else 1}f}{unit}"
    return str(number)


def _counts(cells: Sequence[Cell]) -> str:
    tests = sorted({cell.n for cell in cells if cell.n})
    seeds = sorted({e.seeds for cell in cells for e in (cell.weak, cell.student, cell.ceiling) if e.known})
    n = f"n = {tests[0]:,}" if len(tests) == 1 else f"n = {tests[0]:,} to {tests[-1]:,}"
    many = f"{seeds[0]} seed{'s' if seeds[0] > 1 else ''}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return f"{n}, {many}"
