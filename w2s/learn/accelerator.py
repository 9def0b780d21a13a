"""Runtime settings in, an Accelerator out; the only place that knows devices, Accelerate's and DeepSpeed's settings.

DeepSpeed sees a float32 model at every stage: matrix products in lower precision are the model's own (autocast), so
one process, DDP and every stage compute the same numbers.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import accelerate
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

from w2s.errors import StepError
from w2s.learn import ranks
from w2s.spec import Engine, Recipe


def device(engine: Engine) -> torch.device:
    """The device of a step. Raises StepError where the one asked for is not there."""
    if engine.device == "cuda" and not torch.cuda.is_available():
        raise StepError("engine.device: cuda was asked for, but torch sees no CUDA device; `w2s doctor` says more")
    return torch.device("cuda" if engine.device != "cpu" and torch.cuda.is_available() else "cpu")


def make(engine: Engine, recipe: Recipe, trackers: Sequence[Any] = ()) -> accelerate.Accelerator:
    """An Accelerator for one step, with its trackers (see `tracking`).

    Raises StepError where devices or processes asked for are not there.
    """
    on_cpu = device(engine).type == "cpu"
    if engine.mixed_precision == "fp16" and on_cpu:
        raise StepError("engine.mixed_precision: fp16 needs a CUDA device; use bf16 or no on a CPU")
    if ranks.size() != engine.ranks:
        raise StepError(
            f"engine.processes: the step asks for {engine.ranks}, but {ranks.size()} were launched; "
            "run it by `w2s sweep`"
        )
    ranks.join()
    # A worker makes one Accelerator per step, and the settings of the last one must not leak into the next.
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU"):
        os.environ.pop(name, None)
    # torch has a new name for it, which means something else and which Accelerate does not know.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    if on_cpu and engine.launched:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    plugin = None
    if engine.zero_stage is not None:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled at first use, for minutes
        # It calls torch by names that torch is giving up, at every step, which would fill the logs.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(engine, recipe), zero3_init_flag=False)
    made = accelerate.Accelerator(
        # With `cpu=True` DeepSpeed would silently be off; the devices are hidden from the process instead.
        cpu=on_cpu and plugin is None,
        mixed_precision="fp16" if engine.mixed_precision == "fp16" else "no",  # fp16 for the scaling of the loss
        deepspeed_plugin=plugin,
        log_with=list(trackers) or None,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=handlers,
    )
    wanted = DistributedType.DEEPSPEED if plugin is not None else None
    if made.num_processes != engine.ranks or (wanted is not None and made.distributed_type != wanted):
        raise StepError(
            f"engine: {engine.ranks} processes at zero_stage {engine.zero_stage} were asked for, but "
            f"{made.num_processes} came up as {made.distributed_type.value}; that is not the run that was asked for"
        )
    return made


def release(accelerator: accelerate.Accelerator, model: Any) -> None:
    """Let go of what a step's model holds on to, so that a process can work through many steps.

    `model` is the prepared one. DeepSpeed's hooks, and cycles through them, would keep weights and optimizer states.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.destroy()
        if model.zero_optimization_partition_weights():
            # Its autograd functions are classes made per model, which hold the model and are never collected, and a
            # list that only grows holds it too: so nothing is left in it.
            sys.modules["deepspeed.runtime.zero.parameter_offload"].FWD_MODULE_STACK.clear()
            emptied = [model.optimizer.parameter_offload, model.optimizer, *model.module.modules()]
            for parameter in model.module.parameters():
                parameter.data, parameter.grad = parameter.data.new_empty(0), None
                emptied.append(parameter)
            for part in emptied:
                vars(part).clear()
        accelerator.deepspeed_engine_wrapped = None
    accelerator.free_memory()


def deepspeed_config(engine: Engine, recipe: Recipe) -> dict[str, Any]:
    """The DeepSpeed configuration of one step, with no value left to its defaults that could change a number.

    The trainer cuts batches and scales losses itself, so accumulation is 1 here.
    """
    zero: dict[str, Any] = {"stage": engine.zero_stage}
    if engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if engine.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": engine.ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.clip_norm or 0.0,  # DeepSpeed's own default clips at 1
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # its own Adam is compiled at first use, for minutes
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "steps_per_print": math.inf,
        "wall_clock_breakdown": False,
    }
