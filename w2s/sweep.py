"""A sweep as written in, a validated sweep out: tasks, models and sources looked up, recipes merged, pairs expanded.

A recipe is built from four layers, the later one winning field by field: the defaults of `Recipe`, the sweep's
`recipe`, the model's `recipe`, and for students the method's `recipe` and `loss`.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w2s import misfits, models, pluginfiles, promptable, resources, starts, sweepfile
from w2s.chains import Chains
from w2s.errors import SpecError
from w2s.identity import unique, validated
from w2s.labelling import labelling_of
from w2s.misfits import Use
from w2s.models import ModelSpec
from w2s.pairs import expanded
from w2s.pluginfiles import Plugins
from w2s.resources import Resources, Slurm
from w2s.sources.fetch import find_file
from w2s.spec import Engine, Prompt, Recipe, is_solved, prompted_recipe, solved_recipe
from w2s.starts import Language
from w2s.sweepfile import NAME, WRONG_NAME, SweepFile
from w2s.tasks import registry
from w2s.tasks.task import TaskSpec

# Weak models and ceilings follow these recipes too, and their loss is always xent.
SHARED_LOSS = "the loss belongs to a method: `methods: {name: {loss: ...}}`"
OWN_LOSS = "the loss of a method stands beside its recipe, not in it"
MOVED = "precision"  # once a field of recipes


class Sweep(NamedTuple):
    """A validated sweep: everything looked up, nothing left that can be wrong before the data is read."""

    file: SweepFile
    raw: dict[str, Any]  # as written, for plan.json and the report
    tasks: dict[str, TaskSpec]
    models: dict[str, ModelSpec]
    recipes: dict[str, Recipe]  # by model: weak supervisors and ceilings
    student_recipes: dict[tuple[str, str], Recipe]  # by (student, method)
    pairs: list[tuple[str, str]]
    resources: dict[str, Resources]  # by model: what a job asks SLURM for
    engines: dict[str, Engine]  # by model: the sweep's, but for how many processes a job holds
    chains: Chains  # what each method's labels lead to
    languages: dict[str, Language]  # by model: what it reads before all else
    plugins: Plugins = Plugins()


def read_sweep(path: Path, sets: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file with `a.b=value` changes applied. Raises SpecError with every problem found."""
    path = Path(path)
    return sweep_of(sweepfile.read(path), path.resolve().parent, str(path), sets)


def sweep_of(data: dict[str, Any], base: Path, where: str = "sweep", sets: Sequence[str] = ()) -> Sweep:
    """The sweep in plain data; paths in it are relative to `base`. Raises SpecError with every problem found."""
    problems: list[str] = []
    try:
        plugins = _plugins(data, sets, base)
        losses = {*pluginfiles.OWN["loss"], *plugins.names("loss")}
        # Named before, so that sets can reach in; after, for new lists.
        raw = sweepfile.named(sweepfile.with_sets(sweepfile.named(data, problems, losses), sets), problems, losses)
        filled = pluginfiles.filled_in(raw, plugins, problems)
        try:
            file = validated(SweepFile, filled)
        except SpecError as error:
            raise SpecError([*error.problems, *_problems_of_parts(filled, base)]) from None
        found = _looked_up(file, raw, base)._replace(plugins=plugins)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError([f"{where}: {problem}" for problem in unique(problems)])
    return found


def _plugins(data: dict[str, Any], sets: Sequence[str], base: Path) -> Plugins:
    """The files that a sweep names, read before all else: the rest may name what is in them."""
    problems: list[str] = []
    own = [change for change in sets if change.partition("=")[0].strip().partition(".")[0] == "plugins"]
    given = sweepfile.with_sets({"plugins": data.get("plugins", [])}, own)["plugins"]
    plugins = pluginfiles.read(given, base, problems)
    if problems:  # whatever else is wrong may only follow from these
        raise SpecError(problems)
    return plugins


def _problems_of_parts(raw: dict[str, Any], base: Path) -> list[str]:
    """What is wrong with parts of a sweep that is wrong elsewhere too, as far as each can be told alone."""
    problems = _wrong_recipe(raw.get("recipe", {}), "recipe")
    for key, look_up in (("tasks", registry.task_of), ("models", models.model_of)):
        entries = raw.get(key)
        for name, value in entries.items() if isinstance(entries, dict) else ():
            where = f"{key}.{name}"
            own, recipe, asks = _parts(value) if key == "models" else (value, {}, {})
            if isinstance(value, (str, dict)):
                try:
                    look_up(own, base, where)
                except SpecError as error:
                    problems += error.problems
            problems += _wrong_recipe(recipe, f"{where}.recipe")
            if key == "models" and isinstance(value, dict) and value.get("start") is not None:
                _collect(problems, starts.language_of, value["start"], f"{where}.start", {})
            with contextlib.suppress(SpecError):  # a block that is none says so itself
                _collect(problems, resources.of_model, validated(Slurm, raw.get("slurm", {})), asks, f"{where}.slurm")
    names = [list(raw[key]) if isinstance(raw.get(key), dict) else [] for key in ("models", "methods")]
    for method in names[1]:
        entry = raw["methods"][method]
        if isinstance(entry, dict) and "labels" in entry:
            _collect(problems, labelling_of, entry["labels"], f"methods.{method}.labels", *names, base)
    with contextlib.suppress(SpecError):  # an engine that is none says so itself
        problems += misfits.of_engine(validated(Engine, raw.get("engine", {})))
    return problems


