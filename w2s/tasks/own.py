"""Records that a user's own function makes, and records as one changes them; refuses what is no record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from w2s import plugins
from w2s.plugins import PluginUse
from w2s.sources.spec import PluginSource
from w2s.tasks.fields import BadRecord, Record

MOST = 5_000_000  # records: whoever makes more will not come to an end
COMPARED = 100


def made(source: PluginSource, sample: int | None) -> Iterator[tuple[int, Record]]:
    """The records of a plugin's task, numbered from 1. Raises StepError where two runs of it give other records."""
    marked = plugins.loaded("task", source)

    def fresh() -> Iterator[Any]:
        return iter(plugins.call(marked, lambda: iter(marked.function(**source.keywords))))

    first, again = ([repr(one) for one in islice(_stepwise(marked, fresh()), COMPARED)] for _ in range(2))
    if first != again:
        raise plugins.wrong(marked, "gives other records each time; draw from random.Random(a number)")
    records = list(islice(_stepwise(marked, fresh()), MOST + 1))
    if len(records) > MOST:
        raise plugins.wrong(marked, f"gives more than {MOST:,} records; let it end")
    for number, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise plugins.wrong(marked, f"record {number}: expected a mapping with named fields (got {record!r:.80})")
    kept = len(records) if sample is None else min(sample, len(records))
    for at in (i * len(records) // kept for i in range(kept)):
        yield at + 1, records[at]


def _stepwise(marked: plugins.Marked, records: Iterator[Any]) -> Iterator[Any]:
    """The records of a generator, whose errors come where it is asked for the next."""
    end = object()
    while (record := plugins.call(marked, next, records, end)) is not end:
        yield record


def prepared(use: PluginUse) -> Callable[[Record], Record | str]:
    """A function from a record to what a plugin makes of it, or to its reason to leave the record out."""
    marked = plugins.loaded("prepare", use)

    def prepare(record: Record) -> Record | str:
        try:
            found = marked.function(dict(record), **use.keywords)
        except Exception as error:
            raise BadRecord(plugins.told_of(marked, error)) from None
        if not isinstance(found, (Mapping, str)) or found == "":
            raise BadRecord(f"prepare {marked.name}: expected a record, or the reason to leave it out", found)
        return found

    return prepare
