"""A source in, its bytes on this machine out; refuses to run or install anything it fetched.

The control half asks `resolve` and `is_fetched`, which touch no network; `fetch` does, unless HF_HUB_OFFLINE says no.
What is on this machine is found without a lock and without writing, so many machines may share one cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from w2s.errors import MachineError, SpecError
from w2s.identity import nearest
from w2s.progress import Report
from w2s.sources.cache import content_sha256, is_offline
from w2s.sources.spec import ArchiveSource, FileSource, HubSource, PluginSource, Source

HubKind = Literal["model", "dataset"]
AnySource = TypeVar("AnySource", bound="ArchiveSource | HubSource | FileSource | PluginSource")


@dataclass(frozen=True)
class Fetched:
    """Where a source's file or folder is on this machine, and the hub commit that was really used."""

    path: Path
    commit: str | None = None


def fetch(
    source: Source,
    *,
    offline: bool = False,
    report: Report | None = None,
    kind: HubKind = "model",
    files: Sequence[str] = (),
) -> Fetched:
    """The source's file or folder: downloaded if needed, hash-checked, cached.

    `kind` and `files` matter to hub sources only: what the id names, and files wanted beside the usual ones (a GGUF).
    `offline`, or HF_HUB_OFFLINE: what is not on this machine is an error at once.
    Raises MachineError where it cannot be had, SpecError where the archive has no such file.
    """
    offline = offline or is_offline()
    if isinstance(source, ArchiveSource):
        from w2s.sources.archive import fetch_archive

        return Fetched(fetch_archive(source, offline, report))
    if isinstance(source, HubSource):
        from w2s.sources.hub import fetch_hub

        return Fetched(*fetch_hub(source, kind, tuple(files), offline, report))
    if isinstance(source, PluginSource):  # made where it is read
        return Fetched(Path(source.file))
    return Fetched(_local(source))


def is_fetched(source: Source, *, kind: HubKind = "model", files: Sequence[str] = ()) -> bool:
    """True where `fetch` needs no network."""
    if isinstance(source, ArchiveSource):
        from w2s.sources.archive import is_here

        return is_here(source)
    if isinstance(source, HubSource):
        from w2s.sources.hub import here

        return here(source, kind, tuple(files)) is not None
    return isinstance(source, PluginSource) or Path(source.file).exists()


def resolve(source: AnySource, base: Path, where: str) -> AnySource:
    """A FileSource with its path absolute and its content hashed; other sources as they are.

    A relative path is looked up in `base` (the folder of the YAML), then in the working folder. Raises SpecError
    where there is nothing, or something else than the `sha256` that is written beside it.
    """
    if not isinstance(source, FileSource):
        return source
    path = find_file(source.file, base, where)
    try:
        sha256 = content_sha256(path)
    except OSError as error:
        raise SpecError(f"{where}: {path} cannot be read: {error.strerror}") from None
    if source.sha256 is not None and source.sha256 != sha256:
        raise SpecError(f"{where}: {path} has the content hash {sha256}, not the sha256 given, {source.sha256}")
    return source.model_copy(update={"file": str(path), "sha256": sha256})


def find_file(name: str, base: Path, where: str) -> Path:
    """The absolute path of an existing file or folder. Raises SpecError with the places looked in."""
    given = Path(name).expanduser()
    places = [given] if given.is_absolute() else list(dict.fromkeys([base.absolute() / given, Path.cwd() / given]))
    for place in places:
        if place.exists():
            return place.absolute()
    folder = places[0].parent
    beside = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    hint = nearest(given.name, beside) if beside else ""
    looked = ", ".join(str(p.parent) for p in places)
    raise SpecError(f"{where}: no such file or folder {name!r}{hint if 'mean' in hint else ''} (looked in {looked})")


def _local(source: FileSource) -> Path:
    path = Path(source.file)
    if not path.exists():
        raise MachineError(f"{path}: no longer there; put it back, or plan again with the new path")
    if source.sha256 is not None:
        now = content_sha256(path)
        if now != source.sha256:
            raise MachineError(
                f"{path}: changed since it was planned (content hash {now[:12]}..., planned {source.sha256[:12]}...); "
                "run the command again: the new content is a new step"
            )
    return path
