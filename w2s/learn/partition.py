"""Weights that lie in shares on all ranks (ZeRO stage 3): made that way, never whole on one rank, and gathered to keep.

Loads DeepSpeed only where weights are partitioned. Everything here that gathers is called by all ranks alike.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import deepspeed as _integration

from w2s.errors import StepError
from w2s.learn import accelerator, ranks
from w2s.spec import Engine, Recipe

integration: Any = _integration  # published without types


@contextlib.contextmanager
def partitioned(engine: Engine, recipe: Recipe) -> Iterator[None]:
    """Inside, transformers makes and loads models weight by weight, each rank keeping its share of every one.

    Raises StepError where the ranks do not talk to each other yet.
    """
    if not torch.distributed.is_initialized():
        raise StepError("engine.zero_stage: 3 needs a launched group of ranks; run the step by `w2s sweep`")
    # transformers holds it by a weak reference: the name keeps it alive, the end of the block lets it go.
    config = integration.HfDeepSpeedConfig(accelerator.deepspeed_config(engine, recipe))
    try:
        yield
    finally:
        integration.unset_hf_deepspeed_config()
        del config


def forget() -> None:
    """Undo what an earlier step of this process left in torch and transformers, so that ordinary models are ordinary.

    An Accelerator with ZeRO 3 makes every later model of transformers a partitioned one, and DeepSpeed replaces torch's
    linear function for good.
    """
    integration.unset_hf_deepspeed_config()
    module = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    linear = getattr(getattr(module, "InsertPostInitMethodToModuleSubClasses", None), "linear_bk", None)
    if linear is not None:
        torch.nn.functional.linear = linear


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What was trained, by its name in the Classifier, whole and on the CPU; empty on all ranks but the first.

    `model` is the unwrapped Classifier, at whatever stage. One weight at a time is whole on a rank.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with whole(parameter):
                if ranks.is_main():
                    state[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return state


@contextlib.contextmanager
def whole(parameter: nn.Parameter) -> Iterator[None]:
    """Inside, the parameter holds all its numbers on every rank; they are for reading."""
    if not hasattr(parameter, "ds_tensor"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield


@contextlib.contextmanager
def written(parameter: nn.Parameter) -> Iterator[None]:
    """Inside, the parameter holds all its numbers on every rank, which writes them; what the first wrote is kept."""
    if not hasattr(parameter, "ds_tensor"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        yield
