"""Accuracy, or AUROC, of weak models, students and ceilings: against the student's size, a line for each supervisor
that starts at its own accuracy, the ceiling dashed; one below the other where there are fewer than three sizes.

Source: the main figures of Burns et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from w2s.analyze.figures import dots, lines, said
from w2s.analyze.figures.frame import Words, columns_for
from w2s.analyze.figures.look import DASHED, DOTTED, GREY, Key, keys, names, shortened
from w2s.analyze.figures.scale import Scale, scale
from w2s.analyze.numbers.cells import METRIC_WORDS, Cell, Measured
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading.rows import ROLES
from w2s.analyze.tables.sheet import one_line

WEAK = Key("weak", GREY, "s", "")
CEILING = Key("ceiling: the student on ground truth", "black", "", DASHED)
FEW = 3  # sizes that make a curve


def known(cells: Sequence[Cell], metric: str) -> bool:
    """True where there is anything to draw."""
    return any(getattr(cell.measured(metric), role).known for cell in cells for role in ROLES)


def of_task(cells: Sequence[Cell], metric: str, size: str) -> Figure:
    """The figure of one task."""
    found = {id(cell): cell.measured(metric) for cell in cells}
    title = f"{shortened(cells[0].task, 60)}: {METRIC_WORDS[metric].name}"
    estimates = [getattr(m, role) for m in found.values() for role in ROLES]
    remark, chance = said.counts(cells, estimates), said.chance(cells, metric)
    return _figure(cells, found, scale(cells, size), title, remark, chance, f"test {METRIC_WORDS[metric].name}")


def over_tasks(cells: Sequence[Cell], metric: str, size: str) -> Figure | None:
    """Medians over the tasks for which all that is drawn is there; None where there are fewer than two."""
    every = said.tasks(cells)
    keyed: dict[tuple[str, str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        keyed.setdefault(cell.comparison, {})[cell.task] = cell
    drawn = {key: own for key, own in keyed.items() if any(_complete(cell, metric) for cell in own.values())}
    kept = [
        task for task in every
        if drawn and all(task in own and _complete(own[task], metric) for own in drawn.values())
    ]  # fmt: skip
    if len(kept) < 2:
        return None
    ones = [own[kept[0]] for own in drawn.values()]
    found = {id(own[kept[0]]): _medians([own[task].measured(metric) for task in kept]) for own in drawn.values()}
    used = [own[task] for own in drawn.values() for task in kept]
    title = f"Median {METRIC_WORDS[metric].name} over {said.plural(len(kept), 'task')}"
    left = [f"{len(every) - len(kept)} of {len(every)} tasks left out: not complete"] if len(kept) < len(every) else []
    if len(drawn) < len(keyed):
        left.append(f"{len(keyed) - len(drawn)} of {len(keyed)} lines are complete in no task")
    remark = "; ".join([f"each task: {said.counts(used)}", "medians without intervals", *left])
    return _figure(ones, found, scale(used, size), title, remark, math.nan, f"median {METRIC_WORDS[metric].name}")


def _complete(cell: Cell, metric: str) -> bool:
    return all(getattr(cell.measured(metric), role).known for role in ROLES)


def _medians(found: Sequence[Measured]) -> Measured:
    none = absent("medians have none")

    def median(role: str) -> Estimate:
        middle = float(np.median([getattr(m, role).value for m in found]))
        return Estimate(middle, math.nan, math.nan, len(found), 0)

    weak, student, ceiling = (median(role) for role in ROLES)
    return Measured(weak, student, ceiling, none, none, none, none, math.nan, math.nan, None)


def _figure(
    cells: Sequence[Cell], found: dict[int, Measured], at: Scale, title: str, remark: str, chance: float, of: str
) -> Figure:
    variants = said.variant_names(cells)
    many = len(said.pairs(cells)) * (len(variants) + 2.5) > dots.MOST_LINES
    if not many and (at.by_order or at.distinct([n for cell in cells for n in cell.pair]) < FEW):
        return _dots(cells, found, title, remark, chance, of)
    return _ladder(cells, found, at, title, remark, chance, of)


def _dots(cells: Sequence[Cell], found: dict[int, Measured], title: str, remark: str, chance: float, of: str) -> Figure:
    """A block for each pair with weak, each variant's student and the ceiling."""
    variants = said.variant_names(cells)
    look = said_keys(variants)
    short = names([name for cell in cells for name in cell.pair])
    made: list[dots.Line | None] = []
    for pair in said.pairs(cells):
        own = {(cell.method, cell.selection): cell for cell in cells if cell.pair == pair}
        first = found[id(next(iter(own.values())))]
        made.append(dots.Line(f"{short[pair[0]]} → {short[pair[1]]}"))
        made.append(dots.Line("weak", [first.weak], WEAK))
        made += said.apart(
            (key[1], dots.Line(f"student, {name}", [found[id(own[key])].student], look[key]))
            for key, name in variants.items()
            if key in own
        )
        made += [dots.Line("ceiling", [first.ceiling], Key("", "black", "D", "")), None]
    ends = [e for m in found.values() for r in ROLES if (e := getattr(m, r)).known]
    low = min((e.value if math.isnan(e.low) else e.low for e in ends), default=1.0)
    near = not math.isnan(chance) and chance > low - 0.1
    bars = [] if said.without_interval(ends) else [said.INTERVALS]
    dotted = [f"dotted: {_chance_name(of)}"] if near else []
    column = dots.Column(of, 3, (-math.inf, math.inf), (chance,) if near else (), [chance] if near else [])
    return dots.draw(Words(title, "; ".join([remark, *bars, *dotted])), made[:-1], [column])


