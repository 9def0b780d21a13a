"""A sweep's plan.json and the store in, one row per cell and seed out; numbers come from predictions only.

A row is there for every planned cell, whatever became of it: `<role>_status` is done, failed, blocked, missing or
damaged for each of weak, student and ceiling, `<role>_reason` says why, and numbers that cannot be computed are NaN.
The student's are those of the evaluation that the cell's selection chose; weak model and ceiling are always final.
The ground truth of transfer is read here, for analysis only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from w2s.analyze import metrics
from w2s.analyze.predictions import Reader, Scored, Selected, Truth
from w2s.analyze.selection import DIAGNOSTIC, SELECTIONS, Taken, taken
from w2s.errors import SpecError, StepError
from w2s.identity import nearest
from w2s.store import Store
from w2s.yamlfile import read_yaml

ROLES = ("weak", "student", "ceiling")
NAN = float("nan")
CELL_KEYS = ("task", "weak", "student", "method", "selection")
COLUMNS = (
    *("task", "weak", "student", "method", "seed", "selection", "metric", "n_classes", "n", "majority_share"),
    *("weak_params", "student_params"),
    *(f"{role}_{column}" for role in ROLES for column in ("status", "reason")),
    *(f"{role}_{column}" for column in ("accuracy", "auroc", "ece", "brier") for role in ROLES),
    *("agreement", "agreement_right", "agreement_wrong", "label_accuracy", "pgr", "pgr_reason"),
    # Of how many evaluations the student of which optimizer step counts; empty for `final`, which does not choose.
    *("selected_step", "evaluations", "selection_note"),
    *("data_digest", *(f"{role}_digest" for role in ROLES)),
)
WHOLE = ("seed", "n", "n_classes", "weak_params", "student_params", "selected_step", "evaluations")


@dataclass
class Rows:
    """A sweep's results: `frame` has one row per cell and seed, in the order of the plan (columns: COLUMNS).

    `test`, `transfer` and `truth` hold what the rows were computed from, for intervals and differences.
    `problems` names what is damaged; `unfinished` counts what failed, is blocked or was not run yet, a line each.
    """

    name: str
    question: str
    folder: Path
    frame: pd.DataFrame
    test: dict[Taken, Scored] = field(default_factory=dict)  # by train digest and selection
    transfer: dict[str, Scored] = field(default_factory=dict)  # by train digest, supervisors only
    truth: dict[str, Truth] = field(default_factory=dict)  # by materialize digest; the test split
    problems: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Standing:
    """What became of one step."""

    status: str  # done, failed, blocked, missing or damaged
    reason: str = ""


def locate(name_or_path: str | Path, root: Path = Path("results")) -> tuple[Path, Path]:
    """The folder of a planned sweep and the results folder it belongs to.

    A sweep is given by name, by its YAML, or by its folder or plan.json. Raises SpecError with the nearest name.
    """
    path = Path(name_or_path)
    if path.name == "plan.json" or (path / "plan.json").is_file():
        folder = path.parent if path.name == "plan.json" else path
        if (folder / "plan.json").is_file():
            own = folder.absolute().parent.parent
            return folder, own if (own / "store").is_dir() else Path(root)
    name = str(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        data = read_yaml(path)
        name = str(data.get("name", path.stem)) if isinstance(data, dict) else path.stem
    sweeps = Path(root) / "sweeps"
    known = [place.parent.name for place in sweeps.glob("*/plan.json")]
    if name not in known:
        hint = nearest(name, known) if known else f" (nothing is planned in {sweeps}; `w2s sweep YAML` plans and runs)"
        raise SpecError(f"sweep: no sweep named {name!r} in {sweeps}{hint}")
    return sweeps / name, Path(root)


def load(name_or_path: str | Path, root: Path = Path("results")) -> Rows:
    """Read a sweep's results. Raises SpecError for an unknown sweep, StepError for a damaged plan.json."""
    folder, root = locate(name_or_path, Path(root))
    plan = _read_plan(folder / "plan.json")
    store = Store(root / "store")
    standing = standings(plan["steps"], store)
    rows = Rows(str(plan["name"]), str(plan.get("question", "")), folder, pd.DataFrame(columns=list(COLUMNS)))
    reader = Reader(store)
    records = [_row(cell, standing, reader, rows) for cell in plan["cells"]]
    rows.frame = pd.DataFrame(records, columns=list(COLUMNS)).astype(
        dict.fromkeys(WHOLE, "Int64")  # though some are absent
    )
    rows.unfinished = list(_unfinished(plan["steps"], standing))
    damaged = [s.reason for s in standing.values() if s.status == "damaged"]
    rows.problems = list(dict.fromkeys([*damaged, *rows.problems]))
    return rows


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        cells = [
            {**cell, **{f"{role}_digest": cell["digests"][role] for role in ("data", *ROLES)}} for cell in plan["cells"]
        ]
        needed = {*CELL_KEYS, "seed", "metric", "n_classes", "weak_params", "student_params"}
        lacking = sorted({key for cell in cells for key in needed - set(cell)})
        if lacking:
            raise KeyError(", ".join(lacking))
        unknown = sorted({str(cell["selection"]) for cell in cells} - set(SELECTIONS))
        if unknown:
            raise ValueError(f"no selection {', '.join(unknown)}")
        steps = [{key: step[key] for key in ("digest", "kind", "title", "parents")} for step in plan["steps"]]
        return {"name": plan["name"], "question": plan.get("question", ""), "cells": cells, "steps": steps}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepError(
            f"{path}: damaged ({error!r}); `w2s plan` or `w2s sweep` with the YAML writes it again"
        ) from None


