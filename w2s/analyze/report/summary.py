"""Cells in, the main finding in a few lines out: the PGR of each method, with the accuracies that it comes from.

With one task a line is a cell; with several it is the median over tasks of a pair and method. Where that makes more
than a reader takes in at once, a line is a method, over all its pairs: their median, and where each of them lies.
Diagnostic selections are marked and stand last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from w2s.analyze.numbers.cells import Cell
from w2s.analyze.numbers.medians import Median, medians
from w2s.analyze.reading.selection import diagnostic, variant
from w2s.analyze.tables.sheet import label, one_line, with_interval

FEW = 6
FARTHEST = (-1.0, 2.0)  # PGR; one pair whose gap is tiny would press all others together
NONE = (math.nan, math.nan)
Three = tuple[float, float, float]


@dataclass(frozen=True)
class Finding:
    """One line, with a bar on a scale that all lines share.

    `marks` are weak, student and ceiling of a line that has accuracies; `dots` the PGR of each pair of one that stands
    for several, and `ends` where PGR is 0 and 1. All of them are shares of the width.
    """

    who: str
    known: bool  # whether `pgr` is a number
    pgr: str
    interval: str
    basis: str
    accuracy: tuple[str, str, str]  # weak, student, ceiling
    diagnostic: bool
    marks: Three | None
    dots: tuple[float, ...]
    ends: tuple[float, float]
    scale: tuple[float, float] | None  # PGR at the ends of the scale, where there are dots


@dataclass(frozen=True)
class _Line:
    """A finding before it is text."""

    weak_model: str
    student_model: str
    method: str
    selection: str
    value: float
    interval: tuple[float, float]
    why: str  # absent
    basis: str
    accuracy: Three
    pairs: tuple[float, ...] = ()  # PGR of each, where the line stands for several
    partial: bool = False  # tasks were left out


def findings(cells: Sequence[Cell], metric: str) -> list[Finding]:
    """The main finding; none where there are no cells."""
    tasks = len({cell.task for cell in cells})
    lines = [_of_cell(cell, metric) for cell in cells] if tasks == 1 else [_of(m) for m in medians(cells, metric)]
    pairs = len({(line.weak_model, line.student_model) for line in lines})
    if len(lines) > FEW and pairs > 1:
        lines = _over_pairs(lines, over_tasks=tasks > 1)
        pairs = 1
    lines.sort(key=lambda line: bool(diagnostic(line.selection)))  # stable
    low, high = _scale(lines)
    scale = (low, high) if any(line.pairs for line in lines) else None
    return [_finding(line, pairs > 1, lambda value: (value - low) / (high - low), scale) for line in lines]


def _of_cell(cell: Cell, metric: str) -> _Line:
    found = cell.measured(metric)
    three = (found.weak.value, found.student.value, found.ceiling.value)
    basis = f"{cell.n:,} test examples, {_count(len(cell.seeds), 'seed')}"
    return _Line(
        cell.weak_model,
        cell.student_model,
        cell.method,
        cell.selection,
        found.pgr.value if found.pgr.known else math.nan,
        (found.pgr.low, found.pgr.high),
        label(found.pgr.reason),
        cell.left_out(metric) if found.pgr.known and cell.left_out(metric) else basis,
        three,
    )


def _of(found: Median) -> _Line:
    lost = ", ".join(f"{reason} ({count})" for reason, count in found.left_out.items())
    basis = f"median of {_count(found.tasks, 'task')}" + (f"; left out: {lost}" if lost else "")
    return _Line(
        found.weak_model,
        found.student_model,
        found.method,
        found.selection,
        found.value,
        (found.low, found.high),
        "no task",
        basis if found.tasks else f"left out: {lost}",
        found.accuracy,
        partial=bool(lost),
    )


def _over_pairs(lines: Sequence[_Line], *, over_tasks: bool) -> list[_Line]:
    """One line per method and selection: the median of its pairs, and how far they spread."""
    found = []
    for method, selection in dict.fromkeys((line.method, line.selection) for line in lines):
        own = [line for line in lines if (line.method, line.selection) == (method, selection)]
        known = [line for line in own if math.isfinite(line.value)]
        lost = f"; left out: {_count(len(own) - len(known), 'pair')}" if len(known) < len(own) else ""
        if not known:
            found.append(_Line("", "", method, selection, math.nan, NONE, "no pair", lost[2:], (math.nan,) * 3))
            continue
        values = [line.value for line in known]
        tasks = "the tasks that could enter" if any(line.partial for line in known) else "tasks"
        basis = f"median of {len(known)} pairs" + (f", each a median over {tasks}" if over_tasks else "")
        basis += f"; from {min(values):.2f} to {max(values):.2f}"
        if len(known) == 1:
            basis = "one pair" + (f", its median over {tasks}" if over_tasks else "")
        # Medians of accuracies would come from different pairs, and not make up this PGR.
        absent = (math.nan, math.nan, math.nan)
        found.append(_Line("", "", method, selection, median(values), NONE, "", basis + lost, absent, tuple(values)))
    return found


def _finding(
    line: _Line, with_pair: bool, place: Callable[[float], float], scale: tuple[float, float] | None
) -> Finding:
    who = one_line(variant(line.method, line.selection))
    if with_pair:
        who = f"{one_line(line.weak_model)} → {one_line(line.student_model)}, {who}"
    known = math.isfinite(line.value)
    pgr = with_interval(line.value, *line.interval, 2) if known else None
    drawn = all(map(math.isfinite, line.accuracy))
    weak, student, ceiling = line.accuracy
    return Finding(
        who,
        known,
        pgr.text if pgr else line.why,
        pgr.interval if pgr else "",
        one_line(line.basis),
        (f"{weak:.3f}", f"{student:.3f}", f"{ceiling:.3f}"),
        diagnostic=bool(diagnostic(line.selection)),
        marks=(place(weak), place(student), place(ceiling)) if drawn else None,
        dots=tuple(min(1.0, max(0.0, place(value))) for value in line.pairs),
        ends=(place(0.0), place(1.0)),
        scale=scale,
    )


def _scale(lines: Sequence[_Line]) -> tuple[float, float]:
    """The ends of a scale that all bars share, with a little room: of PGR where lines stand for several pairs."""
    values = [value for line in lines for value in line.accuracy if math.isfinite(value)]
    several = [value for line in lines for value in line.pairs]
    if several:
        values = [0.0, 1.0, *(min(FARTHEST[1], max(FARTHEST[0], value)) for value in several)]
    if not values:
        return 0.0, 1.0
    room = max(0.02, (max(values) - min(values)) * 0.08)
    return min(values) - room, max(values) + room


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
