"""Rendering a sweep: the same store gives the same bytes, stale figures go, and what is missing is said."""

from __future__ import annotations

import csv
import io
import itertools
import math
import shutil
import struct

import pytest
from rich.console import Console

from w2s.analyze import plots
from w2s.analyze.cells import aggregate
from w2s.analyze.plots import colours, short_count
from w2s.analyze.render import file_name, render
from w2s.analyze.rows import load
from w2s.errors import MachineError, SpecError
from w2s.spec import Weak
from w2s.store import Store


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_everything_is_written_and_listed(synthetic):
    made = synthetic().fill()
    rendered = render("one", made.root)
    folder = made.root / "sweeps" / "one"
    figures = [f"figures/{kind}-movie.{ending}" for kind in ("accuracy", "pgr") for ending in ("png", "svg")]
    listed = sorted(str(path.relative_to(folder)) for path in rendered.paths)
    assert listed == sorted([*figures, "rows.csv", "table.csv", "table.md", "table.tex"])
    assert sorted(contents(folder)) == sorted([*listed, "plan.json"])
    assert (rendered.problems, rendered.unfinished, len(rendered.cells), len(rendered.rows.frame)) == ([], [], 2, 6)
    png = (folder / "figures" / "accuracy-movie.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 600
    assert height > 150


def test_the_same_store_gives_the_same_bytes_in_any_order_of_writing(synthetic):
    first = synthetic(folder="a").fill()
    second = synthetic(folder="b").fill(reverse=True)
    render("one", first.root)
    render("one", second.root)
    texts = contents(first.root / "sweeps" / "one")
    assert texts == contents(second.root / "sweeps" / "one")
    render("one", first.root)
    assert texts == contents(first.root / "sweeps" / "one")


def test_another_store_gives_other_bytes(synthetic):
    first = synthetic(folder="a").fill()
    second = synthetic(folder="b", accuracy=lambda node: 0.7).fill()
    render("one", first.root)
    render("one", second.root)
    one, other = (contents(made.root / "sweeps" / "one") for made in (first, second))
    assert all(one[name] != other[name] for name in ("table.csv", "rows.csv", "table.md", "table.tex"))


def test_stale_figures_and_half_written_files_go(synthetic):
    made = synthetic().fill()
    figures = made.root / "sweeps" / "one" / "figures"
    figures.mkdir()
    (figures / "accuracy-gone.png").write_bytes(b"old")
    (figures / ".pgr-movie.png-abc").write_bytes(b"half")
    render("one", made.root)
    assert sorted(p.name for p in figures.iterdir()) == [
        "accuracy-movie.png",
        "accuracy-movie.svg",
        "pgr-movie.png",
        "pgr-movie.svg",
    ]


def test_a_partial_sweep_renders_and_says_what_is_missing(synthetic):
    made = synthetic()
    (weak,) = made.digests("weak weak-3l on movie, seed 2")
    blocked = made.digests("xent, seed 2") + made.digests("logconf, seed 2")
    made.store.fail(weak, "out of memory")
    made.fill(leave_out=[weak, *blocked])
    rendered = render("one", made.root)
    text = (made.root / "sweeps" / "one" / "table.md").read_text()
    assert "2/3" in text
    assert "failed: weak weak-3l on movie, seed 2: out of memory" in text
    assert "blocked: 2 steps" in text
    assert rendered.problems == []
    assert len(rendered.unfinished) == 2
    assert "% not finished: failed: weak" in (made.root / "sweeps" / "one" / "table.tex").read_text()
    out = io.StringIO()
    rendered.show(Console(file=out, width=80, color_system=None))
    assert "out of memory" in out.getvalue()


def test_nothing_run_yet_renders_tables_without_figures(synthetic):
    made = synthetic()
    rendered = render("one", made.root)
    assert [path.name for path in rendered.paths] == ["table.csv", "rows.csv", "table.md", "table.tex"]
    assert "No student has finished yet." in (made.root / "sweeps" / "one" / "table.md").read_text()


def test_damage_is_reported_and_the_rest_rendered(synthetic):
    made = synthetic().fill()
    (digest,) = made.digests("logconf, seed 1")
    (made.store.path("train", digest) / "predictions" / "test.parquet").write_bytes(b"PAR1")
    rendered = render("one", made.root)
    assert len(rendered.problems) == 1
    assert digest in rendered.problems[0]
    assert "**Problems**" in (made.root / "sweeps" / "one" / "table.md").read_text()
    xent, logconf = rendered.cells
    assert (xent.student.seeds, logconf.student.seeds) == (3, 2)


def test_an_unknown_sweep_writes_nothing(synthetic):
    made = synthetic().fill()
    before = contents(made.root / "sweeps")
    with pytest.raises(SpecError, match="did you mean one"):
        render("onn", made.root)
    with pytest.raises(SpecError, match="no method"):
        render("one", made.root, baseline="xnt")
    assert contents(made.root / "sweeps") == before


def test_a_file_in_the_way_is_a_clear_error(synthetic):
    made = synthetic().fill()
    (made.root / "sweeps" / "one" / "figures").write_text("a file")
    with pytest.raises(MachineError, match=r"figures: a file stands where a folder is needed"):
        render("one", made.root)


def test_rendering_only_reads_the_store(synthetic):
    made = synthetic().fill()
    before = contents(made.root / "store")
    render("one", made.root)
    assert contents(made.root / "store") == before
    assert isinstance(made.store, Store)


def test_file_names_are_safe_and_stay_different():
    assert file_name("accuracy-movie") == "accuracy-movie"
    names = ["a/b", "a b", "a'; rm -rf ~\nü", "../../x", "a" * 300, "a" * 301]
    assert len({file_name(name) for name in names}) == len(names)
    assert all("/" not in file_name(name) and len(file_name(name)) < 100 for name in names)


def overlaps(figure, texts):
    figure.canvas.draw()
    boxes = []
    for text in texts:
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            blank = (text.get_text().startswith("\n")) * box.height / 2  # a label that stands one line lower
            boxes.append(type(box).from_extents(box.x0, box.y0, box.x1, box.y1 - blank))
    return [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.overlaps(b)]


def all_texts(figure):
    found = [figure._suptitle] if figure._suptitle else []
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, sorted(axes.get_ylim()))):
            found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    for legend in figure.legends:
        found += legend.get_texts()
    return found


