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
* One seed says nothing of other seeds: the interval is over test examples only.

`benchmarks/coverage.py` measures how often the intervals contain the truth; a test does so on fewer conditions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from w2s.randomness import stream_seed

RESAMPLES = 10_000
LEVEL = 0.95
MAX_WEIGHTED = 4_000  # test examples; the weights of so many take 160 MB, and more are drawn in parcels
DIGITS = 4  # of 8 bits each: the precision to which numbers that are not whole enter resamples
SMALLEST_P = 1e-12
MOST_SEEDS, MOST_TESTS = 1_000, 10_000_000  # beyond which nobody goes
FARTHEST = 2.0**40  # an end of a ratio's interval that is farther away is infinite

Floats = NDArray[np.float64]
Values = NDArray[np.bool_] | Floats


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


def stream(name: str) -> np.random.Generator:
    """The random stream of that name: the same numbers at every call, in every process."""
    return np.random.default_rng(stream_seed(0, "analyze", name))


# -- resamples ------------------------------------------------------------------------------------------------------


class Measure:
    """A number for each seed and test example, (S, N): is the model right (0 or 1), its AUROC's placement, ...

    What is computed from it once serves every estimate that it takes part in.
    """

    def __init__(self, x_SN: Values) -> None:
        self.x_SN = x_SN

    @property
    def seeds(self) -> int:
        return int(self.x_SN.shape[0])

    @property
    def n(self) -> int:
        return int(self.x_SN.shape[1])

    @functools.cached_property
    def numbers_SN(self) -> Floats:
        return self.x_SN.astype(np.float64)

    @functools.cached_property
    def seed_S(self) -> Floats:
        """Means over test examples."""
        return np.asarray(self.numbers_SN.mean(axis=1))

    @functools.cached_property
    def total_N(self) -> Floats:
        """Sums over seeds."""
        return np.asarray(self.numbers_SN.sum(axis=0))

    @property
    def mean(self) -> float:
        return float(self.total_N.sum()) / (self.seeds * self.n)

    @functools.cached_property
    def deviation_R(self) -> Floats:
        """What the mean of each resample of test examples differs from the mean by."""
        return resampled([self])[0]


def resampled(measures: Sequence[Measure]) -> list[Floats]:
    """`deviation_R` of each measure; faster than one by one where there are many. All are over the same examples."""
    missing = [m for m in measures if "deviation_R" not in m.__dict__]
    if missing:
        # As they are drawn: examples one by one or, of very many, in parcels. Ids are hashes, so that any are random.
        units = min(missing[0].n, MAX_WEIGHTED)
        parcel_N = np.arange(missing[0].n) % units
        columns = [_digits(measure, parcel_N, units) for measure in missing]
        weight_RU = example_weights(units, RESAMPLES)
        sums_RK = (weight_RU @ np.concatenate([digits_UK for digits_UK, _, _ in columns], axis=1)).astype(np.float64)
        first = 0
        for measure, (digits_UK, offset, unit) in zip(missing, columns, strict=True):
            count = digits_UK.shape[1]
            sum_R = offset * units + unit * (sums_RK[:, first : first + count] * 256.0 ** np.arange(count)).sum(axis=1)
            measure.__dict__["deviation_R"] = sum_R / (measure.n * measure.seeds)
            first += count
    return [measure.deviation_R for measure in measures]


def _digits(measure: Measure, parcel_N: NDArray[np.int64], units: int) -> tuple[NDArray[np.float32], float, float]:
    """What each unit adds to the deviation of a resample, (U, K) digits of 8 bits, with their offset and unit.

    Sums of whole numbers below 2**24 are exact in float32, so that neither the number of threads nor the library can
    change a digit of a result; and a product in float32 is the fastest there is.
    """
    sum_U = np.bincount(parcel_N, weights=measure.total_N - measure.seeds * measure.mean, minlength=units)
    low, high = float(sum_U.min()), float(sum_U.max())
    unit = (high - low) / (2.0 ** (8 * DIGITS) - 1) or 1.0
    if len(parcel_N) == units and measure.x_SN.dtype == np.bool_ and measure.seeds < 256:  # whole already
        count_U = measure.total_N
        return count_U.astype(np.float32)[:, None], -measure.seeds * measure.mean, 1.0
    whole_U = np.rint((sum_U - low) / unit).astype(np.int64)
    digits_UK = np.stack([(whole_U >> (8 * place)) & 255 for place in range(DIGITS)], axis=1)
    return digits_UK.astype(np.float32), low, unit


