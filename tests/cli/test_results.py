"""w2s results and w2s compare as a user meets them: one sweep, several, watching, wrong requests, damage."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import w2s
from w2s.analyze import figures
from w2s.cli import report, results
from w2s.cli.report import Progress, standing, watch
from w2s.errors import SpecError

SCRIPT = Path(w2s.__file__).resolve().parent.parent / "results" / "aggregate.py"


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def done(lab, ask, monkeypatch):
    """The lab's sweep, finished; no figures, which other tests draw. Runs commands on it."""
    monkeypatch.setattr(figures, "figures", lambda *_: iter(()))
    assert ask("sweep", lab.yaml, "--results", lab.results)[0] == 0
    return lambda *words: ask(*words, "--results", lab.results)


def another(lab, name, **replaced):
    """One more sweep with some lines of its YAML changed."""
    path = lab.yaml.with_name(f"{name}.yaml")
    text = lab.yaml.read_text(encoding="utf-8")
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


# -- results -------------------------------------------------------------------------------------------------------


def test_results_of_the_last_sweep_by_name_file_and_folder(lab, done):
    code, table, err = done("results")
    assert (code, err) == (0, "")
    last = (
        f"written to {lab.results / 'sweeps' / 'made_up'}: confidence.csv, labels.csv, report.html, rows.csv, "
        "rows.parquet, scaling.csv"
    )
    assert table.splitlines()[-1].startswith(last)
    for given in ("made_up", lab.yaml, lab.results / "sweeps" / "made_up"):
        assert done("results", given) == (0, table, "")


def test_several_sweeps_are_one_table_and_no_sweep_of_their_own(lab, done):
    more = another(lab, "more", seeds=("seeds: [0, 1]", "seeds: [1, 2, 3]"))
    assert done("sweep", more)[0] == 0
    code, out, _ = done("results", "made_up", "more")
    assert code == 0
    assert "20 test examples, 4 seeds" in out
    assert f"written to {lab.results / 'sweeps' / 'made_up+more'}: " in out
    assert (lab.results / "sweeps" / "made_up+more" / "report.html").exists()
    sweeps = [line.split()[0] for line in done("status")[1].splitlines()[2:]]
    assert sweeps == ["made_up", "more"]
    assert done("results", "made_up+more")[0] == 2
    assert "20 test examples, 3 seeds" in done("results")[1]  # the last sweep, not the merge


def test_flags_reach_the_tables(done):
    assert "Difference from xent" in done("results")[1]
    code, out, _ = done("results", "--baseline", "logconf", "--metric", "auroc", "--size", "flops")
    assert code == 0
    assert "Difference from logconf" in out
    assert "AUROC" in out


def test_all_that_is_wrong_is_said_at_once_before_any_work(lab, done, monkeypatch):
    monkeypatch.setattr(report, "report", None)  # nobody may call it
    code, out, err = done("results", "made_up", "mad_up", "made_up", "--baseline", "xnt", "--metric", "auc",
                          "--size", "flop", "--every", "0")  # fmt: skip
    assert (code, out) == (2, "")
    assert [line.partition(" in /")[0] for line in err.splitlines()] == [
        "w2s: --every: is for --watch; give that too",
        "w2s: --every: expected more than 0 seconds (got 0)",
        "w2s: sweep: no sweep named 'mad_up'",
        "w2s: sweep: 'made_up' is given twice; give it once",
        "w2s: --metric: no such metric 'auc' (did you mean auroc?)",
        "w2s: --size: no such size 'flop' (did you mean flops?)",
        "w2s: --baseline: the sweep has no method 'xnt' (did you mean xent?)",
    ]
    assert "(did you mean made_up?)" in err


def test_nothing_planned_yet(lab, ask):
    for words in (["results"], ["results", "x"], ["compare", "x", "y"]):
        code, out, err = ask(*words, "--results", lab.results)
        assert (code, out) == (2, "")
        assert "Traceback" not in err


