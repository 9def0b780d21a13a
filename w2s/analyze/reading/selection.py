"""A student's evaluations and the labels it is judged by in, the evaluation that counts out; reads no files.

`final` takes the model as training left it. `weak_val` takes the evaluation that agrees best with the labels that the
student was given for val, its supervisor's; ground truth of val has no part in it. `oracle` takes the one with the best
accuracy on test: a diagnostic, because the same examples choose and measure, and marked so wherever it is shown.

Shapes: E evaluations in the order of training, N examples.
"""

from __future__ import annotations

import typing
from typing import NamedTuple

import numpy as np

from w2s.analyze.reading.metrics import Ints
from w2s.sweepfile import Selection

ROLES = ("weak", "student", "ceiling")  # of a cell's models
SELECTIONS: tuple[str, ...] = typing.get_args(Selection)
DIAGNOSTIC = "diagnostic: chosen on test"


class Taken(NamedTuple):
    """Which test predictions of a train step count."""

    digest: str
    selection: str = "final"


class Choice(NamedTuple):
    """One of a run's evaluations."""

    place: int  # in the order of training, from 0
    step: int  # optimizer steps done
    evaluations: int  # how many there were to choose from


def taken(role: str, digest: str, selection: str) -> Taken:
    """The predictions of a cell's model that count: students are selected, weak models and ceilings never."""
    return Taken(digest, selection if role in ("student", "base") else "final")  # base: the baseline's student


def choose(predicted_EN: Ints, wanted_N: Ints, step_E: Ints) -> Choice:
    """The evaluation that predicts most of the wanted classes; of several that are equally good the earliest."""
    hits_E = (predicted_EN == wanted_N).sum(axis=1)
    place = int(np.argmax(hits_E))  # the first of equals
    return Choice(place, int(step_E[place]), len(step_E))


def diagnostic(selection: str) -> str:
    """What must stand beside every number of a selection; nothing where it is a result like any other."""
    return DIAGNOSTIC if selection == "oracle" else ""


def variant(method: str, selection: str) -> str:
    """A method as tables and figures call it: with its selection, unless that is simply the final model. The diagnostic
    one never stands anywhere without saying so."""
    if selection == "final":
        return method
    return f"{method}, {selection} (diagnostic)" if diagnostic(selection) else f"{method}, {selection}"
