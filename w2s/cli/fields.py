"""Specs in, what a sweep's YAML may hold out: as a tree of fields, for a terminal, and as docs/sweeps.md.

Names, types, bounds and defaults are those that sweeps are checked by, and sentences stand beside them. What is said
here is only how a sweep is written otherwise than its specs: names in place of mappings, fields side by side.
Refuses paths that lead nowhere, with the nearest that do.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from w2s import labelling
from w2s.cli.terminal import wrapped
from w2s.errors import SpecError
from w2s.identity import Spec, nearest, role
from w2s.models import ModelSpec
from w2s.resources import Resources
from w2s.spec import Recipe
from w2s.starts import LanguageStart, ModelStart
from w2s.supervision import Probing, Subsample
from w2s.sweepfile import Method, SweepFile
from w2s.tasks.task import TaskSpec

NAME = "NAME"  # in paths, in place of what somebody calls a task, a model or a method
PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "see below"}
# Fields that w2s fills in, or that stand elsewhere in a sweep.
HIDDEN = {(TaskSpec, "name"), (TaskSpec, "own_prepare"), (ModelSpec, "name"), (Recipe, "loss")}
DEFAULTS: dict[tuple[type[Spec], str], str | None] = {  # None: it has to be given
    (SweepFile, "name"): "the file's name",
    (Method, "loss"): "the method's name, or xent where it has labels",
    (TaskSpec, "source"): "that of use",
    (TaskSpec, "format"): "that of use",
    (ModelSpec, "source"): "that of use",
    (Subsample, "share"): None,
}
TYPES = {
    (Method, "loss"): "name or mapping",
    (Method, "recipe"): "mapping",
    (LanguageStart, "recipe"): "mapping",
    (Method, "labels"): "source or mapping",
    (SweepFile, "recipe"): "mapping",
    (SweepFile, "tasks"): "list, or mapping by name",
    (SweepFile, "models"): "list, or mapping by name",
    (SweepFile, "methods"): "list, or mapping by name",
    (SweepFile, "pairs"): "all_upper, list of [weak, student], or mapping",
    (ModelSpec, "build"): "name or mapping",
    (labelling.Block, "from_"): "source, or list of sources",
    (labelling.SimulatedSource, "simulated"): "source",
    (labelling.SimulatedSource, "by"): "source or null",
    (Subsample, "share"): "number above 0 and at most 1, or a supervisor",
    (labelling.Block, "transforms"): "list of names, or of {name: value or mapping}",
}


class Variant(NamedTuple):
    """A mapping that a field may hold: what names it among others, such as `kind: lora`, and its fields."""

    tag: str
    about: str
    fields: tuple[Entry, ...]

    @property
    def word(self) -> str:
        """What stands for it in a path: `lora`; nothing where its first field tells it."""
        return "" if self.tag.startswith("{") else self.tag.rpartition(": ")[2]


class Entry(NamedTuple):
    """A field. `named`: it holds a mapping from names of the user's own, to one of `inner` each."""

    name: str
    type: str
    default: str | None  # None: there is none, so that it has to be given
    counts: bool  # in the digests of steps
    about: str
    inner: tuple[Variant, ...] = ()
    named: bool = False


# -- specs to a tree ---------------------------------------------------------------------------------------------------


@functools.cache
def tree() -> Variant:
    """All fields of a sweep."""
    return _variant(SweepFile)._replace(about="")


@functools.cache
def _variant(spec: type[Spec]) -> Variant:
    tag = next((name for name in ("kind", "name") if _constant(spec, name) is not None), None)
    own = [
        _entry(spec, name, field)
        for name, field in spec.model_fields.items()
        if (spec, name) not in HIDDEN and name not in (tag, "features", "like")  # the last two: digests of steps
    ]
    if spec is TaskSpec:
        own.insert(0, Entry("use", "name", "", True, "A built-in task, or a plugin's, that the other fields change."))
    elif spec is ModelSpec:
        about = "A built-in model, a hub id, a local folder or a GGUF file; name@k keeps the lowest k layers."
        own.insert(0, Entry("use", "name", "", True, about))
        own.append(Entry("recipe", "mapping", "{}", True, "How it is trained; students too.", (_variant(Recipe),)))
        about = "What comes first; null: weak models, students and ceilings begin from the model as it is."
        own.append(Entry("start", "mapping or null", "null", True, about, (_variant(ModelStart),)))
        about = "What its jobs ask SLURM for, where that differs from the sweep's."
        own.append(Entry("slurm", "mapping", "{}", False, about, (_variant(Resources),)))
    return Variant(f"{tag}: {_constant(spec, tag)}" if tag is not None else "", _summary(spec), tuple(own))


def _constant(spec: type[Spec], name: str) -> str | None:
    """The one value that a field may have."""
    field = spec.model_fields.get(name)
    values = get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()
    return str(values[0]) if len(values) == 1 else None


def _summary(spec: type[Spec]) -> str:
    """The first paragraph of a spec's docstring, in one line."""
    return " ".join((spec.__doc__ or "").strip().split("\n\n")[0].split())


