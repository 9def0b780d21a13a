"""A run's history.jsonl in, its losses by optimizer step and its evaluations out, as they were written.

Refuses (StepError) what is not one JSON object a line, or has no number where one belongs.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from w2s.errors import StepError


class History(NamedTuple):
    """What a training wrote down."""

    loss: list[tuple[int, float]]  # steps done, loss of the last of them: NaN where that was no finite number
    others: list[dict[str, Any]]  # lines of another kind: evaluations


def parsed(text: str, name: str, advice: str) -> History:
    """The lines of a history. `name` and `advice` are for messages: which file it is, and what to do about it."""
    found = History([], [])
    try:
        # One array: parsing line by line takes three times as long.
        for line in json.loads("[" + ",".join(text.split("\n")).rstrip(",\n ") + "]"):
            if not isinstance(line, dict):
                raise TypeError("a line is no object")
            if "loss" not in line:
                found.others.append(line)
            else:
                value = float(line["loss"])
                found.loss.append((int(line["step"]) + 1, value if math.isfinite(value) else math.nan))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StepError(f"{name}: damaged ({error!r}); {advice}") from None
    return found
