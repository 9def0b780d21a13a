"""What SLURM's programs say, as w2s takes it; they are scripts on PATH here."""

from __future__ import annotations

import os

import pytest

from w2s.errors import MachineError, SpecError
from w2s.execute import cluster
from w2s.execute.cluster import Refused, Task


def said(path, name, text="", complaint="", code=0):
    """A program on PATH that says just this."""
    (path / "out").write_text(text)
    (path / "err").write_text(complaint)
    (path / name).write_text(f'#!/bin/sh\ncat "{path}/out"\ncat "{path}/err" >&2\nexit {code}\n')
    (path / name).chmod(0o755)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An empty folder that is first on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


# -- which programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (("sbatch",), "sbatch is not on PATH here"),
        (("squeue", "scancel"), "squeue, scancel are not on PATH here"),
        (("sbatch", "squeue", "scontrol", "scancel"), "sbatch, squeue, scontrol, scancel are not on PATH here"),
    ],
)
def test_missing_programs_are_named_together(slurm, monkeypatch, gone, words):
    monkeypatch.setenv("PATH", str(slurm.bin))
    cluster.require()
    for name in gone:
        (slurm.bin / name).unlink()
    with pytest.raises(MachineError) as caught:
        cluster.require()
    assert str(caught.value) == (
        f"slurm: {words}; do this on a login node of the cluster (`module load slurm` on some), or leave --launcher "
        "out to run on this machine"
    )
    assert not slurm.calls()


def test_a_program_that_cannot_be_started(path, monkeypatch):
    monkeypatch.setenv("PATH", str(path))
    (path / "sbatch").write_text("#!/no/such/shell\n")
    (path / "sbatch").chmod(0o755)
    with pytest.raises(MachineError, match=r"^sbatch: cannot be started: No such file or directory$"):
        cluster.submit(["sbatch", "x"])


# -- submitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "job"), [("12\n", "12"), ("12;main\n", "12"), (" 7 \n", "7")])
def test_the_number_of_a_job_with_or_without_its_cluster(path, answer, job):
    said(path, "sbatch", answer, "sbatch: a remark\n")
    assert cluster.submit(["sbatch", "--parsable", "x"]) == job


@pytest.mark.parametrize("answer", ["", "Submitted batch job 12\n", "slurm-wlm 22.05.8\n", ";main\n", "-3\n"])
def test_an_answer_that_is_no_number_is_an_error(path, answer):
    said(path, "sbatch", answer)
    with pytest.raises(MachineError) as caught:
        cluster.submit(["sbatch", "x"])
    assert str(caught.value) == (
        f"sbatch: answered {answer.strip()!r} instead of a job's number; is it sbatch that is on PATH?"
    )


REFUSED = [  # as SLURM 22.05 says it
    "sbatch: error: invalid partition specified: nope\n"
    "sbatch: error: Batch job submission failed: Invalid partition name specified",
    "allocation failure: Invalid account or account/partition combination specified",
    "sbatch: error: Batch job submission failed: Invalid qos specification",
    "sbatch: error: Invalid --time specification",
    "sbatch: error: Invalid generic resource (gres) specification",
    "sbatch: error: Batch job submission failed: Invalid feature specification",
    "sbatch: error: Batch job submission failed: Invalid license specification",
    "sbatch: error: Batch job submission failed: Requested reservation is invalid",
    "sbatch: error: Memory specification can not be satisfied\n"
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: unrecognized option '--nope'\nTry \"sbatch --help\" for more information",
    "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
    "sbatch: error: instead of expected UNIX line breaks (\\n).",
    "sbatch: error: Unable to open file /none.sh",
    "allocation failure: Requested time limit is invalid (missing or exceeds some limit)",
    "allocation failure: User's group not permitted to use this partition",
    "sbatch: error: --gpus option unsupported by configured SelectType plugin",
    "allocation failure: More processors requested than permitted",
]
OF_A_MOMENT = [
    "sbatch: error: QOSMaxSubmitJobPerUserLimit\n"
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
    "and/or time limits)",
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Slurm temporarily unable to accept job, sleeping and retrying",
]


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_wrong_with_a_request_is_a_mistake_of_the_user_in_slurms_own_words(path, message):
    said(path, "sbatch", "", message, 1)
    with pytest.raises(Refused) as caught:
        cluster.submit(["sbatch", "x"])
    assert caught.value.problems == message.splitlines()
    assert isinstance(caught.value, SpecError)


