"""Groups of real ranks under a fake srun, on two nodes that are this machine. The real one has its own tests.

Starting ranks takes some seconds: here few are, and the rest is of the tier `recipe`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_lab import GROUP_BODY, alive, step_spec, until  # type: ignore[import-not-found]

from w2s.errors import MachineError
from w2s.execute import group, srun
from w2s.execute.process import LOOK_S, end_all, wait_for
from w2s.execute.slots import Slot
from w2s.execute.srun import SrunGroup

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "fake[0-1]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "0",  # the batch script's own, no rank's
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_GPUS_PER_TASK": "1",  # would show each rank another GPU, as number 0
}


@pytest.fixture
def job(lab, monkeypatch) -> Path:
    """This process is in a job of two nodes, and what it calls as srun leaves its calls in the file returned."""
    programs = lab.folder / "bin"
    programs.mkdir()
    for name in ("srun", "scontrol"):
        text = (Path(__file__).parent / "fake_srun.py").read_text()
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FAKE_SRUN_LOG", str(lab.folder / "calls"))
    return Path(lab.folder / "calls")


@pytest.fixture
def started(lab, job):
    """A function that starts a group of two ranks on the lab's store."""
    groups: list[SrunGroup] = []

    def start() -> SrunGroup:
        groups.append(SrunGroup(Slot(0, 1, "", 2, "srun"), lab.store.root, GROUP_BODY))
        return groups[-1]

    yield start
    end_all([one for one in groups if not one.stderr.closed], grace_s=0.0)


def hand(ranks: SrunGroup, number: int) -> None:
    ranks.send(step_spec(number).digest(), step_spec(number).model_dump(mode="json"))


