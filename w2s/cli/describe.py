"""Plans, sweeps and steps in, lines for a terminal out; reads the results folder and never changes an artifact."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2s.cli.terminal import count, seconds, table
from w2s.disk import disk_errors
from w2s.errors import SpecError
from w2s.estimate import Estimate, estimate
from w2s.identity import nearest
from w2s.plan import Plan, State, states, states_of
from w2s.store import Store

STATES: tuple[State, ...] = ("done", "running", "waiting", "failed", "blocked")
SHOWN_STEPS = 60
DEFAULT_RESULTS = Path("results")


def plan(plan: Plan, store: Store) -> list[str]:
    """What a plan holds: steps by role and state, what sharing saves, the cost of what is left, and each step."""
    found = states(plan, store)
    cells = len(plan.experiments)
    lines = [f"sweep {plan.name}: {cells} cells", *([plan.question] if plan.question else []), ""]
    roles = {digest: node.title.split()[0] for digest, node in plan.nodes.items()}
    by_role = Counter((roles[digest], state) for digest, state in found.items())
    used = [state for state in STATES if state in found.values()]
    rows = [
        (role, sum(by_role[role, s] for s in STATES), *(by_role[role, s] or "" for s in used))
        for role in dict.fromkeys(roles.values())
    ]
    lines += table(("steps", "all", *used), rows, right=("all", *used))
    lines += ["", _shared(plan), ""]
    lines += _estimates(estimate(plan, store)) + [""]
    for node in list(plan.nodes.values())[:SHOWN_STEPS]:
        shared = f", for {node.cells} cells" if node.cells > 1 else ""
        lines.append(f"{found[node.digest]:<8} {node.digest[:12]}  {node.title}{shared}")
    if len(plan.nodes) > SHOWN_STEPS:
        lines.append(f"and {len(plan.nodes) - SHOWN_STEPS} more steps")
    return lines


def _shared(plan: Plan) -> str:
    """What equal steps being one step saves, and the step that serves most cells."""
    alone = sum(node.cells for node in plan.nodes.values())
    if alone == len(plan.nodes):
        return f"{alone} steps, none of them shared"
    widest = max(plan.nodes.values(), key=lambda node: node.cells)
    return (
        f"{len(plan.nodes)} steps, where the cells one by one would need {alone} "
        f"({widest.title}: one step for {widest.cells} cells)"
    )


def _estimates(found: Mapping[str, Estimate]) -> list[str]:
    if not any(e.to_do for e in found.values()):
        return ["nothing is left to do"]
    rows = [
        (kind, e.to_do, count(e.cost.tokens), count(e.cost.flops), seconds(e.cost.seconds)) for kind, e in found.items()
    ]
    lines = table(("to do", "steps", "tokens", "FLOPs", "time"), rows, right=("steps", "tokens", "FLOPs", "time"))
    left = [e for e in found.values() if e.to_do]
    if any(e.cost.seconds is None for e in left):
        lines.append("time: not known before a step of the same kind has run in this results folder")
    elif left:
        lines.append("time: on one worker, measured on steps of this results folder")
    return lines


def status(results: Path, name: str | None) -> list[str]:
    """How far each sweep of a results folder is, or one of them. Raises SpecError where there is none of that name."""
    names = sweep_names(results)
    if name is not None and name not in names:
        raise SpecError(f"status: no sweep {name!r} in {results / 'sweeps'}{nearest(name, names)}")
    if not names:
        return [f"no sweep has been run in {results}"]
    store, rows, reasons = Store(results / "store"), [], []
    for one in [name] if name is not None else names:
        recorded = _recorded(results, one)
        found = states_of(
            ((s["digest"], s["parents"], store.has(s["kind"], s["digest"])) for s in recorded["steps"]), store
        )
        cells = [[found[digest] for digest in cell["digests"].values()] for cell in recorded["cells"]]
        tally = Counter(found.values())
        rows.append((one, _of(sum(set(c) == {"done"} for c in cells), len(cells)), _of(tally["done"], len(found)),
                     *(tally[state] or "" for state in STATES[1:])))  # fmt: skip
        titles = {s["digest"]: s["title"] for s in recorded["steps"]}
        for digest, state in found.items():
            if state == "failed":
                failure = store.failure(digest) or {}
                reasons.append(f"failed {digest[:12]} {titles[digest]}: {failure.get('reason', 'no reason recorded')}")
            elif state == "running" and name is not None:
                reasons.append(f"running {digest[:12]} {titles[digest]}")
    lines = table(("sweep", "cells", "steps", *STATES[1:]), rows, right=("cells", "steps", *STATES[1:]))
    if reasons:
        lines += ["", *dict.fromkeys(reasons), "", f"`{show_command('DIGEST', results)}` shows the log of a step"]
    if name is not None and (again := command_of(results, name)):
        lines += ["", f"again: {again}"]
    return lines


def _of(part: int, whole: int) -> str:
    return f"{part}/{whole}"


def sweep_names(results: Path) -> list[str]:
    """Sweeps of a results folder that have been planned there, by name."""
    return sorted(path.parent.name for path in (results / "sweeps").glob("*/plan.json"))


def sweep_name(results: Path, given: str | None) -> str:
    """The sweep that a user means: by name, by YAML file, or the one that was run last. Raises SpecError."""
    names = sweep_names(results)
    if not names:
        raise SpecError(f"results: no sweep has been run in {results}; start one: w2s sweep sweeps/quickstart.yaml")
    if given is None:
        return max(names, key=lambda name: (results / "sweeps" / name / "plan.json").stat().st_mtime_ns)
    name = given
    if given.endswith((".yaml", ".yml")):
        from w2s.yamlfile import read_yaml

        data = read_yaml(Path(given))
        name = str(data.get("name", Path(given).stem)) if isinstance(data, dict) else given
    if name not in names:
        raise SpecError(f"results: no sweep {name!r} in {results / 'sweeps'}{nearest(name, names)}")
    return name


def _recorded(results: Path, name: str) -> dict[str, Any]:
    file = results / "sweeps" / name / "plan.json"
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SpecError(f"{file}: cannot be read; run the sweep once more, its steps are kept") from None
    return data


def remember_command(results: Path, name: str, command: str) -> None:
    """Keep the command of a sweep's last run beside its plan, so that it can be shown where it is needed again."""
    file = results / "sweeps" / name / "command.txt"
    with disk_errors(file):
        file.write_text(command + "\n", encoding="utf-8")


