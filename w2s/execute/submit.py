"""A plan in, job arrays in SLURM's queue out: only what is neither done, nor claimed, nor in the queue already.

One call of sbatch per array, and one for a last small job that writes the tables. Whoever submits may leave at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import w2s
from w2s import resources
from w2s.claim import Claim
from w2s.disk import disk_errors, make_folder
from w2s.errors import MachineError, SpecError
from w2s.execute import cluster, jobs, waves
from w2s.execute.jobs import Job, Queue
from w2s.execute.schedule import warmth
from w2s.execute.waves import Array, Request, Waves
from w2s.plan import Node, Plan, State, is_done
from w2s.spec import FeaturesSpec, LanguageSpec, TrainSpec
from w2s.store import Overview, Store
from w2s.sweep import Sweep

SCRIPT = Path("slurm") / "array.sbatch"
MOST_TASKS = 10_000  # of an array, whatever the site allows: each has a log in the array's folder
LIMITS = re.compile(r"policy|limit|Max(Submit|Job)", re.IGNORECASE)  # on jobs at a time, in SLURM's words
SHORTER = "; where a site takes fewer tasks at a time than an array has, set slurm.array_tasks"
COMMAND = '"$@"'  # by which the batch script runs what it is given


class Draft(NamedTuple):
    """What would be submitted. `states` counts the steps of the plan: done, running, queued, and to be submitted."""

    plan: Plan
    results: Path
    folder: Path
    script: Path
    waves: Waves
    first_wave: int
    tables: Request  # of the job that writes them
    notice_s: int
    max_parallel: int | None
    states: Counter[str]
    owners: tuple[str, ...]  # sweeps whose jobs are in the queue with steps of this plan
    waits_for: tuple[str, ...]  # jobs of other submissions that make steps of this plan
    lacks_tables: bool  # something is or will be in the queue, and no job there that writes the tables after it

    @property
    def name(self) -> str:
        """Of all jobs of the sweep."""
        return f"w2s-{self.plan.name}"

    @property
    def requests(self) -> list[Request]:
        """What jobs ask for, each once; nothing where there is nothing to submit."""
        asked = [array.request for array in self.waves.arrays]
        return list(dict.fromkeys([*asked, *([self.tables] if self.lacks_tables else [])]))

    def array_words(self, array: Array, ids: Sequence[str]) -> list[str]:
        """The call of sbatch for one array; `ids`: the jobs of the arrays before it."""
        at_once = f"%{self.max_parallel}" if self.max_parallel is not None else ""
        number = self.first_wave + array.wave
        return [
            *self._sbatch(jobs.logs(self.folder, number, array.after) / "%a.txt"),
            f"--array=1-{array.tasks}{at_once}",
            f"--signal=B:USR1@{self.notice_s}",
            *array.request,
            *_after([*array.jobs, *(ids[place] for place in array.needs)]),
            str(self.script),
            *own_command(),
            "work",
            str(jobs.wave_file(self.folder, number)),
            *(("--after", str(array.after)) if array.after else ()),
        ]

    def tables_words(self, ids: Sequence[str]) -> list[str]:
        """The call of sbatch for the job that writes the tables when all else has ended."""
        command = [*own_command(), "results", self.plan.name, "--results", str(self.results)]
        log = jobs.logs(self.folder, 0, 0) / "%j.txt"
        return [*self._sbatch(log), *self.tables, *_after([*self.waits_for, *ids]), str(self.script), *command]

    def _sbatch(self, log: Path) -> list[str]:
        # In the name of a file a percent sign of the user's own is written twice.
        output = f"{str(log.parent).replace('%', '%%')}/{log.name}"
        return [
            "sbatch",
            "--parsable",
            f"--job-name={self.name}",
            f"--output={output}",
            f"--error={output}",  # whatever the batch script says of it
            "--open-mode=append",
            "--requeue",
        ]


def draft(sweep: Sweep, plan: Plan, results: Path, queue: Queue, most_tasks: int) -> Draft:
    """What would be submitted now. `queue`: of all sweeps of the folder; `most_tasks`: of an array, by the site."""
    results = Path(os.path.abspath(results))
    slurm, store = sweep.file.slurm, Store(results / "store")
    if "\\" in str(results):
        raise SpecError(f"results: SLURM cannot write logs below a folder with a backslash in its name ({results})")
    places = queue.held()
    given = {digest: place.job for digest, place in places.items() if place.task is not None}
    held = {digest: job.id for digest, job in given.items()}
    overview = store.overview()
    found = {digest: _state(node, store, overview, places.get(digest)) for digest, node in plan.nodes.items()}
    to_do = {digest for digest, state in found.items() if state == "waiting"}
    asked = _requests(sweep)
    made = waves.cut(
        plan.nodes.values(),
        to_do,
        request=lambda digest: asked[_who(plan.nodes[digest])],
        warmth=lambda digest: tuple(sorted(warmth(plan.nodes[digest].spec), reverse=True)),  # the model, then the data
        steps_per_task=slurm.steps_per_task,
        tasks_per_array=_tasks_per_array(most_tasks, slurm.array_tasks),
        elsewhere=held,
        one_by_one=slurm.max_parallel is not None,
    )
    folder = jobs.folder(results, plan.name)
    waits_for = tuple(sorted({held[digest] for digest in plan.nodes if digest in held}, key=int))
    owners = tuple(sorted({given[digest].sweep for digest in plan.nodes if digest in given}))
    tables = any(job.sweep == plan.name and not job.wave for job in queue.live)
    return Draft(
        plan, results, folder, script_of(slurm.script), made, jobs.last_wave(folder) + 1, asked[""], slurm.notice_s,
        slurm.max_parallel, Counter(found.values()), owners, waits_for, bool(made.arrays or (waits_for and not tables)),
    )  # fmt: skip


def check(drafted: Draft) -> list[str]:
    """Raise SpecError with SLURM's message where it would not take what some job asks for; what it only doubts.

    Asked before anything is written or submitted, so that no half of a sweep comes to lie in the queue.
    """
    doubts = [cluster.check(["sbatch", *request, str(drafted.script)]) for request in drafted.requests]
    return list(dict.fromkeys(doubt for doubt in doubts if doubt is not None))


@contextlib.contextmanager
def turn(results: Path) -> Iterator[None]:
    """Inside, no other process submits from this results folder: sweeps that share steps must see each other's jobs."""
    place = results / "sweeps"
    with disk_errors(place):
        make_folder(place)
    claim = Claim(place / "submitting.json")
    if not claim.take():
        raise MachineError(f"{place}: another process submits a sweep just now; try again when it is done")
    try:
        yield
    finally:
        claim.release()
        for folder in (place, results):  # where nothing came of it
            with contextlib.suppress(OSError):
                folder.rmdir()


