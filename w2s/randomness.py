"""A seed and names in, the seed of an independent random stream out; there is no global stream."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from w2s.identity import sha256_of


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` of `seed`: streams of different names are independent.

    Hashing, not arithmetic: `seed + epoch` would give seed 0, epoch 1 and seed 1, epoch 0 the same order.
    """
    return int(sha256_of([seed, *names])[:16], 16) >> 1


def shuffled(names: Sequence[str], seed: int, *stream: str | int) -> list[int]:
    """Positions of the names in an order drawn at random, which for any two of them depends on nothing but these two.

    So a draw does not depend on the order of a file, and a larger share holds every smaller one.
    """
    key = f"{stream_seed(seed, *stream)}/".encode()
    hashes = [hashlib.sha256(key + name.encode("utf-8", "surrogatepass")).digest() for name in names]
    return sorted(range(len(names)), key=hashes.__getitem__)
