"""Base models that begin from trained weights: the hidden states of the model that was trained, whatever was tuned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from w2s.errors import StepError
from w2s.learn import language, models, partition, starts, trainer
from w2s.learn.starts import Begun
from w2s.spec import Frozen, Full, Lora, Recipe

TUNES = {"full": Full(), "frozen": Frozen(layers=1), "lower too": Frozen(layers=1, embeddings=False), "lora": Lora(r=3)}
RECIPE = Recipe(lr=2e-2, batch_size=8, epochs=1, head_init="normal")


def hidden(module, chunks):
    with torch.no_grad():
        made = [module.eval()(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
                for ids, mask in chunks]  # fmt: skip
    return [value.numpy() for value in made]


@pytest.fixture
def trained(base_of, texts, soft_labels, cpu, tmp_path):
    """(arch, tune) -> a classifier after three steps, and what its step keeps of it."""

    def make(arch, tune, **fields):
        recipe = RECIPE.model_copy(update={"tune": tune})
        model = models.build(base_of(arch, **fields), 2, recipe, 0)
        tokens = models.tokenise(base_of(arch, **fields), texts)
        accelerator = cpu(recipe)
        done = trainer.train(model, tokens, soft_labels, recipe, 0, accelerator)
        whole = accelerator.unwrap_model(done.model)
        file = tmp_path / "step" / "model" / "trained.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(partition.trained_state(whole), file)
        return whole, Begun(file, tune, language=False)

    return make


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "neox", "bert"])
def test_hidden_states_are_those_of_the_model_that_was_trained(arch, tune, trained, spec_of, base_of, chunks):
    """gpt2 keeps its matrices transposed, and peft, not we, applies the adapters of the model that was trained."""
    model, begun = trained(arch, TUNES[tune])
    base = models.load_base(spec_of(arch), start=(begun,))
    given = chunks(arch)
    for found, wanted, before in zip(
        *(hidden(module, given) for module in (base.module, model.base, base_of(arch).module)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        assert np.abs(found - before).max() > 1e-2  # negative control: there was something to take over


def test_each_start_is_put_over_the_one_before(trained, spec_of, chunks, tmp_path):
    """Adapters on the language model's weights: as if those had been published."""
    _, first = trained("llama", Full())
    first = first._replace(file=first.file.rename(tmp_path / "first.safetensors"))
    _, second = trained("llama", Lora(r=2))
    both = models.load_base(spec_of("llama"), start=(first, second)).module
    published = models.load_base(spec_of("llama"), start=(first,)).module
    added = safetensors.torch.load_file(second.file)
    name = "layers.1.mlp.up_proj"
    up, down = (added[f"base.{name}.lora_{which}.default.weight"] for which in "BA")
    wanted = published.get_submodule(name).weight + 16.0 / 2 * up @ down
    torch.testing.assert_close(both.get_submodule(name).weight, wanted)
    torch.testing.assert_close(both.embed_tokens.weight, published.embed_tokens.weight)


def test_a_model_that_keeps_fewer_layers_takes_those(trained, spec_of, chunks):
    model, begun = trained("llama", Frozen(layers=1))
    low = models.load_base(spec_of("llama", layers=2), start=(begun,)).module
    for number in (0, 1):
        for name, weight in model.base.layers[number].named_parameters():
            torch.testing.assert_close(low.layers[number].get_parameter(name), weight)
    torch.testing.assert_close(low.norm.weight, model.base.norm.weight)
    assert len(low.layers) == 2


def test_what_is_kept_in_memory_is_not_trained_by_who_begins_from_it(trained, spec_of, tokens, soft_labels, cpu):
    _, begun = trained("llama", Full())
    base = models.load_base(spec_of("llama"), start=(begun,))
    before = {name: weight.clone() for name, weight in base.module.state_dict().items()}
    trainer.train(models.build(base, 2, RECIPE, 0), tokens, soft_labels, RECIPE, 0, cpu(RECIPE))
    assert all(torch.equal(before[name], weight) for name, weight in base.module.state_dict().items())


def changed(file, change):
    weights = safetensors.torch.load_file(file)
    change(weights)
    safetensors.torch.save_file(weights, file)