def _chance_name(of: str) -> str:
    return "chance" if "AUROC" in of else "majority class"


def said_keys(variants: dict[tuple[str, str], str]) -> dict[tuple[str, str], Key]:
    """Methods by colour and marker; a student that was selected is drawn open."""
    methods = list(dict.fromkeys(method for method, _ in variants))
    look = dict(zip(methods, keys(methods), strict=True))
    return {
        (method, selection): Key(
            name, look[method].colour, look[method].marker, look[method].line, selection != "final"
        )
        for (method, selection), name in variants.items()
    }


def supervisors(cells: Sequence[Cell], at: Scale) -> dict[str, Key]:
    """Weak models from small to large, with their sizes."""
    weak = at.models([cell.weak_model for cell in cells])
    short = names([name for cell in cells for name in cell.pair])
    return dict(zip(weak, keys([at.named(model, short[model]) for model in weak]), strict=True))


def _ladder(
    cells: Sequence[Cell], found: dict[int, Measured], at: Scale, title: str, remark: str, chance: float, of: str
) -> Figure:
    variants = said.variant_names(cells)
    look = supervisors(cells, at)
    ends = [e for m in found.values() for r in ROLES if (e := getattr(m, r)).known]
    has = not said.without_interval(ends)
    fits = lines.intervals_fit(len(look))
    panels = []
    for (method, selection), name in variants.items():
        own = [cell for cell in cells if (cell.method, cell.selection) == (method, selection)]
        series = [_ceilings(cells, found)]
        for weak in look:
            curve = [cell for cell in own if cell.weak_model == weak]
            if curve:
                points = [point(cell.student_model, found[id(cell)].student) for cell in curve]
                start = point(weak, found[id(curve[0])].weak)
                series.append(lines.Series(look[weak], points, start))
        lost = sum(not found[id(cell)].student.known for cell in own)
        panels.append(lines.Panel(name, series, f"{lost} not there" if lost else "", selection != "final"))
    lowest = min(e.value for e in ends)
    near = not math.isnan(chance) and chance > lowest - 0.1
    parts = [remark, "open markers: the supervisor itself"]
    if has:
        parts.append(said.INTERVALS if fits else "intervals of students are in the tables")
    entries = [*look.values(), CEILING, *([Key(_chance_name(of), GREY, "", DOTTED, width=0.8)] if near else [])]
    axis = lines.Axis(of, [chance] if near else [], must=(chance, chance) if near else None, intervals=has and fits)
    methods, selections = (len({key[place] for key in variants}) for place in (0, 1))
    words = Words(f"{title} against student size", "; ".join(parts), entries, "supervisor")
    return lines.draw(words, panels, columns_for(methods, selections), at, axis)


def point(model: str, found: Estimate, *, hollow: bool = False) -> lines.Point:
    """An estimate at a model's size."""
    return lines.Point(model, found.value, found.low, found.high, hollow)


def _ceilings(cells: Sequence[Cell], found: dict[int, Measured]) -> lines.Series:
    known = {cell.student_model: found[id(cell)].ceiling for cell in cells if found[id(cell)].ceiling.known}
    return lines.Series(CEILING, [point(model, one) for model, one in known.items()], beneath=True)


def alt(cells: Sequence[Cell], metric: str) -> str:
    """The figure in a sentence for those who do not see it."""
    name = METRIC_WORDS[metric].name
    values = {role: [e.value for c in cells if (e := getattr(c.measured(metric), role)).known] for role in ROLES}
    found = [f"{role} {_range(numbers)}" for role, numbers in values.items() if numbers]
    return one_line(f"{name} of weak models, students and ceilings: {', '.join(found)}")


def _range(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:.3f} to {high:.3f}"
