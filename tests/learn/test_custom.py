"""Losses, transforms, records and models of plugins: by hand, through the trainer, and what is wrong named."""

from __future__ import annotations

import copy
import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from w2s import plugins
from w2s.errors import StepError
from w2s.learn import custom, losses, models, predict, relabel, trainer
from w2s.objectives import PluginLoss, Xent
from w2s.plugins import PluginUse
from w2s.sources.spec import PluginSource
from w2s.spec import Engine, Recipe, Sizes
from w2s.supervision import LabelsSpec, PluginTransform, SupervisorLabels
from w2s.tasks import own
from w2s.tasks.fields import BadRecord
from w2s.tasks.formats import examples
from w2s.tasks.records import open_records
from w2s.tasks.splits import materialize
from w2s.tasks.task import TaskSpec, TextFormat

HEAD = "import torch\nfrom w2s import plugins\n"
FOCAL = """
@plugins.loss
def focal(logits, labels, *, gamma: float = 2.0):
    log_f = torch.log_softmax(logits, dim=-1)
    return -(labels * (1 - log_f.exp()) ** gamma * log_f).sum(dim=-1)
"""
TOWARDS = """
def towards(labels, logits, course, *, share: float):
    return (1 - share) * labels + share * torch.softmax(logits, -1).mean(0)

@plugins.loss(aims=towards, reads="batch")
def drawn(logits, targets, *, share: float, scale: float = 1.0):
    return -scale * (targets * torch.log_softmax(logits, -1)).sum(-1)
"""
COURSE = losses.Course(torch.tensor([0.5, 0.5]), 0.3, 0, 10)


@pytest.fixture
def of(tmp_path):
    """(text of a file, name, class of spec, values) -> the function as a spec, loaded."""

    def load(text, name, kind=PluginUse, **values):
        source = (HEAD + text).encode()
        code = hashlib.sha256(source).hexdigest()
        (tmp_path / code).mkdir(exist_ok=True)
        (tmp_path / code / "mine.py").write_bytes(source)
        use = kind(use=name, code=code, file="mine.py", values=tuple(sorted(values.items())))
        plugins.load(use, tmp_path)
        return use

    yield load
    plugins._loaded.clear()


# -- losses ------------------------------------------------------------------------------------------------------------


def test_a_loss_by_hand(of):
    loss = of(FOCAL, "focal", PluginLoss, gamma=2.0)
    logits_BC = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], requires_grad=True)  # f = 3/4, 1/4; 1/2, 1/2
    p_BC = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    aims = losses.aims(loss, p_BC, None, COURSE)
    total = losses.loss_sum(loss, logits_BC, aims)
    assert total.item() == pytest.approx(-(0.25**2) * math.log(0.75) - 0.5**2 * math.log(0.5), rel=1e-6)
    assert (losses.reads(loss), losses.drops(loss)) == ("labels", False)
    weighted = losses.loss_sum(loss, logits_BC, aims._replace(weight_G=torch.tensor([2.0, 0.0])))
    assert weighted.item() == pytest.approx(-2 * 0.25**2 * math.log(0.75), rel=1e-6)


def test_aims_of_the_batch_by_hand(of):
    loss = of(TOWARDS, "drawn", PluginLoss, share=0.5, scale=2.0)
    logits_GC = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], requires_grad=True)
    p_GC = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    aims = losses.aims(loss, p_GC, logits_GC.detach(), COURSE)
    mean = (0.75 + 0.5) / 2
    expected = torch.tensor([[0.5 + 0.5 * mean, 0.5 - 0.5 * mean], [0.5 * mean, 1 - 0.5 * mean]])
    torch.testing.assert_close(aims.target_GC, expected)
    assert (losses.reads(loss), losses.drops(loss)) == ("batch", True)
    total = losses.loss_sum(loss, logits_GC, aims)
    assert total.item() == pytest.approx(
        -2 * float(expected[0, 0]) * math.log(0.75) - 2 * float(expected[0, 1]) * math.log(0.25) + 2 * math.log(2.0)
    )


