"""A store's prediction and test files in, arrays in one order of examples out; each artifact is read once.

Refuses (StepError, naming the artifact) what does not fit: ids missing, repeated or extra, logits that are not finite
or not one per class, labels outside the classes.

Shapes: N examples, C classes, E evaluations during training in ascending order of their steps, M rows of a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from w2s.analyze import metrics
from w2s.analyze.selection import Choice, choose
from w2s.errors import StepError
from w2s.store import Store

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T", "Truth", "Scored", "Given", "Selected")


@dataclass(frozen=True)
class Truth:
    """Ground truth of one split: ids in ascending order, so that no result depends on the order of a file."""

    ids: list[str]
    y_N: NDArray[np.int64]
    name: str

    @property
    def majority_share(self) -> float:
        return metrics.majority_share(self.y_N)


@dataclass(frozen=True)
class Scored:
    """What one train step's predictions come to against the ground truth of a split."""

    predicted_N: NDArray[np.int16]  # classes, in the order of the truth's ids
    right_N: NDArray[np.bool_]
    auroc: float  # NaN where there are more than two classes
    ece: float
    brier: float

    @property
    def accuracy(self) -> float:
        return float(self.right_N.mean())


@dataclass(frozen=True)
class Given:
    """The labels that a supervisor gives for a split: its argmax, whatever the truth is."""

    ids: list[str]  # ascending
    label_N: NDArray[np.int64]
    name: str


@dataclass(frozen=True)
class Evaluations:
    """What one train step predicted for a split in the course of training."""

    step_E: NDArray[np.int64]  # optimizer steps done
    logits_ENC: NDArray[np.float64]


@dataclass(frozen=True)
class Selected:
    """Test predictions of the evaluation that a selection chose."""

    scored: Scored
    choice: Choice


class Reader:
    """Reads each file of a store at most once; what is damaged is damaged for everybody who asks, with one message."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._truth: dict[tuple[str, str], Truth | str] = {}
        self._scored: dict[tuple[str, str], Scored | str] = {}
        self._given: dict[str, Given | str] = {}
        self._selected: dict[tuple[str, str], Selected | str] = {}
        self._latest: tuple[str, pyarrow.Table] | None = None  # evaluations are large: those of one step are kept

    def truth(self, data: str, split: str, classes: int) -> Truth:
        """Ground truth of a split of a materialize step. Raises StepError where it is damaged."""
        key = (data, split)
        if key not in self._truth:
            try:
                self._truth[key] = self._read_truth(data, split, classes)
            except StepError as error:
                self._truth[key] = str(error)
        return _or_raise(self._truth[key])

    def scored(self, step: str, data: str, split: str, classes: int) -> Scored:
        """A train step's predictions for a split against its ground truth. Raises StepError where they are damaged."""
        key = (step, split)
        if key not in self._scored:
            try:
                self._scored[key] = self._read_scored(step, self.truth(data, split, classes), split, classes)
            except StepError as error:
                self._scored[key] = str(error)
        return _or_raise(self._scored[key])

    def selected(self, step: str, supervisor: str, data: str, selection: str, classes: int) -> Selected:
        """A student's test predictions at the evaluation that `weak_val` or `oracle` chooses.

        Raises StepError where the evaluations, or what they are judged by, are damaged.
        """
        key = (step, selection)
        if key not in self._selected:
            try:
                self._selected[key] = self._select(
                    step, supervisor, self.truth(data, "test", classes), selection, classes
                )
            except StepError as error:
                self._selected[key] = str(error)
        return _or_raise(self._selected[key])

    def _select(self, step: str, supervisor: str, truth: Truth, selection: str, classes: int) -> Selected:
        test = self._evaluations(step, "test", truth.ids, truth.name, classes)
        if selection == "oracle":
            choice = choose(test.logits_ENC.argmax(axis=2), truth.y_N, test.step_E)
        else:
            given = self._given_for_val(supervisor, classes)
            val = self._evaluations(step, "val", given.ids, given.name, classes)
            if not np.array_equal(val.step_E, test.step_E):
                raise StepError(
                    f"evaluations.parquet of train {step[:12]}: val was evaluated at steps {_listed(val.step_E)} and "
                    f"test at {_listed(test.step_E)}; remove the artifact and run the sweep again"
                )
            choice = choose(val.logits_ENC.argmax(axis=2), given.label_N, val.step_E)
        return Selected(_score(test.logits_ENC[choice.place], truth), choice)

    def _given_for_val(self, supervisor: str, classes: int) -> Given:
        if supervisor not in self._given:
            try:
                self._given[supervisor] = self._read_given(supervisor, classes)
            except StepError as error:
                self._given[supervisor] = str(error)
        return _or_raise(self._given[supervisor])

    def _read_given(self, supervisor: str, classes: int) -> Given:
        file = "predictions/val.parquet"
        name = f"{file} of train {supervisor[:12]}"
        table = _columns(self.store, "train", supervisor, file, ["example_id", "logits"], name)
        ids = table["example_id"].to_pylist()
        order = sorted(ids)
        position_N = metrics.join(ids, order, name, name)
        return Given(order, _logits(table["logits"], classes, name)[position_N].argmax(axis=1), name)

    def _evaluations(self, step: str, split: str, ids: list[str], wanted: str, classes: int) -> Evaluations:
        """Every evaluation on a split, its examples in the order of `ids`, which are those of `wanted`."""
        if self._latest is None or self._latest[0] != step:
            name = f"evaluations.parquet of train {step[:12]}"
            columns = ["step", "split", "example_id", "logits"]
            self._latest = (step, _columns(self.store, "train", step, "evaluations.parquet", columns, name))
        return _evaluations(self._latest[1], split, ids, wanted, classes, step)

    def _read_truth(self, data: str, split: str, classes: int) -> Truth:
        name = f"{split}.parquet of materialize {data[:12]}"
        table = _columns(self.store, "materialize", data, f"{split}.parquet", ["example_id", "label"], name)
        ids = table["example_id"].to_pylist()
        y_N = table["label"].to_numpy()
        if not len(y_N):
            raise StepError(f"{name} holds no examples; remove the artifact and run the sweep again")
        if table["label"].null_count or y_N.min() < 0 or y_N.max() >= classes:
            raise StepError(
                f"{name}: a label is empty or outside 0 to {classes - 1}; remove the artifact and run again"
            )
        order = sorted(ids)
        return Truth(order, y_N[metrics.join(ids, order, name, name)].astype(np.int64), name)

    def _read_scored(self, step: str, truth: Truth, split: str, classes: int) -> Scored:
        file = f"predictions/{split}.parquet"
        name = f"{file} of train {step[:12]}"
        table = _columns(self.store, "train", step, file, ["example_id", "logits"], name)
        position_N = metrics.join(table["example_id"].to_pylist(), truth.ids, name, truth.name)
        logits_NC = _logits(table["logits"], classes, name)[position_N]
        return _score(logits_NC, truth)


