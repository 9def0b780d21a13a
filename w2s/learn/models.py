"""A model row in, a truncated base model with its tokenizer out, and from it a classifier ready for a recipe.

Refuses pickled weights, and remote code unless the model's row allows it.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock
import safetensors
import torch
import transformers
from torch import nn

from w2s.errors import MachineError, StepError
from w2s.identity import sha256_of
from w2s.learn.batching import Tokens
from w2s.learn.heads import Classifier, init_head
from w2s.models import ModelSpec, weights
from w2s.randomness import stream_seed
from w2s.sources import cache_dir
from w2s.spec import Engine, Frozen, Lora, Probe, Recipe

EMBEDDING_NAMES = ("emb", "wte", "wpe")  # in parameter names outside the layers: token, position and type embeddings
ENGINE = Engine()  # one process, float32; the argument's default


@dataclass(frozen=True)
class Base:
    """Weights of a base model as published, truncated to the layers asked for; shared, so never trained in place."""

    spec: ModelSpec
    module: Any  # transformers.PreTrainedModel; its classes differ too much between architectures to name one
    tokenizer: Any
    pooling: Literal["last", "mean"]
    max_length: int
    folder: Path
    commit: str | None


def load_base(spec: ModelSpec, engine: Engine = ENGINE) -> Base:
    """Load the model of a row. Raises StepError naming the model where it cannot be loaded."""
    with _quiet():
        found = weights(spec)
        folder = found.folder if found.gguf is None else _converted(spec, found.folder / found.gguf)
        options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            _without_dropout(config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            module = transformers.AutoModel.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, **options
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, safetensors.SafetensorError) as error:
            raise StepError(f"model {spec.name}: cannot be loaded from {folder}: {_first_line(error)}") from error
    truncate(module, spec)
    module.config.use_cache = False
    if getattr(module, "pooler", None) is not None:
        module.pooler = None  # ours pools; an unused layer would be trained on nothing
    pooling = spec.pooling if spec.pooling != "auto" else "last" if is_decoder(module) else "mean"
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or spec.max_length
    # The label may hang on the last words (an answer after a long passage), so the beginning is cut.
    tokenizer.truncation_side = "left"
    return Base(spec, module.eval(), tokenizer, pooling, min(spec.max_length, limit), folder, found.commit)


def is_decoder(module: nn.Module) -> bool:
    """True where a token sees only those before it: probed, because configurations do not say it reliably."""
    vocabulary = module.get_input_embeddings().num_embeddings  # type: ignore[operator]  # every transformers model has it
    ids_BT = torch.tensor([[1, 2, 3], [1, 2, 4]]).clamp_max(vocabulary - 1)
    with torch.inference_mode():
        hidden_BTD = module(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state
    return bool(torch.allclose(hidden_BTD[0, 0], hidden_BTD[1, 0], atol=1e-5))


def layers_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, list) of a base model's transformer layers. Raises StepError where there is no such list."""
    depth = getattr(module.config, "num_hidden_layers", None)
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            return name, child
    raise StepError(f"{type(module).__name__}: no list of {depth} layers found; layers cannot be cut or frozen")


def truncate(module: nn.Module, spec: ModelSpec) -> None:
    """Keep the lowest `spec.layers` layers, in place. Raises StepError where the model has fewer."""
    if spec.layers is None:
        return
    name, layers = layers_of(module)
    if spec.layers > len(layers):
        raise StepError(f"model {spec.name}: {spec.layers} layers asked for, but it has {len(layers)}")
    parent = module.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], layers[: spec.layers])
    config: Any = module.config
    config.num_hidden_layers = spec.layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: spec.layers]


def build(base: Base, classes: int, recipe: Recipe, seed: int, engine: Engine = ENGINE) -> Classifier:
    """A classifier on a copy of the base model: head made from the seed, frozen and adapted as the recipe says."""
    module = copy.deepcopy(base.module)
    model = Classifier(module, _hidden_size(module), classes, base.pooling)
    if recipe.head_init == "unembedding":
        with torch.no_grad():
            model.head.weight.copy_(unembedding_rows(base, classes, recipe.head_words))
    else:
        init_head(model.head, recipe.head_init, torch.Generator().manual_seed(stream_seed(seed, "head")))
    _set_dropout(module, recipe.dropout, base.spec.name)
    _tune(module, recipe, seed, base.spec.name)
    return model


def _tune(module: nn.Module, recipe: Recipe, seed: int, name: str) -> None:
    tune = recipe.tune
    if isinstance(tune, Probe):
        module.requires_grad_(False)
    elif isinstance(tune, Frozen):
        freeze(module, tune, name)
    elif isinstance(tune, Lora):
        import peft  # slow to import, and few runs need it

        config = peft.LoraConfig(
            r=tune.r,
            lora_alpha=tune.alpha,  # type: ignore[arg-type]  # annotated int, but only ever divided by r
            lora_dropout=tune.dropout,
            target_modules=list(tune.targets) if tune.targets else "all-linear",
        )
        torch.manual_seed(stream_seed(seed, "lora"))
        try:
            with warnings.catch_warnings():
                # GPT-2 stores its linear layers transposed; peft sees that by itself and says so for each of them.
                warnings.filterwarnings("ignore", message="fan_in_fan_out", category=UserWarning)
                peft.inject_adapter_in_model(config, module)
        except ValueError as error:
            raise StepError(f"model {name}: recipe.tune.targets {tune.targets}: {_first_line(error)}") from error


