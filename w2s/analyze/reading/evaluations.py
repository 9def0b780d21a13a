"""A run's evaluations.parquet in, what it predicted in the course of training out, and the evaluation that counts.

Refuses (StepError, naming the artifact) evaluations of other examples than those that are asked for, and val and test
evaluated at different steps.

Shapes: E evaluations in ascending order of their steps, N examples, M rows of the file, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.reading import files, metrics
from w2s.analyze.reading.selection import Choice, choose
from w2s.errors import StepError

if TYPE_CHECKING:
    import pyarrow

    from w2s.analyze.reading.predictions import Given, Truth

COLUMNS = ("step", "split", "example_id", "logits")


@dataclass(frozen=True)
class Evaluations:
    """What one train step predicted for a split in the course of training."""

    step_E: NDArray[np.int64]  # optimizer steps done
    logits_ENC: NDArray[np.float64]


def chosen(
    table: pyarrow.Table, truth: Truth, given: Given | None, step: str, classes: int
) -> tuple[NDArray[np.float64], Choice]:
    """Test logits (N, C) of one evaluation: by the labels `given` for val or, without them, by the truth of test."""
    test, val = course(table, truth, given, step, classes)
    if given is None or val is None:
        choice = choose(test.logits_ENC.argmax(axis=2), truth.y_N, test.step_E)
    else:
        choice = choose(val.logits_ENC.argmax(axis=2), given.label_N, val.step_E)
    return test.logits_ENC[choice.place], choice


def course(
    table: pyarrow.Table, truth: Truth, given: Given | None, step: str, classes: int
) -> tuple[Evaluations, Evaluations | None]:
    """What train step `step` predicted for test in the course of training and, where labels for val are `given`, for
    val, of the examples that have a label."""
    import pyarrow
    import pyarrow.compute as pc

    test = of_split(table, "test", truth.ids, truth.name, classes, step)
    if given is None:
        return test, None
    if given.partial:
        table = table.filter(pc.is_in(table["example_id"], value_set=pyarrow.array(given.ids)))
    val = of_split(table, "val", given.ids, given.name, classes, step)
    if not np.array_equal(val.step_E, test.step_E):
        raise StepError(
            f"evaluations.parquet of train {step[:12]}: val was evaluated at steps {_listed(val.step_E)} and "
            f"test at {_listed(test.step_E)}; remove the artifact and run the sweep again"
        )
    return test, val


def of_split(table: pyarrow.Table, split: str, ids: list[str], wanted: str, classes: int, digest: str) -> Evaluations:
    """The rows of one split as arrays; refuses evaluations of other examples than `ids`, those of `wanted`."""
    import pyarrow
    import pyarrow.compute as pc

    name = f"evaluations.parquet of train {digest[:12]}, {split}"
    try:
        part = table.filter(pc.equal(table["split"], split))
        step_M = part["step"].cast(pyarrow.int64()).to_numpy()
        # Where each row's example stands in `ids`; -1 for a stranger.
        place_M = pc.fill_null(pc.index_in(part["example_id"], value_set=pyarrow.array(ids)), -1).to_numpy()
        if part["step"].null_count or not len(step_M):
            raise StepError(f"{name}: no evaluations, or a step is empty; remove the artifact and run the sweep again")
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise StepError(f"{name}: steps, splits or ids are not what they should be ({error}); remove it") from None
    logits_MC = files.logits(part["logits"], classes, name)
    step_E, evaluation_M = np.unique(step_M, return_inverse=True)
    count_EN = np.zeros((len(step_E), len(ids)), dtype=np.int64)
    np.add.at(count_EN, (evaluation_M[place_M >= 0], place_M[place_M >= 0]), 1)
    strange_E = np.bincount(evaluation_M, weights=place_M < 0, minlength=len(step_E)) > 0
    for place in np.flatnonzero(strange_E | (count_EN != 1).any(axis=1)):
        own = part.filter(pyarrow.array(evaluation_M == place))
        metrics.join(own["example_id"].to_pylist(), ids, f"{name}, step {step_E[place]},", wanted)  # raises
    logits_ENC = np.empty((*count_EN.shape, classes))
    logits_ENC[evaluation_M, place_M] = logits_MC
    return Evaluations(step_E, logits_ENC)


def _listed(step_E: NDArray[np.int64], most: int = 5) -> str:
    """Steps for a message, the first ones only where there are many."""
    more = f" and {len(step_E) - most} more" if len(step_E) > most else ""
    return ", ".join(map(str, step_E[:most])) + more
