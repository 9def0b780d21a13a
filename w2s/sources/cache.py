"""The user's cache folder: where it is, locks in it, content hashes of local files remembered by size and time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from w2s.disk import file_sha256, read_json, write_json
from w2s.errors import MachineError

BLOCK = 1 << 20
SETTLED_S = 2.0  # a file changed this recently may change again without a new time stamp, so it is not remembered


def cache_dir() -> Path:
    """$W2S_CACHE, or `w2s` in the platform's folder for caches. Not created."""
    chosen = os.environ.get("W2S_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "w2s"


@contextlib.contextmanager
def cache_errors(where: Path) -> Iterator[None]:
    """Errors of the disk that holds the cache, as a MachineError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full: free some space, or set W2S_CACHE to a folder on another disk",
            errno.EDQUOT: "your disk quota is used up: free some space, or set W2S_CACHE to a folder on another disk",
            errno.EROFS: "the disk is read-only: set W2S_CACHE to a folder that can be written",
            errno.EACCES: "no permission: set W2S_CACHE to a folder that can be written",
            errno.EPERM: "no permission: set W2S_CACHE to a folder that can be written",
            errno.ENOTDIR: "a file stands where a folder is needed: set W2S_CACHE to another folder",
            errno.EEXIST: "a file stands where a folder is needed: set W2S_CACHE to another folder",
        }.get(error.errno or 0)
        if advice is None:
            raise
        raise MachineError(f"cache {error.filename or where}: {advice}") from None


@contextlib.contextmanager
def lock(name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """One process at a time below this name; the others say that they are `waiting` until it is done or dead."""
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    folder = cache_dir() / "locks"
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held: BaseFileLock = FileLock(folder / f"{name}.lock")
        try:
            held.acquire(timeout=0)
        except NotImplementedError:  # a disk of the network without locks
            held = SoftFileLock(folder / f"{name}.softlock")
            held.acquire()
        except Timeout:
            if waiting is not None:
                waiting()
            held.acquire()
    try:
        yield
    finally:
        held.release()


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its relative name with `/`; hidden files and folders do not count."""
    found: dict[str, Path] = {}
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def content_sha256(path: Path) -> str:
    """SHA-256 of a file, or of a folder's relative names and contents; files are reread only when they changed.

    What was read is remembered in the cache by size and time, where the cache can be written. Raises OSError.
    """
    path = path.resolve()
    memory = cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    known = (read_json(memory) or {}).get("files", {})
    files = files_below(path) if path.is_dir() else {"": path}
    seen: dict[str, list[Any]] = {}
    settled: dict[str, list[Any]] = {}
    for name, file in files.items():
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        before = known.get(name)
        fresh = not (isinstance(before, list) and before[:2] == stamp)
        seen[name] = [*stamp, file_sha256(file)] if fresh else before
        if time.time() - stat.st_mtime > SETTLED_S:
            settled[name] = seen[name]
    if settled != known:
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, {"path": str(path), "files": settled})
    if path.is_dir():
        listing = json.dumps([[name, row[2]] for name, row in seen.items()], ensure_ascii=False)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
    return str(seen[""][2])
