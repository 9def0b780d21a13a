from __future__ import annotations

import io
import json
import os
import signal
import time
from typing import Any

import fake_nfs  # type: ignore[import-not-found]
import pytest
from fake_lab import alive, plan_of, step_spec, until  # type: ignore[import-not-found]

from w2s.errors import Interrupted, MachineError
from w2s.execute import local, process
from w2s.execute.display import Display, Lines
from w2s.execute.local import execute
from w2s.execute.slots import machine_slots
from w2s.spec import Engine

DIAMOND = {1: [], 2: [1], 3: [1], 4: [2, 3]}


class Recorder(Display):
    """Keeps the events; `on` may act on one, by its word."""

    def __init__(self, **on) -> None:
        super().__init__(time.monotonic)
        self.events: list[tuple[str, str]] = []
        self.on = on

    def event(self, word: str, text: str) -> None:
        self.events.append((word, text))
        if act := self.on.get(word):
            act(text)

    def words(self) -> list[str]:
        return [word for word, _ in self.events]


def made(lab, number: int) -> Any:
    path = lab.store.path("materialize", step_spec(number).digest()) / "made.json"
    return json.loads(path.read_text())


def test_every_step_runs_once_after_its_parents_and_a_second_run_does_nothing(lab):
    recorder = Recorder()
    outcome = lab.execute(DIAMOND, workers=2, display=recorder)
    assert outcome.ok
    assert lab.numbers(outcome.done) == lab.runs() == [1, 2, 3, 4]
    order = [text for word, text in recorder.events if word == "start"]
    assert order[0] == "step 1"
    assert order[3] == "step 4"
    assert recorder.board.done == recorder.board.total == 4
    again = lab.execute(DIAMOND, workers=2)
    assert again.done == []
    assert lab.numbers(again.reused) == [1, 2, 3, 4]
    assert lab.runs() == [1, 2, 3, 4]


def test_a_warm_worker_is_used_again_and_no_more_are_started_than_can_work(lab, monkeypatch):
    started = []

    class Counted(process.WorkerProcess):
        def __init__(self, *given) -> None:
            started.append(given)
            super().__init__(*given)

    monkeypatch.setitem(local.WORKERS, None, Counted)
    chain = {number: [number - 1] if number > 1 else [] for number in range(1, 6)}
    assert lab.execute(chain, workers=4).ok
    assert len(started) == 1
    assert len({made(lab, number)["pid"] for number in chain}) == 1
    assert not alive(made(lab, 1)["pid"])  # no worker outlives the call
    assert made(lab, 1)["threads"] == machine_slots(Engine(workers=4, device="cpu"))[0].threads


WAYS_TO_FAIL = {
    2: ("raise:no luck", "ValueError: no luck"),
    3: ("refuse:no such file", "no such file"),
    4: ("signal:SIGKILL", "the worker was killed (SIGKILL)"),
    5: ("signal:SIGSEGV", "crashed in native code (SIGSEGV)"),
    6: ("signal:SIGTERM", "stopped from outside (SIGTERM or SIGUSR1)"),
    7: ("exit:3", "exited with code 3"),
    8: ("oom", "out of memory"),
}


def test_failing_steps_fail_alone_each_with_its_reason(lab):
    lab.script({number: action for number, (action, _) in WAYS_TO_FAIL.items()})
    graph = {1: [], **{number: [1] for number in range(2, 9)}, 10: [1], 11: [10, 4], 12: [11], 13: [10]}
    digest = {number: step_spec(number).digest() for number in graph}
    recorder = Recorder()
    outcome = lab.execute(graph, display=recorder)
    assert not outcome.ok
    assert lab.numbers(outcome.failed) == list(WAYS_TO_FAIL)
    for number, (_, reason) in WAYS_TO_FAIL.items():
        assert reason in outcome.failed[digest[number]]
        assert reason in lab.store.failure(digest[number])["reason"]
        assert lab.store.log_path(digest[number]).exists()
    assert outcome.blocked == {digest[11]: digest[4], digest[12]: digest[4]}
    assert ("blocked", "step 11: needs step 4") in recorder.events
    assert lab.numbers(outcome.done) == [1, 10, 13]
    # The same command, once the causes are gone, does what is left and no more.
    lab.script({})
    again = lab.execute(graph)
    assert again.ok
    assert lab.numbers(again.done) == [*WAYS_TO_FAIL, 11, 12]
    assert all(lab.store.failure(digest[number]) is None for number in graph)


