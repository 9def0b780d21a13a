"""Model rows by name, as data: where the weights are, how many layers to keep, how a text becomes one vector.

A model is named by a row of models.yaml, a hub id, a local folder (config.json and safetensors) or a GGUF file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from w2s.errors import SpecError, StepError
from w2s.identity import Spec, identity, nearest, runtime, sha256_of, validated
from w2s.plugins import PluginUse
from w2s.progress import Report
from w2s.sources.cache import cache_dir
from w2s.sources.fetch import fetch, find_file, is_fetched, resolve
from w2s.sources.spec import FileSource, Source
from w2s.yamlfile import read_yaml

BUILTIN = Path(__file__).with_name("models.yaml")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$", re.ASCII)
ENCODERS = (
    *(
        "albert",
        "bert",
        "camembert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "roberta",
    ),
    "xlm-roberta",
)
_SOURCE_KEYS = ("file", "hub", "revision", "package", "sha256", "member")


class Words(Spec):
    """No base model: a text is the TF-IDF weights of its words and word groups, terms being those of training texts.

    1 + log(count) times log((1 + n) / (1 + texts with it)) + 1, rows scaled to length 1 (as scikit-learn's
    TfidfVectorizer with sublinear_tf); on them a logistic regression.
    """

    ngrams: tuple[int, int] = identity((1, 2), about="Words of a term, at least and at most.")
    min_count: int = identity(1, ge=1, about="Training texts that a term has to be in.")

    @model_validator(mode="after")
    def _ngrams_ascend(self) -> Words:
        if not 1 <= self.ngrams[0] <= self.ngrams[1]:
            raise ValueError(f"ngrams: expected [least, most] with 1 <= least <= most (got {list(self.ngrams)})")
        return self


class ModelSpec(Spec):
    """A base model as it enters training."""

    name: str = runtime(min_length=1, about="What tables call it.")
    source: Source | None = identity(about="Where the weights are; its fields may stand beside the model's.")
    words: Words | None = identity(
        None, later=True, about="No weights at all: a text is its counts of words, with a logistic regression on them."
    )
    gguf: str | None = identity(
        None, about="The GGUF file inside the source's folder, or null where the source is one itself."
    )
    layers: int | None = identity(None, ge=1, about="Keep so many of the lowest layers; null: all.")
    pooling: Literal["auto", "last", "mean"] = identity(
        "auto",
        about="What the head sees: the last token, or the mean of all; auto: last for decoders, mean for encoders.",
    )
    max_length: int = identity(512, ge=1, about="Tokens of a text; longer ones are cut.")
    trust_remote_code: bool = identity(False, about="True: code from the model's repository may run.")
    build: PluginUse | None = identity(
        None,
        later=True,
        about="What a plugin makes of the loaded and cut model: its name, or a mapping of name and parameters.",
    )
    params: int | None = runtime(
        None, ge=1, about="Parameters of the whole model, for estimates and the size axes of figures."
    )
    depth: int | None = runtime(None, ge=1, about="Layers of the whole model.")
    decoder: bool | None = runtime(None, about="False: it cannot generate text, which is then told before any work.")

    @model_validator(mode="after")
    def _weights_or_words(self) -> ModelSpec:
        if (self.source is None) != (self.words is not None):
            raise ValueError("a model has either a `source` of weights or `words`, not both; write `use: tfidf`")
        if self.words is not None and not (self.layers is None and self.gguf is None and self.build is None):
            raise ValueError("counts of words have no layers, no GGUF file, and nothing for a plugin to build on")
        return self


@dataclass(frozen=True)
class Weights:
    """A model's files on this machine: what `from_pretrained(folder, gguf_file=gguf)` takes."""

    folder: Path
    gguf: str | None
    commit: str | None


