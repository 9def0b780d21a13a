"""Tiny random models in folders, as a user would point to, and slow reference versions of the losses and the trainer.

The references are written from the formulas, in plain Python loops; they share no code with w2s.learn but the order of
the batches.
"""

from __future__ import annotations

import functools
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from w2s.learn import accelerator, models
from w2s.learn.batching import Tokens, epoch_batches
from w2s.models import ModelSpec
from w2s.sources import FileSource, resolve
from w2s.spec import Engine

WORDS = ["0", "1", "2", *(f"w{i}" for i in range(40))]
UNKNOWN = "<unk>"
VOCABULARY = {"<pad>": 0, UNKNOWN: 1, "<s>": 2, "</s>": 3, **{word: i + 4 for i, word in enumerate(WORDS)}}
LAYERS = 3

# Weights larger than usual, so that attention matters and every difference shows far above rounding.
_COMMON: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_LLAMA: dict[str, Any] = {
    **_COMMON, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "head_dim": 4,
}  # fmt: skip
_SQUARE = {key: value for key, value in _LLAMA.items() if key not in ("num_key_value_heads", "head_dim")}


def config_of(arch):
    if arch == "gpt2":  # its usual dropout of 0.1 stays in the folder: w2s must turn it off
        return transformers.GPT2Config(**_COMMON, n_embd=16, n_layer=LAYERS, n_head=4, n_positions=48)
    if arch == "bert":
        return transformers.BertConfig(**_SQUARE)
    if arch == "neox":
        return transformers.GPTNeoXConfig(
            **_SQUARE, attention_dropout=0.1, hidden_dropout=0.1, tie_word_embeddings=False
        )
    if arch == "llama":
        return transformers.LlamaConfig(**_LLAMA, attention_dropout=0.1, tie_word_embeddings=False)
    if arch == "qwen2":
        return transformers.Qwen2Config(**_LLAMA, tie_word_embeddings=True)
    return transformers.Qwen3Config(**_LLAMA, tie_word_embeddings=True)


def save_tokenizer(folder, *, pad="<pad>", encoder=False):
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, UNKNOWN))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if encoder:
        core.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    special = {} if pad is None else {"pad_token": pad}
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token=UNKNOWN, **special).save_pretrained(folder)


def save_model(folder, arch):
    torch.manual_seed(sum(map(ord, arch)))
    make = transformers.AutoModel if arch == "bert" else transformers.AutoModelForCausalLM
    make.from_config(config_of(arch)).save_pretrained(folder)
    save_tokenizer(folder, encoder=arch == "bert")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from threads, and the other tests of this machine need the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """arch -> folder with weights, configuration and tokenizer; built once."""

    @functools.cache
    def make(arch) -> Path:
        folder: Path = tmp_path_factory.mktemp(arch)
        save_model(folder, arch)
        return folder

    return make


@pytest.fixture(scope="session")
def spec_of(folder_of):
    """(arch or folder, fields of ModelSpec) -> ModelSpec."""

    def make(where, **fields) -> ModelSpec:
        folder = where if isinstance(where, Path) else folder_of(where)
        source = resolve(FileSource(file=str(folder)), folder, "model")
        return ModelSpec(name=f"tiny {where}", source=source, **fields)

    return make


@pytest.fixture(scope="session")
def base_of(spec_of):
    """The same, loaded; the same arguments load once (a Base is never trained in place)."""

    @functools.cache
    def make(where, **fields):
        return models.load_base(spec_of(where, **fields))

    return make


@pytest.fixture(scope="session")
def cpu():
    """recipe -> an Accelerator on the CPU."""
    return lambda recipe: accelerator.make(Engine(device="cpu"), recipe)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """23 texts of 2 to 15 words."""
    rng = np.random.default_rng(0)
    return [" ".join(f"w{i}" for i in rng.integers(0, 40, size)) for size in rng.integers(2, 16, 23)]


@pytest.fixture(scope="session")
def tokens(base_of, texts) -> Tokens:
    return models.tokenise(base_of("llama"), texts)


