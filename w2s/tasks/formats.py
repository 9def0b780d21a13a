"""Records in, labelled examples out, in one pass; pure. Refuses records that do not fit, with their row numbers.

Comparisons of several texts are made in `comparisons`, from the same parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, TypeVar

from w2s.errors import SpecError
from w2s.identity import nearest
from w2s.tasks.fields import BadRecord, Record, clean, drawn, getter, list_at, number_at, paths, text_of, value_at
from w2s.tasks.own import prepared
from w2s.tasks.prepare import PREPARE, Unfit
from w2s.tasks.task import (
    Band,
    ChoicesFormat,
    GenerateFormat,
    PairsFormat,
    RatingFormat,
    RatingPairsFormat,
    TaskSpec,
    TextFormat,
)

Text = str | tuple[str, ...]  # of an example: one text, or those that are compared, in their order
T = TypeVar("T")
SHOWN = 5  # problems of one kind that a message lists


class Goal(NamedTuple):
    """What is to follow a prompt, and what of it counts; the position of a move, and how hard the example is."""

    target: str
    answer: str
    position: str | None
    difficulty: float | None


class LeftOut(str):
    """A reason to leave a record out; `what` names the record and what is wrong with it."""

    what: str

    def __new__(cls, reason: str, what: str) -> LeftOut:
        made = super().__new__(cls, reason)
        made.what = what
        return made


@dataclass
class Examples:
    """Parallel lists: the text or texts, the class, what it stays together with, and the row it came from (from 1).

    Of a prompt, `goal` says what is to follow, and the class is a number that equal targets share.
    `heard`, where it is not empty: the class as a few raters gave it, which is the label of every split but `test`.
    """

    text: Sequence[Text] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> records or examples left out
    records: int = 0
    goal: list[Goal] = field(default_factory=list)
    named: dict[str, list[str]] = field(default_factory=dict)  # reason -> the first that were left out for it

    def __len__(self) -> int:
        return len(self.text)

    def keep(self, wanted: Iterable[int]) -> Examples:
        """The examples at these positions; what was dropped stays counted."""
        at = list(wanted)
        return Examples(
            text=[self.text[i] for i in at],
            label=[self.label[i] for i in at],
            group=[self.group[i] for i in at],
            row=[self.row[i] for i in at],
            heard=[self.heard[i] for i in at] if self.heard else [],
            dropped=self.dropped,
            records=self.records,
            goal=[self.goal[i] for i in at] if self.goal else [],
            named=self.named,
        )

    def fits(self, at: int, bands: Mapping[Any, Band] | None, split: str) -> bool:
        """True where an example is as hard as those of a split are to be."""
        low, high = (bands or {}).get(split, (None, None))
        hard = self.goal[at].difficulty if self.goal else None
        return hard is None or ((low is None or low <= hard) and (high is None or hard <= high))

    def labels(self, split: str) -> list[int]:
        """The classes as they are told in a split."""
        return self.heard if self.heard and split != "test" else self.label


def examples(task: TaskSpec, records: Iterable[tuple[int, Record]], where: str) -> Examples:
    """Every labelled example of the records, given as (row number, record). Raises SpecError with all problems.

    `where` names the file or data set in the messages.
    """
    make, group = _maker(task), getter(task.group) if task.group else None

    def one(record: Record) -> list[tuple[str, int, str]] | str:
        made = make(record)
        if isinstance(made, str):
            return made
        together = before(group(record), task.group_before) if group else made[0][2]
        texts = [clean(text) for text, _, _ in made]
        if not all(texts):
            return no_text(task)
        return [(text, label, together or text) for text, (_, label, _) in zip(texts, made, strict=True)]

    listed, found = gathered(task, records, where, one), Examples()
    found.dropped, found.records = listed.dropped, listed.records
    texts: list[Text] = []
    for row, of_record in listed.made:
        for text, label, together in of_record:
            texts.append(text)
            found.label.append(label)
            found.group.append(together)
            found.row.append(row)
    found.text = texts
    return found


@dataclass
class Gathered(Generic[T]):
    """What was made of each record that fits, with its row."""

    made: list[tuple[int, T]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    records: int = 0
    named: dict[str, list[str]] = field(default_factory=dict)


def gathered(
    task: TaskSpec, records: Iterable[tuple[int, Record]], where: str, make: Callable[[Record], T | str]
) -> Gathered[T]:
    """What `make` makes of every record; text from it is a reason to leave the record out, which is counted.

    Raises SpecError with every record for which `make` raises BadRecord, some lines for each reason.
    """
    stream = iter(records)
    first = list(islice(stream, 100))
    if not first:
        raise SpecError(f"{where}: no rows")
    prepare = PREPARE[task.prepare] if task.prepare else None
    own = prepared(task.own_prepare) if task.own_prepare else None
    if prepare is None and own is None:
        _require_columns(task, [record for _, record in first], where)
    found, problems = Gathered[T](), Counter[str]()
    lines: dict[str, list[str]] = {}
    for row, record in chain(first, stream):
        found.records += 1
        try:
            fit = own(record) if own else _prepared(prepare, record) if prepare else record
            made = fit if isinstance(fit, str) else make(fit)
        except BadRecord as bad:
            reason = str(bad.args[0])
            got = f" (got {bad.args[1]!r:.200})" if len(bad.args) > 1 else ""
            problems[reason] += 1
            if len(lines.setdefault(reason, [])) < SHOWN:
                lines[reason].append(f"{where}: row {row}: {reason}{got}")
            continue
        if isinstance(made, str):
            found.dropped[str(made)] += 1
            if isinstance(made, LeftOut) and len(found.named.setdefault(str(made), [])) < SHOWN:
                found.named[str(made)].append(f"row {row}: {made.what}")
        else:
            found.made.append((row, made))
    if problems:
        more = [f"{where}: {n - SHOWN} more rows: {reason}" for reason, n in problems.items() if n > SHOWN]
        raise SpecError([*chain.from_iterable(lines.values()), *more])
    return found


def no_text(task: TaskSpec) -> str:
    """The reason to leave a record out whose text is empty; raises BadRecord where the task allows none."""
    if not task.drop_empty:
        raise BadRecord("empty text")
    return "empty text"


def _prepared(prepare: Callable[[Record], Record | Unfit], record: Record) -> Record | str:
    try:
        made = prepare(record)
        return LeftOut(*made) if isinstance(made, Unfit) else made
    except (KeyError, IndexError, TypeError) as error:
        raise BadRecord(f"not the shape that `prepare: {prepare.__name__}` reads ({error!r})") from None


def before(value: str, mark: str | None) -> str:
    """What of a group's value counts."""
    return value.partition(mark)[0] if mark else value


