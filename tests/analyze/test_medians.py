"""Medians, contests and power from made-up cells: by hand, and against scipy."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats as scipy_stats

from w2s.analyze.numbers.cells import MEASURED, Cell, Measured
from w2s.analyze.numbers.medians import contests, medians, order_interval, power
from w2s.analyze.numbers.spread import Spread
from w2s.analyze.numbers.stats import Estimate, absent

NOISE = Spread(examples=0.002, interaction=0.001, between=0.01, seeds=3, n=600)


def cell(task, pgr, *, method="xent", base=None, pair=("small", "large"), selection="final", reason="", noise=NOISE):
    """A cell with that PGR, whose weak model, student and ceiling have 0.6, 0.6 + 0.3 PGR and 0.9."""
    found = {name: absent("is the baseline") for name in MEASURED}
    for name, value in (("weak", 0.6), ("student", 0.6 + 0.3 * pgr), ("ceiling", 0.9), ("gap", 0.3), ("pgr", pgr)):
        found[name] = Estimate(value, value - 0.01, value + 0.01, 600, 3)
    if reason:
        found["pgr"] = absent(reason)
    if base is not None:
        for name, value in (("difference", 0.3 * (pgr - base)), ("pgr_difference", pgr - base)):
            found[name] = Estimate(value, value - 0.01, value + 0.01, 600, 3)
    measured = Measured(**found, p=math.nan, p_holm=math.nan, noise=None if reason else noise)
    unknown = absent("made up")
    weak, student = pair
    return Cell(
        task=task, weak_model=weak, student_model=student, method=method, selection=selection,
        weak_params=10, student_params=100, weak_flops=math.nan, student_flops=math.nan,
        n=600, n_classes=2, majority_share=0.5, planned=(0, 1, 2), seeds=(0, 1, 2), accuracy=measured, auroc=measured,
        agreement=unknown, agreement_right=unknown, agreement_wrong=unknown, label_accuracy=unknown, baseline="xent",
    )  # fmt: skip


def test_a_median_is_over_tasks_and_counts_what_it_leaves_out():
    values = [0.1, 0.9, 0.4]
    cells = [cell(f"t{i}", v) for i, v in enumerate(values)]
    cells += [
        cell("flat", 0.0, reason="no gap: ceiling - weak = 0.001 [-0.01, 0.02]"),
        cell("lost", 0.0, reason="student failed"),
    ]
    (found,) = medians(cells)
    assert (found.value, found.tasks) == (0.4, 3)
    assert found.left_out == {"no gap": 1, "student failed": 1}
    assert found.accuracy == pytest.approx((0.6, 0.72, 0.9))
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_model_at_chance_leaves_its_task_out():
    poor = cell("poor", -0.4)  # the student has 0.48, below the majority's 0.5
    assert poor.at_chance == ("student",)
    (found,) = medians([poor, cell("good", 0.5)])
    assert (found.value, found.tasks, found.left_out) == (0.5, 1, {"student at chance": 1})


def test_nothing_to_take_a_median_of_is_absent():
    (found,) = medians([cell("t", 0.0, reason="ceiling missing")])
    assert math.isnan(found.value)
    assert (found.tasks, found.left_out) == (0, {"ceiling missing": 1})


def test_pairs_methods_and_selections_have_medians_of_their_own():
    cells = [
        cell("t", 0.1), cell("t", 0.2, method="logconf", base=0.1), cell("t", 0.3, selection="oracle"),
        cell("t", 0.4, pair=("small", "huge")), cell("u", 0.5),
    ]  # fmt: skip
    found = {(m.student_model, m.method, m.selection): m.value for m in medians(cells)}
    assert found == pytest.approx(
        {
            ("large", "xent", "final"): 0.3,
            ("large", "logconf", "final"): 0.2,
            ("large", "xent", "oracle"): 0.3,
            ("huge", "xent", "final"): 0.4,
        }
    )


def test_the_interval_of_a_median_by_the_table():
    """The ranks of the textbook: none below six values, the ends for six, second ones for nine, sixth for 22."""
    for n in range(1, 6):
        assert math.isnan(order_interval(list(range(n)))[0])
    for n, rank in ((6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (22, 6)):
        values = [float(v) for v in range(1, n + 1)]
        assert order_interval(values) == (rank, n + 1 - rank), n


def test_the_interval_of_a_median_covers_it():
    rng = np.random.default_rng(0)
    ends = [order_interval(sorted(rng.exponential(size=22))) for _ in range(2000)]
    hits = np.mean([low <= math.log(2) <= high for low, high in ends])
    exact = 1 - 2 * scipy_stats.binom.cdf(5, 22, 0.5)
    assert hits == pytest.approx(exact, abs=0.015)
    assert exact >= 0.95


def test_a_contest_counts_tasks_and_tests_as_scipy_does():
    ours = [0.5, 0.7, 0.2, 0.9, 0.65, 0.4, 0.8]
    base = [0.4, 0.6, 0.3, 0.5, 0.45, 0.4, 0.5]
    cells = [cell(f"t{i}", b) for i, b in enumerate(base)]
    cells += [cell(f"t{i}", o, method="logconf", base=b) for i, (o, b) in enumerate(zip(ours, base, strict=True))]
    (found,) = contests(cells)
    d = np.array(ours) - np.array(base)
    assert (found.method, found.baseline, found.tasks) == ("logconf", "xent", 7)
    assert (found.wins, found.ties, found.losses) == (5, 1, 1)
    assert found.median_difference == pytest.approx(statistics.median(d))
    assert found.mean_metric_difference == pytest.approx(0.3 * d.mean())
    assert found.sign_p == pytest.approx(scipy_stats.binomtest(5, 6).pvalue)
    assert found.wilcoxon_p == pytest.approx(scipy_stats.wilcoxon(d[d != 0]).pvalue)
    assert found.t_p == pytest.approx(scipy_stats.ttest_rel(ours, base).pvalue)


def test_a_contest_leaves_out_tasks_where_either_side_has_no_pgr():
    cells = [cell("a", 0.4), cell("b", 0.4), cell("c", 0.0, reason="no gap: small")]
    cells += [
        cell("a", 0.5, method="logconf", base=0.4),
        cell("b", 0.5, method="logconf", base=0.4, reason="student failed"),
        cell("c", 0.5, method="logconf", base=0.4),
        cell("d", 0.5, method="logconf", base=0.4),
    ]
    (found,) = contests(cells)
    assert found.tasks == 1
    assert found.left_out == {"student failed": 1, "no gap": 1, "the baseline was not planned here": 1}
    assert all(math.isnan(p) for p in (found.sign_p, found.wilcoxon_p, found.t_p))


def test_equal_methods_make_no_p_value_and_no_warning():
    cells = [cell(t, 0.4) for t in "ab"] + [cell(t, 0.4, method="logconf", base=0.4) for t in "ab"]
    (found,) = contests(cells)
    assert (found.wins, found.ties, found.losses) == (0, 2, 0)
    assert math.isnan(found.wilcoxon_p)


def test_the_last_digit_makes_no_win_and_no_warning():
    cells = [cell(t, 0.0) for t in "abc"]
    for task, last in zip("abc", (0.0, 1e-17, -1e-17), strict=True):
        cells.append(cell(task, 0.0 + last, method="logconf", base=0.0))
    (found,) = contests(cells)
    assert (found.wins, found.ties, found.losses) == (0, 3, 0)
    nearly = [cell(t, 0.0) for t in "ab"]
    nearly += [cell(t, d, method="logconf", base=0.0) for t, d in zip("ab", (0.3, 0.1 + 0.2), strict=True)]
    (found,) = contests(nearly)
    assert found.wins == 2
    assert math.isnan(found.t_p)


def test_power_is_that_of_the_differences_and_without_any_that_of_pgr():
    quiet = Spread(examples=0.0005, interaction=0.0, between=0.0002, seeds=3, n=600)
    one = power([cell("t", 0.4, noise=quiet)])
    assert one.of == "distance of a PGR from a fixed number"
    two = power([cell("t", 0.4, noise=quiet), cell("t", 0.5, method="logconf", base=0.4)])
    assert two.of == "difference of logconf from xent"
    assert (two.cells, two.present_seeds, two.present_tests) == (1, 3, 600)
    assert one.seeds < two.seeds
    assert one.tests < two.tests


def test_power_of_differences_has_no_part_of_cells_without_a_baseline():
    loud = Spread(examples=0.02, interaction=0.0, between=0.1, seeds=3, n=600)
    own = [cell("t", 0.4), cell("t", 0.5, method="logconf", base=0.4)]
    assert power([*own, cell("u", 0.5, method="logconf", noise=loud)]) == power(own)
    alone = power([cell("t", 0.4), cell("u", 0.5, method="logconf", noise=loud)])
    assert (alone.of, alone.cells) == ("distance of a PGR from a fixed number", 2)


def test_power_says_nothing_where_nothing_is_known_of_seeds():
    alone = Spread(examples=0.002, interaction=0.0, between=0.0, seeds=1, n=600)
    assert power([cell("t", 0.4, noise=alone)]) is None
    assert power([cell("t", 0.4, reason="no gap: small")]) is None
    assert power([cell("t", 0.4, selection="oracle")]) is None
