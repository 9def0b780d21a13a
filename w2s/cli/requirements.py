"""The settings of an engine in, what this machine lacks for them out; imports none of what it looks for."""

from __future__ import annotations

import importlib.util
import os

from w2s.compiling import compiler_missing
from w2s.errors import MachineError
from w2s.execute.slots import cuda_devices
from w2s.spec import Engine


def require(engine: Engine, here: bool = True) -> None:
    """Raise MachineError with a line for each thing that this machine lacks.

    `here`: steps will run on it, so its devices count, and not only what is installed.
    """
    if problems := lacking(engine, here):
        raise MachineError("\n".join(problems))


def lacking(engine: Engine, here: bool = True) -> list[str]:
    """What this machine lacks for the settings of an engine, a line each with what to do. `here`: see `require`."""
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
    if not here or not (flash or engine.mixed_precision == "fp16" or engine.compile):
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
