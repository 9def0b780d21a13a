"""Prompts held against transformers' own models, one whole prompt at a time, without batches, padding or a cache."""

from __future__ import annotations

import dataclasses
import functools
import json
import types

import numpy as np
import pytest
import torch
import transformers

from w2s.errors import StepError
from w2s.learn import language, models, prompting
from w2s.learn.prompting import Asker, drawn, reserve_of, shift_of, shown, wording
from w2s.spec import Engine, Prompt, Recipe

ARCHS = ("llama", "qwen2", "gpt2", "neox")
CPU = torch.device("cpu")
SIZED = ("vocab_size", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id")
RECIPE = Recipe(tune=Prompt())
TEMPLATE = "w5 {text} w6 w7"
WORDS = (" 0", " 1 w9", " w8 w9 w10")  # of one, two and three tokens
EXAMPLES = [("w1 w2 w3", 0), ("w4 w5", 2)]


def asker_of(base, worded, before, precision="no"):
    engine = Engine(mixed_precision=precision)
    return Asker(language.build(base, RECIPE, 0, engine), worded, before, CPU)


@functools.cache
def whole_model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def slow(folder, tokenizer, before, text, word):
    """log p of a word after one whole prompt, a forward pass for each of its tokens."""
    ids = [*before, *tokenizer(f"w5 {text} w6 w7", add_special_tokens=False)["input_ids"]]
    total = 0.0
    for one in tokenizer(word, add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            row = whole_model(folder)(torch.tensor([ids])).logits[0, -1].double()
        total += float(row[one] - torch.logsumexp(row, 0))
        ids.append(one)
    return total


@pytest.fixture(scope="module")
def asked(texts):
    return [(text,) for text in texts]


@pytest.fixture(scope="module")
def worded(base_of):
    return lambda arch="llama": wording(base_of(arch), TEMPLATE, WORDS, "w11 w12")


def before_of(own):
    return shown(own, [((text,), c) for text, c in EXAMPLES], 5).ids


@pytest.mark.parametrize("arch", ARCHS)
def test_log_probabilities_are_those_of_a_plain_pass_over_each_whole_prompt(
    base_of, folder_of, texts, asked, worded, arch
):
    base, own = base_of(arch), worded(arch)
    before = before_of(own)
    said = " ".join(["w11 w12", *(f"w5 {text} w6 w7{WORDS[c]}" for text, c in EXAMPLES)])  # parted by spaces here
    assert before == base.tokenizer(said)["input_ids"]
    asker = asker_of(base, own, before)
    assert asker.caches
    found, cut = asker.ask(asked[:9], 4)
    assert (found.shape, cut) == ((9, 3), 0)
    for row, text in enumerate(texts[:9]):
        wanted = [slow(folder_of(arch), base.tokenizer, before, text, word) for word in WORDS]
        np.testing.assert_allclose(found[row], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("with_examples", [False, True])
def test_what_is_read_once_and_kept_gives_the_numbers_of_whole_prompts(base_of, asked, worded, arch, with_examples):
    """Also without anything before the text; `_plain` is what models without a cache get."""
    own = worded(arch) if with_examples else wording(base_of(arch), TEMPLATE, WORDS)
    cached, plain = (asker_of(base_of(arch), own, before_of(own) if with_examples else []) for _ in range(2))
    plain.caches = False
    np.testing.assert_allclose(cached.ask(asked, 7)[0], plain.ask(asked, 7)[0], atol=1e-5, rtol=1e-5)
    tokenizer, n = base_of(arch).tokenizer, len(asked)
    tokens = sum(len(tokenizer(f"w5 {text} w6 w7")["input_ids"]) for (text,) in asked)
    before, words = len(cached.before), sum(len(tokenizer(word)["input_ids"]) for word in WORDS)
    assert cached.tokens == before + tokens + n * (words - 3)  # of words all tokens but the last
    assert plain.tokens == 3 * (n * before + tokens) + n * words


def test_batches_and_padding_do_not_matter(base_of, asked, worded):
    own = worded()
    one, many = (asker_of(base_of("llama"), own, before_of(own)).ask(asked, size)[0] for size in (1, 64))
    np.testing.assert_allclose(one, many, atol=1e-5, rtol=1e-5)
    alone = asker_of(base_of("llama"), own, before_of(own)).ask(asked[3:4], 8)[0]
    np.testing.assert_allclose(alone[0], many[3], atol=1e-5, rtol=1e-5)


def test_what_is_shared_is_read_once(base_of, asked, worded, monkeypatch):
    own = worded()
    asker, read = asker_of(base_of("llama"), own, before_of(own)), []
    run = asker._run
    monkeypatch.setattr(asker, "_run", lambda ids, *rest: (read.append(ids.tolist()), run(ids, *rest))[1])
    for _ in range(3):
        asker.ask(asked, 4)
    assert read.count([before_of(own)]) == 1


def _neo(kept):
    """Every second layer looks five tokens back, which its configuration says in words of its own."""
    own = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 5}
    return transformers.GPTNeoConfig(**{**own, **{k: kept[k] for k in (*SIZED, "hidden_size")}})


def _mpt(kept):
    """Distances are counted over all tokens there are, and no positions are told."""
    return transformers.MptConfig(d_model=16, n_heads=4, n_layers=2, max_seq_len=48, **{k: kept[k] for k in SIZED})


@pytest.mark.parametrize("made", [lambda kept: transformers.MistralConfig(**{**kept, "sliding_window": 5}), _neo, _mpt])
def test_a_window_of_attention_moves_with_nothing(tmp_path, asked, folder_of, spec_of, texts, made):
    """Layers look five tokens back; words and shared tokens lie on both sides of the padding."""
    fields = json.loads((folder_of("llama") / "config.json").read_text())
    kept = {k: v for k, v in fields.items() if k not in ("model_type", "architectures", "rope_parameters")}
    torch.manual_seed(1)
    transformers.AutoModelForCausalLM.from_config(made(kept)).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder_of("llama")).save_pretrained(tmp_path)
    base = models.load_base(spec_of(tmp_path))
    own = wording(base, TEMPLATE, WORDS, "w11 w12")
    asker = asker_of(base, own, before_of(own))
    assert asker.caches
    found = asker.ask(asked[:6], 6)[0]
    for row, text in enumerate(texts[:6]):
        wanted = [slow(tmp_path, base.tokenizer, before_of(own), text, word) for word in WORDS]
        np.testing.assert_allclose(found[row], wanted, atol=1e-5, rtol=1e-5)


def test_a_model_with_a_memory_of_another_kind_reads_whole_prompts():
    def forward(input_ids, past_key_values=None):
        pass

    def module(**fields):
        config = types.SimpleNamespace(layer_types=fields.pop("layer_types", None))
        return types.SimpleNamespace(**{"config": config, "forward": forward, **fields})

    assert prompting._keeps_keys(module())
    assert prompting._keeps_keys(module(layer_types=["full_attention", "sliding_attention"]))
    assert not prompting._keeps_keys(module(layer_types=["full_attention", "linear_attention"]))
    assert not prompting._keeps_keys(module(_is_stateful=True))
    assert not prompting._keeps_keys(module(forward=lambda input_ids: None))


def test_lower_precision_is_near(base_of, asked, worded):
    own = worded("qwen2")
    exact, near = (asker_of(base_of("qwen2"), own, before_of(own), how).ask(asked, 8)[0] for how in ("no", "bf16"))
    np.testing.assert_allclose(near, exact, atol=0.5)
    assert (near != exact).any()


# -- how texts are put -------------------------------------------------------------------------------------------------


def cut_to(base, length):
    return dataclasses.replace(base, max_length=length)


def test_a_long_text_is_cut_on_the_left_and_what_stands_around_it_is_not(base_of):
    base = base_of("llama")
    own = wording(base, TEMPLATE, WORDS)
    tokens = own.examples([("w1 w2 w3 w4",), ("w1",)], 5)
    assert tokens.truncated == 1
    wanted = [base.tokenizer(text)["input_ids"] for text in ("w5 w3 w4 w6 w7", "w5 w1 w6 w7")]
    assert [tokens.ids_S[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)] == wanted
    with pytest.raises(StepError, match="leaves no room for a text; use a shorter template"):
        own.example(("w1 w2",), 3)


def test_of_several_texts_the_longest_is_cut_first(base_of):
    own = wording(base_of("llama"), "w5 {text2} w6 {text1}", WORDS)
    ids = own.example(("w1 w2 w3 w4 w5", "w7 w8"), 6)
    assert ids == base_of("llama").tokenizer("w5 w7 w8 w6 w4 w5")["input_ids"]


def test_special_tokens_stand_once_before_everything_and_never_at_the_end(tmp_path, base_of):
    from tokenizers.processors import TemplateProcessing

    base = base_of("llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    own = wording(dataclasses.replace(base, tokenizer=tokenizer), TEMPLATE, WORDS, "w11")
    ids = before_of(own)
    assert (ids[0], ids[1:].count(2), ids.count(3)) == (2, 0, 0)
    assert own.words == wording(base, TEMPLATE, WORDS).words


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((" w1", " w 1"), "its tokenizer does not know ' w 1'"),
        ((" w1", "w1 "), "' w1' and 'w1 ' are the same tokens"),
        ((" w1", " "), "' ' has no tokens"),
        ((" w1", " w1 w2"), "' w1 w2' begins with the tokens of ' w1', and so is never more likely"),
    ],
)
def test_words_that_tell_no_classes_apart_are_refused(base_of, words, why):
    with pytest.raises(StepError, match=why):
        wording(base_of("llama"), TEMPLATE, words, calibrated=False)


