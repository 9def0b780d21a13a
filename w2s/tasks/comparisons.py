"""Records in, examples of several texts out: which of them is the better one; pure. Refuses records that do not fit.

The texts of an example stand in an order that their hashes decide, so that it says nothing about which is better and
the same texts always stand in the same order. Examples that share a text, a prompt or a group stay together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from w2s.identity import canonical_json
from w2s.tasks.fields import (
    BadRecord,
    Record,
    clean,
    getter,
    list_at,
    number_at,
    value_at,
)
from w2s.tasks.formats import Examples, Gathered, before, gathered, no_text, place_at
from w2s.tasks.task import PairsFormat, RatingPairsFormat, TaskSpec

MEANS_AGREE = 0.01  # files give means with 9 digits, some with 2
EVERYTHING = ""  # the group of texts where there are no groups


def examples(task: TaskSpec, records: Iterable[tuple[int, Record]], where: str) -> Examples:
    """Every comparison of the records, given as (row number, record). Raises SpecError with all problems.

    `group` of an example is a key of its own yet: `held_together` finds out what belongs together.
    """
    form = task.format
    if isinstance(form, PairsFormat):
        return _pairs(task, form, records, where)
    assert isinstance(form, RatingPairsFormat)
    return _rated_pairs(task, form, records, where)


def in_order(texts: Iterable[str]) -> list[str]:
    """The texts in the order in which an example has them: drawn by a hash of all of them, whatever they come in."""
    listed = sorted(texts)
    return sorted(listed, key=lambda text: _hash("order", *listed, "\n", text))


def _hash(*parts: str) -> str:
    return hashlib.sha256(canonical_json(parts).encode("utf-8", "surrogatepass")).hexdigest()


# -- texts of which one is said to be better ---------------------------------------------------------------------


class _Pair(NamedTuple):
    texts: tuple[str, ...]
    label: int
    shared: tuple[str, ...]  # what it has in common with others, beside its texts


def _pairs(task: TaskSpec, form: PairsFormat, records: Iterable[tuple[int, Record]], where: str) -> Examples:
    prompt_of, whole = getter(form.prompt) if form.prompt else lambda _: "", getter(form.text)
    group = getter(task.group) if task.group else None

    def make(record: Record) -> _Pair | str:
        prompt, (candidates, better) = prompt_of(record), _candidates(form, record)
        if not all(candidates):
            return no_text(task)
        if len(set(candidates)) < len(candidates):
            candidates, better = _without_equal(candidates, better)
            if len(candidates) < form.n_texts:
                return "equal texts"
        if len(candidates) < form.n_texts:
            return f"fewer than {form.n_texts} texts"
        best = candidates[better]
        others = sorted(set(candidates) - {best}, key=lambda text: _hash("drawn", prompt, best, text))
        asked = prompt.strip()
        read = [clean(whole({"prompt": asked, "text": text})) for text in (best, *others[: form.n_texts - 1])]
        if len(set(read)) < len(read):  # a template that does not use all of a text
            return "equal texts"
        ordered = in_order(read)
        shared = [f"prompt {asked}"] if asked else []
        if group is not None:
            shared.append(f"group {before(group(record), task.group_before)}")
        return _Pair(tuple(ordered), ordered.index(read[0]), tuple(shared))

    return _listed(gathered(task, records, where, make))


def _candidates(form: PairsFormat, record: Record) -> tuple[list[str], int]:
    """The texts of a record, and the place of the better one."""
    if form.chosen is not None:
        fields = (form.chosen, *((form.rejected,) if isinstance(form.rejected, str) else form.rejected or ()))
        return [clean(getter(field)(record)) for field in fields], 0
    if isinstance(form.texts, tuple):
        listed = [getter(field)(record) for field in form.texts]
    else:
        listed = list_at(record, str(form.texts), "texts")
    texts = [clean(text) for text in listed]
    return texts, place_at(record, str(form.better), form.better_as, texts)


def _without_equal(texts: list[str], better: int) -> tuple[list[str], int]:
    """The texts without the repeats of worse ones; nothing where the better one is among the worse ones too."""
    if texts.count(texts[better]) > 1:
        return [], 0
    kept = list(dict.fromkeys(texts))
    return kept, kept.index(texts[better])


def _listed(found: Gathered[_Pair]) -> Examples:
    return Examples(
        text=[pair.texts for _, pair in found.made],
        label=[pair.label for _, pair in found.made],
        group=[canonical_json(pair.shared) for _, pair in found.made],
        row=[row for row, _ in found.made],
        dropped=found.dropped,
        records=found.records,
    )


# -- pairs of texts with ratings ---------------------------------------------------------------------------------


class _Rated(NamedTuple):
    text: str
    rating: float
    single: tuple[float, ...]  # ratings of one rater each, where there are any
    group: str


def _rated_pairs(
    task: TaskSpec, form: RatingPairsFormat, records: Iterable[tuple[int, Record]], where: str
) -> Examples:
    text_of, group_of = getter(form.text), getter(task.group) if task.group else None

    def make(record: Record) -> _Rated | str:
        text = clean(text_of(record))
        if not text:
            return no_text(task)
        single = _single_ratings(record, form.ratings) if form.ratings else ()
        mean = sum(single) / len(single) if single else 0.0
        rating = mean if form.rating is None else number_at(record, form.rating)
        if single and abs(rating - mean) > MEANS_AGREE:
            return "its rating is not the mean of its single ratings"
        if form.raters is not None and len(single) < form.raters:
            return f"fewer than {form.raters} single ratings"
        together = EVERYTHING if group_of is None else before(group_of(record), task.group_before)
        return _Rated(text, rating, single, together)

    listed = gathered(task, records, where, make)
    found = Examples(dropped=listed.dropped, records=listed.records)
    rated = _once(listed, found)
    pairs: list[tuple[str, ...]] = []
    for together in _met(rated, form.each, found):
        (row, one), (_, other) = (rated[text] for text in in_order(together))
        if abs(one.rating - other.rating) < form.margin:
            found.dropped["pairs of ratings that are too close"] += 1
            continue
        pairs.append((one.text, other.text))
        found.label.append(int(other.rating > one.rating))
        if form.raters is not None:
            found.heard.append(heard(one.text, other.text, one.single, other.single, form.raters))
        found.group.append(canonical_json([f"group {one.group}"] if group_of else []))
        found.row.append(row)
    found.text = pairs
    return found


def _single_ratings(record: Record, path: str) -> tuple[float, ...]:
    value = value_at(record, path)
    try:
        listed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        listed = None
    numbers = isinstance(listed, (list, tuple)) and all(type(one) in (int, float) for one in listed)
    if not numbers or not listed:
        raise BadRecord("the single ratings are not a list of numbers, such as [1, -2, 0]", value)
    return tuple(map(float, listed))


def _once(listed: Gathered[_Rated], found: Examples) -> dict[str, tuple[int, _Rated]]:
    """Each text once, with its row: of equal ratings the first, of different ones none."""
    rated: dict[str, tuple[int, _Rated]] = {}
    disputed: set[str] = set()
    for row, one in listed.made:
        first = rated.setdefault(one.text, (row, one))[1]
        if first is not one:
            found.dropped["same text rated again"] += 1
            if first.rating != one.rating:
                disputed.add(one.text)
    found.dropped["same text, different ratings"] += len(disputed)
    return {text: one for text, one in rated.items() if text not in disputed}


def _met(rated: dict[str, tuple[int, _Rated]], each: int, found: Examples) -> Iterable[tuple[str, str]]:
    """Who meets whom: within every group, parties of `each` + 1 texts in the order of their hashes."""
    groups: dict[str, list[str]] = {}
    for text in sorted(rated, key=lambda text: _hash("met", text)):
        groups.setdefault(rated[text][1].group, []).append(text)
    for texts in groups.values():
        for start in range(0, len(texts), each + 1):
            party = texts[start : start + each + 1]
            if len(party) == 1:
                found.dropped["texts that met no other"] += 1
            yield from combinations(party, 2)


def heard(one: str, other: str, of_one: tuple[float, ...], of_other: tuple[float, ...], raters: int) -> int:
    """Which of two texts `raters` raters would call better: of each, so many ratings drawn by hash, the higher mean.

    Drawn without replacement, and anew for every pair, as if other people saw it. Equal means: a hash decides.
    """

    def mean(text: str, single: tuple[float, ...]) -> float:
        order = sorted(range(len(single)), key=lambda place: _hash("heard", one, other, "\n", text, str(place)))
        return sum(single[place] for place in order[:raters]) / raters

    first, second = mean(one, of_one), mean(other, of_other)
    return int(second > first) if first != second else int(_hash("tie", one, other), 16) % 2


# -- what belongs together ---------------------------------------------------------------------------------------


def keys(found: Examples, at: int) -> list[str]:
    """What an example may share with others: its texts, its prompt, its group."""
    return [*(f"text {text}" for text in found.text[at]), *json.loads(found.group[at])]


def held_together(task: TaskSpec, found: Examples) -> Examples:
    """The examples with the group that they are kept together by: all that texts, prompts and groups connect.

    Examples enter in the order of their hashes. One that would connect more examples than the format's `most_together`
    is left out and counted: texts that everything is compared with would hold all examples in one split.
    """
    most = task.format.most_together if isinstance(task.format, PairsFormat) else len(found)
    parent: dict[str, str] = {}
    size: dict[str, int] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    kept = []
    for i in sorted(range(len(found)), key=lambda i: _hash("together", *found.text[i])):
        first, *others = dict.fromkeys(root(key) for key in keys(found, i))
        together = 1 + sum(size.get(key, 0) for key in (first, *others))
        if together > most:
            found.dropped[f"more than {most} examples that share texts or prompts"] += 1
            continue
        for key in others:
            parent[key] = first
        size[first] = together
        kept.append(i)
    kept.sort()
    roots = {i: root(keys(found, i)[0]) for i in kept}
    named: dict[str, str] = {}  # by the smallest of its texts' hashes: the order of rows does not matter
    for i in kept:
        mine = min(_hash(text) for text in found.text[i])
        named[roots[i]] = min(named.get(roots[i], mine), mine)
    together_found = found.keep(kept)
    together_found.group = [named[roots[i]] for i in kept]
    return together_found