def test_aims_may_weigh_examples(of):
    text = TOWARDS.replace("+ share * torch.softmax(logits, -1).mean(0)", "* 2, logits[:, 0] + share").replace(
        "batch", "own"
    )
    loss = of(text, "drawn", PluginLoss, share=0.5, scale=1.0)
    logits_GC = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    aims = losses.aims(loss, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), logits_GC, COURSE)
    assert aims.weight_G.tolist() == [1.5, 3.5]
    assert losses.reads(loss) == "own"


def test_a_rank_without_examples_takes_part_with_nothing(of):
    none_BC = torch.zeros(0, 2, requires_grad=True)
    for loss in (of(FOCAL, "focal", PluginLoss, gamma=2.0), of(TOWARDS, "drawn", PluginLoss, share=0.5, scale=1.0)):
        logits_GC = None if losses.reads(loss) == "labels" else none_BC.detach()
        aims = losses.aims(loss, torch.zeros(0, 2), logits_GC, COURSE)
        total = losses.loss_sum(loss, none_BC, aims)
        total.backward()
        assert total.item() == 0.0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return labels * logits", r"mine\.py:3: loss f: the loss: expected the shape \(4,\), one number .* \(4, 2\)"),
        ("return logits.mean()", r"mine\.py:3: loss f: the loss: expected the shape \(4,\), .*\(got \(\)\)"),
        ("pass", r"mine\.py:3: loss f: the loss: expected a tensor .* \(got nothing: is there a return\?\)"),
        ("return 1.5", r"\(got float 1\.5\)"),
        ("return logits.argmax(-1)", r"of torch\.int64"),
        ("return labels.sum(-1)", r"mine\.py:3: loss f: the loss has no gradient"),
        ("return (logits[:, 0] - 9).log()", r"the loss: 4 of 4 numbers are not finite \(such as nan\)"),
        ("return logits.softmax(0)[:, 0]", r"of an example changes with the examples beside it \(from 1 alone to 0\."),
        ("return logits[:, 0] / 0 .real", r"numbers are not finite"),
        ("x = 3\n    return logits[:, x]", r"mine\.py:6: loss f: IndexError: index 3 is out of bounds"),
        ("raise ValueError('no good')", r"mine\.py:5: loss f: ValueError: no good"),
    ],
)
def test_a_loss_that_is_none_is_named_with_file_and_line(body, message, of, capfd):
    loss = of(f"@plugins.loss\ndef f(logits, labels):\n    {body}\n", "f", PluginLoss)
    logits_BC = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], requires_grad=True)
    with pytest.raises(StepError, match=message):
        losses.loss_sum(loss, logits_BC, losses.aims(loss, torch.full((4, 2), 0.5), None, COURSE))
    assert ("Traceback" in capfd.readouterr().err) == ("Error: " in message)


@pytest.mark.parametrize(
    ("reads", "body", "message"),
    [
        ("own", "labels - logits.mean(0)", "aims of an example changes with the examples beside it"),
        ("batch", "labels[0]", r"aims: targets: expected the shape \(4, 2\)"),
        ("batch", "(labels, labels)", r"aims: weights: expected the shape \(4,\)"),
        ("batch", "labels / 0 * 0", "aims: targets: 8 of 8 numbers are not finite"),
        ("batch", "labels.no_such", "mine.py:4: loss f: AttributeError"),
    ],
)
def test_aims_that_are_none_are_named(reads, body, message, of):
    text = f"def g(labels, logits, course):\n    return {body}\n@plugins.loss(aims=g, reads='{reads}')\n"
    loss = of(text + "def f(logits, labels):\n    return logits.sum(-1)\n", "f", PluginLoss)
    with pytest.raises(StepError, match=message):
        losses.aims(loss, torch.full((4, 2), 0.5), torch.arange(8.0).reshape(4, 2), COURSE)


def test_memory_that_runs_out_keeps_its_own_error(of):
    loss = of("@plugins.loss\ndef f(logits, labels):\n    raise MemoryError\n", "f", PluginLoss)
    logits_BC = torch.zeros(2, 2, requires_grad=True)
    with pytest.raises(MemoryError):
        losses.loss_sum(loss, logits_BC, losses.aims(loss, torch.full((2, 2), 0.5), None, COURSE))


