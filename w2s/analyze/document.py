"""Cells in, what a reader is shown out, once for every format: sheets of short texts, one sentence, remarks.

Nothing here knows Markdown, LaTeX or a terminal; texts from users stand here as they are, on one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from w2s.analyze.cells import Cell
from w2s.analyze.rows import Rows
from w2s.analyze.stats import LEVEL, RESAMPLES, Estimate

ABSENT = "-"


class Value(NamedTuple):
    """What stands in one place of a table: a text, and an interval that may go below it."""

    text: str
    interval: str = ""


class Models(NamedTuple):
    """A weak and a student model, to be joined by the arrow of the format."""

    weak: str
    student: str


Entry = Value | Models


@dataclass(frozen=True)
class Column:
    """A head and how it is set. A `spare` column is left out of a narrow table where all its entries are equal,
    because the sentence under the table says the same."""

    head: str
    numeric: bool = False
    spare: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table."""

    about: str
    columns: tuple[Column, ...]
    lines: list[tuple[Entry, ...]]


@dataclass(frozen=True)
class Document:
    """All that is said about a sweep."""

    name: str
    question: str
    sheets: list[Sheet]
    sentences: list[str]  # what holds for every line: n, seeds, how intervals are made, what is left out
    unfinished: list[str]
    problems: list[str]


def compose(rows: Rows, cells: Sequence[Cell]) -> Document:
    """The document of a sweep."""
    return Document(
        one_line(rows.name),
        one_line(rows.question),
        sheets(cells),
        sentences(cells),
        [one_line(line) for line in rows.unfinished],
        [one_line(line) for line in rows.problems],
    )


def sheets(cells: Sequence[Cell]) -> list[Sheet]:
    """The tables of a sweep: accuracies, and differences where there are any."""
    compared = [cell for cell in cells if _is_compared(cell)]
    return [_accuracies(cells), *([_differences(compared)] if compared else [])]


def _is_compared(cell: Cell) -> bool:
    """False for the baseline, and where no difference from it could be computed."""
    return not cell.is_baseline and (cell.accuracy_difference.known or cell.pgr_difference.known)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which could move a terminal's cursor or end a table row."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def label(estimate: Estimate) -> str:
    """Why an estimate is absent, in a word or two."""
    return one_line(estimate.reason.partition(":")[0])


def value_of(estimate: Estimate, digits: int, *, signed: bool = False, why: bool = False) -> Value:
    """An estimate as text; what is absent is a dash, or the reason where `why` asks for it."""
    if not estimate.known:
        return Value(label(estimate) if why else ABSENT)
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    return Value(form.format(estimate.value), f"[{form.format(estimate.low)}, {form.format(estimate.high)}]")


def _accuracies(cells: Sequence[Cell]) -> Sheet:
    columns = (
        Column("Task", spare=True),
        Column("Weak -> student"),
        Column("Method"),
        Column("n", numeric=True, spare=True),
        Column("Seeds", numeric=True, spare=True),
        *(Column(f"{role} acc.", numeric=True) for role in ("Weak", "Student", "Ceiling")),
        Column("PGR", numeric=True),
        Column("Notes"),
    )
    lines: list[tuple[Entry, ...]] = [
        (
            Value(one_line(cell.task)),
            Models(one_line(cell.weak_model), one_line(cell.student_model)),
            Value(one_line(cell.variant)),
            Value(f"{cell.n:,}" if cell.n else ABSENT),
            Value(_seeds(cell)),
            *(value_of(estimate, 3) for estimate in (cell.weak, cell.student, cell.ceiling)),
            value_of(cell.pgr, 2, why=True),
            Value("; ".join(cell.notes)),
        )
        for cell in cells
    ]
    return Sheet("Accuracy and performance gap recovered", columns, lines)


