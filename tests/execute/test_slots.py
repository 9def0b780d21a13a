from __future__ import annotations

import pytest

from w2s.errors import MachineError
from w2s.execute.slots import (
    Slot,
    cpu_count,
    cuda_devices,
    environment,
    listed_devices,
    memory_bytes,
    slots,
    visible_devices,
)  # fmt: skip
from w2s.spec import Engine

GIB = 2**30


@pytest.mark.parametrize(
    ("cores", "gib", "engine", "workers", "threads"),
    [
        (1, 64, Engine(), 1, 1),
        (2, 64, Engine(), 2, 1),
        (4, 64, Engine(), 4, 1),
        (8, 64, Engine(), 4, 2),
        (64, 512, Engine(), 16, 4),
        (8, 6, Engine(), 2, 4),  # memory carries two
        (8, 1, Engine(), 1, 8),  # never none
        (8, 64, Engine(threads=8), 1, 8),
        (8, 64, Engine(threads=2), 4, 2),
        (2, 64, Engine(threads=4), 1, 4),
        (8, 1, Engine(workers=3), 3, 2),  # who asks knows
        (2, 64, Engine(workers=5), 5, 1),
    ],
)
def test_workers_on_cpu_follow_cores_and_memory(cores, gib, engine, workers, threads):
    assert slots(engine, cores, [], gib * GIB) == [Slot(index, threads) for index in range(workers)]


def test_on_cuda_there_is_one_worker_per_device_and_more_share_them():
    assert slots(Engine(), 16, ["0", "3"], GIB) == [Slot(0, 8, "0"), Slot(1, 8, "3")]
    assert [s.visible for s in slots(Engine(workers=3), 16, ["0", "3"], GIB)] == ["0", "3", "0"]
    assert slots(Engine(workers=1), 16, ["0", "3"], GIB) == [Slot(0, 16, "0")]


def test_cpu_hides_the_devices_and_cuda_without_one_is_refused():
    assert slots(Engine(device="cpu"), 2, ["0"], 64 * GIB) == [Slot(0, 1, ""), Slot(1, 1, "")]
    with pytest.raises(MachineError, match="no CUDA device is visible"):
        slots(Engine(device="cuda"), 2, [], 64 * GIB)


@pytest.mark.parametrize(
    ("cores", "gib", "engine", "workers", "threads"),
    [
        (2, 64, Engine(processes=2), 1, 1),
        (4, 64, Engine(processes=2), 2, 1),
        (8, 64, Engine(processes=2), 2, 2),
        (2, 64, Engine(processes=8), 1, 1),
        (8, 6, Engine(processes=2), 1, 4),  # memory carries two processes
        (8, 64, Engine(processes=2, threads=1), 4, 1),
        (8, 64, Engine(processes=2, workers=3), 3, 1),
        (8, 64, Engine(zero_stage=2), 4, 2),  # a group of one
    ],
)
def test_groups_on_cpu_share_cores_and_memory_by_process(cores, gib, engine, workers, threads):
    ranks = engine.processes or 1
    assert slots(engine, cores, [], gib * GIB) == [Slot(i, threads, None, ranks, "torchrun") for i in range(workers)]


def test_groups_are_packed_onto_devices():
    five = ["0", "1", "2", "GPU-x", "4"]
    pairs = slots(Engine(devices_per_step=2), 16, five, GIB)
    assert pairs == [Slot(0, 4, "0,1", 2, "torchrun"), Slot(1, 4, "2,GPU-x", 2, "torchrun")]  # the fifth is of no use
    assert slots(Engine(devices_per_step=2, processes=2), 16, five, GIB) == pairs
    assert [s.visible for s in slots(Engine(devices_per_step=5), 16, five, GIB)] == ["0,1,2,GPU-x,4"]
    assert [s.visible for s in slots(Engine(devices_per_step=2, workers=1), 16, five, GIB)] == ["0,1"]
    assert slots(Engine(zero_stage=3), 4, ["0", "1"], GIB) == [
        Slot(0, 2, "0", 1, "torchrun"),
        Slot(1, 2, "1", 1, "torchrun"),
    ]
    assert slots(Engine(), 4, ["0"], GIB)[0].launcher is None


