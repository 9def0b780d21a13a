"""Artifacts on disk, named by digest: claim, stage, commit, read, verify. Knows nothing of what a step computes.

    ROOT/<kind>/<first two digits>/<digest>/     a finished artifact: files, and manifest.json written last
    ROOT/work/<first two digits>/<digest>/       an unfinished one: claim, log.txt, failure.json

Only create-exclusive and rename are relied on: both are atomic on local disks, NFS (v3 and later) and Lustre, where
advisory locks may be missing or local to one node (see w2s.claim). No hard links, which some shared disks refuse, no
append by several writers, and no file that is written in its final place.

Two digits of fan-out keep a folder under 65,536 entries up to 16 million steps of a kind: 256 folders of some 400 names
for 100,000. Nothing else is one entry per step: `conflicts` is one per second run that fetched something else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.claim import Claim, DiskClock
from w2s.disk import disk_errors, file_sha256, make_folder, read_json, sync, write_json
from w2s.errors import SpecError, StepError

if TYPE_CHECKING:
    import pyarrow

MANIFEST = "manifest.json"


class Store:
    """The artifacts below one folder. Cheap to make; touches the disk only when asked something."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, kind: str, digest: str) -> Path:
        """Where the artifact is, or would be."""
        return self.root / kind / digest[:2] / digest

    def work(self, digest: str) -> Path:
        """Where an unfinished step keeps its claim, log and failure."""
        return self.root / "work" / digest[:2] / digest

    def manifest(self, kind: str, digest: str) -> dict[str, Any] | None:
        """The manifest of a finished artifact; None where there is none that parses and lists its files."""
        found = read_json(self.path(kind, digest) / MANIFEST)
        return found if found is not None and isinstance(found.get("files"), dict) else None

    def has(self, kind: str, digest: str) -> bool:
        """True where a finished artifact can be read."""
        return self.manifest(kind, digest) is not None

    def refresh(self, kind: str, digest: str) -> None:
        """Have the next look at an artifact's place ask the disk, where this host may believe that nothing is there.

        An NFS client that found no file says so, from memory, for up to a minute, while the end of a claim is seen at
        once. It forgets what it believes about a folder when it changes that folder itself. Where nothing can be
        written, what it believes has to do.
        """
        probe = self.path(kind, digest).parent / f".look-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            make_folder(probe.parent)  # the folder itself may be one that is believed absent
            probe.touch(exist_ok=False)
            probe.unlink()

    def failure(self, digest: str) -> dict[str, Any] | None:
        """What stopped the last try of this step: {reason, detail, at}; None where nothing did."""
        return read_json(self.work(digest) / "failure.json")

    def log_path(self, digest: str) -> Path:
        """The log of the step's last unfinished try."""
        return self.work(digest) / "log.txt"

    def require_writable(self) -> None:
        """Raise MachineError before any work where nothing can be written here."""
        probe = self.root / f".writable-{uuid.uuid4().hex}"
        with disk_errors(self.root):
            make_folder(self.root)
            probe.write_bytes(b"")
            probe.unlink()

    def artifacts(self, kind: str | None = None) -> Iterator[tuple[str, str]]:
        """(kind, digest) of all that stands in an artifact's place, finished or damaged, told from names alone."""
        for name in [kind] if kind else _names(self.root):
            if name not in ("work", "conflicts"):
                yield from ((name, digest) for digest in self._digests(name))

    def overview(self) -> Overview:
        """What is finished and what was begun, for telling the states of many steps."""
        begun = set(self._digests("work"))  # listed first: what finishes meanwhile is in both rather than in neither
        return Overview(self, begun, {digest for _, digest in self.artifacts()})

    def _digests(self, folder: str) -> Iterator[str]:
        for shard in _names(self.root / folder):
            yield from _names(self.root / folder / shard)

    def find(self, prefix: str) -> tuple[str, str]:
        """(kind, digest) of the one step, finished or not, whose digest starts with `prefix` (4 digits or more)."""
        if len(prefix) < 4 or set(prefix) - set("0123456789abcdef"):
            raise SpecError(f"digest: expected at least 4 hexadecimal digits (got {prefix!r})")
        hits = {(p.parent.parent.name, p.name) for p in self.root.glob(f"*/{prefix[:2]}/{prefix}*") if p.is_dir()}
        finished = {hit for hit in hits if hit[0] != "work"}
        hits = finished | {hit for hit in hits if hit[1] not in {digest for _, digest in finished}}
        if len(hits) == 1:
            return hits.pop()
        if not hits:
            raise SpecError(
                f"digest: nothing in {self.root} starts with {prefix!r}; `w2s plan YAML` lists the steps of a sweep"
            )
        names = ", ".join(sorted(digest[:16] for _, digest in hits)[:6])
        raise SpecError(f"digest: {prefix!r} fits {len(hits)} steps ({names}); give more digits")

    def read_table(self, kind: str, digest: str, name: str, columns: list[str] | None = None) -> pyarrow.Table:
        """A Parquet file of a finished artifact, only the columns asked for. Raises StepError where it is damaged."""
        import pyarrow.parquet

        file = self.path(kind, digest) / name
        if not self.has(kind, digest):
            raise StepError(f"{kind} {digest[:12]} is not finished in {self.root}")
        try:
            return pyarrow.parquet.read_table(file, columns=columns, partitioning=None)
        except (OSError, pyarrow.ArrowException) as error:
            raise StepError(f"{file}: damaged ({error}); remove the folder {file.parent} and run again") from None

    @contextlib.contextmanager
    def staging(self, kind: str, digest: str) -> Iterator[Staged]:
        """A folder beside the artifact's place; what is not committed when the block ends is removed."""
        place = self.path(kind, digest)
        with disk_errors(place):
            make_folder(place.parent)
            staged = Staged(self, kind, digest, place.parent / f".{digest}-{uuid.uuid4().hex}")
            staged.folder.mkdir()
        try:
            with disk_errors(place, below=self.root):
                yield staged
        finally:
            shutil.rmtree(staged.folder, ignore_errors=True)

    def claim(self, digest: str) -> Claim | None:
        """The right to work on a step, or None while somebody living holds it.

        Whoever gets it finds the artifact in its place again where a writer was killed while replacing it.
        """
        work = self.work(digest)
        with disk_errors(work):
            make_folder(work)
            claim = Claim(work / "claim.json")
            if not claim.take():
                return None
        for aside in self.root.glob(f"*/{digest[:2]}/.{digest}-old-*"):
            self._put_back(aside.parent.parent.name, digest)
        return claim

    def is_claimed(self, digest: str, clock: DiskClock | None = None) -> bool:
        """True while somebody living works on the step. `clock`: of the disk, where many steps are asked about."""
        return Claim(self.work(digest) / "claim.json").holder_lives(clock)

    def fail(self, digest: str, reason: str, detail: str = "") -> None:
        """Record why the step stopped; the log stays beside it."""
        work = self.work(digest)
        with disk_errors(work):
            make_folder(work)
            write_json(work / "failure.json", {"reason": reason, "detail": detail, "at": time.time()})

    def clear_work(self, kind: str, digest: str) -> None:
        """Forget what an unfinished try left: the failure, the log, staged folders of dead writers.

        An artifact that was moved aside to be replaced is put back where nothing came into its place.
        """
        self._put_back(kind, digest)
        shutil.rmtree(self.work(digest), ignore_errors=True)
        place = self.path(kind, digest)
        for left in place.parent.glob(f".{digest}-*"):
            if place.exists() or not left.name.startswith(f".{digest}-old-"):
                shutil.rmtree(left, ignore_errors=True)

    def _put_back(self, kind: str, digest: str) -> None:
        place = self.path(kind, digest)
        for aside in sorted(place.parent.glob(f".{digest}-old-*")):
            if place.exists():
                return
            files = (read_json(aside / MANIFEST) or {}).get("files")
            # One that was already being removed lacks files; a damaged one has no manifest.
            if isinstance(files, dict) and all((aside / name).is_file() for name in files):
                with contextlib.suppress(OSError):  # the next who comes tries again
                    aside.rename(place)

    def checkpoints(self, digest: str) -> Path:
        """Where a training that takes long leaves what it has so far; gone when the artifact is there."""
        return self.work(digest) / "checkpoints"

    def drop_checkpoints(self, digest: str) -> int:
        """Remove a step's checkpoints, so that it starts from its beginning; returns how many there were."""
        dropped = len(list(self.checkpoints(digest).glob("step-*")))
        shutil.rmtree(self.checkpoints(digest), ignore_errors=True)
        return dropped

    def tidy(self, kind: str, digest: str) -> None:
        """Forget what is left of the work on a finished step whose worker was killed just after it had committed."""
        if self.work(digest).is_dir() and not self.is_claimed(digest):
            self.clear_work(kind, digest)

    def damage(self, kind: str, digest: str) -> list[str]:
        """What is wrong with an artifact, a line each: unreadable manifest, missing, changed or unlisted files."""
        place, manifest = self.path(kind, digest), self.manifest(kind, digest)
        if manifest is None:
            return [f"{place}: no readable {MANIFEST}"]
        there = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} - {MANIFEST}
        listed: dict[str, str] = manifest["files"]
        lines = [f"{place / name}: missing" for name in sorted(set(listed) - there)]
        lines += [f"{place / name}: not in the manifest" for name in sorted(there - set(listed))]
        if (manifest.get("kind"), manifest.get("digest")) != (kind, digest):
            lines.append(f"{place / MANIFEST}: belongs to {manifest.get('kind')} {manifest.get('digest')}")
        for name in sorted(there & set(listed)):
            try:
                if file_sha256(place / name) != listed[name]:
                    lines.append(f"{place / name}: content differs from the manifest")
            except OSError as error:
                lines.append(f"{place / name}: cannot be read ({error.strerror})")
        return lines

    def conflicts(self) -> list[dict[str, Any]]:
        """Second runs of one digest that used another commit of a fetched source than the kept run."""
        found = (read_json(path) for path in sorted((self.root / "conflicts").glob("*.json")))
        return [record for record in found if record is not None]


