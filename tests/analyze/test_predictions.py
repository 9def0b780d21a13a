"""Scores against scikit-learn and plain Python; files as they are read, alone, together and by other processes."""

from __future__ import annotations

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss, roc_auc_score
from tampering import counted, reseal, write  # type: ignore[import-not-found]

from w2s.analyze.reading import metrics, parallel
from w2s.analyze.reading.parallel import Batch, Data
from w2s.analyze.reading.predictions import Reader, Wanted
from w2s.analyze.reading.scoring import BINS, rank_type, score
from w2s.errors import StepError

# Few different values, so that many margins are equal.
COARSE = st.sampled_from([-3.0, -0.5, 0.0, 0.25, 0.5, 40.0])


def some(models=1, n=300, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (classes, models, n)), rng.integers(0, classes, n)


def alone(logits_NC, y):
    """One model's score."""
    return score(np.array(logits_NC, dtype=np.float64).T[:, None], np.array(y))[0]


def from_p(p_NC, y):
    """The same from probabilities; one that is 0 comes from a logit that is very low."""
    return alone(np.log(np.maximum(p_NC, 1e-300)), y)


def brier_of(p_NC, y_N):
    return ((p_NC - np.eye(p_NC.shape[1])[y_N]) ** 2).sum(axis=1).mean()


def ece_of(p_NC, y_N):
    """By its definition, bin by bin."""
    confidence_N, right_N = p_NC.max(axis=1), p_NC.argmax(axis=1) == y_N
    error = 0.0
    for k in range(BINS):
        inside = (confidence_N > k / BINS) & (confidence_N <= (k + 1) / BINS)
        if inside.any():
            error += inside.mean() * abs(confidence_N[inside].mean() - right_N[inside].mean())
    return error


# -- arrays to scores ---------------------------------------------------------------------------------------------


@given(arrays(np.float64, (2, 3, 20), elements=COARSE), arrays(np.int64, 20, elements=st.integers(0, 1)))
def test_scores_are_those_of_the_definitions_with_ties_too(logits_CBN, y_N):
    for b, scored in enumerate(score(logits_CBN, y_N)):
        logits_NC = logits_CBN[:, b].T
        p_NC = metrics.softmax(logits_NC)
        assert scored.predicted_N.tolist() == logits_NC.argmax(axis=1).tolist()
        assert scored.right_N.tolist() == (logits_NC.argmax(axis=1) == y_N).tolist()
        assert scored.ece == pytest.approx(ece_of(p_NC, y_N), abs=1e-12)
        assert scored.brier == pytest.approx(brier_of(p_NC, y_N))
        margin_N = logits_NC[:, 1] - logits_NC[:, 0]
        if len(set(y_N.tolist())) == 2:
            assert scored.auroc == pytest.approx(roc_auc_score(y_N, margin_N))
        else:
            assert np.isnan(scored.auroc)
        assert scored.margin_rank_N is not None
        assert scored.margin_rank_N.tolist() == [sorted(set(margin_N)).index(margin) for margin in margin_N]


def test_auroc_by_hand():
    y = [0, 0, 1, 1]
    assert alone([[0.0, m] for m in (1.0, 2.0, 2.0, 3.0)], y).auroc == 3.5 / 4  # three pairs in order, one tie
    assert alone(np.zeros((4, 2)), y).auroc == 0.5


def test_brier_by_hand_and_against_scikit_learn():
    p, y = [[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]], [0, 0, 1]
    assert from_p(p, y).brier == pytest.approx((2 * 0.04 + 2 * 0.36 + 2 * 0.81) / 3)
    assert from_p(p, y).brier == pytest.approx(2 * brier_score_loss(y, [0.2, 0.6, 0.1]))


