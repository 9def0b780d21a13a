"""Bytes to disk so that a reader sees all of them or none, and errors of the disk as sentences."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from w2s.errors import MachineError

FULL = (errno.ENOSPC, errno.EDQUOT)


def no_room(error: BaseException) -> bool:
    """True where an error says that the disk is full or a quota used up, safetensors' own error included."""
    return _number(error) in FULL


def _number(error: BaseException) -> int:
    """The errno of an error of the disk; 0 for any other."""
    if isinstance(error, OSError):
        return error.errno or 0
    # A plain Exception with the errno in its text; known by its name, since the control half does not import it.
    if any(kind.__name__ == "SafetensorError" for kind in type(error).__mro__):
        said = re.search(r"\(os error (\d+)\)", str(error))
        return int(said[1]) if said is not None and int(said[1]) in FULL else 0
    return 0


@contextlib.contextmanager
def disk_errors(where: Path, below: Path | None = None) -> Iterator[None]:
    """Errors of the disk as a MachineError that says what to do.

    `below`: permissions are an error of the store only where the file is in this folder; a model that must not be read
    is none.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        advice = {
            errno.ENOSPC: "the disk is full: free some space and run the same command again, finished steps are kept",
            errno.EDQUOT: "your disk quota is used up: free some space and run the same command again",
            errno.EROFS: "the disk is read-only: choose another folder with --results",
            errno.EACCES: "no permission to write: choose another folder with --results",
            errno.EPERM: "no permission to write: choose another folder with --results",
            errno.ENOTDIR: "a file stands where a folder is needed: choose another folder with --results",
        }.get(number)
        file = error.filename if isinstance(error, OSError) else None
        named = Path(os.path.abspath(os.fsdecode(file))) if isinstance(file, (str, bytes)) else None
        foreign = below is not None and named is not None and Path(os.path.abspath(below)) not in named.parents
        if advice is None or (foreign and number not in FULL):
            raise
        raise MachineError(f"{file or where}: {advice}") from None


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_lines(path, [json.dumps(data, indent=1, ensure_ascii=False) + "\n"])


def write_lines(path: Path, parts: Iterable[str]) -> None:
    """Write text, part by part, so that a reader sees the old file or the new one, never half of it."""
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        sync(part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none that parses."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises NotADirectoryError where a file stands in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # there is something, and it is no folder
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def sync(path: Path) -> None:
    """Have what was written to a file or folder survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network disks cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)
