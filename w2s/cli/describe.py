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

from w2s.cli.arguments import RESULTS
from w2s.cli.terminal import count, seconds, table
from w2s.disk import disk_errors, read_json
from w2s.errors import SpecError
from w2s.estimate import Estimate, estimate
from w2s.execute import jobs
from w2s.identity import nearest
from w2s.plan import Plan, State, states, states_of
from w2s.store import Overview, Store

STATES: tuple[State, ...] = ("done", "running", "queued", "waiting", "failed", "blocked")
COUNTED = ("experiments", "steps", *STATES[1:])
EXPERIMENT = ("task", "weak", "student", "method", "seed")
WORDS = {"materialize": "data"}  # for kinds of steps, as titles of steps have them
SHOWN_STEPS = 60
SHOWN_REASONS = 40  # of each kind
SHOWN_EXAMPLES = 3
SHOWN_CHARACTERS = 300  # of a text


def plan(plan: Plan, store: Store) -> list[str]:
    """What a plan holds: steps by role and state, what sharing saves, the cost of what is left, and each step."""
    found = states(plan, store)
    lines = [
        f"sweep {plan.name}: {_experiments(len(plan.experiments))}",
        *([plan.question] if plan.question else []),
        "",
    ]
    roles = {digest: node.title.split()[0] for digest, node in plan.nodes.items()}
    by_role = Counter((roles[digest], state) for digest, state in found.items())
    used = [state for state in STATES if state in found.values()]
    rows = [
        (role, sum(by_role[role, s] for s in STATES), *(by_role[role, s] or "" for s in used))
        for role in dict.fromkeys(roles.values())
    ]
    lines += table(("steps", "all", *used), rows, right=("all", *used))
    lines += ["", _shared(plan), *notes(plan), ""]
    lines += _estimates(estimate(plan, store)) + [""]
    for node in list(plan.nodes.values())[:SHOWN_STEPS]:
        shared = f", for {_experiments(node.cells)}" if node.cells > 1 else ""
        lines.append(f"{found[node.digest]:<8} {node.digest[:12]}  {node.title}{shared}")
    if len(plan.nodes) > SHOWN_STEPS:
        lines.append(f"and {len(plan.nodes) - SHOWN_STEPS} more steps")
    return lines


def notes(plan: Plan) -> list[str]:
    """What a user might not expect of a plan."""
    return [f"note: {note}" for note in plan.notes]


def _shared(plan: Plan) -> str:
    """What equal steps being one step saves, and the step that serves most experiments."""
    alone = sum(node.cells for node in plan.nodes.values())
    if alone == len(plan.nodes):
        return f"{alone} steps, none of them shared"
    widest = max(plan.nodes.values(), key=lambda node: node.cells)
    return (
        f"{len(plan.nodes)} steps, where the experiments one by one would need {alone} "
        f"({widest.title}: one step for {_experiments(widest.cells)})"
    )


def _experiments(number: int) -> str:
    return f"{number} experiment{'s' * (number != 1)}"


