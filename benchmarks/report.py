"""report.html of some 2,000 cells: how much it weighs, how long it takes to make, and how soon it can be used.

22 tasks, 10 pairs of 5 models, 9 methods and 3 seeds, which are 1,980 cells and 6,490 runs, of 1,000 test examples of
some 100 words and trainings of 250 steps with 10 evaluations. All of it is made up: 64 different files of predictions
and histories, to which the artifacts are hard links. Opening is measured in a headless Chromium, from the beginning of
the navigation until the tables answer, in a page of its own each time, the file already in memory.

Run: python benchmarks/report.py [RUNS [TASKS [OUT]]]   about 5 minutes on two CPU cores; OUT keeps the page
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browser import Browser, install_hint, program  # type: ignore[import-not-found]

from w2s import plan as plans
from w2s.analyze import figures
from w2s.analyze.numbers import resamples
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.reading import rows
from w2s.analyze.report import Picture, page
from w2s.analyze.tables.document import compose
from w2s.disk import file_sha256
from w2s.experiments import expand
from w2s.outputs import write_predictions
from w2s.plan import Node, Plan
from w2s.provenance import environment
from w2s.spec import TrainSpec
from w2s.store import Store
from w2s.sweep import sweep_of

EXAMPLES = 1_000
WORDS = 100  # of a text, on average
DIFFERENT = 64
STEPS = 250
LOSSES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Made = dict[str, tuple[Path, str]]


def planned(tasks: int, folder: Path) -> Plan:
    """A sweep of so many tasks of one's own."""
    files = {}
    for place in range(tasks):
        file = folder / f"task{place:02}.jsonl"
        file.write_text(json.dumps({"text": f"a {place}", "label": 0}) + "\n", encoding="utf-8")
        files[f"task{place:02}"] = {"file": str(file), "text": "text", "label": "label", "classes": ["no", "yes"]}
    confident = {f"logconf{a}": {"loss": {"name": "logconf", "a_max": a}} for a in LOSSES}
    data = {
        "name": "big",
        "question": "How does PGR depend on the task, both sizes and the loss?",
        "tasks": files,
        "sizes": {"weak_train": EXAMPLES, "transfer": EXAMPLES, "val": 4, "test": EXAMPLES},
        "models": [f"minilm@{layers}" for layers in range(2, 7)],
        "methods": {"xent": {}, **confident},
        "seeds": [0, 1, 2],
    }
    sweep = sweep_of(data, folder)
    return plans.build(sweep, expand(sweep))


def fill(plan: Plan, results: Path) -> None:
    """Every step finished, its files hashed once for all that are the same file; nothing is synced."""
    store = Store(results / "store")
    plans.write(plan, results / "sweeps" / plan.name)
    ids = {s: [hashlib.sha256(f"{s} {i}".encode()).hexdigest() for i in range(EXAMPLES)] for s in ("test", "transfer")}
    models = [f"minilm@{layers}" for layers in range(2, 7)]
    made = {model: [_trained(results / "made", model, place, ids, skill) for place in range(DIFFERENT)]
            for skill, model in enumerate(models)}  # fmt: skip
    vocabulary = ["".join(letters) for letters in np.random.default_rng(0).choice(list("etaoinshrdlu"), (5_000, 6))]
    for place, node in enumerate(plan.nodes.values()):
        folder = store.path(node.kind, node.digest)
        if node.kind == "materialize":
            _data(folder, node, ids, vocabulary)
        elif isinstance(node.spec, TrainSpec):
            (folder / "predictions").mkdir(parents=True)
            files = made[node.spec.model.name][place % DIFFERENT]
            for name, (file, _) in files.items():
                os.link(file, folder / name)
            _manifest(folder, node, {name: sha for name, (_, sha) in files.items()})


