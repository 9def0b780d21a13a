"""Estimates that took reading are kept, found again to the last bit, and made anew where anything has changed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from tampering import counted, write  # type: ignore[import-not-found]

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.kept import Kept
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading.rows import load
from w2s.analyze.reading.selection import Taken

SMALL = {"sizes": {"weak_train": 20, "transfer": 20, "val": 4, "test": 40}, "seeds": [0, 1]}


def misfits(made):
    return {cell.method: cell.misfit for cell in aggregate(load("one", made.root))}


def kept(made):
    (file,) = (made.root / "scores").glob("*.estimates.json")
    return file


def predictions(read):
    return {name for name in read if name[1] == "predictions/test.parquet"}


def test_a_misfit_is_read_once_and_is_the_same_from_what_is_kept(synthetic, monkeypatch):
    made = synthetic(**SMALL).fill()
    first = misfits(made)
    assert all(one.known and one.seeds == 2 for one in first.values())
    read = counted(monkeypatch)()
    assert misfits(made) == first
    assert predictions(read) == set()
    assert len(json.loads(kept(made).read_text())) == 2


def test_another_seed_costs_its_own_cell_alone(synthetic, monkeypatch):
    made = synthetic(**SMALL)
    (later,) = made.digests("logconf, seed 1")
    made.fill(leave_out=[later])
    first = misfits(made)
    assert (first["xent"].seeds, first["logconf"].seeds) == (2, 1)
    made.commit(later)
    load("one", made.root)  # its scores are kept
    read = counted(monkeypatch)()
    second = misfits(made)
    students = {cell.digests.student for cell in made.plan.experiments if cell.method == "logconf"}
    weak = {cell.digests.weak for cell in made.plan.experiments}
    assert {digest for digest, _ in predictions(read)} == students | weak
    assert second["xent"] == first["xent"]
    assert second["logconf"].seeds == 2


def test_predictions_that_are_replaced_are_read_again(synthetic):
    made = synthetic(**SMALL).fill()
    first = misfits(made)
    (digest,) = made.digests("logconf, seed 1")
    logits = np.tile([0.0, 3.0], (40, 1))
    table = {"example_id": [f"test-{i:05d}" for i in range(40)], "logits": logits.tolist()}
    write(made.store.path("train", digest) / "predictions" / "test.parquet", pa.table(table))
    second = misfits(made)
    assert second["xent"] == first["xent"]
    assert second["logconf"].value != first["logconf"].value
    kept(made).unlink()
    assert misfits(made) == second


@pytest.mark.parametrize(
    "written",
    ["", "{", "[]", '{"NAME": 3}', '{"NAME": [1.0, 0.5]}', '{"NAME": [1, 0.5, 2.0, 40, 2, ""]}'],
    ids=["empty", "half", "a list", "a number", "too short", "another type"],
)
def test_what_is_damaged_is_made_anew(synthetic, written):
    made = synthetic(methods=["xent"], **SMALL).fill()
    first = misfits(made)
    file = kept(made)
    (name,) = json.loads(file.read_text())
    file.write_text(written.replace("NAME", name))
    assert misfits(made) == first
    assert json.loads(file.read_text())[name][0] == first["xent"].value


def test_where_nothing_can_be_written_nothing_is_kept(synthetic):
    made = synthetic(methods=["xent"], **SMALL).fill()
    rows = load("one", made.root)
    for file in (made.root / "scores").iterdir():
        file.unlink()
    (made.root / "scores").rmdir()
    (made.root / "scores").write_text("a file where a folder would be")
    assert aggregate(rows)[0].misfit.known


def test_numbers_come_back_as_they_were_and_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr("w2s.analyze.numbers.kept.MOST", 2)
    models = [Taken(name) for name in "abc"]
    store = Kept(tmp_path, dict.fromkeys(models, b"stamp"))
    odd = Estimate(0.1 + 0.2, float("nan"), float("inf"), 7, 1, "no interval")
    names = [store.name("misfit", [model]) for model in models]
    for name in names:
        store.put("data", name, odd)
    store.put("data", "", odd)
    store.put("data", store.name("misfit", models), absent("nothing"))
    store.write()
    again = Kept(tmp_path, {})
    assert again.get("data", names[0]) is None  # the oldest
    found = again.get("data", names[2])
    assert found is not None
    np.testing.assert_array_equal(dataclasses.astuple(found)[:5], dataclasses.astuple(odd)[:5])
    assert found.reason == "no interval"
    assert len(set(names)) == 3
    assert store.name("misfit", models[:2]) != store.name("misfit", models[1::-1])
    assert again.name("misfit", models) == ""
