"""Rows in, one cell per (task, weak, student, method, selection) out: estimates over seeds, differences from a
baseline method under the same selection.

Each estimate uses the seeds for which everything that it needs is there: accuracies those of their model, PGR those
with weak, student and ceiling. Refuses to pool seeds with different test sets: such a cell's estimates are absent.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from w2s.analyze import stats
from w2s.analyze.metrics import placements
from w2s.analyze.predictions import Truth
from w2s.analyze.rows import CELL_KEYS, ROLES, Rows
from w2s.analyze.selection import DIAGNOSTIC, Taken, taken, variant
from w2s.analyze.stats import Estimate, Measure, Spread, absent
from w2s.errors import SpecError
from w2s.identity import nearest

METRICS = ("accuracy", "auroc")
CHANCE_AUROC = 0.5
KEPT_MEASURES = 64  # those that several cells share, such as a weak model's; each takes some 100 kB
M = TypeVar("M", str, Taken)


class Run(NamedTuple):
    """The steps of one seed of a cell, by digest, whatever became of them."""

    seed: int
    data: str
    weak: str
    student: str
    ceiling: str


@dataclass(frozen=True)
class Measured:
    """What one metric, from 0 to 1, says in a cell."""

    weak: Estimate
    student: Estimate
    ceiling: Estimate
    gap: Estimate  # ceiling - weak
    pgr: Estimate
    difference: Estimate  # this method's student - the baseline method's, paired by seed and test example
    pgr_difference: Estimate
    p: float  # two-sided, that `difference` is 0, and with it `pgr_difference`: the gap is above 0; NaN where absent
    p_holm: float  # over the tasks of this pair, method and selection. Source: Holm 1979
    noise: Spread | None  # the variance of `difference` over the gap; of the baseline, that of its PGR; None: no gap


MEASURED = ("weak", "student", "ceiling", "gap", "pgr", "difference", "pgr_difference")
ESTIMATES = ("weak", "student", "ceiling", "gap", "pgr", "agreement", "agreement_right", "agreement_wrong")
DIFFERENCES = ("difference", "pgr_difference")
AGREEMENTS = ("agreement", "agreement_right", "agreement_wrong")


@dataclass(frozen=True)
class Cell:
    """What a sweep says about one method for one pair of models on one task. Accuracies are shares from 0 to 1."""

    task: str
    weak_model: str
    student_model: str
    method: str
    selection: str
    weak_params: int | None
    student_params: int | None
    weak_flops: float  # of training and predicting, mean over seeds; NaN where the model's size is not known
    student_flops: float
    n: int  # test examples; 0 where nothing could be read
    n_classes: int
    majority_share: float
    planned: tuple[int, ...]  # seeds
    seeds: tuple[int, ...]  # of `planned`, those with a student
    accuracy: Measured
    auroc: Measured
    agreement: Estimate
    agreement_right: Estimate  # where the supervisor is right
    agreement_wrong: Estimate
    label_accuracy: Estimate  # the supervisor's, on transfer
    baseline: str
    runs: tuple[Run, ...] = ()  # by seed
    steps: tuple[int, ...] = ()  # those chosen, by seed; empty for the final selection
    notes: tuple[str, ...] = ()

    @property
    def variant(self) -> str:
        """The method, and how its student was selected unless it was simply the final one."""
        return variant(self.method, self.selection)

    @property
    def pair(self) -> tuple[str, str]:
        return self.weak_model, self.student_model

    @property
    def is_baseline(self) -> bool:
        return self.method == self.baseline

    def measured(self, metric: str) -> Measured:
        """The estimates of one of METRICS."""
        return self.accuracy if metric == "accuracy" else self.auroc

    def __getattr__(self, name: str) -> Any:  # until every caller says which metric it means
        if name in ("weak", "student", "ceiling", "gap", "pgr", "pgr_difference"):
            return getattr(self.accuracy, name)
        if name == "accuracy_difference":
            return self.accuracy.difference
        raise AttributeError(name)

    @property
    def at_chance(self) -> tuple[str, ...]:
        """The models whose accuracy does not lie above the majority class's share, by their intervals."""
        return self._not_above(self.accuracy, self.majority_share)

    def left_out(self, metric: str = "accuracy") -> str:
        """Why this PGR enters no median over tasks, in a few words; nothing where it does."""
        found = self.measured(metric)
        if not found.pgr.known:
            return found.pgr.reason.partition(":")[0]
        low = self.at_chance if metric == "accuracy" else self._not_above(found, CHANCE_AUROC)
        return f"{' and '.join(low)} at chance" if low else ""

    @staticmethod
    def _not_above(found: Measured, chance: float) -> tuple[str, ...]:
        models = ((role, getattr(found, role)) for role in ROLES)
        return tuple(role for role, estimate in models if estimate.known and not estimate.low > chance)


