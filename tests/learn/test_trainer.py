"""The trainer against a loop written by hand, and what must not matter: micro-batches, what ran before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from w2s.errors import StepError
from w2s.learn import losses, models, predict, trainer
from w2s.learn.batching import OVERHEAD_TOKENS, Tokens, epoch_batches, length_chunks
from w2s.objectives import AdaptConf, Entropy, Gce, Kl, LogConf, Product, Window, Xent
from w2s.spec import Engine, Frozen, Full, Lora, Probe, Recipe

# 23 examples in batches of 7: three full batches and one of 2, so that a mean of means would show.
RECIPE = Recipe(lr=3e-3, batch_size=7, epochs=2, head_init="normal", weight_decay=0.01)
LOGCONF = LogConf(a_max=0.5, warmup_frac=0.3)
OTHERS = [
    Product(alpha=0.5),
    Kl(direction="reverse"),
    Entropy(warmup_frac=0.3),
    Window(radius="midweak"),
    AdaptConf(warmup_frac=0.3),
    Gce(),
]


def recipe_with(**fields) -> Recipe:
    return RECIPE.model_copy(update=fields)


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def difference(one, other) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def losses_of(trained):
    return [row["loss"] for row in trained.history]


@pytest.fixture(scope="module")
def run(base_of, tokens, soft_labels, cpu):
    """(recipe, seed, micro-batch size) -> Trained, on the tiny Llama."""

    def train(recipe, seed=0, micro=None, arch="llama", precision="no"):
        model = models.build(base_of(arch), 2, recipe, seed, Engine(mixed_precision=precision))
        return trainer.train(model, tokens, soft_labels, recipe, seed, cpu(recipe), micro)

    return train


# -- the learning rate ------------------------------------------------------------------------------------------


def lrs(total, **fields):
    recipe = Recipe(lr=1.0, **fields)
    return [trainer.lr_at(step, total, recipe) for step in range(total)]


def test_learning_rates_by_hand():
    assert lrs(4, schedule="constant") == [1.0] * 4
    assert lrs(4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert lrs(4, schedule="cosine") == pytest.approx([1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    assert lrs(1, schedule="cosine") == [1.0]


def test_warmup_by_hand():
    assert lrs(8, schedule="constant", warmup_frac=0.25) == pytest.approx([1 / 3, 2 / 3, *[1.0] * 6])
    assert lrs(8, schedule="linear", warmup_frac=0.5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.75, 0.5, 0.25])
    # 2.5 steps of warm-up: three rises; then 7.5 steps of decay, of which half a one is gone at step 3
    assert lrs(10, schedule="linear", warmup_frac=0.25)[:5] == pytest.approx([0.25, 0.5, 0.75, 7 / 7.5, 6 / 7.5])
    assert lrs(3, schedule="cosine", warmup_frac=1.0) == pytest.approx([0.25, 0.5, 0.75])


def test_rounding_of_the_warm_up_adds_no_step():
    """0.07 * 100 is 7.000000000000001 in binary: step 7 must be at lr, not an eighth rise."""
    assert 0.07 * 100 > 7
    assert lrs(100, schedule="constant", warmup_frac=0.07)[6:8] == pytest.approx([7 / 8, 1.0])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup_frac", [0.0, 0.03, 0.1, 0.333, 0.9, 1.0])
@pytest.mark.parametrize("total", [1, 2, 7, 60])
def test_learning_rate_never_jumps_exceeds_lr_or_reaches_zero(schedule, warmup_frac, total, slow):
    recipe = Recipe(lr=0.5, schedule=schedule, warmup_frac=warmup_frac)
    values = [trainer.lr_at(step, total, recipe) for step in range(total)]
    assert all(0.0 < value <= 0.5 for value in values)
    assert values == pytest.approx([slow.lr(recipe, step, total) for step in range(total)])
    rises = int(np.ceil(warmup_frac * total))
    assert (np.diff(values[: rises + 1]) >= -1e-12).all() or rises == total
    assert (np.diff(values[rises:]) <= 1e-12).all()
    # No step is larger than a step of the steepest line (a cosine's is pi / 2 times as steep).
    decay = np.pi / 2 / max(1.0, total - warmup_frac * total)
    assert np.abs(np.diff(values)).max(initial=0.0) <= 0.5 * max(decay, 1 / (rises + 1)) * (1 + 1e-9)


# -- against the loop written by hand ---------------------------------------------------------------------------
# Llama and Qwen3 have no bias on their attention keys. Where there is one its gradient is zero in exact arithmetic (the
# softmax does not see it), and AdamW makes full steps of the rounding: such weights differ, and no logit does.


@pytest.mark.parametrize(
    ("recipe", "arch"),
    [
        (recipe_with(), "llama"),
        (recipe_with(schedule="linear", warmup_frac=0.3, clip_norm=None), "llama"),
        (recipe_with(schedule="constant", betas=(0.8, 0.95), clip_norm=0.1), "llama"),
        (recipe_with(loss=LOGCONF), "llama"),
        (recipe_with(loss=LogConf(a_max=0.7, warmup_frac=0.0, threshold="half"), clip_norm=None), "llama"),
        *((recipe_with(loss=loss), "llama") for loss in OTHERS),
        (recipe_with(tune=Frozen(layers=2)), "qwen3"),
        (recipe_with(tune=Probe(), loss=LOGCONF), "bert"),
    ],
)
def test_training_equals_a_loop_written_by_hand(recipe, arch, base_of, tokens, soft_labels, run, slow):
    by_hand = models.build(base_of(arch), 2, recipe, 0)
    expected = slow.training(by_hand, tokens, soft_labels, recipe, 0)
    trained = run(recipe, arch=arch)
    assert losses_of(trained) == pytest.approx(expected, abs=1e-6)
    # AdamW divides by the root of the squared gradient, so a tiny gradient's rounding is a larger share of its step.
    assert difference(weights_of(trained.model), weights_of(by_hand)) < 5e-6
    start = weights_of(models.build(base_of(arch), 2, recipe, 0))
    assert difference(weights_of(trained.model), start) > 1e-3  # negative control: it moved
    assert [row["examples"] for row in trained.history].count(2) == 2
    assert sum(row["examples"] for row in trained.history) == 2 * len(tokens)
    assert [row["step"] for row in trained.history] == list(range(8))
    assert [row["epoch"] for row in trained.history] == [0] * 4 + [1] * 4


@pytest.mark.parametrize("loss", [Xent(), LOGCONF])
def test_chunks_of_similar_length_change_nothing(loss, base_of, tokens, soft_labels, run, slow, monkeypatch):
    """The loop by hand pads a batch to its longest text; ours takes it through the model in chunks."""
    monkeypatch.setitem(OVERHEAD_TOKENS, "cpu", 2)
    recipe = recipe_with(loss=loss, batch_size=19)
    assert len(length_chunks(tokens.lengths[: recipe.batch_size], OVERHEAD_TOKENS["cpu"])) >= 3
    by_hand = models.build(base_of("llama"), 2, recipe, 0)
    expected = slow.training(by_hand, tokens, soft_labels, recipe, 0)
    trained = run(recipe)
    assert losses_of(trained) == pytest.approx(expected, abs=2e-6)
    assert difference(weights_of(trained.model), weights_of(by_hand)) < 5e-6


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("loss", [Xent(), LOGCONF, LogConf(threshold="half", warmup_frac=0.0), LogConf(threshold=0.4)])
def test_micro_batches_change_nothing(loss, clip_norm, run):
    recipe = recipe_with(loss=loss, clip_norm=clip_norm)
    whole = run(recipe)
    for micro in (1, 3, 7):
        parts = run(recipe, micro=micro)
        assert losses_of(parts) == pytest.approx(losses_of(whole), abs=2e-6)
        assert difference(weights_of(parts.model), weights_of(whole.model)) < 5e-6


@pytest.mark.parametrize("tune", [Frozen(layers=2), Lora(r=2), Probe()])
@pytest.mark.parametrize("loss", [Xent(), LOGCONF])
def test_micro_batches_change_nothing_with_part_of_the_model_trained(tune, loss, run):
    recipe = recipe_with(loss=loss, tune=tune)
    whole, parts = run(recipe), run(recipe, micro=3)
    assert losses_of(parts) == pytest.approx(losses_of(whole), abs=2e-6)
    assert difference(weights_of(parts.model), weights_of(whole.model)) < 5e-6


@pytest.mark.parametrize("loss", OTHERS)
def test_micro_batches_change_nothing_for_the_other_losses(loss, run):
    recipe = recipe_with(loss=loss)
    whole, parts = run(recipe), run(recipe, micro=3)
    assert losses_of(parts) == pytest.approx(losses_of(whole), abs=2e-6)
    assert difference(weights_of(parts.model), weights_of(whole.model)) < 5e-6
    shares = [[row.get("weight") for row in trained.history] for trained in (whole, parts)]
    assert shares[0] == shares[1]
    if loss.name == "window":
        assert min(shares[0]) < max(shares[0])  # some steps left examples out, and not all of them the same share
    else:
        assert set(shares[0]) == {None}


@pytest.mark.parametrize(("loss", "passes"), [(Xent(), 3), (Gce(), 3), (Window(), 3), (AdaptConf(), 3), (LOGCONF, 6)])
def test_only_what_reads_the_batch_pays_for_another_pass(loss, passes, base_of, soft_labels, cpu):
    """A batch of 7 in parts of 3 goes through the model three times, and once more where a threshold is set first."""
    recipe = recipe_with(loss=loss, epochs=1, batch_size=7)
    model = models.build(base_of("llama"), 2, recipe, 0)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    trainer.train(model, Tokens.of([[5, 6, 7]] * 7, 0), soft_labels[:7], recipe, 0, cpu(recipe), 3)
    assert len(seen) == passes


def test_a_batch_without_an_unsure_example_has_no_gradient(base_of, tokens, soft_labels, cpu):
    """The window never opens for a student this sure: nothing moves without weight decay, and the history says so."""
    recipe = recipe_with(loss=Window(radius=1e-6), weight_decay=0.0, clip_norm=None)
    model = models.build(base_of("llama"), 2, recipe, 0)
    start = weights_of(model)
    trained = trainer.train(model, tokens, soft_labels, recipe, 0, cpu(recipe), 3)
    assert losses_of(trained) == [0.0] * 8
    assert [row["weight"] for row in trained.history] == [0.0] * 8
    assert difference(weights_of(trained.model), start) == 0.0


@pytest.mark.parametrize(
    ("p1", "why"), [([0.0, 1.0, 1.0, 0.4], "are hard"), ([0.5, 0.5, 0.5, 0.9], "are equal for all classes")]
)
def test_labels_that_give_no_radius_are_refused_before_the_first_step(p1, why, base_of, cpu):
    recipe = recipe_with(loss=Window(radius="midweak"))
    p = np.array([[1 - x, x] for x in p1], dtype=np.float32)
    model, four = models.build(base_of("llama"), 2, recipe, 0), Tokens.of([[5, 6]] * 4, 0)
    with pytest.raises(
        StepError, match=rf"recipe\.loss\.radius: midweak .* half .*of the labels {why}.* such as 0\.15"
    ):
        trainer.train(model, four, p, recipe, 0, cpu(recipe))


def test_a_threshold_per_micro_batch_would_show(base_of, tokens, soft_labels, run, slow):
    """Negative control: the mistake that the global batch excludes differs by far more than the tolerance above."""
    recipe = recipe_with(loss=LOGCONF)
    wrong = models.build(base_of("llama"), 2, recipe, 0)
    theirs = slow.training(wrong, tokens, soft_labels, recipe, 0, threshold_per=3)
    ours = run(recipe, micro=3)
    assert np.abs(np.array(theirs) - losses_of(ours)).max() > 1e-2
    assert difference(weights_of(ours.model), weights_of(wrong)) > 1e-3


# -- what stops a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_loss_that_is_not_finite_stops_before_the_update(
    step, micro, base_of, tokens, soft_labels, cpu, slow, monkeypatch
):
    recipe = recipe_with()
    expected, model = (models.build(base_of("llama"), 2, recipe, 0) for _ in range(2))
    slow.training(expected, tokens, soft_labels, recipe, 0, stop_before=step)
    seen = []

    def poisoned(loss, p_GC, logits_GC, course):
        seen.append(course.step)
        return losses.Aims(p_GC * float("nan") if course.step == step else p_GC, torch.ones(len(p_GC)))

    monkeypatch.setattr(losses, "aims", poisoned)
    with pytest.raises(StepError, match=rf"loss of step {step + 1} of 8 is nan"):
        trainer.train(model, tokens, soft_labels, recipe, 0, cpu(recipe), micro)
    assert seen == list(range(step + 1))
    assert difference(weights_of(model), weights_of(expected)) < 1e-5  # a step moves them by 1e-3


def test_logits_that_are_not_finite_are_no_predictions(base_of, tokens):
    """The last update may be the one that breaks the weights; argmax of NaN would still be a class."""
    model = models.build(base_of("llama"), 2, RECIPE, 0)
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")
    with pytest.raises(StepError, match=r"23 of 23 .* not finite"):
        predict.predict(model, tokens, 8, "cpu")


# -- seeds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "arch"),
    [
        (recipe_with(), "llama"),
        (recipe_with(loss=LOGCONF, dropout=0.2), "gpt2"),
        (recipe_with(loss=AdaptConf(), dropout=0.2), "gpt2"),
        (recipe_with(tune=Lora(r=2, dropout=0.2)), "llama"),
    ],
)
def test_the_seed_decides_every_bit(recipe, arch, run, tokens):
    first = run(recipe, seed=3, arch=arch)
    torch.manual_seed(12345)  # what ran before in this worker must not matter
    np.random.seed(5)
    again, other = run(recipe, seed=3, arch=arch), run(recipe, seed=4, arch=arch)
    assert difference(weights_of(first.model), weights_of(again.model)) == 0.0
    assert losses_of(first) == losses_of(again)
    logits = [predict.predict(t.model, tokens, 8, "cpu") for t in (first, again, other)]
    assert np.array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-3


def test_training_leaves_the_shared_base_alone(base_of, run):
    before = weights_of(base_of("llama").module)
    run(recipe_with())
    run(recipe_with(tune=Lora(r=2)))
    assert difference(weights_of(base_of("llama").module), before) == 0.0
    assert all(q.requires_grad for q in base_of("llama").module.parameters())


# -- dropout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "fields"), [("gpt2", {"dropout": 0.3}), ("llama", {"tune": Lora(r=2, dropout=0.5)})])
@pytest.mark.parametrize(
    ("loss", "micro"), [(LogConf(warmup_frac=0.0), None), (LogConf(warmup_frac=0.0), 3), (Window(), 3)]
)
def test_with_dropout_targets_come_from_the_student_without_it(
    arch, fields, loss, micro, base_of, tokens, soft_labels, cpu, monkeypatch
):
    recipe = recipe_with(loss=loss, epochs=1, **fields)
    model = models.build(base_of(arch), 2, recipe, 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # starts at zero, where its dropout does not show
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(model)
    seen = []
    real = losses.aims

    def spy(loss, p_GC, logits_GC, course):
        seen.append(logits_GC)
        return real(loss, p_GC, logits_GC, course)

    monkeypatch.setattr(losses, "aims", spy)
    trainer.train(model, tokens, soft_labels, recipe, 0, cpu(recipe), micro)
    batch = epoch_batches(len(tokens), recipe.batch_size, 0, 0)[0]
    with torch.no_grad():
        calm = before.eval()([tokens.padded(batch)])
        shaken = before.train()([tokens.padded(batch)])
    torch.testing.assert_close(seen[0], calm, rtol=1e-4, atol=1e-5)
    assert float((shaken - calm).abs().max()) > 1e-3  # negative control: dropout is on in training


# -- prediction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["llama", "gpt2", "neox", "bert"])
def test_predictions_come_in_the_order_of_the_texts_whatever_the_batch(arch, base_of, texts):
    base = base_of(arch)
    model = models.build(base, 2, RECIPE, 0)
    tokens = models.tokenise(base, texts)
    one_by_one = np.stack([predict.predict(model, models.tokenise(base, [text]), 1, "cpu")[0] for text in texts])
    heard = []
    for size in (1, 5, 64):
        logits = predict.predict(model, tokens, size, "cpu", lambda done, total: heard.append((done, total)))
        np.testing.assert_allclose(logits, one_by_one, rtol=1e-4, atol=2e-5)
        assert heard[-1] == (23, 23)
    assert np.abs(np.diff(one_by_one, axis=0)).max() > 1e-2  # negative control: the texts differ


def test_bf16_differs_only_by_its_rounding(run):
    """Runtime checks of the other precision: autocast is on, and the head stays in float32."""
    full, half = run(recipe_with(epochs=1)), run(recipe_with(epochs=1), precision="bf16")
    assert losses_of(half) != losses_of(full)
    assert losses_of(half) == pytest.approx(losses_of(full), rel=0.1)
    assert all(value.dtype == torch.float32 for value in half.model.state_dict().values())


def test_full_training_moves_every_weight(run, base_of):
    start = weights_of(models.build(base_of("llama"), 2, RECIPE, 0))
    after = weights_of(run(recipe_with(tune=Full())).model)
    still = [name for name in start if torch.equal(start[name], after[name])]
    assert still == []


def test_one_example_is_enough(base_of, cpu):
    model = models.build(base_of("llama"), 2, RECIPE, 0)
    one = Tokens.of([[5, 6, 7]], 0)
    recipe = recipe_with(loss=LOGCONF)
    trained = trainer.train(model, one, np.array([[0.3, 0.7]], dtype=np.float32), recipe, 0, cpu(recipe), 4)
    assert len(trained.history) == 2
