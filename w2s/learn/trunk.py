"""The frozen lower layers of a base model: run once to hidden states on disk, then replayed from there.

Shapes: B examples, T tokens, S tokens of all texts together, D hidden size.

Replaying keeps the architecture's own forward pass (masks, positions, norms) and only answers for the lowest layers, so
it works for every model whose layers stand in one list. What is replayed equals what is computed to rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from w2s.errors import StepError
from w2s.learn.adapt import layers_of
from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, by_length
from w2s.learn.heads import Classifier
from w2s.learn.models import sharing
from w2s.progress import Count, silent


class Replay(nn.Module):
    """Stands in for a frozen layer and answers with the hidden states (B, T, D) set by `Classifier.forward`."""

    def __init__(self, like: nn.Module, wraps: bool) -> None:
        super().__init__()
        for name, value in vars(like).items():
            if isinstance(value, (str, int)) and not name.startswith("_") and name != "training":
                setattr(self, name, value)  # such as the attention type by which a model picks the layer's mask
        self.wraps = wraps
        self.hidden_BTD: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The hidden states, in a tuple where this architecture's layers answer with one."""
        del args, kwargs
        assert self.hidden_BTD is not None
        return (self.hidden_BTD,) if self.wraps else self.hidden_BTD


def replay_lowest(module: nn.Module, depth: int) -> Replay:
    """Replace the lowest `depth` layers of a base model, in place, by one Replay."""
    layers = layers_of(module)[1]
    replay = Replay(layers[depth - 1], wraps=_answers_with_tuple(module, layers[depth - 1]))
    for index in range(depth):
        layers[index] = replay
    return replay


def start_from(model: Classifier, depth: int | None) -> None:
    """Let a classifier's lowest `depth` layers (None: all) answer with the hidden states that come with each batch."""
    if not model.replay:
        model.replay = [replay_lowest(model.base, depth or len(layers_of(model.base)[1]))]


def _answers_with_tuple(module: nn.Module, layer: nn.Module) -> bool:
    seen: list[bool] = []
    handle = layer.register_forward_hook(lambda _layer, _args, output: seen.append(isinstance(output, tuple)))
    device = next(module.parameters()).device
    try:
        with torch.no_grad():
            module(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device))
    finally:
        handle.remove()
    return seen[0]


def write_hidden(
    module: nn.Module,
    depth: int,
    tokens: Tokens,
    path: Path,
    batch_size: int,
    device: torch.device | str,
    report: Count = silent,
) -> None:
    """Write the hidden states that leave layer `depth` (1-based) for every token as an array (S, D) in float32."""
    module = sharing(module).to(device).eval()  # the weights of the base stay where they are
    layer = layers_of(module)[1][depth - 1]
    caught: list[Tensor] = []
    handle = layer.register_forward_hook(
        lambda _layer, _args, output: caught.append(output[0] if isinstance(output, tuple) else output)
    )
    hidden_SD: Any = None
    done = 0
    try:
        with torch.inference_mode():
            for batch in by_length(tokens.lengths, batch_size, OVERHEAD_TOKENS[torch.device(device).type]):
                ids_BT, mask_BT = tokens.padded(batch, device)
                module(input_ids=ids_BT, attention_mask=mask_BT)
                values_BTD = caught.pop().float().cpu().numpy()
                if hidden_SD is None:
                    shape = (int(tokens.offsets[-1]), values_BTD.shape[-1])
                    hidden_SD = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                kept_BT = mask_BT.cpu().numpy().astype(bool)
                hidden_SD[tokens.places(batch)[kept_BT]] = values_BTD[kept_BT]
                done += len(batch)
                report(done, len(tokens))
        hidden_SD.flush()
    finally:
        handle.remove()


def pooled(
    model: Classifier, tokens: Tokens, batch_size: int, device: torch.device | str, report: Count = silent
) -> np.ndarray:
    """What the head of a classifier sees of each text, an array (M, D) in float32."""
    model.head = nn.Identity()
    model = model.to(device).eval()
    vectors_MD: Any = None
    done = 0
    with torch.no_grad():
        for batch in by_length(tokens.lengths, batch_size, OVERHEAD_TOKENS[torch.device(device).type]):
            values_BD = model([tokens.padded(batch, device)]).float().cpu().numpy()
            if vectors_MD is None:
                vectors_MD = np.empty((len(tokens), values_BD.shape[1]), dtype=np.float32)
            vectors_MD[batch] = values_BD
            done += len(batch)
            report(done, len(tokens))
    if not np.isfinite(vectors_MD).all():
        raise StepError("a hidden state is not finite; use engine.mixed_precision: no, or bf16 instead of fp16")
    return np.asarray(vectors_MD)


def read_hidden(path: Path) -> np.ndarray:
    """The hidden states (S, D) of all tokens, mapped from disk, not loaded."""
    mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
