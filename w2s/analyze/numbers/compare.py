"""Two sweeps' rows in, what changed between them out: cells, what was asked, numbers, and the machines.

Rows of the same task, models, method, selection and seed are compared. Runs of equal digest are the same run; where
digests differ, the manifests of both tell which fields do. A difference of numbers is held against the noise of the
test examples, which both are paired by, where the test sets are equal; the spread over seeds has no part in a row.
Refuses nothing: what is not finished is counted.

Shapes: N test examples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from w2s.analyze.numbers import stats
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.numbers.stats import Estimate
from w2s.analyze.reading import configuration
from w2s.analyze.reading.configuration import changed, flat
from w2s.analyze.reading.metrics import placements
from w2s.analyze.reading.rows import AGREEMENTS, CELL_KEYS, LEARNED, ROLES, SCORES, Rows
from w2s.analyze.reading.selection import taken
from w2s.progress import Report, silent

RUN = [*CELL_KEYS, "seed"]
# What a row says of models. How long a run took and what it cost is none of it.
NUMBERS = (
    *(f"{role}_{column}" for column in SCORES for role in ROLES),
    *(*AGREEMENTS, "pgr", "pgr_auroc"),
    *LEARNED,
    *("n", "n_classes", "majority_share", "selected_step", "evaluations"),
)
FIRST = ("student_accuracy", "ceiling_accuracy", "weak_accuracy", "pgr")  # of the numbers, those that readers look for
ENVIRONMENT = ("version", "git", "python", "libraries", "host", "platform", "cpus", "devices")
SURE = 0.05  # two-sided; of so many rows without any true difference this share is beyond noise all the same
Floats = NDArray[np.float64]
Row = dict[str, Any]  # of both sweeps: columns end in _a and _b


class Key(NamedTuple):
    """A cell by name."""

    task: str
    weak: str
    student: str
    method: str
    selection: str


class FieldChange(NamedTuple):
    """A field that was asked otherwise. `role`: data, weak, student or ceiling; `runs`: how many are concerned."""

    role: str
    path: str
    first: Any
    second: Any
    runs: int


class NumberChange(NamedTuple):
    """One number of one row; NaN where a sweep has none. `beyond` noise is None where it cannot be told; `same_run`:
    both have it, of one digest."""

    key: Key
    seed: int
    column: str
    first: float
    second: float
    beyond: bool | None
    same_run: bool

    @property
    def alone(self) -> bool:
        """True where only one sweep has the number."""
        return math.isnan(self.first) or math.isnan(self.second)

    @property
    def difference(self) -> float:
        """Second less first; infinite where one of them is absent."""
        return math.inf if self.alone else self.second - self.first


class CellChange(NamedTuple):
    """A cell's student accuracy, over the seeds that both sweeps have; `difference` is second less first."""

    key: Key
    seeds: int
    first: float
    second: float
    difference: Estimate


class Values(NamedTuple):
    """How often each value of one field was found in the finished steps of either sweep."""

    first: Counter[str]
    second: Counter[str]


@dataclass
class Comparison:
    """What changed from one sweep to another; lists hold the largest change first."""

    rows: int  # in both
    same_runs: int  # students, by digest
    other_runs: int
    unknown_runs: int  # of `other_runs`, those of which one is not finished, so that what it was asked is not known
    only: tuple[dict[Key, list[int]], dict[Key, list[int]]]  # seeds of the cells that only one has
    written: dict[str, tuple[Any, Any]]  # fields of the sweeps as they were written
    fields: list[FieldChange]
    numbers: list[NumberChange]
    rows_changed: int  # those of which both have another number
    cells: list[CellChange]
    environment: dict[str, Values]
    tested: int = 0  # of `numbers`, those held against noise
    problems: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """True where both have the same rows with the same numbers, to the last digit."""
        return not self.numbers and not any(self.only)


