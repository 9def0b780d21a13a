"""A sweep's plan.json and the store in, one row per cell and seed out; numbers come from predictions only.

A row is there for every planned cell, whatever became of it: `<role>_status` is done, failed, blocked, missing or
damaged for each of weak, student and ceiling, `<role>_reason` says why, and numbers that cannot be computed are NaN.
The student's are those of the evaluation that the cell's selection chose; weak model and ceiling are always final.
The ground truth of transfer is read here, for analysis only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from w2s.analyze.reading.evidence import Evidence, taken_of
from w2s.analyze.reading.learned import Learned
from w2s.analyze.reading.predictions import Scored, Truth, judge_of
from w2s.analyze.reading.selection import ROLES as ROLES  # of this module, for those who ask
from w2s.analyze.reading.selection import SELECTIONS, Taken, diagnostic
from w2s.analyze.reading.standing import UNPLANNED, Standing, standings, unfinished
from w2s.errors import SpecError, StepError
from w2s.identity import nearest
from w2s.progress import silent
from w2s.store import Store
from w2s.yamlfile import read_yaml

NAN = float("nan")
AGREEMENTS = ("agreement", "agreement_right", "agreement_wrong")  # of the student with the weak model
# Of the labels that the student learned from, whoever gave them.
LEARNED = ("label_accuracy", "label_examples", "label_share", "label_truth_share")
CELL_KEYS = ("task", "weak", "student", "method", "selection")
SCORES = ("accuracy", "auroc", "ece", "brier")
COLUMNS = (
    *("sweep", "task", "weak", "student", "method", "seed", "selection", "metric", "n_classes", "n", "majority_share"),
    *("weak_params", "student_params"),
    *(f"{role}_{column}" for role in ROLES for column in ("status", "reason")),
    *(f"{role}_{column}" for column in SCORES for role in ROLES),
    *AGREEMENTS,
    *LEARNED,
    *("pgr", "pgr_reason", "pgr_auroc", "pgr_auroc_reason"),
    # Of the run that trained the model and predicted with it, as its manifest says.
    *(f"{role}_{column}" for column in ("seconds", "flops") for role in ROLES),
    # Of how many evaluations the student of which optimizer step counts; empty for `final`, which does not choose.
    *("selected_step", "evaluations", "selection_note"),
    *("data_digest", *(f"{role}_digest" for role in ROLES), "label_digest", "supervisor_digest"),
)
WHOLE = ("seed", "n", "n_classes", "weak_params", "student_params", "label_examples", "selected_step", "evaluations")
FROM_THE_PLAN = (
    *("task", "weak", "student", "method", "seed", "selection", "metric", "n_classes", "weak_params", "student_params"),
    *("data_digest", *(f"{role}_digest" for role in ROLES)),
)
NUMBERS = {role: [f"{role}_{column}" for column in (*SCORES, "seconds", "flops")] for role in ROLES}
EMPTY = {**dict.fromkeys(COLUMNS, NAN), "n": 0, "selection_note": ""}
TWO_CLASSES = "AUROC needs two classes"
GENERATED = "generated text has no AUROC"
BOTH_CLASSES = "AUROC needs examples of both classes"


@dataclass
class Rows:
    """A sweep's results: `frame` has one row per cell and seed, in the order of the plan (columns: COLUMNS).

    `test`, `transfer`, `truth` and `learned` hold what the rows were computed from, for intervals and differences.
    `problems` names what is damaged; `unfinished` counts what failed, is blocked or was not run yet, a line each.
    """

    name: str
    question: str
    folder: Path
    frame: pd.DataFrame
    test: dict[Taken, Scored] = field(default_factory=dict)  # by train digest and selection
    stamps: dict[Taken, bytes] = field(default_factory=dict)  # of the files of final ones, a hash when they were read
    transfer: dict[str, Scored] = field(default_factory=dict)  # by train digest, of those that label
    truth: dict[str, Truth] = field(default_factory=dict)  # by materialize digest; the test split
    learned: dict[str, Learned] = field(default_factory=dict)  # labels for transfer, by the frame's `label_digest`
    taught: dict[str, str] = field(default_factory=dict)  # by student digest: truth, or nothing; of others not there
    problems: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    store: Store = field(default_factory=lambda: Store(Path("results") / "store"))
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the plan, by digest: kind, title, parents
    standing: dict[str, Standing] = field(default_factory=dict)  # of each of them
    raw: dict[str, Any] = field(default_factory=dict)  # the sweep as it was used


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
        # A path that leads nowhere means the sweep that its last part names.
        meant = path.stem if path.suffix in (".yaml", ".yml") else path.parent.name if path.suffix else path.name
        hint = nearest(meant or name, known) if known else ""
        empty = "" if known else f" (nothing is planned in {sweeps}; `w2s sweep YAML` plans and runs)"
        raise SpecError(f"sweep: no sweep named {name!r} in {sweeps}{hint}{empty}")
    return sweeps / name, Path(root)


def load(
    name_or_path: str | Path, root: Path = Path("results"), progress: Callable[[int, int], None] | None = None
) -> Rows:
    """Read a sweep's results. `progress` hears now and then how many predictions were read of how many to read.

    Raises SpecError for an unknown sweep, StepError for a damaged plan.json.
    """
    folder, root = locate(name_or_path, Path(root))
    plan = _read_plan(folder / "plan.json")
    rows = Rows(str(plan["name"]), str(plan["question"]), folder, pd.DataFrame(columns=list(COLUMNS)))
    rows.store, rows.raw = Store(root / "store"), plan["sweep"]
    rows.steps = {step["digest"]: {key: step[key] for key in ("kind", "title", "parents")} for step in plan["steps"]}
    rows.taught = {cell["student_digest"]: cell["taught"] for cell in plan["cells"] if "taught" in cell}
    overview = rows.store.overview()
    found = Evidence(rows.store, standings(plan["steps"], rows.store, overview=overview))
    found.take(root, plan["cells"], overview.finished, progress or silent)
    if found.damaged:  # what needs it and is not there is blocked
        found.standing = standings(plan["steps"], rows.store, found.damaged, overview)
    rows.standing, rows.test, rows.transfer, rows.truth = found.standing, found.test, found.transfer, found.truth
    rows.learned, rows.stamps = found.learned, found.stamps
    records = [_row(rows.name, cell, found) for cell in plan["cells"]]
    rows.frame = pd.DataFrame.from_records(records, columns=list(COLUMNS)).astype(
        dict.fromkeys(WHOLE, "Int64")  # though some are absent
    )
    rows.unfinished = list(unfinished(plan["steps"], rows.standing))
    damaged = [s.reason for s in rows.standing.values() if s.status == "damaged"]
    rows.problems = list(dict.fromkeys([*damaged, *found.problems]))
    return rows


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        steps = {step["digest"]: step for step in plan["steps"]}
        for cell in plan["cells"]:
            cell["judge"] = judge_of(cell["digests"], steps)
            cell.update({f"{role}_digest": cell["digests"][role] for role in ("data", *ROLES)})
        needed = {*CELL_KEYS, "seed", "metric", "n_classes", "weak_params", "student_params"}
        lacking = sorted({key for cell in plan["cells"] for key in needed - cell.keys()})
        if lacking:
            raise KeyError(", ".join(lacking))
        unknown = sorted({str(cell["selection"]) for cell in plan["cells"]} - set(SELECTIONS))
        if unknown:
            raise ValueError(f"no selection {', '.join(unknown)}")
        for step in plan["steps"]:
            _ = step["digest"], step["kind"], step["title"], step["parents"]
        sweep = plan.get("sweep")
        return {
            **{key: plan[key] for key in ("name", "cells", "steps")},
            "question": plan.get("question", ""),
            "sweep": sweep if isinstance(sweep, dict) else {},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StepError(
            f"{path}: damaged ({_wrong(error)}); `w2s sweep` with the YAML writes it again and keeps what is finished"
        ) from None


def _wrong(error: Exception) -> str:
    """What is wrong with a plan.json, in words."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error}"
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]}"
    return str(error) if isinstance(error, ValueError) else "not built like a plan"


