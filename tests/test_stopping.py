from __future__ import annotations

import os
import signal
import threading

import pytest

from w2s.stopping import Asked, Stopped, Stopping, as_interrupts


def looks(stopping: Stopping, asked: bool) -> bool:
    """A step that can save what it has; what it saw."""
    with stopping.at_own_time():
        if asked:
            stopping.ask()
        seen = stopping.asked
        if seen:
            SAVED.append(seen)
    return seen


SAVED: list[bool] = []


def test_a_wish_is_heard_at_once_or_when_the_step_looks():
    with pytest.raises(Stopped):
        Stopping().ask()
    with pytest.raises(Stopped):  # at the end of the block
        looks(Stopping(), asked=True)
    assert SAVED == [True]
    assert looks(Stopping(), asked=False) is False  # control


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_an_interrupt_with_a_name_and_the_handler_is_put_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Asked, match=signal.Signals(number).name), as_interrupts():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_what_comes_within_a_second_is_the_same_wish():
    now_s = [0.0]
    heard = []
    with as_interrupts(lambda: now_s[0]):
        for moment_s, number in (
            (0.0, signal.SIGUSR1),
            (0.4, signal.SIGTERM),
            (0.9, signal.SIGTERM),
            (1.5, signal.SIGTERM),
        ):
            now_s[0] = moment_s
            try:
                os.kill(os.getpid(), number)
            except Asked as asked:
                heard.append((moment_s, str(asked)))
    assert heard == [(0.0, "SIGUSR1"), (1.5, "SIGTERM")]


def test_elsewhere_than_in_the_main_thread_the_signals_are_left_alone():
    found = []

    def look() -> None:
        with as_interrupts():
            found.append(signal.getsignal(signal.SIGUSR1))

    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
