"""Rows and their store in, one record per planned step out: what a page about a run shows, as plain data.

Each manifest and each history is read once. Features steps, which only hold hidden states, have a record where they
failed. What cannot be read is said in the record's place (`lost`), never left out silently.

Digests stand whole in the record; runs refer to each other by their number. Specs and environments are alike in most
runs, so their parts are kept once, as `blocks` of YAML and as `environments`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2s.analyze.reading.rows import AGREEMENTS, ROLES, SCORES, Rows
from w2s.analyze.reading.selection import Taken
from w2s.analyze.report.examples import Disagreements
from w2s.analyze.report.history import Curve, curves
from w2s.analyze.report.packing import number
from w2s.errors import StepError
from w2s.progress import Report, silent

# Of steps that are no cell's.
KINDS = {"materialize": "data", "labels": "labels", "train": "between", "language": "between"}
HISTORY_POINTS = 100
EXAMPLES = 20
LOG_CHARS = 4_000
ENVIRONMENT = ("version", "git", "python", "libraries", "host", "platform", "cpus")
AMOUNTS = ("started", "wall_s", "peak_rss_mib", "devices", "phases", "examples", "tokens", "flops")


@dataclass
class Facts:
    """What the rows say about one step."""

    role: str
    task: str
    model: str = ""
    seed: int | None = None
    supervisor: str = ""  # digest
    supervisor_model: str = ""
    data: str = ""
    methods: dict[str, None] = field(default_factory=dict)
    label_accuracy: float | int | None = None
    numbers: list[list[Any]] = field(default_factory=list)  # selection, step, SCORES, AGREEMENTS


@dataclass
class Runs:
    """All runs of a report. `records`, `histories` and `examples` are by run, in the order of the plan."""

    disagreements: Disagreements
    order: list[str] = field(default_factory=list)  # digests
    facts: list[Facts] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    histories: list[list[Curve]] = field(default_factory=list)
    examples: list[dict[str, Any] | None] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)


def gather(rows: Rows, progress: Report = silent) -> Runs:
    """Every run of the rows."""
    facts = _facts(rows)
    runs = Runs(Disagreements(rows, EXAMPLES))
    parts = _Parts(runs)
    for digest, step in rows.steps.items():
        status = rows.standing[digest].status if digest in rows.standing else "missing"
        if step["kind"] != "features" or status in ("failed", "damaged"):
            runs.order.append(digest)
            runs.statuses.append(status)
            runs.facts.append(facts.get(digest) or Facts(KINDS.get(step["kind"], "features"), ""))
    place = {digest: number_of for number_of, digest in enumerate(runs.order)}
    for done, digest in enumerate(runs.order):
        progress("reading runs", done, len(runs.order))
        record, history = _record(rows, digest, runs.facts[done], place, parts)
        runs.records.append(record)
        runs.histories.append(history)
    runs.examples = [None] * len(runs.order)
    students = [place for place, own in enumerate(runs.facts) if own.supervisor]
    students.sort(key=lambda place: runs.facts[place].supervisor)  # one after another, a supervisor is read once
    for done, student in enumerate(students):
        progress("choosing examples", done, len(students))
        runs.examples[student] = _examples(rows, runs, student)
    runs.disagreements.read_texts()
    return runs


def _facts(rows: Rows) -> dict[str, Facts]:
    """What each step is in the sweep, by digest."""
    found: dict[str, Facts] = {}
    for row in rows.frame.to_dict("records"):
        data = found.setdefault(row["data_digest"], Facts("data", str(row["task"])))
        data.data = str(row["data_digest"])
        for role in ROLES:
            digest = str(row[f"{role}_digest"])
            model = str(row["weak" if role == "weak" else "student"])
            if digest not in found:
                found[digest] = Facts(role, str(row["task"]), model, int(row["seed"]), data=data.data)
            own = found[digest]
            if role == "student":
                own.supervisor, own.supervisor_model = str(row["weak_digest"]), str(row["weak"])
                own.methods[str(row["method"])] = None
            if role == "weak":
                labelled = rows.transfer.get(digest)  # its own labels, whoever learned from others
                own.label_accuracy = number(None if labelled is None else labelled.accuracy)
            numbers = _numbers(row, role)
            if numbers is not None and numbers not in own.numbers:
                own.numbers.append(numbers)
    return found


def _numbers(row: Mapping[Any, Any], role: str) -> list[Any] | None:
    """What was measured of one role of a row; None where nothing was."""
    measured = [number(_float(row.get(f"{role}_{name}"))) for name in SCORES]
    if measured[0] is None:
        return None
    if role != "student":
        return ["final", None, *measured, *(None for _ in AGREEMENTS)]
    step = number(_float(row["selected_step"]))
    return [str(row["selection"]), step, *measured, *(number(_float(row.get(name))) for name in AGREEMENTS)]


def _float(value: Any) -> float | None:
    """A number of a frame; pandas has several words for one that is absent."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


