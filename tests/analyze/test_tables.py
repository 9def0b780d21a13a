"""Tables as files: whole texts, escapes, and numbers that survive a round trip."""

from __future__ import annotations

import io
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_cells import LOGCONF, XENT, cell, composed, measured  # type: ignore[import-not-found]

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.cells import Cell
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading import rows
from w2s.analyze.tables import document, exports, latex, markdown

HOSTILE = "a|b*_c_ <i>$x$ & 50% [l](u)\\ {}~^#`\x1b[31m\nnew line"
CLEAN = "a|b*_c_ <i>$x$ & 50% [l](u)\\ {}~^#` [31m new line"
FLAT = cell("amazon", accuracy=measured(pgr=absent("no gap: ceiling - weak = 0.010 [-0.010, 0.030]")))
GOLDEN = (XENT, LOGCONF, FLAT, replace(LOGCONF, task="amazon", notes=()))


@pytest.mark.parametrize("ending", ["md", "tex"])
def test_whole_texts(ending):
    """Made anew by hand where a change is meant: write `text` into the golden file."""
    made = composed(*GOLDEN, question="Does it | work?", unfinished=["failed: x_y: a*b"])
    text = markdown.markdown(made) if ending == "md" else latex.latex(made)
    assert text == Path(__file__).with_name(f"table.golden.{ending}").read_text(encoding="utf-8")


def hostile():
    bad = replace(XENT, task=HOSTILE, method=HOSTILE, weak_model=HOSTILE, baseline=HOSTILE)
    pair = replace(bad, student_model="other")  # a matrix has models' names as heads
    return composed(bad, pair, question=HOSTILE, unfinished=[HOSTILE], problems=[HOSTILE])


def test_a_hostile_name_stays_in_its_place_in_markdown():
    assert document.one_line(HOSTILE) == CLEAN
    text = markdown.markdown(hostile())
    bare = text.replace("\\\\", "").replace("\\|", "")
    table = [line for line in bare.splitlines() if line.startswith("|")]
    wide = [line.count("|") for line in table]
    assert sorted(set(wide)) == [4, 8, 10]  # matrix, agreement, cells
    assert "\\<i\\>" in text
    assert "<i>" not in text
    assert "\x1b" not in text


def test_latex_says_which_characters_pdflatex_does_not_know():
    """Negative control: it sets letters with accents, and typographic quotes and dashes."""
    usual = composed(replace(XENT, task="Müller \u2013 „ř“ …"), LOGCONF, unfinished=["a β in a comment"])
    assert "LuaLaTeX" not in latex.latex(usual)
    lines = latex.latex(composed(replace(XENT, task="βδ 中 ü ħ"), LOGCONF)).splitlines()
    assert lines[2] == "% and LuaLaTeX or XeLaTeX, with a font that has ħ β δ 中, at which pdfLaTeX stops"


def test_a_hostile_name_stays_in_its_place_in_latex():
    text = latex.latex(hostile())
    assert r"\textless{}i\textgreater{}\$x\$ \& 50\% {[}l{]}(u)\textbackslash{} \{\}\textasciitilde{}" in text
    body = [line for line in text.splitlines() if not line.startswith(("%", r"\caption"))]
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) in (0, 2, 5, 6), line
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if CLEAN in line] == [f"% not finished: {CLEAN}", f"% problem: {CLEAN}"]


@pytest.mark.parametrize(
    "text", ["snake_case_name", "_lead", "trail_", "a*b", "[x](y)", "a\\|b", "`c`", "<b>", "#1 ~x~ $y$"]
)
def test_markdown_escape_is_undone_by_a_markdown_parser(text):
    from markdown_it import MarkdownIt

    inline = MarkdownIt("gfm-like", {"linkify": False}).parseInline(markdown.escape_markdown(text))[0]
    kinds = {child.type for child in inline.children}
    assert kinds <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == text


def test_sentences_stand_below_the_cells_in_markdown():
    text = markdown.markdown(composed(*GOLDEN))
    place = {head: text.index(f"**{head}") for head in ("Accuracy and", "Agreement of")}
    assert place["Accuracy and"] < text.index("\n- 1,000 test examples, 3 seeds.\n") < place["Agreement of"]