def command_of(results: Path, name: str) -> str | None:
    """The command of a sweep's last run; None where none was kept."""
    try:
        return (results / "sweeps" / name / "command.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def uses(results: Path, digest: str) -> list[tuple[str, str]]:
    """(sweep, title) of every sweep that needs a step."""
    found = []
    for name in sweep_names(results):
        found += [(name, step["title"]) for step in _recorded(results, name)["steps"] if step["digest"] == digest]
    return found


def failures(plan: Plan, failed: Mapping[str, str], blocked: Mapping[str, str], results: Path) -> list[str]:
    """What failed and why, what could not run because of it, and where to look."""
    lines = [f"failed  {digest[:12]}  {plan.nodes[digest].title}: {reason}" for digest, reason in failed.items()]
    lines += [f"blocked {d[:12]}  {plan.nodes[d].title}: needs {ancestor[:12]}" for d, ancestor in blocked.items()]
    if failed:
        command = show_command(next(iter(failed))[:12], results)
        lines.append(f"`{command}` shows the log; the same command tries again")
    return lines


def show_command(digest: str, results: Path) -> str:
    """The command that shows a step of this results folder."""
    where = "" if results == DEFAULT_RESULTS else f" --results {shlex.quote(str(results))}"
    return f"w2s show {digest}{where}"


def step(results: Path, prefix: str, log_lines: int) -> list[str]:
    """One step: state, spec, parents, files and numbers; of a failed one the reason and the end of its log."""
    import yaml

    store = Store(results / "store")
    kind, digest = store.find(prefix)
    manifest = store.manifest(kind, digest)
    sweeps = uses(results, digest)
    lines = [f"digest    {digest}", *(f"in sweep  {name}: {title}" for name, title in sweeps)]
    if manifest is not None:
        lines += _finished(store, kind, digest, manifest)
        spec = yaml.safe_dump(manifest["spec"], sort_keys=False, allow_unicode=True).splitlines()
        return [*lines, "", "spec:", *(f"  {line}" for line in spec)]
    state = "running" if store.is_claimed(digest) else "unfinished"
    failure = store.failure(digest)
    if failure is not None and state != "running":
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.get("at", 0.0)))
        lines += [f"state     failed on {at}", f"reason    {failure['reason']}"]
        lines += [f"          {line}" for line in str(failure.get("detail") or "").splitlines()]
    else:
        lines.append(f"state     {state}")
    log = store.log_path(digest)
    ranks = sorted(log.parent.glob("log-rank*.txt"))  # of a group, the log of each process but the first
    return lines + [line for path in (log, *ranks) for line in _log_tail(path, log_lines)]


def _finished(store: Store, kind: str, digest: str, manifest: Mapping[str, Any]) -> list[str]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.get("started", 0.0)))
    git = manifest.get("git") or {}
    commit = f", commit {git['commit'][:12]}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else ""
    lines = [
        f"state     done: {kind}, {started}, {seconds(manifest.get('wall_s'))} on {manifest.get('host', '?')}",
        f"made by   w2s {manifest.get('version', '?')}{commit}",
        f"folder    {store.path(kind, digest)}",
    ]
    if manifest.get("phases"):
        lines.append("phases    " + ", ".join(f"{name} {seconds(s)}" for name, s in manifest["phases"].items()))
    if manifest.get("tokens"):
        peak = f", {manifest['peak_rss_mib']:.0f} MiB at most" if manifest.get("peak_rss_mib") else ""
        lines.append(f"amounts   {count(manifest['tokens'])} tokens, {count(manifest.get('flops'))} FLOPs{peak}")
    lines += [f"parent    {parent}" for parent in manifest.get("parents", [])]
    lines += [
        f"fetched   {json.dumps(item['source'])}" + (f" at commit {item['commit']}" if item.get("commit") else "")
        for item in manifest.get("fetched", [])
    ]
    lines += [f"file      {name}" for name in manifest["files"]]
    for name in ("metrics.json", "summary.json"):
        file = store.path(kind, digest) / name
        if file.exists():
            lines += ["", f"{name}:", *(f"  {line}" for line in file.read_text(encoding="utf-8").splitlines())]
    return lines


def _log_tail(path: Path, log_lines: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 200 * log_lines))
            tail = file.read().decode("utf-8", "replace").splitlines()[-log_lines:]
    except OSError:
        return ["", f"no log at {path}"]
    return ["", f"the end of {path}:", *(f"  {line}" for line in tail)]
