"""The main job through the command line, on tiny models: artifacts, tables, and what a second run does not do again."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

pytestmark = pytest.mark.recipe


def lines_of(world):
    return list(csv.DictReader(io.StringIO(world.table().decode())))


def rights(world, step, data):
    """Test example by test example: was the step right? Joined by id, from nothing but Parquet files."""
    truth = world.read("materialize", data, "test.parquet")
    label = dict(zip(truth["example_id"], truth["label"], strict=True))
    found = world.read("train", step, "predictions/test.parquet")
    assert set(found["example_id"]) == set(label)
    return [label[i] == int(np.argmax(x)) for i, x in zip(found["example_id"], found["logits"], strict=True)]


def test_a_sweep_ends_with_its_tables_and_says_last_where_they_are(whole, steps):
    assert {whole.titles()[digest] for digest in whole.finished()} == steps
    last = whole.printed.splitlines()[-1]
    assert last.startswith("written to results/sweeps/moods: ")
    named = {name.strip() for name in last.partition(": ")[2].split(",")}
    files = {path.name for path in whole.outputs.iterdir() if path.is_file()}
    figures = list((whole.outputs / "figures").iterdir())
    assert named == files - {"plan.json", "command.txt"} | {f"{len(figures)} files in figures"}
    assert named >= {"table.csv", "table.md", "table.tex", "rows.csv", "rows.parquet", "report.html"}
    images = [path for path in figures if path.suffix == ".png"]
    assert len(images) == len(figures) / 2 > 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in images)
    assert "small -> large" in whole.printed
    assert whole.left_over() == []
    assert list(whole.store.glob("work/??/*")) == []
    assert "[9/9 done]" in whole.progress


def test_pgr_is_what_one_computes_from_the_predictions(whole):
    """(student - weak) / (ceiling - weak) of accuracies averaged over seeds."""
    lines = lines_of(whole)
    assert [line["method"] for line in lines] == ["xent", "logconf"]
    data = whole.digest("data moods")

    def accuracy(title):
        return np.mean([rights(whole, whole.digest(f"{title}, seed {seed}"), data) for seed in (0, 1)])

    weak, ceiling = accuracy("weak small on moods"), accuracy("ceiling large on moods")
    assert ceiling - weak > 0.1, "the sweep is made so that there is a gap to recover"
    for line in lines:
        student = accuracy(f"student large of small on moods, {line['method']}")
        assert float(line["weak_accuracy"]) == pytest.approx(weak)
        assert float(line["student_accuracy"]) == pytest.approx(student)
        assert float(line["ceiling_accuracy"]) == pytest.approx(ceiling)
        assert float(line["pgr"]) == pytest.approx((student - weak) / (ceiling - weak))
        assert float(line["pgr_low"]) <= float(line["pgr"]) <= float(line["pgr_high"])
        assert f"{(student - weak) / (ceiling - weak):.2f}" in whole.printed
        assert (line["n"], line["seeds_done"]) == ("200", "0 1")


def test_students_learned_from_their_supervisor_and_never_saw_the_truth(whole):
    """Their labels are the weak model's probabilities on transfer; the data of the three splits is apart."""
    data, weak = whole.digest("data moods"), whole.digest("weak small on moods, seed 1")
    student = whole.digest("student large of small on moods, logconf, seed 1")
    labels, said = (
        whole.read("train", student, "labels.parquet"),
        whole.read("train", weak, "predictions/transfer.parquet"),
    )
    logits = dict(zip(said["example_id"], said["logits"], strict=True))
    for example, p in zip(labels["example_id"], labels["p"], strict=True):
        e = np.exp(np.array(logits[example]) - max(logits[example]))
        np.testing.assert_allclose(p, e / e.sum(), atol=1e-6)
    ids = {name: set(whole.read("materialize", data, f"{name}.parquet")["example_id"])
           for name in ("weak_train", "transfer", "val", "test")}  # fmt: skip
    assert {name: len(found) for name, found in ids.items()} == {
        "weak_train": 64,
        "transfer": 96,
        "val": 16,
        "test": 200,
    }
    assert len(set.union(*ids.values())) == 64 + 96 + 16 + 200
    assert set(labels["example_id"]) == ids["transfer"]


def test_a_second_run_trains_nothing_and_writes_the_same_table(later):
    before, table = later.finished(), later.table()
    out, progress = later.sweep()
    assert later.finished() == before
    assert later.table() == table
    assert "9 steps; 9 are there already" in progress
    assert "start " not in progress
    assert out.splitlines()[-1].startswith("written to results/sweeps/moods: ")


