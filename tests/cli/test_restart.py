"""Which checkpoints `--restart-step` drops."""

from __future__ import annotations

from w2s.cli.restart import drop_checkpoints


def checkpoints(lab, node, count=1):
    folder = lab.store.checkpoints(node.digest)
    for step in range(count):
        (folder / f"step-{step:08d}").mkdir(parents=True)
    return folder


def test_finished_steps_and_those_in_work_keep_theirs(lab):
    finished, waiting, failed, running, *_ = lab.plan().nodes.values()
    lab.finish(finished)
    lab.store.fail(failed.digest, "out of memory")
    claim = lab.store.claim(running.digest)
    assert claim is not None
    folders = [checkpoints(lab, node, 2) for node in (finished, waiting, failed, running)]
    said = drop_checkpoints(lab.plan(), lab.store)
    assert said == "restart: 4 checkpoints of 2 unfinished steps dropped; 1 left alone, which another run works on"
    assert [folder.exists() for folder in folders] == [True, False, False, True]
    assert lab.store.failure(failed.digest) is not None, "why it failed is kept"
    claim.release()
    assert drop_checkpoints(lab.plan(), lab.store) == "restart: 2 checkpoints of 1 unfinished step dropped"
    assert not folders[3].exists()


def test_the_steps_may_be_claimed_afterwards(lab):
    node = lab.node("weak tiny on movie, seed 0")
    checkpoints(lab, node)
    drop_checkpoints(lab.plan(), lab.store)
    claim = lab.store.claim(node.digest)
    assert claim is not None
    claim.release()


def test_without_checkpoints_nothing_is_made(lab):
    assert drop_checkpoints(lab.plan(), lab.store) == "restart: 0 checkpoints of 0 unfinished steps dropped"
    assert not lab.results.exists()
