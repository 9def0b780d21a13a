"""A long-lived process that runs steps, alone or as one rank of a group: requests in as JSON lines, replies out.

    request  {"digest", "spec"}, or {"quit": true}, or {"stop": true}, which is SIGUSR1 over a distance
    reply    {"digest", "event": "begin"}
             {"digest", "event": "progress", "what", "done", "total"}
             {"digest", "event": "done" | "reused" | "busy"}
             {"digest", "event": "failed", "reason", "detail", "disk_full", "retire"}
             {"digest", "event": "again", "reason"}     once more, in a fresh process
             {"event": "stopped"}                       on request; whatever could be saved is saved
             {"rank", "pid", "secret"}                  of a rank, before all else; the secret where it dials

A worker that retires or failed as a rank takes no further step. In a group rank 0 alone tells how a step goes on; any
rank may tell that it failed. Standard output and error are never used for the protocol: during a step they are its log,
down to what C code writes. The end of the requests means that the parent is gone, and then so is the worker, even in
mid-step. SIGTERM or SIGUSR1 asks it to stop.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import functools
import importlib
import io
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from w2s.disk import disk_errors, no_room
from w2s.errors import MachineError, TryAgain, W2SError
from w2s.identity import validated
from w2s.memory import advice, is_out_of_memory, while_predicting
from w2s.spec import AnyStep, Engine, FeaturesSpec, LabelsSpec, MaterializeSpec, TrainSpec
from w2s.stopping import EXIT_CODE, SIGNALS, Stopped, Stopping
from w2s.store import Store

BODY = "w2s.steps:run_step"
PROGRESS_S = 0.1  # at most one progress line per so many seconds, so that a fast loop does not drown the parent
REASON_CHARS = 2000
DIAL_S = 20.0  # an address that does not answer is given up after so long
SECRET, ADDRESSES = "W2S_RANKS_SECRET", "W2S_RANKS_PARENT"  # names in the environment of a rank that dials
E = TypeVar("E", bound=BaseException)
KINDS: dict[str, type[AnyStep]] = {
    "materialize": MaterializeSpec,
    "features": FeaturesSpec,
    "labels": LabelsSpec,
    "train": TrainSpec,
}


class Failure(NamedTuple):
    """What to tell about an exception."""

    reason: str
    detail: str = ""  # the traceback, where it is no mistake of the user's
    retire: bool = False  # memory may be lost for good: a fresh process is wanted
    disk_full: bool = False


class Replies:
    """The way back to the parent. A parent that is gone ends this process."""

    def __init__(self, handle: int) -> None:
        self._handle, self._lock = handle, threading.Lock()
        self._cut = False  # a line was begun

    def send(self, **message: Any) -> None:
        """Write one line, whole; unless a signal stops the step meanwhile, and then the next line is a new one."""
        data = (json.dumps(message) + "\n").encode()
        with self._lock:
            if self._cut:
                data = b"\n" + data
            self._cut = True
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
            except OSError:
                leave()
            self._cut = False


class Reporter:
    """Progress of one step, thinned: a new phase and the end of one always, the rest ten times a second."""

    def __init__(self, send: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._what: str | None = None
        self._sent_s = float("-inf")

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = self._clock()
        if what != self._what or done >= total or now_s - self._sent_s >= PROGRESS_S:
            self._what, self._sent_s = what, now_s
            self._send(event="progress", what=str(what), done=int(done), total=int(total))


class Worker:
    """Runs one step after the other in the main thread; `body` is imported with the first, into its log.

    `rank`: None for a worker that is alone. `patient`: SIGTERM may come twice, as from SLURM at the time limit, to the
    step and then to the job; whoever has no time left sends SIGKILL.
    """

    def __init__(
        self, store: Store, body: str, replies: Replies, rank: int | None = None, patient: bool = False
    ) -> None:
        self.store, self.body, self.replies, self.rank, self.patient = store, body, replies, rank, patient
        self.requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()  # its put is safe in a signal handler
        self.stopping = Stopping()
        self.running = False

    def serve(self) -> None:
        """Work until told to quit or to stop."""
        with contextlib.suppress(Stopped):
            while not self.stopping.asked:
                request = self.requests.get()
                if request.get("quit") or self.run(request):
                    break
        if self.stopping.asked:
            self.replies.send(event="stopped")
            if self.rank is None:
                os._exit(EXIT_CODE)
        while self.rank is not None:
            # The launcher ends all ranks when one leaves, and another may still be writing its part of a checkpoint.
            signal.pause()

    def run(self, request: dict[str, Any]) -> bool:
        """One step, start to reply. True where this process should not run another."""
        digest = str(request["digest"])
        first = not self.rank
        if first and self.store.is_claimed(digest):  # before the log is opened: it is somebody else's
            self.replies.send(digest=digest, event="busy")
            return False
        if first:
            self.replies.send(digest=digest, event="begin")
        log, failure, event = log_path(self.store, digest, self.rank), None, "failed"
        try:
            with logged(log):
                try:
                    event = self._call(request)
                except TryAgain as again:
                    print(again, file=sys.stderr)
                    self.replies.send(digest=digest, event="again", reason=str(again))
                    return True
                except BaseException as error:  # a library may raise anything, SystemExit included
                    # Ranks agree to stop as soon as one was asked to; the wish may be on its way to this one.
                    if (self.stopping.asked or self.rank is not None) and _comes_from(error, Stopped):
                        self.stopping.asked = True
                        raise Stopped from None
                    failure = explain(error, log, engine_of(request))
                    with contextlib.suppress(OSError):
                        print(failure.detail or failure.reason, file=sys.stderr)
        except MachineError as error:  # the log cannot be written
            failure = explain(error, log)
        if failure is not None:
            self._tell(digest, failure)
            return failure.retire or self.rank is not None
        if event != "done" or not first:
            _remove(log, even_full=not first)
        if first:
            self.replies.send(digest=digest, event=event)
        return False

    def _tell(self, digest: str, failure: Failure) -> None:
        reason = failure.reason
        if self.rank is None:
            with contextlib.suppress(OSError, MachineError):
                self.store.fail(digest, reason, failure.detail)
        elif self.rank:  # which rank's word counts, and is recorded, is for the parent to say
            reason = f"rank {self.rank}: {reason}"
        self.replies.send(digest=digest, event="failed", **{**failure._asdict(), "reason": reason})

    def _call(self, request: dict[str, Any]) -> str:
        spec = validated(KINDS[request["spec"]["kind"]], request["spec"])
        digest = str(request["digest"])
        if spec.digest() != digest:
            raise RuntimeError(f"the step's spec has digest {spec.digest()[:12]} here, {digest[:12]} was asked for")
        module, _, function = self.body.partition(":")
        body = getattr(importlib.import_module(module), function)
        send = silent if self.rank else functools.partial(self.replies.send, digest=digest)
        try:
            self.running = True
            if self.stopping.asked:  # a signal came just before
                raise Stopped
            outcome = body(spec, self.store, Reporter(send), self.stopping)
        finally:
            self.running = False
        if outcome not in ("done", "reused", "busy"):
            raise RuntimeError(f"{self.body} returned {outcome!r}")
        return str(outcome)

    def on_signal(self, number: int, _: Any) -> None:
        """Stop: the running step when it can, give back what it holds, then leave."""
        if number == signal.SIGTERM and not self.patient:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one does not wait
        if self.stopping.asked:
            return
        if self.running:
            self.stopping.ask()
        else:
            self.stopping.asked = True
            self.requests.put({"quit": True})


def silent(**_: Any) -> None:
    """Rank 0 speaks for its group."""


def engine_of(request: dict[str, Any]) -> Engine | None:
    """The settings that a requested step runs with; None where it has none, or cannot be read."""
    try:
        return validated(Engine, request["spec"]["engine"])
    except (KeyError, TypeError, W2SError):
        return None


def log_path(store: Store, digest: str, rank: int | None) -> Path:
    """Where a process logs its part of a step."""
    log = store.log_path(digest)
    return log.with_name(f"{log.stem}-rank{rank}{log.suffix}") if rank else log


def explain(error: BaseException, where: Path, engine: Engine | None = None) -> Failure:
    """The reason of a failure in a sentence.

    `where`: a path on the store's disk, for errors that name none; `engine`: of the step, where it has one.
    """
    text = str(error).strip()
    if isinstance(error, W2SError):
        full = _comes_from(error, Exception, no_room) and isinstance(error, MachineError)
        return Failure(text, retire=_comes_from(error, Exception, is_out_of_memory), disk_full=full)
    detail = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        first = text.splitlines()[0][:200] if text else type(error).__name__
        return Failure(f"out of memory; {advice(engine, while_predicting(error))} ({first})", detail, retire=True)
    if no_room(error):
        try:
            with disk_errors(where):
                raise error
        except MachineError as told:
            return Failure(str(told), detail, disk_full=True)
    return Failure(f"{type(error).__name__}: {text}"[:REASON_CHARS] if text else type(error).__name__, detail)


def _comes_from(error: BaseException, kind: type[E], fits: Callable[[E], bool] = lambda _: True) -> bool:
    """True where the error is, or was raised because of or while handling, one of that kind which fits."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, kind) and fits(link):
            return True
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return False


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


