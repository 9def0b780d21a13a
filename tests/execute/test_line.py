"""What a task of a job array does: its line and nothing else, what is blocked, whom it waits for, how it is stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import fake_nfs  # type: ignore[import-not-found]
import pytest
from fake_lab import Lab, plan_of  # type: ignore[import-not-found]

from w2s.errors import Interrupted, MachineError, SpecError
from w2s.execute import jobs, line
from w2s.execute.display import Display
from w2s.execute.schedule import Schedule
from w2s.execute.slots import Slot
from w2s.experiments import expand
from w2s.plan import build
from w2s.spec import Engine
from w2s.stopping import Asked
from w2s.sweep import read_sweep

HERE = Path(__file__).parent
HOST = socket.gethostname()
DATA = "data movie"
WEAK = [f"weak tiny on movie, seed {seed}" for seed in (0, 1)]
CEILINGS = [f"ceiling small on movie, seed {seed}" for seed in (0, 1)]
XENT = [f"student small of tiny on movie, xent, seed {seed}" for seed in (0, 1)]


class Task:
    """Carries out lines of titles of a lab's sweep, as a task of an array would."""

    def __init__(self, lab):
        self.lab, self.said = lab, []

    def wave(self, *lines, number=1):
        nodes = {node.title: node for node in self.lab.plan().nodes.values()}
        digests = [tuple(nodes[title].digest for title in titles) for titles in lines]
        where = jobs.folder(self.lab.results, "made_up")
        return jobs.write_wave(where, number, digests, {node.digest: node for node in nodes.values()})

    def __call__(self, file, number=1, env=None, say=None):
        def told(text):
            self.said.append(text)
            if say is not None:
                say(text)

        return line.carry_out(file, number, display=Display(), say=told, env=env or {})

    def does(self, *titles, **more):
        return self(self.wave(titles), **more)[0]


@pytest.fixture
def task(made_up, monkeypatch):
    def execute(plan, store, **more):
        Schedule(plan.nodes.values())  # as the real one: refuses steps whose parents are not in the plan
        return made_up.execute(plan, store, **more)

    monkeypatch.setattr(line, "POLL_S", 0.0)
    monkeypatch.setattr("w2s.execute.local.execute", execute)
    return Task(made_up)


def finish(lab, *titles):
    for title in titles:
        lab.finish(lab.node(title))


# -- its line ---------------------------------------------------------------------------------------------------------


def test_a_task_does_its_line_and_nothing_else(task):
    finish(task.lab, DATA)
    file = task.wave([WEAK[0], CEILINGS[0]], [WEAK[1]])
    outcome, plan = task(file, 2)
    assert outcome.ok
    assert task.lab.made == [WEAK[1]]
    assert [node.title for node in plan.nodes.values()] == [WEAK[1]]
    outcome, plan = task(file, 1)
    assert task.lab.made == [WEAK[1], WEAK[0], CEILINGS[0]]
    assert task.said == [
        f"line 2 of wave-1.txt on {HOST}: {WEAK[1]}",
        f"line 1 of wave-1.txt on {HOST}: {WEAK[0]}; {CEILINGS[0]}",
    ]


def test_what_is_done_is_not_done_again_even_where_its_parents_are_gone(task):
    finish(task.lab, WEAK[0])
    outcome = task.does(WEAK[0])
    assert (outcome.ok, outcome.reused, task.lab.made) == (True, [task.lab.node(WEAK[0]).digest], [])


def test_a_long_line_is_named_in_short(task):
    finish(task.lab, DATA, *WEAK)
    titles = [node.title for node in task.lab.plan().nodes.values() if node.title not in (DATA, *WEAK)]
    finish(task.lab, *titles)
    task.does(*titles, *WEAK)
    assert task.said[0].endswith("; ".join(titles[:6]) + " and 2 more")


@pytest.mark.parametrize("number", [0, 3, -1])
def test_a_line_that_is_not_there(task, number):
    file = task.wave([DATA], [WEAK[0]])
    with pytest.raises(SpecError, match=rf"wave-1\.txt has the lines 1 to 2 \(got {number}\)"):
        task(file, number)


