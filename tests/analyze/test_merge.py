"""Several sweeps as one: what is pooled, what stays apart and why, and that nothing counts twice."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.reading import merge, rows
from w2s.analyze.reading.merge import file_name, folder_of, labels_of
from w2s.errors import SpecError
from w2s.store import Store

pytestmark = pytest.mark.usefixtures("few_resamples")

MODELS = {"weak-3l": {"use": "minilm", "layers": 3}, "strong-20l": {"use": "smollm2", "layers": 20}}
SIZES = {"weak_train": 40, "transfer": 40, "val": 10, "test": 200}
STRONGER = {"xent": {}, "logconf": {"loss": {"name": "logconf", "a_max": 0.7}}}


@pytest.fixture
def two(synthetic):
    """Two sweeps in one results folder, of which all is finished; `changes` are those of the second."""

    def make(first=None, leave_out=(), **changes):
        a = synthetic(name="a", **(first or {})).fill()
        b = synthetic(name="b", **changes)
        b.fill(leave_out=[d for d in b.plan.nodes if any(word in b.plan.nodes[d].title for word in leave_out)])
        return a, b

    return make


def merged(*made, root=None):
    return merge.load([m.name for m in made], root or made[0].root)


def changed_recipe(model="weak-3l", **recipe):
    models = copy.deepcopy(MODELS)
    models[model]["recipe"] = recipe
    return models


def test_seeds_of_equal_configuration_are_pooled(two):
    a, b = two(seeds=[3, 4, 5])
    found = merged(a, b)
    assert (found.name, found.notes, found.problems, found.unfinished) == ("a + b", [], [], [])
    xent, logconf = cells = aggregate(found)
    assert [cell.method for cell in cells] == ["xent", "logconf"]
    assert xent.planned == xent.seeds == logconf.seeds == (0, 1, 2, 3, 4, 5)
    assert logconf.accuracy.difference.seeds == logconf.accuracy.pgr.seeds == 6
    right = np.stack([found.test[key].right_N for key in found.test if key.digest in set(found.frame["weak_digest"])])
    assert xent.accuracy.weak.value == pytest.approx(right.mean())
    assert set(found.frame["sweep"]) == {"a", "b"}
    assert list(found.frame.columns) == list(rows.load("a", a.root).frame.columns)
    assert found.frame.dtypes.equals(rows.load("a", a.root).frame.dtypes)


def test_a_run_that_both_have_counts_once(two):
    """Negative control: seed 2 alone is new in one, so six planned runs are four seeds."""
    a, b = two(seeds=[1, 2, 3])
    found = merged(a, b)
    assert len(found.frame) == 2 * 4
    assert aggregate(found)[0].seeds == (0, 1, 2, 3)
    assert list(found.frame["sweep"])[:8] == ["a", "a", "a + b", "a + b", "a + b", "a + b", "b", "b"]
    same = merge.merge([rows.load("a", a.root)] * 2, a.root)
    assert len(same.frame) == 6


@pytest.mark.parametrize("lacking", ["xent, seed 0", "xent", "weak"])
def test_a_row_taken_from_the_second_sweep_stands_where_the_first_planned_it(synthetic, lacking):
    """So that the baseline stays the first method, whatever is damaged or not there yet in the first sweep."""
    a = synthetic(folder="x")
    a.fill(leave_out=[d for d in a.plan.nodes if lacking in a.plan.nodes[d].title])
    b = synthetic(folder="y").fill()
    found = merge.load([a.root / "sweeps" / "one", b.root / "sweeps" / "one"], a.root)
    alone = rows.load("one", b.root)
    assert found.frame.drop(columns="sweep").equals(alone.frame.drop(columns="sweep"))
    assert aggregate(found) == aggregate(alone)


def test_rows_and_cells_of_a_digest_with_two_predictions_have_those_of_the_first(synthetic):
    """As of one sweep on two machines, which may differ in their last digits, where the first is not finished."""
    a = synthetic(folder="x", methods=["logconf", "xent"])
    a.fill(leave_out=a.digests("ceiling") + a.digests("xent"))
    b = synthetic(folder="y", methods=["xent", "logconf"], accuracy=lambda node: 0.7).fill()
    found = merge.load([a.root / "sweeps" / "one", b.root / "sweeps" / "one"], a.root)
    (first, second) = (rows.load("one", made.root).frame for made in (a, b))
    ours, theirs = (found.frame[found.frame.method == method] for method in ("logconf", "xent"))
    own = first[first.method == "logconf"]
    assert [ours[f"{role}_accuracy"].tolist() for role in ("weak", "student")] == [
        own[f"{role}_accuracy"].tolist() for role in ("weak", "student")
    ]
    assert ours.agreement.tolist() == own.agreement.tolist()
    assert theirs.weak_accuracy.tolist() == own.weak_accuracy.tolist()  # in a row that only the second has whole
    assert theirs.student_accuracy.tolist() == second[second.method == "xent"].student_accuracy.tolist()
    assert set(found.frame.ceiling_status) == {"done"}
    for cell in aggregate(found):
        of_cell = found.frame[found.frame.method == cell.method]
        for role in ("weak", "student", "ceiling"):
            assert getattr(cell.accuracy, role).value == pytest.approx(of_cell[f"{role}_accuracy"].mean())
        for name in ("agreement", "label_accuracy"):
            assert getattr(cell, name).value == pytest.approx(of_cell[name].mean())
        gap = of_cell.ceiling_accuracy - of_cell.weak_accuracy
        recovered = (of_cell.student_accuracy - of_cell.weak_accuracy) / gap
        assert of_cell.pgr.tolist() == pytest.approx(recovered.where(gap > 0).tolist(), nan_ok=True)
    assert found.frame.dtypes.equals(first.dtypes)
    (note,) = found.notes  # of three seeds the weak model and the student by logconf
    assert note.startswith(f"{b.root / 'sweeps' / 'one'}: 6 runs predict otherwise than the same in {a.root}")


def test_a_single_sweep_is_given_back_as_it_is(two):
    a, _ = two()
    found = merged(a)
    assert type(found) is rows.Rows
    assert found.folder == a.root / "sweeps" / "a"


@pytest.mark.parametrize(
    ("changes", "methods", "said"),
    [
        ({"models": changed_recipe(lr=1e-3)}, "both", "weak recipe.lr 1e-05 and 0.001"),
        ({"models": changed_recipe("strong-20l", epochs=3)}, "both", "ceiling recipe.epochs 2 and 3"),
        ({"methods": STRONGER}, "logconf", "a_max 0.5 and 0.7"),
        ({"sizes": {**SIZES, "test": 120}}, "both", "data sizes.test 200 and 120"),
        ({"engine": {"mixed_precision": "bf16"}}, "both", "engine.mixed_precision not set and 'bf16'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seeds", [[3, 4, 5], [0, 1, 2]])
def test_what_was_asked_otherwise_stays_apart_and_says_so(two, changes, methods, said, seeds):
    a, b = two(seeds=seeds, **changes)
    found = merged(a, b)
    cells = {cell.method: cell for cell in aggregate(found)}
    if methods == "both":
        assert list(cells) == ["xent [a]", "logconf [a]", "xent [b]", "logconf [b]"]
        assert [cell.baseline for cell in cells.values()] == ["xent [a]", "xent [a]", "xent [b]", "xent [b]"]
    else:
        assert list(cells) == ["xent", "logconf [a]", "logconf [b]"]
        assert cells["xent"].seeds == tuple(sorted({0, 1, 2, *seeds}))
        assert {cell.baseline for cell in cells.values()} == {"xent"}
        assert cells["logconf [b]"].accuracy.difference.seeds == 3
    assert [cells[name].seeds for name in ("logconf [a]", "logconf [b]")] == [(0, 1, 2), tuple(seeds)]
    (note,) = found.notes
    assert said in note
    assert "`w2s compare a b`" in note
    assert found.problems == []


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": {"micro_batch_size": 4, "threads": 1}},
        {"question": "Another?"},
        {"recipe": {"lr": 1e-5}},  # the default
    ],
)
def test_what_may_not_change_a_number_keeps_nothing_apart(two, changes):
    a, b = two(seeds=[3], **changes)
    assert aggregate(merged(a, b))[0].seeds == (0, 1, 2, 3)


def test_a_baseline_is_named_as_in_the_sweeps_or_as_in_the_merge(two):
    a, b = two(models=changed_recipe(lr=1e-3))
    found = merged(a, b)
    assert [c.baseline for c in aggregate(found, "logconf")] == ["logconf [a]"] * 2 + ["logconf [b]"] * 2
    assert {c.baseline for c in aggregate(found, "xent [b]")} == {"xent [b]"}
    with pytest.raises(SpecError, match="did you mean xent"):
        aggregate(found, "xnt")


def test_other_test_examples_are_never_pooled_even_where_the_configuration_is_equal(two, synthetic):
    """As where a file changed under an old version that did not hash it."""
    a, _ = two(seeds=[3, 4, 5])
    parts = [rows.load(name, a.root) for name in ("a", "b")]
    (data,) = parts[1].truth
    assert merge.merge(parts, a.root).problems == []
    truth = parts[1].truth[data]
    parts[1].truth[data] = type(truth)([f"other-{i}" for i in truth.ids], truth.y_N, truth.name)
    found = merge.merge(parts, a.root)
    assert aggregate(found)[0].seeds == (0, 1, 2)
    assert "is not what another results folder holds under the same digest" in found.problems[0]
    parts[1].frame["data_digest"] = "f" * 64
    parts[1].truth = {"f" * 64: parts[1].truth[data]}
    found = merge.merge(parts, a.root)
    assert [cell.method for cell in aggregate(found)] == ["xent [a]", "logconf [a]", "xent [b]", "logconf [b]"]
    assert "movie: other test examples" in found.notes[0]


def test_models_of_one_name_are_told_apart_even_where_no_line_is_shared(two):
    three = {**MODELS, "mid": {"use": "minilm", "layers": 5}}
    pairs = {"models": three, "pairs": [["weak-3l", "mid"]]}
    a, b = two(pairs)
    assert {cell.method for cell in aggregate(merged(a, b))} == {"xent", "logconf"}
    other = {**changed_recipe(lr=1e-3), "mid": {"use": "minilm", "layers": 5}}
    a, b = two(pairs, models=other, pairs=[["weak-3l", "strong-20l"]])
    assert {cell.method for cell in aggregate(merged(a, b))} == {"xent [a]", "logconf [a]", "xent [b]", "logconf [b]"}


def test_tasks_and_methods_of_one_sweep_alone_are_kept(two):
    a, b = two({"tasks": ["movie"], "methods": ["xent"]}, tasks=["amazon", "movie"], methods=["logconf"], seeds=[3])
    found = merged(a, b)
    assert [(c.task, c.method, c.seeds) for c in aggregate(found)] == [
        ("movie", "xent", (0, 1, 2)), ("movie", "logconf", (3,)), ("amazon", "logconf", (3,))
    ]  # fmt: skip
    assert found.notes == []


def test_what_is_not_finished_is_told_by_the_files(two):
    a, b = two(seeds=[3, 4, 5], leave_out=("weak", "student", "ceiling"))
    found = merged(a, b)
    assert aggregate(found)[0].planned == (0, 1, 2, 3, 4, 5)
    assert aggregate(found)[0].seeds == (0, 1, 2)
    assert [line.startswith("b: ") for line in found.unfinished] == [True]
    a, b = two(seeds=[3, 4, 5], leave_out=("weak", "student", "ceiling"), recipe={"lr": 1e-3})
    assert aggregate(merged(a, b))[0].method == "xent [a]"


def test_a_specs_old_version_is_compared_as_it_was_written(two, monkeypatch):
    a, b = two(seeds=[3])
    real = Store.manifest

    def old(self, kind, digest):
        found = real(self, kind, digest)
        if found is not None and kind == "train":
            found["spec"]["recipe"]["momentum"] = 0.9 if digest in b.plan.nodes else old.value
        return found

    monkeypatch.setattr(Store, "manifest", old)
    old.value = 0.9
    assert aggregate(merged(a, b))[0].seeds == (0, 1, 2, 3)
    old.value = 0.8
    found = merged(a, b)
    assert aggregate(found)[0].method == "xent [a]"
    assert "recipe.momentum 0.8 and 0.9" in found.notes[0]


def test_three_sweeps_two_of_which_agree(two, synthetic):
    a, b = two(seeds=[3])
    c = synthetic(name="c", seeds=[4], models=changed_recipe(lr=1e-3)).fill()
    found = merged(a, c, b)
    assert [(cell.method, cell.seeds) for cell in aggregate(found)][::2] == [
        ("xent [a + b]", (0, 1, 2, 3)), ("xent [c]", (4,))
    ]  # fmt: skip
    assert len(found.notes) == 1


def test_two_results_folders_of_one_name_each(synthetic):
    a = synthetic(folder="x").fill()
    b = synthetic(folder="y", seeds=[2, 3]).fill()
    found = merge.load([a.root / "sweeps" / "one", b.root / "sweeps" / "one"], a.root)
    assert aggregate(found)[0].seeds == (0, 1, 2, 3)
    assert found.name == f"{a.root / 'sweeps' / 'one'} + {b.root / 'sweeps' / 'one'}"
    assert all(found.store.has("train", digest) for digest in found.frame["student_digest"])
    assert not a.store.has("train", found.frame["student_digest"].iloc[-1])
    assert found.folder == a.root / "sweeps" / "one+one"


def test_wrong_names_are_refused_all_at_once_before_anything_is_read(two, monkeypatch):
    a, _ = two()
    monkeypatch.setattr(rows, "load", None)  # nobody may call it
    with pytest.raises(SpecError) as caught:
        merge.load(["aa", "a", "c d", "a"], a.root)
    assert [line.split(" in ")[0] for line in caught.value.problems] == [
        "sweep: no sweep named 'aa'", "sweep: no sweep named 'c d'", "sweep: 'a' is given twice; give it once"
    ]  # fmt: skip
    assert "did you mean a?" in caught.value.problems[0]
    with pytest.raises(TypeError):
        merge.load(["a"], a.root)
    with pytest.raises(SpecError, match="none is given"):
        merge.load([], a.root)


def test_the_folder_of_a_merge_is_no_sweeps(tmp_path):
    folders = [tmp_path / "sweeps" / name for name in ("a", "b")]
    assert folder_of(folders[:1], tmp_path) == folders[0]
    assert folder_of(folders, tmp_path) == tmp_path / "sweeps" / "a+b"
    (tmp_path / "sweeps" / "a+b").mkdir(parents=True)
    (tmp_path / "sweeps" / "a+b" / "plan.json").write_text("{}")
    assert folder_of(folders, tmp_path) == tmp_path / "sweeps" / "a+b-merged"
    long = folder_of([tmp_path / f"{i}{'x' * 70}" for i in range(9)], tmp_path)
    assert len(long.name) < 100


def test_labels_are_names_or_folders(two):
    a, _ = two()
    parts = [rows.load(name, a.root) for name in ("a", "b")]
    assert labels_of(parts) == ["a", "b"]
    assert labels_of([parts[0], parts[0]]) == [str(parts[0].folder)] * 2


def test_file_names_are_safe_and_stay_different():
    assert file_name("accuracy-movie") == "accuracy-movie"
    names = ["a/b", "a b", "a'; rm -rf ~\nü", "../../x", "a" * 300, "a" * 301, ".", "..", ""]
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all("/" not in name and len(name) < 100 and name.strip(".") for name in made)
