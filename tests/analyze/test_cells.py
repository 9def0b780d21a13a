"""Cells pool seeds, compare methods in pairs, and say what they lack."""

from __future__ import annotations

import json

import numpy as np
import pytest

from w2s.analyze import stats
from w2s.analyze.cells import aggregate
from w2s.analyze.predictions import Reader
from w2s.analyze.rows import load
from w2s.analyze.selection import Taken
from w2s.errors import SpecError
from w2s.spec import Weak


def cells_of(made, **arguments):
    return aggregate(load(made.name, made.root), **arguments)


def wide_gap(node):
    """Accuracies with a clear gap and nothing between seeds."""
    if isinstance(node.spec.labels, Weak):
        return 0.80 if node.spec.recipe.loss.name == "xent" else 0.87
    return 0.70 if node.spec.split == "weak_train" else 0.95


def test_estimates_are_means_over_seeds(synthetic):
    made = synthetic(accuracy=wide_gap).fill()
    rows = load("one", made.root)
    xent, logconf = aggregate(rows)
    own = rows.frame[rows.frame.method == "logconf"]
    assert (xent.method, logconf.method) == ("xent", "logconf")
    assert logconf.pair == ("weak-3l", "strong-20l")
    assert logconf.planned == logconf.seeds == (0, 1, 2)
    assert logconf.n == 200
    for role in ("weak", "student", "ceiling"):
        assert getattr(logconf, role).value == pytest.approx(own[f"{role}_accuracy"].mean())
        assert getattr(logconf, role).seeds == 3
    mean = own[["weak_accuracy", "student_accuracy", "ceiling_accuracy"]].mean()
    gap = mean.ceiling_accuracy - mean.weak_accuracy
    assert logconf.gap.value == pytest.approx(gap)
    assert logconf.gap.low > 0
    assert logconf.pgr.value == pytest.approx((mean.student_accuracy - mean.weak_accuracy) / gap)
    assert logconf.agreement.value == pytest.approx(own.agreement.mean())
    assert logconf.label_accuracy.value == pytest.approx(own.label_accuracy.mean())
    assert logconf.label_accuracy.n == 40
    assert logconf.notes == ()


def test_a_weak_models_interval_is_the_same_in_every_line(synthetic):
    made = synthetic(models=["pythia-70m", "pythia-160m", "pythia-410m"]).fill()
    found: dict[str, stats.Estimate] = {}
    for cell in cells_of(made):
        assert found.setdefault(cell.weak_model, cell.weak) == cell.weak
    assert len(found) == 2


def test_methods_are_compared_in_pairs(synthetic):
    made = synthetic(accuracy=wide_gap).fill()
    rows = load("one", made.root)
    xent, logconf = aggregate(rows)
    assert xent.is_baseline
    assert xent.accuracy_difference.reason == "is the baseline"
    assert logconf.accuracy_difference.value == pytest.approx(logconf.student.value - xent.student.value)
    assert logconf.pgr_difference.value == pytest.approx(logconf.pgr.value - xent.pgr.value)
    by_method = [
        np.stack([rows.test[Taken(d)].right_N for d in rows.frame[rows.frame.method == m].student_digest])
        for m in ("logconf", "xent")
    ]
    assert logconf.accuracy_difference == stats.difference(*by_method)
    other, own = aggregate(rows, baseline="logconf")
    assert own.is_baseline
    assert other.accuracy_difference.value == pytest.approx(-logconf.accuracy_difference.value)


def test_an_unknown_baseline_offers_the_nearest(synthetic):
    made = synthetic()
    with pytest.raises(SpecError, match=r"no method 'logcnf'.*did you mean logconf"):
        cells_of(made, baseline="logcnf")


def test_no_gap_and_at_chance_are_flagged(synthetic):
    made = synthetic(accuracy=lambda node: 0.5).fill()
    cell = cells_of(made)[0]
    assert not cell.pgr.known
    assert cell.pgr.reason.startswith("no gap: ")
    assert cell.gap.known
    assert cell.notes == ("weak, student, ceiling at chance",)


def test_one_seed_says_so(synthetic):
    cell = cells_of(synthetic(seeds=[4], accuracy=wide_gap).fill())[0]
    assert cell.planned == (4,)
    assert (cell.pgr.seeds, cell.pgr.over) == (1, "test examples only")