def heard(ranks: SrunGroup, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """What the ranks say until that is enough."""
    said: list[dict[str, Any]] = []

    def look() -> bool:
        wait_for(ranks.handles(), LOOK_S)
        said.extend(ranks.read())
        return enough(said)

    until(look, 60.0)
    return said


def outcome(ranks: SrunGroup, number: int) -> dict[str, Any]:
    """Have a step done; what the group said at its end."""
    hand(ranks, number)
    ends = ("done", "failed", "again")
    return heard(ranks, lambda said: any(reply["event"] in ends for reply in said))[-1]


def death(ranks: SrunGroup) -> str:
    """How the group ends; waits for it. It says nothing of its own before."""
    found: list[str | None] = [None]

    def dead(_: object) -> bool:
        found[0] = ranks.death()
        return found[0] is not None

    said = heard(ranks, dead)
    assert {reply["event"] for reply in said} <= {"begin", "progress", "stopped"}
    return str(found[0])


def pids(lab, number: int) -> list[int]:
    """The ranks of a step; waits for them."""
    return [int(until(lambda rank=rank: lab._text(f"pid-{number}-{rank}"), 60.0)) for rank in (0, 1)]


def made(lab, number: int) -> Any:
    return json.loads((lab.store.path("materialize", step_spec(number).digest()) / "made.json").read_text())


def test_a_group_works_through_steps_and_a_rank_that_dies_is_named_and_takes_it_down(lab, job, started):
    lab.script({3: "rank1=say_then:SIGKILL"})  # while rank 0 waits in a collective, which complains
    ranks = started()
    for number in (1, 2):
        assert outcome(ranks, number)["event"] == "done"
        assert made(lab, number)["sum"] == 3.0  # both were there
    assert made(lab, 1)["pids"] == made(lab, 2)["pids"]
    hand(ranks, 3)
    assert death(ranks).startswith("rank 1 of 2 was killed (SIGKILL), as the kernel does when memory runs out")
    assert ranks.rank == 1
    assert "task 1: Killed" in ranks.last_words()
    assert "last words" in lab.store.log_path(step_spec(3).digest()).with_name("log-rank1.txt").read_text()
    ranks.kill()
    assert not any(map(alive, [*made(lab, 1)["pids"], *pids(lab, 3), ranks.pid]))

    call = json.loads(job.read_text())
    assert call["options"].items() >= {
        "--ntasks": "2", "--nodes": "2", "--ntasks-per-node": "1", "--cpus-per-task": "4", "--kill-on-bad-exit": "1",
    }.items()  # fmt: skip
    assert not {"SLURM_CPU_BIND", "SLURM_GPUS_PER_TASK"} & set(call["env"])
    assert ranks.secret not in json.dumps([call["options"], call["words"]])  # everyone on the machine can read commands


@pytest.mark.recipe
@pytest.mark.parametrize(("action", "how"), [("exit:3", "exited with code 3 in"), ("exit:0", "ended in")])
def test_a_rank_that_leaves_is_named_as_far_as_srun_tells(lab, started, action, how):
    lab.script({1: f"rank1={action}"})
    ranks = started()
    hand(ranks, 1)
    assert death(ranks) == f"rank 1 of 2 {how} the middle of the step"


@pytest.mark.recipe
def test_a_rank_that_stumbles_is_believed_and_the_others_are_ended(lab, started):
    lab.script({1: "rank1=raise:no luck"})  # while rank 0 waits in a collective, for ever
    ranks = started()
    end = outcome(ranks, 1)
    assert (end["event"], end["reason"], end["rank"]) == ("failed", "rank 1: ValueError: no luck", 1)
    here = pids(lab, 1)
    assert alive(here[0])
    ranks.kill()
    assert not any(map(alive, here))


@pytest.mark.recipe
def test_all_ranks_save_at_the_same_step_when_they_are_asked(lab, started):
    lab.script({1: "all=train"})
    ranks = started()
    hand(ranks, 1)
    heard(ranks, lambda _: lab._text("trains-0") and lab._text("trains-1"))
    here = pids(lab, 1)
    for pid in here * 2:  # SLURM signals a step, and then its job, at the time limit
        os.kill(pid, signal.SIGTERM)
    assert end_all([ranks], grace_s=60.0) == []  # none was cut off
    assert int(lab._text("saved-0")) == int(lab._text("saved-1")) > 0
    assert not (lab.store.work(step_spec(1).digest()) / "claim.json").exists()
    assert not any(map(alive, here))


@pytest.mark.recipe
def test_a_wish_to_stop_goes_by_message_and_concerns_all_even_where_it_comes_to_one(lab, started, monkeypatch):
    lab.script({1: "all=train"})
    ranks = started()
    hand(ranks, 1)
    heard(ranks, lambda _: lab._text("trains-0") and lab._text("trains-1"))
    monkeypatch.setattr(group.os, "kill", None)  # its ranks may be on another host
    ranks._ask_to_stop(ranks.ranks[1])
    said = heard(ranks, lambda said: len([reply for reply in said if reply["event"] == "stopped"]) == 2)
    assert {reply["event"] for reply in said} <= {"begin", "progress", "stopped"}
    assert int(lab._text("saved-0")) == int(lab._text("saved-1")) > 0


def test_strangers_at_the_door_are_neither_let_in_nor_waited_for(lab, started, monkeypatch):
    os.mkfifo(gate := lab.folder / "gate-ranks")
    monkeypatch.setenv("FAKE_SRUN_GATE", str(gate))
    ranks = started()
    assert ranks.door is not None
    address = ("127.0.0.1", ranks.door.getsockname()[1])
    hello = {"rank": 0, "pid": 1, "secret": ranks.secret}
    turned_away: list[Any] = [
        {**hello, "secret": "0" * 64},
        {**hello, "secret": "\udcff"},
        {**hello, "secret": None},
        {"rank": 0, "pid": 1},
        {**hello, "rank": 2},
        {**hello, "rank": -1},
        {**hello, "rank": True},
        {**hello, "pid": "1"},
        "hello", [], None,
    ]  # fmt: skip
    lines = [(json.dumps(each) + "\n").encode() for each in turned_away]
    lines += [b"x" * (group.HELLO_BYTES + 1), b"\xff\n" * group.HELLO_BYTES]
    strangers = [socket.create_connection(address) for _ in lines]
    silent, odd = socket.create_connection(address), socket.create_connection(address)
    odd.sendall(b"GET / HTTP/1.1\r\n" + b"[" * 3000 + b"\n")
    for stranger, line in zip(strangers, lines, strict=True):
        stranger.sendall(line)
    waiting = list(strangers)

    def turned(_: object) -> bool:
        waiting[:] = [stranger for stranger in waiting if not gone(stranger)]
        return not waiting

    heard(ranks, turned)
    assert ranks.ranks == {}
    assert not gone(silent)
    hand(ranks, 1)
    with gate.open("w"):
        pass
    assert heard(ranks, lambda said: bool(said) and said[-1]["event"] == "done")
    assert made(lab, 1)["sum"] == 3.0
    for each in (silent, odd):
        assert gone(each)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    for each in [*strangers, silent, odd]:
        each.close()


def gone(connection: socket.socket) -> bool:
    """True where the other end has hung up."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.recipe
def test_a_crowd_at_the_door_does_not_use_up_the_descriptors(lab, started, monkeypatch):
    os.mkfifo(gate := lab.folder / "gate-ranks")
    monkeypatch.setenv("FAKE_SRUN_GATE", str(gate))
    monkeypatch.setattr(group, "COMERS", 4)
    ranks = started()
    assert ranks.door is not None
    crowd = [socket.create_connection(("127.0.0.1", ranks.door.getsockname()[1])) for _ in range(30)]
    heard(ranks, lambda _: gone(crowd[23]))
    assert len(ranks.newcomers) == 6
    assert not gone(crowd[24])
    with gate.open("w"):
        pass
    assert outcome(ranks, 1)["event"] == "done"
    for one in crowd:
        one.close()


@pytest.mark.recipe
def test_nothing_is_left_of_a_group_that_is_ended_before_its_ranks_are_there_or_whose_srun_dies(lab, started):
    early = started()
    early.kill()
    assert not alive(early.pid)
    lab.gate("never")
    lab.script({1: "rank1=gate:never"})  # rank 0 waits in a collective
    ranks = started()
    hand(ranks, 1)
    heard(ranks, lambda _: lab._text("pid-1-0") and lab._text("pid-1-1"))
    os.kill(ranks.pid, signal.SIGKILL)
    assert death(ranks).startswith("srun, which starts the ranks, was killed (SIGKILL)")
    ranks.kill()
    here = pids(lab, 1)
    until(lambda: not any(map(alive, here)))  # the end of a socket is seen a moment before that of its process


@pytest.mark.recipe
def test_a_rank_that_does_not_listen_is_ended_by_srun(lab, started):
    lab.gate("never")
    lab.script({1: "all=gate:never"})
    ranks = started()
    hand(ranks, 1)
    heard(ranks, lambda _: lab._text("pid-1-0") and lab._text("pid-1-1"))
    here = pids(lab, 1)
    os.kill(here[1], signal.SIGSTOP)
    ranks.kill()
    assert not any(map(alive, [*here, ranks.pid]))


def test_kill_9_of_the_parent_leaves_no_rank_and_no_srun(lab, job):
    lab.gate("never")
    lab.script({1: "rank1=gate:never"})
    program = (
        "import json, sys, test_srun as t\n"
        "ranks = t.SrunGroup(t.Slot(0, 1, '', 2, 'srun'), sys.argv[1], t.GROUP_BODY)\n"
        "t.hand(ranks, 1)\n"
        "t.heard(ranks, lambda _: False)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, "-c", program, str(lab.store.root)], env=env)
    lab.processes.append(parent)
    here = [*pids(lab, 1), json.loads(until(job.read_text))["pid"]]
    assert all(map(alive, here))
    parent.kill()
    until(lambda: not any(map(alive, here)))


def test_srun_that_refuses_is_quoted(lab, started, monkeypatch):
    words = "Unable to create step for job 7: More processors requested than permitted"
    monkeypatch.setenv("FAKE_SRUN_REFUSES", words)
    ranks = started()
    hand(ranks, 1)
    assert death(ranks).startswith("srun, which starts the ranks, exited with code 1")
    assert ranks.last_words() == f"srun: error: {words}"


def test_ranks_that_find_no_parent_say_so(lab, started, monkeypatch):
    monkeypatch.setattr(srun, "BOOT", srun.BOOT.replace("main()", "sys.argv[2] = '1'; main()"))
    ranks = started()
    hand(ranks, 1)
    assert "exited with code 1 in the middle of the step" in death(ranks)
    assert "the parent of this rank does not answer on port 1 (127.0.0.1: [Errno " in ranks.last_words()


def test_there_must_be_a_job_whose_nodes_can_share_the_ranks():
    assert srun.node_count(JOB, 4) == 2
    with pytest.raises(MachineError, match="this is no SLURM job"):
        srun.node_count({}, 4)
    with pytest.raises(MachineError, match=r"has 3 processes, which 2 nodes \(fake\[0-1\]\) cannot share evenly"):
        srun.node_count(JOB, 3)


def test_each_rank_gets_its_share_of_the_cores():
    assert srun.cpus_per_rank(JOB, 2) == 2
    assert srun.cpus_per_rank({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4,16"}, 2) == 2  # the smallest node's
    asked = {"SLURM_JOB_CPUS_PER_NODE": "64(x2)", "SLURM_CPUS_PER_TASK": "6", "SLURM_NTASKS_PER_NODE": "8"}
    assert srun.cpus_per_rank(asked, 8) == 6
    assert srun.cpus_per_rank(asked, 4) == 16  # the job's tasks are others
    assert srun.cpus_per_rank({}, 2) == 1


def test_a_step_asks_for_all_gpus_of_its_nodes():
    assert "--gpus-per-node=4" in srun.command({**JOB, "SLURM_GPUS_ON_NODE": "4"}, 8, 2)
    for env in (JOB, {**JOB, "SLURM_GPUS_ON_NODE": "0"}):
        assert not [word for word in srun.command(env, 8, 2) if "gpu" in word]


def test_a_task_learns_from_slurm_which_rank_it_is():
    task = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
            "SLURM_NTASKS": "1", "MASTER_ADDR": "node1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
            "CUDA_VISIBLE_DEVICES": "0,1,2,3"}  # fmt: skip
    env = dict(task)
    srun.become_rank(env)
    learnt = {name: value for name, value in env.items() if name not in task}
    assert learnt == {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4",
                      srun.ADDRESSES: "node1 10.0.0.1"}  # fmt: skip
    env = {**task, srun.ON_CPU: "1"}
    srun.become_rank(env)
    assert env["CUDA_VISIBLE_DEVICES"] == ""


def test_the_first_host_is_known_by_its_address_or_at_least_by_its_name(job, monkeypatch):
    assert srun.address_of_first_host(JOB) == "127.0.0.1"
    monkeypatch.setenv("PATH", "")
    assert srun.address_of_first_host({**JOB, "SLURMD_NODENAME": "node7"}) == "node7"


def test_what_srun_says_of_ends():
    said = (
        "srun: error: n2: task 3: Segmentation fault (core dumped)\n"
        "slurmstepd-n1: error: *** STEP 9.1 ON n1 CANCELLED AT 2026-11-21T10:03:06 ***\n"
        "srun: launch/slurm: _step_signal: Terminating StepId=9.1\n"
        "srun: error: n1: tasks 0-1,5: Terminated\n"
        "srun: error: n1: task 0: Killed\n"
        "srun: error: node-03.site: tasks 6,8: Exited with exit code 12\n"
        "srun: error: n1: task 7: Out Of Memory\n"
        "task 9: Killed\n"
        "srun: error: Unable to create step for job 9: More processors requested than permitted\n"
    )
    assert list(srun.ends(said).items()) == [(3, -11), (0, -15), (1, -15), (5, -15), (6, 12), (8, 12)]
    assert srun.ends("") == {}
