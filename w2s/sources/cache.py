"""The user's cache folder: where it is, what is made in it once, content hashes remembered by size and time."""

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
from typing import Any, TypeVar

from w2s.claim import Claim
from w2s.disk import file_sha256, read_json, write_json
from w2s.errors import MachineError

BLOCK = 1 << 20
LOOK_S = 0.5  # between two looks whether another process has made what is wanted
SETTLED_S = 2.0  # a file changed this recently may change again without a new time stamp, so it is not remembered
TRUE = ("1", "ON", "YES", "TRUE")  # what huggingface_hub takes for true
T = TypeVar("T")


def is_offline() -> bool:
    """True where HF_HUB_OFFLINE says that nothing may be fetched: from the hub, and from package indexes too."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.strip().upper() in TRUE


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
        elsewhere = "set W2S_CACHE to a folder that can be written, or run `w2s prefetch SWEEP` where this one can be"
        advice = {
            errno.ENOSPC: "the disk is full: free some space, or set W2S_CACHE to a folder on another disk",
            errno.EDQUOT: "your disk quota is used up: free some space, or set W2S_CACHE to a folder on another disk",
            errno.EROFS: f"the disk is read-only: {elsewhere}",
            errno.EACCES: f"no permission: {elsewhere}",
            errno.EPERM: f"no permission: {elsewhere}",
            errno.ENOTDIR: "a file stands where a folder is needed: set W2S_CACHE to another folder",
            errno.EEXIST: "a file stands where a folder is needed: set W2S_CACHE to another folder",
        }.get(error.errno or 0)
        if advice is None:
            raise
        raise MachineError(f"cache {error.filename or where}: {advice}") from None


def _silent() -> None:
    return None


def once(name: str, found: Callable[[], T | None], make: Callable[[], T], waiting: Callable[[], None] = _silent) -> T:
    """What `found` finds; where that is None, what one process at a time makes below this name.

    Who finds it there takes no lock and writes nothing, so a cache that is complete may be read-only and may have any
    number of readers. The others take a w2s.claim: a file made exclusively, which disks shared by many machines honour,
    NFS and Lustre included. flock they honour only as they are mounted, and then perhaps within one machine only. The
    others are `waiting` until the thing is there, or until its maker is dead.
    """
    there = found()
    if there is not None:
        return there
    folder = cache_dir() / "locks"
    claim = Claim(folder / f"{name}.json")
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not claim.take():
            waiting()
            while not claim.take():
                time.sleep(LOOK_S)
                there = found()
                if there is not None:
                    return there
    try:
        there = found()  # another process was faster
        return make() if there is None else there
    finally:
        claim.release()


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

    What was read is remembered in the cache by size and time, where the cache can be written: by a rename and without a
    lock, since all processes that do so at once write the same. Raises OSError.
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
