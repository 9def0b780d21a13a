"""A document in, LaTeX tables out, which fit a page: intervals and long names go below, long tables over pages.

Every text is escaped. An entry takes one line of a table or more; the lines of one entry stay on one page.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace

from w2s.analyze.tables.document import Document, Entry, Line, Models, Sheet, Value, constant
from w2s.analyze.tables.sheet import ABSENT

PREAMBLE = r"""% Needs, in the preamble: \usepackage[T1]{fontenc}
% \usepackage{booktabs,graphicx,longtable}"""
LONG = 34  # rows of a table that still fits a page below its caption
REMARK = 18  # characters
HEAD = 15
ARROW = r"$\rightarrow$"
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # only what is too wide
PAGE_PT = 345  # the width of text in the class article, the narrowest in use
BETWEEN_PT = 6  # columns of a table over pages
# Fonts of numbers and intervals in a table over pages, the largest first, with the width of a digit in pt.
SIZES = (("small", 4.7, "scriptsize", 4.1), ("footnotesize", 4.4, "tiny", 3.5), ("scriptsize", 4.1, "tiny", 3.5))
PUNCTUATION = "\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2020\u2021\u2022\u2026\u2030\u2039\u203a\u20ac\u2122"
UNKNOWN_LATIN = "\u0126\u0127\u0138\u013f\u0140\u0149\u0166\u0167\u017f"
ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after the end of a row, LaTeX would take it for an option
    "]": "{]}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(ESCAPES.get(c, c) for c in text).replace("--", "-{}-").replace("--", "-{}-")


def prose(text: str) -> str:
    """A sentence: quotes are typographic, a dash between blanks is a minus."""
    return escape(text).replace(r"\textquotesingle{}", "'").replace(" - ", " $-$ ")


def latex(document: Document) -> str:
    """The document as LaTeX tables, without the matrices of single tasks, which would be too many for a paper. What is
    not finished, and problems, stand in comments."""
    lines = [PREAMBLE]
    for sheet in document.sheets:
        if sheet.aside:
            continue
        # What holds for every table stands below the one that has every cell.
        said = [*sheet.notes, *(document.sentences if sheet.kind == "cells" else [])]
        caption = prose(f"{sheet.about}. {' '.join(said)}".rstrip())
        lines += ["", *_table(sheet, caption)]
    if strange := _beyond_latin("".join(lines)):
        lines.insert(1, f"% and LuaLaTeX or XeLaTeX, with a font that has {strange}, at which pdfLaTeX stops")
    for head, remarks in (("not finished", document.unfinished), ("problem", document.problems)):
        lines += [f"% {head}: {remark}" for remark in remarks]
    return "\n".join(lines) + "\n"


def _beyond_latin(text: str) -> str:
    """The characters that pdfLaTeX does not know with T1: neither Latin letters nor their usual punctuation."""
    return " ".join(sorted({c for c in text if (c > "\u017f" and c not in PUNCTUATION) or c in UNKNOWN_LATIN}))


def _table(sheet: Sheet, caption: str) -> Iterable[str]:
    """On one page, over several, or, where that is too wide, in several tables that are shrunk to the page."""
    kept = _kept(sheet)
    if _rows_of(sheet, kept) <= LONG:
        yield from _on_a_page(sheet, kept, caption)
        return
    for body, digit_pt, small, small_digit_pt in SIZES:
        if _width_pt(sheet, kept, digit_pt, small_digit_pt) <= PAGE_PT:
            yield from _over_pages(sheet, kept, caption, body, small)
            return
    parts = [replace(sheet, lines=list(lines)) for lines in _parts(sheet, kept)]
    for place, part in enumerate(parts):
        said = caption if place == 0 else prose(f"{sheet.about}, part {place + 1} of {len(parts)}.")
        yield from _on_a_page(part, kept, said)
        yield r"\clearpage"


def _rows_of(sheet: Sheet, kept: Sequence[int]) -> int:
    tall = _tall(sheet)
    return sum(max(len(_stack(line[place], tall)) for place in kept) for line in sheet.lines)


def _tall(sheet: Sheet) -> bool:
    """Intervals have a row of their own, and then students may have it, too."""
    return any(isinstance(entry, Value) and entry.interval != "" for line in sheet.lines for entry in line)


def _parts(sheet: Sheet, kept: Sequence[int]) -> Iterable[list[Line]]:
    part: list[Line] = []
    for line in sheet.lines:
        if part and _rows_of(replace(sheet, lines=[*part, line]), kept) > LONG:
            yield part
            part = []
        part.append(line)
    yield part


def _on_a_page(sheet: Sheet, kept: Sequence[int], caption: str) -> Iterable[str]:
    yield from (r"\begin{table}[tp]", r"\centering", r"\small", rf"\caption{{{caption}}}", SHRUNK)
    yield rf"\begin{{tabular}}{{{_format(sheet, kept)}}}"
    yield r"\toprule"
    yield from _upright(sheet) if _is_wide_matrix(sheet, kept) else _head(sheet, kept)
    yield r"\midrule"
    yield from _body(sheet, kept, "scriptsize")
    yield from (r"\bottomrule", r"\end{tabular}}", r"\end{table}")


def _over_pages(sheet: Sheet, kept: Sequence[int], caption: str, body: str, small: str) -> Iterable[str]:
    yield rf"{{\{body}\setlength{{\tabcolsep}}{{{BETWEEN_PT / 2:g}pt}}\setlength{{\LTcapwidth}}{{\linewidth}}"
    yield rf"\begin{{longtable}}{{{_format(sheet, kept)}}}"
    yield rf"\caption{{{caption}}} \\"
    yield r"\toprule"
    yield from _head(sheet, kept)
    yield from (r"\midrule", r"\endfirsthead", r"\toprule")
    yield from _head(sheet, kept)
    yield from (r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot")
    yield from _body(sheet, kept, small)
    yield from (r"\end{longtable}", "}")


def _kept(sheet: Sheet) -> list[int]:
    """The columns that are shown: what the caption says of all lines needs no column."""
    return [place for place, column in enumerate(sheet.columns) if not (column.spare and constant(sheet, place))]


def _format(sheet: Sheet, kept: Sequence[int]) -> str:
    return "".join("r" if sheet.columns[place].numeric else "l" for place in kept)


def _head(sheet: Sheet, kept: Sequence[int]) -> Iterable[str]:
    """Heads, in as many lines as the longest needs."""
    stacks = []
    for place in kept:
        column = sheet.columns[place]
        texts = textwrap.wrap(column.head, HEAD, break_long_words=False, break_on_hyphens=False) or [""]
        stacks.append([_arrows(text) for text in texts])
    return _rows(stacks, "\\\\")


def _is_wide_matrix(sheet: Sheet, kept: Sequence[int]) -> bool:
    """Names of many students side by side would have the numbers below them shrunk beyond reading."""
    _, digit_pt, _, small_digit_pt = SIZES[0]
    return sheet.kind == "matrix" and _width_pt(sheet, kept, digit_pt, small_digit_pt) > PAGE_PT


def _upright(sheet: Sheet) -> Iterable[str]:
    """The heads of a matrix, those of students from bottom to top."""
    first, *students = (escape(column.head) for column in sheet.columns)
    yield " & ".join([first, *(rf"\rotatebox{{90}}{{{name}}}" for name in students)]) + r" \\"


def _body(sheet: Sheet, kept: Sequence[int], small: str) -> Iterable[str]:
    tall = _tall(sheet)
    for line in sheet.lines:
        yield from _rows([_stack(line[place], tall, small) for place in kept], r"\\[2pt]" if tall else "\\\\")


def _rows(stacks: Sequence[Sequence[str]], end: str) -> Iterable[str]:
    """Entries of several lines as so many rows, between which no page ends."""
    rows = [" & ".join(texts) for texts in itertools.zip_longest(*stacks, fillvalue="")]
    for row in rows[:-1]:
        yield row + r" \\*"
    yield f"{rows[-1]} {end}"


def _stack(entry: Entry, tall: bool, small: str = "scriptsize") -> list[str]:
    if isinstance(entry, Models):
        names = [escape(entry.weak), f"{ARROW} {escape(entry.student)}"]
        return names if tall else [" ".join(names)]
    if entry.interval:
        return [_number(entry.text), rf"{{\{small} {_number(entry.interval)}}}"]
    if entry.number == entry.number:
        return [_number(entry.text)]
    if entry.text == ABSENT:
        return ["--"]
    return [escape(text) for text in _wrapped(entry.text)]


def _number(text: str) -> str:
    for plain, typeset in (("inf", r"$\infty$"), ("-", "$-$"), ("+", "$+$"), ("<", "$<$")):
        text = text.replace(plain, typeset)
    return text if not text.startswith("[") else f"{{[}}{text[1:-1]}{{]}}"


def _arrows(text: str) -> str:
    return escape(text.replace("->", "\0")).replace("\0", ARROW)


def _width_pt(sheet: Sheet, kept: Sequence[int], digit_pt: float, small_digit_pt: float) -> float:
    """About the width of the table."""

    tall = _tall(sheet)

    def texts(place: int) -> Iterable[float]:
        for text in textwrap.wrap(sheet.columns[place].head, HEAD, break_long_words=False):
            yield digit_pt * _digits(text)
        for line in sheet.lines:
            entry = line[place]
            if isinstance(entry, Models):
                weak, student = _digits(entry.weak), _digits(entry.student) + 3
                yield digit_pt * (max(weak, student) if tall else weak + student)
                continue
            wrapped = [entry.text] if entry.number == entry.number else _wrapped(entry.text)
            yield digit_pt * max(_digits(text) for text in wrapped)
            yield small_digit_pt * _digits(entry.interval)

    return sum(max(texts(place)) + BETWEEN_PT for place in kept)


def _digits(text: str) -> float:
    """How wide a text is, in digits; a minus may be one of mathematics."""
    return sum(
        0.6 if c in " .,:;|'()[]ijlft" else 1.7 if c in "mwMW@%+-<" else 1.4 if c.isupper() else 1.0 for c in text
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, REMARK, break_long_words=False, break_on_hyphens=False) or [""]
