"""Paths and templates in, functions from a record to its texts and numbers out; refuses what a record does not have.

A record is a mapping of fields. A field is named by its path, dots reaching into nested mappings and lists
(`choices.text`, `input.1.content`). A template mixes text and fields: "{passage}\\n\\nQuestion: {question}".
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping
from typing import Any

from w2s.errors import SpecError

Record = Mapping[str, Any]
Getter = Callable[[Record], str]


class BadRecord(Exception):
    """One record does not fit: the reason, and the value where there is one."""


def paths(template: str) -> list[str]:
    """The field paths that a template, or a plain field name, needs. Raises SpecError for a broken template."""
    if "{" not in template and "}" not in template:
        return [template]
    return [path for _, path in _parts(template) if path is not None]


def getter(template: str) -> Getter:
    """A function from a record to text: a field's value, or a filled template."""
    if "{" not in template and "}" not in template:
        return lambda record: text_of(value_at(record, template), template)
    parts = _parts(template)

    def fill(record: Record) -> str:
        return "".join(
            literal + ("" if path is None else text_of(value_at(record, path), path)) for literal, path in parts
        )

    return fill


def _parts(template: str) -> list[tuple[str, str | None]]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpecError(
            f"template {template!r}: {error}; write {{{{ and }}}} for braces that are meant as such"
        ) from None
    for _, path, style, conversion in parsed:
        if path == "" or style or conversion:
            raise SpecError(f"template {template!r}: expected {{field}}, without ':' or '!'")
    return [(literal, path) for literal, path, _, _ in parsed]


def value_at(record: Any, path: str) -> Any:
    """The value at a dotted path. A key that itself has dots is found too."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    value = record
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise BadRecord(f"no field {path!r}")
    return value


def text_of(value: Any, path: str) -> str:
    """A field's value as text: numbers as written, lists of texts line by line."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    raise BadRecord(f"the field {path!r} is neither text nor a number", value)


def number_at(record: Record, path: str) -> float:
    """The rating at a path."""
    value = value_at(record, path)
    try:
        rating = float(value)
    except (TypeError, ValueError):
        raise BadRecord("the rating is not a number", value) from None
    if rating != rating:
        raise BadRecord("the rating is not a number", value)
    return rating


def list_at(record: Record, path: str, what: str) -> list[str]:
    """The list of texts at a path."""
    listed = value_at(record, path)
    if not isinstance(listed, (list, tuple)):
        raise BadRecord(f"the field {path!r} is not a list of {what}", listed)
    return [text_of(one, path) for one in listed]


def clean(text: str) -> str:
    """Without space around it; half a surrogate pair, which no UTF-8 file can hold, is refused."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord("not valid Unicode text", text) from None
    return text.strip()


def drawn(*parts: str) -> int:
    """A number that the parts decide, as good as drawn at random."""
    return int(hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:15], 16)
