"""Cells in, what they say together out: median PGR over tasks, methods against a baseline, and what noise hides.

What cannot enter (no gap, at chance, not there) is left out and counted by its reason; nothing is left out silently.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from w2s.analyze.numbers.cells import Cell
from w2s.analyze.numbers.spread import LEVEL, needed
from w2s.analyze.reading.rows import ROLES
from w2s.analyze.reading.selection import diagnostic

EFFECT = 0.1  # the PGR difference that the power note is about
POWER = 0.8
SURE_DIGITS = 12  # of a PGR, after the point


@dataclass(frozen=True)
class Median:
    """Median PGR over tasks of one pair of models, method and selection."""

    weak_model: str
    student_model: str
    method: str
    selection: str
    weak_params: int | None
    student_params: int | None
    value: float  # NaN where no task entered
    low: float  # 95 % interval; NaN for fewer than six tasks, for which there is none
    high: float
    tasks: int  # that entered
    left_out: dict[str, int]  # reason -> tasks
    accuracy: tuple[float, float, float]  # medians of weak, student and ceiling over the tasks that entered

    @property
    def comparison(self) -> tuple[str, str, str, str]:
        """As that of the cells."""
        return self.weak_model, self.student_model, self.method, self.selection


@dataclass(frozen=True)
class Contest:
    """A method against the baseline over tasks, for one pair of models and selection. Differences are of PGR."""

    weak_model: str
    student_model: str
    method: str
    selection: str
    baseline: str
    tasks: int
    wins: int
    ties: int
    losses: int
    median_difference: float
    mean_metric_difference: float  # of the metric itself
    sign_p: float  # two-sided, over tasks; NaN for fewer than two
    wilcoxon_p: float
    t_p: float
    left_out: dict[str, int]

    @property
    def comparison(self) -> tuple[str, str, str, str]:
        """As that of the cells."""
        return self.weak_model, self.student_model, self.method, self.selection


@dataclass(frozen=True)
class Power:
    """What it would take to see a PGR difference of EFFECT with probability POWER at the level of 5 %, by the noise of
    these cells; medians over them. Infinite where more of it alone cannot do."""

    seeds: float  # at `present_tests`
    tests: float  # at `present_seeds`
    both_seeds: float  # together with `both_tests`: the present numbers times one factor
    both_tests: float
    present_seeds: int
    present_tests: int
    cells: int
    of: str  # "difference of logconf from xent", "distance of a PGR from a fixed number"


def medians(cells: Sequence[Cell], metric: str = "accuracy") -> list[Median]:
    """Over the tasks of every pair, method and selection, in the order of the plan.

    The interval is that of order statistics: exact for any distribution of tasks. Source: Conover 1999, sec. 3.2.
    """
    return [_median(own, metric) for own in _by_comparison(cells)]


def _by_comparison(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that differ in their task alone."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.comparison, []).append(cell)
    return list(found.values())


def _median(own: list[Cell], metric: str) -> Median:
    entered = [cell for cell in own if not cell.left_out(metric)]
    why = Counter(cell.left_out(metric) for cell in own if cell.left_out(metric))
    measured = [cell.measured(metric) for cell in entered]
    values = sorted(found.pgr.value for found in measured)
    low, high = order_interval(values)
    first = own[0]
    levels = [[getattr(found, role).value for found in measured] for role in ROLES]
    return Median(
        *first.comparison, first.weak_params, first.student_params,
        _middle(values), low, high, len(entered), dict(why),
        (_middle(levels[0]), _middle(levels[1]), _middle(levels[2])),
    )  # fmt: skip


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def order_interval(ascending: Sequence[float]) -> tuple[float, float]:
    """Interval of the median of what the values were drawn from: the j-th smallest and j-th largest, with j as large as
    the level allows; NaN where there are too few values for any."""
    outside, chosen = 0.0, 0  # probability that fewer than `chosen` values lie below the median
    for j in range(1, len(ascending) // 2 + 1):
        outside += math.comb(len(ascending), j - 1) / 2.0 ** len(ascending)
        if 2 * outside > 1 - LEVEL:
            break
        chosen = j
    return (ascending[chosen - 1], ascending[-chosen]) if chosen else (math.nan, math.nan)


def contests(cells: Sequence[Cell], metric: str = "accuracy") -> list[Contest]:
    """Every method but the baseline, over the tasks where its PGR and the baseline's both enter a median."""
    places = {cell.key: cell for cell in cells}
    found = []
    for own in _by_comparison(cell for cell in cells if not cell.is_baseline):
        why: Counter[str] = Counter()
        entered: list[Cell] = []
        for cell in own:
            base = places.get((cell.task, *cell.pair, cell.baseline, cell.selection))
            reason = cell.left_out(metric) or (base.left_out(metric) if base else "the baseline was not planned here")
            if not reason and not cell.measured(metric).pgr_difference.known:
                reason = cell.measured(metric).pgr_difference.reason.partition(":")[0]
            if reason:
                why[reason] += 1
            else:
                entered.append(cell)
        found.append(_contest(own[0], entered, metric, dict(why)))
    return found


