"""What a step raised in, the reason of its failure in a sentence out, and what it means for the process it ran in."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from w2s.disk import disk_errors, no_room
from w2s.errors import MachineError, W2SError
from w2s.memory import advice, is_out_of_memory, while_predicting
from w2s.spec import Engine

REASON_CHARS = 2000
E = TypeVar("E", bound=BaseException)


class Failure(NamedTuple):
    """What to tell about an exception."""

    reason: str
    detail: str = ""  # the traceback, where it is no mistake of the user's
    retire: bool = False  # memory may be lost for good: a fresh process is wanted
    disk_full: bool = False


def explain(error: BaseException, where: Path, engine: Engine | None = None) -> Failure:
    """The reason of a failure in a sentence.

    `where`: a path on the store's disk, for errors that name none; `engine`: of the step, where it has one.
    """
    text = str(error).strip()
    if isinstance(error, W2SError):
        full = comes_from(error, Exception, no_room) and isinstance(error, MachineError)
        return Failure(text, retire=comes_from(error, Exception, is_out_of_memory), disk_full=full)
    detail = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        first = text.splitlines()[0][:200] if text else type(error).__name__
        return Failure(f"out of memory; {advice(engine, while_predicting(error))} ({first})", detail, retire=True)
    if no_room(error):
        try:
            with disk_errors(where):
                raise error
        except MachineError as told:
            return Failure(str(told), detail, disk_full=True)
    return Failure(f"{type(error).__name__}: {text}"[:REASON_CHARS] if text else type(error).__name__, detail)


def comes_from(error: BaseException, kind: type[E], fits: Callable[[E], bool] = lambda _: True) -> bool:
    """True where the error is, or was raised because of or while handling, one of that kind which fits."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, kind) and fits(link):
            return True
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return False
