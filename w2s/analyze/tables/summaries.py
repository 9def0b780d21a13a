"""Cells in, the tables over tasks and pairs out: median PGR, matrices weak x student, methods against the baseline.

A PGR that enters no median is counted beside it with its reason. The diagnostic selection stands on lines and in
matrices of its own, which say what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from w2s.analyze.numbers.cells import METRIC_WORDS, Cell
from w2s.analyze.numbers.medians import Contest, Median, contests, medians
from w2s.analyze.reading.rows import ROLES
from w2s.analyze.reading.selection import variant
from w2s.analyze.tables.listings import less_baseline, pgr_head
from w2s.analyze.tables.sheet import (
    ABSENT,
    PAIR,
    Column,
    Line,
    Models,
    Sheet,
    Value,
    counted,
    label,
    number,
    one_line,
    p_value,
    value_of,
    with_interval,
    without_empty_remarks,
)

MOST_ASIDE = 24  # matrices of single tasks; of more, nobody reads any, and every cell has its line
FEWEST_FOR_INTERVAL = 6  # tasks

Place = tuple[str, str, str, str]  # weak, student, method, selection


def over_tasks(cells: Sequence[Cell], metric: str) -> list[Sheet]:
    """Median PGR of every pair and method; nothing to say for one task."""
    if not _several(cell.task for cell in cells):
        return []
    columns = (
        Column(PAIR),
        Column("Method"),
        Column(f"Median {pgr_head(metric)}", numeric=True),
        Column("Tasks", numeric=True),
        *(Column(f"{role.capitalize()} {METRIC_WORDS[metric].short}", numeric=True) for role in ROLES),
        Column("Left out", remark=True),
    )
    found = medians(cells, metric)
    lines: list[Line] = [
        (
            Models(one_line(median.weak_model), one_line(median.student_model)),
            Value(one_line(variant(median.method, median.selection))),
            _median(median),
            _entered(median),
            *(Value(number(level, 3), "", level) if level == level else Value(ABSENT) for level in median.accuracy),
            Value(counted(median.left_out)),
        )
        for median in found
    ]
    notes = [f"Medians of PGR and of {METRIC_WORDS[metric].many} are over the same tasks, those that could enter."]
    if any(median.tasks >= FEWEST_FOR_INTERVAL for median in found):
        notes.append(
            "Brackets are 95 % intervals of the median over tasks, from order statistics; there are none for fewer "
            f"than {FEWEST_FOR_INTERVAL} tasks."
        )
    else:
        notes.append(f"A 95 % interval of a median needs at least {FEWEST_FOR_INTERVAL} tasks.")
    about = f"Median {pgr_head(metric)} over tasks"
    return [without_empty_remarks(Sheet(about, columns, lines, tuple(notes), "medians"))]


def _median(median: Median) -> Value:
    if not median.tasks:
        return Value(_main_reason(median.left_out))
    return with_interval(median.value, median.low, median.high, 2)


def _entered(median: Median) -> Value:
    planned = median.tasks + sum(median.left_out.values())
    text = str(planned) if median.tasks == planned else f"{median.tasks}/{planned}"
    return Value(text, "", float(median.tasks))


def _main_reason(left_out: dict[str, int]) -> str:
    """The most frequent reason."""
    return label(max(left_out, key=lambda reason: left_out[reason])) if left_out else ABSENT


def matrices(cells: Sequence[Cell], metric: str) -> list[Sheet]:
    """PGR with supervisors in rows and students in columns, by size, for every method; over tasks, then task by task.
    One pair of models makes no matrix."""
    if not _several(cell.pair for cell in cells):
        return []
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    variants = list(dict.fromkeys((cell.method, cell.selection) for cell in cells))
    if len(tasks) == 1:
        return _explained([_matrix_of_task(cells, tasks[0], *which, metric) for which in variants])
    by_place = {m.comparison: _short(m) for m in medians(cells, metric)}
    what = f"median {pgr_head(metric)} over {len(tasks)} tasks"
    found = _explained([_matrix(cells, by_place, *which, what) for which in variants])
    if len(tasks) * len(variants) <= MOST_ASIDE:
        alone = [_matrix_of_task(cells, task, *which, metric, aside=True) for task in tasks for which in variants]
        found += _explained(alone)
    return found


def _short(median: Median) -> Value:
    """A median in a matrix: without an interval, which stands in the table of medians."""
    planned = median.tasks + sum(median.left_out.values())
    if not median.tasks:
        return Value(_main_reason(median.left_out))
    text = number(median.value, 2)
    return Value(text, f"({median.tasks}/{planned})" if median.tasks < planned else "", median.value)


def _matrix_of_task(
    cells: Sequence[Cell], task: str, method: str, selection: str, metric: str, aside: bool = False
) -> Sheet:
    own = [cell for cell in cells if cell.task == task and (cell.method, cell.selection) == (method, selection)]
    by_place = {
        cell.comparison: Value(label(cell.left_out(metric)))
        if cell.left_out(metric)
        else value_of(cell.measured(metric).pgr, 2)
        for cell in own
    }
    return _matrix(cells, by_place, method, selection, f"{pgr_head(metric)} on {one_line(task)}", aside)


def _matrix(
    cells: Sequence[Cell],
    by_place: dict[Place, Value],
    method: str,
    selection: str,
    what: str,
    aside: bool = False,
) -> Sheet:
    weak = _by_size((cell.weak_model, cell.weak_params) for cell in cells)
    students = _by_size((cell.student_model, cell.student_params) for cell in cells)
    absent = Value(ABSENT)
    lines: list[Line] = [
        (Value(one_line(w)), *(by_place.get((w, s, method, selection), absent) for s in students)) for w in weak
    ]
    columns = (Column("Supervisor"), *(Column(one_line(s), numeric=True) for s in students))
    about = f"{one_line(variant(method, selection))}: {what}, students in columns"
    return Sheet(about, columns, lines, (), "matrix", aside)


def _explained(sheets: list[Sheet]) -> list[Sheet]:
    """Matrices with the same notes, so that these need stand only once below them."""
    entries = {entry for sheet in sheets for line in sheet.lines for entry in line if isinstance(entry, Value)}
    notes = ["A dash: the sweep does not have this pair."] if Value(ABSENT) in entries else []
    if any(entry.interval.startswith("(") for entry in entries):
        notes.append("(1/2): the median is over one of two tasks, since the other could not enter; and so on.")
    return [replace(sheet, notes=tuple(notes)) for sheet in sheets]


def _by_size(models: Iterable[tuple[str, int | None]]) -> list[str]:
    """Names by parameters, the smallest first; those of unknown size last, in the order of the plan."""
    sizes = dict(models)
    return sorted(sizes, key=lambda name: (sizes[name] is None, sizes[name] or 0))


def against_baseline(cells: Sequence[Cell], metric: str) -> list[Sheet]:
    """Every method against the baseline over tasks; nothing to say for one task."""
    if not _several(cell.task for cell in cells):
        return []
    found = contests(cells, metric)
    if not any(contest.tasks for contest in found):
        return []
    baselines = list(dict.fromkeys(one_line(contest.baseline) for contest in found))
    columns = (
        Column(PAIR),
        Column("Method"),
        *([Column("Baseline")] if len(baselines) > 1 else []),
        Column("Tasks", numeric=True),
        Column("Won/tied/lost", numeric=True),
        Column(f"Median {pgr_head(metric)} diff.", numeric=True),
        Column(f"Mean {METRIC_WORDS[metric].short} diff.", numeric=True),
        *(Column(head, numeric=True) for head in ("p sign", "p Wilcoxon", "p t")),
        Column("Left out", remark=True),
    )
    lines = [_contest(contest, len(baselines) > 1) for contest in found]
    against = baselines[0] if len(baselines) == 1 else "the baseline"
    notes = [
        f"{less_baseline(baselines)} over tasks, by PGR; p-values are two-sided, of the sign test, Wilcoxon's "
        "signed-rank test and the paired t test over tasks."
    ]
    if any(contest.tasks < FEWEST_FOR_INTERVAL for contest in found):
        notes.append(f"With fewer than {FEWEST_FOR_INTERVAL} tasks the first two cannot reach 0.05.")
    about = f"Tasks won and lost against {against}"
    return [without_empty_remarks(Sheet(about, columns, lines, tuple(notes), "contests"))]


def _contest(contest: Contest, with_baseline: bool) -> Line:
    planned = contest.tasks + sum(contest.left_out.values())
    won = Value(f"{contest.wins}/{contest.ties}/{contest.losses}", "", float(contest.wins - contest.losses))
    mean = contest.mean_metric_difference
    there = contest.tasks > 0
    return (
        Models(one_line(contest.weak_model), one_line(contest.student_model)),
        Value(one_line(variant(contest.method, contest.selection))),
        *([Value(one_line(contest.baseline))] if with_baseline else []),
        Value(str(planned) if contest.tasks == planned else f"{contest.tasks}/{planned}", "", float(contest.tasks)),
        won if there else Value(ABSENT),
        Value(number(contest.median_difference, 2, signed=True), "", contest.median_difference)
        if there
        else Value(_main_reason(contest.left_out)),
        Value(number(mean, 3, signed=True), "", mean) if there else Value(ABSENT),
        *(p_value(p) for p in (contest.sign_p, contest.wilcoxon_p, contest.t_p)),
        Value(counted(contest.left_out)),
    )


def _several(things: Iterable[object]) -> bool:
    return len(set(things)) > 1