def test_a_results_folder_that_this_node_does_not_see(task, tmp_path):
    file = tmp_path / "not" / "mounted" / "sweeps" / "s" / "slurm" / "wave-1.txt"
    with pytest.raises(SpecError) as caught:
        task(file)
    assert caught.value.problems == [
        f"{file}: cannot be seen on node {HOST}, where {tmp_path} is the last folder of that path that is there; "
        "put --results on a disk that all nodes share"
    ]
    file.parent.mkdir(parents=True)
    with pytest.raises(SpecError, match=r"wave-1\.txt: no such wave of steps"):
        task(file)


@pytest.mark.parametrize(
    "name",
    ["wave-2.txt", "passwd", "results/sweeps/s/slurm/wave-2.parquet", "results/sweeps/s/slurm/wave-.txt",
     "results/sweeps/s/wave-2.txt", "results/sweeps/slurm/wave-2.txt"],
)  # fmt: skip
def test_a_file_that_is_no_wave(task, tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a\n")
    with pytest.raises(SpecError) as caught:
        task(file)
    assert caught.value.problems == [
        f"{file}: is no wave of steps; give a file RESULTS/sweeps/NAME/slurm/wave-K.txt, as `w2s sweep YAML --launcher "
        "slurm` writes it"
    ]
    with pytest.raises(SpecError, match="is no wave of steps"):
        task(Path("/wave-2.txt"))


# -- parents ----------------------------------------------------------------------------------------------------------


def test_what_lacks_a_parent_is_blocked_and_told_so_and_its_siblings_go_on(task):
    lab = task.lab
    finish(lab, DATA, WEAK[1])
    lab.store.fail(lab.node(WEAK[0]).digest, "out of luck")
    outcome, plan = task(task.wave([XENT[0], XENT[1]]))
    student, weak = lab.node(XENT[0]), lab.node(WEAK[0])
    assert not outcome.ok
    assert outcome.blocked == {student.digest: weak.digest}
    assert lab.made == [XENT[1]]
    assert len(plan.nodes) == 2
    assert task.said[1:] == [
        f"blocked {student.digest[:12]} {XENT[0]}: needs {weak.digest[:12]}, which failed: out of luck"
    ]


def test_a_parent_that_nobody_made_is_missing(task):
    outcome = task.does(WEAK[0], WEAK[1], env={"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"})
    data = task.lab.node(DATA).digest
    assert set(outcome.blocked.values()) == {data}
    assert task.lab.made == []
    assert task.said[1].endswith(f"{WEAK[0]}: needs {data[:12]}, which is missing: its job ended without it")


def test_a_line_that_is_blocked_as_a_whole_says_so_also_in_a_job_of_several_tasks(task):
    task.lab.yaml.write_text(task.lab.yaml.read_text() + "engine: {processes: 2}\n")
    outcome = task.does(WEAK[0], env={"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"})
    assert list(outcome.blocked) == [task.lab.node(WEAK[0]).digest]


def test_cached_layers_are_parents_too(task):
    """Each kind of artifact is looked for in its own place."""
    lab = task.lab
    lab.yaml.write_text(lab.yaml.read_text() + "engine: {cache_frozen: true}\nrecipe: {tune: {kind: probe}}\n")
    weak = lab.node(WEAK[0])
    parents = [lab.plan().nodes[digest] for digest in weak.parents]
    assert [node.kind for node in parents] == ["materialize", *["features"] * 4]
    for node in parents[:-1]:
        lab.finish(node)
    assert task.does(WEAK[0]).blocked == {weak.digest: parents[-1].digest}
    lab.finish(parents[-1])
    assert task.does(WEAK[0]).ok
    assert lab.made == [WEAK[0]]


def test_a_parent_that_another_process_works_on_is_waited_for(task):
    lab = task.lab
    claim = lab.store.claim(lab.node(DATA).digest)

    def done_meanwhile(text):
        if "waits for" in text:
            finish(lab, DATA)
            claim.release()

    outcome = task.does(WEAK[0], WEAK[1], say=done_meanwhile)
    assert outcome.ok
    assert lab.made == WEAK
    assert task.said[1:] == [f"{WEAK[0]}: waits for {lab.node(DATA).digest[:12]}, which another process works on"]


def test_a_parent_that_another_node_made_is_seen_although_this_one_believed_it_absent(task, monkeypatch):
    lab = task.lab
    data = lab.node(DATA)
    claim = lab.store.claim(data.digest)
    fake_nfs.mount(monkeypatch)

    def done_elsewhere(text):
        if "waits for" in text:
            lab.finish(data)
            claim.release()
            assert not lab.store.has("materialize", data.digest), "this node does not see it yet"

    assert task.does(WEAK[0], say=done_elsewhere).ok
    assert lab.made == [WEAK[0]]


def test_a_parent_that_the_other_process_gives_up_blocks(task):
    lab = task.lab
    data = lab.node(DATA).digest
    claim = lab.store.claim(data)

    def given_up(text):
        if "waits for" in text:
            lab.store.fail(data, "no luck either")
            claim.release()

    assert set(task.does(WEAK[0], say=given_up).blocked.values()) == {data}
    assert task.said[-1].endswith("which failed: no luck either")


def test_notice_while_a_parent_is_waited_for_puts_the_job_back(task, slurm):
    lab = task.lab
    claim = lab.store.claim(lab.node(DATA).digest)

    def notice(text):
        if "waits for" in text:
            raise Asked("SIGUSR1")

    with pytest.raises(Asked):
        task.does(WEAK[0], say=notice, env={"SLURM_JOB_ID": "17"})
    claim.release()
    assert slurm.calls() == [["scontrol", "requeue", "17"]]
    assert lab.made == []


@pytest.mark.parametrize("waited", [True, False])
def test_who_had_to_wait_for_a_parent_is_put_back_though_its_own_step_came_nowhere(task, slurm, monkeypatch, waited):
    lab = task.lab
    if not waited:
        finish(lab, DATA)
    claim = lab.store.claim(lab.node(DATA).digest)

    def done_meanwhile(text):
        if "waits for" in text:
            finish(lab, DATA)

    def told_to_stop(*_, **__):
        raise Interrupted("stopped", 75, "SIGUSR1")

    monkeypatch.setattr("w2s.execute.local.execute", told_to_stop)
    with pytest.raises(Interrupted):
        task.does(WEAK[0], say=done_meanwhile, env={"SLURM_JOB_ID": "17"})
    claim.release()
    assert slurm.calls() == ([["scontrol", "requeue", "17"]] if waited else [])


# -- places -----------------------------------------------------------------------------------------------------------

JOB = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": ""}


def places(engine, monkeypatch, **env):
    env = {**JOB, **env}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return line._places(engine, env)


def test_a_line_runs_in_one_worker_or_in_one_per_place_that_its_gpus_make(monkeypatch):
    (alone,) = places(Engine(workers=3), monkeypatch, SLURM_NTASKS="1")
    assert (alone.ranks, alone.launcher) == (1, None)
    (group,) = places(Engine(processes=2, threads=1), monkeypatch)
    assert (group.ranks, group.launcher) == (2, "torchrun")
    two = places(Engine(workers=1), monkeypatch, CUDA_VISIBLE_DEVICES="0,1", SLURM_NTASKS="1")
    assert [place.visible for place in two] == ["0", "1"], "a job's GPUs are for all its steps"
    (hidden,) = places(Engine(device="cpu"), monkeypatch, CUDA_VISIBLE_DEVICES="0,1")
    assert hidden.visible == ""
    with pytest.raises(MachineError, match="no CUDA device is visible here"):
        places(Engine(device="cuda"), monkeypatch)


@pytest.mark.parametrize(
    ("engine", "env", "place"),
    [
        ({"processes": 4}, {"SLURM_CPUS_PER_TASK": "3"}, Slot(0, 3, None, 4, "srun")),
        ({"processes": 4, "threads": 2}, {"SLURM_CPUS_PER_TASK": "3"}, Slot(0, 2, None, 4, "srun")),
        ({"devices_per_step": 4}, {"SLURM_CPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3"},
         Slot(0, 1, None, 4, "srun")),
        ({"processes": 4, "device": "cpu"}, {"SLURM_CPUS_PER_TASK": "1"}, Slot(0, 1, "", 4, "srun")),
    ],
)  # fmt: skip
def test_several_tasks_are_the_ranks_of_one_step(engine, env, place, monkeypatch):
    assert places(Engine(**engine), monkeypatch, SLURM_NTASKS="4", **env) == [place]


def test_without_cpus_per_task_the_nodes_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(line, "cpu_count", lambda: 8)
    assert places(Engine(processes=4), monkeypatch, SLURM_NTASKS="4")[0].threads == 2
    assert places(Engine(processes=4), monkeypatch, SLURM_NTASKS="4", SLURM_NNODES="2")[0].threads == 4
    assert places(Engine(processes=16), monkeypatch, SLURM_NTASKS="16")[0].threads == 1


def test_a_job_of_other_than_the_steps_processes_is_refused(monkeypatch):
    array = {"SLURM_ARRAY_TASK_ID": "3"}
    with pytest.raises(SpecError) as caught:
        places(Engine(processes=2), monkeypatch, SLURM_NTASKS="4", **array)
    assert caught.value.problems == [
        "engine: a step has 2 processes, but the job was given 4 tasks; submit it by `w2s sweep YAML --launcher "
        "slurm`, which asks for as many as are needed"
    ]
    with pytest.raises(SpecError, match="a step has 1 process, but the job was given 4 tasks"):
        places(Engine(), monkeypatch, SLURM_NTASKS="4", **array)
    monkeypatch.delenv("SLURM_JOB_ID")
    (place,) = line._places(Engine(processes=2), {"SLURM_NTASKS": "4", "CUDA_VISIBLE_DEVICES": ""})
    assert place.launcher == "torchrun", "what is left in a shell of an older job says nothing"


def test_by_hand_the_tasks_of_a_job_count_only_where_they_fit(monkeypatch):
    (alone,) = places(Engine(), monkeypatch, SLURM_NTASKS="3")
    assert (alone.ranks, alone.launcher) == (1, None)
    (group,) = places(Engine(processes=2, threads=1), monkeypatch, SLURM_NTASKS="3")
    assert (group.ranks, group.launcher) == (2, "torchrun")
    (fits,) = places(Engine(processes=3, threads=1), monkeypatch, SLURM_NTASKS="3")
    assert (fits.ranks, fits.launcher) == (3, "srun")


def test_tasks_are_counted_by_node_whatever_the_shell_of_sbatch_left(monkeypatch):
    env = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_NTASKS": "3", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"}
    assert places(Engine(processes=4), monkeypatch, **env)[0].ranks == 4
    env |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"}
    assert places(Engine(), monkeypatch, **env)[0].launcher is None


