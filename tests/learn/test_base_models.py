"""Base models of six architectures: cut, pooled, padded, frozen and adapted as the spec says."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest
import torch
import transformers

from w2s.errors import MachineError, StepError
from w2s.learn import adapt, heads, models
from w2s.learn.batching import Tokens
from w2s.spec import Frozen, Full, Lora, Probe, Recipe

ARCHITECTURES = ("llama", "gpt2", "neox", "qwen2", "qwen3", "bert")
FINAL_NORM = {"llama": "norm", "gpt2": "ln_f", "neox": "final_layer_norm", "qwen2": "norm", "qwen3": "norm"}
LAYER_LIST = {
    "llama": "layers",
    "gpt2": "h",
    "neox": "layers",
    "qwen2": "layers",
    "qwen3": "layers",
    "bert": "encoder.layer",
}
NORMAL = Recipe(head_init="normal")


def logits_of(model, tokens, rows=None):
    with torch.inference_mode():
        return model.eval()([tokens.padded(np.arange(len(tokens)) if rows is None else np.array(rows))])


def whole_model(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    return transformers.AutoModel.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def trained_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# -- truncation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3, None])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_truncation_keeps_exactly_the_lowest_layers(arch, layers, base_of, folder_of, texts):
    """Logits equal a forward by hand: the whole model's hidden states after so many layers, its norm, the head."""
    base = base_of(arch, layers=layers)
    model = models.build(base, 3, NORMAL, 0)
    ours = logits_of(model, models.tokenise(base, texts))
    full = whole_model(folder_of(arch))
    depth = layers or 3
    assert len(adapt.layers_of(model.base)[1]) == depth
    for text, row in zip(texts[:6], ours[:6], strict=True):
        ids = torch.tensor([base.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            hidden = full(input_ids=ids, output_hidden_states=True).hidden_states
            state = hidden[depth]
            if arch in FINAL_NORM and depth < len(hidden) - 1:  # the last entry has gone through the norm already
                state = getattr(full, FINAL_NORM[arch])(state)
            vector = state[0, -1] if arch != "bert" else sum(state[0]) / ids.shape[1]
            expected = [
                float(sum(w * x for w, x in zip(weights, vector, strict=True))) for weights in model.head.weight
            ]
        assert row.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_another_depth_gives_other_logits(arch, base_of, texts):
    """Negative control of the test above."""
    logits = []
    for layers in (1, 2, 3):
        base = base_of(arch, layers=layers)
        logits.append(logits_of(models.build(base, 2, NORMAL, 0), models.tokenise(base, texts)))
    assert min(float((logits[i] - logits[j]).abs().max()) for i, j in ((0, 1), (1, 2), (0, 2))) > 1e-2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_more_layers_than_there_are(arch, spec_of):
    with pytest.raises(StepError, match=rf"model tiny {arch}: 4 layers asked for, but it has 3"):
        models.load_base(spec_of(arch, layers=4))


# -- pooling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_decoders_use_the_last_token_and_encoders_the_mean(arch, base_of):
    assert base_of(arch).pooling == ("mean" if arch == "bert" else "last")
    assert base_of(arch, layers=1).pooling == base_of(arch).pooling


@pytest.mark.parametrize(("arch", "pooling"), [("llama", "mean"), ("bert", "last")])
def test_the_row_may_say_otherwise(arch, pooling, base_of, texts):
    base = base_of(arch, pooling=pooling)
    assert base.pooling == pooling
    tokens = models.tokenise(base, texts)
    usual = logits_of(models.build(base_of(arch), 2, NORMAL, 0), tokens)
    assert float((logits_of(models.build(base, 2, NORMAL, 0), tokens) - usual).abs().max()) > 1e-2


def test_pool_by_hand():
    hidden = torch.arange(24, dtype=torch.float32).reshape(3, 4, 2)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])  # padded right, left, not at all
    assert heads.pool(hidden, mask, "last").tolist() == [[2.0, 3.0], [14.0, 15.0], [22.0, 23.0]]
    assert heads.pool(hidden, mask, "mean").tolist() == [[1.0, 2.0], [13.0, 14.0], [19.0, 20.0]]
    single = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    for how in ("last", "mean"):
        assert heads.pool(hidden, single, how).tolist() == [[0.0, 1.0], [14.0, 15.0], [18.0, 19.0]]


