"""Vectors or texts of each split with labels in, logits and what was found out: a training that is one convex problem.

No weights of a base model, no torch, no seed. Refuses a choice of l2 where no label of val is there to choose by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from w2s.errors import StepError
from w2s.learn import logistic
from w2s.learn.labels import Floats
from w2s.learn.logistic import Chosen, Linear
from w2s.models import Words

WORD = r"(?u)\b\w+\b"  # also of one letter, which scikit-learn would leave out: "I", "a", "5"
FILE, WORDS = "trained.safetensors", "words.json"


class Vocabulary(NamedTuple):
    """The terms of training texts and their weights; `vectors` makes a sparse row of each text."""

    words: Words
    terms: tuple[str, ...]
    idf_D: Any

    @classmethod
    def of(cls, words: Words, texts: Sequence[str]) -> Vocabulary:
        """Raises StepError where no text holds a word."""
        try:
            made = _vectorizer(words).fit(texts)
        except ValueError as error:
            raise StepError(f"words of the training texts: {error}; give another model or other texts") from error
        return cls(words, tuple(made.get_feature_names_out().tolist()), made.idf_)

    def vectors(self, texts: Sequence[str]) -> Any:
        """Rows (N, D) of length 1: counts, damped by a logarithm, by how few training texts hold the term."""
        vectorizer = _vectorizer(self.words, {term: place for place, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf_D
        return vectorizer.transform(texts)


def _vectorizer(words: Words, vocabulary: Mapping[str, int] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import, and few runs need it

    return TfidfVectorizer(
        ngram_range=words.ngrams, min_df=words.min_count, sublinear_tf=True, vocabulary=vocabulary,
        token_pattern=WORD, dtype=np.float64,
    )  # fmt: skip


def solve(
    x: Mapping[str, Any],
    learned: Any,
    p_NC: Floats,
    val: tuple[Any, Floats],
    l2: float | None,
    per_example: int,
) -> tuple[Chosen, dict[str, Floats]]:
    """What is found, and logits (N, C) of every split in `x`.

    `learned`: the vectors of the examples that labels `p_NC` are for; `val`: those that l2 is chosen by, and their
    labels. Raises StepError.
    """
    if l2 is None and not len(val[1]):
        raise StepError("no example of val has a label to choose l2 by; give one, as recipe.tune.l2")
    found = logistic.chosen(learned, p_NC, *val, l2, per_example)
    logits = {split: np.asarray(found.linear.logits(rows)) for split, rows in x.items()}
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise StepError("a logit is not finite; give a larger recipe.tune.l2")
    return found, logits


def save(folder: Path, linear: Linear, vocabulary: Vocabulary | None) -> None:
    """The map, and for a model of words its vocabulary, as files that hold no code."""
    from safetensors.numpy import save_file

    folder.mkdir()
    numbers = {"weight": linear.weight_DO, "bias": linear.bias_O}
    save_file({name: np.ascontiguousarray(value) for name, value in numbers.items()}, folder / FILE)
    if vocabulary is not None:
        saved = {"terms": vocabulary.terms, "idf": [float(value) for value in vocabulary.idf_D]}
        (folder / WORDS).write_text(json.dumps(saved, ensure_ascii=False), encoding="utf-8")


def load(folder: Path, words: Words | None, per_example: int) -> tuple[Linear, Vocabulary | None]:
    """What `save` wrote."""
    from safetensors.numpy import load_file

    numbers = load_file(folder / FILE)
    linear = Linear(numbers["weight"], numbers["bias"], per_example)
    if words is None:
        return linear, None
    saved = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    return linear, Vocabulary(words, tuple(saved["terms"]), np.array(saved["idf"]))
