"""Whole sweeps as job arrays of a real SLURM: what ends up in the store, who made it, and what is left out."""

from __future__ import annotations

from collections import Counter

import pytest
from sweeping import (  # type: ignore[import-not-found]
    imports,
    lines,
    log,
    occupied,
    on,
    status,
    submit,
    tally,
    watch,
)
from world import save_model  # type: ignore[import-not-found]

pytestmark = pytest.mark.slurm
HOSTILE = """ü 'a"; echo $b 100% %a #"""  # no backslash, which SLURM cannot have in the names of logs


# -- a whole sweep, and another one that shares steps with it --------------------------------------------------------


@pytest.fixture(scope="module")
def swept(untouched, clusters, tmp_path_factory):
    """A sweep and a smaller one, submitted while nothing could begin; in a folder of a name as bad as may be."""
    cluster = clusters(CPUS=2)
    world = on(untouched.copy(tmp_path_factory.mktemp("swept") / HOSTILE / "world"), cluster)
    other = world.yaml.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    other = other.replace("logconf: {", "short: {recipe: {epochs: 1}, ")
    (world.folder / "other.yaml").write_text(other)
    watch(world)
    words = ["--steps-per-task", "2", "--set", "slurm.script=site/array.sbatch"]
    with occupied(cluster):
        world.jobs, world.tally = submit(world, *words)
        world.again = world.sweep("--launcher", "slurm", *words)[0]
        world.queued, world.counts = status(world), tally(world)
        world.other_jobs, world.other_tally = submit(world, *words, yaml="other.yaml")
        world.needs = {
            job: cluster.run("squeue", "-h", "-r", "-j", job, "-o", "%E").split("\n")[0] for job in world.other_jobs
        }
    cluster.until_empty()
    world.made = world.finished()
    yield world
    cluster.clear()
    world.close()


def test_every_step_is_made_once_and_the_tables_are_those_of_a_run_without_slurm(swept, whole, steps):
    assert (swept.tally, len(swept.jobs)) == ("9 steps: 9 to submit, 0 done", 4)
    assert lines(swept, 1) == [["data moods"]]
    assert Counter(len(line) for wave in (2, 3) for line in lines(swept, wave)) == {2: 4}
    assert {title for wave in (1, 2, 3) for line in lines(swept, wave) for title in line} == steps
    for wave in (1, 2, 3):
        for task, line in enumerate(lines(swept, wave), start=1):
            assert [log(swept, wave, task).count(f"done      {title} in") for title in line] == [1] * len(line)
    assert set(whole.finished()) < set(swept.made)
    assert swept.table() == whole.table()
    assert swept.rows() == whole.rows()
    assert swept.left_over() == []
    code, out, _ = swept.run("verify")
    assert (code, out.splitlines()[-1]) == (0, "artifacts checked: 10, problems: 0")


def test_steps_of_a_line_share_one_process_that_loads_torch(swept):
    """Five lines train, two of each wave and one of the other sweep; data and tables do without."""
    assert len(imports(swept)) == 5
    assert max(Counter(imports(swept)).values()) == 1


def test_what_is_queued_is_not_submitted_again(swept):
    assert swept.again == (
        "9 steps: 0 to submit, 0 done, 9 in the queue\n"
        "nothing is left to submit; `w2s cancel moods` would take out what is in the queue\n"
    )
    assert swept.counts == {"experiments": "0/4", "steps": "0/9", "queued": "9"}
    assert f"job {swept.jobs[0]} (moods, wave 1): 1 pending" in swept.queued
    assert f"job {swept.jobs[3]} (moods, tables): 1 pending (Dependency)" in swept.queued


def test_steps_that_another_sweep_has_in_the_queue_are_waited_for(swept):
    assert swept.other_tally == "5 steps: 1 to submit, 0 done, 4 in the queue"
    array, tables = swept.other_jobs
    assert all(f"afterany:{job}" in swept.needs[array] for job in swept.jobs[:2]), "of the data and of the models"
    assert f"afterany:{swept.jobs[2]}" in swept.needs[tables], "whose student the table shows too"
    assert f"afterany:{array}" in swept.needs[tables]
    written = (swept.results / "sweeps" / "other" / "table.csv").read_bytes()
    assert swept.run("sweep", "other.yaml")[0] == 0
    assert swept.finished() == swept.made, "all was there"
    assert (swept.results / "sweeps" / "other" / "table.csv").read_bytes() == written


