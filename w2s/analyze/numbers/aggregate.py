"""Rows in, cells out: seeds pooled, methods compared with the baseline under the same selection.

Each estimate uses the seeds for which everything that it needs is there: accuracies those of their model, PGR those
with weak, student and ceiling. Refuses to pool seeds with different test sets: such a cell's estimates are absent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from w2s.analyze.numbers import spread, stats
from w2s.analyze.numbers.cells import DIFFERENCES, INHERITED, MEASURED, METRICS, TAUGHT, Cell, Measured, Run
from w2s.analyze.numbers.confidence import by_confidence
from w2s.analyze.numbers.inherited import inherited
from w2s.analyze.numbers.pool import Group, Pool, models_of, or_absent, present
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.numbers.spread import Spread
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading.predictions import Truth
from w2s.analyze.reading.rows import BOTH_CLASSES, CELL_KEYS, GENERATED, ROLES, TWO_CLASSES, Rows
from w2s.analyze.reading.selection import Taken, diagnostic, variant
from w2s.errors import SpecError
from w2s.identity import nearest


def aggregate(
    rows: Rows, baseline: str | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Cell]:
    """The cells in the order of the plan. Differences are against `baseline`, by default the first method.

    `progress` is told how many cells of how many are done. Raises SpecError for a baseline that there is none of.
    """
    against, groups = _Baselines(rows, baseline), _groups(rows)
    pool, cells = Pool(rows), []
    try:
        for key, group in groups.items():
            cells.append(_cell(key, group, groups, against.of(key, groups), pool))
            if progress is not None:
                progress(len(cells), len(groups))
    finally:
        pool.kept.write()
    return _corrected(cells)


def _groups(rows: Rows) -> dict[Any, Group]:
    """The seeds of every cell in ascending order, as plain records: looking into data frames takes longer than the
    arithmetic."""
    found: dict[Any, Group] = {}
    for record in rows.frame.to_dict("records"):
        found.setdefault(tuple(record[key] for key in CELL_KEYS), []).append(record)
    return {key: sorted(group, key=lambda record: int(record["seed"])) for key, group in found.items()}


class _Baselines:
    """The baseline of each cell. Where a merge kept methods of one name apart, a cell has that of its own sweeps."""

    def __init__(self, rows: Rows, wanted: str | None) -> None:
        methods = [str(method) for method in dict.fromkeys(rows.frame["method"])]
        self._origin: dict[str, Any] = getattr(rows, "origin", {})
        self._names = {m: str(self._origin[m].method) if m in self._origin else m for m in methods}
        if wanted is not None and wanted not in (*methods, *self._names.values()):
            known = dict.fromkeys([*self._names.values(), *methods])
            raise SpecError(f"baseline: the sweep has no method {wanted!r}{nearest(wanted, known)}")
        self._wanted = wanted or (self._names[methods[0]] if methods else "")
        self._exact = wanted in methods and wanted not in self._names.values()  # one of a merge's own names
        self._known = [m for m in methods if m == self._wanted or (self._names[m] == self._wanted and not self._exact)]

    def of(self, key: Any, groups: Mapping[Any, object]) -> str:
        task, weak, student, method, selection = key
        if method in self._known:
            return str(method)
        here = [m for m in self._known if (task, weak, student, m, selection) in groups] or self._known
        if len(here) > 1:
            own = self._origin[method].sweeps
            return max(here, key=lambda m: len(self._origin[m].sweeps & own))  # the first of equals
        return here[0]


def _corrected(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with p-values corrected over the tasks on which the same comparison is made."""
    families: dict[Any, list[int]] = {}
    for place, cell in enumerate(cells):
        families.setdefault(cell.comparison, []).append(place)
    found = list(cells)
    for metric in METRICS:
        for places in families.values():
            corrected = spread.holm([found[place].measured(metric).p for place in places])
            for place, p_holm in zip(places, corrected, strict=True):
                changes: Any = {metric: replace(found[place].measured(metric), p_holm=p_holm)}
                found[place] = replace(found[place], **changes)
    return found


def _cell(key: Any, group: Group, groups: dict[Any, Group], baseline: str, pool: Pool) -> Cell:
    task, weak, student, method, selection = key
    mixed = _mixed_tests(group, pool.rows)
    if mixed:
        pool.rows.problems.append(f"{task}, {weak} -> {student}, {variant(method, selection)}: {mixed}")
    students = zip(group, models_of(group, "student"), strict=True)
    readable = [] if mixed else [record for record, model in students if model in pool.rows.test]
    base = groups.get((task, weak, student, baseline, selection))
    first = group[0]
    values: dict[str, Any] = {
        "task": task,
        "weak_model": weak,
        "student_model": student,
        "method": method,
        "selection": selection,
        "weak_params": _whole(first["weak_params"]),
        "student_params": _whole(first["student_params"]),
        "weak_flops": _mean(group, "weak_flops"),
        "student_flops": _mean(group, "student_flops"),
        "n": max(int(record["n"]) for record in group),
        "n_classes": int(first["n_classes"]),
        "majority_share": next(iter(_known(group, "majority_share")), math.nan),
        "planned": tuple(int(record["seed"]) for record in group),
        "seeds": tuple(int(record["seed"]) for record in readable),
        "baseline": baseline,
        "runs": tuple(_runs(group)),
        "steps": tuple(int(step) for step in _known(readable, "selected_step")),
        **(dict.fromkeys(INHERITED, absent(mixed)) if mixed else inherited(group, pool)),
        "taught": next((pool.rows.taught.get(record["student_digest"], "") for record in group), ""),
        "by_confidence": () if mixed else by_confidence(group, pool),
    }
    for metric in METRICS:
        unfit = mixed or _unfit(metric, values["n_classes"], group, pool.rows)
        values[metric] = _measured(metric, group, base, method == baseline, unfit, pool)
    cell = Cell(**values)
    return replace(cell, notes=_notes(cell))


