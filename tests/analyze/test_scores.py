"""What is kept is what was computed; what changed, is damaged or is of another version is computed anew."""

from __future__ import annotations

import os
import shutil
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from tampering import counted, measured, write  # type: ignore[import-not-found]

from w2s.analyze.reading import demand as reading
from w2s.analyze.reading import scores
from w2s.analyze.reading.predictions import Found, Wanted
from w2s.analyze.reading.rows import load
from w2s.analyze.reading.scoring import score
from w2s.analyze.reading.selection import Choice


@pytest.fixture
def reads(monkeypatch):
    return counted(monkeypatch)


def predictions(read):
    """Of the files that were read, those of predictions."""
    return {name for name in read if name[1] not in ("test.parquet", "transfer.parquet")}


def kept(made):
    return sorted((made.root / "scores").iterdir())


def same(a, b):
    """Rows and all that they were computed from, bit for bit."""
    assert a.frame.equals(b.frame)
    assert (a.problems, a.unfinished, list(a.test), list(a.transfer)) == (
        *(b.problems, b.unfinished),
        *(list(b.test), list(b.transfer)),
    )
    pairs = [(a.test[key], b.test[key]) for key in a.test] + [(a.transfer[key], b.transfer[key]) for key in a.transfer]
    for one, other in pairs:
        for name in ("predicted_N", "right_N", "margin_rank_N", "bins_K3", "bin_N"):
            x, y = getattr(one, name), getattr(other, name)
            assert (x is None) == (y is None)
            assert x is None or (x.dtype == y.dtype and np.array_equal(x, y))
        for name in ("auroc", "ece", "brier"):
            assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
    return True


def test_a_second_load_reads_no_predictions_and_finds_the_same(chosen, reads):
    made = chosen().fill()
    for digest in made.digests("seed"):
        measured(made.store.path("train", digest), wall_s=12.5, flops=1e9)
    first = load("one", made.root)
    assert first.frame["student_seconds"].tolist() == [12.5] * len(first.frame)
    read, told = reads(), []
    second = load("one", made.root, lambda *counts: told.append(counts))
    assert predictions(read) == set()
    assert told == []
    assert same(first, second)
    assert len(kept(made)) == 1


def test_only_what_is_new_is_read(synthetic, reads):
    made = synthetic()
    later = [digest for digest in made.digests("student") if "seed 2" in made.plan.nodes[digest].title]
    made.fill(leave_out=later)
    load("one", made.root)
    for digest in later:
        made.commit(digest)
    read, told = reads(), []
    rows = load("one", made.root, lambda *counts: told.append(counts))
    assert predictions(read) == {(digest, "predictions/test.parquet") for digest in later}
    assert told[-1] == (2, 2)
    assert rows.frame["pgr"].notna().all()
    read.clear()
    assert same(rows, load("one", made.root))
    assert predictions(read) == set()


def test_three_classes_and_another_sweep_over_the_same_store(synthetic, tmp_path, reads):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "three.csv").write_text("t,y\nx,a\n")
    task = {"file": "three.csv", "text": "t", "label": "y", "classes": ["a", "b", "c"]}
    made = synthetic(tasks={"movie": task}).fill()
    first = load("one", made.root)
    assert first.frame["pgr_auroc"].isna().all()
    assert set(first.frame["pgr_auroc_reason"]) == {"AUROC needs two classes"}
    assert first.frame["pgr"].notna().all()
    synthetic(tasks={"movie": task}, name="part", seeds=[1])
    read = reads()
    assert len(load("part", made.root).frame) == 2
    assert same(first, load("one", made.root))
    assert predictions(read) == set()


HARMS = {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "empty": lambda file: file.write_bytes(b""),
    "no Parquet": lambda file: file.write_bytes(b"no Parquet at all"),
    "another table": lambda file: pq.write_table(pq.read_table(file).select(["digest"]), file),
    "a number changed": lambda file: flipped(file),
    "an array too short": lambda file: shortened(file, "bins"),
}


def flipped(file):
    """One bit of the first page of data."""
    content = bytearray(file.read_bytes())
    column = pq.ParquetFile(file).metadata.row_group(0).column(12)
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    file.write_bytes(bytes(content))


