"""Names of tasks, or inline mappings, in; specs out. Only the tasks that are asked for are validated."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from w2s.errors import SpecError
from w2s.identity import nearest, validated
from w2s.sources.fetch import resolve
from w2s.sources.spec import FileSource
from w2s.tasks.fields import paths
from w2s.tasks.task import (
    ChoicesFormat,
    GenerateFormat,
    PairsFormat,
    RatingFormat,
    RatingPairsFormat,
    TaskSpec,
    TextFormat,
    kind_of,
)
from w2s.yamlfile import read_yaml

BUILTIN = Path(__file__).with_name("builtin.yaml")

# Short forms: keys that an inline mapping may carry at its top, and the mapping they belong to.
_SOURCE_KEYS = ("file", "hub", "revision", "config", "package", "sha256", "member")
_FORMAT_KEYS = tuple(
    dict.fromkeys(
        name
        for spec in (TextFormat, RatingFormat, ChoicesFormat, PairsFormat, RatingPairsFormat, GenerateFormat)
        for name in spec.model_fields
        if name != "kind"
    )
)

# What a task in a sweep may say.
KEYS = tuple(dict.fromkeys((*(k for k in TaskSpec.model_fields if k != "own_prepare"), *_SOURCE_KEYS, *_FORMAT_KEYS)))


@functools.cache
def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = read_yaml(BUILTIN)
    return rows


def names() -> list[str]:
    """The built-in tasks, in the order of builtin.yaml."""
    return list(_rows())


def builtin() -> dict[str, TaskSpec]:
    """Every task of builtin.yaml by name."""
    return {name: _builtin(name) for name in _rows()}


@functools.cache
def _builtin(name: str) -> TaskSpec:
    return _task({"name": name, **_rows()[name]}, BUILTIN.parent, f"builtin.yaml: {name}")


def task_of(value: str | dict[str, Any], base: Path, where: str) -> TaskSpec:
    """A built-in task by name, or an inline mapping. Raises SpecError with all problems.

    Inline: all of TaskSpec's fields, or the short form {file: my.jsonl, text: review, label: stars, classes: [...]}
    with the fields of source and format side by side. {use: boolq, balance: false} changes a built-in task.
    `base` is the folder that relative paths start from, `where` the place in the YAML for messages.
    """
    if isinstance(value, str):
        if value in _rows():
            return _builtin(value)
        if re.search(r"\.(jsonl?|ndjson|csv|tsv|parquet)$", value, re.I):
            raise SpecError(
                f"{where}: a file needs its columns named: {{file: {value}, text: ..., label: ..., classes: [...]}}"
            )
        raise SpecError(f"{where}: no task {value!r}{nearest(value, _rows())}; `w2s tasks` lists them")
    if not isinstance(value, dict):
        raise SpecError(f"{where}: expected the name of a task or a mapping (got {value!r})")
    if "use" not in value:
        return _task(value, base, where)
    if not isinstance(value["use"], str) or value["use"] not in _rows():
        raise SpecError(f"{where}.use: no task {value['use']!r}{nearest(str(value['use']), _rows())}")
    changes = {key: item for key, item in value.items() if key != "use"}
    row = dict(_rows()[value["use"]])
    if "format" in row and "format" not in changes and set(changes) & set(_FORMAT_KEYS):
        row |= row.pop("format")  # side by side as well, so that one field of it can be changed
    return _task({"name": value["use"], **row, **changes}, base, where)


def _task(data: dict[str, Any], base: Path, where: str) -> TaskSpec:
    known = {*TaskSpec.model_fields, *_SOURCE_KEYS, *_FORMAT_KEYS, "use"}
    problems = [f"{where}.{key}: unknown field{nearest(key, known)}" for key in data if key not in known]
    full, moved = _long_form({key: item for key, item in data.items() if key in known})
    full.setdefault("name", _name_of(full))
    try:
        task = validated(TaskSpec, full, where)
        _check_templates(task, where)
    except SpecError as error:  # say where it stands in the user's file, not in the long form
        problems += [_moved_back(problem, where, moved) for problem in error.problems]
    if problems:
        raise SpecError(problems)
    changes: dict[str, Any] = {}
    if isinstance(task.source, FileSource):
        changes["source"] = resolve(task.source, base, f"{where}.{'file' if 'source' in moved else 'source.file'}")
    if task.join is not None and isinstance(task.join.source, FileSource):
        found = resolve(task.join.source, base, f"{where}.join.source.file")
        changes["join"] = task.join.model_copy(update={"source": found})
    if task.test_file is not None:
        changes["test_file"] = resolve(task.test_file, base, f"{where}.test_file")
    return task.model_copy(update=changes) if changes else task


def _long_form(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The mapping with source and format spelled out, and which of the two were moved."""
    full, moved = dict(data), []
    for name, keys in (("source", _SOURCE_KEYS), ("format", _FORMAT_KEYS)):
        given = {key: full[key] for key in keys if key in full}
        if given and name not in full:
            full = {key: item for key, item in full.items() if key not in given}
            full[name] = given
            moved.append(name)
    if "kind" not in full and kind_of(full.get("format")) in ("pairs", "rating_pairs"):
        full["kind"] = "compare"
    if "kind" not in full and kind_of(full.get("format")) == "generate":
        full["kind"] = "generate"
    if isinstance(full.get("test_file"), str):
        full["test_file"] = {"file": full["test_file"]}
    if isinstance(full.get("source"), str):
        full["source"] = {"file": full["source"]}
    return full, moved


def _moved_back(problem: str, where: str, moved: list[str]) -> str:
    for name in moved:
        problem = problem.replace(f"{where}.{name}.", f"{where}.", 1)
    return problem


def _name_of(full: dict[str, Any]) -> str:
    source = full.get("source")
    source = source if isinstance(source, dict) else {}
    return Path(str(source.get("file") or source.get("hub") or "task")).stem or "task"


def _check_templates(task: TaskSpec, where: str) -> None:
    """Raise SpecError for templates that cannot be filled, before anything is downloaded."""
    form = task.format
    problems = []
    fields = {"group": task.group}
    if isinstance(form, ChoicesFormat):
        fields |= {"format.prompt": form.prompt}
        if set(paths(form.text)) - {"prompt", "choice"} or "choice" not in paths(form.text):
            problems.append(f"{where}.format.text: a template of {{prompt}} and {{choice}} (got {form.text!r})")
    elif isinstance(form, PairsFormat):
        fields |= {"format.prompt": form.prompt, "format.chosen": form.chosen}
        if set(paths(form.text)) - {"prompt", "text"} or "text" not in paths(form.text):
            problems.append(f"{where}.format.text: a template of {{prompt}} and {{text}} (got {form.text!r})")
    elif isinstance(form, GenerateFormat):
        fields |= {"format.prompt": form.prompt, "format.target": form.target}
    else:
        fields |= {"format.text": form.text}
    for name, template in fields.items():
        try:
            paths(template or "")
        except SpecError as error:
            problems.append(f"{where}.{name}: {error}")
    if problems:
        raise SpecError(problems)
