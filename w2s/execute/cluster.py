"""SLURM's own programs, called with lists of words: submit, ask what is in the queue, cancel, put back into it.

What SLURM refuses is raised with SLURM's own message, once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from w2s.errors import MachineError, SpecError

PATIENCE_S = 120.0  # a busy slurmctld may take so long to answer
USUAL_ARRAY_SIZE = 1001  # SLURM's default MaxArraySize
AT_ONCE = 500  # jobs named on one command line
# What sbatch refuses because of what was asked for; everything else may be different an hour later.
WRONG_REQUEST = re.compile(
    r"invalid (partition|account|qos|time limit|feature|gres|generic|constraint|license|--\w)|unrecognized option|"
    r"invalid option|batch script|node configuration is not available|invalid trackable|unable to open file|"
    r"can ?not be satisfied|reservation is invalid",
    re.IGNORECASE,
)
# Said with --test-only also of nodes that are down or drained just now, for which SLURM would let the job wait.
MAYBE_LATER = re.compile(r"configuration (is )?not available", re.IGNORECASE)


class Task(NamedTuple):
    """One task of a job in the queue; `place` is its number in the array, None where the job is none."""

    job: str
    place: int | None
    state: str  # SLURM's word: PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it is pending

    @property
    def waits(self) -> bool:
        """True where it has not begun."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING", "SUSPENDED")


class Refused(SpecError):
    """SLURM does not take a job because of what it asks for."""


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
    answer = _call(words)
    job = answer.strip().partition(";")[0]  # JOB, or JOB;CLUSTER
    if not job.isdecimal():
        raise MachineError(
            f"sbatch: answered {answer.strip()!r} instead of a job's number; is it sbatch that is on PATH?"
        )
    return job


def check(words: Sequence[str]) -> None:
    """Raise Refused where SLURM would never take this, without submitting."""
    try:
        _call([words[0], "--test-only", *words[1:]])
    except Refused as error:
        if not MAYBE_LATER.search(str(error)):
            raise
    except MachineError:  # of a moment, such as nodes that are down; the submission itself tells what stays
        pass


def max_array_size() -> int:
    """How many tasks an array may have at this site, plus one."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]), re.MULTILINE)
    return int(found[1]) if found else USUAL_ARRAY_SIZE


def queue(names: Mapping[str, str]) -> list[Task] | None:
    """What is left in the queue of these jobs, by number their names; None where SLURM cannot be asked here."""
    if not names:
        return []
    if shutil.which("squeue") is None:
        return None
    # By name and not by number, since SLURM refuses a number that it has forgotten; whoever submitted them, since a
    # results folder may be a team's.
    wanted = f"--name={','.join(sorted(set(names.values())))}"
    try:  # --all: also in partitions that are hidden
        listing = _call(["squeue", "--all", "--array", "--noheader", wanted, "--format=%F|%K|%T|%r"])
    except MachineError:
        return None
    tasks = []
    for line in listing.splitlines():
        job, place, state, reason = (*line.split("|", 3), "", "", "")[:4]
        if job in names:
            tasks.append(Task(job, int(place) if place.isdecimal() else None, state, reason))
    return tasks


def cancel(jobs: Sequence[str]) -> None:
    """End jobs, pending and running ones; those that are over are passed over."""
    for start in range(0, len(jobs), AT_ONCE):
        _call(["scancel", "--quiet", *jobs[start : start + AT_ONCE]])


def requeue(job: str) -> None:
    """Put a running job, or one task of an array by its own number, back into the queue."""
    _call(["scontrol", "requeue", job])


def _call(words: Sequence[str]) -> str:
    """What a program of SLURM prints. Raises MachineError where it is not there or fails."""
    # What people set for their own eyes, such as SQUEUE_STATES=RUNNING, would have the rest submitted a second time.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", env=env,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    except OSError as error:
        raise MachineError(f"{words[0]}: cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{words[0]}: no answer within {PATIENCE_S:g} s; is SLURM up? (`scontrol ping`)") from None
    if done.returncode == 0:
        return done.stdout
    said = "\n".join(dict.fromkeys(line.strip() for line in done.stderr.splitlines() if line.strip()))
    message = said or f"{words[0]}: ended with code {done.returncode}"
    raise Refused(message.splitlines()) if WRONG_REQUEST.search(message) else MachineError(message)
