"""The real archives: every offline task has the rows that were counted by hand. Needs a package index once."""

from __future__ import annotations

import json

import pytest

from w2s.spec import Sizes
from w2s.tasks.records import open_records
from w2s.tasks.registry import builtin
from w2s.tasks.splits import materialize

pytestmark = pytest.mark.recipe

# task -> records, examples by class before repeats are dropped (counted with other tools on the unpacked files)
COUNTS = {
    "movie": (10_605, {"negative": 5_061, "positive": 4_982}),
    "amazon": (3_708, {"negative": 1_218, "positive": 1_725}),
    "tweets": (4_200, {"negative": 1_062, "positive": 2_300}),
    "nyt": (5_190, {"negative": 1_688, "positive": 1_100}),
    "sarcasm": (28_614, {"plain": 14_984, "sarcastic": 13_630}),
    "quartz": (3_860, {"wrong": 3_860, "right": 3_860}),
    "socialiqa": (2_224, {"wrong": 2_224, "right": 2_224}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    made = materialize(builtin()[name], Sizes(weak_train=200, transfer=200, val=50, test=200), 0)
    pool = made.summary["pool"]
    records, classes = COUNTS[name]
    assert pool["records"] == records
    repeats = sum(n for reason, n in pool["dropped"].items() if reason.startswith("same text"))
    assert pool["examples"] + repeats == sum(classes.values())
    assert all(pool["classes"][label] <= n < pool["classes"][label] + 120 for label, n in classes.items())
    for table in made.tables.values():
        labels = table.column("label").to_pylist()
        assert 2 * sum(labels) == len(labels)


def test_pairs_of_movie_snippets_are_told_apart_by_their_ratings():
    """Against both files: the higher mean is better, and one rater of each snippet is against it now and then."""
    sizes = Sizes(weak_train=800, transfer=800, val=100, test=600)
    task = builtin()["movie_pairs_raters"]
    records = [record for _, record in open_records(task).pool]
    mean = {record["text"].strip(): float(record["mean"]) for record in records}
    assert all(abs(float(record["mean"]) - float(record["rating"])) < 1e-6 for record in records)
    assert min(len(json.loads(record["ratings"])) for record in records) == 15
    clean, noisy = materialize(builtin()["movie_pairs"], sizes, 0), materialize(task, sizes, 0)
    assert clean.tables["test"].equals(noisy.tables["test"])
    assert clean.summary["pool"] == noisy.summary["pool"]
    assert clean.summary["pool"]["examples"] == 4295
    for made in (clean, noisy):
        for split, table in made.tables.items():
            rows = table.to_pylist()
            higher = [mean[row["texts"][row["label"]]] - mean[row["texts"][1 - row["label"]]] for row in rows]
            assert all(abs(by) >= 0.5 for by in higher)
            against = sum(by < 0 for by in higher) / len(rows)
            assert 0.04 < against < 0.14 if made is noisy and split != "test" else against == 0.0