@pytest.mark.parametrize("message", OF_A_MOMENT)
def test_what_may_be_different_in_an_hour_is_an_error_of_the_machine(path, message):
    said(path, "sbatch", "", message, 1)
    with pytest.raises(MachineError) as caught:
        cluster.submit(["sbatch", "x"])
    assert str(caught.value) == message


def test_a_line_that_slurm_says_twice_is_told_once(path):
    said(path, "sbatch", "", "sbatch: error: busy\n\n  sbatch: error: busy \nsbatch: error: later\n", 1)
    with pytest.raises(Refused) as caught:
        cluster.submit(["sbatch", "x"])
    assert caught.value.problems == ["sbatch: error: busy", "sbatch: error: later"]


def test_a_program_that_fails_without_a_word(path):
    said(path, "sbatch", "", "", 3)
    with pytest.raises(MachineError, match=r"^sbatch: ended with code 3$"):
        cluster.submit(["sbatch", "x"])


def test_a_program_that_does_not_come_back(path, monkeypatch):
    os.mkfifo(path / "never")
    (path / "sbatch").write_text(f'#!/bin/sh\nread answer < "{path}/never"\n')
    (path / "sbatch").chmod(0o755)
    monkeypatch.setattr(cluster, "SBATCH_PATIENCE_S", 0.05)
    with pytest.raises(MachineError) as caught:
        cluster.submit(["sbatch", "x"])
    assert str(caught.value) == "sbatch: no answer within 0.05 s; is SLURM up? (`scontrol ping`)"


def test_what_is_not_utf_8_does_no_harm(path):
    (path / "sbatch").write_bytes(b"#!/bin/sh\nprintf 'caf\\351\\n' >&2; exit 1\n")
    (path / "sbatch").chmod(0o755)
    with pytest.raises(Refused, match="caf\ufffd"):
        cluster.submit(["sbatch", "x"])


def test_words_reach_the_program_as_they_are(slurm):
    words = ["sbatch", "--job-name=x", "a'; echo b\n ü", "", "$(date)", '"$@"']
    cluster.submit(words)
    cluster.check(words)
    assert slurm.calls() == [words, ["sbatch", "--test-only", *words[1:]]]
    assert slurm.queue() == ["11"]


def test_what_slurm_told_the_job_that_we_run_in_is_not_for_other_jobs(path, monkeypatch):
    (path / "sbatch").write_text("#!/bin/sh\necho site banner; echo 12\n")
    (path / "sbatch").chmod(0o755)
    for name in ("SLURM_MEM_PER_CPU", "SLURM_JOB_ID", "SLURM_CONF"):
        monkeypatch.setenv(name, "given")
    assert cluster.submit(["sbatch", "x"]) == "12", "what a site's own wrapper prints comes before"
    (path / "sbatch").write_text("#!/bin/sh\necho $SLURM_MEM_PER_CPU.$SLURM_JOB_ID.$SLURM_CONF >&2; exit 1\n")
    with pytest.raises(Refused, match=r"^\.\.given$"):
        cluster.submit(["sbatch", "x"])


# -- asking before ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", REFUSED)
def test_asked_before_a_wrong_request_is_refused(path, message):
    said(path, "sbatch", "", message, 1)
    with pytest.raises(Refused):
        cluster.check(["sbatch", "x"])


@pytest.mark.parametrize(
    "message",
    [
        *OF_A_MOMENT,
        # SLURM says this of a request that no node can serve, and of one whose nodes are down or drained just now; the
        # submission itself tells them apart.
        "allocation failure: Requested node configuration is not available",
        "allocation failure: Requested partition configuration not available now",
        "allocation failure: Required node not available (down, drained or reserved)",
    ],
)
def test_asked_before_what_may_pass_is_no_reason_to_submit_nothing(path, message):
    said(path, "sbatch", "", message, 1)
    assert cluster.check(["sbatch", "x"]) == message


# -- the site ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        ("JobCompType = jobcomp/none\nMaxArraySize            = 3\nMaxJobCount = 10000\n", 2),
        ("MaxArraySize=100001\n", 100_000),
        ("MaxArraySize = 1\n", 0),
        ("MaxArraySize = 0\n", 0),
        ("NotMaxArraySize = 7\n", 1000),
        ("", 1000),
        ("MaxArraySize = 1001\nSchedulerParameters     = bf_interval=30,max_array_tasks=100\n", 100),
        ("MaxArraySize = 51\nSchedulerParameters     = max_array_tasks=100\n", 50),
    ],
)
def test_how_many_tasks_arrays_may_have(path, config, tasks):
    said(path, "scontrol", config)
    assert cluster.most_tasks() == tasks


