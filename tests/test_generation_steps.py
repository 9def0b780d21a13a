"""Step bodies on texts that are generated, through the real store: who learns from what, what is kept."""

from __future__ import annotations

import json
import math
import shutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from tiny_models import save_language_model  # type: ignore[import-not-found]

from w2s import inference, steps
from w2s.analyze.reading import scores
from w2s.analyze.reading.predictions import Found, Reader, Wanted
from w2s.analyze.reading.scoring import score_texts
from w2s.analyze.reading.selection import Taken
from w2s.analyze.report.examples import Disagreements
from w2s.cli import describe
from w2s.errors import SpecError, StepError
from w2s.spec import Engine, LanguageSpec, MaterializeSpec, Recipe, Sizes, TrainSpec, Weak, begun_with
from w2s.store import Store
from w2s.sweep import sweep_of
from w2s.tasks.registry import task_of

SIZES = Sizes(weak_train=24, transfer=32, val=4, test=16)
RECIPE = Recipe(lr=1e-2, batch_size=8, epochs=12)
ENGINE = Engine(device="cpu")
SPLITS = ("test", "val", "transfer")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The target is the prompt's last word: something that one layer can learn."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    prompts = {tuple(f"w{i}" for i in rng.integers(0, 6, 3)) for _ in range(200)}
    lines = [{"q": " ".join(words), "a": f"w20 {words[-1]}"} for words in sorted(prompts)][:80]
    (folder / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = {"name": "last", "file": "task.jsonl", "prompt": "q", "target": "a", "answer_after": "w20"}
    task = task_of({**fields, "max_new_tokens": 4}, folder, "task")
    data = MaterializeSpec(task=task, sizes=SIZES)
    small, large = (save_language_model(folder / f"model-{layers}", layers) for layers in (1, 2))
    common: dict[str, Any] = {"data": data.digest(), "recipe": RECIPE, "engine": ENGINE}
    weak = TrainSpec(split="weak_train", model=small, keep_weights=True, **common)
    student = TrainSpec(split="transfer", model=large, labels=Weak(supervisor=weak.digest()), **common)
    store = Store(folder / "store")
    assert [steps.run_step(spec, store) for spec in (data, weak, student)] == ["done"] * 3
    return types.SimpleNamespace(data=data, weak=weak, student=student, store=store, folder=folder)


def rows(store, spec, name):
    return store.read_table(spec.kind, spec.digest(), name).to_pylist()


def rewritten(file, change):
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([change(row) for row in table.to_pylist()]), file)


def copy_of(grid, tmp_path, *specs):
    store = Store(tmp_path / "store")
    for spec in specs:
        shutil.copytree(grid.store.path(spec.kind, spec.digest()), store.path(spec.kind, spec.digest()))
    return store


def metrics_of(grid, spec):
    return json.loads((grid.store.path("train", spec.digest()) / "metrics.json").read_text())


def test_answers_are_texts_with_their_log_probability_and_exact_match_is_counted(grid):
    for spec in (grid.weak, grid.student):
        truth = {row["example_id"]: row["target"].split()[-1] for row in rows(grid.store, grid.data, "test.parquet")}
        predicted = rows(grid.store, spec, "predictions/test.parquet")
        assert set(predicted[0]) == {"example_id", "text", "answer", "log_prob"}
        assert [row["example_id"] for row in predicted] == list(truth)
        assert all(row["log_prob"] < 0 for row in predicted)
        right = [row["text"].rpartition("w20")[2].strip() == truth[row["example_id"]] for row in predicted]
        assert metrics_of(grid, spec)["test_accuracy"] == sum(right) / 16
    assert metrics_of(grid, grid.weak)["test_accuracy"] > 1 / 6  # above chance, else all that follows says little


def test_a_student_learns_its_supervisors_texts_by_example_and_says_so(grid):
    said = {row["example_id"]: row["text"] for row in rows(grid.store, grid.weak, "predictions/transfer.parquet")}
    learned = rows(grid.store, grid.student, "labels.parquet")
    assert {row["example_id"]: row["text"] for row in learned} == said
    assert {row["origin"] for row in learned} == {f"supervisor {grid.weak.digest()}"}
    assert not (grid.store.path("train", grid.weak.digest()) / "labels.parquet").exists()


def test_ground_truth_of_transfer_and_val_does_not_reach_a_student(grid, tmp_path):
    """With other targets there nothing changes for it; for the ceiling (negative control) much does."""
    ceiling = TrainSpec(data=grid.data.digest(), split="transfer", model=grid.student.model, recipe=RECIPE,
                        engine=ENGINE)  # fmt: skip
    assert steps.run_step(ceiling, grid.store) in ("done", "reused")
    store = copy_of(grid, tmp_path, grid.data, grid.weak)
    for split in ("transfer", "val"):
        file = store.path("materialize", grid.data.digest()) / f"{split}.parquet"
        rewritten(file, lambda row: {**row, "target": "w20 w9", "answer": "w9"})
    for spec in (grid.student, ceiling):
        steps.run_step(spec, store)
        same = rows(store, spec, "predictions/test.parquet") == rows(grid.store, spec, "predictions/test.parquet")
        assert same is (spec is grid.student)


