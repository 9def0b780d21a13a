"""The doctor's warnings; the driver's tool is played by an executable on PATH."""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig

import pytest

from w2s.cli import doctor


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without a GPU; `machine(listing)` gives it a driver that lists these."""
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))

    def with_driver(listing, code=0):
        tool = tools / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{''.join(f'echo {line!r}{chr(10)}' for line in listing)}exit {code}\n")
        tool.chmod(0o755)

    return with_driver


def loud(results):
    return [line for line in doctor.lines(results) if line.startswith(doctor.LOUD)]


def test_a_machine_without_a_gpu_is_fine(machine, tmp_path):
    lines = list(doctor.lines(tmp_path / "results"))
    assert not [line for line in lines if line.startswith(doctor.LOUD)]
    assert any(line.startswith("packages ") and "torch " in line for line in lines)
    assert any(line.startswith("device    cpu") for line in lines)
    assert not (tmp_path / "results").exists(), "looking makes nothing"


def test_a_gpu_that_torch_cannot_use_is_a_loud_warning(machine, tmp_path):
    machine(["GPU 0: NVIDIA H100 (UUID: GPU-1)", "GPU 1: NVIDIA H100 (UUID: GPU-2)"])
    warnings = loud(tmp_path)
    assert "nvidia-smi lists 2 GPUs and torch can use none" in warnings[0]
    assert warnings[1].endswith("GPU 0: NVIDIA H100 (UUID: GPU-1)")


def test_a_driver_that_fails_is_no_gpu(machine, tmp_path):
    machine(["GPU 0: broken"], code=9)
    assert loud(tmp_path) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, where not even root can write")
def test_folders_that_cannot_be_written_are_loud(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", "/proc/self/w2s")
    (warning,) = loud(tmp_path)
    assert "cache /proc/self/w2s cannot be written" in warning
    assert "W2S_CACHE" in warning


def test_a_package_that_is_not_installed_is_loud(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    (warning,) = loud(tmp_path)
    assert "no-such-package is not installed" in warning


def test_what_an_engine_can_use_is_told(machine, tmp_path, monkeypatch):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "Python.h").touch()
    path_of = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name, *a: str(tmp_path) if name == "include" else path_of(name))
    monkeypatch.setattr(doctor, "installed", lambda package: package == "wandb")
    several, kernels = [line for line in doctor.lines(tmp_path) if line.startswith("engine ")]
    assert "several processes by gloo" in several
    assert f"zero_stage by deepspeed {importlib.metadata.version('deepspeed')};" in several
    assert several.endswith("trackers jsonl, wandb")
    assert "flash_attention_2 cannot be used, flash_attn is not installed" in kernels
    assert "compile cannot be used, no C++ compiler is on PATH" in kernels
    compiler = tmp_path / "bin" / "mine"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(doctor, "installed", lambda package: True)
    several, kernels = [line for line in doctor.lines(tmp_path) if line.startswith("engine ")]
    assert several.endswith("trackers jsonl, tensorboard, wandb")
    assert kernels.endswith(f"flash_attention_2 can be used; compile by {compiler}")


def test_a_torch_without_process_groups_is_loud(machine, tmp_path, monkeypatch):
    import torch.distributed

    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    (warning,) = loud(tmp_path)
    assert "built without gloo: a step cannot have several processes" in warning