def test_a_new_loss_weight_or_seed_adds_only_what_it_must(later):
    before = later.finished()
    later.sweep("--set", "methods.logconf.loss.a_max=0.9")
    after, titles = later.finished(), later.titles()
    assert {digest: after[digest] for digest in before} == before
    assert sorted(titles[digest] for digest in set(after) - set(before)) == [
        f"student large of small on moods, logconf, seed {seed}" for seed in (0, 1)
    ]
    later.sweep("--set", "seeds=[0,1,2]")
    third, titles = later.finished(), later.titles()
    assert {digest: third[digest] for digest in after} == after
    assert sorted(titles[digest] for digest in set(third) - set(after)) == [
        "ceiling large on moods, seed 2", "student large of small on moods, logconf, seed 2",
        "student large of small on moods, xent, seed 2", "weak small on moods, seed 2",
    ]  # fmt: skip
    assert [line["seeds_done"] for line in lines_of(later)] == ["0 1 2"] * 2


def test_one_worker_or_two_elsewhere_give_the_same_table(whole, world):
    """Another folder, another order of the steps: the same digests, the same bytes."""
    world.sweep("--workers", "1")
    assert set(world.finished()) == set(whole.finished())
    assert world.table() == whole.table()


def test_weights_kept_afterwards_change_no_number_and_label_texts(later):
    student = later.digest("student large of small on moods, xent, seed 0")
    data = later.read("materialize", later.digest("data moods"), "test.parquet")
    (later.folder / "texts.txt").write_text("".join(text + "\n" for text in data["text"]))
    code, out, err = later.run("label", student[:10], "texts.txt")
    assert (code, out) == (2, "")
    assert "weights" in err
    assert "--keep-weights" in err

    before, table = later.finished(), later.table()
    said = later.read("train", student, "predictions/test.parquet")
    _, progress = later.sweep("--keep-weights")
    assert later.table() == table
    again = [digest for digest, changed in later.finished().items() if changed != before[digest]]
    assert set(again) == set(before) - {later.digest("data moods")}
    assert "9 steps; 1 is there already" in progress
    assert later.read("train", student, "predictions/test.parquet") == said

    code, out, err = later.run("label", student[:10], "texts.txt")
    assert (code, err) == (0, "")
    labelled = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in labelled] == data["text"]
    logits = dict(zip(said["example_id"], said["logits"], strict=True))
    for example, row in zip(data["example_id"], labelled, strict=True):
        e = np.exp(np.array(logits[example]) - max(logits[example]))
        np.testing.assert_allclose([row["p"]["bad"], row["p"]["good"]], e / e.sum(), atol=1e-4)
    code, out, _ = later.run("verify")
    assert (code, out.splitlines()[-1]) == (0, "artifacts checked: 9, problems: 0")


def test_one_cell_by_flags_shares_the_steps_of_a_sweep(later):
    before = later.finished()
    task = "{file: moods.jsonl, text: text, label: mood, classes: [bad, good]}"
    words = ["--task", "moods", "--weak", "./small", "--strong", "./large", "--method", "xent", "--seed", "1",
             "--weak-train", "64", "--transfer", "96", "--val", "16", "--test", "200", "--set", f"tasks.moods={task}",
             "--set", "recipe={lr: 3e-3, epochs: 8, batch_size: 8}", "--set", "engine.threads=1"]  # fmt: skip
    code, out, err = later.run("run", *words, "--set", "models.small.recipe={tune: {kind: probe}, lr: 2e-2}")
    assert code == 0
    assert "4 steps; 4 are there already" in err
    assert out.splitlines()[-1].startswith("written to results/sweeps/run-moods-small-large-xent-seed1: ")
    assert later.finished() == before
    code, _, err = later.run("run", *words[2:])
    assert (code, err.splitlines()[0]) == (2, "w2s: --task: missing")


def test_status_results_show_and_plan_of_a_finished_sweep(whole):
    """Each in a process of its own, piped; nothing is changed by looking."""
    before, table = whole.finished(), whole.table()
    code, out, err = whole.run("status", "moods")
    assert (code, err) == (0, "")
    assert out.splitlines()[2].split()[:3] == ["moods", "4/4", "9/9"]
    code, out, err = whole.run("results", "moods.yaml")
    assert (code, out) == (0, whole.printed)
    assert "w2s:" not in err  # how far it is, on a machine that needs longer
    code, out, err = whole.run("plan", "moods.yaml")
    assert (code, err) == (0, "")
    assert "nothing is left to do" in out
    weak = whole.digest("weak small on moods, seed 0")
    code, out, err = whole.run("show", weak[:6])
    assert (code, err) == (0, "")
    assert weak in out
    assert "weak small on moods, seed 0" in out
    assert (whole.finished(), whole.table()) == (before, table)
