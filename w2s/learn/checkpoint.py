"""A training in the middle, to disk and back, bit for bit; what is not whole is not taken.

    FOLDER/step-00000120/rank-0.safetensors      weights, optimizer state and random state of one process
                         evaluations.safetensors logits of the evaluations so far
                         checkpoint.json         written last: step, layout, history, numbers, SHA-256 of the files

Under one process, DDP and ZeRO 0 every process holds everything: the layout is `whole`, and any number of processes can
go on from it. Under ZeRO 1 to 3 each holds its part, and only the same stage and number of processes fit.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor, nn

from w2s.disk import disk_errors, file_sha256, sync, write_json
from w2s.errors import StepError
from w2s.identity import sha256_of
from w2s.learn import ranks
from w2s.learn.optimizer import inner_optimizer
from w2s.spec import Engine

KEPT = 2
FORMAT = 1  # raise when what is written changes its meaning
WORTH_S = 60.0
RECORD = "checkpoint.json"


class Evaluation(NamedTuple):
    """Logits (N, C) by split after so many optimizer steps."""

    step: int
    logits: dict[str, np.ndarray]


@dataclass
class Progress:
    """How far a training is: optimizer steps done, one row per step, and the evaluations on the way."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)


@dataclass
class Checkpoints:
    """The checkpoints of one step below `folder`, made every so many minutes or steps (`engine.checkpoint_every`)."""

    folder: Path
    engine: Engine

    def __post_init__(self) -> None:
        self._saved_s = time.monotonic()

    def due(self, step: int) -> bool:
        """True where one is to be made after `step` steps; minutes are told by the first rank's clock alone."""
        if self.engine.checkpoint_every == "never":
            return False
        count, unit = self.engine.checkpoint_every.split()
        if unit == "steps":
            return step % int(count) == 0
        return ranks.is_main() and time.monotonic() - self._saved_s >= 60.0 * int(count)

    def due_at_end(self) -> bool:
        """True where enough was done since the last one that the predictions should not put it at risk."""
        kept = self.engine.checkpoint_every != "never"
        return kept and ranks.is_main() and time.monotonic() - self._saved_s >= WORTH_S

    def save(
        self,
        progress: Progress,
        model: nn.Module,
        optimizer: Any,
        accelerator: accelerate.Accelerator,
    ) -> None:
        """Write a checkpoint; it counts once its folder has its name. Keeps the newest two."""
        place = self.folder / f"step-{progress.step:08}"
        part = self.folder / f".{place.name}"
        with disk_errors(self.folder):
            if ranks.is_main():
                self._clear_unfinished()
                part.mkdir(parents=True)
            ranks.wait()
            tensors, numbers = _state(model, optimizer, self.layout)
            tensors.update(_random_state())
            safetensors.torch.save_file(tensors, part / f"rank-{ranks.rank()}.safetensors")
            write_json(part / f"numbers-{ranks.rank()}.json", numbers)
            ranks.wait()
            if ranks.is_main():
                self._finish(part, place, progress, accelerator)
            ranks.wait()
        self._saved_s = time.monotonic()

    @property
    def layout(self) -> str:
        """`whole`, or which part of what a process holds."""
        stage = self.engine.zero_stage
        return "whole" if not stage else f"{self.engine.ranks} processes at ZeRO {stage}"

    def _finish(self, part: Path, place: Path, progress: Progress, accelerator: accelerate.Accelerator) -> None:
        logits = {f"{e.step}/{split}": values for e in progress.evaluations for split, values in e.logits.items()}
        safetensors.numpy.save_file(logits, part / "evaluations.safetensors")
        for path in part.iterdir():
            sync(path)
        record = {
            "format": FORMAT,
            "step": progress.step,
            "layout": self.layout,
            "history": progress.history,
            "evaluations": list(logits),
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
            "files": {path.name: file_sha256(path) for path in sorted(part.iterdir())},
        }
        write_json(part / RECORD, {**record, "sha256": sha256_of(record)})
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
        sync(self.folder)
        for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self, model: nn.Module, optimizer: Any, accelerator: accelerate.Accelerator) -> Progress:
        """Go on from the newest checkpoint that is whole, or from the start where there is none.

        Raises StepError where it was written by another number of processes or at another ZeRO stage.
        """
        name = ranks.share(self._newest() if ranks.is_main() else None)
        if not name:
            return Progress()
        place = self.folder / name
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        if record["layout"] != self.layout:
            ours = f"{self.engine.ranks} process{'es' if self.engine.ranks > 1 else ''}"
            ours += "" if self.engine.zero_stage is None else f" at ZeRO {self.engine.zero_stage}"
            raise StepError(
                f"the checkpoint of step {record['step']} holds {_described(record['layout'])}, "
                f"and this run has {ours}: set engine.processes (or devices_per_step) and engine.zero_stage back "
                "to go on from it, or give --restart-step to train this step from its beginning"
            )
        holder = 0 if record["layout"] == "whole" else ranks.rank()
        tensors = safetensors.torch.load_file(place / f"rank-{holder}.safetensors")
        numbers = json.loads((place / f"numbers-{holder}.json").read_text(encoding="utf-8"))
        _restore(model, optimizer, self.layout, tensors, numbers)
        own = place / f"rank-{ranks.rank()}.safetensors"
        if own.exists():  # not where more processes go on than had written it
            _set_random_state(tensors if holder == ranks.rank() else safetensors.torch.load_file(own))
        if accelerator.scaler is not None and record["scaler"] is not None:
            accelerator.scaler.load_state_dict(record["scaler"])
        if ranks.is_main():
            print(f"going on from the checkpoint of step {record['step']}", file=sys.stderr)
        return Progress(record["step"], record["history"], _evaluations(place, record["evaluations"]))

    def _newest(self) -> str:
        """The name of the newest checkpoint that is as it was written; empty where there is none.

        Damaged ones are removed, so that they do not count among the newest.
        """
        self._clear_unfinished()
        for place in sorted(self.folder.glob("step-*"), reverse=True):
            problem = _damage(place)
            if problem is None:
                return place.name
            print(f"{place}: the checkpoint is damaged ({problem}); trying the one before", file=sys.stderr)
            shutil.rmtree(place, ignore_errors=True)
        return ""

    def _clear_unfinished(self) -> None:
        """What was being written when a process was killed can be as large as the model and its optimizer."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)


def _described(layout: str) -> str:
    return "all of the state" if layout == "whole" else f"the parts of {layout}"


def _damage(place: Path) -> str | None:
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            return f"format {record['format']}, and this version of w2s reads format {FORMAT}"
        if sha256_of({key: value for key, value in record.items() if key != "sha256"}) != record["sha256"]:
            return f"{RECORD} differs from what was written"
        for name, sha256 in record["files"].items():
            if file_sha256(place / name) != sha256:
                return f"{name} differs from what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) or type(error).__name__
    return None


def _evaluations(place: Path, names: list[str]) -> list[Evaluation]:
    logits = safetensors.numpy.load_file(place / "evaluations.safetensors")
    found: dict[int, dict[str, np.ndarray]] = {}
    for name in names:
        step, _, split = name.partition("/")
        found.setdefault(int(step), {})[split] = logits[name]
    return [Evaluation(step, values) for step, values in found.items()]


def _masters(model: nn.Module, optimizer: Any, layout: str) -> Iterator[tuple[str, Tensor]]:
    """The float32 tensors that the optimizer of this process updates, with names, in a fixed order."""
    if layout == "whole":
        names = {id(parameter): name for name, parameter in _unwrapped(model).named_parameters()}
        for group in inner_optimizer(optimizer).param_groups:
            yield from ((names[id(parameter)], parameter) for parameter in group["params"])
        return
    zero = optimizer.optimizer
    partitioned = getattr(zero, "fp32_partitioned_groups_flat", None)  # ZeRO 3
    flat = partitioned if partitioned is not None else zero.single_partition_of_fp32_groups  # ZeRO 1 and 2
    yield from ((f"part-{index}", tensor) for index, tensor in enumerate(flat))


def _unwrapped(model: Any) -> nn.Module:
    while hasattr(model, "module"):  # DDP and DeepSpeed's engine
        model = model.module
    assert isinstance(model, nn.Module)
    return model


def _state(model: nn.Module, optimizer: Any, layout: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, numbers) of this process; where every process holds everything, the first one's are enough."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    if layout == "whole" and not ranks.is_main():
        return tensors, numbers
    state = inner_optimizer(optimizer).state
    for name, master in _masters(model, optimizer, layout):
        tensors[f"weights/{name}"] = _copied(master)
        for key, value in state.get(master, {}).items():
            if isinstance(value, Tensor):
                tensors[f"state/{name}/{key}"] = _copied(value)
            else:
                numbers[f"{name}/{key}"] = value
    return tensors, numbers


def _copied(tensor: Tensor) -> Tensor:
    """A copy of its own on the CPU: parts of one flat buffer share their storage, which safetensors refuses."""
    return tensor.detach().cpu().clone().contiguous()


def _restore(
    model: nn.Module, optimizer: Any, layout: str, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    inner = inner_optimizer(optimizer)
    zero = optimizer.optimizer if layout != "whole" else None
    if zero is not None and hasattr(zero, "checkpoint_event_prologue"):
        zero.checkpoint_event_prologue()
    masters = list(_masters(model, optimizer, layout))
    shapes = {key.removeprefix("weights/"): value.shape for key, value in tensors.items() if key.startswith("weights/")}
    if shapes != {name: master.shape for name, master in masters}:
        raise StepError(
            "the checkpoint holds other weights than this step trains, as one of another version of w2s or of its "
            "libraries may; give --restart-step to train this step from its beginning"
        )
    for name, master in masters:
        with torch.no_grad():
            master.data.copy_(tensors[f"weights/{name}"])
        state: dict[str, Any] = {}
        for key, value in tensors.items():
            owner, _, field_name = key.removeprefix("state/").rpartition("/")
            if key.startswith("state/") and owner == name:
                # torch counts steps on the CPU, unless its fused update keeps the count beside the weights.
                old = inner.state.get(master, {}).get(field_name)
                on = old.device if isinstance(old, Tensor) else _home(field_name, master, inner)
                state[field_name] = value.to(on)
        for key, number in numbers.items():
            owner, _, field_name = key.rpartition("/")
            if owner == name:
                state[field_name] = number
        inner.state[master] = state
    if zero is not None:
        _spread(zero)


def _home(field_name: str, master: Tensor, inner: torch.optim.Optimizer) -> torch.device:
    fused = any(group.get("fused") or group.get("capturable") for group in inner.param_groups)
    return torch.device("cpu") if field_name == "step" and not fused else master.device


def _spread(zero: Any) -> None:
    """Give the model the weights of the restored parts."""
    if hasattr(zero, "update_lp_params"):
        zero.update_lp_params()
        return
    for index, master in enumerate(zero.fp32_partitioned_groups_flat):
        if master.numel():
            zero.fp16_partitioned_groups_flat[index].data.copy_(master.data)
        parts = zero.unflatten(zero.fp16_partitioned_groups_flat[index], zero.fp16_partitioned_groups[index])
        for parameter, values in zip(zero.fp16_partitioned_groups[index], parts, strict=True):
            parameter.data = values.data
    zero.checkpoint_event_epilogue()


def _random_state() -> dict[str, Tensor]:
    state = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random/cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
