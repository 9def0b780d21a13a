"""What is submitted: every call of sbatch whole, only what is missing, and what is left where SLURM takes no more."""

from __future__ import annotations

import subprocess
from collections import Counter

import pytest

from w2s.errors import MachineError, SpecError
from w2s.execute import cluster, jobs, submit
from w2s.experiments import expand
from w2s.plan import build
from w2s.sweep import on_slurm, read_sweep

HOSTILE = 'a\'; echo b ü 100%a $(x) "q"'
SCRIPT = '#!/bin/bash\n#SBATCH --account=x\nexec "$@"\n'
# The calls for conftest's sweep: data; two weak models and two ceilings; four students; the tables.
GOLDEN = """\
sbatch --parsable --job-name=w2s-made_up --output={logs}/wave-1+0/%a.txt --error={logs}/wave-1+0/%a.txt \
--open-mode=append --requeue --array=1-1 \
--signal=B:USR1@120 --nodes=1 --ntasks=1 --ntasks-per-node=1 {script} {w2s} work {folder}/wave-1.txt
sbatch --parsable --job-name=w2s-made_up --output={logs}/wave-2+0/%a.txt --error={logs}/wave-2+0/%a.txt \
--open-mode=append --requeue --array=1-4 \
--signal=B:USR1@120 --nodes=1 --ntasks=1 --ntasks-per-node=1 --dependency=afterany:11 {script} \
{w2s} work {folder}/wave-2.txt
sbatch --parsable --job-name=w2s-made_up --output={logs}/wave-3+0/%a.txt --error={logs}/wave-3+0/%a.txt \
--open-mode=append --requeue --array=1-4 \
--signal=B:USR1@120 --nodes=1 --ntasks=1 --ntasks-per-node=1 --dependency=afterany:11:12 {script} \
{w2s} work {folder}/wave-3.txt
sbatch --parsable --job-name=w2s-made_up --output={logs}/tables/%j.txt --error={logs}/tables/%j.txt \
--open-mode=append --requeue --nodes=1 --ntasks=1 \
--ntasks-per-node=1 --dependency=afterany:11:12:13 {script} {w2s} results made_up --results {results}
"""
# With a block of its own, two resources, two steps to a task, arrays of two tasks, two tasks at a time.
BLOCK = """\
slurm: {partition: gpu, time: 2:00:00, gpus: 1, steps_per_task: 2, max_parallel: 2, notice_s: 60, \
small_jobs: {partition: cpu, mem: 1G}}
"""
OWN = "small: {use: minilm, layers: 2, slurm: {gpus_per_node: a100:2, mem: 64G}}"
HEAD = "--parsable --job-name=w2s-made_up --output={logs}/"
SMALL = "--partition=cpu --time=2:00:00 --nodes=1 --ntasks=1 --ntasks-per-node=1 --mem=1G"
TINY = "--partition=gpu --time=2:00:00 --nodes=1 --ntasks=1 --ntasks-per-node=1 --gpus=1"
LARGE = "--partition=gpu --time=2:00:00 --nodes=1 --ntasks=1 --ntasks-per-node=1 --gpus-per-node=a100:2 --mem=64G"
GOLDEN_BLOCK = f"""\
sbatch {HEAD}wave-1+0/%a.txt --error={{logs}}/wave-1+0/%a.txt \
--open-mode=append --requeue --array=1-1%2 --signal=B:USR1@60 {SMALL} {{script}} {{w2s}} \
work {{folder}}/wave-1.txt
sbatch {HEAD}wave-2+0/%a.txt --error={{logs}}/wave-2+0/%a.txt \
--open-mode=append --requeue --array=1-1%2 --signal=B:USR1@60 {TINY} \
--dependency=afterany:11 {{script}} {{w2s}} work {{folder}}/wave-2.txt
sbatch {HEAD}wave-2+1/%a.txt --error={{logs}}/wave-2+1/%a.txt \
--open-mode=append --requeue --array=1-1%2 --signal=B:USR1@60 {LARGE} \
--dependency=afterany:11:12 {{script}} {{w2s}} work {{folder}}/wave-2.txt --after 1
sbatch {HEAD}wave-3+0/%a.txt --error={{logs}}/wave-3+0/%a.txt \
--open-mode=append --requeue --array=1-2%2 --signal=B:USR1@60 {LARGE} \
--dependency=afterany:11:12:13 {{script}} {{w2s}} work {{folder}}/wave-3.txt
sbatch {HEAD}tables/%j.txt --error={{logs}}/tables/%j.txt \
--open-mode=append --requeue {SMALL} --dependency=afterany:11:12:13:14 {{script}} {{w2s}} \
results made_up --results {{results}}
"""


