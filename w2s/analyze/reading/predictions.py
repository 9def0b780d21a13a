"""A store's prediction and test files in, what they come to out; each file is read once.

Refuses (StepError, naming the artifact) what does not fit: files that are not those of their manifest, ids missing,
repeated or extra, logits that are not finite or not one per class, labels outside the classes.

Where a task has no classes (`classes` 0) its predictions are texts. A text stands for itself as a number, its hash: so
texts are right, and agree, where they are the same.

Shapes: N examples, C classes, B artifacts that are read and scored together.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.reading import evaluations, files, metrics
from w2s.analyze.reading.evaluations import Evaluations
from w2s.analyze.reading.files import Artifact, Chunk, Content
from w2s.analyze.reading.scoring import Scored as Scored  # of this module, for those who ask
from w2s.analyze.reading.scoring import score, score_texts
from w2s.analyze.reading.selection import Choice
from w2s.errors import StepError
from w2s.store import Store

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")


class Wanted(NamedTuple):
    """Which predictions of a train step are asked for.

    `part`: `test` or `transfer` as training left the model, or the test predictions that `weak_val` or `oracle` chose.
    """

    digest: str
    part: str = "test"
    supervisor: str = ""  # whose labels choose, for weak_val only: a train step, or 'labels ' and a labels step


def judge(supervisor: str) -> tuple[str, str, str]:
    """(kind, digest, file) of the labels for val by which `Wanted.supervisor` chooses."""
    if supervisor.startswith("labels "):
        return "labels", supervisor.removeprefix("labels "), "val.parquet"
    return "train", supervisor, "predictions/val.parquet"


def judge_of(digests: Mapping[str, str], steps: Mapping[str, Mapping[str, Any]]) -> str:
    """`Wanted.supervisor` of a cell's student, by the digests of the cell: what it learned from.

    Not by the student's parents: it may have begun from another's weights, and one that learned the truth is a ceiling.
    """
    labels = digests.get("labels") or digests["weak"]
    return f"labels {labels}" if steps.get(labels, {}).get("kind") == "labels" else labels


class Source(NamedTuple):
    """A file that predictions come from."""

    kind: str
    digest: str
    name: str


@dataclass(frozen=True)
class Truth:
    """Ground truth of one split: ids in ascending order, so that no result depends on the order of a file."""

    ids: list[str]
    y_N: NDArray[np.int64]
    name: str
    stamp: bytes = b""  # of the file and its manifest

    @property
    def majority_share(self) -> float:
        return metrics.majority_share(self.y_N)

    def equals(self, other: Truth) -> bool:
        """True where these are the same examples with the same truth, so that what was measured can be paired."""
        return self.ids == other.ids and bool(np.array_equal(self.y_N, other.y_N))


@dataclass(frozen=True)
class Given:
    """The labels that a supervisor gives for a split: its argmax, whatever the truth is."""

    ids: list[str]  # ascending
    label_N: NDArray[np.int64]
    name: str
    stamp: bytes
    partial: bool = False  # a file of labels may leave examples out


@dataclass(frozen=True, slots=True)
class Found:
    """Predictions scored, and what their manifest said. `stamp` is that of all their sources when they were read."""

    scored: Scored
    wall_s: float
    flops: float
    choice: Choice | None  # of the evaluation, where one was chosen
    stamp: bytes


@dataclass(frozen=True)
class Selected:
    """Test predictions of the evaluation that a selection chose."""

    scored: Scored
    choice: Choice


def sources(wanted: Wanted, data: str) -> list[Source]:
    """The files that predictions come from, in the order of their stamps."""
    split = "transfer" if wanted.part == "transfer" else "test"
    own = f"predictions/{split}.parquet" if wanted.part in ("test", "transfer") else "evaluations.parquet"
    judges = [Source(*judge(wanted.supervisor))] if wanted.supervisor else []
    return [Source("materialize", data, f"{split}.parquet"), Source("train", wanted.digest, own), *judges]


class Reader:
    """Reads a store's predictions; several threads may ask one reader.

    Truth and supervisors' labels are kept, damaged ones too: with one message for everybody who asks.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()  # of what many artifacts share: one reads it while the others wait
        self._kept: dict[Hashable, Any] = {}
        # By data and split, an id column as it stands in a file, and where each example of the truth stands in it:
        # models that predict for one data set write its ids in one order.
        self._order: dict[tuple[str, str], tuple[Chunk, metrics.Ints]] = {}

    def truth(self, data: str, split: str, classes: int) -> Truth:
        """Ground truth of a split of a materialize step. Raises StepError where it is damaged."""
        return self._once((data, split), lambda: self._read_truth(data, split, classes))

    def scored(self, step: str, data: str, split: str, classes: int) -> Scored:
        """A train step's predictions for a split against its ground truth. Raises StepError where they are damaged."""
        wanted = Wanted(step, split)
        return _or_raise(self.batch([wanted], data, classes)[wanted]).scored

    def logits(self, step: str, data: str, classes: int) -> NDArray[np.floating[Any]]:
        """A train step's logits (N, C) for test, in the order of the truth. Raises StepError where they are damaged."""
        truth = self.truth(data, "test", classes)
        file = files.content(files.artifact(self.store, "train", step), "predictions/test.parquet")
        return self._logits(file, step, truth, (data, "test"), classes)

    def selected(self, step: str, supervisor: str, data: str, selection: str, classes: int) -> Selected:
        """A student's test predictions at the evaluation that `weak_val` or `oracle` chooses.

        Raises StepError where the evaluations, or what they are judged by, are damaged.
        """
        wanted = Wanted(step, selection, supervisor if selection == "weak_val" else "")
        found = _or_raise(self.chosen([wanted], data, classes)[wanted])
        assert found.choice is not None
        return Selected(found.scored, found.choice)

    def batch(self, wanted: Sequence[Wanted], data: str, classes: int) -> dict[Wanted, Found | str]:
        """Final predictions of several train steps for one split, scored together; of what is damaged a message."""
        split = wanted[0].part
        try:
            truth = self.truth(data, split, classes)
        except StepError as error:
            return dict.fromkeys(wanted, str(error))
        if not classes:
            return {one: self._of_texts(one, truth) for one in wanted}
        read: dict[Wanted, Found | str] = {}
        sound: list[tuple[Wanted, Artifact, bytes]] = []
        logits_CBN = np.empty((classes, len(wanted), len(truth.ids)))
        for one in wanted:
            try:
                made = files.artifact(self.store, "train", one.digest)
                file = files.content(made, f"predictions/{split}.parquet")
                logits_CBN[:, len(sound)] = self._logits(file, one.digest, truth, (data, split), classes).T
                sound.append((one, made, truth.stamp + made.stamp + file.stamp))
            except StepError as error:
                read[one] = str(error)
        scored = score(logits_CBN[:, : len(sound)], truth.y_N)
        for (one, made, stamp), own in zip(sound, scored, strict=True):
            read[one] = Found(own, made.wall_s, made.flops, None, stamp)
        return read

    def _of_texts(self, one: Wanted, truth: Truth) -> Found | str:
        """The texts that a train step generated, scored."""
        name = f"predictions/{one.part}.parquet of train {one.digest[:12]}"
        try:
            made = files.artifact(self.store, "train", one.digest)
            file = files.content(made, f"predictions/{one.part}.parquet")
            table = files.columns(files.parquet(file), file, ("example_id", "answer"), name)
            place_N = metrics.join(table["example_id"].to_pylist(), truth.ids, name, truth.name)
            text_N = _hashes(table["answer"], name)[place_N]
        except StepError as error:
            return str(error)
        stamp = truth.stamp + made.stamp + file.stamp
        return Found(score_texts(text_N, truth.y_N), made.wall_s, made.flops, None, stamp)

    def chosen(self, wanted: Sequence[Wanted], data: str, classes: int) -> dict[Wanted, Found | str]:
        """Test predictions of one train step as selections choose them; of what is damaged a message."""
        step = wanted[0].digest
        try:
            truth = self.truth(data, "test", classes)
            made = files.artifact(self.store, "train", step)
            file = files.content(made, "evaluations.parquet")
            table = self._evaluations(file, step)
        except StepError as error:
            return dict.fromkeys(wanted, str(error))
        found: dict[Wanted, Found | str] = {}
        for one in wanted:
            assert one.digest == step
            try:
                given = self.given(one.supervisor, classes) if one.part == "weak_val" else None
                if given is not None and not given.ids:
                    raise StepError(
                        f"{given.name}: no example of val has a label, so that weak_val cannot choose by them"
                    )
                logits_NC, choice = evaluations.chosen(table, truth, given, step, classes)
                (scored,) = score(np.ascontiguousarray(logits_NC.T)[:, None], truth.y_N)
                stamp = truth.stamp + made.stamp + file.stamp + (given.stamp if given else b"")
                found[one] = Found(scored, made.wall_s, made.flops, choice, stamp)
            except StepError as error:
                found[one] = str(error)
        return found

    def course(
        self, step: str, truth: Truth, supervisor: str, classes: int
    ) -> tuple[Evaluations, Evaluations | None, Given | None]:
        """What a student predicted for test in the course of training and, where its supervisor labelled any of val,
        for that, with those labels. `supervisor` is that of `Wanted`; '' where it is not there. Raises StepError where
        they are damaged."""
        file = files.content(files.artifact(self.store, "train", step), "evaluations.parquet")
        given = self.given(supervisor, classes) if supervisor else None
        given = given if given is not None and given.ids else None
        return *evaluations.course(self._evaluations(file, step), truth, given, step, classes), given

    @staticmethod
    def _evaluations(file: Content, step: str) -> pyarrow.Table:
        name = f"evaluations.parquet of train {step[:12]}"
        return files.columns(files.parquet(file), file, evaluations.COLUMNS, name)

    def _once(self, key: Hashable, read: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                try:
                    self._kept[key] = read()
                except StepError as error:
                    self._kept[key] = str(error)
            found: T | str = self._kept[key]
        return _or_raise(found)

    def given(self, supervisor: str, classes: int) -> Given:
        """The labels for val of a train or labels step (`Wanted.supervisor`), of no example perhaps."""
        return self._once(supervisor, lambda: self._read_given(supervisor, classes))

    def _read_given(self, supervisor: str, classes: int) -> Given:
        kind, digest, where = judge(supervisor)
        name = f"{where} of {kind} {digest[:12]}"
        made = files.artifact(self.store, kind, digest)
        file = files.content(made, where)
        column = "p" if kind == "labels" else "logits"
        table = files.columns(files.parquet(file), file, ("example_id", column), name)
        ids = table["example_id"].to_pylist()
        if not ids:
            return Given([], np.zeros(0, dtype=np.int64), name, made.stamp + file.stamp, kind == "labels")
        order = _ascending(ids, name)
        position_N = metrics.join(ids, order, name, name)
        label_N = files.logits(table[column], classes, name)[position_N].argmax(axis=1)
        return Given(order, label_N, name, made.stamp + file.stamp, kind == "labels")

    def _read_truth(self, data: str, split: str, classes: int) -> Truth:
        name = f"{split}.parquet of materialize {data[:12]}"
        made = files.artifact(self.store, "materialize", data)
        file = files.content(made, f"{split}.parquet")
        column = "label" if classes else "answer"
        table = files.columns(files.parquet(file), file, ("example_id", column), name)
        ids = table["example_id"].to_pylist()
        y_N = table["label"].to_numpy() if classes else _hashes(table["answer"], name)
        if not len(y_N):
            raise StepError(f"{name} holds no examples; remove the artifact and run the sweep again")
        whole = np.issubdtype(y_N.dtype, np.integer)
        if classes and (table["label"].null_count or not whole or y_N.min() < 0 or y_N.max() >= classes):
            raise StepError(
                f"{name}: a label is empty or outside 0 to {classes - 1}; remove the artifact and run again"
            )
        order = _ascending(ids, name)
        return Truth(order, y_N[metrics.join(ids, order, name, name)].astype(np.int64), name, made.stamp + file.stamp)

    def _logits(
        self, found: Content, step: str, truth: Truth, key: tuple[str, str], classes: int
    ) -> NDArray[np.floating[Any]]:
        """(N, C) in the order of the truth's ids."""
        name = f"predictions/{key[1]}.parquet of train {step[:12]}"
        file = files.parquet(found)
        ids, known = files.chunk(file, found, "example_id"), self._order.get(key)
        position_N: metrics.Ints
        if ids is not None and known is not None and known[0].equals(ids):
            logits = files.columns(file, found, ("logits",), name)["logits"]
            position_N = known[1]
        else:
            table = files.columns(file, found, ("example_id", "logits"), name)
            logits = table["logits"]
            position_N = metrics.join(table["example_id"].to_pylist(), truth.ids, name, truth.name)
            if ids is not None:
                self._order[key] = (ids, position_N)
        logits_NC = files.logits(logits, classes, name)
        if len(logits_NC) != len(position_N):  # a file may say that its columns differ in length
            raise StepError(f"{name}: {len(logits_NC)} logits for {len(position_N)} examples; remove it and run again")
        return np.take(logits_NC, position_N, axis=0)  # four times as fast as an index


def _or_raise(found: T | str) -> T:
    if isinstance(found, str):
        raise StepError(found)
    return found


def _hashes(column: pyarrow.ChunkedArray, name: str) -> NDArray[np.int64]:
    """A number for each text, the same for the same text; that two of a million share one has p = 3e-8."""
    texts = column.to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise StepError(f"{name}: an answer is no text; remove the artifact and run the sweep again")
    found = [
        int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") for text in texts
    ]
    return np.array(found, dtype=np.uint64).view(np.int64)


def _ascending(ids: list[Any], name: str) -> list[str]:
    if not all(isinstance(example_id, str) for example_id in ids):
        raise StepError(f"{name}: an example has no id, or one that is no text; remove the artifact and run again")
    return sorted(ids)
