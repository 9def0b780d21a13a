"""What the processes of one step tell each other; alone, a process talks to nobody and nothing is set up.

Values travel as text and tensors, never pickled. Every function here is called by all ranks in the same order.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch import distributed as dist


def rank() -> int:
    """The number of this process in its step, from 0."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """Processes of a step, as launched."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the process that claims, writes and commits."""
    return rank() == 0


def join() -> None:
    """Set up talking, once per process, where this process was launched as part of a group."""
    if "RANK" not in os.environ or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")


def share(text: str | None) -> str:
    """Rank 0's text, on every rank; the others give None."""
    if size() == 1:
        assert text is not None
        return text
    join()
    data = torch.tensor(list((text or "").encode()), dtype=torch.uint8)
    length = torch.tensor([len(data)])
    dist.broadcast(length, 0)
    if not is_main():
        data = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return bytes(data.tolist()).decode()


def total(values: Tensor) -> Tensor:
    """The sum over ranks, in place where there are several; the tensor lies on the CPU."""
    if size() > 1:
        dist.all_reduce(values)
    return values


def least(value: int) -> int:
    """The smallest of all ranks' values."""
    found = torch.tensor(value)
    if size() > 1:
        dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def wait() -> None:
    """Go on when every rank is here."""
    if size() > 1:
        dist.barrier()
