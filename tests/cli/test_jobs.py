"""Once a sweep is submitted: `work` in its tasks, and `status`, `logs` and `cancel` for people."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from w2s.cli import main as cli

# -- work -------------------------------------------------------------------------------------------------------------


def test_work_by_hand_needs_a_line(site, launch, ask, tmp_path):
    launch()
    wave = tmp_path / "results" / "sweeps" / "made_up" / "slurm" / "wave-1.txt"
    assert ask("work", wave) == (
        2, "", "w2s: line: not a task of a job array (there is no SLURM_ARRAY_TASK_ID); say which with --line\n"
    )  # fmt: skip
    assert ask("work", wave, "--line", "1")[0] == 0
    assert site.made == ["data movie"]
    assert ask("work", wave, "--line=2")[::2] == (2, f"w2s: line: {wave} has the lines 1 to 1 (got 2)\n")


def test_work_counts_from_the_lines_of_arrays_before_its_own(site, launch, ask, monkeypatch, slurm):
    slurm.answers(array_size=3)
    site.finish(site.node("data movie"))
    launch()
    wave = "results/sweeps/made_up/slurm/wave-1.txt"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert ask("work", wave, "--after", "2")[0] == 0
    assert ask("work", wave)[0] == 0
    digests = Path(wave).read_text().split()
    titles = {node.digest: node.title for node in site.plan().nodes.values()}
    assert site.made == [titles[digests[3]], titles[digests[1]]]


def test_work_ends_with_1_where_a_step_failed_or_was_blocked(site, launch, ask):
    launch()
    site.failing = "data"
    folder = "results/sweeps/made_up/slurm"
    code, out, err = ask("work", f"{folder}/wave-1.txt", "--line", "1")
    assert (code, out) == (1, "")
    data = site.node("data movie").digest[:12]
    assert f"failed  {data}  data movie: it was told to\n" in err
    code, _, err = ask("work", f"{folder}/wave-2.txt", "--line", "1")
    assert code == 1
    assert err.splitlines()[1].endswith(f"needs {data}, which failed: it was told to")


# -- afterwards -------------------------------------------------------------------------------------------------------


def test_cancel_takes_what_is_left_out_of_the_queue(site, launch, ask, slurm):
    launch()
    slurm.ends("11", "12_1")
    assert ask("cancel", "made_up") == (0, "cancelled jobs 12, 13, 14 (8 tasks)\n", "")
    assert slurm.calls("scancel") == [["scancel", "--quiet", "12", "13", "14"]]
    assert ask("cancel", "made_up") == (0, "nothing of made_up is in the queue\n", "")
    assert len(slurm.calls("scancel")) == 1
    code, _, err = ask("cancel", "mad_up")
    assert (code, "(did you mean made_up?)" in err) == (2, True)
    slurm.answers(broken={"squeue": "down"})
    assert ask("cancel", "made_up") == (1, "", "w2s: squeue: gives no answer; is SLURM up? (`scontrol ping`)\n")


def test_cancel_leaves_the_jobs_of_other_sweeps(site, launch, ask, slurm):
    launch()
    launch("--set", "name=other", "--set", "seeds=[2]")
    assert ask("cancel", "other")[1] == "cancelled jobs 15, 16, 17 (5 tasks)\n"
    assert {task.partition("_")[0] for task in slurm.queue()} == {"11", "12", "13", "14"}


def test_a_cluster_that_counts_from_1_again_has_nothing_of_ours(site, launch, ask, slurm):
    """The same sweep's name in another results folder, its jobs by the numbers of ours."""
    launch()
    slurm.answers(jobs=0, queue=[])  # set up anew
    assert launch("--results", "elsewhere")[0] == 0
    assert slurm.queue()[0] == "11_1"
    code, out, _ = ask("status", "made_up")
    assert (code, "job 11 (" in out, "ended without it" in out) == (0, False, True)
    assert ask("cancel", "made_up")[1] == "nothing of made_up is in the queue\n"
    assert "job 11 (" in ask("status", "made_up", "--results", "elsewhere")[1], "theirs stay theirs"
    assert launch()[1].splitlines()[0] == "9 steps: 9 to submit, 0 done"


def test_status_tells_the_truth_from_the_store_and_squeue(site, launch, ask, slurm):
    launch()
    site.finish(site.node("data movie"))
    slurm.ends("11", "12_1", "12_2")
    slurm.runs("12_3")
    missing = [line.split()[0] for line in Path("results/sweeps/made_up/slurm/wave-2.txt").read_text().splitlines()[:2]]
    log = Path("results/sweeps/made_up/slurm/logs/wave-2+0/1.txt")
    log.write_text("slurmstepd: error: Detected 1 oom-kill event(s)\n")
    code, out, err = ask("status", "made_up")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["sweep", "experiments", "steps", "running", "queued", "waiting", "failed", "blocked"]
    assert lines[2].split() == ["made_up", "0/4", "1/9", "6", "2"]
    assert lines[3:7] == [
        "",
        "job 12 (made_up, wave 2): 1 running, 1 pending (Dependency)",
        "job 13 (made_up, wave 3): 4 pending (Dependency)",
        "job 14 (made_up, tables): 1 pending (Dependency)",
    ]
    titles = {node.digest: node.title for node in site.plan().nodes.values()}
    assert lines[8:10] == [
        f"missing {missing[0][:12]} {titles[missing[0]]}: task 1 of job 12 ended without it; submitting again does it "
        f"(its log: {log})",
        f"missing {missing[1][:12]} {titles[missing[1]]}: task 2 of job 12 ended without it and without a word: it "
        f"was cancelled before it began, or nodes cannot write to {log.parent}",
    ]
    assert lines[-1] == "again: w2s sweep made_up.yaml --launcher slurm"


