"""Names, hub ids, folders and GGUF files to model specs; their files on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from w2s import models
from w2s.errors import MachineError, SpecError
from w2s.models import model_of, weights
from w2s.sources import ArchiveSource, FileSource, HubSource

HERE = Path()


def problems(value: Any, base: Path = HERE) -> list[str]:
    with pytest.raises(SpecError) as caught:
        model_of(value, base, "models.m")
    return caught.value.problems


def safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A file with a real header and no data: only the header is read here."""
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with local models: full (2 layers, 14 numbers), pickled, gguf (one file)."""
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("full", "pickled", "gguf", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "config.json").write_text('{"n_layer": 2}')
    safetensors(tmp_path / "full" / "model.safetensors", {"a": [3, 4], "b": [2]})
    (tmp_path / "pickled" / "config.json").write_text('{"n_layer": 2}')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "gguf" / "m.Q4.gguf").write_bytes(b"GGUF")
    return tmp_path


def test_every_built_in_model_is_valid():
    rows = models.builtin()
    families = {"gpt2": 4, "pythia": 8, "smollm2": 4, "qwen2.5": 7, "qwen3": 5, "llama": 2, "minilm": 1, "tfidf": 1}
    assert {family: sum(name.startswith(family) for name in rows) for family in families} == families
    assert len(rows) == sum(families.values()) == len({model.digest() for model in rows.values()})
    for name, model in rows.items():
        assert model.name == name
        assert (model.params is None) is (model.depth is None) is (model.words is not None)
        assert not model.trust_remote_code
    assert isinstance(rows["minilm"].source, ArchiveSource)


# Sizes by hand from the published widths: embeddings + layers + final norm, tied heads not counted twice.
def test_sizes_against_the_architecture():
    def gpt2(layers: int, width: int) -> int:
        return 50257 * width + 1024 * width + layers * (12 * width**2 + 13 * width) + 2 * width

    def pythia(layers: int, width: int, vocabulary: int) -> int:  # untied head
        return 2 * vocabulary * width + layers * (12 * width**2 + 13 * width) + 2 * width

    rows = models.builtin()
    for name, layers, width in (
        ("gpt2", 12, 768),
        ("gpt2-medium", 24, 1024),
        ("gpt2-large", 36, 1280),
        ("gpt2-xl", 48, 1600),
    ):
        assert (rows[name].params, rows[name].depth) == (gpt2(layers, width), layers)
    for size, layers, width, vocabulary in (
        ("70m", 6, 512, 50304),
        ("160m", 12, 768, 50304),
        ("410m", 24, 1024, 50304),
        ("1b", 16, 2048, 50304),
        ("1.4b", 24, 2048, 50304),
        ("2.8b", 32, 2560, 50304),
        ("6.9b", 32, 4096, 50432),
        ("12b", 36, 5120, 50688),
    ):
        row = rows[f"pythia-{size}"]
        assert (row.params, row.depth) == (pythia(layers, width, vocabulary), layers)

    def llama(
        layers: int,
        width: int,
        inner: int,
        kv: int,
        vocabulary: int,
        heads: int = 1,
        bias: int = 0,
        qk: int = 0,
        q: int = 0,
    ) -> int:
        q = q or width
        attention = 2 * width * q + 2 * width * kv + (q + 2 * kv) * bias + qk
        return heads * vocabulary * width + layers * (attention + 3 * width * inner + 2 * width) + width

    expected = {
        "smollm2": llama(30, 576, 1536, 192, 49152),
        "smollm2-135m": llama(30, 576, 1536, 192, 49152),
        "smollm2-360m": llama(32, 960, 2560, 320, 49152),
        "smollm2-1.7b": llama(24, 2048, 8192, 2048, 49152),
        "llama-3.2-1b": llama(16, 2048, 8192, 512, 128256),
        "llama-3.2-3b": llama(28, 3072, 8192, 1024, 128256),
        "qwen2.5-0.5b": llama(24, 896, 4864, 128, 151936, bias=1),
        "qwen2.5-1.5b": llama(28, 1536, 8960, 256, 151936, bias=1),
        "qwen2.5-3b": llama(36, 2048, 11008, 256, 151936, bias=1),
        "qwen2.5-7b": llama(28, 3584, 18944, 512, 152064, heads=2, bias=1),
        "qwen2.5-14b": llama(48, 5120, 13824, 1024, 152064, heads=2, bias=1),
        "qwen2.5-32b": llama(64, 5120, 27648, 1024, 152064, heads=2, bias=1),
        "qwen2.5-72b": llama(80, 8192, 29568, 1024, 152064, heads=2, bias=1),
        "qwen3-0.6b": llama(28, 1024, 3072, 1024, 151936, qk=256, q=2048),
        "qwen3-1.7b": llama(28, 2048, 6144, 1024, 151936, qk=256, q=2048),
        "qwen3-4b": llama(36, 2560, 9728, 1024, 151936, qk=256, q=4096),
        "qwen3-8b": llama(36, 4096, 12288, 1024, 151936, heads=2, qk=256, q=4096),
        "qwen3-14b": llama(40, 5120, 17408, 1024, 151936, heads=2, qk=256, q=5120),
    }
    assert {name: rows[name].params for name in expected} == expected


def test_a_registry_name_and_a_cut():
    cut = model_of({"use": "minilm", "layers": 2}, HERE, "m")
    assert (cut.name, cut.layers, cut.depth) == ("minilm@2", 2, 6)
    assert cut.source == model_of("minilm", HERE, "m").source
    assert cut.digest() != model_of("minilm", HERE, "m").digest()
    assert model_of("minilm@2", HERE, "m") == cut
    assert model_of({"use": "minilm", "layers": 2}, HERE, "m", name="small").name == "small"
    named = model_of({"use": "minilm", "name": "mine", "max_length": 64, "pooling": "mean"}, HERE, "m", name="small")
    assert (named.name, named.max_length, named.pooling) == ("mine", 64, "mean")


def test_a_hub_id():
    assert model_of("org/some.model", HERE, "m").source == HubSource(hub="org/some.model")
    step = model_of("EleutherAI/pythia-70m@step1000", HERE, "m")
    assert step.source == HubSource(hub="EleutherAI/pythia-70m", revision="step1000")
    assert (step.name, step.depth) == ("pythia-70m", 6)
    spelled = model_of({"hub": "org/some.model", "revision": "v2", "layers": 3}, HERE, "m")
    assert spelled.source == HubSource(hub="org/some.model", revision="v2")
    assert spelled.name == "some.model@3"


def test_a_local_folder(folder):
    model = model_of("full", folder, "m")
    assert isinstance(model.source, FileSource)
    assert (model.name, model.depth, model.params) == ("full", 2, 14)
    assert model.source.file == str(folder / "full")
    (folder / "copy").symlink_to(folder / "full")
    assert model_of("./copy", folder, "m").digest() == model.digest()  # by content, not by path
    assert weights(model).folder == folder / "full"
    assert model_of({"source": "full", "layers": 1}, folder, "m").name == "full@1"
    assert model_of({"file": "full", "layers": 2}, folder, "m").layers == 2


def test_a_gguf_file_or_a_folder_with_one(folder):
    file = model_of("gguf/m.Q4.gguf", folder, "m")
    assert (file.name, file.gguf) == ("m.Q4", None)
    got = weights(file)
    assert (got.folder, got.gguf) == (folder / "gguf", "m.Q4.gguf")
    inside = model_of("gguf", folder, "m")
    assert (inside.gguf, weights(inside).gguf) == ("m.Q4.gguf", "m.Q4.gguf")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("gpt3", "models.m: no model 'gpt3' (did you mean gpt2?)"),
        ("./nope", "models.m: no such file or folder './nope'"),
        ("nope.gguf", "models.m: no such file or folder 'nope.gguf'"),
        ({"use": "pythia-70"}, "models.m.use: no model 'pythia-70' (did you mean pythia-70m?)"),
        ({"use": 3}, "models.m.use: expected the name of a model"),
        (3, "models.m: expected the name of a model or a mapping (got 3)"),
        ({"layers": 2}, "models.m: say which model"),
        ({"use": "minilm", "layers": 9}, "models.m.layers: minilm@9 has 6 layers (got 9)"),
        ("minilm@9", "models.m.layers: minilm@9 has 6 layers (got 9)"),
        ("minilm@0", "models.m: no model 'minilm@0' (did you mean minilm?)"),
        ({"use": "minilm", "layers": "2"}, "models.m.layers: expected a whole number (got '2')"),
        ({"use": "minilm", "layrs": 2}, "models.m.layrs: unknown field (did you mean layers?)"),
        ({"use": "full", "layers": 3}, "models.m.layers: full@3 has 2 layers (got 3)"),
        ("pickled", "has no safetensors weights; pickled weights"),
        ("empty", "no config.json in it, and no GGUF file"),
        ({"use": "full", "gguf": "x.gguf"}, "models.m.gguf: no 'x.gguf' in"),
        ("full/config.json", "is neither a folder with a config.json nor a .gguf file"),
    ],
)
def test_what_is_no_model(folder, value, said):
    found = problems(value, folder)
    assert len(found) == 1
    assert said in found[0]


def test_a_config_that_is_not_json(folder):
    (folder / "full" / "config.json").write_text("{")
    assert "config.json is not JSON" in problems("full", folder)[0]


def test_weights_that_vanished(folder):
    model = model_of("full", folder, "m")
    (folder / "full" / "config.json").unlink()
    with pytest.raises(MachineError, match="changed since it was planned"):
        weights(model)
