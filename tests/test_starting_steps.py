"""Steps that begin from another's weights, through the real store: what they read, what is kept and what is shared."""

from __future__ import annotations

import json
import shutil
import types

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
import transformers
from tiny_models import save_language_model  # type: ignore[import-not-found]

from w2s import inference, inputs, steps
from w2s.analyze.reading.configuration import read
from w2s.errors import StepError
from w2s.models import ModelSpec
from w2s.sources import FileSource, resolve
from w2s.spec import (
    Engine,
    Frozen,
    LanguageSpec,
    MaterializeSpec,
    Probe,
    Recipe,
    Sizes,
    TrainSpec,
    Weak,
    begun_with,
)
from w2s.store import Store
from w2s.tasks.registry import task_of

SIZES = Sizes(weak_train=16, transfer=24, val=12, test=16)
ENGINE = Engine(device="cpu", checkpoint_every="never")
RECIPE = Recipe(lr=1e-2, batch_size=8, epochs=1, head_init="normal")
SOLVED = Recipe(tune=Probe(solver="logistic", l2=0.1))
SPLITS = ("test", "val", "transfer")


def run(world, *specs, store=None):
    store = store or world.store
    for spec in specs:
        assert steps.run_step(spec, store) in ("done", "reused")
    return store


def logits_of(store, spec, split="test"):
    table = store.read_table("train", spec.digest(), f"predictions/{split}.parquet")
    return np.array(table["logits"].to_pylist(), dtype=np.float32)


def weights_of(store, spec):
    return safetensors.torch.load_file(store.path(spec.kind, spec.digest()) / "model" / "trained.safetensors")


