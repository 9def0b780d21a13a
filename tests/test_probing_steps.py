"""Probes, words and activations through the real store: who reads what, what is shared, what is kept."""

from __future__ import annotations

import json
import shutil
import types

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tiny_models import save_model  # type: ignore[import-not-found]

from w2s import inference, inputs, steps
from w2s.errors import StepError
from w2s.learn import labels, logistic, probing
from w2s.models import ModelSpec, Words
from w2s.spec import Engine, FeaturesSpec, LabelsSpec, Made, MaterializeSpec, Probe, Recipe, Sizes, TrainSpec, Weak
from w2s.store import Store
from w2s.supervision import Knn, LogisticProbe, MixTruth, SupervisorLabels, TopoFilter, TruthLabels
from w2s.tasks.registry import task_of

SIZES = Sizes(weak_train=24, transfer=40, val=16, test=20)
SOLVED = Recipe(tune=Probe(solver="logistic"))
ENGINE = Engine(device="cpu", predict_batch_size=7)
WORDS = ModelSpec(name="tfidf", source=None, words=Words())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with data, a weak model of words, and pooled features of a tiny decoder's lower layer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("probing")
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 40, rng.integers(2, 12)) for _ in range(200)]
    (folder / "task.jsonl").write_text("".join(
        json.dumps({"text": " ".join(f"w{i}" for i in row), "label": int(row.mean() > 19.5)}) + "\n" for row in rows
    ))  # fmt: skip
    task = task_of({"name": "tiny", "file": "task.jsonl", "text": "text", "label": "label"}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    model = save_model(folder / "model", 2)
    weak = TrainSpec(data=data.digest(), split="weak_train", model=WORDS, recipe=SOLVED, engine=ENGINE)
    low = model.model_copy(update={"layers": 1})
    features = {
        split: FeaturesSpec(data=data.digest(), split=split, model=low, engine=ENGINE, pooled=True)
        for split in ("transfer", "val")
    }
    store = Store(folder / "store")
    assert [steps.run_step(spec, store) for spec in (data, weak, *features.values())] == ["done"] * 4
    pair = tuple(spec.digest() for spec in features.values())
    return types.SimpleNamespace(
        folder=folder, data=data, model=model, weak=weak, features=features, pair=pair, store=store
    )


@pytest.fixture
def copied(world, tmp_path):
    store = Store(tmp_path / "store")
    shutil.copytree(world.store.root, store.root)
    return store


def table(store, spec, name):
    return store.read_table(spec.kind, spec.digest(), name).to_pydict()


def logits(store, spec, split):
    return np.array(table(store, spec, f"predictions/{split}.parquet")["logits"], dtype=np.float32)


def metrics(store, spec):
    return json.loads((store.path("train", spec.digest()) / "metrics.json").read_text())


def x_of(world, split):
    return np.load(world.store.path("features", world.features[split].digest()) / "pooled.npy")


def labelled(store, world, *transforms, source=None, **fields):
    source = source or SupervisorLabels(supervisors=(world.weak.digest(),))
    spec = LabelsSpec(data=world.data.digest(), source=source, transforms=transforms, **fields)
    assert steps.run_step(spec, store) == "done"
    return spec


# -- features -----------------------------------------------------------------------------------------------------


def test_pooled_features_are_what_the_head_of_the_cut_model_sees(world):
    from w2s.learn import models

    texts = table(world.store, world.data, "val.parquet")["text"]
    for how in ("last", "mean"):
        spec = world.features["val"]
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"pooling": how})})
        store = world.store
        steps.run_step(spec, store)
        base = models.load_base(spec.model)
        found = np.load(store.path("features", spec.digest()) / "pooled.npy")
        assert found.shape == (16, 16)
        for row, text in enumerate(texts):
            ids = torch.tensor([base.tokenizer(text)["input_ids"]])
            with torch.no_grad():
                hidden = base.module(input_ids=ids).last_hidden_state[0]
            expected = hidden[-1] if how == "last" else hidden.mean(dim=0)
            np.testing.assert_allclose(found[row], expected.numpy(), atol=1e-4)


