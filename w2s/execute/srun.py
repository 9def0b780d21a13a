"""A group of ranks that srun starts inside a SLURM job, on all its nodes, and both ends of the way between them.

The parent runs on one of the job's nodes and listens on TCP; a rank has to know the secret that the parent gave to srun
by environment. What ends one rank ends the group. Refuses to start outside a job, and ranks that its nodes cannot share
evenly.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from w2s.errors import MachineError
from w2s.execute import process
from w2s.execute.group import REAP_S, Rank, RankGroup
from w2s.execute.parent import ADDRESSES, SECRET, keep_alive
from w2s.execute.process import kill_session, python

ASK_S = 20.0  # scontrol may take so long
END_S = 10.0  # srun may take so long to end a step that it was told to end
STOP = b'{"stop": true}\n'
ON_CPU = "W2S_RANKS_ON_CPU"  # SLURM shows a rank the job's GPUs; this one is to leave them alone
REPORT_BYTES = 1 << 16

# Choices for the job's own tasks, or for an outer srun, that srun would take up again and that contradict ours.
# Without those about GPUs every rank sees all that the job has on its node, and takes the one that LOCAL_RANK names;
# with `--gpu-bind=none` instead, SLURM 22.05 would tell a rank of no GPU at all.
FORGET = ("SLURM_CPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPUS", "SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU")
FORGET_PREFIXES = ("SLURM_CPU_BIND", "SLURM_MEM_BIND", "SLURM_GPU_BIND", "SLURM_TRES_BIND")

# All tasks of a node are born in one process group, but a rank that leaves ends its own with all it started.
BOOT = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
if os.getpgrp() != os.getpid():
    os.setpgid(0, 0)
count = int(sys.argv[1])
sys.path[:], sys.argv[1:] = sys.argv[2 : 2 + count], sys.argv[2 + count :]
from w2s.execute.srun import become_rank
from w2s.execute.worker import main
become_rank(os.environ)
main()
"""


