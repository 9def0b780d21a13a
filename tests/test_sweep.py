"""Sweeps as users write them: every form of pairs, lists and mappings, `--set`, layers of recipes, mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2s.errors import SpecError
from w2s.experiments import expand
from w2s.spec import Frozen, Full, LogConf, Probe, Recipe, Sizes, Truth, Weak, Xent
from w2s.sweep import read_sweep, sweep_of
from w2s.sweepfile import Method

SWEEPS = sorted((Path(__file__).parent.parent / "sweeps").glob("*.yaml"))
SIZES = {"weak_train": 8, "transfer": 8, "val": 4, "test": 8}
MODELS = {name: {"use": "minilm", "layers": layers} for name, layers in (("a", 1), ("b", 2), ("c", 3))}
BASE = {"name": "s", "tasks": ["movie"], "sizes": SIZES, "models": MODELS, "methods": ["xent"]}


@pytest.fixture
def made(tmp_path):
    """Changes of a small sweep -> the sweep; `sets` as on the command line."""
    return lambda sets=(), **changes: sweep_of({**BASE, **changes}, tmp_path, "s.yaml", sets)


@pytest.fixture
def problems(made):
    """The same -> what is wrong with it, the file's name taken off."""

    def of(sets=(), **changes):
        with pytest.raises(SpecError) as caught:
            made(sets, **changes)
        assert all(line.startswith("s.yaml: ") for line in caught.value.problems)
        return [line.removeprefix("s.yaml: ") for line in caught.value.problems]

    return of


# -- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("all_upper", ["ab", "ac", "bc"]),
        ([["b", "c"], ["a", "b"]], ["bc", "ab"]),
        ([["a", "a"]], ["aa"]),  # a student of its own size, as on the diagonal of the paper's figures
        ({"zip": {"weak": ["a", "b"], "student": ["b", "c"]}}, ["ab", "bc"]),
        ({"weak": ["a", "b"], "student": ["b", "c"]}, ["ab", "ac", "bb", "bc"]),
    ],
)
def test_every_form_of_pairs(pairs, expected, made):
    sweep = made(pairs=pairs)
    assert ["".join(pair) for pair in sweep.pairs] == expected
    assert [cell.weak + cell.student for cell in expand(sweep)] == expected


def test_all_upper_is_the_default_and_follows_the_order_of_the_file(made):
    assert made(models=dict(reversed(MODELS.items()))).pairs == [("c", "b"), ("c", "a"), ("b", "a")]


def test_a_list_is_a_mapping_from_its_names(made):
    """Of tasks, models and methods; the digests are the same."""
    listed = made(
        tasks=["movie", {"name": "films", "use": "movie", "balance": False}],
        models=["minilm@1", {"name": "b", "use": "minilm", "layers": 2, "recipe": {"lr": 1e-3}}],
        methods=["xent", {"name": "lc", "loss": "logconf", "recipe": {"epochs": 3}}],
    )
    mapped = made(
        tasks={"movie": "movie", "films": {"use": "movie", "balance": False}},
        models={"minilm@1": {"use": "minilm", "layers": 1}, "b": {"use": "minilm@2", "recipe": {"lr": 1e-3}}},
        methods={"xent": {}, "lc": {"loss": {"name": "logconf"}, "recipe": {"epochs": 3}}},
    )
    assert [cell.digests for cell in expand(listed)] == [cell.digests for cell in expand(mapped)]
    assert len({cell.digests.data for cell in expand(listed)}) == 2


@pytest.mark.parametrize("entry", [None, {}, "xent", {"loss": "xent"}, {"loss": {"name": "xent"}}])
def test_a_method_may_be_short(entry, made):
    assert made(methods={"xent": entry}).student_recipes["b", "xent"].loss == Xent()


def test_the_name_of_a_sweep_is_its_file_name_unless_it_says_otherwise(tmp_path):
    file = tmp_path / "my_question.yaml"
    text = "tasks: [movie]\nsizes: {weak_train: 8, transfer: 8, test: 8}\nmodels: [minilm@1, minilm]\nmethods: [xent]\n"
    file.write_text(text)
    assert read_sweep(file).file.name == "my_question"
    file.write_text(text + "name: other\n")
    assert read_sweep(file).file.name == "other"
    assert read_sweep(file).file.sizes == Sizes(weak_train=8, transfer=8, val=100, test=8)


