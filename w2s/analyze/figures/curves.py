"""How students were trained in, what a figure of it needs out: loss by optimizer step, and at each evaluation the
accuracy on test and the agreement on val with the labels that the student was given.

Losses are those of history.jsonl, where they stand alone; accuracies are computed from the logits of
evaluations.parquet and never taken from the history; files are checked against their manifests. What is damaged gives
no curve but a sentence; a student that is not there, or was not trained step by step, gives neither.

Shapes: L optimizer steps, E evaluations, N examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.numbers.cells import Cell, Run
from w2s.analyze.reading import files
from w2s.analyze.reading.files import Artifact
from w2s.analyze.reading.history import parsed
from w2s.analyze.reading.predictions import Reader
from w2s.analyze.reading.rows import Rows
from w2s.analyze.reading.selection import Taken, choose
from w2s.errors import StepError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
HISTORY = "history.jsonl"
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
    reader = Reader(rows.store)
    for run in cell.runs:
        if len(found) == most_seeds:
            break
        if not rows.store.has("train", run.student):
            continue
        try:
            made = files.artifact(rows.store, "train", run.student)
            if HISTORY in made.hashes:  # what was prompted, say, was never trained
                found.append(_course(rows, reader, made, run, cell.n_classes))
        except StepError as error:
            problems.append(str(error))
    return Courses(cell.pair, cell.method, tuple(found), tuple(problems))


def _course(rows: Rows, reader: Reader, made: Artifact, run: Run, classes: int) -> Course:
    step_L, loss_L, stretch = _thinned(*_losses(made, run.student))
    plain = Course(run.seed, step_L, loss_L, stretch)
    truth = rows.truth.get(run.data)
    if truth is None or not (rows.store.path("train", run.student) / "evaluations.parquet").is_file():
        return plain
    # A student that was evaluated but whose supervisor is damaged or gone still has an accuracy.
    supervisor = (run.labels or run.weak) if Taken(run.weak) in rows.test else ""
    test, val, given = reader.course(run.student, truth, supervisor, classes)
    accuracy_E = (test.logits_ENC.argmax(axis=2) == truth.y_N).mean(axis=1)
    if val is None or given is None:
        return replace(plain, step_E=test.step_E, accuracy_E=accuracy_E)
    guess_EN = val.logits_ENC.argmax(axis=2)
    agreement_E = (guess_EN == given.label_N).mean(axis=1)
    chosen = choose(guess_EN, given.label_N, val.step_E).step
    return replace(plain, step_E=test.step_E, accuracy_E=accuracy_E, agreement_E=agreement_E, chosen=chosen)


def _losses(made: Artifact, digest: str) -> tuple[Ints, Floats]:
    """Steps done, from 1, and the loss of each."""
    name, advice = f"{HISTORY} of train {digest[:12]}", "remove the artifact and run the sweep again"
    text = files.content(made, HISTORY).data.decode("utf-8", "replace")
    known = parsed(text, name, advice).loss  # other lines are evaluations, which are computed anew
    step_L = np.array([step for step, _ in known], dtype=np.int64)
    if not len(step_L) or (np.diff(step_L) <= 0).any():
        raise StepError(f"{name}: no losses, or steps out of order; {advice}")
    return step_L, np.array([loss for _, loss in known])


def _thinned(step_L: Ints, loss_L: Floats) -> tuple[Ints, Floats, int]:
    """Means over stretches of equal length, at their last steps, where there are too many steps to draw."""
    stretch = math.ceil(len(step_L) / MOST_POINTS)
    if stretch == 1:
        return step_L, loss_L, 1
    begin_L = np.arange(0, len(step_L), stretch)
    count_L = np.diff([*begin_L, len(step_L)])
    return step_L[begin_L + count_L - 1], np.add.reduceat(loss_L, begin_L) / count_L, stretch