def _remove(log: Path, even_full: bool) -> None:
    """Take away a log that nobody will read, and the folder that was made for it."""
    with contextlib.suppress(OSError):
        if even_full or log.stat().st_size == 0:
            log.unlink()
        log.parent.rmdir()


def leave() -> None:
    """End this process now, and what it started, from any thread and in the middle of anything."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def listen(handle: int, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Read requests until there can be no more, which means that the parent is gone."""
    with contextlib.suppress(OSError, ValueError), open(handle, "rb", closefd=False) as pipe:
        for line in pipe:
            request = json.loads(line)
            if request.get("stop"):
                os.kill(os.getpid(), signal.SIGUSR1)
            else:
                requests.put(request)
    leave()


def connected(path: str) -> int:
    """A descriptor for both directions, to the parent that listens at `path`; ends the process where there is none."""
    parent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        parent.connect(path)
    except OSError as error:
        print(f"{path}: the parent of this rank is gone ({error})", file=sys.stderr)
        leave()
    return parent.detach()


def dialled(port: int, addresses: Sequence[str]) -> int:
    """A descriptor for both directions, to the parent on another host, at the first address where somebody answers.

    Raises SystemExit where nobody does.
    """
    tried = []
    for address in dict.fromkeys(addresses):
        try:
            parent = socket.create_connection((address, port), timeout=DIAL_S)
        except OSError as error:
            tried.append(f"{address}: {error}")
            continue
        parent.settimeout(None)
        keep_alive(parent)
        return parent.detach()
    sys.exit(f"the parent of this rank does not answer on port {port} ({'; '.join(tried)})")


