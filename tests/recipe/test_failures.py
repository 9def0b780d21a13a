"""What goes wrong stays where it is: siblings finish, the table shows what is there, and mending it is enough."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.recipe

# One seed. `wild` diverges as a supervisor, `burst` as a method; the folder of `gone` vanishes after planning.
BROKEN = """\
tasks: {moods: {file: moods.jsonl, text: text, label: mood, classes: [bad, good]}}
sizes: {weak_train: 64, transfer: 96, val: 16, test: 200}
models:
  small: {use: ./small, recipe: {tune: {kind: probe}, lr: 2e-2}}
  wild: {use: ./small, recipe: {lr: 1e+30, clip_norm: null}}
  large: {use: ./large}
  gone: {use: ./gone}
pairs:
  - [small, large]
  - [wild, large]
  - [small, gone]
methods:
  xent: {}
  burst: {loss: xent, recipe: {lr: 1e+30, clip_norm: null}}
recipe: {lr: 3e-3, epochs: 8, batch_size: 8}
engine: {threads: 1, workers: 2}
"""


def lines_of(folder):
    with (folder / "table.csv").open() as file:
        return {(line["weak"], line["student"], line["method"]): line for line in csv.DictReader(file)}


def test_failing_steps_fail_alone_and_mending_them_is_enough(world):
    (world.folder / "broken.yaml").write_text(BROKEN)
    shutil.copytree(world.folder / "large", world.folder / "gone")
    config = world.folder / "gone" / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 32', '"max_position_embeddings": 33'))
    outputs = world.results / "sweeps" / "broken"
    process = world.start("sweep", "broken.yaml")
    assert world.until(process, (outputs / "plan.json").exists)
    (world.folder / "gone").rename(world.folder / "elsewhere")
    code, out, err = world.end(process)
    world.outputs = outputs
    titles = world.titles()

    # What is there and what is not.
    assert code == 1
    assert {titles[digest] for digest in world.finished()} == {
        "data moods", "weak small on moods, seed 0", "ceiling large on moods, seed 0",
        "student large of small on moods, xent, seed 0",
    }  # fmt: skip
    failed = {
        "weak wild on moods, seed 0": "the norm of the gradient of step",
        "student large of small on moods, burst, seed 0": "the norm of the gradient of step",
        "ceiling gone on moods, seed 0": "gone",
        "student gone of small on moods, xent, seed 0": "gone",
        "student gone of small on moods, burst, seed 0": "gone",
    }
    blocked = {f"student large of wild on moods, {method}, seed 0" for method in ("xent", "burst")}
    summary = err.splitlines()[-len(failed) - len(blocked) - 1 :]
    assert [line.split()[0] for line in summary] == ["failed"] * 5 + ["blocked"] * 2 + ["`w2s"]
    for title, reason in failed.items():
        [line] = [line for line in summary if title in line]
        assert line.startswith(f"failed  {world.digest(title)[:12]}  {title}: ")
        assert reason in line.partition(title)[2]
    assert all(any(title in line for line in summary) for title in blocked)
    assert world.left_over() == []

    # The table shows what is there.
    lines = lines_of(outputs)
    assert len(lines) == 6
    there = lines["small", "large", "xent"]
    assert float(there["pgr"]) == pytest.approx(
        (float(there["student_accuracy"]) - float(there["weak_accuracy"]))
        / (float(there["ceiling_accuracy"]) - float(there["weak_accuracy"]))
    )
    assert (lines["small", "large", "burst"]["student_accuracy"], lines["small", "large", "burst"]["pgr"]) == ("", "")
    assert lines["small", "large", "burst"]["ceiling_accuracy"] == there["ceiling_accuracy"]
    assert "failed" in lines["small", "large", "burst"]["pgr_reason"]
    assert "failed" in lines["wild", "large", "xent"]["pgr_reason"]
    assert "not finished" in (outputs / "table.md").read_text().lower()
    assert "small -> large" in out

    # Each failure can be looked at.
    burst = world.digest("student large of small on moods, burst, seed 0")
    code, out, _ = world.run("show", burst[:12])
    assert code == 0
    assert "the norm of the gradient of step" in out
    assert "Lower recipe.lr (now 1e+30)" in out
    assert f"the end of {Path('results/store/work') / burst[:2] / burst / 'log.txt'}" in out
    code, out, _ = world.run("status", "broken")
    assert code == 0
    assert out.splitlines()[2].split() == ["broken", "1/6", "4/11", "5", "2"]

    # Mended, it completes; what was finished is not touched.
    before = world.finished()
    (world.folder / "elsewhere").rename(world.folder / "gone")
    mend = ["--set", "models.wild.recipe={lr: 3e-3}", "--set", "methods.burst.recipe={lr: 1e-3}"]
    code, out, err = world.run("sweep", "broken.yaml", *mend)
    assert code == 0, err
    assert {digest: changed for digest, changed in world.finished().items() if digest in before} == before
    assert all(float(line["student_accuracy"]) > 0 for line in lines_of(outputs).values())


def test_a_killed_worker_fails_its_step_alone_and_is_replaced(whole, world):
    long = ["--set", "methods.logconf.recipe.epochs=100", "--set", "seeds=[0]"]
    process = world.start("sweep", "moods.yaml", *long, "--workers", "1")
    world.until(process, (world.outputs / "plan.json").exists)
    victim = world.digest("student large of small on moods, logconf, seed 0")
    pid = world.until(process, lambda: world.holders().get(victim))
    assert pid, "it was over before it could be killed"
    os.kill(pid, signal.SIGKILL)
    code, out, err = world.end(process)
    assert code == 1
    assert "FAILED    student large of small on moods, logconf, seed 0: the worker was killed (SIGKILL)" in err
    assert {world.titles()[digest] for digest in world.finished()} == {
        "data moods", "weak small on moods, seed 0", "ceiling large on moods, seed 0",
        "student large of small on moods, xent, seed 0",
    }  # fmt: skip
    code, out, _ = world.run("show", victim[:8])
    assert (code, "the worker was killed (SIGKILL), as the kernel does when memory runs out" in out) == (0, True)
    code, out, _ = world.run("status")
    assert f"failed {victim[:12]}" in out
    world.sweep("--set", "methods.logconf.recipe.epochs=8", "--set", "seeds=[0]")
    again = world.digest("student large of small on moods, logconf, seed 0")
    there = whole.digest("student large of small on moods, logconf, seed 0")
    said = [
        world.read("train", again, "predictions/test.parquet"),
        whole.read("train", there, "predictions/test.parquet"),
    ]
    assert (again, said[0]) == (there, said[1])


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_a_file_where_the_results_should_be(world):
    world.results.write_text("mine\n")
    code, out, err = world.run("sweep", "moods.yaml")
    assert (code, out) == (1, "")
    assert err == ("w2s: results/store: a file stands where a folder is needed: choose another folder with --results\n")
    assert world.results.read_text() == "mine\n"


@pytest.fixture
def small_disk(world):
    """Mounts a disk of a few KiB as the results folder; other options and sizes when called again."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root (or `unshare -rm`)")
    world.results.mkdir()
    mounted: list[str] = []

    def mount(options):
        again = ["-o", f"remount,{options}"] if mounted else ["-o", options]
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *again, "tmpfs", str(world.results)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(options)

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(world.results)], check=True)


def test_a_read_only_results_folder_is_one_message_before_any_work(world, small_disk):
    small_disk("ro")
    code, out, err = world.run("sweep", "moods.yaml")
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith("w2s: results/store: the disk is read-only: choose another folder with --results")


def test_a_disk_that_fills_up_leaves_a_clean_store_and_room_is_all_it_needs(whole, world, small_disk):
    small_disk("size=160k")
    code, out, err = world.run("sweep", "moods.yaml")
    assert code == 1
    assert "the disk is full: free some space and run the same command again, finished steps are kept" in err, err
    before, said, after = err.partition("the disk is full, so no further step is begun; those that run may end")
    assert said, err
    assert " start " in before
    assert " start " not in after
    assert said not in after
    assert world.left_over() == []
    finished = world.finished()
    assert 1 <= len(finished) < 9
    small_disk("size=50m")
    code, out, _ = world.run("verify")
    assert (code, out.splitlines()[-1]) == (0, f"artifacts checked: {len(finished)}, problems: 0")
    world.sweep()
    assert {digest: changed for digest, changed in world.finished().items() if digest in finished} == finished
    assert world.table() == whole.table()
