"""A file of labels in, probabilities by example out; refuses what it cannot read, with the rows that are wrong.

A row names its example by `example_id` or by the very `text` (where texts are compared by the list `texts`, in any
order, to which its classes then refer), and says the `label` (a class, or its number from 0) or
`p`: a probability for each class as a list or by name, or, of two classes, that of the second one. In CSV, columns
`p_<class>` do as well, so that what `w2s label` writes can be read. Where a row has both, `p` counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2s.errors import SpecError, StepError
from w2s.identity import nearest
from w2s.learn.labels import Floats
from w2s.tasks.records import read
from w2s.tasks.task import Read

SHOWN = 10  # wrong rows in a message
ROUNDED = 0.02  # by so much may probabilities miss a sum of 1: people write 0.33 three times


class External:
    """The labels of a file. `matched`: keys that were found among examples so far.

    `compares`: an example is several texts, and a class is the place at which the better one stands.
    """

    def __init__(self, path: Path, classes: Sequence[str], compares: bool = False) -> None:
        self.path, self.classes, self.compares = path, list(classes), compares
        self.p: dict[str, list[float]] = {}
        self.matched: set[str] = set()
        row_of: dict[str, int] = {}
        problems: list[str] = []
        try:
            for number, record in read(path, Read()):
                try:
                    key, order = self._key(record)
                    p_C = _probabilities(record, self.classes)
                    p_C = p_C if order is None else [p_C[place] for place in order]
                    if key in self.p and p_C != self.p[key]:
                        raise ValueError(f"another label than row {row_of[key]} has for the same example; keep one")
                    self.p[key] = p_C
                    row_of.setdefault(key, number)
                except ValueError as error:
                    problems.append(f"{path}: row {number}: {error}")
        except SpecError as error:
            raise StepError(str(error)) from None
        if problems:
            more = [f"{path}: and {len(problems) - SHOWN} more rows"] if len(problems) > SHOWN else []
            raise StepError("\n".join(problems[:SHOWN] + more))

    def of(self, ids: Sequence[str], texts: Sequence[Any]) -> tuple[list[int], Floats]:
        """Places of the examples that have a label, and their labels (N, C); an id counts before a text.

        `texts`: of each example its text or, where texts are compared, all of them.
        """
        found: dict[int, list[float]] = {}
        for place, (example_id, text) in enumerate(zip(ids, texts, strict=True)):
            own = _named("example_id", example_id)
            by_text, order = _of_texts(text) if self.compares else (_named("text", text), None)
            if own in self.p:
                found[place] = self.p[own]
                self.matched.add(own)
            elif by_text in self.p:
                p_C = self.p[by_text]
                found[place] = p_C if order is None else [p_C[order.index(i)] for i in range(len(order))]
                self.matched.add(by_text)
        p_NC = np.array(list(found.values()), dtype=np.float32)
        return list(found), p_NC.reshape(-1, len(self.classes))

    def _key(self, record: Mapping[str, Any]) -> tuple[str, list[int] | None]:
        """What a row is looked up by; of texts that are compared also the order in which their places are kept."""
        value = record.get("example_id")
        if isinstance(value, str) and value.strip():
            return _named("example_id", value.strip()), None
        given = record.get("texts" if self.compares else "text")
        if self.compares and isinstance(given, list):
            return _of_texts(_different(given, len(self.classes)))
        if not self.compares and isinstance(given, str) and given.strip():
            return _named("text", given.strip()), None  # as texts of tasks are
        what = "in the list texts, since this task compares texts," if self.compares else "in text"
        there = ", ".join(map(str, record)) or "nothing"
        raise ValueError(f"expected a text in example_id or {what} (the row has {there})")


def _different(texts: list[Any], expected: int) -> list[str]:
    if len(texts) != expected or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"texts: expected {expected} texts (got {str(texts)[:80]})")
    if len({text.strip() for text in texts}) < len(texts):
        raise ValueError("texts: two of them are equal, so that none of the two is the better one")
    return texts


def _named(field: str, value: Any) -> str:
    return f"{field} {value}"


def _of_texts(texts: Sequence[str]) -> tuple[str, list[int]]:
    """The same key for the same texts in any order, and where each text of the sorted ones stands in the given."""
    stripped = [text.strip() for text in texts]
    order = sorted(range(len(stripped)), key=stripped.__getitem__)
    return _named("texts", json.dumps([stripped[place] for place in order])), order


def _probabilities(record: Mapping[str, Any], classes: list[str]) -> list[float]:
    given = record.get("p")
    columns = {name: record.get(f"p_{name}") for name in classes}
    if given in (None, "") and None not in columns.values():
        given = columns
    if given in (None, ""):
        return _one_hot(record.get("label"), classes)
    if isinstance(given, Mapping):
        if set(given) != set(classes):
            raise ValueError(f"p has the classes {', '.join(map(str, given))}, and the task {', '.join(classes)}")
        given = [given[name] for name in classes]
    if not isinstance(given, list):
        if len(classes) != 2:
            raise ValueError(f"p: expected a probability for each of {len(classes)} classes (got {given!r})")
        second = _number(given)
        given = [1.0 - second, second]
    p_C = [_number(value) for value in given]
    if len(p_C) != len(classes):
        raise ValueError(f"p: expected {len(classes)} probabilities (got {len(p_C)})")
    if min(p_C) < 0 or not math.isclose(sum(p_C), 1.0, abs_tol=ROUNDED):
        raise ValueError(f"p: expected probabilities that sum to 1 (got {', '.join(f'{value:g}' for value in p_C)})")
    return [value / sum(p_C) for value in p_C]


def _number(value: Any) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"p: expected a number (got {value!r})")
    return found


def _one_hot(label: Any, classes: list[str]) -> list[float]:
    if label is None or label == "":
        raise ValueError("neither a label nor p")
    name = str(label)
    if name not in classes and isinstance(label, (int, str)) and not isinstance(label, bool) and name.isdecimal():
        name = classes[int(name)] if int(name) < len(classes) else name
    if name not in classes:
        raise ValueError(f"no class {label!r}{nearest(name, classes)}")
    return [float(name == known) for known in classes]
