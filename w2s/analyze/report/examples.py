"""Predictions of a student and of its supervisor in, some test examples out on which the two disagree.

Which examples are shown depends on the data set and on nothing else: its examples stand in one order drawn by their
ids, and each student shows the first ones on which it and its supervisor differ. So they are neither its best nor its
worst, the same texts serve many students, and each text is stored once. Shapes: N test examples, C classes, W wanted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.reading import metrics
from w2s.analyze.reading.predictions import Truth
from w2s.analyze.reading.rows import Rows
from w2s.analyze.reading.selection import Taken
from w2s.errors import StepError
from w2s.store import Store

Places = NDArray[np.int64]


@dataclass
class Texts:
    """The texts of one data set that some run shows."""

    data: str
    order_N: Places  # places of the truth's ids, in the order in which they are considered
    classes: list[str]
    used: dict[int, int] = field(default_factory=dict)  # place of the example -> its number among the texts
    texts: list[str] = field(default_factory=list)  # by number, once they are read
    lost: str = ""  # why they could not be read

    def kept(self, shown: Collection[int], most_chars: int) -> dict[str, Any]:
        """The texts that are shown, cut to so many characters, and how many were cut off; others are empty."""
        if self.lost:
            return {"lost": self.lost}
        texts = [text if number_of in shown else "" for number_of, text in enumerate(self.texts)]
        cut = [max(0, len(text) - most_chars) for text in texts]
        return {"classes": self.classes, "texts": [text[:most_chars] for text in texts], "cut": cut}


def drawn_order(truth: Truth) -> Places:
    """The places of the examples in an order that their ids alone decide."""
    keys = [hashlib.sha256(example.encode()).digest() for example in truth.ids]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


class Disagreements:
    """Examples of each student, read with one look at each file of predictions while its supervisor stays the same."""

    def __init__(self, rows: Rows, most: int) -> None:
        self.rows, self.most = rows, most
        self.texts: dict[str, Texts] = {}
        self._latest: tuple[str, NDArray[np.float64]] | None = None

    def of(self, student: str, supervisor: str, data: str) -> dict[str, Any]:
        """{of: how many disagreements there are, shown: [text, truth, student's class, its p, supervisor's class, its
        p], n}; p in percent. Raises StepError where a file is damaged."""
        truth, test = self.rows.truth[data], self.rows.test
        if data not in self.texts:
            self.texts[data] = Texts(data, drawn_order(truth), _classes(self.rows.store, data))
        texts = self.texts[data]
        differ_N = test[Taken(student)].predicted_N != test[Taken(supervisor)].predicted_N
        place_W = texts.order_N[differ_N[texts.order_N]][: self.most]
        found: dict[str, Any] = {"n": len(truth.ids), "of": int(differ_N.sum()), "shown": []}
        if not len(place_W):
            return found
        if test[Taken(student)].predicted_N.dtype == np.int64:  # numbers of generated texts
            found["shown"] = self._answers(student, supervisor, data, place_W)
            return found
        if self._latest is None or self._latest[0] != supervisor:
            self._latest = (supervisor, _probabilities(self.rows.store, supervisor, truth.ids))
        weak_WC = self._latest[1][place_W]
        student_WC = _probabilities(self.rows.store, student, [truth.ids[place] for place in place_W])
        for place, student_C, weak_C in zip(place_W.tolist(), student_WC, weak_WC, strict=True):
            text = texts.used.setdefault(place, len(texts.used))
            found["shown"].append([text, int(truth.y_N[place]), *_verdict(student_C), *_verdict(weak_C)])
        return found

    def _answers(self, student: str, supervisor: str, data: str, place_W: Places) -> list[list[int]]:
        """The same of generated texts, which stand among the classes one by one."""
        texts, ids = self.texts[data], [self.rows.truth[data].ids[place] for place in place_W]

        def named(answer: str) -> int:
            if answer not in texts.classes:
                texts.classes.append(answer)
            return texts.classes.index(answer)

        truth = _read(self.rows.store, "materialize", data, "test.parquet", ids, ["answer"])
        given = [
            _read(self.rows.store, "train", digest, "predictions/test.parquet", ids, ["answer", "log_prob"])
            for digest in (student, supervisor)
        ]
        shown = []
        for place, right, *answers in zip(place_W.tolist(), truth, *given, strict=True):
            text = texts.used.setdefault(place, len(texts.used))
            row = [text, named(right["answer"])]
            for one in answers:
                row += [named(one["answer"]), round(100 * math.exp(one["log_prob"]))]
            shown.append(row)
        return shown

    def read_texts(self) -> None:
        """Read the texts that were used, each data set's file once."""
        for data, own in self.texts.items():
            try:
                own.texts = self._read(data, own)
            except StepError as error:
                own.lost = str(error)

    def _read(self, data: str, own: Texts) -> list[str]:
        table = self.rows.store.read_table("materialize", data, "test.parquet")
        column = next((name for name in ("text", "texts") if name in table.column_names), None)
        if column is None:
            raise StepError(f"test.parquet of materialize {data[:12]}: no column text")
        ids = self.rows.truth[data].ids
        wanted = {ids[place]: number_of for place, number_of in own.used.items()}
        kept = [""] * len(wanted)
        for example, text in zip(table["example_id"].to_pylist(), table[column].to_pylist(), strict=True):
            if example in wanted:
                kept[wanted[example]] = _readable(text, own.classes)
        return kept


def _read(
    store: Store, kind: str, digest: str, name: str, ids: Sequence[str], columns: list[str]
) -> list[dict[str, Any]]:
    """Rows of a file for these examples, in their order."""
    rows = store.read_table(kind, digest, name, ["example_id", *columns]).to_pylist()
    found = {row["example_id"]: row for row in rows}
    if not found.keys() >= set(ids):
        raise StepError(f"{name} of {kind} {digest[:12]}: lacks an example that its data set has")
    return [found[example_id] for example_id in ids]


def _readable(text: str | list[str], classes: list[str]) -> str:
    """A text, or texts that are compared, each under its name."""
    if isinstance(text, str):
        return text
    names = classes if len(classes) == len(text) else [f"text {place + 1}" for place in range(len(text))]
    return "\n\n".join(f"{name}: {one}" for name, one in zip(names, text, strict=True))


def _verdict(p_C: NDArray[np.float64]) -> tuple[int, int]:
    place = int(p_C.argmax())
    return place, round(100 * float(p_C[place]))  # percent


def _probabilities(store: Store, digest: str, ids: list[str]) -> NDArray[np.float64]:
    """A run's probabilities for these test examples, in their order."""
    import pyarrow
    import pyarrow.compute as pc

    name = f"predictions/test.parquet of train {digest[:12]}"
    table = store.read_table("train", digest, "predictions/test.parquet", ["example_id", "logits"])
    place_W = pc.index_in(pyarrow.array(ids), value_set=table["example_id"].combine_chunks())
    if place_W.null_count:
        raise StepError(f"{name}: lacks an example that its data set has")
    logits = pc.list_flatten(table["logits"].take(place_W)).to_numpy(zero_copy_only=False)
    return metrics.softmax(logits.astype(np.float64).reshape(len(ids), -1))


def _classes(store: Store, data: str) -> list[str]:
    from w2s.disk import read_json

    summary = read_json(store.path("materialize", data) / "summary.json") or {}
    return [str(name) for name in summary.get("classes") or []]
