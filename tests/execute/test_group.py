"""Groups of real ranks: two processes under torchrun that talk by gloo.

Starting one takes some seconds: here one is, and the rest is of the tier `recipe`.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_lab import GROUP_BODY, alive, step_spec, until  # type: ignore[import-not-found]

from w2s.errors import Interrupted
from w2s.execute import group, local, process
from w2s.execute.display import Display
from w2s.execute.slots import Slot


class Recorder(Display):
    """Keeps what is said; `on` acts on an event, by its word."""

    def __init__(self, on: dict[str, Callable[[], None]] | None = None) -> None:
        super().__init__()
        self.said: list[str] = []
        self.on = on or {}

    def event(self, word: str, text: str) -> None:
        super().event(word, text)
        if act := self.on.get(word):
            act()

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def temporary(monkeypatch):
    """An empty folder for temporary files, with a name as short as that of a Unix socket in it has to be."""
    with tempfile.TemporaryDirectory(prefix="ranks-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def made(lab, number: int) -> Any:
    path = lab.store.path("materialize", step_spec(number).digest()) / "made.json"
    return json.loads(path.read_text())


def rank_pids(lab, number: int) -> list[int]:
    """The ranks that run, or ran, a step, and their launcher; waits for them."""
    return [int(until(lambda name=name: lab._text(name), 60.0)) for name in
            (f"pid-{number}-0", f"pid-{number}-1", f"launcher-{number}")]  # fmt: skip


def made_or_none(lab, number: int) -> list[int]:
    """The same, of those that are known by now."""
    names = [f"pid-{number}-0", f"pid-{number}-1", f"launcher-{number}"]
    return [int(text) for text in map(lab._text, names) if text]


@pytest.mark.recipe
def test_a_group_works_through_steps_and_a_rank_that_falls_takes_it_down_but_no_other_step(lab, temporary, capfd):
    lab.script({
        3: "rank1=say_then:SIGKILL",  # while rank 0 waits in a collective, which says that its peer is gone
        5: "rank1=raise:no luck",  # while rank 0 waits in a collective, for ever
        6: "rank1=again",
    })  # fmt: skip
    recorder = Recorder()
    graph: dict[int, list[int]] = {1: [], 2: [1], 3: [2], 4: [], 5: [], 6: [], 7: [3]}
    outcome = lab.execute(graph, processes=2, display=recorder)
    digest = {number: step_spec(number).digest() for number in graph}

    assert lab.numbers(outcome.done) == [1, 2, 4, 6]
    assert made(lab, 1)["sum"] == 3.0  # both ranks were there
    assert made(lab, 1)["threads"] == 1
    # One group for as long as nothing happens to it, a new one afterwards, nothing of either left.
    assert made(lab, 1)["pids"] == made(lab, 2)["pids"] == rank_pids(lab, 3)[:2]
    assert len({tuple(made(lab, number)["pids"]) for number in (1, 4, 6)}) == 3
    assert not any(alive(pid) for number in graph for pid in made_or_none(lab, number))

    assert lab.numbers(outcome.failed) == [3, 5]
    died = "rank 1 of 2 was killed (SIGKILL), as the kernel does when memory runs out"
    assert outcome.failed[digest[3]].startswith(died)
    assert outcome.failed[digest[3]].endswith("(its log: log-rank1.txt)")
    assert "last words" in lab.store.log_path(digest[3]).with_name("log-rank1.txt").read_text()
    assert outcome.failed[digest[5]] == "rank 1: ValueError: no luck"
    assert outcome.blocked == {digest[7]: digest[3]}
    for number in (3, 5):
        assert lab.store.failure(digest[number])["reason"] == outcome.failed[digest[number]]
        log = lab.store.log_path(digest[number]).with_name("log-rank1.txt")
        assert f"          its log: {log}" in recorder.said
        assert "rank 1 at work" in log.read_text()
        assert "rank 1 at work" not in lab.log(number)
        assert "rank 0 at work" in lab.log(number)
        assert not lab.store.is_claimed(digest[number])
    assert "Traceback" in lab.store.failure(digest[5])["detail"]
    assert "again     step 6: with smaller micro-batches" in recorder.said

    # Nothing but results is left, and nothing was said past the display.
    for number in (1, 2, 4, 6):
        assert not lab.store.work(digest[number]).exists()
        assert "rank 0 at work" in (lab.store.path("materialize", digest[number]) / "log.txt").read_text()
    assert list(temporary.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.recipe
def test_an_interrupt_lets_all_ranks_save_at_the_same_step(lab):
    """Torchrun is asked too, as by a scheduler that signals every process of a job, and does not hurry the ranks."""
    lab.script({1: "all=train"})
    parent = lab.parent({1: []}, processes=2)
    until(lambda: lab._text("trains-0") and lab._text("trains-1"), 60.0)
    pids = rank_pids(lab, 1)
    for pid in (pids[2], parent.pid):
        os.kill(pid, signal.SIGTERM)
    out, err = parent.communicate(timeout=60)
    assert (parent.returncode, out) == (75, "")
    assert "Traceback" not in err
    assert err.splitlines()[-2].endswith("stopping: saving checkpoints; once more to stop at once")
    assert err.splitlines()[-1] == (
        "error: stopped by SIGTERM: 0 of 1 steps are done and kept; the same command goes on"
    )
    assert int(lab._text("saved-0")) == int(lab._text("saved-1")) > 0
    assert not (lab.store.work(step_spec(1).digest()) / "claim.json").exists()
    assert lab.store.failure(step_spec(1).digest()) is None
    until(lambda: not any(map(alive, pids)))


def test_kill_9_of_the_parent_leaves_no_rank_and_no_launcher(lab):
    lab.gate("never")
    lab.script({1: "rank1=gate:never"})  # rank 0 waits in a collective
    parent = lab.parent({1: []}, processes=2)
    pids = rank_pids(lab, 1)
    assert all(map(alive, pids))
    os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, pids)))
    assert not lab.store.is_claimed(step_spec(1).digest())


@pytest.mark.recipe
def test_a_group_whose_launcher_is_killed_or_whose_ranks_cannot_start_fails_its_step(lab, monkeypatch):
    lab.gate("never")
    lab.script({1: "rank1=signal_launcher:SIGKILL|rank0=gate:never"})
    outcome = lab.execute({1: []}, processes=2)
    assert outcome.failed[step_spec(1).digest()].startswith("the launcher of the ranks was killed (SIGKILL)")
    assert not any(map(alive, rank_pids(lab, 1)[:2]))
    boot = "import os, sys\nif os.environ['RANK'] == '1': sys.exit('no python today')\n" + process.BOOT
    monkeypatch.setattr(process, "BOOT", boot)
    outcome = lab.execute({1: []}, processes=2)
    assert outcome.failed[step_spec(1).digest()] == "rank 1 of 2 exited with code 1 in the middle of the step"
    assert "no python today" in lab.store.failure(step_spec(1).digest())["detail"]


def test_a_group_that_is_ended_before_its_ranks_are_there_leaves_nothing(lab, temporary):
    early = group.RankGroup(Slot(0, 1, "", 2, True), lab.store.root, GROUP_BODY)
    assert list(temporary.glob("w2s-*/parent"))
    early.kill()
    assert not alive(early.pid)
    assert list(temporary.iterdir()) == []


def test_the_name_of_the_socket_fits_whatever_the_temporary_folder_is_called(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = group._private_folder()
    try:
        assert len(str(folder / "parent")) <= group.LONGEST_PATH
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(long.iterdir()) == []
    finally:
        folder.rmdir()


@pytest.mark.recipe
def test_groups_work_side_by_side_and_wait_for_steps_that_others_claim(lab, monkeypatch):
    monkeypatch.setattr(local, "POLL_S", 0.05)
    lab.gate("slow")
    lab.script({1: "rank0=gate:slow", 4: "rank1=exit:3"})
    other = lab.parent({1: []}, processes=2)
    rank_pids(lab, 1)
    recorder = Recorder(on={"elsewhere": lambda: lab.open_gate("slow")})
    outcome = lab.execute({n: [] for n in range(1, 8)}, workers=2, processes=2, display=recorder)
    assert other.wait(60) == 0
    assert lab.numbers(outcome.reused) == [1]
    assert lab.numbers(outcome.done) == [2, 3, 5, 6, 7]
    assert outcome.failed == {
        step_spec(4).digest(): "rank 1 of 2 exited with code 3 in the middle of the step (its log: log-rank1.txt)"
    }
    groups = [tuple(made(lab, number)["pids"]) for number in (2, 3, 5, 6, 7)]
    assert 2 <= len(set(groups)) <= 3
    assert made(lab, 1)["pids"] not in [list(pids) for pids in groups]


@pytest.mark.recipe
def test_a_rank_that_dies_idle_costs_no_step(lab):
    """And one that is stopped by somebody else costs its own."""
    lab.gate("never")
    lab.script({3: "rank1=signal:SIGUSR1"})

    def kill_once() -> None:
        if not lab._text("pid-2-0"):
            pid = rank_pids(lab, 1)[1]
            os.kill(pid, signal.SIGKILL)
            until(lambda: not os.path.exists(f"/proc/{pid}"))  # a zombie's threads may yet hold its socket open

    outcome = lab.execute({1: [], 2: [1], 3: [2], 4: [2]}, processes=2, display=Recorder(on={"done": kill_once}))
    assert lab.numbers(outcome.done) == [1, 2, 4]
    assert made(lab, 2)["pids"] != made(lab, 1)["pids"]
    assert outcome.failed[step_spec(3).digest()].startswith("rank 1 of 2 was stopped from outside")


@pytest.mark.recipe
def test_a_rank_that_waits_for_one_that_has_stopped_is_not_waited_for_long(lab, monkeypatch):
    monkeypatch.setattr(group, "HUNG_S", 0.5)
    lab.gate("never")
    lab.script({1: "rank1=gate:never"})  # rank 0 hangs in a collective, where no signal reaches it

    class Impatient(Recorder):
        def progress(self, *_: Any) -> None:
            rank_pids(lab, 1)
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped by Ctrl-C: 0 of 1 steps"):
        lab.execute({1: []}, processes=2, display=Impatient())
    assert not any(map(alive, rank_pids(lab, 1)))
    assert lab.store.failure(step_spec(1).digest()) is None
    lab.script({})
    assert lab.execute({1: []}, processes=2).ok  # the claim of the rank that was killed is no obstacle
