"""Changes to finished artifacts, with manifests that agree where more than hashes is to be looked at; counted reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from w2s.analyze.reading import files
from w2s.disk import file_sha256


def reseal(file: Path) -> None:
    """Have the manifest say that a file is what it is now."""
    folder = next(parent for parent in file.parents if (parent / "manifest.json").exists())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][str(file.relative_to(folder))] = file_sha256(file)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite(file: Path, **columns: Any) -> None:
    """Replace columns of a Parquet file; the manifest agrees."""
    write(file, pa.table({**pq.read_table(file).to_pydict(), **columns}))


def write(file: Path, table: pa.Table) -> None:
    """Replace a Parquet file; the manifest agrees."""
    pq.write_table(table, file)
    reseal(file)


def measured(folder: Path, **values: Any) -> None:
    """Have an artifact's manifest say more."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **values}))


def counted(monkeypatch: Any) -> Callable[[], Counter[tuple[str, str]]]:
    """Called, it begins to count how often each Parquet file of each artifact is read: (digest, name) -> times."""

    def begin() -> Counter[tuple[str, str]]:
        read: Counter[tuple[str, str]] = Counter()
        real = files.content

        def counting(made: files.Artifact, name: str) -> files.Content:
            read[Path(made.folder).name, name] += 1
            return real(made, name)

        monkeypatch.setattr(files, "content", counting)
        return read

    return begin