@pytest.fixture(scope="session")
def soft_labels(texts) -> np.ndarray:
    p1 = np.random.default_rng(1).random(len(texts))
    return np.stack([1 - p1, p1], axis=1).astype(np.float32)


# -- slow references ---------------------------------------------------------------------------------------------


def slow_ce(row, target) -> Any:
    """-sum_c target_c log softmax(row)_c of one example, from Python sums of scalar tensors."""
    top = max(row.tolist())
    log_z = top + torch.log(torch.stack([torch.exp(x - top) for x in row]).sum())
    return -sum(float(t) * (x - log_z) for x, t in zip(row, target, strict=True))


def slow_hard(rows, prior, threshold):
    """The student's hard labels on one batch: for two classes by rank or by a number, for more by reweighting."""
    rows = [row.tolist() if isinstance(row, torch.Tensor) else row for row in rows]
    n, classes = len(rows), len(prior)
    if classes == 2 and not isinstance(threshold, str):
        return [int(1 / (1 + math.exp(min(700.0, row[0] - row[1]))) > threshold) for row in rows]
    if classes == 2:
        share = 0.5 if threshold == "half" else float(prior[1])
        positives = math.floor(share * n + 0.5)
        hard = [0] * n
        for _ in range(positives):
            best = hard.index(0)
            for i, row in enumerate(rows):
                if not hard[i] and row[1] - row[0] > rows[best][1] - rows[best][0]:
                    best = i
            hard[best] = 1
        return hard
    p = []
    for row in rows:
        e = [math.exp(x - max(row)) for x in row]
        p.append([x / sum(e) for x in e])
    mean = [max(1e-12, sum(q[c] for q in p) / n) for c in range(classes)]
    wanted = [1 / classes if threshold == "half" else float(prior[c]) for c in range(classes)]
    scores = [[q[c] / mean[c] * wanted[c] for c in range(classes)] for q in p]
    return [score.index(max(score)) for score in scores]


def slow_ramp(step, total, warmup_frac, a_max):
    done = step / total  # share of training behind us when this step begins
    return a_max if done >= warmup_frac else a_max * done / warmup_frac


def slow_log_f(row):
    """log softmax of one example, class by class."""
    return [-slow_ce(row, [1.0 if c == k else 0.0 for c in range(len(row))]) for k in range(len(row))]


def slow_logconf(loss, rows, p, prior, step, total) -> Any:
    """(1 - a) CE(f, p) + a CE(f, hard_t(f)) by example, hard labels without gradient."""
    a = slow_ramp(step, total, loss.warmup_frac, loss.a_max)
    hard = slow_hard(rows, prior, loss.threshold)
    terms = []
    for row, q, y in zip(rows, p, hard, strict=True):
        own = [1.0 if c == y else 0.0 for c in range(len(q))]
        terms.append((1 - a) * slow_ce(row, q) + a * slow_ce(row, own))
    return terms


def slow_term(loss, row, q, step, total, certainty) -> Any:
    """The loss of one example, for losses that look at no other."""
    classes = range(len(q))
    log_f = slow_log_f(row)
    f = [math.exp(float(x.detach())) for x in log_f]
    if loss.name == "xent":
        return slow_ce(row, q)
    if loss.name == "product":
        wanted = [q[c] ** loss.alpha * f[c] ** loss.beta for c in classes]
        return slow_ce(row, [w / sum(wanted) for w in wanted])
    if loss.name == "kl" and loss.direction == "forward":
        return sum(q[c] * (math.log(q[c]) - log_f[c]) for c in classes if q[c] > 0)
    if loss.name == "kl":
        return sum(torch.exp(log_f[c]) * (log_f[c] - math.log(max(q[c], 1e-6))) for c in classes)
    if loss.name == "entropy":
        a = slow_ramp(step, total, loss.warmup_frac, loss.a_max)
        own = slow_ce(row, f) if loss.detach else -sum(torch.exp(x) * x for x in log_f)
        return (1 - a) * slow_ce(row, q) + a * own
    if loss.name == "window":
        radius = certainty if loss.radius == "midweak" else loss.radius
        return slow_ce(row, q) * (1.0 if max(f) < 1 / len(q) + radius else 0.0)
    if loss.name == "gce":
        return sum(q[c] * (1 - torch.exp(log_f[c]) ** loss.q) / loss.q for c in classes)
    assert loss.name == "adaptconf"
    mine, weak = f.index(max(f)), list(q).index(max(q))
    s, w = (f[k] ** (-1 / loss.temperature) for k in (mine, weak))  # exp(CE / temperature)
    b = s / (s + w) * slow_ramp(step, total, loss.warmup_frac, 1.0)
    return (1 - b) * slow_ce(row, q) + b * slow_ce(row, [1.0 if c == mine else 0.0 for c in classes])


