"""Numbers per measure, seed and test example in, estimates with 95 % intervals out. Pure; one fixed random stream.

Shapes: M measures (such as "weak is right", "student is right"), S seeds, N test examples, R resamples.

How an interval is made.

* Test examples: RESAMPLES bootstrap resamples of them. One resample serves every seed, model, method and cell (paired),
  so what two models have in common cancels in their difference.
* Seeds: few, often 3, and resampling 3 things gives intervals that are far too narrow. So the spread over seeds enters
  by its variance, that of the seeds' means over S, of which a normal draw is added to each resample; what the test
  examples alone explain of it (the interaction of seeds and examples) is there once, not twice.
* Few seeds know their own variance badly. The percentiles are therefore expanded (Hesterberg 2015) from those of a
  normal to those of Student's t with 1/df = share/(S - 1) + (1 - share)/(N - 1), where `share` is how much of the
  variance comes from seeds. Satterthwaite would square the shares, and covers 92 % at three seeds; this covers 94 to
  96 %, whatever the share. For two seeds the quantiles themselves are weighted by the shares (Cochran and Cox 1950),
  which covers 94 to 98 %.
* Ratios, such as PGR: those values r for which the interval of `top - r bottom` contains 0 (Fieller 1954), with that
  interval from the same resamples. Percentiles of the ratio itself cover too little where the denominator is noisy.
* Where nothing varies, neither over examples nor over seeds, a bootstrap would say that nothing can. What N examples
  alike cannot exclude is that a share of 1 - 0.025^(1/N) of all examples is otherwise (Clopper and Pearson 1934); the
  interval lets these be as unlike as they can. N is the test examples; for AUROC the pairs of one example of each
  class that share none.
* One seed says nothing of other seeds: the interval is over test examples only.

`benchmarks/coverage.py` measures how often the intervals contain the truth; a test does so on fewer conditions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from w2s.analyze.numbers.resamples import RESAMPLES, Floats, Measure, normal_R, resampled
from w2s.analyze.numbers.spread import LEVEL, Spread

FARTHEST = 2.0**40  # an end of a ratio's interval that is farther away is infinite


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN with a reason where it cannot be computed.

    `low` and `high` are NaN beside a known value where no interval can be given; `reason` says why.
    """

    value: float
    low: float
    high: float
    n: int  # test examples
    seeds: int
    reason: str = ""

    @property
    def known(self) -> bool:
        """False where the value is absent; `reason` then says why."""
        return not math.isnan(self.value)

    @property
    def over(self) -> str:
        """What the interval covers: one seed says nothing about other seeds."""
        return "test examples and seeds" if self.seeds > 1 else "test examples only"

    def covers(self, number: float) -> bool:
        """True where the interval includes `number`; an absent estimate excludes nothing."""
        return not self.known or self.low <= number <= self.high


def absent(reason: str, n: int = 0, seeds: int = 0) -> Estimate:
    """What could not be computed, and why."""
    return Estimate(math.nan, math.nan, math.nan, n, seeds, reason)


