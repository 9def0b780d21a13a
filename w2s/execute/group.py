"""The parent's end of a group of ranks, which behaves as one worker; here under torchrun, in `srun` over nodes.

torchrun closes what the ranks would inherit and gives each a session of its own, so they connect to a Unix socket of
the parent. A rank that stumbles leaves the others waiting in a collective for ever: what ends one ends the group.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from w2s.execute import process
from w2s.execute.process import Link, WorkerProcess, how_it_ended, kill_session, python, readable
from w2s.stopping import EXIT_CODE

REPORT_S = 5.0  # torchrun may take so long to tell how a rank ended
REAP_S = 2.0  # processes that were killed may take so long to be gone
HUNG_S = 10.0  # rank 0 may take so much longer to stop than another one: it may wait in a collective for that one
SETTLE_S = 1.0  # the end of a rank may be seen so much later than that others complain of it
COMPLAINTS = ("again", "failed")
COMERS = 64  # so many more connections than ranks are heard out at a time
HELLO_BYTES = 4096  # who says more before it has said who it is, is no rank
LONGEST_PATH = 90  # bytes of a Unix socket's name; systems allow 100 or a few more

# A signal that a scheduler sends to all processes must not make torchrun hurry the ranks, which save what they have.
# The ranks inherit the blocked signals, and let them in when they are ready for them.
LAUNCH = """
import json, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
count = int(sys.argv[1])
sys.path[:], report, sys.argv[1:] = sys.argv[2 : 2 + count], int(sys.argv[2 + count]), sys.argv[3 + count :]
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main()
except ChildFailedError as error:
    os.write(report, json.dumps([[rank, failure.exitcode] for rank, failure in error.failures.items()]).encode())
    sys.exit(1)
