"""w2s.analyze as a notebook uses it, and docs/results.md: the code of it runs, its columns are the real ones."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

import w2s
import w2s.analyze as library
from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.cells import AGREEMENTS
from w2s.analyze.reading.rows import COLUMNS
from w2s.analyze.tables.exports import cells_csv, confidence_csv, labels_csv, medians_csv, scaling_csv
from w2s.cli.arguments import checked
from w2s.cli.commands import COMMANDS
from w2s.errors import SpecError

pytestmark = pytest.mark.usefixtures("few_resamples")

DOC = (Path(w2s.__file__).resolve().parent.parent / "docs" / "results.md").read_text(encoding="utf-8")
NAMES = ["task", "weak", "student", "method", "selection"]


@pytest.fixture
def quickstart(synthetic, monkeypatch):
    """A finished sweep of that name, in the folder that one works in."""
    made = synthetic(name="quickstart").fill()
    monkeypatch.chdir(made.root.parent)
    return made


def test_a_notebook_gets_a_table_of_pgr(quickstart):
    rows = library.load("quickstart")
    table = library.pgr(rows)
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == [*NAMES, "pgr", "low", "high", "seeds", "n", "reason", "left_out", "note"]
    cells = aggregate(rows)
    assert table["pgr"].tolist() == pytest.approx([c.accuracy.pgr.value for c in cells], nan_ok=True)
    assert table["high"].tolist() == pytest.approx([c.accuracy.pgr.high for c in cells], nan_ok=True)
    assert table["n"].tolist() == [200, 200]
    auroc = library.pgr(rows, metric="auroc")
    assert auroc["pgr"].tolist() == pytest.approx([c.auroc.pgr.value for c in cells], nan_ok=True)


def test_the_other_tables(quickstart):
    rows = library.load("quickstart")
    (xent, logconf) = aggregate(rows)
    levels = library.accuracy(rows)
    assert levels["weak_accuracy"].tolist() == [xent.accuracy.weak.value] * 2
    assert levels["student_accuracy_low"].tolist() == [c.accuracy.student.low for c in (xent, logconf)]
    assert library.auroc(rows)["ceiling_auroc"].tolist() == [xent.auroc.ceiling.value] * 2
    (against,) = library.differences(rows).to_dict("records")
    assert (against["method"], against["baseline"]) == ("logconf", "xent")
    assert against["difference"] == logconf.accuracy.difference.value
    assert against["p"] == logconf.accuracy.p
    (other,) = library.differences(rows, baseline="logconf").to_dict("records")
    assert (other["method"], other["difference"]) == ("xent", pytest.approx(-against["difference"]))
    alike = library.agreement(rows)
    for name in (*AGREEMENTS, "label_accuracy"):
        assert alike[name].tolist() == [getattr(c, name).value for c in (xent, logconf)]
    medians = library.median_pgr(rows)
    assert list(medians.columns) == [*NAMES[1:], "pgr", "low", "high", "tasks", "left_out", "note"]
    assert len(medians) == 2


def test_text_of_all_tables(quickstart):
    rows = library.load("quickstart")
    assert "| Task " in library.table(rows, "markdown")
    assert r"\toprule" in library.table(rows, "latex")
    assert "Weak -> student" in library.table(rows)
    assert "Difference from logconf" in library.table(rows, "markdown", baseline="logconf")
    with pytest.raises(SpecError, match="did you mean latex"):
        library.table(rows, "latx")


def test_several_sweeps_are_merged(quickstart, synthetic):
    synthetic(name="more", seeds=[3, 4]).fill()
    assert library.pgr(library.load("quickstart", "more"))["seeds"].tolist() == [5, 5]
    elsewhere = library.load("quickstart", results=quickstart.root)
    assert len(elsewhere.frame) == 6


def test_wrong_names_are_told(quickstart):
    with pytest.raises(SpecError, match="did you mean quickstart"):
        library.load("quickstar")
    rows = library.load("quickstart")
    with pytest.raises(SpecError, match="did you mean auroc"):
        library.pgr(rows, metric="auroc_")
    with pytest.raises(SpecError, match="did you mean xent"):
        library.pgr(rows, baseline="xnt")


def test_the_oracle_is_marked_on_every_line(chosen):
    made = chosen(seeds=[0]).fill()
    rows = library.load("one", results=made.root)
    for table in (library.pgr(rows), library.accuracy(rows), library.differences(rows), library.median_pgr(rows)):
        marked = table[table["note"] == "diagnostic: chosen on test"]
        assert set(marked["selection"]) == {"oracle"}
        assert len(marked) == (table["selection"] == "oracle").sum() > 0


def test_nothing_run_yet_gives_tables_without_numbers(synthetic):
    made = synthetic()
    rows = library.load("one", results=made.root)
    assert library.pgr(rows)["reason"].tolist() == ["weak missing", "weak missing"]
    assert library.accuracy(rows)["student_accuracy"].isna().all()
    assert len(library.differences(rows)) == 1


def test_cells_are_computed_once_for_all_tables(quickstart, monkeypatch):
    """Negative control: another baseline, or rows read again, are computed again."""
    import w2s.analyze.numbers.aggregate as module

    calls = []
    monkeypatch.setattr(module, "aggregate", lambda rows, baseline=None: calls.append(1) or aggregate(rows, baseline))
    rows = library.load("quickstart")
    for table in (library.pgr, library.accuracy, library.differences, library.agreement, library.median_pgr):
        table(rows)
    assert len(calls) == 1
    library.pgr(rows, baseline="logconf")
    library.pgr(library.load("quickstart"))
    assert len(calls) == 3


def test_importing_it_loads_nothing_and_using_it_no_library_that_learns(quickstart):
    heavy = "{'numpy', 'pandas', 'pyarrow', 'scipy', 'matplotlib', 'rich'} & set(sys.modules)"
    learning = "{'torch', 'transformers'} & set(sys.modules)"
    program = (
        f"import sys, w2s.analyze; before = {heavy}; from w2s.analyze import load, pgr; "
        f"print(len(pgr(load('quickstart')))); print(before, {learning}, bool({heavy}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.splitlines() == ["2", "set() set() True"]


# -- docs/results.md -----------------------------------------------------------------------------------------------


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.M | re.S)


def test_the_python_of_the_document_runs(quickstart, synthetic, tmp_path):
    """In the order of the document, as one session; what it prints has the columns that it shows."""
    synthetic(name="my_sweep", tasks=["movie", "amazon"], seeds=[0]).fill()
    session: dict[str, object] = {}
    ran = blocks("python")
    assert len(ran) >= 3
    for block in ran:
        exec(compile(block, "docs/results.md", "exec"), session)  # noqa: S102  # our own document


def test_shown_output_has_the_columns_that_the_functions_give(quickstart):
    """A block of output begins with a line of the call that made it."""
    rows = library.load("quickstart")
    shown = re.findall(r"^```text\n>>> (\w+)\(rows\)\[(\[.*?\])\]\n(.*?)^```", DOC, re.M | re.S)
    assert {name for name, _, _ in shown} >= {"pgr", "differences"}
    for name, columns, output in shown:
        table = getattr(library, name)(rows)
        wanted = re.findall(r'"(\w+)"', columns)
        assert set(wanted) <= set(table.columns), name
        assert output.splitlines()[0].split() == wanted, name


def documented(head):
    """The names in the first column of the table below a heading; `{role}` stands for the three models."""
    section = DOC.partition(f"\n### {head}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    names = [name for line in re.findall(r"^\| (`.*?`) \|", section, re.M) for name in re.findall(r"`(.*?)`", line)]
    assert names, head
    return [
        name.replace("{role}", role)
        for name in names
        for role in (("weak", "student", "ceiling") if "{role}" in name else ("",))
    ]


def test_documented_columns_are_the_real_ones(quickstart):
    """Each of them, once, and no other; estimates bring four more columns along, which the text says."""
    rows = library.load("quickstart")
    assert sorted(documented("rows.csv, rows.parquet")) == sorted(COLUMNS)
    with_ends = ("", "_low", "_high", "_seeds", "_reason")
    real = cells_csv(aggregate(rows)).splitlines()[0].split(",")
    stems = [name.removesuffix(" …") for name in documented("table.csv")]
    marked = {name.removesuffix(" …") for name in documented("table.csv") if name.endswith(" …")}
    assert sorted(s + end for s in stems for end in (with_ends if s in marked else ("",))) == sorted(real)
    assert sorted(documented("medians.csv")) == sorted(medians_csv(aggregate(rows)).splitlines()[0].split(","))
    assert sorted(documented("labels.csv")) == sorted(labels_csv(rows, []).splitlines()[0].split(","))
    real = confidence_csv(aggregate(rows)).splitlines()[0].split(",")
    names = [
        name.removesuffix(" …") + end
        for name in documented("confidence.csv")
        for end in (with_ends if name.endswith(" …") else ("",))
    ]
    assert sorted(names) == sorted(real)
    assert sorted(documented("scaling.csv")) == sorted(scaling_csv(rows, []).splitlines()[0].split(","))


def test_the_commands_of_the_document_are_accepted():
    seen = set()
    for line in [line for block in blocks("(?:bash)?") for line in block.splitlines()]:
        words = shlex.split(line, comments=True)
        if words and words[0] == "w2s":
            checked(COMMANDS[words[1]], words[2:])
            seen.add(words[1])
    assert {"results", "compare"} <= seen
