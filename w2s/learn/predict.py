"""A classifier and tokenised texts in, logits out, in the order of the examples; the ranks of a step share the work.

Shapes: N examples, M texts (more than N where an example is several that are compared), B texts of a batch, C outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from w2s.errors import StepError
from w2s.learn import ranks
from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, by_length
from w2s.progress import Count, silent


def predict(
    model: nn.Module,
    tokens: Tokens,
    batch_size: int,
    device: torch.device | str,
    report: Count = silent,
) -> np.ndarray:
    """Logits (N, C) in float32, on every rank. `report` hears (examples done, of how many).

    Of examples of k texts the logits (N, k) are the scores of its texts. `batch_size` counts texts.
    Raises StepError for one that is not finite.
    """
    model.eval()
    logits_MC: np.ndarray | None = None
    done = 0
    batches = by_length(tokens.lengths, batch_size, OVERHEAD_TOKENS[torch.device(device).type])
    # Not inference_mode: ZeRO 3 writes to weights that it gathers during the forward pass.
    with torch.no_grad():
        for start in range(0, len(batches), ranks.size()):
            turn = batches[start : start + ranks.size()]
            # Under ZeRO 3 every rank takes part in every forward pass; one without a batch of its own does the first.
            own = turn[ranks.rank()] if ranks.rank() < len(turn) else None
            batch = turn[0] if own is None else own
            values_BC = model([tokens.padded(batch, device)]).float().cpu().numpy()
            if logits_MC is None:
                logits_MC = np.zeros((len(tokens), values_BC.shape[1]), dtype=np.float32)
            if own is not None:
                logits_MC[own] = values_BC
            done += sum(map(len, turn))
            report(done // tokens.per_example, tokens.examples)
    assert logits_MC is not None
    ranks.total(torch.from_numpy(logits_MC))  # every row was made by one rank and is zero on the others
    logits_NC = logits_MC.reshape(tokens.examples, -1)
    broken = int((~np.isfinite(logits_NC)).any(axis=1).sum())
    if broken:  # the last update may be the one that broke the weights, and argmax of NaN would still be a class
        raise StepError(
            f"the logits of {broken} of {tokens.examples} examples are not finite: the training diverged; "
            "lower recipe.lr"
        )
    return logits_NC
