"""Records to comparisons: who is the better one, in which order, what belongs together, what a few raters would say."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s.errors import SpecError
from w2s.identity import validated
from w2s.spec import Sizes
from w2s.tasks import comparisons
from w2s.tasks.comparisons import heard, held_together, in_order
from w2s.tasks.formats import Examples
from w2s.tasks.prepare import last_replies
from w2s.tasks.registry import task_of
from w2s.tasks.splits import Materialized, materialize
from w2s.tasks.task import TaskSpec

SPLITS = ("weak_train", "transfer", "val", "test")


def task(**fields: Any) -> TaskSpec:
    return validated(TaskSpec, {"name": "t", "kind": "compare", "source": {"file": "x.jsonl"}, **fields})


def made(spec: TaskSpec, *records: dict[str, Any]) -> Examples:
    return comparisons.examples(spec, enumerate(records, 1), "x.jsonl")


def better(found: Examples) -> list[str]:
    return [texts[label] for texts, label in zip(found.text, found.label, strict=True)]


def problems(spec: TaskSpec, *records: dict[str, Any]) -> list[str]:
    with pytest.raises(SpecError) as caught:
        made(spec, *records)
    return caught.value.problems


PAIRS = task(format={"chosen": "good", "rejected": "bad"})
ASKED = task(format={"prompt": "q", "chosen": "good", "rejected": "bad", "text": "Q: {prompt} A: {text}"})
RATED = task(format={"text": "text", "rating": "rating", "margin": 1.0})


# -- texts of which one is said to be better ---------------------------------------------------------------------


def test_chosen_and_rejected():
    found = made(PAIRS, {"good": " fine ", "bad": "awful"}, {"good": "a", "bad": "b"})
    assert [set(texts) for texts in found.text] == [{"fine", "awful"}, {"a", "b"}]
    assert better(found) == ["fine", "a"]
    assert found.row == [1, 2]


@pytest.mark.parametrize(
    ("fields", "record", "best", "texts"),
    [
        ({"texts": ["a", "b"], "better": "y"}, {"a": "x", "b": "z", "y": 1}, "z", {"x", "z"}),
        ({"texts": ["a", "b"], "better": "y", "better_as": "one_based"}, {"a": "x", "b": "z", "y": 1}, "x", {"x", "z"}),
        ({"texts": ["a", "b"], "better": "y", "better_as": "letter"}, {"a": "x", "b": "z", "y": "b"}, "z", {"x", "z"}),
        ({"texts": "l", "better": "y", "better_as": "text"}, {"l": ["x", "z"], "y": "z"}, "z", {"x", "z"}),
        ({"texts": "l", "better": "y", "k": 3}, {"l": ["x", "z", "v"], "y": 2}, "v", {"x", "z", "v"}),
        ({"chosen": "a", "rejected": ["b", "c"]}, {"a": "x", "b": "y", "c": "z"}, "x", {"x", "y", "z"}),
        ({"texts": ["s.0.t", "s.1.t"], "better": "y"}, {"s": [{"t": "x"}, {"t": "z"}], "y": 0}, "x", {"x", "z"}),
    ],
)
def test_texts_and_which_is_better(fields, record, best, texts):
    spec = task(format=fields)
    found = made(spec, record)
    assert better(found) == [best]
    assert set(found.text[0]) == texts
    assert spec.n_texts == spec.n_classes == len(texts)
    assert spec.n_outputs == 1


def test_of_a_long_list_the_better_one_and_others_drawn_by_a_hash():
    spec = task(format={"texts": "l", "better": "y"})
    records: list[dict[str, Any]] = [{"l": [f"{i} {c}" for c in "abcde"], "y": 2} for i in range(200)]
    found = made(spec, *records)
    assert better(found) == [f"{i} c" for i in range(200)]
    others = Counter(text[-1] for texts in found.text for text in texts if not text.endswith("c"))
    assert set(others) == set("abde")
    assert min(others.values()) > 25  # of 50 expected: 4 sigma are 24
    reversed_lists = made(spec, *({"l": record["l"][::-1], "y": 2} for record in records))
    assert reversed_lists.text == found.text


def test_a_prompt_is_part_of_what_is_read_and_holds_together():
    found = made(ASKED, {"q": "why", "good": "so", "bad": "no"}, {"q": "why", "good": "yes", "bad": "not"})
    assert [set(texts) for texts in found.text] == [
        {"Q: why A: so", "Q: why A: no"},
        {"Q: why A: yes", "Q: why A: not"},
    ]
    assert comparisons.keys(found, 0) == [*(f"text {t}" for t in found.text[0]), "prompt why"]
    assert len(set(held_together(ASKED, found).group)) == 1


def test_what_is_left_out_is_counted():
    spec = task(format={"texts": "l", "better": "y", "k": 3})
    found = made(
        spec,
        {"l": ["a", "b"], "y": 0},
        {"l": ["a", "b", "b", "c"], "y": 0},  # a repeat of a worse one is one text
        {"l": ["a", "b", "a", "c"], "y": 0},  # the better one is among the worse
        {"l": ["a", "b ", " b"], "y": 0},
    )
    assert found.dropped == {"fewer than 3 texts": 1, "equal texts": 2}
    assert found.records == 4
    assert [set(texts) for texts in found.text] == [{"a", "b", "c"}]
    assert made(PAIRS, {"good": "x", "bad": " x"}).dropped == {"equal texts": 1}


@pytest.mark.parametrize(
    ("spec", "record", "said"),
    [
        (PAIRS, {"good": "a", "bad": " "}, "x.jsonl: row 1: empty text"),
        (
            task(format={"texts": ["a", "b"], "better": "y"}),
            {"a": "1", "b": "2", "y": 2},
            "the answer is no index posi",
        ),
        (task(format={"texts": "l", "better": "y"}), {"l": "ab", "y": 0}, "the field 'l' is not a list of texts"),
        (PAIRS, {"god": "a", "bad": "b"}, "x.jsonl: no column 'good', which `chosen` names (did you mean god?)"),
        (RATED, {"text": "a", "rating": "high"}, "the rating is not a number (got 'high')"),
        (
            task(format={"text": "text", "ratings": "r", "margin": 1.0}),
            {"text": "a", "r": "[1, x]"},
            "the single ratings are not a list of numbers, such as [1, -2, 0] (got '[1, x]')",
        ),
    ],
)
def test_records_that_do_not_fit_are_named(spec, record, said):
    found = problems(spec, record)
    assert len(found) == 1
    assert said in found[0]


def test_an_empty_text_may_be_left_out():
    spec = PAIRS.model_copy(update={"drop_empty": True})
    assert made(spec, {"good": "", "bad": "x"}).dropped == {"empty text": 1}


# -- the order ---------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=5), min_size=2, max_size=4, unique=True), st.randoms())
def test_the_order_does_not_depend_on_the_order_given(texts, draw):
    shuffled = draw.sample(texts, len(texts))
    assert in_order(shuffled) == in_order(texts)
    assert sorted(in_order(texts)) == sorted(texts)


def test_the_order_says_nothing_about_the_better_one():
    """The better text is shorter, first in the alphabet and named first: no position is favoured."""
    found = made(PAIRS, *({"good": f"a {i}", "bad": f"bb {i}"} for i in range(2000)))
    assert abs(sum(found.label) - 1000) < 90  # 4 sigma of a fair coin
    three = task(format={"chosen": "a", "rejected": ["b", "c"]})
    labels = Counter(made(three, *({"a": f"a {i}", "b": f"b {i}", "c": f"c {i}"} for i in range(3000))).label)
    assert all(abs(labels[place] - 1000) < 104 for place in range(3))
    swapped = made(PAIRS, *({"good": f"bb {i}", "bad": f"a {i}"} for i in range(2000)))
    assert swapped.text == found.text  # the ids are those of the texts, so they do not tell either
    assert [1 - label for label in swapped.label] == found.label


# -- pairs of texts with ratings ---------------------------------------------------------------------------------


def rated(n: int, spread: float = 10.0, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"text": f"text {i}", "rating": round(draw.uniform(0, spread), 3), "g": i // 5} for i in range(n)]


def test_the_higher_rating_is_better_and_close_ones_are_left_out():
    records = rated(1000)
    rating = {record["text"]: record["rating"] for record in records}
    found = made(RATED, *records)
    assert len(found) + found.dropped["pairs of ratings that are too close"] == 500
    for texts, label in zip(found.text, found.label, strict=True):
        assert rating[texts[label]] - rating[texts[1 - label]] >= 1.0
    # |x - y| < 1 for two of U(0, 10) has the probability 0.19: 95 of 500, and 4 sigma are 35
    assert abs(found.dropped["pairs of ratings that are too close"] - 95) < 35
    assert max(Counter(itertools.chain.from_iterable(found.text)).values()) == 1
    assert set(made(RATED, *reversed(records)).text) == set(found.text)


@pytest.mark.parametrize("each", [1, 2, 3, 5])
def test_each_text_meets_so_many_others_and_stays_with_them(each):
    spec = task(format={"text": "text", "rating": "rating", "margin": 0.001, "each": each})
    n = 12 * (each + 1)
    records = [{"text": f"text {i}", "rating": i} for i in range(n)]
    found = held_together(spec, made(spec, *records))
    assert set(Counter(itertools.chain.from_iterable(found.text)).values()) == {each}
    parties: dict[str, set[str]] = {}
    for group, texts in zip(found.group, found.text, strict=True):
        parties.setdefault(group, set()).update(texts)
    assert len(parties) == 12
    assert all(len(party) == each + 1 for party in parties.values())
    lonely = made(spec, *records, {"text": "one more", "rating": 3})
    assert lonely.dropped["texts that met no other"] == 1


def test_with_groups_texts_meet_within_them():
    spec = task(format={"text": "text", "rating": "rating", "margin": 0.5}, group="g")
    found = made(spec, *rated(400))
    assert all(len({int(text.split()[1]) // 5 for text in texts}) == 1 for texts in found.text)
    assert found.dropped["texts that met no other"] == 80
    grouped = held_together(spec, found)
    by_group = {(int(t[0].split()[1]) // 5, g) for t, g in zip(grouped.text, grouped.group, strict=True)}
    assert len(by_group) == len({g for _, g in by_group}) == len({g for g, _ in by_group})


def test_a_text_that_is_rated_twice():
    found = made(
        RATED,
        {"text": "a", "rating": 1}, {"text": "a", "rating": 1}, {"text": "b", "rating": 3}, {"text": "c", "rating": 1},
        {"text": "c", "rating": 5},
    )  # fmt: skip
    assert [set(texts) for texts in found.text] == [{"a", "b"}]
    assert found.dropped == {
        "same text rated again": 2, "same text, different ratings": 1, "texts that met no other": 0
    } or found.dropped == {"same text rated again": 2, "same text, different ratings": 1}  # fmt: skip


# -- what a few raters would say ---------------------------------------------------------------------------------


def noisy(raters: int, **fields: Any) -> TaskSpec:
    return task(
        format={"text": "text", "rating": "mean", "margin": 0.5, "ratings": "single", "raters": raters, **fields}
    )


def with_singles(n: int, people: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    singles = [[draw.choice([-2, -1, 0, 1, 2]) + i % 3 for _ in range(people)] for i in range(n)]
    return [{"text": f"t{i}", "mean": sum(s) / people, "single": json.dumps(s)} for i, s in enumerate(singles)]


def test_labels_of_raters_by_hand():
    """With everybody asked the mean decides; with one, a rating that was really given does."""
    assert heard("a", "b", (1.0, 3.0), (2.0, 5.0), 2) == 1
    assert heard("a", "b", (5.0, 3.0), (2.0, 5.0), 2) == 0
    assert heard("a", "b", (1.0, 2.0), (8.0, 9.0), 1) == 1  # whoever is asked
    assert {heard(f"a{i}", "b", (0.0, 9.0), (5.0, 5.0), 1) for i in range(20)} == {0, 1}
    assert {heard(f"a{i}", "b", (5.0,), (5.0,), 1) for i in range(20)} == {0, 1}  # a tie is a coin


def test_the_share_of_wrong_labels_is_that_of_all_draws():
    """Against every combination of one rating of each text, ties counted half: what a fair draw gives on average."""
    records = with_singles(2000, 7)
    single = {record["text"]: json.loads(record["single"]) for record in records}
    found = made(noisy(1), *records)
    expected, variance = 0.0, 0.0
    for texts, label in zip(found.text, found.label, strict=True):
        of_better, of_worse = single[texts[label]], single[texts[1 - label]]
        draws = [0.5 if b == w else float(b < w) for b in of_better for w in of_worse]
        wrong = sum(draws) / len(draws)
        expected, variance = expected + wrong, variance + wrong * (1 - wrong)
    n_wrong = sum(a != b for a, b in zip(found.label, found.heard, strict=True))
    assert abs(n_wrong - expected) < 4 * variance**0.5
    assert 0.1 < expected / len(found) < 0.5
    everybody = made(noisy(7), *records)
    assert everybody.heard == everybody.label
    more = made(noisy(3), *records)
    assert sum(a != b for a, b in zip(more.label, more.heard, strict=True)) < n_wrong


def test_single_ratings_that_do_not_belong_to_the_text_are_counted():
    records = [*with_singles(40, 5), {"text": "odd", "mean": 0.3, "single": [1, 2, 3, 4, 5]}]
    records.append({"text": "few", "mean": 2.0, "single": [2]})
    found = made(noisy(2), *records)
    assert found.dropped["its rating is not the mean of its single ratings"] == 1
    assert found.dropped["fewer than 2 single ratings"] == 1
    without = task(format={"text": "text", "margin": 0.5, "ratings": "single", "raters": 2})
    assert "its rating is not the mean of its single ratings" not in made(without, *records).dropped


# -- what belongs together ---------------------------------------------------------------------------------------


def compared(*pairs: tuple[str, str]) -> Examples:
    n = len(pairs)
    return Examples(text=list(pairs), label=[0] * n, group=["[]"] * n, row=list(range(1, n + 1)))


PAIR = st.lists(st.sampled_from([f"t{i}" for i in range(30)]), min_size=2, max_size=2, unique=True).map(tuple)


@settings(deadline=None)
@given(st.lists(PAIR, max_size=40, unique_by=frozenset), st.integers(1, 12))
def test_no_text_is_in_two_groups_and_no_group_is_larger_than_allowed(pairs, most):
    spec = task(format={"chosen": "a", "rejected": "b", "most_together": most})
    found = held_together(spec, compared(*pairs))
    groups: dict[str, set[str]] = {}
    for text, group in zip(found.text, found.group, strict=True):
        for one in text:
            groups.setdefault(one, set()).add(group)
    assert all(len(where) == 1 for where in groups.values())
    assert max(Counter(found.group).values(), default=0) <= most
    assert len(found) + sum(found.dropped.values()) == len(pairs)
    if most >= len(pairs):
        assert len(found) == len(pairs)
    turned = held_together(spec, compared(*pairs[::-1]))
    assert dict(zip(turned.text, turned.group, strict=True)) == dict(zip(found.text, found.group, strict=True))


def test_a_chain_is_one_group():
    spec = task(format={"chosen": "a", "rejected": "b"})
    found = held_together(spec, compared(("a", "b"), ("b", "c"), ("x", "y"), ("c", "d")))
    assert found.group[0] == found.group[1] == found.group[3] != found.group[2]


# -- through the splits ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))


def split(folder, records, sizes=(20, 20, 10, 20), more=None, **fields) -> Materialized:
    (folder / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, lines in (more or {}).items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in lines))
    spec = task_of({"file": "x.jsonl", **fields}, folder, "tasks.x")
    weak_train, transfer, val, test = sizes
    return materialize(spec, Sizes(weak_train=weak_train, transfer=transfer, val=val, test=test), 0)


def preferences(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"q": f"q {i // 2}", "good": f"good {i}", "bad": f"bad {i}"} for i in range(start, start + n)]


def test_splits_of_comparisons(tmp_path):
    made = split(tmp_path, preferences(160), prompt="q", chosen="good", rejected="bad")
    schema = made.tables["test"].schema
    assert [(f.name, str(f.type).replace("item: ", "")) for f in schema] == [
        ("example_id", "string"), ("group_id", "string"), ("texts", "list<string>"), ("label", "int64")
    ]  # fmt: skip
    seen: dict[str, set[str]] = {}
    for name in SPLITS:
        rows = made.tables[name].to_pylist()
        assert 2 * sum(row["label"] for row in rows) == len(rows) == {"val": 10}.get(name, 20)
        for row in rows:
            assert row["texts"][row["label"]].split()[-2] == "good"
            content = json.dumps(["texts", *row["texts"]], separators=(",", ":"))
            assert row["example_id"] == hashlib.sha256(content.encode()).hexdigest()[:32]
            seen.setdefault(row["texts"][0].split("\n")[0], set()).add(name)
    assert all(len(names) == 1 for names in seen.values())  # of one prompt, one split
    assert made.summary["classes"] == ["text 1", "text 2"]
    assert made.summary["pool"]["mean_words"] == 8.0  # of both texts


def test_repeats_and_contradictions_are_dropped(tmp_path):
    turned = {"good": "bad 3", "bad": "good 3"}
    records = [*preferences(100), {"good": "good 1", "bad": "bad 1"}, turned]
    dropped = split(tmp_path, records, chosen="good", rejected="bad").summary["pool"]["dropped"]
    assert dropped == {"same text and label": 1, "same text, different labels": 2}


def test_labels_of_raters_are_those_of_every_split_but_test(tmp_path):
    records = with_singles(400, 7)
    text, fields = {"text": "text", "margin": 0.5, "ratings": "single"}, {"rating": "mean"}
    clean = split(tmp_path, records, **text, **fields)
    made = split(tmp_path, records, **text, **fields, raters=1)
    mean = {record["text"]: record["mean"] for record in records}
    assert made.tables["test"].equals(clean.tables["test"])
    for name in SPLITS:
        rows = made.tables[name].to_pylist()
        wrong = sum(mean[row["texts"][row["label"]]] < mean[row["texts"][1 - row["label"]]] for row in rows)
        assert made.summary["splits"][name]["labels_against_the_mean"] == wrong
        assert (wrong == 0) == (name == "test")
        assert 2 * sum(row["label"] for row in rows) == len(rows)


def test_a_test_source_shares_no_text_and_no_prompt_with_the_pool(tmp_path):
    held = [{"q": "q 0", "good": "new", "bad": "newer"}, *preferences(60, start=1000)]
    with pytest.raises(SpecError) as caught:
        split(tmp_path, preferences(100), more={"held.jsonl": held}, prompt="q", chosen="good", rejected="bad",
              test_file="held.jsonl")  # fmt: skip
    assert [line.split(": ", 1)[1] for line in caught.value.problems[:2]] == [
        f"row {row}: the prompt 'q 0' of the test file {tmp_path / 'held.jsonl'} is here too" for row in (1, 2)
    ]
    held[0] = {"q": "", "good": "good 7", "bad": "newer"}
    with pytest.raises(SpecError, match=r"row 8: the text of row 1 of the test file"):
        split(tmp_path, preferences(100), more={"held.jsonl": held}, chosen="good", rejected="bad",
              test_file="held.jsonl")  # fmt: skip


# -- a second file -----------------------------------------------------------------------------------------------


JOIN: dict[str, Any] = {"text": "text", "rating": "mean", "margin": 0.5, "ratings": "single", "raters": 1}


def test_fields_of_a_second_file_are_joined_by_key(tmp_path):
    whole = [{"id": i, **record} for i, record in enumerate(with_singles(400, 7))]
    texts = [{"id": r["id"], "text": r["text"], "mean": r["mean"]} for r in whole]
    singles = [{"id": str(r["id"]), "single": r["single"], "text": "not this"} for r in reversed(whole)]
    join = {"source": {"file": "y.jsonl"}, "key": "id"}
    joined = split(tmp_path, texts, more={"y.jsonl": singles}, join=join, **JOIN)
    assert len(joined.fetched) == 2
    assert joined.summary["joined"]["file"] == str(tmp_path / "y.jsonl")
    one_file = split(tmp_path, whole, **JOIN)
    assert all(joined.tables[name].equals(one_file.tables[name]) for name in SPLITS)
    spec = task_of({"file": "x.jsonl", "join": join, **JOIN}, tmp_path, "t")
    (tmp_path / "y.jsonl").write_text('{"id": 0}\n')
    assert task_of({"file": "x.jsonl", "join": join, **JOIN}, tmp_path, "t").digest() != spec.digest()


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([{"id": 0, "single": [1]}], r"row 2: the joined file has no id 1"),
        ([{"id": 0}, {"id": 0}], r"y\.jsonl: row 2: the id 0 is there twice"),
        ([{"ix": 0}], r"y\.jsonl: row 1: no column 'id', which `join.key` names"),
    ],
)
def test_files_that_do_not_join(others, said, tmp_path):
    records = [{"id": i, **record} for i, record in enumerate(with_singles(4, 7))]
    with pytest.raises(SpecError, match=said):
        split(tmp_path, records, more={"y.jsonl": others}, join={"source": {"file": "y.jsonl"}, "key": "id"}, **JOIN)


# -- specs -------------------------------------------------------------------------------------------------------


def test_short_forms_are_comparisons(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    for fields in (
        {"chosen": "a", "rejected": "b"}, {"texts": ["a", "b"], "better": "c", "prompt": "q"},
        {"text": "t", "rating": "r", "margin": 1.0},
    ):  # fmt: skip
        spec = task_of({"file": "x.jsonl", **fields}, tmp_path, "t")
        assert (spec.kind, spec.class_names, spec.is_balanced) == ("compare", ("text 1", "text 2"), True)
    assert task_of({"use": "movie_pairs"}, tmp_path, "t") == task_of("movie_pairs", tmp_path, "t")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": {"chosen": "a"}}, "give `chosen` and `rejected`, or `texts` and `better`"),
        ({"format": {"chosen": "a", "rejected": "b", "better": "c"}}, "give `chosen` and `rejected`, or"),
        ({"format": {"texts": ["a", "b"], "better": "c", "k": 3}}, "k is for `texts` that names one field"),
        ({"format": {"chosen": "a", "rejected": "b"}, "classes": ["x", "y", "z"]}, "one for each of 2 texts"),
        ({"format": {"chosen": "a", "rejected": "b"}, "kind": "classify"}, "write kind: compare"),
        ({"format": {"text": "a", "label": "b"}}, "compare needs a format of kind pairs or rating_pairs, not text"),
        ({"format": {"text": "a", "margin": 1.0}}, "give `rating`, the field with a text's rating, or `ratings`"),
        ({"format": {"text": "a", "rating": "b", "margin": 1.0, "raters": 2}}, "raters needs `ratings`"),
        ({"format": {"text": "a", "rating": "b", "margin": 0.0}}, "expected more than 0"),
        (
            {"format": {"chosen": "a", "rejected": "b"}, "join": {"source": {"hub": "a/b"}, "key": "id"}},
            "not a hub data set",
        ),
    ],
)
def test_specs_that_contradict_themselves(fields, said):
    with pytest.raises(SpecError) as caught:
        task(**fields)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_template_without_the_text_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(SpecError, match=r"text: a template of \{prompt\} and \{text\}"):
        task_of({"file": "x.jsonl", "chosen": "a", "rejected": "b", "text": "{prompt} {choice}"}, tmp_path, "t")


def test_the_last_replies_of_two_dialogues():
    before = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: And?\n\nAssistant:"
    record = {"chosen": f"{before} Fine.", "rejected": f"{before} Far."}
    assert last_replies(record) == {"prompt": before, "chosen": " Fine.", "rejected": " Far."}
    apart = {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}
    assert last_replies(apart) == {"prompt": "", **apart}
    longer = {"chosen": before, "rejected": f"{before} x"}  # one reply is empty
    assert last_replies(longer) == {"prompt": before, "chosen": "", "rejected": " x"}
