"""What a sweep needs of predictions in, all of it out: what was scored before from scores.py, the rest read.

What is new is kept when all is read, or when reading is broken off. Many are read by several processes (see
w2s.analyze.reading.parallel), few by threads of this one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from w2s.analyze.reading import files, parallel, scores
from w2s.analyze.reading.parallel import Answers, Batch, Data
from w2s.analyze.reading.predictions import Found, Reader, Wanted, sources
from w2s.progress import Count
from w2s.store import MANIFEST, Store

ARTIFACTS_PER_BATCH = 64
LOOKS_PER_BATCH = 256  # at files' stamps
THREADS = 4  # of this process, for what is read here: they wait for the disk and hash at once
WORTH_A_PROCESS = 1000  # predictions: about the time in which a process starts


class Reading:
    """Answers what predictions come to, each asked for once; `progress` hears how many were read of how many to read.

    Nothing in here decides what is worth reading: see w2s.analyze.reading.rows.
    """

    def __init__(self, results: Path, reader: Reader, wanted: Mapping[Data, Sequence[Wanted]], progress: Count) -> None:
        """Look up what was scored before; `wanted` is all that may be asked for, by its data set."""
        self.reader, self._results, self._progress = reader, results, progress
        self._known: dict[Wanted, Found] = {}
        self._new: dict[Data, dict[Wanted, Found]] = {}
        for data, asked in wanted.items():
            file = scores.path(results, data.digest)
            if file.is_file():
                stamps = dict(zip(asked, _stamps(reader.store, data.digest, asked), strict=True))
                self._known.update(scores.read(file, data.classes, stamps))
        self._to_read = sum(one not in self._known for asked in wanted.values() for one in asked)
        self._read = 0

    def take(self, wanted: Mapping[Data, Sequence[Wanted]]) -> Answers:
        """What predictions come to, in the order in which they are asked for; of what is damaged a message."""
        in_order = [one for asked in wanted.values() for one in asked]
        answers: Answers = {one: self._known.pop(one) for one in in_order if one in self._known}
        left = {data: [one for one in asked if one not in answers] for data, asked in wanted.items()}
        for data, found in self._work(left):
            answers.update(found)
            self._new.setdefault(data, {}).update({w: f for w, f in found.items() if not isinstance(f, str)})
            self._read += len(found)
            self._progress(self._read, self._to_read)
        return {one: answers[one] for one in in_order}  # not in that of threads and processes

    def keep(self, there: Collection[str]) -> None:
        """Keep what was read, for the next time; forget what is kept of train steps that are not `there`."""
        for data, found in self._new.items():
            if found:
                scores.keep(scores.path(self._results, data.digest), data.classes, found, there)
        self._new.clear()

    def _work(self, wanted: Mapping[Data, Sequence[Wanted]]) -> Iterator[tuple[Data, Answers]]:
        """Batches as they are finished, in no order."""
        batches = [Batch(data, together) for data, asked in wanted.items() for together in _together(asked)]
        left = dict(enumerate(batches))
        number = min(parallel.processes(), sum(len(batch.wanted) for batch in batches) // WORTH_A_PROCESS)
        if number > 1:
            with contextlib.closing(parallel.read(self.reader.store, batches, number)) as answers:
                for place, found in answers:
                    yield left.pop(place).data, found
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="predictions")
        try:
            running = {pool.submit(batch.read, self.reader): batch.data for batch in left.values()}
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _together(asked: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """What is read together: some artifacts for one split, or one artifact's evaluations."""
    together: dict[str, list[Wanted]] = {}
    for one in asked:
        final = one.part in ("test", "transfer")
        batch = together.setdefault(one.part if final else one.digest, [])
        batch.append(one)
        if final and len(batch) >= ARTIFACTS_PER_BATCH:
            yield together.pop(one.part)
    yield from together.values()


def _stamps(store: Store, data: str, asked: Sequence[Wanted]) -> list[bytes]:
    """The stamps that predictions would have if they were read now."""
    shared: dict[str, bytes] = {}  # of files that many predictions come from: ground truth, labels of supervisors

    def stamp(wanted: Wanted) -> bytes:
        parts = []
        for kind, digest, name in sources(wanted, data):
            folder = f"{store.root}{os.sep}{kind}{os.sep}{digest[:2]}{os.sep}{digest}{os.sep}"
            for file in (folder + MANIFEST, folder + name):
                if digest == wanted.digest:
                    parts.append(files.stamp_of(file))
                    continue
                if file not in shared:
                    shared[file] = files.stamp_of(file)
                parts.append(shared[file])
        return b"".join(parts)

    parts = [asked[begin : begin + LOOKS_PER_BATCH] for begin in range(0, len(asked), LOOKS_PER_BATCH)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [one for part in pool.map(lambda part: [stamp(one) for one in part], parts) for one in part]
