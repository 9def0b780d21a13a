"""Hub data sets as they lie on disk after fetching: a converted Parquet branch, and plain files with a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from w2s.errors import SpecError
from w2s.tasks import records
from w2s.tasks.records import open_records
from w2s.tasks.registry import task_of
from w2s.tasks.task import TaskSpec

CARD = """---
configs:
- config_name: toy
  data_files:
  - split: train
    path: toy/train-*.parquet
  - split: test
    path: toy/test-*.parquet
---
"""


def rows(n: int, start: int = 0) -> pyarrow.Table:
    return pyarrow.Table.from_pylist([{"sentence": f"s{i}", "label": i % 2} for i in range(start, start + n)])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder that a fetched snapshot is; the hub's client only says where it is."""
    folder = tmp_path / "snapshots" / ("c" * 40)
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **_: str(folder))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(folder / "README.md"))
    return folder


def task(**source: Any) -> TaskSpec:
    fields = {"source": {"hub": "org/toy", **source}, "text": "sentence", "label": "label", "splits": {"test": "test"}}
    return task_of(fields, Path(), "t")


def write(table: pyarrow.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)


def test_a_converted_branch(hub):
    write(rows(3), hub / "toy" / "train" / "0000.parquet")
    write(rows(2, 3), hub / "toy" / "train" / "0001.parquet")
    write(rows(1, 9), hub / "toy" / "test" / "0000.parquet")
    opened = open_records(task(revision="refs/convert/parquet", config="toy"))
    assert [record["sentence"] for _, record in opened.pool] == ["s0", "s1", "s2", "s3", "s4"]
    assert opened.test is not None
    assert list(opened.test) == [(1, {"sentence": "s9", "label": 1})]
    assert opened.fetched[0]["commit"] == "c" * 40
    # One configuration only: it need not be named. A wrong one, and a wrong split, name those there are.
    assert len(list(open_records(task(revision="refs/convert/parquet")).pool)) == 5
    with pytest.raises(SpecError, match=r"give config, one of toy \(got 'tox'\)"):
        list(open_records(task(revision="refs/convert/parquet", config="tox")).pool)
    spec = task(revision="refs/convert/parquet", config="toy").model_copy(update={"sample": 2})
    assert [record["sentence"] for _, record in open_records(spec).pool] == ["s0", "s2"]


def test_a_wrong_split_names_those_there_are(hub):
    write(rows(3), hub / "toy" / "train" / "0000.parquet")
    with pytest.raises(SpecError, match=r"no split 'test' \(there are train\)"):
        open_records(task(revision="refs/convert/parquet", config="toy"))


def test_plain_files_as_the_card_describes_them(hub, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()
    write(rows(5), hub / "toy" / "train-0.parquet")
    write(rows(1, 9), hub / "toy" / "test-0.parquet")
    opened = open_records(task(config="toy"))
    assert list(opened.pool) == [(i + 1, {"sentence": f"s{i}", "label": i % 2}) for i in range(5)]
    spec = task(config="toy").model_copy(update={"sample": 2})
    assert [record["sentence"] for _, record in open_records(spec).pool] == ["s0", "s2"]
    with pytest.raises(SpecError, match="org/toy: cannot read the split 'dev'"):
        open_records(task(config="toy").model_copy(update={"splits": spec.splits.model_copy(update={"pool": "dev"})}))


def test_a_folder_of_datasets_that_cannot_be_written_is_not_needed(hub, tmp_path, monkeypatch):
    """As where compute nodes see HF_HOME read-only. The folder taken instead goes with the process."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(records.os, "access", lambda path, mode: False)
    monkeypatch.setattr(records.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "own"))
    records._arrow_cache.cache_clear()
    write(rows(5), hub / "toy" / "train-0.parquet")
    write(rows(1, 9), hub / "toy" / "test-0.parquet")
    try:
        assert len(list(open_records(task(config="toy")).pool)) == 5
    finally:
        records._arrow_cache.cache_clear()
    assert (tmp_path / "own").is_dir()
    assert not (tmp_path / "datasets").exists()