def _entry(spec: type[Spec], name: str, field: FieldInfo) -> Entry:
    kind = TYPES.get((spec, name)) or _words(field.annotation, field.metadata)
    if (spec, name) == (TaskSpec, "prepare"):
        kind = kind.replace(" or null", ", a plugin's name or null")
    default = DEFAULTS[spec, name] if (spec, name) in DEFAULTS else _default(field)
    inner, named = _inner(spec, name, field.annotation)
    return Entry(field.alias or name, kind, default, role(field) == "identity", field.description or "", inner, named)


def _inner(spec: type[Spec], name: str, annotation: Any) -> tuple[tuple[Variant, ...], bool]:
    """The mappings that a field may hold, and whether each stands under a name."""
    written: dict[tuple[type[Spec], str], tuple[type[Spec], ...]] = {
        (SweepFile, "tasks"): (TaskSpec,),
        (SweepFile, "models"): (ModelSpec,),
        (SweepFile, "methods"): (Method,),
        (SweepFile, "recipe"): (Recipe,),
        (Method, "recipe"): (Recipe,),
        (LanguageStart, "recipe"): (Recipe,),
        (Method, "labels"): (labelling.Block,),
        (labelling.Block, "from_"): labelling.SOURCES,
    }
    if (spec, name) == (labelling.Block, "transforms"):
        return tuple(_transform(key, made) for key, (made, _) in labelling.TRANSFORMS.items()), False
    if (spec, name) in written:
        found = tuple(map(_variant, written[spec, name]))
    else:
        found = tuple(_variant(each) for each in _specs(annotation) if each.by_hand)
    if len(found) > 1:  # what has no kind or name is known by its first field
        found = tuple(v if v.tag else v._replace(tag=f"{{{v.fields[0].name}: ...}}") for v in found)
    return found, spec is SweepFile and name in ("tasks", "models", "methods")


def _transform(name: str, made: type[Spec]) -> Variant:
    found = _variant(made)
    more = _variant(labelling.Activations).fields if issubclass(made, Probing) else ()
    return found._replace(tag=name, fields=(*found.fields, *more))


def _specs(annotation: Any) -> Iterator[type[Spec]]:
    """The specs that an annotation names."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, Spec):
            yield annotation
        return
    if get_origin(annotation) is Annotated:
        yield from _specs(get_args(annotation)[0])
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _specs(part)


# -- types and defaults in words ---------------------------------------------------------------------------------------


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        inside = [one for extra in more for one in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        return _words(annotation, [*metadata, *inside])
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _either(map(str, args))
    if origin in (Union, types.UnionType):
        kinds = [
            word
            for part in args
            for word in (map(str, get_args(part)) if get_origin(part) is Literal else [_words(part, metadata)])
            if part is not type(None)
        ]
        return _either([*kinds, *["null"] * (type(None) in args)])
    if origin is tuple and args[-1] is Ellipsis:
        return re.sub("^(whole number|number|text)(?!s)", r"\1s", _words(args[0])).join(["list of ", ""])
    if origin is tuple:
        return f"[{', '.join(map(_words, args))}]"
    if origin is dict:
        values = _words(args[1])
        return f"mapping from {_words(args[0])} to {f'({values})' if ' or ' in values else values}"
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return "mapping"
    return PLAIN.get(annotation, str(annotation)) + _bounds(metadata if annotation in (int, float) else ())


def _either(words: Iterable[str]) -> str:
    listed = list(dict.fromkeys(words))
    return f"{', '.join(listed[:-1])} or {listed[-1]}" if len(listed) > 1 else listed[0]


def _bounds(metadata: Iterable[Any]) -> str:
    """` above 0`, ` from 1`, ` from 0 to 1`, ` from 0 and below 1`."""
    words = {"gt": "above {:g}", "ge": "from {:g}", "lt": "below {:g}", "le": "at most {:g}"}
    found = {name: getattr(one, name) for one in metadata for name in words if getattr(one, name, None) is not None}
    if set(found) == {"ge", "le"}:
        return f" from {found['ge']:g} to {found['le']:g}"
    return "".join(f" {'and ' * (place > 0)}{words[name].format(found[name])}" for place, name in enumerate(found))


def _default(field: FieldInfo) -> str | None:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, Spec):
        named = next((_constant(type(value), name) for name in ("kind", "name") if _constant(type(value), name)), None)
        return named or "{}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    return repr(value) if isinstance(value, str) and not value.strip() else str(value).replace("\n", "\\n")


# -- finding -----------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Fields at one path, `tree` itself where it is empty: several where variants have a field of the same name."""

    path: str
    entries: tuple[Entry, ...]
    variants: tuple[Variant, ...]


