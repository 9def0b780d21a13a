"""A hub id and revision in, a folder of its files and the commit out; refuses pickled weights and scripts.

What was fetched stays the answer until the cache forgets it: a moved `main` changes no run half-way through a sweep.
It is found by a note in our cache, without a request, a lock or a change on disk; while files are fetched, the hub's
client takes locks of its own in HF_HOME.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.disk import read_json, write_json
from w2s.errors import MachineError
from w2s.sources.cache import cache_dir, cache_errors
from w2s.sources.spec import HubSource

if TYPE_CHECKING:
    from w2s.progress import Report
    from w2s.sources.fetch import HubKind

# Weights as safetensors only, and what a tokenizer and a config need. No *.bin, *.pt, *.h5: pickle may run code.
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
DATA_FILES = ("*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv", "*.arrow", "*.gz", "*.zst", "*.xz", "*.bz2", "*.md")
CONVERTED = "refs/convert/"  # branches that the hub itself fills with Parquet files: <config>/<split>/0000.parquet
WEIGHTS = (".safetensors", ".gguf")


def here(source: HubSource, kind: HubKind, files: tuple[str, ...]) -> tuple[Path, str] | None:
    """Folder and commit of what was fetched before; None where it was not, or is gone."""
    note = read_json(_note(source, kind, files))
    if note is None or not Path(note["path"]).is_dir():
        return None
    folder = Path(note["path"])
    return (folder, str(note["commit"])) if all((folder / name).exists() for name in note["files"]) else None


def fetch_hub(
    source: HubSource, kind: HubKind, files: tuple[str, ...], offline: bool, report: Report | None
) -> tuple[Path, str]:
    """Folder and commit of a repository's files; `files` names extra ones, such as a GGUF. Raises MachineError."""
    if found := here(source, kind, files):
        return found
    where = f"{source.hub}@{source.revision}"
    if report is not None and not offline:
        report(f"fetch {kind} {source.hub}", 0, 0)
    folder = _download(source, kind, files, where, offline, report)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    if kind == "model" and not any(name.endswith(WEIGHTS) for name in names):
        raise MachineError(
            f"hub model {where} has no safetensors weights, and pickled ones are never loaded; "
            "choose a revision with safetensors, or convert the weights and give the local folder"
        )
    if kind == "dataset" and not any(fnmatch.fnmatch(name, p) for name in names for p in DATA_FILES[:-1]):
        raise MachineError(
            f"hub data set {where} has no data files (parquet, json, csv), only a loading script, and scripts are "
            "never run; try `revision: refs/convert/parquet`"
        )
    if lacking := _lacking(folder):
        raise MachineError(
            f"hub model {where}: {lacking} is not in {folder}; "
            "run `w2s prefetch SWEEP` on a machine with network and the same HF_HOME and W2S_CACHE"
        )
    note = _note(source, kind, files)
    # What was there without our note stays usable where the note cannot be written.
    with contextlib.suppress(OSError) if offline else cache_errors(note):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"path": str(folder), "commit": folder.name, "files": names, "source": source.hub})
    return folder, folder.name


def _lacking(folder: Path) -> str | None:
    """A file of weights that the folder's index names and that is not there, as after a download cut short."""
    index = read_json(folder / "model.safetensors.index.json") or {}
    return next(
        (name for name in sorted(set(index.get("weight_map", {}).values())) if not (folder / name).exists()), None
    )


def _download(
    source: HubSource, kind: HubKind, files: tuple[str, ...], where: str, offline: bool, report: Report | None
) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    wanted: dict[str, Any] = {"repo_id": source.hub, "repo_type": kind, "revision": source.revision}
    wanted["tqdm_class"] = _bar(f"fetch {kind} {source.hub}", report)
    wanted["local_files_only"] = offline  # what the hub's own cache already holds is as good
    site = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{source.hub}"
    try:
        if kind == "dataset":
            wanted["allow_patterns"] = _data_patterns(source, hub, offline)
        elif files:  # the GGUF holds the weights: no need for the others
            wanted["allow_patterns"] = [*files, *(p for p in MODEL_FILES if p != "*.safetensors")]
        else:
            wanted["allow_patterns"] = list(MODEL_FILES)
            wanted["ignore_patterns"] = ["*/*"]  # copies of the weights for other programs
        return Path(hub.snapshot_download(**wanted))
    except errors.GatedRepoError:
        raise MachineError(f"hub {kind} {where} is gated: ask for access at {site}, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise MachineError(
            f"hub {kind} {where}: the hub knows no such name (or it is private: `hf auth login`); check {site}"
        ) from None
    except errors.RevisionNotFoundError:
        raise MachineError(f"hub {kind} {where}: no such revision; see {site}/tree/main") from None
    except errors.HFValidationError as error:
        raise MachineError(f"hub {kind} {where}: not a hub id: {error}") from None
    except Exception as error:
        if not _is_network(error):
            raise
        state = "is switched off (HF_HUB_OFFLINE)" if offline else "cannot be reached"
        raise MachineError(
            f"hub {kind} {where} is not in the cache, and the hub {state}; "
            "run `w2s prefetch SWEEP` on a machine with network and the same HF_HOME and W2S_CACHE"
        ) from None


def _bar(title: str, report: Report | None) -> Any:
    """A progress bar for the hub's client that draws nothing and passes the bytes on to `report`."""
    import io

    from tqdm.auto import tqdm  # type: ignore[import-untyped]  # published without types

    class Bar(tqdm):  # type: ignore[misc]  # untyped
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)  # the client's own addition
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> Any:
            moved = super().update(n)
            if report is not None and self.unit == "B":
                report(title, int(self.n), int(self.total or 0))
            return moved

    return Bar


def _is_network(error: BaseException) -> bool:
    """Whichever client huggingface_hub uses this year, its network errors carry one of these names."""
    from huggingface_hub import errors

    if isinstance(error, (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)):
        return True
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"OfflineModeIsEnabled", "TransportError", "RequestException", "HTTPError", "RequestError"})


def _data_patterns(source: HubSource, hub: Any, offline: bool) -> list[str]:
    if source.revision.startswith(CONVERTED):
        return [f"{source.config}/*.parquet"] if source.config else ["*.parquet"]
    if source.config is None:
        return list(DATA_FILES)
    from huggingface_hub.errors import EntryNotFoundError

    try:
        card = hub.hf_hub_download(
            source.hub, "README.md", repo_type="dataset", revision=source.revision, local_files_only=offline
        )
    except EntryNotFoundError:  # or, offline, none in the hub's own cache
        return list(DATA_FILES)
    return config_patterns(Path(card).read_text(encoding="utf-8"), source.config) or list(DATA_FILES)


def config_patterns(card: str, config: str) -> list[str]:
    """The files of one configuration, as a data set's card lists them; empty where it lists none."""
    import yaml

    if not card.startswith("---"):
        return []
    try:
        head = yaml.safe_load(card.split("---", 2)[1])
    except (yaml.YAMLError, IndexError):
        return []
    rows = head.get("configs") if isinstance(head, dict) else None
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and row.get("config_name") == config:
            files = row.get("data_files")
            files = [{"path": files}] if isinstance(files, str) else files
            paths = [f.get("path") if isinstance(f, dict) else f for f in files or []]
            flat = [p for path in paths for p in (path if isinstance(path, list) else [path]) if isinstance(p, str)]
            return [*flat, "README.md"] if flat else []
    return []


def _note(source: HubSource, kind: HubKind, files: tuple[str, ...]) -> Path:
    key = "\0".join([kind, source.hub, source.revision, source.config or "", *files])
    return cache_dir() / "hub" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
