"""How often 95 % intervals contain the truth, in synthetic experiments whose truth is known.

A model is right about an example where difficulty + seed + noise < skill, all normal: the difficulty is the example's,
shared by all models and seeds; the seed's shift is that model's in that seed; the noise is anew for each example, model
and seed. Accuracy over all seeds and examples is then the normal distribution function of skill / (1 + shift^2 +
noise^2)^(1/2), exactly, and with it PGR. Conditions differ in test examples, seeds, the shift and the noise.

Run: python benchmarks/coverage.py [EXPERIMENTS]   about 12 minutes on two CPU cores with the default, 2,000
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from w2s.analyze.numbers import resamples, stats
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.numbers.stats import Estimate


class Condition(NamedTuple):
    """What a synthetic experiment is like. `skill` of weak, baseline, student and ceiling is that of one accuracy."""

    tests: int = 600
    seeds: int = 3
    shift: float = 0.1  # standard deviation over seeds; 0.1 moves an accuracy by about 2 points
    noise: float = 0.6
    accuracy: tuple[float, float, float, float] = (0.70, 0.77, 0.80, 0.86)

    def __str__(self) -> str:
        return f"{self.tests:5} tests, {self.seeds} seeds, shift {self.shift:4}, noise {self.noise:3}"


CONDITIONS = (
    *(Condition(shift=shift, noise=noise) for shift in (0.0, 0.05, 0.1, 0.3) for noise in (0.3, 1.0)),
    *(
        Condition(seeds=seeds, shift=shift)
        for seeds in (1, 2, 5)
        for shift in (0.0, 0.1, 0.3)[: 1 if seeds == 1 else 3]
    ),
    Condition(tests=200),
    Condition(tests=2000),
    Condition(accuracy=(0.90, 0.94, 0.95, 0.97), tests=1000),
)


def experiments(condition: Condition, count: int) -> Iterator[list[np.ndarray]]:
    """Latent margins (S, N) of the four models, positive where right; the same ones at every call."""
    c = condition
    rng = resamples.stream(f"coverage of {c}")
    spread = math.sqrt(1 + c.shift**2 + c.noise**2)
    skills = [float(ndtri(accuracy)) * spread for accuracy in c.accuracy]
    for _ in range(count):
        difficulty_N = rng.standard_normal(c.tests)
        yield [
            skill
            - difficulty_N
            - c.shift * rng.standard_normal((c.seeds, 1))
            - c.noise * rng.standard_normal((c.seeds, c.tests))
            for skill in skills
        ]


def truths(condition: Condition) -> dict[str, float]:
    """What an unlimited number of seeds and test examples would show."""
    weak, base, student, ceiling = condition.accuracy
    gap = ceiling - weak
    return {
        "accuracy": student,
        "difference": student - base,
        "pgr": (student - weak) / gap,
        "pgr difference": (student - base) / gap,
    }


def estimates(margins: list[np.ndarray]) -> dict[str, Estimate]:
    """What the program says of an experiment."""
    weak, base, student, ceiling = (Measure(margin_SN > 0) for margin_SN in margins)
    return {
        "accuracy": stats.mean(student),
        "difference": stats.difference(student, base),
        "pgr": stats.pgr(weak, student, ceiling),
        "pgr difference": stats.pgr_difference(weak, student, base, ceiling),
    }


def coverage(condition: Condition, count: int) -> dict[str, tuple[float, int]]:
    """Of each estimate: the share of intervals that contain the truth, and how many there were (`no gap` has none)."""
    truth = truths(condition)
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    for margins in experiments(condition, count):
        for name, found in estimates(margins).items():
            if found.known:
                hits[name].append(found.covers(truth[name]))
    return {name: (float(np.mean(hit)) if hit else math.nan, len(hit)) for name, hit in hits.items()}


def false_alarms(condition: Condition, count: int) -> float:
    """How often two equally good methods differ with p < 0.05."""
    weak, _, student, ceiling = condition.accuracy
    equal = condition._replace(accuracy=(weak, student, student, ceiling))
    alarms = [
        stats.p_value(Measure(student > 0), Measure(base > 0)) < 0.05
        for _, base, student, _ in experiments(equal, count)
    ]
    return float(np.mean(alarms))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    names = list(truths(Condition()))
    print(
        f"{count} experiments each; share of 95 % intervals that contain the truth, in %; p < 0.05 where none differs"
    )
    print(f"{'':44}" + "".join(f"{name:>16}" for name in names) + f"{'p < 0.05':>10}")
    for condition in CONDITIONS:
        found = coverage(condition, count)
        shown = [f"{100 * share:.1f}" + (f" ({n})" if n < count else "") for share, n in found.values()]
        alarms = 100 * false_alarms(condition, count)
        print(f"{condition!s:44}" + "".join(f"{text:>16}" for text in shown) + f"{alarms:10.1f}", flush=True)


if __name__ == "__main__":
    main()
