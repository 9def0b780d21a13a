"""A plan's steps and a store in, what became of each step out; told from listings, not from each artifact.

What stands in a finished artifact's place is taken for done (see `Store.overview`). Whoever reads it and finds it
damaged says so here, and what needs it and is not there is blocked by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from w2s.store import Overview, Store


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of one step."""

    status: str  # done, failed, blocked, missing or damaged
    reason: str = ""


DONE = Standing("done")
NAMED = 2  # steps that are missing for one reason; more are counted
WAITING = Standing("missing", "not run yet")
RUNNING = Standing("missing", "running now")
UNPLANNED = Standing("missing", "not in the plan's steps")


def standings(
    steps: Sequence[Mapping[str, Any]],
    store: Store,
    damaged: Mapping[str, str] | None = None,
    overview: Overview | None = None,
) -> dict[str, Standing]:
    """What became of each planned step; `steps` are those of plan.json, parents first.

    `damaged`: why artifacts that are there cannot be used. `overview`: of the store, where the caller has one already.
    """
    overview, damaged = overview or store.overview(), damaged or {}
    found: dict[str, Standing] = {}
    titles = {step["digest"]: step["title"] for step in steps}
    for step in steps:
        digest = step["digest"]
        if digest in damaged:
            found[digest] = Standing("damaged", damaged[digest])
        elif digest in overview.finished:
            found[digest] = DONE
        elif overview.is_claimed(digest):
            found[digest] = RUNNING
        elif (failure := overview.failure(digest)) is not None:
            found[digest] = Standing("failed", first_line(str(failure.get("reason", ""))) or "no reason was recorded")
        else:
            found[digest] = _waiting(step["parents"], found, titles)
    return found


def _waiting(parents: Sequence[str], found: Mapping[str, Standing], titles: Mapping[str, str]) -> Standing:
    for parent in parents:
        became = found[parent].status if parent in found else "missing"
        if became in ("failed", "blocked", "damaged"):
            which = "which failed" if became == "failed" else f"which is {became}"
            return Standing("blocked", f"needs {titles[parent]}, {which}")
    return WAITING


def unfinished(steps: Sequence[Mapping[str, Any]], standing: Mapping[str, Standing]) -> Iterator[str]:
    """One line per failed step and per kind of waiting; damaged steps are problems and stand elsewhere."""
    for step in steps:
        state = standing[step["digest"]]
        if state.status == "failed":
            yield f"failed: {step['title']}: {state.reason} (`w2s show {step['digest'][:12]}` has the log)"
    left: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        state = standing[step["digest"]]
        if state.status in ("blocked", "missing"):
            left.setdefault((state.status, state.reason), []).append(step["title"])
    for (status, reason), titles in sorted(left.items()):
        what = "; ".join(titles) if len(titles) <= NAMED else f"{len(titles)} steps"
        yield f"{status}: {what} ({reason})"


def first_line(text: str, limit: int = 600) -> str:
    """The first line of a text that says something, cut where it is long."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= limit else line[: limit - 3] + "..."
