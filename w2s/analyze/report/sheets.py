"""Tables as the page's scripts take them: by column, a text for every line, and beside it an interval, the number to
sort by and the run to go to, where there are any. What has no number sorts last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from w2s.analyze.numbers.cells import METRIC_WORDS
from w2s.analyze.reading.rows import ROLES, Rows
from w2s.analyze.reading.selection import variant
from w2s.analyze.report.packing import number
from w2s.analyze.report.runs import Runs
from w2s.analyze.tables.sheet import ABSENT, Models, Sheet, Value, constant

Table = dict[str, Any]
CHOICES = ("Task", "Method", "Role", "Status", "Weak → student", "Selection", "Sweep")  # offered as a menu


def table(sheet: Sheet) -> Table:
    """A sheet of the document."""
    columns = []
    for place, column in enumerate(sheet.columns):
        if column.spare and len(sheet.columns) > 1 and constant(sheet, place):
            continue  # the summary says the same
        entries = [line[place] for line in sheet.lines]
        head = column.head.replace("->", "→")
        if any(isinstance(entry, Models) for entry in entries):
            texts = [f"{e.weak} → {e.student}" if isinstance(e, Models) else e.text for e in entries]
            columns.append(_column(head, texts))
            continue
        values = [entry for entry in entries if isinstance(entry, Value)]
        intervals = [value.interval for value in values]
        numbers = [number(value.number, 9) for value in values] if column.numeric else None
        columns.append(_column(head, [value.text for value in values], numbers, intervals))
    return {"about": sheet.about.replace("->", "→"), "notes": list(sheet.notes), "columns": columns, "kind": sheet.kind}


def _column(
    head: str,
    texts: Sequence[str],
    numbers: Sequence[float | int | None] | None = None,
    intervals: Sequence[str] = (),
    links: Sequence[int | None] = (),
) -> dict[str, Any]:
    column: dict[str, Any] = {"head": head, "texts": list(texts)}
    if numbers is not None:
        column["numbers"] = list(numbers)
    if any(intervals):
        column["intervals"] = list(intervals)
    if any(link is not None for link in links):
        column["links"] = list(links)  # numbers of runs
    if head in CHOICES and 1 < len(set(texts)) <= 60:
        column["choices"] = sorted(set(texts))
    return column


def seeds(rows: Rows, place: Mapping[str, int], metric: str) -> Table:
    """A line for each cell and seed, with links to the runs that it comes from."""
    frame = rows.frame.to_dict("records")
    sweeps = [str(row.get("sweep", "")) for row in frame]
    columns = [_column("Sweep", sweeps)] if len(set(sweeps)) > 1 else []
    columns += [
        _column("Task", [str(row["task"]) for row in frame]),
        _column("Weak → student", [f"{row['weak']} → {row['student']}" for row in frame]),
        _column("Method", [variant(str(row["method"]), str(row["selection"])) for row in frame]),
        _column("Seed", [str(row["seed"]) for row in frame], [int(row["seed"]) for row in frame]),
    ]
    short = METRIC_WORDS[metric].short
    for role in ROLES:
        links = [place.get(str(row[f"{role}_digest"])) for row in frame]
        known = [_number(row.get(f"{role}_{metric}")) for row in frame]
        states = [str(row[f"{role}_status"]) for row in frame]
        shown = [
            f"{value:.3f}" if value is not None else state if state != "done" else ABSENT
            for value, state in zip(known, states, strict=True)
        ]
        columns.append(_column(f"{role.capitalize()} {short}", shown, known, links=links))
    ending = "" if metric == "accuracy" else f"_{metric}"
    columns.append(_optional("PGR", [row.get(f"pgr{ending}") for row in frame], 2))
    columns.append(_optional("Agreement", [row.get("agreement") for row in frame], 3))
    notes = [str(row.get(f"pgr{ending}_reason") or "").partition(":")[0] for row in frame]
    if any(notes):
        columns.append(_column("PGR absent", notes))
    said = "PGR of one seed is a bare ratio, without an interval. A number of a model leads to its run."
    return {"about": "Seed by seed", "notes": [said], "columns": columns, "kind": "seeds"}


def _optional(head: str, values: Sequence[Any], digits: int) -> dict[str, Any]:
    numbers = [_number(value) for value in values]
    return _column(head, [ABSENT if value is None else f"{value:.{digits}f}" for value in numbers], numbers)


def _number(value: Any) -> float | int | None:
    try:
        return number(float(value))
    except (TypeError, ValueError):
        return None


def index(runs: Runs) -> Table:
    """A line for each run."""
    facts = runs.facts
    final = [next((n[2] for n in own.numbers if n[0] == "final"), None) for own in facts]
    columns = [
        _column("Run", [digest[:12] for digest in runs.order], links=list(range(len(runs.order)))),
        _column("Role", [own.role for own in facts]),
        _column("Task", [own.task for own in facts]),
        _column("Model", [own.model for own in facts]),
        _column("Labels of", [own.supervisor_model for own in facts]),
        _column("Method", [", ".join(own.methods) for own in facts]),
        _column(
            "Seed",
            ["" if own.seed is None else str(own.seed) for own in facts],
            [own.seed for own in facts],
        ),
        _column("Status", runs.statuses),
        _optional("Test acc.", final, 3),
        _optional("Wall s", [record.get("wall_s") for record in runs.records], 1),
        _optional("Peak MiB", [record.get("peak_rss_mib") for record in runs.records], 0),
    ]
    return {"about": "Runs", "notes": [], "columns": columns, "kind": "runs"}
