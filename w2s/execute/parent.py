"""The parent of a worker, as the worker has it: lines to and from it, over pipes, a Unix socket or TCP.

Whatever shows that the parent is gone ends this process, and what it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

DIAL_S = 20.0  # an address that does not answer is given up after so long
SECRET, ADDRESSES = "W2S_RANKS_SECRET", "W2S_RANKS_PARENT"  # names in the environment of a rank that dials


class Replies:
    """The way back to the parent. A parent that is gone ends this process."""

    def __init__(self, handle: int) -> None:
        self._handle, self._lock = handle, threading.Lock()
        self._cut = False  # a line was begun

    def send(self, **message: Any) -> None:
        """Write one line, whole; unless a signal stops the step meanwhile, and then the next line is a new one."""
        data = (json.dumps(message) + "\n").encode()
        with self._lock:
            if self._cut:
                data = b"\n" + data
            self._cut = True
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
            except OSError:
                leave()
            self._cut = False


def listen(handle: int, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Read requests until there can be no more, which means that the parent is gone."""
    with contextlib.suppress(OSError, ValueError), open(handle, "rb", closefd=False) as pipe:
        for line in pipe:
            request = json.loads(line)
            if request.get("stop"):
                os.kill(os.getpid(), signal.SIGUSR1)
            else:
                requests.put(request)
    leave()


def leave() -> None:
    """End this process now, and what it started, from any thread and in the middle of anything."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def connected(path: str) -> int:
    """A descriptor for both directions, to the parent that listens at `path`; ends the process where there is none."""
    parent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        parent.connect(path)
    except OSError as error:
        print(f"{path}: the parent of this rank is gone ({error})", file=sys.stderr)
        leave()
    return parent.detach()


def dialled(port: int, addresses: Sequence[str]) -> int:
    """A descriptor for both directions, to the parent on another host, at the first address where somebody answers.

    Raises SystemExit where nobody does.
    """
    tried = []
    for address in dict.fromkeys(addresses):
        try:
            parent = socket.create_connection((address, port), timeout=DIAL_S)
        except OSError as error:
            tried.append(f"{address}: {error}")
            continue
        parent.settimeout(None)
        keep_alive(parent)
        return parent.detach()
    sys.exit(f"the parent of this rank does not answer on port {port} ({'; '.join(tried)})")


def keep_alive(connection: socket.socket) -> None:
    """Let the end of the other host be noticed, which says no goodbye, within two minutes; and send at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 120_000)):
        if hasattr(socket, name):  # not every system lets them be set
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
