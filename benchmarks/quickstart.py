"""The quickstart with and without the cache of frozen layers' hidden states: whole commands, in turn, in new folders.

Fetches the archives of the quickstart once, before the clock starts.

Run: python benchmarks/quickstart.py [PAIRS [ARGUMENTS OF w2s sweep]]   about 10 minutes a pair on two CPU cores
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = Path(__file__).resolve().parent.parent / "sweeps" / "quickstart.yaml"


def seconds(cached: bool, arguments: list[str]) -> float:
    """Wall time of one `w2s sweep` of the quickstart from nothing. Raises SystemExit with its output if it fails."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "w2s", "sweep", str(SWEEP), "--results", results]
        command += ["--set", f"engine.cache_frozen={str(cached).lower()}", *arguments]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return taken


def main(pairs: int, arguments: list[str]) -> None:
    """Print the time of both, and how many times as fast the cache makes it."""
    subprocess.run([sys.executable, "-m", "w2s", "prefetch", str(SWEEP)], check=True, capture_output=True)
    with_s: list[float] = []
    without_s: list[float] = []
    for pair in range(pairs):
        # In turn the other way round, so that a machine that slows down favours neither.
        for cached in (True, False) if pair % 2 == 0 else (False, True):
            (with_s if cached else without_s).append(seconds(cached, arguments))
        print(f"pair {pair + 1}: with cache {with_s[-1]:.0f} s, without {without_s[-1]:.0f} s", flush=True)
    ratios = [b / a for a, b in zip(with_s, without_s, strict=True)]
    print(f"quickstart with cached hidden states: median {statistics.median(with_s):.0f} s ({pairs} runs)")
    print(f"quickstart without:                   median {statistics.median(without_s):.0f} s")
    print(f"speed-up: median {statistics.median(ratios):.2f}, min {min(ratios):.2f}, max {max(ratios):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:])
