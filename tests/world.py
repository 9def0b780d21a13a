"""A small world, real in every part: a task in a file, tiny models in folders, `w2s` in processes of its own.

The fixtures that make one are in conftest.py.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = [f"{kind}{i}" for kind in ("good", "bad", "so") for i in range(20)]
VOCABULARY = {"<pad>": 0, "<unk>": 1, **{word: i + 2 for i, word in enumerate(WORDS)}}
DEADLINE_S = 300.0  # of one command, on a busy machine; no test depends on how long anything takes

# A weak model that can learn little (only its head), a student that can learn the task.
YAML = """\
question: Does a student surpass its supervisor on moods?
tasks: {moods: {file: moods.jsonl, text: text, label: mood, classes: [bad, good]}}
sizes: {weak_train: 64, transfer: 96, val: 16, test: 200}
models:
  small: {use: ./small, recipe: {tune: {kind: probe}, lr: 2e-2}}
  large: {use: ./large}
methods:
  xent: {}
  logconf: {loss: {name: logconf, a_max: 0.5}}
seeds: [0, 1]
recipe: {lr: 3e-3, epochs: 8, batch_size: 8}
engine: {threads: 1, workers: 2}
"""
STEPS = {  # of that sweep
    "data moods",
    *(f"{role} on moods, seed {seed}" for role in ("weak small", "ceiling large") for seed in (0, 1)),
    *(f"student large of small on moods, {method}, seed {seed}" for method in ("xent", "logconf") for seed in (0, 1)),
}


class World:
    """A folder with a task, models, `moods.yaml` and its own results; runs `w2s` there as a user does."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.yaml, self.results = folder, folder / "moods.yaml", folder / "results"
        self.store, self.outputs = self.results / "store", self.results / "sweeps" / "moods"
        self.env = {**os.environ, "W2S_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *words: Any, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """A command in a process group of its own. Its output goes to files, so that it never waits for a reader."""
        out = self.folder / f"output-{len(self.running)}"
        with out.with_suffix(".out").open("w") as stdout, out.with_suffix(".err").open("w") as stderr:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "w2s", *map(str, words)], cwd=self.folder, env=self.env, text=True,
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        process.out, process.err = out.with_suffix(".out"), out.with_suffix(".err")
        self.running.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for a command: (exit code, what it printed, its progress and complaints); never a traceback."""
        code = process.wait(DEADLINE_S)
        out, err = process.out.read_text(), process.err.read_text()
        assert "Traceback (most recent call last)" not in out + err
        return code, out, err

    def run(self, *words: Any, **more: Any) -> tuple[int, str, str]:
        return self.end(self.start(*words, **more))

    def sweep(self, *words: Any, code: int = 0) -> tuple[str, str]:
        """`w2s sweep moods.yaml` with more words; its output. Fails where the exit code is another one."""
        found, out, err = self.run("sweep", "moods.yaml", *words)
        assert found == code, f"{out}\n{err}"
        return out, err

    def titles(self) -> dict[str, str]:
        """digest -> title of the steps that were planned last."""
        return {step["digest"]: step["title"] for step in json.loads((self.outputs / "plan.json").read_text())["steps"]}

    def digest(self, title: str) -> str:
        return next(digest for digest, found in self.titles().items() if found == title)

    def finished(self) -> dict[str, int]:
        """digest -> time of change of the manifest, of every finished artifact."""
        found = {}
        for manifest in self.store.glob("[!w]*/??/*/manifest.json"):
            if not manifest.parent.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # being replaced at this moment
                    found[manifest.parent.name] = manifest.stat().st_mtime_ns
        return found

    def holders(self) -> dict[str, int]:
        """digest -> process of every step that somebody claims."""
        found = {}
        for claim in self.store.glob("work/??/*/claim.json"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found[claim.parent.name] = json.loads(claim.read_text())["process"]["pid"]
        return found

    def left_over(self) -> list[Path]:
        """What no finished or failed step should leave: staged folders, claims, half-written files."""
        hidden = list(self.results.rglob(".*"))
        return sorted([*hidden, *self.store.glob("work/??/*/claim*.json"), *self.store.glob("work/??/*/heir*.json")])

    def read(self, kind: str, digest: str, name: str) -> dict[str, list[Any]]:
        import pyarrow.parquet

        file = self.store / kind / digest[:2] / digest / name
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(file, partitioning=None).to_pydict()
        return columns

    def table(self) -> bytes:
        return (self.outputs / "table.csv").read_bytes()

    def rows(self) -> list[dict[str, str]]:
        """All of rows.csv but how long steps took."""
        with (self.outputs / "rows.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {"pgr", "student_seconds"} <= set(rows[0])
        return [{name: text for name, text in row.items() if not name.endswith("_seconds")} for row in rows]

    def copy(self, folder: Path) -> World:
        """The same world elsewhere, times of change kept."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("output-*"))
        return World(folder, Path(self.env["W2S_CACHE"]))

    def until(self, process: subprocess.Popen[str], condition: Callable[[], Any]) -> Any:
        """What `condition` says once it says something; None where the process ended first."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            ended = process.poll() is not None
            found = condition()
            if found or ended:
                return found or None
            assert time.monotonic() < deadline_s, "it never came to that"
            time.sleep(0.002)  # a poll of the disk, not a wait for something to be over

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def save_model(folder: Path, kind: str, hidden: int, layers: int) -> None:
    """A model with random weights and a tokenizer of whole words, as a user's folder holds them."""
    import tokenizers
    import torch
    import transformers

    common: dict[str, Any] = {
        "vocab_size": len(VOCABULARY), "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": 32, "pad_token_id": 0,
        "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "bert":
        model = transformers.AutoModel.from_config(transformers.BertConfig(**common))
    else:
        model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**common))
    model.save_pretrained(folder)
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, "<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>")  # noqa: S106 - no password
    fast.save_pretrained(folder)


def save_task(file: Path) -> None:
    """700 texts of six words: two tell the mood, four say nothing."""
    draw = random.Random(0)
    rows: set[tuple[str, str]] = set()
    while len(rows) < 700:
        mood = draw.choice(["good", "bad"])
        words = [f"{mood}{draw.randrange(6)}" for _ in range(2)] + [f"so{draw.randrange(20)}" for _ in range(4)]
        draw.shuffle(words)
        rows.add((" ".join(words), mood))
    file.write_text("".join(json.dumps({"text": text, "mood": mood}) + "\n" for text, mood in sorted(rows)))


def create(folder: Path, cache: Path) -> World:
    """A world in which nothing was run."""
    save_model(folder / "small", "bert", 16, 1)
    save_model(folder / "large", "llama", 32, 2)
    save_task(folder / "moods.jsonl")
    (folder / "moods.yaml").write_text(YAML)
    return World(folder, cache)
