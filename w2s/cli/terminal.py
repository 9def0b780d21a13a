"""Rows and numbers in, text for a person at a terminal out; never colours, so that it reads the same in a file."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO


def width() -> int | None:
    """Columns of the terminal that standard output goes to; None where it goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(lines: Iterable[str], to: TextIO | None = None) -> None:
    """Print the lines, to standard output unless another stream is given."""
    for line in lines:
        print(line, file=to)


def wrapped(line: str, indent: str, room: int | None) -> list[str]:
    """The line in at most `room` columns, its further lines indented; as it is where `room` is None."""
    return [line] if room is None else textwrap.wrap(line, max(room, 40), subsequent_indent=indent)


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = (), room: int | None = None
) -> list[str]:
    """Lines of aligned columns, cut after `room` columns; those named in `right` are aligned to the right.

    None is shown as '-'.
    """
    cells = [[str(h) for h in head], *[["-" if c is None else str(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for row in cells:
        padded = [
            text.rjust(width) if name in right else text.ljust(width)
            for text, width, name in zip(row, widths, head, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines if room is None else [line if len(line) <= room else f"{line[: room - 3]}..." for line in lines]


def seconds(value: float | None) -> str:
    """`8 s`, `12 min`, `3.5 h`, `2.1 days`; '-' where it is not known."""
    if value is None:
        return "-"
    for limit, unit, size in ((90.0, "s", 1.0), (5400.0, "min", 60.0), (172800.0, "h", 3600.0)):
        if value < limit:
            return f"{value / size:.1f} {unit}" if value / size < 10 else f"{value / size:.0f} {unit}"
    return f"{value / 86400:.1f} days"


def count(value: float | None) -> str:
    """`950`, `12.3 K`, `4.0 M`, `1.1e+18`; '-' where it is not known."""
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.0f}"
    for limit, unit, size in ((1e6, "K", 1e3), (1e9, "M", 1e6), (1e12, "B", 1e9)):
        if value < limit:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1e}"


def size(bytes_: float) -> str:
    """`512 B`, `1.5 MiB`, `20.0 GiB`."""
    if bytes_ < 1024:
        return f"{bytes_:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        bytes_ /= 1024
        if bytes_ < 1024:
            return f"{bytes_:.1f} {unit}"
    return f"{bytes_ / 1024:.1f} TiB"
