"""Rows and cells in, CSV and Parquet for other programs out: every number in full precision, an absent one empty with
its reason beside it, columns in one fixed order."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from w2s.analyze.numbers.cells import INHERITED, MEASURED, METRICS, Cell
from w2s.analyze.numbers.medians import contests, medians
from w2s.analyze.numbers.scaling import Fit, fits
from w2s.analyze.numbers.stats import Estimate
from w2s.analyze.reading.rows import CELL_KEYS, ROLES, WHOLE, Rows
from w2s.analyze.reading.scoring import BINS
from w2s.analyze.reading.selection import diagnostic

if TYPE_CHECKING:
    import pyarrow

Record = dict[str, Any]
TEXT_ENDINGS = ("_status", "_reason", "_digest", "_note")
TEXTS = ("sweep", "task", "weak", "student", "method", "selection", "metric")
SURE = (*(f"{role}_accuracy" for role in ROLES), "gain")  # estimates of a bin of confidence
CELL_WHOLE = ("weak_params", "student_params", "n", "n_classes")
CELL_TEXTS = (*TEXTS, "baseline", "seeds_planned", "seeds_done", "at_chance", "notes", "left_out", "left_out_auroc")


def cells_csv(cells: Sequence[Cell]) -> str:
    """One line per cell with both metrics: each estimate with its interval, seeds, and reason where it is absent."""
    return _csv(_cell_columns(), (_cell(cell).values() for cell in cells))


def cells_parquet(cells: Sequence[Cell]) -> bytes:
    """The same as Parquet, with one type for each column."""
    # Objects, not numbers of pandas' own choice: a whole number that is absent on one line stays whole on the others.
    return _parquet(pd.DataFrame([_cell(cell) for cell in cells], columns=_cell_columns(), dtype=object))


def _cell_columns() -> list[str]:
    """The columns in their order, whether there are cells or not."""
    head = [*CELL_KEYS, "weak_params", "student_params"]
    head += ["weak_flops", "student_flops", "n", "n_classes", "seeds_planned", "seeds_done", "majority_share"]
    head += ["at_chance", "baseline"]
    for metric in METRICS:
        for name in MEASURED:
            stem = column_of(metric, name)
            head += [stem, f"{stem}_low", f"{stem}_high", f"{stem}_seeds", f"{stem}_reason"]
        head += [_own(metric, name) for name in ("p", "p_holm", "left_out")]
    for name in INHERITED:
        head += [name, f"{name}_low", f"{name}_high", f"{name}_seeds", f"{name}_reason"]
    return [*head, "notes"]


def _own(metric: str, name: str) -> str:
    """Of accuracy the bare name, of another metric one that says so."""
    return name if metric == "accuracy" else f"{name}_{metric}"


def column_of(metric: str, name: str) -> str:
    """The column of an estimate. `weak` alone names the model; `weak_accuracy` and `weak_auroc` are measured."""
    return f"{name}_{metric}" if name in ROLES else f"{metric}_{name}" if name == "difference" else _own(metric, name)


def _cell(cell: Cell) -> Record:
    line: Record = dict(zip(CELL_KEYS, cell.key, strict=True))
    line |= {"weak_params": cell.weak_params, "student_params": cell.student_params}
    line |= {"weak_flops": cell.weak_flops, "student_flops": cell.student_flops}
    line |= {"n": cell.n, "n_classes": cell.n_classes}
    line |= {"seeds_planned": _joined(cell.planned), "seeds_done": _joined(cell.seeds)}
    line |= {"majority_share": cell.majority_share}
    line |= {"at_chance": " ".join(cell.at_chance), "baseline": cell.baseline}
    for metric in METRICS:
        found = cell.measured(metric)
        for name in MEASURED:
            line |= _estimate(column_of(metric, name), getattr(found, name))
        line |= {_own(metric, "p"): found.p, _own(metric, "p_holm"): found.p_holm}
        line[_own(metric, "left_out")] = cell.left_out(metric)
    for name in INHERITED:
        line |= _estimate(name, getattr(cell, name))
    return {**line, "notes": "; ".join(cell.notes)}


def _estimate(stem: str, found: Estimate) -> Record:
    numbers = {stem: found.value, f"{stem}_low": found.low, f"{stem}_high": found.high}
    return {**numbers, f"{stem}_seeds": found.seeds, f"{stem}_reason": found.reason}


def medians_csv(cells: Sequence[Cell]) -> str:
    """One line per metric, pair, method and selection: median PGR over tasks, and the contest with the baseline."""
    head = ["metric", *CELL_KEYS[1:], "weak_params", "student_params"]
    head += ["median_pgr", "median_pgr_low", "median_pgr_high", "tasks", "left_out"]
    head += [f"median_{role}" for role in ROLES]
    head += ["baseline", "compared_tasks", "wins", "ties", "losses", "median_pgr_difference", "mean_difference"]
    head += ["sign_p", "wilcoxon_p", "t_p", "compared_left_out", "notes"]
    return _csv(head, (line for metric in METRICS for line in _medians(cells, metric)))


def _medians(cells: Sequence[Cell], metric: str) -> Iterable[list[Any]]:
    against = {c.comparison: c for c in contests(cells, metric)}
    baselines = {cell.comparison: cell.baseline for cell in cells}
    for m in medians(cells, metric):
        line = [
            metric,
            *m.comparison,
            m.weak_params,
            m.student_params,
            m.value,
            m.low,
            m.high,
            m.tasks,
            _reasons(m.left_out),
        ]
        line += [*m.accuracy, baselines[m.comparison]]
        c = against.get(m.comparison)
        if c is None:  # the baseline itself
            line += [None] * 10
        else:
            line += [c.tasks, c.wins, c.ties, c.losses, c.median_difference, c.mean_metric_difference]
            line += [c.sign_p, c.wilcoxon_p, c.t_p, _reasons(c.left_out)]
        yield [*line, diagnostic(m.selection)]


def labels_csv(rows: Rows, cells: Sequence[Cell]) -> str:
    """One line per cell and bin of confidence that holds labels: how sure these were, and how often right."""
    head = ["task", "weak", "student", "method", "low", "high", "seeds", "labels", "confidence", "accuracy"]
    return _csv(head, (line for cell in cells if cell.selection == cells[0].selection for line in _bins(rows, cell)))


def _bins(rows: Rows, cell: Cell) -> Iterable[list[Any]]:
    found = [rows.learned[run.labels].bins_K3 for run in cell.runs if run.labels in rows.learned]
    for place, (count, confidence, right) in enumerate(np.sum(found, axis=0).tolist() if found else ()):
        if count:
            ends = [place / BINS, (place + 1) / BINS]
            shares = [len(found), int(count), confidence / count, right / count]
            yield [cell.task, *cell.pair, cell.method, *ends, *shares]


def confidence_csv(cells: Sequence[Cell]) -> str:
    """One line per cell and bin of the weak model's confidence that holds test examples: how often who is right."""
    head = [*CELL_KEYS, "low", "high", "examples", "confidence"]
    head += [f"{name}{end}" for name in SURE for end in ("", "_low", "_high", "_seeds", "_reason")]
    return _csv(head, (line.values() for cell in cells for line in confidence_lines(cell)))


