"""A user's own losses, label transforms and models, called with care: what comes back is checked, what is wrong named.

Shapes: B examples of a micro-batch, G of the global batch, N of a split, C classes, T tokens, D hidden size.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from w2s import plugins
from w2s.learn.labels import Floats
from w2s.objectives import PluginLoss
from w2s.plugins import Marked, PluginUse
from w2s.randomness import stream_seed
from w2s.supervision import PluginTransform

RTOL, ATOL = 1e-3, 1e-5  # between one example alone and in its batch: sums in another order
SUMS_TO_1 = 1e-4
IDS = ((1, 2, 3), (2, 1, 0))  # token ids to try a model with


# -- losses ------------------------------------------------------------------------------------------------------------


def reads(loss: PluginLoss) -> Literal["labels", "own", "batch"]:
    """What the aims of a loss are made of."""
    how: Literal["labels", "own", "batch"] = plugins.loaded("loss", loss).more["reads"]
    return how


def aims(loss: PluginLoss, p_GC: Tensor, logits_GC: Tensor | None, course: Any) -> tuple[Tensor, Tensor]:
    """(targets (G, C), weights (G,)), without gradient: the labels, where the loss has no aims of its own."""
    marked = plugins.loaded("loss", loss)
    if marked.aims is None or logits_GC is None:
        return p_GC, torch.ones_like(p_GC[:, 0])
    if not len(p_GC):  # of a rank without examples
        return p_GC, p_GC.sum(dim=-1)
    target_GC, weight_G = _aims(marked, loss, p_GC, logits_GC, course)
    if marked.more["reads"] == "own" and len(p_GC) > 1:
        alone = _aims(marked, loss, p_GC[:1], logits_GC[:1], course)
        _require_own(marked, "aims", torch.cat([target_GC[0], weight_G[:1]]), torch.cat([alone[0][0], alone[1]]))
    return target_GC, weight_G


def _aims(marked: Marked, loss: PluginLoss, p_GC: Tensor, logits_GC: Tensor, course: Any) -> tuple[Tensor, Tensor]:
    assert marked.aims is not None
    code = marked.aims.__code__
    names = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    keywords = {name: value for name, value in loss.keywords.items() if name in names}
    with torch.no_grad():
        made = plugins.call(marked, marked.aims, p_GC.clone(), logits_GC.float().clone(), course, **keywords)
    target_GC, weight_G = made if isinstance(made, tuple) and len(made) == 2 else (made, torch.ones_like(p_GC[:, 0]))
    _require(marked, "aims: targets", target_GC, p_GC.shape, "one probability per example and class")
    _require(marked, "aims: weights", weight_G, p_GC.shape[:1], "one number per example")
    return target_GC.detach().to(p_GC), weight_G.detach().to(p_GC)


def loss_sum(loss: PluginLoss, logits_BC: Tensor, target_BC: Tensor, weight_B: Tensor) -> Tensor:
    """Sum over examples of weight times loss. Raises StepError with file and line of a loss that is none."""
    logits_BC = logits_BC.float()
    if not len(logits_BC):  # of a rank without examples
        return logits_BC.sum()
    marked = plugins.loaded("loss", loss)
    loss_B = plugins.call(marked, marked.function, logits_BC, target_BC, **loss.keywords)
    shape, says = logits_BC.shape[:1], "one number per example, which w2s adds up"
    _require(marked, "the loss", loss_B, shape, says, finite=bool(torch.isfinite(logits_BC).all()))
    if torch.is_grad_enabled() and logits_BC.requires_grad and not loss_B.requires_grad:
        raise plugins.wrong(marked, "the loss has no gradient: is something detached, rounded or an argmax?")
    if len(logits_BC) > 1:
        with torch.no_grad():
            alone_B = plugins.call(marked, marked.function, logits_BC[:1], target_BC[:1], **loss.keywords)
        _require(marked, "the loss of one example", alone_B, (1,), says, finite=False)
        _require_own(marked, "the loss", loss_B[:1].detach(), alone_B)
    total: Tensor = (weight_B * loss_B).sum()
    return total


def _require(marked: Marked, what: str, found: Any, shape: Sequence[int], says: str, finite: bool = True) -> None:
    """Raise StepError where something is not a tensor of this shape, of finite numbers."""
    if not isinstance(found, Tensor):
        raise plugins.wrong(marked, f"{what}: expected a tensor of shape {tuple(shape)}, {says} (got {_of(found)})")
    if found.shape != torch.Size(shape) or not found.is_floating_point():
        kind = "" if found.is_floating_point() else f" of {found.dtype}"
        raise plugins.wrong(
            marked, f"{what}: expected the shape {tuple(shape)}, {says} (got {tuple(found.shape)}{kind})"
        )
    bad = int((~torch.isfinite(found)).sum()) if finite else 0
    if bad:
        first = found[~torch.isfinite(found)].flatten()[0].item()
        raise plugins.wrong(marked, f"{what}: {bad} of {found.numel()} numbers are not finite (such as {first})")


def _require_own(marked: Marked, what: str, in_batch: Tensor, alone: Tensor) -> None:
    """Raise StepError where an example's numbers depend on the others, and with them on how a batch is cut."""
    if not torch.allclose(in_batch.float(), alone.float(), rtol=RTOL, atol=ATOL, equal_nan=True):
        raise plugins.wrong(
            marked,
            f"{what} of an example changes with the examples beside it (from {_shown(alone)} alone to "
            f"{_shown(in_batch)}), so that it would depend on how a batch is cut; what is made of a whole batch goes "
            "into aims, with reads='batch'",
        )


