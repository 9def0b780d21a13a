"""The jobs that were submitted for the sweeps of a results folder: which step is in which line of which job.

    results/sweeps/NAME/slurm/wave-K.txt        line i: the digests that task i carries out; never changed
    results/sweeps/NAME/slurm/wave-K.parquet    the specs of these steps
    results/sweeps/NAME/slurm/job-ID.json       a job: its wave, the lines before its first, how many are its own
    results/sweeps/NAME/slurm/logs/wave-K+M/    what its tasks print, a file each

What is done is never told by these files or by SLURM, only by the store.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w2s.disk import disk_errors, make_folder, read_json, sync, write_json
from w2s.errors import MachineError, SpecError
from w2s.execute import cluster
from w2s.execute.cluster import Task
from w2s.execute.waves import Line
from w2s.execute.worker import KINDS
from w2s.identity import validated
from w2s.plan import Node

ROWS_AT_ONCE = 500  # specs that are read together to find those of one line
# In the command of a job of ours, unless it was cut before that.
TOLD = re.compile(r"/slurm/wave-\d+\.txt | --results ")


class Job(NamedTuple):
    """A submitted job; `wave` is 0 for the one that writes the tables. The last two are '' and 0 in old records."""

    id: str
    name: str
    sweep: str
    folder: Path
    wave: int
    after: int
    tasks: int
    home: str = ""  # the folder by the name that it had for who submitted
    at: float = 0.0  # when it was submitted, in seconds since the epoch

    def log(self, place: int | None) -> Path:
        """What a task of it prints."""
        return logs(self.folder, self.wave, self.after) / f"{self.id if place is None else place}.txt"

    def has(self, task: Task) -> bool:
        """True where a task in the queue is of this job and not of one that came to the same number and name.

        That is so after a cluster was set up anew, and with two clusters on one disk: sweeps of the same name in two
        results folders. It is told by what the task was given to run, which names a file of this folder; SLURM keeps
        that when a task is requeued (the time of submission becomes another), and no site changes it (comments are some
        sites' own). Number and name have to do where SLURM does not tell it, or not whole.
        """
        if (task.job, task.name) != (self.id, self.name):
            return False
        if not self.home or not TOLD.search(f"{task.command} "):
            return True
        home = Path(self.home)
        named = str(wave_file(home, self.wave)) if self.wave else f"--results {home.parents[2]}"
        line = named.encode(errors="surrogateescape").decode(errors="replace").splitlines()[0]
        return f" {line} " in f"{task.command} "


class Held(NamedTuple):
    """A step in the hand of a task: of one in the queue, or (`task` is None) of one that is gone."""

    job: Job
    place: int
    task: Task | None


def folder(results: Path, sweep: str) -> Path:
    """Where the jobs of a sweep are kept."""
    return results / "sweeps" / sweep / "slurm"


def logs(where: Path, wave: int, after: int) -> Path:
    """The folder of an array's logs; one for each array keeps folders small."""
    return where / "logs" / (f"wave-{wave}+{after}" if wave else "tables")


def wave_file(where: Path, wave: int) -> Path:
    """The lines of a wave."""
    return where / f"wave-{wave}.txt"


def last_wave(where: Path) -> int:
    """The highest number that a wave of the sweep has; 0 before the first."""
    numbers = [path.stem.removeprefix("wave-") for path in where.glob("wave-*.txt")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def write_wave(where: Path, wave: int, lines: Sequence[Line], nodes: Mapping[str, Node]) -> Path:
    """Write the lines of a wave and the specs of their steps; the text last, and whole."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [("line", pyarrow.int64()), *((name, pyarrow.string()) for name in ("digest", "title", "parents", "spec"))]
    )
    file = wave_file(where, wave)
    with disk_errors(where):
        make_folder(where)
        with pyarrow.parquet.ParquetWriter(file.with_suffix(".parquet"), schema, compression="zstd") as writer:
            rows = [(number, nodes[digest]) for number, line in enumerate(lines, start=1) for digest in line]
            for start in range(0, len(rows), ROWS_AT_ONCE):
                part = rows[start : start + ROWS_AT_ONCE]
                columns = {
                    "line": [number for number, _ in part],
                    "digest": [node.digest for _, node in part],
                    "title": [node.title for _, node in part],
                    "parents": [" ".join(node.parents) for _, node in part],
                    "spec": [node.spec.model_dump_json() for _, node in part],
                }
                writer.write_table(pyarrow.table(columns, schema=schema))
        sync(file.with_suffix(".parquet"))
        part_file = file.with_suffix(".part")
        part_file.write_text("".join(" ".join(line) + "\n" for line in lines), encoding="utf-8")
        sync(part_file)
        part_file.rename(file)
    return file


def read_line(file: Path, line: int) -> list[Node]:
    """The steps of one line, counted from 1. Raises SpecError where there is none, MachineError where it is damaged."""
    import pyarrow
    import pyarrow.parquet

    digests = _lines(file)
    if not 1 <= line <= len(digests):
        raise SpecError(f"line: {file} has the lines 1 to {len(digests)} (got {line})")
    specs = file.with_suffix(".parquet")
    try:
        # Blocks of rows know their first and last line, so that only those of this one are read.
        rows = pyarrow.parquet.read_table(specs, filters=[("line", "=", line)], partitioning=None).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        what = "is gone" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
        raise MachineError(f"{specs}: {what}; submit the sweep again, finished steps are kept") from None
    nodes = {}
    for row in rows:
        spec = validated(KINDS[json.loads(row["spec"])["kind"]], json.loads(row["spec"]))
        nodes[row["digest"]] = Node(row["digest"], spec.kind, spec, tuple(row["parents"].split()), row["title"], 1)
    if tuple(nodes) != digests[line - 1]:
        raise MachineError(f"{file}: line {line} and {specs.name} tell of different steps; submit the sweep again")
    return list(nodes.values())


def record(job: Job) -> Job:
    """Keep what was submitted just now; the job as it will be read back."""
    job = job._replace(home=str(job.folder), at=time.time())
    data = {name: value for name, value in job._asdict().items() if name != "folder"}
    with disk_errors(job.folder):
        write_json(job.folder / f"job-{job.id}.json", data)
    return job


def recorded(results: Path, sweeps: Iterable[str]) -> list[Job]:
    """The jobs of these sweeps, the oldest first."""
    found = []
    for sweep in sweeps:
        for path in folder(results, sweep).glob("job-*.json"):
            data = read_json(path)
            with contextlib.suppress(TypeError):  # no record of ours
                if data is not None:
                    found.append(Job(**{**data, "sweep": sweep, "folder": path.parent}))
    return sorted(filter(_is_whole, found), key=lambda job: (job.at, int(job.id)))


def _is_whole(job: Any) -> bool:
    """True for what `record` writes, false for what somebody else put there under such a name."""
    texts, numbers = (job.id, job.name, job.home), (job.wave, job.after, job.tasks)
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) for number in numbers)
        and isinstance(job.at, int | float)
        and job.id.isdecimal()
    )


class Queue(NamedTuple):
    """What SLURM has of a results folder. `asked`: whether it could be asked."""

    jobs: list[Job]
    tasks: list[Task]
    asked: bool

    @property
    def live(self) -> list[Job]:
        """The jobs of which something is in the queue."""
        there = {(task.job, task.name) for task in self.tasks}
        return [job for job in self.jobs if (job.id, job.name) in there]

    def held(self) -> dict[str, Held]:
        """By step, the last task that it was given to. One that is in the queue goes before one that is gone."""
        tasks = {(task.job, task.name, task.place): task for task in self.tasks}
        waves: dict[Path, list[Line]] = {}
        found: dict[str, Held] = {}
        for job in self.jobs:
            for place, line in enumerate(_own_lines(job, waves), start=1):
                task = tasks.get((job.id, job.name, place))
                for digest in line:
                    if task is not None or digest not in found or found[digest].task is None:
                        found[digest] = Held(job, place, task)
        return found


def queue_of(results: Path, sweeps: Iterable[str]) -> Queue:
    """What SLURM has of these sweeps; asks it once, and not at all where nothing was ever submitted."""
    jobs = recorded(results, sweeps)
    by_name = {(job.id, job.name): job for job in jobs}  # in one results folder, a name is a sweep's
    tasks = cluster.queue(by_name.keys())
    ours = [task for task in tasks or [] if by_name[task.job, task.name].has(task)]
    return Queue(jobs, ours, tasks is not None)


def steps_of(results: Path, sweeps: Iterable[str]) -> set[str]:
    """Every step that was ever submitted."""
    return {
        digest
        for sweep in sweeps
        for file in folder(results, sweep).glob("wave-*.txt")
        for line in _lines(file)
        for digest in line
    }


def logs_of(results: Path, sweeps: Iterable[str], digest: str) -> list[Path]:
    """What the tasks printed that were given a step, the first first; those that printed nothing yet are left out."""
    waves: dict[Path, list[Line]] = {}
    found = []
    for job in recorded(results, sweeps):
        found += [job.log(place) for place, line in enumerate(_own_lines(job, waves), start=1) if digest in line]
    return [path for path in found if path.exists()]


def _own_lines(job: Job, waves: dict[Path, list[Line]]) -> list[Line]:
    """What each task of a job does; nothing where the wave's file is gone. `waves`: those that were read already."""
    file = wave_file(job.folder, job.wave)
    if file not in waves:
        waves[file] = _lines(file) if file.exists() else []
    return waves[file][job.after : job.after + job.tasks]


def _lines(file: Path) -> list[Line]:
    try:
        return [tuple(line.split()) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise SpecError(f"{file}: no such wave of steps") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(
            f"{file}: cannot be read ({error}); submit the sweep again, finished steps are kept"
        ) from None
