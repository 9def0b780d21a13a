"""Runs in, where they come from out: which code on which machines, what it cost, and how to do it again.

Says so where runs come from several commits, from a checkout with changes, or from code without a commit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2s.analyze.reading.rows import Rows
from w2s.analyze.report.runs import Runs

MANY = 12


@dataclass(frozen=True)
class Environment:
    """What several runs share."""

    runs: int
    code: str
    host: str
    python: str
    libraries: str


@dataclass(frozen=True)
class Sweep:
    """One sweep that the report is about, as it was asked for."""

    name: str
    text: str  # YAML
    command: str


@dataclass(frozen=True)
class Origins:
    """Where the runs come from."""

    environments: list[Environment]
    more: int  # environments that are not listed
    code: str  # all of it, in a few words
    notices: list[str]
    period: str
    seconds: float
    flops: float
    version: str
    commit: str  # where there is one, and only one


def origins(runs: Runs) -> Origins:
    """Of the finished runs."""
    counts: dict[int, int] = {}
    for record in runs.records:
        if "environment" in record:
            counts[record["environment"]] = counts.get(record["environment"], 0) + 1
    ordered = sorted(counts, key=lambda place: -counts[place])
    codes: dict[str, int] = {}
    for place in ordered:
        code = _code(runs.environments[place])
        codes[code] = codes.get(code, 0) + counts[place]
    found = [_environment(runs.environments[place], counts[place]) for place in ordered[:MANY]]
    started = [float(record["started"]) for record in runs.records if record.get("started")]
    commits = {str((e.get("git") or {}).get("commit") or "") for e in runs.environments} - {""}
    versions = {str(e["version"]) for e in runs.environments if "version" in e}
    return Origins(
        found,
        max(0, len(ordered) - MANY),
        next(iter(codes)) if len(codes) == 1 else f"{len(codes)} states of the code" if codes else "",
        _notices(runs, counts, codes),
        " to ".join(dict.fromkeys(_day(at) for at in (min(started), max(started)))) if started else "",
        sum(float(record.get("wall_s") or 0.0) for record in runs.records),
        sum(float(record.get("flops") or 0.0) for record in runs.records),
        versions.pop() if len(versions) == 1 else "",
        commits.pop() if len(commits) == 1 else "",
    )


def _code(environment: Mapping[str, Any]) -> str:
    git = environment.get("git") or {}
    commit = f", commit {str(git['commit'])[:12]}" if git.get("commit") else ", commit unknown"
    return f"w2s {environment.get('version', '?')}{commit}{' with changes' if git.get('dirty') else ''}"


def _environment(environment: Mapping[str, Any], runs: int) -> Environment:
    libraries = ", ".join(f"{name} {version}" for name, version in (environment.get("libraries") or {}).items())
    cpus = f", {environment['cpus']} CPUs" if environment.get("cpus") else ""
    host = f"{environment.get('host', '?')} ({environment.get('platform', '?')}{cpus})"
    return Environment(runs, _code(environment), host, str(environment.get("python", "?")), libraries)


def _notices(runs: Runs, counts: Mapping[int, int], codes: Mapping[str, int]) -> list[str]:
    said = []
    if len(codes) > 1:
        listed = "; ".join(f"{code} ({count:,})" for code, count in codes.items())
        said.append(f"The runs do not all come from the same code: {listed}.")
    states = {place: runs.environments[place].get("git") or {} for place in counts}
    dirty = sum(counts[place] for place, git in states.items() if git.get("dirty"))
    if dirty:
        said.append(f"{_runs(dirty)} made by a checkout with changes that no commit holds.")
    unknown = sum(counts[place] for place, git in states.items() if not git.get("commit"))
    if unknown:
        said.append(f"{_runs(unknown)} made by code that was installed without its repository: no commit is known.")
    return said


def _runs(count: int) -> str:
    return "1 run was" if count == 1 else f"{count:,} runs were"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def sweeps(rows: Rows) -> list[Sweep]:
    """The sweeps as they were asked for; several where the rows were merged."""
    merged = {name: raw for name, raw in rows.raw.items() if isinstance(raw, dict)} if _is_merged(rows) else {}
    if not merged:
        return [_sweep(rows.name, rows.raw, rows.folder)]
    return [
        _sweep(name, raw, Path(name) if Path(name).is_dir() else rows.folder.parent / name)
        for name, raw in merged.items()
    ]


def _is_merged(rows: Rows) -> bool:
    """Whether `raw` holds sweeps by their labels rather than one sweep."""
    return "tasks" not in rows.raw and all(isinstance(raw, dict) and "tasks" in raw for raw in rows.raw.values())


def _sweep(name: str, raw: Mapping[str, Any], folder: Path) -> Sweep:
    import yaml

    try:
        command = (folder / "command.txt").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        command = ""
    text = str(yaml.safe_dump(dict(raw), sort_keys=False, allow_unicode=True, width=100))
    return Sweep(str(raw.get("name", name)), text, command)