# -- being stopped, in a process of its own ---------------------------------------------------------------------------


class Stopped:
    """A task whose line is the first steps of a chain without parents; step 2 stands at a gate until it is stopped."""

    def __init__(self, folder):
        (folder / "results").mkdir()
        self.lab = Lab(folder / "results")
        self.lab.script({2: "gate:never"})
        self.lab.gate("never")

    def by(self, name, steps=(1, 2), env=None, after=None):
        """Signalled once step 2 runs; `after`: once the task has said that."""
        nodes = plan_of({number: [] for number in steps}).nodes
        file = jobs.write_wave(jobs.folder(self.lab.folder, "fake"), 1, [tuple(nodes)], nodes)
        process = subprocess.Popen(
            [sys.executable, HERE / "fake_line.py", file, "--line", "1"], text=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **(env or {})},
        )  # fmt: skip
        self.lab.processes.append(process)
        self.lab.pid(2)
        begun = ""
        while after is not None and after not in begun:
            text = process.stderr.readline()
            assert text, begun
            begun += text
        process.send_signal(getattr(signal, name))
        said = begun + process.communicate(timeout=60)[1]
        assert "Traceback" not in said
        return process.returncode, said


@pytest.fixture
def stopped(tmp_path):
    made = Stopped(tmp_path)
    yield made
    for process in made.lab.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