def test_paths_start_from_the_folder_of_the_yaml(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "my.jsonl").write_text('{"t": "x", "l": 0}\n')
    monkeypatch.chdir(tmp_path)
    data = {**BASE, "tasks": {"mine": {"file": "my.jsonl", "text": "t", "label": "l"}}}
    source = sweep_of(data, tmp_path / "there").tasks["mine"].source
    assert Path(source.file) == tmp_path / "there" / "my.jsonl"
    assert len(source.sha256) == 64


# -- cells ------------------------------------------------------------------------------------------------------------


def test_cells_are_tasks_by_pairs_by_seeds_by_methods(made):
    cells = expand(made(tasks=["movie", "nyt"], seeds=[3, 1], methods=["xent", "logconf"]))
    assert len(cells) == 2 * 3 * 2 * 2
    assert [(c.task, c.weak, c.student, c.seed, c.method) for c in cells[:5]] == [
        *(("movie", "a", "b", seed, method) for seed in (3, 1) for method in ("xent", "logconf")),
        ("movie", "a", "c", 3, "xent"),
    ]
    assert [c.task for c in cells] == ["movie"] * 12 + ["nyt"] * 12


def test_who_learns_what_from_whom(made):
    cell = expand(made(seeds=[5], methods={"hard": {"loss": "logconf", "hard_labels": True}}))[0]
    assert (cell.weak_step.split, cell.weak_step.labels) == ("weak_train", Truth())
    assert (cell.ceiling_step.split, cell.ceiling_step.labels) == ("transfer", Truth())
    assert (cell.student_step.split, cell.student_step.labels) == (
        "transfer", Weak(supervisor=cell.weak_step.digest(), hard=True),
    )  # fmt: skip
    assert cell.student_step.model == cell.ceiling_step.model != cell.weak_step.model
    steps = (cell.weak_step, cell.student_step, cell.ceiling_step)
    assert {step.seed for step in steps} == {5}
    assert {step.data for step in steps} == {cell.data.digest()} == {cell.digests.data}
    assert [cell.digests.weak, cell.digests.student, cell.digests.ceiling] == [step.digest() for step in steps]


def test_one_weak_model_and_one_ceiling_for_all_losses_and_pairs(made):
    cells = expand(made(methods={"xent": {}, "logconf": {}, "long": {"loss": "xent", "recipe": {"epochs": 9}}}))
    assert len({(c.weak, c.digests.weak) for c in cells}) == 2  # a and b
    assert len({(c.student, c.digests.ceiling) for c in cells}) == 2  # b and c
    assert len({c.digests.student for c in cells}) == 9


def test_ceilings_and_weak_models_are_trained_by_cross_entropy_whatever_the_methods(made):
    cells = expand(made(methods={"logconf": {"recipe": {"lr": 0.5}}}, recipe={"lr": 1e-3}))
    for cell in cells:
        assert cell.weak_step.recipe == cell.ceiling_step.recipe == Recipe(lr=1e-3)
        assert cell.student_step.recipe == Recipe(lr=0.5, loss=LogConf())


def test_changing_one_loss_changes_the_students_of_that_method_only(made):
    before = expand(made(methods=["xent", "logconf"]))
    after = expand(made(["methods.logconf.loss.a_max=0.75"], methods=["xent", "logconf"]))
    changed = [(b.method, [f for f in b.digests._fields if getattr(b.digests, f) != getattr(a.digests, f)])
               for b, a in zip(before, after, strict=True)]  # fmt: skip
    assert changed == [("xent", []), ("logconf", ["student"])] * 3


def test_what_runs_where_and_what_is_kept_is_no_part_of_the_identity(made):
    plain = made()
    other = made(["engine.workers=7", "keep_weights=true", "name=other", "question=why"])
    assert [c.digests for c in expand(plain)] == [c.digests for c in expand(other)]
    assert expand(other)[0].weak_step.engine.workers == 7
    assert expand(other)[0].student_step.keep_weights


# -- recipes ----------------------------------------------------------------------------------------------------------


