"""The right to work on a step, as a file: taken by one process at a time, lost when its holder is dead.

Only create-exclusive and rename are relied on, which local disks, NFS from version 3 on and Lustre carry out in one
place for all hosts. O_EXCL of NFS 3 and 4 sends a verifier, so a request that is sent twice is not taken for two; on
NFS 2, which has none, link(2) would be needed instead, and claims are not safe there. flock and fcntl are not used: NFS
and Lustre may keep them local to a host or have none, as they are mounted. A rename whose answer was lost and that is
sent again raises: the step fails, and the next run finds its artifact.

A holder on this host is judged by its process, one elsewhere by when it last renewed the file. That time and "now" are
both told by the clock that stamps files: on NFS the server's; on Lustre that of the host which writes, so there the
clocks of hosts may differ by LEASE_S - RENEW_S at most. A file is opened before it is judged, since opening is when an
NFS client asks the server what is true.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

LEASE_S = 120.0  # a claim that nobody renewed for so long is dead
RENEW_S = 20.0


class Claim:
    """A lease on one step: a file made exclusively, renewed by its holder, inherited when its holder is dead."""

    def __init__(self, path: Path) -> None:
        self.path, self.token = path, uuid.uuid4().hex
        self._stop: threading.Event | None = None

    def take(self) -> bool:
        """Become the holder; False while another one lives."""
        try:
            if not self._acquire():
                return False
            self._stop = threading.Event()
            threading.Thread(target=self._renew, args=(self._stop,), daemon=True).start()
        except BaseException:  # a signal that ends the worker may come at any line
            self.release()
            raise
        return True

    def _acquire(self) -> bool:
        if self._create():
            return True
        seen = _look(self.path)
        if seen is None:
            return self._create()
        return not self._lives(seen) and self._inherit(seen)

    def _inherit(self, seen: tuple[int, bytes]) -> bool:
        """Put our claim in the place of a dead one, at no moment leaving the place empty.

        Who may do that is decided by a claim of its own, named after the dead one: two processes that saw the same dead
        claim cannot both inherit, and who is late sees that the claim is another one by now.
        """
        dead = hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
        heir = Claim(self.path.with_name(f"heir-{dead}.json"))
        if not heir._acquire():
            return False
        part = self.path.with_name(f"claim-{self.token}.json")
        try:
            if _look(self.path) != seen:
                return False
            part.write_bytes(self._content())
            part.replace(self.path)
            return True
        finally:
            part.unlink(missing_ok=True)
            heir.release()

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._content())
        except BaseException:  # a full disk, or a signal, must not leave a claim that says nothing
            self.path.unlink(missing_ok=True)
            raise
        return True

    def _content(self) -> bytes:
        return json.dumps({"token": self.token, "host": _host(), "process": process(os.getpid())}).encode()

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(RENEW_S):
            with contextlib.suppress(OSError):
                if self._is_ours():
                    os.utime(self.path)

    def _is_ours(self) -> bool:
        seen = _look(self.path)
        return seen is not None and self.token.encode() in seen[1]

    def holder_lives(self, clock: DiskClock | None = None) -> bool:
        """True where somebody holds the claim: a running process of this host, or one that renewed it in the lease.

        `clock`: of the disk, for who looks at many claims; without one it is read for this look.
        """
        seen = _look(self.path)
        return seen is not None and self._lives(seen, clock)

    def is_of_this_host(self) -> bool:
        """True where the claim's holder is, or was, a process of this host."""
        seen = _look(self.path)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return seen is not None and bool(json.loads(seen[1])["host"] == _host())
        return False

    def _lives(self, seen: tuple[int, bytes], clock: DiskClock | None = None) -> bool:
        renewed_ns, content = seen
        with contextlib.suppress(ValueError, KeyError, TypeError):
            holder = json.loads(content)
            if holder["host"] == _host():
                return bool(holder["process"] == process(int(holder["process"]["pid"])))
        now = (clock or DiskClock(self.path.parent)).now()
        return now - renewed_ns / 1e9 < LEASE_S

    def release(self) -> None:
        """Give the claim back, unless it was lost to somebody else."""
        if self._stop is not None:
            self._stop.set()
        if self._is_ours():
            self.path.unlink(missing_ok=True)


class DiskClock:
    """The clock that stamps the files in a folder, read when first asked and carried on by this process's own.

    Hosts that share a disk may not share a clock. A reading makes, looks at and removes a file, so looks at many claims
    share one clock. It is not for keeping: the disk's clock may be set right meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ahead_s: float | None = None  # of this process's monotonic clock

    def now(self) -> float:
        """Seconds since the epoch."""
        if self._ahead_s is None:
            self._ahead_s = _disk_now(self._folder) - time.monotonic()
        return time.monotonic() + self._ahead_s


def _look(path: Path) -> tuple[int, bytes] | None:
    """(time of the last renewal in ns, content) of one and the same claim; None where there is none."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # another user's, say: its age can still be told
        with contextlib.suppress(OSError):
            return path.stat().st_mtime_ns, b""
        return None


def _host() -> str:
    """What shares process numbers with this process: a boot of a machine, and in it a container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {_boot_id()} {space}"


def process(pid: int) -> dict[str, Any]:
    """A process of this host by pid and start, so that a reused pid is not taken for it; start is '' for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return {"pid": pid, "start": "" if fields[0] in "ZX" else fields[19]}
    except OSError:
        if Path("/proc/self/stat").exists():
            return {"pid": pid, "start": ""}
    try:  # no /proc: the pid alone has to do
        os.kill(pid, 0)
        return {"pid": pid, "start": "alive"}
    except PermissionError:  # it is there, and somebody else's
        return {"pid": pid, "start": "alive"}
    except OSError:
        return {"pid": pid, "start": ""}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _disk_now(folder: Path) -> float:
    """The time by the clock that stamps files in `folder`: hosts that share a disk may not share a clock."""
    probe = folder / f".now-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return float(probe.stat().st_mtime)
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