def test_logits_that_are_not_finite_are_no_fault_of_the_loss(of):
    """The trainer tells, with the step and what helps."""
    loss = of(FOCAL, "focal", PluginLoss, gamma=2.0)
    logits_BC = torch.tensor([[math.nan, 0.0]], requires_grad=True)
    assert math.isnan(losses.loss_sum(loss, logits_BC, losses.aims(loss, torch.ones(1, 2), None, COURSE)).item())


XENT = """
@plugins.loss
def plain(logits, labels):
    return -(labels * torch.log_softmax(logits, -1)).sum(-1)
"""


@pytest.fixture
def run(base_of, tokens, soft_labels, cpu):
    def train(loss, micro=None):
        recipe = Recipe(lr=3e-3, batch_size=7, epochs=2, head_init="normal", loss=loss)
        model = models.build(base_of("llama"), 2, recipe, 0, Engine())
        return trainer.train(model, tokens, soft_labels, recipe, 0, cpu(recipe), micro)

    return train


def test_cross_entropy_as_a_plugin_trains_as_ours_does(run, of):
    own_loss, ours = (run(loss) for loss in (of(XENT, "plain", PluginLoss), Xent()))
    expected = [row["loss"] for row in ours.history]
    assert [row["loss"] for row in own_loss.history] == pytest.approx(expected, rel=1e-5)
    assert "weight" not in own_loss.history[0]
    torch.testing.assert_close(own_loss.model.state_dict(), ours.model.state_dict(), atol=1e-4, rtol=0)


def test_how_a_batch_is_cut_does_not_matter(run, of):
    """Also to a loss with aims of the whole batch; what they are matters (negative control)."""
    loss = of(TOWARDS, "drawn", PluginLoss, share=0.9, scale=1.0)
    whole, cut = run(loss), run(loss, micro=2)
    rows = [row["loss"] for row in whole.history]
    assert [row["loss"] for row in cut.history] == pytest.approx(rows, rel=1e-5)
    assert [row["weight"] for row in cut.history] == [1.0] * len(rows)
    other = run(of(TOWARDS, "drawn", PluginLoss, share=0.0, scale=1.0))
    assert [row["loss"] for row in other.history] != pytest.approx(rows, rel=1e-3)


# -- label transforms --------------------------------------------------------------------------------------------------

P = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], dtype=np.float32)
IDS = ["a", "b", "c", "d"]


@pytest.fixture
def relabelled(of):
    """(body of a transform, what it takes beside p) -> labels of transfer or val."""

    def make(body, takes="", drops=True, seed=0, texts=IDS, **values):
        parameters = ", *, " + ", ".join(f"{name}: float" for name in values) if values else ""
        text = f"import numpy as np\n@plugins.transform\ndef f(p{takes}{parameters}):\n    {body}\n"
        how = of(text, "f", PluginTransform, **values)
        spec = LabelsSpec(data="0" * 64, source=SupervisorLabels(supervisors=("1" * 64,)), transforms=(how,), seed=seed)
        return relabel.made(spec, relabel.Evidence(IDS, 2, {"1" * 64: P}, texts=texts), drops)

    return make


def test_a_transform_by_hand(relabelled):
    given, told = relabelled("p[:, 1] *= by\n    return p / p.sum(1, keepdims=True)", by=2.0)
    np.testing.assert_allclose(given.p_NC[0], [0.9 / 1.1, 0.2 / 1.1], rtol=1e-6)
    np.testing.assert_allclose(given.p_NC[1], [0.2 / 1.8, 1.6 / 1.8], rtol=1e-6)
    assert given.p_NC.dtype == np.float32
    assert P[0, 1] == np.float32(0.1)  # what came in is not touched
    assert (told[0]["kept"], told[0]["dropped"], told[0]["transform"]["values"]) == (4, 0, [["by", 2.0]])
    assert given.origins == ["supervisor " + "1" * 64] * 4


def test_a_mask_drops_examples_of_transfer_and_none_of_val(relabelled):
    body = "assert list(texts) == [i.upper() for i in ids]; return np.array([i in 'ad' for i in ids])"
    given, told = relabelled(body, ", ids, texts", texts=["A", "B", "C", "D"])
    assert (given.ids, told[0]["dropped"]) == (["a", "d"], 2)
    np.testing.assert_array_equal(given.p_NC, P[[0, 3]])
    assert relabelled(body, ", ids, texts", drops=False, texts=["A", "B", "C", "D"])[0].ids == IDS


