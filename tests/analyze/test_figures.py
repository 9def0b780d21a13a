"""Figures: which are made, that they are deterministic and readable, that no texts overlap, what they leave out."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import re
from collections.abc import Iterable
from typing import Any
from xml.dom import minidom

import numpy as np
import pytest
from made_cells import read  # type: ignore[import-not-found]
from matplotlib.figure import Figure
from matplotlib.text import Text
from tampering import reseal  # type: ignore[import-not-found]

from w2s.analyze import figures
from w2s.analyze.figures import calibration, colours, frame, look, scale, short_count
from w2s.analyze.figures.look import ink_on, lean, lightness, names, wrapped
from w2s.analyze.numbers.stats import absent
from w2s.analyze.reading.scoring import ece
from w2s.analyze.reading.selection import taken
from w2s.errors import SpecError

pytestmark = pytest.mark.usefixtures("few_resamples")

TWELVE = [
    "pythia-70m", "gpt2", "pythia-160m", "gpt2-medium", "pythia-410m", "gpt2-large", "pythia-1b", "pythia-1.4b",
    "gpt2-xl", "pythia-2.8b", "pythia-6.9b", "pythia-12b",
]  # fmt: skip
LONG = {
    f"the-name-of-an-organization-{name}-deduped-checkpoint": {"use": name}
    for name in ("pythia-70m", "pythia-160m", "pythia-410m", "pythia-1b")
}
METHODS = {
    "xent": {},
    "logconf": {"loss": "logconf"},
    "hard": {"loss": "xent", "hard_labels": True},
    "a_method_whose_name_is_rather_long": {"loss": "logconf", "recipe": {"lr": 3e-4}},
}


@pytest.fixture(autouse=True)
def styled():
    with figures.style():
        yield


KEPT: dict[str, Any] = {}  # intervals of many cells take long: made by the first test that asks


@pytest.fixture
def twelve(synthetic):
    """A ladder of twelve models, one method, one seed."""
    if "twelve" not in KEPT:
        KEPT["twelve"] = read(synthetic(models=TWELVE, methods=["xent"], seeds=[0]).fill())
    return KEPT["twelve"]


@pytest.fixture
def selected(chosen):
    """Three models, two methods, three selections, evaluated during training."""
    if "selected" not in KEPT:
        made = chosen(models=["pythia-70m", "pythia-410m", "pythia-1.4b"], seeds=[0, 1])
        rows, cells = read(with_history(made.fill()))
        KEPT["selected"] = rows, [with_pgr(cell, 0.5, 0.1, 0.9) for cell in cells]  # two seeds leave no gap
    return KEPT["selected"]


@pytest.fixture
def pair(chosen):
    """One pair, two methods, three selections, three seeds."""
    if "pair" not in KEPT:
        KEPT["pair"] = read(with_history(chosen().fill()))
    return KEPT["pair"]


def with_pgr(cell, value, low, high):
    pgr = dataclasses.replace(cell.accuracy.pgr, value=value, low=low, high=high, reason="")
    return dataclasses.replace(cell, accuracy=dataclasses.replace(cell.accuracy, pgr=pgr))


def with_history(made):
    """Losses of every training, as a training leaves them."""
    for digest, node in made.plan.nodes.items():
        if node.kind == "train":
            lines = [json.dumps({"step": step, "loss": 0.7 / (1 + step / 20)}) for step in range(80)]
            file = made.store.path("train", digest) / "history.jsonl"
            file.write_text("\n".join(lines))
            reseal(file)
    return made


def drawn(rows, cells, **asked):
    return {named.name: named for named in figures.figures(rows, cells, **asked)}


def one(rows, cells, name, **asked):
    """The figure of this name; those after it are not made."""
    return next(named for named in figures.figures(rows, cells, **asked) if named.name == name)


def said_by(figure: Figure) -> str:
    """All that a figure says, in one line."""
    return " ".join(text.get_text().replace("\n", " ") for text in all_texts(figure))


def image(figure: Figure, ending: str) -> bytes:
    to = io.BytesIO()
    figures.save(figure, to, ending)
    return to.getvalue()


def all_texts(figure: Figure) -> list[Text]:
    """Every text of a figure that is drawn."""
    found = list(figure.texts)
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, sorted(axes.get_ylim()))):
            found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()]
            found += [t.label2 for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label2.get_visible()]
    return [text for text in found if text.get_text().strip()]


def corners(text: Text, renderer) -> np.ndarray:
    """The four corners of a text's box, turned as the text is."""
    angle = text.get_rotation()
    if angle % 90 == 0:
        box = text.get_window_extent(renderer).padded(-0.5)
        lines = text.get_text().split("\n")
        empty = sum(1 for _ in itertools.takewhile(lambda line: not line, lines))  # of labels that stand lower
        top = box.y1 - box.height * empty / len(lines)
        return np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, top), (box.x0, top)])
    x, y = text.get_transform().transform(text.get_unitless_position())
    width, height, _ = renderer.get_text_width_height_descent(text.get_text(), text.get_fontproperties(), False)
    left = {"left": 0.0, "right": -width, "center": -width / 2}[text.get_ha()]
    flat = np.array([(left, -height), (left + width, -height), (left + width, 0.0), (left, 0.0)])
    turn = math.radians(angle)
    turned: np.ndarray = flat @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.asarray(turned + (x, y))


def apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Two convex shapes do not meet where some side of one separates them."""
    for shape in (a, b):
        for side in np.roll(shape, -1, axis=0) - shape:
            normal = np.array([-side[1], side[0]])
            if (a @ normal).max() <= (b @ normal).min() or (b @ normal).max() <= (a @ normal).min():
                return True
    return False


def overlaps(figure: Figure, texts: Iterable[Text]) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # of Agg
    boxes = [(text.get_text(), corners(text, renderer)) for text in texts]
    return [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if not apart(one, two)]


def check(found) -> None:
    assert found
    for named in found.values():
        assert overlaps(named.figure, all_texts(named.figure)) == [], named.name


# -- which figures -----------------------------------------------------------------------------------------------------


def test_two_models_one_task(synthetic):
    found = drawn(*read(synthetic().fill()))
    assert list(found) == ["accuracy-movie", "pgr-movie", "agreement-movie", "calibration-movie", "confidence-movie"]


def test_over_tasks_come_first_then_kind_by_kind(synthetic):
    models = ["pythia-70m", "pythia-410m", "pythia-1.4b"]
    found = drawn(*read(synthetic(tasks=["movie", "amazon"], models=models, methods=["xent"], seeds=[0]).fill()))
    each = [
        f"{kind}-{task}"
        for kind in figures.KINDS
        if kind not in ("curves", "noise", "scaling")
        for task in ("movie", "amazon")
    ]
    assert list(found) == ["accuracy", "pgr", "heat", *each]
    assert [(n.kind, n.task) for n in found.values()][:4] == [
        ("accuracy", ""), ("pgr", ""), ("heat", ""), ("accuracy", "movie"),
    ]  # fmt: skip
    assert all(named.alt.startswith(named.task or "Medians over tasks") for named in found.values())
    assert found["pgr-movie"].title == found["pgr-amazon"].title == "Performance gap recovered (accuracy)"
    assert "2 tasks" in found["accuracy"].figure.texts[0].get_text()


def test_figures_are_made_when_they_are_asked_for(synthetic, monkeypatch):
    made = synthetic().fill()
    rows, cells = read(made)
    count = []
    real = calibration.of_task
    monkeypatch.setattr(calibration, "of_task", lambda *a: count.append(1) or real(*a))
    stream = figures.figures(rows, cells)
    assert next(stream).name == "accuracy-movie"
    assert count == []
    assert [named.kind for named in stream][-2:] == ["calibration", "confidence"]
    assert count == [1]


def test_nothing_known_nothing_drawn(synthetic):
    assert drawn(*read(synthetic())) == {}


def test_an_absent_pgr_is_no_figure(synthetic):
    rows, cells = read(synthetic(seeds=[0], accuracy=lambda node: 0.5).fill())
    assert all(not cell.accuracy.pgr.known for cell in cells)
    assert "pgr-movie" not in drawn(rows, cells)


@pytest.mark.parametrize(("what", "word"), [("metric", "acuracy"), ("size", "parms")])
def test_unknown_words_are_refused_before_anything_is_drawn(synthetic, what, word):
    with pytest.raises(SpecError, match=rf"{what}: no such {what} '{word}' \(did you mean "):
        figures.figures(*read(synthetic()), **{what: word})


def test_auroc_is_drawn_and_named(synthetic):
    rows, cells = read(synthetic(models=["pythia-70m", "pythia-410m", "pythia-1.4b"], seeds=[0]).fill())
    said = said_by(one(rows, cells, "accuracy-movie", metric="auroc").figure)
    assert "AUROC" in said
    assert "accuracy" not in said
    cells = [dataclasses.replace(cell, auroc=none_of(cell)) for cell in cells]
    assert not {"accuracy-movie", "pgr-movie", "heat-movie"} & set(drawn(rows, cells, metric="auroc"))


def none_of(cell):
    gone = absent("AUROC needs two classes")
    return dataclasses.replace(cell.auroc, weak=gone, student=gone, ceiling=gone, pgr=gone, gap=gone)


# -- overlaps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "methods", "seeds"),
    [
        (["pythia-70m", "pythia-1.4b"], ["xent"], [0, 1]),
        (["pythia-70m", "pythia-410m", "pythia-1b", "pythia-1.4b"], METHODS, [0]),
        (LONG, METHODS, [0]),
        (dict(list(LONG.items())[:2]), METHODS, [0, 1, 2]),
    ],
    ids=["2 models", "4 models 4 methods", "long names", "2 long names"],
)
def test_no_texts_overlap(synthetic, models, methods, seeds):
    check(drawn(*read(with_history(synthetic(models=models, methods=methods, seeds=seeds).fill()))))


@pytest.mark.recipe
def test_no_texts_overlap_in_a_ladder_of_12_models_with_4_methods(twelve):
    rows, cells = twelve
    check(drawn(rows, [dataclasses.replace(cell, method=method) for method in METHODS for cell in cells]))


@pytest.mark.recipe
@pytest.mark.parametrize("which", ["pair", "selected"])
def test_no_texts_overlap_where_students_are_selected(request, which):
    rows, cells = request.getfixturevalue(which)
    check(drawn(rows, [dataclasses.replace(cell, task=task) for task in ("movie", "amazon") for cell in cells]))


@pytest.mark.recipe
def test_no_texts_overlap_over_22_tasks_with_long_names(synthetic):
    rows, cells = read(synthetic(models=["pythia-70m", "pythia-410m", "pythia-1.4b"], seeds=[0]).fill())
    task = "a task whose name is much longer than names of tasks should be, number {}"
    many = [dataclasses.replace(cell, task=task.format(t)) for t in range(22) for cell in cells]
    found = dict(zip(range(26), figures.figures(rows, many), strict=False))
    assert [found[place].name for place in range(3)] == ["accuracy", "pgr", "heat"]
    check(found)


def test_the_overlap_check_can_fail():
    figure = Figure()
    texts = [figure.text(0.5, 0.5, "one"), figure.text(0.51, 0.5, "two"), figure.text(0.5, 0.8, "far")]
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    assert overlaps(figure, texts) == [("one", "two")]
    slanted = [
        figure.text(0.2, y, "a long label", rotation=35, ha="right", rotation_mode="anchor") for y in (0.4, 0.41)
    ]
    assert len(overlaps(figure, slanted)) == 1


@pytest.mark.recipe
def test_labels_of_an_axis_overlap_unless_they_are_moved(twelve, monkeypatch):
    """The negative control of the twelve: all labels on one line run into each other."""
    rows, cells = twelve
    monkeypatch.setattr(scale, "_arranged", lambda at, room: (dict.fromkeys(at.place.values(), 0), False))
    named = next(figures.figures(rows, cells))
    assert overlaps(named.figure, all_texts(named.figure))


# -- sizes of figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["pair", "selected"])
def test_figures_of_few_models_fit_the_text_of_a_page_at_their_own_size(request, which):
    for named in drawn(*request.getfixturevalue(which)).values():
        width, height = named.figure.get_size_inches()
        assert width <= look.PAGE_IN + 0.4, named.name  # labels of methods are as long as they are
        assert height <= look.PAGE_HIGH_IN + 0.4, named.name


def test_panels_are_narrower_then_fewer_side_by_side_and_what_is_too_high_stays_wide():
    sizes = frame.Sizes(3.0, 2.0, left=0.5, right=0.1, head=0.3, foot=0.3, between=0.2)
    assert list(frame.fitted(2, 2, sizes, 1.0)) == pytest.approx([2, (look.PAGE_IN - 0.8) / 2])
    assert frame.fitted(2, 1, sizes, 1.0) == (1, 3.0)  # no wider than asked for
    assert frame.fitted(3, 3, sizes, 2.5)[0] == 2
    assert frame.fitted(4, 2, sizes, 3.0)[0] == 2  # four rows are higher than a page
    assert frame.fitted(4, 2, sizes, 3.0)[1] == 3.0


def test_letters_are_as_large_as_a_paper_wants_them(selected):
    for named in drawn(*selected).values():
        assert min(float(text.get_fontsize()) for text in all_texts(named.figure)) >= 7.0, named.name


# -- sizes that are not known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [2, 12])
def test_models_of_unknown_size_stand_in_the_order_of_the_sweep(twelve, models):
    rows, cells = twelve
    cells = [cell for cell in cells if set(cell.pair) <= set(TWELVE[:models])]
    largest = TWELVE[:models][-1]
    cells = [dataclasses.replace(c, student_params=None if c.student_model == largest else 5) for c in cells]
    at = scale.scale(cells, "params")
    assert at.by_order
    assert at.models(list(at.place)) == TWELVE[:models]
    found = drawn(rows, cells)
    check(found)
    said = " ".join(text.get_text() for text in all_texts(found["accuracy-movie"].figure))
    assert largest in said
    if models > 2:
        assert "1 of 12 models are not known" in said.replace("\n", " ")


def test_sizes_in_training_flops(synthetic):
    rows, cells = read(synthetic(models=["pythia-70m", "pythia-410m", "pythia-1.4b"], seeds=[0]).fill())
    flops = {"pythia-70m": 2e14, "pythia-410m": 3e15, "pythia-1.4b": 4e16}
    cells = [
        dataclasses.replace(c, weak_flops=flops[c.weak_model], student_flops=flops[c.student_model]) for c in cells
    ]
    figure = one(rows, cells, "accuracy-movie", size="flops").figure
    assert [text.get_text() for text in figure.texts].count("training FLOPs of the student") == 1  # below all panels
    labels = [text.get_text().strip() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["2.0e14", "3.0e15", "4.0e16"]


# -- what is marked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["pair", "selected"])
def test_the_oracle_is_marked_in_every_figure_that_has_it(request, which):
    found = drawn(*request.getfixturevalue(which))
    assert "curves-movie" in found
    for named in found.values():
        said = [text.get_text().replace("\n", " ") for text in all_texts(named.figure)]
        marked = [text for text in said if "oracle" in text]
        assert all("oracle (diagnostic)" in text for text in marked)
        assert bool(marked) == (named.kind not in ("curves", "calibration", "confidence")), named.name


def test_a_ladder_has_a_panel_for_each_method_and_selection(selected):
    figure = next(figures.figures(*selected)).figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "xent", "logconf", "xent, weak_val", "logconf, weak_val",
        "xent, oracle (diagnostic)", "logconf, oracle (diagnostic)",
    ]  # fmt: skip
    colour = [axes._left_title.get_color() for axes in figure.axes]
    assert colour[:2] == ["black"] * 2
    assert "black" not in colour[2:]


def test_a_line_starts_at_the_supervisor_and_the_ceiling_is_dashed(synthetic):
    rows, cells = read(synthetic(models=["pythia-70m", "pythia-410m", "pythia-1.4b"], methods=["xent"]).fill())
    axes = one(rows, cells, "accuracy-movie").figure.axes[0]
    values = [(line.get_linestyle(), [round(float(y), 6) for y in line.get_ydata()]) for line in axes.lines]
    ceilings = [cell.accuracy.ceiling.value for cell in cells if cell.weak_model == "pythia-70m"]
    assert ("--", [round(value, 6) for value in ceilings]) in values
    own = [cell for cell in cells if cell.weak_model == "pythia-70m"]
    curve = [own[0].accuracy.weak.value, *(cell.accuracy.student.value for cell in own)]
    assert ("-", [round(value, 6) for value in curve]) in values


def test_every_interval_says_95_percent(pair):
    for named in drawn(*pair).values():
        said = " ".join(text.get_text() for text in all_texts(named.figure))
        assert ("95 %" in said) == (named.kind not in ("curves", "calibration", "heat"))
        assert "3 seeds" in said


@pytest.mark.parametrize("which", ["pair", "twelve"])
def test_intervals_that_go_on_beyond_the_view_end_in_arrows_and_others_do_not(request, which):
    rows, cells = request.getfixturevalue(which)
    few = [cell for cell in cells if cell.selection == "final" and set(cell.pair) <= {*TWELVE[:4], *cells[0].pair}]

    def arrows(figure):
        return sorted(line.get_marker() for axes in figure.axes for line in axes.lines if line.get_marker() in [*"<>"])

    within = one(rows, [with_pgr(cell, 0.5, 0.1, 0.9) for cell in few], "pgr-movie").figure
    beyond = one(rows, [with_pgr(cell, 0.5, -4.0, 9.0) for cell in few], "pgr-movie").figure
    assert "arrows" not in said_by(within)
    assert "arrows: on beyond -1 or 2" in said_by(beyond)
    assert arrows(within) == []
    if which == "pair":
        assert arrows(beyond) == ["<", "<", ">", ">"]
    else:
        ends = [float(y) for axes in beyond.axes for line in axes.lines if line.get_marker() == "^"
                for y in line.get_ydata()]  # fmt: skip
        assert ends.count(2.0) == len(few)


def test_tasks_are_counted_beside_a_median_only_where_some_are_left_out(synthetic):
    rows, cells = read(synthetic(seeds=[0], methods=["xent"]).fill())
    cells = [with_pgr(dataclasses.replace(cells[0], task=task, notes=()), 0.5, 0.1, 0.9) for task in "abc"]
    assert "3 tasks against" not in said_by(one(rows, cells, "pgr").figure)
    assert "of 3 tasks" not in said_by(one(rows, cells, "pgr").figure)
    gone = dataclasses.replace(cells[0].accuracy, pgr=absent("no gap: ceiling - weak = 0.001"))
    said = said_by(one(rows, [dataclasses.replace(cells[0], accuracy=gone), *cells[1:]], "pgr").figure)
    assert "medians over 2 of 3 tasks" in said
    assert "0.50  2 of 3 tasks" in said


def test_training_shows_accuracy_against_ground_truth_and_against_weak_labels(selected):
    rows, cells = selected
    figure = one(rows, cells, "curves-movie").figure
    titles = [axes._left_title.get_text() for axes in figure.axes]
    assert titles[:3] == ["training loss", "ground-truth accuracy (test)", "weak-label accuracy (val)"]
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 1.02 * 80)}  # steps stand below each other


def test_a_heat_map_says_why_there_is_no_number(synthetic):
    made = synthetic(models=["pythia-70m", "pythia-410m", "pythia-1.4b"], methods=["xent"])
    students = made.digests("student pythia-1.4b of pythia-410m")
    rows, cells = read(made.fill(leave_out=students))
    pairs = {cell.pair: cell.accuracy.pgr for cell in cells}
    texts = [text.get_text() for text in one(rows, cells, "heat-movie").figure.axes[0].texts]
    assert "missing" in texts
    assert f"{pairs['pythia-70m', 'pythia-1.4b'].value:.2f}" in texts
    none = dataclasses.replace(cells[0].accuracy, pgr=absent("no gap: ceiling - weak = 0.001"))
    cells = [dataclasses.replace(cells[0], accuracy=none), *cells[1:]]
    assert "no gap" in [text.get_text() for text in one(rows, cells, "heat-movie").figure.axes[0].texts]


def test_what_has_no_pgr_is_counted_in_its_panel(synthetic):
    made = synthetic(models=["pythia-70m", "pythia-160m", "pythia-410m", "pythia-1.4b"], methods=["xent"])
    students = made.digests("student pythia-1.4b of pythia-410m")
    rows, cells = read(made.fill(leave_out=students))
    texts = [text.get_text() for text in one(rows, cells, "pgr-movie").figure.axes[0].texts]
    assert any("student missing: 1" in text for text in texts)


def test_medians_over_tasks_leave_out_tasks_that_are_not_complete(synthetic):
    rows, cells = read(synthetic(seeds=[0], methods=["xent"]).fill())
    gone = dataclasses.replace(cells[0].accuracy, student=absent("student failed"))
    cells = [dataclasses.replace(cells[0], task=task) for task in ("movie", "amazon")]
    cells.append(dataclasses.replace(cells[0], task="imdb", accuracy=gone))
    figure = one(rows, cells, "accuracy").figure
    said = " ".join(text.get_text() for text in figure.texts)
    assert "over 2 tasks" in said
    assert "1 of 3 tasks left out: not complete" in said
    middle = np.median([cell.accuracy.student.value for cell in cells if cell.task != "imdb"])
    assert f"{middle:.3f}" in " ".join(text.get_text() for text in all_texts(figure))


# -- calibration -------------------------------------------------------------------------------------------------------


def test_counts_are_added_over_seeds(synthetic):
    rows, cells = read(synthetic(methods=["xent"]).fill())
    curves = calibration._curves(rows, cells, ["xent"])
    assert [curve.key.label for curve in curves] == ["weak", "xent", "ceiling"]
    assert [curve.seeds for curve in curves] == [3, 3, 3]
    assert all(curve.bins_K3[:, 0].sum() == 3 * cells[0].n for curve in curves)
    one = rows.test[taken("weak", cells[0].runs[0].weak, "final")]
    assert ece(one.bins_K3) == pytest.approx(one.ece)
    student = curves[1].bins_K3
    assert student[:, 2].sum() / student[:, 0].sum() == pytest.approx(cells[0].accuracy.student.value)


# -- looks and files ---------------------------------------------------------------------------------------------------


def test_colours_differ_in_lightness():
    def grey(colour):
        return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]

    shades = [grey([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for c in colours(6)]
    assert shades == sorted(shades)
    assert min(b - a for a, b in itertools.pairwise(shades)) > 0.05
    assert shades[-1] < 0.7
    assert len(colours(1)) == 1


def test_numbers_stand_out_on_every_colour_of_the_map():
    import matplotlib

    for place in np.linspace(0, 1, 50):
        colour = matplotlib.colormaps["cividis"](place)
        light, ink = lightness(colour), lightness(ink_on(colour))
        assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) > 4.5  # WCAG 2, level AA


def test_series_have_markers_of_their_own():
    made = look.keys([str(n) for n in range(12)])
    assert len({key.marker for key in made}) == 12
    assert len({key.colour for key in made}) == 12


def test_sizes_are_written_as_people_write_them():
    numbers = [999, 70_426_624, 1_011_781_632, 1_414_647_808, 11_846_072_320, 22_713_216]
    assert [short_count(n) for n in numbers] == ["999", "70M", "1.0B", "1.4B", "12B", "23M"]


def test_long_names_stay_different():
    same = "x" * 80
    assert names(["short", "other"]) == {"short": "short", "other": "other"}
    assert len(set(names([f"{same}{n}{same}" for n in range(5)]).values())) == 5
    assert next(iter(names(list(LONG)).values())) == "…pythia-70m-deduped…"
    assert len(set(names(["a\nb", "a b"]).values())) == 2
    assert all(len(name) <= look.MOST_LETTERS + 12 for name in names([f"{n}{same}" for n in range(5)]).values())


def test_texts_are_wrapped_and_long_words_broken():
    lines = wrapped("one two three " + "w" * 200, 2.0)
    assert "".join(lines).replace(" ", "") == "onetwothree" + "w" * 200
    assert all(look.width_in(line) <= 2.0 for line in lines)
    assert wrapped("a_method_whose_name_is_long", 1.2) == ["a_method_whose_", "name_is_long"]


def test_the_same_store_gives_the_same_files(selected):
    rows, cells = selected
    cells = [cell for cell in cells if cell.method == "xent" and cell.selection != "weak_val"]
    first, again = ({n.name: image(n.figure, "svg") for n in figures.figures(rows, cells)} for _ in range(2))
    pixels = {image(next(figures.figures(rows, cells)).figure, "png") for _ in range(2)}
    assert len(pixels) == 1
    kinds = {name.partition("-")[0] for name in first}
    assert kinds == {*figures.KINDS} - {"noise", "scaling"}  # these need labels of several kinds, and four sizes
    assert first == again
    assert not any(re.search(rb"\d{4}-\d\d-\d\d|matplotlib v", data) for data in first.values())
    assert max(map(len, first.values())) < 100_000


def test_lean_svg_is_the_same_drawing(synthetic):
    named = next(figures.figures(*read(synthetic().fill())))
    plain = io.BytesIO()
    named.figure.savefig(plain, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.08)
    full = plain.getvalue().decode()
    small = lean(full)
    assert len(small) < 0.7 * len(full)
    tags = {"use": 0, "path": 0}
    for name in tags:
        assert len(list(elements(small, name))) == len(list(elements(full, name)))
    wanted = {use.getAttribute("xlink:href")[1:] for use in elements(small, "use")}
    assert wanted <= {element.getAttribute("id") for element in elements(small, "*")}


def elements(svg: str, name: str):
    return minidom.parseString(svg).getElementsByTagName(name)  # noqa: S318  # written by us


def test_dollars_markup_and_strange_letters_in_names_are_drawn_as_they_are(synthetic):
    rows, cells = read(synthetic(seeds=[0]).fill())
    odd = 'a$b_$ 漢\n字 --><script>alert(1)</script>"'
    cells = [dataclasses.replace(c, task=odd, method=f"m$$<{c.method}>", student_model=odd + "s") for c in cells]
    for named in figures.figures(rows, cells):
        svg = image(named.figure, "svg")
        assert b"script" not in svg
        assert elements(svg.decode(), "svg")
        assert len(image(named.figure, "png")) > 1000
        assert "\n" not in named.alt


def test_matplotlib_is_left_as_it_was(synthetic):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with figures.style():
        assert drawn(*read(synthetic(seeds=[0]).fill()))
    assert dict(matplotlib.rcParams) == before
