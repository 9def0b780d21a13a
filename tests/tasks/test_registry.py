"""Names and mappings to task specs: the short form, changes to a built-in task, and every wrong word at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from w2s.errors import SpecError
from w2s.sources import ArchiveSource, FileSource, HubSource
from w2s.tasks import registry
from w2s.tasks.registry import task_of
from w2s.tasks.task import ChoicesFormat, RatingFormat, TextFormat

HERE = Path()
PAPER = (
    *("boolq", "cosmos_qa", "dream", "ethics_justice", "ethics_deontology", "ethics_virtue", "ethics_utilitarianism"),
    *("anli_r2", "cola", "sst2", "hellaswag", "mc_taco", "openbookqa", "paws", "quail", "piqa", "quartz_hub", "sciq"),
    *("social_i_qa", "multirc", "wic", "twitter_sentiment"),
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    (tmp_path / "my.jsonl").write_text('{"text": "a", "label": 1}\n')
    return tmp_path


def problems(value, base: Path = HERE) -> list[str]:
    with pytest.raises(SpecError) as caught:
        task_of(value, base, "tasks.t")
    return caught.value.problems


def test_every_built_in_task_is_valid_and_says_what_it_is():
    tasks = registry.builtin()
    assert len(PAPER) == 22
    assert set(tasks) == {*PAPER, "movie", "amazon", "tweets", "nyt", "sarcasm", "quartz", "socialiqa"} | {
        "amazon_polarity",
        "anthropic_hh",
        "movie_pairs",
        "movie_pairs_raters",
        "hh_pairs",
        "summarize_pairs",
        "chess",
        "gsm8k",
    }
    for name, task in tasks.items():
        assert task.name == name
        assert task.about
        assert task.licence
        assert task.n_classes == (0 if task.kind == "generate" else 2)
        assert task.is_balanced == (task.kind != "generate")
    assert all(isinstance(tasks[name].source, HubSource) for name in PAPER)
    assert len({task.digest() for task in tasks.values()}) == len(tasks)


def test_a_name():
    movie = task_of("movie", HERE, "tasks.t")
    assert isinstance(movie.source, ArchiveSource)
    assert isinstance(movie.format, RatingFormat)
    assert movie.class_names == ("negative", "positive")


def test_the_short_form_is_the_long_form(data):
    short = task_of({"file": "my.jsonl", "text": "text", "label": "label"}, data, "t")
    long = task_of(
        {"name": "my", "source": {"file": "my.jsonl"}, "format": {"kind": "text", "text": "text", "label": "label"}},
        data,
        "t",
    )
    assert short == long
    assert short.name == "my"
    assert isinstance(short.source, FileSource)
    assert short.source.sha256 is not None
    rating = {"file": "my.jsonl", "text": "t", "rating": "r", "negative_below": 0.0, "positive_above": 0.0}
    assert isinstance(task_of(rating, data, "t").format, RatingFormat)
    asked = {
        "hub": "org/set",
        "config": "c",
        "prompt": "q",
        "choices": ["a", "b"],
        "answer": "x",
        "splits": {"test": "test"},
    }
    choices = task_of(asked, data, "t")
    assert isinstance(choices.format, ChoicesFormat)
    assert choices.source == HubSource(hub="org/set", config="c")
    assert choices.name == "set"


def test_a_test_file_counts_by_content(data):
    (data / "held.jsonl").write_text('{"text": "b", "label": 0}\n')
    fields = {"file": "my.jsonl", "text": "text", "label": "label"}
    with_test = task_of({**fields, "test_file": "held.jsonl"}, data, "t")
    assert with_test.test_file is not None
    assert with_test.test_file.file == str(data / "held.jsonl")
    assert with_test.digest() != task_of(fields, data, "t").digest()


def test_a_built_in_task_with_a_change():
    changed = task_of({"use": "movie", "balance": False, "name": "movie_raw"}, HERE, "t")
    assert changed.name == "movie_raw"
    assert not changed.is_balanced
    assert changed.source == task_of("movie", HERE, "t").source


@pytest.mark.parametrize(("name", "field", "value"), [("movie_pairs", "margin", 2.0), ("chess", "max_new_tokens", 6)])
def test_one_field_of_a_built_in_format_can_be_changed(name, field, value):
    """However the built-in task is written: with a format, or with its fields side by side."""
    changed, before = task_of({"use": name, field: value}, HERE, "t"), task_of(name, HERE, "t")
    assert changed.format == before.format.model_copy(update={field: value})
    assert changed.model_copy(update={"format": before.format}) == before
    with pytest.raises(SpecError, match=rf"^t\.{field}: expected"):
        task_of({"use": name, field: "many"}, HERE, "t")


def test_names_and_texts_about_a_task_do_not_count(data):
    fields = {"file": "my.jsonl", "text": "text", "label": "label"}
    plain, described = (
        task_of({**fields, **more}, data, "t") for more in ({}, {"name": "x", "about": "y", "licence": "z"})
    )
    assert plain.digest() == described.digest()
    assert plain.digest() != task_of({**fields, "group": "text"}, data, "t").digest()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("movi", ["tasks.t: no task 'movi' (did you mean movie?); `w2s tasks` lists them"]),
        ("my.csv", ["tasks.t: a file needs its columns named: {file: my.csv, text: ..., label: ..., classes: [...]}"]),
        (7, ["tasks.t: expected the name of a task or a mapping (got 7)"]),
        ({"use": "mvie"}, ["tasks.t.use: no task 'mvie' (did you mean movie?)"]),
        (
            {"file": "my.jsonl", "text": "text", "labl": "label", "kind": "compar"},
            [
                "tasks.t.labl: unknown field (did you mean label?)",
                "tasks.t.kind: expected 'classify', 'compare' or 'generate' (got 'compar')",
                "tasks.t.label: missing, and there is no default",
            ],
        ),
        ({"file": "no.jsonl", "text": "a", "label": "b"}, None),
        ({"file": "my.jsonl", "text": "{text", "label": "b"}, None),
        ({"hub": "a/b", "prompt": "q", "choices": "c", "answer": "a", "text": "{question} {choice}"}, None),
    ],
)
def test_every_wrong_word_is_named(data, value, expected):
    found = problems(value, data)
    if expected is not None:
        assert found == expected
    else:
        assert len(found) == 1
        assert found[0].startswith(("tasks.t.file: no such file or folder 'no.jsonl'", "tasks.t.text: "))


def test_a_task_can_be_written_to_a_manifest_and_read_back():
    for task in registry.builtin().values():
        again = type(task).model_validate_json(json.dumps(task.model_dump(mode="json")))
        assert again == task
        assert again.digest() == task.digest()


def test_text_format_is_the_default_kind():
    assert isinstance(task_of("sarcasm", HERE, "t").format, TextFormat)


def test_naming_a_task_loads_nothing_heavy():
    program = (
        "import sys; from pathlib import Path; from w2s.tasks.registry import task_of; task_of('movie', Path(), 't');"
        "heavy = ('torch', 'transformers', 'datasets', 'pandas', 'numpy', 'pyarrow', 'requests');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
