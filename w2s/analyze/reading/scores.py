"""What predictions came to when they were last read, one Parquet file per data set below results/scores.

Derived and safe to delete: what is not there, of another version, damaged, or made from files that have changed since
(`stamp`) is computed anew from the predictions. Two processes may write one file at once: each renames a whole one into
its place, and what the other had found is read once more. Where nothing can be written nothing is kept.

    digest, part, supervisor      which predictions (`Wanted`)
    stamp                         times of change, size and inode of every file they were read from
    wall_s, flops                 what the manifest said
    step, place, evaluations      of a selection, which evaluation it chose; empty for final predictions
    auroc, ece, brier             numbers as `Scored` has them
    predicted, right, rank, bins  its arrays as bytes: 8 or 16 bits a class (64 a text), one bit, 16 or 32 bits, float64
    bin                           the bin of each example, 8 bits; empty for texts
"""

from __future__ import annotations

import contextlib
import itertools
import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.reading.predictions import Found, Wanted
from w2s.analyze.reading.scoring import BINS, Scored, rank_type
from w2s.analyze.reading.selection import Choice
from w2s.disk import make_folder, sync
from w2s.errors import W2SError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

VERSION = 2  # of the numbers too: higher where one of them is computed differently
KEY = ("digest", "part", "supervisor")
NUMBERS = ("wall_s", "flops", "auroc", "ece", "brier")
CHOSEN = ("step", "place", "evaluations")
ARRAYS = ("predicted", "right", "rank", "bins", "bin")
ROWS_PER_GROUP = 1024  # some 3 MiB of a thousand examples each: what is copied at once
STALE_S = 24 * 3600.0  # a file that a killed process left half written


def path(results: Path, data: str) -> Path:
    """Where the scores against one data set are kept."""
    return results / "scores" / f"{data}.parquet"


def read(file: Path, classes: int, stamps: Mapping[Wanted, bytes]) -> dict[Wanted, Found]:
    """What is kept of the predictions asked for, as far as their files are still those of `stamps`."""
    found: dict[Wanted, Found] = {}
    try:
        for table in _groups(file, classes, stamps):
            found.update(_found(table, classes, stamps))
    except _errors():  # whatever came before it passed its checksum, but a damaged file is not to be relied on
        return {}
    return found


def keep(file: Path, classes: int, found: Mapping[Wanted, Found], there: Collection[str]) -> None:
    """Add scores to a file. Older ones stay, but those of train steps that are no longer `there` (digests)."""
    import pyarrow.parquet

    part = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    with contextlib.suppress(OSError, W2SError):  # a read-only folder, a full disk: the next who asks computes again
        make_folder(file.parent)
        try:
            with pyarrow.parquet.ParquetWriter(
                part, _schema(classes), compression="zstd", use_dictionary=False, write_page_checksum=True
            ) as writer:
                for table in _packed(itertools.chain(_kept(file, classes, found, there), _tables(found, classes))):
                    writer.write_table(table)
            sync(part)
            part.rename(file)
        finally:
            part.unlink(missing_ok=True)
        _tidy(file)


def _tidy(file: Path) -> None:
    """Remove what killed processes left beside a file that was just written; both times are told by the same disk."""
    now = file.stat().st_mtime
    for left in file.parent.glob(f".{file.name}-*"):
        with contextlib.suppress(OSError):
            if now - left.stat().st_mtime > STALE_S:
                left.unlink()


