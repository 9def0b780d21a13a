"""Every error a user can meet, and the exit code it ends with; refuses to know where it was raised.

W2SError                a message for a person: what, where, the offending value, what to do next
+-- SpecError     (2)   the request is wrong: fix the YAML or the command line
+-- MachineError  (1)   the machine is wrong: disk, network, cache, device
+-- StepError     (1)   a step of the plan failed while it ran
|   +-- TryAgain  (1)   it could go on in a fresh process, and is run once more there
+-- Interrupted (130)   somebody stopped the run: Ctrl-C; SIGTERM or SIGUSR1 (75)
"""

from __future__ import annotations

from collections.abc import Sequence


class W2SError(Exception):
    """Base of all errors that are shown without a traceback."""

    exit_code = 1


class SpecError(W2SError):
    """The request is wrong. `problems` holds one line for each thing to fix, all found at once."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class MachineError(W2SError):
    """The request is fine, but this machine cannot carry it out as it is."""


class StepError(W2SError):
    """A step failed while it ran: the data, the model or the numbers were not what the spec promised."""


class TryAgain(StepError):
    """Run this step once more in a fresh process. Whoever raises it has seen to it that this comes to an end."""


class Interrupted(W2SError):
    """The run was stopped from outside; what is finished is kept. `signal`: by which one, SIGINT for Ctrl-C."""

    def __init__(self, message: str, exit_code: int = 130, signal: str = "SIGINT") -> None:
        super().__init__(message)
        self.exit_code, self.signal = exit_code, signal
