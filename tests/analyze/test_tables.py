"""Tables in four formats: whole texts, escapes, widths, and numbers that survive a round trip."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from w2s.analyze import document, tables, terminal
from w2s.analyze.cells import Cell
from w2s.analyze.document import Document
from w2s.analyze.stats import Estimate, absent


def estimate(value, half=0.025, seeds=3, n=1000):
    return Estimate(value, value - half, value + half, n, seeds)


XENT = Cell(
    task="movie",
    weak_model="weak-3l",
    student_model="strong-20l",
    method="xent",
    selection="final",
    weak_params=11_000_000,
    student_params=90_000_000,
    n=1000,
    majority_share=0.5,
    planned=(0, 1, 2),
    seeds=(0, 1, 2),
    weak=estimate(0.7),
    student=estimate(0.75),
    ceiling=estimate(0.8),
    gap=estimate(0.1),
    pgr=estimate(0.5, 0.25),
    agreement=estimate(0.9),
    agreement_right=estimate(0.95),
    agreement_wrong=estimate(0.7),
    label_accuracy=estimate(0.7),
    baseline="xent",
    accuracy_difference=absent("is the baseline"),
    pgr_difference=absent("is the baseline"),
)
LOGCONF = replace(
    XENT,
    method="logconf",
    student=estimate(0.76),
    pgr=absent("no gap: ceiling - weak = 0.010 [-0.010, 0.030]", 1000, 3),
    accuracy_difference=estimate(0.01),
    pgr_difference=estimate(-0.1, 0.5),
    notes=("weak at chance",),
)
HOSTILE = "a|b*_c_ <i>$x$ & 50% [l](u)\\ {}~^#`\x1b[31m\nnew line"


def composed(*cells, question="Does it | work?", unfinished=(), problems=()):
    sheets, said = document.sheets(cells), document.sentences(cells)
    return Document("one", document.one_line(question), sheets, said, list(unfinished), list(problems))


def test_markdown_whole():
    text = tables.markdown(composed(XENT, LOGCONF, unfinished=["failed: x_y: a*b"]))
    assert text == (Path(__file__).with_name("table.golden.md")).read_text(encoding="utf-8")


def test_latex_whole():
    text = tables.latex(composed(replace(XENT, task="a_b & 50%")))
    assert text.splitlines()[5:12] == [
        r"\begin{tabular}{lllrrrrrrl}",
        r"\toprule",
        r"Task & Weak $\rightarrow$ student & Method & n & Seeds & Weak acc. & Student acc. & Ceiling acc. & PGR & "
        r"Notes \\",
        r"\midrule",
        r"a\_b \& 50\% & weak-3l $\rightarrow$ strong-20l & xent & 1,000 & 3 & 0.700 {\footnotesize [0.675, 0.725]} & "
        r"0.750 {\footnotesize [0.725, 0.775]} & 0.800 {\footnotesize [0.775, 0.825]} & "
        r"0.50 {\footnotesize [0.25, 0.75]} &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert r"PGR = (student $-$ weak) / (ceiling $-$ weak)" in text
    assert "$-$0.10 {\\footnotesize [$-$0.60, $+$0.40]}" in tables.latex(composed(XENT, LOGCONF))


def test_a_hostile_name_stays_in_its_place():
    bad = replace(XENT, task=HOSTILE, method=HOSTILE, weak_model=HOSTILE, baseline=HOSTILE)
    made = composed(bad, question=HOSTILE)
    clean = "a|b*_c_ <i>$x$ & 50% [l](u)\\ {}~^#` [31m new line"
    assert document.one_line(HOSTILE) == clean
    markdown = tables.markdown(made)
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    bare = [line.replace("\\\\", "").replace("\\|", "") for line in table]
    assert {line.count("|") for line in bare} == {11}
    assert "\\<i\\>" in markdown
    assert "\x1b" not in markdown
    latex = tables.latex(made)
    assert r"\textless{}i\textgreater{}\$x\$ \& 50\% {[}l{]}(u)\textbackslash{} \{\}\textasciitilde{}" in latex
    assert latex.count(r"\\") == 2  # one head, one line
    out = io.StringIO()
    terminal.show(made, Console(file=out, width=300, color_system=None))
    assert clean in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    "text", ["snake_case_name", "_lead", "trail_", "a*b", "[x](y)", "a\\|b", "`c`", "<b>", "#1 ~x~ $y$"]
)
def test_markdown_escape_is_undone_by_a_markdown_parser(text):
    from markdown_it import MarkdownIt

    inline = MarkdownIt("gfm-like", {"linkify": False}).parseInline(tables.escape_markdown(text))[0]
    kinds = {child.type for child in inline.children}
    assert kinds <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == text


def test_csv_keeps_every_digit_and_every_reason():
    third = replace(XENT, task='a,"b"\n', pgr=Estimate(1 / 3, 0.1 + 0.2, 1e-17, 1000, 3), weak_params=None)
    text = tables.cells_csv([third, LOGCONF])
    frame = pd.read_csv(io.StringIO(text), dtype={"pgr": str, "pgr_low": str, "pgr_high": str})
    assert frame.task[0] == 'a,"b"\n'
    assert [float(frame[name][0]) for name in ("pgr", "pgr_low", "pgr_high")] == [1 / 3, 0.1 + 0.2, 1e-17]
    assert pd.isna(frame.pgr[1])
    assert frame.pgr_reason[1] == LOGCONF.pgr.reason
    assert frame.seeds_done[0] == "0 1 2"
    assert math.isnan(frame.weak_params[0])
    assert frame.notes[1] == "weak at chance"
    assert {"weak", "weak_accuracy", "weak_accuracy_low", "gap", "agreement_wrong", "accuracy_difference"} <= set(frame)


def shown(width, *cells, **arguments):
    out = io.StringIO()
    terminal.show(composed(*cells, **arguments), Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_a_wide_terminal_has_one_line_for_each_cell():
    lines = shown(170, XENT, LOGCONF).splitlines()
    (line,) = [line for line in lines if "xent" in line and "weak-3l" in line]
    said = "movie weak-3l -> strong-20l xent 1,000 3 0.700 [0.675, 0.725] 0.750 [0.725, 0.775] "
    assert " ".join(line.split()) == said + "0.800 [0.775, 0.825] 0.50 [0.25, 0.75]"


@pytest.mark.parametrize("name", ["strong-20l", "a-model-with-a-rather-long-name-0.5b-instruct"])
def test_80_columns_cut_nothing(name):
    cells = [replace(cell, student_model=name, weak_model=f"{name}-weak") for cell in (XENT, LOGCONF)]
    text = shown(80, *cells, unfinished=["failed: this", "missing: that"], problems=["a broken file"])
    assert max(map(len, text.splitlines())) <= 80
    for number in ("0.700", "[0.675, 0.725]", "0.800", "[0.775, 0.825]", "0.50", "[0.25, 0.75]", "no gap", "+0.010"):
        assert number in text
    assert "logconf: weak at chance" in text
    assert f"movie: {name}-weak -> {name}" in " ".join(text.split())
    assert "…" not in text
    assert "- failed: this\n- missing: that" in text
    assert "- a broken file" in text


def test_markup_in_names_is_not_read():
    assert "[red]xent[/red]" in shown(170, replace(XENT, method="[red]xent[/red]", baseline="[red]xent[/red]"))


def test_sentences_say_what_holds():
    one = {"seeds": (0,), "planned": (0,)} | {r: estimate(0.7, seeds=1) for r in ("weak", "student", "ceiling")}
    single = " ".join(document.sentences([replace(XENT, **one)]))
    assert "1,000 test examples, 1 seed." in single
    assert "one seed, so they cover test examples only and not other seeds" in single
    mixed = " ".join(document.sentences([XENT, replace(XENT, **one, n=500)]))
    assert "500 to 1,000 test examples, 1 to 3 seeds." in mixed
    assert "Where only one seed is there, they cover test examples only." in mixed
    two = {r: estimate(0.7, seeds=2) for r in ("weak", "student", "ceiling")}
    assert "Two seeds tell little" in " ".join(document.sentences([replace(XENT, **two)]))
    assert "Two seeds" not in " ".join(document.sentences([XENT]))
    lost = {r: absent(f"{r} missing") for r in ("weak", "student", "ceiling", "pgr")}
    nothing = document.sentences([replace(XENT, n=0, seeds=(), **lost)])
    assert nothing[0] == "No student has finished yet."
    assert nothing[-1] == "PGR left out in 1 of 1 lines: pgr missing (1)."
    assert not any("Brackets" in sentence for sentence in nothing)
    assert document.sentences([]) == ["The sweep has no cells."]


def test_differences_that_could_not_be_computed_are_counted_and_not_shown():
    lost = replace(LOGCONF, method="lost", accuracy_difference=absent("student failed"), pgr_difference=absent("x"))
    other = replace(lost, method="other", accuracy_difference=absent("baseline student missing: not run yet"))
    half = replace(LOGCONF, method="half", pgr_difference=absent("no gap: small"))
    made = composed(XENT, LOGCONF, lost, half, other)
    assert [line[2].text for line in made.sheets[0].lines] == ["xent", "logconf", "lost", "half", "other"]
    assert [line[2].text for line in made.sheets[1].lines] == ["logconf", "half"]
    assert [document.plain(entry) for entry in made.sheets[1].lines[1]][-2:] == ["+0.010 [-0.015, +0.035]", "-"]
    said = "Difference from xent left out in 2 of 4 lines: baseline student missing (1), student failed (1)."
    assert said in made.sentences
    assert not any("Difference" in sentence for sentence in composed(XENT, LOGCONF).sentences)
    nothing = composed(XENT, lost)
    assert [sheet.about for sheet in nothing.sheets] == ["Accuracy and performance gap recovered"]
    assert "Difference from xent left out in 1 of 1 lines: student failed (1)." in nothing.sentences
