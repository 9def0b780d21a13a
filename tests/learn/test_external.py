"""Labels from a file: every way to write one, what is refused with its row, what is matched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from w2s.cli import labelling
from w2s.errors import StepError
from w2s.learn.external import External

CLASSES = ("bad", "good")
IDS, TEXTS = ["i0", "i1", "i2", "i3"], ["a film", "no film", "the end", "more"]


@pytest.fixture
def read(tmp_path):
    def of(*rows, classes=CLASSES, compares=False):
        file = tmp_path / "labels.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return External(file, classes, compares)

    return of


@pytest.mark.parametrize(
    ("row", "p"),
    [
        ({"label": "good"}, [0, 1]),
        ({"label": 0}, [1, 0]),
        ({"label": "1"}, [0, 1]),
        ({"p": [0.25, 0.75]}, [0.25, 0.75]),
        ({"p": 0.75}, [0.25, 0.75]),
        ({"p": {"good": 0.75, "bad": 0.25}}, [0.25, 0.75]),
        ({"p": [0.33, 0.66]}, [1 / 3, 2 / 3]),  # people round
        ({"p": [0.25, 0.75], "label": "bad"}, [0.25, 0.75]),
        ({"p_bad": 0.25, "p_good": 0.75, "label": "good"}, [0.25, 0.75]),
        ({"p": None, "label": "good"}, [0, 1]),
    ],
)
@pytest.mark.parametrize("key", [{"example_id": "i1"}, {"text": "no film"}, {"example_id": "", "text": "no film"}])
def test_every_way_to_write_a_label(read, row, p, key):
    places, p_NC = read({**key, **row}).of(IDS, TEXTS)
    assert places == [1]
    np.testing.assert_allclose(p_NC, [p], atol=1e-7)


def test_space_around_a_text_is_no_part_of_it(read):
    """Tasks read texts so, too."""
    assert read({"text": " no film\n", "label": 1}).of(IDS, TEXTS)[0] == [1]


def test_classes_named_by_numbers_are_names_first(read):
    assert read({"text": "more", "label": 1}, classes=("1", "0")).of(IDS, TEXTS)[1].tolist() == [[1, 0]]


def test_what_is_matched_in_the_order_of_the_examples(read):
    found = read({"text": "more", "p": 0.5}, {"text": "unknown", "label": "bad"}, {"example_id": "i0", "label": "bad"})
    places, p_NC = found.of(IDS, TEXTS)
    assert (places, p_NC.tolist()) == ([0, 3], [[1, 0], [0.5, 0.5]])
    assert (len(found.p), len(found.matched)) == (3, 2)
    assert found.of(["x"], ["y"])[1].shape == (0, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "goood"}, r"row 1: no class 'goood' \(did you mean good\?\)"),
        ({"label": 2}, r"row 1: no class 2 \(known: bad, good\)"),
        ({"label": True}, "row 1: no class True"),
        ({"label": -1}, "row 1: no class -1"),
        ({}, "row 1: neither a label nor p"),
        ({"p": [0.5, 0.6]}, r"row 1: p: expected probabilities that sum to 1 \(got 0.5, 0.6\)"),
        ({"p": [1.5, -0.5]}, "row 1: p: expected probabilities that sum to 1"),
        ({"p": [1.0]}, r"row 1: p: expected 2 probabilities \(got 1\)"),
        ({"p": {"good": 1.0}}, "row 1: p has the classes good, and the task bad, good"),
        ({"p": "sure"}, r"row 1: p: expected a number \(got 'sure'\)"),
        ({"p": float("nan")}, r"row 1: p: expected a number \(got nan\)"),
    ],
)
def test_a_row_that_is_no_label_is_named(read, row, message):
    with pytest.raises(StepError, match=message):
        read({"text": "more", **row})


def test_other_rows_that_are_wrong(read):
    with pytest.raises(StepError, match=r"row 1: expected a text in example_id or in text \(the row has label\)"):
        read({"label": "bad"})
    with pytest.raises(StepError, match="row 3: another label than row 1 has for the same example; keep one"):
        read(*({"text": "more", "label": label} for label in ("bad", "bad", "good")))
    with pytest.raises(StepError, match="and 2 more rows") as caught:
        read(*({"text": str(i)} for i in range(12)))
    assert len(str(caught.value).splitlines()) == 11
    with pytest.raises(StepError, match="a probability for each of 3 classes"):
        read({"text": "more", "p": 0.5}, classes=("a", "b", "c"))


def test_csv_and_parquet(tmp_path):
    (tmp_path / "l.csv").write_text('text,label\n"a film",good\nmore,bad\n')
    assert External(tmp_path / "l.csv", CLASSES).of(IDS, TEXTS)[1].tolist() == [[0, 1], [1, 0]]
    table = pyarrow.table({"example_id": ["i2"], "p": [[0.25, 0.75]]})
    pyarrow.parquet.write_table(table, tmp_path / "l.parquet")
    assert External(tmp_path / "l.parquet", CLASSES).of(IDS, TEXTS)[1].tolist() == [[0.25, 0.75]]
    with pytest.raises(StepError, match=r"the extension '\.xls' says no format"):
        External(tmp_path / "l.xls", CLASSES)


def test_of_compared_texts_a_row_has_them_in_any_order(read):
    """`p` and `label` count by the places that the row gives its texts, which need not be those of the task."""
    pairs = [("new", "old"), ("one", "two"), ("b", "a"), ("left", "out")]
    found = read(
        {"texts": ["old ", "new"], "p": [0.75, 0.25]},
        {"texts": ["one", "two"], "label": "text 2"},
        {"example_id": "i2", "p": [0.625, 0.375]},
        classes=("text 1", "text 2"),
        compares=True,
    )
    places, p_NC = found.of(IDS, pairs)
    assert (places, p_NC.tolist()) == ([0, 1, 2], [[0.25, 0.75], [0, 1], [0.625, 0.375]])
    assert len(found.matched) == 3
    three = read({"texts": ["c", "a", "b"], "p": [0.5, 0.125, 0.375]}, classes=("1", "2", "3"), compares=True)
    assert three.of(["x"], [("b", "c", "a")])[1].tolist() == [[0.375, 0.5, 0.125]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "new"}, r"row 1: expected a text in example_id or in the list texts, since this task compares texts"),
        ({"texts": ["new"]}, r"row 1: texts: expected 2 texts \(got \['new'\]\)"),
        ({"texts": ["new", 3]}, "row 1: texts: expected 2 texts"),
        ({"texts": ["new", " new"]}, "row 1: texts: two of them are equal"),
    ],
)
def test_rows_that_name_no_pair(read, row, message):
    with pytest.raises(StepError, match=message):
        read({**row, "label": 0}, compares=True)


def test_a_pair_has_one_label_whichever_text_comes_first(read):
    rows = [{"texts": ["new", "old"], "p": [0.25, 0.75]}, {"texts": ["old", "new"], "p": [0.75, 0.25]}]
    assert len(read(*rows, compares=True).p) == 1
    with pytest.raises(StepError, match="row 2: another label than row 1 has for the same example; keep one"):
        read(rows[0], {**rows[1], "p": [0.25, 0.75]}, compares=True)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_what_w2s_label_writes_can_be_read(tmp_path, suffix):
    out = Path(tmp_path / f"out{suffix}")
    p_NC = np.array([[0.125, 0.875], [0.75, 0.25]])
    labelling.write(out, TEXTS[:2], CLASSES, p_NC)
    places, read_NC = External(out, CLASSES).of(IDS, TEXTS)
    assert places == [0, 1]
    np.testing.assert_allclose(read_NC, p_NC)
