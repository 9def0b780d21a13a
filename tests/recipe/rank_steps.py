"""One rank of a group: carries out the jobs of a file, as a worker would, and says what became of each.

A job is {"spec", "store"}; "die_at": a rank ("die_rank") is killed after so many optimizer steps; "stop_at": rank
"stop_rank" is asked to stop then; "endless_at": the gradient of that step is infinite, though its loss is not.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from w2s import steps
from w2s.errors import W2SError
from w2s.execute.worker import KINDS
from w2s.identity import validated
from w2s.stopping import Stopped, Stopping
from w2s.store import Store

RANK = int(os.environ.get("RANK", "0"))


class Endless(torch.autograd.Function):
    """The value as it is; its gradient infinite."""

    @staticmethod
    def forward(_: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


def carry_out(job: dict[str, Any]) -> str:
    stopping = Stopping()
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == job.get("die_at") and job.get("die_rank", 0) == RANK:
            os.kill(os.getpid(), signal.SIGKILL)
        if done == job.get("stop_at") and job.get("stop_rank", 0) == RANK:
            stopping.ask()

    from w2s.learn import losses, trainer

    real, real_loss = trainer._Training._evaluate, losses.loss_sum

    def after_each_step(self: Any, last: bool) -> None:  # every rank comes by here once per optimizer step
        real(self, last)
        count()

    def loss(*given: Any) -> Any:
        value = real_loss(*given)
        return Endless.apply(value) if done + 1 == job.get("endless_at") else value

    trainer._Training._evaluate = after_each_step  # type: ignore[method-assign]
    losses.loss_sum = loss  # type: ignore[assignment]
    try:
        return steps.run_step(
            validated(KINDS[job["spec"]["kind"]], job["spec"]), Store(Path(job["store"])), stopping=stopping
        )
    except Stopped:
        return "stopped"
    except W2SError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        trainer._Training._evaluate = real  # type: ignore[method-assign]
        losses.loss_sum = real_loss


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    outcomes = [carry_out(job) for job in jobs]
    gc.collect()
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in gc.get_objects() if _is_tensor(t))}
    said = {"outcomes": outcomes, "tensor_bytes": sum(storages.values())}
    Path(f"{sys.argv[1]}.rank{RANK}").write_text(json.dumps(said))


def _is_tensor(candidate: Any) -> bool:
    return isinstance(candidate, torch.Tensor) and candidate.layout == torch.strided


if __name__ == "__main__":
    main()
