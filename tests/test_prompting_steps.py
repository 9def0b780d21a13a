"""Prompts through the real store: which labels are read, what is shown, what is shared, what is written down."""

from __future__ import annotations

import json
import shutil
import types
from typing import Any

import numpy as np
import pytest
from tiny_models import save_language_model  # type: ignore[import-not-found]

from w2s import experiments, inference, plan, steps
from w2s.cli import describe
from w2s.cli.labelling import require_weights
from w2s.errors import SpecError, StepError
from w2s.learn import labels
from w2s.spec import Engine, MaterializeSpec, Probe, Prompt, Recipe, Sizes, TrainSpec, Unread, Weak
from w2s.store import Store
from w2s.sweep import sweep_of
from w2s.tasks.registry import task_of

SIZES = Sizes(weak_train=24, transfer=24, val=16, test=20)
ENGINE = Engine(device="cpu", predict_batch_size=7)
PROMPT = Prompt(shots=3, template="w1 {text} w2", words=(" w3", " w4 w5"))


def write_task(folder):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 40, rng.integers(2, 4)) for _ in range(160)]
    (folder / "task.jsonl").write_text("".join(
        json.dumps({"text": " ".join(f"w{i}" for i in row), "label": int(row.mean() > 19.5)}) + "\n" for row in rows
    ))  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with data, a weak model, and one prompted student of it."""
    folder = tmp_path_factory.mktemp("prompting")
    write_task(folder)
    task = task_of({"name": "tiny", "file": "task.jsonl", "text": "text", "label": "label"}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    model = save_language_model(folder / "model", 2)
    weak = TrainSpec(data=data.digest(), split="weak_train", model=model, recipe=Recipe(tune=Probe()), engine=ENGINE)
    student = prompted(data, model, labels=Weak(supervisor=weak.digest()))
    store = Store(folder / "store")
    assert [steps.run_step(spec, store) for spec in (data, weak, student)] == ["done"] * 3
    return types.SimpleNamespace(folder=folder, data=data, model=model, weak=weak, student=student, store=store)


def prompted(data, model, tune=PROMPT, split="transfer", **fields):
    recipe = Recipe(tune=tune, eval_every=1)
    return TrainSpec(data=data.digest(), split=split, model=model, recipe=recipe, engine=ENGINE, **fields)


@pytest.fixture
def copied(world, tmp_path):
    store = Store(tmp_path / "store")
    shutil.copytree(world.store.root, store.root)
    return store


def table(store, spec, name) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = store.read_table(spec.kind, spec.digest(), name).to_pydict()
    return columns


def logits(store, spec, split="test"):
    return np.array(table(store, spec, f"predictions/{split}.parquet")["logits"], dtype=np.float32)


def told(store, spec, name="prompt.json"):
    return json.loads((store.path("train", spec.digest()) / name).read_text())


def test_a_prompt_shows_the_supervisors_classes_of_transfer(world):
    shown = told(world.store, world.student)
    given = table(world.store, world.weak, "predictions/transfer.parquet")
    of = dict(zip(given["example_id"], np.array(given["logits"]).argmax(axis=1).tolist(), strict=True))
    assert shown["classes"] == [str(of[example_id]) for example_id in shown["shown"]]
    texts = table(world.store, world.data, "transfer.parquet")
    text_of = dict(zip(texts["example_id"], texts["text"], strict=True))
    words = {"0": "w3", "1": "w4 w5"}
    said = [f"w1 {text_of[i]} w2 {words[c]}" for i, c in zip(shown["shown"], shown["classes"], strict=True)]
    assert shown["text"] == " ".join(said)
    assert sorted(shown["of_class"].values()) == [1, 2]
    learned = table(world.store, world.student, "labels.parquet")
    assert learned["example_id"] == shown["shown"]
    assert learned["p"] == [[1.0 - of[i], float(of[i])] for i in shown["shown"]]
    assert set(learned["origin"]) == {f"supervisor {world.weak.digest()}"}


def test_no_truth_of_transfer_or_val_reaches_a_student_and_without_examples_no_label_is_read(
    world, tmp_path, monkeypatch
):
    """Wrong labels in those columns change nothing of a student, and of a prompt without examples nothing at all."""
    import pyarrow.parquet

    ceiling = prompted(world.data, world.model)
    bare = prompted(world.data, world.model, PROMPT.model_copy(update={"shots": 0}), labels=Unread())
    found = []
    for wrong in (False, True):
        store = Store(tmp_path / f"store-{wrong}")
        shutil.copytree(world.store.root, store.root)
        shutil.rmtree(store.path("train", world.student.digest()))
        for split in ("transfer", "val") if wrong else ():
            file = store.path("materialize", world.data.digest()) / f"{split}.parquet"
            rows = pyarrow.parquet.read_table(file)
            place = rows.column_names.index("label")
            flipped = pyarrow.array([1 - y for y in rows["label"].to_pylist()], rows["label"].type)
            pyarrow.parquet.write_table(rows.set_column(place, rows.schema.field(place), flipped), file)
        for spec in (world.student, ceiling):
            assert steps.run_step(spec, store) == "done"
        with monkeypatch.context() as patch:
            patch.setattr("w2s.inputs.given", None)
            assert steps.run_step(bare, store) == "done"
        found.append([table(store, spec, "predictions/test.parquet") for spec in (world.student, bare, ceiling)])
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2]  # negative control
    assert not (store.path("train", bare.digest()) / "labels.parquet").exists()
    assert not (store.path("train", ceiling.digest()) / "labels.parquet").exists()
    manifest = store.manifest("train", bare.digest())
    assert manifest is not None
    assert manifest["parents"] == [world.data.digest()]
    assert told(store, bare)["text"] == ""


def test_calibration_takes_off_the_mean_over_texts_of_transfer_that_are_not_shown(world, copied):
    raw = prompted(
        world.data, world.model, PROMPT.model_copy(update={"calibrated": False}), labels=world.student.labels
    )
    assert steps.run_step(raw, copied) == "done"
    shown = told(copied, world.student)
    assert told(copied, raw)["shown"] == shown["shown"]
    kept = [i not in shown["shown"] for i in table(copied, raw, "predictions/transfer.parquet")["example_id"]]
    mean = logits(copied, raw, "transfer")[kept].mean(axis=0)
    np.testing.assert_allclose(shown["calibration"], mean, atol=1e-5)
    assert told(copied, raw)["calibration"] is None
    for split in ("test", "val", "transfer"):
        np.testing.assert_allclose(logits(copied, world.student, split), logits(copied, raw, split) - mean, atol=1e-5)


def test_an_evaluation_is_written_where_selections_need_one(world):
    found = table(world.store, world.student, "evaluations.parquet")
    assert (set(found["split"]), set(found["step"])) == ({"val", "test"}, {1})
    rows = [row for row, split in zip(found["logits"], found["split"], strict=True) if split == "test"]
    np.testing.assert_array_equal(np.array(rows, dtype=np.float32), logits(world.store, world.student))


def test_what_is_counted(world):
    store, student = world.store, world.student
    found, manifest = told(store, student, "metrics.json"), store.manifest("train", student.digest())
    y = np.array(table(store, world.data, "test.parquet")["label"])
    assert found["test_accuracy"] == float((logits(store, student).argmax(axis=1) == y).mean())
    assert (found["train_n"], found["shots_left_out"], found["test_n"]) == (3, 0, 20)
    texts = [t for s in ("test", "val", "transfer") for t in table(store, world.data, f"{s}.parquet")["text"]]
    # Once what is shown; every text with the two words of the template; of words all tokens but the last.
    tokens = len(told(store, student)["tokens"]) + sum(len(t.split()) + 2 for t in texts) + len(texts)
    assert manifest["tokens"] == tokens
    assert manifest["flops"] == 2 * 20_000 * tokens
    assert "history.jsonl" not in manifest["files"]


def test_any_text_can_be_labelled_as_the_step_would(world, copied):
    texts = table(copied, world.data, "test.parquet")["text"]
    classes, p = inference.label(copied, world.student.digest(), texts)
    assert classes == ("0", "1")
    np.testing.assert_allclose(p, labels.probabilities(logits(copied, world.student)), atol=1e-5)


def test_weights_are_never_missed(world):
    step = world.student.model_copy(update={"keep_weights": True})
    manifest = world.store.manifest("train", step.digest())
    assert not plan.lacks_weights(step, manifest)
    assert plan.lacks_weights(world.weak.model_copy(update={"keep_weights": True}), manifest)


def test_examples_that_do_not_fit_are_left_out_whole(world, copied):
    spec = prompted(world.data, world.model, PROMPT.model_copy(update={"shots": 8}), labels=world.student.labels)
    steps.run_step(spec, copied)
    found, shown = told(copied, spec, "metrics.json"), told(copied, spec)
    assert 0 < found["train_n"] == len(shown["shown"]) == 8 - found["shots_left_out"] < 8
    assert shown["left_out"] == found["shots_left_out"]
    assert found["truncated"] == {"test": 0, "val": 0, "transfer": 0}
    short = world.model.model_copy(update={"max_length": 10})
    with pytest.raises(StepError, match="not one of 8 examples fits into the 10 tokens"):
        steps.run_step(spec.model_copy(update={"model": short}), copied)


# -- sweeps ------------------------------------------------------------------------------------------------------------

SWEEP: dict[str, Any] = {
    "name": "s",
    "tasks": {"tiny": {"file": "task.jsonl", "text": "text", "label": "label"}},
    "sizes": {"weak_train": 24, "transfer": 24, "val": 16, "test": 20},
    "models": {"small": "./model", "large": {"use": "./model", "layers": 1}},
    "methods": {"p": {"recipe": {"tune": {"kind": "prompt", "shots": 2}}}},
}


def cells(folder, **changes):
    return experiments.expand(sweep_of({**SWEEP, **changes}, folder))


def problems(folder, **changes):
    with pytest.raises(SpecError) as caught:
        sweep_of({**SWEEP, **changes}, folder)
    return "\n".join(caught.value.problems)


def method(loss=None, labels=None, **tune):
    made = {"recipe": {"tune": {"kind": "prompt", **tune}}}
    return {"p": {**made, **({"loss": loss} if loss else {}), **({"labels": labels} if labels else {})}}


def test_without_examples_all_pairs_seeds_and_roles_share_one_step(world):
    bare = cells(world.folder, methods=method(), seeds=[0, 1])
    assert len({cell.digests.student for cell in bare}) == 1
    assert bare[0].student_step.parents == (bare[0].digests.data,)
    assert len({cell.digests.student for cell in cells(world.folder, seeds=[0, 1])}) == 2
    own = {"small": "./model", "large": {**SWEEP["models"]["large"], **method()["p"]}}
    (cell,) = cells(world.folder, models=own, methods=method())
    assert cell.digests.student == cell.digests.ceiling
    weak = {"small": {"use": "./model", **method()["p"]}, "large": "./model"}
    (cell,) = cells(world.folder, models=weak, methods=method())
    assert cell.digests.student == cell.digests.weak


def test_a_ceiling_that_prompts_shows_true_labels(world):
    models = {"small": "./model", "large": {**SWEEP["models"]["large"], **SWEEP["methods"]["p"]}}
    (cell,) = cells(world.folder, models=models)
    assert (cell.ceiling_step.labels.kind, cell.ceiling_step.split) == ("truth", "transfer")
    assert cell.student_step.labels == Weak(supervisor=cell.digests.weak)
    assert cell.ceiling_step.recipe == cell.student_step.recipe


def test_what_does_not_count_changes_no_digest(world):
    plain = cells(world.folder)[0].digests.student
    others = {"lr": 0.5, "epochs": 9, "batch_size": 1, "dropout": 0.1, "head_init": "normal"}
    (tuned,) = [{**SWEEP["methods"]["p"]["recipe"], **others}]
    assert cells(world.folder, methods={"p": {"recipe": tuned}})[0].digests.student == plain
    assert (
        cells(world.folder, methods={"p": {**SWEEP["methods"]["p"], "hard_labels": True}})[0].digests.student == plain
    )
    for changed in ({"shots": 3}, {"shots": 2, "calibrated": False}, {"shots": 2, "template": "{text} so"}):
        assert cells(world.folder, methods=method(**changed))[0].digests.student != plain


def test_labels_that_nobody_reads_are_not_made(world):
    methods = {**method(shots=2, labels={"transforms": [{"confident": 0.5}]}), "xent": "xent"}
    made = cells(world.folder, methods=methods)
    assert [step.spec.kind for step in made[0].between] == ["labels"]
    bare = cells(world.folder, methods=method())
    assert bare[0].between == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": method(loss="logconf")}, "methods.p.loss: a prompt trains nothing, and so no"),
        ({"methods": method(labels={"transforms": ["harden"]})}, "methods.p.labels: a prompt without examples"),
        ({"methods": method(shots=25)}, "methods.p.recipe.tune.shots: expected at most the 24 examples of transfer"),
        ({"methods": method(template="so")}, "methods.p.recipe.tune.template: holds no {text} (got 'so')"),
        ({"methods": method(template="{txt}")}, "template: no field {txt}; there are {text}, or {text1}, {text2}, ..."),
        ({"methods": method(template="{text} ")}, "template: ends in a space, and so words begin with one"),
        ({"methods": method(template="{text1}")}, "methods.p.recipe.tune.template: has to hold {text} (got '{text1}')"),
        ({"methods": method(words=["a", "b", "c"])}, "methods.p.recipe.tune.words: 3 for 2 classes; give one for each"),
        ({"methods": method(words=["a", "a"])}, "words: expected another one for each class (got ['a', 'a'])"),
        ({"models": {"small": "./model", "large": "minilm"}}, "methods.p.recipe.tune: large is an encoder, which"),
        ({"models": {"small": "./model", "large": "tfidf"}}, "methods.p.recipe.tune: large has counts of words, which"),
        ({"engine": {"zero_stage": 3}}, "engine.zero_stage: 3 cuts apart the language-model head that prompts need"),
        ({"tasks": {"t": {"file": "task.jsonl", "prompt": "text", "target": "text"}}},
         "methods.p.recipe.tune: a prompt chooses among classes, and t generates text; leave it out"),
        ({"tasks": {"t": {"file": "task.jsonl", "chosen": "text", "rejected": "label"}},
          "methods": method(template="{text}")},
         "methods.p.recipe.tune.template: has to hold {text1} and {text2} (got '{text}') (t)"),
    ],
)  # fmt: skip
def test_what_cannot_be_prompted_is_told_before_any_work(world, changes, message):
    assert message in problems(world.folder, **changes)


def test_batches_that_no_prompt_has_are_no_reason_to_refuse(world):
    engine = {"processes": 3}
    assert "batch_size" in problems(world.folder, engine=engine)
    models = {name: {"use": "./model", **SWEEP["methods"]["p"]} for name in ("small", "large")}
    assert sweep_of({**SWEEP, "engine": engine, "models": models}, world.folder)


def test_what_users_are_shown(world, copied):
    lines = describe.step(world.folder, world.student.digest()[:12], 5)
    at = lines.index('prompt, and then one of ["w3", "w4 w5"]:')
    assert lines[at + 1 : at + 3] == [f"  {told(world.store, world.student)['text']}", "  w1 {text} w2"]
    require_weights(world.store, "train", world.student.digest(), [])
    with pytest.raises(SpecError, match=r"the weights of .* were not kept"):
        require_weights(world.store, "train", world.weak.digest(), [])
