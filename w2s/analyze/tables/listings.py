"""Cells in, the tables with a line for each cell out: levels and PGR, agreement with the supervisor, differences.

No cell is dropped: what is not there says in its place what became of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from w2s.analyze.numbers.cells import LABELS, METRIC_WORDS, Cell
from w2s.analyze.reading.rows import CELL_KEYS, ROLES, Rows
from w2s.analyze.tables.sheet import (
    ABSENT,
    NOT_BINARY,
    PAIR,
    Column,
    Entry,
    Line,
    Models,
    Sheet,
    Value,
    one_line,
    p_value,
    value_of,
    whole,
    without_empty_remarks,
)

MOST_BINS = 120  # lines


def pgr_head(metric: str) -> str:
    """PGR is that of accuracy unless it says otherwise."""
    return "PGR" if metric == "accuracy" else "PGR (AUROC)"


def levels(rows: Rows, cells: Sequence[Cell], metric: str) -> Sheet:
    """Every cell: the metric of weak model, student and ceiling, PGR, and remarks."""
    columns = (
        Column("Task", spare=True),
        Column(PAIR),
        Column("Method"),
        Column("n", numeric=True, spare=True),
        Column("Seeds", numeric=True, spare=True),
        *(Column(f"{role.capitalize()} {METRIC_WORDS[metric].short}", numeric=True) for role in ROLES),
        Column(pgr_head(metric), numeric=True),
        Column("Notes", remark=True),
    )
    blocked = _blocked(rows)
    lines: list[Line] = []
    for cell in cells:
        found = cell.measured(metric)
        lines.append(
            (
                *_names(cell),
                whole(cell.n) if cell.n else Value(ABSENT),
                _seeds(cell),
                *(value_of(getattr(found, role), 3, role=role) for role in ROLES),
                value_of(found.pgr, 2),
                Value(one_line("; ".join(_notes(cell, metric, blocked)))),
            )
        )
    notes = [f"{NOT_BINARY}: the task has more than two classes (or generates text), and AUROC needs two."]
    unfit = metric == "auroc" and any(cell.n_classes != 2 for cell in cells)
    about = f"{METRIC_WORDS[metric].head} and performance gap recovered"
    return without_empty_remarks(Sheet(about, columns, lines, tuple(notes) if unfit else (), "cells"))


def agreement(cells: Sequence[Cell]) -> Sheet:
    """Every cell: how often student and supervisor predict the same, and how good the labels were."""
    heads = ("Agreement", "Supervisor right", "Supervisor wrong", "Label acc.")
    columns = (
        Column("Task", spare=True),
        Column(PAIR),
        Column("Method"),
        *(Column(head, numeric=True) for head in heads),
    )
    lines: list[Line] = [
        (
            *_names(cell),
            *(
                value_of(estimate, 3)
                for estimate in (cell.agreement, cell.agreement_right, cell.agreement_wrong, cell.label_accuracy)
            ),
        )
        for cell in cells
    ]
    notes = (
        "Share of test examples on which student and supervisor predict the same class: of all, of those where the "
        "supervisor is right, and of those where it is wrong.",
        "Label acc. is the accuracy of the labels that the student learned from.",
        *(["The supervisor is the weak model of the pair."] if any(cell.own_labels for cell in cells) else []),
    )
    return Sheet("Agreement of the student with its supervisor", columns, lines, notes, "agreement")


def labels(cells: Sequence[Cell], metric: str = "accuracy") -> list[Sheet]:
    """Every cell, by the labels that its student learned from: how good they were, and what became of it, the worst
    labels of a task and pair last; none where all are their weak models' own."""
    if not any(cell.own_labels for cell in cells):
        return []
    heads = ("Label acc.", "Labelled", "Ground truth", f"Student {METRIC_WORDS[metric].short}", pgr_head(metric))
    place = {key: number for number, key in enumerate(dict.fromkeys((cell.task, cell.pair) for cell in cells))}
    ordered = sorted(cells, key=lambda cell: (place[cell.task, cell.pair], _worse(cell)))
    columns = (
        Column("Task", spare=True),
        Column(PAIR),
        Column("Method"),
        *(Column(head, numeric=True) for head in heads),
    )
    lines: list[Line] = [
        (
            *_names(cell),
            *(value_of(getattr(cell, name), 3) for name in LABELS),
            value_of(cell.measured(metric).student, 3, role="student"),
            value_of(cell.measured(metric).pgr, 2),
        )
        for cell in ordered
    ]
    notes = (
        "Label acc. is the accuracy of the labels that the student learned from, whoever gave them; Labelled the share "
        "of transfer that had one; Ground truth the share of these that were ground truth, asked for by name.",
    )
    return [Sheet("Labels that students learned from", columns, lines, notes, "labels")]