def slow_loss(loss, rows, p, prior, step, total, certainty=math.nan) -> Any:
    """Mean over the batch, also over the examples that a loss leaves out."""
    if loss.name == "logconf":
        terms = slow_logconf(loss, rows, p, prior, step, total)
    else:
        terms = [slow_term(loss, row, q, step, total, certainty) for row, q in zip(rows, p, strict=True)]
    return sum(terms) / len(rows)


def slow_lr(recipe, step, total):
    """The learning rate by table: warm-up in equal rises up to lr, then cosine or line over what is left."""
    warm = recipe.warmup_frac * total
    rises = math.ceil(warm - 1e-9)
    if step < rises:
        return recipe.lr * (step + 1) / (rises + 1)
    left = (step - warm) / max(1.0, total - warm)
    fall = {"constant": 1.0, "linear": 1 - left, "cosine": (1 + math.cos(math.pi * left)) / 2}
    return recipe.lr * fall[recipe.schedule]


def plain_training(model, tokens, p_NC, recipe, seed, *, stop_before=None, threshold_per=None):
    """The training loop as one would write it by hand: whole batches, unfused AdamW. Returns the losses.

    `threshold_per` sets the confidence threshold on parts of so many examples: the mistake that w2s must not make.
    """
    trained = [q for q in model.parameters() if q.requires_grad]
    decayed = [q for q in trained if q.ndim > 1]
    other = [q for q in trained if q.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=1.0, betas=recipe.betas, foreach=False)
    batches = [b for e in range(recipe.epochs) for b in epoch_batches(len(tokens), recipe.batch_size, seed, e)]
    prior = [float(x) for x in p_NC.astype(np.float64).mean(axis=0)]
    certainty = sorted(max(p) for p in p_NC.tolist())[(len(p_NC) - 1) // 2] - 1 / p_NC.shape[1]  # the lower middle
    losses = []
    model.train()
    for step, batch in enumerate(batches[:stop_before]):
        rows = [tokens.ids_S[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() for i in batch]
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokens.pad_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits = model([(ids, mask)])
        size = threshold_per or len(batch)
        parts = [slice(i, i + size) for i in range(0, len(batch), size)]
        p = p_NC[batch]
        loss = sum(
            slow_loss(recipe.loss, logits[s], p[s].tolist(), prior, step, len(batches), certainty) * len(logits[s])
            for s in parts
        ) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = slow_lr(recipe, step, len(batches))
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(scope="session")
def slow():
    """The slow references by name."""
    return types.SimpleNamespace(
        ce=slow_ce, hard=slow_hard, ramp=slow_ramp, loss=slow_loss, lr=slow_lr, training=plain_training
    )


@pytest.fixture(scope="session")
def tiny():
    """How folders are made, for tests that need a special one."""
    return types.SimpleNamespace(save_model=save_model, save_tokenizer=save_tokenizer)


@pytest.fixture
def chunks(base_of, texts):
    """arch -> two chunks, as a classifier takes them, that hold the texts."""

    def make(arch):
        tokens = models.tokenise(base_of(arch), texts)
        return [tokens.padded(np.arange(8)), tokens.padded(np.arange(8, len(texts)))]

    return make