def _runs(group: Group) -> Iterable[Run]:
    for record in group:
        digests = (str(record[f"{name}_digest"]) for name in ("data", *ROLES, "label"))
        yield Run(int(record["seed"]), *digests)


def _mixed_tests(group: Group, rows: Rows) -> str:
    """Why the seeds may not be pooled, or nothing."""
    truths: list[Truth] = [rows.truth[d] for d in dict.fromkeys(r["data_digest"] for r in group) if d in rows.truth]
    if all(truths[0].equals(other) for other in truths[1:]):
        return ""
    return "test sets differ: the seeds cannot be pooled"


def _unfit(metric: str, classes: int, group: Group, rows: Rows) -> str:
    """Why a metric says nothing of these test examples, or nothing."""
    if metric == "auroc" and classes != 2:
        return TWO_CLASSES if classes else GENERATED
    truth = rows.truth.get(_data(group, rows))
    if metric == "auroc" and truth is not None and len(np.unique(truth.y_N)) < 2:
        return BOTH_CLASSES
    return ""


def _data(group: Group, rows: Rows) -> str:
    """The data set of a cell; of several, which hold the same test examples, the first that could be read."""
    digests = list(dict.fromkeys(str(record["data_digest"]) for record in group))
    return next((digest for digest in digests if digest in rows.truth), digests[0])


def _measured(metric: str, group: Group, base: Group | None, is_baseline: bool, unfit: str, pool: Pool) -> Measured:
    """The estimates of one metric, each over the seeds where all it needs is there; `unfit` says why there are none."""
    if unfit:
        return Measured(**dict.fromkeys(MEASURED, absent(unfit)), p=math.nan, p_holm=math.nan, noise=None)
    data = _data(group, pool.rows)

    def of(models: list[Taken]) -> Measure:
        return pool.measure(metric, data, models)

    found: dict[str, Estimate] = {}
    for role in ROLES:
        models = present(group, (role,), pool.rows)[role]
        found[role] = or_absent(models, lambda models: pool.mean(metric, data, models), group, (role,))
    ends = present(group, ("weak", "ceiling"), pool.rows)
    found["gap"] = or_absent(
        ends["weak"], lambda weak: pool.gap(metric, data, ends["ceiling"], weak), group, ("weak", "ceiling")
    )
    full = present(group, ROLES, pool.rows)
    found["pgr"] = or_absent(full["weak"], lambda _: stats.pgr(*(of(full[role]) for role in ROLES)), group, ROLES)
    if base is None or is_baseline:
        reason = "is the baseline" if is_baseline else "the baseline was not planned here"
        differences, p = dict.fromkeys(DIFFERENCES, absent(reason)), math.nan
        noise = (
            stats.pgr_noise(of(full["weak"]), of(full["student"]), None, of(full["ceiling"])) if full["weak"] else None
        )
    else:
        differences, p, noise = _differences(group, base, of, pool.rows)
    return Measured(**found, **differences, p=p, p_holm=p, noise=noise)


def _differences(
    group: Group, base: Group, of: Callable[[list[Taken]], Measure], rows: Rows
) -> tuple[dict[str, Estimate], float, Spread | None]:
    """This method less the baseline, over the seeds where both have what is needed: estimates, p-value, noise."""
    theirs = {(record["seed"], record["data_digest"]): record for record in base}
    pairs = [(record, theirs.get((record["seed"], record["data_digest"]))) for record in group]
    both = [
        {**record, "base_digest": other["student_digest"], "base_status": other["student_status"]}
        for record, other in pairs
        if other is not None
    ]
    roles = ("weak", "student", "base", "ceiling")
    couple, full = present(both, ("student", "base"), rows), present(both, roles, rows)
    estimates = (
        or_absent(
            couple["student"],
            lambda student: stats.difference(of(student), of(couple["base"])),
            both,
            ("student", "base"),
        ),
        or_absent(full["student"], lambda _: stats.pgr_difference(*(of(full[role]) for role in roles)), both, roles),
    )
    p = stats.p_value(of(couple["student"]), of(couple["base"])) if couple["student"] else math.nan
    noise = stats.pgr_noise(*(of(full[role]) for role in roles)) if full["student"] else None
    return dict(zip(DIFFERENCES, estimates, strict=True)), p, noise


def _notes(cell: Cell) -> tuple[str, ...]:
    """Short remarks for the last column of a table, the most important first. Why PGR is absent stands in its place."""
    notes = [note] if (note := diagnostic(cell.selection)) else []
    notes += [TAUGHT[cell.taught]] if cell.taught in TAUGHT else []
    with_pgr = cell.accuracy.pgr.seeds
    if 0 < with_pgr < len(cell.planned):
        notes.append(f"PGR of {with_pgr} of {len(cell.planned)} seeds")
    if 0 < len(cell.seeds) < len(cell.planned) and with_pgr != len(cell.seeds):
        notes.append(f"{len(cell.seeds)} of {len(cell.planned)} seeds")
    if cell.at_chance:
        notes.append(f"{', '.join(cell.at_chance)} at chance")
    if cell.steps:
        first, last = min(cell.steps), max(cell.steps)
        notes.append(f"step {first}" if first == last else f"steps {first} to {last}")
    return tuple(notes)


def _whole(number: Any) -> int | None:
    return None if pd.isna(number) else int(number)


def _known(group: Group, column: str) -> list[float]:
    numbers: list[Any] = [record[column] for record in group]
    return [float(number) for number in numbers if not pd.isna(number)]


def _mean(group: Group, column: str) -> float:
    return statistics.fmean(known) if (known := _known(group, column)) else math.nan
