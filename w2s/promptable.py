"""Recipes that prompt, models, tasks and sizes in; a sentence for each thing that they cannot do together out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from w2s.identity import unique
from w2s.misfits import Use
from w2s.objectives import Xent
from w2s.spec import Engine, Prompt, Sizes
from w2s.tasks.task import TaskSpec


def of_prompts(
    uses: list[Use], tasks: Mapping[str, TaskSpec | None], sizes: Sizes, engine: Engine, labelled: Collection[str]
) -> list[str]:
    """What is wrong with prompts, as far as a sweep tells. `labelled`: methods that say where labels come from."""
    prompted = [(use, use.recipe.tune) for use in uses if isinstance(use.recipe.tune, Prompt)]
    problems = []
    for use, prompt in prompted:
        tune = f"{use.where}.recipe.tune"
        problems += [f"{tune}: {why}" for why in _of_model(use)]
        if not isinstance(use.recipe.loss, Xent):
            problems.append(
                f"methods.{use.method}.loss: a prompt trains nothing, and so no loss is minimized; use xent for "
                f"{use.name} (got {use.recipe.loss.name})"
            )
        if prompt.shots == 0 and use.method in labelled:
            problems.append(
                f"methods.{use.method}.labels: a prompt without examples reads no labels; leave labels and hard_labels "
                "out, or give recipe.tune.shots"
            )
        split = "weak_train" if use.method is None else "transfer"
        most = sizes.weak_train if use.method is None else sizes.transfer
        if prompt.shots > most:
            problems.append(f"{tune}.shots: expected at most the {most} examples of {split} (got {prompt.shots})")
        for name, task in tasks.items():
            if task is not None and task.kind == "generate":
                problems.append(f"{tune}: a prompt chooses among classes, and {name} generates text; leave it out")
            elif task is not None:
                problems += [f"{tune}.{line} ({name})" for line in prompt.misfits(task)]
    if prompted and engine.zero_stage == 3:
        problems.append("engine.zero_stage: 3 cuts apart the language-model head that prompts need; use 2 or less")
    return unique(problems)


def _of_model(use: Use) -> list[str]:
    """Why a model cannot be prompted."""
    if use.model is None:
        return []
    if use.model.words is not None:
        return [f"{use.name} has counts of words, which follow no prompt; leave it out of this method's pairs"]
    if use.model.decoder is False:
        return [f"{use.name} is an encoder, which foretells no next word; use a decoder"]
    if use.model.build is not None:
        return [f"{use.name} is built by a plugin, and has no language-model head; use the model itself"]
    return []
