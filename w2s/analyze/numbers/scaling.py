"""Cells of models of several sizes in, saturating power laws y = c - a (x / x_min)^-b with bootstrap bands out.

y is the accuracy (or AUROC) of ceilings or of one supervisor's students, or their PGR; x parameters, or FLOPs of a run.
A law has three numbers, so that fewer than FEWEST sizes are refused: three points would be met exactly. The larger b,
the sooner y comes near its limit c.

* Fit: least squares. For a given b the best a >= 0 and c <= 1 (of PGR any c) follow by arithmetic; b is sought over
  EXPONENTS and then between its neighbours (variable projection: Golub and Pereyra 1973).
* Bands: the same resamples of test examples for every model (`resamples`), the spread over seeds added to each model
  by itself, both widened for few seeds as intervals are (`stats`); each resample is fitted anew, and 95 % of the fits
  lie inside at each x. They say what noise does to a fit, not whether the law is the right one.
* Check: fitted without the largest size, the law predicts it; is what was measured in the band? Needs one size more.

Shapes: M models, R resamples, B exponents, X places of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtri

from w2s.analyze.numbers.cells import Cell
from w2s.analyze.numbers.pool import Pool
from w2s.analyze.numbers.resamples import Floats, Measure, stream
from w2s.analyze.numbers.spread import LEVEL
from w2s.analyze.numbers.stats import Contrasts, Estimate, absent
from w2s.analyze.reading.rows import Rows
from w2s.analyze.reading.selection import ROLES, Taken, diagnostic, taken, variant

FEWEST = 4  # sizes
RESAMPLES = 1000  # of those that intervals are made of, the first
EXPONENTS = np.geomspace(0.02, 5.0, 101)
PLACES = 60  # of a curve
SMALLER = "a larger model took fewer FLOPs: frozen layers that are replayed from a cache do not count"
SERIES = ("ceiling", "student", "pgr")


class Law(NamedTuple):
    """y = c - a (x / unit)^-b."""

    c: float
    a: float
    b: float
    unit: float

    def at(self, x_X: Floats) -> Floats:
        return np.asarray(self.c - self.a * (x_X / self.unit) ** -self.b)


class HeldOut(NamedTuple):
    """The largest model, predicted by the law of all smaller ones."""

    model: str
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Series:
    """What a law is fitted to. `weak` and `method` are empty for ceilings."""

    task: str
    of: str  # of SERIES
    weak: str
    method: str  # with the selection of the student
    models: tuple[str, ...]  # ascending in size
    x_M: Floats
    found: tuple[Estimate, ...]
    draw_RM: Floats  # y of each resample
    grows: bool = True  # False: a model with more parameters took fewer FLOPs

    @property
    def name(self) -> str:
        """Such as `PGR of xent, from weak-3l`."""
        if self.of == "ceiling":
            return "ceiling"
        return f"{'PGR of ' if self.of == 'pgr' else ''}{self.method}, from {self.weak}"


@dataclass(frozen=True)
class Fit:
    """A law and what it says; `limit` (c) and `exponent` (b) are absent with a reason where there is none."""

    series: Series
    law: Law | None
    limit: Estimate
    exponent: Estimate
    place_X: Floats
    low_X: Floats
    high_X: Floats
    held_out: HeldOut | None
    held_out_reason: str = ""
    note: str = ""  # what readers have to know about the law


def fits(rows: Rows, cells: Sequence[Cell], metric: str = "accuracy", size: str = "params") -> list[Fit]:
    """The law of every series, ceilings first; those that none can be fitted to say why."""
    return [fit(series, math.inf if series.of == "pgr" else 1.0) for series in every(rows, cells, metric, size)]


def fit(series: Series, most: float) -> Fit:
    """The law of one series; y lies nowhere above `most`."""
    nothing: Floats = np.empty(0)
    sizes = len(np.unique(series.x_M))
    if sizes < FEWEST:
        lacking = absent(f"{sizes} size{'' if sizes == 1 else 's'}, and a fit needs {FEWEST}")
        return Fit(series, None, lacking, lacking, nothing, nothing, nothing, None, lacking.reason)
    if not series.grows:  # compute would then be no measure of size
        lacking = absent(SMALLER)
        return Fit(series, None, lacking, lacking, nothing, nothing, nothing, None, lacking.reason)
    y_M = np.array([one.value for one in series.found])
    law = best(series.x_M, y_M, most)
    draws = laws(series.x_M, series.draw_RM, most)
    place_X = np.geomspace(series.x_M.min(), series.x_M.max(), PLACES)
    low_X, high_X = _band(draws, law.unit, place_X)
    n, seeds = max(one.n for one in series.found), min(one.seeds for one in series.found)
    ends = [np.quantile(draws[:, column], _tails()) for column in (0, 2)]
    limit = Estimate(law.c, float(ends[0][0]), float(ends[0][1]), n, seeds)
    exponent = Estimate(law.b, float(ends[1][0]), float(ends[1][1]), n, seeds)
    note = ""
    if law.a == 0.0:
        note, exponent = "y does not grow with size", absent("y does not grow with size", n, seeds)
    elif law.b in (EXPONENTS[0], EXPONENTS[-1]):
        end = "no saturation in sight" if law.b == EXPONENTS[0] else "saturated from the second size on"
        note = f"{end}: the exponent is at the end of what is tried"
    held_out, reason = _held_out(series, most)
    return Fit(series, law, limit, exponent, place_X, low_X, high_X, held_out, reason, note)


def _held_out(series: Series, most: float) -> tuple[HeldOut | None, str]:
    largest = int(np.argmax(series.x_M))
    rest = series.x_M < series.x_M[largest]
    left = len(np.unique(series.x_M[rest]))
    if left < FEWEST:
        return None, f"{left} sizes below the largest, and a fit needs {FEWEST}"
    y_M = np.array([one.value for one in series.found])
    law = best(series.x_M[rest], y_M[rest], most)
    at = series.x_M[[largest]]
    low_X, high_X = _band(laws(series.x_M[rest], series.draw_RM[:, rest], most), law.unit, at)
    numbers = (law.at(at)[0], low_X[0], high_X[0], y_M[largest])
    return HeldOut(series.models[largest], *map(float, numbers)), ""


def best(x_M: Floats, y_M: Floats, most: float) -> Law:
    """The law of least squares."""
    unit = float(x_M.min())
    _, _, sse_BR = _given(EXPONENTS, x_M / unit, y_M[None], most)
    place = int(sse_BR[:, 0].argmin())
    b = float(EXPONENTS[place])
    if 0 < place < len(EXPONENTS) - 1:
        around = (float(EXPONENTS[place - 1]), float(EXPONENTS[place + 1]))

        def loss(exponent: float) -> float:
            return float(_given(np.array([exponent]), x_M / unit, y_M[None], most)[2][0, 0])

        b = float(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-8}).x)
    c_BR, a_BR, _ = _given(np.array([b]), x_M / unit, y_M[None], most)
    return Law(float(c_BR[0, 0]), float(a_BR[0, 0]), b, unit)


def laws(x_M: Floats, y_RM: Floats, most: float) -> Floats:
    """(R, 3): c, a, b of each resample, b of EXPONENTS."""
    c_BR, a_BR, sse_BR = _given(EXPONENTS, x_M / x_M.min(), y_RM, most)
    place_R = sse_BR.argmin(axis=0)
    each_R = np.arange(len(y_RM))
    return np.stack([c_BR[place_R, each_R], a_BR[place_R, each_R], EXPONENTS[place_R]], axis=1)


def _given(b_B: Floats, x_M: Floats, y_RM: Floats, most: float) -> tuple[Floats, Floats, Floats]:
    """(B, R) each: the best c and a for given exponents, and the sum of squares that they leave."""
    z_BM = x_M[None, :] ** -b_B[:, None]
    off_BM = z_BM - z_BM.mean(axis=1, keepdims=True)
    slope_BR = np.einsum("bm,rm->br", off_BM, y_RM) / (off_BM**2).sum(axis=1)[:, None]
    a_BR = np.maximum(-slope_BR, 0.0)
    c_BR = y_RM.mean(axis=1)[None, :] + a_BR * z_BM.mean(axis=1)[:, None]
    above = c_BR > most
    if above.any():
        bound_BR = np.einsum("bm,rm->br", z_BM, most - y_RM) / (z_BM**2).sum(axis=1)[:, None]
        a_BR = np.where(above, np.maximum(bound_BR, 0.0), a_BR)
        c_BR = np.minimum(c_BR, most)
    rest_BRM = y_RM[None] - c_BR[..., None] + a_BR[..., None] * z_BM[:, None, :]
    return c_BR, a_BR, (rest_BRM**2).sum(axis=2)


def _band(draws_R3: Floats, unit: float, place_X: Floats) -> tuple[Floats, Floats]:
    c_R, a_R, b_R = draws_R3.T[..., None]
    low_X, high_X = np.quantile(c_R - a_R * (place_X[None] / unit) ** -b_R, _tails(), axis=0)
    return low_X, high_X


def _tails() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


# -- series ------------------------------------------------------------------------------------------------------------


class _Point(NamedTuple):
    model: str
    x: float
    found: Estimate
    draw_R: Floats
    params: int | None


def every(rows: Rows, cells: Sequence[Cell], metric: str, size: str) -> Iterator[Series]:
    """The series of each task: its ceilings; then, by supervisor and method, students and their PGR. A student that the
    ground truth of test chose is a diagnostic and has none."""
    pool, draws = Pool(rows), _Draws()
    honest = [cell for cell in cells if not diagnostic(cell.selection)]
    for task in dict.fromkeys(cell.task for cell in honest):
        own = [cell for cell in honest if cell.task == task]
        once = list({cell.student_model: cell for cell in reversed(own)}.values())
        yield _series(task, "ceiling", "", "", (_point(c, "ceiling", metric, size, pool, draws) for c in once))
        for weak, method, selection in dict.fromkeys((c.weak_model, c.method, c.selection) for c in own):
            line = [c for c in own if (c.weak_model, c.method, c.selection) == (weak, method, selection)]
            for of in ("student", "pgr"):
                points = (_point(c, of, metric, size, pool, draws) for c in line)
                yield _series(task, of, weak, variant(method, selection), points)


def _series(task: str, of: str, weak: str, method: str, points: Iterator[_Point | None]) -> Series:
    kept = sorted((point for point in points if point is not None), key=lambda point: (point.x, point.params or 0))
    finite = np.stack([p.draw_R for p in kept], axis=1) if kept else np.empty((0, 0))
    draw_RM = finite[np.isfinite(finite).all(axis=1)]
    x_M, found = np.array([p.x for p in kept]), tuple(p.found for p in kept)
    params = [p.params for p in kept if p.params is not None]  # in order of x, which are parameters or FLOPs
    return Series(
        task, of, weak, method, tuple(p.model for p in kept), x_M, found, draw_RM, grows=params == sorted(params)
    )


def _point(cell: Cell, of: str, metric: str, size: str, pool: Pool, draws: _Draws) -> _Point | None:
    """None where the model's size or number is not known."""
    x = _size(cell, "ceiling" if of == "ceiling" else "student", size, pool.rows)
    found: Estimate = getattr(cell.measured(metric), of)
    if not found.known or not (math.isfinite(x) and x > 0):
        return None
    roles = (of,) if of != "pgr" else ROLES
    models = {role: [taken(role, getattr(run, role), cell.selection) for run in cell.runs] for role in roles}
    there = [all(m in pool.rows.test for m in seed) for seed in zip(*models.values(), strict=True)]
    data = next((run.data for run in cell.runs if run.data in pool.rows.truth), None)
    if data is None or not any(there):
        return None
    by_role: dict[str, Floats] = {}
    for role, ones in models.items():
        kept = [one for one, is_there in zip(ones, there, strict=True) if is_there]
        by_role[role] = draws.of(pool.measure(metric, data, kept), (metric, data, *kept))
    if of != "pgr":
        return _Point(cell.student_model, x, found, by_role[of], cell.student_params)
    gap_R = by_role["ceiling"] - by_role["weak"]
    with np.errstate(divide="ignore", invalid="ignore"):
        pgr_R = np.where(gap_R > 0, (by_role["student"] - by_role["weak"]) / gap_R, np.nan)
    return _Point(cell.student_model, x, found, pgr_R, cell.student_params)


