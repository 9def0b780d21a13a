from __future__ import annotations

import pytest

from w2s.execute.forecast import Forecast

KINDS = {"a": "train", "b": "train", "c": "train", "d": "materialize"}


def test_without_anything_known_the_time_left_is_not_known():
    forecast = Forecast(KINDS, {})
    assert forecast.left_s(["a"], {}, 2) is None
    assert forecast.left_s([], {"a": 5.0}, 2) is None
    assert forecast.left_s([], {}, 2) == 0.0


def test_a_finished_step_tells_about_its_kind_only():
    forecast = Forecast(KINDS, {})
    forecast.finished("a", 10.0)
    forecast.finished("b", 20.0)
    assert forecast.expected_s("c") == 15.0
    assert forecast.expected_s("d") is None
    assert forecast.left_s(["c"], {"b": 5.0}, 1) == 25.0
    assert forecast.left_s(["c", "d"], {}, 1) is None


def test_expectations_are_corrected_by_how_wrong_they_were():
    forecast = Forecast(KINDS, {"a": 10.0, "b": 40.0})
    assert forecast.left_s(["a", "b"], {}, 2) == 25.0
    forecast.finished("a", 30.0)
    assert forecast.expected_s("b") == pytest.approx(120.0)
    assert forecast.expected_s("c") == 30.0  # nothing was expected of it: the mean of its kind


def test_the_longest_running_step_is_waited_for_and_a_late_one_counts_as_nearly_done():
    forecast = Forecast(KINDS, {"a": 100.0, "b": 10.0})
    assert forecast.left_s([], {"a": 10.0, "b": 5.0}, 2) == 90.0
    assert forecast.left_s([], {"b": 9.0}, 2) == 1.0
    assert forecast.left_s([], {"b": 50.0}, 2) == 5.0  # not 0: that would be said for as long as it takes
