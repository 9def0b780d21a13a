"""Stands in for srun and scontrol on PATH: tasks on this machine, as many nodes as are asked for, and srun's own words.

As srun: SIGTERM ends all tasks; a task that ends badly takes the others along; a helper process ends the tasks of an
srun that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def srun(words: list[str]) -> int:
    options = {}
    while words[0].startswith("--"):
        name, _, value = words.pop(0).partition("=")
        options[name] = value
    count, nodes = int(options["--ntasks"]), int(options["--nodes"])
    each = int(options["--ntasks-per-node"])
    assert each * nodes == count
    if log := os.environ.get("FAKE_SRUN_LOG"):
        with open(log, "a") as file:
            file.write(
                json.dumps({"options": options, "words": words, "pid": os.getpid(), "env": sorted(os.environ)}) + "\n"
            )
    if gate := os.environ.get("FAKE_SRUN_GATE"):
        Path(gate).open().close()  # starts nothing until somebody opens the other end
    if refusal := os.environ.get("FAKE_SRUN_REFUSES"):
        print(f"srun: error: {refusal}", file=sys.stderr)
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    alive, other = os.pipe()
    tasks = {}
    for number in range(count):
        own = {"SLURM_PROCID": number, "SLURM_LOCALID": number % each, "SLURM_NODEID": number // each,
               "SLURM_STEP_NUM_TASKS": count, "SLURM_STEP_NUM_NODES": nodes, "SLURM_STEP_ID": 0,
               "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}  # fmt: skip
        env = {**os.environ, **{name: str(value) for name, value in own.items()}}
        tasks[subprocess.Popen(words, env=env, restore_signals=True, preexec_fn=unblocked).pid] = number
    if os.fork() == 0:
        os.close(other)
        os.read(alive, 1)  # ends with srun
        end(tasks, signal.SIGKILL)
        os._exit(0)
    worst = 0
    while tasks:
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
            print("srun: forcing job termination", file=sys.stderr, flush=True)
            end(tasks, signal.SIGKILL)
        for pid, number in list(tasks.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone == 0:
                continue
            del tasks[pid]
            worst = max(worst, told(number, each, os.waitstatus_to_exitcode(status)))
            if worst and tasks and options["--kill-on-bad-exit"] == "1":
                end(tasks, signal.SIGTERM)
    return worst


def told(number: int, each: int, code: int) -> int:
    if code == 0:
        return 0
    how = f"Exited with exit code {code}" if code > 0 else signal.strsignal(-code)
    print(f"srun: error: fake{number // each}: task {number}: {how}", file=sys.stderr, flush=True)
    return code if code > 0 else 128 - code


def unblocked() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def end(tasks: dict[int, int], number: int) -> None:
    for pid in tasks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def scontrol(words: list[str]) -> int:
    if words[:2] == ["show", "hostnames"]:
        print("\n".join(f"fake{number}" for number in range(2)))
    elif words[:2] == ["show", "node"]:
        print(f"NodeName={words[2]} Arch=x86_64\n   NodeAddr=127.0.0.1 NodeHostName={words[2]} Port=1")
    else:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[Path(sys.argv[0]).name](sys.argv[1:]))
