from __future__ import annotations

import errno
import os
import select
import signal
from pathlib import Path
from typing import Any

import pytest
from fake_lab import BODY, alive, step_spec, until  # type: ignore[import-not-found]

from w2s.disk import disk_errors
from w2s.errors import MachineError, SpecError, StepError
from w2s.execute.failure import Failure, explain
from w2s.execute.process import WorkerProcess, end_all, how_it_ended
from w2s.execute.slots import Slot
from w2s.execute.worker import Reporter, engine_of
from w2s.memory import advice
from w2s.spec import Engine


class OutOfMemoryError(RuntimeError):
    pass


class SafetensorError(Exception):
    """Named like the library's, which has no errno."""


def test_progress_is_thinned_but_phases_begin_and_end():
    now_s, sent = [0.0], []
    report = Reporter(lambda event, **more: sent.append((event, more["what"], more["done"])), lambda: now_s[0])
    report("load", 0, 0)
    for done in range(1, 101):
        now_s[0] += 0.01
        report("train", done, 100)
    assert sent[0] == ("progress", "load", 0)
    assert sent[1] == ("progress", "train", 1)
    assert sent[-1] == ("progress", "train", 100)
    assert 10 <= len(sent) <= 14


def test_reasons():
    where = Path("/somewhere/store")
    assert explain(SpecError(["one", "two"]), where) == Failure("one\ntwo")
    assert explain(StepError("loss is not finite"), where) == Failure("loss is not finite")
    assert explain(KeyError("x"), where) == Failure("KeyError: 'x'", "KeyError: 'x'\n")
    assert explain(SystemExit(3), where).reason == "SystemExit: 3"
    assert explain(ValueError(), where).reason == "ValueError"
    assert len(explain(ValueError("x" * 9999), where).reason) == 2000
    assert explain(OSError(errno.ENOENT, "No such file", "model"), where).reason.startswith("FileNotFoundError: ")


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, False)])
def test_a_full_disk_is_known_as_such_wherever_it_was_noticed(number, full):
    where = Path("/somewhere/store")
    raw = OSError(number, os.strerror(number))
    assert explain(raw, where).disk_full is full
    with pytest.raises(MachineError) as told, disk_errors(where):
        raise raw
    assert explain(told.value, where).disk_full is full
    assert explain(told.value, where).reason == str(told.value)


