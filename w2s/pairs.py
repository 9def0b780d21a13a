"""Which supervisor meets which student: four ways to write it in, a list of pairs out; refuses unknown names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from w2s.errors import SpecError
from w2s.identity import Spec, identity, nearest, unique


class Zip(Spec):
    """Pairs drawn side by side: the first weak model with the first student, and so on."""

    weak: tuple[str, ...] = identity(min_length=1, about="Weak models.")
    student: tuple[str, ...] = identity(min_length=1, about="As many students.")


class ZipPairs(Spec):
    """`pairs: {zip: {weak: [...], student: [...]}}`."""

    zip: Zip = identity(about="Two lists of equal length: the first weak model with the first student, and so on.")


class GridPairs(Spec):
    """`pairs: {weak: [...], student: [...]}`: each weak model with each student."""

    weak: tuple[str, ...] = identity(min_length=1, about="Weak models.")
    student: tuple[str, ...] = identity(min_length=1, about="Students, each of whom meets each weak model.")


def _pairs_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "word" if value == "all_upper" else None
    if isinstance(value, (dict, Spec)):
        return "zip" if isinstance(value, ZipPairs) or (isinstance(value, dict) and "zip" in value) else "grid"
    return "list" if isinstance(value, (list, tuple)) else None


Pairs = Annotated[
    Annotated[Literal["all_upper"], Tag("word")]
    | Annotated[tuple[tuple[str, str], ...], Tag("list")]
    | Annotated[ZipPairs, Tag("zip")]
    | Annotated[GridPairs, Tag("grid")],
    Discriminator(
        _pairs_form,
        custom_error_type="pairs",
        custom_error_message="expected all_upper, a list of [weak, student], {weak: [...], student: [...]} for each "
        "with each, or {zip: {weak: [...], student: [...]}} for side by side",
    ),
]


def expanded(pairs: Pairs, names: list[str]) -> list[tuple[str, str]]:
    """(weak, student) pairs of the models `names`, weakest first, in the order they will be shown.

    Raises SpecError for a name that is not one of the models.
    """
    if pairs == "all_upper":
        if len(names) < 2:
            raise SpecError(f"pairs: all_upper needs two models or more, weakest first (got {len(names)})")
        return [(weak, student) for i, weak in enumerate(names) for student in names[i + 1 :]]
    if isinstance(pairs, ZipPairs):
        weak, student = pairs.zip.weak, pairs.zip.student
        if len(weak) != len(student):
            raise SpecError(f"pairs.zip: the lists must be equally long (got {len(weak)} weak, {len(student)} student)")
        listed = list(zip(weak, student, strict=True))
    elif isinstance(pairs, GridPairs):
        listed = [(w, s) for w in pairs.weak for s in pairs.student]
    else:
        listed = [(weak, student) for weak, student in pairs]
    problems = [
        f"pairs: {name!r} is not one of the models{nearest(name, names)}"
        for name in unique([n for pair in listed for n in pair])
        if name not in names
    ]
    if not listed:
        problems.append("pairs: no pair is left; list at least one [weak, student]")
    if len(set(listed)) < len(listed):
        problems.append(f"pairs: {next(p for p in listed if listed.count(p) > 1)} is given twice")
    if problems:
        raise SpecError(problems)
    return listed