def test_the_order_of_a_supervisors_file_does_not_matter_and_a_missing_answer_does(grid, tmp_path):
    store = copy_of(grid, tmp_path, grid.data, grid.weak)
    file = store.path("train", grid.weak.digest()) / "predictions" / "transfer.parquet"
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.take(list(range(len(table)))[::-1]), file)
    steps.run_step(grid.student, store)
    name = "predictions/test.parquet"
    assert rows(store, grid.student, name) == rows(grid.store, grid.student, name)
    store = copy_of(grid, tmp_path / "other", grid.data, grid.weak)
    file = store.path("train", grid.weak.digest()) / "predictions" / "transfer.parquet"
    pyarrow.parquet.write_table(table.slice(1), file)
    with pytest.raises(StepError, match=r"no answer for 1 of 32 examples"):
        steps.run_step(grid.student, store)


def test_micro_batches_do_not_change_answers(grid, tmp_path):
    store = copy_of(grid, tmp_path, grid.data)
    cut = grid.weak.model_copy(update={"engine": Engine(device="cpu", micro_batch_size=2, predict_batch_size=3)})
    assert cut.digest() == grid.weak.digest()
    steps.run_step(cut, store)
    for split in SPLITS:
        one, other = (rows(where, grid.weak, f"predictions/{split}.parquet") for where in (store, grid.store))
        assert [row["text"] for row in one] == [row["text"] for row in other]
        assert [row["log_prob"] for row in one] == pytest.approx([row["log_prob"] for row in other], abs=2e-3)


def test_who_begins_from_a_language_model_begins_with_its_head(grid):
    """Training on with next to no learning rate gives the answers of the step that was begun from, and not others."""
    kept = grid.student.model_copy(update={"keep_weights": True})
    language = LanguageSpec(data=grid.data.digest(), model=kept.model, recipe=RECIPE, engine=ENGINE)
    assert [steps.run_step(spec, grid.store) for spec in (kept, language)] == ["done"] * 2
    still = {"recipe": RECIPE.model_copy(update={"lr": 1e-12, "epochs": 1}), "keep_weights": False}
    found = {}
    for name, start in (("none", ()), ("read", begun_with(language, language.digest())),
                        ("student", begun_with(kept, kept.digest()))):  # fmt: skip
        spec = kept.model_copy(update={**still, "start": start})
        assert steps.run_step(spec, grid.store) == "done"
        found[name] = [row["log_prob"] for row in rows(grid.store, spec, "predictions/test.parquet")]
    own = [row["log_prob"] for row in rows(grid.store, kept, "predictions/test.parquet")]
    assert found["student"] == pytest.approx(own, abs=1e-4)
    for name in ("none", "read"):
        assert max(abs(one - other) for one, other in zip(found[name], own, strict=True)) > 0.1
    assert found["none"] != found["read"]


def test_analysis_reads_texts_right_where_they_match_and_agreeing_where_they_are_the_same(grid):
    reader = Reader(grid.store)
    models = [Wanted(spec.digest()) for spec in (grid.weak, grid.student)]
    found = reader.batch(models, grid.data.digest(), 0)
    scored = [found[one].scored for one in models]
    for spec, one in zip((grid.weak, grid.student), scored, strict=True):
        assert one.accuracy == metrics_of(grid, spec)["test_accuracy"]
        assert all(math.isnan(value) for value in (one.auroc, one.ece, one.brier))
        assert one.margin_rank_N is None
        assert not one.bins_K3.any()
    said = [
        {row["example_id"]: row["answer"] for row in rows(grid.store, spec, "predictions/test.parquet")}
        for spec in (grid.weak, grid.student)
    ]
    ids = reader.truth(grid.data.digest(), "test", 0).ids
    agree = [said[0][example_id] == said[1][example_id] for example_id in ids]
    assert (scored[0].predicted_N == scored[1].predicted_N).tolist() == agree
    labels = reader.scored(grid.weak.digest(), grid.data.digest(), "transfer", 0)
    targets = {row["example_id"]: row["answer"] for row in rows(grid.store, grid.data, "transfer.parquet")}
    transfer = rows(grid.store, grid.weak, "predictions/transfer.parquet")
    assert labels.accuracy == sum(row["answer"] == targets[row["example_id"]] for row in transfer) / 32


def test_texts_are_scored_by_being_the_same():
    """By hand: of four texts two are the truth's; nothing is said of probabilities."""
    found = score_texts(np.array([7, -3, 5, 9]), np.array([7, 3, 5, 8]))
    assert (found.right_N.tolist(), found.accuracy) == ([True, False, True, False], 0.5)
    assert found.predicted_N.tolist() == [7, -3, 5, 9]


