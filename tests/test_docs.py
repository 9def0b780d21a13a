"""The documents: their YAML is what a sweep takes, their links lead somewhere, docs/sweeps.md is what the specs say."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import w2s
from w2s.cli import handbook
from w2s.cli.arguments import checked
from w2s.cli.commands import COMMANDS
from w2s.errors import SpecError
from w2s.experiments import expand
from w2s.sweep import sweep_of
from w2s.yamlfile import parse_yaml

ROOT = Path(w2s.__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
# A document shows what a section is about; the rest of a sweep is this.
REST: dict[str, Any] = {
    "name": "example",
    "tasks": ["movie"],
    "sizes": {"weak_train": 500, "transfer": 500, "test": 600},
    "models": {
        "a": {"use": "minilm", "layers": 2},
        "b": {"use": "minilm"},
        "c": {"use": "smollm2", "layers": 20},
    },
    "methods": ["xent"],
}


def blocks(path, language):
    return [text for found, text in FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


def yaml_blocks():
    """What tests/test_extending.py runs is left to it."""
    found = [(path, text) for path in DOCS for text in blocks(path, "yaml") if "plugins: [" not in text]
    return [pytest.param(text, id=f"{path.name}-{place}") for place, (path, text) in enumerate(found)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What examples name that is nobody's but the reader's: data, a folder with a model, labels of people."""
    made = tmp_path_factory.mktemp("docs")
    for name in ("my.jsonl", "tickets.jsonl", "pairs.jsonl", "people.jsonl"):
        (made / name).write_text('{"text": "a", "label": 0}\n')
    model = made / "checkpoints" / "my-model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 24}))
    header = b'{"__metadata__": {}}'
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return made


def completed(text):
    """A sweep of a document's YAML: `{...}` stands for what REST says."""
    given = parse_yaml(text, "example")
    sweep = {**REST, **given}
    for name, value in (given.get("models") or {}).items():
        if value == {"...": None}:
            sweep["models"] = {**sweep["models"], name: REST["models"][name]}
    return sweep


@pytest.mark.parametrize("text", yaml_blocks())
def test_yaml_is_what_a_sweep_takes(text, folder):
    assert expand(sweep_of(completed(text), folder))


def test_yaml_with_a_typo_is_refused(folder):
    """Negative control."""
    with pytest.raises(SpecError, match="did you mean knn"):
        sweep_of(completed("methods: {near: {labels: {transforms: [{knm: relabel}]}}}"), folder)


def anchors(path):
    """What headings of a document are linked by, as GitHub does it."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    wrong = []
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8")))
    for link in links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_are_accepted(path):
    for block in [*blocks(path, ""), *blocks(path, "bash")]:
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if line.lstrip("$ ").startswith("w2s ") else []
            if len(words) > 1:
                checked(COMMANDS[words[1]], words[2:])


def test_the_list_of_fields_is_what_the_specs_say():
    same = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8") == handbook.page()
    assert same, "the specs say otherwise now: w2s fields --markdown > docs/sweeps.md"


def test_links_are_found(tmp_path):
    """Negative control."""
    (tmp_path / "a.md").write_text(
        "# One `two`.three\n[a](#one-twothree) [b](#four) [c](nowhere.md)\n```\n# five\n```\n"
    )
    assert anchors(tmp_path / "a.md") == {"one-twothree"}
    with pytest.raises(AssertionError, match=r"#four.*nowhere\.md"):
        test_links_lead_somewhere(tmp_path / "a.md")


def test_every_file_of_the_documents_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCS[1:] if f"(docs/{path.name})" not in readme] == []


def test_every_method_has_a_place_for_what_was_measured():
    from w2s.pluginfiles import OWN

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    measured = set(re.findall(r"<!-- measured: ([\w, ]+) -->", text))
    named = {name.strip() for line in measured for name in line.split(",")}
    assert {*OWN["loss"], *OWN["transform"]} <= named


MEASURED = re.compile(r"^Measured \(\[(\w+)\]\(\.\./(results/reference/\w+)/table\.md\)\): (.*?)\.$", re.M | re.S)
NUMBERS = re.compile(r"(\d\.\d{3}), (?:PGR (-?\d+\.\d\d) \[(-?\d+\.\d\d), (-?\d+\.\d\d)\]|no PGR)")


def test_measured_numbers_are_those_of_the_tables_kept():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    found = MEASURED.findall(text)
    assert len(found) == len(re.findall(r"^Measured ", text, re.M)) > 20
    for sweep, folder, line in found:
        with (ROOT / folder / "table.csv").open(newline="", encoding="utf-8") as file:
            rows = {
                (f"{float(row['student_accuracy']):.3f}",)
                + tuple(f"{float(row[name]):.2f}" if row[name] else "" for name in ("pgr", "pgr_low", "pgr_high"))
                for row in csv.DictReader(file)
            }
        told = NUMBERS.findall(" ".join(line.split()))
        assert len(told) == line.count(";") + 1, sweep
        assert set(told) <= rows, (sweep, set(told) - rows)