def test_what_is_drawn_depends_on_the_seed_alone(relabelled):
    body = "x = rng.random((len(p), 1)); return np.hstack([x, 1 - x])"
    first, again, other = (relabelled(body, ", rng", seed=seed)[0].p_NC for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, relabelled(body, ", rng", drops=False)[0].p_NC)  # val is drawn apart


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return p[:3]", r"mine\.py:4: transform f: expected probabilities of shape \(4, 2\), or a mask of \(4,\)"),
        ("return p.argmax(1)", r"\(got int64 of shape \(4,\)\)"),
        ("pass", r"\(got object of shape \(\)\)"),
        ("return p * 2", r"4 of 4 labels are no probabilities \(example a: 1\.8, 0\.2\)"),
        ("p[2] = np.nan\n    return p", r"1 of 4 labels are no probabilities \(example c: nan, nan\)"),
        ("p[1] = [1.5, -0.5]\n    return p", r"1 of 4 labels are no probabilities \(example b: 1\.5, -0\.5\)"),
        ("return p[ :, 7]", r"mine\.py:6: transform f: IndexError"),
        ("return p[:, 0] > 2", r"labels\.transforms\[0\]: f leaves no example \(0 of 4 examples"),
        ("return p[:, 0] > 0.5", r"labels\.transforms\[0\]: f leaves one class \(2 of 4 examples"),
    ],
)
def test_a_transform_that_is_none_is_named_with_file_and_line(body, message, relabelled):
    with pytest.raises(StepError, match=message):
        relabelled(body)


def test_texts_of_comparisons_are_not_offered(relabelled):
    with pytest.raises(StepError, match=r"mine\.py:4: transform f: asks for texts, of which an example .* has several"):
        relabelled("return p", ", texts", texts=[None] * 4)


# -- tasks -------------------------------------------------------------------------------------------------------------


def task_of(source, **fields):
    form = TextFormat(text="{a} words", label="b")
    return TaskSpec(name="t", source=source, format=form, **fields)