def many(count, *notes):
    return [cell(f"task {i}", notes=notes) for i in range(count)]


def test_a_long_latex_table_goes_over_pages():
    short, long = (latex.latex(composed(*many(count))) for count in (4, 80))
    assert "longtable}{" not in short
    assert long.count(r"\begin{longtable}") == long.count(r"\end{longtable}") == 2
    for text in (short, long):
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    names = [f"{'a-long-name-of-a-model-' * 3}{i}" for i in range(80)]
    wide = latex.latex(composed(*(replace(one, student_model=name) for one, name in zip(many(80), names, strict=True))))
    assert "longtable}{" not in wide
    assert wide.count(r"\begin{table}") == wide.count(r"\end{table}") > 8
    assert wide.count(latex.SHRUNK) == wide.count(r"\begin{table}")
    assert all(sum(f"{name} " in line for line in wide.splitlines()) >= 1 for name in names)


def test_students_of_a_matrix_that_is_too_wide_are_named_from_bottom_to_top():
    """Negative control: a matrix with room for its names has them as every table."""
    names = [f"qwen-{size}b-instruct" for size in range(1, 12)]
    pairs = [replace(XENT, student_model=name, student_params=place) for place, name in enumerate(names)]
    text = latex.latex(composed(*pairs))
    heads = " & ".join(rf"\rotatebox{{90}}{{{name}}}" for name in names)
    assert rf"\toprule{chr(10)}Supervisor & {heads} \\{chr(10)}\midrule" in text
    assert "rotatebox" not in latex.latex(composed(*pairs[:3]))


