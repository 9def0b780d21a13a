"""Frozen specs in, canonical JSON and SHA-256 digests out; a field that is neither identity nor runtime is refused.

Identity is everything that may change a number a user reports; runtime is everything else (devices, paths, names).
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import types
import typing
from typing import Any, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from w2s.errors import SpecError

S = TypeVar("S", bound="Spec")
SHOWN = 80  # characters of a wrong value in a message
QUOTE = "'"  # pydantic quotes the names of discriminators
MAPPING = "a mapping"
EXPECTED = {  # pydantic's kinds of errors, in the words of somebody who writes YAML
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), MAPPING),
    "string_type": "text",
    "bool_type": "true or false",
}
BOUNDS = {
    "greater_than": ("gt", "more than {:g}"),
    "greater_than_equal": ("ge", "{:g} or more"),
    "less_than": ("lt", "less than {:g}"),
    "less_than_equal": ("le", "{:g} or less"),
}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
LISTED = 16  # longer lists of known names help nobody


def identity(default: Any = ..., *, later: bool = False, about: str | None = None, **field: Any) -> Any:
    """A field that counts in the digest. `about`: what it is, in one sentence, for `w2s fields` and docs/sweeps.md.

    `later=True` marks a field added after digests were published: at its default it is left out of the canonical
    JSON, so that old digests stay valid. The default of such a field must never change.
    """
    return Field(default, description=about, json_schema_extra={"role": "identity", "later": later}, **field)


def runtime(default: Any = ..., *, about: str | None = None, **field: Any) -> Any:
    """A field that does not count in the digest: it must not change any number beyond rounding."""
    return Field(default, description=about, json_schema_extra={"role": "runtime"}, **field)


def role(field: pydantic.fields.FieldInfo) -> str | None:
    """'identity', 'runtime', or None where the author forgot to say."""
    extra = field.json_schema_extra
    return str(extra["role"]) if isinstance(extra, dict) and "role" in extra else None


class Spec(BaseModel):
    """Base of every spec: frozen, strict types, unknown fields refused, every field classified."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    # Worked out once: a sweep of 100,000 steps has one task and few models in all of them. In slots, since what lies in
    # the instance's __dict__ would go along with `model_copy(update=...)`, where it is no longer true.
    __slots__ = ("_digest", "_text")
    by_hand: typing.ClassVar[bool] = True  # False: nobody writes it in a sweep, so no message offers it

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        unclassified = [name for name, field in cls.model_fields.items() if role(field) is None]
        if unclassified:
            raise TypeError(f"{cls.__name__}: say identity(...) or runtime(...) for {', '.join(unclassified)}")

    def identity(self) -> dict[str, Any]:
        """The identity fields as plain JSON data, nested specs included, in their declared types."""
        kept: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = typing.cast(dict[str, Any], field.json_schema_extra)
            value = getattr(self, name)
            # A nested spec is at its default where its identity is, whatever its runtime fields say.
            if extra["role"] == "identity" and not (extra["later"] and _plain(value) == _plain(field.get_default())):
                kept[name] = _plain(value)
        return kept

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of `identity()`, 64 hexadecimal digits."""
        known: str | None = getattr(self, "_digest", None)
        if known is None:
            known = hashlib.sha256(self._joined().encode()).hexdigest()
            object.__setattr__(self, "_digest", known)
        return known

    def _canonical(self) -> str:
        """`canonical_json(self.identity())`, kept, as what is inside of many other specs."""
        known: str | None = getattr(self, "_text", None)
        if known is None:
            known = self._joined()
            object.__setattr__(self, "_text", known)
        return known

    def _joined(self) -> str:
        """`canonical_json(self.identity())`, from the kept texts of the specs inside."""
        parts = []
        for name, key, default in _identity_fields(type(self)):
            value = getattr(self, name)
            if default is None or not _equal(value, default[0]):
                parts.append(key + _text_of(value))
        return "{" + ",".join(parts) + "}"


@functools.cache
def _identity_fields(model: type[Spec]) -> list[tuple[str, str, tuple[Any] | None]]:
    """(name, its key in canonical JSON, default at which it is left out) of the identity fields, sorted by name."""
    found: list[tuple[str, str, tuple[Any] | None]] = []
    for name, field in sorted(model.model_fields.items()):
        extra = typing.cast(dict[str, Any], field.json_schema_extra)
        if extra["role"] == "identity":
            found.append((name, canonical_json(name) + ":", (field.get_default(),) if extra["later"] else None))
    return found


def _equal(value: Any, other: Any) -> bool:
    """True where two values have the same identity."""
    if isinstance(value, Spec) and isinstance(other, Spec):
        return value._canonical() == other._canonical()
    return bool(_plain(value) == _plain(other))


def _text_of(value: Any) -> str:
    return value._canonical() if isinstance(value, Spec) else canonical_json(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.identity()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value  # 0.0 and -0.0 are one number


def canonical_json(data: Any) -> str:
    """One text for equal data: sorted keys, no spaces, shortest round-trip floats, NaN refused."""
    return _CANONICAL.encode(data)


def sha256_of(data: Any) -> str:
    """SHA-256 of the canonical JSON of plain data, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """' (did you mean X?)' for the closest known name, or the known names where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known: {', '.join(names)})" if names and len(names) <= LISTED else ""


def validated(model: type[S], data: Any, where: str = "") -> S:
    """`data` (plain JSON data) as a spec; every problem at once, each with its path, value and nearest valid name.

    Raises SpecError. `where` is the path of `data` in the user's file, for the messages.
    """
    try:
        # JSON mode: strict about types (a number written as text is refused), yet a list may fill a tuple.
        return model.model_validate_json(json.dumps(data))
    except pydantic.ValidationError as error:
        raise SpecError(_sentences(model, error.errors(), where)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{where or model.__name__}: not plain data: {error}") from None


def unique(lines: list[str]) -> list[str]:
    """The lines without repeats, in their order."""
    return list(dict.fromkeys(lines))


def _sentences(model: type[Spec], problems: list[Any], where: str) -> list[str]:
    """One sentence per problem: what a union might also have been is said together, what only follows not at all."""
    wrong_inside = {problem["loc"][:-1] for problem in problems}
    lines = []
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in wrong_inside:
            continue  # pydantic does not count the items that are wrong
        lines.append(_sentence(model, problem, where))
    together: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        path, expected, rest = line.partition(": expected ")
        wanted, got, given = rest.rpartition(" (got ")
        together.setdefault((path, got + given) if expected and got else (line, ""), []).append(wanted)
    return [
        f"{path}: expected {' or '.join(unique(wanted))}{given}" if given else path
        for (path, given), wanted in together.items()
    ]


def _sentence(model: type[Spec], problem: Any, where: str) -> str:
    candidates: list[Any] = [model]
    owners = candidates
    shown: list[str] = [where] if where else []
    for part in problem["loc"]:
        if len(candidates) > 1:  # a union: pydantic first names the member that it tried
            candidates = [c for c in candidates if _is_named(c, part)] or candidates
            continue
        shown.append(f"[{part}]" if isinstance(part, int) else f".{part}" if shown else str(part))
        owners, candidates = candidates, [inner for c in candidates for inner in _inner(c, part)]
    path = "".join(shown) or model.__name__
    kind, context, given = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind == "extra_forbidden":
        known = {name for c in map(_bare, owners) if _is_spec(c) for name in c.model_fields}
        return f"{path}: unknown field{nearest(str(problem['loc'][-1]), known)}"
    if kind == "missing":
        return f"{path}: missing, and there is no default"
    if kind == "union_tag_invalid":
        known = {str(_tags(c)[0]) for c in candidates if getattr(_bare(c), "by_hand", True)}
        return f"{path}.{context['discriminator'].strip(QUOTE)}: no {context['tag']!r}{nearest(context['tag'], known)}"
    if kind == "union_tag_not_found":
        names = ", ".join(str(_tags(c)[0]) for c in candidates if getattr(_bare(c), "by_hand", True))
        return f"{path}: say which one with {context['discriminator'].strip(QUOTE)}, one of {names}"
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        return (
            f"{path}: expected at {'least' if kind == 'too_short' else 'most'} {bound} (got {context['actual_length']})"
        )
    if kind == "json_invalid":
        return f"{path}: holds text that is not Unicode"
    message = problem["msg"].removeprefix("Value error, ")
    field, colon, rest = message.partition(": ")
    if colon and any(_is_spec(c) and field in c.model_fields for c in map(_bare, candidates)):
        return f"{path}.{field}: {rest}"
    if kind == "literal_error":
        message = f"expected {context['expected']}"
    elif kind in BOUNDS:
        name, words = BOUNDS[kind]
        message = f"expected {words.format(context[name])}"
    elif kind in EXPECTED:
        more = _such_as(candidates, given) if EXPECTED[kind] == MAPPING else ""
        return f"{path}: expected {EXPECTED[kind]}{more} (got {_short(given)})"
    return f"{path}: {message[0].lower()}{message[1:]}" + ("" if isinstance(given, dict) else f" (got {_short(given)})")


def _such_as(candidates: list[Any], given: Any) -> str:
    """The mapping that stands for `given`, a name; or what it has to hold."""
    specs = [bare for bare in map(_bare, candidates) if _is_spec(bare) and bare.by_hand]
    tags = ("kind", "name") if len(specs) > 1 else ()
    for name in (tag for tag in tags if all(tag in spec.model_fields for spec in specs)):
        words = [str(get_args(spec.model_fields[name].annotation)[0]) for spec in specs]
        return f", such as {{{name}: {given}}}" if given in words else f" with {name}, one of {', '.join(words)}"
    needed = [name for name, field in specs[0].model_fields.items() if field.is_required()] if len(specs) == 1 else []
    return f" with {', '.join(needed)}" if needed else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _is_spec(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Spec)


def _is_named(candidate: Any, part: Any) -> bool:
    """True where pydantic calls this member of a union `part`."""
    bare = _bare(candidate)
    kind = get_origin(bare) or bare
    plain = str(getattr(kind, "__name__", None) or getattr(kind, "_name", ""))
    return part in _tags(candidate) or str(part).removeprefix("constrained-").startswith(plain.lower())


def _tags(candidate: Any) -> list[str]:
    """The names of a member of a union: its Tag, its discriminator's value, or its class name."""
    found = [extra.tag for extra in getattr(candidate, "__metadata__", ()) if isinstance(extra, pydantic.Tag)]
    bare = _bare(candidate)
    if _is_spec(bare):
        fields = [bare.model_fields[name] for name in ("name", "kind") if name in bare.model_fields]
        found += [str(get_args(f.annotation)[0]) for f in fields if get_origin(f.annotation) is typing.Literal]
        found.append(str(bare.__name__))
    return found


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is typing.Annotated else annotation


def _inner(candidate: Any, part: Any) -> list[Any]:
    """The types that may stand at `part` inside `candidate`."""
    candidate = _bare(candidate)
    if _is_spec(candidate):
        field = candidate.model_fields.get(part)
        return _members(field.annotation) if field is not None else []
    origin, args = get_origin(candidate), get_args(candidate)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return _members(args[part]) if isinstance(part, int) and part < len(args) else []
    if origin in (list, tuple) and args:
        return _members(args[0])
    return _members(args[1]) if origin is dict else []


def _members(annotation: Any) -> list[Any]:
    """The members of a union, nested ones included and None left out; anything else alone."""
    bare = _bare(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        return [m for a in get_args(bare) if a is not type(None) for m in _members(a)]
    return [annotation]
