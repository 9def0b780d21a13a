"""Whether an error means that memory ran out, and what helps against it; without torch, so that both halves can ask."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator

from w2s.spec import Engine

SAID_IN = (  # messages of plain errors that mean that memory ran out
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
PREDICTS = ("w2s.learn.predict", "w2s.learn.trunk")  # what goes by predict_batch_size: predictions, and features


def is_out_of_memory(error: BaseException | None) -> bool:
    """True where memory ran out: torch's own error, Python's, or one that says so, also as the cause of another."""
    return any(map(_says_so, _chain(error)))


def while_predicting(error: BaseException | None) -> bool:
    """True where memory ran out in code that goes by `engine.predict_batch_size`, by the traceback of the error."""
    return is_out_of_memory(error) and any(
        frame.f_globals.get("__name__") in PREDICTS
        for link in _chain(error)
        for frame, _ in traceback.walk_tb(link.__traceback__)
    )


def advice(engine: Engine | None, predicting: bool = False) -> str:
    """What helps against running out of memory and is not in use yet, in the order to try it.

    `engine`: None for a step without a model. `predicting`: it happened while predicting, or making features.
    """
    if engine is None:
        return more_room()
    cuda = engine.device != "cpu"
    more_ranks = engine.ranks == 1 or engine.zero_stage != 3
    smaller_predictions = ("engine.predict_batch_size: a smaller number", engine.predict_batch_size > 1)
    helps = [
        ("engine.micro_batch_size: auto, or a smaller number", engine.micro_batch_size not in ("auto", 1)),
        ("engine.gradient_checkpointing: true", not engine.gradient_checkpointing),
        ("engine.mixed_precision: bf16 (another experiment)", engine.mixed_precision == "no"),
        ("engine.zero_stage: 3 over more engine.devices_per_step", cuda and more_ranks),
        ("engine.offload: parameters (with engine.zero_stage: 3)", cuda and engine.offload != "parameters"),
        (more_room(), engine.workers != 1),
    ]
    helps.insert(0 if predicting else len(helps), smaller_predictions)
    helps.append(("a shorter model.max_length, or recipe.tune: lora or frozen (another experiment)", True))
    return "try, in this order: " + "; ".join(text for text, unused in helps if unused)


def more_room() -> str:
    """What gives one step more of the machine's memory, whatever the step is."""
    return "raise slurm.mem" if "SLURM_JOB_ID" in os.environ else "run fewer --workers"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _says_so(error: BaseException) -> bool:
    # torch's class by its name, since this module must not import torch; on CPU torch raises a bare RuntimeError.
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return named or refused or isinstance(error, MemoryError) or any(words in str(error) for words in SAID_IN)
