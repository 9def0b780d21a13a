"""Steps to do in, waves of job arrays out: pure, knows no SLURM and no files.

A wave holds the steps whose parents stand in earlier waves, or are done. A line is what one task of an array does; an
array is a run of lines of one wave that ask for the same resources.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from w2s.execute.schedule import Node

Line = tuple[str, ...]
Request = tuple[str, ...]  # what a job asks for, as options


class Array(NamedTuple):
    """The lines `after + 1` to `after + tasks` of a wave.

    `needs`: arrays that have to end before, by their place in the list of all arrays.
    """

    wave: int
    after: int
    tasks: int
    request: Request
    needs: tuple[int, ...]
    jobs: tuple[str, ...]  # that other submissions made, and that have a parent in hand


class Waves(NamedTuple):
    """The lines of each wave, and the arrays in an order in which those that are needed come first."""

    lines: list[list[Line]]
    arrays: list[Array]


def cut(
    nodes: Iterable[Node],
    to_do: Collection[str],
    *,
    request: Callable[[str], Request],
    warmth: Callable[[str], tuple[str, ...]],
    steps_per_task: int,
    tasks_per_array: int,
    elsewhere: Mapping[str, str] | None = None,
    one_by_one: bool = False,
) -> Waves:
    """Waves of lines of at most `steps_per_task` steps, in arrays of at most `tasks_per_array` tasks.

    `nodes`: the plan's steps, parents first; `to_do`: those to submit. `request`: what a step asks for. `warmth`: what
    it keeps in memory, the costliest first; steps that share it come to lie in one line. `elsewhere`: step -> job of
    another submission that has it in hand. `one_by_one`: each array also waits for the one before it.
    """
    elsewhere = elsewhere or {}
    parents = {node.digest: node.parents for node in nodes}
    wave_of: dict[str, int] = {}
    for digest, above in parents.items():
        if digest in to_do:
            wave_of[digest] = 1 + max((wave_of[parent] for parent in above if parent in wave_of), default=-1)
    lines: list[list[Line]] = []
    arrays: list[Array] = []
    place: dict[str, int] = {}  # step -> its array
    for wave in range(1 + max(wave_of.values(), default=-1)):
        lines.append([])
        alike: dict[Request, list[str]] = {}
        for digest, own in wave_of.items():
            if own == wave:
                alike.setdefault(request(digest), []).append(digest)
        for asked, steps in alike.items():
            made = grouped({digest: warmth(digest) for digest in steps}, steps_per_task)
            for start in range(0, len(made), tasks_per_array):
                part = made[start : start + tasks_per_array]
                needed = {parent for line in part for digest in line for parent in parents[digest]}
                needs = {place[parent] for parent in needed if parent in place}
                if one_by_one and arrays:
                    needs.add(len(arrays) - 1)
                jobs = {elsewhere[parent] for parent in needed if parent in elsewhere}
                place.update({digest: len(arrays) for line in part for digest in line})
                arrays.append(
                    Array(wave, len(lines[wave]), len(part), asked, tuple(sorted(needs)), tuple(sorted(jobs, key=int)))
                )
                lines[wave] += part
    return Waves(lines, arrays)


def grouped(warmth: Mapping[str, tuple[str, ...]], steps_per_task: int) -> list[Line]:
    """Steps as lines. Those of equal warmth stand together, and are not torn apart where one line can hold them."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for digest, shared in warmth.items():
        groups.setdefault(shared, []).append(digest)
    lines: list[list[str]] = []
    for _, steps in sorted(groups.items()):
        room = steps_per_task - len(lines[-1]) if lines else 0
        if room < len(steps) <= steps_per_task or not room:
            lines.append([])
            room = steps_per_task
        lines[-1] += steps[:room]
        rest: Sequence[str] = steps[room:]
        lines += [list(rest[start : start + steps_per_task]) for start in range(0, len(rest), steps_per_task)]
    return [tuple(line) for line in lines]
