"""Cells in, what holds for all of their tables out, in sentences: n and seeds, intervals, what is left out, noise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from w2s.analyze.numbers.cells import CHANCE_AUROC, METRIC_WORDS, TAUGHT, Cell
from w2s.analyze.numbers.medians import EFFECT, POWER, Power, power
from w2s.analyze.numbers.resamples import RESAMPLES
from w2s.analyze.numbers.spread import LEVEL
from w2s.analyze.tables.listings import is_compared
from w2s.analyze.tables.sheet import NOT_BINARY, counted, label, one_line


def sentences(cells: Sequence[Cell], metric: str) -> list[str]:
    """What holds for every line, in the order in which a reader asks."""
    if not cells:
        return ["The sweep has no cells."]
    tests = _range("test example", [cell.n for cell in cells if cell.n])
    seeds = _range("seed", [len(cell.seeds) for cell in cells if cell.seeds])
    tasks = {one_line(cell.task) for cell in cells}
    # Of one task no narrow table and none in LaTeX has a column.
    of = f"Task {tasks.pop()}: " if len(tasks) == 1 else ""
    said = [f"{of}{tests}, {seeds}." if tests and seeds else "No student has finished yet."]
    said += _intervals(cells, metric)
    said.append(f"PGR = (student - weak) / (ceiling - weak), from {METRIC_WORDS[metric].many} averaged over seeds.")
    said += _left_out(cells, metric)
    said += _selections(cells)
    said += _taught(cells)
    found = power(cells, metric)
    return said if found is None else [*said, noise(found)]


def _intervals(cells: Sequence[Cell], metric: str) -> list[str]:
    measured = [cell.measured(metric) for cell in cells]
    counts = {e.seeds for m in measured for e in (m.weak, m.student, m.ceiling) if e.known}
    if not counts:
        return []
    how = (
        f"Brackets are {LEVEL * 100:.0f} % intervals from {RESAMPLES:,} paired bootstrap resamples of the test examples"
    )
    ratios = "those of PGR, a ratio, are Fieller sets from the same resamples."
    if counts == {1}:
        return [f"{how}; one seed, so they cover test examples only and not other seeds; {ratios}"]
    said = [f"{how}, with the variance over seeds added and quantiles of Student's t; {ratios}"]
    if 1 in counts:
        said.append("Where only one seed is there, they cover test examples only.")
    if 2 in counts:
        said.append("Two seeds tell little of the spread over seeds, hence wide intervals; three or more narrow them.")
    return said


def _left_out(cells: Sequence[Cell], metric: str) -> list[str]:
    """What has no number or enters no median, how often and why, and what the reasons mean."""
    lost = Counter(label(m.pgr.reason) for cell in cells if not (m := cell.measured(metric)).pgr.known)
    said = _count("PGR is not given", lost, len(cells))
    if len({cell.task for cell in cells}) > 1:
        without = Counter(reason for cell in cells if (reason := cell.left_out(metric)))
        said += [f"Medians over tasks leave out {_share(without, len(cells))}."] if without else []
    others = [cell for cell in cells if not cell.is_baseline]
    incomparable = [cell.measured(metric).difference for cell in others if not is_compared(cell, metric)]
    said += _count(
        "A difference from the baseline is not given", Counter(label(e.reason) for e in incomparable), len(others)
    )
    why = {*lost, *(cell.left_out(metric) for cell in cells)}
    if "no gap" in why:
        said.append("No gap: the interval of ceiling - weak reaches 0, so that PGR would be a ratio of noise.")
    if any(reason.endswith("at chance") for reason in why) or (
        metric == "accuracy" and any(c.at_chance for c in cells)
    ):
        above = "the share of the majority class" if metric == "accuracy" else f"{CHANCE_AUROC}"
        said.append(f"At chance: the interval of the model's {METRIC_WORDS[metric].name} does not lie above {above}.")
    if NOT_BINARY in lost:
        said.append("Not binary: the task has more than two classes (or generates text), and AUROC needs two.")
    return said


def _count(what: str, why: Counter[str], lines: int) -> list[str]:
    """How many of so many lines, and why."""
    return [f"{what} in {_share(why, lines)}."] if why else []


def _share(why: Counter[str], lines: int) -> str:
    return f"{sum(why.values()):,} of {lines:,} lines: {counted(why)}"


def _selections(cells: Sequence[Cell]) -> list[str]:
    """What was chosen by what, where anything was."""
    used = {cell.selection for cell in cells}
    said = []
    if "weak_val" in used:
        said.append("weak_val takes the evaluation of a run that agrees best with the supervisor's labels on val.")
    if "oracle" in used:
        said.append(
            "oracle takes the evaluation with the best accuracy on the test examples that it is then measured on: "
            "a diagnostic and no result, and its intervals do not allow for the choice."
        )
    if used - {"final"}:
        said.append("The notes name the optimizer steps of the evaluations that were taken.")
    return said


def noise(found: Power) -> str:
    """What it would take to see a difference, as a sentence."""
    seeds, tests = f"{found.present_seeds:,} seeds", f"{found.present_tests:,} test examples"
    what = f"a {one_line(found.of)} as small as {EFFECT}{'' if 'PGR' in found.of else ' in PGR'}"
    what += f" ({POWER * 100:.0f} % power, {(1 - LEVEL) * 100:.0f} % level)"
    alone = {
        "seeds": (found.seeds, f"about {_about(found.seeds)} seeds at {tests}"),
        "test examples": (found.tests, f"about {_about(found.tests)} test examples at {seeds}"),
    }
    ways = [way for count, way in alone.values() if math.isfinite(count)]
    hopeless = [f"more {name} alone" for name, (count, _) in alone.items() if math.isinf(count)]
    if hopeless and math.isfinite(found.both_seeds):
        ways.append(f"about {_about(found.both_seeds)} seeds with {_about(found.both_tests)} test examples")
    if not ways:
        return f"With the noise seen here no number of seeds and test examples within reach would show {what}."
    if found.seeds <= found.present_seeds and found.tests <= found.present_tests:
        return f"The noise seen here is small enough to see {what}: {' or '.join(ways)} would do."
    said = f"With the noise seen here it would take {', or '.join(ways)}{',' if len(ways) > 1 else ''} to see {what}"
    return said + (f"; {' or '.join(hopeless)} would not do." if hopeless else ".")


def _about(count: float) -> str:
    """A count with two digits that mean something."""
    if not 100 <= count < math.inf:
        return f"{count:.0f}"
    unit = 10 ** (len(str(round(count))) - 2)
    return f"{round(count / unit) * unit:,}"


def _range(what: str, counts: list[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,} {what}{'' if low == 1 else 's'}" if low == high else f"{low:,} to {high:,} {what}s"


def _taught(cells: Sequence[Cell]) -> list[str]:
    """Which methods are no weak supervision, whatever their PGR."""
    by = {what: list(dict.fromkeys(one_line(c.method) for c in cells if c.taught == what)) for what in TAUGHT}
    said = []
    if by["truth"]:
        said.append(
            f"Ground truth of transfer had a part in {', '.join(by['truth'])}, as the sweep asks, be it through the "
            "student that it begins or learns from: controls, whose PGR is not that of weak supervision."
        )
    if by["nothing"]:
        said.append(f"No label is read by {', '.join(by['nothing'])}: what the student knows by itself.")
    return said
