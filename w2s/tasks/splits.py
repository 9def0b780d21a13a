"""Examples in, four disjoint splits out, exact in size and balance; refuses sizes that the data cannot fill.

Every draw comes from a named stream of the split seed. Splits are filled one after another from one shuffled list of
groups (test, weak_train, val, transfer), so a larger `transfer` leaves the other three as they were.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from w2s.errors import SpecError
from w2s.identity import canonical_json
from w2s.progress import Report
from w2s.sources.spec import ArchiveSource, FileSource, PluginSource, Source
from w2s.tasks import comparisons, formats, generations
from w2s.tasks.formats import SHOWN, Examples, Text
from w2s.tasks.records import Opened, open_records
from w2s.tasks.task import Band, GenerateFormat, TaskSpec

if TYPE_CHECKING:
    import numpy
    import pyarrow

    from w2s.spec import Sizes

ORDER = ("test", "weak_train", "val", "transfer")  # in which splits are filled


@dataclass(frozen=True)
class Materialized:
    """The four splits as tables (example_id, group_id, text, label), their summary, and what was fetched.

    Where texts are compared the column `texts` has a list of them in place of `text`.
    """

    tables: dict[str, pyarrow.Table]
    summary: dict[str, Any]
    fetched: list[dict[str, Any]]


def materialize(task: TaskSpec, sizes: Sizes, split_seed: int, report: Report | None = None) -> Materialized:
    """The four splits of a task: disjoint by group, sizes exact, classes equal where the task is balanced.

    Where `sizes.shrink` and there are fewer examples, all splits of one source shrink in the same proportion.

    Raises SpecError with all that is wrong with the data, MachineError where it cannot be had.
    """
    opened = open_records(task, report)
    if report is not None:
        report(f"read {task.name}", 0, 0)
    pool, test = _examples(task, opened)
    chosen = _choose(task, pool, test, sizes, split_seed)
    tables = {}
    for name, (found, at) in chosen.items():
        order = rng(split_seed, f"order/{name}").permutation(len(at))
        tables[name] = _table(found, [at[i] for i in order], name)
    return Materialized(tables, _summary(task, opened, pool, test, chosen, split_seed), opened.fetched)


def rng(seed: int, stream: str) -> numpy.random.Generator:
    """The named random stream of a seed: independent of every other name."""
    import numpy

    key = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")
    return numpy.random.default_rng(numpy.random.SeedSequence(seed, spawn_key=(key,)))


def example_id(text: Text, group: str) -> str:
    """32 hexadecimal digits that name an example by its text and group: the label does not show in it.

    Texts that are compared name it alone: their group depends on what else there is.
    """
    content = [group, text] if isinstance(text, str) else ["texts", *text]
    return hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def group_id(group: str) -> str:
    """32 hexadecimal digits for what examples are kept together by."""
    return hashlib.sha256(canonical_json([group]).encode("utf-8", "surrogatepass")).hexdigest()[:32]


# -- what there is -----------------------------------------------------------------------------------------------


def _examples(task: TaskSpec, opened: Opened) -> tuple[Examples, Examples | None]:
    """The examples of the pool, and of a separate test source; each text once, none in both."""
    problems: list[str] = []
    read = {"compare": comparisons, "generate": generations}.get(task.kind, formats)
    found: list[Examples | None] = []
    for rows, title in ((opened.pool, opened.pool_title), (opened.test, opened.test_title)):
        try:
            found.append(None if rows is None else without_repeats(read.examples(task, rows, title)))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    pool, test = cast(Examples, found[0]), found[1]
    if test is not None:
        pool = _apart(task, pool, test, opened)
    if task.kind == "compare":
        pool = comparisons.held_together(task, pool)
        test = comparisons.held_together(task, test) if test is not None else None
    for part, title in ((pool, opened.pool_title), (test, opened.test_title)):
        if part is not None and len(set(part.label)) < (1 if task.kind == "generate" else 2):
            problems.append(_one_class(task, part, title))
    if problems:
        raise SpecError(problems)
    return pool, test


def _one_class(task: TaskSpec, part: Examples, title: str) -> str:
    if not len(part):
        gone = ", ".join(f"{n} {reason}" for reason, n in sorted(part.dropped.items()) if n)
        return f"{title}: no example is left of {part.records} rows" + (f" ({gone})" if gone else "")
    only = task.class_names[part.label[0]]
    return f"{title}: all {len(part)} examples are of the class {only!r}; a task needs at least two classes"


def without_repeats(found: Examples) -> Examples:
    """Each text once: a repeat with the same label is dropped, a text with two labels is dropped altogether."""
    labels: dict[Text, int] = {}
    disputed: set[Text] = set()
    for text, label in zip(found.text, found.label, strict=True):
        if labels.setdefault(text, label) != label:
            disputed.add(text)
    kept, seen = [], set(disputed)
    for i, text in enumerate(found.text):
        if text not in seen:
            seen.add(text)
            kept.append(i)
    n_disputed = sum(text in disputed for text in found.text)
    found.dropped["same text, different labels"] += n_disputed
    found.dropped["same text and label"] += len(found) - n_disputed - len(kept)
    return found.keep(kept)


def _apart(task: TaskSpec, pool: Examples, test: Examples, opened: Opened) -> Examples:
    """The pool without what the test source has too. In a user's own files that is an error: they should know."""
    texts = {key: test.row[i] for i in range(len(test)) for key in _keys(task, test, i) if key.startswith("text ")}
    there = {key for i in range(len(test)) for key in _keys(task, test, i)}
    both = [i for i in range(len(pool)) if not there.isdisjoint(_keys(task, pool, i))]
    if both and task.test_file is not None:
        lines = []
        for i in both[:SHOWN]:
            shared = [key for key in _keys(task, pool, i) if key in there]
            row, (kind, _, value) = texts.get(shared[0]), shared[0].partition(" ")
            what = f"the text of row {row}" if row is not None else f"the {kind} {value[:60]!r}"
            lines.append(
                f"{opened.pool_title}: row {pool.row[i]}: {what} of the test file {opened.test_title} is here too"
            )
        more = [f"{len(both) - SHOWN} more rows are in both files"] if len(both) > SHOWN else []
        raise SpecError([*lines, *more, "remove them from one of the two: a test must not be trained on"])
    pool.dropped["also in test"] += len(both)
    gone = set(both)
    return pool.keep(i for i in range(len(pool)) if i not in gone)


