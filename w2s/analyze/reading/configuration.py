"""Manifests of finished steps in, what was asked of them out, field by field; a step without a manifest asked nothing.

What may change a number (identity) and what must not (runtime) are told apart, as for digests. The seed and the digests
of parents are left out: two runs of one configuration differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from w2s.errors import SpecError
from w2s.identity import Spec, canonical_json, sha256_of, validated
from w2s.spec import FeaturesSpec, LabelsSpec, LanguageSpec, MaterializeSpec, TrainSpec
from w2s.store import Store

SPECS: Mapping[str, type[Spec]] = {
    "materialize": MaterializeSpec,
    "features": FeaturesSpec,
    "language": LanguageSpec,
    "labels": LabelsSpec,
    "train": TrainSpec,
}
PARENTS = ("data", "labels.supervisor", "labels.labels", "source.supervisors", "source.like", "source.by")
APART = ("kind", "seed", "start", *PARENTS)
RUNTIME = ("engine", "keep_weights", "model.name", "model.params", "model.depth")


@dataclass(frozen=True)
class Configuration:
    """What was asked of one step; values of plain data by their paths, such as `recipe.lr`."""

    identity: dict[str, Any]
    runtime: dict[str, Any]

    @property
    def text(self) -> str:
        """Equal for equal configurations, whatever their runtime settings."""
        return canonical_json(self.identity)


def read(store: Store, kind: str, digest: str) -> Configuration | None:
    """What was asked of a finished step; None where it is not finished, or its manifest says nothing of it."""
    spec = (store.manifest(kind, digest) or {}).get("spec")
    if not isinstance(spec, dict):
        return None
    found = configuration(kind, spec)
    return Configuration({**found.identity, **_labels(store, spec), **_starts(store, spec)}, found.runtime)


def _starts(store: Store, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A hash of what was asked of each step that it begins from, which are others for each seed."""
    steps = spec.get("start") or ()
    return {f"start[{place}]": _hash(store, one["kind"], one["step"]) for place, one in enumerate(steps)}


def _labels(store: Store, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the labels of a student were asked to be, where they are not just a weak model's: it has a key of its own.

    A supervisor that is a student itself, and each one of a labels step, count by a hash of what was asked of them.
    """
    given = spec.get("labels")
    if not isinstance(given, Mapping) or given.get("kind") not in ("made", "weak"):
        return {}
    if given["kind"] == "weak":
        above = read(store, "train", str(given.get("supervisor")))
        kind = above.identity.get("labels.kind", "truth") if above else None
        if above is None or kind not in ("truth", "none"):
            return _hashes(store, [str(given.get("supervisor"))])
        # Which model, on which split, since it may be another than the pair's: how it is trained is its own key's.
        named = {path: v for path, v in above.identity.items() if path == "split" or _is_below(path, ("model",))}
        return {"labels.given_by": sha256_of(named)[:12]}
    made = read(store, "labels", str(given.get("labels")))
    parents = (store.manifest("labels", str(given.get("labels"))) or {}).get("parents") or ()
    own = {f"labels.{path}": value for path, value in (made.identity if made else {}).items()}
    transforms = own.get("labels.transforms")
    features = set()
    if isinstance(transforms, list):
        features = {digest for transform in transforms for digest in transform.get("features", ())}
        own["labels.transforms"] = [_transform(store, transform) for transform in transforms]
    return {**own, **_hashes(store, [parent for parent in parents[1:] if parent not in features])}


def _transform(store: Store, transform: Mapping[str, Any]) -> dict[str, Any]:
    """With a hash of what was asked of the steps that it names, which are others for each seed or task."""
    named: dict[str, Any] = {}
    if "like" in transform:
        named["like"] = _hash(store, "train", transform["like"])
    if "features" in transform:
        named["features"] = [_hash(store, "features", digest) for digest in transform["features"]]
    return {**transform, **named}


def _hashes(store: Store, supervisors: Sequence[str]) -> dict[str, Any]:
    return {f"labels.supervisors[{place}]": _hash(store, "train", digest) for place, digest in enumerate(supervisors)}


def _hash(store: Store, kind: str, digest: Any) -> str | None:
    asked = None if digest is None else read(store, kind, str(digest))
    return None if asked is None else sha256_of(asked.identity)[:12]


def configuration(kind: str, spec: Mapping[str, Any]) -> Configuration:
    """A step's spec, as its manifest holds it, in two parts. A spec of an older version, which is no longer read as
    one, is compared as it was written."""
    try:
        kept = flat(validated(SPECS[kind], spec).identity())
    except (SpecError, KeyError):
        kept = {path: value for path, value in flat(spec).items() if not _is_below(path, RUNTIME)}
    rest = {path: value for path, value in flat(spec).items() if path not in kept}
    parts = ({p: _without_parents(v) for p, v in part.items() if not _is_below(p, APART)} for part in (kept, rest))
    return Configuration(*parts)


def _without_parents(value: Any) -> Any:
    """Transforms of labels without the train steps that they follow."""
    if not isinstance(value, list):
        return value
    return [{k: v for k, v in one.items() if k != "like"} if isinstance(one, Mapping) else one for one in value]


def flat(data: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one, with the paths of their values as keys; a list is a value."""
    if not isinstance(data, Mapping) or not data:
        return {path: data}
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flat(value, f"{path}.{key}" if path else str(key))
    return found


def changed(first: Any, second: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """The paths at which two (nested) mappings differ, with both values; ABSENT where there is none.

    What only one of them has is one change, however much is in it.
    """
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return {} if _same(first, second) else {path: (first, second)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*first, *(key for key in second if key not in first)]:
        found |= changed(first.get(key, ABSENT), second.get(key, ABSENT), f"{path}.{key}" if path else str(key))
    return found


class _Absent:
    """Stands for a value that is not there; `None` is one that is."""

    def __repr__(self) -> str:
        return "not set"


ABSENT = _Absent()


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) is isinstance(b, bool) and bool(a == b)  # 1 and 1.0 are one number, true is none


def _is_below(path: str, heads: tuple[str, ...]) -> bool:
    return any(path == head or path.startswith(f"{head}.") for head in heads)