class Overview:
    """A store at one moment, told from listings alone; only of steps in `begun` are claims and failures read.

    Listing the 256 folders of a kind costs a shared disk some hundred requests; looking at each of 100,000 manifests
    costs it 100,000, which is 30 s at 0.3 ms each. The listing says the same: an artifact is renamed into its place
    with its manifest inside, so what stands there is finished unless somebody damaged it afterwards, which
    `w2s verify` finds. Whoever goes on to work on a step, or to read one, asks `Store.manifest`. On NFS a listing may
    be a minute old.
    """

    def __init__(self, store: Store, begun: set[str], finished: set[str]) -> None:
        self.begun, self.finished = begun, finished
        self._store, self._clock = store, DiskClock(store.root / "work")

    def is_claimed(self, digest: str) -> bool:
        """True while somebody living works on the step."""
        return digest in self.begun and self._store.is_claimed(digest, self._clock)

    def is_claimed_here(self, digest: str) -> bool:
        """True while a living process of this host works on the step."""
        return self.is_claimed(digest) and Claim(self._store.work(digest) / "claim.json").is_of_this_host()

    def failure(self, digest: str) -> dict[str, Any] | None:
        """What stopped the last try of this step, as `Store.failure` has it."""
        return self._store.failure(digest) if digest in self.begun else None


