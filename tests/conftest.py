"""Two sweeps: one whose steps are made up in no time, for tests of everything around them, and a small real one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as nohup and `&` in a script leave it to what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))  # for modules that tests of several folders share

import world as worlds  # type: ignore[import-not-found]
from fake_slurm import FakeSlurm  # type: ignore[import-not-found]

from w2s.execute.local import Outcome
from w2s.experiments import expand
from w2s.plan import Node, Plan, build, is_done
from w2s.spec import FeaturesSpec, MaterializeSpec
from w2s.store import Store
from w2s.sweep import read_sweep

YAML = """\
question: Is it made up?
tasks: [movie]
sizes: {weak_train: 8, transfer: 8, val: 4, test: 20}
models: {tiny: {use: minilm, layers: 1}, small: {use: minilm, layers: 2}}
methods: [xent, logconf]
seeds: [0, 1]
"""


class Lab:
    """A folder with the sweep `made_up.yaml` and a results folder; carries out plans without learning anything."""

    def __init__(self, folder: Path) -> None:
        self.yaml = folder / "made_up.yaml"
        self.yaml.write_text(YAML, encoding="utf-8")
        self.results = folder / "results"
        self.store = Store(self.results / "store")
        self.made: list[str] = []  # titles of the steps that were carried out
        self.failing = ""  # steps whose title starts so fail

    def plan(self) -> Plan:
        sweep = read_sweep(self.yaml)
        return build(sweep, expand(sweep))

    def node(self, title: str) -> Node:
        return next(node for node in self.plan().nodes.values() if node.title == title)

    def finish(self, node: Node, **manifest: Any) -> Path:
        """The artifact of a step: a model is right on the first half of the examples, a larger one on more."""
        with self.store.staging(node.kind, node.digest) as staged:
            if isinstance(node.spec, MaterializeSpec):
                for split in ("test", "transfer"):
                    _write(staged.folder / f"{split}.parquet", label=[i % 2 for i in range(20)])
            elif not isinstance(node.spec, FeaturesSpec):
                (staged.folder / "predictions").mkdir()
                right = {"weak": 12, "student": 15, "ceiling": 18}[node.title.split()[0]]
                logits = [[0.0, 1.0] if (i % 2) == (i < right) else [1.0, 0.0] for i in range(20)]
                for split in ("test", "transfer"):
                    _write(staged.folder / "predictions" / f"{split}.parquet", logits=logits)
                (staged.folder / "metrics.json").write_text('{"test_accuracy": 0.5}\n')
                if node.spec.keep_weights:
                    (staged.folder / "model").mkdir()
                    (staged.folder / "model" / "trained.safetensors").write_bytes(b"weights")
            spec = node.spec.model_dump(mode="json")
            record = {"spec": spec, "parents": list(node.parents), "version": "0", "host": "h", "started": 0.0,
                      "wall_s": 2.0, "flops": 1e6, "tokens": 100, "fetched": [], **manifest}  # fmt: skip
            return staged.commit(record, replace=True)

    def execute(self, plan: Plan, store: Store, **_: Any) -> Outcome:
        """Stands in for w2s.execute.local.execute, which has tests with real processes of its own."""
        assert store.root == self.store.root
        outcome = Outcome()
        for digest, node in plan.nodes.items():
            broken = next((p for p in node.parents if p in outcome.failed or p in outcome.blocked), None)
            if broken is not None:
                outcome.blocked[digest] = outcome.blocked.get(broken, broken)
            elif is_done(node, store):
                outcome.reused.append(digest)
            elif self.failing and node.title.startswith(self.failing):
                store.fail(digest, "it was told to")
                store.log_path(digest).write_text("".join(f"line {i}\n" for i in range(100)))
                outcome.failed[digest] = "it was told to"
            else:
                self.finish(node)
                self.made.append(node.title)
                outcome.done.append(digest)
        return outcome


def _write(path: Path, **columns: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    ids = [f"example{i}" for i in range(20)]
    types = {"label": pyarrow.int64(), "logits": pyarrow.list_(pyarrow.float32())}
    arrays = {name: pyarrow.array(values, types[name]) for name, values in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table({"example_id": ids, **arrays}), path)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A lab in an empty folder, with the cache in it too."""
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    found = Lab(tmp_path)
    monkeypatch.setattr("w2s.execute.local.execute", found.execute)
    return found


@pytest.fixture
def lab(made_up):
    """The same by the name that most tests know it by."""
    return made_up


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Made-up programs of SLURM on PATH, in a process that is in no job."""
    made = FakeSlurm(tmp_path / "fake slurm")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    for name in os.environ:
        if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_")):
            monkeypatch.delenv(name)
    return made


# -- a real world, see world.py -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def untouched(tmp_path_factory):
    """A world in which nothing was run."""
    folder = tmp_path_factory.mktemp("untouched") / "world"
    return worlds.create(folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def world(untouched, tmp_path):
    """A world of one's own."""
    made = untouched.copy(tmp_path / "world")
    yield made
    made.close()


@pytest.fixture(scope="session")
def whole(untouched, tmp_path_factory):
    """A world whose sweep ran without interruption, with its output; to read only."""
    made = untouched.copy(tmp_path_factory.mktemp("whole") / "world")
    made.printed, made.progress = made.sweep()
    yield made
    made.close()


@pytest.fixture
def later(whole, tmp_path):
    """A copy of that world, to go on from."""
    made = whole.copy(tmp_path / "later")
    yield made
    made.close()


@pytest.fixture(scope="session")
def steps():
    """The titles of the sweep's steps."""
    return worlds.STEPS
