"""`start` of a model and of a method as written in a sweep in, what trainings begin from out, or what is wrong.

A model may first learn to go on with the task's texts, of which no label is read; everything that is trained of it then
begins there. A method may begin from what its student learned by another method.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from w2s.errors import SpecError
from w2s.identity import Spec, identity, nearest, unique, validated
from w2s.models import ModelSpec
from w2s.spec import Engine, Recipe, language_recipe

# Fields of a recipe that say nothing where there are no classes.
APART = {
    "loss": "what is learned is the next token; leave it out",
    "head_init": "there is no head of classes; leave it out",
    "head_words": "there is no head of classes; leave it out",
    "eval_every": "val is read before and after, not on the way; leave it out",
}
HALF = Literal["weak_train", "transfer"]


class LanguageStart(Spec):
    """Next-token training on texts without labels, before anything else."""

    on: HALF | tuple[HALF, ...] = identity("transfer", about="The split whose texts are read, or a list of them.")
    recipe: dict[str, Any] = identity(
        {}, about="How it is trained, where that differs from the sweep's recipe; that of the model does not count."
    )


class ModelStart(Spec):
    """What a model learns before weak models, students and ceilings are made of it."""

    language: LanguageStart = identity(about="Next-token training on the texts of a task.")


class MethodStart(Spec):
    """The student of the same pair by another method, from whose weights this one begins, with a new head."""

    method: str = identity(about="Another method of the sweep; its students' weights are then kept.")


class Language(NamedTuple):
    """What a model reads first, and how."""

    splits: tuple[HALF, ...]
    recipe: Recipe


def language_of(given: Any, where: str, shared: Mapping[str, Any]) -> Language:
    """A model's `start` as written; `shared` is the sweep's recipe. Raises SpecError."""
    start = validated(ModelStart, given, where).language
    where = f"{where}.language"
    splits = (start.on,) if isinstance(start.on, str) else start.on
    problems = [f"{where}.recipe.{name}: {why}" for name, why in APART.items() if name in start.recipe]
    if not splits:
        problems.append(f"{where}.on: an empty list; name weak_train, transfer, or both")
    problems += [f"{where}.on: {split} is given twice" for split in dict.fromkeys(splits) if splits.count(split) > 1]
    own = {name: value for name, value in start.recipe.items() if name not in APART}
    made = None
    try:
        validated(Recipe, own, f"{where}.recipe")
        made = language_recipe(validated(Recipe, {**shared, **own}, "recipe"))
    except SpecError as error:
        problems += error.problems
    if problems or made is None:
        raise SpecError(unique(problems))
    order: tuple[HALF, ...] = ("weak_train", "transfer")
    return Language(tuple(split for split in order if split in splits), made)


def of_language(name: str, language: Language, model: ModelSpec | None, engine: Engine) -> list[str]:
    """Why a model cannot learn to go on with texts."""
    where, problems = f"models.{name}.start.language", []
    if model is not None and model.words is not None:
        return [f"{where}: {name} has counts of words, no weights to train; leave start out"]
    if model is not None and model.decoder is False:
        problems.append(f"{where}: {name} is an encoder, which foretells no next token; use a decoder, or leave it out")
    if model is not None and model.build is not None:
        problems.append(f"{where}: what a plugin builds has no language-model head; use the model itself")
    if not trains_layers(language.recipe):
        problems.append(
            f"{where}.recipe.tune: {language.recipe.tune.kind} trains no layers, and those are what students begin "
            "from; use full, frozen or lora"
        )
    if engine.zero_stage == 3:
        problems.append(f"engine.zero_stage: 3 cuts apart the language-model head that {where} trains; use 2 or less")
    return problems


def of_methods(
    starts: Mapping[str, str],
    methods: Collection[str],
    students: Collection[tuple[str, str]],
    models: Mapping[str, ModelSpec | None],
    recipes: Mapping[tuple[str, str], Recipe | None],
) -> list[str]:
    """Methods whose students cannot begin from another's. `starts`: method to method; `students`: (model, method)."""
    problems = []
    for method, other in starts.items():
        where = f"methods.{method}.start.method"
        if other not in methods:
            problems.append(f"{where}: no method {other!r}{nearest(other, set(methods) - {method})}")
            continue
        for name in sorted(model for model, used_by in students if used_by == method):
            model, recipe = models.get(name), recipes.get((name, other))
            if model is not None and model.words is not None:
                problems.append(f"{where}: {name} has counts of words, no weights to begin from; leave it out of pairs")
            elif recipe is not None and not trains_layers(recipe):
                problems.append(
                    f"{where}: {name} by {other} trains no layers (tune: {recipe.tune.kind}), so that its weights are "
                    "the model's own; name a method that trains some, or leave start out"
                )
    return unique(problems)


def trains_layers(recipe: Recipe) -> bool:
    """True where a training changes more of a model than its head."""
    return recipe.tune.kind in ("full", "frozen", "lora")
