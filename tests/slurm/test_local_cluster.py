"""slurm/local_cluster.sh: what a user does with it, and what the tests of this folder stand on (pytest -m slurm)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm
SCRIPT = Path(__file__).parents[2] / "slurm" / "local_cluster.sh"
MEETING = Path(__file__).parent / "meeting.py"


def script(*words, cwd=None, **env):
    return subprocess.run(
        [SCRIPT, *words], cwd=cwd, env={**os.environ, **env}, text=True, capture_output=True, check=False, timeout=120
    )


def alive(pid):
    """Processes that nobody reaped are not: they are left where the first process of a container does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def folder(clusters):
    """A place with a short name for a cluster of one's own, which need not be up at the end."""
    with tempfile.TemporaryDirectory(prefix="w2s-", dir="/tmp") as root:
        yield Path(root) / "one's own"
        script("down", Path(root) / "one's own")


# -- up and down -----------------------------------------------------------------------------------------------------


def test_a_shell_that_evaluates_what_up_prints_has_a_slurm(folder):
    line = 'eval "$("$0" up "$1")"; sinfo --noheader --Node --format "%N %T %R"'
    done = subprocess.run(["bash", "-c", line, SCRIPT, folder], text=True, capture_output=True, check=True, timeout=120)
    assert done.stdout == "127.0.0.1 idle main\n"
    assert done.stderr == ""


def test_up_twice_leaves_the_first_cluster_and_its_jobs_alone(folder, cluster):
    first = script("up", folder)
    env = {"SLURM_CONF": str(folder / "slurm.conf")}
    job = subprocess.check_output(
        ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"], env={**os.environ, **env}, text=True
    )
    second = script("up", folder, MAX_ARRAY_SIZE="3")
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "already up" in second.stderr
    queue = subprocess.check_output(["squeue", "-h", "-o", "%i %T"], env={**os.environ, **env}, text=True)
    assert queue == f"{job.strip()} PENDING\n"
    assert cluster.squeue() == {}, "two clusters do not know of each other"


def test_up_after_a_crash_starts_anew(folder):
    first = script("up", folder)
    os.kill(int((folder / "slurmctld.pid").read_text()), signal.SIGKILL)
    second = script("up", folder)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")