def test_ece_by_hand():
    p = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]
    # Sure and always right: off by 0.1; half sure and half right: off by 0.1.
    assert from_p(p, [0, 0, 0, 1]).ece == pytest.approx(0.1)
    assert from_p([[1.0, 0.0]], [0]).ece == 0.0
    assert from_p([[1.0, 0.0]], [1]).ece == 1.0


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_score_does_not_depend_on_what_is_scored_beside_it(classes):
    logits_CBN, y_N = some(models=37, n=501, classes=classes)
    together = score(logits_CBN, y_N)
    for b in (0, 1, 36):
        (alone,) = score(np.ascontiguousarray(logits_CBN[:, b])[:, None], y_N)
        for name in ("auroc", "ece", "brier", "accuracy"):
            assert np.array_equal(getattr(alone, name), getattr(together[b], name), equal_nan=True)
        assert np.array_equal(alone.bins_K3, together[b].bins_K3)
        assert np.array_equal(alone.predicted_N, together[b].predicted_N)
    assert len({scored.brier for scored in together}) == 37  # the models do differ


def test_bins_hold_what_calibration_needs():
    logits_CBN, y_N = some(n=1000)
    (scored,) = score(logits_CBN, y_N)
    p_NC = metrics.softmax(logits_CBN[:, 0].T)
    confidence_N, right_N = p_NC.max(axis=1), p_NC.argmax(axis=1) == y_N
    assert scored.bins_K3.shape == (BINS, 3)
    for k in range(BINS):
        inside = (confidence_N > k / BINS) & (confidence_N <= (k + 1) / BINS)
        expected = [inside.sum(), confidence_N[inside].sum(), (inside & right_N).sum()]
        assert scored.bins_K3[k] == pytest.approx(expected)
    assert scored.bins_K3[:, 0].sum() == 1000
    assert (scored.bins_K3[:7, 0] == 0).all()  # no confidence is below one half


def test_more_than_two_classes_have_no_auroc_and_no_ranks():
    (scored,) = score(*some(classes=3))
    assert np.isnan(scored.auroc)
    assert scored.margin_rank_N is None
    assert scored.brier > 0


def test_of_equal_logits_the_first_class_is_predicted():
    (scored,) = score(np.array([[[1.0, 0.0]], [[1.0, 2.0]], [[1.0, 2.0]]]), np.array([0, 1]))
    assert scored.predicted_N.tolist() == [0, 1]


def test_ranks_of_many_examples_need_more_bits():
    assert rank_type(1 << 16) is np.uint16
    assert rank_type((1 << 16) + 1) is np.uint32
    n = (1 << 16) + 1
    (scored,) = score(np.stack([np.zeros((1, n)), np.arange(n)[None, ::-1]]), np.arange(n) % 2)
    assert scored.margin_rank_N.tolist() == list(range(n))[::-1]


# -- files to scores ---------------------------------------------------------------------------------------------


def trained(made):
    (data,) = made.digests("data movie")
    return data, [digest for digest, node in made.plan.nodes.items() if node.kind == "train"]


def test_artifacts_are_joined_by_id_whatever_their_order(synthetic):
    """The synthetic ones each have an order of their own; the second reading finds the same order again."""
    made = synthetic().fill()
    data, steps = trained(made)
    for _ in range(2):
        for digest in steps:
            truth = {r["example_id"]: r["label"] for r in rows_of(made, "materialize", data, "test.parquet")}
            own = rows_of(made, "train", digest, "predictions/test.parquet")
            hits = sum(np.argmax(row["logits"]) == truth[row["example_id"]] for row in own)
            assert Reader(made.store).scored(digest, data, "test", 2).accuracy == hits / len(own)


def rows_of(made, kind, digest, name):
    return pq.read_table(made.store.path(kind, digest) / name).to_pylist()