def send(drafted: Draft, say: Callable[[str], None]) -> list[Job]:
    """Write the waves and submit all arrays and the tables' job; `say` gets a line for each.

    Raises MachineError where SLURM takes no more of them.
    """
    sent: list[Job] = []
    count = len(drafted.waves.arrays) + 1
    with disk_errors(drafted.folder):
        make_folder(drafted.folder)
    for number, lines in enumerate(drafted.waves.lines, start=drafted.first_wave):
        jobs.write_wave(drafted.folder, number, lines, drafted.plan.nodes)
    try:
        for array in drafted.waves.arrays:
            number = drafted.first_wave + array.wave
            job = Job("", drafted.name, drafted.plan.name, drafted.folder, number, array.after, array.tasks)
            sent.append(_submit(job, drafted.array_words(array, [job.id for job in sent]), say))
        tables = Job("", drafted.name, drafted.plan.name, drafted.folder, 0, 0, 1)
        sent.append(_submit(tables, drafted.tables_words([job.id for job in sent]), say))
    except (MachineError, SpecError) as error:
        if not sent and not LIMITS.search(str(error)):
            raise
        raise MachineError(
            f"{error}\n{len(sent)} of {count} jobs were submitted before that and stay; the same command submits what "
            "is missing" + (SHORTER if LIMITS.search(str(error)) else "")
        ) from None
    except KeyboardInterrupt:
        say(f"stopped after {len(sent)} of {count} jobs, which stay; the same command submits what is missing")
        raise
    return sent


