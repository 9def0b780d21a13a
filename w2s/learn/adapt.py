"""What a recipe and the engine ask of a base model's layers, done in place: freezing, LoRA, dropout, precision, memory.

Knows nothing of files, tokenizers or heads.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from w2s.compiling import compiler_missing
from w2s.errors import StepError
from w2s.randomness import stream_seed
from w2s.spec import Engine, Frozen, Lora, Probe, Prompt, Recipe

EMBEDDING_NAMES = ("emb", "wte", "wpe")  # in parameter names outside the layers: token, position and type embeddings
# Both hand weight and bias to one matrix product, so autocast rounds both; a subclass may do otherwise.
MULTIPLIES = (nn.Linear.forward, Conv1D.forward)
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def layers_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, list) of a base model's transformer layers. Raises StepError where there is no such list."""
    depth = getattr(module.config, "num_hidden_layers", None)
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            return name, child
    raise StepError(f"{type(module).__name__}: no list of {depth} layers found; layers cannot be cut or frozen")


def tune(module: nn.Module, recipe: Recipe, seed: int, name: str) -> None:
    """Freeze what the recipe does not train, and add its adapters. Raises StepError where there is no such part."""
    how = recipe.tune
    if isinstance(how, (Probe, Prompt)):
        module.requires_grad_(False)
    elif isinstance(how, Frozen):
        freeze(module, how, name)
    elif isinstance(how, Lora):
        add_lora(module, how, seed, name)


def freeze(module: nn.Module, how: Frozen, name: str) -> None:
    """Stop the gradient of the lowest layers, and of the embeddings. Raises StepError where there are fewer layers."""
    prefix, layers = layers_of(module)
    if how.layers > len(layers):
        raise StepError(f"model {name}: recipe.tune.layers: cannot freeze {how.layers} of {len(layers)} layers")
    for layer in layers[: how.layers]:
        layer.requires_grad_(False)
    if how.embeddings:
        for parameter_name, parameter in module.named_parameters():
            if not parameter_name.startswith(prefix + ".") and any(e in parameter_name for e in EMBEDDING_NAMES):
                parameter.requires_grad_(False)


def add_lora(module: nn.Module, how: Lora, seed: int, name: str) -> None:
    """Put adapters, drawn from the seed, beside linear layers; all else is frozen. Raises StepError if none match."""
    import peft  # slow to import, and few runs need it

    config = peft.LoraConfig(
        r=how.r,
        lora_alpha=how.alpha,  # type: ignore[arg-type]  # annotated int, but only ever divided by r
        lora_dropout=how.dropout,
        target_modules=list(how.targets) if how.targets else "all-linear",
    )
    torch.manual_seed(stream_seed(seed, "lora"))
    try:
        with warnings.catch_warnings():
            # GPT-2 stores its linear layers transposed; peft sees that by itself and says so for each of them.
            warnings.filterwarnings("ignore", message="fan_in_fan_out", category=UserWarning)
            peft.inject_adapter_in_model(config, module)
    except ValueError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StepError(f"model {name}: recipe.tune.targets {how.targets}: {reason}") from error


def set_dropout(module: nn.Module, p: float, name: str) -> None:
    """Turn on the architecture's dropout layers. Raises StepError where it has none."""
    if p == 0.0:
        return
    found = [child for child in module.modules() if isinstance(child, nn.Dropout)]
    if not found:
        raise StepError(f"model {name}: recipe.dropout: this architecture has no dropout layers; set it to 0")
    for child in found:
        child.p = p


def hold_frozen(module: nn.Module, precision: torch.dtype) -> None:
    """Keep frozen weights that only matrix products read in the precision that autocast rounds them to anyway.

    The same numbers in half the memory. Norms, embeddings and whatever the architecture wants in float32 stay.
    """
    exact = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    exact |= set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    multiplied: list[nn.Parameter] = []
    elsewhere: set[int] = set()
    for name, child in module.named_modules():
        own = list(child.parameters(recurse=False))
        if type(child).forward in MULTIPLIES and not exact & set(name.split(".")):
            multiplied += own
        else:
            elsewhere |= set(map(id, own))
    for parameter in multiplied:
        if not parameter.requires_grad and id(parameter) not in elsewhere:
            parameter.data = parameter.data.to(precision)
            if hasattr(parameter, "ds_tensor"):  # partitioned: the data is empty, and this rank's share stands here
                parameter.ds_tensor.data = parameter.ds_tensor.data.to(precision)


def apply_engine(module: Any, engine: Engine, name: str) -> None:
    """Gradient checkpointing and compilation, where the engine asks. Raises StepError where it cannot be had."""
    trains = any(parameter.requires_grad for parameter in module.parameters())
    if engine.gradient_checkpointing and trains:
        if not hasattr(module, "gradient_checkpointing_enable"):  # of a plugin
            raise StepError(f"model {name}: engine.gradient_checkpointing: its module has none; set it to false")
        try:
            with warnings.catch_warnings():
                # The name that every transformers 5 has; the newer name came within 5.
                warnings.filterwarnings("ignore", message=".*gradient_checkpointing_enable", category=FutureWarning)
                module.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise StepError(
                f"model {name}: engine.gradient_checkpointing: {type(module).__name__} does not support it; "
                "set it to false and make engine.micro_batch_size smaller"
            ) from error
        # transformers lets the gradient run down to the embeddings, through layers that are frozen.
        if hasattr(module, "_require_grads_hooks"):
            module.disable_input_require_grads()
    if engine.compile:
        if missing := compiler_missing(engine.device != "cpu" and torch.cuda.is_available()):
            raise StepError(f"engine.compile: {missing}, or set compile to false")
        torch.compiler.reset()  # a worker builds model after model, and the compiler gives up after eight of one class
        module.compile(dynamic=True)  # in place: the names of parameters stay
