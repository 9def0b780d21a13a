"""Numbers per seed and test example in, what their mean would be for other test examples out; one fixed random stream.

Shapes: S seeds, N test examples, R resamples, U units that are drawn (examples, or parcels of them), K columns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from w2s.randomness import stream_seed

RESAMPLES = 10_000
MAX_WEIGHTED = 4_000  # test examples; the weights of so many take 160 MB, and more are drawn in parcels
DIGITS = 4  # of 8 bits each: the precision to which numbers that are not whole enter resamples

Floats = NDArray[np.float64]
Values = NDArray[np.bool_] | Floats


def stream(name: str) -> np.random.Generator:
    """The random stream of that name: the same numbers at every call, in every process."""
    return np.random.default_rng(stream_seed(0, "analyze", name))


class Measure:
    """A number for each seed and test example, (S, N): is the model right (0 or 1), its AUROC's placement, ...

    What is computed from it once serves every estimate that it takes part in. `trials`: how many independent trials
    from 0 to 1 it holds at least; the test examples, unless it is said to be fewer.
    """

    def __init__(self, x_SN: Values, trials: int | None = None) -> None:
        self.x_SN = x_SN
        self.trials = int(x_SN.shape[1]) if trials is None else trials

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
def normal_R() -> Floats:
    """The draws for the spread over seeds."""
    return stream("seeds").standard_normal(RESAMPLES)
