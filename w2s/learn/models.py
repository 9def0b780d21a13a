"""A model row in, a truncated base model with its tokenizer out, and from it a classifier ready for a recipe.

Refuses pickled weights, and remote code unless the model's row allows it.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
import transformers
from torch import nn

from w2s.disk import disk_errors, no_room
from w2s.errors import MachineError, StepError
from w2s.learn import accelerator, adapt, custom, partition, starts
from w2s.learn.adapt import layers_of
from w2s.learn.batching import Tokens
from w2s.learn.heads import Classifier, init_head
from w2s.learn.starts import Begun
from w2s.memory import is_out_of_memory
from w2s.models import ModelSpec, converted, is_converted, weights
from w2s.randomness import stream_seed
from w2s.sources.cache import once
from w2s.spec import Engine, Recipe

ENGINE = Engine()  # one process, float32; the argument's default


@dataclass(frozen=True)
class Base:
    """Weights of a base model as published or begun from, truncated; shared, so never trained in place."""

    spec: ModelSpec
    # transformers.PreTrainedModel; its classes differ too much between architectures to name one. None under ZeRO 3,
    # where no rank holds a whole model: `build` then loads the weights in shares.
    module: Any
    tokenizer: Any
    pooling: Literal["last", "mean"]
    max_length: int
    folder: Path
    commit: str | None
    starts: tuple[Begun, ...] = ()  # what the weights were trained by since, each begun from the one before
    head: torch.Tensor | None = None  # the language-model head (V, D), where those trained one of its own


def load_base(spec: ModelSpec, engine: Engine = ENGINE, start: tuple[Begun, ...] = ()) -> Base:
    """Load the model of a row, with the weights that `start` left of it.

    Raises StepError naming the model where it cannot be loaded.
    """
    with quiet():
        folder, commit = files_of(spec)
        with _named_errors(spec, folder):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
    partition.forget()
    pooling = spec.pooling if spec.pooling != "auto" else "last" if is_decoder(config, spec) else "mean"
    module: Any = _load(spec, folder, engine) if engine.zero_stage != 3 else None
    for begun in start if module is not None else ():
        starts.put_into(module, begun)
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or spec.max_length
    # The label may hang on the last words (an answer after a long passage), so the beginning is cut.
    tokenizer.truncation_side = "left"
    most = min(spec.max_length, limit)
    return Base(spec, module, tokenizer, pooling, most, folder, commit, start, starts.head_of(start))


def files_of(spec: ModelSpec) -> tuple[Path, str | None]:
    """The folder that `from_pretrained` takes, and the hub's commit: fetched if need be, and converted from GGUF."""
    found = weights(spec)
    return (found.folder if found.gguf is None else _converted(spec, found.folder / found.gguf)), found.commit


def _load(spec: ModelSpec, folder: Path, engine: Engine) -> Any:
    """The base model in float32, truncated, without dropout; in evaluation mode."""
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if engine.attention == "flash_attention_2":
        if engine.mixed_precision == "no":
            raise StepError(
                "engine.attention: flash_attention_2 needs engine.mixed_precision bf16 or fp16; or use sdpa"
            )
        options["attn_implementation"] = engine.attention  # else transformers' own choice: not every model has sdpa
    hint = "; for flash_attention_2 install flash-attn, or set engine.attention to sdpa" if len(options) > 1 else ""
    with quiet(), _named_errors(spec, folder, hint):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
        _without_dropout(config)
        module, found = transformers.AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    if getattr(module, "pooler", None) is not None:
        module.pooler = None  # ours pools; an unused layer would be trained on nothing
    missing = sorted(set(found["missing_keys"]) & {name for name, _ in module.named_parameters()})
    if missing:  # transformers would have drawn them at random
        raise StepError(f"model {spec.name}: cannot be loaded from {folder}: its files lack {missing[0]}")
    truncate(module, spec)
    module.config.use_cache = False
    if spec.build is None:
        return module.eval()
    if engine.zero_stage == 3:
        raise StepError(f"model {spec.name}: build takes a whole model; use engine.zero_stage 2 or less")
    return custom.built(spec.build, module)


