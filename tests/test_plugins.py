"""Files of plugins in sweeps: what they mark, what is refused and how it is told, which digests an edit changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from w2s import pluginfiles, plugins
from w2s.errors import SpecError, StepError
from w2s.experiments import expand
from w2s.objectives import PluginLoss
from w2s.plan import build, write
from w2s.sweep import sweep_of

IDEAS = """\
from __future__ import annotations

from typing import Literal

from w2s import plugins

HALF = 0.5


@plugins.loss
def mine(logits, labels, *, scale: float = 1, times: int | None = None, how: Literal["a", "b"] = "a"):
    return (labels * logits).sum(-1) * scale


def towards(labels, logits, course, *, share: float):
    return labels


@plugins.loss(aims=towards, reads="batch")
def drawn(logits, targets, *, share: float, loud: bool = False):
    return -targets.sum(-1)


@plugins.transform
def flip(p, rng, *, share: float = HALF, name: str = "x"):
    return p[:, ::-1]


@plugins.transform
def upside_down(p):
    return p[:, ::-1]


@plugins.task(text="{a} words", label="b", classes=["no", "yes"], about="made")
def made_up(*, many: int = 30):
    return [{"a": i, "b": i % 2} for i in range(many)]


@plugins.prepare
def shorter(record, *, to: int = 3):
    return record


@plugins.model
def wider(base, *, size: int = 8):
    return base