def _require_columns(task: TaskSpec, sample: list[Record], where: str) -> None:
    """Raise SpecError for every field that no record of the sample has, with the nearest name there is."""
    there = {str(key) for record in sample for key in record}
    problems = []
    for use, names in _fields(task).items():
        for path in dict.fromkeys(names):
            head = path.split(".")[0]
            if path not in there and head not in there:
                known = nearest(head, there) or f" (the columns are {', '.join(sorted(there))[:300]})"
                problems.append(f"{where}: no column {head!r}, which `{use}` names{known}")
    if problems:
        raise SpecError(problems)


def _fields(task: TaskSpec) -> dict[str, list[str]]:
    """The field paths that a task reads, by what they are for."""
    form = task.format
    wanted = {"group": paths(task.group) if task.group else []}

    def all_of(*templates: str | tuple[str, ...] | None) -> list[str]:
        listed = [t for part in templates if part for t in ((part,) if isinstance(part, str) else part)]
        return [path for template in listed for path in paths(template)]

    if isinstance(form, (ChoicesFormat, PairsFormat)):
        wanted["prompt"] = all_of(form.prompt)
    if isinstance(form, ChoicesFormat):
        wanted |= {"choices": all_of(form.choices), "answer": [form.answer] if form.answer else []}
    elif isinstance(form, PairsFormat):
        wanted |= {"chosen": all_of(form.chosen), "rejected": all_of(form.rejected), "texts": all_of(form.texts)}
        wanted["better"] = [form.better] if form.better else []
    elif isinstance(form, RatingPairsFormat):
        wanted["text"] = paths(form.text)
        wanted |= {"rating": [form.rating] if form.rating else [], "ratings": [form.ratings] if form.ratings else []}
    elif isinstance(form, GenerateFormat):
        wanted |= {"prompt": paths(form.prompt), "target": paths(form.target)}
        wanted |= {"position": all_of(form.position), "difficulty": all_of(form.difficulty)}
    else:
        wanted["text"] = paths(form.text)
        wanted |= {"rating": [form.rating]} if isinstance(form, RatingFormat) else {"label": [form.label]}
    return wanted