@pytest.mark.parametrize("how", ["full", "full_tensors"])
def test_a_full_disk_stops_the_run_from_beginning_more_and_says_so_once(lab, how):
    """Each further step would train, and then fail in the end."""
    lab.gate("a")
    lab.script({1: how, 2: "gate:a", 3: "raise:unlucky"})
    said: list[str] = []
    recorder = Recorder(failed=lambda _: lab.open_gate("a"))
    recorder.say = said.append  # type: ignore[assignment, method-assign]
    outcome = lab.execute({1: [], 2: [], 3: [], 4: [1]}, workers=2, display=recorder)
    assert lab.numbers(outcome.failed) == [1]
    assert "the disk is full" in outcome.failed[step_spec(1).digest()]
    assert lab.numbers(outcome.blocked) == [4]
    assert lab.numbers(outcome.done) == [2]  # was at work already
    assert lab.numbers(outcome.left) == [3]
    assert [line for line in said if "so no further step is begun" in line] == [
        "the disk is full, so no further step is begun; those that run may end"
    ]
    # Control: another failure stops nothing.
    lab.script({1: "raise:unlucky"})
    assert lab.numbers(lab.execute({1: [], 3: []}).done) == [3]


def test_a_step_that_wants_another_process_is_run_once_more_in_a_fresh_one(lab):
    lab.script({1: "again"})
    recorder = Recorder()
    outcome = lab.execute({1: [], 2: [1]}, display=recorder)
    assert outcome.ok
    assert lab.runs() == [1, 1, 2]
    assert ("again", "step 1: with smaller micro-batches") in recorder.events
    assert made(lab, 1)["pid"] != int((lab.folder / "tried").read_text())


def test_a_worker_that_dies_after_its_step_was_committed_has_done_it(lab):
    outcome = execute(plan_of({1: []}), lab.store, engine=Engine(workers=1, device="cpu"), body="fake_steps:dies_late")
    assert lab.numbers(outcome.done) == [1]


def test_the_log_of_a_killed_worker_is_kept_and_a_crash_says_where_it_was(lab):
    lab.script({1: "say_then:SIGKILL", 2: "say_then:SIGSEGV"})
    outcome = lab.execute({1: [], 2: []})
    assert lab.numbers(outcome.failed) == [1, 2]
    assert "last words" in lab.log(1)
    assert "Segmentation fault" in lab.log(2)
    assert "fake_steps.py" in lab.log(2)


def test_a_step_that_closes_every_descriptor_fails_and_does_not_hang_the_run(lab):
    lab.gate("never")
    lab.script({1: "closeall"})
    outcome = lab.execute({1: [], 2: []})
    assert "closed its reply pipe" in outcome.failed[step_spec(1).digest()]
    assert lab.numbers(outcome.done) == [2]
    assert not alive(lab.pid(1))


def test_a_step_that_leaves_no_artifact_is_not_believed(lab):
    outcome = execute(
        plan_of({1: []}), lab.store, engine=Engine(workers=1, device="cpu"), body="fake_steps:claims_done"
    )
    assert "its artifact is not in" in outcome.failed[step_spec(1).digest()]


def test_without_keep_going_nothing_is_begun_after_a_failure(lab):
    lab.script({1: "raise:x"})
    outcome = lab.execute({1: [], 2: [], 3: [1]}, keep_going=False)
    assert lab.numbers(outcome.failed) == [1]
    assert lab.numbers(outcome.blocked) == [3]
    assert lab.numbers(outcome.left) == [2]
    assert lab.runs() == [1]


def test_a_worker_that_dies_idle_is_replaced_and_no_step_pays_for_it(lab):
    killed: list[int] = []

    def kill_once(_: str) -> None:
        if not killed:
            killed.append(lab.pid(1))
            os.kill(killed[0], signal.SIGKILL)
            until(lambda: not alive(killed[0]))

    outcome = lab.execute({1: [], 2: [1], 3: [2]}, display=Recorder(done=kill_once))
    assert outcome.ok
    assert lab.runs() == [1, 2, 3]
    assert made(lab, 2)["pid"] != killed[0]