class Staged:
    """An artifact being written. `folder` takes the files; `commit` makes them the artifact, all or nothing."""

    def __init__(self, store: Store, kind: str, digest: str, folder: Path) -> None:
        self.store, self.kind, self.digest, self.folder = store, kind, digest, folder

    def commit(self, manifest: dict[str, Any], *, replace: bool = False) -> Path:
        """Hash and sync every file, write the manifest last, rename into place; the first finished writer wins.

        `replace` puts this artifact in the place of a finished one (the same numbers, with more files).
        """
        place = self.store.path(self.kind, self.digest)
        with disk_errors(place):
            names = sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())
            for path in (self.folder, *self.folder.rglob("*")):
                sync(path)
            files = {name: file_sha256(self.folder / name) for name in names}
            record = {"kind": self.kind, "digest": self.digest, **manifest, "files": files}
            write_json(self.folder / MANIFEST, record)
            sync(self.folder)
            self._settle(place, record, replace)
            sync(place.parent)
        return place

    def _settle(self, place: Path, record: dict[str, Any], replace: bool) -> None:
        kept = self.store.manifest(self.kind, self.digest)
        if kept is not None and _commits(kept) != _commits(record):
            conflict = {"digest": self.digest, "kept": kept.get("fetched"), "second": record.get("fetched")}
            (self.store.root / "conflicts").mkdir(exist_ok=True)
            write_json(self.store.root / "conflicts" / f"{self.digest[:16]}-{uuid.uuid4().hex[:8]}.json", conflict)
        if kept is not None and not replace:
            return
        aside = None
        if place.exists():  # damaged, or to be replaced
            aside = place.parent / f".{self.digest}-old-{uuid.uuid4().hex}"
            with contextlib.suppress(FileNotFoundError):  # another writer was faster in putting it aside
                place.rename(aside)  # removed last: a process that is killed meanwhile leaves one or the other
        try:
            self.folder.rename(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                self.store._put_back(self.kind, self.digest)
                raise
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _commits(manifest: dict[str, Any]) -> list[Any]:
    """The commits that a run fetched; where a local source lies is no part of what it is."""
    return [item.get("commit") for item in manifest.get("fetched") or []]


def _names(folder: Path) -> list[str]:
    """What lies in a folder, sorted, less what is hidden; nothing where there is no folder. No entry is looked at."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []
