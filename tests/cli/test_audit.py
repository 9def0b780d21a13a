"""What `verify` finds: changed files, names that do not fit, and one source at two commits."""

from __future__ import annotations

import json

import pytest

from w2s import pluginfiles
from w2s.cli.audit import audit
from w2s.errors import SpecError
from w2s.plan import of_sweep
from w2s.sweep import sweep_of

SOURCE = {"hub": "org/m", "revision": "main", "config": None}


@pytest.fixture
def two(lab):
    """A lab with two finished supervisors."""
    found = [lab.node(f"weak tiny on movie, seed {seed}") for seed in (0, 1)]
    for node in found:
        lab.finish(node)
    return found


def test_a_good_store_has_no_problems(lab, two):
    assert audit(lab.store) == (2, [])
    assert audit(lab.store, two[0].digest[:8]) == (1, [])


def test_an_empty_store_has_none_either(lab):
    assert audit(lab.store) == (0, [])


def test_every_kind_of_damage_is_named(lab, two):
    folder = lab.store.path("train", two[0].digest)
    (folder / "metrics.json").write_text("{}")
    (folder / "predictions" / "test.parquet").unlink()
    (folder / "new.txt").write_text("")
    (lab.store.path("train", two[1].digest) / "manifest.json").write_text("{")
    checked, problems = audit(lab.store)
    assert checked == 2
    assert sorted(problems) == sorted(
        [
            f"{folder / 'predictions/test.parquet'}: missing",
            f"{folder / 'new.txt'}: not in the manifest",
            f"{folder / 'metrics.json'}: content differs from the manifest",
            f"{lab.store.path('train', two[1].digest)}: no readable manifest.json",
        ]
    )


def test_a_spec_that_does_not_give_its_name_is_damage(lab, two):
    file = lab.store.path("train", two[0].digest) / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["spec"]["seed"] = 9
    file.write_text(json.dumps(manifest))
    _, problems = audit(lab.store)
    assert len(problems) == 1
    assert "its spec has the digest" in problems[0]
    manifest["spec"]["colour"] = "red"
    file.write_text(json.dumps(manifest))
    assert "colour: unknown field" in audit(lab.store)[1][0]


def test_one_source_at_two_commits_is_reported_with_both(lab, two):
    lab.finish(two[0], fetched=[{"source": SOURCE, "commit": "a" * 40}])
    lab.finish(two[1], fetched=[{"source": SOURCE, "commit": "a" * 40}])
    assert not [p for p in audit(lab.store)[1] if "different commits" in p], "one commit in both is good"
    lab.finish(two[1], fetched=[{"source": SOURCE, "commit": "b" * 40}])
    (found,) = [p for p in audit(lab.store)[1] if "different commits" in p]
    assert "org/m" in found
    assert f"{'a' * 12} in {two[0].digest[:12]}" in found
    assert f"{'b' * 12} in {two[1].digest[:12]}" in found


def test_a_second_run_of_one_digest_with_another_commit_is_reported(lab, two):
    """The kept run stays; the second one leaves a note."""
    record = {"spec": two[0].spec.model_dump(mode="json"), "fetched": [{"source": SOURCE, "commit": "c" * 40}]}
    with lab.store.staging("train", two[0].digest) as staged:
        staged.commit(record)
    (found,) = audit(lab.store)[1]
    assert found.startswith(f"{two[0].digest[:12]}: a second run fetched other commits")
    assert found.endswith(f"(kept none, second {'c' * 12})")


def test_an_unfinished_step_cannot_be_checked(lab):
    node = lab.node("data movie")
    lab.store.fail(node.digest, "reason")
    with pytest.raises(SpecError, match="is not finished, so there is nothing to check"):
        audit(lab.store, node.digest[:8])


LOSS = """\
from w2s.plugins import loss


@loss
def mine(logits, labels):
    return (logits - labels).square().sum(1)
"""


@pytest.fixture
def with_plugin(lab, tmp_path):
    """A finished step that used a loss of a user's file, and where the copy of the file is."""
    (tmp_path / "mine.py").write_text(LOSS)
    data = {"name": "s", "tasks": ["movie"], "sizes": {"weak_train": 8, "transfer": 8, "val": 4, "test": 8},
            "models": {"a": {"use": "minilm", "layers": 1}, "b": {"use": "minilm", "layers": 2}},
            "methods": ["mine"], "plugins": ["mine.py"]}  # fmt: skip
    plan = of_sweep(sweep_of(data, tmp_path))
    (step,) = [node for node in plan.nodes.values() if node.title.startswith("student")]
    with lab.store.staging("train", step.digest) as staged:
        staged.commit({"spec": step.spec.model_dump(mode="json")})
    pluginfiles.keep(plan.plugins, lab.store.root.parent / "plugins")
    (folder,) = (lab.store.root.parent / "plugins").iterdir()
    return step, folder


def test_copies_of_plugins_are_checked(lab, with_plugin):
    step, folder = with_plugin
    assert audit(lab.store) == (1, [])
    (folder / "mine.py").write_text(LOSS + "\n")
    wrong = f"its SHA-256 is not {folder.name[:12]}..., the name of its folder; remove the folder and run again"
    found = [f"{folder / 'mine.py'}: {wrong}"]
    assert audit(lab.store) == (1, found)
    assert audit(lab.store, step.digest[:8]) == (1, found)


def test_a_plugin_that_a_step_used_and_that_is_gone_is_named(lab, with_plugin):
    _, folder = with_plugin
    (folder / "mine.py").unlink()
    missing = f"{folder}: holds no copy of a plugin; put the file mine.py that has this SHA-256 there"
    assert audit(lab.store) == (1, [missing])
    folder.rmdir()
    assert audit(lab.store) == (1, [missing])