def test_down_ends_daemons_and_jobs_and_removes_the_folder(folder, tmp_path):
    script("up", folder)
    daemons = [int(file.read_text()) for file in folder.glob("*.pid")]
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Deaf to SIGTERM, with a child that is out of its process group.
    text = f"trap '' TERM\nsetsid sleep 600 &\necho $$ $! >'{pipe}'\nwait\n"
    subprocess.run(
        ["sbatch", "--output=/dev/null"], input=f"#!/bin/bash\n{text}", text=True, env=env, check=True,
        capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    jobs = [int(pid) for pid in pipe.read_text().split()]
    assert len(daemons) == 3
    assert all(map(alive, daemons + jobs))
    done = script("down", folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert not any(map(alive, daemons + jobs))
    assert not folder.exists()
    assert script("down", folder).returncode == 0, "a second time"


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "env", "reason"),
    [
        (["start", "x"], {}, "not: up [DIR] or down [DIR]"),
        (["up", "x", "y"], {}, "not: up [DIR] or down [DIR]"),
        ([], {}, "not: up [DIR] or down [DIR]"),
        (["up", "x#1"], {}, "holds a character that SLURM's configuration cannot"),
        (["up", "x" * 60], {}, "longer than 60 bytes"),
        (["up", "full"], {}, "holds something else"),
        (["up", "x"], {"NODES": "3"}, "NODES=3: 1 or 2"),
        (["up", "x"], {"CPUS": "08"}, "CPUS=08: not a whole number"),
        (["up", "x"], {"REQUEUE_WAIT": "1"}, "REQUEUE_WAIT=1: not a whole number from 5 on"),
        (["up", "x"], {"PARTITIONS": "a=b"}, "names separated by a blank"),
        (["up", "x y"], {"GPUS": "99"}, "holds a blank"),
    ],
)
def test_refused_before_anything_is_done(folder, words, env, reason):
    full = folder.parent / "full"
    full.mkdir()
    (full / "thesis.tex").touch()
    done = script(*words, cwd=folder.parent, **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr.splitlines()[-1]
    assert [path.name for path in folder.parent.rglob("*")] == ["full", "thesis.tex"]


def test_the_packages_that_are_missing_are_named(tmp_path):
    """Without the fixture, so that it says something where nothing is installed."""
    for name in ("bash", "id", "nproc", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = script("up", "/x", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "slurm-wlm. On Debian and Ubuntu: apt-get install" in done.stderr
    assert not Path("/x").exists()


def test_where_a_daemon_does_not_start_its_log_is_shown_and_nothing_stays(folder, tmp_path):
    (tmp_path / "uname").write_text("#!/bin/sh\necho elsewhere\n")
    (tmp_path / "uname").chmod(0o755)
    done = script("up", folder, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not a valid controller" in done.stderr
    assert not folder.exists()


def test_down_touches_no_folder_that_is_no_cluster(folder):
    """The site's own, for example."""
    folder.mkdir()
    (folder / "slurm.conf").write_text("ClusterName=site\n")
    assert "no cluster" in script("down", folder).stderr
    assert script("up", folder).returncode == 2
    assert (folder / "slurm.conf").read_text() == "ClusterName=site\n"


# -- what the other tests stand on -----------------------------------------------------------------------------------


def test_arrays_that_depend_on_each_other_run_in_order(cluster, tmp_path):
    log = tmp_path / "log"
    submit = ["sbatch", "--parsable", "--array=1-4%2", "--output=/dev/null"]
    first = cluster.run(*submit, f"--wrap=echo first >>'{log}'").strip()
    cluster.run(*submit, f"--dependency=afterany:{first}", f"--wrap=echo second >>'{log}'")
    cluster.until_empty()
    assert log.read_text().split() == ["first"] * 4 + ["second"] * 4


def test_two_nodes_run_one_job_and_reach_each_other(clusters, tmp_path):
    two = clusters(NODES=2, CPUS=1)
    out = tmp_path / "out"
    words = ["--nodes=2", "--ntasks-per-node=1", f"--output={out}"]
    (tmp_path / "job").write_text(f"#!/bin/bash\nexec '{sys.executable}' '{MEETING}'\n")
    two.run("sbatch", "--wait", *words, tmp_path / "job")
    assert out.read_text().split() == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]


def test_an_array_longer_than_the_site_allows_is_refused_by_sbatch(clusters):
    small = clusters(CPUS=2, MAX_ARRAY_SIZE=3)
    assert "MaxArraySize            = 3\n" in small.run("scontrol", "show", "config")
    with pytest.raises(AssertionError, match="Invalid job array specification"):
        small.run("sbatch", "--array=1-3", "--wrap=true")
    small.run("sbatch", "--array=1-2", "--output=/dev/null", "--wrap=true")
    small.until_empty()


def test_a_requeued_job_runs_again_and_adds_to_its_output(cluster, tmp_path):
    out = tmp_path / "out"
    text = """#!/bin/bash
echo "start ${SLURM_RESTART_COUNT:-0}"
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
if [[ -z ${SLURM_RESTART_COUNT:-} ]]; then
  sleep 600 &
  while kill -0 $! 2>/dev/null; do wait $!; done
fi
"""
    (tmp_path / "job").write_text(text)
    job = cluster.run("sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={out}", tmp_path / "job")
    cluster.until(lambda: out.exists() and "start 0" in out.read_text())
    cluster.run("scancel", "--batch", "--signal=USR1", job.strip())
    cluster.until_empty()
    lines = [line for line in out.read_text().splitlines() if line.startswith("start")]
    assert lines == ["start 0", "start 1"]


def test_jobs_that_a_test_leaves_are_cleared(cluster):
    cluster.run("sbatch", "--output=/dev/null", "--hold", "--wrap=true")
    cluster.run("sbatch", "--output=/dev/null", "--array=1-3", "--wrap=trap '' TERM; sleep 600")
    assert len(cluster.squeue()) == 4
    cluster.clear()
    assert cluster.squeue() == {}
