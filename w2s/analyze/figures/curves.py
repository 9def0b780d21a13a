"""How students were trained in, what a figure of it needs out: loss by optimizer step, and at each evaluation the
accuracy on test and the agreement on val with the labels that the student was given.

Losses are those of history.jsonl, where they stand alone; accuracies are computed from the logits of
evaluations.parquet, joined by example id, and never taken from the history. What is damaged gives no curve but a
sentence; a student that is not there gives neither.

Shapes: L optimizer steps, E evaluations, N examples, M rows of a file, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.numbers.cells import Cell, Run
from w2s.analyze.reading import metrics
from w2s.analyze.reading.predictions import judge
from w2s.analyze.reading.rows import Rows
from w2s.analyze.reading.selection import Taken, choose
from w2s.errors import StepError
from w2s.store import Store

if TYPE_CHECKING:
    import pyarrow

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MOST_POINTS = 200  # of a loss curve; of a longer one means over as many stretches


@dataclass(frozen=True)
class Course:
    """The training of one student. Without evaluations the last three are empty and `chosen` is None."""

    seed: int
    step_L: Ints
    loss_L: Floats
    stretch: int = 1  # optimizer steps whose losses each point is the mean of
    step_E: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    accuracy_E: Floats = field(default_factory=lambda: np.zeros(0))
    agreement_E: Floats = field(default_factory=lambda: np.zeros(0))  # empty too where the supervisor is not there
    chosen: int | None = None  # step that weak_val takes


@dataclass(frozen=True)
class Courses:
    """Those of one cell, by seed; `problems` says what could not be read."""

    pair: tuple[str, str]
    method: str
    found: tuple[Course, ...]
    problems: tuple[str, ...] = ()


def of_cell(rows: Rows, cell: Cell, most_seeds: int) -> Courses:
    """How the students of a cell were trained, those of its first `most_seeds` finished seeds."""
    found: list[Course] = []
    problems: list[str] = []
    for run in cell.runs:
        if len(found) == most_seeds:
            break
        if not rows.store.has("train", run.student):
            continue
        try:
            found.append(_course(rows, run, cell.n_classes))
        except StepError as error:
            problems.append(str(error))
    return Courses(cell.pair, cell.method, tuple(found), tuple(problems))


def _course(rows: Rows, run: Run, classes: int) -> Course:
    import pyarrow
    import pyarrow.compute as pc

    step_L, loss_L, stretch = _thinned(*_losses(rows.store, run.student))
    plain = Course(run.seed, step_L, loss_L, stretch)
    truth = rows.truth.get(run.data)
    if truth is None or not (rows.store.path("train", run.student) / "evaluations.parquet").is_file():
        return plain
    name = f"evaluations.parquet of train {run.student[:12]}"
    columns = ["step", "split", "example_id", "logits"]
    table = _table(rows.store, run.student, "evaluations.parquet", columns, name)
    step_E, predicted_EN = _evaluated(table, "test", truth.ids, classes, name)
    accuracy_E = (predicted_EN == truth.y_N).mean(axis=1)
    # A student that was evaluated but whose supervisor is damaged or gone still has an accuracy.
    if Taken(run.weak) not in rows.test:
        return Course(run.seed, step_L, loss_L, stretch, step_E, accuracy_E)
    supervisor = run.labels or run.weak
    ids, label_N = _labels(rows.store, supervisor, classes)
    if not ids:
        return Course(run.seed, step_L, loss_L, stretch, step_E, accuracy_E)
    if judge(supervisor)[0] == "labels":  # a file of labels may leave examples out
        table = table.filter(pc.is_in(table["example_id"], value_set=pyarrow.array(ids)))
    of_val_E, guess_EN = _evaluated(table, "val", ids, classes, name)
    if not np.array_equal(of_val_E, step_E):
        raise StepError(f"{name}: val and test were evaluated at different steps; remove the artifact and run again")
    agreement_E = (guess_EN == label_N).mean(axis=1)
    chosen = choose(guess_EN, label_N, step_E).step
    return Course(run.seed, step_L, loss_L, stretch, step_E, accuracy_E, agreement_E, chosen)


def _losses(store: Store, digest: str) -> tuple[Ints, Floats]:
    """Steps done, from 1, and the loss of each."""
    file = store.path("train", digest) / "history.jsonl"
    name = f"history.jsonl of train {digest[:12]}"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        # Lines with "split" are evaluations, which are computed anew.
        known = [(int(line["step"]) + 1, float(line["loss"])) for line in lines if "split" not in line]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StepError(f"{name}: damaged ({error!r}); remove the artifact and run the sweep again") from None
    step_L = np.array([step for step, _ in known], dtype=np.int64)
    if not len(step_L) or (np.diff(step_L) <= 0).any():
        raise StepError(f"{name}: no losses, or steps out of order; remove the artifact and run the sweep again")
    return step_L, np.array([loss for _, loss in known])


def _thinned(step_L: Ints, loss_L: Floats) -> tuple[Ints, Floats, int]:
    """Means over stretches of equal length, at their last steps, where there are too many steps to draw."""
    stretch = math.ceil(len(step_L) / MOST_POINTS)
    if stretch == 1:
        return step_L, loss_L, 1
    begin_L = np.arange(0, len(step_L), stretch)
    count_L = np.diff([*begin_L, len(step_L)])
    return step_L[begin_L + count_L - 1], np.add.reduceat(loss_L, begin_L) / count_L, stretch


def _labels(store: Store, supervisor: str, classes: int) -> tuple[list[str], Ints]:
    """Ids in ascending order, and the classes that the supervisor gives them."""
    kind, digest, file = judge(supervisor)
    name, column = f"{file} of {kind} {digest[:12]}", "p" if kind == "labels" else "logits"
    table = _table(store, digest, file, ["example_id", column], name, kind)
    ids = table["example_id"].to_pylist()
    order = sorted(ids)
    position_N = metrics.join(ids, order, name, name)
    return order, _logits(table[column], classes, name)[position_N].argmax(axis=1) if ids else np.zeros(0, np.int64)


def _table(store: Store, digest: str, file: str, columns: list[str], name: str, kind: str = "train") -> pyarrow.Table:
    table = store.read_table(kind, digest, file, columns)
    lacking = [column for column in columns if column not in table.column_names]
    if lacking:
        raise StepError(f"{name}: no column {', '.join(lacking)}; remove the artifact and run the sweep again")
    return table


def _evaluated(
    table: pyarrow.Table, split: str, ids: Sequence[str], classes: int, name: str
) -> tuple[Ints, NDArray[Any]]:
    """(steps, classes predicted (E, N)), examples in the order of `ids`; each evaluation must have each id once."""
    import pyarrow
    import pyarrow.compute as pc

    try:
        part = table.filter(pc.equal(table["split"], split))
        step_M = part["step"].cast(pyarrow.int64()).to_numpy()
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise StepError(f"{name}: not evaluations ({error}); remove the artifact and run the sweep again") from None
    if not len(step_M) or part["step"].null_count:
        raise StepError(f"{name}: nothing of {split}, or a step is empty; remove the artifact and run again")
    predicted_M = _logits(part["logits"], classes, name).argmax(axis=1)
    id_M = np.array(part["example_id"].to_pylist(), dtype=object)
    step_E = np.unique(step_M)
    predicted_EN = np.empty((len(step_E), len(ids)), dtype=np.int64)
    for place, step in enumerate(step_E):
        own_M = np.flatnonzero(step_M == step)
        about = f"{name}, {split} at step {step}"
        position_N = metrics.join(list(id_M[own_M]), ids, about, f"the examples of {split}")
        predicted_EN[place] = predicted_M[own_M[position_N]]
    return step_E, predicted_EN


def _logits(column: pyarrow.ChunkedArray, classes: int, name: str) -> Floats:
    import pyarrow
    import pyarrow.compute as pc

    try:
        lengths = pc.list_value_length(column).to_numpy()
        values = pc.list_flatten(column).to_numpy().astype(np.float64)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise StepError(f"{name}: the logits are not lists of numbers ({error}); remove it and run again") from None
    if column.null_count or (lengths != classes).any() or not np.isfinite(values).all():
        raise StepError(f"{name}: expected {classes} finite logits for each example; remove it and run again")
    return np.asarray(values.reshape(-1, classes))