@functools.lru_cache(maxsize=3)
def example_weights(n: int, resamples: int) -> NDArray[np.float32]:
    """(R, N): how often each resample drew each of `n` examples. One matrix serves every model, method and cell."""
    weight_RN = np.empty((resamples, n), np.float32)
    rng = stream("examples")
    for first in range(0, resamples, 500):  # in parts: the drawn numbers take twice the memory of the weights
        part_RN = weight_RN[first : first + 500]
        drawn_RN = rng.integers(n, size=part_RN.shape, dtype=np.int64) + n * np.arange(len(part_RN))[:, None]
        part_RN[:] = np.bincount(drawn_RN.ravel(), minlength=part_RN.size).reshape(part_RN.shape)
    weight_RN.flags.writeable = False
    return weight_RN


@functools.cache
def _normal_R() -> Floats:
    """The draws for the spread over seeds."""
    return stream("seeds").standard_normal(RESAMPLES)


# -- the variance of a contrast, a weighted sum of measures' means ---------------------------------------------------


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
            return float(self.share * stdtrit(1, upper) + (1 - self.share) * stdtrit(self.n - 1, upper))
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


class Contrasts:
    """Weighted sums of the means of M measures over the same seeds and examples: values, variances, intervals."""

    def __init__(self, *measures: Measure) -> None:
        self.measures = measures
        self.seeds, self.n = measures[0].seeds, measures[0].n
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
        deviations = resampled(self.measures)
        draw_R = sum(
            (weight * deviation_R for weight, deviation_R in zip(weight_M, deviations, strict=True)),
            np.zeros(RESAMPLES),
        )
        drawn = spread.examples + spread.interaction  # the variance that the resamples have
        if drawn > spread.total:
            draw_R *= math.sqrt(spread.total / drawn)
        elif drawn < spread.total:
            draw_R += math.sqrt(spread.total - drawn) * _normal_R()
        expansion = spread.student(confidence) / float(ndtri(1 - tail))
        value = self.value(weight_M)
        low, high = _quantiles(draw_R, tail)
        return value + expansion * low, value + expansion * high

    def ratio(self, top_M: Floats, bottom_M: Floats) -> tuple[float, float]:
        """The interval of the ratio of two contrasts. Bounded where the interval of `bottom` lies above 0; elsewhere
        an end may be infinite."""
        value = self.value(top_M) / self.value(bottom_M)

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
    if smooth(0.0) >= 0.0:  # no spread at all
        return 0.0
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
    """The mean over seeds and examples, such as an accuracy or an AUROC; the interval is cut at `bounds`.

    Where every example agrees a bootstrap has no spread at all; the exact bound (Clopper and Pearson) stands in.
    """
    lacking = _lacking(measure)
    if lacking is not None:
        return lacking
    if measure.x_SN.dtype == np.bool_ and measure.mean in (0.0, 1.0):
        far = ((1 - LEVEL) / 2) ** (1 / measure.n)
        low, high = (far, 1.0) if measure.mean == 1.0 else (0.0, 1.0 - far)
    else:
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
    return Contrasts(a, b).spread(_weights(1.0, -1.0)).p_value(a.mean - b.mean)


def share_within(hit: Measure, among: Measure, reason: str) -> Estimate:
    """Share of `hit` among the examples marked in `among`; `reason` says what it means that there are none."""
    lacking = _lacking(among)
    if lacking is not None:
        return lacking
    if among.mean == 0.0:
        return absent(reason, among.n, among.seeds)
    both = Measure(hit.x_SN & among.x_SN)  # type: ignore[operator]  # indicators
    ends = np.clip(Contrasts(both, among).ratio(_weights(1.0, 0.0), _weights(0.0, 1.0)), 0.0, 1.0)
    return Estimate(both.mean / among.mean, float(ends[0]), float(ends[1]), among.n, among.seeds)


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
    without a baseline that of the PGR itself, to first order. None where there is no gap."""
    gap = ceiling.mean - weak.mean
    if _lacking(weak, student, ceiling) is not None or not difference(ceiling, weak).low > 0:
        return None
    if baseline is not None:
        return Contrasts(student, baseline).spread(_weights(1.0, -1.0)).scaled(1 / gap)
    r = (student.mean - weak.mean) / gap
    return Contrasts(weak, student, ceiling).spread(_weights(r - 1.0, 1.0, -r)).scaled(1 / gap)


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


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, corrected so that any false alarm in it has the stated probability; NaN stays NaN
    and counts for nothing. Source: Holm 1979."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, so_far = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        so_far = max(so_far, min(1.0, p * (len(order) - rank)))
        corrected[place] = so_far
    return corrected
