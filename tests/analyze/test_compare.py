"""What changed between two sweeps: cells, what was asked, numbers beyond noise and not, machines."""

from __future__ import annotations

import copy
import json
import math
import shutil

import numpy as np
import pytest

from w2s.analyze.numbers import resamples, stats
from w2s.analyze.numbers.compare import Key, _joined, _Noise, _records, compare
from w2s.analyze.reading import configuration, rows
from w2s.analyze.reading.configuration import ABSENT, changed, flat
from w2s.spec import TrainSpec, Weak

pytestmark = pytest.mark.usefixtures("few_resamples")

LOGCONF = Key("movie", "weak-3l", "strong-20l", "logconf", "final")


def stronger(a_max):
    return {"xent": {}, "logconf": {"loss": {"name": "logconf", "a_max": a_max}}}


def better(logconf):
    """Accuracies where only the confidence loss moves."""

    def accuracy(node):
        assert isinstance(node.spec, TrainSpec)
        if isinstance(node.spec.labels, Weak):
            return logconf if node.spec.recipe.loss.name == "logconf" else 0.75
        return 0.65 if node.spec.split == "weak_train" else 0.9

    return accuracy


@pytest.fixture
def two(synthetic):
    """Two sweeps in results folders of their own, by what is to be different in the second."""

    def make(accuracy=(None, None), first=None, **changes):
        a = synthetic(folder="a", accuracy=accuracy[0], **(first or {})).fill()
        b = synthetic(folder="b", accuracy=accuracy[1], **changes).fill()
        return a, b

    return make


def compared(a, b, **more):
    return compare(rows.load(a.name, a.root), rows.load(b.name, b.root), **more)


def test_a_sweep_and_its_copy_are_the_same(two):
    found = compared(*two())
    assert found.exact
    assert (found.rows, found.same_runs, found.other_runs, found.unknown_runs) == (6, 6, 0, 0)
    assert (found.only, found.written, found.fields, found.numbers, found.cells) == (({}, {}), {}, [], [], [])
    assert (found.environment, found.problems) == ({}, [])


def test_cells_and_seeds_of_one_alone(two):
    found = compared(*two(seeds=[2, 3], methods=["logconf", "xent"], tasks=["movie", "amazon"]))
    assert found.rows == 2
    assert not found.exact
    assert found.numbers == []
    first, second = found.only
    assert first == {LOGCONF: [0, 1], LOGCONF._replace(method="xent"): [0, 1]}
    assert second[LOGCONF] == [3]
    assert second[LOGCONF._replace(task="amazon")] == [2, 3]


def test_fields_that_were_asked_otherwise_are_told_by_path_with_both_values(two):
    found = compared(*two(methods=stronger(0.75), question="Another?"))
    assert [(c.role, c.path, c.first, c.second, c.runs) for c in found.fields] == [
        ("student", "recipe.loss.a_max", 0.5, 0.75, 3)
    ]
    assert found.written["methods.logconf.loss.a_max"] == (ABSENT, 0.75)
    assert found.written["question"][1] == "Another?"
    assert (found.same_runs, found.other_runs) == (3, 3)
    assert {change.key for change in found.numbers} == {LOGCONF}
    assert not any(change.same_run for change in found.numbers)


def test_what_follows_from_a_parent_is_told_as_such(two):
    models = {"weak-3l": {"use": "minilm", "layers": 3, "recipe": {"lr": 1e-3}},
              "strong-20l": {"use": "smollm2", "layers": 20}}  # fmt: skip
    found = compared(*two(models=models))
    told = {(c.role, c.path) for c in found.fields}
    assert told == {("weak", "recipe.lr"), ("student", "its weak")}


def test_another_test_set_is_a_field_of_the_data(two):
    sizes = {"weak_train": 40, "transfer": 40, "val": 10, "test": 120}
    found = compared(*two(sizes=sizes))
    assert {(c.role, c.path, c.first, c.second) for c in found.fields if c.role == "data"} == {
        ("data", "sizes.test", 200, 120)
    }
    assert {c.path for c in found.fields if c.role == "weak"} == {"its data"}


def test_runtime_settings_are_environment_and_no_change_of_what_was_asked(two):
    found = compared(*two(engine={"micro_batch_size": 4}))
    assert found.fields == []
    assert found.exact
    assert found.environment["engine.micro_batch_size"].second == {"4": 12}


def test_environment_of_finished_steps(two):
    a, b = two()
    for digest, node in b.plan.nodes.items():
        path = b.store.path(node.kind, digest) / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "git": {"commit": "f" * 40, "dirty": False}, "cpus": 7}))
    found = compared(a, b)
    assert found.exact
    assert set(found.environment["git.commit"].second) == {"f" * 40}
    assert found.environment["cpus"].second == {"7": len(b.plan.nodes)}
    assert "host" not in found.environment


def test_numbers_beyond_noise(two):
    far = compared(*two((better(0.70), better(0.86))))
    student = [c for c in far.numbers if c.column == "student_accuracy"]
    assert len(student) == 3
    assert all(c.beyond and c.same_run for c in student)
    assert all(c.beyond for c in far.numbers if c.column in ("pgr", "student_auroc"))
    (cell,) = far.cells
    assert cell.key == LOGCONF
    assert cell.seeds == cell.difference.seeds == 3
    assert cell.difference.value == pytest.approx(cell.second - cell.first)
    assert not cell.difference.covers(0.0)