class Contrasts:
    """Weighted sums of the means of M measures over the same seeds and examples: values, variances, intervals."""

    def __init__(self, *measures: Measure) -> None:
        self.measures = measures
        self.seeds, self.n, self.trials = measures[0].seeds, measures[0].n, measures[0].trials
        self.mean_M = np.array([measure.mean for measure in measures])

    @functools.cached_property
    def _variances(self) -> tuple[Floats, Floats, Floats]:
        """(M, M) each, for `Spread`: examples and interaction together, interaction, between. The usual two-way mean
        squares, from sums that are exact for indicators."""
        s, n = self.seeds, self.n
        total_MN = np.stack([measure.total_N for measure in self.measures])
        seed_MS = np.stack([measure.seed_S for measure in self.measures])
        x_MSN = np.stack([measure.numbers_SN for measure in self.measures])
        grand_MM = np.outer(self.mean_M, self.mean_M)
        # einsum, not a product of matrices: that may depend on the number of threads in its last digit.
        example_MM = np.einsum("an,bn->ab", total_MN, total_MN) / s
        seed_MM = np.einsum("as,bs->ab", seed_MS, seed_MS) * n
        cells_MM = np.einsum("asn,bsn->ab", x_MSN, x_MSN)
        both_MM = (example_MM - s * n * grand_MM) / max(n - 1, 1)
        between_MM = (seed_MM - s * n * grand_MM) / max(s - 1, 1)
        rest_MM = (cells_MM - example_MM - seed_MM + s * n * grand_MM) / (max(s - 1, 1) * max(n - 1, 1))
        return both_MM / (s * n), rest_MM / (s * n), between_MM / (s * n)

    def value(self, weight_M: Floats) -> float:
        return float(weight_M @ self.mean_M)

    def spread(self, weight_M: Floats) -> Spread:
        both, interaction, between = (float(weight_M @ part_MM @ weight_M) for part_MM in self._variances)
        both, between = max(both, 0.0), max(between, 0.0)
        if self.seeds == 1:
            return Spread(both, 0.0, 0.0, 1, self.n)
        interaction = min(max(interaction, 0.0), both)
        return Spread(both - interaction, interaction, between, self.seeds, self.n)

    def ends(self, weight_M: Floats, confidence: float = LEVEL) -> tuple[float, float]:
        """The interval of a contrast."""
        spread = self.spread(weight_M)
        tail = (1 - confidence) / 2
        value = self.value(weight_M)
        if spread.total == 0.0:
            unseen = _unseen(self.trials, confidence)
            least, most = float(np.minimum(weight_M, 0.0).sum()), float(np.maximum(weight_M, 0.0).sum())
            return value - unseen * (value - least), value + unseen * (most - value)
        deviations = resampled(self.measures)
        draw_R = sum(
            (weight * deviation_R for weight, deviation_R in zip(weight_M, deviations, strict=True)),
            np.zeros(RESAMPLES),
        )
        drawn = spread.examples + spread.interaction  # the variance that the resamples have
        if drawn > spread.total:
            draw_R *= math.sqrt(spread.total / drawn)
        elif drawn < spread.total:
            draw_R += math.sqrt(spread.total - drawn) * normal_R()
        expansion = spread.student(confidence) / float(ndtri(1 - tail))
        low, high = _quantiles(draw_R, tail)
        return value + expansion * low, value + expansion * high

    def ratio(self, top_M: Floats, bottom_M: Floats) -> tuple[float, float]:
        """The interval of the ratio of two contrasts. Bounded where the interval of `bottom` lies above 0; elsewhere
        an end may be infinite."""
        value = self.value(top_M) / self.value(bottom_M)
        here_M = top_M - value * bottom_M
        if self.spread(here_M).total == 0.0:  # such as that of a student that is right where its supervisor is
            low, high = self.ends(here_M)
            return value + low / self.value(bottom_M), value + high / self.value(bottom_M)

        def end(side: int) -> float:
            """0 below the value: the first r below it whose contrast is wholly above 0; 1 above: wholly below."""
            direction = -1.0 if side == 0 else 1.0

            def excess(distance: float) -> float:
                low, high = self.ends(top_M - (value + direction * distance) * bottom_M)
                return low if side == 0 else -high

            def smooth(distance: float) -> float:
                spread = self.spread(top_M - (value + direction * distance) * bottom_M)
                return distance * self.value(bottom_M) - spread.student(LEVEL) * math.sqrt(spread.total)

            return value + direction * _root(excess, smooth)

        return end(0), end(1)


def _root(excess: Callable[[float], float], smooth: Callable[[float], float]) -> float:
    """Where `excess` of a distance comes to 0 from below; infinite where it does not. `smooth` is nearly the same and
    fast, so that its root is looked for first."""
    far = 1.0
    while smooth(far) < 0.0:
        far *= 2
        if far > FARTHEST:
            return math.inf
    guess = float(brentq(smooth, 0.0, far, rtol=1e-3))
    near, far = 0.9 * guess, 1.1 * guess
    below, above = excess(near), excess(far)
    if below >= 0.0:
        near, far, below, above = 0.0, near, excess(0.0), below
    while above < 0.0:
        near, far, below = far, 2 * far, above
        above = excess(far)
        if far > FARTHEST:
            return math.inf
    for _ in range(2):  # by the chord: in so narrow a bracket the curve is nearly straight
        middle = near - below * (far - near) / (above - below)
        found = excess(middle)
        if found < 0.0:
            near, below = middle, found
        else:
            far, above = middle, found
    return near - below * (far - near) / (above - below) if above > below else near


def _unseen(trials: float, confidence: float = LEVEL) -> float:
    """The largest share of a population that may be unlike so many trials that are all alike. Source: Clopper and
    Pearson 1934."""
    return float(1.0 - ((1 - confidence) / 2) ** (1 / trials))


def _quantiles(draw_R: Floats, tail: float) -> tuple[float, float]:
    """The `tail` and 1 - `tail` quantiles, interpolated as numpy does, by one partition."""
    place = (len(draw_R) - 1) * tail
    below = int(place)
    part = place - below
    last = len(draw_R) - 1
    draw_R.partition([below, below + 1, last - below - 1, last - below])
    low = draw_R[below] + part * (draw_R[below + 1] - draw_R[below])
    high = draw_R[last - below] - part * (draw_R[last - below] - draw_R[last - below - 1])
    return float(low), float(high)


# -- estimates ------------------------------------------------------------------------------------------------------


def _lacking(*measures: Measure) -> Estimate | None:
    """What to say where there is nothing to take a mean of."""
    seeds, n = measures[0].seeds, measures[0].n
    return None if seeds and n else absent("no test examples" if seeds else "no seeds", n, seeds)


