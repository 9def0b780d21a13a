"""The command line as a user meets it: exit codes, what is printed where, and what is refused before any work."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import w2s
from w2s.cli import main as cli
from w2s.cli.commands import COMMANDS
from w2s.models import Weights
from w2s.spec import Engine, Recipe

HEAVY = ("torch", "transformers", "datasets", "pandas", "pyarrow", "numpy", "scipy", "matplotlib", "rich", "peft")


@pytest.fixture
def sweep(lab, ask):
    """Runs a command of the lab's sweep."""
    return lambda command, *words: ask(command, lab.yaml, "--results", lab.results, *words)


def fresh(*words, **more):
    """A command in a process of its own."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=60, **more)


def test_w2s_alone_gives_an_overview_with_every_command(ask):
    code, out, err = ask()
    assert (code, err) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in out
    assert ask("--help") == (code, out, err)


def test_version(ask):
    assert ask("--version") == (0, f"w2s {w2s.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_comes_from_any_place_and_without_a_pager(name, ask):
    code, out, err = ask(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: w2s {name}")
    assert "Examples:" in out
    assert ask(name, "--nonsense", "-h") == ask("help", name) == (code, out, err)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("words", [["--workrs", "3"], ["a", "b", "c", "d", "--colour=red"]])
def test_unknown_flags_and_extra_arguments_are_refused_before_any_work(name, words, ask, monkeypatch):
    @functools.wraps(COMMANDS[name])
    def work(*_, **__):
        raise AssertionError("it began to work")

    monkeypatch.setitem(cli.COMMANDS, name, work)
    code, out, err = ask(name, *words)
    assert (code, out) == (2, "")
    assert "no such flag" in err or "one argument too many" in err
    assert f"`w2s {name} --help`" in err


def test_a_command_that_does_not_exist(ask):
    assert ask("swep", "x") == (2, "", "w2s: swep: no such command (did you mean sweep?); `w2s` lists them\n")


def test_a_wrong_yaml_is_one_message_per_problem_and_no_traceback(lab, sweep):
    lab.yaml.write_text(
        "tasks: [movi]\nmodels: [minilm, gpt2]\nmethods: [xent]\nsizes: {weak_train: 1, transfer: 1, tst: 1}"
    )
    code, out, err = sweep("plan")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"w2s: {lab.yaml}: sizes.test: missing, and there is no default",
        f"w2s: {lab.yaml}: sizes.tst: unknown field (did you mean test?)",
        f"w2s: {lab.yaml}: tasks.movi: no task 'movi' (did you mean movie?); `w2s tasks` lists them",
    ]
    assert not lab.results.exists()


def test_debug_shows_where_it_was_raised(lab):
    with pytest.raises(w2s.errors.SpecError):
        cli.main(["--debug", "plan", str(lab.yaml) + "x"])
    with pytest.raises(w2s.errors.SpecError):
        cli.main(["plan", str(lab.yaml) + "x", "--debug"])


def test_plan_and_dry_run_show_the_same_and_write_nothing(lab, sweep):
    code, out, err = sweep("plan")
    assert (code, err) == (0, "")
    assert "9 steps, where the experiments one by one would need 16" in out
    assert sweep("sweep", "--dry-run") == sweep("sweep", "--dry_run") == (code, out, err)
    assert not lab.results.exists()


def test_sweep_runs_what_is_not_there_prints_the_table_and_says_last_where_it_is(lab, sweep):
    code, out, err = sweep("sweep")
    assert (code, err) == (0, "")
    assert len(lab.made) == 9
    assert "tiny -> small" in out
    assert out.splitlines()[-1].startswith(f"written to {lab.results / 'sweeps' / 'made_up'}: ")
    for name in ("plan.json", "table.csv", "table.md", "table.tex"):
        assert (lab.results / "sweeps" / "made_up" / name).exists()
    lab.made.clear()
    assert sweep("sweep") == (code, out, err)
    assert lab.made == []


def test_set_and_keep_weights_change_the_plan(lab, sweep):
    sweep("sweep", "--set", "seeds=[0]", "--set=methods=[xent]")
    assert lab.made == ["data movie", *(t for t in lab.made if t.endswith("seed 0"))]
    assert len(lab.made) == 4
    lab.made.clear()
    sweep("sweep", "--set", "seeds=[0]", "--set=methods=[xent]", "--keep-weights")
    assert len(lab.made) == 3, "trained again for the weights; the data is kept"


def test_a_failing_step_ends_with_1_the_reason_and_a_table_of_the_rest(lab, sweep):
    lab.failing = "weak tiny on movie, seed 1"
    code, out, err = sweep("sweep")
    assert code == 1
    assert "tiny -> small" in out
    lines = err.splitlines()
    assert lines[0].endswith("weak tiny on movie, seed 1: it was told to")
    assert [line.split()[0] for line in lines[:3]] == ["failed", "blocked", "blocked"]
    assert f"w2s show {lab.node(lab.failing).digest[:12]} --results {lab.results}" in lines[-1]


def test_run_is_a_sweep_of_one_cell(lab, ask):
    code, out, err = ask("run", "--task", "movie", "--weak", "minilm@1", "--strong", "minilm@2", "--method", "xent",
                         "--seed", "3", "--test=20", "--results", lab.results, "--set", "recipe.lr=1e-4")  # fmt: skip
    assert (code, err) == (0, "")
    assert len(lab.made) == 4
    assert all(title.endswith("seed 3") for title in lab.made[1:])
    (folder,) = (lab.results / "sweeps").iterdir()
    assert folder.name == "run-movie-minilm@1-minilm@2-xent-seed3"
    recorded = json.loads((folder / "plan.json").read_text())["sweep"]
    assert recorded["models"] == {
        "minilm@1": {"use": "minilm", "layers": 1},
        "minilm@2": {"use": "minilm", "layers": 2},
    }
    assert recorded["recipe"] == {"lr": 1e-4}
    assert "minilm@1 -> minilm@2" in out


def test_flags_of_run_reach_the_engine_and_the_recipe(lab, ask, monkeypatch):
    engines: list[Engine] = []
    recipes: list[Recipe] = []

    def execute(plan, store, *, engine, **more):
        engines.append(engine)
        recipes.extend(node.spec.recipe for node in plan.nodes.values() if node.kind == "train")
        return lab.execute(plan, store)

    monkeypatch.setattr("w2s.execute.local.execute", execute)
    words = ["run", "--task", "movie", "--weak", "minilm@1", "--strong", "minilm@2", "--results", lab.results]
    settings = ["--processes", "2", "--zero-stage=3", "--offload", "parameters", "--micro-batch-size", "auto",
                "--gradient-checkpointing", "--checkpoint-every", "200 steps", "--eval-every=7"]  # fmt: skip
    assert ask(*words, *settings)[::2] == (0, "")
    (engine,) = engines
    assert engine == Engine(processes=2, zero_stage=3, offload="parameters", micro_batch_size="auto",
                            gradient_checkpointing=True, checkpoint_every="200 steps")  # fmt: skip
    assert {recipe.eval_every for recipe in recipes} == {7}
    code, _, err = ask(*words, "--offload", "disk", "--micro-batch-size", "0")
    assert (code, err.splitlines()) == (2, [
        "w2s: run: engine.offload: expected 'none', 'optimizer' or 'parameters' (got 'disk')",
        "w2s: run: engine.micro_batch_size: expected 1 or more, or 'auto' (got 0)",
    ])  # fmt: skip


def test_what_the_machine_lacks_is_told_before_any_work_and_only_where_there_is_some(lab, sweep, monkeypatch):
    lab.yaml.write_text(lab.yaml.read_text() + "engine: {trackers: [wandb]}\n")
    monkeypatch.setattr("w2s.cli.requirements.installed", lambda name: name != "wandb")
    code, out, err = sweep("sweep")
    assert (code, out) == (1, "")
    assert err == "w2s: engine.trackers: wandb is not installed; pip install wandb, or take it out of engine.trackers\n"
    assert lab.made == []
    assert not lab.results.exists()
    assert sweep("plan")[0] == sweep("sweep", "--dry-run")[0] == 0
    for node in lab.plan().nodes.values():
        lab.finish(node)
    assert sweep("sweep")[::2] == (0, ""), "all is there: its tables need no tracker"


def test_restart_step_drops_checkpoints_before_any_work_and_says_so(lab, sweep):
    lab.failing = "data"  # so that all stays unfinished
    checkpoint = lab.store.checkpoints(lab.node("weak tiny on movie, seed 0").digest) / "step-00000010"
    checkpoint.mkdir(parents=True)
    assert sweep("sweep", "--dry-run", "--restart-step")[::2] == (0, "")
    assert "restart:" not in sweep("sweep")[2]
    assert checkpoint.is_dir()
    _, _, err = sweep("sweep", "--restart-step")
    assert err.startswith("restart: 1 checkpoint of 1 unfinished step dropped\n")
    assert not checkpoint.exists()
    assert "restart: 0 checkpoints of 0 unfinished steps dropped\n" in sweep("sweep", "--restart-step")[2]


def test_sweep_needs_a_file_that_is_there(ask, lab, monkeypatch):
    monkeypatch.chdir(lab.yaml.parent)
    code, out, err = ask("sweep", "made_upp")
    assert (code, out) == (2, "")
    assert err == "w2s: made_upp: cannot be read: No such file or directory (did you mean made_up.yaml?)\n"


def test_run_names_what_is_missing_or_wrong(ask):
    assert ask("run", "--task", "movie")[2].splitlines()[:2] == ["w2s: --weak: missing", "w2s: --strong: missing"]
    code, _, err = ask("run", "--task", "movi", "--weak", "minilm@9", "--strong", "minilm", "--method", "logcon")
    assert code == 2
    assert "logcon" in err
    assert "(did you mean logconf?)" in err


def test_status_results_and_show_of_a_sweep_with_a_failure(lab, sweep, ask):
    lab.failing = "student small of tiny on movie, xent, seed 0"
    sweep("sweep")
    where = ("--results", lab.results)
    digest = lab.node(lab.failing).digest
    code, out, _ = ask("status", *where)
    assert code == 0
    assert out.splitlines()[2].split() == ["made_up", "3/4", "8/9", "1"]
    assert f"failed {digest[:12]} {lab.failing}: it was told to" in out
    code, out, _ = ask("show", digest[:6], *where)
    assert code == 0
    assert "reason    it was told to" in out
    assert "line 99" in out
    assert "line 60" in out
    assert "line 59\n" not in out, "the last 40 lines only"
    code, table, _ = ask("results", *where)
    assert (code, ask("results", "made_up", *where)[1], ask("results", lab.yaml, *where)[1]) == (0, table, table)
    assert ask("results", "mad_up", *where)[0] == 2
    assert "(did you mean made_up?)" in ask("status", "mad_up", *where)[2]


def test_show_of_a_finished_step(lab, sweep, ask):
    sweep("sweep")
    node = lab.node("student small of tiny on movie, logconf, seed 1")
    code, out, _ = ask("show", node.digest, "--results", lab.results)
    assert code == 0
    for parent in node.parents:
        assert parent in out
    assert "  split: transfer" in out
    assert "test_accuracy" in out
    assert ask("show", "0000", "--results", lab.results)[0] == 2
    assert ask("show", "xyz", "--results", lab.results)[0] == 2


def test_verify_is_1_where_a_file_changed(lab, sweep, ask):
    sweep("sweep")
    assert ask("verify", "--results", lab.results) == (0, "artifacts checked: 9, problems: 0\n", "")
    node = lab.node("weak tiny on movie, seed 0")
    file = lab.store.path("train", node.digest) / "metrics.json"
    file.write_text("{}")
    code, out, _ = ask("verify", "--results", lab.results)
    assert (code, out.splitlines()[0]) == (1, f"{file}: content differs from the manifest")
    assert ask("verify", node.digest[:8], "--results", lab.results)[0] == 1
    assert ask("verify", lab.node("data movie").digest[:8], "--results", lab.results)[0] == 0


def test_label_says_how_to_keep_weights(lab, sweep, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["w2s", "sweep", "a b.yaml"])
    sweep("sweep")
    (tmp_path / "texts.txt").write_text("one\n")
    digest = lab.node("weak tiny on movie, seed 0").digest
    code, out, err = ask("label", digest[:8], tmp_path / "texts.txt", "--results", lab.results)
    assert (code, out) == (2, "")
    assert err.rstrip().endswith("w2s sweep 'a b.yaml' --keep-weights")


def test_a_results_folder_that_cannot_be_written(lab, ask):
    (lab.results.parent / "file").write_text("")
    code, _, err = ask("sweep", lab.yaml, "--results", lab.results.parent / "file")
    assert code == 1
    assert "choose another folder with --results" in err
    assert lab.made == []


def test_ctrl_c_is_130_and_one_line(ask, monkeypatch):
    @functools.wraps(COMMANDS["status"])
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "status", interrupted)
    assert ask("status") == (130, "", "w2s: stopped by Ctrl-C; finished steps are kept\n")


def test_a_reader_that_leaves_early_is_no_error():
    program = "import sys; from w2s.cli.main import main; sys.exit(main(['tasks']))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        found = subprocess.run(
            [sys.executable, "-c", program], stdout=gone, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert (found.returncode, found.stderr) == (141, b"")


@pytest.mark.parametrize("words", [["--help"], ["plan", "{yaml}"], ["status"], ["models"]])
def test_commands_of_the_control_half_load_nothing_heavy(words, lab):
    words = [word.format(yaml=lab.yaml) for word in words]
    program = (
        f"import sys; from w2s.cli.main import main; code = main({words!r}); "
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]; sys.exit(code or (repr(loaded) if loaded else 0))"
    )
    found = fresh("-c", program, cwd=lab.results.parent)
    assert (found.returncode, found.stderr) == (0, "")


def test_the_module_runs_too():
    found = fresh("-m", "w2s", "--version")
    assert found.stdout == f"w2s {w2s.__version__}\n"


def test_the_console_script_is_installed_beside_python():
    script = Path(sys.executable).with_name("w2s")
    found = subprocess.run([script, "nonsense"], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (2, "")


def test_tasks_and_models_are_tables(ask, lab):
    for command, row in (("tasks", "movie "), ("models", "minilm ")):
        code, out, err = ask(command)
        assert (code, err) == (0, "")
        assert any(line.startswith(row) for line in out.splitlines())


def test_prefetch_is_1_where_a_source_cannot_be_had(ask, lab, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("w2s.cli.catalogue.fetch", lambda source, **_: asked.append(source))

    def weights(model):
        asked.append(model.name)
        return Weights(tmp_path, None, None)

    monkeypatch.setattr("w2s.models.weights", weights)
    code, out, err = ask("prefetch", lab.yaml)
    assert (code, err, len(asked)) == (0, "", 2)
    assert str(lab.results.parent / "cache") in out

    def offline(model):
        raise w2s.errors.MachineError("no network")

    monkeypatch.setattr("w2s.models.weights", offline)
    code, _, err = ask("prefetch", lab.yaml)
    assert code == 1
    assert err.endswith("no network\n")


def test_label_writes_a_line_per_text(ask, lab, sweep, tmp_path, monkeypatch):
    sweep("sweep", "--keep-weights")
    node = lab.node("weak tiny on movie, seed 0")
    (tmp_path / "texts.txt").write_text("one\ntwo\n")

    def label(store, digest, texts):
        assert (store.root, digest, texts) == (lab.store.root, node.digest, ["one", "two"])
        return ("neg", "pos"), np.array([[0.75, 0.25], [0.0, 1.0]])

    monkeypatch.setattr("w2s.inference.label", label)
    words = ("label", node.digest[:8], tmp_path / "texts.txt", "--results", lab.results)
    code, out, err = ask(*words)
    assert (code, err) == (0, "")
    assert [json.loads(line)["label"] for line in out.splitlines()] == ["neg", "pos"]
    code, out, _ = ask(*words, "--out", tmp_path / "out.csv")
    assert (code, out) == (0, f"2 texts labelled: {tmp_path / 'out.csv'}\n")
    assert ask(*words, "--out", tmp_path / "none" / "out.csv")[0] == 2


def test_doctor_is_1_where_something_is_wrong(ask, lab, monkeypatch):
    monkeypatch.setattr("w2s.cli.doctor.nvidia_gpus", list)
    code, out, err = ask("doctor", "--results", lab.results)
    assert (code, err) == (0, "")
    monkeypatch.setattr("w2s.cli.doctor.PACKAGES", ("no-such-package",))
    code, out, err = ask("doctor", "--results", lab.results)
    assert (code, err) == (1, "")
    assert "!!! no-such-package is not installed" in out


def test_an_error_of_the_disk_that_nothing_foresaw_is_one_line(ask, monkeypatch):
    @functools.wraps(COMMANDS["status"])
    def broken(*_, **__):
        raise OSError(5, "Input/output error", "/disk")

    monkeypatch.setitem(cli.COMMANDS, "status", broken)
    assert ask("status") == (1, "", "w2s: /disk: Input/output error (--debug shows where)\n")
