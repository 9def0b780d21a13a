"""Tasks that SLURM ends before they are through: what they saved is gone on from, and the numbers are the same."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from sweeping import (  # type: ignore[import-not-found]
    LONG,
    STEPS,
    STUDENTS,
    checkpoints,
    history,
    lines,
    log,
    on,
    parent_of,
    status,
    step_log,
    submit,
)

pytestmark = pytest.mark.slurm


def same(world, uninterrupted):
    """That the long sweep ended as the one that was left alone, and that nothing but it was made."""
    assert world.table() == uninterrupted.table()
    assert set(world.finished()) == set(uninterrupted.finished())
    for title in STUDENTS:
        digest = world.digest(title)
        found = history(world, digest)
        assert [row["step"] for row in found] == list(range(STEPS)), "a gap, or a step twice"
        assert found == history(uninterrupted, digest)
        ours, other = (one.read("train", digest, "predictions/test.parquet") for one in (world, uninterrupted))
        assert ours == other
    assert world.left_over() == []


def begun(world, cluster, title):
    """Wait until a step has a checkpoint; its process."""
    digest = world.digest(title)
    cluster.until(lambda: checkpoints(world, digest))
    return world.holders()[digest]


def gone_on_from_a_checkpoint(world, title):
    return "going on from the checkpoint of step" in step_log(world, world.digest(title))


# -- SLURM's own notice, one minute's limit: begins here, ends at the end of this file --------------------------------


@pytest.fixture(scope="module")
def limited(whole, uninterrupted, clusters, tmp_path_factory):
    """The long sweep on a cluster of its own, in tasks of a minute. The first student is halted until SLURM's notice.

    However fast the machine is, it is not done by then, and the other tests have the processors for themselves.
    """
    cluster = clusters(CPUS=1)
    world = on(whole.copy(tmp_path_factory.mktemp("limited") / "world"), cluster)
    world.before = world.finished()
    # SLURM looks at limits twice a minute, and gives notice where one may be over before it looks again.
    limits = ["--set", "slurm.time=1", "--set", "slurm.notice_s=5"]
    world.jobs, _ = submit(world, *LONG, "--steps-per-task", "2", *limits)
    process = begun(world, cluster, STUDENTS[0])
    os.kill(process, signal.SIGSTOP)

    def go_on():
        cluster.until(lambda: "stopping" in log(world, 1, 1))
        os.kill(process, signal.SIGCONT)

    world.thread = threading.Thread(target=go_on, daemon=True)
    world.thread.start()
    yield world, cluster
    cluster.clear()
    world.close()


def test_a_task_of_a_minute_begins(limited):
    world, cluster = limited
    assert lines(world, 1) == [STUDENTS]
    assert len(world.jobs) == 2, "an array and the tables"
    assert f"JobId={world.jobs[0]}" in (shown := cluster.run("scontrol", "show", "job", world.jobs[0]))
    assert "TimeLimit=00:01:00" in shown


# -- ended from outside -----------------------------------------------------------------------------------------------


def test_a_task_that_came_no_further_is_not_requeued_and_the_next_submission_does_it(later, cluster, uninterrupted):
    """Told to stop before it reached a checkpoint; then, submitted again, once it has one."""
    before = later.finished()
    (job, _), _ = submit(later, *LONG, "--steps-per-task", "2")
    cluster.until(lambda: "start  " in log(later, 1, 1))
    cluster.run("scancel", "--batch", "--signal=USR1", f"{job}_1")
    cluster.until_empty()
    said = log(later, 1, 1)
    assert "not requeued: since it began, nothing was finished and no checkpoint was reached" in said
    assert said.count("line 1 of wave-1.txt") == 1
    assert later.finished() == before
    assert f"missing {later.digest(STUDENTS[0])[:12]} {STUDENTS[0]}: task 1 of job {job} ended" in status(later)

    (job, _), tally = submit(later, *LONG, "--steps-per-task", "2")
    assert tally == "5 steps: 2 to submit, 3 done"
    begun(later, cluster, STUDENTS[0])
    cluster.run("scancel", "--batch", "--signal=USR1", f"{job}_1")
    cluster.until_empty()
    said = log(later, 2, 1)
    assert "saved; put back into the queue, to go on from there" in said
    assert said.count("line 1 of wave-2.txt") == 2, "requeued once"
    assert gone_on_from_a_checkpoint(later, STUDENTS[0])
    assert {digest: later.finished()[digest] for digest in before} == before
    same(later, uninterrupted)


def test_one_task_cancelled_and_one_killed_are_missing_and_go_on_when_submitted_again(later, cluster, uninterrupted):
    before = later.finished()
    (job, _), _ = submit(later, *LONG)
    assert lines(later, 1) == [[title] for title in STUDENTS]
    for task, title in enumerate(STUDENTS, start=1):
        worker = begun(later, cluster, title)
        if task == 1:
            cluster.run("scancel", f"{job}_1")
        else:  # without warning: the task's first process, then the one that trains
            os.kill(parent_of(worker), signal.SIGKILL)
            os.kill(worker, signal.SIGKILL)
    cluster.until_empty()
    told = status(later)
    for task, title in enumerate(STUDENTS, start=1):
        digest = later.digest(title)
        assert checkpoints(later, digest), "what it saved stays"
        assert f"missing {digest[:12]} {title}: task {task} of job {job} ended without it; submitting again" in told
    assert "stopped by SIGTERM" in log(later, 1, 1)
    assert later.finished() == before

    _, tally = submit(later, *LONG)
    assert tally == "5 steps: 2 to submit, 3 done"
    cluster.until_empty()
    assert all(gone_on_from_a_checkpoint(later, title) for title in STUDENTS)
    assert {digest: later.finished()[digest] for digest in before} == before
    same(later, uninterrupted)


def test_a_sweep_that_is_cancelled_saves_and_goes_on_when_submitted_again(later, cluster, uninterrupted):
    """One student trains, the other waits for its turn; what was begun is saved, and nothing else comes to run."""
    before = later.finished()
    ids, _ = submit(later, *LONG, "--max-parallel", "1")
    begun(later, cluster, STUDENTS[0])
    code, out, _ = later.run("cancel", "moods")
    assert code == 0
    assert all(job in out for job in ids)
    cluster.until_empty()
    assert later.finished() == before
    assert "stopping: saving checkpoints" in log(later, 1, 1)
    assert (log(later, 1, 2), checkpoints(later, later.digest(STUDENTS[1]))) == ("", [])
    assert later.run("cancel", "moods")[1] == "nothing of moods is in the queue\n"

    submit(later, *LONG, "--steps-per-task", "2")
    cluster.until_empty()
    assert gone_on_from_a_checkpoint(later, STUDENTS[0])
    assert not gone_on_from_a_checkpoint(later, STUDENTS[1]), "which had not begun"
    assert {digest: later.finished()[digest] for digest in before} == before
    same(later, uninterrupted)


# -- and the notice, which has come by now ----------------------------------------------------------------------------


def test_a_task_longer_than_its_limit_goes_on_in_as_many_pieces_as_it_takes(limited, uninterrupted):
    world, cluster = limited
    cluster.until_empty()
    said = log(world, 1, 1)
    assert "stopped by SIGUSR1" in said
    assert "saved; put back into the queue, to go on from there" in said
    assert said.count("line 1 of wave-1.txt") == 2, "two pieces"
    assert "DUE TO TIME LIMIT" not in said, "SLURM had nothing to end"
    assert gone_on_from_a_checkpoint(world, STUDENTS[0])
    assert {digest: world.finished()[digest] for digest in world.before} == world.before
    same(world, uninterrupted)