def standings(steps: list[dict[str, Any]], store: Store) -> dict[str, Standing]:
    """What became of each planned step; `steps` are those of plan.json, parents first."""
    found: dict[str, Standing] = {}
    titles = {step["digest"]: step["title"] for step in steps}
    for step in steps:
        digest, kind = step["digest"], step["kind"]
        stopped = [p for p in step["parents"] if p in found and found[p].status in ("failed", "blocked", "damaged")]
        failure = store.failure(digest)
        if store.has(kind, digest):
            found[digest] = Standing("done")
        elif store.path(kind, digest).is_dir():
            place = store.path(kind, digest)
            found[digest] = Standing(
                "damaged", f"{place}: no readable manifest.json; run the sweep again to make it anew"
            )
        elif store.is_claimed(digest):
            found[digest] = Standing("missing", "running now")
        elif failure is not None:
            found[digest] = Standing("failed", _first_line(str(failure.get("reason", ""))) or "no reason was recorded")
        elif stopped:
            became = found[stopped[0]].status
            which = "which failed" if became == "failed" else f"which is {became}"
            found[digest] = Standing("blocked", f"needs {titles[stopped[0]]}, {which}")
        else:
            found[digest] = Standing("missing", "not run yet")
    return found


def _row(cell: dict[str, Any], standing: dict[str, Standing], reader: Reader, rows: Rows) -> dict[str, Any]:
    """One cell of one seed. Reads what is not read yet into `rows`; damage found on the way is noted in `standing`."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, NAN)
    row.update({key: cell[key] for key in cell if key in row})
    row.update(pgr_reason="", selection_note="", n=0)
    data, classes = cell["data_digest"], int(cell["n_classes"])
    truth = _truth(data, classes, standing, reader, rows)
    if truth is not None:
        row.update(n=len(truth.ids), majority_share=truth.majority_share)
    for role in ROLES:
        digest = cell[f"{role}_digest"]
        scored = _scored(digest, data, classes, standing, reader, rows)
        state = standing.get(digest, Standing("missing", "not in the plan's steps"))
        if role == "student" and cell["selection"] != "final":
            found, state = _selected(cell, state, standing, reader, rows)
            row.update(_chosen(cell["selection"], found, state))
            scored = found.scored if found is not None else None
        row.update({f"{role}_status": state.status, f"{role}_reason": state.reason})
        if scored is not None:
            values = {name: getattr(scored, name) for name in ("accuracy", "auroc", "ece", "brier")}
            row.update({f"{role}_{name}": value for name, value in values.items()})
    _pairwise(row, cell, truth, rows)
    row["label_accuracy"] = _label_accuracy(cell, standing, reader, rows)
    return row


def _truth(data: str, classes: int, standing: dict[str, Standing], reader: Reader, rows: Rows) -> Truth | None:
    if standing.get(data, Standing("missing")).status != "done":
        return None
    try:
        rows.truth[data] = reader.truth(data, "test", classes)
        return rows.truth[data]
    except StepError as error:
        standing[data] = Standing("damaged", _first_line(str(error)))
        return None


def _scored(
    step: str, data: str, classes: int, standing: dict[str, Standing], reader: Reader, rows: Rows
) -> Scored | None:
    if standing.get(step, Standing("missing")).status != "done" or data not in rows.truth:
        return None
    try:
        rows.test[Taken(step)] = reader.scored(step, data, "test", classes)
        return rows.test[Taken(step)]
    except StepError as error:
        standing[step] = Standing("damaged", _first_line(str(error)))
        return None


def _selected(
    cell: dict[str, Any], state: Standing, standing: dict[str, Standing], reader: Reader, rows: Rows
) -> tuple[Selected | None, Standing]:
    """The student's predictions at the chosen evaluation, and how it stands under this selection: what is damaged here
    costs this selection only. `state` is that of the student's step, whose final predictions were read before."""
    student, supervisor, selection = cell["student_digest"], cell["weak_digest"], cell["selection"]
    judge = standing.get(supervisor, Standing("missing")).status
    if state.status != "done" or Taken(student) not in rows.test:
        return None, state
    if selection == "weak_val" and judge != "done":
        return None, Standing("blocked", f"weak_val needs the supervisor's predictions for val: supervisor {judge}")
    try:
        found = reader.selected(student, supervisor, cell["data_digest"], selection, int(cell["n_classes"]))
    except StepError as error:
        rows.problems.append(_first_line(str(error)))
        return None, Standing("damaged", rows.problems[-1])
    rows.test[_taken(cell, "student")] = found.scored
    return found, state


