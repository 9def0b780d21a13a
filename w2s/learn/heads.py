"""Pooling and the linear head: hidden states of a base model in, class logits out.

Shapes: B examples, T tokens, D hidden size, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn


def pool(hidden_BTD: Tensor, mask_BT: Tensor, how: Literal["last", "mean"]) -> Tensor:
    """One vector per example (B, D) in float32: the last non-padding token's, or the mean over non-padding tokens.

    Works for padding on either side. Examples have at least one token.
    """
    if how == "last":
        positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        last_B = (mask_BT * positions_T).argmax(dim=1)
        return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), last_B].float()
    weight_BT1 = mask_BT.unsqueeze(-1).float()
    return (hidden_BTD.float() * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1)


class Classifier(nn.Module):
    """A base model without its language-model head, pooling, and a linear head in float32.

    `precision` is that of the base model's matrix products (None: float32), by autocast: its weights stay as they are.
    """

    def __init__(
        self,
        base: nn.Module,
        hidden_size: int,
        classes: int,
        pooling: Literal["last", "mean"],
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.pooling = pooling
        self.precision = precision
        self.in_shares = False  # True where the base model's weights are gathered from all ranks as it runs
        self.head: Any = nn.Linear(hidden_size, classes, bias=False)
        self.replay: list[Any] = []  # a list, so that torch does not count the stand-in among the model's own layers

    def forward(self, chunks: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Logits (B, C) in float32 of the examples of all chunks, in their order.

        A chunk is what `Tokens.padded` returns: token ids (b, T), their mask, and where the lowest layers are replayed
        the hidden states (b, T, D) that they answer with. One call per micro-batch, however it is cut: DDP and
        DeepSpeed count forward and backward calls.
        """
        device = chunks[0][0].device.type
        if self.in_shares:  # every rank must run the base model as often as the others, whose chunks may be fewer
            chunks = [joined(chunks)]
        low = self.precision is not None
        # A rounded weight is kept from chunk to chunk; where weights lie in shares, it would lie whole on every rank.
        with torch.autocast(device, dtype=self.precision, enabled=low, cache_enabled=not self.in_shares):
            pooled = [self._pooled(*chunk) for chunk in chunks]
        with torch.autocast(device, enabled=False):
            logits_BC: Tensor = self.head(torch.cat(pooled))
        return logits_BC

    def _pooled(self, ids_BT: Tensor, mask_BT: Tensor, hidden_BTD: Tensor | None = None) -> Tensor:
        for stand_in in self.replay:
            stand_in.hidden_BTD = hidden_BTD
        hidden_BTD = self.base(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        with torch.autocast(ids_BT.device.type, enabled=False):
            return pool(hidden_BTD, mask_BT, self.pooling)


def joined(chunks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """One chunk of all examples in their order, padded to the longest; what is padding stays masked."""
    width = max(chunk[0].shape[1] for chunk in chunks)

    def wide(values: Tensor) -> Tensor:  # (b, T) or (b, T, D)
        behind = (0, width - values.shape[1])
        return nn.functional.pad(values, behind if values.ndim == 2 else (0, 0, *behind))

    return tuple(torch.cat([wide(values) for values in part]) for part in zip(*chunks, strict=True))


def init_head(head: nn.Linear, how: Literal["zeros", "normal"], generator: torch.Generator) -> None:
    """Set the head's weights: zeros, or a normal of standard deviation 1/sqrt(D) drawn from `generator`."""
    with torch.no_grad():
        if how == "zeros":
            head.weight.zero_()
        else:
            head.weight.normal_(0.0, head.in_features**-0.5, generator=generator)