"""


@dataclass
class Rank:
    """One that is here, and what it has to do with the step in hand."""

    link: Link
    pid: int
    given: bool = False  # it was handed the step in hand
    spoke: bool = False  # it said that it failed or stopped, and waits to be ended


class RankGroup(WorkerProcess):
    """A launched group. `self.process` is the launcher; a rank is here once it has connected and said who it is."""

    launcher = "the launcher of the ranks"

    def launch(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Open the door for the ranks and start their launcher."""
        self.ranks: dict[int, Rank] = {}
        self.newcomers: list[Link] = []  # have connected, and not said yet who they are
        self.request = b""
        self.complaints: list[dict[str, Any]] = []
        self.complained_s: float | None = None  # when the first of them came
        self.hung_s: float | None = None  # since when others have stopped, but not rank 0
        self.folder: Path | None = None
        self.door: socket.socket | None = None
        self.report: IO[bytes] | None = None
        return self.start_launcher(arguments)

    def start_launcher(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start torchrun, whose ranks come to a Unix socket that is this user's alone."""
        path = self._open_door()
        self.report = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        launcher = ["--standalone", "--nproc-per-node", str(self.slot.ranks), "--max-restarts", "0"]
        launcher += ["--log-dir", os.devnull, "--no-python"]
        rank = [*python(process.BOOT), "--connect", path, *arguments]
        return self.start([*python(LAUNCH), str(self.report.fileno()), *launcher, *rank], (self.report.fileno(),))

    def _open_door(self) -> str:
        """Listen for ranks; the name of the socket."""
        self.folder = _private_folder()
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = str(self.folder / "parent")
        self.door.bind(path)
        self.door.listen(self.slot.ranks)
        return path

    def handles(self) -> list[int]:
        """Descriptors that become readable when there is a reply, or when a rank comes or goes."""
        links = [*self.newcomers, *(rank.link for rank in self.ranks.values())]
        door = [self.door.fileno()] if self.door is not None else []
        return door + [link.incoming for link in links if not link.closed]

    def send(self, digest: str, spec: dict[str, Any]) -> None:
        """Hand over a step, to rank 0 first; to the others when it has begun: what others claim concerns it alone."""
        self.request = (json.dumps({"digest": digest, "spec": spec}) + "\n").encode()
        for rank in self.ranks.values():
            rank.given = False
        if 0 in self.ranks:
            self._hand(self.ranks[0])
        self.digest, self.begun = digest, False

    def read(self) -> list[dict[str, Any]]:
        """The replies that have arrived whole; never waits. What a rank says because another one died is left out."""
        self._let_in()
        replies: list[dict[str, Any]] = []
        for number, rank in sorted(self.ranks.items()):
            for reply in rank.link.read():
                rank.spoke |= reply["event"] in (*COMPLAINTS, "stopped")
                if reply["event"] == "stopped" and self.rank is None:
                    self.rank = number
                if reply["event"] == "begin":
                    self.begun = True
                    for other in self.ranks.values():
                        if not other.given:
                            self._hand(other)
                replies.append({"digest": self.digest, **reply, "rank": number})
        self.complaints += [reply for reply in replies if reply["event"] in COMPLAINTS]
        return [reply for reply in replies if reply["event"] not in COMPLAINTS] + self._verdict()

    def _verdict(self) -> list[dict[str, Any]]:
        """What ranks said that they stumbled over, the cause first; nothing while it may yet turn out otherwise.

        A rank whose peer dies complains of that, maybe before the end of the peer is to be seen here.
        """
        if not self.complaints or self._dead():
            return []
        self.complained_s = self.complained_s or time.monotonic()
        silent = [rank for rank in self.ranks.values() if not rank.spoke]
        if silent and time.monotonic() - self.complained_s < SETTLE_S:
            return []
        # A message that was written for a person is no complaint about a peer.
        found = sorted(self.complaints, key=lambda reply: (reply["event"] == "failed", bool(reply.get("detail"))))
        self.complaints = []
        return found

    def ended(self) -> bool:
        """True where nothing is left to wait for: idle, or rank 0 has stopped, or hangs since another one has."""
        if self.digest is None or not self.ranks or self.process.poll() is not None:
            return True
        gone = {number for number, rank in self.ranks.items() if rank.spoke or rank.link.closed}
        if 0 in gone or 0 not in self.ranks:
            return True
        if gone and self.hung_s is None:
            self.hung_s = time.monotonic()
        return self.hung_s is not None and time.monotonic() - self.hung_s > HUNG_S

    def death(self) -> str | None:
        """How the first rank that ended did, in a sentence; None while all run."""
        dead = self._dead()
        if not dead and self.process.poll() is None and self.stopped_s is None:
            return None
        self._kill_ranks()  # torchrun would wait half a minute for one that is in a collective
        self.wait(REPORT_S)
        codes = self._codes()
        early = [number for number in codes if number not in self.ranks]  # ended before it could connect
        if not dead and not early and self.stopped_s is not None:
            return how_it_ended(EXIT_CODE, self._who())
        if self._launcher_fell(dead, codes):
            return how_it_ended(self.process.returncode, self.launcher)
        self.rank = self._culprit(dead, early, codes)
        if dead and not self.ranks[self.rank].given:  # it died idle, which says nothing about the step in hand
            self.begun = False
        code = self._code(codes)
        if code is None:  # the launcher did not tell
            return f"{self._who()} ended in the middle of the step"
        return how_it_ended(code, self._who())

    def ask_to_end(self) -> None:
        """With a step in hand: every rank is to save what can be saved. An idle group has nothing to do before."""
        if self.digest is not None:
            for rank in self.ranks.values():
                self._ask_to_stop(rank)

    def kill(self) -> None:
        """End all ranks, torchrun, and all they started, at once, and free what belongs to them here."""
        self._end_ranks()
        kill_session(self.pid)
        self.process.wait()
        self.close()

    def _end_ranks(self) -> None:
        """End all ranks, and let their launcher, which sees to the end of all of them, end itself."""
        self._let_in()
        whole = len(self.ranks) == self.slot.ranks
        self._shut()  # a rank that comes later finds nobody, and leaves
        self._kill_ranks()
        self._await_ranks()
        if whole:
            self.wait(REAP_S)

    def close(self) -> None:
        """Free what belongs to it here."""
        for rank in self.ranks.values():
            rank.link.close()
        self._shut()
        if self.report is not None:
            self.report.close()
        super().close()

    def _who(self) -> str:
        return f"rank {self.rank} of {self.slot.ranks}"

    def _launcher_fell(self, dead: list[int], codes: dict[int, int]) -> bool:
        """True where the end of the launcher is not due to a rank."""
        return not dead and not codes

    def _culprit(self, dead: list[int], early: list[int], codes: dict[int, int]) -> int:
        """Which rank is to be named, of those that went without a word, came never, or of which the launcher told."""
        return [*dead, *early, *codes][0]

    def _code(self, codes: dict[int, int]) -> int | None:
        """How the rank that is named ended; None where nobody told."""
        return codes.get(self.rank or 0, 0) if codes else None

    def _ask_to_stop(self, rank: Rank) -> None:
        """SIGUSR1 in its process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank.pid, signal.SIGUSR1)

    def _kill_ranks(self) -> None:
        """End those that are here, at once."""
        for rank in self.ranks.values():
            kill_session(rank.pid)

    def _await_ranks(self) -> None:
        """Wait, not for long, until those that were killed are gone, of which the end of their sockets tells."""
        deadline_s = time.monotonic() + REAP_S
        while (handles := self.handles()) and time.monotonic() < deadline_s:
            process.wait_for(handles, process.LOOK_S)
            self.read()

    def _let_in(self) -> None:
        for link in self._comers():
            self.newcomers.append(link)
            if len(self.newcomers) > self.slot.ranks + COMERS:
                self.newcomers.pop(0).close()
        for link in list(self.newcomers):
            hello = link.read()
            number = self._number(hello[0]) if hello else None
            if number is not None:
                link.limit = None
                link.put_back(hello[1:])
                self.ranks[number] = Rank(link, hello[0]["pid"])
                if self.digest is not None and (number == 0 or self.begun):
                    self._hand(self.ranks[number])
            elif hello or link.closed:
                link.close()
            if hello or link.closed:
                self.newcomers.remove(link)
        if len(self.ranks) == self.slot.ranks:
            self._shut()

    def _comers(self) -> Iterator[Link]:
        """Who stands at the door, as many as there may be at once."""
        for _ in range(self.slot.ranks + COMERS):
            if self.door is None or not readable(self.door.fileno()):
                return
            with contextlib.suppress(OSError):  # it left meanwhile
                connection = self._accept(self.door)
                handle = connection.detach()
                yield Link(handle, handle, HELLO_BYTES)

    def _accept(self, door: socket.socket) -> socket.socket:
        return door.accept()[0]

    def _number(self, hello: Any) -> int | None:
        """Which rank says so of itself; None where it is none of ours."""
        return int(hello["rank"])

    def _hand(self, rank: Rank) -> None:
        with contextlib.suppress(BrokenPipeError):  # its death is noticed elsewhere
            rank.link.send(self.request)
            rank.given = True

    def _shut(self) -> None:
        """Nobody else is to come: close the door, also to who stands in it, and leave nothing of it on the disk."""
        for link in self.newcomers:
            link.close()
        self.newcomers = []
        if self.door is not None:
            self.door.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.door = self.folder = None

    def _dead(self) -> list[int]:
        """The ranks that went without a word."""
        return sorted(number for number, rank in self.ranks.items() if rank.link.closed and not rank.spoke)

    def _codes(self) -> dict[int, int]:
        """Rank -> return code, the first that ended first; of those that torchrun saw to fail."""
        assert self.report is not None
        self.report.seek(0)
        try:
            return {int(rank): int(code) for rank, code in json.loads(self.report.read())}
        except ValueError:
            return {}


def _private_folder() -> Path:
    """An empty folder of this user's alone, with a short name."""
    made = Path(tempfile.mkdtemp(prefix="w2s-"))
    if len(os.fsencode(made / "parent")) > LONGEST_PATH:
        made.rmdir()
        made = Path(tempfile.mkdtemp(prefix="w2s-", dir="/tmp"))
    return made
