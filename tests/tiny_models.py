"""A tiny random model with a tokenizer in a folder, as a user would point to."""

from __future__ import annotations

from pathlib import Path

import tokenizers
import torch
import transformers

from w2s.models import ModelSpec
from w2s.sources import FileSource, resolve


def save_model(folder: Path, layers: int) -> ModelSpec:
    words = {"<pad>": 0, "<unk>": 1, **{f"w{i}": i + 2 for i in range(40)}}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "unk_token": "<unk>"})
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=32, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(layers)
    transformers.LlamaModel(config).save_pretrained(folder)
    source = resolve(FileSource(file=str(folder)), folder, "model")
    return ModelSpec(name=f"tiny-{layers}", source=source, params=10_000 * layers, depth=layers)


def save_language_model(folder: Path, layers: int) -> ModelSpec:
    """The same with a language-model head, not tied to the embeddings, in its files."""
    spec = save_model(folder, layers)
    torch.manual_seed(layers)
    transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return spec.model_copy(update={"source": resolve(FileSource(file=str(folder)), folder, "model")})
