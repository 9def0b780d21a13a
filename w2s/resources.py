"""What steps ask of SLURM: the `slurm:` block of a sweep and of its models, as data; refuses what sbatch cannot mean.

Names are those of sbatch's options. None of it can change a number.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from pydantic import field_validator, model_validator

from w2s.errors import SpecError
from w2s.identity import Spec, runtime, validated
from w2s.spec import Engine

TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}|unlimited|infinite", re.IGNORECASE | re.ASCII)
MEM = re.compile(r"\d+[KMGTkmgt]?", re.ASCII)
GPUS = re.compile(r"(?:[A-Za-z][\w.-]*:)?([1-9]\d*)", re.ASCII)
OPTION = re.compile(r"--([a-z][a-z0-9-]*)(=.*)?", re.DOTALL)
OURS = {  # options of sbatch that w2s sets itself, and what to write instead where there is something
    **dict.fromkeys(
        ("array", "dependency", "job-name", "output", "error", "open-mode", "parsable", "wrap", "chdir"), ""
    ),
    **dict.fromkeys(("ntasks", "ntasks-per-node", "requeue", "no-requeue", "hold", "test-only", "wait"), ""),
    **dict.fromkeys(("quiet", "version", "help", "usage"), ""),  # with these, sbatch does not say which job it made
    "clusters": "SLURM_CLUSTERS=... into the environment, where squeue and scancel find it too",
    "signal": "slurm.notice_s",
    "partition": "slurm.partition",
    "account": "slurm.account",
    "constraint": "slurm.constraint",
    "qos": "slurm.qos",
    "time": "slurm.time",
    "nodes": "slurm.nodes",
    "gpus": "slurm.gpus",
    "gpus-per-node": "slurm.gpus_per_node",
    "cpus-per-task": "slurm.cpus",
    "mem": "slurm.mem",
}


class Processes(NamedTuple):
    """How the processes of one step lie in a job. `per_node`: 1 where w2s starts all on its node by itself."""

    nodes: int = 1
    per_node: int = 1


class Resources(Spec):
    """What one job asks for; what is not given is left to the batch script and to the site."""

    partition: str | None = runtime(None, min_length=1, about="Partition of the cluster.")
    account: str | None = runtime(None, min_length=1, about="Account that is charged.")
    constraint: str | None = runtime(None, min_length=1, about="Features of nodes, such as a100.")
    qos: str | None = runtime(None, min_length=1, about="Quality of service.")
    time: int | str | None = runtime(
        None, about="Time limit of a job: minutes, or as SLURM writes it, '2:00:00' or '1-12:00:00'."
    )
    nodes: int | None = runtime(None, ge=1, about="Nodes that one step spans.")
    gpus: int | str | None = runtime(None, about="GPUs of the whole job: 4, or a100:4.")
    gpus_per_node: int | str | None = runtime(None, about="GPUs of each node.")
    cpus: int | None = runtime(None, ge=1, about="Cores of each process.")
    mem: int | str | None = runtime(None, about="Memory of each node: 32G; a bare number is MiB.")
    options: tuple[str, ...] = runtime((), about="Further options of sbatch, each as '--name=value'.")

    @field_validator("time")
    @classmethod
    def _is_time(cls, time: int | str | None) -> int | str | None:
        if time is not None and (not TIME.fullmatch(str(time)) or seconds_of(time) == 0):
            raise ValueError("write minutes (90), hours '2:00:00' or days '1-12:00:00'")
        return time

    @field_validator("mem")
    @classmethod
    def _is_memory(cls, mem: int | str | None) -> int | str | None:
        if mem is not None and not MEM.fullmatch(str(mem)):
            raise ValueError("write 32G, 500M or a number of MiB")
        return mem

    @field_validator("gpus", "gpus_per_node")
    @classmethod
    def _is_count(cls, gpus: int | str | None) -> int | str | None:
        if gpus is not None and not GPUS.fullmatch(str(gpus)):
            raise ValueError("write a number above 0, or a type and a number such as a100:4")
        return gpus

    @field_validator("options")
    @classmethod
    def _are_options(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            named = OPTION.fullmatch(option)
            if named is None:
                raise ValueError(f"{option!r} is no option of sbatch; write each as '--name=value'")
            ours = next((name for name in OURS if name.startswith(named[1])), None)  # sbatch takes short forms
            if ours is not None:
                instead = f"write {OURS[ours]}" if OURS[ours] else "take it out"
                raise ValueError(f"--{named[1]} is set by w2s; {instead}")
        return options

    @model_validator(mode="after")
    def _one_kind_of_gpus(self) -> Resources:
        if self.gpus is not None and self.gpus_per_node is not None:
            raise ValueError("gpus and gpus_per_node are both given; keep one")
        if self.gpus is not None and count_of(self.gpus) % (self.nodes or 1):
            raise ValueError(f"{self.gpus} gpus cannot be spread evenly over {self.nodes} nodes; give gpus_per_node")
        return self

    @property
    def gpus_on_a_node(self) -> int:
        """GPUs on each node of the job; 0 where none is asked for."""
        if self.gpus_per_node is not None:
            return count_of(self.gpus_per_node)
        return count_of(self.gpus) // (self.nodes or 1) if self.gpus is not None else 0

    def _each(self, nodes: int) -> int | str | None:
        """GPUs to ask for by node, since of a number for the job SLURM might give one node more than another."""
        if self.gpus is None or nodes == 1:
            return self.gpus_per_node
        kind, colon, _ = str(self.gpus).rpartition(":")
        return f"{kind}{colon}{self.gpus_on_a_node}"

    def sbatch(self, lie: Processes) -> tuple[str, ...]:
        """As options of sbatch, for jobs whose processes lie so."""
        given = {
            "partition": self.partition,
            "account": self.account,
            "constraint": self.constraint,
            "qos": self.qos,
            "time": self.time,
            "nodes": lie.nodes,  # never left to SLURM: GPUs for one process may not lie on several nodes
            "ntasks": lie.nodes * lie.per_node,  # lest a batch script's own --ntasks hold
            "ntasks-per-node": lie.per_node,
            "gpus": self.gpus if lie.nodes == 1 else None,
            "gpus-per-node": self._each(lie.nodes),
            "cpus-per-task": self.cpus,
            "mem": self.mem,
        }
        return (*(f"--{name}={value}" for name, value in given.items() if value is not None), *self.options)


class Slurm(Resources):
    """The `slurm:` block of a sweep: what every job asks for, and how steps become jobs."""

    steps_per_task: int = runtime(1, ge=1, about="Steps that one task of an array carries out, one after the other.")
    max_parallel: int | None = runtime(None, ge=1, about="Tasks of an array at a time; null: as many as SLURM allows.")
    array_tasks: int | None = runtime(
        None, ge=1, about="Tasks of one array, where a site takes fewer jobs than its MaxArraySize."
    )
    notice_s: int = runtime(
        120, ge=1, le=65_535, about="Seconds before the time limit in which a training saves a checkpoint."
    )
    script: str | None = runtime(None, about="The batch script that the site edits; null: slurm/array.sbatch.")
    small_jobs: Resources = runtime(
        Resources(), about="What differs for jobs of data and tables, which ask for no GPU by themselves."
    )

    @model_validator(mode="after")
    def _notice_in_time(self) -> Slurm:
        if self.time is not None and seconds_of(self.time) <= self.notice_s:
            raise ValueError(
                f"time: {self.time} is over before the notice of notice_s: {self.notice_s} seconds could be given; "
                "raise time, or lower notice_s"
            )
        return self


def seconds_of(time: int | str) -> float:
    """A time limit as SLURM writes it, in seconds; infinite where there is none."""
    text = str(time)
    if not text[0].isdigit():
        return float("inf")
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:  # minutes[:seconds]
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def count_of(gpus: int | str) -> int:
    """The number in 4 or a100:4."""
    found = GPUS.fullmatch(str(gpus))
    assert found is not None
    return int(found[1])


def of_model(slurm: Slurm, own: Any, where: str) -> Resources:
    """What steps of a model ask for: the block of the sweep, overridden by that of the model. Raises SpecError."""
    return _overridden(slurm, validated(Resources, own, where), where, slurm.notice_s)


def of_small_jobs(slurm: Slurm) -> Resources:
    """What the jobs ask for that only prepare data or write tables."""
    bare = slurm.model_copy(update={"gpus": None, "gpus_per_node": None, "nodes": None})
    return _overridden(bare, slurm.small_jobs, "slurm.small_jobs", slurm.notice_s)


def _overridden(base: Slurm, own: Resources, where: str, notice_s: int) -> Resources:
    fields = {name: getattr(base, name) for name in Resources.model_fields if getattr(base, name) is not None}
    given = own.model_dump(include=own.model_fields_set)
    if {"gpus", "gpus_per_node"} & given.keys():  # one kind in the place of the other
        fields = {name: value for name, value in fields.items() if name not in ("gpus", "gpus_per_node")}
    found = validated(Resources, {**fields, **given}, where)
    if found.time is not None and seconds_of(found.time) <= notice_s:
        raise SpecError(f"{where}.time: {found.time} is no longer than slurm.notice_s ({notice_s} s); raise it")
    return found


def processes(engine: Engine, resources: Resources, where: str = "slurm") -> Processes:
    """How the processes of a step lie in its job. Raises SpecError where engine and resources do not fit.

    Over several nodes a step has one process per GPU of the job, or `engine.processes` without GPUs.
    """
    nodes, gpus = resources.nodes or 1, _gpus(engine, resources)
    asked = engine.devices_per_step
    if nodes > 1 and gpus:
        whole = nodes * gpus
        if asked not in (1, whole) or engine.processes not in (None, whole):
            setting = "devices_per_step" if asked not in (1, whole) else "processes"
            raise SpecError(
                f"engine.{setting}: is {getattr(engine, setting)}, but over several nodes a step has one process per "
                f"GPU, which makes {nodes} x {gpus} = {whole} by {where}; leave engine.{setting} out"
            )
        return Processes(nodes=nodes, per_node=gpus)
    if gpus and engine.processes not in (None, asked):
        raise SpecError(
            f"engine.processes: {engine.processes} were asked for on {_count(asked, 'GPU', 's')}; each process has a "
            f"GPU of its own: set engine.devices_per_step={engine.processes}, or engine.device=cpu"
        )
    if nodes > 1 and asked == 1:
        if engine.ranks % nodes or engine.ranks < nodes:
            raise SpecError(
                f"{where}.nodes: {nodes} nodes, but a step has {_count(engine.ranks, 'process', 'es')}; give "
                f"{where}.gpus_per_node, or set engine.processes to a multiple of {nodes}"
            )
        return Processes(nodes=nodes, per_node=engine.ranks // nodes)
    if asked > max(1, gpus):
        raise SpecError(
            f"engine.devices_per_step: a step asks for {asked} GPUs, but {where} asks SLURM for {gpus or 'none'}; "
            f"set {where}.gpus_per_node={-(-asked // nodes)}"
        )
    # Where a job has GPUs for several steps, w2s shares them out on its node by itself.
    return Processes(per_node=engine.ranks if gpus in (0, asked) else 1)


def on(engine: Engine, lie: Processes, resources: Resources) -> Engine:
    """The engine of a step whose processes lie so."""
    if lie.nodes > 1 and _gpus(engine, resources):
        return engine.model_copy(update={"devices_per_step": lie.nodes * lie.per_node})
    return engine


def _gpus(engine: Engine, resources: Resources) -> int:
    """GPUs on each node that a step of this engine would use."""
    return 0 if engine.device == "cpu" else resources.gpus_on_a_node


def _count(number: int, what: str, more: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{more}"