def weights(model: ModelSpec, *, offline: bool = False, report: Report | None = None) -> Weights:
    """Download the model's files, if they are not here yet. Raises MachineError; StepError for a missing file."""
    assert model.source is not None, "a model of words has no files"
    got = fetch(model.source, offline=offline, report=report, files=_wanted(model))
    if got.path.is_file():
        return Weights(got.path.parent, got.path.name, got.commit)
    for name in (model.gguf, "config.json" if model.gguf is None else None):
        if name is not None and not (got.path / name).is_file():
            why = f"it holds no {name}; give a folder or repository that has one"
            raise StepError(f"model {model.name}: cannot be loaded from {got.path}: {why}")
    return Weights(got.path, model.gguf, got.commit)


def converted(model: ModelSpec, gguf: str) -> Path:
    """The folder in the cache that holds the weights of a GGUF file as safetensors, once they have been converted."""
    version = importlib.metadata.version("transformers")
    assert model.source is not None
    return cache_dir() / "converted" / sha256_of([model.source.identity(), gguf, version])[:32]


def is_converted(folder: Path) -> bool:
    """True where a folder named by `converted` is there; it appears whole, by a rename."""
    return (folder / "config.json").exists()


def is_here(model: ModelSpec) -> bool:
    """True where `weights` needs no network."""
    return model.source is None or is_fetched(model.source, files=_wanted(model))


def _wanted(model: ModelSpec) -> tuple[str, ...]:
    return () if model.gguf is None else (model.gguf,)


# -- names to specs ----------------------------------------------------------------------------------------------


@functools.cache
def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = read_yaml(BUILTIN)
    return rows


def names() -> list[str]:
    """The built-in models, in the order of models.yaml."""
    return list(_rows())


def builtin() -> dict[str, ModelSpec]:
    """Every model of models.yaml by name."""
    return {name: validated(ModelSpec, {"name": name, **row}, f"models.yaml: {name}") for name, row in _rows().items()}


def model_of(value: str | dict[str, Any], base: Path, where: str, name: str | None = None) -> ModelSpec:
    """A model by registry name, hub id, local folder or GGUF file, or a mapping {use: any of these, layers: k, ...}.

    `minilm@2` is short for {use: minilm, layers: 2}; after a hub id, `@` names a revision.
    A mapping may give a `source` (or its fields side by side) in place of `use`; the other fields are ModelSpec's and
    override the row's. `name` is what tables call it, unless the mapping says so itself; the default is the name that
    was used, with `@k` where layers are cut off. Relative paths start from `base`, then the working folder.
    Raises SpecError with all problems.
    """
    if isinstance(value, str):
        data = _named(value, base, where)
        changes: dict[str, Any] = {}
    elif isinstance(value, dict):
        changes = {key: item for key, item in value.items() if key != "use"}
        data = _mapping_base(value, changes, base, where)
    else:
        raise SpecError(f"{where}: expected the name of a model or a mapping (got {value!r})")
    data |= changes
    if "name" not in changes:
        data["name"] = name or (f"{data['name']}@{data['layers']}" if data.get("layers") else data["name"])
    model = validated(ModelSpec, data, where)
    if isinstance(model.source, FileSource):
        model = _local(model, model.source, base, where)
    if model.layers is not None and model.depth is not None and model.layers > model.depth:
        raise SpecError(f"{where}.layers: {model.name} has {model.depth} layers (got {model.layers})")
    return model


