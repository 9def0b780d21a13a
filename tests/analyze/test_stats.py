"""Intervals against closed forms, and their coverage where the truth is known."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

import w2s
from w2s.analyze.numbers import resamples, spread, stats
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.numbers.spread import Spread
from w2s.analyze.numbers.stats import Contrasts
from w2s.analyze.reading.metrics import placements


def draws(shape, p, seed=0):
    return np.random.default_rng(seed).random(shape) < p


def first(count, n=1000):
    """Right about the first so many examples."""
    return Measure(np.arange(n)[None] < count)


def weights(*numbers):
    return np.array(numbers, dtype=np.float64)


# -- resamples ------------------------------------------------------------------------------------------------------


def test_one_seed_has_the_binomial_standard_error():
    x = Measure(draws((1, 900), 0.7))
    assert x.deviation_R.std() == pytest.approx(math.sqrt(x.mean * (1 - x.mean) / 900), rel=0.02)
    assert x.deviation_R.mean() == pytest.approx(0.0, abs=3 * x.deviation_R.std() / math.sqrt(resamples.RESAMPLES))


def test_resamples_are_those_of_the_weights_for_indicators_and_for_real_numbers():
    whole, real = draws((3, 200), 0.6), np.random.default_rng(0).normal(0.5, 3.0, (3, 200))
    weight_RN = resamples.example_weights(200, resamples.RESAMPLES).astype(np.float64)
    assert weight_RN.sum(axis=1).tolist() == [200.0] * resamples.RESAMPLES
    for x_SN in (whole, real):
        exact_R = weight_RN @ x_SN.mean(axis=0) / 200 - x_SN.mean()
        np.testing.assert_allclose(Measure(x_SN).deviation_R, exact_R, atol=1e-8)


def test_measures_resampled_together_or_alone_are_the_same_digit_by_digit():
    xs = [draws((2, 300), 0.6), draws((2, 300), 0.8, 1), np.random.default_rng(2).normal(size=(2, 300))]
    together = resamples.resampled([Measure(x) for x in xs])
    for x_SN, deviation_R in zip(xs, together, strict=True):
        np.testing.assert_array_equal(Measure(x_SN).deviation_R, deviation_R)


def test_very_many_examples_are_drawn_in_parcels_with_the_same_spread():
    n = 5 * resamples.MAX_WEIGHTED + 7
    a, b = Measure(draws((1, n), 0.6, 1)), Measure(draws((1, n), 0.8, 2))
    assert a.deviation_R.std() == pytest.approx(a.total_N.std() / math.sqrt(n), rel=0.05)
    found = stats.difference(a, b)
    centre, half = (found.low + found.high) / 2, (found.high - found.low) / 2
    assert centre == pytest.approx(found.value, abs=0.1 * half)
    assert half == pytest.approx(1.96 * math.sqrt(Contrasts(a, b).spread(weights(1, -1)).total), rel=0.05)
    assert resamples.example_weights(resamples.MAX_WEIGHTED, resamples.RESAMPLES).shape[1] == resamples.MAX_WEIGHTED


def test_the_stream_is_fixed_and_estimates_do_not_depend_on_what_ran_before():
    x = draws((2, 300), 0.6)
    before = stats.mean(Measure(x))
    stats.pgr(Measure(draws((2, 300), 0.5, 1)), Measure(x), Measure(draws((2, 300), 0.9, 2)))
    assert stats.mean(Measure(x)) == before
    assert resamples.stream("a").random() == resamples.stream("a").random() != resamples.stream("b").random()


# -- variances and quantiles ----------------------------------------------------------------------------------------


def test_a_spread_is_that_of_a_two_way_analysis_of_variance():
    """Mean squares written out, for the contrast of two measures."""
    rng = np.random.default_rng(0)
    difficulty_N, noise = rng.random(50), 0.3 * rng.standard_normal((2, 4, 50))
    a, b = difficulty_N + noise[0] < 0.7, 0.3 * difficulty_N + noise[1] < 0.3
    d = a.astype(float) - b.astype(float)
    seed_S, example_N, grand = d.mean(axis=1), d.mean(axis=0), d.mean()
    between = 50 * ((seed_S - grand) ** 2).sum() / 3
    examples = 4 * ((example_N - grand) ** 2).sum() / 49
    rest = ((d - seed_S[:, None] - example_N[None] + grand) ** 2).sum() / (3 * 49)
    found = Contrasts(Measure(a), Measure(b)).spread(weights(1, -1))
    assert examples > rest
    assert found.interaction == pytest.approx(rest / 200)
    assert found.examples == pytest.approx((examples - rest) / 200)
    assert found.between == pytest.approx(between / 200)
    assert found.total == pytest.approx(((examples - rest) + between) / 200)


def test_one_seed_has_the_spread_of_its_examples():
    x = draws((1, 500), 0.3)
    found = Contrasts(Measure(x)).spread(weights(1))
    assert found.total == pytest.approx(x.var(ddof=1) / 500)
    assert found.share == 0.0


def covered(spread_of, seeds, of_seeds, interaction):
    """How often `value +- t sqrt(total)` contains the truth, by integration: a normal value, a known variance 1 from
    examples, and an estimate of that from seeds (of_seeds + interaction) which is chi-squared."""
    true = of_seeds + interaction
    between = true * scipy_stats.chi2.ppf((np.arange(400) + 0.5) / 400, seeds - 1) / (seeds - 1)
    half = [spread_of(Spread(1.0, interaction, float(b), seeds, 10**6)) for b in between]
    return float(np.mean(2 * scipy_stats.norm.cdf(np.array(half) / math.sqrt(1 + true)) - 1))


CASES = [(v, i) for v in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0) for i in (0.01, 0.3, 2.0)]


@pytest.mark.parametrize(
    ("seeds", "low", "high"), [(2, 0.93, 0.985), (3, 0.94, 0.965), (4, 0.945, 0.965), (8, 0.948, 0.96)]
)
def test_quantiles_cover_whatever_share_of_the_variance_comes_from_seeds(seeds, low, high):
    found = [covered(lambda s: s.student(0.95) * math.sqrt(s.total), seeds, v, i) for v, i in CASES]
    assert low <= min(found)
    assert max(found) <= high


def test_satterthwaites_degrees_of_freedom_would_not():
    def satterthwaite(spread):
        df = spread.total**2 / max(spread.between**2 / (spread.seeds - 1), 1e-12)
        return float(scipy_stats.t.ppf(0.975, df)) * math.sqrt(spread.total)

    assert min(covered(satterthwaite, 3, v, i) for v, i in CASES) < 0.93


# -- intervals against closed forms ---------------------------------------------------------------------------------


def test_interval_of_an_accuracy_is_close_to_scipys():
    x = draws((1, 1000), 0.8)
    found = stats.mean(Measure(x))
    exact = scipy_stats.binomtest(int(x.sum()), 1000).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.004)
    assert found.over == "test examples only"


def test_difference_is_paired():
    """Var(a - b) = Var(a) + Var(b) - 2 Cov(a, b): far less than unpaired where the two mostly agree."""
    a = draws((1, 1000), 0.7)
    b = a.copy()
    b[0, :60] = ~b[0, :60]
    d = a.astype(float) - b.astype(float)
    found = stats.difference(Measure(a), Measure(b))
    assert found.value == pytest.approx(d.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * d.std() / math.sqrt(1000), rel=0.03)
    unpaired = 1.96 * math.sqrt((a.var() + b.var()) / 1000)
    assert (found.high - found.low) / 2 < 0.6 * unpaired


def test_seeds_that_differ_have_the_interval_of_student_t():
    """Each seed is right about a fixed share of so many examples that only the spread over seeds is left."""
    shares = (0.60, 0.70, 0.80)
    n = 20_000
    x = np.stack([np.random.default_rng(seed).permutation(n) < share * n for seed, share in enumerate(shares)])
    found = stats.mean(Measure(x))
    exact = scipy_stats.t.interval(0.95, 2, loc=0.7, scale=np.std(shares, ddof=1) / math.sqrt(3))
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx(exact, abs=0.01)
    assert found.over == "test examples and seeds"


def fieller(weak, student, ceiling, quantile):
    """The roots of (top - r bottom)^2 = quantile^2 Var(top - r bottom), for one seed."""
    top, bottom = student - weak, ceiling - weak
    n = len(top)
    v = np.cov(np.stack([top, bottom])) / n
    a = bottom.mean() ** 2 - quantile**2 * v[1, 1]
    b = -2 * (top.mean() * bottom.mean() - quantile**2 * v[0, 1])
    c = top.mean() ** 2 - quantile**2 * v[0, 0]
    return np.sort(np.roots([a, b, c]))


@pytest.mark.parametrize("ceiling", [0.725, 0.80, 0.90])
def test_interval_of_pgr_is_fiellers(ceiling):
    """A barely known gap, for which the interval is long and lop-sided, and clear ones."""
    latent = np.random.default_rng(1).random(2000)
    models = [latent + 0.1 * np.random.default_rng(k).standard_normal(2000) for k in (2, 3, 4)]
    right = [model < level for model, level in zip(models, (0.70, 0.72, ceiling), strict=True)]
    found = stats.pgr(*(Measure(x[None]) for x in right))
    weak, student, best = (x.astype(float) for x in right)
    low, high = fieller(weak, student, best, 1.96)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    if ceiling == 0.725:
        assert high - found.value > 1.3 * (found.value - low) or found.value - low > 1.3 * (high - found.value)


def test_interval_of_an_auroc_is_delongs_and_that_of_a_whole_bootstrap():
    rng = np.random.default_rng(0)
    y = (rng.random(400) < 0.3).astype(int)
    score = np.round(y + rng.normal(0, 1.2, 400), 1)  # with ties
    area = roc_auc_score(y, score)
    found = stats.mean(Measure(placements(score, y)[None]))
    assert found.value == pytest.approx(area)
    positive, negative = score[y == 1], score[y == 0]
    above = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = above.mean(axis=1).var(ddof=1) / len(positive) + above.mean(axis=0).var(ddof=1) / len(negative)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.03)
    drawn = [rng.integers(400, size=400) for _ in range(1000)]
    whole = np.quantile([roc_auc_score(y[d], score[d]) for d in drawn], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(whole), abs=0.01)


def test_all_right_has_the_exact_bound_not_a_width_of_zero():
    found = stats.mean(Measure(np.ones((1, 100), dtype=bool)))
    exact = scipy_stats.binomtest(100, 100).proportion_ci(method="exact")
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(exact.low)
    assert stats.mean(Measure(np.zeros((2, 100), dtype=bool))).high == pytest.approx(1 - exact.low)


def constant(value, n, seeds=3):
    return Measure(np.full((seeds, n), value))


@pytest.mark.parametrize("n", [1, 2, 6, 400])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_what_never_varies_has_the_exact_bound_in_every_contrast(n, seeds):
    """A resample of examples that are all alike has no spread, and says nothing of those that were not seen."""
    right, wrong = constant(True, n, seeds), constant(False, n, seeds)
    far = float(scipy_stats.binomtest(n, n).proportion_ci(method="exact").low)
    apart, equal = stats.difference(right, wrong), stats.difference(right, constant(True, n, seeds))
    assert (apart.value, apart.low, apart.high) == pytest.approx((1.0, 2 * far - 1, 1.0))
    assert (equal.value, equal.low, equal.high) == pytest.approx((0.0, far - 1, 1 - far))
    assert stats.p_value(right, wrong) == pytest.approx(scipy_stats.binomtest(n, n).pvalue)  # the sign test
    assert (apart.low > 0) == (stats.p_value(right, wrong) < 0.05)
    assert stats.pgr(wrong, right, right).known == (n > 5)  # five examples are no gap, however wide it looks


def test_a_student_that_is_right_where_its_supervisor_is_has_a_pgr_with_an_interval():
    unseen = 1 - 0.025 ** (1 / 1000)
    for student, value in ((600, 0.0), (800, 1.0)):
        found = stats.pgr(first(600), first(student), first(800))
        assert (found.value, found.low, found.high) == pytest.approx(
            (value, value - unseen / 0.2, value + unseen / 0.2)
        )
        assert stats.pgr_noise(first(600), first(student), first(student), first(800)) is None


@pytest.mark.parametrize("ones", [1, 5, 30])
def test_an_auroc_without_a_mistake_has_the_bound_of_its_pairs(ones):
    y = (np.arange(40) < ones).astype(int)
    perfect = Measure(placements(y, y)[None], trials=min(ones, 40 - ones))
    level = Measure(placements(0 * y, y)[None], trials=min(ones, 40 - ones))
    far = 0.025 ** (1 / min(ones, 40 - ones))
    assert (stats.mean(perfect).low, stats.mean(perfect).high) == pytest.approx((far, 1.0))
    assert (stats.mean(level).low, stats.mean(level).high) == pytest.approx((far / 2, 1 - far / 2))
    found = stats.difference(perfect, level)
    assert (found.low > 0) == (stats.p_value(perfect, level) < 0.05) == (ones > 5)


def test_two_seeds_of_one_example_have_numbers():
    x = Measure(np.array([[True], [False]]))
    assert not math.isnan(stats.mean(x).low)
    assert not math.isnan(stats.p_value(x, Measure(np.array([[False], [False]]))))


# -- coverage, simulated --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulation():
    """benchmarks/coverage.py, which does the same for more conditions and twice as many experiments."""
    file = Path(w2s.__file__).parent.parent / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("w2s_coverage", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["w2s_coverage"] = module
    spec.loader.exec_module(module)
    return module


def within(share: float, experiments: int) -> bool:
    """Three standard errors about 0.95: 0.93 to 0.97 of 1,000 experiments."""
    return abs(share - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / experiments)


@pytest.mark.parametrize(
    ("shift", "experiments"),
    [(0.1, 200), *(pytest.param(shift, 1000, marks=pytest.mark.recipe) for shift in (0.0, 0.1))],
)
def test_intervals_at_three_seeds_cover_the_truth(simulation, shift, experiments):
    """Of accuracy, differences, PGR and PGR differences, with and without a spread over seeds."""
    found = simulation.coverage(simulation.Condition(tests=300, shift=shift), experiments)
    for name, (share, known) in found.items():
        assert within(share, experiments), name
        assert known >= 0.8 * experiments, name


def test_false_alarms_are_as_rare_as_the_level_says(simulation):
    assert 0.03 <= simulation.false_alarms(simulation.Condition(tests=300, shift=0.05), 1000) <= 0.07


def test_intervals_over_examples_only_would_not_cover(simulation):
    """Negative control: what a bootstrap over examples alone makes of three seeds that differ."""
    condition = simulation.Condition(tests=300, shift=0.3)
    truth, hits = simulation.truths(condition)["accuracy"], 0
    for margins in simulation.experiments(condition, 100):
        student = Measure(margins[2] > 0)
        low, high = student.mean + np.quantile(student.deviation_R, [0.025, 0.975])
        hits += low <= truth <= high
    assert hits < 70


# -- PGR ------------------------------------------------------------------------------------------------------------


def test_pgr_by_hand():
    found = stats.pgr(first(600), first(700), first(800))
    assert found.value == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert found.reason == ""


@pytest.mark.parametrize(("weak", "ceiling"), [(700, 705), (700, 700), (800, 600)])
def test_no_gap_is_absent_with_its_reason(weak, ceiling):
    rng = np.random.default_rng(0)
    w, c = (Measure(rng.permutation(1000)[None] < k) for k in (weak, ceiling))
    for found in (stats.pgr(w, w, c), stats.pgr_difference(w, w, c, c)):
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert found.reason.startswith("no gap: ceiling - weak = ")
        assert not found.known
    assert stats.pgr_noise(w, w, None, c) is None


def test_the_interval_of_pgr_is_finite_wherever_there_is_a_gap():
    """The closer the gap's interval comes to 0, the longer that of PGR."""
    rng = np.random.default_rng(0)
    weak = Measure(rng.random((1, 300)) < 0.7)
    lengths = []
    for ceiling in (0.95, 0.85, 0.80, 0.78, 0.77):
        found = stats.pgr(weak, weak, Measure(np.random.default_rng(5).random((1, 300)) < ceiling))
        if found.known:
            assert math.isfinite(found.low)
            assert math.isfinite(found.high)
            lengths.append(found.high - found.low)
    assert len(lengths) >= 2
    assert lengths == sorted(lengths)