def _row(sweep: str, cell: Mapping[str, Any], found: Evidence) -> tuple[Any, ...]:
    """One cell of one seed, in the order of COLUMNS."""
    row: dict[str, Any] = {**EMPTY, "sweep": sweep}
    row.update({key: cell[key] for key in FROM_THE_PLAN})
    truth = found.truth.get(cell["data_digest"])
    if truth is not None:
        row.update(n=len(truth.ids), majority_share=found.majority_share[cell["data_digest"]])
    states: dict[str, str] = {}
    for role in ROLES:
        which = taken_of(cell, role)
        state = found.chosen.get(which) or found.standing.get(which.digest, UNPLANNED)
        row[f"{role}_status"], row[f"{role}_reason"] = state.status, state.reason
        numbers = found.numbers.get(which)
        if numbers is not None:
            row.update(zip(NUMBERS[role], numbers, strict=True))
        else:
            states[role] = state.status
    if cell["selection"] != "final":
        row.update(_choice(cell, found, row["student_reason"]))
    if truth is not None and "weak" not in states and "student" not in states:
        row.update(agreement_of(*(found.test[taken_of(cell, role)] for role in ("student", "weak"))))
    row["label_digest"], row["supervisor_digest"] = cell["judge"], found.supervisors[cell["judge"]]
    labels = found.learned.get(cell["judge"])
    if labels is not None:
        row.update(label_accuracy=labels.accuracy, label_examples=labels.kept)
        row.update(label_share=labels.kept_share, label_truth_share=labels.truth_share)
    row["pgr"], row["pgr_reason"] = recovered(row, "accuracy", states)
    row["pgr_auroc"], row["pgr_auroc_reason"] = recovered(row, "auroc", states)
    return tuple(row.values())


