"""A laboratory for runs: plans of fake steps whose behaviour is scripted by files, carried out by real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from w2s.claim import process
from w2s.execute.local import execute
from w2s.plan import Node, Plan
from w2s.sources.spec import FileSource
from w2s.spec import Engine, MaterializeSpec, Sizes
from w2s.store import Store
from w2s.tasks.task import TaskSpec, TextFormat

HERE = Path(__file__).parent
BODY = "fake_steps:run_step"
GROUP_BODY = "fake_ranks:run_step"


def step_spec(number: int) -> MaterializeSpec:
    task = TaskSpec(name="fake", source=FileSource(file="x"), format=TextFormat(text="text", label="label"))
    return MaterializeSpec(task=task, sizes=Sizes(weak_train=1, transfer=1, test=1), split_seed=number)


def plan_of(graph: dict[int, list[int]]) -> Plan:
    """A plan of numbered steps with their parents' numbers."""
    digests = {number: step_spec(number).digest() for number in graph}
    nodes = {}
    for number, parents in graph.items():
        above = tuple(digests[parent] for parent in parents)
        nodes[digests[number]] = Node(digests[number], "materialize", step_spec(number), above, f"step {number}", 1)
    return Plan("fake", nodes=nodes)


def until(condition, seconds: float = 30.0):
    """The first true value of `condition`, polled; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition}")
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    """True while the process runs; a zombie that its new parent has not reaped does not."""
    return bool(process(pid)["start"])


class Lab:
    """A store, a script for the fake steps, and what they leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        self.processes: list[subprocess.Popen[str]] = []
        self.gates: list[Path] = []
        (folder / "runs").mkdir(exist_ok=True)
        if not (folder / "script.json").exists():
            self.script({})

    def script(self, actions: dict[int, str]) -> None:
        """What the steps do; one that is not named just succeeds."""
        (self.folder / "script.json").write_text(json.dumps({str(n): action for n, action in actions.items()}))

    def gate(self, name: str) -> Path:
        """A named pipe: a step with the action 'gate:NAME' stands at it until `open_gate`."""
        path = self.folder / f"gate-{name}"
        os.mkfifo(path)
        self.gates.append(path)
        return path

    def open_gate(self, name: str) -> None:
        with (self.folder / f"gate-{name}").open("w"):
            pass

    def runs(self) -> list[int]:
        """The numbers of the step bodies that ran, once for each time."""
        return sorted(int(path.name.partition("-")[0]) for path in (self.folder / "runs").iterdir())

    def pid(self, number: int) -> int:
        """The process that runs, or ran, the step; waits for it to start."""
        return int(until(lambda: self._text(f"pid-{number}")))

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def log(self, number: int) -> str:
        return self.store.log_path(step_spec(number).digest()).read_text()

    def execute(self, graph: dict[int, list[int]], *, workers: int = 1, processes: int | None = None, **more):
        """Carry out a plan; with `processes`, each step in a group of so many ranks."""
        engine = Engine(workers=workers, device="cpu", processes=processes, threads=processes and 1)
        body = GROUP_BODY if processes else BODY
        return execute(plan_of(graph), self.store, engine=engine, body=body, **more)

    def numbers(self, digests) -> list[int]:
        """The numbers of steps named by digest, sorted."""
        known = {step_spec(number).digest(): number for number in range(20)}
        return sorted(known[digest] for digest in digests)

    def parent(
        self, graph: dict[int, list[int]], workers: int = 1, processes: int | None = None
    ) -> subprocess.Popen[str]:
        """An executing process of its own, at the head of a process group of its own."""
        words = [str(self.folder), json.dumps(list(graph.items())), str(workers), str(processes or 0)]
        process = subprocess.Popen(
            [sys.executable, str(HERE / "fake_parent.py"), *words], text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process
