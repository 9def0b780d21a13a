"""The log of a running step: all that its process prints, down to what C code writes, goes to one file per process."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from w2s.disk import disk_errors
from w2s.store import Store


def log_path(store: Store, digest: str, rank: int | None) -> Path:
    """Where a process logs its part of a step."""
    log = store.log_path(digest)
    return log.with_name(f"{log.stem}-rank{rank}{log.suffix}") if rank else log


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Standard output and error of this process, C code and children included, go to a fresh file at `path`."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Append: should another process come to the same step, the two do not write over each other.
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    before = os.dup(1), os.dup(2)
    drain()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        drain()
        for target, saved in enumerate(before, start=1):
            os.dup2(saved, target)
            os.close(saved)
        own_streams()


def drain() -> None:
    """Push out what Python and C have buffered; what cannot be written (a full disk) is dropped, not kept for later."""
    for attempt in range(2):
        clean = True
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                clean = False
        with contextlib.suppress(OSError, AttributeError):
            clean = ctypes.CDLL(None).fflush(None) == 0 and clean
        if clean or attempt:
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def own_streams() -> None:
    """sys.stdout and sys.stderr on descriptors 1 and 2, whatever a step did to them; never fails on odd characters."""
    for name, handle in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name, None)
        ours = isinstance(stream, io.TextIOWrapper) and not stream.closed and stream.line_buffering
        if not (ours and stream is getattr(sys, f"__{name}__")):
            stream = open(  # noqa: SIM115 - lives as long as the process
                handle, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def remove(log: Path, even_full: bool) -> None:
    """Take away a log that nobody will read, and the folder that was made for it."""
    with contextlib.suppress(OSError):
        if even_full or log.stat().st_size == 0:
            log.unlink()
        log.parent.rmdir()
