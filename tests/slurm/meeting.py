"""Run in the batch shell of a job: opens a port, starts a task on every node, prints from which nodes tasks came."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

DEADLINE_S = 60


def task(host: str, port: str) -> None:
    with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
        connection.sendall(os.environ["SLURMD_NODENAME"].encode())


def batch() -> int:
    nodes = os.environ["SLURM_JOB_NODELIST"]
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], text=True, check=True, stdout=subprocess.PIPE)
    first, count = shown.stdout.split()[0], len(shown.stdout.split())
    with socket.create_server((first, 0)) as door:
        door.settimeout(DEADLINE_S)
        words = [sys.executable, __file__, first, str(door.getsockname()[1])]
        tasks = subprocess.Popen(["srun", f"--nodes={count}", f"--ntasks={count}", *words])
        came = []
        for _ in range(count):
            with door.accept()[0] as connection, connection.makefile() as reader:
                came.append(reader.read())
        print(first, *sorted(came))
        return tasks.wait()


if __name__ == "__main__":
    sys.exit(task(*sys.argv[1:]) if len(sys.argv) > 1 else batch())
