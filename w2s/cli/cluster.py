"""The commands for a cluster under SLURM, and what submits a sweep there; see `commands` for how commands are made."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from w2s.cli.arguments import RESULTS

if TYPE_CHECKING:
    from w2s.execute.jobs import Queue
    from w2s.execute.submit import Draft
    from w2s.plan import Plan
    from w2s.sweep import Sweep

LAUNCHERS = ("local", "slurm")


def work(wave: Path, *, line: int | None = None, after: int = 0) -> int:
    """Carry out one line of a wave of steps: what each task of a job array does.

    SLURM calls it on the nodes. By hand, `--line` does the work of one task again, in any shell that sees the results.

    Arguments:
      WAVE                 a file results/sweeps/NAME/slurm/wave-K.txt
      --line N             which line, counted from 1 (the task's own, by its place in the array)
      --after N            lines of the file that belong to arrays before this one (0)

    Examples:
      w2s work results/sweeps/quickstart/slurm/wave-2.txt --line 3
    """
    from w2s.cli import describe
    from w2s.errors import SpecError
    from w2s.execute import display
    from w2s.execute.line import carry_out

    place = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if line is None and not place.isdecimal():
        raise SpecError("line: not a task of a job array (there is no SLURM_ARRAY_TASK_ID); say which with --line")
    number = line if line is not None else after + int(place)
    shown = display.choose()
    outcome, plan = carry_out(
        wave, number, display=shown, say=lambda text: print(text, file=sys.stderr, flush=True), env=os.environ
    )
    if outcome.ok:
        return 0
    results = Path(os.path.abspath(wave)).parents[3]
    for text in describe.failures(plan, outcome.failed, {}, results):
        print(text, file=sys.stderr)
    return 1


def cancel(name: str, *, results: Path = RESULTS) -> int:
    """Take the jobs of a sweep out of SLURM's queue, running ones too; these save a checkpoint first.

    Finished steps are kept, and the next submission goes on from what there is.

    Arguments:
      NAME                 the sweep
      --results DIR        the results folder (results)

    Examples:
      w2s cancel quickstart
    """
    from w2s.cli import describe
    from w2s.execute import cluster, jobs

    cluster.require()
    queue = _asked(jobs.queue_of(results, [describe.known_sweep(results, name, "cancel")]))
    live = [job.id for job in queue.live]
    cluster.cancel(live)
    what = (
        f"cancelled job{'s'[: len(live) > 1]} {', '.join(live)} ({len(queue.tasks)} task{'s'[: len(queue.tasks) > 1]})"
    )
    print(what if live else f"nothing of {name} is in the queue")
    return 0


def logs(digest: str, *, results: Path = RESULTS) -> int:
    """Print what a step logged, and what the task of the job array printed that carried it out.

    Arguments:
      DIGEST               the step's digest, or its first digits (4 or more)
      --results DIR        the results folder (results)

    Examples:
      w2s logs 3fa9c1d2
    """
    from w2s.cli import describe

    for line in describe.logs(results, digest, None):
        print(line)
    return 0


def is_slurm(launcher: str, workers: int | None, steps_per_task: int | None, max_parallel: int | None) -> bool:
    """True for the launcher slurm. Raises SpecError for one that is not known, and for flags of the other one."""
    from w2s.errors import SpecError
    from w2s.identity import nearest

    if launcher not in LAUNCHERS:
        raise SpecError(f"--launcher: no such launcher {launcher!r}{nearest(launcher, LAUNCHERS)}")
    if launcher == "slurm" and workers is not None:
        raise SpecError("--workers: is for one machine; what a job asks for says how many steps run in it at a time")
    if launcher == "slurm":
        return True
    given = {"--steps-per-task": steps_per_task, "--max-parallel": max_parallel}
    for flag, value in given.items():
        if value is not None:
            raise SpecError(f"{flag}: is for job arrays; give --launcher slurm too")
    return False


def launch(yaml: Path, sets: Sequence[str], found: Sweep, results: Path, dry_run: bool, restart_step: bool) -> int:
    """Submit what is missing of a sweep; 0 also where nothing is. `yaml` and `sets`: where it was read from."""
    from w2s import plan as plans
    from w2s.cli import describe, requirements
    from w2s.execute import cluster, submit
    from w2s.sweep import on_slurm

    cluster.require()
    requirements.require(found.file.engine, here=False)
    found = on_slurm(found)
    planned = plans.of_sweep(found)
    if dry_run:
        for line in _shown(_draft(found, planned, results)):
            print(line)
        return 0
    with submit.turn(results):
        drafted = _draft(found, planned, results)
        _require_fetched(
            shlex.join(["w2s", "prefetch", str(yaml), *(f"--set={one}" for one in sets)]), planned, drafted
        )
        for note in describe.notes(planned):
            print(note, file=sys.stderr)
        for doubt in submit.check(drafted):
            print(f"w2s: SLURM says that now it could not start some of it: {doubt}", file=sys.stderr)
        return _submit(drafted, results, restart_step)


def _draft(found: Sweep, planned: Plan, results: Path) -> Draft:
    from w2s.cli import describe
    from w2s.execute import cluster, jobs, submit

    # Were it not known, everything might be submitted twice.
    queue = _asked(jobs.queue_of(results, describe.sweep_names(results)), ", so nothing is submitted")
    return submit.draft(found, planned, results, queue, cluster.most_tasks())


def _submit(drafted: Draft, results: Path, restart_step: bool) -> int:
    from w2s.cli import describe, restart
    from w2s.execute import submit
    from w2s.store import Store

    restart.begin(drafted.plan, Store(results / "store"), results, restart_step)
    print(_tally(drafted))
    if not drafted.lacks_tables:
        return _nothing_to_submit(drafted, results)
    submit.send(drafted, lambda line: print(line, flush=True))
    print(f"you may log out now; `{describe.command('status', drafted.plan.name, results)}` tells how far it is")
    return 0


def _asked(queue: Queue, so: str = "") -> Queue:
    """The queue. Raises MachineError where it is not known; `so`: what comes of that."""
    from w2s.errors import MachineError

    if not queue.asked:
        raise MachineError(f"squeue: gives no answer{so}; is SLURM up? (`scontrol ping`)")
    return queue


def _require_fetched(prefetch: str, planned: Plan, drafted: Draft) -> None:
    """Raise MachineError where jobs would need something that is not on this machine's disk: nodes have no network."""
    from w2s.cli.catalogue import unfetched
    from w2s.errors import MachineError

    to_do = [planned.nodes[digest].spec for lines in drafted.waves.lines for line in lines for digest in line]
    if missing := unfetched(to_do):
        raise MachineError(
            "\n".join([*(f"not fetched yet: {what}" for what in missing),
                       f"`{prefetch}` fetches it, on a machine with a network"])
        )  # fmt: skip


def _nothing_to_submit(drafted: Draft, results: Path) -> int:
    """All steps are done, which makes tables; or somebody else has those that are not."""
    from w2s.cli import describe
    from w2s.cli.report import report

    if drafted.states["done"] == len(drafted.plan.nodes):
        return report(drafted.plan.name, results)
    ways = " and ".join(f"`{describe.command('cancel', owner, results)}`" for owner in drafted.owners)
    print(f"nothing is left to submit{f'; {ways} would take out what is in the queue' if ways else ''}")
    return 0


def _tally(drafted: Draft) -> str:
    """One line that says what becomes of the steps."""
    counts = drafted.states
    parts = [
        f"{counts['waiting']} to submit",
        f"{counts['done']} done",
        *([f"{counts['running']} running"] if counts["running"] else []),
        *([f"{counts['queued']} in the queue"] if counts["queued"] else []),
    ]
    return f"{len(drafted.plan.nodes)} steps: {', '.join(parts)}"


def _shown(drafted: Draft) -> list[str]:
    """Every call of sbatch, with names in place of the jobs' numbers, and the batch script."""
    lines, ids = [_tally(drafted), ""], list[str]()
    for array in drafted.waves.arrays:
        ids.append(f"JOB{len(ids) + 1}")
        steps = sum(len(line) for line in drafted.waves.lines[array.wave][array.after : array.after + array.tasks])
        number = drafted.first_wave + array.wave
        lines += [
            f"# {ids[-1]}: wave {number}, {steps} step{'s'[: steps > 1]}",
            shlex.join(drafted.array_words(array, ids)),
            "",
        ]
    if drafted.lacks_tables:
        lines += ["# the tables", shlex.join(drafted.tables_words(ids)), ""]
    text = drafted.script.read_text(encoding="utf-8").rstrip("\n")
    return [*lines, f"# {drafted.script}:", *text.splitlines()]