def _chosen(selection: str, found: Selected | None, state: Standing) -> dict[str, Any]:
    """The columns that tell the chosen step, or why there is none."""
    notes = [DIAGNOSTIC] if selection == "oracle" else []
    if found is None:
        notes.append(f"no step chosen: {state.reason or 'no ground truth of test'}")
        return {"selection_note": "; ".join(notes)}
    step = {"selected_step": found.choice.step, "evaluations": found.choice.evaluations}
    return {**step, "selection_note": "; ".join(notes)}


def _taken(cell: dict[str, Any], role: str) -> Taken:
    return taken(role, cell[f"{role}_digest"], cell["selection"])


def _pairwise(row: dict[str, Any], cell: dict[str, Any], truth: Truth | None, rows: Rows) -> None:
    """Agreement and PGR of one cell and seed: PGR as a bare ratio, its interval belongs to the cell over seeds."""
    weak, student, ceiling = (rows.test.get(_taken(cell, role)) for role in ROLES)
    if truth is not None and weak is not None and student is not None:
        found = metrics.agreement(student.predicted_N, weak.predicted_N, truth.y_N)
        row.update(agreement=found.overall, agreement_right=found.right, agreement_wrong=found.wrong)
    if weak is None or student is None or ceiling is None:
        absent = [role for role in ROLES if _taken(cell, role) not in rows.test]
        row["pgr_reason"] = "; ".join(_why_absent(role, row) for role in absent)
    elif ceiling.accuracy <= weak.accuracy:
        row["pgr_reason"] = "no gap: ceiling does not exceed weak"
    else:
        row["pgr"] = (student.accuracy - weak.accuracy) / (ceiling.accuracy - weak.accuracy)


def _why_absent(role: str, row: dict[str, Any]) -> str:
    status = str(row[f"{role}_status"])
    return f"{role} {status}" if status != "done" else f"no ground truth to measure the {role} with"


def _label_accuracy(cell: dict[str, Any], standing: dict[str, Standing], reader: Reader, rows: Rows) -> float:
    """Accuracy of the supervisor's hard labels on transfer, which is what its student sees."""
    weak, data = cell["weak_digest"], cell["data_digest"]
    if standing.get(weak, Standing("missing")).status != "done" or data not in rows.truth:
        return NAN
    try:
        rows.transfer[weak] = reader.scored(weak, data, "transfer", int(cell["n_classes"]))
    except StepError as error:
        rows.problems.append(_first_line(str(error)))
        return NAN
    return rows.transfer[weak].accuracy


def _unfinished(steps: list[dict[str, Any]], standing: dict[str, Standing]) -> Iterator[str]:
    """One line per failed step and per kind of waiting; damaged steps are problems and stand elsewhere."""
    for step in steps:
        state = standing[step["digest"]]
        if state.status == "failed":
            yield f"failed: {step['title']}: {state.reason} (`w2s show {step['digest'][:12]}` has the log)"
    count = Counter((s.status, s.reason) for s in standing.values() if s.status in ("blocked", "missing"))
    for (status, reason), steps_left in sorted(count.items()):
        yield f"{status}: {steps_left} {'step' if steps_left == 1 else 'steps'} ({reason})"


def _first_line(text: str, limit: int = 300) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= limit else line[: limit - 3] + "..."