def is_decoder(config: Any, spec: ModelSpec) -> bool:
    """True where a token sees only those before it: probed, because configurations do not say it reliably.

    Probed on one layer of random weights, which costs little and needs no real ones. Raises StepError where the
    architecture cannot be made so small.
    """
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = 8, 0
    _without_dropout(small)
    _cut(small, 1)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make: Any = transformers.AutoModel.from_config  # without types
            module = make(small, trust_remote_code=spec.trust_remote_code).float().eval()
            with torch.inference_mode():
                for parameter in module.parameters():
                    if parameter.ndim > 1:  # an architecture may start with zeros, through which no token sees another
                        parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
                ids_BT = torch.tensor([[1, 2, 3], [1, 2, 4]])
                hidden_BTD = module(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise StepError(
            f"model {spec.name}: cannot tell whether it is a decoder ({_first_line(error)}); give pooling: last or mean"
        ) from error
    return bool(torch.allclose(hidden_BTD[0, 0], hidden_BTD[1, 0], atol=1e-5))


def truncate(module: nn.Module, spec: ModelSpec) -> None:
    """Keep the lowest `spec.layers` layers, in place. Raises StepError where the model has fewer."""
    if spec.layers is None:
        return
    name, layers = layers_of(module)
    if spec.layers > len(layers):
        raise StepError(f"model {spec.name}: {spec.layers} layers asked for, but it has {len(layers)}")
    parent = module.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], layers[: spec.layers])
    _cut(module.config, spec.layers)


def _cut(config: Any, layers: int) -> None:
    if getattr(config, "num_hidden_layers", None):
        config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def build(base: Base, classes: int, recipe: Recipe, seed: int, engine: Engine = ENGINE) -> Classifier:
    """A classifier on the base model: head made from the seed, frozen and adapted as recipe and engine say.

    `classes` are the outputs of the head: 1, a score, where texts are compared.
    Weights that are trained are float32 copies; frozen ones may be shared with the base, or held in the precision of
    the matrix products. Under ZeRO 3 the base model's lie in shares on all ranks, which call this together once they
    can talk to each other (`accelerator.make`). Raises StepError for what this model cannot do.
    """
    if recipe.optimizer == "adafactor" and engine.zero_stage:
        raise StepError(
            f"engine.zero_stage: adafactor keeps rows and columns, which ZeRO {engine.zero_stage} cuts apart, and the "
            "numbers would change; use zero_stage 0 or null, or recipe.optimizer: adamw"
        )
    name, precision = base.spec.name, adapt.PRECISIONS[engine.mixed_precision]
    partition.forget()
    if engine.zero_stage == 3:
        with partition.partitioned(engine, recipe):
            module = _load(base.spec, base.folder, engine)
        for begun in base.starts:
            starts.put_into(module, begun)
    else:
        module = sharing(base.module)
    model = Classifier(module, _hidden_size(module), classes, base.pooling, precision)
    model.in_shares = engine.zero_stage == 3
    if recipe.head_init == "unembedding":
        rows_CD = unembedding_rows(base, classes, recipe.head_words)
        if rows_CD.shape != model.head.weight.shape:  # of a module that a plugin built
            raise StepError(
                f"model {name}: recipe.head_init: unembedding has vectors of {rows_CD.shape[1]} numbers, and its "
                f"hidden states have {model.head.in_features}; use zeros or normal"
            )
        with torch.no_grad():
            model.head.weight.copy_(rows_CD)
    else:
        init_head(model.head, recipe.head_init, torch.Generator().manual_seed(stream_seed(seed, "head")))
    adapt.set_dropout(module, recipe.dropout, name)
    adapt.tune(module, recipe, seed, name)
    if engine.zero_stage != 3:
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.clone()
    if precision is not None:
        adapt.hold_frozen(module, precision)
    adapt.apply_engine(module, engine, name)
    if engine.zero_stage == 3:  # DeepSpeed moves no model whose weights were partitioned before
        model.to(accelerator.device(engine))
    return model