def _keys(task: TaskSpec, part: Examples, at: int) -> list[str]:
    """What two examples must not share where one is for training and one for the test."""
    if task.kind == "compare":
        return comparisons.keys(part, at)
    return [f"text {part.text[at]}", f"group {part.group[at]}"]


# -- what is taken -----------------------------------------------------------------------------------------------


def _choose(
    task: TaskSpec, pool: Examples, test: Examples | None, sizes: Sizes, seed: int
) -> dict[str, tuple[Examples, list[int]]]:
    """For each split the examples it comes from and the positions taken."""
    asked = {name: int(getattr(sizes, name)) for name in ORDER}
    parts = [(pool, asked, "groups")]
    if test is not None:
        rest = {name: n for name, n in asked.items() if name != "test"}
        parts = [(test, {"test": asked["test"]}, "groups/test"), (pool, rest, "groups")]
    chosen: dict[str, tuple[Examples, list[int]]] = {}
    problems = []
    for part, wanted, stream in parts:
        taken = _taken(task, part, wanted, seed, stream)
        if sizes.shrink and _is_short(taken, wanted):
            taken, wanted = _shrunk(task, part, wanted, seed, stream)
        if _is_short(taken, wanted):
            problems.append(_too_few(task, part, wanted, taken))
        chosen |= {name: (part, at) for name, at in taken.items()}
    if problems:
        raise SpecError(problems)
    return chosen


def _taken(task: TaskSpec, part: Examples, wanted: dict[str, int], seed: int, stream: str) -> dict[str, list[int]]:
    bands = task.format.bands if isinstance(task.format, GenerateFormat) else None
    return fill(part, wanted, task.n_classes if task.is_balanced else None, rng(seed, stream), bands)


def _is_short(taken: dict[str, list[int]], wanted: dict[str, int]) -> bool:
    return any(len(taken[name]) < n for name, n in wanted.items())