def test_the_later_layer_of_a_recipe_wins_field_by_field(made):
    sweep = made(
        recipe={"lr": 1e-3, "epochs": 3, "batch_size": 4, "tune": {"kind": "frozen", "layers": 1}},
        models={
            "a": "minilm@1",
            "c": {"use": "minilm", "recipe": {"epochs": 5, "batch_size": 6, "tune": {"kind": "probe"}}},
        },
        methods={"xent": {}, "m": {"loss": "logconf", "recipe": {"batch_size": 7, "tune": {"kind": "full"}}}},
    )
    default = Recipe()
    assert sweep.recipes["a"] == Recipe(lr=1e-3, epochs=3, batch_size=4, tune=Frozen(layers=1))
    assert sweep.recipes["c"] == Recipe(lr=1e-3, epochs=5, batch_size=6, tune=Probe())
    assert sweep.student_recipes["c", "xent"] == sweep.recipes["c"]
    student = sweep.student_recipes["c", "m"]
    assert student == Recipe(lr=1e-3, epochs=5, batch_size=7, tune=Full(), loss=LogConf())
    assert student.weight_decay == default.weight_decay


# -- --set ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "read", "value"),
    [
        ("recipe.lr=1e-3", lambda s: s.recipes["a"].lr, 1e-3),
        ("sizes.test=6", lambda s: s.file.sizes.test, 6),
        ("seeds=[4, 5]", lambda s: s.file.seeds, (4, 5)),
        ("seeds.1=9", lambda s: s.file.seeds, (0, 9)),
        ("pairs.0.1=c", lambda s: s.pairs, [("a", "c")]),
        ("pairs=[[b, c]]", lambda s: s.pairs, [("b", "c")]),
        ("models.a.layers=4", lambda s: s.models["a"].layers, 4),
        ("models.minilm@5.layers=4", lambda s: s.models["minilm@5"].layers, 4),  # a bare name gets room for a field
        ("models.minilm@5.recipe.epochs=3", lambda s: s.recipes["minilm@5"].epochs, 3),
        ("models.v1.5.layers=4", lambda s: s.models["v1.5"].layers, 4),  # a name with a dot
        ("tasks.movie.balance=false", lambda s: s.tasks["movie"].balance, False),
        ("methods.xent.recipe.lr=1e-3", lambda s: s.student_recipes["b", "xent"].lr, 1e-3),
        ("methods.logconf={}", lambda s: s.file.methods.get("logconf"), Method(loss=LogConf())),
        ("methods=[xent, logconf]", lambda s: list(s.file.methods), ["xent", "logconf"]),
        ("methods.xent.loss=logconf", lambda s: s.student_recipes["b", "xent"].loss, LogConf()),
        ("name=other", lambda s: s.file.name, "other"),
        ("engine.workers=3", lambda s: s.file.engine.workers, 3),
    ],
)
def test_set_reaches_every_part(change, read, value, made):
    models = {"models": [*({"name": n, **m} for n, m in MODELS.items()), "minilm@5"]}
    models["models"].append({"name": "v1.5", "use": "minilm", "layers": 6})
    given = {**models, "seeds": [0, 1], "pairs": [["a", "b"]]}
    assert read(made(**given)) != value
    assert read(made([change], **given)) == value


def test_the_later_set_wins(made):
    assert made(["recipe.lr=1e-3", "recipe.lr=1e-4"]).recipes["a"].lr == 1e-4


def test_set_changes_what_the_plan_records_and_leaves_the_data_given_alone(made):
    assert made(["recipe.lr=1e-3"]).raw["recipe"] == {"lr": 1e-3}
    assert "recipe" not in BASE


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("recipe.lr", "--set recipe.lr: expected path=value, such as recipe.lr=1e-5"),
        ("=3", "--set =3: expected path=value, such as recipe.lr=1e-5"),
        ("seeds.2=7", "--set seeds.2=7: no entry '2' in a list of 2"),
        ("seeds.x=7", "--set seeds.x=7: no entry 'x' in a list of 2"),
        ("recip.lr=1", "recip: unknown field (did you mean recipe?)"),
        ("recipe.lr=abc", "recipe.lr: expected a number (got 'abc')"),
        ("recipe={lr: 1", "--set recipe={lr: 1: line 2: not YAML: did not find expected ',' or '}'"),
    ],
)
def test_a_set_that_fits_nothing(change, problem, problems):
    assert problems([change], seeds=[0, 1]) == [problem]


# -- mistakes ---------------------------------------------------------------------------------------------------------

PAIRS = ("pairs: expected all_upper, a list of [weak, student], {weak: [...], student: [...]} for each with each, "
         "or {zip: {weak: [...], student: [...]}} for side by side")  # fmt: skip
