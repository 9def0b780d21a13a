"""How students were trained: loss by optimizer step and, where they were evaluated meanwhile, accuracy on test against
ground truth and on val against the weak labels. Means over seeds, each seed as a thin line; the step that weak_val
takes marked.

At most MOST_PAIRS pairs, MOST_METHODS methods and MOST_SEEDS seeds are read and drawn; the figure says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s.analyze.figures import curves, said
from w2s.analyze.figures.curves import Course, Courses
from w2s.analyze.figures.frame import Heads, Sizes, Words, fitted, frame
from w2s.analyze.figures.look import DASHED, DOTTED, GREY, Key, few_ticks, keys, names, shortened
from w2s.analyze.numbers.cells import Cell
from w2s.analyze.reading.rows import Rows

MOST_PAIRS, MOST_METHODS, MOST_SEEDS = 4, 6, 5
PAIR_IN = 0.18  # above the titles of a row of panels
LOSS = "training loss"
THIN = 0.45  # opacity of single seeds
SUPERVISOR = Key("supervisor", GREY, "", DOTTED, width=1.2)
CEILING = Key("ceiling", "black", "", DASHED, width=1.2)
CHOSEN = Key("taken by weak_val, each seed", "black", "o", "", hollow=True)
EVALUATED = {"accuracy_E": "ground-truth accuracy (test)", "agreement_E": "weak-label accuracy (val)"}


def of_task(rows: Rows, cells: Sequence[Cell]) -> Figure | None:
    """The figure of one task; None where no student has finished."""
    # All selections of a cell come from one training.
    trained = list({(*cell.pair, cell.method): cell for cell in cells if cell.seeds}.values())
    pairs, methods = said.pairs(trained), list(dict.fromkeys(cell.method for cell in trained))
    some, first = spaced(pairs, MOST_PAIRS), methods[:MOST_METHODS]
    kept = [cell for cell in trained if cell.pair in some and cell.method in first]
    read = [curves.of_cell(rows, cell, MOST_SEEDS) for cell in kept]
    if not any(one.found for one in read):
        return None
    counted = {"pairs": (len(some), len(pairs)), "methods": (len(first), len(methods))}
    notes = [f"{few} of {every} {what} shown" for what, (few, every) in counted.items() if few < every]
    if any(len(cell.seeds) > MOST_SEEDS for cell in kept):
        notes.append(f"the first {MOST_SEEDS} seeds shown")
    damaged = sum(len(one.problems) for one in read)
    if damaged:
        notes.append(f"{said.plural(damaged, 'run')} could not be read")
    return _figure(kept, read, first, notes)


def spaced(items: Sequence[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """At most so many, evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _figure(cells: Sequence[Cell], read: Sequence[Courses], methods: Sequence[str], notes: Sequence[str]) -> Figure:
    short = names(methods)
    look = dict(zip(methods, keys([short[method] for method in methods]), strict=True))
    evaluated = any(len(course.step_E) for one in read for course in one.found)
    parts = list(EVALUATED) if evaluated else []
    pairs = list(dict.fromkeys(one.pair for one in read if one.found))
    models = names([name for pair in pairs for name in pair])
    stretches = [course.stretch for one in read for course in one.found]
    seeds = sorted({len(one.found) for one in read if one.found})
    remark = [
        f"{said.spread(seeds)} seed{'' if seeds == [1] else 's'}",
        "mean over seeds, thin: each seed" if seeds != [1] else "",
        f"each loss is the mean over {said.spread(stretches)} steps" if max(stretches) > 1 else "",
        f"n = {said.spread([cell.n for cell in cells])} test examples"
        if evaluated
        else "not evaluated during training (recipe.eval_every)",
        *notes,
    ]  # fmt: skip
    chosen = any(course.chosen is not None for one in read for course in one.found)
    entries = [*look.values(), *([SUPERVISOR, CEILING] if evaluated else []), *([CHOSEN] if chosen else [])]
    title = f"{shortened(cells[0].task, 60)}: training of students"
    words = Words(title, "; ".join(part for part in remark if part), entries, "method")
    columns = 1 + len(parts)
    sizes = Sizes(4.4, 1.75, left=0.58, foot=0.28, last=0.5, between=0.6)
    width = fitted(len(pairs) * columns, columns, sizes, 1.0)[1]
    heads = Heads([LOSS, *EVALUATED.values()] if evaluated else [LOSS], width + 0.3)
    sizes = replace(sizes, width=width, head=heads.height_in + PAIR_IN)
    figure, made = frame(words, len(pairs), columns, sizes)
    for row, pair in enumerate(pairs):
        panels = made[row * columns : (row + 1) * columns]
        own = [one for one in read if one.pair == pair and one.found]
        first = next(cell for cell in cells if cell.pair == pair)
        _losses(panels[0], own, look)
        heads.write(panels[0], LOSS)
        for axes, part in zip(panels[1:], parts, strict=True):
            _evaluations(axes, own, look, part, first if part == "accuracy_E" else None)
            heads.write(axes, EVALUATED[part])
        last = max(int(course.step_L[-1]) for one in own for course in one.found)
        for axes in panels:
            axes.set_xlim(0.0, 1.02 * last)
            few_ticks(axes.xaxis, 5, whole=True)
            few_ticks(axes.yaxis, 5)
            if row == len(pairs) - 1:
                axes.set_xlabel("optimizer steps")
        _pair_head(figure, panels[0], f"{models[pair[0]]} → {models[pair[1]]}", heads.height_in)
    return figure


