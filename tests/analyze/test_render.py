"""Rendering sweeps: the same store gives the same bytes, stale files go, and what is missing or failed is said."""

from __future__ import annotations

import csv
import io
import math
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest
from rich.console import Console

from w2s.analyze import figures, report
from w2s.analyze.reading import rows
from w2s.analyze.render import STAGES, render, require
from w2s.errors import MachineError, SpecError
from w2s.spec import Weak
from w2s.store import Store

pytestmark = pytest.mark.usefixtures("few_resamples")

TABLES = ["confidence.csv", "labels.csv", "report.html", "rows.csv", "rows.parquet", "scaling.csv", "table.csv"]
TABLES += ["table.md", "table.parquet", "table.tex"]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def sketched(monkeypatch):
    """One small figure instead of all of them, for what is not about figures; returns what was asked for."""
    asked: list[tuple[str, str]] = []

    def sketch(rows, cells, metric="accuracy", size="params") -> Iterator[figures.Named]:
        asked.append((metric, size))
        drawn = figures.Figure(figsize=(1, 1))
        drawn.text(0.1, 0.5, f"{len(cells)} cells")
        yield figures.Named("accuracy-movie", "Accuracy", "a sketch", drawn, "accuracy", "movie")

    monkeypatch.setattr(figures, "figures", sketch)
    return asked


