"""Words of a command line in, a checked command for fire out; refuses what the command's signature does not name.

fire calls a function first and complains about left-over flags after, and it reads words as Python values (the digest
1e123456 would become a number). So every word is checked against the signature before fire sees it, and reaches the
command as text that its annotation converts: `str`, `int`, `float`, `bool`, `Path`, and lists of text for flags and
last places that may be repeated.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w2s.errors import SpecError

Command = Callable[..., Any]
RESULTS = Path("results")  # of a command that is given no --results
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false"}


class Argument(NamedTuple):
    """One parameter of a command. `kind` is what its text becomes; a `repeated` one collects a list of text."""

    parameter: str
    flag: str  # as shown: --keep-weights
    kind: type
    repeated: bool
    positional: bool
    required: bool


def arguments_of(command: Command) -> dict[str, Argument]:
    """The arguments of a command by parameter, read from its signature. Keyword-only parameters are flags only."""
    hints = typing.get_type_hints(command)
    found: dict[str, Argument] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind, repeated = _kind(hints[name])
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        required = parameter.default is inspect.Parameter.empty
        flag = "--" + name.rstrip("_").replace("_", "-")
        found[name] = Argument(name, flag, kind, repeated, positional, required)
    return found


def _kind(hint: Any) -> tuple[type, bool]:
    origin, inner = typing.get_origin(hint), [a for a in typing.get_args(hint) if a is not type(None)]
    if origin in (typing.Union, types.UnionType):
        return _kind(inner[0])
    if origin is Sequence:
        return inner[0], True
    return hint, False


def convert(argument: Argument, text: str) -> Any:
    """The value that `text` stands for. Raises SpecError that names the flag and the text."""
    try:
        if argument.kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if argument.kind is float and not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
            raise ValueError(text)  # nan, inf and 1_0 are not numbers that somebody meant
        if argument.kind is int and not re.fullmatch(r"[-+]?\d+", text):
            raise ValueError(text)
        return argument.kind(text)
    except (ValueError, KeyError):
        raise SpecError(f"{shown(argument)}: expected {_EXPECTED[argument.kind]} (got {text!r})") from None


def shown(argument: Argument) -> str:
    """How a message names an argument: DIGEST for a required positional one, --workers for a flag."""
    return argument.parameter.upper() if argument.positional and argument.required else argument.flag


def checked(command: Command, words: Sequence[str]) -> list[str]:
    """`words` as `--parameter=text`, one for each argument given. Raises SpecError with every problem found."""
    arguments = arguments_of(command)
    flags = {_plain(a.flag): a for a in arguments.values()}
    places = [a for a in arguments.values() if a.positional]
    given: dict[str, list[str]] = {}
    problems: list[str] = []
    left = list(words)
    extra: list[str] = []
    only_places = False
    while left:
        word = left.pop(0)
        if word == "--" and not only_places:
            only_places = True
        elif only_places or not word.startswith("-") or word == "-":
            place = next((a for a in places if a.repeated or a.parameter not in given), None)
            if place is None:
                extra.append(word)
            else:
                given.setdefault(place.parameter, []).append(word)
        else:
            problems += _flag(word, left, flags, given)
    problems += [f"{word}: one argument too many{_places(places)}" for word in extra]
    problems += [f"{shown(a)}: missing" for a in arguments.values() if a.required and a.parameter not in given]
    for name, texts in given.items():
        if len(texts) > 1 and not arguments[name].repeated:
            problems.append(f"{arguments[name].flag}: given {len(texts)} times; give it once")
        for text in texts:
            try:
                convert(arguments[name], text)
            except SpecError as error:
                problems += error.problems
    if problems:
        raise SpecError(problems)
    return [f"--{name}={_written(arguments[name], texts)}" for name, texts in given.items()]


def _flag(word: str, left: list[str], flags: Mapping[str, Argument], given: dict[str, list[str]]) -> list[str]:
    """Take one flag, and its value from `left` where it stands apart; what is wrong with it."""
    name, equals, text = word.partition("=")
    argument = flags.get(_plain(name)) if name.startswith("--") else None
    if argument is None and name.startswith("--no") and not equals:
        negated = flags.get("--" + _plain(name)[4:].lstrip("-"))
        if negated is not None and negated.kind is bool:
            argument, equals, text = negated, "=", "false"
    if argument is None:
        if left and not equals and not left[0].startswith("-"):
            left.pop(0)  # its value, most likely: one message is enough
        return [f"{name}: no such flag{_nearest(name, flags.values())}"]
    if not equals and argument.kind is bool:
        text = left.pop(0) if left and left[0].lower() in ("true", "false") else "true"
    elif not equals:
        if not left or left[0].startswith("--"):
            return [f"{argument.flag}: needs a value"]
        text = left.pop(0)
    given.setdefault(argument.parameter, []).append(text)
    return []


def _plain(flag: str) -> str:
    """One spelling for `--keep_weights` and `--keep-weights`."""
    return flag.replace("_", "-")


def _places(places: Sequence[Argument]) -> str:
    names = " ".join(shown(a) if a.required else f"[{a.parameter.upper()}]" for a in places)
    return f" (it takes {names})" if names else " (it takes flags only)"


def _nearest(name: str, flags: Iterable[Argument]) -> str:
    known = [argument.flag for argument in flags]
    close = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known: {', '.join(known)})" if known else " (it takes none)"


def _written(argument: Argument, texts: list[str]) -> str:
    return json.dumps(texts) if argument.repeated else texts[0]


def for_fire(command: Command) -> Command:
    """The command as fire is to call it: no word is read as Python, every text is converted by its annotation."""
    from fire.decorators import SetParseFns

    def parser(argument: Argument) -> Callable[[str], Any]:
        return json.loads if argument.repeated else functools.partial(convert, argument)

    parsers = {name: parser(argument) for name, argument in arguments_of(command).items()}

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    decorated: Command = SetParseFns(**parsers)(called)
    return decorated


def usage(name: str, command: Command) -> str:
    """`usage: w2s show DIGEST [--results RESULTS]`, wrapped."""
    words = [f"usage: {name}"]
    for argument in arguments_of(command).values():
        value = argument.parameter.rstrip("_").upper()
        if argument.positional:
            words.append((value if argument.required else f"[{value}]") + ("..." if argument.repeated else ""))
            continue
        flag = argument.flag if argument.kind is bool else f"{argument.flag} {value}"
        words.append(flag if argument.required else f"[{flag}]" + ("..." if argument.repeated else ""))
    lines, indent = [words[0]], " " * (len(words[0]) + 1)
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) > 100:
            lines.append(indent + word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def help_text(name: str, command: Command) -> str:
    """What `--help` prints: how to call it, and the command's docstring."""
    return f"{usage(name, command)}\n\n{inspect.cleandoc(command.__doc__ or '')}\n"
