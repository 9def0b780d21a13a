"""Words of a command line: what reaches a command, and what is refused before it is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s.cli.arguments import checked, for_fire, help_text, usage
from w2s.cli.commands import COMMANDS
from w2s.errors import SpecError

CALLS: list[dict[str, Any]] = []


def bake(
    digest: str,
    file: Path | None = None,
    *,
    set_: Sequence[str] = (),
    lr: float = 0.1,
    workers: int | None = None,
    dry_run: bool = False,
) -> int:
    """Bake it."""
    CALLS.append({"digest": digest, "file": file, "set_": set_, "lr": lr, "workers": workers, "dry_run": dry_run})
    return 3


def serve(table: str, dish: Sequence[str] = (), *, hot: bool = False) -> int:
    """Serve it."""
    CALLS.append({"table": table, "dish": dish, "hot": hot})
    return 3


def called(*words: str) -> dict[str, Any]:
    """What `bake` was called with, all the way through fire."""
    CALLS.clear()
    code = fire.Fire({"bake": for_fire(bake)}, ["bake", *checked(bake, words)], name="w2s", serialize=lambda _: None)
    assert code == 3
    (call,) = CALLS
    return call


def refused(*words: str) -> list[str]:
    CALLS.clear()
    with pytest.raises(SpecError) as caught:
        checked(bake, words)
    assert CALLS == []
    return caught.value.problems


@pytest.mark.parametrize(
    "text", ["12345678", "1e123456", "[x]", "None", "True", "{}", "'a'", "a b", "x=y", "ü", "a\nb", "-"]
)
def test_text_stays_text(text, capsys):
    """fire alone would read these as a number, a list, nothing, a truth value, ..."""
    assert called(text)["digest"] == text
    assert called("d", f"--set={text}")["set_"] == [text]
    assert called("d", text)["file"] == Path(text)
    assert capsys.readouterr() == ("", "")


@given(st.text())
def test_any_text_after_an_equals_sign_arrives(text):
    assert called("d", f"--set={text}", "--set", f"a={text}")["set_"] == [text, f"a={text}"]


@pytest.mark.parametrize(
    "words",
    [
        ("d", "f", "--workers", "3", "--dry-run"),
        ("d", "f", "--workers=3", "--dry_run"),
        ("--dry-run=true", "d", "--workers=3", "f"),
        ("--dry_run", "True", "--digest", "d", "--file=f", "--workers", "3"),
        ("--workers", "3", "--dry-run", "--", "d", "f"),
    ],
)
def test_dashes_underscores_equals_signs_and_order_are_free(words):
    call = called(*words)
    assert call == {"digest": "d", "file": Path("f"), "set_": (), "lr": 0.1, "workers": 3, "dry_run": True}


def test_values_have_the_type_of_their_annotation():
    assert called("d", "--lr", "1e-5")["lr"] == 1e-5
    assert called("d", "--lr=2")["lr"] == 2.0
    assert called("d", "--workers", "-3")["workers"] == -3
    assert called("d", "--no-dry-run")["dry_run"] is False
    assert called("d", "--dry-run=false")["dry_run"] is False
    assert called("--", "--odd")["digest"] == "--odd"
    assert called("d", "--set", "a=1", "--set=b=2")["set_"] == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ((), ["DIGEST: missing"]),
        (("d", "--worker", "3"), ["--worker: no such flag (did you mean --workers?)"]),
        (("d", "--dryrun"), ["--dryrun: no such flag (did you mean --dry-run?)"]),
        (("d", "-w", "3"), ["-w: no such flag (known: --digest, --file, --set, --lr, --workers, --dry-run)"]),
        (("d", "f", "g"), ["g: one argument too many (it takes DIGEST [FILE])"]),
        (("d", "--workers", "x"), ["--workers: expected a whole number (got 'x')"]),
        (("d", "--workers", "1.5"), ["--workers: expected a whole number (got '1.5')"]),
        (("d", "--workers", "1_0"), ["--workers: expected a whole number (got '1_0')"]),
        (("d", "--lr", "nan"), ["--lr: expected a number (got 'nan')"]),
        (("d", "--dry-run=maybe"), ["--dry-run: expected true or false (got 'maybe')"]),
        (("d", "--workers"), ["--workers: needs a value"]),
        (("d", "--workers", "--dry-run"), ["--workers: needs a value"]),
        (("d", "--workers", "1", "--workers", "2"), ["--workers: given 2 times; give it once"]),
        (("d", "--digest", "e"), ["--digest: given 2 times; give it once"]),
        (("d", "--no-workers"), ["--no-workers: no such flag (did you mean --workers?)"]),
        (
            ("--worker=3", "--lr", "x", "d", "f", "g", "h"),
            [
                "--worker: no such flag (did you mean --workers?)",
                "g: one argument too many (it takes DIGEST [FILE])",
                "h: one argument too many (it takes DIGEST [FILE])",
                "--lr: expected a number (got 'x')",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_refused_all_at_once(words, problems):
    assert refused(*words) == problems


def served(*words: str) -> dict[str, Any]:
    """What `serve` was called with."""
    CALLS.clear()
    fire.Fire({"serve": for_fire(serve)}, ["serve", *checked(serve, words)], name="w2s", serialize=lambda _: None)
    (call,) = CALLS
    return call


@pytest.mark.parametrize(
    ("words", "dishes"),
    [
        (("t",), ()),
        (("t", "soup"), ["soup"]),
        (("t", "soup", "--hot", "1e5", "[x]"), ["soup", "1e5", "[x]"]),
        (("--dish=soup", "t", "rice"), ["soup", "rice"]),
        (("t", "--hot", "--", "--rice", "a,b"), ["--rice", "a,b"]),
        (("t", "None", "a b", "'a'"), ["None", "a b", "'a'"]),
    ],
)
def test_a_last_place_may_take_any_number_of_words(words, dishes):
    """Negative control: a place that is no list takes one (`bake`, below)."""
    assert served(*words) == {"table": "t", "dish": dishes, "hot": "--hot" in words}
    assert refused("d", "f", "g") == ["g: one argument too many (it takes DIGEST [FILE])"]


def test_a_place_that_may_be_repeated_is_shown_so_and_flags_are_still_checked():
    assert usage("w2s serve", serve) == "usage: w2s serve TABLE [DISH]... [--hot]"
    with pytest.raises(SpecError, match=r"--hott: no such flag \(did you mean --hot\?\)"):
        checked(serve, ["t", "soup", "--hott"])
    with pytest.raises(SpecError, match="TABLE: missing"):
        checked(serve, [])


def test_usage_shows_what_is_needed_and_what_may_be_left_out():
    assert usage("w2s bake", bake) == (
        "usage: w2s bake DIGEST [FILE] [--set SET]... [--lr LR] [--workers WORKERS] [--dry-run]"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_explains_each_argument_and_gives_an_example(name):
    text = help_text(f"w2s {name}", COMMANDS[name])
    explained = text.partition("\n\n")[2]
    for parameter in COMMANDS[name].__annotations__:
        if parameter == "return":
            continue
        plain = parameter.rstrip("_")
        assert f"--{plain.replace('_', '-')}" in explained or f"  {plain.upper()} " in explained, plain
    assert f"\n  w2s {name}" in explained.partition("Examples:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_fit_its_signature(name):
    """Negative control: the same words with a flag that does not exist are refused."""
    examples = help_text("", COMMANDS[name]).partition("Examples:")[2].strip().splitlines()
    for example in examples:
        words = example.partition(f"w2s {name}")[2].split()
        checked(COMMANDS[name], words)
        with pytest.raises(SpecError, match="--colour: no such flag"):
            checked(COMMANDS[name], [*words, "--colour", "red"])
