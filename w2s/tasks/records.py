"""A task's files or hub data set in, records with row numbers out; refuses what it cannot parse, with the line.

Row numbers are those an editor shows for JSON lines and CSV, and count from 1 elsewhere.
"""

from __future__ import annotations

import atexit
import csv
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2s.errors import MachineError, SpecError
from w2s.progress import Report
from w2s.sources.fetch import Fetched, fetch, is_fetched
from w2s.sources.spec import HubSource, PluginSource
from w2s.tasks import own
from w2s.tasks.task import Join, Read, TaskSpec

Rows = Iterable[tuple[int, Mapping[str, Any]]]
EXTENSIONS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"
}  # fmt: skip
BATCH = 2000


@dataclass(frozen=True)
class Opened:
    """The records of a task: those for test apart, or None where test comes from the pool."""

    pool: Rows
    test: Rows | None
    pool_title: str  # for messages
    test_title: str
    fetched: list[dict[str, Any]]  # {source, commit} for the manifest


def fetch_task(task: TaskSpec, *, offline: bool = False, report: Report | None = None) -> Fetched:
    """Download what the task needs, if it is not here yet; what there is of its source. Raises MachineError."""
    first, *_ = [fetch(source, offline=offline, report=report, kind="dataset") for source in task.sources]
    return first


def is_here(task: TaskSpec) -> bool:
    """True where `fetch_task` needs no network."""
    return all(is_fetched(source, kind="dataset") for source in task.sources)


def open_records(task: TaskSpec, report: Report | None = None) -> Opened:
    """The task's records. Raises SpecError where a file is not what the spec says, MachineError where it is not had."""
    opened = _opened(task, report)
    if task.join is None:
        return opened
    fields = _fields_by_key(task.join)
    return Opened(
        _joined(opened.pool, fields, task.join.key, opened.pool_title),
        None if opened.test is None else _joined(opened.test, fields, task.join.key, opened.test_title),
        opened.pool_title,
        opened.test_title,
        [*opened.fetched, {"source": task.join.source.model_dump(mode="json"), "commit": None}],
    )


def _opened(task: TaskSpec, report: Report | None) -> Opened:
    """The records as the source has them."""
    if isinstance(task.source, PluginSource):
        if task.test_file is not None or task.splits.test is not None:
            raise SpecError(f"{task.name}: a plugin makes its records, and test comes from these; leave test_file out")
        title = f"{task.source.file}: {task.source.described}"
        return Opened(own.made(task.source, task.sample), None, title, title, [])
    got = fetch_task(task, report=report)
    fetched = [{"source": task.source.model_dump(mode="json"), "commit": got.commit}]
    if isinstance(task.source, HubSource):
        title = f"{task.source.hub}{'/' + task.source.config if task.source.config else ''}"
        pool = _hub(got.path, task.source, task.splits.pool, task.sample)
        test = _hub(got.path, task.source, task.splits.test, task.sample) if task.splits.test else None
        return Opened(pool, test, f"{title} {task.splits.pool}", f"{title} {task.splits.test}", fetched)
    if task.splits.test is not None:
        raise SpecError(f"{task.name}: splits are for hub data sets; give a test_file for a separate test set")
    test_rows, test_title = None, ""
    if task.test_file is not None:
        test_path = fetch(task.test_file).path
        fetched.append({"source": task.test_file.model_dump(mode="json"), "commit": None})
        test_rows, test_title = read(test_path, task.read), str(test_path)
    rows = _sampled(read(got.path, task.read), task.sample)
    return Opened(rows, test_rows, str(got.path) if test_rows else _title(task, got.path), test_title, fetched)


def _title(task: TaskSpec, path: Path) -> str:
    return (
        str(path)
        if hasattr(task.source, "file") and not hasattr(task.source, "package")
        else f"{task.name}: {path.name}"
    )


