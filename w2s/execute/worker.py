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
import faulthandler
import functools
import importlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from w2s.errors import MachineError, TryAgain, W2SError
from w2s.execute import parent, steplog
from w2s.execute.failure import Failure, comes_from, explain
from w2s.identity import validated
from w2s.spec import AnyStep, Engine, FeaturesSpec, LabelsSpec, LanguageSpec, MaterializeSpec, TrainSpec
from w2s.stopping import EXIT_CODE, SIGNALS, Stopped, Stopping
from w2s.store import Store

BODY = "w2s.steps:run_step"
PROGRESS_S = 0.1  # at most one progress line per so many seconds, so that a fast loop does not drown the parent
KINDS: dict[str, type[AnyStep]] = {
    "materialize": MaterializeSpec,
    "features": FeaturesSpec,
    "language": LanguageSpec,
    "labels": LabelsSpec,
    "train": TrainSpec,
}


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
        self, store: Store, body: str, replies: parent.Replies, rank: int | None = None, patient: bool = False
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
        log, failure, event = steplog.log_path(self.store, digest, self.rank), None, "failed"
        try:
            with steplog.logged(log):
                try:
                    event = self._call(request)
                except TryAgain as again:
                    print(again, file=sys.stderr)
                    self.replies.send(digest=digest, event="again", reason=str(again))
                    return True
                except BaseException as error:  # a library may raise anything, SystemExit included
                    # Ranks agree to stop as soon as one was asked to; the wish may be on its way to this one.
                    if (self.stopping.asked or self.rank is not None) and comes_from(error, Stopped):
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
            steplog.remove(log, even_full=not first)
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
    steplog.own_streams()
    faulthandler.enable(file=2)
    rank = int(os.environ["RANK"]) if given.connect or given.dial else None
    hello: dict[str, Any] = {"rank": rank, "pid": os.getpid()}
    incoming, outgoing = given.requests, given.replies
    if given.connect:
        incoming = outgoing = parent.connected(given.connect)
    if given.dial:
        hello["secret"] = os.environ.pop(parent.SECRET)  # what a step starts has no business with it
        incoming = outgoing = parent.dialled(given.dial, os.environ.pop(parent.ADDRESSES).split())
    for handle in (incoming, outgoing):
        os.set_inheritable(handle, False)  # a program started by a step must not hold our pipes open
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, and it decides
    worker = Worker(Store(given.store), given.body, parent.Replies(outgoing), rank, patient=bool(given.dial))
    for number in SIGNALS:
        signal.signal(number, worker.on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher of a group blocks them
    if rank is not None:
        worker.replies.send(**hello)
    threading.Thread(target=parent.listen, args=(incoming, worker.requests), daemon=True).start()
    worker.serve()
    parent.leave()


if __name__ == "__main__":
    main()