def shortened(file, column):
    table = pq.read_table(file)
    place = table.column_names.index(column)
    short = [value[:-8] for value in table[column].to_pylist()]
    changed = table.set_column(place, table.schema.field(place), [short])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file, use_dictionary=False)


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_damaged_file_is_made_anew(synthetic, reads, harm):
    made = synthetic().fill()
    first = load("one", made.root)
    (file,) = kept(made)
    harm(file)
    read = reads()
    assert same(first, load("one", made.root))
    assert len(predictions(read)) == len(first.test) + len(first.transfer)
    read.clear()
    assert same(first, load("one", made.root))
    assert predictions(read) == set()


def test_another_version_is_made_anew(synthetic, reads, monkeypatch):
    made = synthetic().fill()
    first = load("one", made.root)
    monkeypatch.setattr(scores, "VERSION", scores.VERSION + 1)
    read = reads()
    assert same(first, load("one", made.root))
    assert len(predictions(read)) == len(first.test) + len(first.transfer)


def test_a_changed_file_is_read_again_and_found_damaged(synthetic):
    """Equal in size and changed in place, as a bad disk would have it, but not at the same time."""
    made = synthetic().fill()
    load("one", made.root)
    (digest,) = made.digests("logconf, seed 1")
    file = made.store.path("train", digest) / "predictions" / "test.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(1, 1))
    rows = load("one", made.root)
    assert rows.standing[digest].status == "damaged"
    assert "content differs from the manifest" in rows.problems[0]
    file.write_bytes(content)
    assert load("one", made.root).problems == []


def test_a_file_changed_in_place_is_seen_even_if_its_time_is_set_back(synthetic):
    """As by tools that copy or unpack with the time they were given."""
    made = synthetic().fill()
    load("one", made.root)
    (digest,) = made.digests("logconf, seed 1")
    file = made.store.path("train", digest) / "predictions" / "test.parquet"
    content, before = file.read_bytes(), file.stat()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    assert load("one", made.root).standing[digest].status == "damaged"


def test_a_manifest_that_is_damaged_later_is_seen(synthetic):
    made = synthetic().fill()
    load("one", made.root)
    (digest,) = made.digests("logconf, seed 1")
    (made.store.path("train", digest) / "manifest.json").write_text("{")
    rows = load("one", made.root)
    assert len(rows.problems) == 1
    assert "no readable manifest.json" in rows.problems[0]


def test_ground_truth_that_is_replaced_takes_all_that_was_measured_with_it(synthetic, reads):
    made = synthetic().fill()
    first = load("one", made.root)
    (data,) = made.digests("data movie")
    file = made.store.path("materialize", data) / "test.parquet"
    table = pq.read_table(file)
    place = table.column_names.index("label")
    write(file, table.set_column(place, "label", [[1 - y for y in table["label"].to_pylist()]]))
    read = reads()
    flipped = load("one", made.root)
    assert len(predictions(read)) == len(first.test) + len(first.transfer)  # the manifest is another, too
    assert np.allclose(flipped.frame["weak_accuracy"], 1 - first.frame["weak_accuracy"])


def test_labels_for_val_that_are_replaced_choose_anew(chosen, reads):
    made = chosen(seeds=[0]).fill()
    load("one", made.root)
    (weak,) = made.digests("weak weak-3l")
    os.utime(made.store.path("train", weak) / "predictions" / "val.parquet", ns=(1, 1))
    read = reads()
    load("one", made.root)
    assert {name for _, name in predictions(read)} == {"evaluations.parquet", "predictions/val.parquet"}


def test_a_damaged_artifact_is_not_kept(synthetic, reads):
    made = synthetic(seeds=[0]).fill()
    (digest,) = made.digests("logconf")
    (made.store.path("train", digest) / "predictions" / "test.parquet").write_bytes(b"")
    first = load("one", made.root)
    read = reads()
    assert same(first, load("one", made.root))
    assert predictions(read) == {(digest, "predictions/test.parquet")}


