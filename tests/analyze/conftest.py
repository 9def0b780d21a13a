"""A tiny store, planned by the real planner and written through the real store; only the predictions are made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from w2s import plan as plans
from w2s.analyze.numbers import resamples, stats
from w2s.experiments import expand
from w2s.plan import Node, Plan
from w2s.randomness import stream_seed
from w2s.spec import LabelsSpec, TrainSpec, Weak
from w2s.store import Store
from w2s.sweep import sweep_of

FLOATS = pa.list_(pa.float32())
SIZES = {"weak_train": 40, "transfer": 40, "val": 10, "test": 200}
ONE_PAIR: dict[str, Any] = {
    "name": "one",
    "question": "How much of the gap does a student recover?",
    "tasks": ["movie"],
    "sizes": SIZES,
    "models": {"weak-3l": {"use": "minilm", "layers": 3}, "strong-20l": {"use": "smollm2", "layers": 20}},
    "methods": ["xent", "logconf"],
    "seeds": [0, 1, 2],
}
LADDER: dict[str, Any] = {
    "name": "ladder",
    "tasks": ["movie", "amazon"],
    "sizes": SIZES,
    "models": ["pythia-70m", "pythia-160m", "pythia-410m", "pythia-1b", "pythia-1.4b"],
    "methods": {"xent": {}, "logconf": {}, "hard": {"loss": "xent", "hard_labels": True}},
    "seeds": [0, 1, 2],
}


def ids_of(split: str, n: int) -> list[str]:
    return [f"{split}-{i:05d}" for i in range(n)]


def shuffled_table(columns: dict[str, Any], order: np.ndarray) -> pa.Table:
    """Rows in an order of the file's own: readers must join by id."""
    return pa.table(columns).take(pa.array(order))


class Synthetic:
    """A planned sweep whose artifacts can be committed, failed and damaged one by one."""

    def __init__(self, root: Path, data: dict[str, Any], accuracy: Callable[[Node], float] | None = None) -> None:
        self.root, self.store = root, Store(root / "store")
        sweep = sweep_of(data, root)
        self.plan: Plan = plans.build(sweep, expand(sweep))
        self.sizes = sweep.file.sizes
        self.classes = {d: n.spec.task.n_classes for d, n in self.plan.nodes.items() if n.kind == "materialize"}
        self.accuracy = accuracy or default_accuracy
        plans.write(self.plan, root / "sweeps" / self.plan.name)

    @property
    def name(self) -> str:
        return self.plan.name

    def digests(self, word: str) -> list[str]:
        """Digests of the steps whose title has `word` in it."""
        return [d for d, n in self.plan.nodes.items() if word in n.title]

    def fill(self, *, leave_out: Iterable[str] = (), reverse: bool = False) -> Synthetic:
        """Commit every artifact but those of `leave_out`."""
        digests = [d for d in self.plan.nodes if d not in set(leave_out)]
        for digest in reversed(digests) if reverse else digests:
            self.commit(digest)
        return self

    def commit(self, digest: str) -> Path:
        node = self.plan.nodes[digest]
        with self.store.staging(node.kind, digest) as staged:
            if node.kind == "materialize":
                for split in ("test", "transfer", "val"):
                    self._write_truth(staged.folder / f"{split}.parquet", split, digest)
            elif isinstance(node.spec, LabelsSpec):
                for split in ("transfer", "val"):
                    self._write_labels(staged.folder / f"{split}.parquet", split, node.spec.data)
            else:
                (staged.folder / "predictions").mkdir()
                for split in ("test", "transfer", "val"):
                    self._write_predictions(staged.folder / "predictions" / f"{split}.parquet", split, node)
                self._write_evaluations(staged.folder / "evaluations.parquet", node)
            return staged.commit({"spec": node.spec.model_dump(mode="json"), "parents": list(node.parents)})

    def truth(self, split: str, data: str) -> np.ndarray:
        return np.arange(getattr(self.sizes, split)) % self.classes[data]

    def _write_truth(self, path: Path, split: str, data: str) -> None:
        y = self.truth(split, data)
        columns = {"example_id": ids_of(split, len(y)), "text": ["t"] * len(y), "label": y.astype(np.int64)}
        pq.write_table(shuffled_table(columns, np.random.default_rng(1).permutation(len(y))), path)

    def _write_labels(self, path: Path, split: str, data: str) -> None:
        """The truth, as somebody's labels."""
        y = self.truth(split, data)
        p = pa.array(list(np.eye(self.classes[data], dtype=np.float32)[y]), FLOATS)
        columns = {"example_id": ids_of(split, len(y)), "p": p, "origin": ["somebody"] * len(y)}
        pq.write_table(shuffled_table(columns, np.random.default_rng(2).permutation(len(y))), path)

    def _write_predictions(self, path: Path, split: str, node: Node) -> None:
        rng = np.random.default_rng(stream_seed(0, node.digest, split))
        logits = self._logits(node, split, self.accuracy(node), rng)
        columns = {"example_id": ids_of(split, len(logits)), "logits": pa.array(list(logits), FLOATS)}
        pq.write_table(shuffled_table(columns, rng.permutation(len(logits))), path)

    def _write_evaluations(self, path: Path, node: Node) -> None:
        """Where the recipe asks for evaluations: the second of four is the best, the last that of the final model."""
        assert isinstance(node.spec, TrainSpec)
        every = node.spec.recipe.eval_every
        if every is None:
            return
        columns: dict[str, list[Any]] = {"step": [], "split": [], "example_id": [], "logits": []}
        for place, better in enumerate((-0.08, 0.04, 0.02, 0.0)):
            for split in ("val", "test"):
                last = stream_seed(0, node.digest, split), stream_seed(place, node.digest, split, "evaluation")
                rng = np.random.default_rng(last[0] if place == 3 else last[1])
                logits = self._logits(node, split, self.accuracy(node) + better, rng)
                columns["step"] += [every * (place + 1)] * len(logits)
                columns["split"] += [split] * len(logits)
                columns["example_id"] += ids_of(split, len(logits))
                columns["logits"] += logits.tolist()
        types = {"step": pa.array(columns["step"], pa.int32()), "logits": pa.array(columns["logits"], FLOATS)}
        shuffled = np.random.default_rng(3).permutation(len(columns["step"]))
        pq.write_table(shuffled_table({**columns, **types}, shuffled), path)

    def _logits(self, node: Node, split: str, accuracy: float, rng: np.random.Generator) -> np.ndarray:
        """Right where an example's difficulty, shared by all models, is below the accuracy, with some noise."""
        assert isinstance(node.spec, TrainSpec)
        y = self.truth(split, node.spec.data)
        classes = self.classes[node.spec.data]
        difficulty = np.random.default_rng(7).permutation(len(y)) / len(y)
        right = difficulty + 0.15 * rng.standard_normal(len(y)) < accuracy
        logits = rng.normal(0, 0.3, (len(y), classes)).astype(np.float32)
        logits[np.arange(len(y)), np.where(right, y, (y + 1) % classes)] += 2.0
        return logits