def find(path: str) -> Found:
    """What stands at a path, such as `recipe.tune.layers` or `methods.xent.loss`. Raises SpecError."""
    found, free = Found("", (), (tree(),)), False  # free: the next word is a name of the user's own
    words = [word for word in re.split(r"[.\[\]]+", path.strip()) if word]
    for place, word in enumerate(words):
        tagged = tuple(v for v in found.variants if v.word == word)
        entries = tuple(dict.fromkeys(e for v in found.variants for e in v.fields if e.name == word))
        if not (tagged or entries) and any(v.tag.startswith(f"{word}: ") for v in found.variants):
            return found  # `recipe.tune.kind`: which of the mappings it is
        if not (tagged or entries) and (free or word.isdigit()):
            found = Found(f"{found.path}.{word}", () if free else found.entries, found.variants)
            free = False
            continue
        if not (tagged or entries) and place == 2 and words[0] in ("tasks", "models"):
            entries = tuple(dict.fromkeys(e for e in _beside(found.variants) if e.name == word))
        if not (tagged or entries):
            raise SpecError(_unknown(path, found, word, words[:place]))
        inner = tagged or tuple(dict.fromkeys(v for e in entries for v in e.inner))
        found = Found(f"{found.path}.{word}".lstrip("."), () if tagged else entries, inner)
        free = any(entry.named for entry in entries)
    return found


def _beside(variants: tuple[Variant, ...]) -> Iterator[Entry]:
    """Fields of a task's source and format, or of a model's source, that may stand beside its own."""
    for outer in (e for variant in variants for e in variant.fields if e.name in ("source", "format")):
        for variant in outer.inner:
            yield from variant.fields


def _unknown(path: str, found: Found, word: str, before: Sequence[str]) -> str:
    known = [entry.name for variant in found.variants for entry in variant.fields]
    known += [variant.word for variant in found.variants if variant.word]
    where = f"{'.'.join(before)} has no field {word!r}" if before else f"no field {word!r}"
    elsewhere = [place for place, entry in every() if entry.name == word]
    if elsewhere:
        return f"{path}: {where} (there is {_either(elsewhere[:4])})"
    return f"{path}: {where}{nearest(word, known)}"


def every() -> Iterator[tuple[str, Entry]]:
    """Every field with its path, each mapping where it stands least deep."""
    for path, variants, _ in sections():
        for variant in variants:
            tag = f"{variant.word}." if variant.word else ""
            for entry in variant.fields:
                yield f"{path}.{tag}{entry.name}".lstrip("."), entry


def sections() -> list[tuple[str, tuple[Variant, ...], Entry | None]]:
    """(path, mappings that may stand there, the field that holds them), each mapping once, in the order of a sweep."""
    least: dict[tuple[Variant, ...], str] = {}
    left: list[tuple[str, tuple[Variant, ...]]] = [("", (tree(),))]
    while left:  # breadth first: what stands at several places is shown where that is least deep
        path, variants = left.pop(0)
        if variants in least:
            continue
        least[variants] = path
        left += [(below(path, e), e.inner) for v in variants for e in v.fields if e.inner]
    found: list[tuple[str, tuple[Variant, ...], Entry | None]] = []

    def walk(path: str, variants: tuple[Variant, ...], entry: Entry | None) -> None:
        if least[variants] != path:
            return
        found.append((path, variants, entry))
        for inner in (e for variant in variants for e in variant.fields if e.inner):
            walk(below(path, inner), inner.inner, inner)

    walk("", (tree(),), None)
    return found


def below(path: str, entry: Entry) -> str:
    return f"{path}.{entry.name}".lstrip(".") + f".{NAME}" * entry.named


# -- a terminal --------------------------------------------------------------------------------------------------------


def lines(path: str, room: int | None) -> list[str]:
    """What stands at a path, for a terminal of so many columns. Raises SpecError."""
    found = find(path)
    shown: list[str] = []
    for entry in found.entries:
        shown += [*wrapped(f"{found.path}: {_facts(entry)}", "  ", room), *wrapped(f"  {entry.about}", "  ", room)]
    for variant in found.variants:
        heading = " - ".join(part for part in (variant.tag, variant.about) if part)
        shown += [*[""] * bool(shown), *wrapped(heading, "  ", room)] if heading else []
        shown += _table(variant, room)
    deeper = next((e.name for variant in found.variants for e in variant.fields if e.inner), None)
    if deeper is not None:
        asked = f"{found.path}.{deeper}".lstrip(".")
        shown += ["", f"+ has fields of its own (w2s fields {asked}); runtime: changes no number"]
    return shown


def _facts(entry: Entry) -> str:
    default = "required" if entry.default is None else f"default {entry.default}" * bool(entry.default)
    return "; ".join(part for part in (entry.type, default, "runtime" * (not entry.counts)) if part)


def _table(variant: Variant, room: int | None) -> list[str]:
    width = max((len(entry.name) + bool(entry.inner) for entry in variant.fields), default=0)
    text = []
    for entry in variant.fields:
        line = f"  {entry.name + '+' * bool(entry.inner):<{width}}  {_facts(entry)}. {entry.about}"
        text += wrapped(line, " " * (width + 4), room)
    return text
