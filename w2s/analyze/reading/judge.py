"""Rows of several sweeps in, which of them were asked the same but for the seed out, and why others were not.

What decides is a line: one method for one pair of models, over all tasks and selections (see `merge`). Runs are
compared by what their manifests say was asked of them; those that are not finished by what the sweeps' files say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from w2s.analyze.reading import configuration
from w2s.analyze.reading.configuration import Configuration
from w2s.analyze.reading.rows import ROLES, Rows

Line = tuple[str, str, str]  # weak, student, method
Key = tuple[str, ...]  # role, task, and the names that the role's runs depend on
LINE = ["weak", "student", "method"]
SHOWN_CHANGES = 3
SHOWN_LINES = 5


def lines_of(frames: Sequence[pd.DataFrame]) -> list[Line]:
    return list(dict.fromkeys(line for f in frames for line in f[LINE].itertuples(index=False, name=None)))


class Judge:
    """Says which sweeps share a line, and why others do not.

    What is compared are runs by their `Key`: those that both sweeps have, and of them the seeds aside.
    """

    def __init__(self, parts: Sequence[Rows], frames: Sequence[pd.DataFrame], labels: Sequence[str]) -> None:
        self.parts, self.labels = parts, labels
        self.lines = [set(lines_of([frame])) for frame in frames]
        self.tasks = [list(dict.fromkeys(frame["task"])) for frame in frames]
        self.runs = [_runs(frame) for frame in frames]
        self._reasons: dict[tuple[Key, int, int], list[str]] = {}
        self._known: dict[tuple[int, str], Configuration | None] = {}

    def groups(self, line: Line) -> list[list[int]]:
        """The sweeps that have the line, by their places; those in one list are pooled."""
        found: list[list[int]] = []
        for place, lines in enumerate(self.lines):
            if line not in lines:
                continue
            for group in found:
                if not any(self.apart(line, other, place) for other in group):
                    group.append(place)
                    break
            else:
                found.append([place])
        return found

    def strangers(self, line: Line, group: Sequence[int]) -> list[int]:
        """Sweeps, even without this line, whose data or models of the same names are others than the group's."""
        others = [place for place in range(len(self.parts)) if place not in group]
        return [other for other in others if any(self.apart(line, place, other) for place in group)]

    def apart(self, line: Line, a: int, b: int) -> list[str]:
        """Why two sweeps' runs of a line may not be pooled or shown as one; nothing where they may."""
        a, b = min(a, b), max(a, b)
        weak, student, _ = line
        said: list[str] = []
        for task in self.tasks[a]:
            for key in (("data", task), ("weak", task, weak), ("ceiling", task, student), ("student", task, *line)):
                if key in self.runs[a] and key in self.runs[b]:
                    if (key, a, b) not in self._reasons:
                        self._reasons[key, a, b] = self._differences(key, a, b)
                    said += self._reasons[key, a, b]
        return list(dict.fromkeys(said))

    def _differences(self, key: Key, a: int, b: int) -> list[str]:
        """How two sweeps' runs of one key differ but for their seeds, as far as can be known."""
        first, second = self.runs[a][key], self.runs[b][key]
        common = set(first) & set(second)
        if any(first[seed] != second[seed] for seed in common):
            return self._asked(key, a, b) or [f"{key[0]} on {key[1]}: equal seeds are other runs"]
        if common:
            return []  # what both have was asked the same by both
        known = [self._configuration(place, key, runs) for place, runs in ((a, first), (b, second))]
        said = self._written(key, a, b) if None in known else self._asked(key, a, b)
        if not said and key[0] == "data" and not self._equal_tests(a, b, first, second):
            return [f"{key[1]}: other test examples"]
        return said

    def _equal_tests(self, a: int, b: int, first: Mapping[int, str], second: Mapping[int, str]) -> bool:
        truths = [
            next((self.parts[place].truth[d] for d in digests.values() if d in self.parts[place].truth), None)
            for place, digests in ((a, first), (b, second))
        ]
        return truths[0] is None or truths[1] is None or truths[0].equals(truths[1])

    def _asked(self, key: Key, a: int, b: int) -> list[str]:
        """Fields that finished runs were asked otherwise."""
        asked = [self._configuration(place, key, self.runs[place][key]) for place in (a, b)]
        if asked[0] is None or asked[1] is None:
            return []
        return _told(key[0], configuration.changed(asked[0].identity, asked[1].identity))

    def _configuration(self, place: int, key: Key, digests: Mapping[int, str]) -> Configuration | None:
        for digest in dict.fromkeys(digests.values()):
            if (place, digest) not in self._known:
                kind = "materialize" if key[0] == "data" else "train"
                self._known[place, digest] = configuration.read(self.parts[place].store, kind, digest)
            if (found := self._known[place, digest]) is not None:
                return found
        return None

    def _written(self, key: Key, a: int, b: int) -> list[str]:
        """The same of what has no finished run in one of the sweeps, by what their files say."""
        role, task, *names = key
        paths = [("tasks", task), ("sizes",), ("split_seed",)]
        if role != "data":
            paths = [("recipe",), ("engine", "mixed_precision"), *(("models", name) for name in names[:2])]
            paths += [("methods", name) for name in names[2:]]
        written = [{".".join(path): _at(self.parts[place].raw, path) for path in paths} for place in (a, b)]
        return _told("written", configuration.changed(written[0], written[1]))

    def notes(self, groups: Mapping[Line, list[list[int]]]) -> list[str]:
        """A sentence for each two sweeps that could not be put together, with what differs in the first line."""
        together: dict[tuple[int, int], list[Line]] = {}
        for line, found in groups.items():
            for group in found:
                heads = [other for other in self.strangers(line, group) if all(other not in g[1:] for g in found)]
                for other in heads:
                    lines = together.setdefault((min(group[0], other), max(group[0], other)), [])
                    lines += [line] if line not in lines else []
        said = []
        for (a, b), lines in together.items():
            reasons = self.apart(lines[0], a, b)
            more = f" and {len(reasons) - SHOWN_CHANGES} more" if len(reasons) > SHOWN_CHANGES else ""
            first, second = self.labels[a], self.labels[b]
            said.append(
                f"{first} and {second} are kept apart, since they were not asked the same, in {_listed(lines)}: "
                f"{'; '.join(reasons[:SHOWN_CHANGES])}{more}. `w2s compare {first} {second}` shows what differs."
            )
        return said