def test_pgr_difference_is_zero_with_itself_and_signed_otherwise():
    same = stats.pgr_difference(first(600), first(750), first(750), first(800))
    unseen = 1 - 0.025 ** (1 / 1000)  # what a thousand equal answers do not exclude, over a gap of 0.2
    assert (same.value, same.low, same.high) == pytest.approx((0.0, -unseen / 0.2, unseen / 0.2))
    found = stats.pgr_difference(first(600), first(750), first(700), first(800))
    assert found.value == pytest.approx(0.25)
    assert found.low > 0


# -- tests and power ------------------------------------------------------------------------------------------------


def test_p_of_one_seed_is_that_of_a_paired_t_test_over_examples():
    a, b = draws((1, 400), 0.70, 1), draws((1, 400), 0.77, 2)
    expected = scipy_stats.ttest_rel(a[0].astype(float), b[0].astype(float)).pvalue
    assert stats.p_value(Measure(a), Measure(b)) == pytest.approx(expected, rel=1e-6)


def test_p_where_seeds_decide_is_that_of_a_paired_t_test_over_seeds():
    """In each seed one method is right where the other is, and on a number of examples more that differs by seed."""
    n, more = 100_000, (700, 1400, 4000, 2500)
    rng = np.random.default_rng(0)
    base = np.stack([rng.permutation(n) < 0.5 * n for _ in more])
    ours = base.copy()
    for s, count in enumerate(more):
        ours[s, rng.choice(np.flatnonzero(~base[s]), count, replace=False)] = True
    expected = scipy_stats.ttest_rel(ours.mean(axis=1), base.mean(axis=1)).pvalue
    assert stats.p_value(Measure(ours), Measure(base)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_p_is_below_the_level_where_the_interval_excludes_zero(seeds):
    rng = np.random.default_rng(4)
    agreed = 0
    for trial in range(40):
        a = Measure(rng.random((seeds, 400)) < 0.70)
        b = Measure(rng.random((seeds, 400)) < 0.70 + 0.004 * trial)
        found, p = stats.difference(a, b), stats.p_value(a, b)
        agreed += found.covers(0.0) == (p >= 0.05)
    assert agreed >= 38  # percentiles of resamples and the normal quantile differ a little


def test_p_of_a_method_against_itself_is_one_and_of_nothing_is_absent():
    x = Measure(draws((3, 100), 0.5))
    assert stats.p_value(x, x) == 1.0
    assert math.isnan(stats.p_value(Measure(np.zeros((0, 5), dtype=bool)), Measure(np.zeros((0, 5), dtype=bool))))


def test_holm_by_hand():
    """As R's p.adjust(c(0.01, 0.04, 0.03), "holm"); what is absent counts for nothing."""
    assert spread.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = spread.holm([0.5, math.nan, 0.02])
    assert found[::2] == pytest.approx([0.5, 0.04])
    assert math.isnan(found[1])
    assert spread.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_needed_test_examples_by_the_textbook():
    """n = (z_0.975 + z_0.8)^2 variance / effect^2, where seeds add nothing."""
    noise = Spread(examples=4.0 / 600, interaction=0.0, between=0.0, seeds=3, n=600)
    found = spread.needed(noise, 0.1, 0.8)
    assert found.tests == pytest.approx(2.8016**2 * 4.0 / 0.01, rel=0.02)
    assert found.seeds == math.inf  # no number of seeds makes up for 600 examples
    assert found.both_tests == pytest.approx(found.tests, rel=0.15)
    assert found.both_seeds == pytest.approx(found.both_tests / 200)


def test_needed_seeds_show_the_effect_and_one_fewer_does_not():
    noise = Spread(examples=0.0001, interaction=0.0002, between=0.01, seeds=3, n=600)
    count = int(spread.needed(noise, 0.1, 0.8).seeds)

    def shown(seeds):
        spread = noise.at(seeds, 600)
        return (spread.student(0.95) + 0.8416) * math.sqrt(spread.total) <= 0.1

    assert shown(count)
    assert not shown(count - 1)
    assert 5 < count < 30
    assert spread.needed(noise, 0.1, 0.8).tests == math.inf


def test_a_spread_elsewhere_is_that_of_the_larger_experiment():
    rng = np.random.default_rng(0)

    def experiment(seeds, n):
        margin = 0.8 - rng.standard_normal(n) - 0.3 * rng.standard_normal((seeds, 1)) - rng.standard_normal((seeds, n))
        return Contrasts(Measure(margin > 0)).spread(weights(1))

    small, large = ([experiment(*size) for _ in range(300)] for size in ((3, 200), (6, 800)))
    predicted = np.mean([spread.at(6, 800).total for spread in small])
    assert predicted == pytest.approx(np.mean([spread.total for spread in large]), rel=0.15)


# -- shares and absence ---------------------------------------------------------------------------------------------


def test_a_share_and_its_absence():
    part = Measure(np.array([[True, False, False, False] * 50]))
    whole = Measure(np.array([[True, False, True, False] * 50]))
    found = stats.share(part, whole, "none")
    assert found.value == 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(100), rel=0.05)  # of the 100 marked
    assert stats.share(part, Measure(np.zeros((1, 200), dtype=bool)), "none there").reason == "none there"
    assert stats.mean(Measure(np.zeros((0, 5), dtype=bool))).reason == "no seeds"
    assert stats.mean(Measure(np.zeros((2, 0), dtype=bool))).reason == "no test examples"


def test_a_share_of_a_handful_stays_between_zero_and_one():
    hit, among = np.zeros((1, 100), dtype=bool), np.zeros((1, 100), dtype=bool)
    among[0, :2] = hit[0, 0] = True
    found = stats.share(Measure(hit), Measure(among), "none")
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_a_share_of_all_or_none_has_the_exact_bound_by_those_marked(count):
    among = np.arange(100)[None] < np.full((2, 1), count)
    exact = scipy_stats.binomtest(count, count).proportion_ci(method="exact").low
    found = stats.share(Measure(among), Measure(among.copy()), "none")
    assert (found.value, found.low, found.high) == pytest.approx((1.0, exact, 1.0))
    found = stats.share(Measure(among & False), Measure(among), "none")
    assert (found.value, found.low, found.high) == pytest.approx((0.0, 0.0, 1 - exact))


def test_an_absent_estimate_excludes_nothing():
    assert stats.absent("why").covers(0.0)
    assert not stats.Estimate(1.0, 0.5, 1.5, 10, 1).covers(0.0)