"""
MODELS = {name: {"use": "minilm", "layers": layers} for name, layers in (("a", 1), ("b", 2))}
BASE = {
    "name": "s",
    "plugins": ["ideas.py"],
    "tasks": ["movie"],
    "sizes": {"weak_train": 8, "transfer": 8, "val": 4, "test": 8},
    "models": MODELS,
    "methods": ["xent"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    """One for all tests here, so that most of them start no process."""
    monkeypatch.setenv("W2S_CACHE", str(cache))


@pytest.fixture
def ideas(tmp_path):
    file = tmp_path / "ideas.py"
    file.write_text(IDEAS)
    return file


@pytest.fixture
def made(ideas):
    """Changes of a small sweep beside `ideas.py` -> the sweep."""
    return lambda sets=(), **changes: sweep_of({**BASE, **changes}, ideas.parent, "s.yaml", sets)


@pytest.fixture
def problems(made):
    def of(sets=(), **changes):
        with pytest.raises(SpecError) as caught:
            made(sets, **changes)
        return [line.removeprefix("s.yaml: ") for line in caught.value.problems]

    return of


# -- names in a sweep --------------------------------------------------------------------------------------------------


def test_a_loss_by_its_name_alone_with_values_and_by_set(made):
    sweep = made(
        ["methods.half.loss.scale=0.25"],
        methods={
            "mine": None,
            "half": {"loss": {"name": "mine", "scale": 0.5, "times": 3, "how": "b"}},
            "short": "mine",
            "flip": {"labels": {"transforms": ["flip"]}},  # the name of a transform says nothing about the loss
        },
    )
    found = {name: method.loss for name, method in sweep.file.methods.items()}
    assert isinstance(found["mine"], PluginLoss)
    assert found["mine"].keywords == {"how": "a", "scale": 1.0, "times": None}
    assert type(found["mine"].keywords["scale"]) is float
    assert found["half"].keywords == {"how": "b", "scale": 0.25, "times": 3}
    assert found["short"] == found["mine"]
    assert found["flip"].name == "xent"
    assert (found["mine"].use, found["mine"].file) == ("mine", "ideas.py")
    assert made(methods=["mine"]).file.methods["mine"].loss == found["mine"]


def test_a_method_called_like_a_loss_of_a_plugin_has_that_loss_also_where_it_is_about_labels(made):
    sweep = made(methods={"mine": {"labels": {"transforms": ["harden"]}}})
    assert sweep.file.methods["mine"].loss.use == "mine"


def test_plugins_may_be_named_by_set(made):
    sweep = made(["plugins=[ideas.py]"], plugins=[], methods=["mine"])
    assert sweep.file.methods["mine"].loss.use == "mine"


def test_transforms_alone_with_a_bare_value_and_with_several(made):
    sweep = made(
        methods={"m": {"labels": {"transforms": ["upside_down", {"flip": 0.25}, {"flip": {"name": "y"}}, "harden"]}}},
        seeds=[0, 1],
    )
    transforms = sweep.chains.labellings["m"].transforms
    assert [getattr(t, "keywords", None) for t in transforms] == [
        {}, {"name": "x", "share": 0.25}, {"name": "y", "share": 0.5}, None,
    ]  # fmt: skip
    assert [getattr(t, "random", None) for t in transforms] == [False, True, True, None]
    first, second = expand(sweep)
    assert first.digests.labels != second.digests.labels
    titles = [step.title for step in first.between]
    assert titles[-1].startswith("labels on movie: a; upside_down; flip name=x share=0.25; flip name=y share=0.5; hard")


def test_labels_of_a_transform_that_draws_nothing_do_not_depend_on_the_seed(made):
    methods = {"m": {"labels": {"from": "truth", "transforms": ["upside_down"]}}}
    assert len({cell.digests.labels for cell in expand(made(methods=methods, seeds=[0, 1]))}) == 1
    methods = {"m": {"labels": {"from": "truth", "transforms": ["flip"]}}}
    assert len({cell.digests.labels for cell in expand(made(methods=methods, seeds=[0, 1]))}) == 2


def test_what_a_transform_makes_of_hard_labels_is_not_taken_for_hard(made):
    hard = {"labels": {"transforms": ["harden"]}, "loss": "product"}
    with pytest.raises(SpecError, match="product"):
        made(methods={"m": hard})
    made(methods={"m": {**hard, "labels": {"transforms": ["harden", "upside_down"]}}})


def test_tasks_by_name_and_with_other_values_and_fields(made):
    sweep = made(tasks={"made_up": "made_up", "few": {"use": "made_up", "many": 12, "balance": False}})
    one, few = sweep.tasks.values()
    assert (one.source.keywords, few.source.keywords) == ({"many": 30}, {"many": 12})
    assert (one.classes, one.about, one.balance, few.balance) == (("no", "yes"), "made", None, False)
    assert (one.name, few.name) == ("made_up", "few")


def test_a_prepare_and_a_model_builder(made):
    models = {"a": {"use": "minilm", "build": "wider"}, "b": {"use": "minilm", "build": {"name": "wider", "size": 3}}}
    sweep = made(tasks={"m": {"use": "movie", "prepare": {"name": "shorter", "to": 2}}}, models=models)
    assert sweep.tasks["m"].own_prepare.keywords == {"to": 2}
    assert [model.build.keywords for model in sweep.models.values()] == [{"size": 8}, {"size": 3}]
    assert made(tasks={"m": {"use": "movie", "prepare": None}}).tasks["m"].own_prepare is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"methods": {"m": {"loss": {"name": "mien"}}}},
            ["methods.m.loss.name: no loss 'mien' (did you mean mine?)"],
        ),
        (
            {"methods": {"m": {"loss": {"name": "mine", "scal": 1, "times": 1.5, "how": "c"}}}},
            [
                "methods.m.loss.times: expected a whole number (got 1.5)",
                "methods.m.loss.how: expected 'a' or 'b' (got 'c')",
                "methods.m.loss.scal: unknown field (did you mean scale?)",
            ],
        ),
        ({"methods": ["drawn"]}, ["methods.drawn.loss.share: missing, and there is no default"]),
        (
            {"methods": {"m": {"loss": {"name": "plugin", "use": "mine", "code": "0" * 64}}}},
            ["methods.m.loss.name: no loss 'plugin'"],
        ),
        (
            {"methods": {"m": {"labels": {"transforms": ["flipp", {"upside_down": 1}, {"flip": "much"}]}}}},
            [
                "methods.m.labels.transforms[0]: no transform 'flipp' (did you mean flip?)",
                "methods.m.labels.transforms[1]: upside_down takes no value (got 1)",
                "methods.m.labels.transforms[2].flip.share: expected a number (got 'much')",
            ],
        ),
        (
            {"methods": {"m": {"labels": {"transforms": [{"plugin": {"use": "flip", "code": "0" * 64}}]}}}},
            ["methods.m.labels.transforms[0]: no transform 'plugin'"],
        ),
        ({"tasks": ["madeup"]}, ["tasks.madeup: no task 'madeup' (did you mean made_up?)"]),
        (
            {"tasks": {"t": {"use": "made_up", "many": "x", "tex": "a"}}},
            ["tasks.t.many: expected a whole number (got 'x')", "tasks.t.tex: unknown field (did you mean text?)"],
        ),
        (
            {"tasks": {"t": {"use": "movie", "prepare": "shortr"}}},
            ["tasks.t.prepare: no prepare 'shortr' (did you mean shorter?)"],
        ),
        (
            {"tasks": {"t": {"use": "movie", "own_prepare": {"use": "shorter", "code": "0" * 64}}}},
            ["tasks.t.own_prepare: unknown field"],
        ),
        (
            {"models": {**MODELS, "b": {"use": "minilm", "build": "widr"}}},
            ["models.b.build: no model builder 'widr' (did you mean wider?)"],
        ),
        (
            {"models": {**MODELS, "b": {"use": "minilm", "build": {"use": "wider", "code": "0" * 64}}}},
            ["models.b.build: expected the name of a model builder of a plugin"],
        ),
        (
            {
                "models": {**MODELS, "b": {"use": "minilm", "build": "wider"}},
                "engine": {"zero_stage": 3, "processes": 2},
            },
            ["models.b.build: wider of ideas.py takes a whole model, and at zero_stage 3 no process has one"],
        ),
        (
            {
                "models": {name: {"use": "minilm", "build": "wider"} for name in "ab"},
                "engine": {"cache_frozen": True},
                "recipe": {"tune": {"kind": "probe"}},
            },
            ["engine.cache_frozen: models that a plugin builds are not cached"],
        ),
    ],
)
def test_mistakes_are_told_with_their_place(changes, expected, problems):
    found = problems(**changes)
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning)


def test_messages_do_not_offer_what_nobody_writes(problems):
    (line,) = problems(plugins=[], methods={"m": {"loss": {"name": "zzz"}}})
    assert line == (
        "methods.m.loss.name: no 'zzz' (known: adaptconf, entropy, gce, kl, logconf, product, window, xent)"
    )


# -- identity ----------------------------------------------------------------------------------------------------------


def test_an_edit_changes_the_steps_that_use_something_of_the_file_and_no_other(made, ideas):
    methods = {"xent": {}, "mine": {}, "flip": {"labels": {"transforms": ["flip"]}}}
    tasks = ["movie", "made_up"]
    before = {cell[:5]: cell.digests for cell in expand(made(methods=methods, tasks=tasks))}
    ideas.write_text(IDEAS + "# a remark\n")
    after = {cell[:5]: cell.digests for cell in expand(made(methods=methods, tasks=tasks))}
    for cell, old in before.items():
        task, method = cell[0], cell[3]
        same = [name for name in old._fields if getattr(old, name) == getattr(after[cell], name) != ""]
        expected = {"xent": ["data", "weak", "student", "ceiling"], "mine": ["data", "weak", "ceiling"],
                    "flip": ["data", "weak", "ceiling"]}[method]  # fmt: skip
        assert same == ([] if task == "made_up" else expected)


def test_a_sweep_that_uses_nothing_of_its_plugins_has_the_digests_of_one_without(made):
    assert [c.digests for c in expand(made())] == [c.digests for c in expand(made(plugins=[]))]


def test_only_models_that_are_built_count_their_builder(made, ideas):
    def sweep():
        return expand(made(models={"a": MODELS["a"], "b": {**MODELS["b"], "build": "wider"}}))[0].digests

    before = sweep()
    ideas.write_text(IDEAS + "# a remark\n")
    after = sweep()
    assert (before.data, before.weak) == (after.data, after.weak)
    assert {before.student, before.ceiling}.isdisjoint(after)


def test_where_a_file_lies_and_what_it_is_called_does_not_count(made, ideas):
    other = ideas.with_name("other.py")
    other.write_text(IDEAS)
    assert expand(made(methods=["mine"]))[0].digests == expand(made(methods=["mine"], plugins=["other.py"]))[0].digests


def test_a_plan_says_which_texts_it_goes_by(made, tmp_path):
    sweep = made(methods=["mine"])
    text = write(build(sweep, expand(sweep)), tmp_path / "out").read_text()
    assert sweep.plugins.files[0].code in text
    without = made(plugins=[])
    assert '"plugins": {' not in write(build(without, expand(without)), tmp_path / "out").read_text()


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_a_file_imports_does_not_come_into_this_process(made, ideas):
    ideas.write_text("import wave\n" + IDEAS.partition("\n")[2])
    sys.modules.pop("wave", None)
    sweep = made(methods=["mine"])
    assert "wave" not in sys.modules
    assert not any(name.startswith("w2s_plugin_") and sweep.plugins.files[0].code[:16] in name for name in sys.modules)


def test_a_file_is_run_once_however_often_it_is_planned(made, ideas, monkeypatch):
    made(methods=["mine"])

    def run(*_, **__):
        raise AssertionError("another process")

    monkeypatch.setattr(subprocess, "run", run)
    assert made(methods=["mine"]).file.methods["mine"].loss.keywords["scale"] == 1.0
    ideas.write_text(IDEAS + "# a remark of this test alone\n")  # negative control
    with pytest.raises(AssertionError, match="another process"):
        made(methods=["mine"])


def test_a_cache_that_cannot_be_written_costs_time_only(made, monkeypatch, tmp_path):
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "full"))
    assert made(methods=["mine"]).file.methods["mine"].loss.use == "mine"


HEAD = "from w2s import plugins\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def broken(:\n", "line 1: "),
        (
            HEAD + "import no_such_module_at_all\n",
            "line 2: ModuleNotFoundError: No module named 'no_such_module_at_all'",
        ),
        (HEAD + "x = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        (HEAD + "raise SystemExit(3)\n", "line 2: SystemExit: 3"),
        (
            HEAD + "import os\nprint('said', flush=True)\nos._exit(4)\n",
            "ended the process that ran it (exit code 4): said",
        ),
        (HEAD, "marks nothing; write @plugins.loss"),
        (HEAD + "import neighbour\n", "line 2: imports neighbour, a file beside it"),
        (HEAD + "def f():\n    from neighbour import x\n", "line 3: imports neighbour, a file beside it"),
        (HEAD + "from . import x\n", "line 2: imports ., a file beside it"),
        (
            HEAD + "@plugins.loss\ndef f(a):\n    pass\n",
            "line 2: loss f: is given (logits, labels) and has (a); parameters of its own stand after *",
        ),
        (HEAD + "@plugins.loss\ndef f(a, b, c=1):\n    pass\n", "line 2: loss f: c has a default but stands before *"),
        (HEAD + "@plugins.loss\ndef f(a, b, **more):\n    pass\n", "line 2: loss f: *more tells no parameters"),
        (
            HEAD + "@plugins.loss\ndef f(a, b, *, c=1):\n    pass\n",
            "line 2: loss f: parameter c: give its type, one of bool, int, float, str, Literal[...], or one of them",
        ),
        (
            HEAD + "@plugins.loss\ndef f(a, b, *, c: list = ()):\n    pass\n",
            "line 2: loss f: parameter c: give its type, one of bool, int, float, str, Literal[...], or one of them",
        ),
        (
            HEAD + "@plugins.loss\ndef f(a, b, *, c: int = 1.5):\n    pass\n",
            "line 2: loss f: parameter c: the default 1.5 is not int",
        ),
        (
            HEAD + "@plugins.loss(reads='batch')\ndef f(a, b):\n    pass\n",
            "line 2: reads: 'own' or 'batch' together with",
        ),
        (
            HEAD + "def g(a):\n    pass\n@plugins.loss(aims=g)\ndef f(a, b):\n    pass\n",
            "line 4: loss f: aims is given (labels, logits, course)",
        ),
        (
            HEAD + "@plugins.transform\ndef f(p, truth):\n    pass\n",
            "line 2: transform f: is given (p), then any of ids, texts, rng and has (p, truth)",
        ),
        (HEAD + "@plugins.task\ndef f():\n    pass\n", "line 2: TypeError: "),
        (HEAD + "plugins.loss(3)\n", "line 2: loss: marks a function (got 3)"),
        (
            HEAD + 2 * "@plugins.transform\ndef f(p):\n    pass\n",
            "transform f: is there twice, on lines 2 and 5; name one",
        ),
        (HEAD + "@plugins.loss\ndef xent(a, b):\n    pass\n", "x.py:2: loss xent: w2s has one of that name"),
        (HEAD + "@plugins.transform\ndef harden(p):\n    pass\n", "x.py:2: transform harden: w2s has one of that name"),
        (HEAD + "@plugins.task()\ndef movie():\n    pass\n", "x.py:2: task movie: w2s has one of that name"),
        (HEAD + "@plugins.prepare\ndef lettered(r):\n    pass\n", "x.py:2: prepare lettered: w2s has one of that name"),
        (
            HEAD + "@plugins.task(tekst='a')\ndef t(*, sample: int = 1):\n    pass\n",
            "x.py:2: task t: the parameter sample is a field of its own in a sweep; name it otherwise",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(text, expected, problems, ideas):
    ideas.with_name("x.py").write_text(text)
    ideas.with_name("neighbour.py").write_text("x = 1\n")
    found = problems(plugins=["x.py"], methods=["nothing_else_is_told"])
    assert any(expected in line for line in found), found
    assert all(line.startswith("plugins[0]: ") for line in found)


def test_a_file_is_found_or_named(problems, ideas):
    assert problems(plugins=["idea.py"])[0].startswith("plugins[0]: no such file or folder 'idea.py' (did you mean id")
    assert problems(plugins="ideas.py") == ["plugins: expected a list of files, such as [my_ideas.py] (got 'ideas.py')"]
    assert problems(plugins=["ideas"])[0].startswith("plugins[0]: no installed package has an entry point 'ideas'")
    assert problems(plugins=["ideas.py", "./ideas.py"])[0].startswith("plugins[1]: ./ideas.py is given twice")
    ideas.with_name("more.py").write_text(IDEAS + "\n# more\n")
    both = problems(plugins=["ideas.py", "more.py"])
    assert both[0] == "plugins[1]: more.py:10: loss mine: ideas.py has one of that name; name one of them otherwise"
    assert len(both) == 7


def test_an_entry_point_of_an_installed_package(made, problems, ideas, monkeypatch):
    site = ideas.parent / "site"
    (site / "their_pack").mkdir(parents=True)
    (site / "their_pack" / "__init__.py").write_text("")
    (site / "their_pack" / "ideas.py").write_text(IDEAS)
    (site / "their_pack-1.dist-info").mkdir()
    (site / "their_pack-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pack\nVersion: 1\n")
    points = "[w2s.plugins]\ntheirs = their_pack.ideas\ngone = their_pack.gone\n"
    (site / "their_pack-1.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    assert made(plugins=["theirs"], methods=["mine"]).file.methods["mine"].loss.file == "ideas.py"
    assert "no Python file here" in problems(plugins=["gone"])[0]
    assert "did you mean theirs" in problems(plugins=["their"])[0]
    (site / "their_pack" / "ideas.py").write_text("import their_pack.ideas\n" + IDEAS.partition("\n")[2])
    assert "imports their_pack.ideas, a file beside it" in problems(plugins=["theirs"])[0]


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(made, tmp_path):
    """(a loss, the folder with the copy of its file)."""
    sweep = made(methods=["mine"])
    pluginfiles.keep(sweep.plugins.files, tmp_path / "plugins")
    pluginfiles.keep(sweep.plugins.files, tmp_path / "plugins")  # once more does nothing
    yield sweep.file.methods["mine"].loss, tmp_path / "plugins"
    plugins._loaded.clear()


def test_a_run_goes_by_its_copy_whatever_becomes_of_the_file(copied, ideas):
    use, folder = copied
    ideas.write_text("raise SystemExit\n")
    plugins.load(use, folder)
    marked = plugins.loaded("loss", use)
    assert marked.function.__name__ == "mine"
    assert (Path(marked.file).parent.name, marked.line) == (use.code, 10)
    assert [one.name for one in plugins.marked_in(Path("x.py"), IDEAS.encode())][:2] == ["mine", "drawn"]


def test_a_copy_that_was_changed_or_is_gone_is_refused(copied):
    use, folder = copied
    (copy,) = folder.glob("*/*.py")
    copy.write_text(IDEAS + "# a remark\n")
    with pytest.raises(StepError, match=r"ideas\.py: changed since it was put there; remove"):
        plugins.load(use, folder)
    copy.unlink()
    with pytest.raises(StepError, match=r"plugin ideas\.py: no copy of it in .*; give the sweep's command again"):
        plugins.load(use, folder)


def test_windows_line_ends_and_odd_letters_are_copied_byte_by_byte(made, ideas, tmp_path):
    ideas.write_bytes(IDEAS.replace("\n", "\r\n").encode() + "# ü\r\n".encode())
    sweep = made(methods=["mine"])
    pluginfiles.keep(sweep.plugins.files, tmp_path / "plugins")
    (copy,) = (tmp_path / "plugins").glob("*/*.py")
    assert copy.read_bytes() == ideas.read_bytes()


def test_a_copy_that_cannot_be_run_any_more_is_told_with_its_line(copied, monkeypatch, capfd):
    use, folder = copied
    monkeypatch.setitem(sys.modules, "typing", None)  # as where another machine lacks a package
    with pytest.raises(StepError, match=r"^ideas\.py:3: ModuleNotFoundError: .*typing"):
        plugins.load(use, folder)
    assert "Traceback" in capfd.readouterr().err


def test_marks_mean_nothing_outside_of_a_sweep():
    @plugins.loss
    def mine(logits, labels, *, a: float = 1.0):
        return a

    assert mine(0, 0, a=2.0) == 2.0