def in_order(made, digest, ids, parts=1, compression="snappy"):
    """Write a model's test predictions again, with the ids in this order."""
    file = made.store.path("train", digest) / "predictions" / "test.parquet"
    logits = {row["example_id"]: row["logits"] for row in pq.read_table(file).to_pylist()}
    table = pa.table({"example_id": ids, "logits": pa.array([logits[i] for i in ids], pa.list_(pa.float32()))})
    written = io.BytesIO()
    pq.write_table(table, written, row_group_size=-(-len(ids) // parts), compression=compression)
    file.write_bytes(written.getvalue())
    write(file, table) if parts == 1 and compression == "snappy" else reseal(file)


def test_an_order_that_was_seen_before_is_not_taken_for_another(synthetic):
    """Equal ids in equal order are recognised by the bytes of their column: other orders, other encodings and columns
    in several parts are all read as what they are."""
    made = synthetic().fill()
    data, steps = trained(made)
    before = {digest: Reader(made.store).scored(digest, data, "test", 2) for digest in steps}
    ids = sorted(row["example_id"] for row in rows_of(made, "train", steps[0], "predictions/test.parquet"))
    swapped = [ids[1], ids[0], *ids[2:]]
    ways = [(ids, 1, "snappy"), (ids, 1, "snappy"), (swapped, 1, "snappy"), (ids, 3, "snappy"), (ids, 1, "zstd")]
    for digest, (order, parts, compression) in zip(steps, [*ways, ways[0], ways[2]], strict=False):
        in_order(made, digest, order, parts, compression)
    reader = Reader(made.store)
    after = reader.batch([Wanted(digest) for digest in steps], data, 2)
    for digest in steps:
        found = after[Wanted(digest)]
        assert not isinstance(found, str), found
        assert np.array_equal(found.scored.predicted_N, before[digest].predicted_N)
        assert found.scored.auroc == before[digest].auroc


def test_one_damaged_artifact_does_not_move_the_others_of_its_batch(synthetic):
    made = synthetic().fill()
    data, steps = trained(made)
    wanted = [Wanted(digest) for digest in steps]
    before = Reader(made.store).batch(wanted, data, 2)
    (made.store.path("train", steps[1]) / "predictions" / "test.parquet").write_bytes(b"PAR1")
    after = Reader(made.store).batch(wanted, data, 2)
    assert "content differs" in str(after[wanted[1]])
    for one in (*wanted[:1], *wanted[2:]):
        assert np.array_equal(after[one].scored.predicted_N, before[one].scored.predicted_N)
        assert after[one].scored.brier == before[one].scored.brier


def test_what_many_need_is_read_once_and_damaged_with_one_message(synthetic, monkeypatch):
    made = synthetic().fill()
    data, steps = trained(made)
    (made.store.path("materialize", data) / "test.parquet").write_bytes(b"")
    read, reader, said = counted(monkeypatch)(), Reader(made.store), set()
    for digest in steps[:3]:
        with pytest.raises(StepError) as error:
            reader.scored(digest, data, "test", 2)
        said.add(str(error.value))
    assert read == {(data, "test.parquet"): 1}
    assert len(said) == 1


# -- by other processes ---------------------------------------------------------------------------------------------


def batches_of(made, size):
    data, steps = trained(made)
    return [
        Batch(Data(data, 2), [Wanted(digest) for digest in steps[i : i + size]]) for i in range(0, len(steps), size)
    ]


def test_other_processes_find_the_same(synthetic):
    made = synthetic().fill()
    batches = batches_of(made, 3)
    (made.store.path("train", batches[1].wanted[0].digest) / "predictions" / "test.parquet").unlink()
    found = dict(parallel.read(made.store, batches, 2))
    assert sorted(found) == list(range(len(batches))) == [0, 1, 2, 3]
    for place, batch in enumerate(batches):
        here = batch.read(Reader(made.store))
        assert list(found[place]) == list(here)
        for wanted, one in here.items():
            other = found[place][wanted]
            if isinstance(one, str):
                assert other == one
            else:
                assert (other.scored.auroc, other.stamp) == (one.scored.auroc, one.stamp)
                assert np.array_equal(other.scored.margin_rank_N, one.scored.margin_rank_N)
    assert isinstance(found[1][batches[1].wanted[0]], str)


def test_what_another_process_says_is_the_same_to_the_last_bit(synthetic):
    """Three classes, which have no ranks, and a batch of which one is damaged."""
    task = {"file": "three.csv", "text": "t", "label": "y", "classes": ["a", "b", "c"]}
    for changes in ({}, {"tasks": {"movie": task}, "folder": "three"}):
        if changes:
            (root := synthetic(folder="three").root).mkdir(exist_ok=True)
            (root / "three.csv").write_text("t,y\nx,a\n")
        made = synthetic(**changes).fill()
        data, steps = trained(made)
        batch = Batch(Data(data, made.classes[data]), [Wanted(digest) for digest in steps])
        (made.store.path("train", steps[2]) / "predictions" / "test.parquet").unlink()
        asked, said = io.BytesIO(), io.BytesIO()
        parallel.ask(made.store.root, {5: batch}, asked)
        asked.seek(0)
        parallel.serve(asked, said)
        said.seek(0)
        place, found = parallel._heard({5: batch}, said)
        here = batch.read(Reader(made.store))
        assert (place, list(found), said.read()) == (5, batch.wanted, b"")
        assert found[batch.wanted[2]] == here[batch.wanted[2]]
        for wanted in (one for one in batch.wanted if one.digest != steps[2]):
            for name in ("predicted_N", "right_N", "margin_rank_N", "bins_K3", "bin_N"):
                x, y = (getattr(one[wanted].scored, name) for one in (found, here))
                assert (x is None and y is None) or (x.dtype == y.dtype and np.array_equal(x, y))
            x, y = ([one[wanted].scored.auroc, one[wanted].scored.brier, one[wanted].wall_s] for one in (found, here))
            assert np.array_equal(x, y, equal_nan=True)


@pytest.mark.parametrize("keep", [0, 5, 40, -1], ids=["nothing", "half a head", "half a header", "half a table"])
def test_a_process_that_stops_in_the_middle_of_a_word_is_not_believed(synthetic, tmp_path, monkeypatch, keep):
    made = synthetic().fill()
    batches = batches_of(made, 2)
    asked, said = io.BytesIO(), io.BytesIO()
    parallel.ask(made.store.root, {0: batches[0]}, asked)
    asked.seek(0)
    parallel.serve(asked, said)
    (tmp_path / "said").write_bytes(said.getvalue()[:keep])
    liar = tmp_path / "liar"
    liar.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'}\n")
    liar.chmod(0o755)
    monkeypatch.setattr(parallel.sys, "executable", str(liar))
    assert list(parallel.read(made.store, batches[:1], 1)) == []


def test_a_process_that_dies_leaves_the_rest_to_who_asked(synthetic, monkeypatch):
    made = synthetic().fill()
    batches = batches_of(made, 2)
    monkeypatch.setattr(parallel.sys, "executable", "/bin/false")
    assert list(parallel.read(made.store, batches, 2)) == []


def test_processes_end_when_nobody_listens_any_more(synthetic, monkeypatch):
    made = synthetic().fill()
    begun = []
    real = parallel._start
    monkeypatch.setattr(parallel, "_start", lambda: begun.append(real()) or begun[-1])
    answers = parallel.read(made.store, batches_of(made, 1), 2)
    next(answers)
    answers.close()
    assert len(begun) == 2
    assert all(process.returncode is not None for process in begun)


def test_a_process_ends_quietly_when_its_answers_go_nowhere(synthetic):
    made = synthetic().fill()
    asked, (out, into) = io.BytesIO(), os.pipe()
    parallel.ask(made.store.root, dict(enumerate(batches_of(made, 1))), asked)
    asked.seek(0)
    os.close(out)
    with open(into, "wb", buffering=0) as nowhere:
        parallel.serve(asked, nowhere)
