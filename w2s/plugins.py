"""A user's own losses, label transforms, tasks and models: what marks them in a file, and how they are called.

A file is run as the bytes that its hash names; what it marks, with names, parameters and lines, comes out. Refuses
functions whose parameters cannot be told from their signatures. Loads no torch, unless the file does.
docs/extending.md shows how to write one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from w2s.errors import StepError, W2SError
from w2s.identity import Spec, identity, runtime

Kind = Literal["loss", "transform", "task", "prepare", "model"]
F = TypeVar("F", bound=Callable[..., Any])
COPIES = "plugins"  # folder beside the store, with a copy of every file that steps used, in a folder named by its hash
NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")
# What a function is given by place: this many, and for a transform those of its further arguments that it names.
GIVEN = {"loss": "(logits, labels)", "transform": "(p)", "task": "()", "prepare": "(record)", "model": "(base)"}
OFFERED = ("ids", "texts", "rng")
READS = ("labels", "own", "batch")
SIMPLE = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
Value = bool | int | float | str | None


class PluginUse(Spec):
    """A function of a user's file with the values of its parameters. Written by w2s, never by hand.

    `code` is the file's hash: whoever edits the file gets other steps, of those that use something from it.
    """

    by_hand: typing.ClassVar[bool] = False

    use: str = identity(min_length=1)
    code: str = identity(pattern=r"^[0-9a-f]{64}$")
    file: str = runtime("plugin")  # its name, for messages
    values: tuple[tuple[str, Value], ...] = identity(())  # of every parameter, sorted by name

    @property
    def keywords(self) -> dict[str, Value]:
        """The values as keyword arguments."""
        return dict(self.values)

    @property
    def described(self) -> str:
        """Name and values in a few words."""
        return " ".join([self.use, *(f"{name}={value}" for name, value in self.values)])


class Refused(ValueError):
    """A function cannot be what it is marked as."""


@dataclass(frozen=True)
class Marked:
    """A function that a file marks as a loss, transform, task, prepare or model.

    `takes`: the names of what it is given by place; `parameters`: keyword-only, each {types, choices, default};
    `more`: what its mark says beside that, as plain data.
    """

    kind: Kind
    name: str
    function: Callable[..., Any]
    takes: tuple[str, ...]
    parameters: dict[str, dict[str, Any]]
    aims: Callable[..., Any] | None = None  # of a loss
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return self.function.__code__.co_filename

    @property
    def line(self) -> int:
        return self.function.__code__.co_firstlineno

    def told(self) -> dict[str, Any]:
        """What the control half has to know of it, as plain data."""
        return {
            "kind": self.kind,
            "name": self.name,
            "line": self.line,
            "takes": list(self.takes),
            "parameters": self.parameters,
            "more": self.more,
        }


# -- marks, for the user's file ----------------------------------------------------------------------------------------

_found: list[list[Marked]] = []  # of the files that are being run, innermost last; marks mean nothing elsewhere


def loss(
    function: F | None = None, *, aims: Callable[..., Any] | None = None, reads: Literal["own", "batch"] | None = None
) -> Any:
    """Marks f(logits (B, C), labels (B, C), *, parameters) -> the loss of each example (B,), as a torch tensor.

    `aims`: g(labels (G, C), logits (G, C), course, *, some of the parameters) -> targets (G, C), or (targets, weights
    (G,)), made without gradient and given to f in place of the labels. It sees one example's own logits at a time
    (`own`) or those of the whole global batch (`batch`), however the batch is cut.
    """

    def mark(function: F) -> F:
        how = reads or ("own" if aims is not None else "labels")
        if how not in READS or (aims is None) != (how == "labels"):
            raise Refused("reads: 'own' or 'batch' together with aims; without aims leave it out")
        return _marked("loss", function, aims=aims, more={"reads": how})

    return mark if function is None else mark(function)


def transform(function: F) -> F:
    """Marks f(p (N, C), *, parameters) -> new probabilities (N, C), or a mask (N,) of the examples that stay.

    NumPy arrays. Further arguments called `ids`, `texts` or `rng` are given: example ids, texts, a random generator.
    """
    return _marked("transform", function)


def task(**row: Any) -> Callable[[F], F]:
    """Marks f(*, parameters) -> records, as a list or one by one; `row`: the task's fields as in a sweep."""
    return lambda function: _marked("task", function, more={"row": row})