# -- one record to examples --------------------------------------------------------------------------------------

Made = list[tuple[str, int, str]]  # text, class, group where none is asked for


def _maker(task: TaskSpec) -> Callable[[Record], Made | str]:
    """A function from a record to its examples, or to the reason why it is left out."""
    form = task.format
    if isinstance(form, TextFormat):
        return _text_maker(form, task.class_names, task.classes is not None or form.labels is not None)
    if isinstance(form, RatingFormat):
        return _rating_maker(form)
    assert isinstance(form, ChoicesFormat)
    return _choices_maker(form)


def _text_maker(form: TextFormat, classes: tuple[str, ...], given: bool) -> Callable[[Record], Made | str]:
    text, number = getter(form.text), {name: i for i, name in enumerate(classes)}
    known = {value: None if c is None else number[c] for value, c in (form.labels or {}).items()} or number
    listed = ", ".join(known) + ("" if given else " (the default: give `classes`, in order, or `labels`)")

    def make(record: Record) -> Made | str:
        value = value_at(record, form.label)
        for spelling in _spellings(value):
            if spelling in known:
                label = known[spelling]
                return "left out by its label" if label is None else [(text(record), label, "")]
        raise BadRecord(f"the label is none of the classes {listed}", value)

    return make


def _spellings(value: Any) -> tuple[str, ...]:
    """How a label may stand in the YAML: true and 1 are the same, 1.0 is 1."""
    if isinstance(value, bool):
        return (str(value).lower(), str(int(value)))
    if isinstance(value, float) and value.is_integer():
        return (str(int(value)), str(value))
    return (str(value), str(value).strip())


def _rating_maker(form: RatingFormat) -> Callable[[Record], Made | str]:
    text = getter(form.text)

    def make(record: Record) -> Made | str:
        rating = number_at(record, form.rating)
        if rating < form.negative_below:
            return [(text(record), 0, "")]
        return [(text(record), 1, "")] if rating > form.positive_above else "rating between the classes"

    return make


def _choices_maker(form: ChoicesFormat) -> Callable[[Record], Made | str]:
    prompt = getter(form.prompt) if form.prompt else lambda _: ""
    whole = getter(form.text)
    each = [getter(choice) for choice in form.choices] if not isinstance(form.choices, str) else None

    def make(record: Record) -> Made | str:
        asked = prompt(record)
        if each is not None:
            choices = [one(record).strip() for one in each]
        else:
            choices = [choice.strip() for choice in list_at(record, str(form.choices), "choices")]
        at = 0 if form.answer is None else place_at(record, form.answer, form.answer_as, choices)
        right = choices[at]
        if not right:
            return "the right answer is empty"
        if form.never is not None and form.never in right:
            return "no answer is right"
        wrong = [c for c in choices if c and c != right and not (form.never and form.never in c)]
        if not wrong:
            return "no wrong answer"
        # A hash, not a random stream: the same record gives the same pair whatever the seed and its neighbours.
        draw = drawn(asked, *choices)
        pair = (wrong[draw % len(wrong)], right)
        texts = [whole({"prompt": asked, "choice": choice}) for choice in pair]
        return [(texts[0], 0, _key(asked, choices)), (texts[1], 1, _key(asked, choices))]

    return make


def _key(asked: str, choices: list[str]) -> str:
    """What the two examples of a record share: the question, or where there is none all that can be chosen."""
    return asked if asked.strip() else "\0".join(sorted(choices))


def place_at(record: Record, path: str, how: str, choices: list[str]) -> int:
    """The place among the choices of the one that the field at `path` names."""
    value = value_at(record, path)
    given = text_of(value, path).strip()
    if how == "text":
        if given in choices:
            return choices.index(given)
        raise BadRecord("the answer is none of the choices", value)
    if how == "letter":
        at = ord(given.upper()) - ord("A") if len(given) == 1 and given.isascii() and given.isalpha() else -1
    else:
        at = int(given) - (how == "one_based") if re.fullmatch(r"\d+", given) else -1
    if not 0 <= at < len(choices):
        raise BadRecord(f"the answer is no {how.replace('_', '-')} position of {len(choices)} choices", value)
    return at