class _Parts:
    """Keeps each part of a spec and each environment once."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._blocks: dict[str, int] = {}
        self._environments: dict[str, int] = {}

    def blocks(self, spec: Mapping[str, Any]) -> list[int]:
        """The numbers of the blocks that make up a spec as YAML."""
        return [self._block(key, value) for key, value in spec.items()]

    def _block(self, key: str, value: Any) -> int:
        import yaml

        name = json.dumps([key, value], sort_keys=False)
        if name not in self._blocks:
            self._blocks[name] = len(self._runs.blocks)
            self._runs.blocks.append(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True))
        return self._blocks[name]

    def environment(self, manifest: Mapping[str, Any]) -> int:
        """The number of the environment that a manifest names."""
        found = {key: manifest[key] for key in ENVIRONMENT if key in manifest}
        name = json.dumps(found, sort_keys=True)
        if name not in self._environments:
            self._environments[name] = len(self._runs.environments)
            self._runs.environments.append(found)
        return self._environments[name]


def _record(
    rows: Rows, digest: str, facts: Facts, place: Mapping[str, int], parts: _Parts
) -> tuple[dict[str, Any], list[Curve]]:
    """One run's record and the curves of its training."""
    step, kind = rows.steps[digest], rows.steps[digest]["kind"]
    standing = rows.standing.get(digest)
    record: dict[str, Any] = {"digest": digest, "title": step["title"], "reason": standing.reason if standing else ""}
    record["numbers"] = facts.numbers
    record["data"], record["supervisor"] = place.get(facts.data), place.get(facts.supervisor)
    record["methods"] = list(facts.methods)
    record["labels"] = facts.label_accuracy
    manifest = rows.store.manifest(kind, digest)
    if manifest is None:
        return {**record, **_last_try(rows, digest)}, []
    spec = manifest.get("spec")
    record["config"] = parts.blocks(spec) if isinstance(spec, dict) else []
    record["environment"] = parts.environment(manifest)
    record.update({key: _short(manifest[key]) for key in AMOUNTS if manifest.get(key) not in (None, [], {})})
    commits = {str(item["commit"]) for item in manifest.get("fetched") or [] if item.get("commit")}
    if commits:
        record["fetched"] = sorted(commits)
    folder = rows.store.path(kind, digest)
    record["folder"] = str(folder.parent.parent)  # the rest of it is the digest
    if kind == "materialize":
        record["summary"] = _summary(folder)
        return record, []
    try:
        history = curves(folder / "history.jsonl", HISTORY_POINTS) if (folder / "history.jsonl").exists() else []
    except StepError as error:
        return {**record, "lost": str(error)}, []
    return record, history


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return number(value, 10) if isinstance(value, float) else value


def _last_try(rows: Rows, digest: str) -> dict[str, Any]:
    """What an unfinished step's last try left: when it failed, and the end of its log."""
    failure = rows.store.failure(digest)
    if failure is None:
        return {}
    found: dict[str, Any] = {
        "failed": number(_float(failure.get("at")), 10),
        "detail": str(failure.get("detail") or ""),
    }
    found["log"] = _tail(rows.store.log_path(digest))
    return found


def _tail(path: Path) -> str:
    """The end of a log, from the beginning of a line."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_CHARS))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text.partition("\n")[2] if size > LOG_CHARS else text


def _summary(folder: Path) -> str:
    import yaml

    from w2s.disk import read_json

    found = read_json(folder / "summary.json") or {}
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True)) if found else ""


def _examples(rows: Rows, runs: Runs, student: int) -> dict[str, Any]:
    """The examples of one student, or why there are none."""
    digest, own = runs.order[student], runs.facts[student]
    if own.data not in rows.truth:
        return {"lost": "no ground truth: the test split could not be read"}
    for name, needed in (("student", digest), ("supervisor", own.supervisor)):
        if Taken(needed) not in rows.test:
            return {"lost": f"the {name} has no predictions that could be read"}
    try:
        return runs.disagreements.of(digest, own.supervisor, own.data)
    except StepError as error:
        return {"lost": str(error)}