def _size(cell: Cell, role: str, size: str, rows: Rows) -> float:
    if size == "params":
        return math.nan if cell.student_params is None else float(cell.student_params)
    if role == "student":
        return cell.student_flops
    frame = rows.frame
    own = frame[(frame["task"] == cell.task) & (frame["student"] == cell.student_model)]["ceiling_flops"]
    return float(own.astype(float).mean()) if len(own) else math.nan


class _Draws:
    """The mean of a model in each resample: the examples' part is shared by all models, the seeds' is its own. The
    seeds of one model have the same part in every series."""

    def __init__(self) -> None:
        self._rng = stream("scaling seeds")
        self._known: dict[tuple[Any, ...], Floats] = {}

    def of(self, measure: Measure, key: tuple[str | Taken, ...]) -> Floats:
        if key not in self._known:
            spread = Contrasts(measure).spread(np.ones(1))
            draw_R = measure.deviation_R[:RESAMPLES].copy()
            drawn = spread.examples + spread.interaction
            if drawn > spread.total:
                draw_R *= math.sqrt(spread.total / drawn)
            elif drawn < spread.total:
                draw_R += math.sqrt(spread.total - drawn) * self._rng.standard_normal(RESAMPLES)
            widened = spread.student(LEVEL) / float(ndtri((1 + LEVEL) / 2)) if spread.total > 0 else 1.0
            self._known[key] = measure.mean + widened * draw_R
        return self._known[key]