def metrics_of(store, spec):
    return json.loads((store.path(spec.kind, spec.digest()) / "metrics.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data, a weak model, a model that read transfer, and a student whose weights are kept."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("starting")
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 40, rng.integers(1, 12)) for _ in range(150)]
    (folder / "task.jsonl").write_text("".join(
        json.dumps({"text": " ".join(f"w{i}" for i in row), "label": int(row.mean() > 19.5)}) + "\n" for row in rows
    ))  # fmt: skip
    task = task_of({"name": "tiny", "file": "task.jsonl", "text": "text", "label": "label"}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    large = save_language_model(folder / "large", 2)
    common = {"data": data.digest(), "engine": ENGINE}
    weak = TrainSpec(split="weak_train", model=save_language_model(folder / "small", 1), recipe=RECIPE, **common)
    language = LanguageSpec(model=large, recipe=RECIPE.model_copy(update={"head_init": "zeros"}), **common)
    labels = Weak(supervisor=weak.digest())
    student = TrainSpec(split="transfer", model=large, recipe=RECIPE, labels=labels, keep_weights=True, **common)
    made = types.SimpleNamespace(folder=folder, data=data, large=large, weak=weak, language=language, student=student,
                                 store=Store(folder / "store"))  # fmt: skip
    run(made, data, weak, language, student)
    made.begun = student.model_copy(update={"start": begun_with(language, language.digest()), "keep_weights": False})
    made.after = student.model_copy(
        update={"start": begun_with(student, student.digest()), "recipe": SOLVED, "keep_weights": False}
    )
    return made


@pytest.fixture
def copied(world, tmp_path, monkeypatch):
    """Another store with the same data and weak model, for a process that has loaded nothing yet."""
    monkeypatch.setattr(inputs, "BASES", inputs.Warm(room=2))
    store = Store(tmp_path / "store")
    for spec in (world.data, world.weak):
        shutil.copytree(world.store.path(spec.kind, spec.digest()), store.path(spec.kind, spec.digest()))
    return store


def published(world, folder):
    """The model that read transfer as a folder that transformers wrote."""
    model = transformers.AutoModelForCausalLM.from_pretrained(world.folder / "large", dtype=torch.float32)
    weights = {
        name.replace("base.", "model.", 1) if name.startswith("base.") else f"lm_{name}": weight
        for name, weight in weights_of(world.store, world.language).items()
    }
    assert model.load_state_dict(weights, strict=True).missing_keys == []
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(world.folder / "large").save_pretrained(folder)
    return model.eval()


def plain_loss(world, model, split):
    """Nats per token, text by text, by transformers alone; and the number of tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(world.folder / "large")
    total, count = 0.0, 0
    for text in world.store.read_table("materialize", world.data.digest(), f"{split}.parquet")["text"].to_pylist():
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        if ids.shape[1] > 1:
            with torch.no_grad():
                total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    return total / count, count


def test_losses_before_and_after_are_those_of_transformers(world, tmp_path):
    told = metrics_of(world.store, world.language)
    before = transformers.AutoModelForCausalLM.from_pretrained(world.folder / "large", dtype=torch.float32).eval()
    first, tokens = plain_loss(world, before, "val")
    assert told["val_loss_per_token_before"] == pytest.approx(first, abs=1e-4)
    assert told["val_loss_per_token_after"] == pytest.approx(
        plain_loss(world, published(world, tmp_path), "val")[0], abs=1e-4
    )
    assert told["val_loss_per_token_after"] < first - 0.1  # it learned: words are drawn alike in all splits
    assert told["val_tokens"] == tokens
    texts = inputs.texts(world.store, world.data.digest(), "transfer")[1]
    short = sum(len(text.split()) == 1 for text in texts)
    assert 0 < short == told["left_out"] == 24 - told["train_n"]


def test_a_student_that_begins_from_it_is_that_of_the_published_weights(world, tmp_path):
    published(world, tmp_path / "model")
    source = resolve(FileSource(file=str(tmp_path / "model")), tmp_path, "model")
    same = world.student.model_copy(update={"model": ModelSpec(name="m", source=source), "keep_weights": False})
    run(world, world.begun, same)
    for split in SPLITS:
        np.testing.assert_allclose(
            logits_of(world.store, world.begun, split), logits_of(world.store, same, split), atol=1e-5
        )
    assert np.abs(logits_of(world.store, world.begun) - logits_of(world.store, world.student)).max() > 1e-2


def test_no_label_is_read_for_a_language_step(world, copied):
    """Without the column it is the same; with other texts (negative control) it is not."""
    folder = copied.path("materialize", world.data.digest())
    for file in folder.glob("*.parquet"):
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["label"]), file)
    run(world, world.language, store=copied)
    found, wanted = weights_of(copied, world.language), weights_of(world.store, world.language)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    other = world.language.model_copy(update={"splits": ("weak_train", "transfer")})
    run(world, other, store=copied)
    assert metrics_of(copied, other)["train_n"] > metrics_of(copied, world.language)["train_n"]
    assert not all(torch.equal(weight, wanted[name]) for name, weight in weights_of(copied, other).items())


def test_micro_batches_do_not_change_what_is_learned(world, copied):
    cut = world.language.model_copy(update={"engine": Engine(device="cpu", micro_batch_size=2, predict_batch_size=3)})
    assert cut.digest() == world.language.digest()
    run(world, cut, store=copied)
    wanted = weights_of(world.store, world.language)
    for name, weight in weights_of(copied, cut).items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-3, atol=1e-4)


def pooled(model, tokenizer, texts):
    """The hidden state behind the last norm of each text's last token, one text at a time."""
    with torch.no_grad():
        return np.stack(
            [model(torch.tensor([tokenizer(t)["input_ids"]])).last_hidden_state[0, -1].numpy() for t in texts]
        )


def test_probes_after_weak_training_see_the_students_hidden_states(world):
    features = world.after.features()["transfer"]
    run(world, *world.after.features().values(), world.after)
    model = transformers.AutoModel.from_pretrained(world.folder / "large", dtype=torch.float32)
    weights = {
        n.removeprefix("base."): w for n, w in weights_of(world.store, world.student).items() if n != "head.weight"
    }
    assert model.load_state_dict(weights, strict=True).missing_keys == []
    found = np.load(world.store.path("features", features.digest()) / "pooled.npy")
    tokenizer = transformers.AutoTokenizer.from_pretrained(world.folder / "large")
    texts = inputs.texts(world.store, world.data.digest(), "transfer")[1]
    np.testing.assert_allclose(found, pooled(model.eval(), tokenizer, texts), atol=1e-4)
    before = world.after.model_copy(update={"start": ()}).features()["transfer"]
    run(world, before)
    assert np.abs(np.load(world.store.path("features", before.digest()) / "pooled.npy") - found).max() > 1e-2
    assert world.student.digest() not in world.after.parents  # the solver reads features only, and those the weights
    assert world.student.digest() in features.parents


def test_a_start_without_weights_is_refused_and_trained_once_more_for_them_without_changing_predictions(world, copied):
    light = world.student.model_copy(update={"keep_weights": False})
    features = world.after.features()["test"]
    run(world, light, store=copied)
    file = copied.path("train", light.digest()) / "predictions" / "test.parquet"
    before = file.read_bytes()
    with pytest.raises(StepError, match=r"train \w{12} was finished without its weights, from which this step begins"):
        steps.run_step(features, copied)
    assert steps.run_step(world.student, copied) == "done"
    assert steps.run_step(features, copied) == "done"
    assert file.read_bytes() == before
    with pytest.raises(StepError, match=r"language \w{12} is not finished in"):
        steps.run_step(world.begun, copied)


def test_frozen_layers_that_no_start_changed_are_those_of_the_model(world):
    """Their features are one step, with and without the start; above them they are not."""
    cached = Engine(device="cpu", cache_frozen=True)
    frozen = world.language.model_copy(update={"recipe": Recipe(tune=Frozen(layers=1))})
    plain = world.student.model_copy(
        update={"engine": cached, "recipe": RECIPE.model_copy(update={"tune": Frozen(layers=1)})}
    )
    begun = plain.model_copy(update={"start": begun_with(frozen, frozen.digest())})
    assert begun.digest() != plain.digest()
    assert begun.features() == plain.features() != {}
    assert begun.parents[-1] == frozen.digest()
    deeper = {"recipe": RECIPE.model_copy(update={"tune": Frozen(layers=2)})}
    assert begun.model_copy(update=deeper).features() != plain.model_copy(update=deeper).features()
    full = plain.model_copy(update={"start": begun_with(world.language, world.language.digest())})
    assert full.features() != plain.features()
    twice = full.model_copy(update={"start": begun_with(begun.model_copy(update={"start": full.start}), "a" * 64)})
    assert twice.features() == full.features()  # the second left the layer as the first had made it


def test_cached_and_computed_layers_agree_where_a_start_changed_them(world, copied):
    begun = world.begun.model_copy(update={"recipe": RECIPE.model_copy(update={"tune": Frozen(layers=1)})})
    cached = begun.model_copy(update={"engine": Engine(device="cpu", cache_frozen=True)})
    assert cached.digest() == begun.digest()
    run(world, begun)
    run(world, world.language, *cached.features().values(), cached, store=copied)
    np.testing.assert_allclose(logits_of(copied, cached), logits_of(world.store, begun), atol=1e-5)


def test_weights_in_memory_are_of_one_start_each(world, copied):
    """One process, the same model begun and not begun, one after the other: as if each were alone."""
    plain = world.student.model_copy(update={"keep_weights": False})
    run(world, world.language, plain, world.begun, store=copied)
    run(world, world.begun)
    for spec in (plain, world.begun):
        np.testing.assert_array_equal(logits_of(copied, spec), logits_of(world.store, spec))


def test_labels_of_a_begun_step_are_its_predictions(world):
    kept = world.begun.model_copy(update={"keep_weights": True})
    run(world, kept)
    texts = inputs.texts(world.store, world.data.digest(), "test")[1]
    _, found = inference.label(world.store, kept.digest(), texts)
    logits = logits_of(world.store, kept)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, p / p.sum(axis=1, keepdims=True), atol=1e-5)


def test_configurations_differ_by_what_they_begin_from_not_by_its_seed(world, copied):
    """As two sweeps are compared: a hash of what was asked of the start stands for it."""
    run(world, world.language, world.begun, store=copied)
    second = world.language.model_copy(update={"seed": 1})
    again = world.begun.model_copy(update={"seed": 1, "start": begun_with(second, second.digest())})
    longer = world.language.model_copy(update={"recipe": world.language.recipe.model_copy(update={"epochs": 2})})
    other = world.begun.model_copy(update={"start": begun_with(longer, longer.digest())})
    run(world, second, again, longer, other, store=copied)
    first, same, different = (read(copied, "train", spec.digest()).text for spec in (world.begun, again, other))
    assert first == same != different


def test_texts_without_a_next_token_are_refused(world, copied):
    alone = world.language.model_copy(update={"model": world.large.model_copy(update={"max_length": 1})})
    with pytest.raises(StepError, match="no text of transfer has two tokens"):
        steps.run_step(alone, copied)
