"""What a training leaves beside its predictions."""

from __future__ import annotations

import pytest

from w2s.outputs import learnt_share


def test_the_share_learnt_from_counts_examples_not_steps():
    """3 of 6 and 2 of 2 examples: 5 of 8. A mean over steps would be 0.75."""
    history = [{"loss": 1.0, "weight": 0.5, "examples": 6}, {"loss": 1.0, "weight": 1.0, "examples": 2}]
    assert learnt_share(history) == {"learnt_share": pytest.approx(5 / 8)}


def test_a_loss_that_leaves_nothing_out_has_no_share():
    assert learnt_share([{"loss": 1.0, "examples": 6}]) == {}
