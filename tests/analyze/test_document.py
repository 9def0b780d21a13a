"""What a reader is shown: which tables, in which order, what stands in each place, and what the sentences say."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from made_cells import LOGCONF, XENT, cell, composed, estimate, measured  # type: ignore[import-not-found]

from w2s.analyze.numbers.aggregate import aggregate
from w2s.analyze.numbers.medians import Power
from w2s.analyze.numbers.spread import Spread
from w2s.analyze.numbers.stats import Estimate, absent
from w2s.analyze.reading import rows
from w2s.analyze.reading.rows import ROLES
from w2s.analyze.tables import document, sentences, sheet, summaries
from w2s.errors import SpecError


def texts(found):
    return [[document.plain(entry) for entry in line] for line in found.lines]


def heads(found):
    return [column.head for column in found.columns]


def of_kind(made, kind):
    return [found for found in made.sheets if found.kind == kind]


def said(*cells, metric="accuracy"):
    return " ".join(sentences.sentences(cells, metric))


def test_one_task_and_pair_has_no_medians_and_no_matrix():
    made = composed(XENT, LOGCONF)
    assert [found.kind for found in made.sheets] == ["cells", "agreement", "differences"]


def test_the_order_of_tables_and_columns_is_fixed():
    pairs = [("weak-3l", "strong-20l"), ("middle", "strong-20l")]
    cells = [cell(task, *pair, method) for task in ("movie", "amazon") for pair in pairs for method in ("xent", "hard")]
    made = composed(*cells)
    kinds = ["medians", *["matrix"] * 6, "cells", "agreement", "differences", "contests"]
    assert [found.kind for found in made.sheets] == kinds
    assert [found.aside for found in made.sheets if found.kind == "matrix"] == [False, False, *[True] * 4]
    levels = ["Weak acc.", "Student acc.", "Ceiling acc."]
    names = ["Task", "Weak -> student", "Method"]
    assert heads(made.sheets[0]) == ["Weak -> student", "Method", "Median PGR", "Tasks", *levels]
    assert heads(of_kind(made, "cells")[0]) == [*names, "n", "Seeds", *levels, "PGR"]
    shares = ["Agreement", "Supervisor right", "Supervisor wrong", "Label acc."]
    assert heads(of_kind(made, "agreement")[0]) == [*names, *shares]
    assert heads(of_kind(made, "differences")[0]) == [*names, "Seeds", "Accuracy", "PGR", "p", "p (Holm)"]
    contest = ["Tasks", "Won/tied/lost", "Median PGR diff.", "Mean acc. diff.", "p sign", "p Wilcoxon", "p t"]
    assert heads(made.sheets[-1]) == ["Weak -> student", "Method", *contest]
    again = composed(*reversed(cells))
    assert [heads(found) for found in again.sheets if found.kind != "matrix"] == [
        heads(found) for found in made.sheets if found.kind != "matrix"
    ]


def test_the_metric_stands_in_heads_and_sentences():
    made = composed(XENT, LOGCONF, cell("amazon"), metric="auroc")
    told = " ".join(head for found in made.sheets for head in heads(found) if found.kind != "agreement")
    assert "Weak AUROC" in told
    assert "PGR (AUROC)" in told
    assert "acc." not in told
    assert texts(of_kind(made, "cells")[0])[0][5:8] == [
        "0.800 [0.775, 0.825]",
        "0.850 [0.825, 0.875]",
        "0.900 [0.875, 0.925]",
    ]
    assert "from AUROCs averaged over seeds" in " ".join(made.sentences)
    assert "accuracies" not in " ".join(made.sentences)
    with pytest.raises(SpecError, match=r"metric: no such metric 'aurok' \(did you mean auroc\?\)"):
        composed(XENT, metric="aurok")


def test_a_task_of_more_classes_says_why_it_has_no_auroc():
    none = absent("AUROC needs two classes")
    many = replace(XENT, n_classes=5, auroc=replace(measured(), **dict.fromkeys((*ROLES, "gap", "pgr"), none)))
    (found,) = of_kind(composed(many, metric="auroc"), "cells")
    assert texts(found)[0][5:] == ["not binary"] * 4
    assert "Not binary: the task has more than two classes" in said(many, metric="auroc")
    assert "PGR is not given in 1 of 1 lines: not binary (1)." in said(many, metric="auroc")
    assert "binary" not in said(many)


def test_a_number_stands_beside_its_text():
    (found,) = of_kind(composed(replace(XENT, n=1234)), "cells")
    line = found.lines[0]
    assert line[3] == document.Value("1,234", "", 1234.0)
    assert line[5] == document.Value("0.700", "[0.675, 0.725]", 0.7)
    assert math.isnan(line[0].number)
    none = sheet.value_of(absent("no gap: small"), 2)
    assert none.text == "no gap"
    assert math.isnan(none.number)


def test_a_number_without_an_interval_has_no_brackets():
    bare = Estimate(0.5, math.nan, math.nan, 10, 1, "no interval")
    assert sheet.value_of(bare, 2) == document.Value("0.50", "", 0.5)
    assert sheet.value_of(Estimate(0.5, -math.inf, 2.0, 10, 3), 2).interval == "[-inf, 2.00]"
    assert sheet.number(-0.0004, 2) == "0.00"
    assert sheet.number(-0.0004, 2, signed=True) == "+0.00"
    assert [sheet.p_value(p).text for p in (0.0004, 0.001, 0.5, math.nan)] == ["<0.001", "0.001", "0.500", "-"]


def test_what_is_missing_says_so_in_its_place():
    waits = absent("student blocked")
    lost = replace(measured(), student=waits, pgr=waits, ceiling=absent("ceiling failed"))
    key = {"task": "movie", "weak": "weak-3l", "student": "strong-20l", "method": "xent", "selection": "final"}
    reason = "needs weak weak-3l on movie, seed 0, which failed"
    frame = pd.DataFrame([{**key, "student_status": "blocked", "student_reason": reason}] * 3)
    gone = replace(XENT, seeds=(), accuracy=lost)
    (found,) = of_kind(composed(gone, frame=frame), "cells")
    (line,) = texts(found)
    assert line[4:] == ["0/3", "0.700 [0.675, 0.725]", "blocked", "failed", "student blocked", f"blocked: {reason}"]
    assert not any(entry == "" for entry in line)
    done = composed(XENT, frame=frame)  # its student is there after all: nothing is said of what blocked it
    assert "Notes" not in heads(of_kind(done, "cells")[0])


def test_medians_say_how_many_tasks_entered_and_why_others_did_not():
    tasks = [cell(f"task{i}", accuracy=measured(student=0.7 + 0.01 * i)) for i in range(6)]
    flat = measured(pgr=absent("no gap: ceiling - weak = 0.010 [-0.010, 0.030]"))
    low = replace(XENT, task="low", majority_share=0.69)
    made = composed(*tasks, cell("flat", accuracy=flat), low)
    (found,) = of_kind(made, "medians")
    assert texts(found)[0][2:] == [
        "0.25 [0.00, 0.50]",
        "6/8",
        "0.700",
        "0.725",
        "0.800",
        "no gap (1), weak at chance (1)",
    ]
    assert "from order statistics" in " ".join(found.notes)
    (few,) = of_kind(composed(*tasks[:5]), "medians")
    assert texts(few)[0][2:4] == ["0.20", "5"]
    assert "Left out" not in heads(few)
    assert few.notes[-1] == "A 95 % interval of a median needs at least 6 tasks."
    (none,) = of_kind(composed(cell("flat", accuracy=flat), cell("other", accuracy=flat)), "medians")
    assert texts(none)[0][2:] == ["no gap", "0/2", "-", "-", "-", "no gap (2)"]
    assert "Medians over tasks leave out 2 of 8 lines: no gap (1), weak at chance (1)." in made.sentences


def test_matrices_are_ordered_by_size_and_have_no_empty_place():
    sizes = {"large": 3, "small": 1, "middle": 2}
    pairs = [("middle", "large"), ("small", "middle"), ("small", "large")]

    def sized(weak, student, **changes):
        return replace(cell(weak=weak, student=student, **changes), weak_params=sizes[weak], student_params=None)

    cells = [replace(sized(*pair), student_params=sizes[pair[1]]) for pair in pairs]
    (found,) = of_kind(composed(*cells), "matrix")
    assert found.about == "xent: PGR on movie, students in columns"
    assert heads(found) == ["Supervisor", "middle", "large"]
    assert texts(found) == [["small", "0.50 [0.25, 0.75]", "0.50 [0.25, 0.75]"], ["middle", "-", "0.50 [0.25, 0.75]"]]
    assert found.notes == ("A dash: the sweep does not have this pair.",)
    unknown = [sized(*pairs[1]), *cells]  # one of unknown size goes last
    assert heads(of_kind(composed(*unknown[:2]), "matrix")[0]) == ["Supervisor", "large", "middle"]


def test_a_matrix_over_tasks_says_where_a_task_could_not_enter():
    flat = measured(pgr=absent("no gap: small"))
    pairs = [("weak-3l", "strong-20l"), ("middle", "strong-20l")]
    cells = [cell("movie", *pairs[0]), cell("movie", *pairs[1]), cell("amazon", *pairs[0])]
    cells.append(cell("amazon", *pairs[1], accuracy=flat))
    found, movie, amazon = of_kind(composed(*cells), "matrix")
    assert found.about == "xent: median PGR over 2 tasks, students in columns"
    assert texts(found) == [["weak-3l", "0.50"], ["middle", "0.50 (1/2)"]]
    assert "one of two tasks" in found.notes[0]
    assert (movie.aside, amazon.aside, found.aside) == (True, True, False)
    assert texts(amazon)[1] == ["middle", "no gap"]


def test_matrices_of_single_tasks_stop_where_nobody_reads_them():
    def kinds(tasks):
        pairs = [("weak-3l", "strong-20l"), ("middle", "strong-20l")]
        cells = [cell(f"t{i}", *pair) for i in range(tasks) for pair in pairs]
        return [found.aside for found in of_kind(composed(*cells), "matrix")]

    assert kinds(summaries.MOST_ASIDE) == [False, *[True] * summaries.MOST_ASIDE]
    assert kinds(summaries.MOST_ASIDE + 1) == [False]


def test_oracle_never_stands_without_its_mark():
    pairs = [("weak-3l", "strong-20l"), ("middle", "strong-20l")]
    cells = [
        cell(task, *pair, selection=selection, notes=("diagnostic: chosen on test",) if selection == "oracle" else ())
        for task in ("movie", "amazon")
        for pair in pairs
        for selection in ("final", "oracle")
    ]
    made = composed(*cells)
    for found in made.sheets:
        if found.kind == "matrix":
            assert found.about.startswith(("xent: ", "xent, oracle (diagnostic): "))
        else:
            methods = {line[heads(found).index("Method")].text for line in found.lines}
            assert methods == {"xent", "xent, oracle (diagnostic)"}
    assert sum(found.about.startswith("xent, oracle (diagnostic): ") for found in made.sheets) == 3
    assert "a diagnostic and no result" in " ".join(made.sentences)
    assert "diagnostic" not in said(XENT)


def test_differences_name_the_baseline_and_correct_over_tasks():
    lost = cell(
        method="lost",
        accuracy=measured(difference=absent("student failed"), pgr_difference=absent("student failed")),
    )
    (found,) = of_kind(composed(XENT, LOGCONF, lost), "differences")
    assert found.about == "Difference from xent, paired by seed and test example"
    assert heads(found)[-1] == "p"  # one task: nothing to correct
    assert texts(found)[0][3:] == ["3", "+0.010 [-0.015, +0.035]", "+0.10 [-0.40, +0.60]", "<0.001"]
    assert texts(found)[1][3:] == ["-", "student failed", "student failed", "-"]
    assert "A difference from the baseline is not given in 1 of 2 lines: student failed (1)." in said(
        XENT, LOGCONF, lost
    )
    assert "A difference" not in said(XENT, LOGCONF)
    assert "differences" not in {found.kind for found in composed(XENT, lost).sheets}
    two = composed(XENT, LOGCONF, replace(LOGCONF, task="amazon"))
    assert texts(of_kind(two, "differences")[0])[0][-2:] == ["<0.001", "<0.001"]
    merged = cell(method="hard (b)", baseline="xent (b)")
    (several,) = of_kind(composed(XENT, LOGCONF, merged), "differences")
    assert heads(several)[3] == "Baseline"
    assert [line[3] for line in texts(several)] == ["xent", "xent (b)"]
    assert several.about == "Difference from the baseline, paired by seed and test example"


def test_contests_count_tasks():
    def both(task, difference):
        against = {"difference": estimate(difference / 10), "pgr_difference": estimate(difference), "p": 0.5}
        return [cell(task), cell(task, method="logconf", accuracy=measured(**against, p_holm=0.5))]

    won = [both(f"t{i}", 0.1 + 0.01 * i) for i in range(6)]
    made = composed(*(one for pair in [*won, both("lost", -0.05)] for one in pair))
    (found,) = of_kind(made, "contests")
    assert found.about == "Tasks won and lost against xent"
    line = texts(found)[0]
    assert line[1:5] == ["logconf", "7", "6/0/1", "+0.12"]
    assert line[6:] == ["0.125", "0.031", line[8]]
    assert "cannot reach" not in " ".join(found.notes)
    (few,) = of_kind(composed(*(one for pair in won[:2] for one in pair)), "contests")
    assert "With fewer than 6 tasks the first two cannot reach 0.05." in few.notes


def with_seeds(*seeds):
    found = {role: estimate(0.7, seeds=max(len(seeds), 1)) for role in ROLES}
    return replace(XENT, seeds=seeds, planned=seeds, accuracy=replace(measured(), **found))


def test_sentences_say_what_holds():
    single = said(with_seeds(0))
    assert "1,000 test examples, 1 seed." in single
    assert "one seed, so they cover test examples only and not other seeds" in single
    mixed = said(XENT, replace(with_seeds(0), n=500))
    assert "500 to 1,000 test examples, 1 to 3 seeds." in mixed
    assert "Where only one seed is there, they cover test examples only." in mixed
    assert "Two seeds tell little" in said(with_seeds(0, 1))
    three = said(XENT)
    assert "Two seeds" not in three
    assert "test examples only" not in three
    assert "10,000 paired bootstrap resamples" in three
    assert "Fieller" in three
    lost = replace(measured(), **{role: absent(f"{role} missing") for role in (*ROLES, "pgr")})
    nothing = sentences.sentences([replace(XENT, n=0, seeds=(), accuracy=lost)], "accuracy")
    assert nothing[0] == "No student has finished yet."
    assert "PGR is not given in 1 of 1 lines: pgr missing (1)." in nothing
    assert not any("Brackets" in sentence for sentence in nothing)
    assert sentences.sentences([], "accuracy") == ["The sweep has no cells."]


def test_a_single_task_is_named_in_the_sentences_since_no_narrow_table_has_a_column_for_it():
    assert said(XENT, replace(LOGCONF, task=XENT.task)).startswith("Task movie: 1,000 test examples, 3 seeds.")
    assert said(XENT, cell("amazon")).startswith("1,000 test examples, 3 seeds.")


def test_steps_in_the_notes_are_explained_where_an_evaluation_was_taken():
    assert "optimizer steps" not in said(XENT)
    assert "The notes name the optimizer steps" in said(XENT, replace(XENT, selection="weak_val"))


def test_a_difference_says_what_it_is_from():
    final = [XENT, LOGCONF]
    (one,) = of_kind(composed(*final), "differences")
    assert one.notes[0].startswith("Method - xent (the baseline). p is two-sided")
    chosen = [replace(found, selection="weak_val") for found in final]
    (selected,) = of_kind(composed(*final, *chosen), "differences")
    assert selected.notes[0].startswith("Method - xent (the baseline), both under the same selection. p is")
    merged = [replace(f, method=f"{f.method} [b]", baseline="xent [b]") for f in final]
    (several,) = of_kind(composed(*final, *merged), "differences")
    assert several.notes[0].startswith("Method - its baseline. p is")
    more = [replace(found, task="amazon") for found in (*final, *merged)]
    (contests,) = of_kind(composed(*final, *merged, *more), "contests")
    assert contests.notes[0].startswith("Method - its baseline over tasks")


def test_reasons_are_explained_only_where_they_occur():
    assert "No gap:" not in said(XENT)
    assert "At chance:" not in said(XENT)
    assert "No gap: the interval of ceiling - weak reaches 0" in said(
        replace(XENT, accuracy=measured(pgr=absent("no gap: small")))
    )
    low = replace(XENT, majority_share=0.7)
    assert "does not lie above the share of the majority class" in said(low)
    assert "does not lie above 0.5." in said(
        replace(XENT, auroc=measured(weak=0.51, student=0.6, ceiling=0.9)), metric="auroc"
    )


NOISE = Power(12.0, 9_040.0, 5.0, 1_000.0, 3, 600, 4, "difference of logconf from xent")
WHAT = "to see a difference of logconf from xent as small as 0.1 in PGR (80 % power, 5 % level)"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "would take about 12 seeds at 600 test examples, or about 9,000 test examples at 3 seeds, " + WHAT + ".",
        ),
        (
            {"tests": math.inf},
            f"would take about 12 seeds at 600 test examples, or about 5 seeds with 1,000 test examples, {WHAT}; "
            "more test examples alone would not do.",
        ),
        (
            {"seeds": math.inf, "tests": math.inf},
            f"would take about 5 seeds with 1,000 test examples {WHAT}; more seeds alone or more test examples alone "
            "would not do.",
        ),
        (
            dict.fromkeys(("seeds", "tests", "both_seeds", "both_tests"), math.inf),
            "no number of seeds and test examples within reach would show",
        ),
        ({"seeds": 2.0, "tests": 300.0}, "is small enough " + WHAT),
        ({"of": "distance of a PGR from a fixed number"}, "from a fixed number as small as 0.1 (80 % power"),
    ],
)
def test_the_power_note(changes, sentence):
    told = sentences.noise(replace(NOISE, **changes))
    assert sentence in told
    assert "inf" not in told


def test_the_power_note_stands_where_there_is_noise():
    noisy = measured(noise=Spread(1e-4, 1e-5, 2e-4, 3, 1000))
    assert said(replace(XENT, accuracy=noisy)).count("80 % power") == 1
    assert "80 % power" not in said(XENT)


def test_a_real_sweep_partly_done(synthetic):
    made = synthetic()
    gone = made.digests("weak")[:1]
    made.fill(leave_out=gone)
    found = rows.load(made.name, made.root)
    cells = aggregate(found)
    told = document.compose(found, cells)
    (levels,) = of_kind(told, "cells")
    assert [line[4] for line in texts(levels)] == ["3", "3"]
    assert all("PGR of 2 of 3 seeds" in line[-1] for line in texts(levels))
    assert told.unfinished
    assert all(entry for found in told.sheets for line in texts(found) for entry in line[:-1])
