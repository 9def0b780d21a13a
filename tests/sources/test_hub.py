"""The hub, with its client library replaced by a folder: which files are asked for, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # the client's own matching

from w2s.errors import MachineError
from w2s.sources import HubSource, fetch, is_fetched
from w2s.sources.hub import config_patterns

COMMIT = "c" * 40


class FakeHub:
    """Stands in for huggingface_hub: repositories are dictionaries, a snapshot is a folder named by the commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []

    def snapshot_download(self, **asked):
        self.asked.append(asked)
        wanted = filter_repo_objects(
            self.files, allow_patterns=asked.get("allow_patterns"), ignore_patterns=asked.get("ignore_patterns")
        )
        place = self.folder / asked["repo_type"] / "snapshots" / COMMIT
        for name in wanted:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(self.files[name])
        place.mkdir(parents=True, exist_ok=True)
        return str(place)

    def bar(self, cls, unit: str) -> None:
        """A bar as the client makes and moves it."""
        moving = cls(total=0, initial=0, unit=unit, unit_scale=True, name="x", desc="Downloading", bar_format="{n}")
        moving.total = 4
        moving.update(3)
        moving.refresh()
        moving.close()

    def hf_hub_download(self, repo_id, filename, **_):
        path = self.folder / filename
        path.write_text(self.files[filename])
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    fake.folder.mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return fake


MODEL = {
    "config.json": "{}",
    "model.safetensors": "w",
    "pytorch_model.bin": "pickle",
    "tokenizer.json": "{}",
    "vocab.txt": "a",
    "onnx/model.safetensors": "w",
    "modeling_x.py": "import os",
    "model.Q4.gguf": "g",
}


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_a_model_without_pickles_and_scripts(hub):
    hub.files = MODEL
    source = HubSource(hub="org/model", revision="v1")
    assert not is_fetched(source)
    got = fetch(source)
    assert got.commit == COMMIT
    assert names(got.path) == {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}
    assert hub.asked[0]["repo_id"] == "org/model"
    assert hub.asked[0]["revision"] == "v1"
    assert is_fetched(source)
    assert fetch(source, offline=True) == got
    assert len(hub.asked) == 1  # the same answer until the cache forgets it
    assert not is_fetched(HubSource(hub="org/model", revision="v2"))


def test_progress_is_passed_on_and_nothing_is_drawn(hub, capsys):
    hub.files = MODEL
    seen: list[tuple[str, int, int]] = []
    fetch(HubSource(hub="org/model"), report=lambda *step: seen.append(step))
    for unit in ("B", "it"):
        hub.bar(hub.asked[0]["tqdm_class"], unit)
    assert seen == [("fetch model org/model", 0, 0), ("fetch model org/model", 3, 4)]
    assert capsys.readouterr() == ("", "")


def test_a_gguf_is_asked_for_by_name(hub):
    hub.files = MODEL
    got = fetch(HubSource(hub="org/model"), files=["model.Q4.gguf"])
    assert names(got.path) == {"config.json", "tokenizer.json", "vocab.txt", "model.Q4.gguf"}


def test_pickled_weights_alone_are_refused(hub):
    hub.files = {"config.json": "{}", "pytorch_model.bin": "pickle"}
    with pytest.raises(MachineError, match=r"org/model@main has no safetensors weights"):
        fetch(HubSource(hub="org/model"))
    assert not is_fetched(HubSource(hub="org/model"))


def test_a_file_that_vanished_from_the_hub_cache_is_fetched_again(hub):
    hub.files = MODEL
    got = fetch(HubSource(hub="org/model"))
    (got.path / "model.safetensors").unlink()
    assert not is_fetched(HubSource(hub="org/model"))
    assert (fetch(HubSource(hub="org/model")).path / "model.safetensors").exists()


def test_a_converted_data_set_by_its_configuration(hub):
    hub.files = {"cola/train/0000.parquet": "p", "sst2/train/0000.parquet": "p", "x.py": ""}
    source = HubSource(hub="org/set", revision="refs/convert/parquet", config="cola")
    got = fetch(source, kind="dataset")
    assert names(got.path) == {"cola/train/0000.parquet"}
    assert hub.asked[0]["repo_type"] == "dataset"


def test_a_data_set_with_a_script_only_is_refused(hub):
    hub.files = {"set.py": "import os", "README.md": "x"}
    with pytest.raises(MachineError, match=r"only a loading script.*refs/convert/parquet"):
        fetch(HubSource(hub="org/set"), kind="dataset")


