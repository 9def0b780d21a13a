"""A wish from outside that this process should stop, and the moments at which a step may be told so.

A signal comes at any line. Where a step can save what it has done, it asks to be told at a line of its own choosing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = os.EX_TEMPFAIL  # of a process that stopped on request: nothing is wrong, the same command goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what schedulers send to ask for that
ONE_WISH_S = 1.0


class Stopped(BaseException):
    """Raised in a step that is to stop: unwinds it, so that its claim and its staged files are given back."""


class Stopping:
    """Whether somebody wants the running step to stop."""

    def __init__(self) -> None:
        self.asked = False
        self._waits = False

    def ask(self) -> None:
        """Stop the step: at once (raises Stopped), or, inside `at_own_time`, when the step looks at `asked`."""
        self.asked = True
        if not self._waits:
            raise Stopped

    @contextlib.contextmanager
    def at_own_time(self) -> Iterator[None]:
        """Inside, the step looks at `asked` itself; who leaves the block without having looked is stopped then."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        if self.asked:
            raise Stopped


class Asked(KeyboardInterrupt):
    """One of SIGNALS came: as Ctrl-C, but for the exit code. Its text is the signal's name."""


@contextlib.contextmanager
def as_interrupts(clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 raise Asked; only the main thread can see to it, elsewhere this does nothing.

    A scheduler may signal a job's shell and its programs, and the shell may pass it on: what comes within a second of
    the first is the same wish, not a second one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first_s: float | None = None

    def ask(number: int, _: Any) -> None:
        nonlocal first_s
        now_s = clock()
        if first_s is None or now_s - first_s > ONE_WISH_S:
            first_s = now_s if first_s is None else first_s
            raise Asked(signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