def _mapping_base(value: dict[str, Any], changes: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """What the mapping's own fields are laid over; source fields side by side are moved into `source`."""
    if "use" in value:
        if not isinstance(value["use"], str):
            raise SpecError(f"{where}.use: expected the name of a model, a hub id or a path (got {value['use']!r})")
        return _named(value["use"], base, f"{where}.use")
    given = {key: changes.pop(key) for key in _SOURCE_KEYS if key in changes} if "source" not in changes else {}
    if given:
        changes["source"] = given
    if isinstance(changes.get("source"), str):
        changes["source"] = _named(changes["source"], base, f"{where}.source")["source"]
    if "source" not in changes:
        raise SpecError(f"{where}: say which model: `use` with a name, hub id or path, or a `source`")
    source = changes["source"]
    known = source if isinstance(source, dict) else {}
    return {"name": Path(str(known.get("hub") or known.get("file") or "model")).name or "model"}


def _named(value: str, base: Path, where: str) -> dict[str, Any]:
    """The fields that a name stands for: a registry row, a path that exists, or a hub id, in this order."""
    if value in _rows():
        return {"name": value, **_rows()[value]}
    row, _, layers = value.partition("@")
    if row in _rows() and re.fullmatch("[1-9][0-9]{0,3}", layers):
        return {"name": row, **_rows()[row], "layers": int(layers)}
    looks_local = value.startswith(("/", "./", "../", "~")) or value.lower().endswith(".gguf")
    places = [base / value, Path(value)]
    if looks_local or any(place.exists() for place in places):
        path = find_file(value, base, where)
        return {"name": path.stem if path.is_file() else path.name, "source": {"file": str(path)}}
    hub_id, _, revision = value.partition("@")
    if HUB_ID.match(hub_id):
        source = {"hub": hub_id, "revision": revision} if revision else {"hub": hub_id}
        return {**_row_of_hub_id(hub_id), "name": hub_id.split("/")[1], "source": source}
    raise SpecError(
        f"{where}: no model {value!r}{nearest(value, _rows())}; `w2s models` lists the names, "
        "and a hub id (org/name), a local folder or a GGUF file works too"
    )


def _row_of_hub_id(hub_id: str) -> dict[str, Any]:
    """Size and depth that a registry row knows for a hub id."""
    for row in _rows().values():
        if (row["source"] or {}).get("hub") == hub_id:
            return {key: item for key, item in row.items() if key in ("params", "depth", "decoder")}
    return {}


# -- local models ------------------------------------------------------------------------------------------------


def _local(model: ModelSpec, source: FileSource, base: Path, where: str) -> ModelSpec:
    """The model with its files checked and hashed, its size and depth read from them where that is easy."""
    source = resolve(source, base, where)
    path = Path(source.file)
    changes: dict[str, Any] = {"source": source}
    if path.is_dir() and model.gguf is None:
        found = sorted(p.name for p in path.glob("*.gguf"))
        if not (path / "config.json").is_file() and len(found) == 1:
            changes["gguf"] = found[0]
        elif not (path / "config.json").is_file():
            listed = f"GGUF files {', '.join(found)}: give gguf" if found else "no GGUF file"
            raise SpecError(f"{where}: {path} is no model folder: no config.json in it, and {listed}")
        elif not any(path.glob("*.safetensors")):
            raise SpecError(
                f"{where}: {path} has no safetensors weights; pickled weights (*.bin, *.pt) are never loaded"
            )
    elif path.is_dir() and not (path / str(model.gguf)).is_file():
        raise SpecError(f"{where}.gguf: no {model.gguf!r} in {path}")
    elif path.is_file() and path.suffix.lower() != ".gguf":
        raise SpecError(f"{where}: {path} is neither a folder with a config.json nor a .gguf file")
    if path.is_dir() and "gguf" not in changes and model.gguf is None:
        changes["depth"] = model.depth or _depth(path / "config.json", where)
        changes["params"] = model.params or _params(path)
        changes["decoder"] = _decoder(path / "config.json") if model.decoder is None else model.decoder
    return model.model_copy(update=changes)


def _depth(config: Path, where: str) -> int | None:
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SpecError(f"{where}: {config} is not JSON") from None
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if isinstance(data, dict) and isinstance(data.get(key), int) and data[key] > 0:
            return int(data[key])
    return None


def _decoder(config: Path) -> bool | None:
    """False where a configuration is that of a well-known encoder; what else it is, the loader finds out."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("model_type") in ENCODERS and not data.get("is_decoder"):
            return False
    return None


def _params(folder: Path) -> int | None:
    """Numbers in the safetensors files, from their headers: 8 bytes of length, then JSON with the shapes."""
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            total += sum(math.prod(row["shape"]) for key, row in header.items() if key != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, MemoryError):
            return None  # the loader says what is wrong with the file; the size is for estimates only
    return total or None