def test_the_same_command_after_all_is_done_submits_nothing_and_shows_the_tables(swept):
    table = (swept.outputs / "table.csv").stat().st_mtime_ns
    out, _ = swept.sweep("--launcher", "slurm", "--steps-per-task", "2")
    assert out.startswith(
        "9 steps: 0 to submit, 9 done\nmoods: Does a student surpass its supervisor on moods?\n\nAccuracy and"
    )
    assert "submitted" not in out
    assert (swept.outputs / "table.csv").stat().st_mtime_ns > table
    assert swept.finished() == swept.made
    assert len(list((swept.outputs / "slurm").glob("job-*.json"))) == 4
    assert tally(swept) == {"experiments": "4/4", "steps": "9/9"}


def test_logs_of_a_step_are_found(swept):
    digest = swept.digest("weak small on moods, seed 0")
    code, out, _ = swept.run("logs", digest[:10])
    assert code == 0
    assert "done      weak small on moods, seed 0 in" in out
    assert "ceiling" not in out


# -- going on from there ----------------------------------------------------------------------------------------------


def test_a_failing_task_blocks_what_needs_it_and_mending_it_is_enough(later, cluster):
    """A model's folder is damaged after the sweep was submitted, and mended."""
    save_model(later.folder / "broken", "bert", 24, 1)
    text = later.yaml.read_text().replace(
        "  large:", "  broken: {use: ./broken, recipe: {tune: {kind: probe}, lr: 2e-2}}\n  large:"
    )
    text = text.replace("seeds: [0, 1]", "seeds: [0]\npairs: [[small, large], [broken, large]]")
    later.yaml.write_text(text.replace("logconf: {", "short: {recipe: {epochs: 1}, "))
    before = later.finished()
    weights = later.folder / "broken" / "model.safetensors"
    whole_file = weights.read_bytes()
    with occupied(cluster):
        _, found = submit(later, "--steps-per-task", "2")
        weights.write_bytes(whole_file[:100])
    cluster.until_empty()
    assert found == "8 steps: 4 to submit, 4 done"
    weak, sibling = "weak broken on moods, seed 0", "student large of small on moods, short, seed 0"
    blocked = [f"student large of broken on moods, {method}, seed 0" for method in ("xent", "short")]
    assert sorted(title for line in lines(later, 1) for title in line) == sorted([weak, sibling])
    assert lines(later, 2) == [blocked]
    titles = later.titles()
    assert [titles[digest] for digest in later.finished() if digest not in before] == [sibling]
    said = log(later, 2, 1)
    for title in blocked:
        assert f"blocked {later.digest(title)[:12]} {title}: needs {later.digest(weak)[:12]}, which failed: " in said
    told = status(later)
    assert f"failed {later.digest(weak)[:12]} {weak}: " in told
    assert tally(later) == {"experiments": "2/4", "steps": "5/8", "failed": "1", "blocked": "2"}
    assert later.left_over() == []

    weights.write_bytes(whole_file)
    kept = later.finished()
    _, found = submit(later, "--steps-per-task", "2")
    assert found == "8 steps: 3 to submit, 5 done"
    assert (lines(later, 3), lines(later, 4)) == ([[weak]], [blocked])
    cluster.until_empty()
    assert tally(later) == {"experiments": "4/4", "steps": "8/8"}
    assert {digest: later.finished()[digest] for digest in kept} == kept
    table, made = later.table(), later.finished()
    later.sweep()
    assert (later.table(), later.finished()) == (table, made), "the tables' job had written them"


def test_a_plan_that_changes_between_waves_changes_nothing_of_what_was_submitted(later, cluster):
    later.yaml.write_text(later.yaml.read_text().replace("lr: 2e-2", "lr: 1e-2").replace("[0, 1]", "[0]"))
    before = set(later.finished())
    with occupied(cluster):
        _, found = submit(later, "--steps-per-task", "2")
        assert found == "5 steps: 3 to submit, 2 done"
        old = later.titles()
        later.yaml.write_text(later.yaml.read_text().replace("a_max: 0.5", "a_max: 0.25"))
        _, found = submit(later, "--steps-per-task", "2")
        assert found == "5 steps: 1 to submit, 2 done, 2 in the queue"
        new = later.titles()
        later.yaml.write_text("nonsense: [")
    cluster.until_empty()
    assert set(later.finished()) == before | set(old) | set(new)
    assert len(set(old) ^ set(new)) == 2, "the confidence loss of then and of now"
    assert "done      student large of small on moods, logconf, seed 0" in log(later, 2, 1), "as it was submitted"
    assert tally(later) == {"experiments": "2/2", "steps": "5/5"}