def _shrunk(
    task: TaskSpec, part: Examples, asked: dict[str, int], seed: int, stream: str
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """The largest sizes in the proportions asked for that the data fills, each at least one example of each class."""
    total = sum(asked.values())

    def scaled(target: int) -> dict[str, int]:
        return {name: max(task.n_classes, 1, n * target // total) for name, n in asked.items()}

    fits, fails = 0, min(total, len(part) + 1)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        wanted = scaled(middle)
        if _is_short(_taken(task, part, wanted, seed, stream), wanted):
            fails = middle
        else:
            fits = middle
    wanted = scaled(fits)
    return _taken(task, part, wanted, seed, stream), wanted


def fill(
    found: Examples,
    asked: dict[str, int],
    n_classes: int | None,
    stream: numpy.random.Generator,
    bands: Mapping[Any, Band] | None = None,
) -> dict[str, list[int]]:
    """Positions for each split, group by group from one shuffled list, until it is full or nothing is left.

    `n_classes` asks for equal shares (the first classes get one more where the size does not divide). A group enters
    one split at most; of its examples those are taken that the split still needs, and that are in its band.
    """
    groups: dict[str, list[int]] = {}
    for i, group in enumerate(found.group):
        groups.setdefault(group, []).append(i)
    members = list(groups.values())
    waiting = [members[i] for i in stream.permutation(len(members))]
    taken: dict[str, list[int]] = {}
    for name, size in asked.items():
        quota = [size] if n_classes is None else [size // n_classes + (c < size % n_classes) for c in range(n_classes)]
        labels = found.labels(name)
        at: list[int] = []
        left = []
        for position, together in enumerate(waiting):
            if len(at) == size:
                left += waiting[position:]
                break
            fits = []
            for i in together:
                share = 0 if n_classes is None else labels[i]
                if quota[share] > 0 and found.fits(i, bands, name):
                    quota[share] -= 1
                    fits.append(i)
            if fits:
                at += fits
            else:
                left.append(together)
        taken[name], waiting = at, left
    return taken


def _too_few(task: TaskSpec, part: Examples, asked: dict[str, int], taken: dict[str, list[int]]) -> str:
    counts = Counter(part.label)
    there = ", ".join(f"{name} {counts[c]:,}" for c, name in enumerate(task.class_names))
    wanted = " + ".join(f"{name} {n:,}" for name, n in asked.items())
    if isinstance(task.format, GenerateFormat):
        banded = task.format.bands
        there = f"test is filled first, each split from its band of {task.format.difficulty}" if banded else "prompts"
    most = min((counts[c] for c in range(task.n_classes)), default=0) * task.n_classes
    equal = f"; classes are balanced, so at most {most:,} count"
    grouped = len(set(part.group)) < len(part)
    short = ", ".join(f"{name} {len(taken[name]):,}" for name in asked if len(taken[name]) < asked[name])
    return (
        f"{task.name}: {sum(asked.values()):,} examples are asked for ({wanted}), and there are {len(part):,} ({there}"
        f"{equal if task.is_balanced else ''}{'; groups stay in one split' if grouped else ''}): only {short} could be "
        f"filled; lower the sizes"
    )


# -- what is written ---------------------------------------------------------------------------------------------


def _table(found: Examples, at: Sequence[int], split: str) -> pyarrow.Table:
    import pyarrow

    texts, labels = [found.text[i] for i in at], found.labels(split)
    one_each = all(isinstance(text, str) for text in texts)
    if found.goal:
        goals = [found.goal[i] for i in at]
        told = {"target": [goal.target for goal in goals], "answer": [goal.answer for goal in goals]}
        if goals and goals[0].position is not None:
            told["position"] = [str(goal.position) for goal in goals]
    else:
        told = {}
    column = pyarrow.array(texts, pyarrow.string() if one_each else pyarrow.list_(pyarrow.string()))
    return pyarrow.table(
        {
            "example_id": pyarrow.array([example_id(found.text[i], found.group[i]) for i in at], pyarrow.string()),
            "group_id": pyarrow.array([group_id(found.group[i]) for i in at], pyarrow.string()),
            "text" if one_each else "texts": column,
            **({} if told else {"label": pyarrow.array([labels[i] for i in at], pyarrow.int64())}),
            **{name: pyarrow.array(values, pyarrow.string()) for name, values in told.items()},
        }
    )


def _summary(
    task: TaskSpec,
    opened: Opened,
    pool: Examples,
    test: Examples | None,
    chosen: dict[str, tuple[Examples, list[int]]],
    seed: int,
) -> dict[str, Any]:
    splits = {}
    for name, (found, at) in chosen.items():
        labels = found.labels(name)
        counts = Counter(labels[i] for i in at)
        splits[name] = {
            "examples": len(at),
            "groups": len({found.group[i] for i in at}),
            "classes": {label: counts[c] for c, label in enumerate(task.class_names)},
            "mean_words": round(sum(_words(found.text[i]) for i in at) / len(at), 2),
            # Where a few raters say what the labels are: how many of them the mean rating contradicts.
            **({"labels_against_the_mean": sum(labels[i] != found.label[i] for i in at)} if found.heard else {}),
        }
    source = task.source
    joined = {} if task.join is None else {"joined": task.join.source.model_dump(mode="json", exclude_none=True)}
    summary: dict[str, Any] = {
        "task": task.name,
        "classes": list(task.class_names),
        "source": source.model_dump(mode="json", exclude_none=True),
        "source_hash": _hash_of(source) or opened.fetched[0]["commit"],
        **joined,
        "split_seed": seed,
        "pool": _counts(task, pool),
        "splits": splits,
    }
    return summary if test is None else {**summary, "test": _counts(task, test)}


def _hash_of(source: Source) -> str | None:
    """Of what the examples are made of, where that is known before anything is fetched."""
    if isinstance(source, PluginSource):
        return source.code
    return source.sha256 if isinstance(source, (ArchiveSource, FileSource)) else None


def _counts(task: TaskSpec, part: Examples) -> dict[str, Any]:
    counts = Counter(part.label)
    return {
        "records": part.records,
        "examples": len(part),
        "groups": len(set(part.group)),
        "classes": {label: counts[c] for c, label in enumerate(task.class_names)},
        "dropped": {reason: n for reason, n in sorted(part.dropped.items()) if n},
        **({"dropped_first": part.named} if part.named else {}),
        "mean_words": round(sum(map(_words, part.text)) / len(part), 2),  # of all texts of an example
    }


def _words(text: Text) -> int:
    return len(text.split()) if isinstance(text, str) else sum(len(one.split()) for one in text)
