"""PGR of every pair as a map, weak models by students, a panel for each method; the number stands in its place.

What has no number says why in its place, hatched: no gap, at chance, missing. A pair that was not planned is blank.
Colours are those of cividis, whose lightness rises with PGR, so that the map reads the same in grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from w2s.analyze.figures import said
from w2s.analyze.figures.frame import Heads, Sizes, Words, columns_for, fitted, frame
from w2s.analyze.figures.look import GREY, SMALL_PT, height_in, ink_on, names, number, shortened, width_in
from w2s.analyze.figures.scale import scale
from w2s.analyze.numbers.cells import METRIC_WORDS, Cell
from w2s.analyze.numbers.medians import Median
from w2s.analyze.reading.rows import ROLES
from w2s.analyze.tables.sheet import one_line

WIDE_IN, WIDEST_IN, NARROW_IN = 0.62, 1.0, 0.44  # of a place: few models, with names below; many models
BOTH_IN = 0.5  # that a number needs with a word below it
HIGH_IN = 0.36
FEW = 6
NUMBER_PT, WORD_PT, LEAST_PT = 8.0, 7.0, 5.5
BAR_IN = 2.2
Place = tuple[str, str, str, str]  # weak, student, method, selection


@dataclass(frozen=True)
class Entry:
    """What stands in one place: a number, with a word below it where there is one; or words alone."""

    value: float
    words: str = ""
    out: bool = False  # enters no median: hatched, without a colour


def of_task(cells: Sequence[Cell], metric: str, size: str) -> Figure:
    """The map of one task."""
    entries = {cell.comparison: _entry(cell, metric) for cell in cells}
    title = f"{shortened(cells[0].task, 60)}: PGR ({METRIC_WORDS[metric].name}) of each pair"
    return _figure(cells, entries, title, f"{said.counts(cells)}; intervals are in the tables", size)


def over_tasks(cells: Sequence[Cell], medians: Sequence[Median], metric: str, size: str) -> Figure:
    """The map of medians; places that not all tasks entered say how many did."""
    every = len(said.tasks(cells))
    entries = {m.comparison: _median(m, every) for m in medians}
    title = f"Median PGR ({METRIC_WORDS[metric].name}) of each pair over {said.plural(every, 'task')}"
    remark = f"each task: {said.counts(cells)}"
    if any(0 < m.tasks < every for m in medians):
        remark = f"below a number: the tasks that entered, where not all; {remark}"
    return _figure(cells, entries, title, remark, size)


def _entry(cell: Cell, metric: str) -> Entry:
    why = one_line(cell.left_out(metric))
    return Entry(cell.measured(metric).pgr.value, _brief(why), True) if why else Entry(cell.measured(metric).pgr.value)


def _median(median: Median, every: int) -> Entry:
    if math.isnan(median.value):
        most = max(median.left_out, key=lambda reason: median.left_out[reason], default="no task")
        return Entry(math.nan, _brief(one_line(most)), True)
    return Entry(median.value, f"{median.tasks} of {every}" if median.tasks < every else "")


def _brief(why: str) -> str:
    """`student failed` as `failed`; `weak and ceiling at chance` as `at chance`."""
    if "at chance" in why:
        return "at chance"
    words = [word for word in why.split() if word not in (*ROLES, "and")]
    return " ".join(words[:3])


def _figure(cells: Sequence[Cell], entries: Mapping[Place, Entry], title: str, remark: str, size: str) -> Figure:
    at = scale(cells, size)
    weak, students = (at.models([cell.pair[place] for cell in cells]) for place in (0, 1))
    variants = said.variant_names(cells)
    short = names([*weak, *students], 30)
    methods, selections = (len({key[place] for key in variants}) for place in (0, 1))
    left = 0.3 + max(width_in(short[name], SMALL_PT) for name in weak)
    widest = max(width_in(short[name], SMALL_PT) for name in students)
    wide = max(WIDE_IN, min(widest + 0.12, WIDEST_IN)) if len(students) <= FEW else NARROW_IN
    panel_in = wide * len(students), HIGH_IN * len(weak)
    sizes = Sizes(*panel_in, left=left, right=0.8, head=0.3, foot=0.1, between=0.2)
    columns = min(columns_for(methods, selections), len(variants))
    columns, width = fitted(len(variants), columns, sizes, min(wide, BOTH_IN) * len(students))
    wide = width / len(students)
    level = widest < wide - 0.05  # names that fit side by side stand level, others upright
    below = 0.1 + (height_in(1, SMALL_PT) if level else widest)
    heads = Heads(list(variants.values()), width + 0.1)
    sizes = replace(sizes, width=width, head=heads.height_in, last=below + 0.25)
    hatched = any(entry.out for entry in entries.values())
    remark = f"{remark}; hatched: enters no median" if hatched else remark
    figure, made = frame(Words(title, remark), -(-len(variants) // columns), columns, sizes, len(variants))
    ramp, norm = matplotlib.colormaps["cividis"], Normalize(0.0, 1.0)
    for number_, (axes, ((method, selection), name)) in enumerate(zip(made, variants.items(), strict=True)):
        for row, w in enumerate(weak):
            for column, s in enumerate(students):
                entry = entries.get((w, s, method, selection))
                if entry is not None:
                    _place(axes, column, row, entry, ramp, norm, wide)
        _edges(axes, weak, students, short, level)
        heads.write(axes, name, apart=selection != "final")
        if number_ % columns:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("supervisor")
        if number_ >= len(variants) - columns:
            axes.set_xlabel("student")
        else:
            axes.set_xticklabels([])
    _bar(figure, made[columns - 1], ramp, norm)
    return figure


def _edges(axes: Axes, weak: Sequence[str], students: Sequence[str], short: Mapping[str, str], level: bool) -> None:
    axes.set_xlim(-0.5, len(students) - 0.5)
    axes.set_ylim(len(weak) - 0.5, -0.5)
    axes.set_yticks(range(len(weak)), [short[name] for name in weak])
    axes.set_xticks(range(len(students)), [short[name] for name in students], rotation=0 if level else 90)
    axes.tick_params(length=0)
    axes.hlines([row + 0.5 for row in range(len(weak) - 1)], -0.5, len(students) - 0.5, color="white", linewidth=1.2)
    axes.vlines([row + 0.5 for row in range(len(students) - 1)], -0.5, len(weak) - 0.5, color="white", linewidth=1.2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _place(axes: Axes, x: int, y: int, entry: Entry, ramp: Colormap, norm: Normalize, wide_in: float) -> None:
    corner = (x - 0.5, y - 0.5)
    if entry.out:
        patch = Rectangle(corner, 1, 1, facecolor="0.96", edgecolor="0.86", hatch="///", linewidth=0)
        ink = "0.15"
    else:
        colour = ramp(norm(min(max(entry.value, 0.0), 1.0)))
        patch = Rectangle(corner, 1, 1, facecolor=colour, linewidth=0)
        ink = ink_on(colour)
    axes.add_patch(patch)
    patch.set_clip_on(False)
    alone = math.isnan(entry.value) or (entry.out and wide_in < BOTH_IN)  # no room for both
    texts = [] if alone else [(number(entry.value, 2), NUMBER_PT)]
    words = entry.words
    if words and not texts and " " in words and width_in(words, WORD_PT) > wide_in - 0.06:
        texts = [(word, WORD_PT) for word in words.split()]
    elif words:
        texts.append((words, WORD_PT))
    texts = texts[:3]
    for place, (text, size_pt) in enumerate(texts):
        fitted = max(min(size_pt, size_pt * (wide_in - 0.05) / width_in(text, size_pt)), LEAST_PT)
        offset = (place - (len(texts) - 1) / 2) * (0.36 if len(texts) < 3 else 0.3)
        axes.text(x, y + offset, text, ha="center", va="center_baseline", fontsize=fitted, color=ink)


def _bar(figure: Figure, beside: Axes, ramp: Colormap, norm: Normalize) -> None:
    """The scale of colours, right of the first row of panels; they end at 0 and 1, where numbers go on."""
    box, (width, height) = beside.get_position(), figure.get_size_inches()
    high = min(BAR_IN, box.height * height)
    axes = figure.add_axes((box.x1 + 0.15 / width, box.y1 - high / height, 0.11 / width, high / height))
    bar = figure.colorbar(ScalarMappable(norm, ramp), cax=axes, ticks=[0.0, 0.5, 1.0])
    bar.ax.set_yticklabels(["≤ 0", "0.5" if high > 0.5 else "", "≥ 1"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, colors=GREY)