@pytest.mark.parametrize(
    ("tune", "change", "message"),
    [
        ("full", lambda w: w.pop("base.layers.2.mlp.up_proj.weight"), "not the weights of this model .*up_proj"),
        ("frozen", lambda w: w.pop("base.norm.weight"), "not the weights of this model .*norm"),
        ("frozen", lambda w: w.update({"base.layers.9.x": torch.ones(1)}), None),  # of a model with more layers
        ("full", lambda w: w.update({"base.strange.weight": torch.ones(1)}), "not the weights .*strange"),
        ("full", lambda w: w.update({"base.norm.weight": torch.ones(3)}), "not the weights of this model .*norm"),
        ("full", lambda w: w.clear(), "not the weights of this model"),
        ("lora", lambda w: w.clear(), "not the weights of this model .there are none"),
        ("lora", lambda w: w.pop("base.layers.0.mlp.up_proj.lora_A.default.weight"), "not beside a linear layer"),
    ],
)
def test_other_weights_are_refused(tune, change, message, trained, spec_of):
    _, begun = trained("llama", TUNES[tune])
    changed(begun.file, change)
    if message is None:
        assert models.load_base(spec_of("llama"), start=(begun,)).module is not None
        return
    with pytest.raises(StepError, match=message):
        models.load_base(spec_of("llama"), start=(begun,))


def test_a_file_that_is_cut_is_named(trained, spec_of):
    _, begun = trained("llama", Full())
    begun.file.write_bytes(begun.file.read_bytes()[:100])
    with pytest.raises(StepError, match=r"trained\.safetensors: cannot be read"):
        models.load_base(spec_of("llama"), start=(begun,))


# -- language models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_a_language_model_goes_on_where_it_stopped(arch, tune, base_of, spec_of, texts, cpu, tmp_path):
    """Its own head (llama) and the one tied to the embeddings (qwen2): the same log-probabilities when begun from."""
    recipe = RECIPE.model_copy(update={"tune": TUNES[tune]})
    tokens = language.running_text(base_of(arch), texts)
    accelerator = cpu(recipe)
    weights_N1 = np.ones((len(tokens), 1), dtype=np.float32)
    done = trainer.train(language.build(base_of(arch), recipe, 0), tokens, weights_N1, recipe, 0, accelerator)
    whole = accelerator.unwrap_model(done.model)
    file = tmp_path / "trained.safetensors"
    safetensors.torch.save_file(partition.trained_state(whole), file)
    base = models.load_base(spec_of(arch), start=(Begun(file, TUNES[tune], language=True),))
    chunk = [tokens.padded(np.arange(len(tokens)))]
    with torch.no_grad():
        found, wanted, before = (
            model.eval()(chunk)[:, 0] for model in (language.build(base, Recipe(), 1), whole,
                                                    language.build(base_of(arch), Recipe(), 1))
        )  # fmt: skip
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-4)
    assert (found - before).abs().max() > 0.1
    head = whole.head.weight[[5, 6]]  # of the words "1" and "2"
    torch.testing.assert_close(models.unembedding_rows(base, 2, ("1", "2")), head)
    assert starts.head_of(base.starts) is None if tune == "lora" or arch == "qwen2" else base.head is not None


def test_running_text_is_every_token_but_the_first(base_of, texts, folder_of):
    """The sum over a text is what transformers gives for it as its own labels, times the tokens that count."""
    tokens = language.running_text(base_of("llama"), [*texts, "w1"])
    assert len(tokens) == len(texts)  # the last has no next token
    model = language.build(base_of("llama"), Recipe(), 0).eval()
    with torch.no_grad():
        found = model([tokens.padded(np.arange(len(tokens)))])[:, 0].tolist()
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder_of("llama"), dtype=torch.float32).eval()
    for row, text in enumerate(texts):
        ids = torch.tensor([[4 + 3 + int(word[1:]) for word in text.split()]])
        with torch.no_grad():
            loss = reference(ids, labels=ids).loss
        assert found[row] == pytest.approx(-float(loss) * (ids.shape[1] - 1), abs=2e-4)


def test_texts_are_cut_on_the_left_and_encoders_refused(base_of, texts):
    short = dataclasses.replace(base_of("llama"), max_length=4)
    tokens = language.running_text(short, texts)
    assert tokens.lengths.max() == 4
    assert tokens.truncated == sum(len(text.split()) > 4 for text in texts)
    with pytest.raises(StepError, match="is an encoder, which generates no text"):
        language.running_text(base_of("bert"), texts)
