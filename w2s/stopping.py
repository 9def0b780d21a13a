"""A wish from outside that a step should stop, and the moments at which it may be told so.

A signal comes at any line. Where a step can save what it has done, it asks to be told at a line of its own choosing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


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