def _weights(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float64)


def mean(measure: Measure, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """The mean over seeds and examples, such as an accuracy or an AUROC; the interval is cut at `bounds`."""
    lacking = _lacking(measure)
    if lacking is not None:
        return lacking
    low, high = np.clip(Contrasts(measure).ends(_weights(1.0)), *bounds)
    return Estimate(measure.mean, float(low), float(high), measure.n, measure.seeds)


def difference(a: Measure, b: Measure) -> Estimate:
    """Mean of a less mean of b, paired by seed and example; from -1 to 1."""
    lacking = _lacking(a, b)
    if lacking is not None:
        return lacking
    contrasts = Contrasts(a, b)
    low, high = np.clip(contrasts.ends(_weights(1.0, -1.0)), -1.0, 1.0)
    return Estimate(a.mean - b.mean, float(low), float(high), a.n, a.seeds)


def p_value(a: Measure, b: Measure) -> float:
    """Two-sided, that a and b have the same mean, paired by seed and example; NaN where there is nothing to compare."""
    if _lacking(a, b) is not None:
        return math.nan
    value, spread = a.mean - b.mean, Contrasts(a, b).spread(_weights(1.0, -1.0))
    if spread.total == 0.0:  # the level at which the interval of `Contrasts.ends` reaches 0; of 1, the sign test's
        return min(1.0, 2.0 * (1.0 + abs(value)) ** -a.trials)
    return spread.p_value(value)


def share(part: Measure, whole: Measure, reason: str) -> Estimate:
    """How much of the examples marked in `whole` is also marked in `part`, which marks no others; `reason` says what it
    means that there are none."""
    lacking = _lacking(whole)
    if lacking is not None:
        return lacking
    if whole.mean == 0.0:
        return absent(reason, whole.n, whole.seeds)
    if part.mean in (0.0, whole.mean):  # none of them or all: an interval by how many there are
        unseen = _unseen(whole.n * whole.mean)
        low, high = (0.0, unseen) if part.mean == 0.0 else (1.0 - unseen, 1.0)
    else:
        low, high = np.clip(Contrasts(part, whole).ratio(_weights(1.0, 0.0), _weights(0.0, 1.0)), 0.0, 1.0)
    return Estimate(part.mean / whole.mean, float(low), float(high), whole.n, whole.seeds)


def pgr(weak: Measure, student: Measure, ceiling: Measure) -> Estimate:
    """Performance gap recovered, (student - weak) / (ceiling - weak), each a mean over seeds and examples.

    NaN with the reason `no gap` where the interval of ceiling - weak covers 0 or lies below it.
    Source: Burns et al. 2023, sec. 3.
    """
    top, bottom = _weights(-1.0, 1.0, 0.0), _weights(-1.0, 0.0, 1.0)
    return _over_gap(weak, ceiling, lambda: (Contrasts(weak, student, ceiling), top, bottom))


def pgr_difference(weak: Measure, student: Measure, baseline: Measure, ceiling: Measure) -> Estimate:
    """PGR of one method less PGR of another for the same weak model and ceiling, paired by seed and example."""
    top, bottom = _weights(0.0, 1.0, -1.0, 0.0), _weights(-1.0, 0.0, 0.0, 1.0)
    return _over_gap(weak, ceiling, lambda: (Contrasts(weak, student, baseline, ceiling), top, bottom))


def pgr_noise(weak: Measure, student: Measure, baseline: Measure | None, ceiling: Measure) -> Spread | None:
    """The variance of the student's difference from the baseline's in units of PGR, which decides what a test can see;
    without a baseline that of the PGR itself, to first order. None where there is no gap, or nothing varies: what was
    not seen once cannot be scaled to other numbers of seeds and examples."""
    gap = ceiling.mean - weak.mean
    if _lacking(weak, student, ceiling) is not None or not difference(ceiling, weak).low > 0:
        return None
    if baseline is not None:
        spread = Contrasts(student, baseline).spread(_weights(1.0, -1.0))
    else:
        r = (student.mean - weak.mean) / gap
        spread = Contrasts(weak, student, ceiling).spread(_weights(r - 1.0, 1.0, -r))
    return spread.scaled(1 / gap) if spread.total > 0.0 else None


def _over_gap(weak: Measure, ceiling: Measure, parts: Callable[[], tuple[Contrasts, Floats, Floats]]) -> Estimate:
    gap = difference(ceiling, weak)
    if not gap.known:
        return gap
    if gap.low <= 0:
        said = f"no gap: ceiling - weak = {gap.value:.3f} [{gap.low:.3f}, {gap.high:.3f}]"
        return absent(said, gap.n, gap.seeds)
    contrasts, top_M, bottom_M = parts()
    low, high = contrasts.ratio(top_M, bottom_M)
    return Estimate(contrasts.value(top_M) / contrasts.value(bottom_M), low, high, gap.n, gap.seeds)
