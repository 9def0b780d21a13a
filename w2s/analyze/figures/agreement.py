"""How often a student predicts what its supervisor predicts, where that is right and where it is wrong.

The more it agrees where the supervisor is wrong, the more of its errors it has taken over.
Source: Burns et al. 2023, sec. 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from w2s.analyze.figures import dots, lines, said
from w2s.analyze.figures.accuracy import FEW, point, said_keys, supervisors
from w2s.analyze.figures.frame import Words
from w2s.analyze.figures.look import names, shortened
from w2s.analyze.figures.scale import Scale, scale
from w2s.analyze.numbers.cells import Cell

FEW_MODELS = 6  # whose sizes can be told apart on a short axis
SIDES = {"agreement_right": "supervisor right", "agreement_wrong": "supervisor wrong"}


def of_task(cells: Sequence[Cell], size: str) -> Figure:
    """The figure of one task."""
    title = f"{shortened(cells[0].task, 60)}: agreement with the supervisor"
    estimates = [getattr(cell, side) for cell in cells for side in SIDES]
    remark = f"{said.counts(cells, estimates)}; {said.INTERVALS}"
    at = scale(cells, size)
    variants = said.variant_names(cells)
    many = len(said.pairs(cells)) * (len(variants) + 1.5) > dots.MOST_LINES
    if not many and (at.by_order or at.distinct([cell.student_model for cell in cells]) < FEW):
        return _dots(cells, variants, title, remark)
    return _ladder(cells, variants, at, title, remark)


def known(cells: Sequence[Cell]) -> bool:
    return any(getattr(cell, side).known for cell in cells for side in SIDES)


def _dots(cells: Sequence[Cell], variants: dict[tuple[str, str], str], title: str, remark: str) -> Figure:
    look = said_keys(variants)
    short = names([name for cell in cells for name in cell.pair])
    drawn: list[dots.Line | None] = []
    for pair in said.pairs(cells):
        drawn.append(dots.Line(f"{short[pair[0]]} → {short[pair[1]]}"))
        own = {(cell.method, cell.selection): cell for cell in cells if cell.pair == pair}
        drawn += said.apart(
            (key[1], dots.Line(name, [getattr(own[key], side) for side in SIDES], look[key]))
            for key, name in variants.items()
            if key in own
        )
        drawn.append(None)
    columns = [dots.Column(f"agreement, {name}", 3, (0.0, 1.0)) for name in SIDES.values()]
    return dots.draw(Words(title, remark), drawn[:-1], columns)


def _ladder(cells: Sequence[Cell], variants: dict[tuple[str, str], str], at: Scale, title: str, remark: str) -> Figure:
    look = supervisors(cells, at)
    fits = lines.intervals_fit(len(look))
    panels = []
    for (method, selection), name in variants.items():
        for side, which in SIDES.items():
            series = []
            for weak in look:
                own = [c for c in cells if (c.weak_model, c.method, c.selection) == (weak, method, selection)]
                series.append(
                    lines.Series(look[weak], [point(cell.student_model, getattr(cell, side)) for cell in own])
                )
            panels.append(lines.Panel(f"{which}: {name}", series, apart=selection != "final"))
    if not fits:
        remark = remark.replace(said.INTERVALS, "95 % intervals are in the tables")
    words = Words(f"{title} against student size", remark, list(look.values()), "supervisor")
    axis = lines.Axis("agreement", view=(0.0, 1.0), intervals=fits)
    return lines.draw(words, panels, 4 if len(variants) > 3 and len(at.place) <= FEW_MODELS else 2, at, axis)


def alt(cells: Sequence[Cell]) -> str:
    """The figure in a sentence."""
    parts = []
    for side, name in SIDES.items():
        values = [e.value for cell in cells if (e := getattr(cell, side)).known]
        if values:
            parts.append(f"{name} {min(values):.2f} to {max(values):.2f}")
    return f"agreement of students with their supervisor: {', '.join(parts)}"