def aggregate(
    rows: Rows, baseline: str | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Cell]:
    """The cells in the order of the plan. Differences are against `baseline`, by default the first method.

    `progress` is told how many cells of how many are done. Raises SpecError for a baseline that there is none of.
    """
    against = _Baselines(rows, baseline)
    groups: dict[Any, pd.DataFrame] = dict(iter(rows.frame.groupby(list(CELL_KEYS), sort=False, dropna=False)))
    pool, cells = _Pool(rows), []
    for key, group in groups.items():
        cells.append(_cell(key, group, groups, against.of(key, groups), pool))
        if progress is not None:
            progress(len(cells), len(groups))
    return _corrected(cells)


class _Baselines:
    """The baseline of each cell. Where a merge kept methods of one name apart, a cell has that of its own sweeps."""

    def __init__(self, rows: Rows, wanted: str | None) -> None:
        methods = [str(method) for method in dict.fromkeys(rows.frame["method"])]
        self._origin: dict[str, Any] = getattr(rows, "origin", {})
        self._names = {m: str(self._origin[m].method) if m in self._origin else m for m in methods}
        if wanted is not None and wanted not in (*methods, *self._names.values()):
            raise SpecError(f"baseline: the sweep has no method {wanted!r}{nearest(wanted, self._names.values())}")
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
        families.setdefault((*cell.pair, cell.method, cell.selection), []).append(place)
    found = list(cells)
    for metric in METRICS:
        for places in families.values():
            corrected = stats.holm([found[place].measured(metric).p for place in places])
            for place, p_holm in zip(places, corrected, strict=True):
                changes: Any = {metric: replace(found[place].measured(metric), p_holm=p_holm)}
                found[place] = replace(found[place], **changes)
    return found


class _Pool:
    """Measures and estimates over chosen seeds of a cell; those that many cells share are made once."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._measures: OrderedDict[Any, Measure] = OrderedDict()
        self._estimates: dict[Any, Estimate] = {}

    def measure(self, metric: str, data: str, models: Iterable[Taken]) -> Measure:
        """Accuracy: is the model of that seed right about that test example? AUROC: the example's share in it."""
        chosen = tuple(models)
        key = (metric, data, chosen)
        if key in self._measures:
            self._measures.move_to_end(key)
        else:
            self._measures[key] = self._read(metric, data, chosen)
            if len(self._measures) > KEPT_MEASURES:
                self._measures.popitem(last=False)
        return self._measures[key]

    def _read(self, metric: str, data: str, models: Iterable[Taken]) -> Measure:
        scored = [self.rows.test[model] for model in models]
        if metric == "accuracy":
            return Measure(np.stack([one.right_N for one in scored]))
        y_N = self.rows.truth[data].y_N
        ranks = [getattr(one, "margin_rank_N", np.zeros(len(y_N))) for one in scored]
        return Measure(np.stack([placements(rank_N, y_N) for rank_N in ranks if rank_N is not None]))

    def once(self, key: tuple[Any, ...], make: Callable[[], Estimate]) -> Estimate:
        if key not in self._estimates:
            self._estimates[key] = make()
        return self._estimates[key]

    def mean(self, metric: str, data: str, models: list[Taken]) -> Estimate:
        return self.once((metric, data, *models), lambda: stats.mean(self.measure(metric, data, models)))

    def gap(self, metric: str, data: str, ceiling: list[Taken], weak: list[Taken]) -> Estimate:
        return self.once(
            (metric, data, *ceiling, *weak),
            lambda: stats.difference(self.measure(metric, data, ceiling), self.measure(metric, data, weak)),
        )

    def transfer(self, digests: list[str]) -> Estimate:
        right = [self.rows.transfer[digest].right_N for digest in digests]
        return self.once(("transfer", *digests), lambda: stats.mean(Measure(np.stack(right))))


