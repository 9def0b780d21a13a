"""Steps cut into waves, lines and arrays: held against rules that are written down here a second time."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s.execute.waves import Array, Waves, cut, grouped


class Step(NamedTuple):
    digest: str
    parents: tuple[str, ...] = ()


class Case(NamedTuple):
    """A graph with what is to do of it, and how it is to be cut."""

    steps: list[Step]
    to_do: Collection[str]
    asked: dict[str, tuple[str, ...]]
    warmth: dict[str, tuple[str, ...]]
    elsewhere: dict[str, str]
    steps_per_task: int
    tasks_per_array: int
    one_by_one: bool

    def cut(self) -> Waves:
        return cut(
            self.steps,
            self.to_do,
            request=self.asked.__getitem__,
            warmth=self.warmth.__getitem__,
            steps_per_task=self.steps_per_task,
            tasks_per_array=self.tasks_per_array,
            elsewhere=self.elsewhere,
            one_by_one=self.one_by_one,
        )


@st.composite
def cases(draw):
    names = [f"s{number}" for number in range(draw(st.integers(0, 14)))]
    steps = [
        Step(name, tuple(draw(st.lists(st.sampled_from(names[:place]), max_size=3)) if place else ()))
        for place, name in enumerate(names)
    ]
    kind = {name: draw(st.sampled_from(["to do", "to do", "done", "elsewhere"])) for name in names}
    return Case(
        steps,
        {name for name in names if kind[name] == "to do"},
        {name: draw(st.sampled_from([("--a",), ("--b",), ()])) for name in names},
        {name: draw(st.sampled_from([(), ("m1",), ("m1", "d2"), ("m2", "d1")])) for name in names},
        {name: draw(st.sampled_from(["7", "11"])) for name in names if kind[name] == "elsewhere"},
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.booleans()),
    )


def lines_of(made: Waves, array: Array) -> list[tuple[str, ...]]:
    return made.lines[array.wave][array.after : array.after + array.tasks]


def home(made: Waves) -> dict[str, int]:
    """step -> place of its array"""
    return {d: place for place, array in enumerate(made.arrays) for line in lines_of(made, array) for d in line}


@given(cases())
def test_every_step_to_do_is_in_one_line_and_nothing_else_is(case):
    made = case.cut()
    written = [digest for wave in made.lines for line in wave for digest in line]
    assert sorted(written) == sorted(case.to_do)
    assert all(line for wave in made.lines for line in wave)
    assert all(len(line) <= case.steps_per_task for wave in made.lines for line in wave)


@given(cases())
def test_arrays_cover_each_wave_without_gap_or_overlap_and_none_is_too_long(case):
    made = case.cut()
    for wave, lines in enumerate(made.lines):
        own = sorted((array for array in made.arrays if array.wave == wave), key=lambda array: array.after)
        assert [array.after for array in own] == [sum(a.tasks for a in own[:place]) for place in range(len(own))]
        assert sum(array.tasks for array in own) == len(lines) > 0
    assert all(1 <= array.tasks <= case.tasks_per_array for array in made.arrays)
    assert [array.wave for array in made.arrays] == sorted(array.wave for array in made.arrays)


@given(cases())
def test_parents_are_in_an_earlier_wave_or_not_to_do_and_no_wave_is_later_than_it_must(case):
    made = case.cut()
    wave_of = {digest: wave for wave, lines in enumerate(made.lines) for line in lines for digest in line}
    for step in case.steps:
        if step.digest in wave_of:
            above = [wave_of[parent] for parent in step.parents if parent in case.to_do]
            assert wave_of[step.digest] == max(above, default=-1) + 1


@given(cases())
def test_an_array_asks_for_what_each_of_its_steps_asks_for(case):
    made = case.cut()
    for array in made.arrays:
        assert {case.asked[digest] for line in lines_of(made, array) for digest in line} == {array.request}


@given(cases())
def test_an_array_waits_for_exactly_what_makes_its_steps_parents(case):
    made, parents = case.cut(), {step.digest: step.parents for step in case.steps}
    where = home(made)
    for place, array in enumerate(made.arrays):
        read = {p for line in lines_of(made, array) for digest in line for p in parents[digest]}
        needs = {where[parent] for parent in read if parent in case.to_do}
        if case.one_by_one and place:
            needs.add(place - 1)
        assert array.needs == tuple(sorted(needs))
        assert all(need < place for need in array.needs)
        assert array.jobs == tuple(sorted({case.elsewhere[p] for p in read if p in case.elsewhere}, key=int))


@given(cases())
def test_the_same_is_cut_the_same_whatever_the_order_of_what_is_to_do(case):
    assert case.cut() == case._replace(to_do=sorted(case.to_do, reverse=True)).cut()


@given(st.lists(st.sampled_from([(), ("a",), ("a", "x"), ("b",)]), max_size=20), st.integers(1, 6))
def test_groups_that_fit_are_not_torn_and_lines_are_as_few_as_that_allows(shared, room):
    warmth = {f"s{number}": group for number, group in enumerate(shared)}
    lines = grouped(warmth, room)
    assert sorted(digest for line in lines for digest in line) == sorted(warmth)
    for group in set(shared):
        size = shared.count(group)
        touched = [line for line in lines if any(warmth[digest] == group for digest in line)]
        if size <= room:
            assert len(touched) == 1
        else:
            assert len(touched) <= -(-size // room) + 1
    # Of two lines that follow each other, the first could not have taken the second's first group whole.
    for line, after in itertools.pairwise(lines):
        first = sum(warmth[digest] == warmth[after[0]] for digest in after)
        assert len(line) + first > room


def test_groups_side_by_side_in_lines():
    warmth = {"a1": ("a",), "b1": ("b",), "a2": ("a",), "c1": ("c",), "a3": ("a",), "b2": ("b",)}
    assert grouped(warmth, 1) == [("a1",), ("a2",), ("a3",), ("b1",), ("b2",), ("c1",)]
    assert grouped(warmth, 2) == [("a1", "a2"), ("a3",), ("b1", "b2"), ("c1",)], "b is not torn for the sake of a line"
    assert grouped(warmth, 3) == [("a1", "a2", "a3"), ("b1", "b2", "c1")]
    assert grouped(warmth, 9) == [("a1", "a2", "a3", "b1", "b2", "c1")]
    assert grouped({}, 3) == []


def plain(steps, **more):
    """Waves of steps that ask for nothing and share nothing."""
    given = {"request": lambda _: (), "warmth": lambda _: (), "steps_per_task": 1, "tasks_per_array": 10, **more}
    return cut(steps, {step.digest for step in steps}, **given)


def test_a_diamond():
    steps = [Step("data"), Step("weak", ("data",)), Step("ceiling", ("data",)), Step("student", ("data", "weak"))]
    assert plain(steps) == Waves(
        [[("data",)], [("weak",), ("ceiling",)], [("student",)]],
        [Array(0, 0, 1, (), (), ()), Array(1, 0, 2, (), (0,), ()), Array(2, 0, 1, (), (0, 1), ())],
    )


def test_a_long_wave_is_several_arrays_of_one_file_each_waiting_only_for_its_own_parents():
    steps = [Step("a"), Step("b"), Step("c"), Step("of a", ("a",)), Step("of c", ("c",))]
    made = plain(steps, tasks_per_array=1)
    assert made.lines == [[("a",), ("b",), ("c",)], [("of a",), ("of c",)]]
    assert [(array.after, array.tasks, array.needs) for array in made.arrays] == [
        (0, 1, ()), (1, 1, ()), (2, 1, ()), (0, 1, (0,)), (1, 1, (2,))
    ]  # fmt: skip
    chained = plain(steps, tasks_per_array=1, one_by_one=True)
    assert [array.needs for array in chained.arrays] == [(), (0,), (1,), (0, 2), (2, 3)]


def test_nothing_to_do_is_no_wave():
    assert cut([Step("a")], set(), request=lambda _: (), warmth=lambda _: (), steps_per_task=1,
               tasks_per_array=1) == Waves([], [])  # fmt: skip


@pytest.mark.parametrize("jobs", [{"a": "9", "b": "10"}, {"a": "10", "b": "9"}])
def test_jobs_of_other_submissions_are_named_once_and_by_number(jobs):
    steps = [Step("a"), Step("b"), Step("child", ("a", "b"))]
    made = cut(steps, {"child"}, request=lambda _: (), warmth=lambda _: (), steps_per_task=1, tasks_per_array=1,
               elsewhere=jobs)  # fmt: skip
    assert made.arrays == [Array(0, 0, 1, (), (), ("9", "10"))]
