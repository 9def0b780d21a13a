"""Batches of predictions in, what they come to out, read by other processes where there are many.

Started by the name of this module, not by multiprocessing, which runs a user's script once more in every process. The
parent pickles all that a process is to read into its stdin; batches come back as they are done. A process that ends
early costs nothing but time: what it left is read by who asked. Processes end by themselves when nobody listens.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import w2s
from w2s.analyze.reading.predictions import Found, Reader, Wanted
from w2s.store import Store

MOST = 8  # processes; beyond them it is the disk that counts
Answers = dict[Wanted, Found | str]


class Data(NamedTuple):
    """A materialize step and how many classes its task has."""

    digest: str
    classes: int


class Batch(NamedTuple):
    """What is read together: some artifacts for one split, or one artifact's evaluations."""

    data: Data
    wanted: Sequence[Wanted]

    def read(self, reader: Reader) -> Answers:
        """What the predictions come to; of what is damaged a message."""
        read = reader.batch if self.wanted[0].part in ("test", "transfer") else reader.chosen
        return read(self.wanted, self.data.digest, self.data.classes)


def processes() -> int:
    """How many processes may read at once on this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, usable)


def read(store: Store, batches: Sequence[Batch], number: int) -> Generator[tuple[int, Answers], None, None]:
    """(place, answers) of batches as processes are done with them, in no order; not of what they leave undone."""
    shares = [{place: batches[place] for place in range(first, len(batches), number)} for first in range(number)]
    come: queue.Queue[tuple[int, Answers] | None] = queue.Queue(maxsize=4 * number)
    running = [_start() for _ in shares]
    listeners = [
        threading.Thread(target=_listen, args=(process, store.root, share, come), daemon=True)
        for process, share in zip(running, shares, strict=True)
    ]
    try:
        for listener in listeners:
            listener.start()
        left = number
        while left:
            found = come.get()
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for process in running:
            process.kill()
            process.wait()
        while any(listener.is_alive() for listener in listeners):  # one may wait to hand over what nobody takes now
            with contextlib.suppress(queue.Empty):
                come.get(timeout=0.05)
        for process in running:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what could not be written
                    pipe.close() if pipe is not None else None


def _start() -> subprocess.Popen[bytes]:
    own = str(Path(w2s.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "w2s.analyze.reading.parallel"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is the parent's to hear
    )


def _listen(
    process: subprocess.Popen[bytes],
    root: Path,
    share: Mapping[int, Batch],
    come: queue.Queue[tuple[int, Answers] | None],
) -> None:
    """Tell a process what to read and hand on what it says, then None."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump((root, share), process.stdin)
        process.stdin.close()
        for _ in share:
            come.put(pickle.load(process.stdout))  # noqa: S301  # from the process that was started here
    except (OSError, EOFError, pickle.UnpicklingError):
        pass  # it has ended
    finally:
        come.put(None)


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """What such a process does: read all that it is told to read, answer batch by batch."""
    root, share = pickle.load(asked)  # noqa: S301  # from the process that started this one
    reader = Reader(Store(root))
    with contextlib.suppress(BrokenPipeError):
        for place, batch in share.items():
            pickle.dump((place, batch.read(reader)), answers, protocol=5)
            answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
