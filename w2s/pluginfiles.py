"""The files that a sweep's `plugins` names in, what they mark and the sweep with it filled in out. Loads no torch.

A file is hashed here, and run once in a process of its own to hear what it marks, which is remembered under its hash:
so whatever it imports costs its first plan some seconds and no later one. Nothing of it runs in this process.
Refuses files that cannot be run, that import their neighbours, and names that w2s has itself or that are there twice.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pydantic

from w2s.disk import disk_errors, make_folder, read_json, write_json, write_lines
from w2s.errors import SpecError
from w2s.identity import Spec, identity, nearest, sha256_of, validated
from w2s.labelling import TRANSFORMS
from w2s.objectives import AnyLoss
from w2s.sources.cache import cache_dir
from w2s.sources.fetch import find_file
from w2s.tasks import registry
from w2s.tasks.task import Prepare

GROUP = "w2s.plugins"  # of entry points
TOLD = 1  # raise when what files tell of themselves takes another form
RUN_S = 300.0  # a file that imports torch from a slow disk takes long
SAID = 400  # characters of what a file printed, in a message
PLUGIN = "plugin"  # what w2s calls losses and transforms of plugins in specs; no name of anything in a sweep
TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str}
# Beside the name of each entry in a sweep, what w2s has itself.
OWN: dict[str, tuple[str, ...]] = {
    "loss": tuple(loss.model_fields["name"].default for loss in get_args(AnyLoss)),
    "transform": tuple(TRANSFORMS),
    "prepare": get_args(Prepare),
    "model": (),
}


class PluginFile(NamedTuple):
    """A file as it is now."""

    name: str
    code: str  # SHA-256
    source: bytes


class Known(NamedTuple):
    """What a file marks, as it says itself; see `plugins.Marked`."""

    file: PluginFile
    kind: str
    name: str
    line: int
    takes: tuple[str, ...]
    parameters: dict[str, dict[str, Any]]
    more: dict[str, Any]


class Plugins(NamedTuple):
    """The plugins of a sweep."""

    files: tuple[PluginFile, ...] = ()
    known: tuple[Known, ...] = ()

    def names(self, kind: str) -> list[str]:
        """Of what there is of a kind."""
        return [known.name for known in self.known if known.kind == kind]

    def get(self, kind: str, name: Any) -> Known | None:
        """The one of that name; None where there is none."""
        return next((known for known in self.known if (known.kind, known.name) == (kind, name)), None)


def read(given: Any, base: Path, problems: list[str]) -> Plugins:
    """The plugins that a sweep names: files, relative to `base`, or entry points. What is wrong goes to `problems`."""
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        problems.append(f"plugins: expected a list of files, such as [my_ideas.py] (got {given!r})")
        return Plugins()
    files, found = list[PluginFile](), list[Known]()
    for place, item in enumerate(given):
        where = f"plugins[{place}]"
        try:
            path, package = _path_of(item, base, where)
            try:
                source = path.read_bytes()
            except OSError as error:
                raise SpecError(f"{where}: {path} cannot be read: {error.strerror}") from None
            file = PluginFile(path.name, hashlib.sha256(source).hexdigest(), source)
            if any(file.code == other.code for other in files):
                raise SpecError(f"{where}: {item} is given twice, or another file has the same text; keep one")
            known = [_known(file, told) for told in _told(path, file, package, where)]
            problems += _clashes(known, found, where)
            files.append(file)
            found += known
        except SpecError as error:
            problems += error.problems
    return Plugins(tuple(files), tuple(found))


def keep(files: Iterable[PluginFile], folder: Path) -> None:
    """Copies of the files in a results folder, named by their hashes: what a run goes by, whatever is edited later."""
    for file in files:
        place = folder / file.code
        if any(place.glob("*.py")):
            continue
        with disk_errors(place):
            make_folder(place)
            # As it is, byte by byte: the hash is of these.
            write_lines(place / file.name, [file.source.decode()])


# -- a file to what it marks -------------------------------------------------------------------------------------------


def _path_of(item: str, base: Path, where: str) -> tuple[Path, str | None]:
    """(the file, the package that it belongs to) of a path or an entry point."""
    if item.endswith(".py") or "/" in item:
        path = find_file(item, base, where)
        if not (path.is_file() and path.suffix == ".py"):
            raise SpecError(f"{where}: {path} is no .py file")
        return path, None
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if item not in points:
        raise SpecError(
            f"{where}: no installed package has an entry point {item!r} in the group {GROUP}"
            f"{nearest(item, points)}; a file is named with its .py"
        )
    module = points[item].module
    try:
        spec = importlib.util.find_spec(module)  # runs the package above it, if there is one
    except Exception as error:
        raise SpecError(f"{where}: the entry point {item} leads to {module}: {type(error).__name__}: {error}") from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SpecError(f"{where}: the entry point {item} leads to {module}, which is no Python file here")
    return Path(spec.origin), module.partition(".")[0]


def _told(path: Path, file: PluginFile, package: str | None, where: str) -> list[dict[str, Any]]:
    """What a file marks, by its own word. Raises SpecError."""
    _require_alone(path, file, package, where)
    memory = cache_dir() / "plugins" / f"{sha256_of([TOLD, file.code, sys.prefix, sys.version])[:32]}.json"
    told = read_json(memory)
    if told is None or not isinstance(told.get("marked"), list):
        told = _heard(file, where)
        if "wrong" in told:
            raise SpecError(f"{where}: {path}: {told['wrong']}")
        with contextlib.suppress(OSError):  # where it cannot be remembered, it is asked again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, told)
    if not told["marked"]:
        raise SpecError(
            f"{where}: {path}: marks nothing; write @plugins.loss, @plugins.transform, @plugins.task(...), "
            "@plugins.prepare or @plugins.model above a function, after `from w2s import plugins`"
        )
    marked: list[dict[str, Any]] = told["marked"]
    return marked


def _heard(file: PluginFile, where: str) -> dict[str, Any]:
    """What a process of its own tells about a file that it runs."""
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from w2s import plugins; plugins.tell(*sys.argv[2:])"
    )
    with tempfile.TemporaryDirectory(prefix="w2s-plugin-") as folder:
        copy, out = Path(folder, file.name), Path(folder, "told.json")
        copy.write_bytes(file.source)
        # -I: neither the folder one works in nor the file's own is on the path, here as little as in a step.
        path = json.dumps([entry for entry in sys.path if entry])
        try:
            ran = subprocess.run(
                [sys.executable, "-I", "-c", program, path, str(copy), str(out)],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise SpecError(f"{where}: {file.name}: did not end within {RUN_S:g} s when it was run") from None
        told = read_json(out)
        if told is None:
            said = (ran.stderr or ran.stdout).decode(errors="replace").strip()[-SAID:]
            return {"wrong": f"ended the process that ran it (exit code {ran.returncode}): {said}"}
        return told


def _require_alone(path: Path, file: PluginFile, package: str | None, where: str) -> None:
    """Raise SpecError where the file imports its neighbours: what stands there is neither hashed nor copied."""
    try:
        tree = ast.parse(file.source)
        file.source.decode()
    except (SyntaxError, ValueError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        raise SpecError(f"{where}: {path}: {line}{getattr(error, 'msg', error)}") from None
    problems = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        names, level = [alias.name for alias in node.names], 0
        if isinstance(node, ast.ImportFrom):
            names, level = [node.module or ""], node.level
        for name in names:
            top = name.partition(".")[0]
            there = top not in sys.stdlib_module_names and top != "w2s"
            beside = (path.parent / f"{top}.py").exists() or (path.parent / top / "__init__.py").exists()
            if level or top == package or (there and package is None and beside):
                problems.append(
                    f"{where}: {path}: line {node.lineno}: imports {'.' * level}{name}, a file beside it; a plugin is "
                    "one file, because only its own text is hashed: move what it needs into it"
                )
    if problems:
        raise SpecError(problems)


def _known(file: PluginFile, told: dict[str, Any]) -> Known:
    return Known(file, told["kind"], told["name"], told["line"], tuple(told["takes"]), told["parameters"], told["more"])


def _clashes(new: Sequence[Known], before: Sequence[Known], where: str) -> list[str]:
    """What is wrong with the names of a file."""
    problems = []
    taken = {(known.kind, known.name): known.file.name for known in before}
    for known in new:
        at = f"{where}: {known.file.name}:{known.line}: {known.kind} {known.name}"
        own = registry.names() if known.kind == "task" else OWN[known.kind]
        if known.name in own or known.name == PLUGIN:
            problems.append(f"{at}: w2s has one of that name; name it otherwise")
        if (known.kind, known.name) in taken:
            problems.append(f"{at}: {taken[known.kind, known.name]} has one of that name; name one of them otherwise")
        fields = {"task": ("use", "name", *registry.KEYS), "loss": ("name",), "prepare": ("name",), "model": ("name",)}
        problems += [
            f"{at}: the parameter {parameter} is a field of its own in a sweep; name it otherwise"
            for parameter in sorted(set(known.parameters) & set(fields.get(known.kind, ())))
        ]
        problems += [
            f"{at}: {field}: unknown field{nearest(field, registry.KEYS)}"
            for field in sorted(set(known.more.get("row", ())) - set(registry.KEYS))
        ]
    return problems


# -- a sweep with what they mark filled in -----------------------------------------------------------------------------


def filled_in(raw: dict[str, Any], plugins: Plugins, problems: list[str]) -> dict[str, Any]:
    """The sweep as its specs read it, names of plugins replaced by what they stand for.

    What is wrong goes to `problems`, and something harmless takes its place.
    """
    filled = {key: value for key, value in raw.items() if key != "plugins"}
    filling = _Filling(plugins, problems)
    for key, fill in (("methods", filling.method), ("tasks", filling.task), ("models", filling.model)):
        entries = raw.get(key)
        if isinstance(entries, dict):
            filled[key] = {name: fill(entry, f"{key}.{name}") for name, entry in entries.items()}
    return {**filled, "plugins": [file.name for file in plugins.files]} if plugins.files else filled


class _Filling(NamedTuple):
    plugins: Plugins
    problems: list[str]

    def method(self, entry: Any, where: str) -> Any:
        if not isinstance(entry, dict):
            return entry
        filled, loss, labels = dict(entry), entry.get("loss"), entry.get("labels")
        if isinstance(loss, dict) and isinstance(loss.get("name"), str):
            used = self._used("loss", loss["name"], {**loss}, f"{where}.loss", f"{where}.loss.name")
            if used is not None:
                filled["loss"] = {"name": PLUGIN, **used} if used else {"name": "xent"}
        if isinstance(labels, dict) and isinstance(labels.get("transforms"), list):
            transforms = [
                self._transform(one, f"{where}.labels.transforms[{place}]")
                for place, one in enumerate(labels["transforms"])
            ]
            filled["labels"] = {**labels, "transforms": [one for one in transforms if one is not None]}
        return filled

    def _transform(self, given: Any, where: str) -> Any:
        name, value = given, None
        if isinstance(given, dict) and len(given) == 1:
            ((name, value),) = given.items()
        if not isinstance(name, str):
            return given
        known = self.plugins.get("transform", name)
        fields: Any = {} if value is None else value
        if known is not None and not isinstance(value, dict) and value is not None:
            if not known.parameters:
                self.problems.append(f"{where}: {name} takes no value (got {value!r})")
                return None
            fields = {next(iter(known.parameters)): value}
        used = self._used("transform", name, fields if isinstance(fields, dict) else {}, f"{where}.{name}", where)
        if used is None or not used or known is None:
            return given if used is None else None
        return {PLUGIN: {**used, "random": "rng" in known.takes}}

    def task(self, entry: Any, where: str) -> Any:
        name = entry.get("use") if isinstance(entry, dict) else entry
        known = self.plugins.get("task", name)
        filled = dict(entry) if isinstance(entry, dict) else {}
        if known is not None:
            given = {key: filled.pop(key) for key in list(filled) if key in known.parameters}
            used = self._used("task", known.name, given, where, where)
            filled.pop("use", None)
            source = used or {"code": "0" * 64, "use": known.name}
            filled = {"name": known.name, **known.more["row"], "source": source, **filled}
        elif isinstance(name, str) and self._is_near("task", name, registry.names()):
            self.problems.append(f"{where}: no task {name!r}{nearest(name, self.plugins.names('task'))}")
            return registry.names()[0]
        elif not isinstance(entry, dict):
            return entry
        return self._part(filled, "prepare", "prepare", "own_prepare", where)

    def model(self, entry: Any, where: str) -> Any:
        return self._part(dict(entry), "build", "model", "build", where) if isinstance(entry, dict) else entry

    def _part(self, entry: dict[str, Any], key: str, kind: str, field: str, where: str) -> dict[str, Any]:
        """An entry whose `key` names something of a kind, alone or with values; it goes to `field`."""
        if field in entry and (field != key or not isinstance(entry[field], (str, dict, type(None)))):
            self.problems.append(f"{where}.{field}: {'unknown field' if field != key else 'expected a name'}")
            return {name: value for name, value in entry.items() if name != field}
        given: Any = entry.get(key)
        named = isinstance(given, dict) and isinstance(given.get("name"), str)
        name = given["name"] if named else given
        if not isinstance(name, str):
            if given is not None and kind == "model":
                self.problems.append(f"{where}.{key}: expected the name of a model builder of a plugin (got {given!r})")
                return {name: value for name, value in entry.items() if name != key}
            return entry
        values = dict(given) if named else {}
        used = self._used(kind, name, values, f"{where}.{key}", f"{where}.{key}")
        if used is None:
            return entry
        rest = {name: value for name, value in entry.items() if name != key}
        return {**rest, field: used} if used else rest

    def _used(self, kind: str, name: str, given: dict[str, Any], where: str, named: str) -> dict[str, Any] | None:
        """What takes the place of a name with its values: a PluginUse as plain data; {} where it is wrong.

        None where it is none of a plugin's, and w2s's own affair.
        """
        known = self.plugins.get(kind, name)
        if known is None:
            wrong = name == PLUGIN or (name not in OWN[kind] and (self.plugins.names(kind) or kind == "model"))
            if not wrong:
                return None
            what = "model builder" if kind == "model" else kind
            hint = nearest(name, [*OWN[kind], *self.plugins.names(kind)])
            none = "; builders are functions that a plugin marks with @plugins.model" if kind == "model" else ""
            self.problems.append(f"{named}: no {what} {name!r}{hint or none}")
            return {}
        fields = {key: value for key, value in given.items() if key != "name" or kind in ("task", "transform")}
        try:
            values = validated(_spec_of(known), fields, where)
        except SpecError as error:
            self.problems.extend(error.problems)
            return {}
        listed = sorted((field, getattr(values, field)) for field in type(values).model_fields)
        return {
            "use": name,
            "code": known.file.code,
            "file": known.file.name,
            "values": [list(pair) for pair in listed],
        }

    def _is_near(self, kind: str, name: str, own: Sequence[str]) -> bool:
        return name not in own and "did you mean" in nearest(name, self.plugins.names(kind))


def _spec_of(known: Known) -> type[Spec]:
    """A spec with the parameters of a plugin's function as its fields, to check values by."""
    fields: dict[str, Any] = {}
    for name, told in known.parameters.items():
        members = [TYPES[kind] for kind in told["types"]]
        if told["choices"]:
            members.append(Literal[tuple(told["choices"])])
        if told["optional"]:
            members.append(None)
        annotation = members[0]
        for member in members[1:]:
            annotation = annotation | member
        fields[name] = (annotation, identity(told["default"]) if "default" in told else identity())
    made: type[Spec] = pydantic.create_model(known.name, __base__=Spec, __module__="plugin", **fields)
    return made
