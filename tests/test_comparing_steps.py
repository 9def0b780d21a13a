"""Step bodies on pairs of texts, through the real store: who learns from what, what is kept, and what a user sees."""

from __future__ import annotations

import json
import shutil
import types
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from tiny_models import save_model  # type: ignore[import-not-found]

from w2s import inference, steps
from w2s.analyze.report.examples import _readable
from w2s.cli import describe, labelling
from w2s.errors import SpecError
from w2s.estimate import costs
from w2s.experiments import expand
from w2s.plan import build
from w2s.sources.spec import FileSource
from w2s.spec import Engine, Frozen, LabelsSpec, LogConf, MaterializeSpec, Recipe, Sizes, TrainSpec, Weak
from w2s.store import Store
from w2s.supervision import FileLabels
from w2s.sweep import read_sweep
from w2s.tasks.registry import task_of

SIZES = Sizes(weak_train=24, transfer=32, val=8, test=16)
RECIPE = Recipe(lr=3e-3, batch_size=8, head_init="normal", loss=LogConf(warmup_frac=0.3))
ENGINE = Engine(device="cpu")
SPLITS = ("test", "val", "transfer")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(120):
        good, bad = sorted((rng.integers(0, 40, rng.integers(2, 12)) for _ in range(2)), key=lambda row: -row.mean())
        lines.append({"good": " ".join(f"w{i}" for i in good), "bad": " ".join(f"w{i}" for i in bad)})
    (folder / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = task_of({"name": "tiny", "file": "task.jsonl", "chosen": "good", "rejected": "bad"}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    small, large = (save_model(folder / f"model-{layers}", layers) for layers in (1, 2))
    common: dict[str, Any] = {"data": data.digest(), "recipe": RECIPE, "engine": ENGINE}
    weak = TrainSpec(split="weak_train", model=small, **common)
    student = TrainSpec(split="transfer", model=large, labels=Weak(supervisor=weak.digest()), **common)
    store = Store(folder / "store")
    assert [steps.run_step(spec, store) for spec in (data, weak, student)] == ["done"] * 3
    return types.SimpleNamespace(data=data, weak=weak, student=student, store=store)


@pytest.fixture
def copied(grid, tmp_path):
    store = Store(tmp_path / "store")
    for spec in (grid.data, grid.weak):
        shutil.copytree(grid.store.path(spec.kind, spec.digest()), store.path(spec.kind, spec.digest()))
    return store


def rows(store, spec, name):
    return store.read_table(spec.kind, spec.digest(), name).to_pylist()


def logits_of(store, spec, split):
    return np.array([row["logits"] for row in rows(store, spec, f"predictions/{split}.parquet")])


def test_predictions_are_scores_and_accuracy_is_that_of_pairs(grid):
    truth = {row["example_id"]: row for row in rows(grid.store, grid.data, "test.parquet")}
    predicted = rows(grid.store, grid.student, "predictions/test.parquet")
    assert [row["example_id"] for row in predicted] == list(truth)
    right = [(row["logits"][1] > row["logits"][0]) == truth[row["example_id"]]["label"] for row in predicted]
    metrics = json.loads((grid.store.path("train", grid.student.digest()) / "metrics.json").read_text())
    assert metrics["test_accuracy"] == sum(right) / 16
    assert (metrics["test_n"], metrics["train_n"]) == (16, 32)
    words = {
        split: sum(
            len(text.split()) for row in rows(grid.store, grid.data, f"{split}.parquet") for text in row["texts"]
        )
        for split in SPLITS
    }
    manifest = grid.store.manifest("train", grid.student.digest())
    assert manifest["tokens"] == 2 * words["transfer"] + sum(words.values())
    assert manifest["examples"] == 2 * 32


def test_a_students_labels_are_the_bradley_terry_probabilities_of_its_supervisor(grid):
    scores = logits_of(grid.store, grid.weak, "transfer")
    p1 = 1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))
    found = np.array([row["p"] for row in rows(grid.store, grid.student, "labels.parquet")])
    np.testing.assert_allclose(found, np.stack([1 - p1, p1], axis=1), atol=1e-6)
    assert found.std() > 0.01


def test_ground_truth_of_transfer_and_val_cannot_reach_a_student(grid, copied):
    for split in ("transfer", "val"):
        file = copied.path("materialize", grid.data.digest()) / f"{split}.parquet"
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["label"]), file)
    steps.run_step(grid.student, copied)
    for split in SPLITS:
        assert np.array_equal(logits_of(copied, grid.student, split), logits_of(grid.store, grid.student, split))


@pytest.mark.parametrize("cached", [False, True])
def test_neither_micro_batches_nor_cached_layers_change_a_number(cached, grid, copied):
    recipe = RECIPE.model_copy(update={"tune": Frozen(layers=1)})
    plain = grid.student.model_copy(update={"recipe": recipe})
    steps.run_step(plain, copied)
    expected = {split: logits_of(copied, plain, split) for split in SPLITS}
    shutil.rmtree(copied.path("train", plain.digest()))
    engine = Engine(device="cpu", micro_batch_size=3, predict_batch_size=5, cache_frozen=cached)
    other = plain.model_copy(update={"engine": engine})
    assert other.digest() == plain.digest()
    for spec in other.features().values():
        assert steps.run_step(spec, copied) == "done"
    assert steps.run_step(other, copied) == "done"
    for split in SPLITS:
        np.testing.assert_allclose(logits_of(copied, other, split), expected[split], atol=5e-5)