def test_a_worker_that_cannot_start_fails_its_step_with_its_last_words(lab, monkeypatch):
    monkeypatch.setattr(process, "BOOT", "raise SystemExit('no python today')")
    outcome = lab.execute({1: []})
    assert "exited with code 1" in outcome.failed[step_spec(1).digest()]
    assert "no python today" in lab.store.failure(step_spec(1).digest())["detail"]


def test_a_store_that_cannot_be_written_is_refused_before_any_work(lab):
    lab.store.root.write_text("a file, not a folder")
    with pytest.raises(MachineError, match="a file stands where a folder is needed"):
        lab.execute({1: []})
    assert lab.runs() == []


def test_a_step_of_another_process_is_waited_for_and_taken_from_there(lab, monkeypatch):
    monkeypatch.setattr(local, "POLL_S", 0.05)
    lab.gate("slow")
    lab.script({1: "gate:slow"})
    other = lab.parent({1: []})
    lab.pid(1)
    recorder = Recorder(elsewhere=lambda _: lab.open_gate("slow"))
    outcome = lab.execute({1: [], 2: [1]}, display=recorder)
    assert outcome.ok
    assert lab.numbers(outcome.reused) == [1]
    assert lab.numbers(outcome.done) == [2]
    assert "elsewhere" in recorder.words()
    assert other.wait(30) == 0
    assert lab.runs() == [1, 2]


def test_a_step_of_another_node_is_seen_although_this_one_believed_it_absent(lab, monkeypatch):
    monkeypatch.setattr(local, "POLL_S", 0.05)
    lab.gate("slow")
    lab.script({1: "gate:slow"})
    other = lab.parent({1: []})
    lab.pid(1)
    fake_nfs.mount(monkeypatch)
    recorder = Recorder(elsewhere=lambda _: lab.open_gate("slow"))
    assert lab.numbers(lab.execute({1: []}, display=recorder).reused) == [1]
    assert recorder.words().count("start") == 1, "it was not handed out again"
    assert other.wait(30) == 0
    assert lab.runs() == [1]


def test_a_failure_in_another_process_is_taken_over_not_tried_again(lab, monkeypatch):
    monkeypatch.setattr(local, "POLL_S", 0.3)
    lab.gate("slow")
    lab.script({1: "gate_then_raise:slow"})
    other = lab.parent({1: []})
    lab.pid(1)
    outcome = lab.execute({1: [], 2: [1]}, display=Recorder(elsewhere=lambda _: lab.open_gate("slow")))
    assert outcome.failed == {step_spec(1).digest(): "ValueError: after the gate (in another process)"}
    assert lab.numbers(outcome.blocked) == [2]
    assert other.wait(30) == 1
    assert lab.runs() == [1]


def test_two_runs_on_one_store_never_do_a_step_twice(lab):
    graph = {number: [number - 3] if number > 3 else [] for number in range(1, 13)}
    runs = [lab.parent(graph, workers=2) for _ in range(2)]
    ends = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ends
    counts = [json.loads(out) for out, _ in ends]
    assert [count["done"] + count["reused"] for count in counts] == [12, 12]
    assert sum(count["done"] for count in counts) == 12
    assert lab.runs() == list(range(1, 13))


@pytest.mark.parametrize("whole_group", [False, True])
def test_kill_9_of_the_parent_leaves_no_worker_and_the_next_run_goes_on(lab, whole_group):
    lab.gate("first")
    lab.gate("child")
    lab.script({2: "child:first"})
    parent = lab.parent({1: [], 2: [1], 3: [2]})
    worker, child = lab.pid(2), int(until(lambda: lab._text("pid-child")))
    assert worker != parent.pid
    (os.killpg if whole_group else os.kill)(parent.pid, signal.SIGKILL)
    assert parent.wait(30) == -signal.SIGKILL
    until(lambda: not alive(worker) and not alive(child))
    assert not lab.store.is_claimed(step_spec(2).digest())
    lab.script({})
    outcome = lab.execute({1: [], 2: [1], 3: [2]})
    assert outcome.ok
    assert lab.numbers(outcome.reused) == [1]
    assert lab.runs() == [1, 2, 2, 3]
    folder = lab.store.path("materialize", step_spec(2).digest()).parent
    assert [path.name for path in folder.iterdir()] == [step_spec(2).digest()]