def _differences(cells: Sequence[Cell]) -> Sheet:
    baseline = one_line(cells[0].baseline)
    columns = (
        Column("Task", spare=True),
        Column("Weak -> student"),
        Column("Method"),
        Column("Seeds", numeric=True, spare=True),
        Column("Accuracy", numeric=True),
        Column("PGR", numeric=True),
    )
    lines: list[tuple[Entry, ...]] = [
        (
            Value(one_line(cell.task)),
            Models(one_line(cell.weak_model), one_line(cell.student_model)),
            Value(one_line(cell.variant)),
            Value(str(cell.accuracy_difference.seeds) if cell.accuracy_difference.known else ABSENT),
            value_of(cell.accuracy_difference, 3, signed=True),
            value_of(cell.pgr_difference, 2, signed=True),
        )
        for cell in cells
    ]
    return Sheet(f"Difference from {baseline}, paired by seed and test example", columns, lines)


def _seeds(cell: Cell) -> str:
    done, planned = len(cell.seeds), len(cell.planned)
    return str(planned) if done == planned else f"{done}/{planned}"


def sentences(cells: Sequence[Cell]) -> list[str]:
    """n and seeds, how intervals are made, which PGRs are left out and why."""
    if not cells:
        return ["The sweep has no cells."]
    tests = _range("test example", [cell.n for cell in cells if cell.n])
    seeds = _range("seed", [len(cell.seeds) for cell in cells if cell.seeds])
    said = [f"{tests}, {seeds}." if tests and seeds else "No student has finished yet."]
    counts = {e.seeds for cell in cells for e in (cell.weak, cell.student, cell.ceiling) if e.known}
    how = (
        f"Brackets are {LEVEL * 100:.0f} % intervals from {RESAMPLES:,} paired bootstrap resamples of the test examples"
    )
    if counts and counts != {1}:
        said.append(f"{how}, with the spread over seeds added (Student's t).")
    elif counts:
        said.append(f"{how}; one seed, so they cover test examples only and not other seeds.")
    if counts and 1 in counts and len(counts) > 1:
        said.append("Where only one seed is there, they cover test examples only.")
    if 2 in counts:
        said.append(
            "Two seeds tell little about the spread over seeds, hence wide intervals; three or more narrow them."
        )
    said.append("PGR = (student - weak) / (ceiling - weak), from accuracies averaged over seeds.")
    said += _left_out("PGR", [cell.pgr for cell in cells if not cell.pgr.known], len(cells))
    others = [cell for cell in cells if not cell.is_baseline]
    lost = [cell.accuracy_difference for cell in others if not _is_compared(cell)]
    said += _left_out(f"Difference from {one_line(cells[0].baseline)}", lost, len(others))
    return [*said, *_about_selections(cells)]


def _left_out(what: str, lost: Sequence[Estimate], lines: int) -> list[str]:
    """How many of so many lines have no such number, and why."""
    why = Counter(label(estimate) for estimate in lost)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(why.items()))
    return [f"{what} left out in {len(lost)} of {lines} lines: {reasons}."] if lost else []


def _about_selections(cells: Sequence[Cell]) -> list[str]:
    """What was chosen by what, where anything was."""
    used = {cell.selection for cell in cells}
    said = []
    if "weak_val" in used:
        said.append("weak_val takes the evaluation of a run that agrees best with the supervisor's labels on val.")
    if "oracle" in used:
        said.append(
            "oracle takes the evaluation with the best accuracy on the test examples that it is then measured on: "
            "a diagnostic and no result, and its intervals do not allow for the choice."
        )
    return said


def _range(what: str, counts: list[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,} {what}{'' if low == 1 else 's'}" if low == high else f"{low:,} to {high:,} {what}s"


def constant(sheet: Sheet, place: int) -> bool:
    """True where a column says the same on every line."""
    return len({line[place] for line in sheet.lines}) <= 1


def plain(entry: Entry, arrow: str = "->", escape: Callable[[str], str] = str) -> str:
    """An entry on one line; intervals are ours and need no escape."""
    if isinstance(entry, Models):
        return f"{escape(entry.weak)} {arrow} {escape(entry.student)}"
    return f"{escape(entry.text)} {entry.interval}".rstrip()