def sharing(module: Any) -> Any:
    """A copy of a model whose parameters are its own but lie in the same memory, until they are written."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, dict(shared))


def tokenise(base: Base, texts: list[str], per_example: int = 1) -> Tokens:
    """Token ids of texts, cut on the left to the model's length. Raises StepError for a text without tokens.

    Of a prompt and an answer, so the answer stays whole as long as it can.
    """
    with quiet():
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
    return Tokens.of(whole, 0 if pad_id is None else pad_id, len(cut), per_example)


def unembedding_rows(base: Base, classes: int, words: tuple[str, ...] | None) -> torch.Tensor:
    """Rows (C, D) of the language-model head for one word per class; by default " 0", " 1", ... (Burns et al. 2023).

    A word of several tokens counts by its last one. Raises StepError where the model has no such head.
    """
    if words is None and classes == 1:
        raise StepError("recipe.head_words: give the one word whose row scores a text, such as ' good'")
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
    rows_CD: torch.Tensor = output_embeddings(base).weight.detach()[last].clone()
    return rows_CD


def output_embeddings(base: Base) -> Any:
    """The language-model head of a base model, a linear layer."""
    options: dict[str, Any] = {"trust_remote_code": base.spec.trust_remote_code}
    with quiet(), _named_errors(base.spec, base.folder):
        config = transformers.AutoConfig.from_pretrained(base.folder, **options)
        _cut(config, 1)  # of a large model the layers are most, and none of them is needed
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            base.folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    language, found = loaded  # the model, and which weights its files lack
    head = language.get_output_embeddings()
    own = next(name for name, weight in language.named_parameters(remove_duplicate=False) if weight is head.weight)
    if own in found["missing_keys"] and not getattr(config, "tie_word_embeddings", False):
        raise StepError(f"model {base.spec.name}: its files have no language-model head ({own})")
    if base.head is not None:
        head.weight = nn.Parameter(base.head.clone())
    elif base.starts and getattr(config, "tie_word_embeddings", False):  # then it was trained with the embeddings
        if base.module is None:
            raise StepError(
                f"model {base.spec.name}: recipe.head_init: at engine.zero_stage 3 the words of a model that begins "
                "from other weights cannot be read; use zeros or normal, or zero_stage 2"
            )
        head.weight = nn.Parameter(base.module.get_input_embeddings().weight.detach().clone())
    return head


def _hidden_size(module: nn.Module) -> int:
    config: Any = module.config
    return int(getattr(config, "hidden_size", None) or config.n_embd)


def _without_dropout(config: Any) -> None:
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)


def _converted(spec: ModelSpec, gguf: Path) -> Path:
    """The folder of GGUF weights as safetensors: converted once and kept in the cache."""
    if gguf.suffix.lower() != ".gguf":
        raise StepError(f"model {spec.name}: {gguf} is neither a folder nor a GGUF file")
    place = converted(spec, gguf.name)

    def make() -> Path:
        with disk_errors(place):
            for left in place.parent.glob(f"{place.name}-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            with quiet():
                _convert(gguf, place)
        return place

    return once(f"converted-{place.name}", lambda: place if is_converted(place) else None, make)


def _convert(gguf: Path, place: Path) -> None:
    """Raises MachineError where it cannot be written; errors that tell of a full disk as they come."""
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
        if no_room(error):
            raise
        raise MachineError(f"{place}: the converted weights of {gguf.name} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


@contextlib.contextmanager
def _named_errors(spec: ModelSpec, folder: Path, hint: str = "") -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, safetensors.SafetensorError) as error:
        if is_out_of_memory(error):  # says what helps, which is not another model
            raise
        raise StepError(f"model {spec.name}: cannot be loaded from {folder}: {_first_line(error)}{hint}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
