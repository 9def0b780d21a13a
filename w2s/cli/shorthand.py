"""Short flags and names of models in, the changes and the models of a sweep that they stand for out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What a command's own parameters are short for, in the words of --set.
PATHS = {
    "workers": "engine.workers",
    "devices_per_step": "engine.devices_per_step",
    "processes": "engine.processes",
    "zero_stage": "engine.zero_stage",
    "offload": "engine.offload",
    "mixed_precision": "engine.mixed_precision",
    "micro_batch_size": "engine.micro_batch_size",
    "gradient_checkpointing": "engine.gradient_checkpointing",
    "attention": "engine.attention",
    "compile_": "engine.compile",
    "checkpoint_every": "engine.checkpoint_every",
    "eval_every": "recipe.eval_every",
    "keep_weights": "keep_weights",
    "steps_per_task": "slurm.steps_per_task",
    "max_parallel": "slurm.max_parallel",
}


def one_cell(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep of one experiment that the arguments of `w2s run` stand for, but for its `changes`."""
    names = [name_of(given[model]) for model in ("weak", "strong")]
    task, method, seed = given["task"], given["method"], given["seed"]
    return {
        "name": given["name"] or f"run-{task}-{'-'.join(names)}-{method}-seed{seed}",
        "tasks": [task],
        "sizes": {split: given[split] for split in ("weak_train", "transfer", "val", "test")},
        "models": {name: model_of(given[model]) for name, model in zip(names, ("weak", "strong"), strict=True)},
        "pairs": [names],
        "methods": [method],
        "seeds": [seed],
    }


def changes(given: Mapping[str, Any]) -> list[str]:
    """`--set` as it was given, then what the other flags of the command stand for.

    `given`: the arguments of a command by parameter; a flag that is None or False was not given.
    """
    own = [
        f"{path}={_written(parameter, given[parameter])}"
        for parameter, path in PATHS.items()
        if given.get(parameter) is not None and given[parameter] is not False
    ]
    return [*given["set_"], *own]


def _written(parameter: str, value: Any) -> str:
    if parameter == "micro_batch_size" and str(value).lstrip("+-").isdecimal():  # a number, or a word
        return str(value)
    return json.dumps(value)  # which is YAML, and keeps text text


def name_of(model: str) -> str:
    """The name of a model in tables: minilm@2 as it is; the last part of a hub id or a path."""
    last = model.rstrip("/").rpartition("/")[2]
    return "".join(c if c.isascii() and (c.isalnum() or c in "._@+-") else "-" for c in last).lstrip("._@+-") or "model"


def model_of(model: str) -> dict[str, Any]:
    """`NAME@K` as {use: NAME, layers: K}; everything else as it is."""
    name, at, layers = model.rpartition("@")
    return {"use": name, "layers": int(layers)} if at and name and layers.isdecimal() else {"use": model}
