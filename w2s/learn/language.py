"""A base model with its language-model head: prompts and targets to log-probabilities, prompts to greedy texts.

Refuses what is no decoder, and a head that does more than multiply. What a model learns from is the sum, over the
tokens of a target and the token that ends it, of their log-probabilities: one number for each example.

Shapes: N examples, B of a batch or chunk, T tokens, D hidden size, V words, K target tokens of a chunk.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from w2s.errors import StepError
from w2s.learn import adapt, models, ranks
from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, by_length
from w2s.learn.models import ENGINE, Base
from w2s.progress import Count, silent
from w2s.spec import Engine, Probe, Recipe

# Settings by which an architecture does something to the logits after its head.
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True)
class Words:
    """How a model's tokenizer makes prompts and targets of texts: `room` tokens are kept free for an answer."""

    base: Base
    room: int
    end: int

    def prompts(self, texts: Sequence[str]) -> Tokens:
        """Prompts, cut on the left to what the room for an answer leaves; `truncated` counts those."""
        cut = replace(self.base, max_length=self.base.max_length - self.room)
        return models.tokenise(cut, list(texts))

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text its tokens after a space, and the one that ends it; cut on the right to the room."""
        with models.quiet():
            found = [
                self.base.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] if text else [] for text in texts
            ]
        return [[*ids, self.end][: self.room] for ids in found]

    def texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """What generated tokens say, without spaces around it."""
        tokenizer = self.base.tokenizer
        return [
            tokenizer.decode(list(one), skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
            for one in ids
        ]


def words_of(base: Base, room: int) -> Words:
    """The words of a model. Raises StepError for one that cannot generate, and where prompts have no room."""
    name, config = base.spec.name, _decoders_config(base)
    end = base.tokenizer.eos_token_id
    if end is None or end >= getattr(config, "vocab_size", end + 1):  # a name that the tokenizer's class brings along
        ends = getattr(config, "eos_token_id", None)
        end = ends[0] if isinstance(ends, list) else ends
    if end is None:
        raise StepError(f"model {name}: its tokenizer has no token that ends a text; use another model")
    if base.max_length <= room:
        raise StepError(
            f"model {name}: max_length {base.max_length} leaves no room for a prompt beside {room} new tokens; raise "
            "max_length, or lower max_new_tokens"
        )
    return Words(base, room, int(end))


def _decoders_config(base: Base) -> Any:
    """The configuration of a decoder. Raises StepError for an encoder."""
    with models.quiet():
        config = transformers.AutoConfig.from_pretrained(base.folder, trust_remote_code=base.spec.trust_remote_code)
    if not models.is_decoder(config, base.spec):
        raise StepError(f"model {base.spec.name}: is an encoder, which generates no text; use a decoder")
    return config


def running_text(base: Base, texts: Sequence[str]) -> Tokens:
    """Texts of which every token but the first is learned; those that have one token alone are left out.

    Cut on the left like all texts. No token that ends a text is added: it would be learned for what follows it only.
    Raises StepError for an encoder.
    """
    _decoders_config(base)
    tokens = models.tokenise(base, list(texts))
    tokens = tokens.some(np.flatnonzero(tokens.lengths > 1))
    return replace(tokens, target_M=tokens.lengths - 1)


def joined_with(prompts: Tokens, targets: Sequence[Sequence[int]]) -> Tokens:
    """Prompts followed by their targets, as one text each, of which the targets are what is learned."""
    ends = prompts.offsets
    whole = [[*prompts.ids_S[ends[row] : ends[row + 1]].tolist(), *target] for row, target in enumerate(targets)]
    made = Tokens.of(whole, prompts.pad_id, prompts.truncated)
    return replace(made, target_M=np.array([len(target) for target in targets], dtype=np.int64))


# -- the model ---------------------------------------------------------------------------------------------------------


class LanguageModel(nn.Module):
    """A base model and its head: log-probabilities of targets, in float32, and greedy continuations.

    `precision` is that of the base model's matrix products, as in `Classifier`.
    """

    def __init__(self, base: nn.Module, head: nn.Linear, precision: torch.dtype | None = None) -> None:
        super().__init__()
        self.base = base
        self.head = head
        self.precision = precision

    def forward(self, chunks: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """log p(target | prompt) (B, 1) of the examples of all chunks: each (ids, mask, which are targets), (b, T)."""
        device = chunks[0][0].device.type
        with torch.autocast(device, dtype=self.precision, enabled=self.precision is not None):
            hidden = [self.base(input_ids=ids, attention_mask=mask).last_hidden_state for ids, mask, _ in chunks]
        with torch.autocast(device, enabled=False):
            return torch.cat([self._log_p(h, *chunk) for h, chunk in zip(hidden, chunks, strict=True)])[:, None]

    def _log_p(self, hidden_BTD: Tensor, ids_BT: Tensor, _: Tensor, target_BT: Tensor) -> Tensor:
        """Sums (B,) over target tokens. The token before each predicts it: only there is the head computed."""
        row_K, place_K = target_BT.nonzero(as_tuple=True)
        logits_KV = self.head(hidden_BTD[row_K, place_K - 1].float())
        chosen_K = logits_KV.gather(1, ids_BT[row_K, place_K, None])[:, 0] - logits_KV.logsumexp(dim=1)
        return torch.zeros(len(ids_BT), device=chosen_K.device).index_add(0, row_K, chosen_K)

    def generate(self, ids_BT: Tensor, mask_BT: Tensor, end: int, room: int) -> tuple[Tensor, Tensor]:
        """Greedy tokens (B, at most `room`), `end` from where a text ended; sums (B,) of their log-probabilities.

        Prompts are padded on the left. Ties go to the lower token. Keys and values are kept from token to token.
        """
        accepted = inspect.signature(self.base.forward).parameters
        past: Any = transformers.DynamicCache()
        place_BT = (mask_BT.cumsum(dim=1) - 1).clamp_min(0)
        total_B = torch.zeros(len(ids_BT), device=ids_BT.device)
        going_B = torch.ones(len(ids_BT), dtype=torch.bool, device=ids_BT.device)
        found: list[Tensor] = []
        for _ in range(room):
            told = {"position_ids": place_BT} if "position_ids" in accepted else {}
            with torch.autocast(ids_BT.device.type, dtype=self.precision, enabled=self.precision is not None):
                made = self.base(input_ids=ids_BT, attention_mask=mask_BT, past_key_values=past, use_cache=True, **told)
            past = made.past_key_values
            with torch.autocast(ids_BT.device.type, enabled=False):
                log_BV = torch.log_softmax(self.head(made.last_hidden_state[:, -1].float()), dim=1)
            best_B = log_BV.argmax(dim=1)
            total_B = total_B + torch.where(going_B, log_BV.gather(1, best_B[:, None])[:, 0], 0.0)
            best_B = torch.where(going_B, best_B, end)
            found.append(best_B)
            going_B = going_B & (best_B != end)
            if not going_B.any():
                break
            ids_BT, place_BT = best_B[:, None], place_BT[:, -1:] + 1
            mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)
        return torch.stack(found, dim=1), total_B


def build(base: Base, recipe: Recipe, seed: int, engine: Engine = ENGINE) -> LanguageModel:
    """A language model on the base model, frozen and adapted as recipe and engine say.

    Where head and embeddings are one matrix they stay so, and are trained or frozen together. A head of its own is
    trained with every weight (`full`) and with the upper layers (`frozen`), not under LoRA; `probe` trains the head
    alone, cut loose from the embeddings. Raises StepError for what this model cannot do.
    """
    if engine.zero_stage == 3:
        raise StepError(
            "engine.zero_stage: 3 cuts the language-model head apart; use 2 or less where text is generated"
        )
    name, precision = base.spec.name, adapt.PRECISIONS[engine.mixed_precision]
    module = models.sharing(base.module)
    head, tied = _head(base, module)
    adapt.set_dropout(module, recipe.dropout, name)
    adapt.tune(module, recipe, seed, name)
    if tied and isinstance(recipe.tune, Probe):
        head.weight = nn.Parameter(head.weight.detach().clone())
    elif not tied:
        head.weight.requires_grad_(recipe.tune.kind not in ("lora", "prompt"))
    model = LanguageModel(module, head, precision)
    for parameter in model.parameters():  # a matrix that is head and embeddings comes once
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
    if precision is not None:
        adapt.hold_frozen(module, precision)
    adapt.apply_engine(module, engine, name)
    return model


def _head(base: Base, module: Any) -> tuple[nn.Linear, bool]:
    """The language-model head, and whether its matrix is that of the embeddings."""
    config: Any = module.config
    for field in SCALED:
        if getattr(config, field, None) not in (None, 1, 1.0):
            raise StepError(
                f"model {base.spec.name}: scales its logits ({field}), which is not built here; use another model"
            )
    if base.spec.build is not None:
        raise StepError(
            f"model {base.spec.name}: what a plugin builds has no language-model head; use the model itself"
        )
    embedding = module.get_input_embeddings().weight
    tied = bool(getattr(config, "tie_word_embeddings", False))
    if base.head is not None:  # trained apart from the embeddings, or never one with them
        tied = False
    own = None if tied else models.output_embeddings(base)
    if own is not None and getattr(own, "bias", None) is not None:
        raise StepError(f"model {base.spec.name}: its head adds a bias, which is not built here; use another model")
    weight = embedding if own is None else own.weight
    if weight.shape[1] != embedding.shape[1]:
        raise StepError(f"model {base.spec.name}: its head reads {weight.shape[1]} numbers, not the hidden state")
    head = nn.Linear(1, 1, bias=False)  # of whatever size: its matrix is replaced
    head.out_features, head.in_features = weight.shape
    head.weight = embedding if tied else nn.Parameter(weight.detach().clone())
    return head, tied


# -- greedy texts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generated:
    """The greedy answer to every prompt, its log-probability (with that of its end), and how many tokens it took."""

    texts: list[str]
    log_p_N: np.ndarray
    tokens: int


def generate(
    model: Any,
    prompts: Tokens,
    words: Words,
    batch_size: int,
    device: torch.device | str,
    report: Count = silent,
) -> Generated:
    """Greedy answers, on every rank; `report` hears (examples done, of how many).

    Raises StepError where a log-probability is not finite.
    """
    model.eval()
    whole: LanguageModel = getattr(model, "module", model)  # DDP and DeepSpeed wrap forward only
    found_NR = np.zeros((len(prompts), words.room), dtype=np.int64)  # every row is one rank's, and zero on the others
    log_p_N, done = np.zeros(len(prompts), dtype=np.float64), 0
    batches = by_length(prompts.lengths, batch_size, OVERHEAD_TOKENS[torch.device(device).type])
    with torch.no_grad():
        for turn, batch in enumerate(batches):
            if turn % ranks.size() == ranks.rank():
                ids_BR, log_B = whole.generate(*left_padded(prompts, batch, device), words.end, words.room)
                width = ids_BR.shape[1]
                found_NR[batch, :width] = ids_BR.cpu().numpy()
                found_NR[batch, width:] = words.end
                log_p_N[batch] = log_B.double().cpu().numpy()
            done += len(batch)
            report(done, len(prompts))
    ranks.total(torch.from_numpy(found_NR))
    ranks.total(torch.from_numpy(log_p_N))
    broken = int((~np.isfinite(log_p_N)).sum())
    if broken:
        raise StepError(
            f"the log-probabilities of {broken} of {len(prompts)} answers are not finite: the training diverged; "
            "lower recipe.lr"
        )
    answers = [ids[: ids.index(words.end)] if words.end in ids else ids for ids in found_NR.tolist()]
    taken = sum(min(len(ids) + 1, words.room) for ids in answers)
    return Generated(words.texts(answers), log_p_N, taken)


def left_padded(tokens: Tokens, rows: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), both (B, T): the last token of every prompt stands last."""
    lengths = tokens.lengths[rows]
    width = int(lengths.max())
    ids_BT = np.full((len(rows), width), tokens.pad_id, dtype=np.int64)
    mask_BT = np.arange(width) >= (width - lengths)[:, None]
    for place, row in enumerate(rows):
        ids_BT[place, width - lengths[place] :] = tokens.ids_S[tokens.offsets[row] : tokens.offsets[row + 1]]
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT.astype(np.int64)).to(device)