def test_an_array_longer_than_the_site_allows_is_several_and_they_take_turns(later, another):
    """Three tasks where an array may have two, and two at a time of all of them, on a node that would take three."""
    cluster = another(CPUS=3, MAX_ARRAY_SIZE=3)
    on(later, cluster)
    later.yaml.write_text(later.yaml.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    methods = ", ".join(f"{name}: {{loss: xent, recipe: {{epochs: {n}}}}}" for n, name in enumerate("abc", start=1))
    before = later.finished()
    with occupied(cluster):
        ids, _ = submit(later, "--max-parallel", "2", "--set", f"methods={{{methods}}}")
        queue = cluster.squeue()
        waiting = cluster.run("squeue", "-h", "-r", "-j", ids[1], "-o", "%E")
    assert set(queue) > {f"{ids[0]}_1", f"{ids[0]}_2", f"{ids[1]}_1", ids[2]}
    assert f"afterany:{ids[0]}" in waiting
    running: Counter[int] = Counter()

    def over():
        queue = cluster.squeue()
        running[sum(state == "RUNNING" for state in queue.values())] += 1
        return not queue

    cluster.until(over)
    assert max(running) == 2
    assert [len(line) for line in lines(later, 1)] == [1, 1, 1]
    assert [bool(log(later, 1, *place)) for place in ((1,), (2,), (1, 2), (3,))] == [True, True, True, False]
    assert "line 3 of wave-1.txt" in log(later, 1, 1, after=2)
    assert len(later.finished()) == len(before) + 3
    assert {digest: later.finished()[digest] for digest in before} == before


# -- what cannot go well ----------------------------------------------------------------------------------------------


def refused(world, *words, code=2):
    """What is said of a submission that leaves nothing behind."""
    found, out, err = world.run("sweep", "moods.yaml", "--launcher", "slurm", *words)
    assert (found, out) == (code, "")
    assert not world.results.exists()
    return err.splitlines()


def test_what_slurm_refuses_is_told_in_its_words_before_anything_is_written(world, cluster):
    assert refused(world, "--set", "slurm.partition=elsewhere") == [
        "w2s: sbatch: error: invalid partition specified: elsewhere",
        "w2s: allocation failure: Invalid partition name specified",
    ]
    assert cluster.squeue() == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('exec "$@"\n', "line 1: has to name a shell, such as #!/bin/bash"),
        ('#!/bin/bosh\nexec "$@"\n', "line 1: there is no /bin/bosh here"),
        ('#!/bin/bash\r\nexec "$@"\r\n', "Batch script contains DOS line breaks"),
        ("#!/bin/bash\nmodule load cuda\n", "runs nothing that it is given"),
        ('#!/bin/bash\nif [ x; then\nexec "$@"\n', "syntax error"),
        ('#!/bin/bash\n#SBATCH --partition=elsewhere\nexec "$@"\n', "invalid partition specified: elsewhere"),
        ('#!/bin/bash\n#SBATCH --tmie=5\nexec "$@"\n', "unrecognized option '--tmie=5'"),
    ],
)
def test_a_batch_script_that_cannot_do_its_work_is_refused_before_anything_is_written(text, problem, world, cluster):
    (world.folder / "slurm").mkdir()
    (world.folder / "slurm" / "array.sbatch").write_bytes(text.encode())
    assert problem in "\n".join(refused(world))
    assert cluster.squeue() == {}


def test_a_results_folder_that_nodes_do_not_see_is_told_of(world, cluster):
    """Taken away for as long as the jobs run."""
    elsewhere = world.folder / "elsewhere"
    with occupied(cluster):
        (job, *_), _ = submit(world, "--steps-per-task", "2")
        world.results.rename(elsewhere)
    cluster.until_empty()
    assert not world.results.exists(), "no job has made another one"
    elsewhere.rename(world.results)
    told = status(world)
    assert (
        f"task 1 of job {job} ended without it and without a word: it was cancelled before it began, or nodes" in told
    )
    assert tally(world) == {"experiments": "0/4", "steps": "0/9", "waiting": "9"}
    assert cluster.run("sinfo", "-h", "-o", "%T").strip() == "idle", "the node is as good as before"