def _collect(problems: list[str], make: Callable[..., Any], *args: Any) -> Any:
    """What `make` makes; None where it raises SpecError, whose problems are added."""
    try:
        return make(*args)
    except SpecError as error:
        problems += error.problems
        return None


def _looked_up(file: SweepFile, raw: dict[str, Any], base: Path) -> Sweep:
    problems: list[str] = []
    collect = functools.partial(_collect, problems)
    if not NAME.match(file.name):
        problems.append(f"name: {WRONG_NAME} (got {file.name!r})")
    problems += [f"seeds: {seed} is given twice" for seed, times in Counter(file.seeds).items() if times > 1]
    tasks = {name: collect(_task, name, value, base) for name, value in file.tasks.items()}
    specs: dict[str, Any] = {}
    recipes: dict[str, Any] = {}
    student_recipes: dict[tuple[str, str], Any] = {}
    asked: dict[str, Any] = {}
    languages: dict[str, Any] = {}
    problems += _wrong_recipe(file.recipe, "recipe")
    collect(resources.of_small_jobs, file.slurm)
    if file.slurm.script is not None:
        script = collect(find_file, file.slurm.script, base, "slurm.script")
        file = file.model_copy(update={"slurm": file.slurm.model_copy(update={"script": script and str(script)})})
    for name, value in file.models.items():
        own, recipe, asks = _parts(value)
        where = f"models.{name}"
        if not NAME.match(name):
            problems.append(f"{where}: {WRONG_NAME}; write `short_name: {{use: {name}}}`")
        specs[name] = collect(models.model_of, own, base, where, name)
        problems += _wrong_recipe(recipe, f"{where}.recipe")
        asked[name] = collect(resources.of_model, file.slurm, asks, f"{where}.slurm")
        recipes[name] = _solved(specs[name], _recipe(file.recipe, recipe, {"loss": {"name": "xent"}}))
        if isinstance(value, dict) and value.get("start") is not None:
            languages[name] = collect(starts.language_of, value["start"], f"{where}.start", file.recipe)
    for method, entry in file.methods.items():
        if not NAME.match(method):
            problems.append(f"methods.{method}: {WRONG_NAME}")
        problems += _wrong_recipe(entry.recipe, f"methods.{method}.recipe", OWN_LOSS)
        problems += misfits.of_hard_labels(method, entry.loss) if entry.hard_labels else []
        for name, value in file.models.items():
            loss = entry.loss.model_dump(mode="json")
            recipe = _recipe(file.recipe, _parts(value)[1], entry.recipe, {"loss": loss})
            student_recipes[name, method] = _solved(specs[name], recipe)
    pairs = collect(expanded, file.pairs, list(file.models))
    chains, between = _chains(file, base, pairs, problems)
    problems += misfits.of_probing(chains.labellings, specs, between, tasks)
    problems += misfits.of_selections(file.selections, list(file.methods), student_recipes, pairs or [])
    uses = _uses(specs, recipes, student_recipes, between)
    readers = _readers(specs, languages)
    problems += [*misfits.of_engine(file.engine), *misfits.of_recipes(file.engine, [*uses, *readers])]
    begun = {method: entry.start.method for method, entry in file.methods.items() if entry.start is not None}
    problems += starts.of_methods(begun, list(file.methods), between, specs, student_recipes)
    for name, language in languages.items():
        problems += starts.of_language(name, language, specs[name], file.engine) if language is not None else []
    if None not in (*recipes.values(), *student_recipes.values()):
        problems += misfits.of_cache(file.engine, uses)
    labelled = {m for m, entry in file.methods.items() if entry.labels is not None or entry.hard_labels}
    problems += promptable.of_prompts(uses, tasks, file.sizes, file.engine, labelled)
    for name, task in tasks.items():
        if task is not None and task.kind == "generate":
            losses = {m: entry.loss for m, entry in file.methods.items()}
            one = {
                m: getattr(labels, "is_one_supervisor", True) for m, labels in chains.labellings.items()
            }  # None: wrong
            problems += misfits.of_texts(name, file.engine, losses, one, uses)
        elif task is not None:
            problems += misfits.of_classes(name, task, {m: entry.loss for m, entry in file.methods.items()}, uses)
            problems += misfits.of_comparisons(name, chains.labellings) if task.kind == "compare" else []
    if problems:
        raise SpecError(unique(problems))
    engines = dict.fromkeys(specs, file.engine)
    return Sweep(file, raw, tasks, specs, recipes, student_recipes, pairs, asked, engines, chains, languages)