def freeze(module: nn.Module, tune: Frozen, name: str) -> None:
    """Stop the gradient of the lowest layers, and of the embeddings. Raises StepError where there are fewer layers."""
    prefix, layers = layers_of(module)
    if tune.layers > len(layers):
        raise StepError(f"model {name}: recipe.tune.layers: cannot freeze {tune.layers} of {len(layers)} layers")
    for layer in layers[: tune.layers]:
        layer.requires_grad_(False)
    if tune.embeddings:
        for parameter_name, parameter in module.named_parameters():
            if not parameter_name.startswith(prefix + ".") and any(e in parameter_name for e in EMBEDDING_NAMES):
                parameter.requires_grad_(False)


def tokenise(base: Base, texts: list[str]) -> Tokens:
    """Token ids of texts, cut on the left to the model's length. Raises StepError for a text without tokens."""
    with _quiet():
        whole = base.tokenizer(texts, add_special_tokens=True, truncation=False)["input_ids"]
        cut = [row for row, ids in enumerate(whole) if len(ids) > base.max_length]
        if cut:
            long = [texts[row] for row in cut]
            short = base.tokenizer(long, truncation=True, max_length=base.max_length)["input_ids"]
            for row, ids in zip(cut, short, strict=True):
                whole[row] = ids
    empty = [row for row, ids in enumerate(whole) if not ids]
    if empty:
        raise StepError(f"model {base.spec.name}: the text {texts[empty[0]]!r} has no tokens")
    pad_id = base.tokenizer.pad_token_id
    return Tokens.of(whole, 0 if pad_id is None else pad_id, len(cut))


def unembedding_rows(base: Base, classes: int, words: tuple[str, ...] | None) -> torch.Tensor:
    """Rows (C, D) of the language-model head for one word per class; by default " 0", " 1", ... (Burns et al. 2023).

    A word of several tokens counts by its last one. Raises StepError where the model has no such head.
    """
    words = words or tuple(f" {index}" for index in range(classes))
    if len(words) != classes:
        raise StepError(f"recipe.head_words: {len(words)} words for {classes} classes; give one word per class")
    if base.pooling == "mean":
        raise StepError(f"model {base.spec.name}: head_init unembedding needs a decoder; use zeros or normal")
    tokens = [base.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    for word, ids in zip(words, tokens, strict=True):
        if not ids:
            raise StepError(f"model {base.spec.name}: recipe.head_words: {word!r} has no token; choose another word")
    last = [ids[-1] for ids in tokens]
    if len(set(last)) < classes:  # two classes would start with one and the same logit
        raise StepError(f"model {base.spec.name}: recipe.head_words: two of {list(words)} end in the same token")
    with _quiet():
        whole: Any = transformers.AutoModelForCausalLM.from_pretrained(
            base.folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=base.spec.trust_remote_code
        )
    rows_CD: torch.Tensor = whole.get_output_embeddings().weight.detach()[last].clone()
    return rows_CD


def _hidden_size(module: nn.Module) -> int:
    config: Any = module.config
    return int(getattr(config, "hidden_size", None) or config.n_embd)


def _without_dropout(config: Any) -> None:
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)


def _set_dropout(module: nn.Module, p: float, name: str) -> None:
    if p == 0.0:
        return
    found = [child for child in module.modules() if isinstance(child, nn.Dropout)]
    if not found:
        raise StepError(f"model {name}: recipe.dropout: this architecture has no dropout layers; set it to 0")
    for child in found:
        child.p = p


def _converted(spec: ModelSpec, gguf: Path) -> Path:
    """The folder of GGUF weights as safetensors: converted once and kept in the cache."""
    if gguf.suffix.lower() != ".gguf":
        raise StepError(f"model {spec.name}: {gguf} is neither a folder nor a GGUF file")
    name = sha256_of([spec.source.identity(), gguf.name, transformers.__version__])[:32]
    place = cache_dir() / "converted" / name
    with filelock.FileLock(str(place) + ".lock"):
        if not (place / "config.json").exists():
            _convert(gguf, place)
    return place


def _convert(gguf: Path, place: Path) -> None:
    part = place.with_name(f"{place.name}-{uuid.uuid4().hex}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        module: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        if hasattr(module.config, "quantization_config"):
            del module.config.quantization_config  # the weights are plain numbers now
        module.hf_quantizer = None
        module.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.rename(place)
    except OSError as error:
        raise MachineError(f"{place}: the converted weights of {gguf.name} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars and advice of transformers would flood a log that holds many steps."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging: Any = transformers.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