WAYS_TO_STOP = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 75, "SIGTERM"), (signal.SIGUSR1, 75, "SIGUSR1")]


@pytest.mark.parametrize(("number", "code", "name"), WAYS_TO_STOP)
def test_an_interrupt_lets_the_step_save_what_it_has_and_ends_with_one_line(lab, number, code, name):
    lab.gate("disk")
    lab.script({2: "save:disk"})
    parent = lab.parent({1: [], 2: [1], 3: [2]})
    worker = lab.pid(2)
    until((lab.folder / "at-disk").exists)
    parent.send_signal(number)
    until((lab.folder / "was-asked").exists)
    lab.open_gate("disk")
    out, err = parent.communicate(timeout=30)
    assert parent.returncode == code
    assert out == ""
    assert err.splitlines()[-2].endswith("stopping: saving checkpoints; once more to stop at once")
    assert err.splitlines()[-1] == (
        f"error: stopped by {name}: 1 of 3 steps are done and kept; the same command goes on"
    )
    assert "Traceback" not in err
    assert (lab.folder / "saved").exists()
    assert not alive(worker)
    assert not (lab.store.work(step_spec(2).digest()) / "claim.json").exists()
    assert lab.store.failure(step_spec(2).digest()) is None


def test_a_second_interrupt_does_not_wait_for_a_stubborn_step(lab):
    lab.gate("never")
    lab.script({1: "stubborn:never"})
    parent = lab.parent({1: []})
    worker = lab.pid(1)
    parent.send_signal(signal.SIGINT)
    until(lambda: (lab.folder / "was-asked").exists())
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == 130
    assert "Traceback" not in err
    until(lambda: not alive(worker))


def interrupted_at(lab, condition) -> list[str]:
    """What is said of a run of two steps, the first of which is stopped when the condition holds and will not end."""
    said: list[str] = []

    class Stopping(Recorder):
        say = staticmethod(said.append)  # type: ignore[assignment]

        def progress(self, *_: object) -> None:
            until(condition)
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="0 of 2 steps"):
        lab.execute({1: [], 2: [1]}, display=Stopping())
    return [line for line in said if "cut off" in line]


def test_a_step_that_takes_too_long_to_save_is_cut_off_and_named(lab, monkeypatch):
    monkeypatch.setattr(local, "STOP_GRACE_S", 0.2)
    lab.gate("disk")
    lab.script({1: "save:disk"})
    assert interrupted_at(lab, (lab.folder / "at-disk").exists) == [
        "step 1: cut off in the middle of saving, 0.2 s after it was asked to stop; it goes on from the checkpoint "
        "before, or from its beginning where there is none"
    ]
    assert not (lab.folder / "saved").exists()


def test_a_step_that_ends_in_time_is_not_said_to_be_cut_off(lab):
    lab.gate("never")
    lab.script({1: "gate:never"})
    assert interrupted_at(lab, lambda: lab.pid(1)) == []


def test_an_interrupt_in_this_process_is_an_error_of_ours_and_the_signal_handler_is_put_back(lab):
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="0 of 1 steps"):
        lab.execute({1: []}, display=Recorder(start=interrupt))
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_time_left_is_shown_when_something_is_known(lab):
    stream = io.StringIO()
    display = Lines(stream)
    seconds = {step_spec(1).digest(): 30.0, step_spec(2).digest(): 30.0}
    seen = []
    display.tick = lambda upcoming, elsewhere, left_s: seen.append((upcoming, left_s))  # type: ignore[method-assign]
    lab.execute({1: [], 2: []}, display=display, seconds=seconds)
    upcoming, left_s = seen[0]
    assert upcoming == ["step 2"]
    assert left_s is not None
    assert 30.0 < left_s <= 60.0
    assert "[2/2 done]" in stream.getvalue()