def keep_alive(connection: socket.socket) -> None:
    """Let the end of the other host be noticed, which says no goodbye, within two minutes; and send at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 120_000)):
        if hasattr(socket, name):  # not every system lets them be set
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def main(arguments: list[str] | None = None) -> None:
    """Serve until told to quit, or until the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m w2s.execute.worker", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--requests", type=int, help="descriptor to read requests from")
    parser.add_argument("--replies", type=int, help="descriptor to write replies to")
    parser.add_argument("--connect", help="instead of these, the Unix socket of the parent; RANK says who we are")
    parser.add_argument("--dial", type=int, help="instead of these, the TCP port of the parent; see `srun`")
    parser.add_argument("--store", type=Path, required=True, help="folder of the artifacts")
    parser.add_argument("--body", default=BODY, help="module:function that runs a step")
    given = parser.parse_args(arguments)
    own_streams()
    faulthandler.enable(file=2)
    rank = int(os.environ["RANK"]) if given.connect or given.dial else None
    hello: dict[str, Any] = {"rank": rank, "pid": os.getpid()}
    incoming, outgoing = given.requests, given.replies
    if given.connect:
        incoming = outgoing = connected(given.connect)
    if given.dial:
        hello["secret"] = os.environ.pop(SECRET)  # what a step starts has no business with it
        incoming = outgoing = dialled(given.dial, os.environ.pop(ADDRESSES).split())
    for handle in (incoming, outgoing):
        os.set_inheritable(handle, False)  # a program started by a step must not hold our pipes open
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, and it decides
    worker = Worker(Store(given.store), given.body, Replies(outgoing), rank, patient=bool(given.dial))
    for number in SIGNALS:
        signal.signal(number, worker.on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher of a group blocks them
    if rank is not None:
        worker.replies.send(**hello)
    threading.Thread(target=listen, args=(incoming, worker.requests), daemon=True).start()
    worker.serve()
    leave()


if __name__ == "__main__":
    main()