def _runs(frame: pd.DataFrame) -> dict[Key, dict[int, str]]:
    """Digests by seed of every run of a sweep: the role, the task and the models that it depends on are its key."""
    found: dict[Key, dict[int, str]] = {}
    columns = ["task", *LINE, "seed", "data_digest", *(f"{role}_digest" for role in ROLES)]
    for task, weak, student, method, seed, *digests in frame[columns].itertuples(index=False, name=None):
        keys: tuple[Key, ...] = (
            ("data", task), ("weak", task, weak), ("student", task, weak, student, method), ("ceiling", task, student)
        )  # fmt: skip
        for key, digest in zip(keys, digests, strict=True):
            found.setdefault(key, {})[int(seed)] = str(digest)
    return found


def _told(role: str, differ: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{role} {path} {_short(first)} and {_short(second)}" for path, (first, second) in differ.items()]


def _short(value: Any, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _listed(lines: Sequence[Line]) -> str:
    more = f" and {len(lines) - SHOWN_LINES} more" if len(lines) > SHOWN_LINES else ""
    return ", ".join(f"{method} ({weak} -> {student})" for weak, student, method in lines[:SHOWN_LINES]) + more


def _at(data: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(data, Mapping) or key not in data:
            return configuration.ABSENT
        data = data[key]
    return data