def test_kept_weights_score_texts_as_the_step_did(grid, copied, capsys):
    kept = grid.student.model_copy(update={"keep_weights": True})
    steps.run_step(kept, copied)
    texts = [text for row in rows(copied, grid.data, "test.parquet") for text in row["texts"]]
    classes, scores = inference.label(copied, kept.digest(), texts, batch_size=5)
    assert classes == ("score",)
    np.testing.assert_allclose(scores.reshape(-1, 2), logits_of(copied, kept, "test"), atol=1e-5)
    labelling.write(None, texts, classes, scores)
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first == {"text": texts[0], "score": float(scores[0, 0])}
    labelling.write(copied.root / "out.csv", texts, classes, scores)
    assert (copied.root / "out.csv").read_text().splitlines()[0] == "text,score"


def test_pairs_are_shown_with_the_better_one_marked(grid):
    lines = describe.step(grid.store.root.parent, grid.data.digest(), 5)
    shown = lines[lines.index("examples of the test:") + 1 : lines.index("spec:")]
    first = rows(grid.store, grid.data, "test.parquet")[0]
    titles = (
        ["  text 1:", "  text 2, the better one:"] if first["label"] else ["  text 1, the better one:", "  text 2:"]
    )
    assert shown[:5] == ["", titles[0], f"    {first['texts'][0]}", titles[1], f"    {first['texts'][1]}"]
    assert sum("the better one" in line for line in shown) == 3


def test_the_report_names_the_texts_of_a_pair():
    assert _readable(["a", "b"], ["text 1", "text 2"]) == "text 1: a\n\ntext 2: b"
    assert _readable("a", ["bad", "good"]) == "a"


# -- before any work ---------------------------------------------------------------------------------------------

YAML = """\
question: Which is better?
tasks: {prefs: {file: prefs.jsonl, prompt: q, chosen: a, rejected: b}}
sizes: {weak_train: 8, transfer: 8, val: 4, test: 20}
models: {tiny: {use: minilm, layers: 1}, small: {use: minilm, layers: 2}}
methods: {xent: {}, logconf: {}}
seeds: [0]
"""


def sweep_of(folder, change="", sets=()):
    (folder / "prefs.jsonl").write_text('{"q": "q", "a": "a", "b": "b"}\n')
    (folder / "s.yaml").write_text(YAML + change)
    return read_sweep(folder / "s.yaml", sets)


def test_a_sweep_of_comparisons_is_planned_like_any_other(tmp_path):
    sweep = sweep_of(tmp_path)
    plan = build(sweep, expand(sweep))
    assert [node.kind for node in plan.nodes.values()].count("train") == 4
    assert sweep.tasks["prefs"].n_classes == 2


def test_each_text_of_a_pair_costs_its_tokens_and_is_cut_by_itself(tmp_path):
    sweep = sweep_of(tmp_path)
    plan = build(sweep, expand(sweep))
    store = Store(tmp_path / "store")
    weak = next(node for node in plan.nodes.values() if node.title.startswith("weak"))
    examples = 2 * 8 + (20 + 4 + 8)  # two epochs, then the predictions
    assert costs(plan, store)[weak.digest].tokens == examples * 2 * 64  # while nothing is known, 64 tokens of a text
    with store.staging("materialize", weak.spec.data) as staged:
        (staged.folder / "summary.json").write_text(json.dumps({"pool": {"mean_words": 2000.0}}))
        staged.commit({"spec": {}, "wall_s": 1.0})
    most = weak.spec.model.max_length
    assert most < 1350
    assert costs(plan, store)[weak.digest].tokens == examples * 2 * most


def test_a_head_from_the_unembedding_needs_one_word(tmp_path):
    with pytest.raises(Exception, match=r"models.tiny.recipe.head_words: prefs compares texts by one score; give the"):
        sweep_of(tmp_path, "recipe: {head_init: unembedding}\n")
    with pytest.raises(Exception, match=r"head_words: 2 words, and prefs compares texts by one score"):
        sweep_of(tmp_path, "recipe: {head_words: [' a', ' b']}\n")
    sweep_of(tmp_path, "recipe: {head_init: unembedding, head_words: [' good']}\n")


def test_people_label_pairs_by_their_texts_in_whatever_order(grid, copied, tmp_path):
    pairs = rows(copied, grid.data, "transfer.parquet")
    written = [{"texts": row["texts"][::-1], "p": [0.25, 0.75]} for row in pairs[:3]]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    source = FileLabels(source=FileSource(file=str(path)), origin="raters")
    spec = LabelsSpec(data=grid.data.digest(), source=source)
    steps.run_step(spec, copied)
    found = rows(copied, spec, "transfer.parquet")
    assert [row["example_id"] for row in found] == [row["example_id"] for row in pairs[:3]]
    assert [row["p"] for row in found] == [[0.75, 0.25]] * 3


def test_no_place_is_the_most_frequent_one_of_pairs(tmp_path):
    with pytest.raises(SpecError, match=r"methods.m.labels.from: majority is the most frequent class, and prefs compa"):
        sweep_of(tmp_path, sets=["methods.m={labels: majority}"])
