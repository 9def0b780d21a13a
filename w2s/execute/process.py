"""The parent's end of one worker: start it, hand it a step, read its replies, tell how it died, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from w2s.execute.slots import Slot, environment
from w2s.memory import more_room
from w2s.stopping import EXIT_CODE

GRACE_S = 5.0  # an idle worker may take so long to end
STOP_GRACE_S = 60.0  # one with a step in hand may take so long to save what it has; see `end_all`
LOOK_S = 0.05
TAIL_BYTES = 4000

# Not `-m`: that puts the current folder first on the path, and a user's `random.py` there would stand in for Python's.
# The worker sees what this process sees, no more.
BOOT = """
import sys
count = int(sys.argv[1])
sys.path[:], sys.argv[1:] = sys.argv[2 : 2 + count], sys.argv[2 + count :]
from w2s.execute.worker import main
main()
"""


class Link:
    """The parent's end of a conversation with one process: JSON lines out on one descriptor, in on another.

    `limit`: it counts as closed once it has said more bytes than that; None for one that is known.
    """

    def __init__(self, outgoing: int, incoming: int, limit: int | None = None) -> None:
        self.outgoing, self.incoming, self.limit = outgoing, incoming, limit
        self.closed = False  # it will say nothing more
        self._said = 0  # bytes
        self._part = b""
        self._again: list[dict[str, Any]] = []

    def send(self, line: bytes) -> None:
        """Raises BrokenPipeError where the other end is gone."""
        try:
            while line:
                line = line[os.write(self.outgoing, line) :]
        except ConnectionError as error:
            raise BrokenPipeError(*error.args) from None

    def read(self) -> list[dict[str, Any]]:
        """The messages that have arrived whole; never waits."""
        while not self.closed and readable(self.incoming):
            try:
                data = os.read(self.incoming, 1 << 16)
            except OSError:  # a socket tells so that its other end was killed
                data = b""
            self._said += len(data)
            self.closed = not data or (self.limit is not None and self._said > self.limit)
            self._part += data
        *lines, self._part = self._part.split(b"\n")
        found, self._again = self._again, []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):  # a signal may cut a line off
                found.append(json.loads(line))
        return found

    def put_back(self, messages: list[dict[str, Any]]) -> None:
        """Have these read once more."""
        self._again = messages

    def close(self) -> None:
        """Free the descriptors; harmless when repeated."""
        self.closed = True
        for handle in {self.outgoing, self.incoming} - {-1}:
            with contextlib.suppress(OSError):
                os.close(handle)
        self.outgoing = self.incoming = -1


class WorkerProcess:
    """A running worker. `digest` is the step it has in hand; `warm` what it has in memory."""

    def __init__(self, slot: Slot, store_root: Path, body: str) -> None:
        self.slot = slot
        self.digest: str | None = None
        self.warm: frozenset[str] = frozenset()
        self.begun = False  # it has taken up the step in hand
        self.served = False  # it has brought a step to an end
        self.retires = False  # it takes no further step
        self.stopped_s: float | None = None  # when it said that somebody stopped it
        self.rank: int | None = None  # whose death ended it, in a group
        self.links: list[Link] = []
        # What it says outside of a step, such as why it cannot start.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        try:
            self.process = self.launch(["--store", os.path.abspath(store_root), "--body", body])
        except BaseException:
            self.close()
            raise

    def launch(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start the process, and the link to it. `arguments`: what the worker's program is told in any case."""
        requests, outgoing = os.pipe()
        incoming, replies = os.pipe()
        self.links = [Link(outgoing, incoming)]
        command = [*python(BOOT), "--requests", str(requests), "--replies", str(replies), *arguments]
        try:
            return self.start(command, (requests, replies))
        finally:
            os.close(requests)
            os.close(replies)

    def start(self, command: Sequence[str], handles: Sequence[int]) -> subprocess.Popen[bytes]:
        """A process that inherits these descriptors, in a session of its own.

        So Ctrl-C at the terminal reaches the parent alone, which then stops the workers.
        """
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.stderr, stderr=self.stderr, pass_fds=handles,
            env=self.environment(), start_new_session=True,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """What the process finds in its environment."""
        return environment(self.slot, os.environ)

    @property
    def pid(self) -> int:
        return self.process.pid

    def handles(self) -> list[int]:
        """Descriptors that become readable when there is a reply, or when a process is gone."""
        return [link.incoming for link in self.links if not link.closed]

    def send(self, digest: str, spec: dict[str, Any]) -> None:
        """Hand over a step. Raises BrokenPipeError where the worker is gone."""
        self.links[0].send((json.dumps({"digest": digest, "spec": spec}) + "\n").encode())
        self.digest, self.begun = digest, False

    def read(self) -> list[dict[str, Any]]:
        """The replies that have arrived whole; never waits."""
        return self.links[0].read()

    def ended(self) -> bool:
        """True where nothing is left to wait for."""
        return self.process.poll() is not None

    def death(self) -> str | None:
        """How the worker ended, in a sentence; None while it runs."""
        if self.links[0].closed:  # at the end of a process its pipe closes a moment before it can be waited for
            self.wait(1.0)
        code = self.process.poll()
        if code is not None:
            return how_it_ended(code)
        if self.links[0].closed:
            return "the worker closed its reply pipe: the step must leave descriptors alone"
        return None

    def last_words(self) -> str:
        """The end of what it said outside of a step."""
        self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, self.stderr.tell() - TAIL_BYTES))
        return self.stderr.read().decode(errors="replace").strip()

    def ask_to_end(self) -> None:
        """Idle: quit. With a step in hand: save what can be saved, give back what it holds, and end.

        SIGUSR1, not SIGTERM, of which a second one does not wait: a scheduler may have sent the first to every process.
        """
        if self.process.poll() is not None:
            return
        if self.digest is not None:
            self.process.send_signal(signal.SIGUSR1)
            return
        with contextlib.suppress(OSError):
            self.links[0].send(b'{"quit": true}\n')

    def wait(self, seconds: float) -> None:
        """Wait at most so long for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def kill(self) -> None:
        """End it and all it started, at once, and free what belongs to it here."""
        kill_session(self.pid)
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Free what belongs to it here."""
        for link in self.links:
            link.close()
        self.stderr.close()


