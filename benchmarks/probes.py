"""How long 1,000 probe trainings take: steps of a store, from cached features to a committed artifact, on two cores.

Features are drawn (n = 2,000 and d = 576 as of SmolLM2, variances falling off as those of hidden states do), labels are
soft, l2 is chosen on 200 labels of val for each training anew. Every training has labels of its own.
Run: python benchmarks/probes.py [TRAININGS] [WORKERS]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from w2s import outputs, steps
from w2s.models import ModelSpec
from w2s.solving import POOLED
from w2s.sources.spec import HubSource
from w2s.spec import LabelsSpec, Made, MaterializeSpec, Probe, Recipe, Sizes, TrainSpec
from w2s.store import Store
from w2s.supervision import MixTruth, TruthLabels
from w2s.tasks.registry import task_of

SIZES = Sizes(weak_train=100, transfer=2000, val=200, test=600)
D = 576
MODEL = ModelSpec(name="drawn", source=HubSource(hub="drawn/features"), layers=1)


def step_of(data: str, number: int) -> tuple[LabelsSpec, TrainSpec]:
    """A labels step, and the probe that learns from it."""
    labels = LabelsSpec(data=data, source=TruthLabels(), transforms=(MixTruth(share=0.0),), seed=number)
    recipe = Recipe(tune=Probe(solver="logistic"))
    return labels, TrainSpec(
        data=data, split="transfer", model=MODEL, recipe=recipe, labels=Made(labels=labels.digest())
    )


def prepare(folder: Path, trainings: int) -> tuple[Store, str]:
    """A store with data, features and labels."""
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(2900)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of({"name": "drawn", "file": "task.jsonl", "text": "text", "label": "label"}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    store = Store(folder / "store")
    steps.run_step(data, store)
    rng = np.random.default_rng(0)
    axes_DD = np.linalg.qr(rng.normal(size=(D, D)))[0]
    directions = {n: rng.normal(size=D) for n in range(trainings)}
    x = {}
    first = step_of(data.digest(), 0)[1]
    for split, spec in first.features().items():
        x[split] = (rng.normal(size=(getattr(SIZES, split), D)) * np.geomspace(3.0, 0.01, D)) @ axes_DD
        with store.staging("features", spec.digest()) as staged:
            np.save(staged.folder / POOLED, x[split].astype(np.float32))
            staged.commit({"spec": spec.model_dump(mode="json"), "parents": list(spec.parents)})
    ids = {s: store.read_table("materialize", data.digest(), f"{s}.parquet")["example_id"].to_pylist() for s in x}
    for number, direction in directions.items():
        labels = step_of(data.digest(), number)[0]
        with store.staging("labels", labels.digest()) as staged:
            for split in ("transfer", "val"):
                z_N = x[split] / x[split].std(axis=0) @ direction / np.sqrt(D) * 3.0 + rng.normal(size=len(x[split]))
                p_N = 1.0 / (1.0 + np.exp(-z_N))
                p_NC = np.stack([1.0 - p_N, p_N], axis=1)
                outputs.write_labels(staged.folder / f"{split}.parquet", ids[split], p_NC, ["drawn"] * len(p_N))
            staged.commit({"spec": labels.model_dump(mode="json"), "parents": list(labels.parents)})
    return store, data.digest()


def work(root: Path, data: str, numbers: range) -> None:
    """Train some of the probes."""
    store = Store(root)
    for number in numbers:
        assert steps.run_step(step_of(data, number)[1], store) == "done"


def main(trainings: int, workers: int) -> None:
    """Print the time of all trainings."""
    # A process per core, as w2s itself has it; read by processes that begin after this.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    with tempfile.TemporaryDirectory() as folder:
        store, data = prepare(Path(folder), trainings)
        spawn = multiprocessing.get_context("spawn")
        started = time.perf_counter()
        parts = [range(worker, trainings, workers) for worker in range(workers)]
        processes = [spawn.Process(target=work, args=(store.root, data, part)) for part in parts]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        wall_s, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = used.ru_utime + used.ru_stime  # what the wall time comes to where nobody else needs the cores
        assert all(process.exitcode == 0 for process in processes)
        manifests = [store.manifest("train", step_of(data, number)[1].digest()) for number in range(trainings)]
        solve_s = [m["phases"]["train"] for m in manifests if m is not None]
        step_s = [m["wall_s"] for m in manifests if m is not None]
        print(f"{trainings} probes (n = {SIZES.transfer}, d = {D}) by {workers} processes: {wall_s:.1f} s")
        print(f"{cpu_s:.1f} CPU seconds, which is {cpu_s / workers:.1f} s on as many cores of their own")
        print(f"medians: a step {np.median(step_s):.3f} s, of which the solver {np.median(solve_s):.3f} s")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(given[0] if given else 1000, given[1] if len(given) > 1 else 2)
