"""Rows and cells in, matplotlib figures out, one at a time and the most important first; knows no files.

    accuracy, pgr, heat       medians over tasks, where there are two tasks or more
    accuracy-<task>           accuracy (or AUROC) against the student's size, a line for each supervisor
    pgr-<task>                performance gap recovered, with intervals
    heat-<task>               the same as a map of weak models by students, where there are two pairs or more
    agreement-<task>          agreement with the supervisor, where that is right and where it is wrong
    curves-<task>             training loss, and accuracy and agreement during training
    calibration-<task>        reliability diagrams
    confidence-<task>         accuracy by the weak model's confidence
    noise-<task>              PGR against the error of labels, where students learned from labels of several kinds
    scaling-<task>            laws of scale, where there are four sizes or more

A figure for which nothing is known is not made. Make, draw and save all of them under `style()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from w2s.analyze.figures import (
    accuracy,
    agreement,
    calibration,
    confidence,
    growth,
    heat,
    noise,
    recovered,
    said,
    training,
)
from w2s.analyze.figures.look import PNG_DPI, colours, save, short_count, shortened, style
from w2s.analyze.figures.scale import SIZES
from w2s.analyze.numbers.cells import METRIC_WORDS, METRICS, Cell, misnamed
from w2s.analyze.numbers.medians import medians
from w2s.analyze.numbers.scaling import fits
from w2s.analyze.reading.rows import Rows
from w2s.errors import SpecError

KINDS = ("accuracy", "pgr", "heat", "agreement", "curves", "calibration", "confidence", "noise", "scaling")
__all__ = ["KINDS", "PNG_DPI", "SIZES", "Named", "colours", "figures", "save", "short_count", "style"]


@dataclass(frozen=True)
class Named:
    """A figure, what it is called (`<kind>` or `<kind>-<task>`), what all of its kind show (`title`), and what this one
    shows for those who do not see it (`alt`)."""

    name: str
    title: str
    alt: str
    figure: Figure
    kind: str
    task: str = ""  # empty for medians over tasks


def figures(rows: Rows, cells: Sequence[Cell], metric: str = "accuracy", size: str = "params") -> Iterator[Named]:
    """Each figure as it is asked for; whoever keeps none holds one at a time.

    The order is that of importance: medians over tasks, then kind by kind (KINDS) each task's. Who has room for some
    only takes the first. Raises SpecError for an unknown metric or size.
    """
    for what, word, known in (("metric", metric, METRICS), ("size", size, SIZES)):
        if problem := misnamed(what, word, known):
            raise SpecError(problem)
    return _figures(rows, list(cells), metric, size)


def _figures(rows: Rows, cells: list[Cell], metric: str, size: str) -> Iterator[Named]:
    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task, []).append(cell)
    if len(by_task) > 1:
        yield from _over_tasks(cells, metric, size)
    makers: dict[str, Callable[[list[Cell]], tuple[Figure, str] | None]] = {
        "accuracy": lambda own: _accuracy(own, metric, size),
        "pgr": lambda own: _pgr(own, metric, size),
        "heat": lambda own: _heat(own, metric, size),
        "agreement": lambda own: _agreement(own, size),
        "curves": lambda own: _with(training.of_task(rows, own), training.alt()),
        "calibration": lambda own: _with(calibration.of_task(rows, own), calibration.alt()),
        "confidence": lambda own: _with(confidence.of_task(own), confidence.alt(own)),
        "noise": lambda own: _with(noise.of_task(own, metric), noise.alt(own, metric)),
        "scaling": lambda own: _scaling(rows, own, metric, size),
    }
    for kind in KINDS:
        for task, own in by_task.items():
            made = makers[kind](own)
            if made is not None:
                yield _named(made, kind, task, metric)


def _named(made: tuple[Figure, str], kind: str, task: str, metric: str) -> Named:
    figure, alt = made
    of = shortened(task, 60) if task else "Medians over tasks"
    title = TITLES[kind].format(metric=METRIC_WORDS[metric].name)
    title = title[0].upper() + title[1:]
    return Named(f"{kind}-{task}" if task else kind, title, f"{of}: {alt}", figure, kind, task)


TITLES = {
    "accuracy": "{metric} of weak models, students and ceilings",
    "pgr": "performance gap recovered ({metric})",
    "heat": "performance gap recovered ({metric}) by pair",
    "agreement": "agreement with the supervisor",
    "curves": "training of students",
    "calibration": "calibration",
    "confidence": "accuracy by the weak model's confidence",
    "noise": "performance gap recovered ({metric}) against label error",
    "scaling": "laws of scale ({metric})",
}


def _with(figure: Figure | None, alt: str) -> tuple[Figure, str] | None:
    return None if figure is None else (figure, alt)


def _scaling(rows: Rows, own: list[Cell], metric: str, size: str) -> tuple[Figure, str] | None:
    found = fits(rows, own, metric, size)
    return _with(growth.of_task(found, metric, size), growth.alt(found))


def _over_tasks(cells: list[Cell], metric: str, size: str) -> Iterator[Named]:
    found = medians(cells, metric)
    known = [recovered.estimate_of(median) for median in found]
    middle = accuracy.over_tasks(cells, metric, size)
    if middle is not None:
        yield _named((middle, f"medians of {accuracy.alt(cells, metric)}"), "accuracy", "", metric)
    if any(one.known for one in known):
        alt = recovered.alt(known, "median PGR over tasks")
        yield _named((recovered.over_tasks(cells, found, metric, size), alt), "pgr", "", metric)
        if len(said.pairs(cells)) > 1:
            yield _named((heat.over_tasks(cells, found, metric, size), alt), "heat", "", metric)


def _accuracy(own: list[Cell], metric: str, size: str) -> tuple[Figure, str] | None:
    if not accuracy.known(own, metric):
        return None
    return accuracy.of_task(own, metric, size), accuracy.alt(own, metric)


def _pgr(own: list[Cell], metric: str, size: str) -> tuple[Figure, str] | None:
    found = [cell.measured(metric).pgr for cell in own]
    if not any(one.known for one in found):
        return None
    return recovered.of_task(own, metric, size), recovered.alt(found, "PGR")


def _heat(own: list[Cell], metric: str, size: str) -> tuple[Figure, str] | None:
    found = [cell.measured(metric).pgr for cell in own]
    if len(said.pairs(own)) < 2 or not any(one.known for one in found):
        return None
    return heat.of_task(own, metric, size), recovered.alt(found, "PGR")


def _agreement(own: list[Cell], size: str) -> tuple[Figure, str] | None:
    return (agreement.of_task(own, size), agreement.alt(own)) if agreement.known(own) else None
