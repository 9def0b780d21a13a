"""A sweep in, what its user might not expect of it out: no errors, and a sentence each, for plans."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from w2s.chains import unique_refs
from w2s.cost import params_of
from w2s.labelling import BELOW, Ref
from w2s.spec import Prompt, Recipe, is_solved, reads_no_labels
from w2s.sweep import Sweep, recipe_as_written

COUNTS = ("loss", "tune", "eval_every")  # of a recipe where a solver finds the head, or nothing is trained
SHOWN = 4


def of(sweep: Sweep) -> list[str]:
    """Notes on settings that do nothing, models out of order, supervisors that are the same, ceilings that are none."""
    return [*_without_effect(sweep), *_out_of_order(sweep), *_the_same(sweep), *_without_ceiling(sweep)]


def _without_effect(sweep: Sweep) -> list[str]:
    """Fields of recipes as written that count for none of the models that follow them."""
    file, students = sweep.file, sweep.chains.students(sweep.pairs)
    followed: dict[str, list[tuple[str, Recipe]]] = {}  # by where a recipe is written, the models and what they follow
    written: dict[str, Mapping[str, Any]] = {"recipe": file.recipe}
    uses: list[tuple[str, str | None, Recipe]] = [(model, None, recipe) for model, recipe in sweep.recipes.items()]
    uses += [(model, method, sweep.student_recipes[model, method]) for model, method in sorted(students)]
    for model, method, recipe in uses:
        own = f"models.{model}.recipe"
        written[own] = recipe_as_written(file.models[model])
        places = ["recipe", own]
        if method is not None:
            places.append(f"methods.{method}.recipe")
            written[places[-1]] = file.methods[method].recipe
        for place in places:
            followed.setdefault(place, []).append((model, recipe))
    found = []
    for place, fields in written.items():
        idle = [name for name in fields if name not in COUNTS]
        reasons = {_why_idle(sweep, model, recipe) for model, recipe in followed[place]}
        if idle and "" not in reasons:
            names = f"{', '.join(idle)} {'do' if len(idle) > 1 else 'does'} not count"
            found.append(f"{place}: {names}, since {'; '.join(sorted(reasons))}")
    return found


def _why_idle(sweep: Sweep, model: str, recipe: Recipe) -> str:
    """Why a recipe has no use for batches, epochs and a learning rate; '' where it has."""
    if isinstance(recipe.tune, Prompt):
        return "a prompt trains nothing"
    if sweep.models[model].words is not None:
        return f"{model} is solved as one convex problem"
    return "the head is found by a solver" if is_solved(recipe) else ""


def _out_of_order(sweep: Sweep) -> list[str]:
    """Models that are larger than the next one, where `below` goes by the order of the list."""
    labellings = sweep.chains.labellings
    methods = [name for name, found in labellings.items() if any(ref.model == BELOW for ref in found.asked)]
    sized = [(name, params_of(model)) for name, model in sweep.models.items()]
    known = [(name, size) for name, size in sized if size is not None]
    return [
        f"models: {first} ({most / 1e6:.1f}M parameters) stands before {second} ({least / 1e6:.1f}M), and below, in "
        f"methods.{methods[0]}.labels, goes by the order of the list, weakest first"
        for (first, most), (second, least) in itertools.pairwise(known)
        if methods and most > least
    ]


def _the_same(sweep: Sweep) -> list[str]:
    """Supervisors of a method that are one and the same for some of the pairs."""
    found = []
    for method, written in sweep.chains.labellings.items():
        if written.source != "supervisors":
            continue
        pairs = []
        for weak, student in sweep.pairs:
            meant = [sweep.chains.meant(ref, weak, student) for ref in written.refs]
            twice = [ref for ref in unique_refs(meant) if meant.count(ref) > 1]
            pairs += [f"{_named(ref)} for {student} of {weak}" for ref in twice]
        if pairs:
            more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
            found.append(
                f"methods.{method}.labels.from: supervisors that are the same one count once: "
                f"{', '.join(pairs[:SHOWN])}{more}"
            )
    return found


def _without_ceiling(sweep: Sweep) -> list[str]:
    """Students whose own recipe, which is that of their ceilings, reads no label."""
    students = dict.fromkeys(student for _, student in sweep.pairs)
    return [
        f"models.{name}.recipe.tune: a prompt without examples reads no label, and so the ceiling of {name} is none: "
        "PGR against it says nothing; give shots, or let a method prompt"
        for name in students
        if reads_no_labels(sweep.recipes[name])
    ]


def _named(ref: Ref) -> str:
    return ref.model if ref.method is None else f"{ref.model} by {ref.method}"
