"""What a machine lacks for an engine; tools are played by executables on PATH, packages by folders on sys.path."""

from __future__ import annotations

import sys
import sysconfig

import pytest

from w2s.cli.requirements import installed, lacking, require
from w2s.errors import MachineError
from w2s.spec import Engine

FLASH = Engine(attention="flash_attention_2", mixed_precision="bf16")
NO_FLASH = (
    "engine.attention: flash_attention_2 needs the package flash_attn, which is not installed; "
    "pip install flash-attn --no-build-isolation, or use attention sdpa"
)
NO_CUDA = "needs a CUDA device, and none is visible here (`w2s doctor` says why)"


class Machine:
    """A machine with nothing but Python and its headers; `tool` and `package` add to it."""

    def __init__(self, folder, monkeypatch):
        self.tools, self.packages, headers = folder / "bin", folder / "packages", folder / "include"
        for made in (self.tools, self.packages, headers):
            made.mkdir()
        self.header = headers / "Python.h"
        self.header.touch()
        monkeypatch.setenv("PATH", str(self.tools))
        monkeypatch.setattr(sys, "path", [str(self.packages)])
        monkeypatch.setattr(sysconfig, "get_path", {"include": str(headers)}.__getitem__)
        for name in ("CC", "CXX", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)

    def tool(self, name, script=""):
        (self.tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.tools / name).chmod(0o755)

    def gpu(self):
        self.tool("nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'")

    def package(self, name):
        (self.packages / name).mkdir()
        (self.packages / name / "__init__.py").write_text("raise AssertionError('imported')")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def test_the_default_needs_nothing(machine):
    assert lacking(Engine()) == []
    require(Engine(mixed_precision="bf16", zero_stage=3, processes=2))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_trackers_need_their_package(name, machine):
    engine = Engine(trackers=("jsonl", name))
    assert lacking(engine) == [
        f"engine.trackers: {name} is not installed; pip install {name}, or take it out of engine.trackers"
    ]
    (machine.packages / name).mkdir()  # where it keeps its runs, say
    assert not installed(name)
    (machine.packages / name).rmdir()
    machine.package(name)
    assert lacking(engine) == []
    assert name not in sys.modules, "found, and not imported"


def test_flash_attention_needs_its_package_and_a_device(machine):
    assert lacking(FLASH) == [NO_FLASH, f"engine.attention: flash_attention_2 {NO_CUDA}; use sdpa"]
    machine.package("flash_attn")
    assert lacking(FLASH) == [f"engine.attention: flash_attention_2 {NO_CUDA}; use sdpa"]
    machine.gpu()
    assert lacking(FLASH) == []


def test_fp16_needs_a_device(machine):
    engine = Engine(mixed_precision="fp16")
    assert lacking(engine) == [f"engine.mixed_precision: fp16 {NO_CUDA}; use bf16 or no"]
    machine.gpu()
    assert lacking(engine) == []
    assert lacking(engine.model_copy(update={"device": "cpu"})) != []


@pytest.mark.parametrize(
    ("gpu", "device", "kind", "variable", "tools"),
    [
        (False, "auto", "C++ compiler", "CXX", ["g++"]),
        (True, "cpu", "C++ compiler", "CXX", ["g++"]),
        (True, "auto", "C compiler", "CC", ["gcc", "clang"]),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="there the C++ compiler is clang++")
def test_compile_needs_a_compiler_and_headers(gpu, device, kind, variable, tools, machine, monkeypatch):
    if gpu:
        machine.gpu()
    engine = Engine(compile=True, device=device)
    advice = f"install gcc and g++, or name one in {variable}, or set compile to false"
    assert lacking(engine) == [f"engine.compile: no {kind} is on PATH; {advice}"]
    machine.tool("other")
    monkeypatch.setenv(variable, "other")
    assert lacking(engine) == []
    monkeypatch.setenv(variable, "absent")
    assert lacking(engine) == [f"engine.compile: no {kind} is on PATH ({variable} is 'absent'); {advice}"]
    monkeypatch.delenv(variable)
    for tool in tools:
        machine.tool(tool)
        assert lacking(engine) == []
        (machine.tools / tool).rename(machine.tools / "aside")
    (machine.tools / "aside").rename(machine.tools / tools[0])
    machine.header.unlink()
    assert lacking(engine) == [
        f"engine.compile: the headers of Python are not installed (no {machine.header}); "
        "install python3-dev or its like, or set compile to false"
    ]


def test_all_of_it_is_told_at_once(machine):
    with pytest.raises(MachineError) as caught:
        require(FLASH.model_copy(update={"compile": True, "trackers": ("wandb",)}))
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "engine.trackers",
        "engine.attention",
        "engine.attention",
        "engine.compile",
    ]


def test_where_steps_run_on_other_machines_only_packages_count(machine):
    machine.package("flash_attn")
    assert len(lacking(FLASH)) == 1
    assert lacking(FLASH, here=False) == []
    assert lacking(Engine(mixed_precision="fp16", compile=True), here=False) == []
    assert len(lacking(Engine(trackers=("wandb",)), here=False)) == 1