NAME = "a name may hold letters, digits and . _ @ + - only"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": [0]}, ["seed: unknown field (did you mean seeds?)"]),
        ({"sizes": {**SIZES, "tset": 3}}, ["sizes.tset: unknown field (did you mean test?)"]),
        ({"sizes": {**SIZES, "test": 0, "val": -5}}, ["sizes.val: expected more than 0 (got -5)",
                                                      "sizes.test: expected more than 0 (got 0)"]),
        ({"sizes": {"weak_train": 8, "transfer": 8}}, ["sizes.test: missing, and there is no default"]),
        ({"recipe": {"warmup": 0.1}}, ["recipe.warmup: unknown field (did you mean warmup_frac?)"]),
        ({"recipe": {"lr": "1e-4"}}, ["recipe.lr: expected a number (got '1e-4')"]),
        ({"recipe": [1]}, ["recipe: expected a mapping (got [1])"]),
        ({"recipe": {"loss": {"name": "logconf"}}},
         ["recipe.loss: the loss belongs to a method: `methods: {name: {loss: ...}}`"]),
        ({"recipe": {"tune": {"kind": "frosen"}}}, ["recipe.tune.kind: no 'frosen' (did you mean frozen?)"]),
        ({"engine": {"worker": 2}}, ["engine.worker: unknown field (did you mean workers?)"]),
        ({"keep_weights": "yes"}, ["keep_weights: expected true or false (got 'yes')"]),
        ({"name": "a/b"}, [f"name: {NAME} (got 'a/b')"]),
        ({"seeds": []}, ["seeds: expected at least 1 (got 0)"]),
        ({"seeds": [0, 1, 0]}, ["seeds: 0 is given twice"]),
        ({"seeds": [-1]}, ["seeds[0]: expected 0 or more (got -1)"]),
        ({"seeds": ["one"]}, ["seeds[0]: expected a whole number (got 'one')"]),
        ({"seeds": 3}, ["seeds: expected a list (got 3)"]),
        ({"tasks": ["movi"]}, ["tasks.movi: no task 'movi' (did you mean movie?); `w2s tasks` lists them"]),
        ({"tasks": ["movie", "movie"]},
         ["tasks[1]: the name 'movie' is given twice; give one of them another name"]),
        ({"tasks": {"m": {"use": "movie", "balanced": True}}},
         ["tasks.m.balanced: unknown field (did you mean balance?)"]),
        ({"models": {}}, ["models: expected at least 1 (got 0)"]),
        ({"models": {**MODELS, "d": {"use": "minilm", "layer": 2}}},
         ["models.d.layer: unknown field (did you mean layers?)"]),
        ({"models": {**MODELS, "d": {"use": "minilm", "layers": 7}}}, ["models.d.layers: d has 6 layers (got 7)"]),
        ({"models": {**MODELS, "d": 3}}, ["models.d: expected text or a mapping (got 3)"]),
        ({"models": {**MODELS, "d": {"use": "minilm", "recipe": {"epoch": 2}}}},
         ["models.d.recipe.epoch: unknown field (did you mean epochs?)"]),
        ({"models": {**MODELS, "d": {"use": "minilm", "recipe": [2]}}},
         ["models.d.recipe: expected a mapping (got [2])"]),
        ({"models": {**MODELS, "d": {"use": "minilm", "recipe": {"loss": {"name": "xent"}}}}},
         ["models.d.recipe.loss: the loss belongs to a method: `methods: {name: {loss: ...}}`"]),
        ({"models": {**MODELS, "d": {"use": "minilm@2", "recipe": {"tune": {"kind": "frozen", "layers": 3}}}}},
         ["models.d.recipe.tune.layers: cannot freeze 3 layers of a model that keeps 2"]),
        ({"models": {**MODELS, "d e": "minilm"}}, [f"models.d e: {NAME}; write `short_name: {{use: d e}}`"]),
        ({"models": ["minilm@1", "minilm", "minilm"]},
         ["models[2]: the name 'minilm' is given twice; give one of them another name"]),
        ({"models": ["minilm@1", "minilm", {"use": "gpt2"}]},
         ["models[2]: an entry of a list needs a name (got {'use': 'gpt2'})"]),
        ({"methods": {"xent": {}, "a b": "xent"}}, [f"methods.a b: {NAME}"]),
        ({"methods": {"mine": {"recipe": {"lr": 1.0}}}},
         ["methods.mine.loss.name: no 'mine' (known: adaptconf, entropy, gce, kl, logconf, product, window, xent)"]),
        ({"methods": {"m": {"loss": "adaptcnf"}}}, ["methods.m.loss.name: no 'adaptcnf' (did you mean adaptconf?)"]),
        ({"methods": {"m": {"loss": {"name": "gce", "q": 1.5}}}}, ["methods.m.loss.q: expected 1 or less (got 1.5)"]),
        ({"methods": {"m": {"loss": {"name": "product", "beta": 0}}}},
         ["methods.m.loss.beta: expected more than 0 (got 0)"]),
        ({"methods": {"m": {"loss": {"name": "window", "radius": "midwek"}}}},
         ["methods.m.loss.radius: expected 'midweak' or a number (got 'midwek')"]),
        ({"methods": {"m": {"loss": {"name": "window", "radius": 0.5}}}},
         ["methods.m.loss.radius: 0.5 leaves no example out, because with the 2 classes of movie no probability is "
          "more than 0.5 above chance; use less, or xent"]),
        ({"methods": {"product": {"hard_labels": True}}},
         ["methods.product.hard_labels: a product with a hard label is that label, so that this is xent; use soft "
          "labels, or another loss"]),
        ({"methods": {"w": {"loss": {"name": "window", "radius": "midweak"}, "hard_labels": True}}},
         ["methods.w.hard_labels: midweak is the median certainty of the labels, and hard ones are all certain, so "
          "that this is xent; use soft labels, or another loss"]),
        ({"methods": {"m": {"loss": "logcon"}}}, ["methods.m.loss.name: no 'logcon' (did you mean logconf?)"]),
        ({"methods": {"m": {"loss": {"name": "logconf", "amax": 1}}}},
         ["methods.m.loss.amax: unknown field (did you mean a_max?)"]),
        ({"methods": {"m": {"loss": "xent", "recipe": {"lr": "fast"}}}},
         ["methods.m.recipe.lr: expected a number (got 'fast')"]),
        ({"methods": {"m": {"loss": "xent", "recipe": {"loss": "logconf"}}}},
         ["methods.m.recipe.loss: the loss of a method stands beside its recipe, not in it"]),
        ({"methods": {"m": {"loss": "xent", "hardlabels": True}}},
         ["methods.m.hardlabels: unknown field (did you mean hard_labels?)"]),
        ({"methods": ["xent", "xent"]}, ["methods[1]: the name 'xent' is given twice; give one of them another name"]),
        ({"methods": {"m": {"loss": {"name": "logconf", "threshold": "hlf"}}}},
         ["methods.m.loss.threshold: expected 'prior' or 'half' or a number (got 'hlf')"]),
        ({"pairs": "all_uper"}, [f"{PAIRS} (got 'all_uper')"]),
        ({"pairs": 3}, [f"{PAIRS} (got 3)"]),
        ({"pairs": []}, ["pairs: no pair is left; list at least one [weak, student]"]),
        ({"pairs": [["a", "b"], ["a", "b"]]}, ["pairs: ('a', 'b') is given twice"]),
        ({"pairs": [["a", "d"]]}, ["pairs: 'd' is not one of the models (known: a, b, c)"]),
        ({"pairs": {"weak": ["aa"], "student": ["b"]}}, ["pairs: 'aa' is not one of the models (did you mean a?)"]),
        ({"pairs": {"zip": {"weak": ["a", "b"], "student": ["b", "d"]}}},
         ["pairs: 'd' is not one of the models (known: a, b, c)"]),
        ({"pairs": {"zip": {"weak": ["a", "b"], "student": ["c"]}}},
         ["pairs.zip: the lists must be equally long (got 2 weak, 1 student)"]),
        ({"pairs": {"weak": ["a"], "studnt": ["b"]}}, ["pairs.student: missing, and there is no default",
                                                       "pairs.studnt: unknown field (did you mean student?)"]),
        ({"pairs": {"zip": {"weak": ["a"], "student": ["b"], "seed": 1}}},
         ["pairs.zip.seed: unknown field (known: student, weak)"]),
        ({"engine": {"offload": "optimizer"}},
         ["engine.offload: optimizer needs zero_stage 1, 2 or 3 (got no zero_stage)"]),
        ({"engine": {"processes": 2}, "methods": {"m": {"loss": "xent", "recipe": {"batch_size": 9}}}},
         ["engine.processes: batch_size 9 (of b by m, c by m) cannot be shared evenly by 2 processes; "
          "use 1 or 3, or a batch_size of 8 or 10"]),
        ({"engine": {"cache_frozen": True, "mixed_precision": "bf16"}, "recipe": {"tune": {"kind": "probe"}}},
         ["engine.cache_frozen: with mixed_precision bf16 nothing is cached; set it to false, or leave it out"]),
        ({"recipe": {"precision": "bf16"}},
         ["recipe.precision: is a setting of the engine, for all models: `engine: {mixed_precision: bf16}`"]),
        ({"recipe": {"precision": "bf16", "batch_size": 9}, "engine": {"processes": 2, "cache_frozen": True}},
         ["recipe.precision: is a setting of the engine, for all models: `engine: {mixed_precision: bf16}`",
          "engine.processes: batch_size 9 cannot be shared evenly by 2 processes; "
          "use 1 or 3, or a batch_size of 8 or 10",
          "engine.cache_frozen: no recipe freezes embeddings and lower layers (tune: frozen or probe), so there is "
          "nothing to cache; set it to false, or leave it out"]),
        ({"recipe": {"lr": 0}, "engine": {"cache_frozen": True}},  # what is cached cannot be told
         ["recipe.lr: expected more than 0 (got 0)"]),
        ({"models": {**MODELS, "d": {"use": "minilm", "recipe": {"precision": "fp32", "epoch": 2}}}},
         ["models.d.recipe.precision: is a setting of the engine, for all models: `engine: {mixed_precision: no}`",
          "models.d.recipe.epoch: unknown field (did you mean epochs?)"]),
        ({"methods": {"m": {"loss": "xent", "recipe": {"tune": {"kind": "frozen", "layers": 3}}}}},
         ["methods.m.recipe.tune.layers: cannot freeze 3 layers of b, which keeps 2"]),
        ({"methods": {"m": {"loss": "xent", "recipe": {"head_words": ["a", "b", "c"]}}}},
         ["methods.m.recipe.head_words: 3 words, and movie has 2 classes"]),
        ({"models": ["minilm"]}, ["pairs: all_upper needs two models or more, weakest first (got 1)"]),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_place_and_what_was_meant(changes, expected, problems):
    assert problems(**changes) == expected