def _trained(made: Path, model: str, place: int, ids: dict[str, list[str]], skill: int) -> Made:
    """A model's files and their hashes."""
    folder = made / f"{model}-{place}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([skill, place])
    y_N = np.arange(EXAMPLES) % 2
    hard_N = np.random.default_rng(7).random(EXAMPLES)  # for all models alike
    right_N = hard_N + 0.2 * rng.standard_normal(EXAMPLES) < 0.6 + 0.06 * skill
    logits_NC = rng.normal(0, 1, (EXAMPLES, 2)).astype(np.float32)
    logits_NC[np.arange(EXAMPLES), np.where(right_N, y_N, 1 - y_N)] += 3.0
    write_predictions(folder, ids, dict.fromkeys(ids, logits_NC))
    lines: list[dict[str, Any]] = []
    for step in range(STEPS):
        loss = 0.7 * 0.99**step + 0.05 * rng.random()
        lines.append({"step": step, "epoch": 0, "loss": loss, "lr": 4e-4, "examples": 32, "seconds": rng.random()})
        if step % 25 == 24:
            for split, against in (("val", "supervisor"), ("test", "truth")):
                accuracy = 0.6 + 0.2 * rng.random()
                lines.append({"steps_done": step + 1, "split": split, "against": against, "accuracy": accuracy})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    names = ("predictions/test.parquet", "predictions/transfer.parquet", "history.jsonl")
    return {name: (folder / name, file_sha256(folder / name)) for name in names}


def _data(folder: Path, node: Node, ids: dict[str, list[str]], vocabulary: list[str]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(list(bytes.fromhex(node.digest[:16])))
    files = {}
    for split, own in ids.items():
        lengths = rng.poisson(WORDS, len(own))
        texts = [" ".join(rng.choice(vocabulary, length)) for length in lengths]
        columns = {"example_id": own, "text": texts, "label": np.arange(len(own)) % 2}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")
        files[f"{split}.parquet"] = file_sha256(folder / f"{split}.parquet")
    (folder / "summary.json").write_text(json.dumps({"classes": ["no", "yes"]}), encoding="utf-8")
    _manifest(folder, node, files)


def _manifest(folder: Path, node: Node, files: dict[str, str]) -> None:
    manifest: dict[str, Any] = {"kind": node.kind, "digest": node.digest, "spec": node.spec.model_dump(mode="json")}
    manifest |= {"parents": node.parents, **environment(), "started": 1.8e9, "wall_s": 12.0, "peak_rss_mib": 800.0}
    manifest |= {
        "tokens": 1000,
        "flops": 1e9,
        "phases": {"load": 1.0, "train": 8.0, "predict": 3.0},
        "devices": ["cpu"],
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}, indent=1), encoding="utf-8")


def make(results: Path) -> str:
    """The page, with a line for what each part of it takes."""
    clock = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        print(f"{what:36} {now - clock:6.1f} s", flush=True)
        clock = now

    resamples.RESAMPLES = 200  # what intervals cost is measured elsewhere
    found = rows.load("big", results)
    lap(f"{len(found.frame):,} rows read")
    cells = aggregate(found)
    lap(f"{len(cells):,} cells")
    document = compose(found, cells)
    lap("document")
    pictures = {}
    with figures.style():
        for drawn in figures.figures(found, cells):
            image = io.BytesIO()
            figures.save(drawn.figure, image, "svg")
            pictures[drawn.name] = Picture(image.getvalue(), drawn.title, drawn.alt)
    lap(f"{len(pictures)} figures")
    html = page(found, cells, document, pictures)
    lap("report.html, all else being there")
    return html


def open_it(file: Path, runs: int) -> None:
    """Print how soon the page answers."""
    if program() is None:
        print(f"opening not measured: {install_hint}")
        return
    ready: list[float] = []
    parsed: list[float] = []
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            for _ in range(runs):
                with browser.page() as opened:
                    opened.open(file)
                    opened.until("document.documentElement.dataset.filled")
                    ready.append(float(opened.run("Number(document.documentElement.dataset.filled)")))
                    parsed.append(opened.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
                    assert opened.run("document.querySelectorAll('#index tbody tr').length") == 60
                    assert opened.complaints() == []
        finally:
            browser.close()
    for what, taken in (("DOMContentLoaded", parsed), ("tables answer", ready)):
        print(
            f"{what:36} median {statistics.median(taken):.0f} ms, {min(taken):.0f} to {max(taken):.0f} ms ({runs} runs)"
        )


def main(runs: int, tasks: int, out: str) -> None:
    """Make the page, weigh it and open it."""
    with tempfile.TemporaryDirectory() as made:
        plan = planned(tasks, Path(made))
        fill(plan, Path(made) / "results")
        html = make(Path(made) / "results")
        file = Path(out or Path(made) / "report.html")
        file.write_text(html, encoding="utf-8")
        left_out = "some of it left out" if "Left out here" in html else "nothing left out"
        print(f"{'weight':36} {file.stat().st_size / 1e6:6.2f} MB, {left_out}")
        open_it(file, runs)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(int(words[0]) if words else 9, int(words[1]) if len(words) > 1 else 22, words[2] if len(words) > 2 else "")