def own_command() -> list[str]:
    """How this program is called on another node that sees the same disk."""
    script = Path(sys.executable).with_name("w2s")  # not `-m`: that puts the current folder first on Python's path
    return [str(script)] if script.exists() else [sys.executable, "-m", "w2s"]


def script_of(given: str | None) -> Path:
    """The batch script of the site. Raises SpecError where there is none, or one that cannot do its work."""
    places = [Path(given)] if given is not None else [SCRIPT, Path(w2s.__file__).parents[1] / SCRIPT]  # a checkout's
    found = next((place.absolute() for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(str(place.absolute()) for place in places)
        raise SpecError(f"slurm.script: no batch script (looked for {looked}); copy slurm/array.sbatch of w2s there")
    try:
        text = found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"slurm.script: {found} cannot be read: {error}") from None
    first = text.partition("\n")[0]
    problems = []
    shell = first.removeprefix("#!").split()
    if first.startswith("#!") and shell and not Path(shell[0]).exists():  # a job would end without a word
        problems.append(f"{found}: line 1: there is no {shell[0]} here; write #!/bin/bash")
    elif not (first.startswith("#!") and shell):
        problems.append(f"{found}: line 1: has to name a shell, such as #!/bin/bash (got {first[:60]!r})")
    runs = [line.strip() for line in text.splitlines() if COMMAND in line and not line.lstrip().startswith("#")]
    if not runs:
        problems.append(f'{found}: runs nothing that it is given; its last line has to be: exec "$@"')
    elif not (any(line.startswith("exec ") for line in runs) or "trap " in text):
        problems.append(
            f"{found}: {runs[-1]}: SLURM's notice before the time limit would end the shell and not reach w2s; "
            f"write: exec {runs[-1]}"
        )
    if "bash" in first and (bash := shutil.which("bash")) is not None:
        read = subprocess.run([bash, "-n", str(found)], capture_output=True, text=True, check=False)
        problems += [line.strip() for line in read.stderr.splitlines()]
    if problems:
        raise SpecError([f"slurm.script: {problem}" for problem in problems])
    return found


def _submit(job: Job, words: Sequence[str], say: Callable[[str], None]) -> Job:
    with disk_errors(job.folder):
        make_folder(jobs.logs(job.folder, job.wave, job.after))
    job = job._replace(id=cluster.submit(words))
    jobs.record(job)
    what = f"wave {job.wave}, {job.tasks} task{'s' if job.tasks > 1 else ''}" if job.wave else "the tables"
    say(f"submitted job {job.id}: {what}")
    return job


def _state(node: Node, store: Store, overview: Overview, place: jobs.Held | None) -> State:
    """As `plan.states_of`, but what is done is looked into, and what failed is to be done.

    So is what a task had that is gone, such as with its node, also while its claim has not lapsed: the new task waits
    for that, so that nothing is done twice.
    """
    if node.digest in overview.finished and is_done(node, store):
        return "done"
    if place is not None and place.task is None:
        return "running" if overview.is_claimed_here(node.digest) else "waiting"
    if overview.is_claimed(node.digest):
        return "running"
    return "queued" if place is not None else "waiting"


def _requests(sweep: Sweep) -> dict[str, Request]:
    """What jobs ask for: by model, and under '' those that train none."""
    asked = {"": resources.of_small_jobs(sweep.file.slurm).sbatch(resources.Processes())}
    for name, wanted in sweep.resources.items():
        lie = resources.processes(sweep.engines[name], wanted)
        asked[name] = wanted.sbatch(lie)
    return asked


def _who(node: Node) -> str:
    return node.spec.model.name if isinstance(node.spec, (FeaturesSpec, LanguageSpec, TrainSpec)) else ""


def _tasks_per_array(most: int, asked: int | None) -> int:
    if most < 1:
        raise MachineError("slurm: this site allows no job arrays (MaxArraySize); run without --launcher")
    return min(most, MOST_TASKS, asked or MOST_TASKS)


def _after(ids: Sequence[str]) -> list[str]:
    return [f"--dependency=afterany:{':'.join(ids)}"] if ids else []
