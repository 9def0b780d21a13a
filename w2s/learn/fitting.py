"""How many texts fit in memory at once: tried on CUDA, learned from a failure elsewhere, remembered in the cache.

`engine.micro_batch_size: auto` starts from `start_size`. Who runs out of memory in training calls `halve`, which
remembers the smaller size, and runs the step again in a fresh process: after a failed allocation, memory of this one
may be lost for good.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from w2s.disk import read_json, write_json
from w2s.errors import StepError, TryAgain
from w2s.identity import sha256_of
from w2s.learn import ranks
from w2s.learn.batching import Tokens
from w2s.memory import advice, is_out_of_memory
from w2s.sources import cache_dir
from w2s.spec import Engine, LanguageSpec, Recipe, TrainSpec

SPARE = 0.05  # of a device's memory is left free in a trial: blocks of other sizes will cut it up later
OPTIMIZER_BYTES = {"adamw": 8, "adafactor": 1}  # of states per trained number; Adafactor's are rows and columns


@contextlib.contextmanager
def fitted(
    spec: TrainSpec | LanguageSpec, model: nn.Module, tokens: Tokens, device: torch.device
) -> Iterator[int | None]:
    """The micro-batch size to train with inside the block (None: a rank's whole share of a batch).

    With `auto`, memory that runs out inside becomes TryAgain, after a smaller size was remembered for the next try.
    """
    if spec.engine.micro_batch_size != "auto":
        yield spec.engine.micro_batch_size
        return
    share = -(-min(spec.recipe.batch_size, tokens.examples) // spec.engine.ranks)
    key = key_of(spec, int(tokens.example_lengths.max()), share, device)
    size = start_size(share, key)
    if remembered(key) is None and can_be_tried(spec.engine, device):
        size = largest_that_fits(model, tokens, share, device, reserved_bytes(model, spec.recipe, spec.engine, device))
    size = ranks.least(size)
    print(f"engine.micro_batch_size: auto: {size} of {share} examples at a time", file=sys.stderr)
    try:
        yield size
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = halve(key, size, share, spec.engine)
        raise TryAgain(f"out of memory with {size} examples at a time; trying {smaller}") from error
    if remembered(key) is None:  # a sibling may have learned meanwhile that this is too much for two
        with contextlib.suppress(OSError):  # then every start finds out by itself
            remember(key, size)


@contextlib.contextmanager
def predicting(engine: Engine) -> Iterator[None]:
    """Inside, memory that runs out is a StepError that names the size of prediction, and no fault of the training's."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise StepError(f"out of memory while predicting: {advice(engine, predicting=True)}") from error


def memory_of(device: torch.device) -> tuple[str, int]:
    """(name, bytes) of a device; a CPU's memory is shared with who knows whom, and counts as 0."""
    if device.type != "cuda":
        return device.type, 0
    found = torch.cuda.get_device_properties(device)
    return str(found.name), int(found.total_memory)


def key_of(spec: TrainSpec | LanguageSpec, longest: int, share: int, device: torch.device) -> str:
    """What a remembered size is good for, as 64 hexadecimal digits: all that the need for memory depends on.

    `longest` is the length in tokens of the longest example that is trained on, `share` one rank's part of a batch.
    """
    engine, recipe = spec.engine, spec.recipe
    settings = engine.model_dump(
        mode="json",
        include={
            "zero_stage", "offload", "mixed_precision", "gradient_checkpointing", "attention", "compile", "cache_frozen"
        },
    )  # fmt: skip
    trained = {"tune": recipe.tune.identity(), "optimizer": recipe.optimizer, "dropout": recipe.dropout > 0}
    if isinstance(spec, LanguageSpec):  # all tokens go through the language-model head
        trained["texts"] = True
    name, memory = memory_of(device)
    return sha256_of([spec.model.digest(), longest, share, name, memory, engine.ranks, settings, trained])


def remembered(key: str) -> int | None:
    """The size found before; None where there is none."""
    size = (read_json(cache_dir() / "micro_batch" / f"{key}.json") or {}).get("size")
    return size if isinstance(size, int) and size > 0 else None


def remember(key: str, size: int) -> None:
    """Keep a size for later starts. Raises OSError where the cache cannot be written."""
    path = cache_dir() / "micro_batch" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"size": size})


def start_size(share: int, key: str) -> int:
    """The micro-batch to start with, a divisor of `share`: as remembered, or the whole share."""
    return _divisor(share, remembered(key) or share)


def halve(key: str, size: int, share: int, engine: Engine) -> int:
    """The next smaller divisor of `share`, at most half of `size`, remembered. Raises StepError at size 1.

    Ranks that run out of memory together may all call this: it starts from `size`, not from what is remembered.
    """
    if size == 1:
        raise StepError(f"out of memory with one text at a time: {advice(engine)}")
    smaller = _divisor(share, size // 2)
    with contextlib.suppress(OSError):  # then every start finds out by itself
        remember(key, smaller)
    return smaller


def can_be_tried(engine: Engine, device: torch.device) -> bool:
    """True where one device holds the whole model, so that a trial before training tells what will fit."""
    return device.type == "cuda" and engine.zero_stage != 3 and engine.offload != "parameters"


def reserved_bytes(model: nn.Module, recipe: Recipe, engine: Engine, device: torch.device) -> int:
    """Bytes that training takes and a trial does not: optimizer states, the buckets of DDP and DeepSpeed, slack."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    states = trained * OPTIMIZER_BYTES[recipe.optimizer]
    if engine.zero_stage:
        states //= engine.ranks
        states += 4 * trained // engine.ranks  # its own copy of the weights that it updates
    if engine.offload != "none":
        states = 0
    buckets = 4 * trained if engine.launched else 0
    return states + buckets + int(SPARE * memory_of(device)[1])


def largest_that_fits(
    model: nn.Module, tokens: Tokens, share: int, device: torch.device, reserve_bytes: int = 0
) -> int:
    """The largest divisor of `share` at which the longest texts go forward and backward, by halving.

    Moves the model (not yet wrapped) to `device`; leaves weights and random states as they were, and gradients empty.
    Raises StepError where not even one text fits.
    """
    longest = np.argsort(-tokens.example_lengths, kind="stable")
    model.to(device)
    size = share
    while not _fits(model, tokens, longest[:size], device, reserve_bytes, passes=1 if size == share else 2):
        # Here, not in the handler: there the error still holds the frames, and they hold the tensors.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if size == 1:
            most = int(tokens.example_lengths.max())
            raise StepError(f"out of memory with one example of {most} tokens on {memory_of(device)[0]}")
        size = _divisor(share, size // 2)
    return size


def _fits(
    model: nn.Module, tokens: Tokens, rows: np.ndarray, device: torch.device, reserve_bytes: int, passes: int
) -> bool:
    """Whether the rows go through; the second pass has the gradients of the first beside its own."""
    training = model.training
    reserve: Any = None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            reserve = torch.empty(reserve_bytes, dtype=torch.uint8, device=device)
            model.train()
            for _ in range(passes):
                model([tokens.padded(tokens.texts_of(rows), device)]).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        del reserve
        model.train(training)
        model.zero_grad(set_to_none=True)
    return True


def _divisor(share: int, at_most: int) -> int:
    """The largest divisor of `share` that is not above `at_most`."""
    return next(size for size in range(min(share, at_most), 0, -1) if share % size == 0)
