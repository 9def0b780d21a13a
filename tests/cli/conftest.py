"""Commands as a user calls them, and a sweep that is submitted to a made-up SLURM."""

from __future__ import annotations

import json
import sys

import pytest

from w2s.cli import main as cli

# Sources in files, so that nothing has to be fetched.
YAML = """\
question: Is it made up?
tasks: {movie: {file: moods.jsonl, text: text, label: mood, classes: [bad, good]}}
sizes: {weak_train: 8, transfer: 8, val: 4, test: 20}
models: {tiny: {use: ./tiny}, small: {use: ./small}}
methods: [xent, logconf]
seeds: [0, 1]
"""
SCRIPT = '#!/bin/bash\n#SBATCH --account=x\nexec "$@"\n'


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """However slow this machine is, no command here takes so long that it tells how far it is."""
    monkeypatch.setattr("w2s.cli.report.QUIET_S", float("inf"))


@pytest.fixture
def ask(capsys):
    """Runs one command: (exit code, what it printed, its complaints)."""

    def run(*words):
        code = cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def site(made_up, slurm, tmp_path, monkeypatch):
    """A lab in the folder one works in, with a batch script there."""
    for name in ("tiny", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"num_hidden_layers": 2}')
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    rows = [{"text": f"text {number}", "mood": "good" if number % 2 else "bad"} for number in range(60)]
    (tmp_path / "moods.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "array.sbatch").write_text(SCRIPT)
    made_up.yaml.write_text(YAML)
    monkeypatch.chdir(tmp_path)
    return made_up


@pytest.fixture
def launch(site, ask, monkeypatch):
    """`w2s sweep made_up.yaml --launcher slurm` and more words."""

    def run(*words):
        given = ["sweep", "made_up.yaml", "--launcher", "slurm", *words]
        monkeypatch.setattr(sys, "argv", ["w2s", *given])
        return ask(*given)

    return run