def test_scores_of_texts_are_kept_bit_for_bit(tmp_path):
    wanted, text_N = Wanted("d" * 64), np.array([2**62 + 1, -(2**62) - 1, 5])
    found = Found(score_texts(text_N, np.array([2**62 + 1, 3, 5])), 1.5, 2e9, None, b"stamp")
    scores.keep(tmp_path / "scores" / "data.parquet", 0, {wanted: found}, {wanted.digest})
    again = scores.read(tmp_path / "scores" / "data.parquet", 0, {wanted: b"stamp"})[wanted]
    assert again.scored.predicted_N.tolist() == text_N.tolist()
    assert again.scored.right_N.tolist() == [True, False, True]
    assert math.isnan(again.scored.auroc)


def test_the_report_shows_texts_on_which_student_and_supervisor_differ(grid):
    reader, data = Reader(grid.store), grid.data.digest()
    weak, student = grid.weak.digest(), grid.student.digest()
    found = reader.batch([Wanted(weak), Wanted(student)], data, 0)
    test = {Taken(one.digest): found[one].scored for one in found}
    known = types.SimpleNamespace(store=grid.store, truth={data: reader.truth(data, "test", 0)}, test=test)
    shown = Disagreements(known, 3)
    listed = shown.of(student, weak, data)
    shown.read_texts()
    texts = shown.texts[data]
    said = {
        digest: {row["example_id"]: row for row in rows(grid.store, spec, "predictions/test.parquet")}
        for digest, spec in ((weak, grid.weak), (student, grid.student))
    }
    rows_of = {row["text"]: row for row in rows(grid.store, grid.data, "test.parquet")}
    assert 0 < len(listed["shown"]) <= listed["of"] < 16
    for number, truth, *answers in listed["shown"]:
        row = rows_of[texts.texts[number]]
        assert texts.classes[truth] == row["answer"]
        for digest, (place, percent) in zip((student, weak), (answers[:2], answers[2:]), strict=True):
            own = said[digest][row["example_id"]]
            assert (texts.classes[place], percent) == (own["answer"], round(100 * math.exp(own["log_prob"])))


def test_what_users_are_shown(grid):
    shown = "\n".join(describe.step(grid.folder, grid.data.digest()[:12], 5))
    assert "  prompt:\n    w" in shown
    assert "  target:\n    w20 w" in shown
    with pytest.raises(SpecError, match="generates text, and `w2s label` gives classes"):
        inference.label(grid.store, grid.weak.digest(), ["w1 w2"])


SWEEP: dict[str, Any] = {
    "name": "s",
    "tasks": {"last": {"file": "task.jsonl", "prompt": "q", "target": "a"}},
    "sizes": {"weak_train": 8, "transfer": 8, "test": 8},
    "models": {"small": "./model-1", "large": "./model-2"},
    "methods": ["xent"],
}


def problems(folder, **changes):
    with pytest.raises(SpecError) as caught:
        sweep_of({**SWEEP, **changes}, folder)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["xent", "logconf"]}, "methods.logconf.loss: logconf is written for classes, and last generates"),
        ({"methods": {"a": {"loss": "xent", "hard_labels": True}}}, "methods.a.labels: last generates text, and only"),
        ({"methods": {"a": {"loss": "xent", "labels": {"from": "majority"}}}}, "methods.a.labels: last generates text"),
        ({"models": {"small": "minilm", "large": "./model-2"}}, "models.small.use: is an encoder, which generates no"),
        ({"recipe": {"eval_every": 3}}, "models.small.recipe.eval_every: answers are generated after the training"),
        ({"recipe": {"head_init": "normal"}}, "models.small.recipe.head_init: the language-model head comes with"),
        ({"recipe": {"tune": {"kind": "probe"}}, "engine": {"cache_frozen": True}}, "engine.cache_frozen: last gener"),
        ({"engine": {"zero_stage": 3}}, "engine.zero_stage: 3 cuts apart the head"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_for_texts_is_told_before_any_work(grid, changes, message):
    assert message in problems(grid.folder, **changes)


def test_chains_of_single_supervisors_are_fine(grid):
    methods = {"xent": "xent", "again": {"loss": "xent", "labels": {"from": {"student": "same", "method": "xent"}}}}
    assert len(sweep_of({**SWEEP, "methods": methods}, grid.folder).chains.labellings) == 2


def test_the_digest_of_a_task_that_generates_stays():
    fields = {"name": "n", "hub": "a/b", "prompt": "q", "target": "a", "position": "fen", "max_new_tokens": 8}
    bands = {"difficulty": "rating", "bands": {"weak_train": [None, 1200]}}
    task = task_of({**fields, **bands}, Path("."), "t")
    assert task.digest() == "7f716aafa72a7e23f15a45b5979f735fd5c800576d2c310080d36d222a907794"