@pytest.mark.parametrize(
    "models",
    [
        ["pythia-70m", "pythia-1.4b"],
        ["pythia-70m", "pythia-160m", "pythia-410m", "pythia-1b", "pythia-1.4b"],
        ["pythia-70m", "gpt2", "pythia-160m", "gpt2-medium", "pythia-410m", "gpt2-large", "pythia-1b", "pythia-1.4b",
         "gpt2-xl", "pythia-2.8b", "pythia-6.9b", "pythia-12b"],
    ],
    ids=["2 models", "5 models", "12 models"],
)  # fmt: skip
def test_no_texts_overlap(synthetic, models):
    many = len(models) > 5
    few = [[a, b] for i, a in enumerate(models) for b in models[i + 1 :] if b in (models[i + 1], models[-1])]
    made = synthetic(
        models=models, pairs=few if many else "all_upper", methods=["xent"] if many else ["xent", "logconf"], seeds=[0]
    ).fill()
    with plots.style():
        figures = plots.figures(aggregate(load("one", made.root)))
        assert set(figures) == {"accuracy-movie", "pgr-movie"}
        for figure in figures.values():
            assert overlaps(figure, all_texts(figure)) == []


@pytest.mark.parametrize("models", [["pythia-70m", "pythia-1.4b"], ["pythia-70m", "pythia-410m", "pythia-1.4b"]])
def test_no_texts_overlap_where_students_are_selected(synthetic, models):
    methods = {name: {"loss": "logconf", "recipe": {"eval_every": 5}} for name in ("logconf_0.75", "confidence-0.5")}
    made = synthetic(models=models, methods=methods, selections=["final", "weak_val", "oracle"], seeds=[0]).fill()
    with plots.style():
        for figure in plots.figures(aggregate(load("one", made.root))).values():
            assert overlaps(figure, all_texts(figure)) == []


def test_the_overlap_check_can_fail():
    with plots.style():
        figure = plots.Figure()
        texts = [figure.text(0.5, 0.5, "one"), figure.text(0.51, 0.5, "two")]
        assert len(overlaps(figure, texts)) == 1


def test_dollars_and_strange_letters_in_names_are_drawn_as_they_are(synthetic):
    import dataclasses

    made = synthetic(seeds=[0]).fill()
    cells = [dataclasses.replace(c, task="a$b_$ 漢\n字", method="m$$") for c in aggregate(load("one", made.root))]
    with plots.style():
        for figure in plots.figures(cells).values():
            for ending in ("png", "svg"):
                image = io.BytesIO()
                plots.save(figure, image, ending)
                assert image.tell() > 1000


