"""Rows and cells in, what a reader is shown out, once for every format: sheets of short texts, sentences, remarks.

Nothing here knows Markdown, LaTeX or a terminal; texts from users stand here as they are, on one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w2s.analyze.numbers.cells import METRICS, Cell, misnamed
from w2s.analyze.numbers.scaling import fits
from w2s.analyze.reading.rows import Rows
from w2s.analyze.tables import growth, listings, summaries
from w2s.analyze.tables.sentences import sentences
from w2s.analyze.tables.sheet import Column, Entry, Line, Models, Sheet, Value, constant, one_line, plain
from w2s.errors import SpecError

__all__ = ["Column", "Document", "Entry", "Line", "Models", "Sheet", "Value"]
__all__ += ["compose", "constant", "one_line", "plain", "sheets"]


@dataclass(frozen=True)
class Document:
    """All that is said about a sweep."""

    name: str
    question: str
    sheets: list[Sheet]
    sentences: list[str]  # what holds for every line: n, seeds, how intervals are made, what is left out
    unfinished: list[str]
    problems: list[str]


def compose(rows: Rows, cells: Sequence[Cell], metric: str = "accuracy") -> Document:
    """The document of a sweep. Raises SpecError for a metric that there is none of."""
    if problem := misnamed("metric", metric, METRICS):
        raise SpecError(problem)
    return Document(
        one_line(rows.name),
        one_line(rows.question),
        sheets(rows, cells, metric),
        sentences(cells, metric),
        [one_line(line) for line in rows.unfinished],
        [one_line(line) for line in rows.problems],
    )


def sheets(rows: Rows, cells: Sequence[Cell], metric: str) -> list[Sheet]:
    """The tables of a sweep, the shortest answers first: medians over tasks, matrices of pairs, then the cells, their
    agreement, labels, bins of confidence and differences from the baseline, these over tasks, laws of scale. What there
    is nothing of is not there."""
    return [
        *summaries.over_tasks(cells, metric),
        *summaries.matrices(cells, metric),
        listings.levels(rows, cells, metric),
        listings.agreement(cells),
        *listings.labels(cells, metric),
        *listings.by_confidence(cells, metric),
        *listings.differences(cells, metric),
        *summaries.against_baseline(cells, metric),
        *growth.scaling(fits(rows, cells, metric), metric),
    ]
