"""What this machine has (cores, memory, CUDA devices) in, the places where workers may run out. Never imports torch.

The number of threads of a process depends on the machine and on what was asked for, never on what is left to do or on
the memory that happens to be free: sums of floats differ in the last digit between thread counts, and an interrupted
run must end with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from w2s.errors import MachineError
from w2s.spec import Engine

Launcher = Literal["torchrun", "srun"]
WORKER_BYTES = int(2.5 * 2**30)  # what a process on CPU with a small model may take
CGROUPS = Path("/sys/fs/cgroup")


# What a launcher tells the processes that it started. If it started us, that is not what our own processes are to hear.
LAUNCHERS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
             "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "PET_")


@dataclass(frozen=True)
class Slot:
    """One place for a worker. `visible`: what CUDA_VISIBLE_DEVICES becomes there; None leaves it alone.

    `threads`: of one process. `launcher`: what starts the `ranks` processes of a group; None where the worker is none.
    """

    index: int
    threads: int
    visible: str | None = None
    ranks: int = 1
    launcher: Launcher | None = None


def slots(engine: Engine, cpu_count: int, cuda: Sequence[str], memory_bytes: int) -> list[Slot]:
    """The places for workers: one per `devices_per_step` CUDA devices, else as many as cores and memory carry.

    `cuda`: the devices as CUDA_VISIBLE_DEVICES names them. `engine.workers` overrides the number of places. Small
    models gain little from a second thread, so up to four cores get a process each; beyond that a quarter of the cores,
    for memory's sake. Raises MachineError where devices are asked for that are not there, or not so many.
    """
    if engine.device == "cuda" and not cuda:
        raise MachineError(
            "engine.device: 'cuda' was asked for, but no CUDA device is visible here; "
            "`w2s doctor` says why, `--set engine.device=cpu` runs without"
        )
    ranks = engine.ranks
    launcher: Launcher | None = "torchrun" if engine.launched else None
    if cuda and engine.device != "cpu":
        devices = packed(engine, cuda)
        count = engine.workers or len(devices)
        threads = engine.threads or max(1, cpu_count // (count * ranks))
        # More workers than places share them.
        return [Slot(i, threads, devices[i % len(devices)], ranks, launcher) for i in range(count)]
    if engine.devices_per_step > 1:
        raise MachineError(
            f"engine.devices_per_step: a step asks for {engine.devices_per_step} CUDA devices, but it would run on the "
            f"CPU here; `--set engine.devices_per_step=1 --set engine.processes={engine.devices_per_step}` gives it "
            f"{engine.devices_per_step} processes on the CPU"
        )
    by_cores = min(cpu_count, max(4, cpu_count // 4))
    if engine.threads is not None:
        by_cores = cpu_count // engine.threads
    count = engine.workers or max(1, min(by_cores, memory_bytes // WORKER_BYTES) // ranks)
    threads = engine.threads or max(1, cpu_count // (count * ranks))
    visible = "" if engine.device == "cpu" else None
    return [Slot(index, threads, visible, ranks, launcher) for index in range(count)]


def packed(engine: Engine, cuda: Sequence[str]) -> list[str]:
    """The devices of each place, as CUDA_VISIBLE_DEVICES names them. Raises MachineError where there are too few."""
    each = engine.devices_per_step
    names = ", ".join(cuda)
    if each > len(cuda):
        there = f"there is only one ({names})" if len(cuda) == 1 else f"there are {len(cuda)} ({names})"
        raise MachineError(
            f"engine.devices_per_step: a step asks for {each} CUDA devices, but {there}; lower it, or run where there "
            "are more; `w2s doctor` shows what is visible"
        )
    if engine.processes not in (None, each):
        raise MachineError(
            f"engine.processes: {engine.processes} were asked for on {each} CUDA device{'s'[: each > 1]}; each process "
            f"has a device of its own: set engine.devices_per_step={engine.processes} (there are {len(cuda)}: {names}),"
            f" or engine.device=cpu"
        )
    return [",".join(cuda[start : start + each]) for start in range(0, len(cuda) - each + 1, each)]


def environment(slot: Slot, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker in this slot."""
    threads = str(slot.threads)
    kept = {name: v for name, v in base.items() if name not in LAUNCHERS and not name.startswith(LAUNCHER_PREFIXES)}
    env = {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it, matrix products on CUDA are not repeatable
        **kept,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    if slot.visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = slot.visible
    return env


def machine_slots(engine: Engine) -> list[Slot]:
    """`slots` for this machine."""
    cuda = [] if engine.device == "cpu" else cuda_devices(os.environ)
    return slots(engine, cpu_count(), cuda, memory_bytes())


def cuda_devices(env: Mapping[str, str]) -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES names them; empty where there are none."""
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return visible_devices(chosen)
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed_devices(listing.stdout)


def visible_devices(value: str) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES that count: CUDA ignores everything from the first invalid one on."""
    devices: list[str] = []
    for entry in (part.strip() for part in value.split(",")):
        if not entry or entry.startswith("-"):
            break
        devices.append(entry)
    return devices


def listed_devices(listing: str) -> list[str]:
    """The devices in the output of `nvidia-smi -L`: GPUs by number, or the parts of one that is cut up (MIG) by id."""
    devices: list[str] = []
    for line in listing.splitlines():
        if line.startswith("GPU "):
            devices.append(line[len("GPU ") :].partition(":")[0])
        elif line.strip().startswith("MIG ") and "UUID: " in line:
            part = line.partition("UUID: ")[2].rstrip(") ")
            if devices and not devices[-1].startswith("MIG-"):
                devices.pop()  # the whole cannot be used beside its parts
            devices.append(part)
    return devices


def cpu_count() -> int:
    """Cores this process may use: by affinity (taskset), its control group's quota (containers), and its SLURM job."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for text in _cgroup_limits("cpu.max"):
        with contextlib.suppress(ValueError):
            quota, period = text.split()
            count = min(count, max(1, int(quota) // int(period)))
    return min(count, _of_job("SLURM_CPUS_ON_NODE") or count)


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or less where its control group or its SLURM job says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text in _cgroup_limits("memory.max"):
        with contextlib.suppress(ValueError):
            total = min(total, int(text))
    given_mib = _of_job("SLURM_MEM_PER_NODE") or _of_job("SLURM_MEM_PER_CPU") * _of_job("SLURM_CPUS_ON_NODE")
    return min(total, given_mib * 2**20 or total)


def _of_job(name: str) -> int:
    """A number that SLURM gives to the jobs it starts, on sites that bind nothing; 0 where there is none."""
    value = os.environ.get(name, "") if "SLURM_JOB_ID" in os.environ else ""
    return int(value) if value.isdecimal() else 0


def _cgroup_limits(name: str) -> Iterator[str]:
    """The contents of a limit's file in this process's control group and in every group above it."""
    own = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line[len("0::/") :] for line in lines if line.startswith("0::/")), "")
    folder = CGROUPS / own
    for group in (folder, *folder.parents):
        if CGROUPS not in (group, *group.parents):
            return
        with contextlib.suppress(OSError):
            yield (group / name).read_text().strip()
