"""A plan and a store in, its steps carried out by workers on this machine; what happened to each step out.

What the store has is done. A step that another process works on is waited for. A failing step blocks what needs it
and nothing else. No worker outlives the call, nor this process, however either ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from w2s.errors import Interrupted, MachineError
from w2s.execute.display import Display
from w2s.execute.forecast import Forecast
from w2s.execute.group import RankGroup
from w2s.execute.process import GRACE_S, STOP_GRACE_S, WorkerProcess, end_all, wait_for
from w2s.execute.schedule import Idle, Schedule, warmth
from w2s.execute.slots import Launcher, Slot, machine_slots
from w2s.execute.srun import SrunGroup
from w2s.execute.steplog import log_path
from w2s.execute.worker import BODY
from w2s.plan import Node, Plan, is_done
from w2s.spec import Engine
from w2s.stopping import EXIT_CODE, Asked, as_interrupts
from w2s.store import Store

TICK_S = 0.25  # dead workers are noticed and the view is redrawn this often
POLL_S = 1.0  # steps of other processes are looked at this often
PATIENCE_S = 1.0  # what stopped a worker may be on its way to this process too
SHOWN_NEXT = 20
WORKERS: dict[Launcher | None, type[WorkerProcess]] = {None: WorkerProcess, "torchrun": RankGroup, "srun": SrunGroup}


class Waiting(Interrupted):
    """Stopped while nothing was in hand: all that was left to begin with is in other processes."""


@dataclass
class Outcome:
    """What happened to each step.

    `left`: not begun, because something failed and `keep_going` was off, or because the disk is full.
    """

    done: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)  # was there, or another process made it meanwhile
    failed: dict[str, str] = field(default_factory=dict)  # step -> reason
    blocked: dict[str, str] = field(default_factory=dict)  # step -> the failed ancestor
    left: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.failed or self.blocked or self.left)


@dataclass
class _Away:
    """A step in another process. `failure`: the record of an earlier try, to tell a new one from."""

    failure: dict[str, Any] | None
    lapsed: bool = False  # at the last look nobody held it any more


def execute(
    plan: Plan,
    store: Store,
    *,
    engine: Engine,
    keep_going: bool = True,
    display: Display | None = None,
    seconds: Mapping[str, float] | None = None,
    places: list[Slot] | None = None,
    body: str = BODY,
) -> Outcome:
    """Carry out every step of the plan that is not done.

    `seconds`: what is expected of a step, where something is known; it orders the work and tells the time left.
    `places`: where workers run; None: as the engine and this machine have it.
    `keep_going`: after a failure go on with what does not need the failed step. `body`: module:function of the steps.
    Raises MachineError before any work where the store cannot be written or the device is not there, Interrupted after
    Ctrl-C, SIGTERM or SIGUSR1, with the workers ended and what they could save saved; Waiting where they had nothing.
    """
    display = display or Display()
    finished = {digest for digest, node in plan.nodes.items() if is_done(node, store)}
    if len(finished) < len(plan.nodes):
        store.require_writable()
        places = machine_slots(engine) if places is None else places
    else:
        places = []
    for digest in finished:
        store.tidy(plan.nodes[digest].kind, digest)
    run = _Run(plan, store, places, finished, display, dict(seconds or {}), body, keep_going)
    with as_interrupts():
        try:
            display.begin(len(plan.nodes), len(finished), len(places))
            run.loop()
        except KeyboardInterrupt as stop:
            kind = Waiting if run.waits else Interrupted
            # From here on another one only shortens the grace of the workers.
            with contextlib.suppress(KeyboardInterrupt):
                run.stop()
            asked = isinstance(stop, Asked)
            count = f"{run.kept()} of {len(plan.nodes)}"
            raise kind(
                f"stopped by {stop if asked else 'Ctrl-C'}: {count} steps are done and kept; the same command goes on",
                *((EXIT_CODE, str(stop)) if asked else ()),
            ) from None
        finally:
            run.end()
            display.close()
    return run.outcome


class _Run:
    """The state of one `execute`."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        places: list[Slot],
        finished: set[str],
        display: Display,
        seconds: dict[str, float],
        body: str,
        keep_going: bool,
    ) -> None:
        self.nodes, self.store, self.display, self.body = plan.nodes, store, display, body
        self.slots, self.keep_going = {slot.index: slot for slot in places}, keep_going
        self.warmth = {digest: warmth(node.spec) for digest, node in plan.nodes.items()}
        self.schedule = Schedule(plan.nodes.values(), done=finished, costs=seconds, warmth=self.warmth)
        self.forecast = Forecast({digest: node.kind for digest, node in plan.nodes.items()}, seconds)
        self.outcome = Outcome(reused=[digest for digest in plan.nodes if digest in finished])
        self.workers: dict[int, WorkerProcess] = {}
        self.began_s: dict[str, float] = {}
        self.elsewhere: dict[str, _Away] = {}
        self.poll_at_s = 0.0
        self.disk_full = False

    def loop(self) -> None:
        """Hand out, listen, look around, until nothing is left to do."""
        while not self.schedule.over:
            self._hand_out()
            wait_for([handle for worker in self.workers.values() for handle in worker.handles()], TICK_S)
            for worker in list(self.workers.values()):
                self._attend(worker)
            self._look_elsewhere()
            self._tick()
        self.outcome.left = self.schedule.of("waiting", "ready")

    def stop(self) -> None:
        """Let the workers save what they have in hand, then end them; say which took longer than STOP_GRACE_S."""
        if any(worker.digest for worker in self.workers.values()):
            self.display.say("stopping: saving checkpoints; once more to stop at once")
        for digest in self.end(STOP_GRACE_S):
            if not is_done(self.nodes[digest], self.store):
                self.display.say(
                    f"{self.nodes[digest].title}: cut off in the middle of saving, {STOP_GRACE_S:g} s after it was "
                    "asked to stop; it goes on from the checkpoint before, or from its beginning where there is none"
                )

    def end(self, grace_s: float = GRACE_S) -> list[str]:
        """End the workers; harmless when repeated. Returns the steps in hand of those that took longer than that."""
        workers, self.workers = list(self.workers.values()), {}
        return [worker.digest for worker in end_all(workers, grace_s) if worker.digest is not None]

    def kept(self) -> int:
        """How many steps are done, those included that ended while the workers were being stopped."""
        late = [digest for digest in self.schedule.of("running") if is_done(self.nodes[digest], self.store)]
        return len(self.schedule.of("done")) + len(late)

    @property
    def waits(self) -> bool:
        """True while other processes work on steps of this run, and none of its own does."""
        return bool(self.elsewhere) and not self.schedule.of("running")

    def _hand_out(self) -> None:
        idle = []
        for index in self.slots:
            worker = self.workers.get(index)
            if worker is None:
                idle.append(Idle(index))
            elif worker.digest is None:
                idle.append(Idle(index, worker.warm, live=True))
        for index, digest in self.schedule.assign(idle):
            self._give(index, self.nodes[digest])

    def _give(self, index: int, node: Node) -> None:
        try:
            worker = self.workers.get(index) or self._start_worker(index)
        except OSError as error:  # no processes, descriptors or memory left
            self._failed(node, f"no worker could be started: {error}")
            return
        try:
            worker.send(node.digest, node.spec.model_dump(mode="json"))
        except BrokenPipeError:
            self._died(node, worker, "the worker ended before it could be given a step")
            return
        worker.warm = self.warmth[node.digest]
        self.began_s[node.digest] = self.display.clock()
        self.display.start(node.digest, node.title, index)

    def _start_worker(self, index: int) -> WorkerProcess:
        slot = self.slots[index]
        worker = WORKERS[slot.launcher](slot, self.store.root, self.body)
        self.workers[index] = worker
        return worker

    def _attend(self, worker: WorkerProcess) -> None:
        """Take in what a worker said, and its death."""
        self._hear(worker)
        if worker.retires:
            if worker.digest is not None:  # a rank stumbled over the step before
                self._again(self.nodes[worker.digest], "its workers have to be replaced")
            self._drop(worker)
            return
        if worker.stopped_s is not None and time.monotonic() - worker.stopped_s < PATIENCE_S:
            return
        death = worker.death()
        if death is None:
            return
        self._hear(worker)  # what it said between the two looks
        if worker.digest is not None:
            self._died(self.nodes[worker.digest], worker, death)
        else:
            self._drop(worker)

    def _died(self, node: Node, worker: WorkerProcess, death: str) -> None:
        """A worker with a step in hand is gone: the step failed, unless it was finished, or not yet taken up."""
        words = worker.last_words()
        self._drop(worker)
        if is_done(node, self.store):
            self._done(node, "done")
            return
        if worker.served and not worker.begun:  # it died idle, which says nothing about this step
            self._again(node, "its worker had ended before")
            return
        rank = worker.rank if worker.begun else None  # another try's log says nothing about this one
        log = log_path(self.store, node.digest, rank)
        reason = f"{death} (its log: {log.name})" if rank and log.exists() else death
        with contextlib.suppress(MachineError, OSError):
            self.store.fail(node.digest, reason, words)
        self._failed(node, reason, rank)

    def _hear(self, worker: WorkerProcess) -> None:
        for reply in worker.read():
            event = reply["event"]
            if event == "stopped":
                worker.stopped_s = time.monotonic()
                continue
            if reply["digest"] != worker.digest:
                worker.retires |= event in ("failed", "again")  # one rank is through with a step, another is not
                continue
            node = self.nodes[reply["digest"]]
            if event == "progress":
                self.display.progress(node.digest, reply["what"], reply["done"], reply["total"])
            elif event == "begin":
                worker.begun = True
            else:
                worker.digest, worker.begun, worker.served = None, False, True
                self._ended(node, worker, reply)

    def _ended(self, node: Node, worker: WorkerProcess, reply: dict[str, Any]) -> None:
        """A worker has brought its step to an end."""
        event, rank = reply["event"], reply.get("rank")
        if event == "failed":
            worker.retires = reply["retire"] or rank is not None
            if rank is not None:  # a worker that is alone has done so itself
                with contextlib.suppress(MachineError, OSError):
                    self.store.fail(node.digest, reply["reason"], reply["detail"])
            self._failed(node, reply["reason"], rank)
            if reply["disk_full"] and not self.disk_full:
                self.disk_full = True
                self.schedule.stop()
                self.display.say("the disk is full, so no further step is begun; those that run may end")
        elif event == "again":
            worker.retires = True
            self._again(node, reply["reason"])
        elif event == "busy":
            self.schedule.away(node.digest)
            self.elsewhere[node.digest] = _Away(self.store.failure(node.digest))
            self.display.end(node.digest, node.title, "elsewhere", "another process works on it; waiting for it")
        elif not is_done(node, self.store):
            self._failed(node, f"the step ended, but its artifact is not in {self.store.root}")
        else:
            self._done(node, event)

    def _again(self, node: Node, reason: str) -> None:
        self.display.end(node.digest, node.title, "again", reason)
        self.schedule.requeue(node.digest)

    def _done(self, node: Node, how: str) -> None:
        (self.outcome.done if how == "done" else self.outcome.reused).append(node.digest)
        if how == "done":
            self.forecast.finished(node.digest, self.display.clock() - self.began_s[node.digest])
        self.schedule.done(node.digest)
        self.display.end(node.digest, node.title, how)

    def _failed(self, node: Node, reason: str, rank: int | None = None) -> None:
        """A step failed; `rank`: whose log tells about it."""
        self.outcome.failed[node.digest] = reason
        log = log_path(self.store, node.digest, rank)
        self.display.end(node.digest, node.title, "failed", reason, log if log.exists() else None)
        for digest in self.schedule.fail(node.digest):
            self.outcome.blocked[digest] = node.digest
            blocked = self.nodes[digest]
            self.display.end(digest, blocked.title, "blocked", f"needs {node.title}")
        if not self.keep_going:
            self.schedule.stop()

    def _drop(self, worker: WorkerProcess) -> None:
        del self.workers[worker.slot.index]
        worker.kill()

    def _look_elsewhere(self) -> None:
        """What has become of the steps that other processes work on."""
        now_s = time.monotonic()
        if not self.elsewhere or now_s < self.poll_at_s:
            return
        self.poll_at_s = now_s + POLL_S
        for digest, away in list(self.elsewhere.items()):
            node = self.nodes[digest]
            if is_done(node, self.store):
                del self.elsewhere[digest]
                self._done(node, "reused")
            elif self.store.is_claimed(digest):
                away.lapsed = False
            elif not away.lapsed:  # between giving up a claim and recording why lies a moment: look again
                away.lapsed = True
            else:
                del self.elsewhere[digest]
                failure = self.store.failure(digest)
                self.store.refresh(node.kind, digest)
                if is_done(node, self.store):
                    self._done(node, "reused")
                elif failure is not None and failure != away.failure:
                    self._failed(node, f"{failure.get('reason', 'failed')} (in another process)")
                else:
                    self.schedule.requeue(digest)

    def _tick(self) -> None:
        now_s = self.display.clock()
        elapsed = {digest: now_s - self.began_s[digest] for digest in self.schedule.of("running")}
        to_start = self.schedule.of("waiting", "ready")
        left_s = None if self.elsewhere else self.forecast.left_s(to_start, elapsed, len(self.slots))
        upcoming = [self.nodes[digest].title for digest in self.schedule.upcoming()[:SHOWN_NEXT]]
        self.display.tick(upcoming, [self.nodes[digest].title for digest in self.elsewhere], left_s)