def test_a_longer_word_may_win_where_its_mean_is_taken_off(base_of):
    assert len(wording(base_of("llama"), TEMPLATE, (" w1", " w1 w2"), calibrated=True).words) == 2


def test_an_encoder_cannot_be_prompted(base_of):
    with pytest.raises(StepError, match="is an encoder, which cannot be prompted"):
        wording(base_of("bert"), TEMPLATE, WORDS)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_examples_are_drawn_from_the_seed_equally_from_all_classes():
    ids, y = [f"e{i}" for i in range(60)], np.arange(60) % 3
    found = drawn(ids, y, 6, 3, 0)
    assert np.bincount(y[found]).tolist() == [2, 2, 2]
    assert len(set(found)) == 6
    assert found == drawn(ids, y, 6, 3, 0) != drawn(ids, y, 6, 3, 1)
    back = drawn(ids[::-1], y[::-1], 6, 3, 0)  # the same examples in the same order, wherever they stand
    assert [ids[::-1][place] for place in back] == [ids[place] for place in found]
    more = {tuple(np.bincount(y[drawn(ids, y, 4, 3, seed)]).tolist()) for seed in range(30)}
    assert more == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}  # which class has one more is drawn, too
    first = {int(y[drawn(ids, y, 6, 3, seed)[0]]) for seed in range(30)}
    assert first == {0, 1, 2}