def default_accuracy(node: Node) -> float:
    """Larger is better, students stand between, and seeds differ a little."""
    spec = node.spec
    assert isinstance(spec, TrainSpec)
    size = plans.kept_params(spec) or 1
    own = 0.5 + 0.07 * np.log10(size / 1e6)
    wobble = 0.01 * ((stream_seed(spec.seed, node.digest) % 5) - 2) / 2
    if isinstance(spec.labels, Weak):
        return float(own - (0.06 if spec.recipe.loss.name == "xent" else 0.03) - 0.02 * spec.labels.hard + wobble)
    return float(own + wobble)


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """A tenth of the resamples, for modules whose tests hold no interval against a number of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (resamples, stats):
            patch.setattr(module, "RESAMPLES", 1000)
        resamples.normal_R.cache_clear()
        yield
    resamples.normal_R.cache_clear()


@pytest.fixture
def synthetic(tmp_path: Path) -> Callable[..., Synthetic]:
    """Plans a sweep below `tmp_path / "results"`; `**changes` replace keys of the sweep."""

    def make(
        data: dict[str, Any] = ONE_PAIR, accuracy: Any = None, folder: str = "results", **changes: Any
    ) -> Synthetic:
        return Synthetic(tmp_path / folder, {**data, **changes}, accuracy)

    return make


@pytest.fixture
def chosen(synthetic: Callable[..., Synthetic]) -> Callable[..., Synthetic]:
    """The one-pair sweep with every selection; its students were evaluated at steps 20, 40, 60 and 80."""
    methods = {name: {"recipe": {"eval_every": 20}} for name in ("xent", "logconf")}

    def make(**changes: Any) -> Synthetic:
        return synthetic(**{"methods": methods, "selections": ["final", "weak_val", "oracle"], **changes})

    return make


@pytest.fixture
def counted_reads(monkeypatch):
    """Called, it begins to count how often each table of each artifact is read: (digest, name) -> times."""

    def begin() -> Counter[tuple[str, str]]:
        read: Counter[tuple[str, str]] = Counter()
        real = Store.read_table

        def counting(self, kind, digest, name, columns=None):
            read[digest, name] += 1
            return real(self, kind, digest, name, columns)

        monkeypatch.setattr(Store, "read_table", counting)
        return read

    return begin