def by_confidence(cells: Sequence[Cell], metric: str) -> list[Sheet]:
    """Every cell, bin by bin of the weak model's confidence: how often it, the student and the ceiling are right there.
    None with too many lines to be read, which confidence.csv has."""
    own = [cell for cell in cells if cell.by_confidence]
    if metric != "accuracy" or not 0 < sum(len(cell.by_confidence) for cell in own) <= MOST_BINS:
        return []
    heads = ("Confidence", "Examples", *(f"{role.capitalize()} acc." for role in ROLES), "Student - weak")
    columns = (
        Column("Task", spare=True),
        Column(PAIR),
        Column("Method"),
        *(Column(head, numeric=True) for head in heads),
    )
    lines: list[Line] = [
        (
            *_names(cell),
            Value(f"{one.low:.2f} to {one.high:.2f}", "", one.confidence),
            whole(one.examples),
            *(value_of(getattr(one, role), 3, role=role) for role in ROLES),
            value_of(one.gain, 3, signed=True),
        )
        for cell in own
        for one in cell.by_confidence
    ]
    notes = (
        "Confidence is the probability that the weak model gives its own prediction for a test example; Examples are "
        "those of a bin, added over seeds, and accuracies are among them.",
    )
    return [Sheet("Accuracy by the weak model's confidence", columns, lines, notes, "confidence", aside=True)]


def _worse(cell: Cell) -> float:
    return -cell.label_accuracy.value if cell.label_accuracy.known else 0.0


def differences(cells: Sequence[Cell], metric: str) -> list[Sheet]:
    """Every cell of a method other than the baseline, less the baseline's; none where there is nothing to compare."""
    others = [cell for cell in cells if not cell.is_baseline]
    if not any(is_compared(cell, metric) for cell in others):
        return []
    baselines = list(dict.fromkeys(one_line(cell.baseline) for cell in others))
    of_many = len({cell.task for cell in cells}) > 1
    columns = (
        Column("Task", spare=True),
        Column(PAIR),
        Column("Method"),
        *([Column("Baseline")] if len(baselines) > 1 else []),
        Column("Seeds", numeric=True, spare=True),
        Column(METRIC_WORDS[metric].head, numeric=True),
        Column(pgr_head(metric), numeric=True),
        Column("p", numeric=True),
        *([Column("p (Holm)", numeric=True)] if of_many else []),
    )
    lines: list[Line] = []
    for cell in others:
        found = cell.measured(metric)
        lines.append(
            (
                *_names(cell),
                *([Value(one_line(cell.baseline))] if len(baselines) > 1 else []),
                whole(found.difference.seeds) if found.difference.known else Value(ABSENT),
                value_of(found.difference, 3, signed=True),
                value_of(found.pgr_difference, 2, signed=True),
                p_value(found.p),
                *([p_value(found.p_holm)] if of_many else []),
            )
        )
    against = baselines[0] if len(baselines) == 1 else "the baseline"
    about = f"Difference from {against}, paired by seed and test example"
    selected = len({cell.selection for cell in cells}) > 1
    return [Sheet(about, columns, lines, tuple(_about_p(metric, baselines, selected, of_many)), "differences")]


def less_baseline(baselines: Sequence[str]) -> str:
    """What a difference is of."""
    return f"Method - {baselines[0]} (the baseline)" if len(baselines) == 1 else "Method - its baseline"


def _about_p(metric: str, baselines: Sequence[str], selected: bool, of_many: bool) -> list[str]:
    said = [
        f"{less_baseline(baselines)}{', both under the same selection' if selected else ''}. p is two-sided, for no "
        f"difference in {METRIC_WORDS[metric].name} and so none in PGR, by Student's t with the variance and the "
        "degrees of freedom of the interval."
    ]
    if of_many:
        said.append("p (Holm) is corrected for the number of tasks on which the same comparison is made.")
    return said


def is_compared(cell: Cell, metric: str) -> bool:
    """True where a difference from the baseline could be computed."""
    found = cell.measured(metric)
    return not cell.is_baseline and (found.difference.known or found.pgr_difference.known)


def _names(cell: Cell) -> tuple[Entry, Entry, Entry]:
    """What a line is about: the first three columns of every table of cells."""
    models = Models(one_line(cell.weak_model), one_line(cell.student_model))
    return Value(one_line(cell.task)), models, Value(one_line(cell.variant))


def _seeds(cell: Cell) -> Value:
    done, planned = len(cell.seeds), len(cell.planned)
    return Value(str(planned) if done == planned else f"{done}/{planned}", "", float(done))


def _notes(cell: Cell, metric: str, blocked: dict[tuple[str, ...], str]) -> list[str]:
    """The cell's remarks, with the chance of the metric that is shown, and what it waits for."""
    notes = list(cell.notes)
    if metric != "accuracy":
        notes = [note for note in notes if not note.endswith("at chance")]
        low = cell.left_out(metric)
        notes += [low] if low.endswith("at chance") else []
    if not cell.seeds and cell.key in blocked:
        notes.append(blocked[cell.key])
    return notes


def _blocked(rows: Rows) -> dict[tuple[str, ...], str]:
    """By cell, what its student waits for: the first thing of several."""
    frame = rows.frame[rows.frame["student_status"] == "blocked"]
    found: dict[tuple[str, ...], str] = {}
    for *key, reason in frame[[*CELL_KEYS, "student_reason"]].itertuples(index=False, name=None):
        found.setdefault(tuple(key), f"blocked: {reason}")
    return found
