"""Names of sweeps in, their tables, figures and report on disk out; a partial sweep renders with what there is.

    results/sweeps/<name>/table.csv, table.parquet  one line per cell, with intervals
    results/sweeps/<name>/medians.csv         over tasks, where there are several
    results/sweeps/<name>/confidence.csv      test examples by the weak model's confidence: who is right how often
    results/sweeps/<name>/labels.csv          labels by confidence: how many, how often right
    results/sweeps/<name>/scaling.csv         laws of scale, for parameters and FLOPs
    results/sweeps/<name>/rows.csv, rows.parquet    one line per cell and seed
    results/sweeps/<name>/table.md, table.tex
    results/sweeps/<name>/figures/*.png, *.svg
    results/sweeps/<name>/report.html

Several sweeps go together into results/sweeps/<A>+<B>/. Each file is replaced whole, by a rename; what is no longer
made is removed. Tables are written first: a figure or a report that cannot be made is a problem that is named, and
costs nothing else. Refuses, before anything is read, names, a baseline, a metric or a size axis that do not fit.
"""

from __future__ import annotations

import contextlib
import errno
import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.cells import METRICS, Cell, misnamed
from w2s.analyze.reading import merge
from w2s.analyze.reading.merge import Merged, file_name
from w2s.analyze.reading.rows import Rows
from w2s.analyze.tables import document, exports, latex, markdown
from w2s.analyze.tables.document import Document
from w2s.disk import disk_errors, read_json
from w2s.errors import MachineError, SpecError, W2SError
from w2s.identity import nearest
from w2s.progress import Report, silent

if TYPE_CHECKING:
    from rich.console import Console

    from w2s.analyze.report import Picture

FIGURE_FORMATS = ("png", "svg")
SIZES = ("params", "flops")
STAGES = ("reading", "intervals", "tables", "figures", "report")  # what is told of progress begins with one of these


@dataclass(frozen=True)
class Rendered:
    """What was written into `folder`. `problems` names what is damaged and was left out, and what could not be made;
    `unfinished` what is not there yet."""

    folder: Path
    paths: list[Path]
    rows: Rows
    cells: list[Cell]
    document: Document
    problems: list[str]
    unfinished: list[str]

    def show(self, console: Console) -> None:
        """Print the tables, the sentences under them, what is missing and what is wrong."""
        from w2s.analyze.tables import terminal

        terminal.show(replace(self.document, problems=self.problems), console)


def render(
    names: str | Path | Sequence[str | Path],
    root: Path = Path("results"),
    baseline: str | None = None,
    metric: str = "accuracy",
    size: str = "params",
    progress: Report = silent,
) -> Rendered:
    """Write the tables, figures and report of a planned sweep, or of several together.

    `metric` is accuracy or auroc, `size` params or flops (the axis of figures). Raises SpecError for what `require`
    refuses, StepError for a damaged plan.json, MachineError where nothing can be written.
    """
    wanted = [names] if isinstance(names, (str, Path)) else list(names)
    require(wanted, root, baseline, metric, size)
    found = merge.load(wanted, root, progress)
    cells = aggregate(found, baseline, lambda done, total: progress("intervals", done, total))
    progress("tables", 0, 0)
    composed = composed_of(found, cells, metric)
    problems: list[str] = []
    drawn: dict[str, Picture] = {}
    with disk_errors(found.folder), _writable(found.folder):
        found.folder.mkdir(parents=True, exist_ok=True)
        paths = _tables(found, cells, composed, metric)
        with _made(problems, "figures"):
            for written, name, picture in _figures(found, cells, metric, size, progress):
                paths += written
                drawn[name] = picture
        _remove_stale(found.folder / "figures", paths)
        with _made(problems, "report.html"):
            paths.append(_report(found, cells, composed, drawn, metric, progress))
        if found.folder / "report.html" not in paths:
            (found.folder / "report.html").unlink(missing_ok=True)
    return Rendered(found.folder, paths, found, cells, composed, [*composed.problems, *problems], composed.unfinished)


def composed_of(rows: Rows, cells: Sequence[Cell], metric: str = "accuracy") -> Document:
    """The document of these cells, with what a merge kept apart among its sentences."""
    composed = document.compose(rows, cells, metric)
    notes = [document.one_line(note) for note in rows.notes] if isinstance(rows, Merged) else []
    return replace(composed, sentences=[*composed.sentences, *notes])


