"""Batches of predictions in, what they come to out, read by other processes where there are many.

Started by the name of this module, not by multiprocessing, which runs a user's script once more in every process, and
pickles. A process is told by one JSON document on its stdin what to read. Batches come back as they are done, each as
the length of a header (HEAD), the header as JSON (`Said`), and a table of scores as an Arrow stream. A process that
ends early, or says what is none of this, costs nothing but time: what it left is read by who asked. Processes end by
themselves when nobody listens.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypedDict

import w2s
from w2s.analyze.reading import scores
from w2s.analyze.reading.predictions import Found, Reader, Wanted
from w2s.store import Store

MOST = 8  # processes; beyond them it is the disk that counts
HEAD = struct.Struct("<Q")  # bytes of what follows
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
        ask(root, share, process.stdin)
        process.stdin.close()
        for _ in share:
            come.put(_heard(share, process.stdout))
    except (OSError, EOFError, LookupError, ValueError, TypeError):
        pass  # it has ended, or came to its end in the middle of a word
    finally:
        come.put(None)


class Said(TypedDict):
    """The header of an answer."""

    place: int  # of the batch
    damaged: list[tuple[int, str]]  # place in the batch, message
    bytes: int  # of the table that follows, of all that is sound


def ask(root: Path, share: Mapping[int, Batch], to: IO[bytes]) -> None:
    """Tell a process what to read."""
    to.write(json.dumps({"store": str(root), "batches": list(share.items())}).encode())


def _asked(told: bytes) -> tuple[Path, dict[int, Batch]]:
    asked = json.loads(told)
    share = {place: Batch(Data(*data), [Wanted(*one) for one in wanted]) for place, (data, wanted) in asked["batches"]}
    return Path(asked["store"]), share


def _say(place: int, batch: Batch, answers: Answers, to: IO[bytes]) -> None:
    found = {wanted: one for wanted, one in answers.items() if not isinstance(one, str)}
    table = scores.packed(found, batch.data.classes)
    damaged = [(number, one) for number, wanted in enumerate(batch.wanted) if isinstance(one := answers[wanted], str)]
    header = json.dumps(Said(place=place, damaged=damaged, bytes=len(table))).encode()
    to.write(HEAD.pack(len(header)) + header)
    to.write(table)
    to.flush()


def _heard(share: Mapping[int, Batch], said: IO[bytes]) -> tuple[int, Answers]:
    """One answer, in the order in which it was asked for. Raises EOFError where there is none, or half of one."""
    header: Said = json.loads(_whole(said, HEAD.unpack(_whole(said, HEAD.size))[0]))
    batch = share[header["place"]]
    answers: Answers = dict(scores.unpacked(_whole(said, header["bytes"]), batch.data.classes))
    answers.update({batch.wanted[number]: message for number, message in header["damaged"]})
    return header["place"], {wanted: answers[wanted] for wanted in batch.wanted}


def _whole(said: IO[bytes], size: int) -> bytes:
    found = said.read(size)
    if len(found) < size:
        raise EOFError
    return found


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """What such a process does: read all that it is told to read, answer batch by batch."""
    root, share = _asked(asked.read())
    reader = Reader(Store(root))
    with contextlib.suppress(BrokenPipeError):
        for place, batch in share.items():
            _say(place, batch, batch.read(reader), answers)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