def test_a_solved_probe_needs_no_model_but_its_features(world, copied, monkeypatch):
    probe = TrainSpec(
        data=world.data.digest(), split="transfer", model=world.model, recipe=SOLVED, engine=ENGINE,
        labels=Weak(supervisor=world.weak.digest()),
    )  # fmt: skip
    assert set(probe.features()) == {"transfer", "test", "val"}
    assert all(spec.pooled and spec.model == world.model for spec in probe.features().values())
    for spec in probe.features().values():
        assert steps.run_step(spec, copied) == "done"
    monkeypatch.setattr(inputs, "base", None)  # nothing is loaded
    assert steps.run_step(probe, copied) == "done"
    x = {s: np.load(copied.path("features", f.digest()) / "pooled.npy") for s, f in probe.features().items()}
    p, p_val = (labels.probabilities(logits(copied, world.weak, split)) for split in ("transfer", "val"))
    expected = logistic.chosen(x["transfer"], p, x["val"], p_val)
    for split in ("transfer", "val", "test"):
        np.testing.assert_allclose(logits(copied, probe, split), expected.linear.logits(x[split]), atol=1e-5)
    facts = metrics(copied, probe)
    assert facts["l2"] == expected.l2
    assert dict(facts["val_loss_by_l2"]) == pytest.approx(expected.val_losses, abs=1e-6)
    manifest = copied.manifest("train", probe.digest())
    assert manifest["parents"][2:] == [spec.digest() for spec in probe.features().values()]
    assert "labels.parquet" in manifest["files"]
    assert "evaluations.parquet" not in manifest["files"]


def test_ground_truth_of_transfer_and_val_does_not_reach_a_solved_student(world, copied):
    """Wrong labels in those columns change nothing; in the ceiling they do."""
    import pyarrow.parquet

    common = {"data": world.data.digest(), "split": "transfer", "model": WORDS, "recipe": SOLVED, "engine": ENGINE}
    student, ceiling = TrainSpec(**common, labels=Weak(supervisor=world.weak.digest())), TrainSpec(**common)
    knn = (Knn(features=world.pair, do="relabel", k=3), LogisticProbe(features=world.pair, do="filter", keep=0.8))
    found = []
    for wrong in (False, True):
        store = Store(copied.root.parent / f"store-{wrong}")
        shutil.copytree(world.store.root, store.root)
        for split in ("transfer", "val") if wrong else ():
            file = store.path("materialize", world.data.digest()) / f"{split}.parquet"
            rows = pyarrow.parquet.read_table(file)
            place = rows.column_names.index("label")
            flipped = pyarrow.array([1 - y for y in rows["label"].to_pylist()], rows["label"].type)
            pyarrow.parquet.write_table(rows.set_column(place, rows.schema.field(place), flipped), file)
        made = labelled(store, world, *knn, TopoFilter(features=world.pair, keep=0.9, k=5))
        for spec in (student, ceiling):
            steps.run_step(spec, store)
        found.append((table(store, made, "transfer.parquet"), table(store, made, "val.parquet"),
                      table(store, student, "predictions/test.parquet"),
                      table(store, ceiling, "predictions/test.parquet")))  # fmt: skip
    assert found[0][:3] == found[1][:3]
    assert found[0][3] != found[1][3]


def test_an_evaluation_is_written_where_selections_need_one(world, copied):
    recipe = Recipe(tune=Probe(solver="logistic", l2=0.1), eval_every=5)
    spec = TrainSpec(data=world.data.digest(), split="weak_train", model=WORDS, recipe=recipe, engine=ENGINE)
    assert steps.run_step(spec, copied) == "done"
    found = table(copied, spec, "evaluations.parquet")
    assert set(found["split"]) == {"val", "test"}
    assert set(found["step"]) == {1}
    rows = [row for row, split in zip(found["logits"], found["split"], strict=True) if split == "test"]
    np.testing.assert_array_equal(np.array(rows, dtype=np.float32), logits(copied, spec, "test"))
    assert metrics(copied, spec)["l2"] == 0.1


# -- words --------------------------------------------------------------------------------------------------------