def _sampled(rows: Rows, sample: int | None) -> Rows:
    """At most `sample` rows, spread evenly."""
    if sample is None:
        return rows
    listed = list(rows)
    return [listed[i * len(listed) // sample] for i in range(sample)] if len(listed) > sample else listed


def _fields_by_key(join: Join) -> dict[str, Mapping[str, Any]]:
    """The records of the second file by their key."""
    path = fetch(join.source).path
    found: dict[str, Mapping[str, Any]] = {}
    for row, record in read(path, join.read):
        if join.key not in record:
            raise SpecError(f"{path}: row {row}: no column {join.key!r}, which `join.key` names")
        if found.setdefault(str(record[join.key]), record) is not record:
            raise SpecError(f"{path}: row {row}: the {join.key} {record[join.key]!r} is there twice")
    return found


def _joined(rows: Rows, fields: Mapping[str, Mapping[str, Any]], key: str, title: str) -> Rows:
    """Each record with the fields of its partner that it has not itself."""
    for row, record in rows:
        if key not in record:
            raise SpecError(f"{title}: row {row}: no column {key!r}, which `join.key` names")
        partner = fields.get(str(record[key]))
        if partner is None:
            raise SpecError(f"{title}: row {row}: the joined file has no {key} {record[key]!r}")
        yield row, {**partner, **record}


# -- files -------------------------------------------------------------------------------------------------------


def read(path: Path, how: Read) -> Rows:
    """The records of one file, read as they are asked for. Raises SpecError."""
    if path.is_dir() and how.format is not None:
        return _of_folder(path, how)
    if path.is_dir():
        raise SpecError(f"{path}: is a folder; name the file in it, or give read: {{format: ...}} to read all of them")
    kind = how.format or EXTENSIONS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(EXTENSIONS)
        raise SpecError(
            f"{path}: the extension {path.suffix!r} says no format (known: {known}); give read: {{format: ...}}"
        )
    if how.columns is not None and kind not in ("csv", "tsv"):
        raise SpecError(f"{path}: read.columns names the columns of a csv or tsv file, and this one is {kind}")
    reader = {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _csv, "parquet": _parquet}[kind]
    return _guarded(reader(path, how, kind), path, how)


def _of_folder(folder: Path, how: Read) -> Rows:
    """The records of all files of one format in a folder, by name, numbered on from file to file."""
    paths = sorted(path for path in folder.iterdir() if EXTENSIONS.get(path.suffix.lower()) == how.format)
    if not paths:
        raise SpecError(f"{folder}: holds no {how.format} file; see read.format")
    return enumerate((record for path in paths for _, record in read(path, how)), 1)


def _guarded(rows: Rows, path: Path, how: Read) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path}: not {how.encoding} text (byte 0x{error.object[error.start]:02x}); "
            "save it as UTF-8, or give read: {encoding: latin-1} or whatever it is"
        ) from None
    except LookupError as error:
        raise SpecError(f"{path}: read.encoding: {error}") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None


