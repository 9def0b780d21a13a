"""What one of several ranks does in test_partition.py: builds models in shares, compares them with whole ones.

Called as `partition_ranks.py CASES`, a JSON file; writes what it found to CASES.rankR. No numbers are judged here.
"""

from __future__ import annotations

import json
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2s.errors import StepError
from w2s.identity import validated
from w2s.learn import accelerator, models, partition, ranks
from w2s.learn.heads import Classifier
from w2s.learn.optimizer import make_optimizer
from w2s.models import ModelSpec
from w2s.spec import Engine, Recipe

TEXTS = [" ".join(f"w{(7 * i + j) % 40}" for j in range(3 + i % 5)) for i in range(12)]
LABELS = torch.arange(12) % 2


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.detach() - other.detach()).abs().max())


def loss_of(logits: torch.Tensor, rows: slice) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, LABELS[rows])


def shares_of(model: Classifier) -> dict[str, list[Any]]:
    """By name: numbers held here, numbers of this rank's share, shape of the whole; nothing for the head."""
    return {
        name: [p.numel(), p.ds_tensor.numel(), list(p.ds_shape)]
        for name, p in model.named_parameters()
        if hasattr(p, "ds_tensor")
    }


def carry_out(case: dict[str, Any]) -> dict[str, Any]:
    """Build, compare, train two steps, compare again; then build an ordinary model as the next step would."""
    spec, recipe = validated(ModelSpec, case["model"]), validated(Recipe, case["recipe"])
    engine = validated(Engine, case["engine"])
    alone = Engine(device="cpu", mixed_precision=engine.mixed_precision)
    made = accelerator.make(engine, recipe)
    base = models.load_base(spec, engine)
    shared = models.build(base, 2, recipe, 0, engine)
    found: dict[str, Any] = {"base has a module": base.module is not None, "shares": shares_of(shared)}
    # Made while the Accelerator is there, and the settings of the step with it.
    whole_base = models.load_base(spec, alone)
    whole = models.build(whole_base, 2, recipe, 0, alone)
    found["linear is torch's"] = torch.nn.functional.linear is torch._C._nn.linear
    found["next model is whole"] = not shares_of(whole) and whole_base.module is not None
    found["pooling"] = [base.pooling, whole_base.pooling]
    found["same weights"] = {}
    for (name, parameter), (other, expected) in zip(shared.named_parameters(), whole.named_parameters(), strict=True):
        with partition.whole(parameter):
            same = name == other and parameter.dtype == expected.dtype and torch.equal(parameter, expected)
            found["same weights"][name] = same and parameter.requires_grad == expected.requires_grad
    tokens = models.tokenise(base, TEXTS)
    optimizer = make_optimizer(shared, recipe)
    prepared, optimizer = made.prepare(shared, optimizer)
    by_hand = make_optimizer(whole, recipe)
    rows = slice(6 * ranks.rank(), 6 * ranks.rank() + 6)
    # One chunk on the first rank and two on the second, as lengths may have it.
    mine = [tokens.padded(part) for part in np.array_split(np.arange(12)[rows], ranks.rank() + 1)]
    everything = [tokens.padded(np.arange(12))]
    found["logits"] = []
    with torch.no_grad():
        untrained = whole(everything)
    for _ in range(3):
        prepared.train()
        logits, expected = prepared(mine), whole.train()(everything)
        found["logits"].append(difference(logits, expected[rows]))
        made.backward(loss_of(logits, rows))
        optimizer.step()
        optimizer.zero_grad()
        by_hand.zero_grad()
        loss_of(expected, slice(0, 12)).backward()
        by_hand.step()
    prepared.eval()
    with torch.no_grad():
        trained = whole.eval()(everything)
        found["logits"].append(difference(prepared(mine), trained[rows]))
        found["moved"] = difference(trained, untrained)
    state = partition.trained_state(made.unwrap_model(prepared))
    by_name = {name: p for name, p in whole.named_parameters() if p.requires_grad}
    found["state"] = {name: [list(value.shape), difference(value, by_name[name])] for name, value in state.items()}
    found["trained"] = {name: list(p.shape) for name, p in by_name.items()}
    found["held between steps"] = sum(values[0] for values in shares_of(made.unwrap_model(prepared)).values())
    return found


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def peak_of_building(case: dict[str, Any]) -> dict[str, Any]:
    """Memory of this process that is no file's, at most while the model was built, above what it was before."""
    spec, recipe = validated(ModelSpec, case["model"]), validated(Recipe, case["recipe"])
    engine = validated(Engine, case["engine"])
    accelerator.make(engine, recipe)
    base = models.load_base(spec, engine)
    before = peak = anonymous_mib()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = models.build(base, 2, recipe, 0, engine)
    done.set()
    watcher.join()
    return {"peak_mib": peak - before, "parameters": sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())}


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of DeepSpeed's calls of torch
    file, results = Path(sys.argv[1]), []
    ranks.join()
    for case in json.loads(file.read_text()):
        try:
            results.append(peak_of_building(case) if case.get("measure") else carry_out(case))
        except StepError as error:
            results.append({"error": str(error)})
    file.with_name(f"{file.name}.rank{ranks.rank()}").write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