class Site:
    """A lab whose sweeps are submitted to a made-up SLURM."""

    def __init__(self, lab, slurm, folder):
        self.lab, self.slurm, self.said = lab, slurm, []
        self.script = folder / "my array.sbatch"
        self.script.write_text(SCRIPT)
        self.results = lab.results

    def edit(self, old, new):
        """The text of the sweep's file with something else in the place of `old`, and written back."""
        text = self.lab.yaml.read_text()
        assert old in text
        self.lab.yaml.write_text(text.replace(old, new))

    def draft(self, yaml=None, results=None, script=True, sets=()):
        sets = [f"slurm.script='{self.script}'", *sets] if script else sets
        sweep = on_slurm(read_sweep(yaml or self.lab.yaml, sets))
        results = results or self.results
        names = [path.name for path in sorted(results.glob("sweeps/*"))]
        queue = jobs.queue_of(results, names)
        return submit.draft(sweep, build(sweep, expand(sweep)), results, queue, cluster.most_tasks())

    def submit(self, yaml=None, **more):
        return submit.send(self.draft(yaml, **more), self.said.append)

    def golden(self, text, results=None):
        results = results or self.results
        folder = results / "sweeps" / "made_up" / "slurm"
        values = {"results": results, "folder": folder, "script": self.script, "w2s": submit.own_command()[0]}
        logs = str(folder / "logs").replace("%", "%%")
        return [
            [word.format(**values, logs=logs) for word in line.split(" ")] for line in text.splitlines()
        ]  # fmt: skip

    def titles(self, *sweeps):
        """The titles of the steps that tasks in the queue hold, as often as they do."""
        node_of = {}
        for yaml in (self.lab.yaml, *sweeps):
            sweep = read_sweep(yaml)
            node_of.update(build(sweep, expand(sweep)).nodes)
        tasks, names = self.slurm.queue(), [path.name for path in self.results.glob("sweeps/*")]
        held = []
        for job in jobs.recorded(self.results, names):
            lines = jobs._lines(jobs.wave_file(job.folder, job.wave)) if job.wave else []
            for place, line in enumerate(lines[job.after : job.after + job.tasks], start=1):
                held += [node_of[digest].title for digest in line] if f"{job.id}_{place}" in tasks else []
        return sorted(held)

    def all_titles(self):
        return sorted(node.title for node in self.lab.plan().nodes.values())


@pytest.fixture
def site(made_up, slurm, tmp_path):
    return Site(made_up, slurm, tmp_path)


# -- words ------------------------------------------------------------------------------------------------------------


def test_every_call_of_sbatch_whole(site):
    made = site.submit()
    assert site.slurm.submitted() == site.golden(GOLDEN)
    assert [job.id for job in made] == ["11", "12", "13", "14"]
    assert site.said == [
        "submitted job 11: wave 1, 1 task",
        "submitted job 12: wave 2, 4 tasks",
        "submitted job 13: wave 3, 4 tasks",
        "submitted job 14: the tables",
    ]
    assert site.titles() == site.all_titles()