def test_all_mistakes_are_told_at_once(problems):
    """Wrong fields, names that do not exist, and a name given twice, in one go."""
    found = problems(
        sizes={**SIZES, "test": 0},
        tasks=["movi", "nyt", "nyt"],
        models={"a": "minlm", "b": {"use": "minilm", "layres": 1}},
        methods={"m": {"loss": "logcon"}},
    )
    assert found == [
        "tasks[2]: the name 'nyt' is given twice; give one of them another name",
        "sizes.test: expected more than 0 (got 0)",
        "methods.m.loss.name: no 'logcon' (did you mean logconf?)",
        "tasks.movi: no task 'movi' (did you mean movie?); `w2s tasks` lists them",
        "models.a: no model 'minlm' (did you mean minilm?); `w2s models` lists the names, and a hub id (org/name), "
        "a local folder or a GGUF file works too",
        "models.b.layres: unknown field (did you mean layers?)",
    ]


def test_the_engine_and_the_recipes_are_told_beside_a_field_that_does_not_exist(problems):
    """What can be told of a part alone does not wait for the whole to be right."""
    found = problems(
        sizes={**SIZES, "tset": 3},
        recipe={"epoch": 2, "precision": "bf16"},
        engine={"offload": "parameters", "mixed_precision": "fp16", "device": "cpu"},
        models={**MODELS, "d": {"use": "minilm", "recipe": {"batch": 2}}},
    )
    assert found == [
        "sizes.tset: unknown field (did you mean test?)",
        "recipe.precision: is a setting of the engine, for all models: `engine: {mixed_precision: bf16}`",
        "recipe.epoch: unknown field (did you mean epochs?)",
        "models.d.recipe.batch: unknown field (did you mean batch_size?)",
        "engine.offload: parameters needs zero_stage 3 (got no zero_stage)",
        "engine.mixed_precision: fp16 needs a CUDA device, and engine.device is cpu; use bf16 or no",
    ]
    assert problems(engine={"offload": "optimizer", "worker": 1}) == [
        "engine.worker: unknown field (did you mean workers?)"
    ]


