"""Laws of scale: what numbers they were made of is found again, as scipy finds it; few sizes are refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from w2s.analyze import figures
from w2s.analyze.numbers import scaling
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.scaling import SMALLER, Series, best, fit, fits, laws
from w2s.analyze.numbers.stats import Estimate
from w2s.analyze.reading.rows import load
from w2s.analyze.tables import document, exports, growth

X = np.array([1e6, 3e6, 1e7, 3e7, 1e8])


def law(x, c, a, b):
    return c - a * (x / 1e6) ** -b


def series(y, noise=0.0, x=X):
    draws = np.asarray(y) + noise * np.random.default_rng(0).standard_normal((200, len(y)))
    found = tuple(Estimate(float(v), v - 0.01, v + 0.01, 100, 3) for v in y)
    return Series("movie", "ceiling", "", "", tuple(f"m{i}" for i in range(len(y))), np.asarray(x), found, draws)


def test_the_numbers_of_an_exact_law_are_found_again():
    found = best(X, law(X, 0.9, 0.3, 0.5), 1.0)
    assert found == pytest.approx((0.9, 0.3, 0.5, 1e6), rel=1e-4)
    assert found.at(np.array([4e6])) == pytest.approx(0.9 - 0.3 / 2)  # 4^-0.5


def test_a_noisy_law_is_fitted_as_scipy_does():
    y = law(X, 0.9, 0.3, 0.4) + np.array([0.004, -0.01, 0.006, 0.003, -0.004])
    theirs, _ = curve_fit(law, X, y, p0=[0.8, 0.2, 0.5], bounds=([-9, 0, 0.02], [1, 9, 5]))
    assert best(X, y, 1.0)[:3] == pytest.approx(theirs, rel=1e-3)


def test_a_limit_above_one_is_bounded_and_then_the_rest_is_the_best_there_is():
    y = np.array([0.5, 0.6, 0.7, 0.8, 0.9])  # a straight line: its limit would lie far above 1
    free, bounded = best(X, y, math.inf), best(X, y, 1.0)
    assert free.c > 1.2
    assert bounded.c == 1.0
    theirs, _ = curve_fit(lambda x, a, b: law(x, 1.0, a, b), X, y, p0=[0.5, 0.3])
    assert (bounded.a, bounded.b) == pytest.approx(theirs, rel=1e-3)


def test_resamples_are_fitted_as_the_numbers_themselves_are():
    rows = np.stack([law(X, 0.9, 0.3, 0.5), law(X, 0.7, 0.1, 1.5)])
    for found, wanted in zip(laws(X, rows, 1.0), ((0.9, 0.3, 0.5), (0.7, 0.1, 1.5)), strict=True):
        assert found == pytest.approx(wanted, rel=0.06)  # the exponent is one of a grid


def test_the_largest_model_is_predicted_by_the_others():
    y = law(X, 0.9, 0.3, 0.5)
    good = fit(series(y, 0.002), 1.0)
    assert good.held_out is not None
    assert good.held_out.model == "m4"
    assert good.held_out.predicted == pytest.approx(y[-1], abs=1e-4)
    assert good.held_out.inside
    low = fit(series([*y[:-1], y[-2] - 0.2], 0.002), 1.0)  # negative control: it breaks down
    assert low.held_out is not None
    assert low.held_out.predicted == pytest.approx(y[-1], abs=1e-4)
    assert not low.held_out.inside


def test_bands_hold_the_law_and_are_wider_with_more_noise():
    y = law(X, 0.9, 0.3, 0.5)
    narrow, wide = (fit(series(y, noise), 1.0) for noise in (0.002, 0.01))
    curve = narrow.law.at(narrow.place_X)
    assert ((narrow.low_X < curve) & (curve < narrow.high_X)).all()
    assert (wide.high_X - wide.low_X > 2 * (narrow.high_X - narrow.low_X)).all()


def test_fewer_than_four_sizes_are_refused_and_four_have_no_check():
    three = fit(series([0.6, 0.7, 0.8], x=X[:3]), 1.0)
    assert three.law is None
    assert three.limit.reason == "3 sizes, and a fit needs 4"
    same = fit(series([0.6, 0.7, 0.8, 0.8], x=[1e6, 2e6, 4e6, 4e6]), 1.0)
    assert same.limit.reason == "3 sizes, and a fit needs 4"
    four = fit(series(law(X[:4], 0.9, 0.3, 0.5), x=X[:4]), 1.0)
    assert four.limit.value == pytest.approx(0.9, abs=1e-4)
    assert (four.held_out, four.held_out_reason) == (None, "3 sizes below the largest, and a fit needs 4")


def test_what_does_not_grow_says_so():
    found = fit(series([0.8, 0.8, 0.7, 0.7, 0.6]), 1.0)
    assert found.law.a == 0.0
    assert found.limit.value == pytest.approx(0.72)
    assert found.exponent.reason == found.note == "y does not grow with size"
    straight = fit(series(0.5 + 0.01 * np.log(X / 1e6)), math.inf)
    assert straight.note.startswith("no saturation in sight")


LADDER = [f"pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b")]


@pytest.fixture
def ladder(synthetic):
    made = synthetic(models=LADDER, methods=["xent"], seeds=[0, 1]).fill()
    rows = load("one", made.root)
    return rows, aggregate(rows)


def test_series_of_a_sweep_are_its_ceilings_and_each_supervisors_students(ladder):
    rows, cells = ladder
    found = fits(rows, cells)
    assert [f.series.name for f in found[:3]] == [
        "ceiling", "xent, from pythia-70m", "PGR of xent, from pythia-70m"
    ]  # fmt: skip
    ceiling, students = found[:2]
    assert len(ceiling.series.models) == len(students.series.models) == 5
    for model, x, y in zip(students.series.models, students.series.x_M, students.series.found, strict=True):
        (cell,) = [c for c in cells if c.pair == ("pythia-70m", model)]
        assert (x, y) == (cell.student_params, cell.accuracy.student)
    draws = students.series.draw_RM
    assert draws.shape == (scaling.RESAMPLES, 5)
    spread = [one.high - one.low for one in students.series.found]
    assert draws.mean(axis=0) == pytest.approx([one.value for one in students.series.found], abs=0.01)
    assert 3.92 * draws.std(axis=0) == pytest.approx(spread, rel=0.25)
    assert {f.limit.reason for f in found if (f.series.weak, f.series.of) == ("pythia-410m", "student")} == {
        "3 sizes, and a fit needs 4"
    }


def test_flops_that_fall_with_parameters_are_no_size(ladder):
    rows, cells = ladder
    order = sorted({c.student_params for c in cells})
    for sign, refused in ((1, False), (-1, True)):
        flops = {params: 1e12 * 2.0 ** (sign * place) for place, params in enumerate(order)}
        told = [dataclasses.replace(c, student_flops=flops[c.student_params]) for c in cells]
        students = [f for f in fits(rows, told, size="flops") if f.series.of == "student" and len(f.series.models) >= 4]
        assert students
        assert all((f.limit.reason == SMALLER) is refused for f in students)


def test_laws_stand_in_a_table_and_in_a_file_with_the_reasons_of_those_that_are_refused(ladder):
    rows, cells = ladder
    (sheet,) = [sheet for sheet in document.compose(rows, cells).sheets if sheet.kind == "scaling"]
    assert [column.head for column in sheet.columns][:3] == ["Task", "Accuracy of", "Sizes"]
    assert len(sheet.lines) == sum(f.law is not None for f in fits(rows, cells))
    lines = list(csv.DictReader(io.StringIO(exports.scaling_csv(rows, cells))))
    assert {line["size"] for line in lines} == {"params", "flops"}
    assert len(lines) == len(fits(rows, cells)) * 2
    refused = [line for line in lines if not line["limit"]]
    assert refused
    assert all(line["limit_reason"] for line in refused)
    known = next(line for line in lines if line["limit"])
    assert float(known["limit"]) == fits(rows, cells)[0].limit.value
    assert growth.scaling([], "accuracy") == []


def test_the_figure_has_each_law_with_its_band_and_its_points(ladder):
    rows, cells = ladder
    known = [f for f in fits(rows, cells) if f.law is not None and f.series.of != "pgr"]
    with figures.style():
        drawn = {one.name: one for one in figures.figures(rows, cells)}
    (axes,) = drawn["scaling-movie"].figure.axes
    assert len(axes.collections) == len(known) >= 3  # bands
    curves = {tuple(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == scaling.PLACES}
    assert curves == {tuple(f.law.at(f.place_X)) for f in known}
    points = [tuple(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "None"]
    assert sorted(points) == sorted(tuple(one.value for one in f.series.found) for f in known)
    assert "fitted laws of ceilings and students" in drawn["scaling-movie"].alt
