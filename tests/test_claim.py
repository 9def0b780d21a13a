from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from w2s import claim as claims
from w2s.claim import LEASE_S, Claim, DiskClock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "claim.json"


def dead_process() -> dict[str, Any]:
    """A process that ended, as it was when it lived."""
    code = "import json, os; from w2s.claim import process; print(json.dumps(process(os.getpid())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def left_behind(path, *, host=None, process=None, age_s: float = 0.0) -> None:
    """A claim as somebody else wrote it."""
    content = {"token": "theirs", "host": host or claims._host(), "process": process or dead_process()}
    path.write_text(json.dumps(content))
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_one_holder_at_a_time_and_the_next_after_release(path):
    first, second = Claim(path), Claim(path)
    assert not first.holder_lives()
    assert first.take()
    assert first.holder_lives()
    assert second.holder_lives()
    assert not second.take()
    second.release()  # not its own: nothing happens
    assert not Claim(path).take()
    first.release()
    assert not path.exists()
    assert second.take()
    second.release()


def test_a_dead_process_of_this_host_loses_its_claim_at_once(path):
    left_behind(path)
    assert not Claim(path).holder_lives()
    claim = Claim(path)
    assert claim.take()
    assert claim.token in path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["claim.json"]
    claim.release()


def test_a_process_number_used_again_is_not_taken_for_the_holder(path):
    reused = {"pid": os.getpid(), "start": "1"}
    left_behind(path, process=reused)
    assert not Claim(path).holder_lives()
    # Control: the same number and start is the holder.
    left_behind(path, process=claims.process(os.getpid()))
    assert Claim(path).holder_lives()


@pytest.mark.parametrize(("age_s", "lives"), [(0.0, True), (LEASE_S - 30, True), (LEASE_S + 30, False)])
def test_a_holder_elsewhere_is_judged_by_its_lease(path, age_s, lives):
    left_behind(path, host="another-machine", process=claims.process(os.getpid()), age_s=age_s)
    assert Claim(path).holder_lives() == lives
    assert Claim(path).take() != lives


def test_a_claim_that_says_nothing_is_judged_by_its_age(path):
    path.write_text("")
    assert not Claim(path).take()
    os.utime(path, (0, 0))
    assert Claim(path).take()


def test_a_holder_in_another_container_is_judged_by_its_lease_not_by_a_process_number_of_ours(path, monkeypatch):
    claim = Claim(path)
    assert claim.take()
    monkeypatch.setattr(claims, "_host", lambda: "this machine, another container")
    assert claim.holder_lives()
    os.utime(path, (0, 0))
    assert not claim.holder_lives()


def test_the_age_is_told_by_the_clock_of_the_disk(path, monkeypatch):
    left_behind(path, host="another-machine")
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's clock is far ahead
    assert Claim(path).holder_lives()


def test_a_clock_of_the_disk_is_read_once_and_goes_on(tmp_path, monkeypatch):
    readings, monotonic = [1000.0, 9000.0], [50.0]
    monkeypatch.setattr(claims, "_disk_now", lambda folder: readings.pop(0))
    monkeypatch.setattr(time, "monotonic", lambda: monotonic[0])
    clock = DiskClock(tmp_path)
    assert readings == [1000.0, 9000.0]  # not before it is asked
    assert clock.now() == 1000.0
    monotonic[0] += LEASE_S
    monkeypatch.setattr(time, "time", lambda: 4e9)  # set right meanwhile, say
    assert clock.now() == 1000.0 + LEASE_S
    assert readings == [9000.0]


def test_a_lease_that_runs_out_while_a_clock_is_shared_is_seen(path, monkeypatch):
    left_behind(path, host="another-machine", age_s=LEASE_S - 30)
    clock = DiskClock(path.parent)
    assert Claim(path).holder_lives(clock)
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not Claim(path).holder_lives(clock)
    os.utime(path)  # renewed
    assert Claim(path).holder_lives(clock)


def test_the_holder_renews_its_own_claim_and_no_other(path, monkeypatch):
    renewed: list[Path] = []
    real = os.utime

    def noted(file: Path, *times: Any) -> None:
        renewed.append(file)
        real(file, *times)

    monkeypatch.setattr(os, "utime", noted)

    class Turns:
        """Stands in for the event that a renewing thread waits on: so many turns, then the end."""

        def __init__(self, turns: int) -> None:
            self.turns = turns

        def wait(self, seconds: float) -> bool:
            assert seconds < LEASE_S / 3  # two lost renewals are forgiven
            self.turns -= 1
            return self.turns < 0

    claim = Claim(path)
    assert claim.take()
    claim._renew(Turns(2))
    assert renewed == [path, path]
    left_behind(path)  # lost to somebody else
    renewed.clear()
    claim._renew(Turns(2))
    assert renewed == []
    claim.release()
    assert "theirs" in path.read_text()


def test_who_is_late_to_inherit_does_not_take_the_claim_of_the_heir(path, monkeypatch):
    left_behind(path)
    late, quick = Claim(path), Claim(path)
    real = late._lives

    def overtaken(seen):
        lives = real(seen)  # it judges the dead claim ...
        assert quick.take()  # ... and before it acts, somebody else inherits
        return lives

    monkeypatch.setattr(late, "_lives", overtaken)
    assert not late.take()
    assert quick.token in path.read_text()
    quick.release()


def test_a_holder_that_stirs_while_it_is_inherited_keeps_its_claim(path, monkeypatch):
    left_behind(path, host="another-machine", age_s=LEASE_S + 30)
    late = Claim(path)
    real = late._lives

    def stirred(seen):
        lives = real(seen)
        os.utime(path)
        return lives

    monkeypatch.setattr(late, "_lives", stirred)
    assert not late.take()
    assert "theirs" in path.read_text()


def test_an_heir_that_died_while_inheriting_does_not_block_the_next(path, monkeypatch):
    left_behind(path)
    heirs: list[Path] = []
    real = Claim._acquire

    def noted(self: Claim) -> bool:
        heirs.append(self.path)
        return real(self)

    monkeypatch.setattr(Claim, "_acquire", noted)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Claim(path).take()
    monkeypatch.undo()
    left_behind(heirs[1])  # as if it had been killed there
    assert heirs[1].name.startswith("heir-")
    second = Claim(path)
    assert second.take()
    second.release()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("start", ["free", "dead"])
def test_of_many_at_once_exactly_one_becomes_the_holder(tmp_path, start):
    process = dead_process()
    for turn in range(30):
        path = tmp_path / f"claim-{turn}.json"
        if start == "dead":
            left_behind(path, process=process)
        barrier = threading.Barrier(6)
        winners: list[Claim] = []

        def contend(path=path, barrier=barrier, winners=winners):
            claim = Claim(path)
            barrier.wait()
            if claim.take():
                winners.append(claim)

        threads = [threading.Thread(target=contend) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert winners[0].token in path.read_text()
        winners[0].release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", ["_content", "_renew"])
def test_a_signal_while_the_claim_is_taken_leaves_none(at, path, monkeypatch):
    """SIGTERM ends a worker by an exception that may come at any line."""

    class Stopped(BaseException):
        pass

    def stop(*_, **__):
        raise Stopped

    if at == "_content":
        monkeypatch.setattr(Claim, "_content", stop)
    else:
        monkeypatch.setattr("w2s.claim.threading.Thread", stop)
    with pytest.raises(Stopped):
        Claim(path).take()
    assert not path.exists()
