"""A sweep's name in, its tables and figures on disk out; a partial sweep renders with what there is.

    results/sweeps/<name>/table.csv      one line per cell, with intervals
    results/sweeps/<name>/rows.csv       one line per cell and seed
    results/sweeps/<name>/table.md, table.tex
    results/sweeps/<name>/figures/*.png, *.svg

Each file is replaced whole, by a rename; figures that are no longer made are removed.
"""

from __future__ import annotations

import hashlib
import io
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2s.analyze import document, rows, tables
from w2s.analyze.cells import Cell, aggregate
from w2s.analyze.document import Document
from w2s.analyze.rows import Rows
from w2s.disk import disk_errors
from w2s.errors import MachineError

if TYPE_CHECKING:
    from rich.console import Console

FIGURE_FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Rendered:
    """What was written. `problems` names damaged artifacts, which were left out; `unfinished` what is not there yet."""

    paths: list[Path]
    rows: Rows
    cells: list[Cell]
    document: Document
    problems: list[str]
    unfinished: list[str]

    def show(self, console: Console) -> None:
        """Print the tables, the sentence under them and what is missing."""
        from w2s.analyze import terminal

        terminal.show(self.document, console)


def render(name: str | Path, root: Path = Path("results"), baseline: str | None = None) -> Rendered:
    """Write a planned sweep's tables and figures.

    Raises SpecError for an unknown sweep or baseline, StepError for a damaged plan.json, MachineError where nothing can
    be written.
    """
    found = rows.load(name, Path(root))
    cells = aggregate(found, baseline)
    composed = document.compose(found, cells)
    texts = {
        "table.csv": tables.cells_csv(cells),
        "rows.csv": tables.rows_csv(found),
        "table.md": tables.markdown(composed),
        "table.tex": tables.latex(composed),
    }
    with disk_errors(found.folder):
        paths = [_replace(found.folder / file, text.encode()) for file, text in texts.items()]
        paths += _figures(found.folder / "figures", cells)
    return Rendered(paths, found, cells, composed, composed.problems, composed.unfinished)


def _figures(folder: Path, cells: list[Cell]) -> list[Path]:
    from w2s.analyze import plots

    if folder.exists() and not folder.is_dir():
        raise MachineError(f"{folder}: a file stands where a folder is needed; move it away")
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    with plots.style():
        for name, figure in plots.figures(cells).items():
            for ending in FIGURE_FORMATS:
                image = io.BytesIO()
                plots.save(figure, image, ending)
                written.append(_replace(folder / f"{file_name(name)}.{ending}", image.getvalue()))
    for stale in folder.iterdir():
        if stale not in written and stale.is_file():
            stale.unlink(missing_ok=True)
    return written


def file_name(name: str) -> str:
    """`name` as a file name that is safe everywhere; different names stay different."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _replace(path: Path, content: bytes) -> Path:
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
