"""Seconds until the control half answers: `w2s --help`, `plan`, `status`. Median of whole processes, after one warm-up.

Run: python benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = Path(__file__).resolve().parent.parent / "sweeps" / "paper_nlp.yaml"


def seconds(arguments: list[str], runs: int) -> list[float]:
    """Wall seconds of `runs` processes of `w2s ARGUMENTS`, the first one more left out."""
    taken: list[float] = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "w2s", *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return taken[1:]


def main(runs: int) -> None:
    """Print one row per command."""
    quickstart = SWEEP.with_name("quickstart.yaml")
    with tempfile.TemporaryDirectory() as results:
        for arguments in (
            ["--help"],
            ["plan", str(quickstart), "--results", results],
            ["plan", str(SWEEP), "--results", results],  # 2,970 cells, 3,652 steps
            ["status", "--results", results],
        ):
            taken = seconds(arguments, runs)
            print(
                f"w2s {arguments[0]:7} {Path(arguments[1]).name if len(arguments) > 3 else '':16} "
                f"median {statistics.median(taken):.3f} s, min {min(taken):.3f}, max {max(taken):.3f} ({runs} runs)"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
