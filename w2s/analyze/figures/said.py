"""Cells in, what figures say about them in words out: n, seeds, tasks, panels and what they leave out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from w2s.analyze.figures.look import names
from w2s.analyze.numbers.cells import Cell
from w2s.analyze.numbers.stats import Estimate
from w2s.analyze.reading.selection import SELECTIONS, variant
from w2s.analyze.tables.sheet import one_line

T = TypeVar("T")
INTERVALS = "bars: 95 % intervals"


def tasks(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.task for cell in cells))


def variants(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    """(method, selection): all methods as training left them, then those of each other selection."""
    found = dict.fromkeys((cell.method, cell.selection) for cell in cells)
    return sorted(found, key=lambda item: SELECTIONS.index(item[1]))


def variant_names(cells: Iterable[Cell]) -> dict[tuple[str, str], str]:
    """What each variant is called."""
    cells = list(cells)
    method = names([cell.method for cell in cells])
    return {(m, s): variant(method[m], s) for m, s in variants(cells)}


def pairs(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(cell.pair for cell in cells))


def counts(cells: Sequence[Cell], estimates: Iterable[Estimate] = ()) -> str:
    """`n = 600 test examples, 3 seeds`, or their ranges."""
    tests = sorted({cell.n for cell in cells if cell.n})
    seeds = sorted({e.seeds for e in estimates if e.known and e.seeds})
    if not seeds:
        seeds = sorted({len(cell.seeds) for cell in cells if cell.seeds})
    said = [f"n = {spread(tests)} test examples"] if tests else []
    return ", ".join([*said, f"{spread(seeds)} seed{'' if seeds == [1] else 's'}"] if seeds else said)


def spread(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def chance(cells: Sequence[Cell], metric: str) -> float:
    """What a model reaches that knows nothing; NaN where it is not known, or not one number."""
    if metric == "auroc":
        return 0.5
    shares = {cell.majority_share for cell in cells if not math.isnan(cell.majority_share)}
    return shares.pop() if len(shares) == 1 else math.nan


def without_interval(estimates: Iterable[Estimate]) -> bool:
    """True where none of them has an interval."""
    return all(math.isnan(e.low) for e in estimates if e.known)


def label(estimate: Estimate) -> str:
    """Why an estimate is absent, in a word or two."""
    return one_line(estimate.reason.partition(":")[0])


def apart(lines: Iterable[tuple[str, T]]) -> list[T | None]:
    """Lines with their selections in, the lines with a gap (None) between two selections out."""
    made: list[T | None] = []
    before = ""
    for selection, line in lines:
        made += [None, line] if before and selection != before else [line]
        before = selection
    return made