def _cell(key: Any, group: pd.DataFrame, groups: dict[Any, pd.DataFrame], baseline: str, pool: _Pool) -> Cell:
    task, weak, student, method, selection = key
    ordered = group.sort_values("seed", kind="stable")
    mixed = _mixed_tests(ordered, pool.rows)
    if mixed:
        pool.rows.problems.append(f"{task}, {weak} -> {student}, {variant(method, selection)}: {mixed}")
    readable = ordered[[not mixed and model in pool.rows.test for model in _models(ordered, "student")]]
    base = groups.get((task, weak, student, baseline, selection))
    shares = ordered["majority_share"].dropna()
    first = ordered.iloc[0]
    values: dict[str, Any] = {
        "task": task,
        "weak_model": weak,
        "student_model": student,
        "method": method,
        "selection": selection,
        "weak_params": _whole(first["weak_params"]),
        "student_params": _whole(first["student_params"]),
        "weak_flops": _mean(ordered, "weak_flops"),
        "student_flops": _mean(ordered, "student_flops"),
        "n": int(ordered["n"].max()),
        "n_classes": int(first["n_classes"]),
        "majority_share": float(shares.iloc[0]) if len(shares) else math.nan,
        "planned": tuple(int(seed) for seed in ordered["seed"]),
        "seeds": tuple(int(seed) for seed in readable["seed"]),
        "baseline": baseline,
        "runs": tuple(_runs(ordered)),
        "steps": tuple(int(step) for step in readable["selected_step"].dropna()),
        **(dict.fromkeys((*AGREEMENTS, "label_accuracy"), absent(mixed)) if mixed else _agreements(ordered, pool)),
    }
    for metric in METRICS:
        unfit = mixed or ("AUROC needs two classes" if metric == "auroc" and values["n_classes"] > 2 else "")
        values[metric] = _measured(metric, ordered, base, method == baseline, unfit, pool)
    cell = Cell(**values)
    return replace(cell, notes=_notes(cell))


def _runs(group: pd.DataFrame) -> Iterable[Run]:
    columns = ("seed", "data_digest", *(f"{role}_digest" for role in ROLES))
    for seed, *digests in group[list(columns)].itertuples(index=False, name=None):
        yield Run(int(seed), *map(str, digests))


def _mixed_tests(group: pd.DataFrame, rows: Rows) -> str:
    """Why the seeds may not be pooled, or nothing."""
    truths: list[Truth] = [rows.truth[d] for d in dict.fromkeys(group["data_digest"]) if d in rows.truth]
    if all(t.ids == truths[0].ids and np.array_equal(t.y_N, truths[0].y_N) for t in truths[1:]):
        return ""
    return "test sets differ: the seeds cannot be pooled"


