"""Token lists in, batches of little padding out; their order depends on the seed alone, not on devices.

An example is one text, or k texts that are compared; what pads, cuts and caches sees only texts.

Shapes: N examples, M = N k texts, B examples or texts of one batch, T tokens, S tokens of all texts, D hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from w2s.randomness import stream_seed


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts, end to end: text i is `ids[offsets[i]:offsets[i + 1]]`. `truncated` counts texts that were cut.

    Every `per_example` texts in a row are those of one example.
    `hidden_SD` holds the hidden states of the same tokens where the lowest layers are replayed from disk.
    """

    ids_S: np.ndarray
    offsets: np.ndarray
    pad_id: int
    truncated: int = 0
    hidden_SD: np.ndarray | None = None
    per_example: int = 1
    hidden_S: np.ndarray | None = None  # each token's place in hidden_SD, where that is another one
    target_M: np.ndarray | None = None  # of each text, how many of its last tokens are to be generated

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], pad_id: int, truncated: int = 0, per_example: int = 1) -> Tokens:
        """From one list of token ids per text."""
        assert len(ids) % per_example == 0
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        ids_S = np.fromiter(itertools.chain.from_iterable(ids), np.int64, offsets[-1])
        return cls(ids_S, offsets, pad_id, truncated, per_example=per_example)

    def __len__(self) -> int:
        """Texts."""
        return len(self.offsets) - 1

    @property
    def examples(self) -> int:
        """Examples, of `per_example` texts each."""
        return len(self) // self.per_example

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text (M,)."""
        return np.diff(self.offsets)

    @property
    def example_lengths(self) -> np.ndarray:
        """Tokens per example (N,), of all its texts."""
        return np.asarray(np.diff(self.offsets[:: self.per_example]))

    def texts_of(self, examples_B: np.ndarray) -> np.ndarray:
        """The texts (B k,) of these examples, in their order."""
        return np.asarray((examples_B[:, None] * self.per_example + np.arange(self.per_example)).ravel())

    def some(self, examples_K: np.ndarray) -> Tokens:
        """These examples alone, in this order; hidden states stay where they are."""
        if np.array_equal(examples_K, np.arange(self.examples)):
            return self
        texts = self.texts_of(examples_K)
        spans = [np.arange(self.offsets[text], self.offsets[text + 1]) for text in texts]
        source_S = np.concatenate(spans) if spans else np.empty(0, dtype=np.int64)
        offsets = np.cumsum([0, *map(len, spans)], dtype=np.int64)
        hidden_S = source_S if self.hidden_S is None else self.hidden_S[source_S]
        target_M = None if self.target_M is None else self.target_M[texts]
        return replace(self, ids_S=self.ids_S[source_S], offsets=offsets, hidden_S=hidden_S, target_M=target_M)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where each token of `rows` stands in `ids_S` (B, T); past the end of a text, its last token's place."""
        starts, ends = self.offsets[rows, None], self.offsets[rows + 1, None]
        width = int((ends - starts).max())
        return np.asarray(np.minimum(starts + np.arange(width), ends - 1))

    def padded(self, rows: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """(input_ids, attention_mask), both (B, T) int64, padded on the right to the longest of `rows`.

        Where hidden states are replayed they come third, (B, T, D), zero on padding. Where the last tokens of texts are
        to be generated, which these are comes third, (B, T).
        """
        places_BT = self.places(rows)
        mask_BT = np.arange(places_BT.shape[1]) < self.lengths[rows, None]
        ids_BT = np.where(mask_BT, self.ids_S[places_BT], self.pad_id)
        arrays = [ids_BT, mask_BT.astype(np.int64)]
        if self.hidden_SD is not None:
            hidden_BT = places_BT if self.hidden_S is None else self.hidden_S[places_BT]
            arrays.append(self.hidden_SD[hidden_BT] * mask_BT[:, :, None].astype(np.float32))
        if self.target_M is not None:
            first_B1 = (self.lengths[rows] - self.target_M[rows])[:, None]
            arrays.append(mask_BT & (np.arange(mask_BT.shape[1]) >= first_B1))
        return tuple(torch.from_numpy(array).to(device) for array in arrays)


def epoch_batches(examples: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Row indices of each batch of one epoch, every row once, in random order; the last batch may be short.

    Batches are plain random draws. Drawing them from rows of similar length would save padding, but length may go with
    the label, and then a loss that looks at the whole batch (the confidence loss holds it to the prior of the classes)
    would be wrong on every batch. Padding is saved inside a batch instead: see `length_chunks`.
    """
    order_N = np.random.default_rng(stream_seed(seed, "order", epoch)).permutation(examples)
    return [order_N[i : i + batch_size] for i in range(0, examples, batch_size)]


def cut(lengths_G: np.ndarray, ranks: int, micro_batch_size: int | None) -> list[list[np.ndarray]]:
    """Positions in a global batch of G examples by rank and micro-batch; every position once.

    Every rank has the same number of micro-batches, each of at most `micro_batch_size` (None: the rank's whole share),
    though in a short batch the last ones may be empty. Examples are dealt by length, so that ranks have equal work and
    micro-batches little padding; one process with the whole batch at once keeps its order.
    """
    whole = ranks == 1 and (micro_batch_size is None or micro_batch_size >= len(lengths_G))
    order_G = np.arange(len(lengths_G)) if whole else np.argsort(-lengths_G, kind="stable")
    shares = [order_G[rank::ranks] for rank in range(ranks)]
    size = micro_batch_size or len(shares[0])
    return [[share[i : i + size] for i in range(0, len(shares[0]), size)] for share in shares]


# What one more chunk costs beyond its tokens, counted in tokens: weights are read, and their gradients written and
# added up, once per chunk. Measured on one CPU thread: 24 to 29 (MiniLM in training and prediction, SmolLM2 in
# training; see benchmarks/RESULTS.md). Reckoned with these, 20 takes 0.2 % longer than the best, and keeps padding
# below a tenth of the tokens of short texts. Reckoned, not measured, for CUDA: 30 layers of 60 kernels cost 9 ms per
# chunk where a launch takes 5 microseconds, in which a GPU at 50 TFLOP/s trains 700 tokens of SmolLM2; and for models
# so large that launches do not count, products of fewer than some 300 tokens wait for the weights.
OVERHEAD_TOKENS = {"cpu": 20, "cuda": 1024}


def length_chunks(lengths_B: np.ndarray, overhead_tokens: int) -> list[np.ndarray]:
    """Positions in a micro-batch, shortest texts first, in chunks that are padded together.

    A chunk goes through the model by itself, and the logits are put back in order: less padding, the same numbers. No
    other chunks of the sorted texts have a smaller sum of padded tokens and `overhead_tokens` per chunk
    (`OVERHEAD_TOKENS[device.type]`). Where one chunk holds all the order stays as it is.
    """
    order_B = np.argsort(lengths_B, kind="stable")
    bounds = _cheapest_bounds(lengths_B[order_B], overhead_tokens, len(order_B))
    if len(bounds) == 2:
        return [np.arange(len(lengths_B))]
    return [order_B[start:end] for start, end in itertools.pairwise(bounds)]


def by_length(lengths_N: np.ndarray, batch_size: int, overhead_tokens: int) -> list[np.ndarray]:
    """Batches for prediction, each of texts of similar length and of at most `batch_size` of them.

    Cut like the chunks of `length_chunks`. The batch of most padded tokens comes first, so that one that does not fit
    into memory fails at once and not at the end.
    """
    order_N = np.argsort(lengths_N, kind="stable")
    bounds = _cheapest_bounds(lengths_N[order_N], overhead_tokens, batch_size)
    batches = [order_N[start:end] for start, end in itertools.pairwise(bounds)]
    return sorted(batches, key=lambda batch: -len(batch) * int(lengths_N[batch[-1]]))


def _cheapest_bounds(sorted_N: np.ndarray, overhead_tokens: int, rows: int) -> list[int]:
    """Bounds [0, ..., N] of parts of at most `rows` texts, sorted shortest first, of the least cost.

    Texts of one length stay together, but for every `rows` of them. By dynamic programming over those groups: the
    cheapest parts of the texts so far end in a part that begins at one of the groups. Equal costs: the longer part.
    """
    changes = np.flatnonzero(np.diff(sorted_N, prepend=-1))
    starts_K = np.concatenate([np.arange(a, b, rows) for a, b in itertools.pairwise([*changes, len(sorted_N)])])
    ends_K = np.append(starts_K[1:], len(sorted_N))
    widths_K = sorted_N[starts_K]
    first_K = np.searchsorted(starts_K, ends_K - rows)  # the earliest group that may begin a part that ends here
    least = np.zeros(len(starts_K) + 1, dtype=np.int64)  # cost of the texts before each group
    begins = np.zeros(len(starts_K), dtype=np.int64)
    for group, (end, width, first) in enumerate(zip(ends_K, widths_K, first_K, strict=True)):
        costs = least[first : group + 1] - width * starts_K[first : group + 1]
        cheapest = int(costs.argmin())
        begins[group] = first + cheapest
        least[group + 1] = costs[cheapest] + width * end + overhead_tokens
    bounds, group = [len(sorted_N)], len(starts_K)
    while group > 0:
        group = int(begins[group - 1])
        bounds.append(int(starts_K[group]))
    return bounds[::-1]