def test_every_call_with_resources_split_arrays_and_few_tasks_at_a_time(site):
    site.slurm.answers(array_size=3)
    site.edit("small: {use: minilm, layers: 2}", OWN)
    site.edit("seeds: [0, 1]\n", f"seeds: [0, 1]\n{BLOCK}")
    site.submit()
    assert site.slurm.submitted() == site.golden(GOLDEN_BLOCK)
    assert site.titles() == site.all_titles()


def test_labels_are_a_wave_of_small_jobs_between_those_who_give_and_those_who_learn(site):
    site.edit("seeds: [0, 1]\n", f"seeds: [0, 1]\n{BLOCK}")
    site.edit("methods: [xent, logconf]", "methods: {xent: {}, kept: {labels: {transforms: [{confident: 0.5}]}}}")
    site.submit()
    node_of, folder = site.lab.plan().nodes, site.results / "sweeps" / "made_up" / "slurm"
    waves = [jobs._lines(path) for path in sorted(folder.glob("wave-*.txt"))]
    kinds = [{node_of[digest].kind for line in wave for digest in line} for wave in waves]
    assert kinds == [{"materialize"}, {"train"}, {"train", "labels"}, {"train"}]
    small = [call for call in site.slurm.submitted() if "--partition=cpu" in call]
    assert [next(word for word in call if word.endswith(".txt") and word.startswith("/")) for call in small[:-1]] == [
        str(folder / "wave-1.txt"), str(folder / "wave-3.txt")
    ]  # fmt: skip
    assert site.titles() == site.all_titles()


def test_arrays_stay_below_the_sites_limit(site):
    site.slurm.answers(array_size=3)
    site.submit()
    arrays = [word for call in site.slurm.submitted() for word in call if word.startswith("--array")]
    assert arrays == ["--array=1-1", "--array=1-2", "--array=1-2", "--array=1-2", "--array=1-2"]
    assert site.titles() == site.all_titles()
    site.slurm.answers(array_size=1)
    with pytest.raises(MachineError, match=r"this site allows no job arrays \(MaxArraySize\)"):
        site.draft()


def test_a_hostile_results_folder_reaches_sbatch_as_it_is_but_for_percent_signs(site, tmp_path):
    site.results = tmp_path / HOSTILE / "results"
    site.submit()
    calls = site.slurm.submitted()
    output = next(word for word in calls[0] if word.startswith("--output="))
    assert (
        output == f"--output={tmp_path}/{HOSTILE.replace('%', '%%')}/results/sweeps/made_up/slurm/logs/wave-1+0/%a.txt"
    )
    assert calls[0][-1] == f"{tmp_path}/{HOSTILE}/results/sweeps/made_up/slurm/wave-1.txt"
    assert calls[-1][-2:] == ["--results", f"{tmp_path}/{HOSTILE}/results"]
    assert site.titles() == site.all_titles()


