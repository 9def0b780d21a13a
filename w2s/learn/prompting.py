"""Texts, labelled examples and a decoder in, log-probabilities of the words of classes out; nothing is trained.

A prompt is a list of tokens: what the tokenizer puts before every text, the instruction, each shown example with its
word, and the example that is asked about. Every part is tokenised by itself, so that an example reads the same wherever
it stands and all that comes before the last one is run once. Refuses encoders, and words without tokens or with equal
ones.

Shapes: N examples asked about, B of a batch, T tokens, P tokens of what is shared, C classes, V tokens of the model.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor

from w2s.errors import StepError
from w2s.learn import models, predict, ranks
from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, by_length
from w2s.learn.labels import Floats, Ints
from w2s.learn.language import LanguageModel, joined_with
from w2s.learn.models import Base
from w2s.progress import Count, silent
from w2s.prompts import BETWEEN, filled, tail
from w2s.randomness import shuffled, stream_seed

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # layers that keep keys and values, no more
WINDOWS = ("sliding_window", "window_size")  # of configurations that do not list their layers; the latter: GPT-Neo


# -- words and texts to tokens ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wording:
    """How examples and classes are put, as tokens. `lead` is what stands first, `words` has the tokens by class."""

    base: Base
    template: str
    lead: list[int]
    words: tuple[tuple[int, ...], ...]
    between: list[int]

    @property
    def longest(self) -> int:
        """Tokens of the longest word."""
        return max(map(len, self.words))

    def example(self, texts: Sequence[str], room: int | None = None) -> list[int]:
        """Tokens of one example; its texts are cut on the left until it has at most `room`, the template never."""
        ids = _ids(self.base, filled(self.template, texts))
        kept = [_ids(self.base, text) for text in texts] if room is not None and len(ids) > room else []
        while room is not None and len(ids) > room:
            most = _cap([len(one) for one in kept], sum(map(len, kept)) - (len(ids) - room))
            if most < 1:
                raise StepError(
                    f"model {self.base.spec.name}: of {self.base.max_length} tokens the prompt leaves no room for a "
                    "text; use a shorter template or instruction, or raise max_length"
                )
            kept = [one[-most:] for one in kept]
            shorter = [self.base.tokenizer.decode(one, clean_up_tokenization_spaces=False).lstrip() for one in kept]
            ids = _ids(self.base, filled(self.template, shorter))
        return ids

    def examples(self, texts: Sequence[Sequence[str]], room: int) -> Tokens:
        """Those of every example; `truncated` counts the ones that were cut."""
        with models.quiet():
            every = self.base.tokenizer([filled(self.template, one) for one in texts], add_special_tokens=False)
            ids = [list(one) for one in every["input_ids"]]
        cut = [row for row, one in enumerate(ids) if len(one) > room]
        for row in cut:
            ids[row] = self.example(texts[row], room)
        pad_id = self.base.tokenizer.pad_token_id
        return Tokens.of(ids, 0 if pad_id is None else pad_id, len(cut))


def wording(base: Base, template: str, words: Sequence[str], instruction: str = "", calibrated: bool = True) -> Wording:
    """The template and words as this model's tokenizer has them. Raises StepError for what tells no classes apart."""
    name = base.spec.name
    with models.quiet():
        config = transformers.AutoConfig.from_pretrained(base.folder, trust_remote_code=base.spec.trust_remote_code)
    if not models.is_decoder(config, base.spec):
        raise StepError(f"model {name}: is an encoder, which cannot be prompted; use a decoder")
    found = tuple(tuple(_word(base, tail(template), word)) for word in words)
    for word, ids in zip(words, found, strict=True):
        if not ids:
            raise StepError(f"model {name}: recipe.tune.words: {word!r} has no tokens; choose another word")
        if base.tokenizer.unk_token_id in ids:
            raise StepError(f"model {name}: recipe.tune.words: its tokenizer does not know {word!r}; choose another")
    for place, ids in enumerate(found):
        if ids in found[:place]:
            same = words[found.index(ids)]
            raise StepError(f"model {name}: recipe.tune.words: {same!r} and {words[place]!r} are the same tokens")
    for word, ids in zip(words, found, strict=True):
        longer = [other for other, own in zip(words, found, strict=True) if own[: len(ids)] == ids and other != word]
        if longer and not calibrated:
            raise StepError(
                f"model {name}: recipe.tune.words: {longer[0]!r} begins with the tokens of {word!r}, and so is never "
                "more likely; choose other words, or calibrated: true"
            )
    before = _ids(base, instruction + BETWEEN) if instruction else []
    return Wording(base, template, [*_first(base), *before], found, _ids(base, BETWEEN))


def _ids(base: Base, text: str) -> list[int]:
    with models.quiet():
        ids: list[int] = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(ids)


def _first(base: Base) -> list[int]:
    """The special tokens that a tokenizer puts before a text; those behind one would end it."""
    with models.quiet():
        whole = list(base.tokenizer("a")["input_ids"])
    own = _ids(base, "a")
    return whole[: next((at for at in range(len(whole)) if whole[at : at + len(own)] == own), 0)]


