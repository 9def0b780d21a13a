"""The fake steps for a group of ranks: real processes that really talk; the script says what which rank does.

'rank1=raise:no luck|rank0=...' are actions of `fake_steps` or of this module, 'all=...' is every rank's.
"""

from __future__ import annotations

import json
import os
import signal

import fake_steps  # type: ignore[import-not-found]
import torch
import torch.distributed as dist

from w2s.stopping import Stopped

DECISIONS = ("done", "reused", "busy")


def run_step(spec, store, report, stopping):
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    rank, digest, folder = dist.get_rank(), spec.digest(), store.root.parent
    claim = None
    if rank == 0 and not store.has(spec.kind, digest):
        claim = store.claim(digest)
    taken = 0 if claim is not None else 1 if rank == 0 and store.has(spec.kind, digest) else 2
    decision = DECISIONS[int(shared(float(taken), dist.ReduceOp.MIN))]
    if decision != "done":
        return decision
    try:
        report("work", rank, 2)
        print(f"rank {rank} at work")
        number = spec.split_seed
        fake_steps._publish(folder / f"pid-{number}-{rank}", str(os.getpid()))
        if rank == 0:
            fake_steps._publish(folder / f"launcher-{number}", str(os.getppid()))
        dist.barrier()
        for part in json.loads((folder / "script.json").read_text()).get(str(number), "").split("|"):
            who, _, action = part.partition("=")
            if who in ("all", f"rank{rank}"):
                act(action, folder, stopping, rank)
        total = shared(rank + 1.0, dist.ReduceOp.SUM)  # who waits here for a rank that is gone waits for ever
        pids = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
        dist.all_gather(pids, torch.tensor([os.getpid()]))
        if rank == 0:
            made = {"pids": [int(pid) for pid in pids], "sum": total, "threads": torch.get_num_threads()}
            with store.staging(spec.kind, digest) as staged:
                (staged.folder / "made.json").write_text(json.dumps(made))
                (staged.folder / "log.txt").write_bytes(store.log_path(digest).read_bytes())
                staged.commit({"spec": spec.model_dump(mode="json")})
            store.clear_work(spec.kind, digest)
    finally:
        if claim is not None:
            claim.release()
    return "done"


def shared(value: float, how: dist.ReduceOp) -> float:
    """A number of every rank, reduced over all."""
    tensor = torch.tensor([value])
    dist.all_reduce(tensor, how)
    return float(tensor)


def act(action, folder, stopping, rank):
    name, _, argument = action.partition(":")
    if name == "train":
        do_train(folder, stopping, rank)
    elif name == "signal_launcher":
        os.kill(os.getppid(), getattr(signal, argument))
    else:
        fake_steps.act(action, folder, stopping)


def do_train(folder, stopping, rank):
    """Optimizer steps until one rank knows of a wish to stop; then all save at the same step."""
    steps = 0
    with stopping.at_own_time():
        while not shared(float(stopping.asked), dist.ReduceOp.MAX):
            steps += 1
            fake_steps._publish(folder / f"trains-{rank}", "yes")
        fake_steps._publish(folder / f"saved-{rank}", str(steps))
        dist.barrier()
        raise Stopped  # also where the wish has not come to this rank
