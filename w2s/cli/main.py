"""The command line: words in, text and an exit code out. Every word is checked before a command does any work.

Exit codes: 0; 1 where a step failed or `verify` found damage; 2 where the request is wrong; 130 after Ctrl-C;
75 after SIGTERM or SIGUSR1, with everything kept: the same command goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from w2s.cli.arguments import checked, for_fire, help_text
from w2s.cli.commands import COMMANDS
from w2s.cli.terminal import width, wrapped
from w2s.errors import SpecError, W2SError
from w2s.stopping import EXIT_CODE, Asked, as_interrupts


def overview() -> str:
    """What `w2s` alone prints: one line per command."""
    lines = ["w2s: weak-to-strong generalization experiments", "", "commands:"]
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").strip().splitlines()[0]
        lines += wrapped(f"  {name:<9} {summary}", " " * 12, width())
    lines += ["", "w2s COMMAND --help shows its arguments and examples.", "w2s --version; --debug shows tracebacks."]
    return "\n".join(lines)


def _dispatch(words: list[str]) -> int:
    if words == ["--version"]:
        import w2s

        print(f"w2s {w2s.__version__}")
        return 0
    if not words or words[0] in ("--help", "-h", "help"):
        if words[1:] and words[0] == "help":
            return _dispatch([words[1], "--help"])
        print(overview())
        return 0
    name, given = words[0], words[1:]
    if name not in COMMANDS:
        from w2s.identity import nearest

        raise SpecError(f"{name}: no such command{nearest(name, COMMANDS)}; `w2s` lists them")
    if "--help" in given or "-h" in given:
        print(help_text(f"w2s {name}", COMMANDS[name]), end="")
        return 0
    try:
        canonical = checked(COMMANDS[name], given)
    except SpecError as error:
        raise SpecError([*error.problems, f"`w2s {name} --help` shows the arguments of {name}"]) from None
    import fire

    # Every word is known to fit by now. fire must not print what a command returns: that is the exit code.
    code = fire.Fire({name: for_fire(COMMANDS[name])}, [name, *canonical], name="w2s", serialize=lambda _: None)
    return int(code)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Errors that a person can mend are shown without a traceback."""
    given = list(sys.argv[1:] if words is None else words)
    before = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in before
    if debug:
        given.remove("--debug")
    try:
        with as_interrupts():
            code = _dispatch(given)
            sys.stdout.flush()
        return code
    except W2SError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            print(f"w2s: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        asked = isinstance(stop, Asked)
        print(f"w2s: stopped by {stop if asked else 'Ctrl-C'}; finished steps are kept", file=sys.stderr)
        return EXIT_CODE if asked else 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a disk or a file that nothing foresaw; still no traceback for the user
        if debug:
            raise
        print(f"w2s: {error.filename or 'disk'}: {error.strerror or error} (--debug shows where)", file=sys.stderr)
        return 1