def prepare(function: F) -> F:
    """Marks f(record, *, parameters) -> the record as a task's fields read it, or the reason to leave it out."""
    return _marked("prepare", function)


def model(function: F) -> F:
    """Marks f(base, *, parameters) -> a torch module: hidden states (B, T, D) of input_ids and attention_mask."""
    return _marked("model", function)


def _marked(kind: Kind, function: F, aims: Callable[..., Any] | None = None, more: dict[str, Any] | None = None) -> F:
    if not inspect.isfunction(function):
        raise Refused(f"{kind}: marks a function (got {function!r}); write @plugins.{kind} above `def`")
    name = function.__name__
    where = f"{kind} {name}"
    if not NAME.match(name):
        raise Refused(f"{where}: a name may hold letters, digits and _ only, a letter first")
    takes, parameters = _signature(function, where)
    wanted = GIVEN[kind].strip("()").split(", ") if GIVEN[kind] != "()" else []
    further = takes[len(wanted) :]
    if len(takes) < len(wanted) or (kind != "transform" and further) or set(further) - set(OFFERED):
        also = f", then any of {', '.join(OFFERED)}" if kind == "transform" else ""
        raise Refused(
            f"{where}: is given {GIVEN[kind]}{also} and has ({', '.join(takes)}); parameters of its own stand after *"
        )
    if aims is not None:
        own, asked = _signature(aims, f"{where}: aims {getattr(aims, '__name__', aims)}")
        if len(own) != 3 or set(asked) - set(parameters):
            raise Refused(f"{where}: aims is given (labels, logits, course), and of the loss's own parameters any")
    try:
        json.dumps(more, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Refused(f"{where}: fields that are not plain data: {error}") from None
    if _found:
        _found[-1].append(Marked(kind, name, function, takes, parameters, aims, more or {}))
    return function


def _signature(function: Callable[..., Any], where: str) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """(names of what is given by place, parameters). Raises Refused."""
    takes, parameters = [], {}
    for name, given in inspect.signature(function).parameters.items():
        if given.kind in (given.VAR_POSITIONAL, given.VAR_KEYWORD):
            raise Refused(f"{where}: *{name} tells no parameters; write each with its type and default")
        if given.kind is given.KEYWORD_ONLY:
            parameters[name] = _parameter(given, function, f"{where}: parameter {name}")
        elif given.default is not given.empty:
            raise Refused(f"{where}: {name} has a default but stands before *; write (..., *, {name}: TYPE = ...)")
        else:
            takes.append(name)
    return tuple(takes), parameters


def _parameter(given: inspect.Parameter, function: Callable[..., Any], where: str) -> dict[str, Any]:
    annotation = given.annotation
    if isinstance(annotation, str):  # from __future__ import annotations
        try:
            annotation = eval(annotation, getattr(function, "__globals__", {}))  # noqa: S307 - the user's own file
        except Exception as error:
            raise Refused(f"{where}: its type {annotation!r} has no meaning here: {error}") from None
    choices: list[Any] = []
    kinds: list[str] = []
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    for member in members:
        if typing.get_origin(member) is Literal:
            choices += typing.get_args(member)
        elif member in SIMPLE:
            kinds.append(member.__name__)
        elif member not in (None, type(None)):
            known = "bool, int, float, str, Literal[...], or one of them | None"
            raise Refused(f"{where}: give its type, one of {known}" + _got(annotation, given.empty))
    optional = None in members or type(None) in members
    told: dict[str, Any] = {"types": kinds, "choices": choices, "optional": optional}
    if given.default is not given.empty:
        default = float(given.default) if kinds == ["float"] and type(given.default) is int else given.default
        fits = type(default).__name__ in kinds or default in choices or (optional and default is None)
        if not fits:
            raise Refused(f"{where}: the default {default!r} is not {' or '.join([*kinds, *map(repr, choices)])}")
        told["default"] = default
    return told


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _got(annotation: Any, empty: Any) -> str:
    return "" if annotation is empty else f" (got {annotation!r})"


# -- a file, run -------------------------------------------------------------------------------------------------------


def marked_in(path: Path, source: bytes) -> list[Marked]:
    """What a file marks. It is run, as `source`; `path` is what tracebacks call it. Raises whatever it raises."""
    module = types.ModuleType(f"w2s_plugin_{hashlib.sha256(source).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and others look their module up
    _found.append([])
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user's own file
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise
    finally:
        found = _found.pop()
    names = [(one.kind, one.name) for one in found]
    for one in found:
        if names.count((one.kind, one.name)) > 1:
            lines = " and ".join(str(o.line) for o in found if (o.kind, o.name) == (one.kind, one.name))
            raise Refused(f"{one.kind} {one.name}: is there twice, on lines {lines}; name one of them otherwise")
    return found


def tell(path: str, out: str) -> None:
    """Write what the file at `path` marks, or why it cannot be run, as JSON to `out`: in a process of its own."""
    told: dict[str, Any]
    try:
        told = {"marked": [one.told() for one in marked_in(Path(path), Path(path).read_bytes())]}
    except SyntaxError as error:
        told = {"wrong": f"line {error.lineno}: SyntaxError: {error.msg}"}
    except BaseException as error:
        name = "" if isinstance(error, Refused) else f"{type(error).__name__}: "
        line = _line(error, path)
        told = {"wrong": f"{f'line {line}: ' if line else ''}{name}{error}"}
    Path(out).write_text(json.dumps(told), encoding="utf-8")


def _line(error: BaseException, file: str) -> int | None:
    """The last line of a file that an exception came by."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return lines[-1] if lines else None


# -- in a step ---------------------------------------------------------------------------------------------------------

_loaded: dict[str, dict[tuple[str, str], Marked]] = {}  # by hash of the file


def uses_of(spec: Any) -> Iterator[PluginUse]:
    """Every function of a plugin that a spec names."""
    if isinstance(spec, PluginUse):
        yield spec
    elif isinstance(spec, Spec):
        for name in type(spec).model_fields:
            yield from uses_of(getattr(spec, name))
    elif isinstance(spec, tuple):
        for item in spec:
            yield from uses_of(item)


def load(spec: Spec, folder: Path) -> None:
    """Run the files that a spec's plugins are in, from their copies in `folder`, each once in a process.

    Raises StepError where one is not there, or is not the file that was planned with, or cannot be run.
    """
    for use in uses_of(spec):
        if use.code in _loaded:
            continue
        files = sorted((folder / use.code).glob("*.py"))
        if not files:
            raise StepError(
                f"plugin {use.file}: no copy of it in {folder / use.code}; give the sweep's command again, which makes "
                "one, from the same text"
            )
        source = files[0].read_bytes()
        if hashlib.sha256(source).hexdigest() != use.code:
            raise StepError(f"{files[0]}: changed since it was put there; remove {folder / use.code} and run again")
        try:
            found = marked_in(files[0], source)
        except Exception as error:
            traceback.print_exc()
            raise StepError(
                f"{files[0].name}:{_line(error, str(files[0]))}: {type(error).__name__}: {error}"
            ) from error
        _loaded[use.code] = {(one.kind, one.name): one for one in found}


def loaded(kind: Kind, use: PluginUse) -> Marked:
    """A function that `load` has loaded."""
    found = _loaded.get(use.code, {}).get((kind, use.use))
    if found is None:
        raise StepError(f"plugin {use.file}: no {kind} {use.use} in it")
    return found


def call(marked: Marked, function: Callable[..., Any], *given: Any, **keywords: Any) -> Any:
    """What a user's function makes of this. Raises StepError that names file and line; the traceback is printed."""
    try:
        return function(*given, **keywords)
    except W2SError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise  # says what helps, which is no other function
        traceback.print_exc()
        raise StepError(told_of(marked, error)) from error


def told_of(marked: Marked, error: BaseException) -> str:
    """An exception of a user's function in a sentence with file and line."""
    line = _line(error, marked.file) or marked.line
    return f"{Path(marked.file).name}:{line}: {marked.kind} {marked.name}: {type(error).__name__}: {error}"


def wrong(marked: Marked, why: str) -> StepError:
    """The error for what a user's function gave back."""
    return StepError(f"{Path(marked.file).name}:{marked.line}: {marked.kind} {marked.name}: {why}")