def _chains(
    file: SweepFile, base: Path, pairs: list[tuple[str, str]] | None, problems: list[str]
) -> tuple[Chains, set[tuple[str, str]]]:
    """What the methods' labels lead to, and (model, method) of every student; what is wrong goes to `problems`."""
    wrong: list[str] = []
    labellings = {
        method: _collect(
            wrong, labelling_of, entry.labels, f"methods.{method}.labels",
            list(file.models), list(file.methods), base, entry.hard_labels,
        )
        for method, entry in file.methods.items()
    }  # fmt: skip
    problems += wrong
    for method, labelling in labellings.items():
        if labelling is not None and labelling.is_hard and not file.methods[method].hard_labels:
            problems += misfits.of_hard_labels(method, file.methods[method].loss, "labels")
    begun = {m: e.start.method for m, e in file.methods.items() if e.start is not None and e.start.method in labellings}
    chains = Chains(labellings, list(file.models), begun)
    if wrong or pairs is None:
        return chains, {(model, method) for model in file.models for method in file.methods}
    return chains, _collect(problems, chains.students, pairs) or set()


def on_slurm(sweep: Sweep) -> Sweep:
    """The sweep with each model's engine as its jobs make it: over several nodes, a process per GPU of all of them.

    Raises SpecError with everything that engine, recipes and resources cannot do together.
    """
    problems: list[str] = []
    engines = dict(sweep.engines)
    uses = _uses(sweep.models, sweep.recipes, sweep.student_recipes, sweep.chains.students(sweep.pairs))
    uses += _readers(sweep.models, sweep.languages)
    for name, asked in sweep.resources.items():
        lie = _collect(problems, resources.processes, sweep.engines[name], asked, f"models.{name}.slurm")
        if lie is not None:
            engines[name] = resources.on(sweep.engines[name], lie, asked)
            problems += misfits.of_recipes(engines[name], [use for use in uses if use.name == name])
    if problems:
        raise SpecError(unique(problems))
    return sweep._replace(engines=engines)


def _task(name: str, value: str | dict[str, Any], base: Path) -> TaskSpec:
    task = registry.task_of(value, base, f"tasks.{name}")
    return task.model_copy(update={"name": name})


def _parts(value: Any) -> tuple[Any, Any, Any]:
    """What a model is, how it is trained, and what its jobs ask SLURM for."""
    if isinstance(value, dict):
        own = {key: part for key, part in value.items() if key not in ("recipe", "slurm", "start")}
        return own, value.get("recipe") or {}, value.get("slurm") or {}
    return value, {}, {}


def recipe_as_written(value: Any) -> dict[str, Any]:
    """The recipe of an entry of `models`, without what it inherits."""
    recipe: dict[str, Any] = _parts(value)[1]
    return recipe


def _wrong_recipe(recipe: Any, where: str, loss: str = SHARED_LOSS) -> list[str]:
    """What is wrong with a recipe as written, whose loss belongs elsewhere: `loss` says where."""
    problems, left = [], recipe
    if isinstance(recipe, dict):
        left = {key: value for key, value in recipe.items() if key not in ("loss", MOVED)}
        if "loss" in recipe:
            problems.append(f"{where}.loss: {loss}")
        if MOVED in recipe:
            value = {"fp32": "no"}.get(str(recipe[MOVED]), recipe[MOVED])
            problems.append(
                f"{where}.{MOVED}: is a setting of the engine, for all models: `engine: {{mixed_precision: {value}}}`"
            )
    try:
        validated(Recipe, left, where)
    except SpecError as error:
        problems += error.problems
    return problems


def _recipe(*parts: Any) -> Recipe | None:
    """The recipe of parts, the later one winning; None where one is wrong: each is reported at its own place."""
    try:
        merged = {key: value for part in parts for key, value in part.items()}
        merged.pop(MOVED, None)
        return validated(Recipe, merged)
    except (SpecError, AttributeError):
        return None


def _solved(model: ModelSpec | None, recipe: Recipe | None) -> Recipe | None:
    """The recipe, without what does not count where a solver finds the head, or nothing is trained."""
    if recipe is not None and isinstance(recipe.tune, Prompt):
        return prompted_recipe(recipe)
    if recipe is None or not ((model is not None and model.words is not None) or is_solved(recipe)):
        return recipe
    return solved_recipe(recipe)


def _uses(
    specs: dict[str, Any],
    recipes: dict[str, Any],
    student_recipes: dict[tuple[str, str], Any],
    students: Collection[tuple[str, str]],
) -> list[Use]:
    """Every recipe that is right by itself, with what follows it. `students`: (model, method) of all there are."""
    uses = [Use(model, None, specs[model], recipe) for model, recipe in recipes.items() if recipe is not None]
    for (model, method), recipe in student_recipes.items():
        if recipe is not None and (model, method) in students:
            uses.append(Use(model, method, specs[model], recipe))
    return uses


def _readers(specs: dict[str, Any], languages: dict[str, Any]) -> list[Use]:
    """The recipes by which models read texts before all else."""
    read = {name: language for name, language in languages.items() if language is not None}
    return [Use(name, None, specs[name], one.recipe, ".start.language") for name, one in read.items()]
