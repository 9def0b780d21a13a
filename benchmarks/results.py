"""Rows of 100,000 trained models of 1,000 test predictions each: read for the first time, again, and with 100 new ones.

Whole processes, medians, peak memory; no intervals. The store is made up: 256 different files of predictions, to which
the artifacts are hard links (so they are read from memory, as a disk that was just written would have them), a manifest
of the usual size each, and for each supervisor a file for transfer. Fetches nothing. Needs some 2 GiB and 500,000 names
in the temporary folder ($TMPDIR), which it removes.

Run: python benchmarks/results.py [ARTIFACTS [RUNS]]   about 10 minutes on two CPU cores with the defaults
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from w2s import plan as plans
from w2s.disk import file_sha256
from w2s.experiments import expand
from w2s.outputs import write_predictions
from w2s.plan import Node, Plan
from w2s.provenance import environment
from w2s.spec import TrainSpec, Weak
from w2s.store import Store
from w2s.sweep import sweep_of

HERE = Path(__file__).resolve()
PER_SEED = 28  # train steps: 10 pairs of 5 models by 2 methods, 4 supervisors, 4 ceilings
EXAMPLES = 1_000
DIFFERENT = 256  # files of predictions
ADDED = 100
NAME = "big"


def planned(artifacts: int) -> Plan:
    """The plan of a sweep of so many train steps, or a few more."""
    data = {
        "name": NAME,
        "tasks": ["movie"],
        "sizes": {"weak_train": EXAMPLES, "transfer": EXAMPLES, "val": 4, "test": EXAMPLES},
        "models": [f"minilm@{layers}" for layers in range(2, 7)],
        "methods": ["xent", "logconf"],
        "seeds": list(range(-(-artifacts // PER_SEED))),
    }
    sweep = sweep_of(data, Path())
    return plans.build(sweep, expand(sweep))


def fill(plan: Plan, results: Path) -> None:
    """Every step finished, its files hashed once for all that are the same file; nothing is synced."""
    store = Store(results / "store")
    plans.write(plan, results / "sweeps" / plan.name)
    ids = {s: [hashlib.sha256(f"{s} {i}".encode()).hexdigest() for i in range(EXAMPLES)] for s in ("test", "transfer")}
    made = [_predictions(results / "made" / str(place), place, ids) for place in range(DIFFERENT)]
    for place, node in enumerate(plan.nodes.values()):
        if node.kind == "materialize":
            _truth(store, node, ids)
        elif node.kind == "train":
            _train(store, node, made[place % DIFFERENT])


def supervises(node: Node) -> bool:
    """True of what may be a weak model: only a supervisor's predictions for transfer are read."""
    return isinstance(node.spec, TrainSpec) and not isinstance(node.spec.labels, Weak)