def test_everything_is_written_and_listed(synthetic):
    made = synthetic().fill()
    heard = []
    rendered = render("one", made.root, progress=lambda what, done, total: heard.append((what, done, total)))
    folder = made.root / "sweeps" / "one"
    listed = sorted(str(path.relative_to(folder)) for path in rendered.paths)
    kinds = ("accuracy", "pgr", "agreement", "calibration")
    assert {f"figures/{kind}-movie.{ending}" for kind in kinds for ending in ("png", "svg")} < set(listed)
    assert [name for name in listed if "/" not in name] == TABLES
    assert sorted(contents(folder)) == sorted([*listed, "plan.json"])
    assert (rendered.problems, rendered.unfinished, len(rendered.cells), len(rendered.rows.frame)) == ([], [], 2, 6)
    png = (folder / "figures" / "accuracy-movie.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 600
    assert height > 150
    stages = list(dict.fromkeys(what.split(":")[0].split(" ")[0] for what, _, _ in heard))
    assert stages == list(STAGES)
    assert ("intervals", 2, 2) in heard


def test_the_same_store_gives_the_same_bytes_in_any_order_of_writing(synthetic):
    """But for the report, which tells when the runs ran."""
    first = synthetic(folder="a", seeds=[0, 1]).fill()
    second = synthetic(folder="b", seeds=[0, 1]).fill(reverse=True)
    render("one", first.root)
    render("one", second.root)
    texts, others = (contents(made.root / "sweeps" / "one") for made in (first, second))
    assert {**texts, "report.html": b""} == {**others, "report.html": b""}
    render("one", first.root)
    assert texts == contents(first.root / "sweeps" / "one")


def test_another_store_gives_other_bytes(synthetic, sketched):
    first = synthetic(folder="a").fill()
    second = synthetic(folder="b", accuracy=lambda node: 0.7).fill()
    render("one", first.root)
    render("one", second.root)
    one, other = (contents(made.root / "sweeps" / "one") for made in (first, second))
    assert all(one[name] != other[name] for name in TABLES)


def test_stale_files_and_half_written_ones_go(synthetic, sketched):
    made = synthetic().fill()
    folder = made.root / "sweeps" / "one"
    (folder / "figures").mkdir()
    (folder / "figures" / "accuracy-gone.png").write_bytes(b"old")
    (folder / "figures" / ".pgr-movie.png-abc").write_bytes(b"half")
    (folder / "medians.csv").write_text("of a time when there were two tasks")
    render("one", made.root)
    assert sorted(p.name for p in (folder / "figures").iterdir()) == ["accuracy-movie.png", "accuracy-movie.svg"]
    assert not (folder / "medians.csv").exists()


def test_several_tasks_have_a_file_of_medians(synthetic, sketched):
    made = synthetic(tasks=["movie", "amazon"], seeds=[0]).fill()
    assert "medians.csv" in {path.name for path in render("one", made.root).paths}
    lines = list(csv.DictReader(io.StringIO((made.root / "sweeps" / "one" / "medians.csv").read_text())))
    assert {(line["metric"], line["method"]) for line in lines} == {
        (metric, method) for metric in ("accuracy", "auroc") for method in ("xent", "logconf")
    }


def test_parquet_holds_what_the_csv_holds(synthetic, sketched):
    made = synthetic(seeds=[0, 1]).fill(leave_out=[])
    folder = render("one", made.root).folder
    table, text = pandas.read_parquet(folder / "rows.parquet"), pandas.read_csv(folder / "rows.csv")
    assert list(table.columns) == list(text.columns)
    assert table["student_accuracy"].tolist() == text["student_accuracy"].tolist()
    assert table["student_digest"].tolist() == text["student_digest"].tolist()


def test_a_metric_and_a_size_reach_tables_and_figures(synthetic, sketched):
    made = synthetic().fill()
    render("one", made.root)
    accuracy = (made.root / "sweeps" / "one" / "table.md").read_text()
    render("one", made.root, metric="auroc", size="flops", baseline="logconf")
    auroc = (made.root / "sweeps" / "one" / "table.md").read_text()
    assert sketched == [("accuracy", "params"), ("auroc", "flops")]
    assert "AUROC" in auroc
    assert "Difference from xent" in accuracy
    assert "Difference from logconf" in auroc


def test_a_partial_sweep_renders_and_says_what_is_missing(synthetic, sketched):
    made = synthetic()
    (weak,) = made.digests("weak weak-3l on movie, seed 2")
    blocked = made.digests("xent, seed 2") + made.digests("logconf, seed 2")
    made.store.fail(weak, "out of memory")
    made.fill(leave_out=[weak, *blocked])
    rendered = render("one", made.root)
    text = (made.root / "sweeps" / "one" / "table.md").read_text()
    assert "2/3" in text
    assert "failed: weak weak-3l on movie, seed 2: out of memory" in text
    assert "blocked: student strong-20l of weak-3l on movie, xent, seed 2; student" in text
    assert rendered.problems == []
    assert len(rendered.unfinished) == 2
    assert "% not finished: failed: weak" in (made.root / "sweeps" / "one" / "table.tex").read_text()
    assert "out of memory" in (made.root / "sweeps" / "one" / "report.html").read_text()
    out = io.StringIO()
    rendered.show(Console(file=out, width=80, color_system=None))
    assert "out of memory" in out.getvalue()


def test_nothing_run_yet_renders_tables_without_figures(synthetic):
    made = synthetic()
    rendered = render("one", made.root)
    assert sorted(path.name for path in rendered.paths) == TABLES
    assert "No student has finished yet." in (made.root / "sweeps" / "one" / "table.md").read_text()
    shutil.rmtree(made.root / "store", ignore_errors=True)
    assert render("one", made.root).unfinished == [f"missing: {len(made.plan.nodes)} steps (not run yet)"]


def test_damage_is_reported_and_the_rest_rendered(synthetic, sketched):
    made = synthetic().fill()
    (digest,) = made.digests("logconf, seed 1")
    (made.store.path("train", digest) / "predictions" / "test.parquet").write_bytes(b"PAR1")
    rendered = render("one", made.root)
    assert len(rendered.problems) == 1
    assert digest in rendered.problems[0]
    assert "**Problems**" in (made.root / "sweeps" / "one" / "table.md").read_text()
    xent, logconf = rendered.cells
    assert (xent.accuracy.student.seeds, logconf.accuracy.student.seeds) == (3, 2)


def test_a_figure_that_cannot_be_made_costs_neither_tables_nor_report_and_is_named(synthetic, sketched, monkeypatch):
    made = synthetic().fill()
    folder = made.root / "sweeps" / "one"
    assert render("one", made.root).problems == []
    sketch = figures.figures

    def breaking(*given):
        yield from sketch(*given)
        raise ZeroDivisionError("of\nsome kind")

    monkeypatch.setattr(figures, "figures", breaking)
    (folder / "table.md").unlink()
    rendered = render("one", made.root)
    assert rendered.problems == ["figures: could not be made: ZeroDivisionError: of some kind"]
    assert sorted(path.name for path in rendered.paths if path.parent == folder) == TABLES
    assert (folder / "figures" / "accuracy-movie.svg").exists()
    out = io.StringIO()
    rendered.show(Console(file=out, width=80, color_system=None))
    assert "ZeroDivisionError" in out.getvalue()


def test_a_report_that_cannot_be_made_is_named_and_an_old_one_goes(synthetic, sketched, monkeypatch):
    made = synthetic().fill()
    render("one", made.root)

    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(report, "page", broken)
    rendered = render("one", made.root)
    assert rendered.problems == ["report.html: could not be made: KeyError: 'x'"]
    assert not (made.root / "sweeps" / "one" / "report.html").exists()
    assert (made.root / "sweeps" / "one" / "figures" / "accuracy-movie.svg").exists()


def test_a_full_disk_is_no_problem_of_a_figure(synthetic, monkeypatch):
    made = synthetic().fill()

    def full(*_):
        raise OSError(28, "No space left on device", str(made.root / "x"))

    monkeypatch.setattr(figures, "figures", full)
    with pytest.raises(MachineError, match="the disk is full"):
        render("one", made.root)
    assert (made.root / "sweeps" / "one" / "table.md").exists()


def test_a_results_folder_that_may_not_be_written_to_is_named_with_what_helps(synthetic, monkeypatch):
    made = synthetic().fill()

    def refused(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(MachineError, match=r"one: may not be written to; copy the results folder"):
        render("one", made.root)


def test_a_folder_in_the_way_of_a_table_is_named(synthetic, sketched):
    made = synthetic().fill()
    (made.root / "sweeps" / "one" / "table.md").mkdir()
    with pytest.raises(MachineError, match=r"table\.md: a folder stands where a file is needed; move it away"):
        render("one", made.root)


def test_a_file_in_the_way_of_the_figures_is_named_and_the_tables_are_there(synthetic, sketched):
    made = synthetic().fill()
    (made.root / "sweeps" / "one" / "figures").write_text("a file")
    rendered = render("one", made.root)
    assert len(rendered.problems) == 1
    assert "figures: a file stands where a folder is needed; move it away" in rendered.problems[0]
    assert sorted(path.name for path in rendered.paths) == TABLES


def test_a_baseline_of_a_merge_is_named_as_in_its_tables(synthetic, sketched):
    """Negative control: the same name means nothing to one sweep alone."""
    synthetic(name="a").fill()
    made = synthetic(name="b", recipe={"lr": 1e-3}).fill()
    rendered = render(["a", "b"], made.root, baseline="xent [b]")
    assert {cell.baseline for cell in rendered.cells} == {"xent [b]"}
    for names, baseline in ((["b"], "xent [b]"), (["a", "b"], "xnt [b]"), (["a", "b"], "xent [c]")):
        with pytest.raises(SpecError, match=r"^baseline: the sweep has no method"):
            render(names, made.root, baseline=baseline)


def test_several_sweeps_go_into_a_folder_that_is_no_sweeps(synthetic, sketched):
    synthetic(name="a").fill()
    made = synthetic(name="b", seeds=[3, 4]).fill()
    before = contents(made.root / "sweeps" / "a")
    rendered = render(["a", "b"], made.root)
    assert rendered.folder == made.root / "sweeps" / "a+b"
    assert sorted(path.name for path in rendered.folder.iterdir()) == sorted([*TABLES, "figures"])
    assert {cell.seeds for cell in rendered.cells} == {(0, 1, 2, 3, 4)}
    assert contents(made.root / "sweeps" / "a") == before


def test_what_a_merge_keeps_apart_is_said_in_every_text(synthetic, sketched):
    synthetic(name="a").fill()
    made = synthetic(name="b", recipe={"lr": 1e-3}).fill()
    folder = render(["a", "b"], made.root).folder
    for name in ("table.md", "table.tex", "report.html"):
        assert "w2s compare a b" in (folder / name).read_text(), name


def test_wrong_requests_are_refused_all_at_once_before_anything_is_read(synthetic, monkeypatch):
    made = synthetic().fill()
    before = contents(made.root)
    monkeypatch.setattr(rows, "load", None)  # nobody may call it
    with pytest.raises(SpecError) as caught:
        render(["one", "onn", "one"], made.root, baseline="xnt", metric="auc", size="flop")
    assert [line.partition(" in /")[0] for line in caught.value.problems] == [
        "sweep: no sweep named 'onn'",
        "sweep: 'one' is given twice; give it once",
        "metric: no such metric 'auc' (did you mean auroc?)",
        "size: no such size 'flop' (did you mean flops?)",
        "baseline: the sweep has no method 'xnt' (did you mean xent?)",
    ]
    assert contents(made.root) == before
    with pytest.raises(TypeError):
        render("one", made.root)


FOUR = {"file": "four.jsonl", "text": "text", "label": "label", "classes": ["a", "b", "c", "d"]}


@pytest.fixture
def many_classes(tmp_path, synthetic):
    """A sweep on tasks some of which have four classes."""
    (tmp_path / "results").mkdir()
    lines = "".join(f'{{"text": "t{i}", "label": "{"abcd"[i % 4]}"}}\n' for i in range(400))
    (tmp_path / "results" / "four.jsonl").write_text(lines)
    return lambda *names: synthetic(
        tasks={name: FOUR if name == "four" else name for name in names}, seeds=[0]
    ).fill()  # fmt: skip


def test_auroc_where_every_task_has_more_than_two_classes_is_refused(many_classes):
    made = many_classes("four")
    with pytest.raises(SpecError, match=r"metric: auroc needs two classes, and no task has two: four \(4\)"):
        require(["one"], made.root, metric="auroc")
    assert require(["one"], made.root, metric="accuracy") == [made.root / "sweeps" / "one"]


def test_auroc_where_some_tasks_have_more_is_absent_there_with_its_reason(many_classes, sketched):
    made = many_classes("four", "movie")
    rendered = render("one", made.root, metric="auroc")
    reasons = {cell.task: cell.auroc.student.reason for cell in rendered.cells}
    assert reasons == {"four": "AUROC needs two classes", "movie": ""}


def test_rendering_only_reads_the_store(synthetic, sketched):
    made = synthetic().fill()
    before = contents(made.root / "store")
    render("one", made.root)
    assert contents(made.root / "store") == before
    assert isinstance(made.store, Store)


def test_matplotlib_is_left_as_it_was(synthetic):
    import matplotlib

    made = synthetic(seeds=[0]).fill()
    before = dict(matplotlib.rcParams)
    render("one", made.root)
    assert dict(matplotlib.rcParams) == before


def test_an_absent_pgr_is_no_figure(synthetic):
    made = synthetic(seeds=[0], accuracy=lambda node: 0.5).fill()
    rendered = render("one", made.root)
    assert all(math.isnan(cell.accuracy.pgr.value) for cell in rendered.cells)
    assert not [path for path in rendered.paths if path.name.startswith("pgr-")]


# -- selections --------------------------------------------------------------------------------------------------------


def wide_gap(node):
    """Accuracies with a clear gap and nothing between seeds."""
    if isinstance(node.spec.labels, Weak):
        return 0.80 if node.spec.recipe.loss.name == "xent" else 0.87
    return 0.70 if node.spec.split == "weak_train" else 0.95


def all_outputs(made, width):
    rendered = render("one", made.root)
    folder = made.root / "sweeps" / "one"
    out = io.StringIO()
    rendered.show(Console(file=out, width=width, color_system=None))
    texts = {name: (folder / name).read_text() for name in ("table.md", "table.tex", "table.csv", "rows.csv")}
    return {**texts, "terminal": out.getvalue()}, rendered.cells


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_oracle_is_marked_wherever_it_stands(chosen, sketched, width):
    texts, _ = all_outputs(chosen(accuracy=wide_gap).fill(), width)
    for name in ("table.csv", "rows.csv"):
        lines = list(csv.DictReader(io.StringIO(texts[name])))
        marked = [" ".join(line.values()) for line in lines if "diagnostic: chosen on test" in " ".join(line.values())]
        assert len(marked) == sum(line["selection"] == "oracle" for line in lines) > 0
        assert all("oracle" in line for line in marked)
    for name in ("table.md", "table.tex"):
        text = texts[name].splitlines()
        places = [place for place, line in enumerate(text) if "oracle" in line and ("|" in line or " & " in line)]
        assert len(places) == 2 + 2 + 1  # accuracies, agreement, and the difference of one method
        assert all("(diagnostic)" in " ".join(text[place : place + 2]) for place in places)  # LaTeX sets it below
        assert "a diagnostic and no result" in texts[name]
    said = " ".join(texts["terminal"].split())
    assert said.count("oracle") - 1 == said.count("(diagnostic)") >= 3  # it also stands in the sentence
    assert "a diagnostic and no result" in said
    assert max(map(len, texts["terminal"].splitlines())) <= width


def test_weak_val_alone_is_named_and_is_no_diagnostic(chosen, sketched):
    texts, cells = all_outputs(chosen(selections=["weak_val"], accuracy=wide_gap).fill(), 200)
    assert all("diagnostic" not in text for text in texts.values())
    assert "| xent, weak_val " in texts["table.md"]
    assert "agrees best with the supervisor's labels on val" in texts["table.md"]
    assert [cell.variant for cell in cells] == ["xent, weak_val", "logconf, weak_val"]


def test_final_alone_has_no_word_of_selections(chosen, sketched):
    texts, _ = all_outputs(chosen(selections=["final"]).fill(), 200)
    for name in ("table.md", "table.tex", "terminal"):
        assert "election" not in texts[name]
        assert "final" not in texts[name]
