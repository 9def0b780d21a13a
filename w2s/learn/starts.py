"""Weights that an earlier step trained in, a base model that begins from them out, changed in place.

The head of classes is never taken over; that of a language model is. What adapters (LoRA) learned is added to the
matrices that they stood beside. Refuses weights that are not those of the step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from w2s.errors import StepError
from w2s.learn import adapt, partition
from w2s.spec import Frozen, Full, Lora, Tune

BASE, HEAD = "base.", "head.weight"  # names in Classifier and LanguageModel
A, B = ".lora_A.default.weight", ".lora_B.default.weight"


class Begun(NamedTuple):
    """The trained weights of a step, and how they were trained. `language`: with a language-model head."""

    file: Path
    tune: Tune
    language: bool


def put_into(module: nn.Module, begun: Begun) -> None:
    """Give a base model, which may keep fewer of its lowest layers, the weights of a step that trained it."""
    trained = {name: weight for name, weight in _read(begun.file).items() if name.startswith(BASE)}
    own = {f"{BASE}{name}": parameter for name, parameter in module.named_parameters()}
    if isinstance(begun.tune, Lora):
        found = _sums(trained, module, begun)
    else:
        found = {name: (weight, False) for name, weight in trained.items()}
    odd = {name for name in found if name not in own and not _is_cut_off(name, module)}
    odd |= _wanted(module, begun.tune) - set(found)
    odd |= {name for name, (weight, _) in found.items() if name in own and _shape(own[name]) != weight.shape}
    if odd or not found:
        raise StepError(
            f"{begun.file}: not the weights of this model ({min(odd, default='there are none')}); remove "
            f"{begun.file.parents[1]} and run again"
        )
    with torch.no_grad():
        for name, (weight, is_added) in found.items():
            if name in own:
                with partition.written(own[name]):
                    value = own[name] + weight.to(own[name]) if is_added else weight
                    own[name].copy_(value)


def head_of(starts: tuple[Begun, ...]) -> Tensor | None:
    """The language-model head (V, D) that the last step which trained one left; None where it is the published one."""
    for begun in reversed(starts):
        if begun.language and (head := _read(begun.file).get(HEAD)) is not None:
            return head
    return None


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(file))
    except (OSError, safetensors.SafetensorError) as error:
        raise StepError(f"{file}: cannot be read ({error}); remove {file.parents[1]} and run again") from error


def _sums(trained: dict[str, Tensor], module: nn.Module, begun: Begun) -> dict[str, tuple[Tensor, bool]]:
    """By matrix, what adapters add to it: alpha / r B A."""
    assert isinstance(begun.tune, Lora)
    places = {name.removesuffix(A).removesuffix(B) for name in trained}
    strange = [name for name in trained if not name.endswith((A, B))]
    if strange or any(f"{place}{end}" not in trained for place in places for end in (A, B)):
        raise StepError(
            f"{begun.file}: adapters that are not beside a linear layer ({min(strange or places)}) cannot be begun "
            "from; give tune.targets of linear layers"
        )
    found = {}
    for place in places:
        added = trained[f"{place}{B}"] @ trained[f"{place}{A}"] * (begun.tune.alpha / begun.tune.r)
        layer = dict(module.named_modules()).get(place.removeprefix(BASE))
        found[f"{place}.weight"] = (added.T if isinstance(layer, Conv1D) else added, True)  # GPT-2 stores (in, out)
    return found


def _wanted(module: nn.Module, tune: Tune) -> set[str]:
    """Names of what such a training changes of this model; of adapters, which stand where they like, none."""
    if not isinstance(tune, (Full, Frozen)):
        return set()
    before = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    module.requires_grad_(True)
    if isinstance(tune, Frozen):
        kept = min(tune.layers, len(adapt.layers_of(module)[1]))
        adapt.freeze(module, tune.model_copy(update={"layers": kept}), "start")
    found = {f"{BASE}{name}" for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(before[name])
    return found


def _is_cut_off(name: str, module: nn.Module) -> bool:
    """True for a weight of a layer above those that this model keeps."""
    prefix, layers = adapt.layers_of(module)
    head, _, rest = name.removeprefix(BASE).partition(f"{prefix}.")
    number = rest.partition(".")[0]
    return head == "" and number.isdigit() and int(number) >= len(layers)


def _shape(parameter: Any) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)  # at ZeRO 3 no rank holds all of it
    return shape
