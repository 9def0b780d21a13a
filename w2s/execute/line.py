"""One line of a wave in, its steps carried out: what one task of a job array does, on its node.

A step whose parents are not there is blocked, and told so. SIGUSR1, SLURM's notice before the time limit, saves what is
in hand and puts the job back into the queue. Refuses a results folder that this node cannot see.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from w2s.errors import Interrupted, MachineError, SpecError
from w2s.execute import cluster, jobs, local
from w2s.execute.display import Display
from w2s.execute.slots import Slot, cpu_count, cuda_devices, machine_slots
from w2s.plan import Node, Plan, has_weights, is_done
from w2s.spec import Engine, FeaturesSpec, LanguageSpec, Made, MaterializeSpec, TrainSpec
from w2s.stopping import Asked
from w2s.store import Store

POLL_S = 5.0  # parents that another process works on are looked at this often
SHOWN = 6
WAVE = re.compile(r".*/sweeps/[^/]+/slurm/wave-[0-9]+\.txt", re.DOTALL)  # as w2s.execute.jobs names them


def carry_out(
    file: Path, line: int, *, display: Display, say: Callable[[str], None], env: Mapping[str, str]
) -> tuple[local.Outcome, Plan]:
    """Carry out line `line` (from 1) of a wave's file; `say` takes a message, `env` is what SLURM tells its jobs.

    What happened, and the steps of the line. Raises Interrupted when told to stop, and what `local.execute` raises.
    """
    file = Path(os.path.abspath(file))
    if not WAVE.fullmatch(str(file)):
        raise SpecError(
            f"{file}: is no wave of steps; give a file RESULTS/sweeps/NAME/slurm/wave-K.txt, as `w2s sweep YAML "
            "--launcher slurm` writes it"
        )
    if not file.parent.exists():
        seen = next((folder for folder in file.parents if folder.exists()), file.parents[-1])
        raise SpecError(
            f"{file}: cannot be seen on node {socket.gethostname()}, where {seen} is the last folder of that path that "
            "is there; put --results on a disk that all nodes share"
        )
    nodes = jobs.read_line(file, line)
    store = Store(file.parents[3] / "store")
    say(f"line {line} of {file.name} on {socket.gethostname()}: {_titles(nodes)}")
    before = _progress(nodes, store)
    ready, blocked = [], {}
    for node in nodes:
        try:
            lacking = None if is_done(node, store) else _lacking(node, store, say)
        except Asked as stop:
            _on_notice(str(stop), env, say, moved=True)  # who is waited for is at work
            raise
        if lacking is None:
            ready.append(replace(node, parents=()))  # those of one wave need nothing of each other
        else:
            blocked[node.digest] = lacking
            say(f"blocked {node.digest[:12]} {node.title}: {_why(lacking, store)}")
    plan = Plan(file.parents[1].name, nodes={node.digest: node for node in ready})
    engine = _engine(nodes)
    try:
        outcome = local.execute(plan, store, engine=engine, display=display, places=_places(engine, env))
    except Interrupted as stop:
        moved = isinstance(stop, local.Waiting) or _progress(nodes, store) != before
        _on_notice(stop.signal, env, say, moved)
        raise
    outcome.blocked.update(blocked)
    return outcome, Plan(plan.name, nodes={node.digest: node for node in nodes})


def _titles(nodes: list[Node]) -> str:
    more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    return "; ".join(node.title for node in nodes[:SHOWN]) + more


def _engine(nodes: list[Node]) -> Engine:
    """The settings that the steps of a line share; steps that make data or labels have none."""
    return next((n.spec.engine for n in nodes if isinstance(n.spec, (FeaturesSpec, LanguageSpec, TrainSpec))), Engine())


def _places(engine: Engine, env: Mapping[str, str]) -> list[Slot]:
    """One place that all processes of the job fill, where SLURM is to start them; else one per step that its GPUs hold.

    `engine.workers` is for whole machines. Without a GPU a line's steps follow each other in one worker.
    """
    tasks = _tasks(env)
    by_hand = "SLURM_ARRAY_TASK_ID" not in env  # in a job that somebody made for whatever he likes
    if tasks == 1 or (by_hand and tasks != engine.ranks):
        without = engine.device == "cpu" or not cuda_devices(env)
        return machine_slots(engine.model_copy(update={"workers": 1 if without else None}))
    if tasks != engine.ranks:
        raise SpecError(
            f"engine: a step has {engine.ranks} process{'es'[: 2 * (engine.ranks > 1)]}, but the job was given {tasks} "
            "tasks; submit it by `w2s sweep YAML --launcher slurm`, which asks for as many as are needed"
        )
    cpus = int(env.get("SLURM_CPUS_PER_TASK", 0)) or max(1, cpu_count() * int(env.get("SLURM_NNODES", "1")) // tasks)
    return [Slot(0, engine.threads or cpus, "" if engine.device == "cpu" else None, tasks, "srun")]


def _tasks(env: Mapping[str, str]) -> int:
    """How many tasks the job has; 1 outside of one.

    SLURM_NTASKS alone may be one that sbatch took over from the shell it was called in.
    """
    if "SLURM_JOB_ID" not in env:
        return 1
    if "SLURM_NTASKS_PER_NODE" in env:
        return int(env["SLURM_NTASKS_PER_NODE"]) * int(env.get("SLURM_NNODES", "1"))
    return int(env.get("SLURM_NTASKS", "1"))


def _lacking(node: Node, store: Store, say: Callable[[str], None]) -> str | None:
    """The first parent that is not there, once nobody works on it any more; None where all are there."""
    waited = False
    for kind, parent in _parents(node):
        while not _is_there(node, store, kind, parent):
            if not store.is_claimed(parent):
                store.refresh(kind, parent)
                if _is_there(
                    node, store, kind, parent
                ):  # finished between the two looks, or long ago, unseen by this node
                    break
                return parent
            if not waited:
                say(f"{node.title}: waits for {parent[:12]}, which another process works on")
                waited = True
            time.sleep(POLL_S)
    return None


def _is_there(node: Node, store: Store, kind: str, parent: str) -> bool:
    """True where a parent is finished, with its weights where the step begins from those."""
    manifest = store.manifest(kind, parent)
    begun = isinstance(node.spec, (FeaturesSpec, TrainSpec)) and any(one.step == parent for one in node.spec.start)
    return manifest is not None and not (begun and not has_weights(manifest))


def _parents(node: Node) -> list[tuple[str, str]]:
    """(kind, digest) of the steps whose artifacts this one reads."""
    kinds: dict[str, str] = {}
    if not isinstance(node.spec, MaterializeSpec):
        kinds[node.spec.data] = "materialize"
    if isinstance(node.spec, (FeaturesSpec, TrainSpec)):
        kinds |= {start.step: start.kind for start in node.spec.start}
    if isinstance(node.spec, TrainSpec):
        kinds |= {step.digest(): step.kind for step in node.spec.features().values()}
        if isinstance(node.spec.labels, Made):
            kinds[node.spec.labels.labels] = "labels"
    return [(kinds.get(parent, "train"), parent) for parent in node.parents]


def _why(parent: str, store: Store) -> str:
    failure = store.failure(parent)
    missing = "is missing: its job ended without it"
    if store.has("train", parent):
        missing = "is there without the weights to begin from: its job ended without them"
    reason = f"failed: {failure.get('reason')}" if failure is not None else missing
    return f"needs {parent[:12]}, which {reason}"


def _progress(nodes: list[Node], store: Store) -> set[str]:
    """What there is of the steps: artifacts, those that were waited for included, and names of checkpoints."""
    done = {node.digest for node in nodes if is_done(node, store)}
    read = {parent for kind, parent in {pair for node in nodes for pair in _parents(node)} if store.has(kind, parent)}
    return done | read | {str(path) for node in nodes for path in store.checkpoints(node.digest).glob("step-*")}


def _on_notice(signal: str, env: Mapping[str, str], say: Callable[[str], None], moved: bool) -> None:
    """Put this job back into the queue where SLURM gave notice of its end, unless it would go round in circles."""
    if signal != "SIGUSR1" or "SLURM_JOB_ID" not in env:
        return
    if not moved:
        say(
            "not requeued: since it began, nothing was finished and no checkpoint was reached, so another try would "
            "come no further; raise slurm.time, or lower slurm.notice_s"
        )
        return
    try:
        cluster.requeue(_own_name(env))
        say("saved; put back into the queue, to go on from there")
    except (MachineError, SpecError) as error:
        say(f"saved, but SLURM does not take the job back ({error}); submit the sweep again")


def _own_name(env: Mapping[str, str]) -> str:
    """What SLURM is to call this task: the last one of an array has the array's own number, which names them all."""
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]