def test_what_left_the_store_is_forgotten_when_something_is_added(synthetic):
    made = synthetic()
    later = made.digests("logconf, seed 2")
    made.fill(leave_out=later)
    load("one", made.root)
    gone = made.digests("logconf, seed 0")
    shutil.rmtree(made.store.path("train", gone[0]))
    load("one", made.root)
    (file,) = kept(made)
    assert gone[0] in pq.read_table(file)["digest"].to_pylist()
    made.commit(later[0])
    load("one", made.root)
    digests = pq.read_table(file)["digest"].to_pylist()
    assert gone[0] not in digests
    assert later[0] in digests
    assert len(digests) == len(set(zip(digests, pq.read_table(file)["part"].to_pylist(), strict=True)))


def test_where_nothing_can_be_written_nothing_is_kept(synthetic):
    made = synthetic().fill()
    (made.root / "scores").write_text("a file where a folder would be")
    first = load("one", made.root)
    assert same(first, load("one", made.root))
    assert first.frame["pgr"].notna().all()


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(synthetic, monkeypatch):
    made = synthetic()
    (later,) = made.digests("logconf, seed 2")
    made.fill(leave_out=[later])
    load("one", made.root)
    (file,) = kept(made)
    before = file.read_bytes()
    made.commit(later)

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(scores, "sync", full)
    rows = load("one", made.root)
    assert rows.frame["pgr"].notna().all()
    assert kept(made) == [file]
    assert file.read_bytes() == before


def test_what_was_read_is_kept_when_reading_is_broken_off(synthetic, reads, monkeypatch):
    made = synthetic(tasks=["movie", "amazon"]).fill()
    monkeypatch.setattr(reading, "ARTIFACTS_PER_BATCH", 1)

    def stop(done, of):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load("one", made.root, stop)
    read = reads()
    rows = load("one", made.root)
    assert 0 < len(predictions(read)) <= len(rows.test) + len(rows.transfer) - 5


def test_leftovers_of_killed_processes_go_when_they_are_old(synthetic):
    made = synthetic().fill()
    load("one", made.root)
    (file,) = kept(made)
    old, new = (file.with_name(f".{file.name}-{name}") for name in ("old", "new"))
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (1, 1))
    scores.keep(file, 2, {}, [])
    assert (old.exists(), new.exists()) == (False, True)


def made_up(number, seed=0):
    """Scores of so many models that nobody trained."""
    rng = np.random.default_rng(seed)
    models = score(rng.normal(size=(2, number, 12)), rng.integers(0, 2, 12))
    return {
        Wanted(f"{seed}-{place}", "oracle" if place % 2 else "test"): Found(
            model, 1.0, 2.0, Choice(0, 5, 1) if place % 2 else None, b"stamp"
        )
        for place, model in enumerate(models)
    }


def test_many_small_additions_make_few_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "ROWS_PER_GROUP", 20)
    file = tmp_path / "scores" / "x.parquet"
    every: dict[Wanted, Found] = {}
    for seed in range(30):
        found = made_up(3, seed)
        every |= found
        scores.keep(file, 2, found, {wanted.digest for wanted in every})
    assert pq.ParquetFile(file).num_row_groups <= 90 / 20 + 1
    read = scores.read(file, 2, dict.fromkeys(every, b"stamp"))
    assert set(read) == set(every)
    assert {wanted: one.choice for wanted, one in read.items()} == {w: one.choice for w, one in every.items()}
    assert scores.read(file, 2, dict.fromkeys(every, b"another")) == {}
    assert scores.read(file, 3, dict.fromkeys(every, b"stamp")) == {}


def test_two_writers_at_once_do_no_harm(tmp_path):
    """Each renames a whole file into its place: whoever reads finds one or the other, never half of one."""
    file = tmp_path / "scores" / "x.parquet"
    found = [made_up(40, seed) for seed in (1, 2)]
    there = {wanted.digest for part in found for wanted in part}
    stop = threading.Event()
    writers = [threading.Thread(target=lambda own=own: again(file, own, there, stop)) for own in found]
    for writer in writers:
        writer.start()
    try:
        seen = {len(scores.read(file, 2, dict.fromkeys({**found[0], **found[1]}, b"stamp"))) for _ in range(50)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert seen <= {0, 40, 80}  # 0: before the first was there
    assert list(file.parent.iterdir()) == [file]
    assert len(scores.read(file, 2, dict.fromkeys({**found[0], **found[1]}, b"stamp"))) >= 40


def again(file, found, there, stop):
    while True:
        scores.keep(file, 2, found, there)
        if stop.is_set():
            return