def _measured(
    metric: str, group: pd.DataFrame, base: pd.DataFrame | None, is_baseline: bool, unfit: str, pool: _Pool
) -> Measured:
    """The estimates of one metric, each over the seeds where all it needs is there; `unfit` says why there are none."""
    if unfit:
        return Measured(**dict.fromkeys(MEASURED, absent(unfit)), p=math.nan, p_holm=math.nan, noise=None)
    data = str(group["data_digest"].iloc[0])

    def of(models: list[Taken]) -> Measure:
        return pool.measure(metric, data, models)

    found: dict[str, Estimate] = {}
    for role in ROLES:
        models = _present(group, (role,), pool.rows)[role]
        found[role] = _or_absent(models, lambda models: pool.mean(metric, data, models), group, (role,))
    ends = _present(group, ("weak", "ceiling"), pool.rows)
    found["gap"] = _or_absent(
        ends["weak"], lambda weak: pool.gap(metric, data, ends["ceiling"], weak), group, ("weak", "ceiling")
    )
    full = _present(group, ROLES, pool.rows)
    found["pgr"] = _or_absent(full["weak"], lambda _: stats.pgr(*(of(full[role]) for role in ROLES)), group, ROLES)
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
    group: pd.DataFrame, base: pd.DataFrame, of: Callable[[list[Taken]], Measure], rows: Rows
) -> tuple[dict[str, Estimate], float, Spread | None]:
    """This method less the baseline, over the seeds where both have what is needed: estimates, p-value, noise."""
    both = group.merge(base[["seed", "data_digest", "student_digest"]], on=["seed", "data_digest"], suffixes=("", "_b"))
    both = both.rename(columns={"student_digest_b": "base_digest"})
    base_status = base.set_index("seed")["student_status"]
    both["base_status"] = [base_status[seed] for seed in both["seed"]]
    roles = ("weak", "student", "base", "ceiling")
    couple, full = _present(both, ("student", "base"), rows), _present(both, roles, rows)
    estimates = (
        _or_absent(
            couple["student"],
            lambda student: stats.difference(of(student), of(couple["base"])),
            both,
            ("student", "base"),
        ),
        _or_absent(full["student"], lambda _: stats.pgr_difference(*(of(full[role]) for role in roles)), both, roles),
    )
    p = stats.p_value(of(couple["student"]), of(couple["base"])) if couple["student"] else math.nan
    noise = stats.pgr_noise(*(of(full[role]) for role in roles)) if full["student"] else None
    return dict(zip(DIFFERENCES, estimates, strict=True)), p, noise


def _agreements(group: pd.DataFrame, pool: _Pool) -> dict[str, Estimate]:
    """Shares of test examples on which student and supervisor agree, and the supervisor's accuracy on transfer.
    Source: Burns et al. 2023, sec. 5.1.1."""
    labelled = [digest for digest in group["weak_digest"] if digest in pool.rows.transfer]
    found = {"label_accuracy": _or_absent(labelled, pool.transfer, group, ("weak",))}
    couple = _present(group, ("weak", "student"), pool.rows)
    if not couple["weak"]:
        return {**dict.fromkeys(AGREEMENTS, _or_absent([], pool.transfer, group, ("weak", "student"))), **found}
    test = pool.rows.test
    predicted = [[test[model].predicted_N for model in couple[role]] for role in ("weak", "student")]
    same_SN = np.stack(predicted[0]) == np.stack(predicted[1])
    right_SN = np.stack([test[model].right_N for model in couple["weak"]])
    same, right, wrong = Measure(same_SN), Measure(right_SN), Measure(~right_SN)
    estimates = (
        stats.mean(same),
        stats.share_within(same, right, "the supervisor is never right"),
        stats.share_within(same, wrong, "the supervisor is never wrong"),
    )
    return {**dict(zip(AGREEMENTS, estimates, strict=True)), **found}


def _models(group: pd.DataFrame, role: str) -> list[Taken]:
    """The predictions of a role that count, by seed; a baseline's student is selected as the student is."""
    pairs = zip(group[f"{role}_digest"], group["selection"], strict=True)
    return [taken(role, digest, selection) for digest, selection in pairs]


def _present(group: pd.DataFrame, roles: tuple[str, ...], rows: Rows) -> dict[str, list[Taken]]:
    """Models by role, of the seeds for which every one of the roles could be read."""
    columns = [_models(group, role) for role in roles]
    kept = [models for models in zip(*columns, strict=True) if all(model in rows.test for model in models)]
    return {role: [models[place] for models in kept] for place, role in enumerate(roles)}


def _or_absent(
    models: list[M], make: Callable[[list[M]], Estimate], group: pd.DataFrame, roles: tuple[str, ...]
) -> Estimate:
    """The estimate, or what stands in its way: the state of the first model that no seed has."""
    if models:
        return make(models)
    names = {"base": "baseline student"}
    for role in roles:
        states = [status for status in dict.fromkeys(group[f"{role}_status"]) if status != "done"]
        if states:
            return absent(f"{names.get(role, role)} {states[0]}")
    return absent("no ground truth: the test split could not be read")


def _notes(cell: Cell) -> tuple[str, ...]:
    """Short remarks for the last column of a table, the most important first. Why PGR is absent stands in its place."""
    notes = [DIAGNOSTIC] if cell.selection == "oracle" else []
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


def _mean(group: pd.DataFrame, column: str) -> float:
    return float(group[column].mean()) if column in group else math.nan