def compare(first: Rows, second: Rows, most_cells: int = 20, progress: Report = silent) -> Comparison:
    """What changed from the first sweep to the second. Intervals are made for the `most_cells` largest changes."""
    both = _joined(first, second)
    progress("numbers", 0, 0)
    noise = _Noise(first, second)
    numbers = sorted(_numbers(both, noise), key=_size)
    students = set(zip(both["student_digest_a"], both["student_digest_b"], strict=True))
    fields, unknown = _fields(both, first, second, progress)
    return Comparison(
        rows=len(both),
        same_runs=sum(a == b for a, b in students),
        other_runs=sum(a != b for a, b in students),
        unknown_runs=unknown,
        only=(_only(first, second), _only(second, first)),
        written=changed(_without_name(first.raw), _without_name(second.raw)),
        fields=fields,
        numbers=numbers,
        rows_changed=len({(change.key, change.seed) for change in numbers if not change.alone}),
        cells=_cells(both, numbers, noise, most_cells, progress),
        environment=_environment(first, second, progress),
        tested=sum(change.beyond is not None for change in numbers),
        problems=list(dict.fromkeys([*first.problems, *second.problems])),
    )


def _size(change: NumberChange) -> tuple[Any, ...]:
    """The largest first of the numbers that readers look for, then of the others; last those that only one has."""
    return (change.alone, change.column not in FIRST, -abs(change.difference), change.key, change.seed, change.column)


def _without_name(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key != "name"}


def _joined(first: Rows, second: Rows) -> pd.DataFrame:
    """One line per row that both have, columns of the first ending in _a, of the second in _b."""
    a, b = (frame.assign(_at=range(len(frame))) for frame in (first.frame, second.frame))
    both = a.merge(b, on=RUN, suffixes=("_a", "_b"))
    return both.sort_values("_at_a", kind="stable").reset_index(drop=True)


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in record.items()} for record in frame.to_dict("records")]


def _only(rows: Rows, other: Rows) -> dict[Key, list[int]]:
    theirs = set(other.frame[RUN].itertuples(index=False, name=None))
    found: dict[Key, list[int]] = {}
    for run in rows.frame[RUN].itertuples(index=False, name=None):
        if run not in theirs:
            found.setdefault(Key(*run[:-1]), []).append(int(run[-1]))
    return found


def _numbers(both: pd.DataFrame, noise: _Noise) -> Iterator[NumberChange]:
    for column in NUMBERS:
        if f"{column}_a" not in both or f"{column}_b" not in both:
            continue
        a, b = (both[f"{column}_{end}"].astype("Float64").to_numpy(np.float64, na_value=np.nan) for end in "ab")
        for place in np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b)))):
            row = _records(both.iloc[[int(place)]])[0]
            key = Key(*(str(row[name]) for name in CELL_KEYS))
            same = all(row[f"{role}_digest_a"] == row[f"{role}_digest_b"] for role in ROLES)
            known = not (math.isnan(a[place]) or math.isnan(b[place]))
            beyond = noise.beyond(row, column) if known else None
            yield NumberChange(key, int(row["seed"]), column, float(a[place]), float(b[place]), beyond, same and known)


