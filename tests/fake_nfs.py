"""How an NFS client looks at a store: it believes an artifact absent until it makes a file in that folder itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from w2s import store
from w2s.disk import read_json


def mount(monkeypatch: Any) -> None:
    """From here on this process sees every store so. A real client believes it for up to a minute only."""
    absent: set[Path] = set()
    touch = Path.touch

    def read(path: Path) -> dict[str, Any] | None:
        found = None if path in absent else read_json(path)
        if found is None and path.name == store.MANIFEST:
            absent.add(path)
        return found

    def make(path: Path, **more: Any) -> None:
        touch(path, **more)
        absent.difference_update([known for known in absent if known.parent.parent == path.parent])

    monkeypatch.setattr(store, "read_json", read)
    monkeypatch.setattr(Path, "touch", make)
