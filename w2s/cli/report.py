"""The tables and figures of a sweep, written and printed."""

from __future__ import annotations

import sys
from pathlib import Path

FILE_WIDTH = 160  # columns of the tables where standard output is no terminal


def report(name: str, results: Path) -> int:
    """Write the tables and figures of a sweep, print them, say last where they are; 1 where an artifact is damaged."""
    from rich.console import Console

    from w2s.analyze.render import render

    rendered = render(name, results)
    rendered.show(Console(width=None if sys.stdout.isatty() else FILE_WIDTH))
    folder = results / "sweeps" / name
    files = sorted(str(path.relative_to(folder)) for path in rendered.paths)
    print(f"written to {folder}: {', '.join(files)}")
    return 1 if rendered.problems else 0