def _jsonl(path: Path, how: Read, _: str) -> Rows:
    with path.open(encoding=how.encoding, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip().lstrip("\ufeff"):
                yield (
                    number,
                    _mapping(_parsed(line.lstrip("\ufeff"), f"{path}: line {number}"), f"{path}: line {number}"),
                )


def _json(path: Path, how: Read, _: str) -> Rows:
    data = _parsed(path.read_text(encoding=how.encoding).lstrip("\ufeff"), str(path))
    if isinstance(data, dict):  # {"data": [...]}: one list among whatever else is noted
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else data
    if not isinstance(data, list):
        raise SpecError(f"{path}: expected a list of records, or an object with one such list in it")
    for number, record in enumerate(data, 1):
        yield number, _mapping(record, f"{path}: record {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SpecError(f"{where}: not JSON: {error}; is the format right?") from None


def _mapping(record: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise SpecError(f"{where}: expected an object with named fields (got {type(record).__name__})")
    return record


def _csv(path: Path, how: Read, kind: str) -> Rows:
    encoding = "utf-8-sig" if how.encoding.lower().replace("_", "-") == "utf-8" else how.encoding
    csv.field_size_limit(2**31 - 1)  # a long document is no error
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(
            file,
            delimiter="\t" if kind == "tsv" else ",",
            quoting=csv.QUOTE_MINIMAL if how.quotes else csv.QUOTE_NONE,
            strict=True,
        )
        columns = list(how.columns) if how.columns else None
        try:
            for cells in reader:
                if not cells:
                    continue
                if columns is None:
                    columns = cells
                    if len(set(cells)) != len(cells):
                        raise SpecError(f"{path}: a column is named twice in the header {cells}")
                    continue
                if len(cells) != len(columns):
                    raise SpecError(
                        f"{path}: line {reader.line_num}: {len(cells)} cells, and the columns are {len(columns)} "
                        f"({', '.join(columns)[:200]}); {'' if how.columns else 'is the first line a header? '}"
                        "if quotation marks in it are plain letters, give read: {quotes: false}"
                    )
                yield reader.line_num, dict(zip(columns, cells, strict=True))
        except csv.Error as error:
            raise SpecError(f"{path}: line {reader.line_num}: not {kind}: {error}; is the format right?") from None


def _parquet(path: Path, _: Read, __: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(BATCH):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except pyarrow.ArrowException as error:
        raise SpecError(f"{path}: not a Parquet file: {error}") from None


# -- hub ---------------------------------------------------------------------------------------------------------


def _hub(folder: Path, source: HubSource, split: str, sample: int | None) -> Rows:
    """The rows of one split of a fetched data set."""
    from w2s.sources.hub import CONVERTED

    if source.revision.startswith(CONVERTED):
        return _converted(folder, source, split, sample)
    return _loaded(folder, source, split, sample)


def _converted(folder: Path, source: HubSource, split: str, sample: int | None) -> Rows:
    """Parquet files that the hub made of a data set: <config>/<split>/0000.parquet."""
    configs = sorted({p.relative_to(folder).parts[0] for p in folder.glob("*/*/*.parquet")})
    config = source.config or (configs[0] if len(configs) == 1 else None)
    if config is None or config not in configs:
        raise SpecError(
            f"hub data set {source.hub}: give config, one of {', '.join(configs) or '(none there)'} (got {config!r})"
        )
    files = sorted((folder / config).glob(f"{split}/*.parquet")) or sorted((folder / config).glob(f"partial-{split}/*"))
    if not files:
        splits = ", ".join(sorted(p.name for p in (folder / config).iterdir() if p.is_dir()))
        raise SpecError(f"hub data set {source.hub}/{config}: no split {split!r} (there are {splits})")
    import pyarrow.dataset

    return _table_rows(pyarrow.dataset.dataset(files).to_table(), sample)


def _loaded(folder: Path, source: HubSource, split: str, sample: int | None) -> Rows:
    """A data set of plain files, as its card describes them; `datasets` runs no script."""
    import datasets

    try:
        datasets.disable_progress_bars()  # the terminal belongs to our own display
        data = datasets.load_dataset(str(folder), name=source.config, split=split, cache_dir=_arrow_cache())
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise SpecError(
            f"hub data set {source.hub}: cannot read the split {split!r}: {error}; check source.config and splits"
        ) from None
    except OSError as error:
        raise MachineError(f"hub data set {source.hub}: {error}; set HF_DATASETS_CACHE to a disk with space") from None
    if sample is not None and len(data) > sample:
        data = data.select(i * len(data) // sample for i in range(sample))
    return (
        (start + offset + 1, dict(zip(batch, values, strict=True)))
        for start, batch in ((i * BATCH, b) for i, b in enumerate(data.iter(batch_size=BATCH)))
        for offset, values in enumerate(zip(*batch.values(), strict=True))
    )


@functools.cache
def _arrow_cache() -> str | None:
    """Where `datasets` keeps its own form of what it reads: None for its usual folder, where that can be written.

    Else, as where compute nodes see a read-only HF_HOME, a folder that lasts as long as this process.
    """
    import datasets

    usual = Path(datasets.config.HF_DATASETS_CACHE)
    nearest = next((place for place in (usual, *usual.parents) if place.exists()), usual)
    if os.access(nearest, os.W_OK):
        return None
    folder = tempfile.mkdtemp(prefix="w2s-datasets-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _table_rows(table: Any, sample: int | None) -> Rows:
    if sample is not None and table.num_rows > sample:
        table = table.take([i * table.num_rows // sample for i in range(sample)])
    number = 0
    for batch in table.to_batches(BATCH):
        for record in batch.to_pylist():
            number += 1
            yield number, record