def agreement_of(student: Scored, weak: Scored) -> dict[str, float]:
    """How often the student predicts what its supervisor predicts: of all, where that is right, where it is wrong.
    NaN over no examples. By counting: one of 100,000 rows costs a tenth of what means over masks cost.
    Source: Burns et al. 2023, sec. 5.1.1."""
    same_N = student.predicted_N == weak.predicted_N
    n, same = len(same_N), int(np.count_nonzero(same_N))
    right, same_right = int(np.count_nonzero(weak.right_N)), int(np.count_nonzero(same_N & weak.right_N))
    of_right = same_right / right if right else NAN
    of_wrong = (same - same_right) / (n - right) if n > right else NAN
    return dict(zip(AGREEMENTS, (same / n, of_right, of_wrong), strict=True))


def recovered(row: Mapping[str, Any], metric: str, states: Mapping[str, str]) -> tuple[float, str]:
    """(PGR, why there is none) as a bare ratio: its interval belongs to the cell over seeds. `states` are those of the
    roles that have no numbers."""
    if metric == "auroc" and row["n_classes"] != 2:
        return NAN, TWO_CLASSES if row["n_classes"] else GENERATED
    if states:
        return NAN, "; ".join(
            f"{role} {status}" if status != "done" else f"no ground truth to measure the {role} with"
            for role, status in states.items()
        )
    weak, student, ceiling = (row[f"{role}_{metric}"] for role in ROLES)
    if weak != weak or ceiling != ceiling:
        return NAN, BOTH_CLASSES
    if ceiling <= weak:
        return NAN, "no gap: ceiling does not exceed weak"
    return (student - weak) / (ceiling - weak), ""


def _choice(cell: Mapping[str, Any], found: Evidence, reason: str) -> dict[str, Any]:
    """The columns that tell the chosen step, or why there is none."""
    notes = [note] if (note := diagnostic(cell["selection"])) else []
    choice = found.choices.get(taken_of(cell, "student"))
    if choice is None:
        notes.append(f"no step chosen: {reason or 'no ground truth of test'}")
        return {"selection_note": "; ".join(notes)}
    return {"selected_step": choice.step, "evaluations": choice.evaluations, "selection_note": "; ".join(notes)}