class SrunGroup(RankGroup):
    """A group of which every node of the job runs an equal share. `self.process` is srun."""

    launcher = "srun, which starts the ranks,"

    def start_launcher(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Open the door for the ranks of all nodes and start srun.

        Raises MachineError outside a job, and where its nodes cannot share the ranks evenly.
        """
        nodes = node_count(os.environ, self.slot.ranks)
        self.master = address_of_first_host(os.environ)
        self.secret = secrets.token_hex(32)
        self.door = _listening()
        self.master_port = _free_port()
        rank = [*python(BOOT), "--dial", str(self.door.getsockname()[1]), *arguments]
        return self.start([*command(os.environ, self.slot.ranks, nodes), *rank], ())

    def environment(self) -> dict[str, str]:
        """What srun, and each rank, finds in its environment. The secret is here, since everyone can read commands."""
        base = super().environment()
        env = {name: v for name, v in base.items() if name not in FORGET and not name.startswith(FORGET_PREFIXES)}
        env |= {"MASTER_ADDR": self.master, "MASTER_PORT": str(self.master_port), SECRET: self.secret}
        if self.slot.visible == "":
            env[ON_CPU] = "1"
        elif "CUDA_VISIBLE_DEVICES" in os.environ:  # the same numbers on every node, unless SLURM says otherwise there
            env["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            env.pop("CUDA_VISIBLE_DEVICES", None)
        return env

    def kill(self) -> None:
        """End all ranks, on whatever node, and srun, at once, and free what belongs to them here."""
        self._end_ranks()
        if self.process.poll() is None:
            self.process.terminate()  # it ends every task of the step, also those that do not listen to us
            self.wait(END_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        deadline_s = time.monotonic() + REAP_S
        while _group_lives(self.pid) and time.monotonic() < deadline_s:
            process.wait_for((), process.LOOK_S)  # srun was killed, and its own helper process ends the step now
        kill_session(self.pid)
        self.process.wait()
        self.close()

    def _accept(self, door: socket.socket) -> socket.socket:
        connection = super()._accept(door)
        try:
            keep_alive(connection)
        except OSError:
            connection.close()
            raise
        return connection

    def _number(self, hello: Any) -> int | None:
        """Which rank says so of itself, where it knows the secret and is one that is still to come."""
        if not isinstance(hello, dict):
            return None
        secret, number, pid = hello.get("secret"), hello.get("rank"), hello.get("pid")
        if not isinstance(secret, str) or not hmac.compare_digest(
            secret.encode(errors="replace"), self.secret.encode()
        ):
            return None
        if type(number) is not int or type(pid) is not int:
            return None
        return number if 0 <= number < self.slot.ranks and number not in self.ranks else None

    def _ask_to_stop(self, rank: Rank) -> None:
        """It may be on another host, so a message stands for the signal."""
        with contextlib.suppress(BrokenPipeError, OSError):
            rank.link.send(STOP)

    def _kill_ranks(self) -> None:
        """A rank that hears nothing more from its parent leaves; and as it does, the end of its socket is seen here."""
        for rank in self.ranks.values():
            if not rank.link.closed:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(rank.link.outgoing)) as connection:
                    connection.shutdown(socket.SHUT_WR)

    def _codes(self) -> dict[int, int]:
        """Rank -> return code, in the order in which srun told of them; of those whose end it told in words we know."""
        self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, self.stderr.tell() - REPORT_BYTES))
        return ends(self.stderr.read().decode(errors="replace"))

    def _launcher_fell(self, dead: list[int], codes: dict[int, int]) -> bool:
        """Its ranks go with it when it is killed, and then it cannot tell of them."""
        return not codes and (not dead or (self.process.returncode or 0) < 0)

    def _culprit(self, dead: list[int], early: list[int], codes: dict[int, int]) -> int:
        """As srun ends the others too, the one that it named first, where several went."""
        named = [number for number in codes if number in dead]
        return super()._culprit(named or dead, early, codes)

    def _code(self, codes: dict[int, int]) -> int | None:
        """srun says nothing of a rank that exited with code 0, and not always in words that we know."""
        return None if self.rank is None else codes.get(self.rank)


def node_count(env: Mapping[str, str], ranks: int) -> int:
    """The nodes of this job. Raises MachineError where there is no job, or ranks do not divide among its nodes."""
    if not env.get("SLURM_JOB_ID") or not env.get("SLURM_JOB_NODELIST"):
        raise MachineError(
            "srun: a step's processes are to be started by srun, but this is no SLURM job (SLURM_JOB_ID and "
            "SLURM_JOB_NODELIST are not set); `w2s sweep YAML --launcher slurm` submits one"
        )
    nodes = int(env.get("SLURM_JOB_NUM_NODES") or env.get("SLURM_NNODES") or 1)
    if ranks % nodes:
        raise MachineError(
            f"engine: a step has {ranks} processes, which {nodes} nodes ({env['SLURM_JOB_NODELIST']}) cannot share "
            "evenly; set slurm.nodes to a divisor, or change the number of processes"
        )
    return nodes


def command(env: Mapping[str, str], ranks: int, nodes: int) -> list[str]:
    """The call of srun, up to the program of a rank. `env`: of the job."""
    each = ranks // nodes
    gpus = env.get("SLURM_GPUS_ON_NODE", "")
    return [
        "srun", f"--ntasks={ranks}", f"--nodes={nodes}", f"--ntasks-per-node={each}", "--distribution=block",
        f"--cpus-per-task={cpus_per_rank(env, each)}",  # srun does not take that over from the job
        "--overlap",  # a group that replaces another must not wait until SLURM has cleared that one away
        # Of a job that asked for `--gpus` in all, a step of 22.05 would see fewer on its first node.
        *([f"--gpus-per-node={gpus}"] if gpus.isdecimal() and gpus != "0" else []),
        "--kill-on-bad-exit=1", "--export=ALL", "--mpi=none", "--input=none",
    ]  # fmt: skip


def cpus_per_rank(env: Mapping[str, str], each: int) -> int:
    """What the job gives to its tasks where these are our ranks, else an equal share of its smallest node."""
    if env.get("SLURM_NTASKS_PER_NODE") == str(each) and env.get("SLURM_CPUS_PER_TASK", "").isdecimal():
        return int(env["SLURM_CPUS_PER_TASK"])
    counts = [int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?(?:,|$)", env.get("SLURM_JOB_CPUS_PER_NODE", ""))]
    return max(1, min(counts, default=1) // each)


def address_of_first_host(env: Mapping[str, str]) -> str:
    """By what the job's other nodes reach its first one, which is rank 0's: SLURM itself uses NodeAddr for that."""
    first = _told("hostnames", env["SLURM_JOB_NODELIST"]).partition("\n")[0].strip()
    first = first or env.get("SLURMD_NODENAME") or socket.gethostname()
    address = re.search(r"(?:^|\s)NodeAddr=(\S+)", _told("node", first))
    return address[1] if address else first


def become_rank(env: MutableMapping[str, str]) -> None:
    """Say in the environment of a task which rank it is, from what SLURM tells this task of its own step."""
    nodes, ranks = int(env["SLURM_STEP_NUM_NODES"]), int(env["SLURM_STEP_NUM_TASKS"])
    env["RANK"], env["LOCAL_RANK"] = env["SLURM_PROCID"], env["SLURM_LOCALID"]
    env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"] = str(ranks), str(ranks // nodes)
    # The parent is the batch script's, on the first node; or that of an salloc, wherever srun was called.
    env[ADDRESSES] = f"{env['MASTER_ADDR']} {env.get('SLURM_LAUNCH_NODE_IPADDR', '')}"
    if env.pop(ON_CPU, None):
        env["CUDA_VISIBLE_DEVICES"] = ""


def ends(said: str) -> dict[int, int]:
    """Rank -> return code, in the order of what srun said of them; what it says otherwise is passed over."""
    signals = {(signal.strsignal(number) or "").lower(): -number for number in signal.valid_signals()}
    found: dict[int, int] = {}
    for numbers, how in re.findall(r"^srun: error: \S+: tasks? ([\d,\[\]-]+): (.+?)\s*$", said, re.MULTILINE):
        exited = re.fullmatch(r"exited with exit code (\d+)", how.lower())
        code = int(exited[1]) if exited else signals.get(how.partition(" (")[0].lower())
        if code is None:
            continue
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
            for number in range(int(first), int(last or first) + 1):
                found.setdefault(number, code)
    return found


def _listening() -> socket.socket:
    """A door on every interface, IPv6's too where there is any: the other nodes may know this one by any of them."""
    try:
        door = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError):
        door = socket.create_server(("", 0))
    door.setblocking(False)  # who knocked may have left before it is let in
    return door


def _free_port() -> int:
    """A port for the ranks' own talk: rank 0 opens it on this host. Somebody may be faster, and then it says so."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _told(what: str, name: str) -> str:
    """What scontrol shows; nothing where it shows nothing, since there are other ways to guess."""
    try:
        words = ["scontrol", "show", what, name]
        return subprocess.run(words, capture_output=True, text=True, timeout=ASK_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
