"""What `w2s results` and `w2s compare` are asked in, text and an exit code out; all that is wrong is said at once."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.cli import terminal
from w2s.errors import SpecError

if TYPE_CHECKING:
    from w2s.analyze.numbers.compare import CellChange, Comparison, Key, NumberChange

EVERY_S = 10.0
SHOWN = 20  # lines of each part of a comparison
SHOWN_CHARS = 48  # of a value
LEAST_CHARS = 8  # of a value where the terminal is narrow
SUMMARY = " " * 11  # before what stands below the first line of a sentence of the summary
VERDICTS = {True: "beyond noise", False: "within noise", None: ""}


def results(
    names: Sequence[str],
    folder: Path,
    baseline: str | None = None,
    metric: str = "accuracy",
    size: str = "params",
    watch: bool = False,
    every_s: float | None = None,
) -> int:
    """Write and print the results of sweeps, the last one that was run where none is named; see `report`."""
    from w2s.cli import describe
    from w2s.cli.report import report
    from w2s.cli.report import watch as watched

    problems = []
    if every_s is not None and not watch:
        problems.append("--every: is for --watch; give that too")
    if every_s is not None and not every_s > 0:
        problems.append(f"--every: expected more than 0 seconds (got {every_s:g})")
    asked: list[str | Path] = list(names)
    if not asked:
        asked = [folder / "sweeps" / describe.sweep_name(folder, None)]
    require(asked, folder, baseline, metric, size, problems)
    show = functools.partial(report, asked, folder, baseline, metric, size)
    return watched(asked, folder, every_s or EVERY_S, show) if watch else show()


def require(
    names: Sequence[str | Path], folder: Path, baseline: str | None, metric: str, size: str, problems: Sequence[str]
) -> None:
    """Raise SpecError for `problems` and everything that does not fit the sweeps, in the words of the command line."""
    from w2s.analyze import render

    found = list(problems)
    try:
        render.require(names, folder, baseline, metric, size)
    except SpecError as error:
        flags = ("metric:", "size:", "baseline:")
        found += [f"--{line}" if line.startswith(flags) else line for line in error.problems]
    if found:
        raise SpecError(found)


def compare(first: str, second: str, folder: Path, other: Path | None, exact: bool) -> int:
    """Print what changed from one sweep to another. 1 where an artifact is damaged, or with `exact` a number changed.

    `other` is the results folder of the second, where it is not the same one.
    """
    from w2s.analyze.numbers.compare import compare as compared
    from w2s.analyze.reading import rows
    from w2s.cli.report import Progress

    folders, problems = [], []
    for name, where in ((first, folder), (second, other or folder)):
        try:
            folders.append(rows.locate(name, where)[0])
        except SpecError as error:
            problems += [line for line in error.problems if line not in problems]
    if len(folders) == 2 and folders[0].resolve() == folders[1].resolve():
        problems.append(
            f"compare: {first} and {second} are one sweep of one results folder; name another, or give another folder "
            "with --other-results"
        )
    if problems:
        raise SpecError(problems)
    with Progress() as told:
        both = []
        for place, where in zip(folders, (folder, other or folder), strict=True):
            both.append(rows.load(place, where, functools.partial(told, f"reading {place.name}")))
        found = compared(both[0], both[1], most_cells=SHOWN, progress=told)
    names = [part.name for part in both]
    if names[0] == names[1]:
        names = [str(place.parent.parent) for place in folders]
    for line in lines(found, names, terminal.width()):
        print(line)
    for part, name in zip(both, names, strict=True):
        for line in part.unfinished:
            print(clean(f"not finished in {name}: {line}"))
    for line in found.problems:
        print(f"w2s: {clean(line)}", file=sys.stderr)
    if exact:
        print("exact: no number differs" if found.exact else "exact: the numbers are not the same")
    return 1 if found.problems or (exact and not found.exact) else 0


def lines(found: Comparison, names: Sequence[str], room: int | None) -> list[str]:
    """A comparison for a person: a summary first, then each part with its largest changes first."""
    first, second = map(clean, names)
    said = [f"{first} -> {second}", ""]
    said += [part for line in _summary(found, first, second) for part in terminal.wrapped(line, SUMMARY, room)]
    said += _part("Numbers, cell by cell: accuracy of the student", _cells(found.cells, first, second, room), 2)
    said += _part("Numbers, row by row", _numbers(found.numbers, first, second, room), 2)
    for place, name in enumerate((first, second)):
        said += _part(f"Only in {name}", _only(found.only[place]), room=room)
    asked = [(str(c.runs), c.role, c.path, shown(c.first), shown(c.second)) for c in found.fields]
    said += _part("What runs were asked", _values(("runs", "of", "field", first, second), asked, room, ("runs",)), 2)
    written = [(path, shown(a), shown(b)) for path, (a, b) in found.written.items()]
    said += _part("What the sweeps' files say", _values(("field", first, second), written, room), 2)
    around = [(path, _counted(v.first), _counted(v.second)) for path, v in found.environment.items()]
    said += _part("Where runs ran", _values(("field", first, second), around, room), 2)
    return said


def _summary(found: Comparison, first: str, second: str) -> list[str]:
    runs = f"{_count(found.same_runs, 'student')} the same run, {found.other_runs} another"
    unknown = f" ({found.unknown_runs} of them not finished in both)" if found.unknown_runs else ""
    alone = [sum(map(len, only.values())) for only in found.only]
    said = [f"in both    {_count(found.rows, 'row')}: {runs}{unknown}" if found.rows else "in both    no row"]
    if any(alone):
        said.append(f"in one     {_count(alone[0], 'row')} only in {first}, {alone[1]} only in {second}")
    alone_count = sum(change.alone for change in found.numbers)
    differ = len(found.numbers) - alone_count
    if differ:
        rows = f"{found.rows_changed} of {_count(found.rows, 'row')}"
        said.append(f"numbers    {rows} differ, in {_count(differ, 'number')}")
    else:
        said.append(f"numbers    {'none differs' if found.rows else 'nothing to compare'}")
    if alone_count:
        said.append(f"absent     {_count(alone_count, 'number')} of these rows only one of the two has")
    if found.tested:
        beyond = sum(change.beyond is True for change in found.numbers)
        said.append(
            f"noise      {beyond} of {_count(found.tested, 'difference')} that can be tested are beyond the noise of "
            "the test examples; where nothing truly differs, 1 in 20 is"
        )
    same = sum(change.same_run for change in found.numbers)
    if same:
        said.append(
            f"warning    {_count(same, 'number')} differ though the digests of the runs are equal; `w2s verify` checks "
            "a store"
        )
    said.append(f"asked      {_count(len(found.fields), 'field')} of runs, {len(found.written)} of the files differ")
    said.append(f"ran        {_count(len(found.environment), 'field')} of the environment differ")
    return said


def _only(cells: Mapping[Key, Sequence[int]]) -> list[str]:
    """A line for each pair of models, the methods of equal seeds together."""
    from w2s.analyze.reading.selection import variant

    together: dict[tuple[str, str], list[str]] = {}
    for key, seeds in cells.items():
        pair = clean(f"{key.task}, {key.weak} -> {key.student}")
        together.setdefault((pair, _seeds(seeds)), []).append(clean(variant(key.method, key.selection)))
    return [f"{pair}, {seeds}: {'; '.join(variants)}" for (pair, seeds), variants in together.items()]


def _part(head: str, body: Sequence[str], skip: int = 0, room: int | None = None) -> list[str]:
    """A head and its lines, the first SHOWN of them; `skip`: lines that a table begins with. Long lines are broken."""
    count = len(body) - skip
    if count <= 0:
        return []
    more = [f"and {count - SHOWN} more"] if count > SHOWN else []
    broken = [part for line in body[: SHOWN + skip] for part in terminal.wrapped(line, "  ", room)]
    return ["", f"{head} ({count})", *broken, *more]


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], room: int | None, right: Sequence[str] = ()
) -> list[str]:
    return terminal.table(head, rows, right, room) if rows else []


def _values(
    head: Sequence[str], rows: Sequence[Sequence[str]], room: int | None, right: Sequence[str] = ()
) -> list[str]:
    """A table whose last two columns are values of the two sweeps: where it is too wide, both are cut and not one."""
    if room is None or not rows:
        return _table(head, rows, room, right)
    *before, a, b = (max(map(len, column)) for column in zip(head, *rows, strict=True))
    free = max(room - sum(before) - 2 * len(before) - 2, 2 * LEAST_CHARS)
    most = max(free // 2, free - b), max(free // 2, free - a)
    short = [(*line[:-2], *(_cut(text, n) for text, n in zip(line[-2:], most, strict=True))) for line in (head, *rows)]
    return _table(short[0], short[1:], room, right)


def _by_cell(head: Sequence[str], rows: Sequence[Sequence[str]], room: int | None, right: Sequence[str]) -> list[str]:
    """A table whose last column is a cell's name, which stands on a line of its own where the terminal is narrow."""
    wide = _table(head, rows, None, right)
    if room is None or max(map(len, wide), default=0) <= room:
        return wide
    first, rule, *inner = _table(head[:-1], [row[:-1] for row in rows], room - 2, right)
    above = ["", *(row[-1] for row in rows)]
    named = [
        f"  {line}" if row[-1] == before else f"{row[-1]}\n  {line}"
        for row, line, before in zip(rows, inner, above, strict=False)
    ]
    return [f"  {first}", f"  {rule}", *named]


