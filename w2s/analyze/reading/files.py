"""An artifact's files in, their bytes and columns out, each read once and checked against its manifest.

Refuses (StepError, naming the artifact) what is not what its writer committed: no readable manifest, a file missing or
not listed, a content whose SHA-256 is another; and columns that are not there. What was hashed is what is parsed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from w2s.errors import StepError
from w2s.store import MANIFEST, Store

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

# Times in ns of the last change of content and of anything, size in bytes, inode. The first time can be set, as tools
# that copy and unpack do, the second cannot.
STAMP = struct.Struct("<qqqQ")
GONE = STAMP.pack(-1, -1, -1, 0)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest says about a finished step. `stamp` is that of the manifest's own file."""

    folder: str  # no Path: of 100,000 artifacts, taking paths together costs as much as reading them
    hashes: dict[str, str]  # SHA-256 by file
    wall_s: float  # NaN where the manifest does not say
    flops: float  # likewise
    stamp: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """One file as it was when it was read, with the stamp it had then."""

    data: bytes
    path: str
    stamp: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column undecoded, with what decoding depends on. Of equal chunks the values are equal, and comparing two costs
    a fiftieth of decoding a thousand ids."""

    data: pyarrow.Buffer
    about: tuple[Any, ...]

    def equals(self, other: Chunk) -> bool:
        return bool(self.about == other.about and self.data.equals(other.data))


def artifact(store: Store, kind: str, digest: str) -> Artifact:
    """Read a manifest. Raises StepError where there is none that parses, or that of another step."""
    folder = os.fspath(store.path(kind, digest))
    try:
        data, stamp = _read(f"{folder}{os.sep}{MANIFEST}")
        manifest = json.loads(data)
        hashes, owner = manifest["files"], (manifest.get("kind"), manifest.get("digest"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        hashes = owner = None
    if not isinstance(hashes, dict):
        raise StepError(f"{folder}: no readable {MANIFEST}; run the sweep again to make it anew")
    if owner != (kind, digest):
        raise StepError(
            f"{folder}: its {MANIFEST} belongs to another step, or to none; remove the folder and run the sweep again"
        )
    return Artifact(folder, hashes, _number(manifest.get("wall_s")), _number(manifest.get("flops")), stamp)


def content(made: Artifact, name: str) -> Content:
    """A file's bytes. Raises StepError where it is not the file that the manifest lists."""
    path = f"{made.folder}{os.sep}{name}"
    try:
        data, stamp = _read(path)
    except FileNotFoundError:
        raise StepError(f"{path}: missing; {_again(made)}") from None
    except OSError as error:
        raise StepError(f"{path}: cannot be read ({error.strerror})") from None
    wanted = made.hashes.get(name)
    if wanted is None:
        raise StepError(f"{path}: not in the manifest; {_again(made)}")
    if hashlib.sha256(data).hexdigest() != wanted:
        raise StepError(f"{path}: content differs from the manifest; {_again(made)}")
    return Content(data, path, stamp)


def _read(path: str) -> tuple[bytes, bytes]:
    """(all bytes of a file, its stamp before they were read)."""
    with open(path, "rb", buffering=0) as file:
        stamp = _stamp(os.fstat(file.fileno()))
        return file.read(), stamp


def _again(made: Artifact) -> str:
    return f"remove the folder {made.folder} and run the sweep again"


def parquet(found: Content) -> pyarrow.parquet.ParquetFile:
    """A Parquet file to read from memory. Raises StepError where it is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(pyarrow.BufferReader(found.data))
    except (OSError, pyarrow.ArrowException) as error:
        raise StepError(_damaged(found.path, error)) from None


def columns(file: pyarrow.parquet.ParquetFile, found: Content, wanted: Sequence[str], name: str) -> pyarrow.Table:
    """Only the columns asked for. `name` is what a message calls the file. Raises StepError where one is not there."""
    import pyarrow

    try:
        # Not read_table: what it prepares for data sets of many files costs more than reading a thousand rows.
        table = file.read(list(wanted), use_threads=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise StepError(_damaged(found.path, error)) from None
    lacking = [column for column in wanted if column not in table.column_names]
    if lacking:
        raise StepError(f"{name}: no column {', '.join(lacking)}; remove the artifact and run the sweep again")
    return table


def logits(column: pyarrow.ChunkedArray, classes: int, name: str) -> NDArray[np.floating[Any]]:
    """(rows, C), in the type of the file. Raises StepError where a row is not one finite number per class."""
    import pyarrow

    try:
        whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        # Where lists begin and end, not pyarrow.compute: calling its functions costs as much as reading the file.
        begin = whole.offsets.to_numpy()
        if whole.null_count or (begin[1:] - begin[:-1] != classes).any():
            raise StepError(f"{name}: expected {classes} logits for each example; remove the artifact and run again")
        values = whole.values.to_numpy()[begin[0] : begin[-1]]
    except (pyarrow.ArrowException, ValueError, TypeError, AttributeError) as error:
        raise StepError(f"{name}: the logits are not lists of numbers ({error}); remove it and run again") from None
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        raise StepError(f"{name}: a logit is not a finite number; remove the artifact and run the sweep again")
    return np.asarray(values.reshape(-1, classes))


def chunk(file: pyarrow.parquet.ParquetFile, found: Content, column: str) -> Chunk | None:
    """A column as it stands in the file, undecoded; None where it is in several parts, or not there."""
    import pyarrow

    metadata = file.metadata
    if metadata.num_row_groups != 1:
        return None
    group = metadata.row_group(0)
    for place in range(metadata.num_columns):
        part = group.column(place)
        if part.path_in_schema == column:
            begin = part.data_page_offset
            if part.has_dictionary_page and part.dictionary_page_offset is not None:
                begin = min(begin, part.dictionary_page_offset)
            # A view of the file's bytes, not a copy.
            data = pyarrow.py_buffer(found.data).slice(begin, part.total_compressed_size)
            return Chunk(data, (part.num_values, part.physical_type, part.compression))
    return None


def stamp_of(path: str) -> bytes:
    """What tells a file from one that was put in its place or changed: without reading it. GONE where there is none."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return GONE


def _stamp(found: os.stat_result) -> bytes:
    return STAMP.pack(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _damaged(path: str, error: BaseException) -> str:
    return f"{path}: damaged ({error}); remove the artifact and run the sweep again"


def _number(value: Any) -> float:
    """A measured quantity of a manifest; NaN for what is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= sys.float_info.max:
        return math.nan
    return float(value)