def _word(base: Base, before: str, word: str) -> list[int]:
    """Tokens of a word as they follow the end of a template, where its end stays the same before them."""
    alone, whole = _ids(base, before), _ids(base, before + word)
    return whole[len(alone) :] if alone and whole[: len(alone)] == alone else _ids(base, word)


def _cap(lengths: Sequence[int], room: int) -> int:
    """The largest m for which the lengths, each cut to m, sum to `room` at most."""
    m = max(lengths)
    while m > 0 and sum(min(length, m) for length in lengths) > room:
        m -= 1
    return m


# -- what is shown -----------------------------------------------------------------------------------------------------


def drawn(ids: Sequence[str], y_N: Ints, shots: int, classes: int, seed: int) -> list[int]:
    """Places of the examples to show, in the order of the prompt: so many, as equal in class as labels allow.

    Which examples, in which order, and which classes have one more depends on the seed and on the examples' names, not
    on their order. Raises StepError where fewer have labels.
    """
    if len(ids) < shots:
        raise StepError(f"recipe.tune.shots: {shots} asked for, and {len(ids)} examples have labels; show fewer")
    order = shuffled(ids, seed, "shots")
    left = {c: [place for place in order if y_N[place] == c] for c in range(classes)}
    turns = np.random.default_rng(stream_seed(seed, "shots", "classes")).permutation(classes).tolist()
    found: list[int] = []
    while len(found) < shots:
        for c in turns:
            if left[c] and len(found) < shots:
                found.append(left[c].pop(0))
    again = shuffled([ids[place] for place in found], seed, "shots", "order")
    return [found[place] for place in again]


class Shown(NamedTuple):
    """All tokens before the example that is asked about, and which of the examples drawn are among them."""

    ids: list[int]
    kept: list[int]


def shown(wording: Wording, examples: Sequence[tuple[Sequence[str], int]], reserve: int) -> Shown:
    """The examples (texts, class) that fit whole, in their order; `reserve` tokens stay free for what is asked."""
    ids, kept = list(wording.lead), list[int]()
    for place, (texts, label) in enumerate(examples):
        one = [*wording.example(texts), *wording.words[label], *wording.between]
        if len(ids) + len(one) + reserve + wording.longest <= wording.base.max_length:
            ids += one
            kept.append(place)
    return Shown(ids, kept)


def reserve_of(wording: Wording, texts: Sequence[Sequence[str]]) -> int:
    """Tokens to keep free for an example: as many as the longest of these, at most half of what the model reads."""
    half = wording.base.max_length // 2
    return min(half, int(wording.examples(texts, half).lengths.max()))


# -- probabilities -----------------------------------------------------------------------------------------------------