@pytest.mark.parametrize(("number", "full"), [(28, True), (122, True), (13, False)])
def test_a_full_disk_is_known_as_such_where_safetensors_noticed_it(number, full):
    where = Path("/somewhere/store")
    raw = SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    failure = explain(raw, where)
    assert failure.disk_full is full
    assert failure.reason.startswith("/somewhere/store: " if full else "SafetensorError: ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_running_out_of_memory_is_told_clearly_and_the_worker_retires(error):
    failure = explain(error, Path("/somewhere"))
    assert failure.retire
    assert failure.reason.startswith("out of memory; run fewer --workers (")
    with_model = explain(error, Path("/somewhere"), Engine(gradient_checkpointing=True))
    assert with_model.reason.startswith(f"out of memory; {advice(Engine(gradient_checkpointing=True))} (")
    assert not explain(RuntimeError("something else"), Path("/somewhere")).retire


def test_a_step_that_tells_of_lost_memory_in_its_own_words_retires_the_worker_too():
    def failing(error: Exception) -> Failure:
        try:
            try:
                raise error
            except Exception:
                raise StepError("one text at a time is too much")  # noqa: B904 - as a handler's own mistake
        except StepError as told:
            return explain(told, Path("/somewhere"))

    assert failing(MemoryError()) == Failure("one text at a time is too much", retire=True)
    assert failing(KeyError()) == Failure("one text at a time is too much")


def test_the_advice_is_for_the_engine_of_the_step():
    engine = Engine(micro_batch_size=1)
    assert engine_of({"spec": {"engine": engine.model_dump(mode="json")}}) == engine
    assert engine_of({"spec": step_spec(1).model_dump(mode="json")}) is None
    assert engine_of({"spec": {"engine": {"workers": "many"}}}) is None


def test_how_a_worker_ended():
    assert "killed (SIGKILL), as the kernel does when memory runs out" in how_it_ended(-signal.SIGKILL)
    assert "crashed in native code (SIGSEGV)" in how_it_ended(-signal.SIGSEGV)
    assert how_it_ended(-signal.SIGTERM) == "the worker was stopped from outside (SIGTERM)"
    assert how_it_ended(-99) == "the worker was stopped from outside (signal 99)"
    assert how_it_ended(3) == "the worker exited with code 3 in the middle of the step"
    assert how_it_ended(-signal.SIGKILL, "rank 1 of 2").startswith("rank 1 of 2 was killed (SIGKILL)")
    assert how_it_ended(75).startswith("the worker was stopped from outside (SIGTERM or SIGUSR1)")


def test_what_helps_where_memory_ran_out_depends_on_who_gave_it(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert how_it_ended(-signal.SIGKILL).endswith(": run fewer --workers, or lower engine.micro_batch_size")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert how_it_ended(-signal.SIGKILL).endswith(": raise slurm.mem, or lower engine.micro_batch_size")


def hand(worker: WorkerProcess, number: int) -> None:
    worker.send(step_spec(number).digest(), step_spec(number).model_dump(mode="json"))


def replies_until(worker: WorkerProcess, *events: str) -> list[dict[str, Any]]:
    """The replies up to the first of these events; waits for it."""
    seen: list[dict[str, Any]] = []
    while not any(reply["event"] in events for reply in seen):
        assert worker.handles(), worker.last_words()
        assert select.select(worker.handles(), [], [], 30.0)[0], "the worker says nothing"
        seen += worker.read()
    return seen


@pytest.fixture
def started(lab, monkeypatch):
    """A function that starts a worker on the lab's store."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, C code does not buffer either
    workers = []

    def start(body: str = BODY) -> WorkerProcess:
        workers.append(WorkerProcess(Slot(0, 3, ""), lab.store.root, body))
        return workers[-1]

    yield start
    end_all(workers, grace_s=0.0)


def test_nothing_a_step_prints_reaches_the_protocol_and_all_of_it_its_own_log(lab, started):
    lab.script({1: "noise:alpha", 2: "noise:beta", 3: "raise:at last"})
    worker = started()
    for number in (1, 2):
        hand(worker, number)
        events = replies_until(worker, "done", "failed")
        assert [reply["event"] for reply in events] == ["begin", "progress", "progress", "done"]
        assert {reply["digest"] for reply in events} == {step_spec(number).digest()}
        log = (lab.store.path("materialize", step_spec(number).digest()) / "log.txt").read_bytes()
        word, other = (b"alpha", b"beta") if number == 1 else (b"beta", b"alpha")
        for said in (b"python ", b"error ", b"raw ", b"child "):
            assert said + word in log
        assert other not in log
    hand(worker, 3)
    assert replies_until(worker, "failed")[-1]["reason"] == "ValueError: at last"
    log3 = lab.log(3)
    assert "Traceback" in log3
    assert "beta" not in log3  # not even what C had kept in its buffer
    assert worker.last_words() == ""


def test_what_c_code_keeps_in_its_buffer_goes_to_the_log_of_its_step(lab, started):
    lab.script({1: "cbuffer:mine", 2: "raise:other"})
    worker = started()
    for number in (1, 2):
        hand(worker, number)
        replies_until(worker, "failed")
    assert "buffered in C mine" in lab.log(1)
    assert "buffered in C" not in lab.log(2)


def test_a_failure_is_recorded_with_its_traceback_and_a_users_mistake_without(lab, started):
    lab.script({1: "raise:bad luck", 2: "refuse:no such column", 3: "full", 4: "sysexit:4"})
    worker = started()
    for number in (1, 2, 3, 4):
        hand(worker, number)
        replies_until(worker, "failed")
    failures = [lab.store.failure(step_spec(number).digest()) for number in (1, 2, 3, 4)]
    assert failures[0]["reason"] == "ValueError: bad luck"
    assert "fake_steps.py" in failures[0]["detail"]
    assert (failures[1]["reason"], failures[1]["detail"]) == ("no such column", "")
    assert "Traceback" in lab.log(1)
    assert lab.log(2).splitlines()[-1] == "no such column"
    assert "Traceback" not in lab.log(2)
    assert "the disk is full" in failures[2]["reason"]
    assert failures[3]["reason"] == "SystemExit: 4"
    assert not any(lab.store.is_claimed(step_spec(number).digest()) for number in (1, 2, 3, 4))


def test_a_step_that_ran_nowhere_here_leaves_no_litter_and_a_busy_one_keeps_its_log(lab, started):
    worker = started()
    hand(worker, 1)
    replies_until(worker, "done")
    hand(worker, 1)
    assert replies_until(worker, "reused")
    assert not lab.store.work(step_spec(1).digest()).exists()
    claim = lab.store.claim(step_spec(2).digest())
    lab.store.log_path(step_spec(2).digest()).write_text("the other's words")
    hand(worker, 2)
    replies_until(worker, "busy")
    assert lab.log(2) == "the other's words"
    claim.release()
    assert lab.runs() == [1]


def test_a_body_that_does_not_exist_or_returns_nonsense_fails_the_step(lab, started):
    for body, reason in (
        ("no_such_module:run", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("fake_steps:broken", "RuntimeError: fake_steps:broken returned 'fine'"),
    ):
        worker = started(body)
        hand(worker, 1)
        assert replies_until(worker, "failed")[-1]["reason"] == reason


def test_a_spec_that_arrives_with_another_digest_is_not_run(lab, started):
    worker = started()
    worker.send(step_spec(1).digest(), step_spec(2).model_dump(mode="json"))
    assert "was asked for" in replies_until(worker, "failed")[-1]["reason"]
    assert lab.runs() == []


def test_a_module_in_the_current_folder_does_not_stand_in_for_pythons(lab, started, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    worker = started()
    hand(worker, 1)
    replies_until(worker, "done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_unwinds_the_step_and_gives_back_its_claim(number, lab, started):
    lab.gate("here")
    lab.script({1: "gate:here"})
    worker = started()
    hand(worker, 1)
    lab.pid(1)
    assert lab.store.is_claimed(step_spec(1).digest())
    os.kill(worker.pid, number)
    assert "stopped from outside" in until(worker.death)
    assert worker.process.returncode == 75
    assert [reply["event"] for reply in worker.read()][-1] == "stopped"
    assert not (lab.store.work(step_spec(1).digest()) / "claim.json").exists()
    assert lab.store.failure(step_spec(1).digest()) is None


def test_a_step_that_can_save_what_it_has_does_so_and_further_requests_do_not_hurry_it(lab, started):
    lab.gate("disk")
    lab.script({1: "save:disk"})
    worker = started()
    hand(worker, 1)
    until((lab.folder / "at-disk").exists)
    worker.ask_to_end()
    until((lab.folder / "was-asked").exists)
    worker.ask_to_end()
    os.kill(worker.pid, signal.SIGTERM)  # the first of its kind: a scheduler's, to all processes of a job
    lab.open_gate("disk")
    assert "stopped from outside" in until(worker.death)
    assert worker.process.returncode == 75
    assert (lab.folder / "saved").exists()


def test_a_second_sigterm_does_not_wait(lab, started):
    lab.gate("never")
    lab.script({1: "save:never"})
    worker = started()
    hand(worker, 1)
    until((lab.folder / "at-never").exists)
    os.kill(worker.pid, signal.SIGTERM)
    until((lab.folder / "was-asked").exists)
    os.kill(worker.pid, signal.SIGTERM)
    assert until(worker.death) == "the worker was stopped from outside (SIGTERM)"
    assert not (lab.folder / "saved").exists()


def test_an_idle_worker_leaves_on_a_signal_with_the_same_code(lab, started):
    worker = started()
    hand(worker, 1)
    replies_until(worker, "done")
    os.kill(worker.pid, signal.SIGUSR1)
    until(worker.death)
    assert worker.process.returncode == 75


def test_a_step_that_wants_another_process_is_no_failure(lab, started):
    lab.script({1: "again"})
    worker = started()
    hand(worker, 1)
    assert replies_until(worker, "again")[-1]["reason"] == "with smaller micro-batches"
    assert lab.store.failure(step_spec(1).digest()) is None
    assert not lab.store.is_claimed(step_spec(1).digest())
    assert until(worker.death)  # it takes no further step


def test_sigint_is_the_parents_business(lab, started):
    lab.gate("here")
    lab.script({1: "gate:here"})
    worker = started()
    hand(worker, 1)
    os.kill(lab.pid(1), signal.SIGINT)
    lab.open_gate("here")
    replies_until(worker, "done")


def test_an_idle_worker_quits_when_asked_and_a_stubborn_one_is_killed_with_its_children(lab, started):
    idle = started()
    hand(idle, 1)
    replies_until(idle, "done")
    idle.digest = None
    assert end_all([idle], grace_s=30.0) == []
    assert not alive(idle.pid)
    lab.gate("never")
    lab.script({2: "stubborn:never"})
    stubborn = started()
    hand(stubborn, 2)
    lab.pid(2)
    stubborn.ask_to_end()
    until(lambda: (lab.folder / "was-asked").exists())
    assert end_all([stubborn], grace_s=0.0) == [stubborn]
    assert not alive(stubborn.pid)