class _Noise:
    """Tells differences that other test examples might have made from those that they would not."""

    def __init__(self, first: Rows, second: Rows) -> None:
        self.sides = {"a": first, "b": second}
        self._equal: dict[tuple[str, str], bool] = {}

    def equal_tests(self, row: Row) -> bool:
        """True where both rows were measured on the same examples."""
        data = (str(row["data_digest_a"]), str(row["data_digest_b"]))
        if data not in self._equal:
            a, b = (rows.truth.get(digest) for rows, digest in zip(self.sides.values(), data, strict=True))
            self._equal[data] = a is not None and b is not None and a.equals(b)
        return self._equal[data]

    def beyond(self, row: Row, column: str) -> bool | None:
        """Is the difference of one number, paired by test example, beyond noise? None where that cannot be told."""
        if column == "label_accuracy":
            if row["data_digest_a"] != row["data_digest_b"]:
                return None  # whether the examples are the same is known of test sets alone
        elif not self.equal_tests(row):
            return None
        shares = [self.shares(row, column, end) for end in "ab"]
        return None if shares[0] is None or shares[1] is None else _is_beyond(shares[1] - shares[0])

    def shares(self, row: Row, column: str, end: str) -> Floats | None:
        """(N,) numbers whose mean is the column's, to first order for AUROC and PGR; None where there are none."""
        role, _, metric = column.partition("_")
        if role in ROLES and metric in ("accuracy", "auroc"):
            return self._of_role(row, role, metric, end)
        if column == "label_accuracy":
            labels = self.sides[end].learned.get(str(row[f"label_digest_{end}"]))
            return None if labels is None or labels.kept_share < 1 else labels.right_N.astype(np.float64)
        if column == "agreement":
            models = [self._model(row, role, end) for role in ("weak", "student")]
            return None if None in models else (models[0].predicted_N == models[1].predicted_N).astype(np.float64)
        if column in ("pgr", "pgr_auroc"):
            parts = [self._of_role(row, role, "auroc" if column == "pgr_auroc" else "accuracy", end) for role in ROLES]
            return None if any(part is None for part in parts) else _recovered(*parts)  # type: ignore[arg-type]  # no None
        return None

    def _model(self, row: Row, role: str, end: str) -> Any:
        return self.sides[end].test.get(taken(role, str(row[f"{role}_digest_{end}"]), str(row["selection"])))

    def _of_role(self, row: Row, role: str, metric: str, end: str) -> Floats | None:
        model = self._model(row, role, end)
        if model is None:
            return None
        if metric == "accuracy":
            return np.asarray(model.right_N, dtype=np.float64)
        truth = self.sides[end].truth.get(str(row[f"data_digest_{end}"]))
        return None if truth is None or model.margin_rank_N is None else placements(model.margin_rank_N, truth.y_N)


def _recovered(weak_N: Floats, student_N: Floats, ceiling_N: Floats) -> Floats:
    """Shares of the examples in PGR: the influence function of a ratio of means."""
    gap = float((ceiling_N - weak_N).mean())
    pgr = float((student_N - weak_N).mean()) / gap
    return np.asarray(pgr + (student_N - weak_N - pgr * (ceiling_N - weak_N)) / gap)


def _is_beyond(difference_N: Floats) -> bool | None:
    """Is the mean of paired differences unlike 0? Exact where all are -1, 0 or 1 (McNemar), else by the normal."""
    from scipy.stats import binomtest

    if set(np.unique(difference_N)) <= {-1.0, 0.0, 1.0}:
        up, down = int((difference_N > 0).sum()), int((difference_N < 0).sum())
        return bool(up + down and binomtest(up, up + down).pvalue < SURE)
    error = float(difference_N.std(ddof=1)) / math.sqrt(len(difference_N)) if len(difference_N) > 1 else 0.0
    return bool(abs(float(difference_N.mean())) > 1.96 * error) if error > 0 else None


def _cells(
    both: pd.DataFrame, numbers: Iterable[NumberChange], noise: _Noise, most: int, progress: Report
) -> list[CellChange]:
    """The cells with the largest changes of their students' accuracy, over the seeds for which both have one."""
    touched = {change.key for change in numbers if change.column == "student_accuracy" and not change.alone}
    known = both[both["student_accuracy_a"].notna() & both["student_accuracy_b"].notna()]
    means = known.groupby(list(CELL_KEYS), sort=False)[["student_accuracy_a", "student_accuracy_b"]].mean()
    ordered = sorted(
        ((Key(*key), a, b) for key, a, b in means.itertuples(name=None) if Key(*key) in touched),
        key=lambda found: (-abs(found[2] - found[1]), found[0]),
    )
    rows: dict[Any, pd.DataFrame] = dict(iter(known.groupby(list(CELL_KEYS), sort=False)))
    found = []
    for place, (key, a, b) in enumerate(ordered):
        if place < most:
            progress("intervals", place, min(most, len(ordered)))
        difference = _paired(rows[key], noise) if place < most else stats.absent("not among the largest changes")
        found.append(CellChange(key, len(rows[key]), float(a), float(b), difference))
    return found


