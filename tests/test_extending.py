"""docs/extending.md: its file is a plugin, its sweep runs step by step, and the file may be edited meanwhile."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import world  # type: ignore[import-not-found]

import w2s
from w2s import pluginfiles, plugins, steps
from w2s.errors import StepError
from w2s.experiments import expand
from w2s.plan import build
from w2s.pluginfiles import OWN
from w2s.spec import LabelsSpec, TrainSpec
from w2s.store import Store
from w2s.sweep import read_sweep

DOC = (Path(w2s.__file__).resolve().parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.M | re.S)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a tiny model and the document's two files; all its Python is one file, in its order."""
    folder = tmp_path_factory.mktemp("extending")
    world.save_model(folder / "small", "bert", 16, 1)
    (folder / "my_ideas.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    (folder / "ideas.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    return folder


@pytest.fixture
def copied(written, tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(written / "cache"))
    shutil.copytree(written, tmp_path / "here", ignore=shutil.ignore_patterns("cache"))
    yield tmp_path / "here"
    plugins._loaded.clear()


def planned(folder, *sets):
    sweep = read_sweep(folder / "ideas.yaml", ["engine.device=cpu", *sets])
    return build(sweep, expand(sweep))


def test_the_sweep_of_the_document_uses_all_that_its_files_mark_but_prepare(copied):
    plan = planned(copied)
    used = {use.use for node in plan.nodes.values() for use in plugins.uses_of(node.spec)}
    sweep = read_sweep(copied / "ideas.yaml")
    marked = {known.name for known in sweep.plugins.known}
    assert marked - used == {"without_links"}
    assert {known.kind for known in sweep.plugins.known} == {*OWN, "task"}


def test_the_sweep_of_the_document_runs_though_its_file_is_edited_meanwhile(copied):
    torch.set_num_threads(1)
    plan = planned(copied, "tasks=[sums]")
    store = Store(copied / "results" / "store")
    pluginfiles.keep(plan.plugins, copied / "results" / "plugins")
    for node in plan.nodes.values():
        (copied / "my_ideas.py").write_text("raise SystemExit\n")
        assert steps.run_step(node.spec, store) == "done"
        plugins._loaded.clear()  # as in another worker
    rows = {node.title: node for node in plan.nodes.values()}
    (labels,) = (node for node in plan.nodes.values() if isinstance(node.spec, LabelsSpec))
    summary = json.loads((store.path("labels", labels.digest) / "summary.json").read_text())
    drew, kept = summary["splits"]["transfer"]["transforms"]
    assert (drew["transform"]["use"], drew["dropped"]) == ("doubt", 0)
    assert kept["dropped"] == 64 - summary["splits"]["transfer"]["labelled"] > 0
    anchored = rows["student small of bag on sums, anchored, seed 0"]
    history = (store.path("train", anchored.digest) / "history.jsonl").read_text().splitlines()
    assert json.loads(history[0])["weight"] == 1.0
    weak = store.manifest("train", rows["weak bag on sums, seed 0"].digest)
    assert weak is not None
    assert weak["spec"]["model"]["build"]["values"] == [["size", 8]]
    assert weak["spec"]["model"]["build"]["code"] == plan.plugins[0].code


@pytest.mark.recipe
def test_how_a_batch_is_cut_does_not_matter_to_its_losses(copied):
    torch.set_num_threads(1)
    found = []
    for micro in (8, 2):
        plan = planned(copied, "tasks=[sums]", f"engine.micro_batch_size={micro}")
        store = Store(copied / f"results-{micro}" / "store")
        pluginfiles.keep(plan.plugins, copied / f"results-{micro}" / "plugins")
        wanted = [n for n in plan.nodes.values() if "doubted" not in n.title and "labels" not in n.title]
        for node in wanted:
            steps.run_step(node.spec, store)
        predictions = {
            node.digest: torch.tensor(
                store.read_table("train", node.digest, "predictions/test.parquet")["logits"].to_pylist()
            )
            for node in wanted
            if isinstance(node.spec, TrainSpec)
        }
        found.append(predictions)
    assert len(found[0]) == 6
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_a_function_that_fails_fails_the_step_with_file_and_line(copied):
    torch.set_num_threads(1)
    text = (copied / "my_ideas.py").read_text().replace("log_f = torch.log_softmax(logits, dim=-1)\n", "log_f = nan\n")
    (copied / "my_ideas.py").write_text(text)
    line = text.splitlines().index("    log_f = nan") + 1
    plan = planned(copied, "tasks=[sums]", "methods={focal: {}}")
    store = Store(copied / "results" / "store")
    pluginfiles.keep(plan.plugins, copied / "results" / "plugins")
    *before, student = plan.nodes.values()
    for node in before:
        steps.run_step(node.spec, store)
    with pytest.raises(StepError, match=rf"my_ideas\.py:{line}: loss focal: NameError: name 'nan' is not defined"):
        steps.run_step(student.spec, store)
    assert not store.has("train", student.digest)


def test_functions_of_the_document_can_be_called_as_they_are(written):
    session: dict[str, object] = {}
    exec(compile((written / "my_ideas.py").read_text(), "docs/extending.md", "exec"), session)  # noqa: S102 - our own
    focal, without_links, sums = session["focal"], session["without_links"], session["sums"]
    value = focal(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), gamma=1.0)  # type: ignore[operator]
    assert value.item() == pytest.approx(0.5 * 0.6931472)
    assert without_links({"text": "http://a b"}) == "only a link"  # type: ignore[operator]
    assert without_links({"text": "a b"})["words"] == 2  # type: ignore[operator]
    for record in list(sums(digits=1))[:50]:  # type: ignore[operator]
        a, b = map(int, re.findall(r"\d+", record["question"]))
        assert record["even"] == ["yes", "no"][(a + b) % 2]


def test_a_loss_is_ten_lines():
    first = blocks("python")[0]
    code = [line for line in first.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 10


def test_the_sets_that_the_document_names_are_accepted(copied):
    for change in re.findall(r"`--set (\S+)`", DOC):
        (word,) = shlex.split(change)
        assert planned(copied, word).nodes.keys() != planned(copied).nodes.keys()