def test_recipes_names_and_pairs_are_told_at_once(problems):
    found = problems(
        recipe={"lr": 0},
        methods={"m": {"loss": "xent", "recipe": {"epochs": "two"}}},
        pairs=[["a", "z"]],
        models={**MODELS, "d": {"use": "minilm", "recipe": {"batch": 2}}},
    )
    assert found == [
        "recipe.lr: expected more than 0 (got 0)",
        "models.d.recipe.batch: unknown field (did you mean batch_size?)",
        "methods.m.recipe.epochs: expected a whole number (got 'two')",
        "pairs: 'z' is not one of the models (known: a, b, c, d)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tasks: [movie\nmodels: 3", "line 2: not YAML: did not find expected ',' or ']'"),
        ("\ttasks: 1", "that cannot start any token"),
        ("", "expected a mapping with tasks, models and methods (got an empty file)"),
        ("- movie", "expected a mapping with tasks, models and methods (got a list)"),
        ("movie", "expected a mapping with tasks, models and methods (got 'movie')"),
        ("models: {a: minilm, a: gpt2}", "line 1: 'a' is given twice (first on line 1); keep one"),
        ("seeds: [0]\nname: x\nseeds: [1]", "line 3: 'seeds' is given twice (first on line 1); keep one"),
        ("name: !!python/object:os.system x", "line 1: tags such as !!python/object:os.system are not allowed; "
                                              "write plain values"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_sweep(text, problem, tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_sweep(file)
    [found] = caught.value.problems
    assert found.startswith(f"{file}:")
    assert found.endswith(problem)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SpecError, match=r"nope\.yaml: cannot be read: No such file"):
        read_sweep(tmp_path / "nope.yaml")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("quikstart.yaml", " (did you mean quickstart.yaml?)"),
        ("quickstart", " (did you mean quickstart.yaml?)"),
        ("paper.yaml", " (did you mean sweeps/paper_nlp.yaml?)"),
        ("paper_nlp.yaml", " (did you mean sweeps/paper_nlp.yaml?)"),  # the name is right, the folder is not
        ("zzz.yaml", " (there are quickstart.yaml, sweeps/paper_nlp.yaml)"),
        ("nowhere/zzz.yaml", " (there are sweeps/paper_nlp.yaml)"),
    ],
)
def test_a_file_that_is_not_there_brings_the_nearest_name(asked, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    for name in ("quickstart.yaml", "sweeps/paper_nlp.yaml", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(SpecError) as caught:
        read_sweep(Path(asked))
    assert caught.value.problems == [f"{asked}: cannot be read: No such file or directory{hint}"]


def test_a_folder_is_no_file_that_is_missing(tmp_path):
    (tmp_path / "other.yaml").touch()
    with pytest.raises(SpecError, match=r"cannot be read: Is a directory$"):
        read_sweep(tmp_path)


# -- the sweeps that come with w2s ------------------------------------------------------------------------------------


def test_there_are_sweeps():
    assert {file.stem for file in SWEEPS} >= {"quickstart", "paper_nlp", "openai_readme", "smollm2_vader"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What `w2s plan` says of each sweep, and its exit code: in a process of their own, whose sockets are gone."""
    folder = tmp_path_factory.mktemp("offline")
    code = (
        "import contextlib, io, json, socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from w2s.cli.main import main\n"
        "def plan(file):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        code = main(['plan', file, '--results', sys.argv[1]])\n"
        "    return code, out.getvalue(), err.getvalue()\n"
        "print(json.dumps({file: plan(file) for file in sys.argv[2:]}))\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "W2S_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-c", code, str(folder / "results"), *map(str, SWEEPS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / "results").exists()
    return json.loads(done.stdout)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_plans_without_a_network_or_a_cache(file, shown):
    code, out, err = shown[str(file)]
    assert (code, err) == (0, "")
    assert out.startswith(f"sweep {file.stem}: ")
    assert "Traceback" not in out


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_opens_with_its_question_its_cost_and_its_command(file):
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert "?" in head[0] or "." in head[0]
    assert any(word in " ".join(head) for word in ("Cost:", "Needs a"))
    assert any(line.startswith("# Run:") and f"sweeps/{file.name}" in " ".join(head) for line in head)
    assert read_sweep(file).file.question.endswith("?")