@pytest.mark.parametrize("how", ["last", "mean"])
def test_pool_ignores_what_stands_on_padding(how):
    hidden, mask = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)), torch.ones(4, 6, dtype=torch.long)
    mask[0, 4:], mask[1, :3], mask[2, 1:] = 0, 0, 0
    dirty = torch.where(mask.bool().unsqueeze(-1), hidden, torch.full_like(hidden, 1e6))
    torch.testing.assert_close(heads.pool(dirty, mask, how), heads.pool(hidden, mask, how))


# -- padding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_does_not_change_logits(arch, base_of, texts):
    base = base_of(arch)
    model, tokens = models.build(base, 2, NORMAL, 0), models.tokenise(base, texts)
    together = logits_of(model, tokens)
    alone = torch.cat([logits_of(model, tokens, [row]) for row in range(len(tokens))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=2e-5)
    other_pad = Tokens(tokens.ids_S, tokens.offsets, pad_id=7)  # what stands on padding is masked, whatever it is
    torch.testing.assert_close(logits_of(model, other_pad), together, rtol=1e-4, atol=2e-5)
    ids, mask = tokens.padded(np.arange(len(tokens)))
    with torch.inference_mode():
        blind = model([(ids, torch.ones_like(mask))])
    assert float((blind - alone).abs().max()) > 1e-2  # negative control: without a mask padding shows


def test_a_tokenizer_without_a_padding_token(tmp_path, tiny, spec_of, base_of, texts):
    tiny.save_model(tmp_path, "gpt2")
    tiny.save_tokenizer(tmp_path, pad=None)
    base = models.load_base(spec_of(tmp_path))
    assert base.tokenizer.pad_token_id is None
    tokens, usual = models.tokenise(base, texts), models.tokenise(base_of("gpt2"), texts)
    model = models.build(base, 2, NORMAL, 0)
    torch.testing.assert_close(logits_of(model, tokens), logits_of(model, usual), rtol=1e-4, atol=2e-5)


# -- tokens -----------------------------------------------------------------------------------------------------


def words_of(base, tokens, row):
    return base.tokenizer.convert_ids_to_tokens(tokens.ids_S[tokens.offsets[row] : tokens.offsets[row + 1]].tolist())


def test_long_texts_lose_their_beginning_and_are_counted(base_of):
    base = base_of("llama", max_length=4)
    tokens = models.tokenise(base, ["w1 w2 w3 w4", "w1 w2 w3 w4 w5 w6", "w7", "w9 w8 w7 w6 w5"])
    assert [words_of(base, tokens, row) for row in range(4)] == [
        ["w1", "w2", "w3", "w4"], ["w3", "w4", "w5", "w6"], ["w7"], ["w8", "w7", "w6", "w5"],
    ]  # fmt: skip
    assert tokens.truncated == 2
    again = models.tokenise(base, ["w1 w2 w3 w4"])  # the cut of one call must not stay in the tokenizer
    assert (again.truncated, words_of(base, again, 0)) == (0, ["w1", "w2", "w3", "w4"])


def test_special_tokens_survive_the_cut(base_of):
    base = base_of("bert", max_length=4)
    tokens = models.tokenise(base, ["w1 w2 w3 w4", "w1 w2"])
    assert [words_of(base, tokens, row) for row in range(2)] == [
        ["<s>", "w3", "w4", "</s>"],
        ["<s>", "w1", "w2", "</s>"],
    ]
    assert tokens.truncated == 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_text_never_exceeds_the_positions_of_the_model(arch, base_of):
    base = base_of(arch)  # max_length 512 asked for, 48 positions there
    tokens = models.tokenise(base, [" ".join(["w1"] * 200)])
    assert base.max_length == 48
    assert tokens.lengths.tolist() == [48]
    assert bool(torch.isfinite(logits_of(models.build(base, 2, NORMAL, 0), tokens)).all())


def test_a_text_without_tokens_is_refused(base_of):
    with pytest.raises(StepError, match=r"model tiny llama: the text '  ' has no tokens"):
        models.tokenise(base_of("llama"), ["w1", "  "])


# -- what is trained --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_probe_trains_the_head_alone(arch, base_of):
    assert trained_names(models.build(base_of(arch), 2, Recipe(tune=Probe()), 0)) == {"head.weight"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_full_trains_everything(arch, base_of):
    model = models.build(base_of(arch), 2, Recipe(tune=Full()), 0)
    assert trained_names(model) == {name for name, _ in model.named_parameters()}
    assert not any("pooler" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_frozen_stops_the_lowest_layers_and_the_embeddings(arch, depth, base_of):
    model = models.build(base_of(arch), 2, Recipe(tune=Frozen(layers=depth)), 0)
    everything = {name for name, _ in model.named_parameters()}
    in_layers = {i: {name for name in everything if name.startswith(f"base.{LAYER_LIST[arch]}.{i}.")} for i in range(3)}
    assert all(in_layers.values())
    expected = {"head.weight"}.union(*(in_layers[i] for i in range(depth, 3)))
    if arch in FINAL_NORM:
        expected |= {name for name in everything if name.startswith(f"base.{FINAL_NORM[arch]}.")}
    assert trained_names(model) == expected
    open_embeddings = models.build(base_of(arch), 2, Recipe(tune=Frozen(layers=depth, embeddings=False)), 0)
    assert trained_names(open_embeddings) == everything.difference(*(in_layers[i] for i in range(depth)))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_lora_trains_adapters_on_every_linear_layer_and_the_head(arch, base_of, texts):
    plain = models.build(base_of(arch), 2, NORMAL, 0)
    linear = {
        name for name, child in plain.base.named_modules()
        if isinstance(child, (torch.nn.Linear, transformers.pytorch_utils.Conv1D))
    }  # fmt: skip
    model = models.build(base_of(arch), 2, Recipe(head_init="normal", tune=Lora(r=2)), 0)
    expected = {f"base.{name}.lora_{side}.default.weight" for name in linear for side in "AB"} | {"head.weight"}
    assert trained_names(model) == expected
    tokens = models.tokenise(base_of(arch), texts)  # adapters start at zero: nothing is changed before training
    torch.testing.assert_close(logits_of(model, tokens), logits_of(plain, tokens), rtol=1e-5, atol=1e-5)


def test_lora_on_chosen_layers(base_of):
    recipe = Recipe(tune=Lora(r=2, targets=("q_proj", "v_proj")))
    names = trained_names(models.build(base_of("llama", layers=2), 2, recipe, 0))
    expected = {
        f"base.layers.{i}.self_attn.{which}.lora_{side}.default.weight"
        for i in range(2) for which in ("q_proj", "v_proj") for side in "AB"
    }  # fmt: skip
    assert names == expected | {"head.weight"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_freezing_more_layers_than_there_are(arch, base_of):
    with pytest.raises(StepError, match=rf"tiny {arch}: recipe\.tune\.layers: cannot freeze 3 of 2 layers"):
        models.build(base_of(arch, layers=2), 2, Recipe(tune=Frozen(layers=3)), 0)


def test_lora_targets_that_match_nothing(base_of):
    with pytest.raises(StepError, match=r"model tiny llama: recipe\.tune\.targets .*no_such_proj"):
        models.build(base_of("llama"), 2, Recipe(tune=Lora(targets=("no_such_proj",))), 0)


# -- dropout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_dropout_is_off_unless_asked_for(arch, base_of, texts):
    """The folders' configurations have dropout 0.1, but for Qwen."""
    base = base_of(arch)
    model, tokens = models.build(base, 2, NORMAL, 0).train(), models.tokenise(base, texts)
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = (model([tokens.padded(np.arange(9))]) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, logits_of(model, tokens, range(9)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["gpt2", "bert", "neox"])
def test_dropout_is_on_where_asked_for(arch, base_of, texts):
    base = base_of(arch)
    model = models.build(base, 2, Recipe(head_init="normal", dropout=0.3), 0).train()
    tokens = models.tokenise(base, texts)
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = (model([tokens.padded(np.arange(9))]) for _ in range(2))
    assert float((first - second).abs().max()) > 1e-2


def test_dropout_where_there_is_no_place_for_it(base_of):
    with pytest.raises(StepError, match=r"tiny llama: recipe\.dropout: .*no dropout layers"):
        models.build(base_of("llama"), 2, Recipe(dropout=0.1), 0)


# -- the head ---------------------------------------------------------------------------------------------------


def test_head_of_zeros_and_normal_head(base_of):
    base = base_of("llama")
    assert not models.build(base, 2, Recipe(), 0).head.weight.any()
    weight = models.build(base, 400, Recipe(head_init="normal"), 0).head.weight
    assert float(weight.detach().std()) == pytest.approx(16**-0.5, rel=0.05)
    assert torch.equal(weight, models.build(base, 400, Recipe(head_init="normal"), 0).head.weight)
    assert not torch.equal(weight, models.build(base, 400, Recipe(head_init="normal"), 1).head.weight)


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize(("arch", "tied"), [("llama", False), ("neox", False), ("gpt2", True), ("qwen3", True)])
def test_unembedding_rows_of_tied_and_untied_heads(arch, tied, layers, base_of, folder_of):
    base = base_of(arch, layers=layers)
    language = transformers.AutoModelForCausalLM.from_pretrained(folder_of(arch), dtype=torch.float32)
    logit_of = language.get_output_embeddings().weight
    assert torch.equal(logit_of, next(iter(language.get_input_embeddings().parameters()))) == tied
    head = models.build(base, 2, Recipe(head_init="unembedding"), 0).head.weight
    ids = base.tokenizer.convert_tokens_to_ids(["0", "1"])
    assert ids == [4, 5]
    assert torch.equal(head, logit_of[ids])
    head = models.build(base, 3, Recipe(head_init="unembedding", head_words=("w3", "w1", "w2 w7")), 0).head.weight
    assert torch.equal(head, logit_of[base.tokenizer.convert_tokens_to_ids(["w3", "w1", "w7"])])


def test_unembedding_head_gives_the_language_models_logits(base_of, folder_of, texts):
    """Of " 0" and " 1" after the text, as the paper asks the model itself."""
    base = base_of("llama")
    model = models.build(base, 2, Recipe(head_init="unembedding"), 0)
    language = transformers.AutoModelForCausalLM.from_pretrained(folder_of("llama"), dtype=torch.float32)
    with torch.inference_mode():
        next_token = language(torch.tensor([base.tokenizer(texts[0])["input_ids"]])).logits[0, -1]
    ours = logits_of(model, models.tokenise(base, texts[:1]))[0]
    torch.testing.assert_close(ours, next_token[[4, 5]], rtol=1e-4, atol=1e-4)


def test_unembedding_refuses_what_has_no_meaning(base_of):
    with pytest.raises(StepError, match=r"head_words: 2 words for 3 classes"):
        models.build(base_of("llama"), 3, Recipe(head_init="unembedding", head_words=("w1", "w2")), 0)
    with pytest.raises(StepError, match=r"tiny bert: head_init unembedding needs a decoder"):
        models.build(base_of("bert"), 2, Recipe(head_init="unembedding"), 0)
    with pytest.raises(StepError, match=r"tiny llama: recipe\.head_words: .*same token"):
        models.build(base_of("llama"), 2, Recipe(head_init="unembedding", head_words=("yes", "no")), 0)  # both unknown
    with pytest.raises(StepError, match=r"tiny llama: recipe\.head_words: '' has no token"):
        models.build(base_of("llama"), 2, Recipe(head_init="unembedding", head_words=("", "w1")), 0)


# -- what is refused --------------------------------------------------------------------------------------------


def test_pickled_weights_are_refused(tmp_path, tiny, spec_of, folder_of):
    model = whole_model(folder_of("llama"))
    model.config.save_pretrained(tmp_path)
    tiny.save_tokenizer(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(StepError, match=r"cannot be loaded .*safetensors"):
        models.load_base(spec_of(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_part(name, tmp_path, tiny, spec_of):
    tiny.save_model(tmp_path, "llama")
    (tmp_path / name).unlink()
    if name == "tokenizer.json":
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(StepError, match=rf"model tiny .*: cannot be loaded from {tmp_path}"):
        models.load_base(spec_of(tmp_path))


def test_weights_cut_short(tmp_path, tiny, spec_of):
    tiny.save_model(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StepError, match="cannot be loaded"):
        models.load_base(spec_of(tmp_path))


# -- a machine that is too small ---------------------------------------------------------------------------------


def test_converted_weights_that_do_not_fit_the_disk_are_one_sentence(base_of, monkeypatch, tmp_path):
    """What reads the file is played; what writes is transformers and safetensors, on a disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        language = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(
            base_of("llama").folder
        ))  # fmt: skip
        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: language)
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: base_of("llama").tokenizer)
        monkeypatch.setenv("W2S_CACHE", str(disk))
        with pytest.raises(MachineError, match="the disk is full: free some space"):
            models._converted(base_of("llama").spec, tmp_path / "tiny.gguf")
        assert not list(disk.rglob("*.safetensors"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("text", "raised"), [("DefaultCPUAllocator: can't allocate memory", RuntimeError),
                                              ("mat1 and mat2", StepError)])  # fmt: skip
def test_memory_that_runs_out_while_loading_is_not_blamed_on_the_model(text, raised, base_of, monkeypatch):
    spec = base_of("llama").spec

    def fails(*_, **__):
        raise RuntimeError(text)

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", fails)
    with pytest.raises(raised, match=text):
        models.load_base(spec)
