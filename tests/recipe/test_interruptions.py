"""Runs that are stopped at any point: what is finished is kept, and the end is that of a run nobody stopped."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.recipe


def kill(process, holders):
    """SIGKILL for the whole process group, and for the workers, as when a machine goes down."""
    os.killpg(process.pid, signal.SIGKILL)
    for pid in holders:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    process.wait()


def test_a_run_that_is_killed_again_and_again_ends_with_the_table_of_one_that_was_not(whole, world):
    """Killed while the data is made, while the first models train, and when most is done; then left alone."""
    kept: dict[str, int] = {}
    killed = 0
    for enough, with_workers in ((0, True), (2, False), (5, True)):
        process = world.start("sweep", "moods.yaml")
        reached = world.until(
            process, lambda enough=enough: len(world.finished()) >= enough and bool(world.holders())
        )  # in mid-step, with so many steps behind it
        finished = world.finished()
        assert {digest: finished[digest] for digest in kept} == kept
        if reached:
            kill(process, world.holders().values() if with_workers else [])
            killed += 1
        kept = finished
    assert killed >= 2, "the runs ended before they could be killed: the test tests nothing"
    world.sweep()
    finished = world.finished()
    assert {digest: finished[digest] for digest in kept} == kept
    assert set(finished) == set(whole.finished())
    assert world.table() == whole.table()
    assert world.rows() == whole.rows()
    assert world.left_over() == []
    code, out, _ = world.run("verify")
    assert (code, out.splitlines()[-1]) == (0, "artifacts checked: 9, problems: 0")


WAYS_TO_STOP = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 75, "SIGTERM"), (signal.SIGUSR1, 75, "SIGUSR1")]


@pytest.mark.parametrize(("number", "code", "name"), WAYS_TO_STOP)
def test_a_run_that_is_asked_to_stop_says_so_and_leaves_nothing_behind(number, code, name, world):
    process = world.start("sweep", "moods.yaml")
    assert world.until(process, lambda: list(world.store.glob("train/??/.*")))  # models are being trained
    holder = list(world.holders().values())
    process.send_signal(number)
    found, out, err = world.end(process)
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].startswith(f"w2s: stopped by {name}: ")
    assert err.splitlines()[-1].endswith("of 9 steps are done and kept; the same command goes on")
    assert world.left_over() == []
    for pid in holder:
        assert not os.path.exists(f"/proc/{pid}") or not os.path.exists("/proc/self")


def test_before_and_after_the_steps_a_signal_ends_with_the_same_code(world):
    """While the YAML is read, say: it stands in a pipe that nobody writes to."""
    os.mkfifo(world.folder / "slow.yaml")
    process = world.start("sweep", "slow.yaml")
    with (world.folder / "slow.yaml").open("w"):  # it reads
        process.send_signal(signal.SIGUSR1)
        code, out, err = world.end(process)
    assert (code, out, err) == (75, "", "w2s: stopped by SIGUSR1; finished steps are kept\n")


LONG = [
    "--workers", "1", "--set", "engine.processes=2", "--set", "engine.checkpoint_every=20 steps",
    "--set", "seeds=[0]", "--set", "methods.logconf.recipe.epochs=30",
]  # fmt: skip
LONG_TITLE = "student large of small on moods, logconf, seed 0"


def test_a_group_that_is_stopped_and_one_that_is_killed_go_on_where_they_were(world, tmp_path):
    """Bit for bit: the same command, once left alone, and once stopped, then one of its ranks killed, then gone on."""
    alone = world.copy(tmp_path / "alone")
    try:
        alone.sweep(*LONG)
    finally:
        alone.close()
    digest = alone.digest(LONG_TITLE)

    def checkpoints():
        return sorted((world.store / "work" / digest[:2] / digest / "checkpoints").glob("step-????????"))

    process = world.start("sweep", "moods.yaml", *LONG)
    assert world.until(process, checkpoints)
    process.send_signal(signal.SIGTERM)
    code, _, err = world.end(process)
    assert code == 75, err
    assert "stopping: saving checkpoints" in err
    stopped_at = checkpoints()[-1]

    process = world.start("sweep", "moods.yaml", *LONG)
    assert world.until(process, lambda: checkpoints()[-1:] > [stopped_at])
    ranks = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_rank_of(world, pid)]
    assert len(ranks) == 2
    victim = next(pid for pid in ranks if pid not in world.holders().values())  # rank 0 holds the claim
    os.kill(victim, signal.SIGKILL)
    code, _, err = world.end(process)
    assert code == 1
    assert f"FAILED    {LONG_TITLE}: rank 1 of 2 was killed (SIGKILL)" in err
    assert [pid for pid in ranks if is_rank_of(world, pid)] == []

    assert checkpoints()
    code, _, err = world.run("sweep", "moods.yaml", *LONG)
    assert code == 0, err
    assert world.table() == alone.table()
    said = [found.read("train", digest, "predictions/test.parquet") for found in (world, alone)]
    assert said[0] == said[1]
    assert world.left_over() == []


def is_rank_of(world, pid):
    """Whether a process is a rank that works in this world, and no launcher."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"--connect" in words and b"--nproc-per-node" not in words and os.fsencode(world.store) in words


def test_two_runs_at_once_share_the_work(whole, world):
    """On one store, two commands: no step is made twice, both end well, with the same table."""
    processes = [world.start("sweep", "moods.yaml", "--workers", "1") for _ in range(2)]
    ends = [world.end(process) for process in processes]
    assert [code for code, _, _ in ends] == [0, 0]
    assert world.table() == whole.table()
    assert set(world.finished()) == set(whole.finished())
    made = [line.split("done", 1)[1].split(" in ")[0].strip() for _, _, err in ends for line in err.splitlines()
            if " done  " in line]  # fmt: skip
    assert sorted(made) == sorted(world.titles().values())
    assert world.left_over() == []
