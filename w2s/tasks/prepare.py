"""Records that no template can express in, records that one can out; refuses those of another shape."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from w2s.tasks.fields import BadRecord, Record, drawn


class Unfit(NamedTuple):
    """Why a record is left out, and what exactly is wrong with it."""

    reason: str
    what: str


def lettered(record: Record) -> Record:
    """A chat record whose last message ends in `A: ...`, `B: ...` -> prompt, choices, answer (a letter)."""
    said = str(record["input"][-1]["content"])
    marks = list(re.finditer(r"(?:^|(?<=\s))([A-H]): ", said))
    # The letters must follow each other from A on: "Plan A: rest" inside a question is no choice.
    for start in range(len(marks)):
        letters = "".join(mark.group(1) for mark in marks[start:])
        if len(letters) > 1 and letters == "ABCDEFGH"[: len(letters)]:
            marks = marks[start:]
            break
    else:
        raise BadRecord("no choices A:, B: ...", said)
    ends = [mark.start() for mark in marks[1:]] + [len(said)]
    choices = [said[mark.end() : end].strip().rstrip(";").strip() for mark, end in zip(marks, ends, strict=True)]
    before = said[: marks[0].start()]
    if "\n" not in before[len(before.rstrip()) :] and choices[-1].endswith("."):
        choices[-1] = choices[-1][:-1]  # choices on one line: the full stop ends the sentence, not the last choice
    return {"prompt": before.strip(), "choices": choices, "answer": record["ideal"]}


def which_is_more_pleasant(record: Record) -> Record:
    """ETHICS utilitarianism: two scenarios, `baseline` the more pleasant -> numbered in an order drawn by a hash."""
    pair = [str(record["baseline"]).strip(), str(record["less_pleasant"]).strip()]
    if drawn(*pair) % 2:
        pair.reverse()
    answer = pair.index(str(record["baseline"]).strip())
    return {"prompt": f"1) {pair[0]}\n2) {pair[1]}", "choices": ["1", "2"], "answer": answer}


def last_replies(record: Record) -> Record:
    """Two dialogues that differ in the assistant's last reply -> prompt (all before it), chosen and rejected reply.

    Dialogues that share no turn of the assistant stay whole, without a prompt.
    """
    pair = [str(record["chosen"]), str(record["rejected"])]
    mark = "\n\nAssistant:"
    at = _shared(*pair).rfind(mark)
    if at < 0:
        return {"prompt": "", "chosen": pair[0], "rejected": pair[1]}
    start = at + len(mark)
    return {"prompt": pair[0][:start], "chosen": pair[0][start:], "rejected": pair[1][start:]}


def _shared(one: str, other: str) -> str:
    """What both begin with."""
    differ = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return one[: next(differ, min(len(one), len(other)))]


def lichess(record: Record) -> Record | Unfit:
    """A puzzle -> the position it is to be solved in, how that looks, and the answer.

    Of its moves the first is the opponent's: `fen` is the position before it. Adds position (FEN), what
    `chessboard.described` makes of it (pieces, side to move, rights) and answer (the first move of the solution, UCI).
    """
    from w2s.tasks import chessboard

    listed = record["moves"]
    moves = listed.split() if isinstance(listed, str) else list(listed)
    name = f"puzzle {record.get('id', '')}".strip()
    try:
        position = chessboard.after(str(record["fen"]), moves[0])
        if not chessboard.is_legal(position, moves[1]):
            raise ValueError(f"{moves[1]} is no legal move in {position}")
    except ValueError as error:
        return Unfit("illegal move or position", f"{name}: {error}")
    return {**record, **chessboard.described(position), "position": position, "answer": moves[1]}


PREPARE: dict[str, Callable[[Record], Record | Unfit]] = {
    "lettered": lettered,
    "which_is_more_pleasant": which_is_more_pleasant,
    "last_replies": last_replies,
    "lichess": lichess,
}