def test_matplotlib_is_left_as_it_was(synthetic):
    import matplotlib

    made = synthetic(seeds=[0]).fill()
    before = dict(matplotlib.rcParams)
    render("one", made.root)
    assert dict(matplotlib.rcParams) == before


def test_colours_fall_in_lightness():
    def lightness(colour):
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    shades = [lightness(colour) for colour in colours(6)]
    assert shades == sorted(shades)
    assert min(b - a for a, b in itertools.pairwise(shades)) > 0.05
    assert shades[-1] < 0.7
    assert len(colours(1)) == 1


def test_sizes_are_written_as_people_write_them():
    numbers = [999, 70_426_624, 1_011_781_632, 1_414_647_808, 11_846_072_320, 22_713_216]
    assert [short_count(number) for number in numbers] == ["999", "70M", "1.0B", "1.4B", "12B", "23M"]


def test_an_absent_pgr_is_no_point_in_the_figure(synthetic):
    made = synthetic(seeds=[0], accuracy=lambda node: 0.5).fill()
    rendered = render("one", made.root)
    assert all(math.isnan(cell.pgr.value) for cell in rendered.cells)
    assert not [path for path in rendered.paths if path.name.startswith("pgr-")]


def test_a_store_without_the_sweeps_store_folder(synthetic):
    made = synthetic().fill()
    shutil.rmtree(made.root / "store")
    rendered = render("one", made.root)
    assert rendered.unfinished == [f"missing: {len(made.plan.nodes)} steps (not run yet)"]


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
def test_the_oracle_is_marked_wherever_it_stands(chosen, width):
    texts, cells = all_outputs(chosen(accuracy=wide_gap).fill(), width)
    for name in ("table.csv", "rows.csv"):
        lines = list(csv.DictReader(io.StringIO(texts[name])))
        marked = [" ".join(line.values()) for line in lines if "diagnostic: chosen on test" in " ".join(line.values())]
        assert len(marked) == sum(line["selection"] == "oracle" for line in lines) > 0
        assert all("oracle" in line for line in marked)
    for name in ("table.md", "table.tex"):
        lines = [line for line in texts[name].splitlines() if "oracle" in line and ("|" in line or " & " in line)]
        assert len(lines) == 2 + 1  # in the accuracies, and the difference of one method
        assert all("oracle (diagnostic)" in line for line in lines)
        assert "a diagnostic and no result" in texts[name]
    said = " ".join(texts["terminal"].split())
    assert said.count("oracle") - 1 == said.count("(diagnostic)") >= 3  # it also stands in the sentence
    assert "a diagnostic and no result" in said
    assert max(map(len, texts["terminal"].splitlines())) <= width
    with plots.style():
        for figure in plots.figures(cells).values():
            labels = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
            assert sum("oracle" in label for label in labels) == 2
            assert all("oracle (diagnostic)" in label for label in labels if "oracle" in label)
            assert len(set(labels)) == len(labels)


def test_weak_val_alone_is_named_and_is_no_diagnostic(chosen):
    texts, cells = all_outputs(chosen(selections=["weak_val"], accuracy=wide_gap).fill(), 200)
    assert all("diagnostic" not in text for text in texts.values())
    assert "| xent, weak_val " in texts["table.md"]
    assert "agrees best with the supervisor's labels on val" in texts["table.md"]
    assert [cell.variant for cell in cells] == ["xent, weak_val", "logconf, weak_val"]


def test_final_alone_has_no_word_of_selections(chosen):
    texts, _ = all_outputs(chosen(selections=["final"]).fill(), 200)
    for name in ("table.md", "table.tex", "terminal"):
        assert "election" not in texts[name]
        assert "final" not in texts[name]


def test_a_ladder_has_a_panel_for_each_method_and_selection(chosen):
    made = chosen(models=["pythia-70m", "pythia-160m", "pythia-410m"], seeds=[0]).fill()
    with plots.style():
        figure = plots.figures(aggregate(load("one", made.root)))["accuracy-movie"]
        titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "xent", "logconf", "xent, weak_val", "logconf, weak_val",
        "xent, oracle (diagnostic)", "logconf, oracle (diagnostic)",
    ]  # fmt: skip