def _contest(first: Cell, entered: list[Cell], metric: str, left_out: dict[str, int]) -> Contest:
    # Equal areas summed in another order differ in their last digit: a tie, and no win.
    differences = [round(cell.measured(metric).pgr_difference.value, SURE_DIGITS) + 0.0 for cell in entered]
    levels = [cell.measured(metric).difference.value for cell in entered]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Contest(
        *first.comparison, first.baseline, len(entered), wins,
        len(entered) - wins - losses, losses, _middle(differences), float(np.mean(levels)) if levels else math.nan,
        *_tests(differences), left_out,
    )  # fmt: skip


def _tests(differences: Sequence[float]) -> tuple[float, float, float]:
    """p-values over tasks: sign test, Wilcoxon's signed ranks, paired t; NaN where they say nothing."""
    moved = [d for d in differences if d != 0.0]
    if len(differences) < 2 or not moved:
        return math.nan, math.nan, math.nan
    from scipy import stats as tests  # slow to import, and only needed here

    sign = float(tests.binomtest(sum(d > 0 for d in moved), len(moved)).pvalue)
    ranks = float(tests.wilcoxon(moved).pvalue)
    # Without any spread t is not defined.
    t = float(tests.ttest_1samp(differences, 0.0).pvalue) if len(set(differences)) > 1 else math.nan
    return sign, ranks, t


def power(cells: Sequence[Cell], metric: str = "accuracy") -> Power | None:
    """By the cells that compare a method with the baseline, or by all where none does; None where no cell of several
    seeds has a PGR. The diagnostic selection has no part in it."""
    usable = [c for c in cells if not diagnostic(c.selection) and c.measured(metric).noise is not None]
    # Where the baseline was not planned a cell has the noise of its own PGR, which is no difference's.
    compared = [cell for cell in usable if not cell.is_baseline and cell.measured(metric).pgr_difference.known]
    of = "distance of a PGR from a fixed number"
    if compared:
        methods = {cell.method for cell in compared}
        baselines = {cell.baseline for cell in compared}
        of = (
            f"difference of {methods.pop() if len(methods) == 1 else 'a method'} "
            f"from {baselines.pop() if len(baselines) == 1 else 'its baseline'}"
        )
    noises = [noise for cell in compared or usable if (noise := cell.measured(metric).noise) and noise.seeds > 1]
    if not noises:
        return None
    found = [needed(noise, EFFECT, POWER) for noise in noises]
    seeds, tests, both_seeds, both_tests = (_whole(_middle(numbers)) for numbers in zip(*found, strict=True))
    return Power(
        seeds,
        tests,
        both_seeds,
        both_tests,
        round(_middle([noise.seeds for noise in noises])),
        round(_middle([noise.n for noise in noises])),
        len(noises),
        of,
    )


def _whole(number: float) -> float:
    """Half a seed is no seed."""
    return float(math.ceil(number)) if math.isfinite(number) else number
