"""A run's history.jsonl in, a few points of its loss and its evaluations out, to be drawn.

A loss of many steps is averaged over equal stretches of steps, each drawn at its last step; evaluations are thinned,
and the last one is always kept. Refuses (StepError) a file that cannot be read; other kinds of lines are ignored.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from w2s.analyze.reading.history import parsed
from w2s.analyze.report.packing import number
from w2s.errors import StepError

Curve = dict[str, Any]  # {name, panel: "loss" or "accuracy", x: optimizer steps done, y}


def curves(path: Path, points: int) -> list[Curve]:
    """The curves of a run, of at most so many points each; none where nothing was recorded."""
    loss, evaluated = _read(path)
    found = [_averaged(loss, points)] if loss else []
    for name, series in evaluated.items():
        kept = _thinned(series, points)
        x, y = [step for step, _ in kept], [number(value, 4) for _, value in kept]
        found.append({"name": name, "panel": "accuracy", "x": x, "y": y})
    return found


def _read(path: Path) -> tuple[list[tuple[int, float]], dict[str, list[tuple[int, float]]]]:
    """(steps done, loss), and (steps done, accuracy) by what was evaluated against what, in the order of the file."""
    evaluated: dict[str, list[tuple[int, float]]] = {}
    advice = f"remove the folder {path.parent} and run again"
    try:
        loss, others = parsed(path.read_text(encoding="utf-8"), str(path), advice)
        for line in others:
            if "accuracy" in line:
                name = f"{line['split']}, against {'ground truth' if line['against'] == 'truth' else line['against']}"
                evaluated.setdefault(name, []).append((int(line["steps_done"]), float(line["accuracy"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepError(f"{path}: damaged ({error}); {advice}") from None
    return loss, evaluated


def _averaged(loss: list[tuple[int, float]], points: int) -> Curve:
    edges = sorted({round(len(loss) * place / points) for place in range(points + 1)}) if len(loss) > points else []
    parts = [loss[a:b] for a, b in itertools.pairwise(edges)] if edges else [[one] for one in loss]
    y = [number(sum(value for _, value in part) / len(part), 3) for part in parts]
    averaged = {"averaged": math.ceil(len(loss) / points)} if edges else {}
    return {"name": "training loss", "panel": "loss", "x": [part[-1][0] for part in parts], "y": y, **averaged}


def _thinned(series: list[tuple[int, float]], points: int) -> list[tuple[int, float]]:
    if len(series) <= points:
        return series
    last = len(series) - 1
    return [series[place] for place in sorted({round(i * last / (points - 1)) for i in range(points)})]
