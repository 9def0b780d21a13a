"""PGR of each method: against the student's size with a line for each supervisor, or one below the other where there
are fewer than three sizes of students; of one task, and as medians over tasks.

Where there are many supervisors, a panel belongs to a supervisor and a line to a method: so many intervals at one size
could not be told apart. What has no PGR has no point, and its panel counts it with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from w2s.analyze.figures import dots, lines, said
from w2s.analyze.figures.accuracy import FEW, said_keys, supervisors
from w2s.analyze.figures.frame import Words, columns_for
from w2s.analyze.figures.look import Key, names, shortened
from w2s.analyze.figures.scale import Scale, scale
from w2s.analyze.numbers.cells import METRIC_WORDS, Cell
from w2s.analyze.numbers.medians import Median
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.tables.sheet import one_line

VIEW = (-1.0, 2.0)  # what reaches far beyond ends here, and its numbers stand in the tables
ARROWS = f"arrows: on beyond {VIEW[0]:g} or {VIEW[1]:g}"


@dataclass(frozen=True)
class Recovered:
    """One PGR, of a task or over tasks. `aside` says why it enters no median though it is known, `beside` stands behind
    its numbers."""

    pair: tuple[str, str]
    method: str
    selection: str
    found: Estimate
    aside: str = ""
    beside: str = ""
    why: tuple[tuple[str, int], ...] = ()  # what has no point here, by reason


def of_task(cells: Sequence[Cell], metric: str, size: str) -> Figure:
    """The figure of one task."""
    made = [_of_cell(cell, metric) for cell in cells]
    title = f"{shortened(cells[0].task, 60)}: performance gap recovered ({METRIC_WORDS[metric].name})"
    remark = said.counts(cells, [one.found for one in made])
    return _figure(cells, made, scale(cells, size), title, remark, "PGR")


def _of_cell(cell: Cell, metric: str) -> Recovered:
    found = cell.measured(metric).pgr
    why = one_line(cell.left_out(metric))
    aside = why if found.known else ""
    lost = () if found.known else ((why or "absent", 1),)
    return Recovered(cell.pair, cell.method, cell.selection, found, aside, aside, lost)


def over_tasks(cells: Sequence[Cell], medians: Sequence[Median], metric: str, size: str) -> Figure:
    """Medians over tasks."""
    every = len(said.tasks(cells))
    made = [_of_median(median, every) for median in medians]
    entered = [m.tasks for m in medians if m.tasks]
    title = f"Median performance gap recovered ({METRIC_WORDS[metric].name}) over {said.plural(every, 'task')}"
    remark = [f"medians over {said.spread(entered)} of {every} tasks"] if min(entered) < every else []
    remark.append(f"each task: {said.counts(cells)}")
    if all(math.isnan(m.low) for m in medians):
        remark.append("no intervals below 6 tasks")
    return _figure(cells, made, scale(cells, size), title, "; ".join(remark), "median PGR")


def _of_median(median: Median, every: int) -> Recovered:
    beside = f"{median.tasks} of {every} tasks" if 0 < median.tasks < every else ""
    pair, lost = (median.weak_model, median.student_model), tuple(median.left_out.items())
    return Recovered(pair, median.method, median.selection, estimate_of(median), "", beside, lost)


def estimate_of(median: Median) -> Estimate:
    """A median as an estimate whose n is the tasks that entered."""
    if math.isnan(median.value):
        return absent(", ".join(f"{reason} in {count}" for reason, count in median.left_out.items()) or "no task")
    return Estimate(median.value, median.low, median.high, median.tasks, 0)


def _figure(cells: Sequence[Cell], made: Sequence[Recovered], at: Scale, title: str, remark: str, of: str) -> Figure:
    students = list(dict.fromkeys(one.pair[1] for one in made))
    variants = said.variant_names(cells)
    parts = [remark] if said.without_interval(one.found for one in made) else [remark, said.INTERVALS]
    parts += [ARROWS] if any(_beyond(one.found) for one in made) else []
    remark = "; ".join([*parts, "0: the weak model, 1: the ceiling"])
    left_out = any(one.why for one in made)
    lines_needed = len(said.pairs(cells)) * (len(variants) + 1.5)
    if (at.by_order or at.distinct(students) < FEW) and lines_needed <= dots.MOST_LINES:
        return _dots(made, variants, title, remark, of)
    look = supervisors(cells, at)
    words = f"{title} against student size"
    remark = f"{remark}; in grey: what is left out" if left_out else remark
    if lines.intervals_fit(len(look)) or len(variants) > lines.MOST_INTERVALS:
        return _by_method(made, variants, look, at, words, remark, of)
    return _by_supervisor(made, variants, look, at, words, remark, of)


def _dots(made: Sequence[Recovered], variants: dict[tuple[str, str], str], title: str, remark: str, of: str) -> Figure:
    look = said_keys(variants)
    short = names([name for one in made for name in one.pair])
    drawn: list[dots.Line | None] = []
    for pair in dict.fromkeys(one.pair for one in made):
        drawn.append(dots.Line(f"{short[pair[0]]} → {short[pair[1]]}"))
        own = {(one.method, one.selection): one for one in made if one.pair == pair}
        drawn += said.apart(
            (key[1], dots.Line(name, [own[key].found], look[key], own[key].beside))
            for key, name in variants.items()
            if key in own
        )
        drawn.append(None)
    column = dots.Column(of, 2, VIEW, (-0.05, 1.05), (0.0, 1.0))
    return dots.draw(Words(title, remark), drawn[:-1], [column])


def _beyond(found: Estimate) -> bool:
    return found.known and any(end < VIEW[0] or end > VIEW[1] for end in (found.value, found.low, found.high))


def _axis(of: str, made: Sequence[Recovered], intervals: bool) -> lines.Axis:
    shown = intervals and not said.without_interval(one.found for one in made)
    return lines.Axis(of, (0.0, 1.0), VIEW, (0.0, 1.0), shown)


def _by_method(
    made: Sequence[Recovered], variants: dict[tuple[str, str], str], look: dict[str, Key], at: Scale,
    title: str, remark: str, of: str,
) -> Figure:  # fmt: skip
    fits = lines.intervals_fit(len(look))
    panels = []
    for (method, selection), name in variants.items():
        own = [one for one in made if (one.method, one.selection) == (method, selection)]
        series = [_series(look[weak], [one for one in own if one.pair[0] == weak]) for weak in look]
        panels.append(lines.Panel(name, series, _lost(own), selection != "final"))
    methods, selections = (len({key[place] for key in variants}) for place in (0, 1))
    remark = remark if fits else f"{remark}; too many supervisors to draw intervals, which are in the tables"
    words = Words(title, _with_open(remark, made), list(look.values()), "supervisor")
    return lines.draw(words, panels, columns_for(methods, selections), at, _axis(of, made, fits))


def _by_supervisor(
    made: Sequence[Recovered], variants: dict[tuple[str, str], str], look: dict[str, Key], at: Scale,
    title: str, remark: str, of: str,
) -> Figure:  # fmt: skip
    methods = said_keys(variants)
    panels, notes = [], []
    for weak, key in look.items():
        own = [one for one in made if one.pair[0] == weak]
        if not any(one.found.known for one in own):
            notes.append(f"{key.label}: nothing to draw ({_lost(own).replace(chr(10), ', ')})")
            continue
        series = [_series(methods[v], [o for o in own if (o.method, o.selection) == v]) for v in variants]
        panels.append(lines.Panel(key.label, series, _lost(own)))
    words = Words(
        f"{title}, a panel for each supervisor", _with_open(remark, made), list(methods.values()), "method", notes
    )
    return lines.draw(words, panels, 3, at, _axis(of, made, True))


def _with_open(remark: str, made: Sequence[Recovered]) -> str:
    return f"{remark}; open markers: a model at chance" if any(one.aside for one in made) else remark


def _series(key: Key, own: Sequence[Recovered]) -> lines.Series:
    points = [
        lines.Point(one.pair[1], one.found.value, one.found.low, one.found.high, bool(one.aside))
        for one in own
        if one.found.known
    ]
    return lines.Series(key, points)


def _lost(own: Sequence[Recovered]) -> str:
    """What has no point: in medians, what did not enter."""
    why: Counter[str] = Counter()
    for one in own:
        why.update(dict(one.why))
    return "\n".join(f"{shortened(reason, 30)}: {count}" for reason, count in why.most_common(4))


def alt(estimates: Sequence[Estimate], of: str) -> str:
    """The figure in a sentence."""
    values = [e.value for e in estimates if e.known]
    said_of = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}" if values else "none"
    return f"{of}: {said_of}; known in {len(values)} of {len(estimates)} places"