class Asker:
    """A model that has read what is shared. `tokens` counts all that went through it."""

    def __init__(self, model: LanguageModel, wording: Wording, before: Sequence[int], device: torch.device) -> None:
        self.model, self.wording, self.before, self.device = model.to(device).eval(), wording, list(before), device
        self.room = wording.base.max_length - len(self.before) - wording.longest
        self.tokens = 0
        self.caches = _keeps_keys(model.base)
        accepted = inspect.signature(model.base.forward).parameters
        self._placed = "position_ids" in accepted

    def ask(self, texts: Sequence[Sequence[str]], batch_size: int, report: Count = silent) -> tuple[Floats, int]:
        """Log-probabilities (N, C) of every class's word after each example, and how many examples had to be cut.

        The same on every rank, which share the batches. Raises StepError where one is not finite.
        """
        asked = self.wording.examples(texts, self.room)
        log_p_NC = (self._cached if self.caches else self._plain)(asked, batch_size, report)
        broken = int((~np.isfinite(log_p_NC)).any(axis=1).sum())
        if broken:
            raise StepError(f"the log-probabilities of {broken} of {len(asked)} examples are not finite")
        return log_p_NC, asked.truncated

    def _plain(self, asked: Tokens, batch_size: int, report: Count) -> Floats:
        """Whole prompts, once for each class: for models that do not keep keys and values."""
        ends = asked.offsets
        whole = [[*self.before, *asked.ids_S[ends[row] : ends[row + 1]].tolist()] for row in range(len(asked))]
        columns = []
        for word in self.wording.words:
            tokens = joined_with(Tokens.of(whole, asked.pad_id), [word] * len(whole))
            self.tokens += int(tokens.lengths.sum())
            columns.append(predict.predict(self.model, tokens, batch_size, self.device, report))
        return np.concatenate(columns, axis=1)

    def _cached(self, asked: Tokens, batch_size: int, report: Count) -> Floats:
        # Where attention looks back over a window, or distances are counted over all there is (MPT), padding between
        # example and word would move it: equal lengths only.
        overhead = OVERHEAD_TOKENS[self.device.type] if self._placed and not _windowed(self.model.base) else 0
        log_p_NC, done = np.zeros((len(asked), len(self.wording.words)), dtype=np.float32), 0
        self.tokens += int(asked.lengths.sum()) + len(asked) * sum(len(word) - 1 for word in self.wording.words)
        with torch.no_grad():
            for turn, batch in enumerate(by_length(asked.lengths, batch_size, overhead)):
                if turn % ranks.size() == ranks.rank():
                    log_p_NC[batch] = self._batch(*asked.padded(batch, self.device)).cpu().numpy()
                done += len(batch)
                report(done, len(asked))
        ranks.total(torch.from_numpy(log_p_NC))  # every row is one rank's, and zero on the others
        return log_p_NC

    @functools.cached_property
    def _shared(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of what is shared, by layer (1, heads, P, D)."""
        if not self.before:
            return []
        self.tokens += len(self.before)
        ids_1P = torch.tensor([self.before], device=self.device)
        _, cache = self._run(ids_1P, torch.ones_like(ids_1P), [], 0)
        return _kept(cache)

    def _batch(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Log-probabilities (B, C) after examples that are padded on the right."""
        shared, read = self._shared, len(self.before)
        own = [
            (keys.expand(len(ids_BT), -1, -1, -1), values.expand(len(ids_BT), -1, -1, -1)) for keys, values in shared
        ]
        mask_BM = torch.cat([torch.ones(len(ids_BT), read, dtype=mask_BT.dtype, device=self.device), mask_BT], dim=1)
        hidden_BTD, cache = self._run(ids_BT, mask_BM, own, read)
        last_B = mask_BT.sum(dim=1) - 1
        log_BV = self._log_p(hidden_BTD[torch.arange(len(ids_BT), device=self.device), last_B])
        found, kept = [], _kept(cache)
        for word in self.wording.words:
            found.append(log_BV[:, word[0]])
            if len(word) > 1:
                found[-1] = found[-1] + self._rest(word, mask_BM, kept, read + last_B + 1)
        return torch.stack(found, dim=1)

    def _rest(self, word: Sequence[int], mask_BM: Tensor, kept: list[tuple[Tensor, Tensor]], next_B: Tensor) -> Tensor:
        """Log-probabilities (B,) of a word's tokens but the first; `next_B` is the place of the first."""
        word_K = torch.tensor(word, device=self.device)
        ids_BK = word_K[:-1].expand(len(mask_BM), -1)
        mask_BM = torch.cat([mask_BM, torch.ones_like(ids_BK)], dim=1)
        hidden_BKD, _ = self._run(ids_BK, mask_BM, kept, next_B[:, None])
        log_BKV = self._log_p(hidden_BKD)
        return log_BKV.gather(2, word_K[1:].expand(len(mask_BM), -1)[:, :, None])[:, :, 0].sum(dim=1)

    def _run(
        self, ids_BT: Tensor, mask_BM: Tensor, kept: list[tuple[Tensor, Tensor]], first: Any
    ) -> tuple[Tensor, Any]:
        """Hidden states (B, T, D) and the cache after them. `mask_BM` is that of all tokens, those in `kept` first."""
        cache: Any = transformers.DynamicCache()
        for layer, (keys, values) in enumerate(kept):
            cache.update(keys, values, layer)
        place_BT = (first + torch.arange(ids_BT.shape[1], device=self.device)).expand(ids_BT.shape)
        told = {"position_ids": place_BT} if self._placed else {}
        precision = self.model.precision
        with torch.no_grad(), torch.autocast(self.device.type, dtype=precision, enabled=precision is not None):
            made = self.model.base(
                input_ids=ids_BT, attention_mask=mask_BM, past_key_values=cache, use_cache=True, **told
            )
        return made.last_hidden_state, made.past_key_values

    def _log_p(self, hidden: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return torch.log_softmax(self.model.head(hidden.float()), dim=-1)


def _kept(cache: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _keeps_keys(module: Any) -> bool:
    """True where all that a model remembers of a text are keys and values of attention."""
    kinds = set(getattr(module.config, "layer_types", None) or ())
    accepted = inspect.signature(module.forward).parameters
    return "past_key_values" in accepted and not getattr(module, "_is_stateful", False) and kinds <= ATTENTION


def _windowed(module: Any) -> bool:
    """True where some layer's attention sees only so many tokens back."""
    kinds = set(getattr(module.config, "layer_types", None) or ())
    return bool(kinds - {"full_attention"}) if kinds else any(getattr(module.config, name, None) for name in WINDOWS)


# -- logits ------------------------------------------------------------------------------------------------------------


def shift_of(log_p_NC: Floats) -> Floats:
    """What calibration takes from log-probabilities: their mean (C,) over unlabelled texts.

    Source: Zhou et al. 2023, arXiv 2309.17249 (batch calibration), over a whole split, and with the mean of logarithms:
    then the classes are equally likely on average, in log odds.
    """
    return np.asarray(log_p_NC.astype(np.float64).mean(axis=0), dtype=np.float32)