def test_words_are_those_of_the_training_texts_by_scikit_learn(world):
    texts = {split: table(world.store, world.data, f"{split}.parquet") for split in ("weak_train", "test")}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    x = vectorizer.fit_transform(texts["weak_train"]["text"])
    found = metrics(world.store, world.weak)
    model = LogisticRegression(C=1 / (24 * found["l2"]), tol=1e-10, max_iter=5000)
    theirs = model.fit(x, texts["weak_train"]["label"]).decision_function(vectorizer.transform(texts["test"]["text"]))
    ours = logits(world.store, world.weak, "test")
    np.testing.assert_allclose(ours[:, 1] - ours[:, 0], theirs, atol=1e-4)
    assert found["features"] == x.shape[1]


@pytest.mark.parametrize("of_words", [True, False])
def test_kept_weights_label_other_texts(world, copied, of_words):
    model = WORDS if of_words else world.model
    common = {"data": world.data.digest(), "split": "weak_train", "recipe": SOLVED, "engine": ENGINE}
    spec = TrainSpec(model=model, keep_weights=True, **common)
    for needed in (*spec.features().values(), spec):
        assert steps.run_step(needed, copied) == "done"
    classes, p = inference.label(copied, spec.digest(), table(copied, world.data, "test.parquet")["text"])
    assert classes == ("0", "1")
    np.testing.assert_allclose(p, labels.probabilities(logits(copied, spec, "test")), atol=1e-4)