def test_a_site_that_does_not_answer_says_so_itself(slurm):
    slurm.answers(broken={"scontrol": "slurm_load_ctl_conf error: Unable to contact slurm controller"})
    with pytest.raises(MachineError, match=r"^slurm_load_ctl_conf error: Unable to contact slurm controller$"):
        cluster.most_tasks()


# -- the queue --------------------------------------------------------------------------------------------------------


def test_lines_of_the_queue_are_read_and_those_of_others_passed_over(path):
    said(path, "squeue", "CLUSTER: main\n12|1|RUNNING|w2s-a|None|s work f\n12|2|PENDING|w2s-a|JobArrayTaskLimit|a|b\n"
         "13|N/A|PENDING|w2s-a|Dependency|\n99|1|RUNNING|w2s-a|None|\n12|3|PENDING|w2s-b|None|\n"
         "12|3|PENDING|w2s-a\n12\n12|1|RUNNING\n\n")  # fmt: skip
    assert cluster.queue([("12", "w2s-a"), ("13", "w2s-a")]) == [
        Task("12", 1, "RUNNING", "None", "w2s-a", "s work f"),
        Task("12", 2, "PENDING", "JobArrayTaskLimit", "w2s-a", "a|b"),
        Task("13", None, "PENDING", "Dependency", "w2s-a", ""),
        Task("12", 3, "PENDING", "", "w2s-a", ""),
    ]


def test_the_queue_is_asked_once_for_all_names_and_not_at_all_for_none(slurm):
    assert cluster.queue([]) == []
    assert not slurm.calls()
    assert cluster.queue([("3", "w2s-b"), ("1", "w2s-a"), ("2", "w2s-b")]) == []
    words = ["squeue", "--all", "--array", "--noheader", "--name=w2s-a,w2s-b", "--format=%F|%K|%T|%j|%r|%o"]
    assert slurm.calls() == [words]


def test_what_people_set_for_their_own_eyes_does_not_hide_jobs(path, monkeypatch):
    (path / "squeue").write_text('#!/bin/sh\necho "12|1|${SQUEUE_STATES-PENDING}|w2s-a|${SLURM_CLUSTERS}|"\n')
    (path / "squeue").chmod(0o755)
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SLURM_CLUSTERS", "main")
    assert cluster.queue([("12", "w2s-a")]) == [Task("12", 1, "PENDING", "main", "w2s-a")]


def test_a_queue_that_cannot_be_asked_is_not_an_empty_one(slurm, monkeypatch):
    slurm.answers(broken={"squeue": "slurm_load_jobs error: Unable to contact slurm controller"})
    assert cluster.queue([("1", "w2s-a")]) is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert cluster.queue([("1", "w2s-a")]) is None
    assert cluster.queue([]) == []


@pytest.mark.parametrize(
    ("state", "waits"),
    [("PENDING", True), ("REQUEUED", True), ("SUSPENDED", True), ("RUNNING", False), ("COMPLETING", False)],
)
def test_who_has_not_begun_waits(state, waits):
    assert Task("1", 1, state, "").waits is waits


# -- ending and putting back ------------------------------------------------------------------------------------------


def test_jobs_are_cancelled_some_hundreds_at_a_time(slurm):
    cluster.cancel([])
    assert not slurm.calls()
    jobs = [str(number) for number in range(1, cluster.AT_ONCE + 2)]
    cluster.cancel(jobs)
    assert slurm.calls() == [["scancel", "--quiet", *jobs[:-1]], ["scancel", "--quiet", jobs[-1]]]


def test_nobody_is_asked_whether_to_cancel(path, monkeypatch):
    """scancel asks for each job where SCANCEL_INTERACTIVE is set, and reads an answer."""
    (path / "scancel").write_text('#!/bin/sh\n[ -z "$SCANCEL_INTERACTIVE" ] && ! read answer\n')
    (path / "scancel").chmod(0o755)
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    reader, writer = os.pipe()
    os.write(writer, b"n\n")
    usual = os.dup(0)
    os.dup2(reader, 0)  # somebody sits there
    try:
        cluster.cancel(["1"])
    finally:
        os.dup2(usual, 0)
        for handle in (usual, reader, writer):
            os.close(handle)


def test_a_job_is_put_back(slurm):
    cluster.requeue("17")
    assert slurm.calls() == [["scontrol", "requeue", "17"]]
    slurm.answers(broken={"scontrol": "Requested operation is presently disabled for job 17"})
    with pytest.raises(MachineError, match=r"^Requested operation is presently disabled for job 17$"):
        cluster.requeue("17")
