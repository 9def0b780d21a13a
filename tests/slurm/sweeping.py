"""What tests of this folder ask of a sweep's jobs, and do to them. The fixtures are in conftest.py."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Two students of one seed, long enough to be caught in the middle; all else is done in a world to go on from.
LONG = [
    "--set", "seeds=[0]", "--set", "methods.xent.recipe.epochs=40", "--set", "methods.logconf.recipe.epochs=40",
    "--set", "engine.checkpoint_every=5 steps",
]  # fmt: skip
STUDENTS = [f"student large of small on moods, {method}, seed 0" for method in ("xent", "logconf")]
STEPS = 480  # of each


def submit(world: Any, *words: str, yaml: str = "moods.yaml") -> tuple[list[str], str]:
    """`w2s sweep --launcher slurm`: the jobs it made, and the line that says what becomes of the steps."""
    code, out, err = world.run("sweep", yaml, "--launcher", "slurm", *words)
    assert (code, err) == (0, ""), f"{out}\n{err}"
    return re.findall(r"^submitted job (\d+):", out, re.MULTILINE), out.splitlines()[0]


def status(world: Any, name: str = "moods") -> str:
    """What `w2s status` says of a sweep."""
    code, out, _ = world.run("status", name)
    assert code == 0
    return str(out)


def tally(world: Any, name: str = "moods") -> dict[str, str]:
    """The table of `w2s status`, without what is empty: {"experiments": "0/4", "steps": "1/9", "queued": "8"}."""
    header, rule, row, *_ = status(world, name).splitlines()
    columns = [match.span() for match in re.finditer("-+", rule)]
    cells = {header[start:end].strip(): row[start:end].strip() for start, end in columns}
    assert cells.pop("sweep") == name
    return {column: cell for column, cell in cells.items() if cell}


def lines(world: Any, wave: int) -> list[list[str]]:
    """The titles of the steps in each line of a wave."""
    titles = world.titles()
    text = (world.outputs / "slurm" / f"wave-{wave}.txt").read_text()
    return [[titles[digest] for digest in line.split()] for line in text.splitlines()]


def log(world: Any, wave: int, task: int, after: int = 0) -> str:
    """What a task of an array printed; nothing where it has not begun."""
    file = world.outputs / "slurm" / "logs" / f"wave-{wave}+{after}" / f"{task}.txt"
    return str(file.read_text()) if file.exists() else ""


def checkpoints(world: Any, digest: str) -> list[str]:
    """The names of an unfinished step's checkpoints."""
    folder = world.store / "work" / digest[:2] / digest / "checkpoints"
    return sorted(path.name for path in folder.glob("step-*"))


def history(world: Any, digest: str) -> list[dict[str, Any]]:
    """What a finished step logged of its training, without the times."""
    text = (world.store / "train" / digest[:2] / digest / "history.jsonl").read_text()
    return [{**json.loads(line), "seconds": 0} for line in text.splitlines()]


def step_log(world: Any, digest: str) -> str:
    """The log of a finished step."""
    return str((world.store / "train" / digest[:2] / digest / "log.txt").read_text())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def occupied(cluster: Any) -> Iterator[None]:
    """Inside, all nodes are taken, so that what is submitted waits."""
    job = cluster.run(
        "sbatch", "--parsable", "--exclusive", "--output=/dev/null", "--wrap=exec sleep 600", cwd="/"
    ).strip()
    cluster.until(lambda: cluster.squeue().get(job) == "RUNNING")
    try:
        yield
    finally:
        cluster.run("scancel", job)


def watch(world: Any) -> None:
    """Put the batch script site/array.sbatch beside the YAML, under which `imports` tells who loaded torch."""
    folder = world.folder / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            sys.meta_path.remove(self)\n"
        "            with open(os.path.join(os.path.dirname(__file__), 'imports'), 'a') as file:\n"
        "                file.write(os.environ['SLURM_JOB_ID'] + '\\n')\n"
        "sys.meta_path.insert(0, Watch())\n"
    )
    (folder / "array.sbatch").write_text(
        f'#!/bin/bash\nexport HF_HUB_OFFLINE=1 PYTHONPATH={shlex.quote(str(folder))}\nexec "$@"\n'
    )
    (folder / "imports").touch()


def imports(world: Any) -> list[str]:
    """A job's number for every process that imported torch; of array tasks their own numbers."""
    return str((world.folder / "site" / "imports").read_text()).split()


def outside(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what SLURM left in it: tests may run inside a job of a real cluster."""
    ours = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SINFO_")
    return {name: value for name, value in env.items() if not name.startswith(ours)}


def on(world: Any, cluster: Any) -> Any:
    """The world, whose `w2s` finds that cluster from now on."""
    world.env = outside(world.env) | {"SLURM_CONF": str(cluster.conf)}
    return world
