"""SLURM's own programs, called with lists of words: submit, ask what is in the queue, cancel, put back into it.

What SLURM refuses is raised with SLURM's own message, once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from typing import NamedTuple

from w2s.errors import MachineError, SpecError

PATIENCE_S = 120.0  # a busy slurmctld may take so long to answer
SBATCH_PATIENCE_S = 300.0  # sbatch itself tries again for two minutes
USUAL_ARRAY_SIZE = 1001  # SLURM's default MaxArraySize
AT_ONCE = 500  # jobs named on one command line
# What sbatch may say of a moment: limits on jobs at a time, a controller that is away. All else that it refuses, it
# refuses because of what was asked for.
OF_A_MOMENT = re.compile(
    r"violates accounting/QOS policy|MaxSubmit|MaxJob|submit limit|try again|temporarily|contact|communication|"
    r"timed out|socket",
    re.IGNORECASE,
)
# Said with --test-only also of nodes that are down or drained just now, for which SLURM would let the job wait.
MAYBE_LATER = re.compile(r"configuration (is )?not available|node not available", re.IGNORECASE)
NEVER = re.compile(r"can ?not be satisfied", re.IGNORECASE)
# What finds the cluster; all else of the kind is what SLURM told the job that we may run in, and not for other jobs.
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")


class Task(NamedTuple):
    """One task of a job in the queue; `place` is its number in the array, None where the job is none."""

    job: str
    place: int | None
    state: str  # SLURM's word: PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it is pending
    name: str = ""  # of the job
    command: str = ""  # what the job was given to run; its first line only, and nothing where SLURM does not tell

    @property
    def waits(self) -> bool:
        """True where it has not begun."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING", "SUSPENDED")


class Refused(SpecError):
    """SLURM does not take a job because of what it asks for."""


class SaidNo(MachineError):
    """A program of SLURM failed; its own message."""


def require() -> None:
    """Raise MachineError where SLURM's programs are not on PATH."""
    missing = [name for name in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(name) is None]
    if missing:
        raise MachineError(
            f"slurm: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on PATH here; do this on a login "
            "node of the cluster (`module load slurm` on some), or leave --launcher out to run on this machine"
        )


def submit(words: Sequence[str]) -> str:
    """The id of the job that `sbatch ...` made. Raises Refused or MachineError with SLURM's message."""
    answer = _sbatch(words)
    job = answer.strip().rpartition("\n")[2].partition(";")[0]  # JOB, or JOB;CLUSTER; a site's own words come before
    if not job.isdecimal():
        raise MachineError(
            f"sbatch: answered {answer.strip()!r} instead of a job's number; is it sbatch that is on PATH?"
        )
    return job


def check(words: Sequence[str]) -> str | None:
    """Raise Refused where SLURM would never take this, without submitting; what it says of this moment, where it does.

    The submission itself tells whether that stays.
    """
    try:
        _sbatch([words[0], "--test-only", *words[1:]])
    except MachineError as error:
        return str(error)
    except Refused as error:
        if not MAYBE_LATER.search(str(error)) or NEVER.search(str(error)):
            raise
        return str(error)
    return None


def _sbatch(words: Sequence[str]) -> str:
    try:
        return _call(words, SBATCH_PATIENCE_S)
    except SaidNo as error:
        if OF_A_MOMENT.search(str(error)):
            raise
        raise Refused(str(error).splitlines()) from None


def most_tasks() -> int:
    """How many tasks an array may have at this site, whose places are counted from 1; 0 where there are no arrays."""
    config = _call(["scontrol", "show", "config"])
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    tasks = re.search(r"\bmax_array_tasks=(\d+)", config)
    places = (int(size[1]) if size else USUAL_ARRAY_SIZE) - 1
    return max(0, min(places, int(tasks[1])) if tasks else places)


def queue(names: Collection[tuple[str, str]]) -> list[Task] | None:
    """What is left in the queue of these jobs, given as (number, name); None where SLURM cannot be asked here.

    A number alone tells no job: a cluster that is set up anew counts from 1 again, and there may be two clusters.
    """
    if not names:
        return []
    if shutil.which("squeue") is None:
        return None
    # By name and not by number, since SLURM refuses a number that it has forgotten; whoever submitted them, since a
    # results folder may be a team's.
    wanted = f"--name={','.join(sorted({name for _, name in names}))}"
    try:  # --all: also in partitions that are hidden
        listing = _call(["squeue", "--all", "--array", "--noheader", wanted, "--format=%F|%K|%T|%j|%r|%o"])
    except MachineError:
        return None
    tasks = []
    for line in listing.splitlines():
        job, place, state, name, reason, command = (*line.split("|", 5), "", "", "", "", "")[:6]
        if (job, name) in names:
            tasks.append(Task(job, int(place) if place.isdecimal() else None, state, reason, name, command))
    return tasks


def cancel(jobs: Sequence[str]) -> None:
    """End jobs, pending and running ones; those that are over are passed over."""
    for start in range(0, len(jobs), AT_ONCE):
        _call(["scancel", "--quiet", *jobs[start : start + AT_ONCE]])


def requeue(job: str) -> None:
    """Put a running job, or one task of an array by its own number, back into the queue."""
    _call(["scontrol", "requeue", job])


def _call(words: Sequence[str], patience_s: float = PATIENCE_S) -> str:
    """What a program of SLURM prints. Raises MachineError where it is not there or fails."""
    # What people set for their own eyes, such as SQUEUE_STATES=RUNNING, would have the rest submitted a second time.
    ours = ("SQUEUE_", "SCANCEL_", "SLURM_")
    env = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(ours)}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", env=env,
            timeout=patience_s, check=False,
        )  # fmt: skip
    except OSError as error:
        raise MachineError(f"{words[0]}: cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{words[0]}: no answer within {patience_s:g} s; is SLURM up? (`scontrol ping`)") from None
    if done.returncode == 0:
        return done.stdout
    said = "\n".join(dict.fromkeys(line.strip() for line in done.stderr.splitlines() if line.strip()))
    raise SaidNo(said) if said else MachineError(f"{words[0]}: ended with code {done.returncode}")
