"""This machine in, lines about it out: versions, devices, cache, disk; torch is imported last, and only here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import w2s
from w2s.cli.requirements import installed
from w2s.cli.terminal import size
from w2s.compiling import compiler, compiler_missing
from w2s.provenance import versions
from w2s.sources.cache import cache_dir

LOUD = "!!! "
PACKAGES = (
    *("torch", "transformers", "accelerate", "deepspeed", "datasets", "peft", "safetensors", "tokenizers", "gguf"),
    *("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "matplotlib", "pydantic", "fire", "rich"),
    *("huggingface_hub", "pypi-simple", "PyYAML"),
)


def lines(results: Path) -> Iterator[str]:
    """What is worth knowing before a sweep, a line at a time; what is wrong starts with `LOUD`."""
    yield f"w2s       {w2s.__version__} in {Path(w2s.__file__).parent}"
    yield f"python    {platform.python_version()} at {sys.executable} on {platform.platform()}"
    found = versions(PACKAGES)
    yield "packages  " + ", ".join(f"{name} {version}" for name, version in found.items())
    for name in PACKAGES:
        if name not in found:
            yield f"{LOUD}{name} is not installed; install w2s again: pip install -c constraints.txt -e ."
    yield from _folder("cache", cache_dir(), "W2S_CACHE")
    yield from _folder("results", results.absolute(), "--results")
    yield _memory()
    yield from _devices(nvidia_gpus())
    yield from _engine(found.get("deepspeed"))


def _folder(name: str, folder: Path, how: str) -> Iterator[str]:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        yield f"{name:<9} {folder} can be written, {size(shutil.disk_usage(there).free)} free"
    except OSError as error:
        yield f"{LOUD}{name} {folder} cannot be written ({error.strerror}); choose another folder with {how}"


def _memory() -> str:
    try:
        total = size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        total = "unknown"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"machine   {cores} cores, {total} memory"


def nvidia_gpus() -> list[str]:
    """GPUs that the driver of NVIDIA lists, by its own words; empty where there is no driver."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listing.splitlines() if line.startswith("GPU ")]


def _devices(gpus: list[str]) -> Iterator[str]:
    try:
        import torch
    except Exception as error:  # whatever keeps torch from loading is what the user needs to see
        yield f"{LOUD}torch cannot be imported: {type(error).__name__}: {error}"
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            yield f"device    cuda:{index} {torch.cuda.get_device_name(index)}, {size(free)} of {size(total)} free"
        return
    yield f"device    cpu, {torch.get_num_threads()} threads; torch {torch.__version__} sees no GPU"
    if gpus:
        built = torch.version.cuda
        why = (
            f"this torch is built for CUDA {built}; the driver may be too old for it, or CUDA_VISIBLE_DEVICES hides "
            f"the GPUs (it is {os.environ.get('CUDA_VISIBLE_DEVICES')!r})"
            if built
            else "this torch is built without CUDA; install the build for your driver from pytorch.org"
        )
        yield f"{LOUD}nvidia-smi lists {len(gpus)} GPUs and torch can use none: runs would take the CPU. {why}"
        yield from (f"{LOUD}  {gpu}" for gpu in gpus)


def _engine(deepspeed: str | None) -> Iterator[str]:
    """What settings of an engine can make use of here."""
    try:
        import torch
        from torch import distributed
    except Exception:  # told above
        return
    found = []
    if distributed.is_available():
        there = {"gloo": distributed.is_gloo_available(), "nccl": distributed.is_nccl_available()}
        found = [backend for backend, usable in there.items() if usable]
    needed = "nccl" if torch.cuda.is_available() else "gloo"
    trackers = ["jsonl", *(name for name in ("tensorboard", "wandb") if installed(name))]
    yield (
        f"engine    several processes by {' and '.join(found) or 'nothing'}; zero_stage by deepspeed "
        f"{deepspeed or '(not installed)'}; trackers {', '.join(trackers)}"
    )
    if needed not in found:
        yield (
            f"{LOUD}torch {torch.__version__} is built without {needed}: a step cannot have several processes; "
            "install the build from pytorch.org"
        )
    missing = compiler_missing(torch.cuda.is_available())
    flash = "can be used" if installed("flash_attn") else "cannot be used, flash_attn is not installed"
    compiled = f"cannot be used, {missing}" if missing else f"by {compiler(torch.cuda.is_available())}"
    yield f"engine    flash_attention_2 {flash}; compile {compiled}"
