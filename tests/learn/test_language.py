"""Prompts and target texts under a language-model head, held against transformers' own models, one text at a time.

The references read the same folder through AutoModelForCausalLM, without padding, batches or a cache of ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from w2s.errors import StepError
from w2s.learn import language, trainer
from w2s.learn.batching import Tokens
from w2s.spec import Engine, Frozen, Lora, Probe, Recipe

ARCHS = ("llama", "qwen2", "gpt2", "neox")  # a head of its own; tied to the embeddings; learned positions; parallel
ROOM = 5
RECIPE = Recipe(lr=3e-3, batch_size=7, epochs=2)


@pytest.fixture(scope="module")
def targets():
    """23 targets of 0 to 3 words."""
    rng = np.random.default_rng(3)
    return [" ".join(f"w{i}" for i in rng.integers(0, 40, size)) for size in rng.integers(0, 4, 23)]


@pytest.fixture(scope="module")
def learned(base_of, texts, targets):
    def make(arch="llama"):
        words = language.words_of(base_of(arch), ROOM)
        return language.joined_with(words.prompts(texts), words.targets(targets))

    return make


def whole_model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def row_of(tokens, row):
    return tokens.ids_S[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()


def slow_log_p(model, ids, n_targets):
    """log p of the last `n_targets` tokens, one forward pass for each of them."""
    total = 0.0
    for place in range(len(ids) - n_targets, len(ids)):
        with torch.no_grad():
            row = model(torch.tensor([ids[:place]])).logits[0, -1].double()
        total += float(row[ids[place]] - torch.log(torch.exp(row).sum()))
    return total


@pytest.mark.parametrize("arch", ARCHS)
def test_the_log_probability_is_that_of_the_targets_tokens_and_of_nothing_else(base_of, folder_of, learned, arch):
    tokens = learned(arch)
    model = language.build(base_of(arch), RECIPE, 0).eval()
    rows = np.arange(len(tokens))
    with torch.no_grad():
        found = model([tokens.padded(rows[:9]), tokens.padded(rows[9:])])[:, 0].tolist()
    reference = whole_model(folder_of(arch))
    assert tokens.target_M.min() == 1  # an empty target is its end alone
    for row in rows:
        wanted = slow_log_p(reference, row_of(tokens, row), int(tokens.target_M[row]))
        assert found[row] == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_greedy_texts_are_those_of_transformers_one_by_one(base_of, folder_of, texts, arch):
    words = language.words_of(base_of(arch), ROOM)
    prompts = words.prompts(texts)
    model = language.build(base_of(arch), RECIPE, 0)
    made = language.generate(model, prompts, words, 6, "cpu")
    reference = whole_model(folder_of(arch))
    for row in range(len(texts)):
        ids = torch.tensor([row_of(prompts, row)])
        with torch.no_grad():
            whole = reference.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=ROOM, do_sample=False, pad_token_id=0,
                eos_token_id=words.end,
            )[0].tolist()  # fmt: skip
        own = whole[ids.shape[1] :]
        assert made.texts[row] == words.texts([[i for i in own if i not in (0, words.end)]])[0]
        assert made.log_p_N[row] == pytest.approx(slow_log_p(reference, whole, len(own)), abs=3e-4)


def test_batches_do_not_matter_to_greedy_texts(base_of, texts):
    words = language.words_of(base_of("llama"), ROOM)
    prompts = words.prompts(texts)
    model = language.build(base_of("llama"), RECIPE, 0)
    one, many = (language.generate(model, prompts, words, size, "cpu") for size in (1, 64))
    assert one.texts == many.texts
    np.testing.assert_allclose(one.log_p_N, many.log_p_N, atol=1e-4)


def test_after_the_end_nothing_counts(base_of):
    """A model whose head always chooses the end answers nothing, at the log-probability of one token."""
    base = base_of("llama")
    words = language.words_of(base, ROOM)
    model = language.build(base, RECIPE, 0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[words.end] += 0.0
    made = language.generate(model, words.prompts(["w1 w2"]), dataclasses.replace(words, end=0), 4, "cpu")
    assert made.texts == [""]  # of equal logits the lowest token, here the end
    assert made.log_p_N[0] == pytest.approx(-np.log(model.head.weight.shape[0]), abs=1e-5)
    assert made.tokens == 1


def run(base, tokens, cpu, micro=None, recipe=RECIPE, seed=0):
    model = language.build(base, recipe, seed)
    ones_N1 = np.ones((tokens.examples, 1), dtype=np.float32)
    trained = trainer.train(model, tokens, ones_N1, recipe, seed, cpu(recipe), micro)
    return trained, {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_micro_batches_do_not_matter_and_the_loss_is_the_mean_over_examples_of_sums(base_of, folder_of, learned, cpu):
    tokens = learned()
    whole, weights = run(base_of("llama"), tokens, cpu)
    for micro in (1, 3):
        trained, other = run(base_of("llama"), tokens, cpu, micro)
        assert [row["loss"] for row in trained.history] == pytest.approx([row["loss"] for row in whole.history], 1e-4)
        assert max(float((weights[name] - other[name]).abs().max()) for name in weights) < 2e-5
    first = trainer.epoch_batches(tokens.examples, RECIPE.batch_size, 0, 0)[0]
    reference = whole_model(folder_of("llama"))
    sums = [slow_log_p(reference, row_of(tokens, row), int(tokens.target_M[row])) for row in first]
    assert whole.history[0]["loss"] == pytest.approx(-sum(sums) / len(first), rel=1e-5)
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]


def test_ranks_see_the_same_examples_with_the_same_targets(learned):
    """What a rank is dealt keeps its targets: sums over shares are those over the batch."""
    tokens = learned()
    shares = [share for rank in trainer.cut(tokens.example_lengths, 2, 4) for share in rank]
    counted = sum(int(tokens.padded(share)[2].sum()) for share in shares if len(share))
    assert counted == int(tokens.target_M.sum())
    some = tokens.some(np.array([4, 2]))
    assert some.target_M.tolist() == [tokens.target_M[4], tokens.target_M[2]]
    assert some.padded(np.array([1]))[2].sum() == tokens.target_M[2]


def test_prompts_are_cut_on_the_left_and_targets_on_the_right(base_of):
    base = dataclasses.replace(base_of("llama"), max_length=8)
    words = language.words_of(base, 3)
    tokens = words.prompts(["w1 w2 w3 w4 w5 w6 w7", "w1 w2"])
    names = [base.tokenizer.decode(row_of(tokens, row)) for row in (0, 1)]
    assert (names, tokens.truncated) == (["w3 w4 w5 w6 w7", "w1 w2"], 1)
    ends = words.targets(["w1", "w1 w2 w3 w4", ""])
    assert [len(one) for one in ends] == [2, 3, 1]
    assert [one[-1] == words.end for one in ends] == [True, False, True]


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def embeddings_of(model) -> Any:
    base: Any = model.base
    return base.get_input_embeddings()


def test_what_is_trained_of_a_head(base_of):
    def names(arch, tune):
        return trained_names(language.build(base_of(arch), Recipe(tune=tune), 0))

    assert "head.weight" in names("llama", Frozen(layers=1))
    assert "head.weight" in names("llama", Probe())
    assert names("llama", Probe()) == {"head.weight"} == names("qwen2", Probe())
    assert "head.weight" not in names("llama", Lora())
    assert not any("emb" in name for name in names("qwen2", Frozen(layers=1)))
    tied = language.build(base_of("qwen2"), Recipe(), 0)
    assert tied.head.weight is embeddings_of(tied).weight
    shared = base_of("qwen2").module.get_input_embeddings().weight
    assert tied.head.weight.data_ptr() != shared.data_ptr()  # what is trained is a copy
    loose = language.build(base_of("qwen2"), Recipe(tune=Probe()), 0)
    assert loose.head.weight is not embeddings_of(loose).weight
    assert torch.equal(loose.head.weight, shared)


def test_what_cannot_generate_is_refused(base_of):
    with pytest.raises(StepError, match=r"model tiny bert: is an encoder, which generates no text"):
        language.words_of(base_of("bert"), ROOM)
    with pytest.raises(StepError, match=r"max_length 5 leaves no room for a prompt beside 5 new tokens"):
        language.words_of(dataclasses.replace(base_of("llama"), max_length=5), ROOM)
    with pytest.raises(StepError, match=r"zero_stage: 3"):
        language.build(base_of("llama"), RECIPE, 0, Engine(zero_stage=3))


def test_a_model_that_scales_its_logits_is_refused(base_of, monkeypatch):
    base = base_of("llama")
    monkeypatch.setattr(base.module.config, "final_logit_softcapping", 30.0, raising=False)
    with pytest.raises(StepError, match="final_logit_softcapping"):
        language.build(base, RECIPE, 0)


def test_log_probabilities_that_are_not_finite_are_no_answers(base_of):
    words = language.words_of(base_of("llama"), ROOM)
    model = language.build(base_of("llama"), RECIPE, 0)
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(StepError, match=r"log-probabilities of 1 of 1 answers are not finite"):
        language.generate(model, words.prompts(["w1"]), words, 4, "cpu")


def test_padding_on_the_left():
    tokens = Tokens.of([[5, 6, 7], [8]], 0)
    ids, mask = language.left_padded(tokens, np.array([1, 0]), "cpu")
    assert (ids.tolist(), mask.tolist()) == ([[0, 0, 8], [5, 6, 7]], [[0, 0, 1], [1, 1, 1]])
