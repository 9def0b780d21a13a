"""Plans and results folders as lines; numbers as people write them."""

from __future__ import annotations

import pytest

from w2s.cli import catalogue, describe, terminal
from w2s.errors import MachineError, SpecError
from w2s.sweep import read_sweep


def test_a_plan_counts_steps_by_role_and_state_and_what_is_shared(lab):
    plan = lab.plan()
    lab.finish(lab.node("data movie"))
    lab.finish(lab.node("weak tiny on movie, seed 0"))
    lab.store.fail(lab.node("weak tiny on movie, seed 1").digest, "reason")
    lines = describe.plan(plan, lab.store)
    assert lines[:2] == ["sweep made_up: 4 experiments", "Is it made up?"]
    assert [line.split() for line in lines[3:9]] == [
        ["steps", "all", "done", "waiting", "failed", "blocked"],
        ["-------", "---", "----", "-------", "------", "-------"],
        ["data", "1", "1"],
        ["weak", "2", "1", "1"],
        ["ceiling", "2", "2"],
        ["student", "4", "2", "2"],
    ]
    assert "9 steps, where the experiments one by one would need 16 (data movie: one step for 4 experiments)" in lines
    assert sum(line.startswith("blocked ") for line in lines) == 2


def test_a_plan_estimates_time_only_once_something_was_measured(lab):
    assert "time: not known before a step of the same kind has run in this results folder" in describe.plan(
        lab.plan(), lab.store
    )
    lab.finish(lab.node("data movie"))
    lab.finish(lab.node("weak tiny on movie, seed 0"))
    lines = describe.plan(lab.plan(), lab.store)
    assert "time: on one worker, measured on steps of this results folder" in lines
    for node in lab.plan().nodes.values():
        lab.finish(node)
    assert "nothing is left to do" in describe.plan(lab.plan(), lab.store)


def test_nothing_shared_is_said(lab):
    lab.yaml.write_text(lab.yaml.read_text().replace("[0, 1]", "[0]").replace("[xent, logconf]", "[xent]"))
    assert "4 steps, none of them shared" in describe.plan(lab.plan(), lab.store)


def test_one_experiment_is_one(lab):
    lab.yaml.write_text(lab.yaml.read_text().replace("[0, 1]", "[0]").replace("[xent, logconf]", "[xent]"))
    assert describe.plan(lab.plan(), lab.store)[0] == "sweep made_up: 1 experiment"


def test_a_failed_step_of_several_processes_shows_the_log_of_each(lab):
    digest = lab.node("data movie").digest
    lab.store.fail(digest, "rank 1 of 2 ended")
    for name, line in (("log.txt", "the first waits"), ("log-rank1.txt", "the other is out of luck")):
        (lab.store.work(digest) / name).write_text(line + "\n")
    lines = describe.step(lab.results, digest[:12], 10)
    assert "  the first waits" in lines
    assert lines[-1] == "  the other is out of luck"
    assert lines[-2].endswith("log-rank1.txt:")


def test_an_empty_results_folder(lab):
    assert describe.status(lab.results, None) == [f"no sweep has been run in {lab.results}"]
    with pytest.raises(SpecError, match="no sweep has been run"):
        describe.sweep_name(lab.results, None)


def test_a_plan_that_cannot_be_read_is_named(lab):
    file = lab.results / "sweeps" / "broken" / "plan.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with pytest.raises(SpecError, match=r"plan\.json: cannot be read; run the sweep once more"):
        describe.status(lab.results, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.25, "0.2 s"),
        (12.4, "12 s"),
        (89, "89 s"),
        (95, "1.6 min"),
        (7200, "2.0 h"),
        (200_000, "2.3 days"),
    ],
)
def test_durations(seconds, text):
    assert terminal.seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (12_345, "12.3 K"),
        (22.7e6, "22.7 M"),
        (1.56e9, "1.6 B"),
        (3.2e18, "3.2e+18"),
    ],
)
def test_counts(value, text):
    assert terminal.count(value) == text


def test_sizes():
    assert [terminal.size(n) for n in (5, 2048, 3 << 20, 5 << 30, 3 << 40)] == [
        "5 B", "2.0 KiB", "3.0 MiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip


def test_tables_align_and_show_nothing_as_a_dash():
    assert terminal.table(("name", "n"), [("a", 5), ("long one", None)], right=("n",)) == [
        "name      n",
        "--------  -",
        "a         5",
        "long one  -",
    ]


def test_a_terminal_gets_no_line_that_is_too_long():
    lines = terminal.table(("name", "about"), [("a", "short"), ("b", "x" * 99)], room=20)
    assert {len(line) for line in lines[3:]} == {20}
    assert lines[2:] == ["a     short", f"b     {'x' * 11}..."]
    long = "  run       " + "many words " * 9
    assert terminal.wrapped(long, " " * 12, None) == [long]
    folded = terminal.wrapped(long, " " * 12, 40)
    assert max(map(len, folded)) <= 40
    assert folded[0].startswith("  run       many")
    assert all(line.startswith(" " * 12 + "m") or line.startswith(" " * 12 + "w") for line in folded[1:])
    assert "".join(folded).replace(" ", "") == long.replace(" ", "")


def test_every_built_in_task_and_model_has_a_row(lab):
    tasks, models = catalogue.tasks(), catalogue.models()
    assert any(line.startswith("movie ") and "archive vaderSentiment" in line for line in tasks)
    assert any(line.startswith("gpt2 ") and "hub openai-community/gpt2" in line for line in models)
    for lines in (tasks, models):
        place = lines[0].index("here")
        here = {line.split()[0] for line in lines[2:-3] if line[place : place + 4].strip()}
        assert here == ({"tfidf"} if lines is models else set()), "the cache is empty, and words need none"


def test_prefetch_fetches_each_source_once_and_goes_on_after_a_failure(lab, monkeypatch):
    """Two cuts of one model are one source."""
    asked: list[str] = []

    def weights(model):
        asked.append(model.name)
        raise MachineError("no network")

    monkeypatch.setattr("w2s.models.weights", weights)
    monkeypatch.setattr(catalogue, "fetch", lambda source, **_: asked.append(source.package))
    said: list[str] = []
    failed = catalogue.prefetch(read_sweep(lab.yaml), said.append)
    assert len(asked) == 2
    assert asked[0] == "vaderSentiment==0.5"
    assert len(failed) == 1
    assert failed[0].endswith("no network")
    assert [line.split()[0] for line in said] == ["fetching", "fetching", "cache"]