def test_records_of_a_generator_become_splits(of, tmp_path):
    text = "@plugins.task()\ndef f(*, many: int):\n    for i in range(many):\n        yield {'a': i, 'b': i % 2}\n"
    task = task_of(of(text, "f", PluginSource, many=60))
    opened = open_records(task)
    assert next(iter(opened.pool)) == (1, {"a": 0, "b": 0})
    assert opened.pool_title == "mine.py: f many=60"
    made = materialize(task, Sizes(weak_train=10, transfer=10, val=4, test=10), 0)
    assert made.summary["pool"]["records"] == 60
    assert made.summary["source_hash"] == task.source.code
    assert len(list(open_records(task.model_copy(update={"sample": 7})).pool)) == 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import random\n    return [{'a': random.random()}]", r"mine\.py:3: task f: gives other records each time"),
        ("return [{'a': 1}, 2]", r"mine\.py:3: task f: record 2: expected a mapping with named fields \(got 2\)"),
        ("yield {'a': 1}\n    raise KeyError('b')", r"mine\.py:6: task f: KeyError: 'b'"),
        ("return 1 / 0", r"mine\.py:5: task f: ZeroDivisionError"),
        ("return None", r"mine\.py:3: task f: TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_records_that_are_none_are_named(body, message, of):
    source = of(f"@plugins.task()\ndef f():\n    {body}\n", "f", PluginSource)
    with pytest.raises(StepError, match=message):
        list(own.made(source, None))


def test_a_prepare_changes_records_leaves_some_out_and_names_what_it_cannot(of):
    text = (
        "@plugins.prepare\ndef f(record, *, most: int):\n    if record['a'] > most:\n        return 'too large'\n"
        "    return {**record, 'a': record['a'] + 1}\n"
    )
    prepare = own.prepared(of(text, "f", most=3))
    assert prepare({"a": 1}) == {"a": 2}
    assert prepare({"a": 4}) == "too large"
    with pytest.raises(BadRecord, match=r"mine\.py:5: prepare f: KeyError: 'a'"):
        prepare({"b": 1})
    nothing = own.prepared(of("@plugins.prepare\ndef f(record):\n    pass\n", "f"))
    with pytest.raises(BadRecord, match="expected a record, or the reason to leave it out"):
        nothing({"a": 1})


def test_what_a_prepare_leaves_out_is_counted(of):
    body = "'odd' if record['a'] % 2 else {**record, 'b': record['a'] % 4 // 2}"
    text = f"@plugins.prepare\ndef f(record):\n    return {body}\n"
    task = task_of(PluginSource(use="x", code="0" * 64), own_prepare=of(text, "f"))
    found = examples(task, [(i + 1, {"a": i}) for i in range(10)], "x")
    assert (found.dropped["odd"], found.records, list(found.text)) == (5, 10, [f"{i} words" for i in (0, 2, 4, 6, 8)])


# -- models ------------------------------------------------------------------------------------------------------------

BAG = """
@plugins.model
def bag(base, *, size: int):
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(base.config.vocab_size, size)
        def forward(self, input_ids, attention_mask):
            return self.embed(input_ids)
    return Bag()
"""


@pytest.fixture
def base(base_of):
    """A copy of the tiny Llama."""
    return copy.deepcopy(base_of("llama").module)  # a builder may write into it


def test_a_module_of_ones_own_is_trained_and_its_size_is_measured(of, base, base_of, tokens, soft_labels, cpu):
    module = custom.built(of(BAG, "bag", size=5), base)
    assert module.config.hidden_size == 5
    assert base.config.hidden_size == 16
    again = custom.built(of(BAG, "bag", size=5), base)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    recipe = Recipe(lr=1e-2, batch_size=8, epochs=1)
    built = SimpleNamespace(**{**vars(base_of("llama")), "module": module, "pooling": "mean"})
    model = models.build(built, 2, recipe, 0)
    trainer.train(model, tokens, soft_labels, recipe, 0, cpu(recipe))
    logits_NC = predict.predict(model, tokens, 8, torch.device("cpu"))
    assert np.isfinite(logits_NC).all()
    assert np.abs(logits_NC).max() > 0


def test_the_base_itself_may_be_changed(of, base):
    body = "with torch.no_grad():\n        base.embed_tokens.weight.zero_()"
    text = f"@plugins.model\ndef f(base):\n    {body}\n    return base\n"
    module = custom.built(of(text, "f"), base)
    assert module.get_parameter("embed_tokens.weight").detach().abs().sum().item() == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("return Bag()", "return Bag"), r"mine\.py:4: model bag: expected a torch module \(got type"),
        (("self.embed(input_ids)", "self.embed(input_ids).mean(1)"), r"expected hidden states \(texts, tokens, size\)"),
        (("self.embed(input_ids)", "None"), r"as 2, 3, D \(got nothing"),
        (("self.embed(input_ids)", "self.embed(input_ids) / 0"), "hidden states: .* not finite"),
        (
            ("self.embed(input_ids)", "self.embed(input_ids).cumsum(0)"),
            "change with padding or with the text beside it",
        ),
        (("self.embed(input_ids)", "self.embed(input_ids.flip(1))"), "change with padding or with the text beside it"),
        (("self.embed(input_ids)", "self.gone"), r"mine\.py:11: model bag: AttributeError"),
        (("class Bag", "base.no_such\n    class Bag"), r"mine\.py:6: model bag: AttributeError"),
    ],
)
def test_a_model_that_is_none_is_named_with_file_and_line(change, message, of, base):
    with pytest.raises(StepError, match=message):
        custom.built(of(BAG.replace(*change), "bag", size=5), base)


def test_rows_of_the_unembedding_that_do_not_fit_are_refused(of, base, base_of):
    module = custom.built(of(BAG, "bag", size=5), base)
    built = SimpleNamespace(**{**vars(base_of("llama")), "module": module})
    with pytest.raises(StepError, match="unembedding has vectors of 16 numbers, and its hidden states have 5"):
        models.build(built, 2, Recipe(head_init="unembedding"), 0)


def test_gradient_checkpointing_is_refused_where_a_module_has_none(of, base, base_of):
    module = custom.built(of(BAG, "bag", size=5), base)
    built = SimpleNamespace(**{**vars(base_of("llama")), "module": module})
    with pytest.raises(StepError, match=r"engine\.gradient_checkpointing: its module has none"):
        models.build(built, 2, Recipe(), 0, Engine(gradient_checkpointing=True))