CARD = """---
license: mit
configs:
- config_name: cola
  data_files:
  - split: train
    path: cola/train-*
  - split: test
    path: [cola/test-*, cola/more-*]
- config_name: plain
  data_files: all.csv
---
# A set
"""


def test_a_configuration_by_the_data_set_s_card(hub):
    assert config_patterns(CARD, "cola") == ["cola/train-*", "cola/test-*", "cola/more-*", "README.md"]
    assert config_patterns(CARD, "plain") == ["all.csv", "README.md"]
    assert config_patterns(CARD, "other") == []
    assert config_patterns("no front matter", "cola") == []
    assert config_patterns("---\n- [\n---", "cola") == []
    hub.files = {
        "README.md": CARD,
        "cola/train-0.parquet": "p",
        "cola/test-0.parquet": "p",
        "sst2/train-0.parquet": "p",
    }
    got = fetch(HubSource(hub="org/set", config="cola"), kind="dataset")
    assert names(got.path) == {"README.md", "cola/train-0.parquet", "cola/test-0.parquet"}


def raising(error: Exception) -> Any:
    def snapshot_download(**asked):
        raise error

    return snapshot_download


def http_error(kind: Any) -> Exception:
    """An error of the hub without the response object, whose class differs between versions of the client."""
    error: Exception = kind.__new__(kind, "no")
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: errors.LocalEntryNotFoundError("no"), "cannot be reached.*`w2s prefetch SWEEP`"),
        (lambda: ConnectionError("refused"), "cannot be reached.*`w2s prefetch SWEEP`"),
        (lambda: http_error(errors.RepositoryNotFoundError), "the hub knows no such name"),
        (lambda: http_error(errors.RevisionNotFoundError), "no such revision"),
        (lambda: http_error(errors.GatedRepoError), "is gated: ask for access at https://.*org/model"),
        (lambda: errors.HFValidationError("bad id"), "not a hub id"),
    ],
)
def test_what_the_hub_refuses(hub, monkeypatch, error, said):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error()))
    with pytest.raises(MachineError, match=f"org/model@main.*{said}"):
        fetch(HubSource(hub="org/model"))


def test_other_errors_are_ours_and_not_hidden(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        fetch(HubSource(hub="org/model"))


@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_switched_off_and_not_in_the_cache(hub, monkeypatch, switch):
    if switch == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = []

    def nothing_local(**given):
        asked.append(given["local_files_only"])
        raise errors.LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing_local)
    with pytest.raises(MachineError, match=r"switched off.*`w2s prefetch SWEEP`"):
        fetch(HubSource(hub="org/model"), offline=switch == "argument")
    assert asked == [True]


def test_the_note_of_what_was_fetched_is_json(hub, tmp_path):
    hub.files = MODEL
    fetch(HubSource(hub="org/model"))
    (note,) = (tmp_path / "cache" / "hub").glob("*.json")
    assert json.loads(note.read_text())["commit"] == COMMIT


def test_a_download_cut_short_is_not_taken_for_a_model(hub, monkeypatch, tmp_path):
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    hub.files = {**MODEL, "model.safetensors.index.json": json.dumps(shards), "model-1.safetensors": "w"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MachineError, match=r"org/model@main: model-2.safetensors is not in .*`w2s prefetch SWEEP`"):
        fetch(HubSource(hub="org/model"))
    assert not is_fetched(HubSource(hub="org/model"))
    hub.files["model-2.safetensors"] = "w"
    fetch(HubSource(hub="org/model"))
    assert is_fetched(HubSource(hub="org/model"))


def test_what_the_hub_s_own_cache_holds_is_used_where_ours_cannot_be_written(hub, monkeypatch, tmp_path):
    hub.files = MODEL
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "file"))
    assert fetch(HubSource(hub="org/model"), offline=True).commit == COMMIT
    with pytest.raises(MachineError, match="set W2S_CACHE"):  # else a moved `main` would change a sweep half-way
        fetch(HubSource(hub="org/model"))


def test_the_switch_holds_for_a_data_set_s_card_too(hub, monkeypatch):
    hub.files = {"README.md": CARD, "cola/train-0.parquet": "p"}
    asked = []

    def card(*_, **given):
        asked.append(given["local_files_only"])
        raise errors.LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", card)
    fetch(HubSource(hub="org/set", config="cola"), kind="dataset", offline=True)
    assert asked == [True]
    assert hub.asked[0]["local_files_only"]
