"""Laws of scale in, their table out: the limit, the exponent, and whether the largest model could have been foretold.

Only series that a law was fitted to have a line; scaling.csv has the others too, and why there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from w2s.analyze.numbers.cells import METRIC_WORDS
from w2s.analyze.numbers.scaling import Fit
from w2s.analyze.tables.sheet import ABSENT, Column, Line, Sheet, Value, one_line, value_of, whole, with_interval


def scaling(fits: Sequence[Fit], metric: str) -> list[Sheet]:
    """The table of laws by parameters; none where nothing could be fitted."""
    known = [fit for fit in fits if fit.law is not None]
    if not known:
        return []
    columns = (
        Column("Task", spare=True),
        Column(f"{METRIC_WORDS[metric].head} of"),
        Column("Sizes", numeric=True, spare=True),
        *(Column(head, numeric=True) for head in ("Limit", "Exponent", "Largest: foretold", "Measured")),
        Column("In the band"),
    )
    notes = (
        "A law y = limit - a (x / smallest)^-exponent of the parameters x, by least squares; brackets are 95 % of the "
        "fits to resamples, which say what noise does to a law and not whether it is the right one.",
        "Foretold: the largest model, by the law of all smaller ones.",
    )
    return [Sheet("Scaling with the student's size", columns, [_line(fit) for fit in known], notes, "scaling")]


def _line(fit: Fit) -> Line:
    series, held = fit.series, fit.held_out
    digits = 2 if series.of == "pgr" else 3
    foretold = with_interval(held.predicted, held.low, held.high, digits) if held is not None else Value(ABSENT)
    measured = value_of(series.found[-1], digits)
    inside = ("yes" if held.inside else "no") if held is not None else ABSENT
    names = (Value(one_line(series.task)), Value(one_line(series.name)), whole(len(set(series.x_M.tolist()))))
    return (*names, value_of(fit.limit, digits), value_of(fit.exponent, 2), foretold, measured, Value(inside))
