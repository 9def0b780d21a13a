"""A document in, what stands on a terminal or goes into a pipe out; 80 columns are enough for three-digit accuracies.

Texts are printed as they are: no markup of rich is read in them, and they hold no control characters. Of a sweep with
very many cells the first ones are printed, and where the rest is.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from w2s.analyze.tables.document import Document, Entry, Line, Models, Sheet, constant, plain
from w2s.analyze.tables.sheet import PAIR, notes_below

MOST_LINES = 60  # of one table
MOST_MATRICES = 12
WRAPPED, REMARK = 12, 18  # characters of a reason and of a remark that stay on one line in a narrow table
ELSEWHERE = "table.md, table.csv and report.html"


def show(document: Document, console: Console) -> None:
    """Print what was asked, the tables in the widest layout that fits, the sentences under them, what is missing."""
    asked = f"{document.name}: {document.question}" if document.question else document.name
    console.print(Text(f"{asked}\n"))
    many = any(sheet.per_cell and len(sheet.lines) > MOST_LINES for sheet in document.sheets)
    shown = [sheet for sheet in document.sheets if not sheet.aside]
    matrices = [sheet for sheet in shown if sheet.kind == "matrix"]
    left = [sheet for sheet in shown if many and sheet.per_cell and sheet.kind != "cells"] + matrices[MOST_MATRICES:]
    printed = [sheet for sheet in shown if not any(sheet is one for one in left)]
    for sheet, notes in zip(printed, notes_below(printed), strict=True):
        _show(sheet, notes, console)
    if left:
        names = [f"{sheet.about} ({_lines(len(sheet.lines))})" for sheet in left[:MOST_MATRICES]]
        names += [f"{len(left) - MOST_MATRICES} more"] if len(left) > MOST_MATRICES else []
        console.print(Text(f"Not printed, but in {ELSEWHERE}: {'; '.join(names)}.\n"))
    for sentence in document.sentences:
        console.print(Text(sentence))
    for head, lines in (("Not finished", document.unfinished), ("Problems", document.problems)):
        if lines:
            console.print(Text(f"\n{head}", style="bold"))
            for line in lines[:MOST_LINES]:
                console.print(Text(f"- {line}"))
            if len(lines) > MOST_LINES:
                console.print(Text(f"- and {len(lines) - MOST_LINES:,} more, in {ELSEWHERE}"))


def _lines(count: int) -> str:
    return f"{count:,} {'line' if count == 1 else 'lines'}"


def _show(sheet: Sheet, notes: Sequence[str], console: Console) -> None:
    more = len(sheet.lines) - MOST_LINES
    console.print(Text(sheet.about, style="bold"))
    console.print()
    _show_lines(replace(sheet, lines=sheet.lines[:MOST_LINES]), console)
    if more > 0 or notes:
        console.print()
    if more > 0:
        console.print(Text(f"{_lines(more)} more in {ELSEWHERE}.", style="italic"))
    for note in notes:
        console.print(Text(note, style="dim"))
    console.print()


def _show_lines(sheet: Sheet, console: Console) -> None:
    """In the first of some layouts that fits; a matrix may be cut between its columns, which nothing else can be."""
    full = list(range(len(sheet.columns)))
    short = [place for place in full if not (sheet.columns[place].spare and constant(sheet, place))]
    for stacked in (0, 1, 2):
        for kept in (full, short):
            table = _table(sheet, sheet.lines, kept, stacked)
            if _width(table, console) <= console.width:
                console.print(table)
                return
    if sheet.kind == "matrix":
        _show_parts(sheet, console)
    else:
        _show_blocks(sheet, short, console)


def _show_parts(sheet: Sheet, console: Console) -> None:
    """A matrix in several, each with the supervisors and as many students as fit."""
    rest = list(range(1, len(sheet.columns)))
    while rest:
        count = len(rest)
        while count > 1 and _width(_table(sheet, sheet.lines, [0, *rest[:count]], 2), console) > console.width:
            count -= 1
        console.print(_table(sheet, sheet.lines, [0, *rest[:count]], 2))
        rest = rest[count:]


def _show_blocks(sheet: Sheet, kept: Sequence[int], console: Console) -> None:
    """One small table for each task and pair of models, remarks below it."""
    pair = next(place for place, column in enumerate(sheet.columns) if column.head == PAIR)
    method = pair + 1
    remarks = [place for place in kept if sheet.columns[place].remark]
    inner = [place for place in kept if place >= method and place not in remarks]
    blocks = [(block, list(lines)) for block, lines in itertools.groupby(sheet.lines, key=lambda line: line[:method])]
    for count, (block, lines) in enumerate(blocks):
        console.print(Text(("\n" if count else "") + ": ".join(plain(entry) for entry in block)))
        console.print(Padding(_table(sheet, lines, inner, 2), (0, 0, 0, 2), expand=False))
        for line in lines:
            for place in remarks:
                if plain(line[place]):
                    head = sheet.columns[place].head
                    said = f"{plain(line[method])}: " + (f"{head.lower()} " if head != "Notes" else "")
                    console.print(Text(f"  {said}{plain(line[place])}"))


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def _table(sheet: Sheet, lines: Sequence[Line], kept: Sequence[int], stacked: int) -> Table:
    """`stacked` 1 puts intervals and the words of heads on lines of their own, 2 the students of pairs as well."""
    padding = (0, 0 if stacked else 1, 0, 0)  # beside the blank that stands between columns
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=False)
    widths = [WRAPPED if column.numeric else REMARK for column in sheet.columns]
    for place in kept:
        column = sheet.columns[place]
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        head = column.head.replace(" ", "\n") if stacked and column.numeric and sheet.kind != "matrix" else column.head
        # As wide as over all lines, of which these may be a part, so that the parts stand below each other.
        texts = [_text(line[place], stacked, widths[place]) for line in sheet.lines]
        least = max((len(part) for text in texts for part in text.split("\n")), default=0)
        # Where nothing fits, names are folded and numbers are not.
        fixed = least if column.numeric else None
        table.add_column(Text(head), justify=justify, no_wrap=column.numeric, overflow="fold", min_width=fixed)
    for _, group in itertools.groupby(lines, key=lambda line: _about(line) if stacked else line):
        own = [[_text(line[place], stacked, widths[place]) for place in kept] for line in group]
        if stacked:
            _name_once(own, [sheet.columns[place].head for place in kept])
            if table.row_count:
                table.add_section()
        for texts in own:
            table.add_row(*map(Text, texts))
    return table


def _about(line: Line) -> Line:
    """The task and the pair of models of a line; nothing for tables that are not about pairs."""
    pair = next((place for place, entry in enumerate(line) if isinstance(entry, Models)), -1)
    return line[: pair + 1]


def _name_once(own: list[list[str]], heads: Sequence[str]) -> None:
    """Lines about the same task and pair: these are named on the first, the student on the second if there is room."""
    for place, head in enumerate(heads):
        if head not in ("Task", PAIR):
            continue
        weak, _, student = own[0][place].partition("\n")
        for texts in own[1:]:
            texts[place] = ""
        if student and len(own) > 1 and not any("\n" in text for n, text in enumerate(own[0]) if n != place):
            own[0][place], own[1][place] = weak, student


def _text(entry: Entry, stacked: int, width: int) -> str:
    if isinstance(entry, Models):
        return plain(entry) if stacked < 2 else f"{entry.weak} ->\n  {entry.student}"
    if not stacked:
        return plain(entry)
    if entry.number != entry.number:
        return "\n".join(textwrap.wrap(entry.text, width, break_long_words=False, break_on_hyphens=False))
    return f"{entry.text}\n{entry.interval}" if entry.interval else entry.text
