"""Records to examples: templates, ratings, choices, and every way in which a record may not fit."""

from __future__ import annotations

from typing import Any

import pytest

from w2s.errors import SpecError
from w2s.identity import validated
from w2s.tasks.fields import getter, paths
from w2s.tasks.formats import Examples, examples
from w2s.tasks.prepare import lettered, which_is_more_pleasant
from w2s.tasks.task import TaskSpec


def task(**fields: Any) -> TaskSpec:
    return validated(TaskSpec, {"name": "t", "source": {"file": "x.jsonl"}, **fields})


def made(spec: TaskSpec, *records: dict[str, Any]) -> Examples:
    return examples(spec, enumerate(records, 1), "x.jsonl")


def problems(spec: TaskSpec, *records: dict[str, Any]) -> list[str]:
    with pytest.raises(SpecError) as caught:
        made(spec, *records)
    return caught.value.problems


TEXT = task(
    format={"text": "review", "label": "stars", "labels": {"1": "bad", "5": "good", "3": None}}, classes=["bad", "good"]
)


def test_text_and_label():
    found = made(
        TEXT, {"review": " fine ", "stars": 5}, {"review": "awful", "stars": "1"}, {"review": "so so", "stars": 3.0}
    )
    assert (found.text, found.label, found.group, found.row) == (["fine", "awful"], [1, 0], ["fine", "awful"], [1, 2])
    assert found.dropped == {"left out by its label": 1}
    assert found.records == 3


@pytest.mark.parametrize(
    ("classes", "value", "label"),
    [
        (None, 1, 1),
        (None, "0", 0),
        (None, True, 1),
        (None, 1.0, 1),
        (["false", "true"], True, 1),
        (["no", "yes"], " yes ", 1),
        (["a", "b", "c"], "c", 2),
    ],
)
def test_labels_as_they_are_written(classes, value, label):
    spec = task(format={"text": "t", "label": "l"}, classes=classes)
    assert made(spec, {"t": "x", "l": value}).label == [label]


def test_a_template_reaches_into_nested_fields():
    fill = getter("{p.title}: {lines}\n{n} {f} {{x}} {choices.text.1}")
    record = {"p": {"title": "A"}, "lines": ["one", "two"], "n": 3, "f": 2.0, "choices": {"text": ["x", "y"]}}
    assert fill(record) == "A: one\ntwo\n3 2 {x} y"
    assert paths("{p.title}: {n}") == ["p.title", "n"]


def test_text_of_a_record_is_never_read_as_a_template():
    spec = task(format={"text": "Q: {q}", "label": "l"})
    assert made(spec, {"q": "what is {l} and {0.__class__}?", "l": 1}).text == ["Q: what is {l} and {0.__class__}?"]


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{a!r}", "{a:>10}"])
def test_broken_templates_are_refused(template):
    with pytest.raises(SpecError, match="template"):
        getter(template)


def test_a_missing_column_names_the_nearest():
    assert problems(TEXT, {"reviews": "x", "star": 5}) == [
        "x.jsonl: no column 'review', which `text` names (did you mean reviews?)",
        "x.jsonl: no column 'stars', which `label` names (did you mean star?)",
    ]


def test_a_label_outside_the_classes_names_row_and_value():
    rows = [{"review": f"r{i}", "stars": 5} for i in range(3)]
    assert problems(TEXT, *rows, {"review": "x", "stars": 4}) == [
        "x.jsonl: row 4: the label is none of the classes 1, 5, 3 (got 4)"
    ]


def test_all_kinds_of_problems_at_once_and_not_more_than_a_screen():
    rows = [{"review": "", "stars": 5}] * 7 + [
        {"review": "x", "stars": None},
        {"stars": 5},
        {"review": "\ud800", "stars": 5},
    ]
    found = problems(TEXT, *rows)
    assert found[:5] == [f"x.jsonl: row {i}: empty text" for i in range(1, 6)]
    assert "x.jsonl: row 8: the label is none of the classes 1, 5, 3 (got None)" in found
    assert "x.jsonl: row 9: no field 'review'" in found
    assert any(line.startswith("x.jsonl: row 10: not valid Unicode text") for line in found)
    assert found[-1] == "x.jsonl: 2 more rows: empty text"