def _errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file may raise."""
    import pyarrow

    return (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException)


def _schema(classes: int) -> pyarrow.Schema:
    import pyarrow

    types = {
        **dict.fromkeys(KEY, pyarrow.string()),
        "stamp": pyarrow.binary(),
        **dict.fromkeys(NUMBERS, pyarrow.float64()),
        **dict.fromkeys(CHOSEN, pyarrow.int64()),
        **dict.fromkeys(ARRAYS, pyarrow.binary()),
    }
    about = {"version": VERSION, "classes": classes, "bins": BINS}
    return pyarrow.schema(list(types.items()), metadata={"w2s": json.dumps(about)})


def _open(file: Path, classes: int) -> pyarrow.parquet.ParquetFile | None:
    """The file of a data set; None where there is none, or one of another version."""
    import pyarrow.parquet

    if not file.is_file():
        return None
    opened = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
    if not opened.schema_arrow.equals(_schema(classes), check_metadata=True):
        opened.close()
        return None
    return opened


def _groups(file: Path, classes: int, wanted: Collection[Wanted]) -> Iterator[pyarrow.Table]:
    """The parts of a file that hold something of what is asked for."""
    opened = _open(file, classes)
    if opened is None:
        return
    with opened:
        for place in range(opened.num_row_groups):
            keys = opened.read_row_group(place, columns=list(KEY), use_threads=False)
            if any(key in wanted for key in _keys(keys)):
                yield opened.read_row_group(place, use_threads=False)


def _kept(file: Path, classes: int, found: Mapping[Wanted, Found], there: Collection[str]) -> Iterator[pyarrow.Table]:
    """What a file holds already, less what is replaced and what nobody can ask for any more."""
    import pyarrow

    try:
        opened = _open(file, classes)
        if opened is None:
            return
        with opened:
            for place in range(opened.num_row_groups):
                table = opened.read_row_group(place, use_threads=False)
                stay = [key not in found and key.digest in there for key in _keys(table)]
                yield table if all(stay) else table.filter(pyarrow.array(stay))
    except _errors():  # what was read of it until here stays
        return


def _keys(table: pyarrow.Table) -> Iterator[Wanted]:
    return map(Wanted, *(table[name].to_pylist() for name in KEY))


def _packed(tables: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
    """The same rows in tables of ROWS_PER_GROUP or a few more: many small additions do not make many small groups."""
    import pyarrow

    waiting: list[Any] = []
    for table in tables:
        waiting.append(table)
        if sum(len(one) for one in waiting) >= ROWS_PER_GROUP:
            yield pyarrow.concat_tables(waiting).combine_chunks()
            waiting = []
    if any(len(one) for one in waiting):
        yield pyarrow.concat_tables(waiting).combine_chunks()


def packed(found: Mapping[Wanted, Found], classes: int) -> bytes:
    """Scores for another process: the same columns as in a file, as an Arrow stream."""
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, _schema(classes)) as writer:
        for table in _tables(found, classes):
            writer.write_table(table)
    return bytes(sink.getvalue())


def unpacked(data: bytes, classes: int) -> dict[Wanted, Found]:
    """What `packed` packed. Raises ValueError where that is damaged, or of another version."""
    import pyarrow

    with pyarrow.ipc.open_stream(data) as reader:
        table = reader.read_all()
    if not table.schema.equals(_schema(classes), check_metadata=True):
        raise ValueError("another version")
    return dict(_found(table, classes))


def _tables(found: Mapping[Wanted, Found], classes: int) -> Iterator[pyarrow.Table]:
    import pyarrow

    items = list(found.items())
    for begin in range(0, len(items), ROWS_PER_GROUP):
        rows = [_record(wanted, one, classes) for wanted, one in items[begin : begin + ROWS_PER_GROUP]]
        yield pyarrow.Table.from_pylist(rows, schema=_schema(classes))


def _record(wanted: Wanted, found: Found, classes: int) -> dict[str, Any]:
    scored, choice = found.scored, found.choice
    return {
        **wanted._asdict(),
        "stamp": found.stamp,
        "wall_s": found.wall_s,
        "flops": found.flops,
        **{name: getattr(scored, name) for name in ("auroc", "ece", "brier")},
        **(choice._asdict() if choice is not None else {}),
        "predicted": scored.predicted_N.astype(_class_type(classes)).tobytes(),
        "right": np.packbits(scored.right_N).tobytes(),
        "rank": scored.margin_rank_N.tobytes() if scored.margin_rank_N is not None else b"",
        "bins": scored.bins_K3.tobytes(),
        "bin": scored.bin_N.tobytes() if scored.bin_N is not None else b"",
    }


def _found(
    table: pyarrow.Table, classes: int, stamps: Mapping[Wanted, bytes] | None = None
) -> Iterator[tuple[Wanted, Found]]:
    """What a table holds; with `stamps`, of what is asked for alone. Raises ValueError where lengths do not fit."""
    columns = {name: table[name].to_pylist() for name in ("stamp", *NUMBERS, *CHOSEN, *ARRAYS)}
    for place, wanted in enumerate(_keys(table)):
        if stamps is not None and stamps.get(wanted) != columns["stamp"][place]:
            continue
        one = {name: column[place] for name, column in columns.items()}
        stored_N = np.frombuffer(one["predicted"], _class_type(classes))
        predicted_N = stored_N.astype(np.int16) if classes else stored_N.astype(np.int64)
        n = len(predicted_N)
        rank_N = _sized(one["rank"], rank_type(n), n) if classes == 2 else None
        bins_K3 = _sized(one["bins"], np.float64, 3 * BINS).reshape(BINS, 3)
        right_N = np.unpackbits(np.frombuffer(one["right"], np.uint8), count=n).view(np.bool_)
        bin_N = _sized(one["bin"], np.uint8, n) if classes else None
        scored = Scored(predicted_N, right_N, one["auroc"], one["ece"], one["brier"], rank_N, bins_K3, bin_N)
        choice = Choice(**{name: one[name] for name in CHOSEN}) if one["step"] is not None else None
        yield wanted, Found(scored, one["wall_s"], one["flops"], choice, one["stamp"])


def _sized(data: bytes, kind: type[np.generic], n: int) -> NDArray[Any]:
    array = np.frombuffer(data, kind)
    if len(array) != n:
        raise ValueError(f"{len(array)} values where {n} are expected")
    return array


def _class_type(classes: int) -> type[np.integer[Any]]:
    if not classes:  # numbers of texts
        return np.int64
    return np.uint8 if classes <= 1 << 8 else np.uint16
