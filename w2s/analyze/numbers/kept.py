"""Estimates in that took predictions to be read once more, the same out the next time without reading them.

One JSON file per data set below results/scores, derived and safe to delete. An estimate is named by what it was made
of: the predictions by their steps and the stamps of their files, and the resamples. So what changed is not found and
made anew; the oldest go where there are many. What is damaged counts as empty; where nothing can be written nothing is
kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from w2s.analyze.numbers.resamples import RESAMPLES
from w2s.analyze.numbers.stats import Estimate
from w2s.analyze.reading.selection import Taken
from w2s.disk import make_folder, read_json, write_lines
from w2s.errors import W2SError

VERSION = 1  # of the estimates: higher where one of them is computed differently
MOST = 20_000  # for one data set; some 3 MB


class Kept:
    """The estimates of one results folder. `stamps`: of the files of final predictions, as they were read."""

    def __init__(self, results: Path, stamps: Mapping[Taken, bytes]) -> None:
        self._folder, self._stamps = results / "scores", stamps
        self._known: dict[str, dict[str, Any]] = {}
        self._new: dict[str, dict[str, list[Any]]] = {}

    def name(self, what: str, models: Sequence[Taken]) -> str:
        """The name of an estimate that is made of these predictions; '' where they are not known well enough."""
        if any(model not in self._stamps for model in models):
            return ""
        made_of = [VERSION, what, RESAMPLES, *((*model, self._stamps[model].hex()) for model in models)]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]

    def get(self, data: str, name: str) -> Estimate | None:
        """An estimate that was kept."""
        if data not in self._known:
            self._known[data] = _read(self._path(data))
        return _estimate(self._known[data].get(name))

    def put(self, data: str, name: str, found: Estimate) -> Estimate:
        """Have an estimate kept when all are made."""
        if name and found.known:
            self._new.setdefault(data, {})[name] = list(astuple(found))
        return found

    def write(self) -> None:
        """Keep what is new, beside what another process may have kept meanwhile."""
        for data, new in self._new.items():
            path = self._path(data)
            every = {**_read(path), **new}
            latest = dict(list(every.items())[-MOST:])
            with contextlib.suppress(OSError, W2SError):  # the next who asks makes it again
                make_folder(path.parent)
                write_lines(path, [json.dumps(latest)])
        self._new.clear()

    def _path(self, data: str) -> Path:
        return self._folder / f"{data}.estimates.json"


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) or {}


def _estimate(written: Any) -> Estimate | None:
    """None where it is not what `Kept.put` has written."""
    if not isinstance(written, list) or [type(one) for one in written] != [float, float, float, int, int, str]:
        return None
    return Estimate(*written)
