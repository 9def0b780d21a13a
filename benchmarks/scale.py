"""A sweep of 100,000 steps: planned, submitted as job arrays, and asked how far it is. Whole processes, peak memory.

SLURM is made up (programs that count how often they are called), and so are the artifacts: a manifest of the usual size
and a file of predictions each. Fetches the archives of the task and the model once, before the clock starts. Needs some
4 GiB and 600,000 files in the temporary folder ($TMPDIR), which it removes.

Run: python benchmarks/scale.py [STEPS [RUNS]]   about 6 minutes on two CPU cores with the defaults
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from w2s import plan as plans
from w2s.estimate import estimate
from w2s.experiments import expand
from w2s.plan import Plan
from w2s.provenance import environment
from w2s.store import Store
from w2s.sweep import read_sweep

HERE = Path(__file__).resolve()
W2S = [sys.executable, "-m", "w2s"]
PER_SEED = 28  # steps: 10 pairs of 5 models by 2 methods, 4 supervisors, 4 ceilings
YAML = """\
name: big
tasks: [movie]
sizes: {{weak_train: 8, transfer: 8, val: 4, test: 8}}
models: [{models}]
methods: [xent, logconf]
seeds: {seeds}
recipe: {recipe}
engine: {{cache_frozen: {cached}}}
"""
BEGUN = 2_000  # steps that another host works on
ARRAY_SIZE = 1_001  # SLURM's default MaxArraySize
PROGRAMS = {  # as files named so; their folder holds `calls`, `queue` and the count of jobs
    "sbatch": 'case " $* " in *" --test-only "*) echo test-only >>"$0.calls"; exit;; esac\n'
    'n=$(($(wc -l <"$0.jobs") + 1)); echo job >>"$0.jobs"; echo "$n"',
    "squeue": 'cat "$0.lines"',
    "scontrol": f'echo "MaxArraySize            = {ARRAY_SIZE}"',
    "scancel": "exit 1",
}


def write_sweep(folder: Path, steps: int, *, cached: bool = False) -> Path:
    """The YAML of a sweep of so many steps, or a few more."""
    text = YAML.format(
        models=", ".join(f"minilm@{layers}" for layers in range(2, 7)),
        seeds=list(range(-(-steps // PER_SEED))),
        recipe="{tune: {kind: frozen, layers: 1}}" if cached else "{}",
        cached=str(cached).lower(),
    )
    file = folder / ("cached.yaml" if cached else "big.yaml")
    file.write_text(text, encoding="utf-8")
    return file


def planned(yaml: Path) -> Plan:
    """The plan of a sweep."""
    sweep = read_sweep(yaml)
    return plans.build(sweep, expand(sweep))


def child(words: list[str], folder: Path) -> tuple[float, float, str]:
    """(seconds, peak MiB, what it prints) of a process with the made-up SLURM on its PATH. SystemExit if it fails."""
    with (folder / "printed").open("w+", encoding="utf-8") as out:
        started = time.perf_counter()
        env = {**os.environ, "PATH": f"{folder / 'slurm'}{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.Popen(words, stdout=out, stderr=out, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        taken = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{printed[-2000:]}")
    return taken, usage.ru_maxrss / 1024, printed


def measure(what: str, words: list[str], folder: Path, runs: int) -> str:
    """Run a command several times, print a row; what it printed last."""
    found = [child(words, folder) for _ in range(runs)]
    taken, peaks = [f[0] for f in found], [f[1] for f in found]
    print(
        f"{what:52} median {statistics.median(taken):6.2f} s, min {min(taken):.2f}, max {max(taken):.2f}, "
        f"peak {max(peaks):4.0f} MiB ({runs} runs)",
        flush=True,
    )
    return found[-1][2]


def stages(yaml: Path, results: Path) -> Iterator[tuple[str, float]]:
    """(stage, seconds) of planning in this process."""
    clock = time.perf_counter
    began = clock()
    sweep = read_sweep(yaml)
    yield "read", clock() - began
    began = clock()
    cells = expand(sweep)
    yield "expand", clock() - began
    began = clock()
    plan = plans.build(sweep, cells)
    yield "build", clock() - began
    began = clock()
    plans.write(plan, results / "sweeps" / plan.name)
    yield "write plan.json", clock() - began
    began = clock()
    store = Store(results / "store")
    plans.states(plan, store)
    yield "states", clock() - began
    began = clock()
    estimate(plan, store)
    yield "estimate", clock() - began
    began = clock()
    done = sum(plans.is_done(node, store) for node in plan.nodes.values())
    yield f"every manifest ({done} of {len(plan.nodes)} there)", clock() - began


def fill(yaml: Path, results: Path) -> None:
    """Every step finished, as far as its folder tells; nothing is hashed or synced."""
    plan, store = planned(yaml), Store(results / "store")
    names = ("test", "val", "transfer", "evaluations")
    files = dict.fromkeys((*(f"predictions/{name}.parquet" for name in names), "metrics.json", "log.txt"), "0" * 64)
    fetched = [{"source": {"package": "all-minilm-l6-v2"}, "commit": "0" * 40}]
    for node in plan.nodes.values():
        place = store.path(node.kind, node.digest)
        (place / "predictions").mkdir(parents=True)
        manifest = {"kind": node.kind, "digest": node.digest, "spec": node.spec.model_dump(mode="json")}
        manifest |= {"parents": node.parents, **environment(), "started": 0.0, "wall_s": 12.0, "tokens": 1000}
        manifest |= {"flops": 1e9, "phases": {"load": 1.0, "train": 8.0, "predict": 3.0}, "fetched": fetched}
        (place / "manifest.json").write_text(json.dumps({**manifest, "files": files}, indent=1), encoding="utf-8")
        (place / "predictions" / "test.parquet").write_bytes(bytes(100))


def begin(yaml: Path, results: Path) -> None:
    """Take some finished steps back: another host works on them."""
    store, elsewhere = Store(results / "store"), json.dumps({"token": "0" * 32, "host": "another-machine"})
    for digest, node in list(planned(yaml).nodes.items())[-BEGUN:]:
        shutil.rmtree(store.path(node.kind, digest))
        store.work(digest).mkdir(parents=True)
        (store.work(digest) / "claim.json").write_text(elsewhere, encoding="utf-8")


def make_slurm(folder: Path) -> Path:
    """The made-up programs; `sbatch.jobs` and `sbatch.calls` beside them have a line for each call."""
    programs = folder / "slurm"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
        for beside in ("jobs", "calls", "lines"):
            (programs / f"{name}.{beside}").write_text("", encoding="utf-8")
    return programs


def submit(yaml: Path, folder: Path) -> None:
    """Planning and submitting in one command, and the same command again while all of it is in the queue."""
    programs, results = folder / "slurm", folder / "submitted"
    words = [*W2S, "sweep", str(yaml), "--launcher", "slurm", "--results", str(results)]
    measure("w2s sweep --launcher slurm, nothing done", words, folder, 1)
    jobs = [json.loads(file.read_text()) for file in (results / "sweeps" / "big" / "slurm").glob("job-*.json")]
    called = {name: len((programs / f"sbatch.{name}").read_text().splitlines()) for name in ("jobs", "calls")}
    print(f"  {len(jobs)} jobs by {called['jobs']} calls of sbatch and {called['calls']} of sbatch --test-only")
    tasks = [f"{job['id']}|{place}|PENDING|Priority\n" for job in jobs for place in range(1, job["tasks"] + 1)]
    (programs / "squeue.lines").write_text("".join(tasks), encoding="utf-8")
    measure("the same command again, all of it in the queue", words, folder, 1)
    measure("w2s status, all of it in the queue", [*W2S, "status", "big", "--results", str(results)], folder, 3)
    print(f"  largest folder: {largest(results)}")


def largest(root: Path) -> str:
    """The folder with most entries below `root`."""
    most, where = max((len(folders) + len(files), place) for place, folders, files in os.walk(root))
    return f"{most} entries, {Path(where).relative_to(root)}"


def main(steps: int, runs: int) -> None:
    """Print a row per command."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        results, own = folder / "results", [sys.executable, str(HERE)]
        yaml, cached = write_sweep(folder, steps), write_sweep(folder, steps, cached=True)
        make_slurm(folder)
        child([*W2S, "prefetch", str(yaml)], folder)
        for file, what in ((yaml, ""), (cached, ", hidden states cached")):
            measure(f"w2s plan{what}", [*W2S, "plan", str(file), "--results", str(folder / "none")], folder, runs)
        print(measure("its parts and plan.json", [*own, "stages", str(yaml), str(results)], folder, 1), end="")
        submit(yaml, folder)
        child([*own, "fill", str(yaml), str(results)], folder)
        status = [*W2S, "status", "big", "--results", str(results)]
        print(measure("w2s status, all of it finished", status, folder, runs), end="")
        measure("w2s plan, all of it finished", [*W2S, "plan", str(yaml), "--results", str(results)], folder, runs)
        print(measure("its parts and plan.json", [*own, "stages", str(yaml), str(results)], folder, 1), end="")
        print(f"  largest folder: {largest(results)}")
        child([*own, "begin", str(yaml), str(results)], folder)
        measure(f"w2s status, {BEGUN} steps on another host", status, folder, runs)


def print_stages(yaml: Path, results: Path) -> None:
    """A line per stage."""
    for stage, taken in stages(yaml, results):
        print(f"  {stage:50} {taken:13.2f} s")


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].isdecimal():  # a process of its own, so that this one's memory stays small
        {"stages": print_stages, "fill": fill, "begin": begin}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