def _pair_head(figure: Figure, axes: Axes, text: str, above_in: float) -> None:
    """Above a row of panels and their titles, as wide as it needs."""
    y = axes.get_position().y1 + (above_in + 0.06) / float(figure.get_figheight())
    figure.text(0.0, y, text, weight="bold", va="center_baseline")


def _losses(axes: Axes, own: Sequence[Courses], look: dict[str, Key]) -> None:
    for one in own:
        _mean_and_seeds(axes, [(c.step_L, c.loss_L) for c in one.found], look[one.method], look[one.method].marker)


def _evaluations(axes: Axes, own: Sequence[Courses], look: dict[str, Key], part: str, cell: Cell | None) -> None:
    for one in own:
        key = look[one.method]
        found = [course for course in one.found if len(getattr(course, part))]
        _mean_and_seeds(axes, [(c.step_E, getattr(c, part)) for c in found], key, key.marker)
        for course in found:
            _chosen(axes, course, getattr(course, part), key)
    if cell is not None:
        for estimate, level in ((cell.accuracy.weak, SUPERVISOR), (cell.accuracy.ceiling, CEILING)):
            if estimate.known:
                axes.axhline(estimate.value, color=level.colour, linestyle=level.line, linewidth=level.width, zorder=1)
    if not axes.lines:
        axes.text(0.5, 0.5, "not evaluated", transform=axes.transAxes, ha="center", color=GREY)


def _chosen(axes: Axes, course: Course, value_E: curves.Floats, key: Key) -> None:
    if course.chosen is not None:
        value = float(value_E[course.step_E == course.chosen][0])
        axes.plot([course.chosen], [value], "o", color=key.colour, markerfacecolor="white", markersize=5.2, zorder=5)


def _mean_and_seeds(axes: Axes, found: Sequence[tuple[curves.Ints, curves.Floats]], key: Key, marker: str) -> None:
    """The mean over the steps that all seeds have, and each seed as a thin line where there are several."""
    if not found:
        return
    shared = found[0][0]
    for steps, _ in found[1:]:
        shared = np.intersect1d(shared, steps)
    if len(found) > 1:
        for steps, values in found:
            axes.plot(steps, values, color=key.colour, linewidth=0.6, alpha=THIN, zorder=2)
    if len(shared):
        mean = np.mean([values[np.isin(steps, shared)] for steps, values in found], axis=0)
        axes.plot(shared, mean, color=key.colour, linestyle=key.line, linewidth=1.5, zorder=4)
        axes.lines[-1].set(marker=marker, markersize=3.8, markevery=max(len(shared) // 8, 1))


def alt() -> str:
    return "training loss of students by optimizer step, with accuracy on test and against weak labels where known"