NO_REQUEUE = "not requeued: since it began, nothing was finished and no checkpoint was reached"


def test_slurms_notice_puts_the_job_back_where_something_moved(stopped, slurm):
    code, said = stopped.by("SIGUSR1", env={"SLURM_JOB_ID": "17"})
    assert code == 75
    assert slurm.calls() == [["scontrol", "requeue", "17"]]
    assert "saved; put back into the queue, to go on from there\n" in said
    assert stopped.lab.runs() == [1, 2]
    assert stopped.lab.store.has("materialize", next(iter(plan_of({1: []}).nodes)))


def test_the_last_task_of_an_array_has_the_arrays_number_and_puts_back_itself_alone(stopped, slurm):
    env = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "9"}
    assert stopped.by("SIGUSR1", env=env)[0] == 75
    assert slurm.calls() == [["scontrol", "requeue", "17_9"]]


def test_a_task_that_came_no_further_is_not_put_back_since_it_never_would(stopped, slurm):
    code, said = stopped.by("SIGUSR1", steps=(2,), env={"SLURM_JOB_ID": "17"})
    assert (code, slurm.calls()) == (75, [])
    assert NO_REQUEUE in said


def test_a_task_that_waits_for_steps_of_others_is_put_back(stopped, slurm):
    """It had nothing in hand that a longer limit would have helped."""
    other = stopped.lab.parent({2: []})
    stopped.lab.pid(2)
    code, said = stopped.by("SIGUSR1", steps=(2,), env={"SLURM_JOB_ID": "17"}, after="another process works on it")
    assert code == 75
    assert slurm.calls() == [["scontrol", "requeue", "17"]]
    assert "saved; put back into the queue" in said
    assert other.poll() is None
    assert stopped.lab.runs() == [2]