def _predictions(folder: Path, place: int, ids: dict[str, list[str]]) -> dict[str, tuple[Path, str]]:
    """One model's files and their hashes, as the program itself writes them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(place)
    right_N = rng.random(EXAMPLES) < 0.6 + 0.3 * rng.random()
    y_N = np.arange(EXAMPLES) % 2
    logits_NC = rng.normal(0, 1, (EXAMPLES, 2)).astype(np.float32)
    logits_NC[np.arange(EXAMPLES), np.where(right_N, y_N, 1 - y_N)] += 1.5
    write_predictions(folder, ids, dict.fromkeys(ids, logits_NC))
    files = {f"predictions/{split}.parquet": folder / "predictions" / f"{split}.parquet" for split in ids}
    return {name: (file, file_sha256(file)) for name, file in files.items()}


def _truth(store: Store, node: Node, ids: dict[str, list[str]]) -> None:
    place = store.path(node.kind, node.digest)
    place.mkdir(parents=True)
    files = {}
    for split, own in ids.items():
        table = {"example_id": own, "text": ["a snippet of a review"] * len(own), "label": np.arange(len(own)) % 2}
        pyarrow.parquet.write_table(pyarrow.table(table), place / f"{split}.parquet")
        files[f"{split}.parquet"] = file_sha256(place / f"{split}.parquet")
    _manifest(place, node, files)


def _train(store: Store, node: Node, made: dict[str, tuple[Path, str]]) -> None:
    place = store.path(node.kind, node.digest)
    (place / "predictions").mkdir(parents=True)
    others = ("predictions/val.parquet", "history.jsonl", "metrics.json", "log.txt")
    for name, (file, _) in made.items():
        if supervises(node) or "transfer" not in name:
            os.link(file, place / name)
    _manifest(place, node, {**{name: sha for name, (_, sha) in made.items()}, **dict.fromkeys(others, "0" * 64)})


def _manifest(place: Path, node: Node, files: dict[str, str]) -> None:
    fetched = [{"source": {"package": "all-minilm-l6-v2"}, "commit": "0" * 40}]
    manifest: dict[str, Any] = {"kind": node.kind, "digest": node.digest, "spec": node.spec.model_dump(mode="json")}
    manifest |= {"parents": node.parents, **_environment(), "started": 0.0, "wall_s": 12.0, "tokens": 1000}
    manifest |= {"flops": 1e9, "phases": {"load": 1.0, "train": 8.0, "predict": 3.0}, "fetched": fetched}
    (place / "manifest.json").write_text(json.dumps({**manifest, "files": files}, indent=1), encoding="utf-8")


def _environment(known: dict[str, Any] = {}) -> dict[str, Any]:  # noqa: B006  # asked once: git is a process
    if not known:
        known.update(environment())
    return known


def replace(plan: Plan, results: Path, count: int) -> None:
    """As if so many artifacts were made anew: the time of change of what they consist of is another."""
    store = Store(results / "store")
    train = [node for node in plan.nodes.values() if isinstance(node.spec, TrainSpec) and not supervises(node)]
    for node in train[:: max(1, len(train) // count)][:count]:
        os.utime(store.path(node.kind, node.digest) / "manifest.json")


def load(results: Path) -> None:
    """What a process that wants rows does; prints how many predictions it had to read."""
    from w2s.analyze.reading import rows

    seen = [(0, 0)]
    began = time.perf_counter()
    found = rows.load(NAME, results, lambda *counts: seen.append(counts))
    taken = time.perf_counter() - began
    assert not found.problems, found.problems[:3]
    assert not found.frame["pgr_reason"].str.contains("missing").any()
    print(json.dumps({"rows": len(found.frame), "read": seen[-1][0], "load_s": taken, "progress": len(seen) - 1}))


def child(words: list[str]) -> tuple[float, float, float, str]:
    """(seconds, CPU seconds of it and its own processes, peak MiB, what it prints). SystemExit if it fails."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(HERE), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{printed[-2000:]}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed


def main(artifacts: int, runs: int) -> None:
    """Print a row per case."""
    with tempfile.TemporaryDirectory() as made:
        results = Path(made) / "results"
        child(["fill", str(artifacts), str(results)])
        for what in ("for the first time", "again", f"{ADDED} of them made anew"):
            found: list[list[float]] = []
            printed = ""
            for _ in range(runs):
                if what == "for the first time":
                    shutil.rmtree(results / "scores", ignore_errors=True)
                elif what != "again":
                    child(["replace", str(artifacts), str(results)])
                *numbers, printed = child(["load", str(artifacts), str(results)])
                found.append(numbers)
            taken, cpu, peaks = zip(*found, strict=True)
            told = json.loads(printed)
            print(
                f"{what:25} median {statistics.median(taken):6.2f} s, min {min(taken):.2f}, max {max(taken):.2f}, "
                f"CPU {statistics.median(cpu):.1f} s, peak {max(peaks):4.0f} MiB ({runs} runs); "
                f"{told['rows']} rows, {told['read']} predictions read",
                flush=True,
            )
        kept = sum(file.stat().st_size for file in (results / "scores").iterdir())
        print(f"scores that are kept: {kept / 2**20:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].isdecimal():  # a process of its own, so that this one's memory stays small
        task, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
        if task == "load":
            load(folder)
        elif task == "fill":
            fill(planned(number), folder)
        else:
            replace(planned(number), folder, ADDED)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