def _estimates(found: Mapping[str, Estimate]) -> list[str]:
    if not any(e.to_do for e in found.values()):
        return ["nothing is left to do"]
    rows = [
        (WORDS.get(kind, kind), e.to_do, count(e.cost.tokens), count(e.cost.flops), seconds(e.cost.seconds))
        for kind, e in found.items()
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
    names = sweep_names(results) if name is None else [known_sweep(results, name, "status")]
    if not names:
        return [f"no sweep has been run in {results}"]
    store, queue = Store(results / "store"), jobs.queue_of(results, names)
    overview, held = store.overview(), queue.held() if queue.asked else {}  # else nothing is known of any task
    queued = {digest for digest, place in held.items() if _is_to_come(place, overview.failure(digest))}
    rows, reasons, lost = [], [], 0
    for one in names:
        recorded = _recorded(results, one)
        steps = ((step["digest"], step["parents"], step["digest"] in overview.finished) for step in recorded["steps"])
        found = states_of(steps, store, queued, overview)
        # Selections differ in what is taken from an experiment's steps, not in the steps.
        asked = {tuple(cell.get(name) for name in EXPERIMENT): cell["digests"] for cell in recorded["cells"]}
        needed = [{found[digest] for digest in digests.values() if digest} for digests in asked.values()]
        tally = Counter(found.values())
        rows.append((one, _of(sum(of == {"done"} for of in needed), len(needed)), _of(tally["done"], len(found)),
                     *(tally[state] or "" for state in STATES[1:])))  # fmt: skip
        lost = tally["waiting"] if not tally["running"] else 0
        reasons += _reasons(recorded["steps"], found, overview, held, all_of=name is not None)
    lines = table(("sweep", *COUNTED), rows, right=COUNTED)
    lines += _queue(queue)
    if name is not None and queue.asked and queue.jobs and not queue.live and lost:
        lines += ["", f"{lost} step{'s wait' if lost > 1 else ' waits'} that no job has; submit again"]
    if reasons:
        lines += ["", *dict.fromkeys(reasons), "", f"`{show_command('DIGEST', results)}` shows the log of a step"]
    if name is not None and (again := command_of(results, name)):
        lines += ["", f"again: {again}"]
    return lines


def _reasons(
    steps: list[dict[str, Any]],
    found: Mapping[str, State],
    overview: Overview,
    held: Mapping[str, jobs.Held],
    all_of: bool,
) -> list[str]:
    """What to know about single steps: why they failed; with `all_of`, which run, and which a job left undone."""
    said: dict[str, list[str]] = {}
    for step in steps:
        digest, title = step["digest"], step["title"]
        state, place = found[digest], held.get(digest)
        if state == "failed":
            reason = (overview.failure(digest) or {}).get("reason", "no reason recorded")
            said.setdefault(state, []).append(f"failed {digest[:12]} {title}: {reason}")
        elif state == "running" and all_of:
            said.setdefault(state, []).append(f"running {digest[:12]} {title}")
        elif state == "waiting" and place is not None and all(found[parent] == "done" for parent in step["parents"]):
            said.setdefault("missing", []).append(f"missing {digest[:12]} {title}: {_gone(place)}")
    lines = []
    for kind, sentences in said.items():
        lines += sentences[:SHOWN_REASONS]
        if len(sentences) > SHOWN_REASONS:
            lines.append(f"{kind}: {len(sentences) - SHOWN_REASONS} more")
    return lines


def _is_to_come(place: jobs.Held, failure: Mapping[str, Any] | None) -> bool:
    """True where the task that has a step will still do it, not where it failed there and the task does the rest."""
    if place.task is None:
        return False
    failed_here = failure is not None and 0.0 < place.job.at < failure.get("at", 0.0)
    return place.task.state != "RUNNING" or not failed_here


def _gone(place: jobs.Held) -> str:
    """Why a step is missing whose task is no longer in the queue, as far as can be told."""
    log = place.job.log(place.place)
    task = f"task {place.place} of job {place.job.id} ended without it"
    if log.exists():
        return f"{task}; submitting again does it (its log: {log})"
    return f"{task} and without a word: it was cancelled before it began, or nodes cannot write to {log.parent}"


def _queue(queue: jobs.Queue) -> list[str]:
    """What SLURM has in hand, a line per job."""
    if not queue.asked:
        return ["", "SLURM cannot be asked here: steps in its queue are shown as waiting"]
    by_job: dict[tuple[str, str], Counter[str]] = {}
    for task in queue.tasks:
        reason = f" ({task.reason})" if task.waits and task.reason not in ("", "None") else ""
        by_job.setdefault((task.job, task.name), Counter())[f"{task.state.lower()}{reason}"] += 1
    lines = [""] if by_job else []
    for job in queue.live:
        what = f"{job.sweep}, wave {job.wave}" if job.wave else f"{job.sweep}, tables"
        counts = ", ".join(f"{number} {state}" for state, number in by_job[job.id, job.name].items())
        lines.append(f"job {job.id} ({what}): {counts}")
    return lines


def _of(part: int, whole: int) -> str:
    return f"{part}/{whole}"


def sweep_names(results: Path) -> list[str]:
    """Sweeps of a results folder that have been planned there, by name."""
    return sorted(path.parent.name for path in (results / "sweeps").glob("*/plan.json"))


def known_sweep(results: Path, name: str, where: str) -> str:
    """The name of a sweep that has been planned. Raises SpecError where it is none."""
    names = sweep_names(results)
    if name not in names:
        close = nearest(name, names)
        raise SpecError(f"{where}: no sweep {name!r} in {results / 'sweeps'}{close}; `w2s status` lists them")
    return name


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
    return known_sweep(results, name, "results")


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


def command(name: str, what: str, results: Path) -> str:
    """A command about a sweep or a step of this results folder, as it would be typed."""
    return shlex.join(["w2s", name, what, *([] if results == RESULTS else ["--results", str(results)])])


def show_command(digest: str, results: Path) -> str:
    """The command that shows a step of this results folder."""
    return command("show", digest, results)


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
    return lines + _logs(store.work(digest), log_lines)


def logs(results: Path, prefix: str, log_lines: int | None) -> list[str]:
    """What a step logged, and the tasks of job arrays that were given it; the last lines of each, or (None) all."""
    store = Store(results / "store")
    kind, digest = _given(store, results, prefix)
    lines = _logs(store.path(kind, digest) if store.has(kind, digest) else store.work(digest), log_lines)
    for path in jobs.logs_of(results, sweep_names(results), digest):
        lines += _log_tail(path, log_lines)
    return lines[1:]


def _given(store: Store, results: Path, prefix: str) -> tuple[str, str]:
    """(kind, digest) of the step that a user means: one of the store, or one that was only ever submitted."""
    try:
        return store.find(prefix)
    except SpecError:
        submitted = [
            d for d in jobs.steps_of(results, sweep_names(results)) if len(prefix) >= 4 and d.startswith(prefix)
        ]
        if len(submitted) != 1:
            raise
        return "work", submitted[0]


def _logs(folder: Path, log_lines: int | None) -> list[str]:
    log = folder / "log.txt"
    ranks = sorted(folder.glob("log-rank*.txt"))  # of a group, the log of each process but the first
    return [line for path in (log, *ranks) for line in _log_tail(path, log_lines)]


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
    told = read_json(store.path(kind, digest) / "prompt.json") if "prompt.json" in manifest["files"] else None
    if told is not None:
        asked = [*str(told["text"]).splitlines(), *str(told["template"]).splitlines()]
        lines += ["", f"prompt, and then one of {json.dumps(told['words'])}:", *(f"  {line}" for line in asked)]
    return lines + (_examples(store, digest) if kind == "materialize" else [])


def _examples(store: Store, digest: str) -> list[str]:
    """Some test examples as models are given them; of texts that are compared the better one is marked."""
    rows = store.read_table("materialize", digest, "test.parquet").slice(0, SHOWN_EXAMPLES).to_pylist()
    summary = read_json(store.path("materialize", digest) / "summary.json") or {}
    names: list[str] = summary.get("classes") or []
    if rows and "target" in rows[0]:
        return ["", "examples of the test:", *(line for row in rows for line in _prompt(row))]
    lines = ["", "examples of the test:"] if names else []
    for row in rows if names else []:
        titles = [names[row["label"]]]
        if "texts" in row:
            titles = [f"{name}, the better one" if place == row["label"] else name for place, name in enumerate(names)]
        lines.append("")
        for title, text in zip(titles, row.get("texts") or [row["text"]], strict=True):
            cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."
            lines += [f"  {title}:", *(f"    {line}" for line in cut.splitlines())]
    return lines


def _prompt(row: Mapping[str, Any]) -> list[str]:
    """A prompt, and the text that is to follow it."""
    found = [""]
    for title, text in (("prompt", row["text"]), ("target", row["target"])):
        cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."
        found += [f"  {title}:", *(f"    {line}" for line in cut.splitlines())]
    return found


def _log_tail(path: Path, log_lines: int | None) -> list[str]:
    """A log's last lines, or all of them, below its name."""
    try:
        with path.open("rb") as file:
            if log_lines is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 200 * log_lines))
            text = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ["", f"no log at {path}"]
    if log_lines is None:
        return ["", f"{path}:", *(f"  {line}" for line in text)]
    return ["", f"the end of {path}:", *(f"  {line}" for line in text[-log_lines:])]
