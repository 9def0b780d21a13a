"""A sweep in, experiments out: every cell with the specs of its steps and their digests."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from w2s.chains import Between, Supply, seeded, title_of_language
from w2s.spec import AnyStep, FeaturesSpec, LanguageSpec, MaterializeSpec, Start, TrainSpec, begun_with
from w2s.sweep import Sweep


class Digests(NamedTuple):
    """The digests of a cell's steps.

    `labels`: of the labels step that the student learned from, or of the train step where another than the weak model
    supervised it; '' where it learned from the weak model's own predictions.
    """

    data: str
    weak: str
    student: str
    ceiling: str
    labels: str = ""


class Experiment(NamedTuple):
    """One (task, weak, student, method, seed) cell with the specs of its steps."""

    task: str
    weak: str
    student: str
    method: str
    seed: int
    data: MaterializeSpec
    weak_step: TrainSpec
    student_step: TrainSpec
    ceiling_step: TrainSpec
    digests: Digests
    between: tuple[Between, ...] = ()  # other supervisors and labels that the student needs, parents first
    languages: tuple[Between, ...] = ()  # trainings on texts alone that any of these begin from


def expand(sweep: Sweep) -> list[Experiment]:
    """Every cell of the sweep, in the order of the file: tasks, pairs, seeds, methods."""
    file = sweep.file
    experiments: list[Experiment] = []
    for task_name, task in sweep.tasks.items():
        data = MaterializeSpec(task=task, sizes=file.sizes, split_seed=file.split_seed)
        data_digest = data.digest()

        read: dict[str, Between] = {}  # trainings on texts alone, by digest

        @functools.cache
        def start_of(
            model: str, seed: int, data_digest: str = data_digest, task_name: str = task_name, read: Any = read
        ) -> tuple[Start, ...]:
            if model not in sweep.languages:
                return ()
            language = sweep.languages[model]
            step = LanguageSpec(
                data=data_digest, splits=language.splits, model=sweep.models[model], recipe=language.recipe, seed=seed,
                engine=sweep.engines[model],
            )  # fmt: skip
            read[step.digest()] = Between(step.digest(), step, title_of_language(task_name, step))
            return begun_with(step, step.digest())

        @functools.cache  # one object for all cells that share the step, so that its digest is computed once
        def on_truth(model: str, seed: int, split: Any, data_digest: str = data_digest) -> tuple[TrainSpec, str]:
            step = TrainSpec(
                data=data_digest, split=split, model=sweep.models[model], recipe=sweep.recipes[model], seed=seed,
                engine=sweep.engines[model], keep_weights=file.keep_weights, start=start_of(model, seed),
            )  # fmt: skip
            step = seeded(step, seed)
            return step, step.digest()

        supply = Supply(task_name, data_digest, sweep.chains, sweep.student_recipes, on_truth)
        for weak, student in sweep.pairs:
            for seed in file.seeds:
                weak_step, supervisor = on_truth(weak, seed, "weak_train")
                ceiling_step, ceiling = on_truth(student, seed, "transfer")
                for method in file.methods:
                    link = supply.student(weak, student, method, seed)
                    digests = Digests(data_digest, supervisor, link.digest, ceiling, link.labels)
                    cell = (task_name, weak, student, method, seed, data, weak_step, link.step, ceiling_step)
                    steps = (weak_step, ceiling_step, link.step, *(step.spec for step in link.between))
                    experiments.append(Experiment(*cell, digests, link.between, _languages(steps, read)))
    return experiments


def _languages(steps: Iterable[AnyStep], read: Mapping[str, Between]) -> tuple[Between, ...]:
    """The trainings on texts alone that steps begin from, each once."""
    if not read:
        return ()
    starts = [start.step for step in steps if isinstance(step, (FeaturesSpec, TrainSpec)) for start in step.start]
    return tuple(read[digest] for digest in dict.fromkeys(starts) if digest in read)
