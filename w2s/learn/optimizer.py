"""A model and a recipe in, the optimizer of what is trained out, and its learning rate at each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from w2s.spec import Recipe


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer below the wrappers of Accelerate and DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def lr_at(step: int, total_steps: int, recipe: Recipe) -> float:
    """The learning rate of optimizer step `step` (0-based).

    Warm-up climbs linearly and is at `lr` from step `warmup_frac * total_steps` on; a cosine or a line then falls
    towards 0, which would be reached one step after the last.
    """
    warmup_steps = round(recipe.warmup_frac * total_steps, 9)  # 0.07 * 100 is 7.000000000000001
    if step < warmup_steps:
        return recipe.lr * (step + 1) / (math.ceil(warmup_steps) + 1)
    if recipe.schedule == "constant":
        return recipe.lr
    done = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return recipe.lr * (0.5 * (1.0 + math.cos(math.pi * done)) if recipe.schedule == "cosine" else 1.0 - done)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over what is trained; biases and norms (one dimension) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dimensions = [len(getattr(p, "ds_shape", p.shape)) for p in trained]  # a partitioned weight is flat
    groups = [
        {"params": [p for p, d in zip(trained, dimensions, strict=True) if d > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p, d in zip(trained, dimensions, strict=True) if d <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adafactor":
        from transformers.optimization import Adafactor  # slow to import, and few runs need it

        # Source: Shazeer and Stern 2018, with the recipe's learning rate in place of Adafactor's own schedule.
        made: torch.optim.Optimizer = Adafactor(  # type: ignore[no-untyped-call]  # transformers annotates no __init__
            groups, lr=recipe.lr, relative_step=False, scale_parameter=False, warmup_init=False
        )
        return made
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