@pytest.mark.skipif(which("pdflatex") is None, reason="needs pdflatex: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("notes", [(), ("weak, student, ceiling at chance",)])
def test_latex_compiles_and_fits_the_page(tmp_path, notes):
    bad = replace(XENT, task=HOSTILE, method=HOSTILE + "'\"--", weak_model=HOSTILE, notes=(HOSTILE,)) if notes else XENT
    (tmp_path / "table.tex").write_text(latex.latex(composed(bad, *GOLDEN, *many(80, *notes))), encoding="utf-8")
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx,longtable}"
    text = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{table.tex}}\end{{document}}"
    (tmp_path / "page.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def read(text, **types):
    return pd.read_csv(io.StringIO(text), dtype=types)


def test_csv_keeps_every_digit_and_every_reason():
    own = measured(pgr=Estimate(1 / 3, 0.1 + 0.2, 1e-17, 1000, 3))
    third = replace(XENT, task='a,"b"\n', accuracy=own, weak_params=None)
    flat = replace(FLAT, notes=("weak at chance",))
    frame = read(exports.cells_csv([third, flat]), pgr=str, pgr_low=str, pgr_high=str)
    assert frame.task[0] == 'a,"b"\n'
    assert [float(frame[name][0]) for name in ("pgr", "pgr_low", "pgr_high")] == [1 / 3, 0.1 + 0.2, 1e-17]
    assert pd.isna(frame.pgr[1])
    assert frame.pgr_reason[1] == FLAT.accuracy.pgr.reason
    assert frame.left_out[1] == "no gap"
    assert frame.seeds_done[0] == "0 1 2"
    assert math.isnan(frame.weak_params[0])
    assert frame.notes[1] == "weak at chance"


def test_csv_has_both_metrics_in_a_fixed_order():
    low = replace(LOGCONF, majority_share=0.69)
    frame = read(exports.cells_csv([low]))
    assert list(frame)[:7] == ["task", "weak", "student", "method", "selection", "weak_params", "student_params"]
    assert list(frame) == list(read(exports.cells_csv([])))
    assert (frame.weak_accuracy[0], frame.weak_auroc[0]) == (0.7, 0.8)
    assert (frame.pgr[0], frame.pgr_auroc[0]) == (low.accuracy.pgr.value, low.auroc.pgr.value)
    assert (frame.p[0], frame.p_holm[0]) == (0.0004, 0.0008)
    assert pd.isna(frame.p_auroc[0])
    assert (frame.at_chance[0], frame.left_out[0], frame.baseline[0]) == ("weak", "weak at chance", "xent")
    assert frame.auroc_difference_reason[0] == "is the baseline"
    assert {"accuracy_difference_low", "gap_auroc_high", "agreement_wrong_seeds", "label_accuracy_reason"} <= set(frame)


def test_medians_csv_has_both_metrics_and_the_contest():
    frame = read(exports.medians_csv([*GOLDEN, cell("third"), replace(LOGCONF, task="third")]))
    assert list(zip(frame.metric, frame.method, frame.tasks, strict=True)) == [
        ("accuracy", "xent", 2),
        ("accuracy", "logconf", 3),
        ("auroc", "xent", 3),
        ("auroc", "logconf", 3),
    ]
    assert frame.left_out[0] == "no gap: 1"
    assert list(frame.baseline) == ["xent"] * 4
    assert pd.isna(frame.wins[0])
    assert (frame.compared_tasks[1], frame.wins[1], frame.losses[1]) == (2, 2, 0)
    assert frame.compared_left_out[1] == "no gap: 1"
    assert frame.notes.isna().all()
    frame = read(exports.medians_csv([replace(found, selection="oracle") for found in GOLDEN]))
    assert list(frame.notes) == ["diagnostic: chosen on test"] * 4


def test_rows_parquet_has_the_same_types_whatever_is_there(synthetic):
    schemas = []
    for folder, done in (("full", True), ("empty", False)):
        made = synthetic(folder=folder)
        found = rows.load(made.name, (made.fill() if done else made).root)
        table = pq.read_table(io.BytesIO(exports.rows_parquet(found)))
        schemas.append(table.schema.remove_metadata())
        assert table.column_names == list(found.frame.columns)
        assert set(map(str, schemas[-1].types)) == {"string", "int64", "double"}
        back = read(exports.rows_csv(found))
        for name in ("seed", "n", "student_accuracy", "pgr"):
            assert back[name].tolist() == pytest.approx(table[name].to_pandas().tolist(), nan_ok=True)
    assert schemas[0] == schemas[1]
    assert schemas[0].field("weak_params").type == pa.int64()
    assert schemas[0].field("pgr_reason").type == pa.string()
    assert schemas[0].field("weak_accuracy").type == pa.float64()


def test_a_column_of_mixed_types_is_refused():
    frame = pd.DataFrame({"task": ["movie"], "weak_accuracy": ["0.5, or so"]})
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        exports.rows_parquet(SimpleNamespace(frame=frame))


def test_cells_parquet_is_the_csv_with_types(synthetic):
    made = synthetic()
    found = aggregate(rows.load(made.name, made.fill(leave_out=made.digests("logconf")).root))
    table = pq.read_table(io.BytesIO(exports.cells_parquet(found)))
    back = read(exports.cells_csv(found))
    assert table.column_names == list(back)
    assert table["pgr"].to_pylist()[1] is None
    assert table["weak_params"].to_pylist() == back.weak_params.tolist()
    for name in ("weak_accuracy_low", "pgr_auroc", "agreement_seeds"):
        assert table[name].to_pandas().tolist() == pytest.approx(back[name].tolist(), nan_ok=True)
    none = pq.read_table(io.BytesIO(exports.cells_parquet([])))
    assert none.schema.remove_metadata() == table.schema.remove_metadata()


def test_every_estimate_of_a_cell_is_exported():
    """A field that is added to Cell or Measured and forgotten here would be lost."""
    from dataclasses import fields

    from w2s.analyze.numbers.cells import Measured

    known = set(read(exports.cells_csv([XENT])))
    measures = {field.name for field in fields(Measured)} - {"noise", "p", "p_holm"}
    assert {exports.column_of(metric, name) for metric in ("accuracy", "auroc") for name in measures} <= known
    renamed = {"weak_model": "weak", "student_model": "student", "planned": "seeds_planned", "seeds": "seeds_done"}
    elsewhere = {"accuracy", "auroc", "runs", "steps", "by_confidence"}  # above; in rows.csv; in confidence.csv
    elsewhere |= {"taught"}  # in notes
    assert {renamed.get(field.name, field.name) for field in fields(Cell)} - elsewhere <= known
