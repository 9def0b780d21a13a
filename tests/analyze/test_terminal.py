"""Tables at a terminal: widths, names that hold markup, and sweeps too large to print."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from made_cells import LOGCONF, XENT, cell, composed, measured  # type: ignore[import-not-found]
from rich.console import Console

from w2s.analyze.numbers.stats import absent
from w2s.analyze.tables import terminal

LONG = "a-model-with-a-rather-long-name-0.5b-instruct"
HOSTILE = "a|b*_c_ <i>$x$ [red]x[/red]\x1b[31m\nnew line"


def shown(width, *cells, **arguments):
    out = io.StringIO()
    terminal.show(composed(*cells, **arguments), Console(file=out, width=width, color_system=None))
    return out.getvalue()


def ladder(tasks=("movie", "amazon"), models=5, methods=("xent", "logconf", "hard")):
    names = [f"pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", *(f"{i}b" for i in range(2, 20)))]
    pairs = [(w, s) for i, w in enumerate(names[:models]) for s in names[i + 1 : models]]
    sizes = {name: place for place, name in enumerate(names)}
    return [
        replace(cell(task, *pair, method), weak_params=sizes[pair[0]], student_params=sizes[pair[1]])
        for task in tasks
        for pair in pairs
        for method in methods
    ]


def test_the_first_line_says_whose_results_these_are():
    assert shown(80, XENT, question="Does it | work?").splitlines()[0].endswith(": Does it | work?")
    assert ":" not in shown(80, XENT).splitlines()[0]


def test_a_wide_terminal_has_one_line_for_each_cell():
    lines = shown(170, XENT, LOGCONF).splitlines()
    found = [line for line in lines if "xent" in line and "0.800" in line]
    said = "movie weak-3l -> strong-20l xent 1,000 3 0.700 [0.675, 0.725] 0.750 [0.725, 0.775] "
    assert [" ".join(line.split()) for line in found] == [said + "0.800 [0.775, 0.825] 0.50 [0.25, 0.75]"]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("name", ["strong-20l", LONG])
def test_no_width_cuts_anything(width, name):
    cells = [replace(found, student_model=name, weak_model=f"{name}-weak") for found in (XENT, LOGCONF)]
    flat = measured(pgr=absent("no gap: small"))
    cells.append(replace(cells[0], task="amazon", accuracy=flat))
    text = shown(width, *cells, unfinished=["failed: this", "missing: that"], problems=["a broken file"])
    assert max(map(len, text.splitlines())) <= width
    for number in ("0.700", "[0.675, 0.725]", "0.800", "[0.775, 0.825]", "0.50", "[0.25, 0.75]", "no gap", "+0.010"):
        assert number in text
    assert "weak at chance" in " ".join(text.split())
    assert "…" not in text
    assert "- failed: this\n- missing: that" in text
    assert "- a broken file" in text
    assert f"{name}-weak" in text


@pytest.mark.parametrize("width", [80, 120, 160])
def test_every_number_of_a_ladder_is_printed_at_any_width(width):
    text = shown(width, *ladder())
    assert max(map(len, text.splitlines())) <= width
    for found in ("Median PGR over tasks", "xent: median PGR over 2 tasks", "Agreement of", "Tasks won and lost"):
        assert found in text
    assert text.count("0.710") == 60  # label accuracy, once for each cell


def test_pairs_are_named_once_where_lines_stand_together():
    narrow = shown(80, *ladder()).split("xent: median", maxsplit=1)[0]
    assert narrow.count("pythia-70m ->") == 4
    wide = shown(160, *ladder()).split("xent: median", maxsplit=1)[0]
    assert wide.count("pythia-70m ->") == 12


def test_a_matrix_wider_than_the_terminal_is_cut_between_its_students():
    text = shown(80, *ladder(("movie",), models=12, methods=("xent",)))
    matrix = text.split("Accuracy and", maxsplit=1)[0]
    assert max(map(len, matrix.splitlines())) <= 80
    heads = [line for line in matrix.splitlines() if line.startswith("Supervisor")]
    assert len(heads) > 1
    assert len([word for line in heads for word in line.split()[1:]]) == 11
    assert matrix.count("0.50") == 66
    assert matrix.count("[0.25, 0.75]") == 66


def test_markup_in_names_is_not_read():
    text = shown(300, replace(XENT, task=HOSTILE, method=HOSTILE, weak_model=HOSTILE, baseline=HOSTILE))
    assert "a|b*_c_ <i>$x$ [red]x[/red] [31m new line" in text
    assert "\x1b" not in text


def test_of_thousands_of_cells_the_first_are_printed_and_the_rest_is_named():
    cells = ladder([f"task{i}" for i in range(66)], models=5)
    assert len(cells) == 1980
    text = shown(160, *cells)
    assert len(text.splitlines()) < 250
    assert "1,920 lines more in table.md, table.csv and report.html." in text
    assert "Not printed, but in table.md, table.csv and report.html: Agreement of" in text
    assert "Difference from xent, paired by seed and test example (1,320 lines)" in " ".join(text.split())
    assert "Tasks won and lost against xent" in text
    assert "task19" not in text
    assert "more in table.md" not in shown(160, *cells[:60])


def test_matrices_of_single_tasks_are_for_files():
    text = shown(160, *ladder())
    assert "median PGR over 2 tasks" in text
    assert "PGR on movie" not in text
    assert "PGR on movie" in shown(160, *ladder(("movie",)))


def test_many_matrices_are_not_all_printed():
    methods = [f"m{i:02}" for i in range(terminal.MOST_MATRICES + 2)]
    text = shown(160, *(replace(found, baseline="m00") for found in ladder(models=3, methods=methods)))
    assert f"m{terminal.MOST_MATRICES - 1:02}: median PGR" in text
    last = f"m{terminal.MOST_MATRICES + 1:02}: median PGR over 2 tasks, students in columns (2 lines)"
    assert f"Not printed, but in {terminal.ELSEWHERE}: " in text
    assert text.count(last) == 1
