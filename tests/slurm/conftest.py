"""A SLURM of our own on this machine (slurm/local_cluster.sh), and a small world whose `w2s` submits to it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for sweeping

from sweeping import LONG, on, outside  # type: ignore[import-not-found]

SCRIPT = Path(__file__).parents[2] / "slurm" / "local_cluster.sh"
DEADLINE_S = 120.0  # of anything; no test depends on how long it takes
PATH_OF_DAEMONS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class Cluster:
    """A cluster that is up, and SLURM's commands pointed to it."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.env = {**env, "SLURM_CONF": str(self.conf)}

    def run(self, *words: Any, **more: Any) -> str:
        """What a command prints; fails where its exit code is not 0. `more` goes to subprocess.run."""
        options: dict[str, Any] = {"env": self.env, "text": True, "timeout": DEADLINE_S, "capture_output": True, **more}
        done = subprocess.run([str(word) for word in words], check=False, **options)
        assert done.returncode == 0, f"{shlex.join(map(str, words))}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def squeue(self) -> dict[str, str]:
        """job -> state, of all that is not over: {"7": "RUNNING", "8_1": "PENDING"}; every array task by itself."""
        return dict(line.split() for line in self.run("squeue", "-h", "-r", "-o", "%i %T").splitlines())

    def until(self, condition: Callable[[], Any]) -> Any:
        """What `condition` says once it says something."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            assert time.monotonic() < deadline_s, f"it never came to that; the queue: {self.squeue()}"
            time.sleep(0.02)  # a poll, not a wait for something to be over
        return found

    def until_empty(self) -> None:
        """Returns once all jobs are over."""
        self.until(lambda: not self.squeue())

    def clear(self) -> None:
        """Cancel what a test left in the queue, the deaf and the requeued too."""

        def empty() -> bool:
            if left := self.squeue():
                for how in (["--signal=KILL", "--full"], []):
                    subprocess.run(["scancel", *how, *left], env=self.env, check=False, capture_output=True)
            return not left

        self.until(empty)


@pytest.fixture(scope="session")
def clusters():
    """Clusters by the options of slurm/local_cluster.sh, each brought up once: `clusters(NODES=2, CPUS=1)`."""
    missing = [name for name in ("sbatch", "munged") if shutil.which(name, path=PATH_OF_DAEMONS) is None]
    if missing:
        pytest.skip(f"needs a SLURM, here is no {' and no '.join(missing)}: apt-get install slurm-wlm munge")
    # Not below pytest's own folders: names of sockets are short.
    root = Path(tempfile.mkdtemp(prefix="w2s-", dir="/tmp"))
    up: dict[str, Cluster] = {}
    env = outside(os.environ)

    def cluster(**options: Any) -> Cluster:
        name = " ".join(f"{key}={value}" for key, value in sorted(options.items()))
        if name not in up:
            folder = root / f"{len(up)} ü'"  # as hostile as a folder of a user may be
            done = subprocess.run(
                [SCRIPT, "up", folder], env={**env, **{k: str(v) for k, v in options.items()}}, text=True,
                capture_output=True, check=False, timeout=DEADLINE_S,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            up[name] = Cluster(folder, env)
        return up[name]

    try:
        yield cluster
    finally:
        for number in range(len(up) + 1):  # + 1: one that may have been on its way
            subprocess.run(
                [SCRIPT, "down", root / f"{number} ü'"], check=False, capture_output=True, timeout=DEADLINE_S
            )
        root.rmdir()


@pytest.fixture
def cluster(clusters):
    """A cluster of one node with two processors; its queue is empty before and after."""
    found = clusters(CPUS=2)
    yield found
    found.clear()


@pytest.fixture
def another(clusters):
    """A cluster with other options, its queue empty before and after: `another(MAX_ARRAY_SIZE=3)`."""
    used = []

    def get(**options):
        used.append(clusters(**options))
        return used[-1]

    yield get
    for one in used:
        one.clear()


@pytest.fixture
def world(world, cluster):
    """A world of one's own whose `w2s` finds that cluster."""
    return on(world, cluster)


@pytest.fixture
def later(later, cluster):
    """A copy of a world whose sweep is done, to go on from on that cluster."""
    return on(later, cluster)


@pytest.fixture(scope="session")
def uninterrupted(whole, tmp_path_factory):
    """That world gone on with, on this machine and left alone, to the long sweep; to read only."""
    made = whole.copy(tmp_path_factory.mktemp("uninterrupted") / "world")
    made.sweep(*LONG)
    yield made
    made.close()
