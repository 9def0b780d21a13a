"""A task, tiny models and stores in which the same student is trained again and again: alone, and by launched ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import save_language_model, save_model  # type: ignore[import-not-found]

from w2s import steps
from w2s.spec import (
    Engine,
    LanguageSpec,
    Lora,
    MaterializeSpec,
    Recipe,
    Sizes,
    TrainSpec,
    Weak,
    begun_with,
    language_recipe,
)
from w2s.store import Store
from w2s.tasks.registry import task_of

SCRIPT = Path(__file__).with_name("rank_steps.py")
# 33 examples in batches of 8: the last batch has one, so that one of two ranks has none.
SIZES = Sizes(weak_train=24, transfer=33, val=7, test=15)
ALONE = Engine(device="cpu", checkpoint_every="never")
COMMON: dict[str, Any] = {"lr": 3e-3, "batch_size": 8, "epochs": 2, "head_init": "normal", "warmup_frac": 0.1}


class Grid:
    """A task, a finished supervisor, and stores in which the same students are trained again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensor_bytes = 0  # that the last group had in memory when all jobs were done
        lines, fields = self.task()
        (folder / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        task = task_of({"name": "tiny", "file": "task.jsonl", **fields}, folder, "task")
        self.data = MaterializeSpec(task=task, sizes=SIZES)
        small, self.large = (save_model(folder / f"model-{layers}", layers) for layers in (1, 2))
        self.weak = TrainSpec(
            data=self.data.digest(), split="weak_train", model=small, recipe=Recipe(**COMMON), engine=ALONE
        )
        self.first = Store(folder / "first" / "store")
        assert [steps.run_step(spec, self.first) for spec in (self.data, self.weak)] == ["done", "done"]

    def task(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Lines of a file, and the fields of the task that reads it."""
        rng = np.random.default_rng(0)
        rows = [rng.integers(0, 40, rng.integers(2, 12)) for _ in range(200)]
        lines = [{"text": " ".join(f"w{i}" for i in row), "label": int(row.mean() > 19.5)} for row in rows]
        return lines, {"text": "text", "label": "label"}

    def student(self, recipe: Recipe, engine: Engine, **more: Any) -> TrainSpec:
        labels = Weak(supervisor=self.weak.digest())
        return TrainSpec(
            data=self.data.digest(), split="transfer", model=self.large, labels=labels, recipe=recipe, engine=engine,
            **more,
        )  # fmt: skip

    def store(self, name: str) -> Store:
        """A store of that name in which the student's parents are finished."""
        store = Store(self.folder / name.replace(" ", "-").replace(",", "") / "store")
        for spec in (self.data, self.weak):
            if not store.has(spec.kind, spec.digest()):
                shutil.copytree(self.first.path(spec.kind, spec.digest()), store.path(spec.kind, spec.digest()))
        return store

    def launch(self, jobs: list[dict[str, Any]], ranks: int = 2, code: int = 0, visible: str = "") -> list[list[str]]:
        """Outcomes by rank and job; the ranks are started as the executor starts them."""
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(jobs))
        for left in self.folder.glob("jobs.json.rank*"):
            left.unlink()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += ["--log-dir", os.devnull]
        done = subprocess.run(
            [*command, str(SCRIPT), str(file)], capture_output=True, text=True, timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": visible},
        )  # fmt: skip
        assert (done.returncode != 0) == (code != 0), done.stderr[-8000:]
        if code:
            return []
        said = [json.loads(Path(f"{file}.rank{rank}").read_text()) for rank in range(ranks)]
        self.tensor_bytes = max(one["tensor_bytes"] for one in said)
        return [one["outcomes"] for one in said]


class Pairs(Grid):
    """The same with pairs of texts, of which the one with the higher numbers is better."""

    def task(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Pairs of texts of rather different lengths."""
        rng = np.random.default_rng(1)
        rows = [[rng.integers(0, 40, rng.integers(2, 12)) for _ in range(2)] for _ in range(200)]
        listed = [sorted(pair, key=lambda row: -row.mean()) for pair in rows]
        texts = [[" ".join(f"w{i}" for i in row) for row in pair] for pair in listed]
        return [{"good": good, "bad": bad} for good, bad in texts], {"chosen": "good", "rejected": "bad"}


class Readers(Grid):
    """A grid whose student has a language-model head, and reads both halves before all else."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.large = save_language_model(folder / "reader", 2)

    def reading(self, engine: Engine) -> LanguageSpec:
        whole = engine.model_copy(update={"zero_stage": None if engine.zero_stage == 3 else engine.zero_stage})
        return LanguageSpec(
            data=self.data.digest(), splits=("weak_train", "transfer"), model=self.large, engine=whole,
            recipe=language_recipe(Recipe(**COMMON)),
        )  # fmt: skip

    def steps(self, engine: Engine) -> tuple[LanguageSpec, TrainSpec, TrainSpec]:
        """What is read, a student that begins from that, and one that begins from this student by adapters."""
        language = self.reading(engine)
        first = self.student(Recipe(**COMMON), engine, keep_weights=True)
        first = first.model_copy(update={"start": begun_with(language, language.digest())})
        second = {"start": begun_with(first, first.digest()), "recipe": Recipe(**COMMON, tune=Lora(r=2))}
        return language, first, first.model_copy(update=second)


def job(spec: TrainSpec | LanguageSpec, store: Store, **more: Any) -> dict[str, Any]:
    return {"spec": spec.model_dump(mode="json"), "store": str(store.root), **more}


def history(store: Store, spec: TrainSpec | LanguageSpec) -> list[dict[str, Any]]:
    lines = (store.path(spec.kind, spec.digest()) / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses_of(store: Store, spec: TrainSpec | LanguageSpec) -> list[float]:
    return [row["loss"] for row in history(store, spec) if "loss" in row]


def logits_of(store: Store, spec: TrainSpec, split: str) -> np.ndarray:
    table = store.read_table("train", spec.digest(), f"predictions/{split}.parquet")
    return np.array(table["logits"].to_pylist(), dtype=np.float32)


def weights_of(store: Store, spec: TrainSpec | LanguageSpec) -> dict[str, np.ndarray]:
    import safetensors.numpy

    return dict(safetensors.numpy.load_file(store.path(spec.kind, spec.digest()) / "model" / "trained.safetensors"))