def test_a_partial_cell_uses_the_seeds_that_are_there(synthetic):
    made = synthetic(accuracy=wide_gap, seeds=[0, 1, 2, 3])
    lost = made.digests("ceiling strong-20l on movie, seed 1") + made.digests("logconf, seed 2")
    made.fill(leave_out=lost)
    rows = load("one", made.root)
    xent, logconf = aggregate(rows)
    assert (xent.student.seeds, xent.ceiling.seeds, xent.pgr.seeds) == (4, 3, 3)
    assert xent.notes == ("PGR of 3 of 4 seeds",)
    assert (logconf.student.seeds, logconf.pgr.seeds) == (3, 2)
    assert logconf.seeds == (0, 1, 3)
    assert logconf.notes == ("PGR of 2 of 4 seeds", "3 of 4 seeds")
    assert (logconf.accuracy_difference.seeds, logconf.pgr_difference.seeds) == (3, 2)
    own = rows.frame[(rows.frame.method == "xent") & (rows.frame.seed != 1)]
    gap = own.ceiling_accuracy.mean() - own.weak_accuracy.mean()
    assert xent.pgr.value == pytest.approx((own.student_accuracy.mean() - own.weak_accuracy.mean()) / gap)


def test_a_lost_role_is_named(synthetic):
    made = synthetic(accuracy=wide_gap)
    lost = made.digests("ceiling")
    made.store.fail(lost[0], "no memory")
    made.fill(leave_out=lost)
    cell = cells_of(made)[0]
    assert cell.ceiling.reason == "ceiling failed"
    assert cell.pgr.reason == "ceiling failed"
    assert cell.student.known
    assert cell.gap.reason == "ceiling failed"


def test_seeds_with_different_test_sets_are_not_pooled(synthetic):
    made = synthetic(accuracy=wide_gap).fill()
    other = synthetic(split_seed=1, accuracy=wide_gap, name="other")
    other.sizes = other.sizes.model_copy(update={"test": 190})
    other.fill()
    path = made.root / "sweeps" / "one" / "plan.json"
    plan = json.loads(path.read_text())
    strange = json.loads((made.root / "sweeps" / "other" / "plan.json").read_text())
    plan["steps"] += strange["steps"]
    plan["cells"] = [c for c in plan["cells"] if c["seed"] < 2] + [c for c in strange["cells"] if c["seed"] == 2]
    path.write_text(json.dumps(plan))
    rows = load("one", made.root)
    cells = aggregate(rows)
    assert {cell.pgr.reason for cell in cells} == {"test sets differ: the seeds cannot be pooled"}
    assert not any(cell.student.known or cell.accuracy_difference.known for cell in cells)
    assert rows.problems == [
        f"movie, weak-3l -> strong-20l, {m}: test sets differ: the seeds cannot be pooled" for m in ("xent", "logconf")
    ]


def test_nothing_run_yet_has_reasons_everywhere(synthetic):
    cells = cells_of(synthetic())
    assert len(cells) == 2
    for name in ("weak", "student", "ceiling", "gap", "pgr", "agreement", "label_accuracy"):
        found = getattr(cells[1], name)
        assert not found.known
        assert found.reason.endswith("missing")


def test_cells_take_the_selected_predictions(chosen):
    made = chosen(accuracy=wide_gap).fill()
    rows = load("one", made.root)
    selections = ["final", "weak_val", "oracle"]
    cells = {(c.method, c.selection): c for c in aggregate(rows)}
    assert list(cells) == [(m, s) for m in ("xent", "logconf") for s in selections]
    reader = Reader(made.store)
    right = {}
    for key, cell in cells.items():
        own = rows.frame[(rows.frame.method == key[0]) & (rows.frame.selection == key[1])]
        assert cell.student.value == pytest.approx(own.student_accuracy.mean())
        assert cell.agreement.value == pytest.approx(own.agreement.mean())
        gap = own.ceiling_accuracy.mean() - own.weak_accuracy.mean()
        assert cell.pgr.value == pytest.approx((own.student_accuracy.mean() - own.weak_accuracy.mean()) / gap)
        assert cell.steps == tuple(own.selected_step.dropna())
        right[key] = np.stack(
            [
                reader.scored(r["student_digest"], r["data_digest"], "test", 2).right_N
                if key[1] == "final"
                else reader.selected(r["student_digest"], r["weak_digest"], r["data_digest"], key[1], 2).scored.right_N
                for r in own.to_dict("records")
            ]
        )
        assert cell.student == stats.proportion(right[key])
    for selection in selections:
        ours, base = cells["logconf", selection], cells["xent", selection]
        assert ours.accuracy_difference == stats.difference(right["logconf", selection], right["xent", selection])
        assert base.is_baseline
    assert cells["xent", "oracle"].student.value > cells["xent", "final"].student.value
    assert cells["xent", "oracle"].weak == cells["xent", "final"].weak


def test_a_cell_uses_the_seeds_whose_evaluations_are_there(chosen):
    made = chosen().fill()
    (digest,) = made.digests("logconf, seed 1")
    (made.store.path("train", digest) / "evaluations.parquet").unlink()
    seeds = {(c.method, c.selection): c.seeds for c in cells_of(made)}
    assert seeds.pop(("logconf", "weak_val")) == seeds.pop(("logconf", "oracle")) == (0, 2)
    assert set(seeds.values()) == {(0, 1, 2)}
