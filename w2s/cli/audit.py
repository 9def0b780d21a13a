"""A store in, what is wrong with it out: changed files, names that do not fit, one source fetched at two commits.

Copies of plugins beside the store count, too: a step that uses one can only be run again, or label, by the same text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, get_args

from w2s import plugins
from w2s.errors import SpecError
from w2s.identity import Spec, validated
from w2s.spec import Step
from w2s.store import Store

SPECS: dict[str, type[Spec]] = {s.model_fields["kind"].default: s for s in get_args(get_args(Step)[0])}


def audit(store: Store, prefix: str | None = None) -> tuple[int, list[str]]:
    """(artifacts checked, problems): one artifact by the first digits of its digest, or all of them and their sources.

    Raises SpecError where the step is not finished.
    """
    if prefix is not None:
        kind, digest = store.find(prefix)
        if kind == "work":
            raise SpecError(
                f"digest: {digest[:12]} is not finished, so there is nothing to check; see `w2s show {digest[:12]}`"
            )
        return 1, [*_artifact(store, kind, digest), *_copies(store, _plugins(store, kind, digest))]
    problems: list[str] = []
    codes: dict[str, str] = {}  # of plugins, with the name of a file that had it
    commits: dict[str, dict[str, str]] = {}  # source -> commit -> a digest that used it
    checked = 0
    for kind, digest in store.artifacts():
        checked += 1
        problems += _artifact(store, kind, digest)
        codes.update(_plugins(store, kind, digest))
        for item in (store.manifest(kind, digest) or {}).get("fetched", []):
            if item.get("commit"):
                source = json.dumps(item["source"], sort_keys=True)
                commits.setdefault(source, {}).setdefault(str(item["commit"]), digest)
    for conflict in store.conflicts():
        problems.append(
            f"{conflict['digest'][:12]}: a second run fetched other commits than the kept one "
            f"(kept {_commits(conflict['kept'])}, second {_commits(conflict['second'])})"
        )
    for source, used in commits.items():
        if len(used) > 1:
            by = ", ".join(f"{commit[:12]} in {digest[:12]}" for commit, digest in used.items())
            problems.append(f"{source}: different commits were used ({by}); pin `revision` to one of them")
    there = store.root.parent / plugins.COPIES
    codes.update({path.name: codes.get(path.name, "") for path in sorted(there.glob("*")) if path.is_dir()})
    return checked, problems + _copies(store, codes)


def _plugins(store: Store, kind: str, digest: str) -> dict[str, str]:
    """The plugins that a step used, by the hash of their file: its name. None of a step that cannot be read."""
    try:
        spec = validated(SPECS[kind], (store.manifest(kind, digest) or {}).get("spec"))
    except (KeyError, SpecError):
        return {}
    return {use.code: use.file for use in plugins.uses_of(spec)}


def _copies(store: Store, codes: Mapping[str, str]) -> list[str]:
    """What is wrong with the copies of plugins of these hashes."""
    problems = []
    for code, name in codes.items():
        folder = store.root.parent / plugins.COPIES / code
        files = sorted(folder.glob("*.py"))
        if not files:
            file = f"the file {name} that has this SHA-256" if name else "the file that has this SHA-256, or remove it"
            problems.append(f"{folder}: holds no copy of a plugin; put {file} there")
        problems += [
            f"{file}: its SHA-256 is not {code[:12]}..., the name of its folder; remove the folder and run again"
            for file in files
            if hashlib.sha256(file.read_bytes()).hexdigest() != code
        ]
    return problems


def _artifact(store: Store, kind: str, digest: str) -> list[str]:
    problems = store.damage(kind, digest)
    manifest = store.manifest(kind, digest)
    return problems if manifest is None else problems + _misnamed(store, kind, digest, manifest)


def _misnamed(store: Store, kind: str, digest: str, manifest: Mapping[str, Any]) -> list[str]:
    """A spec that no longer gives the digest it is stored under: the manifest, or the code, changed meaning."""
    if kind not in SPECS:
        return []
    try:
        made = validated(SPECS[kind], manifest.get("spec")).digest()
    except SpecError as error:
        return [f"{store.path(kind, digest)}: its spec is not one that this version knows ({error.problems[0]})"]
    return [] if made == digest else [f"{store.path(kind, digest)}: its spec has the digest {made[:12]}, not its name"]


def _commits(fetched: Any) -> str:
    found = [str(item.get("commit"))[:12] for item in fetched or [] if isinstance(item, dict)]
    return ", ".join(found) or "none"