def test_numbers_within_noise(two):
    near = compared(*two((better(0.70), better(0.702))))
    assert near.numbers
    assert not any(c.beyond for c in near.numbers if c.column in ("student_accuracy", "pgr"))
    assert all(cell.difference.covers(0.0) for cell in near.cells)
    assert {c.beyond for c in near.numbers if c.column.endswith(("_ece", "_brier"))} == {None}


def test_the_largest_changes_come_first_and_intervals_are_made_for_them_alone(two):
    models = ["pythia-70m", "pythia-160m", "pythia-410m"]
    a, b = two((better(0.70), better(0.86)), {"models": models, "seeds": [0]}, models=models, seeds=[0])
    found = compared(a, b, most_cells=1)
    sizes = [abs(c.second - c.first) for c in found.cells]
    assert sizes == sorted(sizes, reverse=True)
    assert [cell.difference.known for cell in found.cells] == [True, False, False]
    main = [abs(c.difference) for c in found.numbers if c.column in ("pgr", "student_accuracy")]
    assert main == sorted(main, reverse=True)
    assert [c.column in ("pgr", "student_accuracy") for c in found.numbers[: len(main)]] == [True] * len(main)


def test_nothing_is_held_against_noise_where_test_sets_differ(two):
    sizes = {"weak_train": 40, "transfer": 40, "val": 10, "test": 120}
    found = compared(*two(sizes=sizes))
    assert found.numbers
    assert {change.beyond for change in found.numbers} == {None}
    assert {cell.difference.reason for cell in found.cells} == {"test sets differ"}
    assert found.tested == 0


def test_a_number_that_only_one_has_is_a_change(two):
    a, b = two()
    (digest,) = b.digests("xent, seed 1")
    (b.store.path("train", digest) / "predictions" / "test.parquet").write_bytes(b"PAR1")
    found = compared(a, b)
    change = next(c for c in found.numbers if c.column == "student_accuracy")
    assert math.isnan(change.second)
    assert math.isinf(change.difference)
    assert change.beyond is None
    assert change.alone
    assert not found.exact
    assert len(found.problems) == 1
    assert digest in found.problems[0]


def test_what_only_one_has_is_no_other_number_of_the_same_run(two):
    """Negative control: `test_numbers_beyond_noise`, where both have another one."""
    a, b = two()
    (digest,) = b.digests("xent, seed 1")
    shutil.rmtree(b.store.path("train", digest))
    found = compared(a, b)
    assert found.numbers
    assert all(change.alone and not change.same_run for change in found.numbers)
    assert (found.rows_changed, found.cells) == (0, [])


def test_what_both_have_comes_before_what_only_one_has(two):
    a, b = two((better(0.70), better(0.702)))
    (digest,) = b.digests("xent, seed 1")
    shutil.rmtree(b.store.path("train", digest))
    alone = [change.alone for change in compared(a, b).numbers]
    assert set(alone) == {False, True}
    assert alone == sorted(alone)


def test_what_is_not_finished_is_counted(synthetic):
    a = synthetic(folder="a").fill()
    b = synthetic(folder="b", methods=stronger(0.75))
    b.fill(leave_out=b.digests("logconf"))
    found = compared(a, b)
    assert (found.other_runs, found.unknown_runs) == (3, 3)
    assert found.fields == []


def test_auroc_and_pgr_are_tested_by_their_influence(two):
    """Against the paired bootstrap: the standard errors agree, so the verdicts do but at the edge."""
    a, b = two((better(0.70), better(0.78)))
    both = [rows.load("one", made.root) for made in (a, b)]
    noise = _Noise(*both)
    for record in _records(_joined(*both)):
        if record["method"] != "logconf":
            continue
        shares = {c: [noise.shares(record, c, end) for end in "ab"] for c in ("pgr", "student_auroc", "agreement")}
        for column, (x, y) in shares.items():
            assert x.mean() == pytest.approx(record[f"{column}_a"])
            assert y.mean() == pytest.approx(record[f"{column}_b"])
        first, second = (resamples.Measure(np.stack([share])) for share in shares["student_auroc"] if share is not None)
        assert noise.beyond(record, "student_auroc") == (not stats.difference(second, first).covers(0.0))


# -- configurations ----------------------------------------------------------------------------------------------------


def test_flat_and_changed():
    data = {"a": {"b": 1, "c": [1, 2]}, "d": {}, "e": None}
    assert flat(data) == {"a.b": 1, "a.c": [1, 2], "d": {}, "e": None}
    other = copy.deepcopy(data)
    assert changed(data, other) == {}
    other["a"] = {"b": 1.0, "c": [2, 1]}
    other["f"] = {"g": 1}
    assert changed(data, other) == {"a.c": ([1, 2], [2, 1]), "f": (ABSENT, {"g": 1})}
    assert changed({"x": 1}, {"x": True}) == {"x": (1, True)}
    assert repr(ABSENT) == "not set"


def test_seed_parents_and_names_are_no_configuration(synthetic):
    made = synthetic().fill()
    titles = ("xent, seed 0", "xent, seed 1", "logconf, seed 0")
    first, second, other = (configuration.read(made.store, "train", made.digests(title)[0]) for title in titles)
    assert first.text == second.text != other.text
    assert not {"seed", "data", "labels.supervisor", "model.name", "engine.threads"} & set(first.identity)
    assert first.identity["labels.kind"] == "weak"
    assert first.runtime["model.name"] == "strong-20l"
    assert configuration.read(made.store, "train", "0" * 64) is None
    assert np.isclose(first.identity["recipe.lr"], 1e-5)
