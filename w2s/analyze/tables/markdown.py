"""A document in, GitHub's Markdown out; every text is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from w2s.analyze.tables.document import Document, Sheet, plain
from w2s.analyze.tables.sheet import notes_below

_SPECIAL = re.compile(r"[\\`*\[\]<>|~$#&]|(?<![^\W_])_|_(?![^\W_])")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word needs no escape."""
    return _SPECIAL.sub(lambda found: "\\" + found.group(), text)


def markdown(document: Document) -> str:
    """The document as GitHub-flavoured Markdown. What holds for every table stands below the first that has cells."""
    parts = [f"**Question.** {escape_markdown(document.question)}"] if document.question else []
    for sheet, notes in zip(document.sheets, notes_below(document.sheets), strict=True):
        parts += [f"**{escape_markdown(sheet.about)}**", _table(sheet)]
        if notes:
            parts.append(escape_markdown(" ".join(notes)))
        if sheet.kind == "cells":
            parts.append("\n".join(f"- {escape_markdown(sentence)}" for sentence in document.sentences))
    for head, lines in (("Not finished", document.unfinished), ("Problems", document.problems)):
        if lines:
            parts += [f"**{head}**", "\n".join(f"- {escape_markdown(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _table(sheet: Sheet) -> str:
    grid = [[escape_markdown(column.head).replace("-\\>", "→") for column in sheet.columns]]
    grid += [[plain(entry, "→", escape_markdown) for entry in line] for line in sheet.lines]
    width = [max(3, *(len(line[place]) for line in grid)) for place in range(len(sheet.columns))]

    def line_of(texts: Sequence[str]) -> str:
        columns = zip(texts, width, sheet.columns, strict=True)
        return "| " + " | ".join(t.rjust(w) if c.numeric else t.ljust(w) for t, w, c in columns) + " |"

    rule = ["-" * (w - 1) + (":" if c.numeric else "-") for w, c in zip(width, sheet.columns, strict=True)]
    return "\n".join([line_of(grid[0]), "| " + " | ".join(rule) + " |", *(line_of(line) for line in grid[1:])])
