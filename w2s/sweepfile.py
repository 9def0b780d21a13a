"""A sweep as written: a YAML file and `--set` in, plain data with names in place of lists out; nothing looked up.

Refuses what is no mapping, entries of lists without a name or with another's, and changes of what is not there.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from w2s.errors import SpecError
from w2s.identity import LISTED, Spec, identity, runtime, unique
from w2s.pairs import Pairs
from w2s.resources import Slurm
from w2s.spec import Engine, Loss, Sizes
from w2s.starts import MethodStart
from w2s.yamlfile import parse_yaml, read_yaml

WRONG_NAME = "a name may hold letters, digits and . _ @ + - only"
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")  # sweeps, models and methods name folders, files and columns
Selection = Literal["final", "weak_val", "oracle"]  # of a student's evaluations, the one whose predictions count


class Method(Spec):
    """How a student learns: the loss, what else of the recipe differs, from whom, soft or hard labels."""

    loss: Loss = identity(about="The loss by name, or a mapping of its name and numbers.")
    recipe: dict[str, Any] = identity({}, about="What is otherwise than in the recipe of the student's model.")
    labels: Any = identity(None, about="Where labels come from and what is done to them; null: the pair's weak model.")
    start: MethodStart | None = identity(None, about="What students begin from; null: the model as all others do.")
    hard_labels: bool = identity(False, about="True: the most probable class of each label, with probability 1.")


class SweepFile(Spec):
    """A sweep as written, after `--set`; names of tasks and models not yet looked up."""

    name: str = runtime(about="Names the folder of its results.")
    question: str = runtime("", about="What is asked, for the report.")
    plugins: tuple[str, ...] = runtime(
        (), about="Python files of your own with losses, label transforms, tasks and models; see docs/extending.md."
    )
    tasks: dict[str, str | dict[str, Any]] = identity(
        min_length=1, about="Tasks, as a list of names or by names of one's own."
    )
    sizes: Sizes = identity(about="Examples of each split.")
    split_seed: int = identity(
        0, ge=0, about="Seed by which examples are dealt to splits, the same for all seeds of trainings."
    )
    models: dict[str, str | dict[str, Any]] = identity(
        min_length=1, about="Models, weakest first, as a list of names or by names of one's own."
    )
    pairs: Pairs = identity(
        "all_upper",
        about="Who supervises whom; all_upper: each model every later one.",
    )
    methods: dict[str, Method] = identity(
        min_length=1, about="How students learn, as a list of losses or by names of one's own."
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = identity(
        (0,), min_length=1, about="Seeds of heads, batches and whatever else is drawn."
    )
    selections: tuple[Selection, ...] = identity(
        ("final",),
        min_length=1,
        about="Which evaluation counts: the last, the nearest to its labels on val, the best on test (a diagnostic).",
    )
    recipe: dict[str, Any] = identity(
        {}, about="How all models are trained, unless a model or a method says otherwise."
    )
    engine: Engine = runtime(Engine(), about="Where and how steps run.")
    slurm: Slurm = runtime(Slurm(), about="What jobs ask SLURM for.")
    keep_weights: bool = runtime(False, about="True: trained weights are kept, for `w2s label`.")


def read(path: Path) -> dict[str, Any]:
    """A sweep's file as plain data, named after it where it has no name. Raises SpecError, with the nearest file."""
    try:
        data = read_yaml(path)
    except SpecError as error:
        if os.path.exists(path):
            raise
        raise SpecError(f"{error}{_similar(path)}") from None
    if not isinstance(data, dict):
        found = "an empty file" if data is None else "a list" if isinstance(data, list) else repr(data)[:80]
        raise SpecError(f"{path}: expected a mapping with tasks, models and methods (got {found})")
    data.setdefault("name", path.stem)
    return data


def _similar(path: Path) -> str:
    """' (did you mean X?)' for the YAML files in the same folder and in sweeps/ with the nearest name."""
    there = [file for folder in (path.parent, Path("sweeps")) for file in sorted(folder.glob("*.y*ml"))]
    stems = {file.stem for file in there}
    close = difflib.get_close_matches(path.stem, stems, n=1, cutoff=0.6)
    found = [str(file) for file in there if file.stem in close] or [str(file) for file in there]
    if not found or len(found) > LISTED:
        return ""
    return f" (did you mean {found[0]}?)" if close else f" (there are {', '.join(unique(found))})"


def named(data: dict[str, Any], problems: list[str], losses: Collection[str]) -> dict[str, Any]:
    """Lists of tasks, models and methods as mappings from their names; what has no name of its own is a problem."""
    named = dict(data)
    for key in ("tasks", "models", "methods"):
        entries = data.get(key)
        if not isinstance(entries, list):
            continue
        named[key] = {}
        for index, entry in enumerate(entries):
            given = entry.get("name") if isinstance(entry, dict) else entry
            if not isinstance(given, str):
                problems.append(f"{key}[{index}]: an entry of a list needs a name (got {entry!r})")
            elif given in named[key]:
                problems.append(f"{key}[{index}]: the name {given!r} is given twice; give one of them another name")
            else:
                whole = not isinstance(entry, dict)
                named[key][given] = entry if whole else {k: v for k, v in entry.items() if k != "name"}
    methods = named.get("methods")
    if isinstance(methods, dict):  # `xent: {}` and `[xent]` are short for the loss of that name at its defaults
        named["methods"] = {name: _method(name, entry, losses) for name, entry in methods.items()}
    return named


def _method(name: str, entry: Any, losses: Collection[str]) -> Any:
    if isinstance(entry, str) or entry is None:
        return {"loss": {"name": entry or name}}
    if isinstance(entry, dict) and "loss" not in entry:
        # A method that is about labels or what it begins from, or that minimizes nothing, may be called as it likes.
        tune = entry["recipe"].get("tune") if isinstance(entry.get("recipe"), dict) else None
        free = "labels" in entry or "start" in entry or (isinstance(tune, dict) and tune.get("kind") == "prompt")
        return {**entry, "loss": {"name": "xent" if free and name not in losses else name}}
    if isinstance(entry, dict) and isinstance(entry["loss"], str):
        return {**entry, "loss": {"name": entry["loss"]}}
    return entry


def with_sets(data: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """`data` with each `path.to.field=value` applied in turn; values are YAML."""
    for change in sets:
        path, equals, text = change.partition("=")
        if not equals or not path.strip():
            raise SpecError(f"--set {change}: expected path=value, such as recipe.lr=1e-5")
        value = parse_yaml(text, f"--set {change}")
        data = _set(data, path.strip().split("."), value, f"--set {change}")
    return data


def _set(data: Any, path: list[str], value: Any, where: str) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not head.isdigit() or int(head) >= len(data):
            raise SpecError(f"{where}: no entry {head!r} in a list of {len(data)}")
        return [_set(item, rest, value, where) if i == int(head) else item for i, item in enumerate(data)]
    if not isinstance(data, dict):  # a model or task written as a bare name gets room for a field
        data = {} if data is None else {"use": data}
    for dots in range(len(path), 1, -1):  # a name may hold dots itself, such as pythia-1.4b
        if ".".join(path[:dots]) in data:
            head, rest = ".".join(path[:dots]), path[dots:]
            break
    return {**data, head: _set(data.get(head), rest, value, where)}
