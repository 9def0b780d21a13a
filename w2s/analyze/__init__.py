"""Stored predictions in, metrics, intervals, tables and figures out; never loads a model, never imports torch.

For a notebook or a script:

    from w2s.analyze import load, pgr

    rows = load("quickstart")  # results/sweeps/quickstart
    rows.frame                 # a pandas DataFrame: one row per cell and seed
    pgr(rows)                  # another: one line per cell, with its 95 % interval

Each line of the selection `oracle` is marked in the column `note`. docs/results.md says what every column means.
Nothing heavy is imported before one of these functions is called.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from w2s.analyze.numbers.cells import Cell
    from w2s.analyze.numbers.stats import Estimate
    from w2s.analyze.reading.rows import Rows

__all__ = [
    "accuracy",
    "agreement",
    "auroc",
    "cells_of",
    "confidence",
    "differences",
    "load",
    "median_pgr",
    "pgr",
    "table",
]

NAMES = ("task", "weak", "student", "method", "selection")
_latest: tuple[weakref.ref[Any], str | None, list[Any]] | None = None


def load(*names: str | Path, results: str | Path = "results") -> Rows:
    """The results of a sweep: by name, YAML file or folder. Several are merged as `w2s results A B` does.

    `rows.frame` is a DataFrame with one row per cell and seed; `rows.problems` names artifacts that are damaged and
    were left out, `rows.unfinished` says what is not there yet. Raises SpecError for a name that there is none of.
    """
    from w2s.analyze.reading import merge

    return merge.load(names, Path(results))


def cells_of(rows: Rows, baseline: str | None = None) -> list[Cell]:
    """One Cell for each task, pair of models, method and selection: every estimate that the tables show.

    Differences are against the method `baseline`, by default the first one. Raises SpecError for one that is not there.
    """
    global _latest
    if _latest is None or _latest[0]() is not rows or _latest[1] != baseline:  # pgr(rows), accuracy(rows), ...: once
        from w2s.analyze.numbers.aggregate import aggregate

        _latest = (weakref.ref(rows), baseline, aggregate(rows, baseline))
    return list(_latest[2])


def pgr(rows: Rows, metric: str = "accuracy", baseline: str | None = None) -> pandas.DataFrame:
    """Performance gap recovered, one line per cell: pgr, low, high (95 %), seeds, n (test examples), reason.

    `pgr` is NaN where there is none, and `reason` says why (`no gap: ...`, `student missing`). `left_out` says why it
    enters no median over tasks, and is empty where it does. `metric` is accuracy or auroc.
    """

    def line(cell: Cell) -> dict[str, Any]:
        return {**_estimate("pgr", cell.measured(metric).pgr), "left_out": cell.left_out(metric)}

    return _frame(rows, baseline, metric, line)


def accuracy(rows: Rows) -> pandas.DataFrame:
    """Accuracy of weak model, student and ceiling, one line per cell: `weak_accuracy`, `weak_accuracy_low`, ..."""
    return _levels(rows, "accuracy")


def auroc(rows: Rows) -> pandas.DataFrame:
    """The same of AUROC; NaN for tasks with more than two classes."""
    return _levels(rows, "auroc")


def differences(rows: Rows, metric: str = "accuracy", baseline: str | None = None) -> pandas.DataFrame:
    """Each method less the baseline, paired by seed and test example: `difference` of the metric, `pgr_difference`,
    the two-sided p-value of both and `p_holm`, corrected over tasks. The baseline itself has no line."""

    def line(cell: Cell) -> dict[str, Any] | None:
        found = cell.measured(metric)
        if cell.is_baseline:
            return None
        both = {**_interval("difference", found.difference), **_interval("pgr_difference", found.pgr_difference)}
        seeds = {"seeds": found.difference.seeds, "n": found.difference.n, "reason": found.difference.reason}
        return {"baseline": cell.baseline, **both, "p": found.p, "p_holm": found.p_holm, **seeds}

    return _frame(rows, baseline, metric, line)


def agreement(rows: Rows) -> pandas.DataFrame:
    """How often a student agrees with its supervisor on test: over all, where that is right, where it is wrong.

    The supervisor is the weak model of the pair. `label_accuracy` is the accuracy of the labels that the student
    learned from, whoever gave them; `label_share` how much of transfer had one; `label_truth_share` how many of them
    were ground truth by name. `supervisor_agreement` is with the step whose labels a student of a chain learned from,
    `error_overlap` the share of the weak model's errors that it repeats, of which `error_overlap_expected` are made by
    the ceiling too, and `misfit` its loss (nats) against the weak model's predictions for test.
    """
    from w2s.analyze.numbers.cells import INHERITED

    def line(cell: Cell) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in INHERITED:
            found |= _interval(name, getattr(cell, name))
        return {**found, "seeds": cell.agreement.seeds, "n": cell.agreement.n, "reason": cell.agreement.reason}

    return _frame(rows, None, "accuracy", line)


def confidence(rows: Rows) -> pandas.DataFrame:
    """How often weak model, student and ceiling are right where the weak model is so sure: one line per cell and bin.

    Test examples are binned by the probability that the weak model gives its own label there: `low` to `high`, its
    mean `confidence`, how many `examples` (added over seeds). `weak_accuracy`, `student_accuracy`, `ceiling_accuracy`
    and `gain` (student less weak, paired) each have `_low` and `_high` (95 %), `_seeds` and `_reason`.
    Of final predictions only; generated texts have none.
    """
    import csv
    import io

    import pandas

    from w2s.analyze.tables import exports

    lines = [line for cell in cells_of(rows) for line in exports.confidence_lines(cell)]
    head = next(csv.reader(io.StringIO(exports.confidence_csv([]))))
    return pandas.DataFrame(lines, columns=head)


def median_pgr(rows: Rows, metric: str = "accuracy") -> pandas.DataFrame:
    """Median PGR over tasks, one line per pair of models, method and selection.

    `low` and `high` are NaN for fewer than six tasks, from which no 95 % interval of a median can be made; `tasks`
    entered, and `left_out` says why others did not.
    """
    import pandas

    from w2s.analyze.numbers.medians import medians
    from w2s.analyze.reading.selection import diagnostic

    _require_metric(metric)
    lines = [
        dict(zip(NAMES[1:], m.comparison, strict=True))
        | {"pgr": m.value, "low": m.low, "high": m.high, "tasks": m.tasks}
        | {"left_out": "; ".join(f"{reason}: {count}" for reason, count in sorted(m.left_out.items()))}
        | {"note": diagnostic(m.selection)}
        for m in medians(cells_of(rows), metric)
    ]
    columns = [*NAMES[1:], "pgr", "low", "high", "tasks", "left_out", "note"]
    return pandas.DataFrame(lines, columns=columns)


def table(rows: Rows, form: str = "text", metric: str = "accuracy", baseline: str | None = None) -> str:
    """All tables of a sweep as `markdown`, `latex` (booktabs) or `text`, as `w2s results` writes and prints them."""
    import io

    from rich.console import Console

    from w2s.analyze.render import composed_of
    from w2s.analyze.tables import latex, markdown, terminal
    from w2s.errors import SpecError
    from w2s.identity import nearest

    _require_metric(metric)
    forms: dict[str, Callable[[Any], str]] = {"markdown": markdown.markdown, "latex": latex.latex}
    if form not in (*forms, "text"):
        raise SpecError(f"form: there is no {form!r}{nearest(form, [*forms, 'text'])}")
    composed = composed_of(rows, cells_of(rows, baseline), metric)
    if form in forms:
        return forms[form](composed)
    text = io.StringIO()
    terminal.show(composed, Console(file=text, width=160, color_system=None))
    return text.getvalue()


def _levels(rows: Rows, metric: str) -> pandas.DataFrame:
    from w2s.analyze.reading.selection import ROLES

    def line(cell: Cell) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for role in ROLES:
            estimate = getattr(cell.measured(metric), role)
            found |= {**_interval(f"{role}_{metric}", estimate), f"{role}_seeds": estimate.seeds}
        student = cell.measured(metric).student
        return {**found, "n": cell.n, "majority_share": cell.majority_share, "reason": student.reason}

    return _frame(rows, None, metric, line)


def _frame(
    rows: Rows, baseline: str | None, metric: str, line: Callable[[Cell], dict[str, Any] | None]
) -> pandas.DataFrame:
    """One line per cell, its names first."""
    import pandas

    from w2s.analyze.reading.selection import diagnostic

    _require_metric(metric)
    found = [
        {**dict(zip(NAMES, cell.key, strict=True)), **own, "note": diagnostic(cell.selection)}
        for cell in cells_of(rows, baseline)
        if (own := line(cell)) is not None
    ]
    return pandas.DataFrame(found, columns=None if found else list(NAMES))


def _estimate(name: str, found: Estimate) -> dict[str, Any]:
    numbers = {name: found.value, "low": found.low, "high": found.high}
    return {**numbers, "seeds": found.seeds, "n": found.n, "reason": found.reason}


def _interval(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _require_metric(metric: str) -> None:
    from w2s.analyze.numbers.cells import METRICS, misnamed
    from w2s.errors import SpecError

    if problem := misnamed("metric", metric, METRICS):
        raise SpecError(problem)
