"""A step with two ranks that SLURM starts, on one node and on two: ZeRO-2 with the numbers of one process."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from sweeping import history, log, on, submit  # type: ignore[import-not-found]

pytestmark = pytest.mark.slurm

TITLE = "student large of small on moods, logconf, seed 0"
GROUP = ["engine.device=cpu", "engine.processes=2", "engine.zero_stage=2"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_two_ranks_of_zero_2_make_the_numbers_of_one_process(nodes, later, whole, another):
    """One step of a sweep that is otherwise done."""
    cluster = another(NODES=2, CPUS=1) if nodes == 2 else another(CPUS=2)
    on(later, cluster)
    digest = later.digest(TITLE)
    shutil.rmtree(later.store / "train" / digest[:2] / digest)
    before = later.finished()
    words = [word for setting in (*GROUP, f"slurm.nodes={nodes}") for word in ("--set", setting)]
    (job, _), tally = submit(later, *words)
    assert tally == "9 steps: 1 to submit, 8 done"
    asked = cluster.run("scontrol", "show", "job", job)
    assert re.search(rf"NumNodes={nodes}\b.* NumTasks=2\b", asked)
    cluster.until_empty()
    assert f"done      {TITLE} in" in log(later, 1, 1), log(later, 1, 1)
    assert {digest: later.finished()[digest] for digest in before} == before
    assert later.left_over() == []

    ours, alone = ([row["loss"] for row in history(world, digest)] for world in (later, whole))
    assert len(ours) == 96
    np.testing.assert_allclose(ours, alone, rtol=2e-5, atol=2e-6)
    assert ours != alone, "bit for bit would mean that it was one process"
    logits, those = (world.read("train", digest, "predictions/test.parquet")["logits"] for world in (later, whole))
    np.testing.assert_allclose(logits, those, rtol=1e-3, atol=2e-4)
