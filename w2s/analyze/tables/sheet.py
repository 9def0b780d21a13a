"""Numbers, names and reasons in, one table as data out: columns, and lines of short texts; knows no format.

Texts from users stand here as they are, on one line. A number stands beside its text, so that a reader's program can
sort by it; what is absent says why in a word or two and has no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from w2s.analyze.numbers.stats import Estimate

ABSENT = "-"
PAIR = "Weak -> student"
NAN = math.nan
NOT_BINARY = "not binary"
SHORTER = {
    "the baseline was not planned here": "no baseline",
    "baseline student missing": "baseline missing",
    "baseline student failed": "baseline failed",
    "baseline student blocked": "baseline blocked",
    "baseline student damaged": "baseline damaged",
    "AUROC needs two classes": NOT_BINARY,
}  # reasons that stand in a column of numbers


class Value(NamedTuple):
    """What stands in one place of a table: a text, and an interval that may go below it. `number` sorts."""

    text: str
    interval: str = ""
    number: float = NAN


class Models(NamedTuple):
    """A weak and a student model, to be joined by the arrow of the format."""

    weak: str
    student: str


Entry = Value | Models
Line = tuple[Entry, ...]


@dataclass(frozen=True)
class Column:
    """A head and how it is set. A `spare` column is left out of a narrow table where all its entries are equal,
    because the sentence under the table says the same. A `remark` column is text that may be empty, and goes last."""

    head: str
    numeric: bool = False
    spare: bool = False
    remark: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table. `kind` is medians, matrix, cells, agreement, labels, confidence, differences, contests or scaling."""

    about: str
    columns: tuple[Column, ...]
    lines: list[Line]
    notes: tuple[str, ...] = ()  # sentences that hold for this table alone
    kind: str = ""
    aside: bool = False  # for files, not for a terminal

    @property
    def per_cell(self) -> bool:
        """True where there is a line for every cell, of which a sweep may have thousands."""
        return self.kind in ("cells", "agreement", "labels", "differences")


def without_empty_remarks(sheet: Sheet) -> Sheet:
    """The table without columns of remarks that have none."""
    kept = [
        place
        for place, column in enumerate(sheet.columns)
        if not column.remark or any(plain(line[place]) for line in sheet.lines)
    ]
    columns = tuple(sheet.columns[place] for place in kept)
    return replace(sheet, columns=columns, lines=[tuple(line[place] for place in kept) for line in sheet.lines])


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which could move a terminal's cursor or end a table row."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def label(reason: str) -> str:
    """A reason in a word or two: what stands before its colon."""
    short = one_line(reason.partition(":")[0])
    return SHORTER.get(short, short) or ABSENT


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number as text, without a negative zero; an end of an interval may be infinite."""
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def value_of(estimate: Estimate, digits: int, *, signed: bool = False, role: str = "") -> Value:
    """An estimate as text; what is absent says why. `role` is whose number it is, which then need not be said."""
    if not estimate.known:
        return Value(label(estimate.reason).removeprefix(f"{role} "))
    return with_interval(estimate.value, estimate.low, estimate.high, digits, signed=signed)


def with_interval(value: float, low: float, high: float, digits: int, *, signed: bool = False) -> Value:
    """A number and its interval, or the number alone where no interval can be given."""
    ends = [number(end, digits, signed=signed) for end in (low, high)]
    interval = "" if math.isnan(low) or math.isnan(high) else f"[{', '.join(ends)}]"
    return Value(number(value, digits, signed=signed), interval, value)


def p_value(p: float, absent: str = ABSENT) -> Value:
    """A p-value with three digits; smaller ones are only said to be."""
    if math.isnan(p):
        return Value(absent)
    return Value("<0.001" if p < 0.001 else f"{p:.3f}", "", p)


def whole(count: int) -> Value:
    """A count, with commas between thousands."""
    return Value(f"{count:,}", "", float(count))


def counted(reasons: Mapping[str, int]) -> str:
    """Reasons with how often each holds, the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{label(reason)} ({count:,})" for reason, count in ordered)


def notes_below(sheets: Sequence[Sheet]) -> list[tuple[str, ...]]:
    """The notes to set below each table: of neighbours with the same ones only the last has them."""
    following = [*(sheet.notes for sheet in sheets[1:]), ()]
    return [() if sheet.notes == after else sheet.notes for sheet, after in zip(sheets, following, strict=True)]


def constant(sheet: Sheet, place: int) -> bool:
    """True where a column says the same on every line."""
    return len({plain(line[place]) for line in sheet.lines}) <= 1


def plain(entry: Entry, arrow: str = "->", escape: Callable[[str], str] = str) -> str:
    """An entry on one line; intervals are ours and need no escape."""
    if isinstance(entry, Models):
        return f"{escape(entry.weak)} {arrow} {escape(entry.student)}"
    return f"{escape(entry.text)} {entry.interval}".rstrip()