def test_a_relative_results_folder_is_written_whole_for_nodes(site, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    site.results = site.results.relative_to(tmp_path)
    site.submit()
    assert site.slurm.submitted() == site.golden(GOLDEN, tmp_path / "results")


def test_a_backslash_in_the_results_folder_is_refused(site, tmp_path):
    with pytest.raises(SpecError) as caught:
        site.draft(results=tmp_path / "a\\b")
    assert caught.value.problems == [
        f"results: SLURM cannot write logs below a folder with a backslash in its name ({tmp_path}/a\\b)"
    ]


def test_folders_of_logs_are_there_before_a_task_can_begin(site):
    site.submit()
    logs = site.results / "sweeps" / "made_up" / "slurm" / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["tables", "wave-1+0", "wave-2+0", "wave-3+0"]


# -- only what is missing ---------------------------------------------------------------------------------------------


def states(drafted):
    return {state: number for state, number in drafted.states.items() if number}


def test_the_same_again_submits_nothing(site):
    site.submit()
    again = site.draft()
    assert (again.waves.arrays, again.waves.lines, again.requests) == ([], [], [])
    assert states(again) == {"queued": 9}


def test_done_claimed_and_queued_steps_are_left_out_and_failed_ones_are_not(site):
    lab = site.lab
    data, weak = lab.node("data movie"), lab.node("weak tiny on movie, seed 0")
    failed = lab.node("weak tiny on movie, seed 1")
    lab.finish(data)
    lab.store.fail(failed.digest, "reason")
    claim = lab.store.claim(weak.digest)
    assert claim is not None
    drafted = site.draft()
    claim.release()
    assert states(drafted) == {"done": 1, "running": 1, "waiting": 7}
    written = {digest for lines in drafted.waves.lines for line in lines for digest in line}
    assert failed.digest in written
    assert not written & {data.digest, weak.digest}
    assert drafted.waves.arrays[0].needs == ()
    assert states(site.draft()) == {"done": 1, "waiting": 8}, "nobody works on it any more"


def test_weights_that_were_not_kept_are_asked_for_again(site):
    for node in site.lab.plan().nodes.values():
        site.lab.finish(node)
    assert states(site.draft()) == {"done": 9}
    assert states(site.draft(sets=["keep_weights=true"])) == {"done": 1, "waiting": 8}


def test_tasks_that_ended_without_their_step_are_submitted_again_in_new_waves(site):
    site.submit()
    folder = site.results / "sweeps" / "made_up" / "slurm"
    before = {path.name: path.read_bytes() for path in folder.glob("wave-*")}
    site.lab.finish(site.lab.node("data movie"))
    site.slurm.ends("11", "12_2", "12_3")
    site.slurm.forget_calls()
    made = site.submit()
    first, tables = site.slurm.submitted()
    assert "--array=1-2" in first
    assert first[-1] == str(folder / "wave-4.txt")
    assert not any(word.startswith("--dependency") for word in first), "its parents are done"
    assert "--dependency=afterany:12:13:15" in tables, "also for what was in the queue before"
    assert site.titles() == sorted(set(site.all_titles()) - {"data movie"})
    assert [job.wave for job in made] == [4, 0]
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_tables_that_slurm_did_not_take_are_submitted_alone(site):
    site.slurm.answers(takes=3)
    with pytest.raises(MachineError, match="3 of 4 jobs were submitted"):
        site.submit()
    site.slurm.answers(takes=None)
    site.slurm.forget_calls()
    (tables,) = site.submit()
    (call,) = site.slurm.submitted()
    assert tables.wave == 0
    assert "--dependency=afterany:11:12:13" in call
    assert not site.draft().lacks_tables, "there is one now"


def test_a_step_in_a_running_task_is_not_submitted_twice(site):
    site.submit()
    site.slurm.runs("11_1")
    assert states(site.draft()) == {"queued": 9}


def test_what_needs_a_step_of_another_sweeps_job_waits_for_that_job(site, tmp_path):
    site.submit()
    site.slurm.forget_calls()
    other = tmp_path / "other.yaml"
    text = site.lab.yaml.read_text().replace("seeds: [0, 1]", "seeds: [1, 2]")
    other.write_text(text.replace("[xent, logconf]", "[xent, {name: longer, loss: xent, recipe: {epochs: 3}}]"))
    made = site.submit(other)
    calls = [[word for word in call if word.startswith(("--array", "--dep"))] for call in site.slurm.submitted()]
    assert calls == [
        # the student of seed 1 that only this sweep has: of data in job 11 and a weak model in job 12; and what is
        # new for seed 2, of data in job 11
        ["--array=1-3", "--dependency=afterany:11:12"],
        ["--array=1-2", "--dependency=afterany:11:15"],
        ["--dependency=afterany:11:12:13:15:16"],
    ]
    assert Counter(job.sweep for job in made) == {"other": 3}
    assert [job.wave for job in made] == [1, 2, 0], "every sweep counts its own"
    assert Counter(site.titles(other)).most_common(1)[0][1] == 1


def test_a_plan_that_changed_leaves_the_old_waves_and_submits_from_the_new(site):
    site.submit()
    site.edit("[xent, logconf]", "[{name: xent, recipe: {epochs: 5}}]")
    drafted = site.draft()
    assert states(drafted) == {"queued": 5, "waiting": 2}
    assert [array.jobs for array in drafted.waves.arrays] == [("11", "12")]
    submit.send(drafted, site.said.append)
    assert (site.results / "sweeps" / "made_up" / "slurm" / "wave-3.txt").exists()
    assert len(site.slurm.queue()) == 1 + 4 + 4 + 1 + 2 + 1


# -- what SLURM does not take -----------------------------------------------------------------------------------------


def test_where_slurm_takes_no_more_the_rest_is_submitted_later_without_doubles(site):
    site.slurm.answers(takes=2)
    with pytest.raises(MachineError) as caught:
        site.submit()
    assert str(caught.value).splitlines() == [
        "sbatch: error: QOSMaxSubmitJobPerUserLimit",
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy",
        "2 of 4 jobs were submitted before that and stay; the same command submits what is missing; where a site takes "
        "fewer tasks at a time than an array has, set slurm.array_tasks",
    ]
    assert site.slurm.queue() == ["11_1", "12_1", "12_2", "12_3", "12_4"]
    site.slurm.answers(takes=None)
    site.slurm.forget_calls()
    site.submit()
    assert [[word for word in call if word.startswith(("--array", "--dep"))] for call in site.slurm.submitted()] == [
        ["--array=1-4", "--dependency=afterany:11:12"],
        ["--dependency=afterany:11:12:13"],
    ]
    assert site.titles() == site.all_titles()


def test_where_slurm_takes_nothing_arrays_may_be_made_shorter(site):
    site.slurm.answers(takes=0)
    with pytest.raises(MachineError, match=r"0 of 4 jobs were submitted .*set slurm\.array_tasks$"):
        site.submit()
    site.slurm.answers(takes=None, array_size=1001)
    arrays = site.draft(sets=["slurm.array_tasks=2"]).waves.arrays
    assert [array.tasks for array in arrays] == [1, 2, 2, 2, 2]
    site.slurm.answers(takes=None)
    site.submit()
    assert site.titles() == site.all_titles()


def test_a_request_that_is_refused_is_told_before_anything_is_written_or_submitted(site):
    site.slurm.answers(refused={"--mem=64G": "allocation failure: Invalid feature specification"})
    site.edit("small: {use: minilm, layers: 2}", OWN)
    drafted = site.draft()
    with pytest.raises(SpecError) as caught:
        submit.check(drafted)
    assert caught.value.problems == ["allocation failure: Invalid feature specification"]
    tests = [call for call in site.slurm.calls("sbatch") if "--test-only" in call]
    assert tests == site.slurm.calls("sbatch"), "nothing was submitted"
    assert not site.results.exists()


def test_each_request_is_tested_once_and_none_where_there_is_nothing_to_submit(site):
    site.slurm.answers(array_size=2)
    submit.check(site.draft())
    assert site.slurm.calls("sbatch") == [
        ["sbatch", "--test-only", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", str(site.script)]
    ]
    site.submit()
    site.slurm.forget_calls()
    submit.check(site.draft())
    assert site.slurm.calls("sbatch") == []


def test_two_who_submit_at_the_same_time(site):
    place = site.results / "sweeps" / "submitting.json"
    with submit.turn(site.results):
        busy = "another process submits a sweep just now; try again when it is done"
        with pytest.raises(MachineError, match=busy), submit.turn(site.results):
            raise AssertionError("two at a time")
        assert place.exists()
    assert not place.exists()
    assert not site.results.exists(), "nothing came of it"


# -- the batch script -------------------------------------------------------------------------------------------------


def test_the_script_that_comes_with_w2s_is_right_and_is_found_from_everywhere(site, monkeypatch, tmp_path):
    assert submit.script_of(None).read_text().endswith('exec "$@"\n')
    monkeypatch.chdir(tmp_path)
    assert submit.script_of(None).name == "array.sbatch"
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "array.sbatch").write_text(SCRIPT)
    assert submit.script_of(None) == tmp_path / "slurm" / "array.sbatch", "that of the folder one works in comes first"
    assert site.draft(script=False).script == tmp_path / "slurm" / "array.sbatch"
    assert site.draft().script == site.script


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('exec "$@"\n', ["{}: line 1: has to name a shell, such as #!/bin/bash (got 'exec \"$@\"')"]),
        ('#!/bin/bosh -l\nexec "$@"\n', ["{}: line 1: there is no /bin/bosh here; write #!/bin/bash"]),
        ('#!\nexec "$@"\n', ["{}: line 1: has to name a shell, such as #!/bin/bash (got '#!')"]),
        ("", ["{}: line 1: has to name a shell, such as #!/bin/bash (got '')",
              '{}: runs nothing that it is given; its last line has to be: exec "$@"']),
        ("#!/bin/bash\necho hello\n", ['{}: runs nothing that it is given; its last line has to be: exec "$@"']),
        ('#!/bin/bash\n"$@"\n', ["{}: \"$@\": SLURM's notice before the time limit would end the shell and not reach "
                                 'w2s; write: exec "$@"']),
        ('#!/bin/bash\n  # exec "$@"\n', ['{}: runs nothing that it is given; its last line has to be: exec "$@"']),
        ('#!/bin/bash\nif true; then\nexec "$@"\n', ["{}: line 4: syntax error: unexpected end of file"]),
        ('#!/bin/bash\necho "\nexec "$@"\n',
         ["{}: line 3: unexpected EOF while looking for matching"]),
    ],
)  # fmt: skip
def test_a_script_that_cannot_do_its_work_is_refused_with_the_line(site, text, problems, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    site.script.write_text(text)
    with pytest.raises(SpecError) as caught:
        site.draft()
    expected = [f"slurm.script: {problem.format(site.script)}" for problem in problems]
    for wanted, said in zip(expected, caught.value.problems, strict=False):  # bash may say more in one release
        assert said.startswith(wanted)
    assert len(caught.value.problems) >= len(expected)
    assert not site.slurm.calls("sbatch")


@pytest.mark.parametrize(
    "text",
    [
        '#!/bin/sh\nexec "$@"\n',
        '#!/usr/bin/env bash\nmodule() { :; }\nmodule load cuda\nexec apptainer exec --nv image.sif "$@"\n',
        "#!/bin/bash -l\nset -eu\ntrap 'kill -USR1 $!' USR1\n\"$@\" & wait",
    ],
)
def test_a_script_may_be_edited(site, text):
    site.script.write_text(text)
    assert site.draft().script == site.script


def test_a_script_that_is_missing_or_cannot_be_read(site, tmp_path, monkeypatch):
    with pytest.raises(SpecError) as caught:
        submit.script_of(str(tmp_path / "none.sbatch"))
    assert caught.value.problems == [
        f"slurm.script: no batch script (looked for {tmp_path}/none.sbatch); copy slurm/array.sbatch of w2s there"
    ]
    site.script.write_bytes(b"#!/bin/bash\n\xff\xfe")
    with pytest.raises(SpecError, match=r"my array\.sbatch cannot be read: 'utf-8' codec"):
        site.draft()


def test_the_words_of_a_job_pass_the_script_unharmed():
    """What sbatch is given after the script reaches w2s word by word."""
    words = ["printf", "%s\\n", "a'; echo b\n ü", "", "*", "$(date)"]
    said = subprocess.run(["bash", submit.script_of(None), *words], capture_output=True, text=True, check=True).stdout
    assert said == "a'; echo b\n ü\n\n*\n$(date)\n"