def test_status_of_all_sweeps_asks_squeue_once_and_says_what_is_missing(site, launch, ask, slurm):
    launch()
    launch("--set", "name=other", "--set", "seeds=[2]")
    slurm.ends("11")
    slurm.forget_calls()
    code, out, _ = ask("status")
    assert (code, len(slurm.calls())) == (0, 1)
    assert sum("data movie: task 1 of job 11 ended without it" in line for line in out.splitlines()) == 1


def test_status_where_slurm_cannot_be_asked_says_so_and_calls_nothing_missing(site, launch, ask, slurm, monkeypatch):
    launch()
    slurm.answers(broken={"squeue": "down"})
    for path in (os.environ["PATH"], "/nowhere"):
        monkeypatch.setenv("PATH", path)
        code, out, _ = ask("status")
        assert code == 0
        assert "SLURM cannot be asked here: steps in its queue are shown as waiting" in out
        assert "missing" not in out


def test_status_of_a_sweep_that_never_was_on_slurm_asks_nobody(site, ask, slurm):
    assert ask("sweep", "made_up.yaml", "--results", site.results)[0] == 0
    code, out, _ = ask("status")
    assert (code, slurm.calls()) == (0, [])
    assert "SLURM" not in out


def test_a_step_in_the_queue_is_queued_whatever_its_last_try_was(site, launch, ask, slurm):
    launch()
    site.store.fail(site.node("data movie").digest, "an old reason")
    assert "an old reason" not in ask("status")[1]
    slurm.ends("11")
    assert "data movie: an old reason" in ask("status")[1]


def test_a_step_that_failed_in_a_running_task_is_failed_and_what_needs_it_blocked(site, launch, ask, slurm):
    launch("--steps-per-task", "9")
    site.store.fail(site.node("data movie").digest, "a new reason")
    assert "a new reason" not in ask("status")[1], "a pending task will try it again"
    slurm.runs("11_1")
    rows = ask("status")[1].splitlines()
    assert rows[0].split() == ["sweep", "experiments", "steps", "running", "queued", "waiting", "failed", "blocked"]
    assert rows[2].split() == ["made_up", "0/4", "0/9", "1", "8"]


def test_a_step_whose_task_is_gone_is_submitted_though_another_hosts_claim_has_not_lapsed(site, launch, slurm):
    launch()
    node = site.node("data movie")
    claim = site.store.claim(node.digest)
    slurm.ends(*{task.partition("_")[0] for task in slurm.queue()})
    assert launch("--dry-run")[1].startswith("9 steps: 8 to submit, 0 done, 1 running"), "a process of this host"
    claim.path.write_text(claim.path.read_text().replace('"host": "', '"host": "another '))
    assert launch("--dry-run")[1].startswith("9 steps: 9 to submit, 0 done\n")
    for record in Path("results/sweeps/made_up/slurm").glob("job-*.json"):
        record.unlink()
    assert "1 running" in launch("--dry-run")[1], "never submitted: somebody's local run"
    claim._stop.set()


def test_status_says_where_no_job_has_what_is_left(site, launch, ask, slurm):
    launch()
    assert "no job has" not in ask("status", "made_up")[1]
    slurm.ends(*{task.partition("_")[0] for task in slurm.queue()})
    assert "9 steps wait that no job has; submit again" in ask("status", "made_up")[1].splitlines()


def test_logs_prints_what_the_step_and_its_tasks_said_whole(site, launch, ask, slurm):
    launch()
    digest = site.node("data movie").digest
    log = Path("results/sweeps/made_up/slurm/logs/wave-1+0/1.txt")
    assert ask("logs", digest[:8]) == (0, f"no log at {site.store.work(digest).relative_to(Path.cwd())}/log.txt\n", "")
    log.write_bytes("".join(f"task {number}\n" for number in range(99)).encode() + b"\xff\xfe\n")
    site.store.fail(digest, "reason")
    site.store.log_path(digest).write_text("step\n")
    code, out, err = ask("logs", digest[:8])
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == [f"{site.store.log_path(digest).relative_to(Path.cwd())}:", "  step"]
    assert lines[3] == f"{log}:"
    assert lines[4] == "  task 0"
    assert "  task 98" in lines
    assert ask("logs", "0000")[0] == ask("logs", "xyz")[0] == 2


def test_logs_of_an_older_and_a_newer_task_both(site, launch, ask, slurm):
    launch()
    slurm.ends("11")
    launch()
    logs = [Path(f"results/sweeps/made_up/slurm/logs/wave-{number}+0/1.txt") for number in (1, 4)]
    for number, log in enumerate(logs):
        log.write_text(f"try {number}\n")
    out = ask("logs", site.node("data movie").digest[:8])[1]
    assert [line for line in out.splitlines() if "try" in line] == ["  try 0", "  try 1"]


@pytest.mark.parametrize("name", ["work", "cancel", "logs"])
def test_unknown_flags_are_refused_before_any_work(name, ask, monkeypatch, slurm):
    @functools.wraps(cli.COMMANDS[name])
    def began(*_, **__):
        raise AssertionError("it began to work")

    monkeypatch.setitem(cli.COMMANDS, name, began)
    assert ask(name, "x", "--nonsense")[0] == 2
    assert slurm.calls() == []