def _score(logits_NC: NDArray[np.float64], truth: Truth) -> Scored:
    """Predictions in the order of the truth's ids against it."""
    p_NC = metrics.softmax(logits_NC)
    predicted_N = logits_NC.argmax(axis=1)
    return Scored(
        predicted_N.astype(np.int16),
        predicted_N == truth.y_N,
        # The difference of logits, not the probability: it keeps apart what saturates at 1.0.
        metrics.auroc(logits_NC[:, 1] - logits_NC[:, 0], truth.y_N) if p_NC.shape[1] == 2 else float("nan"),
        metrics.ece(p_NC, truth.y_N),
        metrics.brier(p_NC, truth.y_N),
    )


def _evaluations(
    table: pyarrow.Table, split: str, ids: list[str], wanted: str, classes: int, digest: str
) -> Evaluations:
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
    logits_MC = _logits(part["logits"], classes, name)
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


def _or_raise(found: T | str) -> T:
    if isinstance(found, str):
        raise StepError(found)
    return found


def _columns(store: Store, kind: str, digest: str, file: str, columns: list[str], name: str) -> pyarrow.Table:
    table = store.read_table(kind, digest, file, columns)
    lacking = [column for column in columns if column not in table.column_names]
    if lacking:
        raise StepError(f"{name}: no column {', '.join(lacking)}; remove the artifact and run the sweep again")
    return table


def _logits(column: pyarrow.ChunkedArray, classes: int, name: str) -> NDArray[np.float64]:
    import pyarrow
    import pyarrow.compute as pc

    try:
        lengths = pc.list_value_length(column).to_numpy()
        if column.null_count or (lengths != classes).any():
            raise StepError(f"{name}: expected {classes} logits for each example; remove the artifact and run again")
        values = pc.list_flatten(column).to_numpy().astype(np.float64)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise StepError(f"{name}: the logits are not lists of numbers ({error}); remove it and run again") from None
    if not np.isfinite(values).all():
        raise StepError(f"{name}: a logit is not a finite number; remove the artifact and run the sweep again")
    return np.asarray(values.reshape(-1, classes))