def test_empty_texts_may_be_dropped_and_counted():
    found = made(TEXT.model_copy(update={"drop_empty": True}), {"review": " ", "stars": 5}, {"review": "x", "stars": 5})
    assert (found.text, found.dropped) == (["x"], {"empty text": 1})


def test_no_rows():
    assert problems(TEXT) == ["x.jsonl: no rows"]


def test_ratings_leave_out_what_lies_between():
    spec = task(format={"text": "t", "rating": "r", "negative_below": -0.5, "positive_above": 0.5})
    found = made(spec, *({"t": f"t{r}", "r": r} for r in (-0.51, -0.5, 0, "0.5", "0.51")))
    assert (found.text, found.label) == (["t-0.51", "t0.51"], [0, 1])
    assert found.dropped == {"rating between the classes": 3}
    assert spec.class_names == ("negative", "positive")
    assert problems(spec, {"t": "a", "r": "high"}, {"t": "b", "r": None}, {"t": "c", "r": "nan"}) == [
        "x.jsonl: row 1: the rating is not a number (got 'high')",
        "x.jsonl: row 2: the rating is not a number (got None)",
        "x.jsonl: row 3: the rating is not a number (got 'nan')",
    ]


def choices(**fields: Any) -> TaskSpec:
    return task(format={"prompt": "q", "choices": "c", "answer": "a", **fields})


@pytest.mark.parametrize(
    ("answer_as", "answer"),
    [("index", 2), ("index", "2"), ("one_based", "3"), ("letter", "C"), ("letter", "c"), ("text", "z")],
)
def test_one_right_and_one_wrong_answer(answer_as, answer):
    found = made(choices(answer_as=answer_as), {"q": "Why?", "c": ["x", "y", "z"], "a": answer})
    assert found.label == [0, 1]
    assert found.text[1] == "Why?\n\nAnswer: z"
    assert found.text[0] in ("Why?\n\nAnswer: x", "Why?\n\nAnswer: y")
    assert found.group == ["Why?", "Why?"]


def test_the_wrong_answer_depends_on_the_record_alone_and_on_all_of_it():
    records = [{"q": f"q{i}", "c": ["w0", "right", "w1", "w2"], "a": 1} for i in range(60)]
    forward, backward = made(choices(), *records), made(choices(), *reversed(records))
    wrong = {text.partition("\n")[0]: text[-2:] for text in forward.text[::2]}
    assert wrong == {text.partition("\n")[0]: text[-2:] for text in backward.text[::2]}
    assert set(wrong.values()) == {"w0", "w1", "w2"}  # 60 draws: all three appear


@pytest.mark.parametrize(
    ("answer_as", "answer", "said"),
    [
        ("index", 3, "the answer is no index position of 3 choices (got 3)"),
        ("index", "-1", "the answer is no index position of 3 choices (got '-1')"),
        ("one_based", 0, "the answer is no one-based position of 3 choices (got 0)"),
        ("letter", "D", "the answer is no letter position of 3 choices (got 'D')"),
        ("letter", "", "the answer is no letter position of 3 choices (got '')"),
        ("text", "q", "the answer is none of the choices (got 'q')"),
    ],
)
def test_an_answer_that_is_none(answer_as, answer, said):
    assert problems(choices(answer_as=answer_as), {"q": "Why?", "c": ["x", "y", "z"], "a": answer}) == [
        f"x.jsonl: row 1: {said}"
    ]


