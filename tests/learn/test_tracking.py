from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from w2s.errors import MachineError
from w2s.learn import accelerator, tracking
from w2s.spec import Engine, Recipe, TrainSpec

DIGEST = "0123456789abcdef" * 4
CONFIG = tracking.flattened({"recipe": {"lr": 1e-3, "clip_norm": None, "betas": [0.9, 0.99]}, "seed": 3})
IN_A_GROUP = """
import os, sys
from pathlib import Path
from w2s.learn import accelerator, tracking
from w2s.spec import Engine, Recipe

for digest, zero_stage in (("a" * 64, None), ("b" * 64, 1), ("c" * 64, None)):
    folder = tracking.folder_of(Path(sys.argv[1]) / f"rank{os.environ['RANK']}", digest)
    made = accelerator.make(Engine(device="cpu", processes=2, zero_stage=zero_stage), Recipe())
    assert made.num_processes == 2
    made.log_with = tracking.trackers_for(("jsonl",), folder)
    with tracking.tracked(made, {"seed": 0}):
        for step in (1, 2):
            made.log({"loss": 1.0 / step}, step=step)
"""


@pytest.fixture
def folder(tmp_path):
    return tracking.folder_of(tmp_path / "results", DIGEST)


def track(folder, rows, names=("jsonl",), title=""):
    """One start of a step: an Accelerator of its own, as a worker makes one per step."""
    made = accelerator.make(Engine(device="cpu"), Recipe())
    made.log_with = tracking.trackers_for(names, folder, title)
    with tracking.tracked(made, CONFIG):
        for step, values in rows:
            made.log(values, step=step)
    assert made.trackers == []


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(first, last):
    return [(step, {"loss": 1.0 / step, "lr": 1e-5}) for step in range(first, last + 1)]


def held():
    """What a step may leave behind in its process: open files, threads, the environment, hooks."""
    files = []
    for handle in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that by which they are listed
            files.append(os.readlink(f"/proc/self/fd/{handle}"))
    return sorted(files), {t.name for t in threading.enumerate()}, dict(os.environ), sys.excepthook, sys.exit


# -- rows in a file ---------------------------------------------------------------------------------------------


def test_a_row_per_call_and_the_settings_beside_it(folder):
    track(folder, [(1, {"loss": 0.5, "lr": 1e-5}), (1, {"val/accuracy": 1})], title="student tiny → small")
    assert (folder / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 0.5, "lr": 1e-05}\n{"step": 1, "val/accuracy": 1.0}\n'
    )
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "title": "student tiny → small", "recipe.lr": 1e-3, "recipe.clip_norm": "none",
        "recipe.betas": "[0.9, 0.99]", "seed": 3,
    }  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "metrics.jsonl"]


def test_a_row_can_be_read_as_soon_as_it_is_logged(folder):
    made = accelerator.make(Engine(device="cpu"), Recipe())
    made.log_with = tracking.trackers_for(("jsonl",), folder)
    with tracking.tracked(made, CONFIG):
        for step in (1, 2, 3):
            made.log({"loss": 1.0}, step=step)
            assert len(rows_of(folder)) == step


@pytest.mark.parametrize("checkpoint", [0, 1, 4, 7])
def test_a_run_that_goes_on_has_each_step_once(folder, tmp_path, checkpoint):
    track(folder, losses(1, 7))
    track(folder, losses(checkpoint + 1, 9))
    whole = tmp_path / "whole"
    track(whole, losses(1, 9))
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_an_evaluation_at_the_checkpoint_stays(folder):
    evaluation = (4, {"val/agreement": 0.75})
    track(folder, [*losses(1, 4), evaluation, *losses(5, 6)])
    track(folder, losses(5, 6))
    assert [row["step"] for row in rows_of(folder)] == [1, 2, 3, 4, 4, 5, 6]


def test_killed_at_any_byte_it_goes_on(folder):
    track(folder, losses(1, 4))
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    two_rows = len(b"".join(whole.splitlines(keepends=True)[:2]))
    for cut in range(two_rows, len(whole)):  # a checkpoint of step 2 is there, so its rows are
        path.write_bytes(whole[:cut])
        track(folder, losses(3, 4))
        assert path.read_bytes() == whole, cut


def test_what_is_no_row_is_dropped(folder):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(b'\x00\x00\n[1]\n{"step": "1"}\n{"loss": 2}\n{"step": 1, "loss": 1.0}\n')
    track(folder, losses(2, 2))
    assert [row["step"] for row in rows_of(folder)] == [1, 2]


def test_not_a_number_is_null(folder):
    track(folder, [(1, {"loss": math.nan, "norm": math.inf, "accuracy": np.float64(0.5)})])
    assert rows_of(folder) == [{"step": 1, "loss": None, "norm": None, "accuracy": 0.5}]


def test_a_tensor_is_refused(folder):
    with pytest.raises(TypeError, match="loss: a Tensor"):
        track(folder, [(1, {"loss": torch.tensor(0.5)})])
    assert not (folder / "metrics.jsonl").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(MachineError, match="a file stands where a folder is needed"):
        track(tracking.folder_of(tmp_path / "results", DIGEST), losses(1, 1))