def test_a_damaged_artifact_is_named_left_out_and_exit_code_1(lab, done):
    node = lab.node("student small of tiny on movie, logconf, seed 1")
    (lab.store.path("train", node.digest) / "predictions" / "test.parquet").write_bytes(b"PAR1")
    code, out, err = done("results")
    assert code == 1
    assert node.digest in out.replace("\n", "")  # a long path may be wrapped
    assert "1/2" in out
    assert err == "w2s: 1 problem, named under the tables\n"


def test_a_figure_that_cannot_be_made_is_exit_code_1_with_all_tables(lab, done, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("x")

    monkeypatch.setattr(figures, "figures", broken)
    code, out, _ = done("results")
    assert code == 1
    assert "figures: could not be made: ZeroDivisionError: x" in out
    assert "report.html, rows.csv" in out.splitlines()[-1]


def test_aggregate_does_what_results_does_from_any_folder(lab, done, tmp_path):
    def script(*words, **more):
        return subprocess.run(
            [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False, timeout=120, **more
        )

    (tmp_path / "elsewhere").mkdir()
    found = script("made_up", "--results", str(lab.results), cwd=tmp_path / "elsewhere")
    assert (found.returncode, found.stdout.splitlines()[0]) == (0, done("results")[1].splitlines()[0])
    wrong = script("mad_up", f"--results={lab.results}", cwd="/")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean made_up?" in wrong.stderr
    own = script("no_such_sweep", cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    assert own.returncode == 2
    assert str(SCRIPT.parent / "sweeps") in own.stderr


# -- watching ------------------------------------------------------------------------------------------------------


def test_watching_shows_again_what_has_changed_and_ends_when_nothing_is_to_come(lab, done, capsys):
    """Negative control: a look at which nothing has changed shows nothing."""
    more = another(lab, "more", seeds=("seeds: [0, 1]", "seeds: [2]"))
    from w2s import plan as plans
    from w2s.experiments import expand
    from w2s.sweep import read_sweep

    sweep = read_sweep(more)
    planned = plans.build(sweep, expand(sweep))
    plans.write(planned, lab.results / "sweeps" / "more")
    left = [node for digest, node in planned.nodes.items() if not lab.store.has(node.kind, digest)]
    assert len(left) == 4
    shown, slept = [], []

    def show():
        shown.append(len(left))
        return 0

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) % 2 == 0:
            lab.finish(left.pop(0))

    assert watch(["more", "made_up"], lab.results, 7.0, show, sleep) == 0
    assert shown == [4, 3, 2, 1, 0]
    assert slept == [7.0] * 8
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "9 of 13 steps done; 4 to come: looking every 7 s, Ctrl-C ends"
    assert err[-1] == "13 of 13 steps done"


def test_watching_ends_where_what_is_left_failed_or_is_blocked_and_keeps_the_exit_code(lab, done, capsys):
    node = lab.node("student small of tiny on movie, logconf, seed 1")
    lab.store.fail(node.digest, "out of memory")
    import shutil

    shutil.rmtree(lab.store.path("train", node.digest))
    assert watch(["made_up"], lab.results, 7.0, lambda: 1, sleep=None) == 1
    assert "8 of 9 steps done, 1 failed" in capsys.readouterr().err
    assert standing(["made_up"], lab.results)[node.digest] == "failed"


@pytest.mark.parametrize("plan", ["{", "[]", '{"cells": []}', '{"steps": 3}', '{"steps": [1]}', '{"steps": [{}]}'])
def test_watching_a_damaged_plan_says_so(lab, done, plan):
    (lab.results / "sweeps" / "made_up" / "plan.json").write_text(plan)
    code, out, err = done("results", "made_up", "--watch")
    assert (code, out) == (1, "")
    assert "plan.json: damaged" in err


def test_watch_from_the_command_line(lab, done):
    code, out, err = done("results", "--watch")
    assert code == 0
    assert out == done("results")[1]
    assert err.splitlines() == ["9 of 9 steps done"]


def test_ctrl_c_ends_watching_as_it_ends_everything(lab, done, monkeypatch):
    node = lab.node("student small of tiny on movie, logconf, seed 1")
    import shutil

    shutil.rmtree(lab.store.path("train", node.digest))
    looked = []

    def interrupted(seconds):
        looked.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(report.watch, "__defaults__", (interrupted,))
    code, out, err = done("results", "--watch", "--every", "0.5")
    assert code == 130
    assert "1/2" in out
    assert "w2s: stopped by Ctrl-C; finished steps are kept" in err
    assert looked == [0.5]


# -- progress ------------------------------------------------------------------------------------------------------


def test_progress_in_a_log_is_a_line_per_stage_and_one_every_ten_seconds(monkeypatch):
    monkeypatch.setattr(report, "QUIET_S", 2.0)
    clock, stream = Clock(), io.StringIO()
    told = Progress(("reading", "intervals", "figures"), stream, clock)
    told("reading a", 0, 10)
    clock.now_s = 1.9
    told("reading a", 5, 10)
    assert stream.getvalue() == ""
    clock.now_s = 3.0
    told("intervals", 1, 40)
    clock.now_s = 8.0
    told("intervals", 10, 40)
    clock.now_s = 13.0
    told("intervals", 20, 40)
    told("figures: \x1b[31maccuracy", 3, 0)
    assert [line.strip() for line in stream.getvalue().splitlines()] == [
        "0:03  intervals 1/40 (2 %); left: figures",
        "0:13  intervals 20/40 (50 %); left: figures",
        "0:13  figures:  [31maccuracy",
    ]


def test_progress_on_a_terminal_moves_in_place_and_leaves_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(report, "QUIET_S", 2.0)
    clock, stream = Clock(), Screen()
    with Progress(("reading", "report"), stream, clock) as told:
        told("reading", 1, 2)
        assert stream.getvalue() == ""
        clock.now_s = 2.5
        told("reading", 2, 2)
    written = stream.getvalue()
    assert "reading 2/2 (100 %); left: report" in written
    assert "\x1b[2K" in written


# -- compare -------------------------------------------------------------------------------------------------------


def test_compare_says_what_changed_summary_first(lab, done):
    other = another(lab, "other", a=("seeds: [0, 1]", "seeds: [1, 2]"), b=("xent, logconf", "logconf, xent"))
    other.write_text(other.read_text() + "recipe: {lr: 1e-3}\n")
    assert done("sweep", other)[0] == 0
    code, out, err = done("compare", "made_up", "other")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "made_up -> other"
    assert lines[2:4] == [
        "in both    2 rows: 0 students the same run, 2 another",
        "in one     2 rows only in made_up, 2 only in other",
    ]
    assert "Only in made_up (1)" in lines
    assert "movie, tiny -> small, seed 0: xent; logconf" in lines
    fields = out.partition("What runs were asked")[2].splitlines()[3:6]
    assert [line.split() for line in fields] == [
        ["2", "student", "recipe.lr", "1e-05", "0.001"],
        ["1", "weak", "recipe.lr", "1e-05", "0.001"],
        ["1", "ceiling", "recipe.lr", "1e-05", "0.001"],
    ]
    assert '{"lr": 0.001}' in out.partition("What the sweeps' files say")[2]


def test_compare_exact(lab, done, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(lab.results, copy)
    words = ("compare", "made_up", "made_up", "--other-results", copy)
    assert done(*words)[0] == 0
    code, out, _ = done(*words, "--exact")
    assert (code, out.splitlines()[-1]) == (0, "exact: no number differs")
    assert f"{lab.results} -> {copy}" in out
    node = lab.node("student small of tiny on movie, logconf, seed 1")
    shutil.rmtree(copy / "store" / "train" / node.digest[:2] / node.digest)
    assert done(*words)[0] == 0
    code, out, _ = done(*words, "--exact")
    assert (code, out.splitlines()[-1]) == (1, "exact: the numbers are not the same")
    assert "not finished in" in out
    assert "numbers    none differs\nabsent     9 numbers of these rows only one of the two has\n" in out
    more = another(lab, "more", seeds=("seeds: [0, 1]", "seeds: [0]"))
    assert done("sweep", more)[0] == 0
    assert done("compare", "made_up", "more", "--exact")[0] == 1  # no number differs, but rows are missing
    assert "numbers    none differs" in done("compare", "made_up", "more")[1]


def test_compare_refuses_all_wrong_names_and_a_sweep_with_itself(lab, done):
    code, out, err = done("compare", "mad_up", "nothing")
    assert (code, out) == (2, "")
    assert [line.partition(" in /")[0] for line in err.splitlines()] == [
        "w2s: sweep: no sweep named 'mad_up'", "w2s: sweep: no sweep named 'nothing'"
    ]  # fmt: skip
    code, out, err = done("compare", "made_up", lab.yaml)
    assert (code, out) == (2, "")
    assert "are one sweep" in err


def test_compare_of_a_damaged_artifact_names_it_and_is_exit_code_1(lab, done, tmp_path):
    import shutil

    shutil.copytree(lab.results, tmp_path / "copy")
    node = lab.node("student small of tiny on movie, logconf, seed 1")
    (lab.store.path("train", node.digest) / "predictions" / "test.parquet").write_bytes(b"PAR1")
    code, out, err = done("compare", "made_up", "made_up", "--other-results", tmp_path / "copy")
    assert code == 1
    assert node.digest in err
    assert "student_accuracy" in out


def test_long_parts_are_cut_and_counted_and_values_are_one_line():
    body = ["head", "rule", *(f"line {i}" for i in range(30))]
    shown = results._part("Numbers", body, 2)
    assert shown[1] == "Numbers (30)"
    assert shown[-1] == f"and {30 - results.SHOWN} more"
    assert len(shown) == 2 + 2 + results.SHOWN + 1
    assert results._part("Nothing", ["head", "rule"], 2) == []
    assert results.shown("a\x1b[2J\nb") == "a [2J b"
    assert len(results.shown("x" * 1000)) == results.SHOWN_CHARS
    assert results.shown({"a": [1, None]}) == '{"a": [1, null]}'


def test_cells_stand_on_lines_of_their_own_where_the_terminal_is_narrow():
    head, row = ("change", "cell"), ("+0.1", "movie, a model with a long name -> another")
    wide = results._by_cell(head, [row], None, ())
    assert wide[-1].endswith(row[-1])
    narrow = results._by_cell(head, [row], 40, ())
    assert narrow[-1] == f"{row[-1]}\n  +0.1"
    another = ("-0.1", "movie, another model -> a model with a long name")
    narrow = results._by_cell(head, [row, row, another, row], 40, ())
    assert "\n".join(narrow[2:]) == f"{row[-1]}\n  +0.1\n  +0.1\n{another[-1]}\n  -0.1\n{row[-1]}\n  +0.1"


def test_values_of_both_sweeps_are_cut_alike_where_the_terminal_is_narrow():
    head, short, long = ("field", "a", "b"), "x" * 10, "y" * 90
    assert results._values(head, [("size", long, short)], None)[-1].split() == ["size", long, short]
    assert results._values(head, [("size", short, long)], 40)[-1] == f"size   {short}  {'y' * 18}..."
    assert results._values(head, [("size", long, short)], 40)[-1] == f"size   {'y' * 18}...  {short}"
    both = results._values(head, [("size", long, long)], 40)[-1]
    assert both == f"size   {'y' * 12}...  {'y' * 12}..."


def test_a_comparison_fits_a_narrow_terminal(lab, done, monkeypatch):
    more = another(lab, "more", seeds=("seeds: [0, 1]", "seeds: [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]"))
    assert done("sweep", more)[0] == 0
    monkeypatch.setattr("w2s.cli.terminal.width", lambda: 60)
    code, out, _ = done("compare", "made_up", "more")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 60
    assert "10, 11, 12, 13, 14, 15, 16: xent; logconf" in " ".join(out.split())


def test_requirements_are_in_the_words_of_the_command_line(lab, done):
    with pytest.raises(SpecError, match=r"^--metric: no such metric 'x'"):
        results.require(["made_up"], lab.results, None, "x", "params", [])
    results.require(["made_up"], lab.results, "xent", "auroc", "flops", [])