def test_texts_without_words_are_an_error_of_the_step(world, tmp_path):
    rows = [{"text": "!" * (n + 1), "label": n % 2} for n in range(120)]
    (tmp_path / "signs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of({"name": "signs", "file": "signs.jsonl", "text": "text", "label": "label"}, tmp_path, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    store = Store(tmp_path / "store")
    steps.run_step(data, store)
    with pytest.raises(StepError, match="words of the training texts: empty vocabulary"):
        steps.run_step(TrainSpec(data=data.digest(), split="weak_train", model=WORDS, recipe=SOLVED), store)


# -- transforms ---------------------------------------------------------------------------------------------------


def p_weak(world, split):
    return labels.probabilities(logits(world.store, world.weak, split))


def test_knn_relabels_transfer_by_its_others_and_val_by_transfer(world, copied):
    spec = labelled(copied, world, Knn(features=world.pair, do="relabel", k=4))
    x, p = x_of(world, "transfer"), p_weak(world, "transfer")
    np.testing.assert_allclose(table(copied, spec, "transfer.parquet")["p"], probing.knn(x, p, 4), atol=1e-6)
    found = table(copied, spec, "val.parquet")
    np.testing.assert_allclose(found["p"], probing.knn(x, p, 4, x_of(world, "val")), atol=1e-6)
    assert set(found["origin"]) == {f"knn on labels of supervisor {world.weak.digest()}"}
    assert copied.manifest("labels", spec.digest())["parents"] == [
        world.data.digest(), world.weak.digest(), *world.pair,
    ]  # fmt: skip
    told = json.loads((copied.path("labels", spec.digest()) / "summary.json").read_text())["splits"]["transfer"]
    changed = int((probing.knn(x, p, 4).argmax(axis=1) != p.argmax(axis=1)).sum())
    assert told["transforms"][0]["other_class"] == changed
    assert "accuracy" not in told


def test_a_filter_keeps_of_each_class_the_labels_nearest_to_the_opinion(world, copied):
    spec = labelled(copied, world, Knn(features=world.pair, do="filter", keep=0.5, k=4))
    p = p_weak(world, "transfer")
    far = probing.disagreement(p, probing.knn(x_of(world, "transfer"), p, 4))
    ids = table(world.store, world.data, "transfer.parquet")["example_id"]
    kept = set(table(copied, spec, "transfer.parquet")["example_id"])
    for label in (0, 1):
        own = [i for i in range(40) if p[i].argmax() == label]
        inside = [far[i] for i in own if ids[i] in kept]
        outside = [far[i] for i in own if ids[i] not in kept]
        assert len(inside) == int(0.5 * len(own) + 0.5)
        assert max(inside) <= min(outside)
    assert table(copied, spec, "val.parquet")["example_id"] == table(copied, world.data, "val.parquet")["example_id"]
    over_all = labelled(copied, world, Knn(features=world.pair, do="filter", keep=0.5, k=4, per_class=False))
    nearest = {ids[i] for i in np.argsort(far, kind="stable")[:20]}
    assert len(set(table(copied, over_all, "transfer.parquet")["example_id"]) & nearest) >= 19  # but for ties


def test_a_logistic_probe_relabels_val_by_one_fit_of_all_of_transfer(world, copied):
    spec = labelled(copied, world, LogisticProbe(features=world.pair, do="relabel", l2=0.1))
    linear = logistic.fit(x_of(world, "transfer"), p_weak(world, "transfer"), 0.1)
    expected = labels.probabilities(linear.logits(x_of(world, "val")))
    np.testing.assert_allclose(table(copied, spec, "val.parquet")["p"], expected, atol=1e-5)
    own = labels.probabilities(linear.logits(x_of(world, "transfer")))  # not what transfer itself gets
    assert np.abs(np.array(table(copied, spec, "transfer.parquet")["p"]) - own).max() > 0.01


def test_transforms_follow_each_other_also_on_a_part_and_after_examples_were_dropped(world, copied):
    spec = labelled(
        copied, world, TopoFilter(features=world.pair, keep=0.8, k=19), Knn(features=world.pair, do="relabel", k=1),
        part=(0, 2), source=TruthLabels(),
    )  # fmt: skip
    found = table(copied, spec, "transfer.parquet")
    place = {e: i for i, e in enumerate(table(world.store, world.data, "transfer.parquet")["example_id"])}
    rows = [place[example_id] for example_id in found["example_id"]]
    assert 2 < len(rows) <= 16
    y = np.array(table(world.store, world.data, "transfer.parquet")["label"])[rows]
    expected = probing.knn(x_of(world, "transfer")[rows], np.eye(2, dtype=np.float32)[y], 1)
    np.testing.assert_allclose(found["p"], expected, atol=1e-6)


def test_labels_made_of_truth_among_others_say_so(world, copied):
    spec = labelled(copied, world, MixTruth(share=0.5), Knn(features=world.pair, do="relabel", k=3))
    origin = set(table(copied, spec, "transfer.parquet")["origin"])
    assert origin == {"knn on labels of several origins and truth"}


def test_a_student_learns_from_what_a_filter_left(world, copied):
    spec = labelled(copied, world, LogisticProbe(features=world.pair, do="filter", keep=0.5))
    student = TrainSpec(
        data=world.data.digest(), split="transfer", model=WORDS, recipe=SOLVED, engine=ENGINE,
        labels=Made(labels=spec.digest()),
    )  # fmt: skip
    assert steps.run_step(student, copied) == "done"
    assert metrics(copied, student)["train_n"] == len(table(copied, spec, "transfer.parquet")["p"])
    assert table(copied, student, "labels.parquet") == table(copied, spec, "transfer.parquet")


def test_of_pairs_each_text_gets_a_score(tmp_path):
    rng = np.random.default_rng(0)
    rest = [[" ".join(f"w{i}" for i in rng.integers(0, 400, 6)) for _ in range(2)] for _ in range(200)]
    rows = [{"better": f"good {one}", "worse": f"bad {other}"} for one, other in rest]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"name": "pairs", "kind": "compare", "file": "pairs.jsonl", "chosen": "better", "rejected": "worse"}
    data = MaterializeSpec(task=task_of(given, tmp_path, "task"), sizes=SIZES)
    store = Store(tmp_path / "store")
    spec = TrainSpec(data=data.digest(), split="weak_train", model=WORDS, recipe=SOLVED, keep_weights=True)
    assert [steps.run_step(step, store) for step in (data, spec)] == ["done", "done"]
    assert metrics(store, spec)["test_accuracy"] == 1.0
    texts = [text for pair in table(store, data, "test.parquet")["texts"] for text in pair]
    names, scores = inference.label(store, spec.digest(), texts)
    assert names == ("score",)
    np.testing.assert_allclose(scores.reshape(-1, 2), logits(store, spec, "test"), atol=1e-5)
