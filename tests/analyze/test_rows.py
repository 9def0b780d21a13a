"""Rows are recomputed from predictions; every planned cell has one, whatever became of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from tampering import counted, measured, reseal, rewrite, write  # type: ignore[import-not-found]

from w2s.analyze.reading import demand as reading
from w2s.analyze.reading import parallel
from w2s.analyze.reading.rows import COLUMNS, agreement_of, load
from w2s.analyze.reading.scoring import score_texts as scored_texts
from w2s.analyze.reading.selection import Taken
from w2s.analyze.reading.standing import standings
from w2s.errors import SpecError, StepError
from w2s.store import Store


@pytest.fixture
def counted_reads(monkeypatch):
    return counted(monkeypatch)


def by_id(store, kind, digest, name, column):
    table = pq.read_table(store.path(kind, digest) / name)
    return dict(zip(table["example_id"].to_pylist(), table[column].to_pylist(), strict=True))


def test_a_row_equals_what_the_files_say(synthetic):
    made = synthetic().fill()
    rows = load("one", made.root)
    assert list(rows.frame.columns) == list(COLUMNS)
    assert len(rows.frame) == 6
    assert (rows.problems, rows.unfinished) == ([], [])
    row = rows.frame.iloc[3]
    assert (row.task, row.weak, row.student, row.method, row.seed) == ("movie", "weak-3l", "strong-20l", "logconf", 1)
    truth = by_id(made.store, "materialize", row.data_digest, "test.parquet", "label")
    logits = {
        role: by_id(made.store, "train", row[f"{role}_digest"], "predictions/test.parquet", "logits")
        for role in ("weak", "student", "ceiling")
    }
    share = {r: np.mean([np.argmax(logits[r][i]) == truth[i] for i in truth]) for r in logits}
    for role, accuracy in share.items():
        assert row[f"{role}_accuracy"] == pytest.approx(accuracy)
        score = [logits[role][i][1] - logits[role][i][0] for i in truth]
        assert row[f"{role}_auroc"] == pytest.approx(roc_auc_score(list(truth.values()), score))
        assert row[f"{role}_status"] == "done"
    assert row.n == 200
    assert row.majority_share == 0.5
    assert row.pgr == pytest.approx((share["student"] - share["weak"]) / (share["ceiling"] - share["weak"]))
    weak, student = ({i: np.argmax(logits[r][i]) for i in truth} for r in ("weak", "student"))
    right = [i for i in truth if weak[i] == truth[i]]
    wrong = [i for i in truth if weak[i] != truth[i]]
    assert row.agreement == pytest.approx(np.mean([weak[i] == student[i] for i in truth]))
    assert row.agreement_right == pytest.approx(np.mean([weak[i] == student[i] for i in right]))
    assert row.agreement_wrong == pytest.approx(np.mean([weak[i] == student[i] for i in wrong]))
    labels = by_id(made.store, "materialize", row.data_digest, "transfer.parquet", "label")
    given = by_id(made.store, "train", row.weak_digest, "predictions/transfer.parquet", "logits")
    assert row.label_accuracy == pytest.approx(np.mean([np.argmax(given[i]) == labels[i] for i in labels]))


def test_metrics_json_is_not_trusted(synthetic):
    made = synthetic().fill()
    before = load("one", made.root).frame
    for digest in made.digests("seed"):
        (made.store.path("train", digest) / "metrics.json").write_text('{"accuracy": 1.0}')
    assert load("one", made.root).frame.equals(before)


def test_each_file_is_read_once(synthetic, counted_reads):
    made = synthetic(models=["pythia-70m", "pythia-160m", "pythia-410m"]).fill()
    read = counted_reads()
    assert len(load("one", made.root).frame) == 18
    assert set(read.values()) == {1}
    trained = {digest for digest, node in made.plan.nodes.items() if node.kind == "train"}
    supervisors = {parent for digest in trained for parent in made.plan.nodes[digest].parents} & trained
    assert len(read) == 2 + len(trained) + len(supervisors)


def test_failed_blocked_and_missing_keep_their_rows(synthetic):
    made = synthetic()
    (weak,) = made.digests("weak weak-3l on movie, seed 0")
    (ceiling,) = made.digests("ceiling strong-20l on movie, seed 1")
    blocked = made.digests("xent, seed 0") + made.digests("logconf, seed 0")
    made.store.fail(weak, "\nthe loss is not finite at step 12\nsecond line", "trace")
    made.fill(leave_out=[weak, ceiling, *blocked])
    rows = load("one", made.root)
    frame = rows.frame.set_index(["seed", "method"])
    first = frame.loc[0, "xent"]
    assert (first.weak_status, first.weak_reason) == ("failed", "the loss is not finite at step 12")
    assert first.student_status == "blocked"
    assert first.student_reason == "needs weak weak-3l on movie, seed 0, which failed"
    assert (first.ceiling_status, first.ceiling_reason) == ("done", "")
    assert np.isnan(first.pgr)
    assert first.pgr_reason == "weak failed; student blocked"
    assert np.isnan(first.agreement)
    assert first.ceiling_accuracy > 0.5
    second = frame.loc[1, "xent"]
    assert (second.ceiling_status, second.ceiling_reason) == ("missing", "not run yet")
    assert second.student_accuracy > 0
    assert second.pgr_reason == "ceiling missing"
    assert frame.loc[2, "xent"].pgr_reason == ""
    assert rows.problems == []
    assert rows.unfinished == [
        "failed: weak weak-3l on movie, seed 0: the loss is not finite at step 12 "
        f"(`w2s show {weak[:12]}` has the log)",
        "blocked: student strong-20l of weak-3l on movie, xent, seed 0; student strong-20l of weak-3l on movie, "
        "logconf, seed 0 (needs weak weak-3l on movie, seed 0, which failed)",
        "missing: ceiling strong-20l on movie, seed 1 (not run yet)",
    ]


def test_a_step_that_is_being_worked_on_says_so(synthetic):
    made = synthetic(seeds=[0])
    (ceiling,) = made.digests("ceiling")
    made.fill(leave_out=[ceiling])
    claim = made.store.claim(ceiling)
    try:
        assert load("one", made.root).frame["ceiling_reason"].unique().tolist() == ["running now"]
    finally:
        claim.release()


def test_nothing_run_yet(synthetic):
    made = synthetic()
    rows = load("one", made.root)
    assert len(rows.frame) == 6
    assert rows.frame["n"].tolist() == [0] * 6
    assert rows.frame["weak_accuracy"].isna().all()
    assert rows.problems == []
    assert rows.unfinished == [f"missing: {len(made.plan.nodes)} steps (not run yet)"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:50])
    reseal(path)


def another_content(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def other_predictions(path):
    """A sound file of the same examples, which is not the one that was committed."""
    pq.write_table(pa.table({**pq.read_table(path).to_pydict(), "logits": [[0.0, 1.0]] * 200}), path)


def not_listed(path):
    folder = path.parent.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["predictions/test.parquet"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def of_another_step(path):
    measured(path.parent.parent, digest="0" * 64)


def of_no_step(path):
    manifest = json.loads((path.parent.parent / "manifest.json").read_text())
    del manifest["digest"]
    (path.parent.parent / "manifest.json").write_text(json.dumps(manifest))


def of_another_kind(path):
    measured(path.parent.parent, kind="features")


def gone(path):
    path.unlink()


def a_folder(path):
    path.unlink()
    path.mkdir()


def one_id_changed(path):
    ids = pq.read_table(path)["example_id"].to_pylist()
    rewrite(path, example_id=["stranger", *ids[1:]])


def one_id_twice(path):
    ids = pq.read_table(path)["example_id"].to_pylist()
    rewrite(path, example_id=[ids[1], *ids[1:]])


def three_logits(path):
    rewrite(path, logits=pa.array([[0.0, 1.0, 2.0]] * 200, pa.list_(pa.float32())))


def ragged(path):
    rewrite(path, logits=pa.array([[0.0, 1.0, 2.0], [0.0], *[[0.0, 1.0]] * 198], pa.list_(pa.float32())))


def not_finite(path):
    rewrite(path, logits=pa.array([[0.0, float("nan")]] * 200, pa.list_(pa.float32())))


def not_lists(path):
    rewrite(path, logits=["a"] * 200)


def no_logits(path):
    write(path, pq.read_table(path).drop_columns(["logits"]))


def a_null_id(path):
    ids = pq.read_table(path)["example_id"].to_pylist()
    rewrite(path, example_id=[None, *ids[1:]])


def no_manifest(path):
    (path.parent.parent / "manifest.json").write_text("{")


HARMS = {
    truncated: "damaged (",
    another_content: "content differs from the manifest",
    other_predictions: "content differs from the manifest",
    not_listed: "not in the manifest",
    gone: "missing; remove the folder",
    a_folder: "cannot be read",
    no_manifest: "no readable manifest.json",
    of_another_step: "belongs to another step",
    of_no_step: "belongs to another step, or to none",
    of_another_kind: "belongs to another step",
    one_id_changed: "1 example ids not asked for",
    one_id_twice: "1 example ids repeated",
    a_null_id: "1 example ids not asked for",
    three_logits: "expected 2 logits",
    ragged: "expected 2 logits",
    not_finite: "a logit is not a finite number",
    not_lists: "the logits are not lists of numbers",
    no_logits: "no column logits",
}


@pytest.mark.parametrize(("harm", "said"), HARMS.items(), ids=[harm.__name__ for harm in HARMS])
def test_a_damaged_artifact_is_named_and_left_out(synthetic, harm, said):
    made = synthetic().fill()
    before = load("one", made.root).frame
    (digest,) = made.digests("logconf, seed 1")
    harm(made.store.path("train", digest) / "predictions" / "test.parquet")
    rows = load("one", made.root)
    assert len(rows.problems) == 1
    assert digest[:12] in rows.problems[0]
    assert said in rows.problems[0]
    row = rows.frame.iloc[3]
    assert (row.student_status, row.pgr_reason) == ("damaged", "student damaged")
    assert (row.pgr_auroc_reason, rows.standing[digest].status) == ("student damaged", "damaged")
    assert row.student_reason == rows.problems[0]
    assert np.isnan(row.student_accuracy)
    others = [0, 1, 2, 4, 5]
    assert rows.frame.iloc[others].equals(before.iloc[others])


def test_damaged_ground_truth_takes_the_cells_that_need_it(synthetic):
    made = synthetic(tasks=["movie", "amazon"]).fill()
    (data,) = made.digests("data movie")
    rewrite(made.store.path("materialize", data) / "test.parquet", label=[7] * 200)
    rows = load("one", made.root)
    assert len(rows.problems) == 1
    assert "a label is empty or outside 0 to 1" in rows.problems[0]
    frame = rows.frame
    assert frame[frame.task == "movie"]["weak_accuracy"].isna().all()
    assert frame[frame.task == "amazon"]["weak_accuracy"].notna().all()
    assert frame[frame.task == "movie"]["pgr_reason"].iloc[0].startswith("no ground truth to measure the weak with")


def test_a_damaged_transfer_prediction_costs_the_label_accuracy_only(synthetic):
    made = synthetic(seeds=[0]).fill()
    (weak,) = made.digests("weak weak-3l")
    truncated(made.store.path("train", weak) / "predictions" / "transfer.parquet")
    rows = load("one", made.root)
    assert len(rows.problems) == 1
    assert rows.frame["label_accuracy"].isna().all()
    assert rows.frame["pgr"].notna().all()


def test_a_sweep_is_found_by_name_folder_plan_or_yaml(synthetic, tmp_path):
    made = synthetic().fill()
    folder = made.root / "sweeps" / "one"
    by_name = load("one", made.root).frame
    assert load(folder).frame.equals(by_name)
    assert load(folder / "plan.json").frame.equals(by_name)
    (tmp_path / "any.yaml").write_text("name: one\n")
    (tmp_path / "one.yaml").write_text("tasks: []\n")
    assert load(tmp_path / "any.yaml", made.root).frame.equals(by_name)
    assert load(tmp_path / "one.yaml", made.root).frame.equals(by_name)


def test_an_unknown_sweep_offers_the_nearest_name(synthetic, tmp_path):
    made = synthetic(name="quickstart")
    with pytest.raises(SpecError, match=r"no sweep named 'quikstart' .*\(did you mean quickstart\?\)"):
        load("quikstart", made.root)
    with pytest.raises(SpecError, match="nothing is planned"):
        load("quickstart", tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "one", "cells": [{"task": "t"}], "steps": []}', '{"cells": []}'])
def test_a_damaged_plan_says_how_to_write_it_again(synthetic, text):
    made = synthetic()
    path = made.root / "sweeps" / "one" / "plan.json"
    path.write_text(text)
    with pytest.raises(StepError, match=r"plan\.json: damaged .* writes it again"):
        load("one", made.root)


def test_equal_accuracies_are_no_gap_and_not_a_division_by_zero(synthetic):
    made = synthetic(seeds=[0], accuracy=lambda node: 3.0).fill()  # everybody is always right
    rows = load("one", made.root)
    assert rows.frame["pgr"].isna().all()
    assert set(rows.frame["pgr_reason"]) == {"no gap: ceiling does not exceed weak"}


def test_a_cell_that_the_steps_do_not_list_is_missing(synthetic):
    made = synthetic().fill()
    path = made.root / "sweeps" / "one" / "plan.json"
    plan = json.loads(path.read_text())
    plan["steps"] = [step for step in plan["steps"] if "ceiling" not in step["title"]]
    path.write_text(json.dumps(plan))
    frame = load("one", made.root).frame
    assert set(frame["ceiling_status"]) == {"missing"}
    assert frame["student_accuracy"].notna().all()


# -- columns, standings and what is handed on -------------------------------------------------------------------------


def test_seconds_and_flops_are_what_the_manifests_say(synthetic):
    made = synthetic(seeds=[0]).fill()
    (weak,), (ceiling,) = made.digests("weak weak-3l"), made.digests("ceiling")
    measured(made.store.path("train", weak), wall_s=3.5, flops=2e9)
    measured(made.store.path("train", ceiling), wall_s="long", flops=-1)
    frame = load("one", made.root).frame
    assert frame["weak_seconds"].tolist() == [3.5, 3.5]
    assert frame["weak_flops"].tolist() == [2e9, 2e9]
    assert frame[["ceiling_seconds", "ceiling_flops", "student_seconds"]].isna().all(axis=None)
    assert frame["ceiling_accuracy"].notna().all()


def test_the_sweep_its_steps_and_its_store_are_handed_on(synthetic):
    made = synthetic().fill()
    rows = load("one", made.root)
    assert set(rows.frame["sweep"]) == {"one"}
    assert rows.store.root == made.store.root
    assert set(rows.steps) == set(rows.standing) == set(made.plan.nodes)
    (digest,) = made.digests("logconf, seed 1")
    node = made.plan.nodes[digest]
    assert rows.steps[digest] == {"kind": "train", "title": node.title, "parents": list(node.parents)}
    assert rows.raw["seeds"] == [0, 1, 2]


def test_pgr_by_auroc_is_recovered_from_the_files(synthetic):
    made = synthetic().fill()
    frame = load("one", made.root).frame
    gap = frame.ceiling_auroc - frame.weak_auroc
    assert (gap > 0).any()
    expected = ((frame.student_auroc - frame.weak_auroc) / gap).where(gap > 0)
    assert np.allclose(frame.pgr_auroc, expected, equal_nan=True)
    assert set(frame.pgr_auroc_reason[gap > 0]) == {""}
    assert not np.allclose(frame.pgr_auroc, frame.pgr, equal_nan=True)


def test_auroc_of_one_class_is_absent_with_a_reason(synthetic):
    made = synthetic(seeds=[0]).fill()
    (data,) = made.digests("data movie")
    rewrite(made.store.path("materialize", data) / "test.parquet", label=[0] * 200)
    frame = load("one", made.root).frame
    assert frame[["weak_auroc", "pgr_auroc"]].isna().all(axis=None)
    assert set(frame["pgr_auroc_reason"]) == {"AUROC needs examples of both classes"}
    assert frame["weak_accuracy"].notna().all()


def test_a_supervisor_that_is_never_wrong_leaves_no_share_of_errors(synthetic):
    made = synthetic(seeds=[0], accuracy=lambda node: 3.0).fill()
    row = load("one", made.root).frame.iloc[0]
    assert (row.agreement, row.agreement_right) == (1.0, 1.0)
    assert np.isnan(row.agreement_wrong)


def test_agreement_is_that_of_its_definition(synthetic):
    made = synthetic().fill()
    rows = load("one", made.root)
    for _, row in rows.frame.iterrows():
        student, weak = (rows.test[Taken(row[f"{role}_digest"])] for role in ("student", "weak"))
        same_N, right_N = student.predicted_N == weak.predicted_N, weak.predicted_N == rows.truth[row.data_digest].y_N
        shares = (same_N.mean(), same_N[right_N].mean(), same_N[~right_N].mean())
        assert (row.agreement, row.agreement_right, row.agreement_wrong) == shares


def test_agreement_overall_where_right_and_where_wrong():
    """By hand: the weak model is right, wrong, right, right, wrong; the student the same, same, same, other, other."""
    y = np.array([0, 0, 1, 1, 1])
    weak, student = (scored_texts(np.array(predicted), y) for predicted in ([0, 1, 1, 1, 0], [0, 1, 1, 0, 1]))
    found = {"agreement": 3 / 5, "agreement_right": 2 / 3, "agreement_wrong": 1 / 2}
    assert agreement_of(student, weak) == found
    assert student.accuracy == 3 / 5
    never_wrong = agreement_of(weak, scored_texts(y, y))
    assert (never_wrong["agreement"], never_wrong["agreement_right"]) == (3 / 5, 3 / 5)
    assert np.isnan(never_wrong["agreement_wrong"])


def test_what_needs_a_damaged_step_and_is_not_there_is_blocked(synthetic):
    made = synthetic(seeds=[0])
    made.fill(leave_out=made.digests("logconf, seed 0"))
    (weak,) = made.digests("weak weak-3l")
    no_logits(made.store.path("train", weak) / "predictions" / "test.parquet")
    rows = load("one", made.root)
    row = rows.frame.set_index("method").loc["logconf"]
    assert (row.weak_status, row.student_status) == ("damaged", "blocked")
    assert row.student_reason == "needs weak weak-3l on movie, seed 0, which is damaged"
    assert rows.unfinished == [
        "blocked: student strong-20l of weak-3l on movie, logconf, seed 0 (needs weak weak-3l on movie, seed 0, which "
        "is damaged)"
    ]


def test_standings_list_the_store_and_open_no_manifest(synthetic, monkeypatch):
    made = synthetic().fill()
    steps = [
        {"digest": n.digest, "kind": n.kind, "title": n.title, "parents": list(n.parents)}
        for n in made.plan.nodes.values()
    ]
    monkeypatch.setattr(Store, "manifest", lambda *_: pytest.fail("a manifest was opened"))
    monkeypatch.setattr(Store, "failure", lambda *_: pytest.fail("a failure was looked for"))
    assert {state.status for state in standings(steps, made.store).values()} == {"done"}


def test_progress_counts_what_is_read(synthetic, monkeypatch):
    monkeypatch.setattr(reading, "ARTIFACTS_PER_BATCH", 2)
    made = synthetic().fill()
    told = []
    rows = load("one", made.root, progress=lambda *counts: told.append(counts))
    every = len(rows.test) + len(rows.transfer)
    assert told[-1] == (every, every)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) > every // 2


def test_many_predictions_are_read_by_other_processes_and_come_to_the_same(synthetic, monkeypatch, counted_reads):
    made = synthetic().fill()
    alone = load("one", made.root)
    shutil.rmtree(made.root / "scores")
    monkeypatch.setattr(reading, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(reading, "ARTIFACTS_PER_BATCH", 2)
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    read = counted_reads()
    rows = load("one", made.root)
    assert {name for _, name in read} == {"test.parquet"}  # here, ground truth only
    assert rows.frame.equals(alone.frame)
    assert list(rows.test) == list(alone.test)


def test_processes_that_cannot_start_leave_the_work_to_this_one(synthetic, monkeypatch):
    made = synthetic().fill()
    monkeypatch.setattr(reading, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    monkeypatch.setattr(parallel.sys, "executable", "/bin/false")
    assert load("one", made.root).frame["pgr"].notna().all()


@pytest.mark.parametrize("given", ["quikstart.yaml", "results/sweeps/quikstart", "quikstart/plan.json", "quikstart/"])
def test_a_path_that_leads_nowhere_offers_the_nearest_name(synthetic, given):
    made = synthetic(name="quickstart")
    with pytest.raises(SpecError, match=r"\(did you mean quickstart\?\)"):
        load(given, made.root)