def confidence_lines(cell: Cell) -> Iterable[Record]:
    """The bins of a cell, each estimate with its interval, seeds, and reason where it is absent."""
    for one in cell.by_confidence:
        line: Record = dict(zip(CELL_KEYS, cell.key, strict=True))
        line |= {"low": one.low, "high": one.high, "examples": one.examples, "confidence": one.confidence}
        for name, found in zip(SURE, (one.weak, one.student, one.ceiling, one.gain), strict=True):
            line |= _estimate(name, found)
        yield line


def scaling_csv(rows: Rows, cells: Sequence[Cell], metric: str = "accuracy") -> str:
    """One line per series and size axis: the law fitted to it, or why there is none."""
    head = ["metric", "size", "task", "of", "weak", "method", "models", "limit", "limit_low", "limit_high"]
    head += ["limit_seeds", "limit_reason", "exponent", "exponent_low", "exponent_high", "factor", "unit", "held_out"]
    head += ["foretold", "foretold_low", "foretold_high", "measured", "in_band", "held_out_reason", "notes"]
    return _csv(
        head, (_law(fit, metric, size) for size in ("params", "flops") for fit in fits(rows, cells, metric, size))
    )


def _law(fit: Fit, metric: str, size: str) -> list[Any]:
    series, law, held = fit.series, fit.law, fit.held_out
    line: list[Any] = [metric, size, series.task, series.of, series.weak, series.method, " ".join(series.models)]
    line += [fit.limit.value, fit.limit.low, fit.limit.high, fit.limit.seeds, fit.limit.reason]
    line += [fit.exponent.value, fit.exponent.low, fit.exponent.high]
    line += [None, None] if law is None else [law.a, law.unit]
    line += [None] * 6 if held is None else [*held, "yes" if held.inside else "no"]
    return [*line, fit.held_out_reason, fit.note]


def _joined(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _reasons(left_out: dict[str, int]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in sorted(left_out.items()))


def rows_csv(rows: Rows) -> str:
    """One line per cell and seed, every column, full precision."""
    return _csv(list(rows.frame.columns), rows.frame.itertuples(index=False, name=None))


def rows_parquet(rows: Rows) -> bytes:
    """The same as Parquet: whole numbers that may be absent, numbers, texts; the types do not depend on what is there.

    Raises ValueError where a column holds what its type cannot, which would be a mistake of ours.
    """
    return _parquet(rows.frame)


def _parquet(frame: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {column: pa.array(frame[column], _type(column), from_pandas=True) for column in frame.columns}
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink)
    return sink.getvalue()


def _type(column: str) -> pyarrow.DataType:
    """By name, never by what happens to be there: a sweep of which nothing is done has the same types."""
    import pyarrow as pa

    if column in CELL_TEXTS or column.endswith(TEXT_ENDINGS):
        return pa.string()
    whole = column in WHOLE or column in CELL_WHOLE or (column.endswith("_seeds"))
    return pa.int64() if whole else pa.float64()


def _csv(head: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_csv_value(value) for value in line] for line in lines)
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    if _is_absent(value):
        return ""
    return repr(float(value)) if isinstance(value, float) else value


def _is_absent(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