def require(
    names: Sequence[str | Path],
    root: Path,
    baseline: str | None = None,
    metric: str = "accuracy",
    size: str = "params",
) -> list[Path]:
    """The folders of the sweeps. Raises SpecError with every problem of a request; reads plans, and no artifact."""
    folders, problems = merge.looked_up(names, root)
    cells = [cell for folder in folders for cell in _planned(folder)]
    for flag, given, known in (("metric", metric, METRICS), ("size", size, SIZES)):
        problems += [problem] if (problem := misnamed(flag, given, known)) else []
    classes = {str(cell.get("task")): cell.get("n_classes") for cell in cells}
    if metric == "auroc" and classes and all(isinstance(n, int) and n != 2 for n in classes.values()):
        several = ", ".join(f"{task} ({n or 'generated text'})" for task, n in classes.items())
        problems.append(
            f"metric: auroc needs two classes, and no task has two: {document.one_line(several)}; take accuracy"
        )
    methods = {str(cell.get("method")) for cell in cells}
    # What a merge calls `xent [SWEEP]` is known when it has been read, and `aggregate` refuses what is not there.
    bare = baseline if baseline is None or len(folders) < 2 else baseline.partition(" [")[0]
    if bare is not None and methods and bare not in methods:
        problems.append(f"baseline: the sweep has no method {baseline!r}{nearest(bare, methods)}")
    if problems:
        raise SpecError(problems)
    return folders


def _planned(folder: Path) -> list[dict[str, Any]]:
    """The cells of a plan; none where it is damaged, which reading the sweep tells."""
    cells = (read_json(folder / "plan.json") or {}).get("cells")
    return [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """What is read and what is written are one results folder, so another `--results` alone would help nobody."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise MachineError(
            f"{folder}: may not be written to; copy the results folder to where you may, and give that with --results"
        ) from None


@contextlib.contextmanager
def _made(problems: list[str], what: str) -> Iterator[None]:
    """Inside, something is made that may fail without taking the tables along; a full disk still stops everything."""
    try:
        yield
    except OSError:
        raise
    except W2SError as error:
        problems.append(f"{what}: {error}")
    except Exception as error:  # a fault of ours or of a library, named instead of hidden
        problems.append(f"{what}: could not be made: {type(error).__name__}: {document.one_line(str(error))}")


def _tables(rows: Rows, cells: list[Cell], composed: Document, metric: str) -> list[Path]:
    contents = {
        "table.csv": exports.cells_csv(cells).encode(),
        "table.parquet": exports.cells_parquet(cells),
        "confidence.csv": exports.confidence_csv(cells).encode(),
        "labels.csv": exports.labels_csv(rows, cells).encode(),
        "scaling.csv": exports.scaling_csv(rows, cells, metric).encode(),
        "rows.csv": exports.rows_csv(rows).encode(),
        "rows.parquet": exports.rows_parquet(rows),
        "table.md": markdown.markdown(composed).encode(),
        "table.tex": latex.latex(composed).encode(),
    }
    if len({cell.task for cell in cells}) > 1:
        contents["medians.csv"] = exports.medians_csv(cells).encode()
    else:
        (rows.folder / "medians.csv").unlink(missing_ok=True)
    return [_replace(rows.folder / name, content) for name, content in contents.items()]


def _figures(
    rows: Rows, cells: list[Cell], metric: str, size: str, progress: Report
) -> Iterator[tuple[list[Path], str, Picture]]:
    """Draw, write and drop one figure after the other; the SVG of each goes along for the report."""
    from w2s.analyze import figures
    from w2s.analyze.report import Picture

    folder = rows.folder / "figures"
    if folder.exists() and not folder.is_dir():
        raise MachineError(f"{folder}: a file stands where a folder is needed; move it away")
    folder.mkdir(exist_ok=True)
    progress("figures", 0, 0)
    with figures.style():
        for place, drawn in enumerate(figures.figures(rows, cells, metric, size)):
            progress(f"figures: {drawn.name}", place, 0)
            images = {}
            for ending in FIGURE_FORMATS:
                image = io.BytesIO()
                figures.save(drawn.figure, image, ending)
                images[ending] = image.getvalue()
            paths = [_replace(folder / f"{file_name(drawn.name)}.{ending}", image) for ending, image in images.items()]
            yield paths, drawn.name, Picture(images["svg"], drawn.title, drawn.alt)


def _report(
    rows: Rows, cells: list[Cell], composed: Document, drawn: Mapping[str, Picture], metric: str, progress: Report
) -> Path:
    from w2s.analyze.report import page

    def told(what: str, done: int, total: int) -> None:
        progress(f"report: {what}", done, total)

    progress("report", 0, 0)
    text = page(rows, cells, composed, drawn, metric=metric, progress=told)
    return _replace(rows.folder / "report.html", text.encode())


def _remove_stale(folder: Path, kept: Sequence[Path]) -> None:
    for stale in folder.iterdir() if folder.is_dir() else ():
        if stale not in kept and stale.is_file():
            stale.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> Path:
    if path.is_dir():
        raise MachineError(f"{path}: a folder stands where a file is needed; move it away")
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