def _shown(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.flatten().tolist())


def _of(found: Any) -> str:
    return "nothing: is there a return?" if found is None else f"{type(found).__name__} {str(found)[:60]}"


# -- label transforms --------------------------------------------------------------------------------------------------


def transformed(
    how: PluginTransform, p_NC: Floats, ids: list[str], texts: Sequence[Any], seed: int
) -> Floats | np.ndarray:
    """New labels (N, C), or a mask (N,) of bool that says which examples stay. `seed`: of what is drawn."""
    marked = plugins.loaded("transform", how)
    if not len(ids):
        return p_NC
    if "texts" in marked.takes and any(text is None for text in texts):
        raise plugins.wrong(marked, "asks for texts, of which an example of this task has several; do without them")
    offered: dict[str, Any] = {"ids": list(ids), "texts": list(texts), "rng": np.random.default_rng(seed)}
    given = [offered[name] for name in marked.takes[1:]]
    found = np.asarray(plugins.call(marked, marked.function, p_NC.copy(), *given, **how.keywords))
    if found.dtype == np.bool_ and found.shape == p_NC.shape[:1]:
        return found
    if found.shape != p_NC.shape or found.dtype.kind != "f":
        raise plugins.wrong(
            marked,
            f"expected probabilities of shape {p_NC.shape}, or a mask of {p_NC.shape[:1]} true and false "
            f"(got {found.dtype} of shape {found.shape})",
        )
    with np.errstate(invalid="ignore"):
        fits_N = (found >= 0).all(axis=1) & (np.abs(found.sum(axis=1) - 1.0) <= SUMS_TO_1)
    if not fits_N.all():
        row = int(np.argmin(fits_N))
        numbers = ", ".join(f"{value:.4g}" for value in found[row])
        raise plugins.wrong(
            marked, f"{int((~fits_N).sum())} of {len(ids)} labels are no probabilities (example {ids[row]}: {numbers})"
        )
    return found.astype(np.float32)


# -- models ------------------------------------------------------------------------------------------------------------


def built(use: PluginUse, base: Any) -> nn.Module:
    """What a plugin makes of a base model: a module with hidden states as base models have them, and their size.

    It is tried on two short texts. Raises StepError where padding, or the other text, changes a text's hidden states.
    """
    marked = plugins.loaded("model", use)
    config = base.config
    with torch.random.fork_rng():  # the same module for every seed, as published weights are
        torch.manual_seed(stream_seed(0, "build"))
        made = plugins.call(marked, marked.function, base, **use.keywords)
    if not isinstance(made, nn.Module):
        raise plugins.wrong(marked, f"expected a torch module (got {_of(made)})")
    module: nn.Module = made.float().eval()
    hidden_BTD = _tried(marked, module, IDS, ((1, 1, 1), (1, 1, 0)))
    if isinstance(hidden_BTD, Tensor):
        module = Bare(module)
    else:
        hidden_BTD = getattr(hidden_BTD, "last_hidden_state", None)
    if not isinstance(hidden_BTD, Tensor) or hidden_BTD.ndim != 3 or hidden_BTD.shape[:2] != (2, 3):
        got = tuple(hidden_BTD.shape) if isinstance(hidden_BTD, Tensor) else _of(hidden_BTD)
        raise plugins.wrong(marked, f"expected hidden states (texts, tokens, size), as 2, 3, D (got {got})")
    _require(marked, "hidden states", hidden_BTD, hidden_BTD.shape, "one vector per token")
    alone = _tried(marked, module, (IDS[1][:2],), ((1, 1),)).last_hidden_state
    if not torch.allclose(alone[0], hidden_BTD[1, :2], rtol=RTOL, atol=ATOL):
        raise plugins.wrong(marked, "the hidden states of a text change with padding or with the text beside it")
    config = copy.deepcopy(config)
    config.hidden_size = int(hidden_BTD.shape[2])
    module.config = config  # as transformers' own models have theirs
    return module


class Bare(nn.Module):
    """A module that gives its hidden states alone, as base models give them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> Any:
        return types.SimpleNamespace(last_hidden_state=self.inner(**inputs))


def _tried(marked: Marked, module: nn.Module, ids: Sequence[Any], mask: Sequence[Any]) -> Any:
    with torch.inference_mode():
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        return plugins.call(marked, module, **inputs)