@pytest.mark.parametrize(
    ("engine", "cuda", "message"),
    [
        (Engine(devices_per_step=4), ["0", "3"], r"asks for 4 CUDA devices, but there are 2 \(0, 3\)"),
        (Engine(devices_per_step=2), ["0"], r"asks for 2 CUDA devices, but there is only one \(0\)"),
        (Engine(devices_per_step=2), [], "asks for 2 CUDA devices.*engine.processes=2` gives it 2 processes"),
        (Engine(devices_per_step=2, device="cpu"), ["0", "1"], "engine.processes=2` gives it 2 processes on the CPU"),
        (Engine(devices_per_step=2, device="cuda"), [], "no CUDA device is visible"),
        (Engine(processes=2), ["0", "1"], r"2 were asked for on 1 CUDA device; .*devices_per_step=2 \(there are 2"),
        (Engine(devices_per_step=2, processes=4), ["0", "1"], "4 were asked for on 2 CUDA devices"),
    ],
)
def test_more_devices_than_there_are_and_processes_without_their_own_are_refused(engine, cuda, message):
    with pytest.raises(MachineError, match=message):
        slots(engine, 8, cuda, 64 * GIB)


def test_what_a_launcher_told_this_process_is_not_told_to_its_workers():
    outer = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "PET_NNODES": "2"}
    env = environment(Slot(0, 1), {**outer, "SLURM_PROCID": "0"})
    assert not set(env) & set(outer)
    assert env["SLURM_PROCID"] == "0"


def test_the_environment_of_a_worker():
    base = {"PATH": "/bin", "OMP_NUM_THREADS": "64", "CUDA_VISIBLE_DEVICES": "0,1", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    env = environment(Slot(0, 3, "1"), base)
    assert env["OMP_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "3"
    assert env["CUDA_VISIBLE_DEVICES"] == "1"
    assert env["TOKENIZERS_PARALLELISM"] == "false"
    assert env["PATH"] == "/bin"
    assert env["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # the user's choice stands
    assert environment(Slot(0, 3), {})["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUDA_VISIBLE_DEVICES" not in environment(Slot(0, 3), {})
    assert environment(Slot(0, 3, ""), base)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("", []),
        ("-1", []),
        ("1,-1,0", ["1"]),
        ("GPU-ab,MIG-cd", ["GPU-ab", "MIG-cd"]),
    ],
)
def test_visible_devices_are_read_as_cuda_does(value, devices):
    assert visible_devices(value) == devices
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": value}) == devices


def test_the_listing_of_nvidia_smi():
    assert listed_devices("GPU 0: NVIDIA A100 (UUID: GPU-aa)\nGPU 1: NVIDIA A100 (UUID: GPU-bb)\n") == ["0", "1"]
    cut_up = (
        "GPU 0: NVIDIA A100 (UUID: GPU-aa)\n"
        "  MIG 3g.40gb     Device  0: (UUID: MIG-11)\n"
        "  MIG 3g.40gb     Device  1: (UUID: MIG-22)\n"
    )
    assert listed_devices(cut_up) == ["MIG-11", "MIG-22"]
    assert listed_devices("No devices found.\n") == []


def test_devices_are_counted_with_the_tool_on_the_path_and_without_it_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda_devices({}) == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n[ \"$1\" = -L ] && echo 'GPU 0: NVIDIA H200 (UUID: GPU-aa)'\n")
    tool.chmod(0o755)
    assert cuda_devices({}) == ["0"]
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    assert cuda_devices({}) == []


def test_this_machine_has_a_core_and_some_memory():
    assert cpu_count() >= 1
    assert memory_bytes() > 2**28


def test_a_slurm_job_has_what_slurm_gave_it_also_where_the_site_binds_nothing(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    cores, total = cpu_count(), memory_bytes()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "16")
    assert (cpu_count(), memory_bytes()) == (cores, total), "left over in a shell that is in no job"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert (cpu_count(), memory_bytes()) == (1, 16 * 2**20)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "100000")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # which is how SLURM says: all of it
    assert (cpu_count(), memory_bytes()) == (cores, total)
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "8")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert memory_bytes() == 16 * 2**20
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "(null)")
    assert (cpu_count(), memory_bytes()) == (cores, total)
