"""Plugins through the real command: workers, ranks and later commands run the copy, mistakes end with their code."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.recipe

IDEAS = """\
import torch  # at the top: the workers have it, and whoever plans does not
from w2s import plugins


def towards(labels, logits, course, *, share: float):
    return (1 - share) * labels + share * torch.softmax(logits, -1).mean(0)


@plugins.loss(aims=towards, reads="batch")
def drawn(logits, targets, *, share: float = 0.5):
    return -(targets * torch.log_softmax(logits, -1)).sum(-1)


@plugins.model
def doubled(base, *, by: float = 2.0):
    with torch.no_grad():
        base.get_input_embeddings().weight.mul_(by)
    return base
"""
METHODS = "methods={drawn: {loss: drawn}}"


@pytest.fixture
def ideas(world):
    """A world whose sweep uses a plugin's loss and model, and its file."""
    file = world.folder / "my ideas 'ü'.py"
    file.write_text(IDEAS)
    text = world.yaml.read_text().replace("{use: ./large}", "{use: ./large, build: doubled}")
    world.yaml.write_text(f'plugins: ["{file.name}"]\n{text}')
    return file


def test_two_processes_train_what_one_does_and_later_commands_need_no_file(world, ideas):
    short = ("--set", "seeds=[0]", "--set", "recipe.epochs=2", "--set", METHODS, "--keep-weights")
    world.sweep(*short)
    title = "student large of small on moods, drawn, seed 0"
    digest = world.digest(title)
    alone = np.array(world.read("train", digest, "predictions/test.parquet")["logits"])
    two = ("--results", "two", "--set", "engine.processes=2", "--set", "engine.micro_batch_size=1")
    world.sweep(*short, *two)
    ours, world.store = world.store, world.folder / "two" / "store"
    shared = np.array(world.read("train", digest, "predictions/test.parquet")["logits"])
    np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-4)
    assert np.abs(alone).max() > 0.01
    world.store = ours

    (copy,) = (world.results / "plugins").glob("*/*.py")
    assert copy.read_text() == IDEAS
    assert json.loads((world.outputs / "plan.json").read_text())["plugins"] == {ideas.name: copy.parent.name}
    ideas.unlink()
    (world.folder / "texts.txt").write_text("good1 so3 good2\nbad1 so2 bad4\n")
    code, out, err = world.run("label", digest[:12], "texts.txt")
    assert (code, len(out.splitlines())) == (0, 2), err
    copy.write_text(IDEAS + "# a remark\n")
    code, _, err = world.run("label", digest[:12], "texts.txt")
    assert code == 1
    assert "changed since it was put there" in err


def test_mistakes_of_a_plugin_end_a_command_with_their_code_and_line(world, ideas):
    ideas.write_text(IDEAS.replace("return -(targets", "return -(target"))
    _, err = world.sweep("--set", "seeds=[0]", "--set", "recipe.epochs=1", "--set", METHODS, code=1)
    assert f"{ideas.name}:11: loss drawn: NameError: name 'target' is not defined" in err
    failed = world.digest("student large of small on moods, drawn, seed 0")
    assert "return -(target *" in (world.store / "work" / failed[:2] / failed / "log.txt").read_text()  # the traceback
    ideas.write_text(IDEAS.replace("def drawn", "def xent"))
    code, _, err = world.run("plan", world.yaml.name)
    assert code == 2
    assert f"plugins[0]: {ideas.name}:9: loss xent: w2s has one of that name; name it otherwise" in err
