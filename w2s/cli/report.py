"""Tables, figures and report of sweeps, written and printed, with how far it is; once, or whenever the store changes.

Progress goes to standard error, after two seconds: in place on a terminal, in plain lines elsewhere.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from w2s.analyze.render import Rendered

FILE_WIDTH = 160  # columns of the tables where standard output is no terminal
QUIET_S = 2.0  # what takes less needs no progress
LINE_S = 10.0  # at most one line per so many seconds in a log, but for the begin of a stage


def report(
    names: str | Path | Sequence[str | Path],
    results: Path,
    baseline: str | None = None,
    metric: str = "accuracy",
    size: str = "params",
) -> int:
    """Write the tables, figures and report of one or several sweeps, print the tables, say last where all is.

    Returns 1 where an artifact is damaged or something could not be made. Raises SpecError for what does not fit.
    """
    from w2s.analyze.render import STAGES, render

    with Progress(STAGES) as told:
        rendered = render(names, results, baseline, metric, size, told)
    _show(rendered)
    if (count := len(rendered.problems)) and not sys.stdout.isatty():  # who reads a file or a pipe later, if at all
        print(f"w2s: {count} {'problem' if count == 1 else 'problems'}, named under the tables", file=sys.stderr)
    return 1 if rendered.problems else 0


def _show(rendered: Rendered) -> None:
    from rich.console import Console

    rendered.show(Console(width=None if sys.stdout.isatty() else FILE_WIDTH))
    folder = rendered.folder
    files = sorted(str(path.relative_to(folder)) for path in rendered.paths if path.parent == folder)
    drawn = len(rendered.paths) - len(files)
    print(f"written to {folder}: {', '.join(files)}{f', {drawn} files in figures' if drawn else ''}", flush=True)


def watch(
    names: Sequence[str | Path],
    results: Path,
    every_s: float,
    show: Callable[[], int],
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show the sweeps now, and again whenever what is done or failed has changed, until nothing is to come.

    Looks every `every_s` seconds. Returns what `show` did last. Ctrl-C ends it as it ends everything.
    """
    shown: dict[str, str] | None = None
    code = 0
    while True:
        found = standing(names, results)  # before it is shown: what is done meanwhile is shown next time
        if found != shown:
            _again(shown is not None)
            code, shown = show(), found
            print(_so_far(found, every_s), file=sys.stderr, flush=True)
        if "missing" not in found.values():
            return code
        sleep(every_s)


def standing(names: Sequence[str | Path], results: Path) -> dict[str, str]:
    """What became of every step of the sweeps, by digest: done, failed, blocked or missing, running ones included.

    Nothing of a damaged plan: whoever shows it says what is wrong.
    """
    from w2s.analyze.reading import merge, rows
    from w2s.analyze.reading.standing import standings
    from w2s.disk import read_json
    from w2s.store import Store

    found: dict[str, str] = {}
    for folder in merge.locate(names, results):
        store = Store(rows.locate(folder, results)[1] / "store")
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            steps = (read_json(folder / "plan.json") or {})["steps"]
            found |= {digest: state.status for digest, state in standings(steps, store).items()}
    return found


def _so_far(found: dict[str, str], every_s: float) -> str:
    states = list(found.values())
    counts = [f"{states.count(state)} {state}" for state in ("failed", "blocked") if state in states]
    left = states.count("missing")
    said = ", ".join([f"{states.count('done')} of {len(states)} steps done", *counts])
    return f"{said}; {left} to come: looking every {every_s:g} s, Ctrl-C ends" if left else said


def _again(before: bool) -> None:
    """Room for the next tables: an empty screen on a terminal, the time of day elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().clear()
    elif before:
        print(f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} ---\n")


class Progress:
    """Tells what is running, how far it is and which stages are left; called as a `w2s.progress.Report`."""

    def __init__(
        self, stages: Sequence[str] = (), stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stages, self._stream, self._clock = list(stages), stream or sys.stderr, clock
        self._began_s = self._told_s = clock()
        self._stage = ""
        self._status: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """`total` is 0 where it is not known; a stage is told by the first word of `what`."""
        now_s = self._clock()
        stage, before = what.split(":")[0].split(" ")[0], self._stage
        self._stage = stage
        if now_s - self._began_s < QUIET_S:
            return
        if self._stream.isatty():
            self._move(self.line(what, done, total))
        elif stage != before or now_s - self._told_s >= LINE_S:
            from w2s.execute.display import encodable, stamped

            self._told_s = now_s
            lines = stamped(self.line(what, done, total), now_s - self._began_s)
            self._stream.write(encodable("".join(f"{line}\n" for line in lines), self._stream))
            self._stream.flush()

    def line(self, what: str, done: int, total: int) -> str:
        """'intervals 12/40 (30 %); left: tables, figures, report'."""
        counted = f" {done}/{total} ({100 * done // total} %)" if total > 0 else ""
        left = self._stages[self._stages.index(self._stage) + 1 :] if self._stage in self._stages else []
        return what + counted + (f"; left: {', '.join(left)}" if left else "")

    def _move(self, line: str) -> None:
        from rich.console import Console
        from rich.text import Text

        from w2s.execute.display import clean

        if self._status is None:
            self._status = Console(file=self._stream, highlight=False).status("", spinner="line")
            self._status.start()
        self._status.update(Text(clean(line)))
