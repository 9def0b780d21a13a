"""How far settings of the engine move numbers: the same cell under each, compared with one process in float32.

    python benchmarks/rounding.py            every setting, on MiniLM with 2 and 6 layers and the movie snippets
    python benchmarks/rounding.py zero_stage settings whose names hold the word

Prints, for the student: the largest difference of the loss of a step, of a test logit and of a trained weight, and how
many of the test predictions changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from w2s.store import Store

CELL = ["run", "--task", "movie", "--weak", "minilm@2", "--strong", "minilm@6", "--method", "logconf", "--name", "cell"]
CELL += ["--weak-train", "200", "--transfer", "330", "--test", "500", "--keep-weights", "--set", "recipe.lr=1e-4"]
CELL += ["--set", "engine.threads=1"]  # sums of floats differ between numbers of threads, too
TWO = ["--processes", "2"]
BF16 = ["--mixed-precision", "bf16"]
SETTINGS = {
    "once more": [],
    "threads: 2": ["--set", "engine.threads=2", "--workers", "1"],
    "micro_batch_size: 4": ["--micro-batch-size", "4"],
    "predict_batch_size: 7": ["--set", "engine.predict_batch_size=7"],
    "gradient_checkpointing": ["--gradient-checkpointing"],
    "compile": ["--compile"],
    "processes: 2": TWO,
    "processes: 2, micro_batch_size: 4": [*TWO, "--micro-batch-size", "4"],
    **{f"processes: 2, zero_stage: {stage}": [*TWO, "--zero-stage", str(stage)] for stage in (0, 1, 2, 3)},
    "zero_stage: 2, offload: optimizer": [*TWO, "--zero-stage", "2", "--offload", "optimizer"],
    "zero_stage: 3, offload: parameters": [*TWO, "--zero-stage", "3", "--offload", "parameters"],
    "mixed_precision: bf16 (identity)": BF16,
}
UNDER_BF16 = {  # compared with one process in bf16
    "bf16, micro_batch_size: 4": [*BF16, "--micro-batch-size", "4"],
    "bf16, processes: 2": [*BF16, *TWO],
    "bf16, processes: 2, zero_stage: 3": [*BF16, *TWO, "--zero-stage", "3"],
}


class Student(NamedTuple):
    losses: np.ndarray
    logits_NC: np.ndarray
    weights: dict[str, np.ndarray]


def trained(folder: Path, words: list[str]) -> Student:
    """The student of the cell under these settings."""
    command = [sys.executable, "-m", "w2s", *CELL, *words, "--results", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    store = Store(folder / "store")
    plan = json.loads((folder / "sweeps" / "cell" / "plan.json").read_text())
    digest = plan["cells"][0]["digests"]["student"]
    rows = [json.loads(line) for line in (store.path("train", digest) / "history.jsonl").read_text().splitlines()]
    logits = store.read_table("train", digest, "predictions/test.parquet")["logits"].to_pylist()
    weights = safetensors.numpy.load_file(store.path("train", digest) / "model" / "trained.safetensors")
    return Student(np.array([row["loss"] for row in rows if "loss" in row]), np.array(logits), weights)


def compared(settings: dict[str, list[str]], base: list[str], folder: Path) -> None:
    """One line per setting: what it moves against the base."""
    one = trained(folder / "one", base)
    print(f"{len(one.losses)} steps; losses {one.losses[0]:.4f} to {one.losses[-1]:.4f}; "
          f"test logits up to {np.abs(one.logits_NC).max():.2f}")  # fmt: skip
    print("| setting | loss of a step | test logit | weight | predictions changed |\n|---|---|---|---|---|")
    for index, (name, words) in enumerate(settings.items()):
        other = trained(folder / str(index), words)
        weight = max(float(np.abs(other.weights[key] - one.weights[key]).max()) for key in one.weights)
        changed = int((other.logits_NC.argmax(1) != one.logits_NC.argmax(1)).sum())
        print(f"| {name} | {np.abs(other.losses - one.losses).max():.1e} | "
              f"{np.abs(other.logits_NC - one.logits_NC).max():.1e} | {weight:.1e} | "
              f"{changed} of {len(one.logits_NC)} |", flush=True)  # fmt: skip


def main() -> None:
    for settings, base in ((SETTINGS, []), (UNDER_BF16, BF16)):
        wanted = {name: words for name, words in settings.items() if all(word in name for word in sys.argv[1:])}
        if wanted:
            with tempfile.TemporaryDirectory() as temporary:
                compared(wanted, base, Path(temporary))


if __name__ == "__main__":
    main()
