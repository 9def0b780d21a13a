"""How good the labels were that students learned from, counted by hand: chains, kept examples, ground truth by name."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from made_cells import cell, estimate, measured  # type: ignore[import-not-found]
from tampering import write  # type: ignore[import-not-found]

from w2s.analyze import figures
from w2s.analyze.figures import noise
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.cells import Run
from w2s.analyze.reading.rows import load
from w2s.analyze.tables import document, exports, listings

METHODS = {
    "xent": {},
    "rounds": {"labels": {"from": {"student": "same", "method": "xent"}}},
    "half": {"labels": {"transforms": [{"confident": 0.5}]}},
}


@pytest.fixture
def made(synthetic):
    def make(**changes):
        return synthetic(**{"methods": METHODS, "seeds": [0], **changes}).fill()

    return make


def digests(made, method):
    return next(one.digests for one in made.plan.experiments if one.method == method)


def labelled(made, right, n, truth=0, method="half", **columns):
    """Have a labels step hold n labels of which `right` are right; the first `truth` of them are ground truth."""
    y = made.truth("transfer", digests(made, method).data)[:n]
    p = np.where(np.eye(2)[np.where(np.arange(n) < right, y, 1 - y)] > 0, 0.9, 0.1).astype(np.float32)
    origin = ["truth" if place < truth else "people" for place in range(n)]
    table = {"example_id": [f"transfer-{i:05d}" for i in range(n)], "p": p.tolist(), "origin": origin, **columns}
    write(made.store.path("labels", digests(made, method).labels) / "transfer.parquet", pa.table(table))


def row_of(made, method):
    (row,) = load("one", made.root).frame.query("method == @method").to_dict("records")
    return row


def cell_of(rows, method):
    return next(found for found in aggregate(rows) if found.method == method)


def test_labels_are_counted_over_the_examples_that_have_one(made):
    one = made()
    labelled(one, right=12, n=16, truth=4)
    row = row_of(one, "half")
    shares = [row[f"label_{name}"] for name in ("accuracy", "examples", "share", "truth_share")]
    assert shares == [0.75, 16, 0.4, 0.25]
    assert row["label_digest"] == f"labels {digests(one, 'half').labels}"
    rows = load("one", one.root)
    found = cell_of(rows, "half")
    assert [e.value for e in (found.label_accuracy, found.label_share, found.label_truth_share)] == pytest.approx(
        [0.75, 0.4, 0.25]
    )
    assert 0.5 < found.label_accuracy.low < 0.75 < found.label_accuracy.high < 0.96
    (bins,) = [labels.bins_K3 for key, labels in rows.learned.items() if key.startswith("labels ")]
    assert bins[13].tolist() == pytest.approx([16, 16 * 0.9, 12])  # (13/15, 14/15] holds 0.9
    assert bins.sum(axis=0)[0] == 16


def test_a_chain_has_the_accuracy_of_its_own_supervisor_not_of_the_weak_model(made):
    one = made()
    y = one.truth("transfer", digests(one, "xent").data)
    ids = [f"transfer-{i:05d}" for i in range(len(y))]
    for role, wrong in (("weak", 20), ("student", 4)):  # of 40
        given = np.eye(2)[np.where(np.arange(len(y)) < wrong, 1 - y, y)].tolist()
        step = getattr(digests(one, "xent"), role)
        file = one.store.path("train", step) / "predictions" / "transfer.parquet"
        write(file, pa.table({"example_id": ids, "logits": given}))
    assert (row_of(one, "xent")["label_accuracy"], row_of(one, "rounds")["label_accuracy"]) == (0.5, 0.9)
    row = row_of(one, "rounds")
    assert row["label_digest"] == digests(one, "xent").student
    assert (row["label_examples"], row["label_share"], row["label_truth_share"]) == (40, 1.0, 0.0)


def test_seeds_that_kept_other_examples_are_pooled_by_label(made):
    """10 of 10 and 10 of 30 are 20 of 40 labels, not the mean of two shares."""
    methods = {"half": {"labels": {"transforms": [{"confident": 0.5}, {"mix_truth": 0.1}]}}}
    one = made(methods=methods, seeds=[0, 1])
    first, second = (asked.digests.labels for asked in one.plan.experiments)
    for step, n in ((first, 10), (second, 30)):
        y = one.truth("transfer", digests(one, "half").data)[:n]
        p = np.eye(2)[np.where(np.arange(n) < 10, y, 1 - y)].tolist()
        table = {"example_id": [f"transfer-{i:05d}" for i in range(n)], "p": p, "origin": ["people"] * n}
        write(one.store.path("labels", step) / "transfer.parquet", pa.table(table))
    found = cell_of(load("one", one.root), "half")
    assert (found.label_accuracy.value, found.label_share.value, found.label_accuracy.seeds) == (0.5, 0.5, 2)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"example_id": ["stranger"] * 16}, "an example that transfer does not have ('stranger')"),
        ({"example_id": ["transfer-00001"] * 16}, "an example twice"),
        ({"p": [[1.0]] * 16}, "expected 2 finite numbers for each label"),
        ({"p": [[1.0], [0.5, 0.5]] * 8}, "expected 2 finite numbers for each label"),
        ({"p": [[float("nan"), 0.5]] * 16}, "expected 2 finite numbers for each label"),
    ],
)
def test_damaged_labels_cost_what_is_said_of_labels_only(made, columns, said):
    one = made()
    labelled(one, 12, 16, **columns)
    rows = load("one", one.root)
    assert len(rows.problems) == 1
    assert said in rows.problems[0]
    frame = rows.frame.set_index("method")
    assert np.isnan(frame.label_accuracy["half"])
    assert frame.pgr.notna().all()
    assert frame.label_accuracy.notna().tolist() == [True, True, False]


def test_labels_without_an_example_are_damaged(made):
    one = made()
    types = {"example_id": pa.string(), "p": pa.list_(pa.float32()), "origin": pa.string()}
    empty = pa.table({name: pa.array([], kind) for name, kind in types.items()})
    write(one.store.path("labels", digests(one, "half").labels) / "transfer.parquet", empty)
    assert "has no labels" in load("one", one.root).problems[0]


def test_labels_that_are_not_there_say_so(synthetic):
    one = synthetic(methods=METHODS, seeds=[0])
    one.fill(leave_out=[digests(one, "half").labels, digests(one, "half").student])
    rows = load("one", one.root)
    assert cell_of(rows, "half").label_accuracy.reason == "labels missing"
    assert not rows.problems


def test_the_table_of_labels_is_there_where_they_are_not_all_the_weak_models_own(made, synthetic):
    one = made()
    labelled(one, 12, 16, truth=4)
    rows = load("one", one.root)
    cells = aggregate(rows)
    (sheet,) = listings.labels(cells)
    heads = ["Label acc.", "Labelled", "Ground truth", "Student acc.", "PGR"]
    assert [column.head for column in sheet.columns][3:] == heads
    lines = {line[2].text: [entry.text for entry in line[3:6]] for line in sheet.lines}
    shown = [float(entry[0]) for entry in lines.values()]
    assert shown == sorted(shown, reverse=True)
    assert lines["half"] == ["0.750", "0.400", "0.250"]
    assert lines["rounds"][1:] == ["1.000", "0.000"]
    assert sheet in document.compose(rows, cells).sheets
    plain = synthetic(folder="plain", seeds=[0]).fill()
    assert listings.labels(aggregate(load("one", plain.root))) == []


def test_labels_by_confidence_are_counted_in_a_file(made):
    one = made(methods={"half": METHODS["half"]})
    labelled(one, right=12, n=16)
    rows = load("one", one.root)
    (line,) = csv.DictReader(io.StringIO(exports.labels_csv(rows, aggregate(rows))))
    assert (line["method"], line["seeds"], line["labels"]) == ("half", "1", "16")
    numbers = [float(line[name]) for name in ("low", "high", "confidence", "accuracy")]
    assert numbers == pytest.approx([13 / 15, 14 / 15, 0.9, 0.75])


def test_the_figure_of_noise_has_a_point_for_each_kind_of_labels():
    def with_labels(method, right, pgr):
        run = (Run(0, "d", "w", "s", "c", f"labels {method}"),)
        return cell(method=method, label_accuracy=estimate(right), runs=run, accuracy=measured(pgr=estimate(pgr)))

    cells = [with_labels("soft", 0.9, 0.6), with_labels("random", 0.8, 0.3), with_labels("worse", 0.6, -3.0)]
    with figures.style():
        (axes,) = noise.of_task(cells, "accuracy").axes
        drawn = [line.get_xydata().tolist() for line in axes.lines]
    points = [tuple(places[0]) for places in drawn if len(places) == 1]
    assert sorted(points) == [pytest.approx(p) for p in ((0.1, 0.6), (0.2, 0.3), (0.4, -1.0))]  # cut at the edge
    assert axes.get_ylim()[0] < -1.0
    assert noise.alt(cells, "accuracy").endswith("wrong labels from 0.10 to 0.40")
    assert noise.of_task(cells[:1], "accuracy") is None
    assert noise.of_task([cell(), cell(method="logconf")], "accuracy") is None, "all learned from the weak model"
