"""Step bodies for tests: what a step does is read from a script beside the store, and every run leaves a file."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from w2s.errors import SpecError, TryAgain
from w2s.stopping import Stopping


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


class SafetensorError(Exception):
    """Named like the library's, which has no errno."""


def run_step(spec, store, report, stopping):
    digest, kind, folder = spec.digest(), spec.kind, store.root.parent
    if store.has(kind, digest):
        return "reused"
    claim = store.claim(digest)
    if claim is None:
        return "busy"
    try:
        number = spec.split_seed
        (folder / "runs" / f"{number}-{uuid.uuid4().hex}").touch()
        _publish(folder / f"pid-{number}", str(os.getpid()))
        report("work", 0, 2)
        act(json.loads((folder / "script.json").read_text()).get(str(number), ""), folder, stopping)
        report("work", 2, 2)
        with store.staging(kind, digest) as staged:
            (staged.folder / "made.json").write_text(
                json.dumps({"pid": os.getpid(), "threads": int(os.environ["OMP_NUM_THREADS"])})
            )
            if (log := store.log_path(digest)).exists():
                (staged.folder / "log.txt").write_bytes(log.read_bytes())
            staged.commit({"spec": spec.model_dump(mode="json")})
        store.clear_work(kind, digest)
    finally:
        claim.release()
    return "done"


def act(action: str, folder: Path, stopping: Stopping) -> None:
    name, _, argument = action.partition(":")
    if name == "save":
        do_save(argument, folder, stopping)
    elif name:
        globals()[f"do_{name}"](argument, folder)


def do_save(name: str, folder: Path, stopping: Stopping) -> None:
    """Work that, told to stop, first saves what it has; it needs a gate's time for that."""
    with stopping.at_own_time():
        _publish(folder / f"at-{name}", "yes")
        while not stopping.asked:
            signal.pause()
        _publish(folder / "was-asked", "yes")
        do_gate(name, folder)
        _publish(folder / "saved", "yes")


def do_again(_: str, folder: Path) -> None:
    """Fails the first time, and wants to be run once more."""
    if not (folder / "tried").exists():
        _publish(folder / "tried", str(os.getpid()))
        raise TryAgain("with smaller micro-batches")


def do_gate(name: str, folder: Path) -> None:
    (folder / f"gate-{name}").open().close()  # blocks until somebody opens the other end


def do_raise(text: str, _: Path) -> None:
    raise ValueError(text)


def do_refuse(text: str, _: Path) -> None:
    raise SpecError(text)


def do_exit(code: str, _: Path) -> None:
    os._exit(int(code))


def do_sysexit(code: str, _: Path) -> None:
    sys.exit(int(code))


def do_signal(name: str, _: Path) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def do_oom(_: str, __: Path) -> None:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def do_full(_: str, __: Path) -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x")


def do_full_tensors(_: str, __: Path) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def do_noise(text: str, _: Path) -> None:
    """Everything that could be taken for a reply, by every road to descriptors 1 and 2."""
    line = json.dumps({"digest": "0" * 64, "event": "done"})
    print(line)
    print(f"python {text} \udcff")
    print(f"error {text}", file=sys.stderr)
    os.write(1, f"raw {text}\n".encode() + b"\xff\xfe\n")
    libc = ctypes.CDLL(None)
    libc.printf(b"buffered in C %s\n", text.encode())  # no flush: it stays in C's buffer
    subprocess.run([sys.executable, "-c", f"print('child {text}')"], check=True)
    sys.stdout.close()


def do_cbuffer(text: str, _: Path) -> None:
    ctypes.CDLL(None).printf(f"buffered in C {text}\n".encode())
    raise ValueError(text)


def do_say_then(name: str, _: Path) -> None:
    print("last words")
    os.kill(os.getpid(), getattr(signal, name))


def do_gate_then_raise(name: str, folder: Path) -> None:
    do_gate(name, folder)
    raise ValueError("after the gate")


def do_child(name: str, folder: Path) -> None:
    """A process started by a step, which outlives the step unless somebody ends it."""
    child = subprocess.Popen([sys.executable, "-c", f"open({str(folder / 'gate-child')!r}).close()"])
    _publish(folder / "pid-child", str(child.pid))
    do_gate(name, folder)


def do_closeall(_: str, folder: Path) -> None:
    os.closerange(3, 64)
    do_gate("never", folder)


def do_stubborn(name: str, folder: Path) -> None:
    """Will not be unwound."""
    while True:
        try:
            do_gate(name, folder)
        except BaseException:
            _publish(folder / "was-asked", "yes")


def dies_late(*given: object) -> None:
    run_step(*given)
    os.kill(os.getpid(), signal.SIGKILL)


def claims_done(*_: object, **__: object) -> str:
    return "done"


def broken(*_: object, **__: object) -> str:
    return "fine"


def _publish(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.rename(path)