def _cells(changes: Sequence[CellChange], first: str, second: str, room: int | None) -> list[str]:
    rows = []
    for change in changes:
        found = change.difference
        interval = f"[{found.low:+.3f}, {found.high:+.3f}]" if found.known else found.reason
        beyond = "" if not found.known else "beyond noise" if not found.covers(0.0) else "within noise"
        rows.append((f"{change.second - change.first:+.3f}", interval, beyond, f"{change.first:.3f}",
                     f"{change.second:.3f}", str(change.seeds), _cell(change.key)))  # fmt: skip
    return _by_cell(
        ("change", "95 %", "", first, second, "seeds", "cell"), rows, room, ("change", first, second, "seeds")
    )


def _numbers(changes: Sequence[NumberChange], first: str, second: str, room: int | None) -> list[str]:
    rows = [
        ("" if math.isinf(change.difference) else f"{change.difference:+.4g}", VERDICTS[change.beyond],
         _number(change.first), _number(change.second), change.column, str(change.seed), _cell(change.key))
        for change in changes
    ]  # fmt: skip
    return _by_cell(
        ("change", "", first, second, "number", "seed", "cell"), rows, room, ("change", first, second, "seed")
    )


def _cell(key: Key) -> str:
    from w2s.analyze.reading.selection import variant

    return clean(f"{key.task}, {key.weak} -> {key.student}, {variant(key.method, key.selection)}")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _seeds(seeds: Sequence[int]) -> str:
    more = ", ..." if len(seeds) > SHOWN else ""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds[:SHOWN]))}{more}"


def _counted(counts: Mapping[str, int]) -> str:
    said = [f"{shown(value)} ({_count(count, 'step')})" for value, count in sorted(counts.items(), key=lambda x: -x[1])]
    return ", ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "") if said else "not said"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def shown(value: Any) -> str:
    """A value of a field as it would be written, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    text = clean(text.strip('"') if text == '"not set"' else text)
    return _cut(text, SHOWN_CHARS)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def clean(line: str) -> str:
    """The text on one line: names and values come from files, and must not steer a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in line).split())