def _paired(group: pd.DataFrame, noise: _Noise) -> Estimate:
    """Second less first, with its interval over test examples and seeds."""
    lines = _records(group)
    if not all(noise.equal_tests(line) for line in lines) or group["data_digest_a"].nunique() > 1:
        return stats.absent("test sets differ")
    sides = [[noise.shares(line, "student_accuracy", end) for line in lines] for end in "ab"]
    measures = [Measure(np.stack([share > 0 for share in side if share is not None])) for side in sides]
    return stats.difference(measures[1], measures[0])


def _fields(both: pd.DataFrame, first: Rows, second: Rows, progress: Report) -> tuple[list[FieldChange], int]:
    """Fields that were asked otherwise, those of most runs first, and how many students' are not known."""
    count: Counter[tuple[str, str, str, str]] = Counter()
    values: dict[tuple[str, str, str, str], tuple[Any, Any]] = {}
    unknown = 0
    for role in ("data", *ROLES):
        ends = [f"{role}_digest_a", f"{role}_digest_b"]
        pairs = both[both[ends[0]] != both[ends[1]]].drop_duplicates(ends)
        for place, row in enumerate(_records(pairs)):
            progress(f"what was asked: {role}", place, len(pairs))
            differ = _changes(role, str(row[ends[0]]), str(row[ends[1]]), row, first, second)
            unknown += differ is None and role == "student"
            for path, (x, y) in (differ or {}).items():
                key = (role, path, repr(x), repr(y))
                count[key] += 1
                values[key] = (x, y)
    found = [FieldChange(*key[:2], *values[key], runs) for key, runs in count.items()]
    return sorted(found, key=lambda change: -change.runs), unknown


def _changes(role: str, a: str, b: str, row: Row, first: Rows, second: Rows) -> dict[str, tuple[Any, Any]] | None:
    """How two runs of one role differ; None where one of them is not finished."""
    kind = "materialize" if role == "data" else "train"
    asked = configuration.read(first.store, kind, a), configuration.read(second.store, kind, b)
    if asked[0] is None or asked[1] is None:
        return None
    differ = changed(asked[0].identity, asked[1].identity)
    if not differ:  # then only what it builds on does
        parents = ["data", *(["weak"] if role == "student" else [])]
        digests = [(parent, str(row[f"{parent}_digest_a"]), str(row[f"{parent}_digest_b"])) for parent in parents]
        return {f"its {parent}": (x[:12], y[:12]) for parent, x, y in digests if x != y}
    return differ


def _environment(first: Rows, second: Rows, progress: Report) -> dict[str, Values]:
    """Fields of the manifests that say where and how runs ran, where the two sweeps have other values of them."""
    sides = [_surroundings(rows, progress) for rows in (first, second)]
    paths = dict.fromkeys([*sides[0], *sides[1]])
    both = {path: Values(sides[0].get(path, Counter()), sides[1].get(path, Counter())) for path in paths}
    return {path: values for path, values in both.items() if set(values.first) != set(values.second)}


def _surroundings(rows: Rows, progress: Report) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    steps = [(digest, str(step["kind"])) for digest, step in rows.steps.items()]
    for place, (digest, kind) in enumerate(steps):
        progress(f"environment of {rows.name}", place, len(steps))
        manifest = rows.store.manifest(kind, digest)
        if manifest is None:
            continue
        said = flat({key: manifest.get(key) for key in ENVIRONMENT if manifest.get(key) is not None})
        spec = manifest.get("spec")
        if kind == "train" and isinstance(spec, dict):
            said |= {
                p: v for p, v in configuration.configuration(kind, spec).runtime.items() if p.startswith("engine.")
            }
        for path, value in said.items():
            found.setdefault(path, Counter())[str(value)] += 1
    return found