def test_on_sigterm_and_outside_a_job_nothing_is_put_back(stopped, slurm):
    code, said = stopped.by("SIGTERM", env={"SLURM_JOB_ID": "17"})
    assert (code, slurm.calls()) == (75, [])
    assert "stopped by SIGTERM: 1 of 2 steps are done and kept; the same command goes on" in said


def test_outside_a_job_the_notice_only_stops(stopped, slurm):
    code, said = stopped.by("SIGUSR1")
    assert (code, slurm.calls()) == (75, [])
    assert "requeue" not in said


def test_where_slurm_does_not_take_the_job_back_that_is_said(stopped, slurm):
    slurm.answers(broken={"scontrol": "Requested operation is presently disabled for job 17"})
    code, said = stopped.by("SIGUSR1", env={"SLURM_JOB_ID": "17"})
    assert code == 75
    assert (
        "saved, but SLURM does not take the job back (Requested operation is presently disabled for job 17); "
        "submit the sweep again\n"
    ) in said


# -- a real step ------------------------------------------------------------------------------------------------------


def test_a_real_line_in_a_real_process(tmp_path, slurm):
    """Data is made from a file, by `w2s work` as the batch script calls it."""
    rows = [{"text": f"text {number}", "mood": "good" if number % 2 else "bad"} for number in range(60)]
    (tmp_path / "moods.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "moods.yaml").write_text(
        "tasks: {moods: {file: moods.jsonl, text: text, label: mood, classes: [bad, good]}}\n"
        "sizes: {weak_train: 8, transfer: 8, val: 4, test: 8}\nmodels: [minilm@1, minilm]\nmethods: [xent]\n"
    )
    sweep = read_sweep(tmp_path / "moods.yaml")
    nodes = build(sweep, expand(sweep)).nodes
    data = next(node for node in nodes.values() if node.kind == "materialize")
    results = tmp_path / "a'; echo b ü" / "results"
    file = jobs.write_wave(jobs.folder(results, "moods"), 1, [(data.digest,)], nodes)
    words = [sys.executable, "-m", "w2s", "work", file]
    env = {**os.environ, "W2S_CACHE": str(tmp_path / "cache"), "SLURM_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    assert f"line 1 of wave-1.txt on {HOST}: data moods\n" in done.stderr
    assert (results / "store" / "materialize" / data.digest[:2] / data.digest / "manifest.json").exists()
    assert not slurm.calls()


def test_a_parent_that_was_finished_without_its_weights_is_missing_for_who_begins_from_them(task):
    lab = task.lab
    lab.yaml.write_text(lab.yaml.read_text().replace("[xent, logconf]", "{xent: {}, after: {start: {method: xent}}}"))
    after = XENT[0].replace("xent", "after")
    finish(lab, DATA, WEAK[0])
    first = lab.node(XENT[0])
    assert first.spec.keep_weights
    lab.finish(dataclasses.replace(first, spec=first.spec.model_copy(update={"keep_weights": False})))
    outcome = task.does(after)
    assert outcome.blocked == {lab.node(after).digest: first.digest}
    assert task.said[-1].endswith("which is there without the weights to begin from: its job ended without them")
    task.does(XENT[0])  # is not done before the weights are there
    assert lab.made == [XENT[0]]
    assert task.does(after).ok
    assert lab.made == [XENT[0], after]
