"""Rows in, measures and estimates over chosen seeds of a cell out, each made once; and why one cannot be made.

Shapes: S seeds, N test examples.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2s.analyze.numbers import stats
from w2s.analyze.numbers.kept import Kept
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading.metrics import placements
from w2s.analyze.reading.predictions import Reader
from w2s.analyze.reading.rows import Rows
from w2s.analyze.reading.selection import Taken, taken

KEPT_MEASURES = 64  # those that several cells share, such as a weak model's; each takes some 100 kB
Group = list[dict[Any, Any]]  # the rows of one cell, a record for each seed


class Pool:
    """Measures and estimates over chosen seeds of a cell; those that many cells share are made once."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._measures: OrderedDict[Any, Measure] = OrderedDict()
        self._estimates: dict[Any, Estimate] = {}
        self._logits: OrderedDict[Any, NDArray[np.floating[Any]]] = OrderedDict()

    def measure(self, metric: str, data: str, models: Iterable[Taken]) -> Measure:
        """Accuracy: is the model of that seed right about that test example? AUROC: the example's share in it."""
        chosen = tuple(models)
        key = (metric, data, chosen)
        if key in self._measures:
            self._measures.move_to_end(key)
        else:
            self._measures[key] = self._read(metric, data, chosen)
            if len(self._measures) > KEPT_MEASURES:
                self._measures.popitem(last=False)
        return self._measures[key]

    def _read(self, metric: str, data: str, models: Iterable[Taken]) -> Measure:
        scored = [self.rows.test[model] for model in models]
        if metric == "accuracy":
            return Measure(np.stack([one.right_N for one in scored]))
        y_N = self.rows.truth[data].y_N
        ranks = [one.margin_rank_N for one in scored]
        placed_SN = np.stack([placements(rank_N, y_N) for rank_N in ranks if rank_N is not None])
        positive = int(np.count_nonzero(y_N == 1))
        return Measure(placed_SN, trials=min(positive, len(y_N) - positive))

    def once(self, key: tuple[Any, ...], make: Callable[[], Estimate]) -> Estimate:
        if key not in self._estimates:
            self._estimates[key] = make()
        return self._estimates[key]

    def mean(self, metric: str, data: str, models: list[Taken]) -> Estimate:
        return self.once((metric, data, *models), lambda: stats.mean(self.measure(metric, data, models)))

    def gap(self, metric: str, data: str, ceiling: list[Taken], weak: list[Taken]) -> Estimate:
        return self.once(
            (metric, data, *ceiling, *weak),
            lambda: stats.difference(self.measure(metric, data, ceiling), self.measure(metric, data, weak)),
        )

    def logits(self, step: str, data: str, classes: int) -> NDArray[np.floating[Any]]:
        """A train step's final predictions for test. Raises StepError where they are damaged."""
        key = (step, data)
        if key not in self._logits:
            self._logits[key] = self._reader.logits(step, data, classes)
            if len(self._logits) > KEPT_MEASURES:
                self._logits.popitem(last=False)
        return self._logits[key]

    @functools.cached_property
    def kept(self) -> Kept:
        """What took reading the last time."""
        return Kept(self.rows.store.root.parent, self.rows.stamps)

    @functools.cached_property
    def _reader(self) -> Reader:
        return Reader(self.rows.store)

    def labels(self, name: str, sources: list[str]) -> Estimate:
        """One of LABELS over the seeds that learned from these."""
        if len({len(self.rows.learned[source].kept_N) for source in sources}) > 1:
            return absent("transfer sets differ: the seeds cannot be pooled")
        return self.once((name, *sources), lambda: self._of_labels(name, sources))

    def _of_labels(self, name: str, sources: list[str]) -> Estimate:
        found = [self.rows.learned[source] for source in sources]
        kept = Measure(np.stack([labels.kept_N for labels in found]))
        if name == "label_share":
            return stats.mean(kept)
        part = Measure(np.stack([one.right_N if name == "label_accuracy" else one.truth_N for one in found]))
        return stats.mean(part) if kept.mean == 1.0 else stats.share(part, kept, "no labels")


def models_of(group: Group, role: str) -> list[Taken]:
    """The predictions of a role that count, by seed; a baseline's student is selected as the student is."""
    return [taken(role, record[f"{role}_digest"], record["selection"]) for record in group]


def present(group: Group, roles: tuple[str, ...], rows: Rows) -> dict[str, list[Taken]]:
    """Models by role, of the seeds for which every one of the roles could be read."""
    columns = [models_of(group, role) for role in roles]
    kept = [models for models in zip(*columns, strict=True) if all(model in rows.test for model in models)]
    return {role: [models[place] for models in kept] for place, role in enumerate(roles)}


def or_absent(
    models: list[Taken], make: Callable[[list[Taken]], Estimate], group: Group, roles: tuple[str, ...]
) -> Estimate:
    """The estimate, or what stands in its way."""
    return make(models) if models else in_the_way(group, roles)


def in_the_way(group: Group, roles: tuple[str, ...]) -> Estimate:
    """Why there is no estimate: the state of the first model that no seed has."""
    names = {"base": "baseline student"}
    for role in roles:
        states = [status for status in dict.fromkeys(record[f"{role}_status"] for record in group) if status != "done"]
        if states:
            return absent(f"{names.get(role, role)} {states[0]}")
    return absent("no ground truth: the test split could not be read")
