"""The rows of a cell in, how often weak model, student and ceiling are right where the weak model is so sure, out.

Test examples are put into BINS equal bins by the probability that the weak model gives its own label there, as it gives
labels for transfer. On test, not on transfer: there the student has seen the labels and the ceiling the truth, and what
they predict is memory as well. Final predictions only.

Source: Burns et al. 2023, sec. 5.1 (where students and supervisors disagree); bins as of Guo et al. 2017.
Shapes: S seeds, N test examples.
"""

from __future__ import annotations

import functools

import numpy as np

from w2s.analyze.numbers import resamples, stats
from w2s.analyze.numbers.cells import Bin
from w2s.analyze.numbers.pool import Group, Pool, or_absent, present
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.numbers.stats import Contrasts, Estimate, absent
from w2s.analyze.reading.metrics import Bools
from w2s.analyze.reading.rows import ROLES
from w2s.analyze.reading.scoring import BINS
from w2s.analyze.reading.selection import Taken

KIND = "by confidence"
EMPTY = "no example of this confidence"
TOP, BOTTOM = np.array([1.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0])


def by_confidence(group: Group, pool: Pool) -> tuple[Bin, ...]:
    """The bins that hold examples, of the seeds with weak model and student; none where there are no such seeds, of
    another selection than `final`, and of generated texts, which have no probabilities of classes."""
    test = pool.rows.test
    couple = present(group, ("weak", "student"), pool.rows)
    unfit = group[0]["selection"] != "final" or any(test[model].bin_N is None for model in couple["weak"])
    if unfit or not couple["weak"]:
        return ()
    whole = present(group, ROLES, pool.rows)
    inside, right = _inside(couple["weak"], pool), {role: _right(couple[role], pool) for role in couple}
    by_bin = {k: [Measure(right[role] & inside_SN) for role in couple] for k, inside_SN in inside.items()}
    total = {k: Measure(inside_SN) for k, inside_SN in inside.items()}
    resamples.resampled([*total.values(), *(measure for parts in by_bin.values() for measure in parts)])
    sums_K3 = np.sum([test[model].bins_K3 for model in couple["weak"]], axis=0)
    found = []
    for k, (weak, student) in by_bin.items():
        examples, confidence, _ = sums_K3[k].tolist()
        ends = (k / BINS, (k + 1) / BINS, int(examples), confidence / examples)
        known = pool.once((KIND, k, *couple["weak"]), functools.partial(stats.share, weak, total[k], EMPTY))
        above = or_absent(whole["ceiling"], functools.partial(_ceiling, k, whole["weak"], pool), group, ("ceiling",))
        found.append(Bin(*ends, known, stats.share(student, total[k], EMPTY), above, _gain(student, weak, total[k])))
    return tuple(found)


def _inside(weak: list[Taken], pool: Pool) -> dict[int, Bools]:
    """The examples (S, N) of each bin that has any."""
    bin_SN = np.stack([one for model in weak if (one := pool.rows.test[model].bin_N) is not None])
    return {k: bin_SN == k for k in np.unique(bin_SN).tolist()}


def _right(models: list[Taken], pool: Pool) -> Bools:
    return np.stack([pool.rows.test[model].right_N for model in models])


def _ceiling(k: int, weak: list[Taken], pool: Pool, ceiling: list[Taken]) -> Estimate:
    """The share of one bin that the ceiling is right about, over the seeds that have one; the same for all methods."""

    def share() -> Estimate:
        inside_SN = _inside(weak, pool).get(k)
        if inside_SN is None:
            return absent(EMPTY)
        return stats.share(Measure(_right(ceiling, pool) & inside_SN), Measure(inside_SN), EMPTY)

    return pool.once((KIND, k, *weak, *ceiling), share)


def _gain(student: Measure, weak: Measure, inside: Measure) -> Estimate:
    """(student - weak) / inside, each a mean over seeds and examples."""
    value = (student.mean - weak.mean) / inside.mean
    low, high = np.clip(Contrasts(student, weak, inside).ratio(TOP, BOTTOM), -1.0, 1.0)
    return Estimate(value, float(low), float(high), inside.n, inside.seeds)
