"""The paper that figures are drawn on: panels in rows and columns with a title above and a legend below, all in inches.

Everything that takes room is measured before the figure is made, so that nothing is cut off or runs into another text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from w2s.analyze.figures.look import (
    GREY,
    LINE_HEIGHT,
    PAGE_HIGH_IN,
    PAGE_IN,
    SMALL_PT,
    TEXT_PT,
    TITLE_PT,
    Key,
    height_in,
    width_in,
    wrapped,
)

HANDLE_IN = 0.42  # the sample of a line in the legend, with its gaps
LEAST_WIDTH_IN = 4.6  # of a figure: titles need room
MOST_LINES = 3  # of a title


@dataclass(frozen=True)
class Sizes:
    """Of the panels, in inches. `left`, `right`: outside the outer panels; `head`: above each; `foot`: below each row;
    `last`: below the last row; `between`: of columns."""

    width: float
    height: float
    left: float = 0.55
    right: float = 0.1
    head: float = 0.26
    foot: float = 0.3
    last: float = 0.5
    between: float = 0.3


@dataclass(frozen=True)
class Words:
    """What stands around the panels: a title, a remark below it, the legend, notes at the bottom."""

    title: str
    remark: str = ""
    keys: Sequence[Key] = ()
    legend: str = ""
    notes: Sequence[str] = field(default=())


def frame(words: Words, rows: int, columns: int, sizes: Sizes, count: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, row by row; only the first `count` where not every place is taken."""
    content = sizes.left + sizes.right + columns * sizes.width + (columns - 1) * sizes.between
    across = max(content, LEAST_WIDTH_IN)
    title = _cut(wrapped(words.title, across, TITLE_PT))
    remark = wrapped(words.remark, across, SMALL_PT)
    notes = [line for note in words.notes for line in wrapped(note, across, SMALL_PT)]
    above = height_in(len(title), TITLE_PT) + height_in(len(remark), SMALL_PT) + 0.08
    panels = rows * (sizes.head + sizes.height) + (rows - 1) * sizes.foot + sizes.last
    legend = Legend(words.keys, words.legend, across)
    below = legend.height_in + height_in(len(notes), SMALL_PT) + (0.06 if notes else 0.0)
    figure = Figure(figsize=(across, above + panels + below))
    FigureCanvasAgg(figure)
    paper = _Paper(figure, across, above + panels + below)
    y = paper.write(title, 0.0, TITLE_PT, "black")
    paper.write(remark, y, SMALL_PT, GREY)
    made = []
    for place in range(rows * columns if count is None else count):
        row, column = divmod(place, columns)
        x = sizes.left + column * (sizes.width + sizes.between)
        top = above + sizes.head + row * (sizes.head + sizes.height + sizes.foot)
        made.append(paper.panel(x, top, sizes.width, sizes.height))
    legend.draw(paper, above + panels)
    paper.write(notes, above + panels + legend.height_in + 0.06, SMALL_PT, GREY)
    return figure, made


def _cut(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], lines[MOST_LINES - 1][:-1] + "…"]


class _Paper:
    """Places in inches from the upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def panel(self, x: float, top: float, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def write(self, lines: Sequence[str], top: float, size_pt: float, colour: str) -> float:
        """Lines one below the other; returns where they end."""
        for place, line in enumerate(lines):
            y = 1 - (top + height_in(place, size_pt)) / self.height
            self.figure.text(0.0, y, line, fontsize=size_pt, color=colour, va="top")
        return top + height_in(len(lines), size_pt)


class Legend:
    """Entries side by side where they fit on a line, else in columns of equal width, below the panels."""

    def __init__(self, keys: Sequence[Key], title: str, across: float) -> None:
        self.keys = list({key.label: key for key in keys}.values())
        self.title = title
        widths = [width_in(key.label, SMALL_PT) + HANDLE_IN + 0.2 for key in self.keys]
        widest = max(widths, default=0.0)
        first = width_in(title, SMALL_PT, "bold") + 0.15 if title else 0.0
        self.above = 1 if first and across - first < widest else 0  # the title takes a line of its own
        first = 0.0 if self.above else first
        if sum(widths) <= across - first:
            self.rows = 1
            self.x = [first + sum(widths[:place]) for place in range(len(widths))]
        else:
            columns = max(int((across - first + 0.2) / widest), 1)
            self.rows = -(-len(self.keys) // columns)
            # Down the columns: the order of sizes is read from top to bottom.
            self.x = [first + place // self.rows * widest for place in range(len(widths))]
        self.line_in = height_in(1, SMALL_PT) + 0.035
        self.height_in = (self.rows + self.above) * self.line_in + 0.06 if self.keys else 0.0

    def draw(self, paper: _Paper, top: float) -> None:
        if not self.keys:
            return
        y = 1 - (top + self.line_in / 2) / paper.height
        paper.figure.text(0.0, y, self.title, fontsize=SMALL_PT, weight="bold", va="center_baseline")
        for place, (x, key) in enumerate(zip(self.x, self.keys, strict=True)):
            y = 1 - (top + (place % self.rows + self.above + 0.5) * self.line_in) / paper.height
            sample(paper.figure, x / paper.width, y, (HANDLE_IN - 0.1) / paper.width, key)
            paper.figure.text((x + HANDLE_IN) / paper.width, y, key.label, fontsize=SMALL_PT, va="center_baseline")


def sample(figure: Figure, x: float, y: float, width: float, key: Key) -> None:
    """A short piece of a series as a legend shows it; places are shares of the figure."""
    if key.line:
        figure.add_artist(Line2D([x, x + width], [y, y], color=key.colour, linestyle=key.line, linewidth=key.width))
    if key.marker:
        middle = Line2D([x + width / 2], [y], marker=key.marker, linestyle="none", markersize=5)
        middle.set(color=key.colour, markerfacecolor=key.face)
        figure.add_artist(middle)


def fitted(count: int, columns: int, sizes: Sizes, least_in: float) -> tuple[int, float]:
    """The columns and the width of a panel with which so many panels fit a page: panels as wide as `sizes` has them,
    else narrower down to `least_in`, else fewer side by side. What would then be too high stays wide."""
    for tried in range(columns, 0, -1):
        width = (PAGE_IN - sizes.left - sizes.right - (tried - 1) * sizes.between) / tried
        high = -(-count // tried) * (sizes.head + sizes.height + sizes.foot)
        if width >= least_in and (tried == columns or high <= PAGE_HIGH_IN):
            return tried, min(width, sizes.width)
    return columns, least_in


def columns_for(methods: int, selections: int) -> int:
    """Panels side by side: a column for each method where a row for each selection follows, else a near square."""
    if selections > 1 and methods <= 4:
        return methods
    return {1: 1, 2: 2, 3: 3, 4: 2}.get(methods, 3)


class Heads:
    """The titles of panels, on as many lines as their room takes; nothing of a name is cut off."""

    def __init__(self, texts: Sequence[str], room_in: float) -> None:
        self.lines = {text: wrapped(text, room_in) for text in texts}
        self.height_in = 0.1 + height_in(max((len(lines) for lines in self.lines.values()), default=1))

    def write(self, axes: Axes, text: str, *, apart: bool = False) -> None:
        """Above a panel; what is no final model stands apart by its colour and its slant."""
        title = axes.set_title("\n".join(self.lines[text]), fontsize=TEXT_PT, linespacing=LINE_HEIGHT - 0.15)
        title.set(color=GREY if apart else "black", style="italic" if apart else "normal")