# -- in a worker ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_steps_in_one_process_do_not_meet(folder, tmp_path):
    other = tracking.folder_of(tmp_path / "results", "f" * 64)
    track(folder, losses(1, 1))
    before = held()
    for turn in range(1, 4):
        track(folder, losses(turn, turn))
        with pytest.raises(KeyboardInterrupt):
            interrupted(other)
    assert held() == before
    assert [row["step"] for row in rows_of(folder)] == [1, 2, 3]
    assert [row["step"] for row in rows_of(other)] == [1, 2]


def interrupted(folder):
    made = accelerator.make(Engine(device="cpu"), Recipe())
    made.log_with = tracking.trackers_for(("jsonl",), folder)
    with tracking.tracked(made, CONFIG):
        for step, values in losses(1, 2):
            made.log(values, step=step)
        raise KeyboardInterrupt


def test_nothing_is_written_without_a_tracker(folder):
    track(folder, losses(1, 2), names=())
    assert not folder.exists()


@pytest.mark.recipe
def test_only_the_main_rank_writes(tmp_path):
    """Two real ranks work through three steps, one of them with DeepSpeed."""
    (tmp_path / "group.py").write_text(IN_A_GROUP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(tmp_path / "group.py"), str(tmp_path)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    written = sorted(path.parent.name[0] for path in tmp_path.glob("rank0/tracking/*/metrics.jsonl"))
    assert written == ["a", "b", "c"]
    assert [row["loss"] for row in rows_of(tmp_path / "rank0" / "tracking" / ("c" * 16))] == [1.0, 0.5]
    assert not (tmp_path / "rank1").exists()


# -- settings ---------------------------------------------------------------------------------------------------


def test_a_spec_becomes_scalars():
    spec = TrainSpec(
        data="d" * 64, split="transfer", recipe=Recipe(), engine=Engine(),
        model={"name": "tiny", "source": {"file": "m", "sha256": "0" * 64}},
    )  # fmt: skip
    flat = tracking.flattened(spec.model_dump(mode="json"))
    assert flat["recipe.lr"] == spec.recipe.lr
    assert flat["model.source.file"] == "m"
    assert flat["engine.trackers"] == '["jsonl"]'
    assert {type(value) for value in flat.values()} <= {bool, int, float, str}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_absent_is_one_line(name, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # Python's way to say that there is no such package
    with pytest.raises(MachineError, match=rf"^engine.trackers: {name} is not installed; pip install {name}, or take"):
        tracking.trackers_for(("jsonl", name), folder)
    assert not folder.exists()


def test_a_folder_is_no_package(tmp_path, monkeypatch):
    """wandb makes a folder of its own name where it runs, and Python takes any folder for a package."""
    (tmp_path / "some_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("some_tracker")
    assert not tracking._is_installed("some_tracker")
    assert tracking._is_installed("accelerate")


# -- other people's trackers: real ones, where they are installed -------------------------------------------------


def test_tensorboard_shows_each_step_once(folder):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    before = threading.active_count()
    track(folder, losses(1, 10), names=("tensorboard",))
    track(folder, losses(8, 12), names=("tensorboard",))
    seen = reader.EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [
        (step, pytest.approx(1.0 / step)) for step in range(1, 13)
    ]
    assert b"recipe.lr" in seen.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert all(path.is_file() for path in folder.iterdir())
    assert threading.active_count() == before


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A person who never set up wandb."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nobody")
def test_wandb_stays_offline_for_who_is_not_logged_in(folder, capfd):
    track(folder, losses(1, 2), names=("wandb",))
    capfd.readouterr()
    before = held()
    track(folder, losses(1, 3), names=("wandb",), title="student")
    assert held() == before
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("engine.trackers")]
    assert lines == [
        "engine.trackers: wandb: nobody is logged in (`wandb login`), so the run stays offline: "
        f"`wandb sync {folder / 'wandb' / 'offline-run-*'}`"
    ]
    runs = list((folder / "wandb").glob(f"offline-run-*-{DIGEST[:16]}*"))
    assert len(runs) == 2
    assert all((run / f"run-{DIGEST[:16]}.wandb").stat().st_size > 0 for run in runs)


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(("mode", "runs"), [("offline", 1), ("disabled", 0)])
def test_wandb_does_as_it_was_set_up(mode, runs, folder, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", mode)
    track(folder, losses(1, 2), names=("wandb",))
    assert len(list(folder.glob("wandb/offline-run-*"))) == runs
    assert "engine.trackers" not in capfd.readouterr().err


@pytest.mark.usefixtures("nobody")
def test_wandb_that_cannot_start_is_one_line(folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "bogus")
    before = held()[2:]  # the environment and the hooks
    with pytest.raises(MachineError, match=r"^engine.trackers: wandb cannot start: .*mode.*; take it out$"):
        track(folder, losses(1, 2), names=("jsonl", "wandb"))
    assert held()[2:] == before
