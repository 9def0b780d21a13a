"""Rows in, one cell per (task, weak, student, method, selection) out: estimates over seeds, differences from a
baseline method under the same selection.

Each estimate uses the seeds for which everything that it needs is there: accuracies those of their model, PGR those
with weak, student and ceiling. Refuses to pool seeds with different test sets: such a cell's estimates are absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from w2s.analyze import stats
from w2s.analyze.predictions import Truth
from w2s.analyze.rows import CELL_KEYS, ROLES, Rows
from w2s.analyze.selection import DIAGNOSTIC, Taken, taken, variant
from w2s.analyze.stats import Bools, Estimate, absent
from w2s.errors import SpecError
from w2s.identity import nearest

ESTIMATES = ("weak", "student", "ceiling", "gap", "pgr", "agreement", "agreement_right", "agreement_wrong")
DIFFERENCES = ("accuracy_difference", "pgr_difference")
M = TypeVar("M", str, Taken)


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
    n: int  # test examples; 0 where nothing could be read
    majority_share: float
    planned: tuple[int, ...]  # seeds
    seeds: tuple[int, ...]  # of `planned`, those with a student
    weak: Estimate
    student: Estimate
    ceiling: Estimate
    gap: Estimate  # ceiling - weak
    pgr: Estimate
    agreement: Estimate
    agreement_right: Estimate  # where the supervisor is right
    agreement_wrong: Estimate
    label_accuracy: Estimate  # the supervisor's, on transfer
    baseline: str
    accuracy_difference: Estimate  # this method - baseline, paired
    pgr_difference: Estimate
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


def aggregate(rows: Rows, baseline: str | None = None) -> list[Cell]:
    """The cells in the order of the plan. Differences are against `baseline`, by default the first method.

    Raises SpecError for a baseline that the sweep does not have.
    """
    methods = list(dict.fromkeys(rows.frame["method"]))
    if baseline is not None and baseline not in methods:
        raise SpecError(f"baseline: the sweep has no method {baseline!r}{nearest(baseline, methods)}")
    if not methods:
        return []
    against = baseline or methods[0]
    groups: dict[Any, pd.DataFrame] = dict(iter(rows.frame.groupby(list(CELL_KEYS), sort=False, dropna=False)))
    pool = _Pool(rows)
    return [_cell(key, group, groups, against, pool) for key, group in groups.items()]


class _Pool:
    """Estimates over chosen seeds of a cell; those that many cells share (a weak model's accuracy) are made once."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._made: dict[Any, Estimate] = {}

    def right(self, models: list[Taken]) -> Bools:
        """(S, N): is the model of that seed right about that test example?"""
        return np.stack([self.rows.test[model].right_N for model in models])

    def once(self, key: tuple[Any, ...], make: Callable[[], Estimate]) -> Estimate:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def accuracy(self, models: list[Taken]) -> Estimate:
        return self.once(("accuracy", *models), lambda: stats.proportion(self.right(models)))

    def transfer(self, digests: list[str]) -> Estimate:
        right = [self.rows.transfer[digest].right_N for digest in digests]
        return self.once(("transfer", *digests), lambda: stats.proportion(np.stack(right)))


def _cell(key: Any, group: pd.DataFrame, groups: dict[Any, pd.DataFrame], baseline: str, pool: _Pool) -> Cell:
    task, weak, student, method, selection = key
    ordered = group.sort_values("seed", kind="stable")
    mixed = _mixed_tests(ordered, pool.rows)
    if mixed:
        pool.rows.problems.append(f"{task}, {weak} -> {student}, {variant(method, selection)}: {mixed}")
    readable = ordered[[not mixed and model in pool.rows.test for model in _models(ordered, "student")]]
    base = groups.get((task, weak, student, baseline, selection))
    shares = ordered["majority_share"].dropna()
    values: dict[str, Any] = {
        "task": task,
        "weak_model": weak,
        "student_model": student,
        "method": method,
        "selection": selection,
        "weak_params": _whole(ordered["weak_params"].iloc[0]),
        "student_params": _whole(ordered["student_params"].iloc[0]),
        "n": int(ordered["n"].max()),
        "majority_share": float(shares.iloc[0]) if len(shares) else float("nan"),
        "planned": tuple(int(seed) for seed in ordered["seed"]),
        "seeds": tuple(int(seed) for seed in readable["seed"]),
        "baseline": baseline,
        "steps": tuple(int(step) for step in readable["selected_step"].dropna()),
        **(dict.fromkeys((*ESTIMATES, "label_accuracy"), absent(mixed)) if mixed else _estimates(ordered, pool)),
        **_differences(ordered, base, method == baseline, mixed, pool),
    }
    cell = Cell(**values)
    return replace(cell, notes=_notes(cell))


def _mixed_tests(group: pd.DataFrame, rows: Rows) -> str:
    """Why the seeds may not be pooled, or nothing."""
    truths: list[Truth] = [rows.truth[d] for d in dict.fromkeys(group["data_digest"]) if d in rows.truth]
    if all(t.ids == truths[0].ids and np.array_equal(t.y_N, truths[0].y_N) for t in truths[1:]):
        return ""
    return "test sets differ: the seeds cannot be pooled"


def _estimates(group: pd.DataFrame, pool: _Pool) -> dict[str, Estimate]:
    models = {role: _present(group, (role,), pool.rows)[role] for role in ROLES}
    found = {role: _or_absent(models[role], pool.accuracy, group, (role,)) for role in ROLES}

    ends = _present(group, ("weak", "ceiling"), pool.rows)
    found["gap"] = _or_absent(
        ends["weak"],
        lambda weak: pool.once(
            ("gap", *weak, *ends["ceiling"]),
            lambda: stats.difference(pool.right(ends["ceiling"]), pool.right(weak)),
        ),
        group,
        ("weak", "ceiling"),
    )
    full = _present(group, ROLES, pool.rows)
    found["pgr"] = _or_absent(
        full["weak"], lambda _: stats.pgr(*(pool.right(full[role]) for role in ROLES)), group, ROLES
    )
    couple = _present(group, ("weak", "student"), pool.rows)
    for name in ("agreement", "agreement_right", "agreement_wrong"):
        found[name] = _or_absent(
            couple["weak"],
            lambda weak, name=name: _agreement(name, weak, couple["student"], pool),  # type: ignore[misc]  # bound now
            group,
            ("weak", "student"),
        )
    labelled = [digest for digest in group["weak_digest"] if digest in pool.rows.transfer]
    found["label_accuracy"] = _or_absent(labelled, pool.transfer, group, ("weak",))
    return found


def _agreement(name: str, weak: list[Taken], student: list[Taken], pool: _Pool) -> Estimate:
    test = pool.rows.test
    same_SN = np.stack([test[s].predicted_N == test[w].predicted_N for w, s in zip(weak, student, strict=True)])
    weak_SN = pool.right(weak)
    if name == "agreement":
        return stats.proportion(same_SN)
    if name == "agreement_right":
        return stats.share_within(same_SN, weak_SN, "the supervisor is never right")
    return stats.share_within(same_SN, ~weak_SN, "the supervisor is never wrong")


def _differences(
    group: pd.DataFrame, base: pd.DataFrame | None, is_baseline: bool, mixed: str, pool: _Pool
) -> dict[str, Estimate]:
    """This method less the baseline, over the seeds where both have what is needed."""
    if is_baseline or base is None or mixed:
        reason = "is the baseline" if is_baseline else mixed or "the baseline was not planned here"
        return {name: absent(reason) for name in DIFFERENCES}
    both = group.merge(base[["seed", "student_digest"]], on="seed", suffixes=("", "_base"))
    both = both.rename(columns={"student_digest_base": "base_digest"})
    base_status = base.set_index("seed")["student_status"]
    both["base_status"] = [base_status[seed] for seed in both["seed"]]
    couple = _present(both, ("student", "base"), pool.rows)
    full = _present(both, ("weak", "student", "base", "ceiling"), pool.rows)
    return {
        "accuracy_difference": _or_absent(
            couple["student"],
            lambda student: stats.difference(pool.right(student), pool.right(couple["base"])),
            both,
            ("student", "base"),
        ),
        "pgr_difference": _or_absent(
            full["student"],
            lambda _: stats.pgr_difference(*(pool.right(full[role]) for role in full)),
            both,
            ("weak", "student", "base", "ceiling"),
        ),
    }


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
    if 0 < cell.pgr.seeds < len(cell.planned):
        notes.append(f"PGR of {cell.pgr.seeds} of {len(cell.planned)} seeds")
    if 0 < len(cell.seeds) < len(cell.planned) and cell.pgr.seeds != len(cell.seeds):
        notes.append(f"{len(cell.seeds)} of {len(cell.planned)} seeds")
    low = [role for role in ROLES if getattr(cell, role).known and getattr(cell, role).low <= cell.majority_share]
    if low:
        notes.append(f"{', '.join(low)} at chance")
    if cell.steps:
        first, last = min(cell.steps), max(cell.steps)
        notes.append(f"step {first}" if first == last else f"steps {first} to {last}")
    return tuple(notes)


def _whole(number: Any) -> int | None:
    return None if pd.isna(number) else int(number)
