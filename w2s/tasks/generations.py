"""Records in, prompts with the texts that are to follow them out; pure. Refuses records that do not fit.

Targets that are chess moves are checked against their position: an illegal one is left out, counted and named.
"""

from __future__ import annotations

from collections.abc import Iterable

from w2s.tasks.fields import BadRecord, Record, clean, getter, number_at
from w2s.tasks.formats import Examples, Goal, LeftOut, before, gathered, no_text
from w2s.tasks.task import GenerateFormat, TaskSpec


def examples(task: TaskSpec, records: Iterable[tuple[int, Record]], where: str) -> Examples:
    """A prompt and its goal of every record, given as (row number, record). Raises SpecError with all problems."""
    form = task.format
    assert isinstance(form, GenerateFormat)
    prompt_of, target_of = getter(form.prompt), getter(form.target)
    position_of = getter(form.position) if form.position else None
    group = getter(task.group) if task.group else None

    def make(record: Record) -> tuple[str, Goal, str] | str:
        prompt, target = clean(prompt_of(record)), clean(target_of(record))
        if not prompt or not target:
            return no_text(task)
        if form.answer_after is not None and not target.rpartition(form.answer_after)[1]:
            raise BadRecord(f"the target has no {form.answer_after!r}, after which `answer_after` looks", target[-80:])
        position = position_of(record) if position_of else None
        if position is not None and not _is_move(position, target):
            return LeftOut("illegal move or position", f"{target!r} in {position}")
        hard = number_at(record, form.difficulty) if form.difficulty else None
        together = before(group(record), task.group_before) if group else prompt
        return prompt, Goal(target, answer(target, form.answer_after), position, hard), together

    listed, found = gathered(task, records, where, make), Examples()
    found.dropped, found.records, found.named = listed.dropped, listed.records, listed.named
    numbers: dict[str, int] = {}
    for row, (_, goal, together) in listed.made:
        found.label.append(numbers.setdefault(goal.target, len(numbers)))
        found.group.append(together)
        found.row.append(row)
        found.goal.append(goal)
    found.text = [prompt for _, (prompt, _, _) in listed.made]
    return found


def answer(text: str, mark: str | None) -> str:
    """What of a text counts: all of it, or what stands after the last mark, where there is one."""
    return (text if mark is None else text.rpartition(mark)[2]).strip()


def _is_move(position: str, target: str) -> bool:
    from w2s.tasks import chessboard

    try:
        return chessboard.is_legal(position, target)
    except ValueError:
        return False
