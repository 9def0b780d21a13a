"""The settings of an engine in, what this machine lacks for them out; imports none of what it looks for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from w2s.errors import MachineError
from w2s.execute.slots import cuda_devices
from w2s.spec import Engine


def require(engine: Engine) -> None:
    """Raise MachineError with a line for each thing that this machine lacks."""
    if problems := lacking(engine):
        raise MachineError("\n".join(problems))


def lacking(engine: Engine) -> list[str]:
    """What this machine lacks for the settings of an engine, a line each with what to do."""
    problems = [
        f"engine.trackers: {name} is not installed; pip install {name}, or take it out of engine.trackers"
        for name in engine.trackers
        if name != "jsonl" and not installed(name)
    ]
    flash = engine.attention == "flash_attention_2"
    if flash and not installed("flash_attn"):
        problems.append(
            "engine.attention: flash_attention_2 needs the package flash_attn, which is not installed; "
            "pip install flash-attn --no-build-isolation, or use attention sdpa"
        )
    if not (flash or engine.mixed_precision == "fp16" or engine.compile):
        return problems
    on_cuda = engine.device != "cpu" and bool(cuda_devices(os.environ))
    absent = "needs a CUDA device, and none is visible here (`w2s doctor` says why)"
    if flash and not on_cuda:
        problems.append(f"engine.attention: flash_attention_2 {absent}; use sdpa")
    if engine.mixed_precision == "fp16" and not on_cuda:
        problems.append(f"engine.mixed_precision: fp16 {absent}; use bf16 or no")
    if engine.compile and (missing := compiler_missing(on_cuda)):
        problems.append(f"engine.compile: {missing}, or set compile to false")
    return problems


def installed(package: str) -> bool:
    """True where a package can be imported, as far as can be told without importing it."""
    found = importlib.util.find_spec(package)
    # Without an origin it is a folder of that name beside us, such as the one where wandb keeps its runs.
    return found is not None and found.origin is not None


def compiler(on_cuda: bool) -> str | None:
    """The compiler that `torch.compile` would call, by its path; None where there is none.

    It takes CXX or the system's C++ compiler for a CPU; for CUDA, Triton takes CC, gcc or clang.
    """
    if on_cuda:
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    else:
        names = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    return next((path for path in map(shutil.which, names) if path is not None), None)


def compiler_missing(on_cuda: bool) -> str | None:
    """What `torch.compile` lacks here, and what to do about it; None where nothing is missing."""
    variable = "CC" if on_cuda else "CXX"
    if compiler(on_cuda) is None:
        wrong = f" ({variable} is {os.environ[variable]!r})" if variable in os.environ else ""
        kind = "C compiler" if on_cuda else "C++ compiler"
        return f"no {kind} is on PATH{wrong}; install gcc and g++, or name one in {variable}"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return f"the headers of Python are not installed (no {headers}); install python3-dev or its like"
    return None