def python(boot: str) -> list[str]:
    """The command that runs a program which sets up its path first, as BOOT does."""
    path = [os.path.abspath(entry) for entry in sys.path]
    return [sys.executable, "-c", boot, str(len(path)), *path]


def readable(handle: int) -> bool:
    """True where reading would not wait."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def wait_for(handles: Iterable[int], seconds: float) -> None:
    """Wait until one of them is readable, at most so long."""
    with selectors.DefaultSelector() as selector:
        for handle in handles:
            selector.register(handle, selectors.EVENT_READ)
        selector.select(seconds)


def kill_session(leader: int) -> None:
    """SIGKILL to a process group, which lives on where only its leader is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_all(workers: Iterable[WorkerProcess], grace_s: float = GRACE_S) -> list[WorkerProcess]:
    """End every worker, none of which may outlive this call; an interrupt meanwhile cuts the grace short.

    Returns those that were cut off with a step in hand when the grace ran out. For a run that is stopped it is
    STOP_GRACE_S: a checkpoint of 6 GB at 100 MB/s. It is no setting, since whoever asked a run to stop will not wait
    much longer anyway; what is cut off goes on from the checkpoint before, or from its beginning.
    """
    left = list(workers)
    waiting: list[WorkerProcess] = []
    try:
        for worker in left:
            worker.ask_to_end()
        deadline_s = time.monotonic() + grace_s
        while (waiting := [worker for worker in left if not worker.ended()]) and time.monotonic() < deadline_s:
            wait_for([handle for worker in waiting for handle in worker.handles()], LOOK_S)
            for worker in waiting:
                worker.read()  # lest one that reports a lot waits for us
    finally:
        for worker in left:
            worker.kill()
    return [worker for worker in waiting if worker.digest is not None]


def how_it_ended(code: int, who: str = "the worker") -> str:
    """A return code of subprocess as a sentence that says what to do."""
    if code == EXIT_CODE:
        return f"{who} was stopped from outside (SIGTERM or SIGUSR1); the same command goes on with what it has saved"
    if code >= 0:
        return f"{who} exited with code {code} in the middle of the step"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return (
            f"{who} was killed (SIGKILL), as the kernel does when memory runs out: "
            f"{more_room()}, or lower engine.micro_batch_size"
        )
    if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"):
        return f"{who} crashed in native code ({name}); its log ends with where it was"
    return f"{who} was stopped from outside ({name})"