def test_a_record_without_a_wrong_answer_is_left_out():
    found = made(choices(), {"q": "a", "c": ["x", "x", " "], "a": 0}, {"q": "b", "c": ["x", "y"], "a": 0})
    assert found.group == ["b", "b"]
    assert found.dropped == {"no wrong answer": 1}


def test_answers_that_are_none_are_never_offered():
    none = "None of the above ."
    spec = choices(never="None of the above")
    found = made(spec, {"q": "a", "c": [none, "x"], "a": 0}, {"q": "b", "c": [none, "x", "y"], "a": 1})
    assert found.text == ["b\n\nAnswer: y", "b\n\nAnswer: x"]
    assert found.dropped == {"no answer is right": 1}


def test_a_group_by_field_template_or_part():
    record = {"t": "x", "l": 1, "id": "12_3", "doc": {"n": 7}}
    form = {"text": "t", "label": "l"}
    assert made(task(format=form, group="id"), record).group == ["12_3"]
    assert made(task(format=form, group="{doc.n}/{id}"), record).group == ["7/12_3"]
    assert made(task(format=form, group="id", group_before="_"), record).group == ["12"]


def test_lettered_choices_on_lines_and_in_a_sentence():
    lines = lettered(
        {"input": [{"content": "system"}, {"content": "Plan A: rest?\n\n A: more. \n B: less."}], "ideal": "B"}
    )
    assert lines == {"prompt": "Plan A: rest?", "choices": ["more.", "less."], "answer": "B"}
    one = lettered(
        {"input": [{"content": "What next? A: talk to the family; B: hate bailey; C: thank Mr. B."}], "ideal": "C"}
    )
    assert one["prompt"] == "What next?"
    assert one["choices"] == ["talk to the family", "hate bailey", "thank Mr. B"]


def test_a_record_of_another_shape():
    spec = task(
        format={"prompt": "prompt", "choices": "choices", "answer": "answer", "answer_as": "letter"}, prepare="lettered"
    )
    found = problems(spec, {"x": 1}, {"input": [], "ideal": "A"}, {"input": [{"content": "no choices"}], "ideal": "A"})
    assert found[0].startswith("x.jsonl: row 1: not the shape that `prepare: lettered` reads")
    assert found[1].startswith("x.jsonl: row 2: not the shape that `prepare: lettered` reads")
    assert found[2] == "x.jsonl: row 3: no choices A:, B: ... (got 'no choices')"


def test_the_order_of_a_pair_does_not_tell_the_answer():
    pairs = [which_is_more_pleasant({"baseline": f"good {i}", "less_pleasant": f"bad {i}"}) for i in range(40)]
    assert {pair["answer"] for pair in pairs} == {0, 1}
    for i, pair in enumerate(pairs):
        assert f"{pair['answer'] + 1}) good {i}" in pair["prompt"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": {"text": "t", "label": "l"}, "classes": ["a", "a"]}, "a class is named twice"),
        ({"format": {"text": "t", "label": "l"}, "classes": ["a"]}, "classes"),
        ({"format": {"text": "t", "label": "l", "labels": {"1": "z"}}, "classes": ["a", "b"]}, "labels lead to ['z']"),
        (
            {"format": {"prompt": "q", "choices": "c", "answer": "a"}, "classes": ["a", "b", "c"]},
            "makes two classes, not 3",
        ),
        ({"format": {"prompt": "q", "choices": "c"}}, "give `answer`"),
        (
            {"format": {"text": "t", "rating": "r", "negative_below": 1.0, "positive_above": 0.0}},
            "is above positive_above",
        ),
        ({"format": {"text": "t", "label": "l"}, "group_before": "_"}, "group_before needs group"),
        ({"format": {"kind": "txt", "text": "t"}}, "expected a mapping of kind text"),
        ({"format": {"text": "t", "label": "l"}, "prepare": "letterd"}, "expected 'lettered'"),
    ],
)
def test_specs_that_contradict_themselves(fields, said):
    with pytest.raises(SpecError) as caught:
        task(**fields)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1