def test_where_a_class_has_too_few_the_others_stand_in():
    y = np.array([0, 1, 1, 1, 1])
    assert np.bincount(y[drawn(list("abcde"), y, 4, 2, 0)]).tolist() == [1, 3]
    with pytest.raises(StepError, match=r"recipe.tune.shots: 6 asked for, and 5 examples have labels; show fewer"):
        drawn(list("abcde"), y, 6, 2, 0)


def test_what_does_not_fit_whole_is_left_out(base_of):
    """Three words of template, the text and a word: 3 + 2 + 1 and 3 + 4 + 3; 5 reserved, and 3 for the longest word."""
    examples = [(("w1 w2",), 0), (("w1 w2 w3 w4",), 2), (("w3 w4",), 0)]
    own = wording(cut_to(base_of("llama"), 23), TEMPLATE, WORDS)
    found = shown(own, examples, 5)
    assert (found.kept, len(found.ids)) == ([0, 2], 12)  # 6 + 10 + 8 is 24
    assert shown(wording(cut_to(base_of("llama"), 24), TEMPLATE, WORDS), examples, 5).kept == [0, 1]


def test_room_is_kept_for_the_longest_text_but_not_for_more_than_half(base_of):
    own = wording(cut_to(base_of("llama"), 20), TEMPLATE, WORDS)
    assert reserve_of(own, [("w1",), ("w1 w2 w3",)]) == 6
    assert reserve_of(own, [("w1 " * 30,)]) == 10


def test_calibration_by_hand():
    """Means of -1 and -3, of -4 and -2: both -2 and -3."""
    np.testing.assert_array_equal(shift_of(np.array([[-1.0, -4.0], [-3.0, -2.0]], dtype=np.float32)), [-2.0, -3.0])
