"""Cells pool seeds, compare methods in pairs, and say what they lack."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tampering import rewrite  # type: ignore[import-not-found]

from w2s.analyze.numbers import spread, stats
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.cells import AGREEMENTS, MEASURED, METRICS
from w2s.analyze.numbers.resamples import Measure
from w2s.analyze.reading.predictions import Reader
from w2s.analyze.reading.rows import load
from w2s.analyze.reading.selection import Taken
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
        assert getattr(logconf.accuracy, role).value == pytest.approx(own[f"{role}_accuracy"].mean())
        assert getattr(logconf.accuracy, role).seeds == 3
    mean = own[["weak_accuracy", "student_accuracy", "ceiling_accuracy"]].mean()
    gap = mean.ceiling_accuracy - mean.weak_accuracy
    assert logconf.accuracy.gap.value == pytest.approx(gap)
    assert logconf.accuracy.gap.low > 0
    assert logconf.accuracy.pgr.value == pytest.approx((mean.student_accuracy - mean.weak_accuracy) / gap)
    assert logconf.agreement.value == pytest.approx(own.agreement.mean())
    assert logconf.label_accuracy.value == pytest.approx(own.label_accuracy.mean())
    assert logconf.label_accuracy.n == 40
    assert logconf.notes == ()


def test_a_weak_models_interval_is_the_same_in_every_line(synthetic):
    made = synthetic(models=["pythia-70m", "pythia-160m", "pythia-410m"]).fill()
    found: dict[str, stats.Estimate] = {}
    for cell in cells_of(made):
        assert found.setdefault(cell.weak_model, cell.accuracy.weak) == cell.accuracy.weak
    assert len(found) == 2


def test_methods_are_compared_in_pairs(synthetic):
    made = synthetic(accuracy=wide_gap).fill()
    rows = load("one", made.root)
    xent, logconf = aggregate(rows)
    assert xent.is_baseline
    assert xent.accuracy.difference.reason == "is the baseline"
    assert logconf.accuracy.difference.value == pytest.approx(
        logconf.accuracy.student.value - xent.accuracy.student.value
    )
    assert logconf.accuracy.pgr_difference.value == pytest.approx(logconf.accuracy.pgr.value - xent.accuracy.pgr.value)
    by_method = [
        np.stack([rows.test[Taken(d)].right_N for d in rows.frame[rows.frame.method == m].student_digest])
        for m in ("logconf", "xent")
    ]
    assert logconf.accuracy.difference == stats.difference(*map(Measure, by_method))
    other, own = aggregate(rows, baseline="logconf")
    assert own.is_baseline
    assert other.accuracy.difference.value == pytest.approx(-logconf.accuracy.difference.value)


def test_an_unknown_baseline_offers_the_nearest(synthetic):
    made = synthetic()
    with pytest.raises(SpecError, match=r"no method 'logcnf'.*did you mean logconf"):
        cells_of(made, baseline="logcnf")


def test_no_gap_and_at_chance_are_flagged(synthetic):
    made = synthetic(accuracy=lambda node: 0.5).fill()
    cell = cells_of(made)[0]
    assert not cell.accuracy.pgr.known
    assert cell.accuracy.pgr.reason.startswith("no gap: ")
    assert cell.accuracy.gap.known
    assert cell.notes == ("weak, student, ceiling at chance",)


def test_one_seed_says_so(synthetic):
    cell = cells_of(synthetic(seeds=[4], accuracy=wide_gap).fill())[0]
    assert cell.planned == (4,)
    assert (cell.accuracy.pgr.seeds, cell.accuracy.pgr.over) == (1, "test examples only")


def test_a_partial_cell_uses_the_seeds_that_are_there(synthetic):
    made = synthetic(accuracy=wide_gap, seeds=[0, 1, 2, 3])
    lost = made.digests("ceiling strong-20l on movie, seed 1") + made.digests("logconf, seed 2")
    made.fill(leave_out=lost)
    rows = load("one", made.root)
    xent, logconf = aggregate(rows)
    assert (xent.accuracy.student.seeds, xent.accuracy.ceiling.seeds, xent.accuracy.pgr.seeds) == (4, 3, 3)
    assert xent.notes == ("PGR of 3 of 4 seeds",)
    assert (logconf.accuracy.student.seeds, logconf.accuracy.pgr.seeds) == (3, 2)
    assert logconf.seeds == (0, 1, 3)
    assert logconf.notes == ("PGR of 2 of 4 seeds", "3 of 4 seeds")
    assert (logconf.accuracy.difference.seeds, logconf.accuracy.pgr_difference.seeds) == (3, 2)
    own = rows.frame[(rows.frame.method == "xent") & (rows.frame.seed != 1)]
    gap = own.ceiling_accuracy.mean() - own.weak_accuracy.mean()
    assert xent.accuracy.pgr.value == pytest.approx((own.student_accuracy.mean() - own.weak_accuracy.mean()) / gap)


def test_a_lost_role_is_named(synthetic):
    made = synthetic(accuracy=wide_gap)
    lost = made.digests("ceiling")
    made.store.fail(lost[0], "no memory")
    made.fill(leave_out=lost)
    cell = cells_of(made)[0]
    assert cell.accuracy.ceiling.reason == "ceiling failed"
    assert cell.accuracy.pgr.reason == "ceiling failed"
    assert cell.accuracy.student.known
    assert cell.accuracy.gap.reason == "ceiling failed"


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
    assert {cell.accuracy.pgr.reason for cell in cells} == {"test sets differ: the seeds cannot be pooled"}
    assert not any(cell.accuracy.student.known or cell.accuracy.difference.known for cell in cells)
    assert rows.problems == [
        f"movie, weak-3l -> strong-20l, {m}: test sets differ: the seeds cannot be pooled" for m in ("xent", "logconf")
    ]


def test_seeds_of_several_data_sets_with_equal_tests_are_pooled_whichever_could_be_read(synthetic):
    """As in a plan put together by hand: the planner gives all seeds of a task one data set."""
    made = synthetic(accuracy=wide_gap).fill()
    other = synthetic(split_seed=1, accuracy=wide_gap, name="other")
    other.sizes = other.sizes.model_copy(update={"transfer": 30})
    other.fill()
    path = made.root / "sweeps" / "one" / "plan.json"
    plan = json.loads(path.read_text())
    strange = json.loads((made.root / "sweeps" / "other" / "plan.json").read_text())
    plan["steps"] += strange["steps"]
    plan["cells"] = [c for c in plan["cells"] if c["seed"] < 1] + [c for c in strange["cells"] if c["seed"] > 0]
    path.write_text(json.dumps(plan))
    for cell in cells_of(made):
        assert cell.auroc.pgr.seeds == cell.accuracy.pgr.seeds == 3
        assert cell.label_accuracy.reason == "transfer sets differ: the seeds cannot be pooled"
    (data,) = made.digests("data movie")
    (made.store.path("materialize", data) / "test.parquet").unlink()
    for cell in cells_of(made):
        assert cell.auroc.pgr.seeds == cell.accuracy.pgr.seeds == 2
        assert cell.label_accuracy.seeds == 2


def test_nothing_run_yet_has_reasons_everywhere(synthetic):
    cells = cells_of(synthetic())
    assert len(cells) == 2
    last = cells[1]
    for metric in METRICS:
        for name in MEASURED:
            assert not getattr(last.measured(metric), name).known
            assert getattr(last.measured(metric), name).reason.endswith("missing")
        assert math.isnan(last.measured(metric).p)
        assert math.isnan(last.measured(metric).p_holm)
        assert last.left_out(metric) == "weak missing"
    for name in (*AGREEMENTS, "label_accuracy"):
        assert getattr(last, name).reason.endswith("missing")


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
        assert cell.accuracy.student.value == pytest.approx(own.student_accuracy.mean())
        assert cell.agreement.value == pytest.approx(own.agreement.mean())
        gap = own.ceiling_accuracy.mean() - own.weak_accuracy.mean()
        assert cell.accuracy.pgr.value == pytest.approx((own.student_accuracy.mean() - own.weak_accuracy.mean()) / gap)
        assert cell.steps == tuple(own.selected_step.dropna())
        right[key] = np.stack(
            [
                reader.scored(r["student_digest"], r["data_digest"], "test", 2).right_N
                if key[1] == "final"
                else reader.selected(r["student_digest"], r["weak_digest"], r["data_digest"], key[1], 2).scored.right_N
                for r in own.to_dict("records")
            ]
        )
        assert cell.accuracy.student == stats.mean(Measure(right[key]))
    for selection in selections:
        ours, base = cells["logconf", selection], cells["xent", selection]
        assert ours.accuracy.difference == stats.difference(
            Measure(right["logconf", selection]), Measure(right["xent", selection])
        )
        assert base.is_baseline
    assert cells["xent", "oracle"].accuracy.student.value > cells["xent", "final"].accuracy.student.value
    assert cells["xent", "oracle"].accuracy.weak == cells["xent", "final"].accuracy.weak


def test_a_cell_uses_the_seeds_whose_evaluations_are_there(chosen):
    made = chosen().fill()
    (digest,) = made.digests("logconf, seed 1")
    (made.store.path("train", digest) / "evaluations.parquet").unlink()
    seeds = {(c.method, c.selection): c.seeds for c in cells_of(made)}
    assert seeds.pop(("logconf", "weak_val")) == seeds.pop(("logconf", "oracle")) == (0, 2)
    assert set(seeds.values()) == {(0, 1, 2)}


# -- AUROC, tests over tasks, what enters a median ---------------------------------------------------------------------


def test_auroc_has_estimates_of_its_own(synthetic):
    made = synthetic(accuracy=wide_gap).fill()
    rows = load("one", made.root)
    for cell in aggregate(rows):
        own = rows.frame[rows.frame.method == cell.method]
        found = cell.auroc
        for role in ("weak", "student", "ceiling"):
            estimate = getattr(found, role)
            assert estimate.value == pytest.approx(own[f"{role}_auroc"].mean())
            assert estimate.low < estimate.value < estimate.high
        gap = own.ceiling_auroc.mean() - own.weak_auroc.mean()
        assert found.pgr.value == pytest.approx((own.student_auroc.mean() - own.weak_auroc.mean()) / gap)
        assert found.pgr != cell.accuracy.pgr


def test_auroc_of_three_classes_is_absent_and_says_why(synthetic, tmp_path):
    (tmp_path / "three.jsonl").write_text(
        "".join(json.dumps({"text": f"text {i}", "label": i % 3}) + "\n" for i in range(600))
    )
    task = {"file": str(tmp_path / "three.jsonl"), "text": "text", "label": "label", "classes": ["a", "b", "c"]}
    made = synthetic(tasks={"three": task}, accuracy=wide_gap).fill()
    cell = cells_of(made)[1]
    assert cell.n_classes == 3
    assert cell.accuracy.pgr.known
    for name in MEASURED:
        assert getattr(cell.auroc, name).reason == "AUROC needs two classes"
    assert cell.left_out("auroc") == "AUROC needs two classes"
    assert math.isnan(cell.auroc.p)


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_auroc_of_test_examples_of_one_class_is_absent_and_says_why(synthetic, seeds):
    made = synthetic(seeds=seeds, accuracy=wide_gap).fill()
    (data,) = made.digests("data movie")
    rewrite(made.store.path("materialize", data) / "test.parquet", label=[0] * 200)
    for cell in cells_of(made):
        for name in MEASURED:
            assert getattr(cell.auroc, name).reason == "AUROC needs examples of both classes"
        assert cell.left_out("auroc") == "AUROC needs examples of both classes"
        assert math.isnan(cell.auroc.p)
        assert cell.accuracy.student.known


def test_an_auroc_without_a_mistake_is_bounded_by_its_classes(synthetic):
    cell = cells_of(synthetic(accuracy=lambda node: 3.0).fill())[0]
    assert cell.auroc.ceiling.value == 1.0
    assert cell.auroc.ceiling.low == pytest.approx(0.025 ** (1 / 100))  # of 200 examples, half of each class


def test_p_values_are_corrected_over_tasks(synthetic):
    made = synthetic(tasks=["movie", "amazon", "tweets"], accuracy=wide_gap).fill()
    cells = [cell for cell in cells_of(made) if not cell.is_baseline]
    raw = [cell.accuracy.p for cell in cells]
    assert [cell.accuracy.p_holm for cell in cells] == spread.holm(raw)
    assert [cell.accuracy.p_holm for cell in cells] != raw
    (alone,) = [cell for cell in cells_of(synthetic(folder="alone", accuracy=wide_gap).fill()) if not cell.is_baseline]
    assert alone.accuracy.p_holm == alone.accuracy.p


def test_what_enters_no_median_says_why(synthetic):
    def poor(node):
        return {"weak_train": 0.5}.get(node.spec.split, wide_gap(node))

    assert {cell.left_out() for cell in cells_of(synthetic(accuracy=wide_gap).fill())} == {""}
    cell = cells_of(synthetic(folder="poor", accuracy=poor).fill())[0]
    assert cell.accuracy.pgr.known
    assert cell.at_chance == ("weak",)
    assert (cell.left_out(), cell.left_out("auroc")) == ("weak at chance", "weak at chance")
    cell = cells_of(synthetic(folder="none", accuracy=lambda node: 0.8).fill())[0]
    assert cell.left_out() == "no gap"


def test_noise_is_that_of_the_difference_in_units_of_pgr(synthetic):
    """That of the student from the baseline's over the gap; of the baseline, that of its PGR."""
    xent, logconf = (cell.accuracy for cell in cells_of(synthetic(accuracy=wide_gap).fill()))
    gap = logconf.gap.value
    for noise, low, high in (
        (logconf.noise, logconf.difference.low / gap, logconf.difference.high / gap),
        (xent.noise, xent.pgr.low, xent.pgr.high),
    ):
        assert (high - low) / 2 == pytest.approx(noise.student(0.95) * math.sqrt(noise.total), rel=0.2)


def test_a_cell_names_its_runs(synthetic):
    made = synthetic().fill(leave_out=[])
    rows = load("one", made.root)
    for cell in aggregate(rows):
        own = rows.frame[rows.frame.method == cell.method]
        assert [run.student for run in cell.runs] == list(own.student_digest)
        assert [run.seed for run in cell.runs] == [0, 1, 2]
        assert {made.plan.nodes[run.weak].title.split()[0] for run in cell.runs} == {"weak"}


def test_progress_counts_cells(synthetic):
    told = []
    aggregate(load("one", synthetic().fill().root), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]
