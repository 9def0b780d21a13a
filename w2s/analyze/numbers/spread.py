"""Variances by what they come from in, quantiles, p-values and what it takes to see an effect out. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
SMALLEST_P = 1e-12
MOST_SEEDS, MOST_TESTS = 1_000, 10_000_000  # beyond which nobody goes


@dataclass(frozen=True)
class Spread:
    """Variance of a contrast's mean over S seeds and N test examples, by what it comes from."""

    examples: float  # the examples, alike in every seed
    interaction: float  # the examples, differently in each seed
    between: float  # of the seeds' means over S; what seeds add, and the interaction once more
    seeds: int
    n: int

    @property
    def total(self) -> float:
        return self.examples + (self.between if self.seeds > 1 else 0.0)

    @property
    def share(self) -> float:
        """Of the seeds in it."""
        return self.between / self.total if self.seeds > 1 and self.total > 0 else 0.0

    def student(self, confidence: float) -> float:
        """The quantile of Student's t, or the weighted one, that a two-sided interval of this confidence takes."""
        upper = (1 + confidence) / 2
        if self.seeds == 2:
            return float(self.share * stdtrit(1, upper) + (1 - self.share) * stdtrit(max(self.n - 1, 1), upper))
        inverse = (1 - self.share) / max(self.n - 1, 1)
        if self.seeds > 2:
            inverse += self.share / (self.seeds - 1)
        return float(stdtrit(1 / inverse, upper))

    def p_value(self, value: float) -> float:
        """Two-sided, that the contrast is 0: the smallest level at which the (normal) interval around `value` would
        not contain 0."""
        if value == 0.0:
            return 1.0
        if self.total == 0.0:
            return 0.0
        distance = abs(value) / math.sqrt(self.total)
        if self.student(1 - SMALLEST_P) <= distance:
            return SMALLEST_P
        log_p = brentq(lambda log: self.student(1 - math.exp(log)) - distance, math.log(SMALLEST_P), 0.0, xtol=1e-10)
        return math.exp(log_p)

    def scaled(self, factor: float) -> Spread:
        """The spread of `factor` times the contrast."""
        f = factor**2
        return Spread(f * self.examples, f * self.interaction, f * self.between, self.seeds, self.n)

    def at(self, seeds: int, n: int) -> Spread:
        """What it would be with so many seeds and test examples. With one seed nothing is known of seeds."""
        interaction = self.interaction * self.n * self.seeds / (n * seeds)
        of_seeds = max(self.between - self.interaction, 0.0) * self.seeds / seeds
        return Spread(self.examples * self.n / n, interaction, of_seeds + interaction, seeds, n)


class Needed(NamedTuple):
    """What shows an effect: more seeds alone, more test examples alone, or both together. Infinite where none do."""

    seeds: float
    tests: float
    both_seeds: float
    both_tests: float


def needed(noise: Spread, effect: float, power: float) -> Needed:
    """How many seeds (at least two) and test examples show a contrast of this size with probability `power`, in a
    two-sided test at 1 - LEVEL. `both` multiplies the present numbers by one factor."""

    def shown(seeds: int, tests: int) -> bool:
        spread = noise.at(seeds, tests)
        return (spread.student(LEVEL) + float(ndtri(power))) * math.sqrt(spread.total) <= effect

    def fewest(most: int, enough: Callable[[int], bool]) -> float:
        if not enough(most):
            return math.inf
        low, high = 2, most
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle + 1, high)
        return float(low)

    seeds = fewest(MOST_SEEDS, lambda count: shown(count, noise.n))
    tests = fewest(MOST_TESTS, lambda count: shown(noise.seeds, count))
    both = fewest(MOST_SEEDS, lambda count: shown(count, math.ceil(noise.n * count / noise.seeds)))
    return Needed(seeds, tests, both, math.ceil(noise.n * both / noise.seeds) if both < math.inf else math.inf)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, corrected so that any false alarm in it has the stated probability; NaN stays NaN
    and counts for nothing. Source: Holm 1979."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, so_far = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        so_far = max(so_far, min(1.0, p * (len(order) - rank)))
        corrected[place] = so_far
    return corrected
