"""Cells in, the place of each model on the x axis out: by parameters, by training FLOPs, or, where one of the sizes is
not known, in the order of the sweep, which the axis then says. No model is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes

from w2s.analyze.figures.look import SMALL_PT, height_in, names, power, short_count, width_in
from w2s.analyze.numbers.cells import Cell

SIZES = ("params", "flops")
ROOM_IN = 0.07  # between two labels of one line
MOST_LINES = 3  # of labels below an axis
SIDE = 0.07  # of the axis left free at either end
NAME_IN = 1.5  # names that are wider stand slanted
SLANT = 35  # degrees


@dataclass(frozen=True)
class Scale:
    """`place` by model: log10 of its size, or its number in the order of the sweep; `label` what the axis calls it."""

    place: dict[str, float]
    label: dict[str, str]
    about: str
    by_order: bool
    note: str = ""  # what readers have to know about the order

    @property
    def ends(self) -> tuple[float, float]:
        low, high = min(self.place.values()), max(self.place.values())
        room = SIDE * (high - low) or 0.5
        return low - room, high + room

    def models(self, among: Sequence[str]) -> list[str]:
        """Models from small to large; equals in the order in which they come."""
        return sorted(dict.fromkeys(among), key=lambda name: self.place[name])

    def distinct(self, among: Sequence[str]) -> int:
        return len({self.place[name] for name in among})

    def even(self) -> Scale:
        """The same order with equal distances, for series whose intervals would run into each other."""
        places = sorted(set(self.place.values()))
        place = {name: float(places.index(at)) for name, at in self.place.items()}
        return replace(self, place=place, about=f"{self.about}, evenly spaced")

    def nearest(self) -> float:
        """The smallest distance of two models, as a share of the axis."""
        places = sorted(set(self.place.values()))
        low, high = self.ends
        return min((b - a for a, b in itertools.pairwise(places)), default=high - low) / (high - low)

    def named(self, model: str, short: str) -> str:
        """A model's name with its size, where the axis shows sizes."""
        return short if self.by_order or self.label[model] in short else f"{short} ({self.label[model]})"


def scale(cells: Sequence[Cell], size: str) -> Scale:
    """Where the models of these cells stand."""
    models = list(dict.fromkeys(name for cell in cells for name in cell.pair))
    sizes = {name: _size(name, cells, size) for name in models}
    unit = "parameters" if size == "params" else "training FLOPs"
    if all(math.isfinite(number) and number > 0 for number in sizes.values()):
        written = short_count if size == "params" else power
        labels = {name: written(number) for name, number in sizes.items()}
        place = {name: math.log10(number) for name, number in sizes.items()}
        return Scale(place, labels, f"{unit} of the student", False)
    order = _order(models, cells)
    unknown = sum(not math.isfinite(number) for number in sizes.values())
    which = "all" if unknown == len(models) else f"{unknown} of {len(models)}"
    note = f"{unit} of {which} models are not known: students stand in the order of the sweep"
    place = {name: float(number) for number, name in enumerate(order)}
    return Scale(place, names(models, 30), "student", True, note)


def _order(models: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    """The order of the sweep: of two models the supervisor comes first, wherever pairs say so without a circle."""
    below: dict[str, set[str]] = {name: set() for name in models}
    for cell in cells:
        below[cell.student_model].add(cell.weak_model)
    order: list[str] = []
    while len(order) < len(models):
        left = [name for name in models if name not in order]
        free = [name for name in left if not below[name] - {name} - set(order)]
        order.append((free or left)[0])
    return order


def _size(model: str, cells: Sequence[Cell], size: str) -> float:
    """As a student where it is one: a supervisor is trained on other data, for another number of steps."""
    for role in ("student", "weak"):
        own = [cell for cell in cells if getattr(cell, f"{role}_model") == model]
        found = [float(number) for cell in own if (number := getattr(cell, f"{role}_{size}")) is not None]
        known = [number for number in found if math.isfinite(number) and number > 0]
        if known:
            return sum(known) / len(known)
    return math.nan


def foot_in(scale: Scale, panel_in: float) -> float:
    """Room below an axis for its labels."""
    lines, slanted = _arranged(scale, panel_in)
    if slanted:
        widest = max(width_in(label, SMALL_PT) for label in scale.label.values())
        return 0.12 + widest * math.sin(math.radians(SLANT)) + height_in(1, SMALL_PT)
    return 0.1 + height_in(max(lines.values()) + 1, SMALL_PT)


def left_in(scale: Scale, panel_in: float) -> float:
    """Room that slanted labels need to the left of an axis."""
    if not _arranged(scale, panel_in)[1]:
        return 0.0
    low, high = scale.ends
    return max(
        0.1 + width_in(scale.label[name], SMALL_PT) * math.cos(math.radians(SLANT))
        - panel_in * (place - low) / (high - low)
        for name, place in scale.place.items()
    )  # fmt: skip


def tick(axes: Axes, scale: Scale, panel_in: float) -> None:
    """A tick for each model; its label stands a line lower where the one before leaves no room, or is slanted."""
    lines, slanted = _arranged(scale, panel_in)
    at = {place: name for name, place in reversed(scale.place.items())}
    axes.set_xticks(sorted(scale.place.values()), minor=True)
    axes.tick_params(axis="x", which="minor", length=3)
    if slanted:
        axes.set_xticks(list(at), [scale.label[name] for name in at.values()])
        for label in axes.get_xticklabels():
            label.set(rotation=SLANT, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(list(lines), ["\n" * line + scale.label[at[place]] for place, line in lines.items()])
    axes.set_xlim(*scale.ends)


def _arranged(scale: Scale, panel_in: float) -> tuple[dict[float, int], bool]:
    """The line of each place's label, and whether labels have to be slanted. Sizes that find no line stay unlabelled
    (their tick stays); names are then slanted."""
    low, high = scale.ends
    label = {place: scale.label[name] for name, place in reversed(scale.place.items())}
    widest = max(width_in(text, SMALL_PT) for text in label.values())
    for most in range(1, MOST_LINES + 1):
        ends = [-math.inf] * most
        lines: dict[float, int] = {}
        for place in sorted(label):
            x = panel_in * (place - low) / (high - low)
            half = width_in(label[place], SMALL_PT) / 2
            line = next((line for line, end in enumerate(ends) if x - half >= end + ROOM_IN), None)
            if line is not None:
                lines[place] = line
                ends[line] = x + half
        if len(lines) == len(label):
            return lines, scale.by_order and (most > 2 or widest > NAME_IN)
    return lines, scale.by_order
