"""Many processes on one cache: readers take no lock and leave nothing, one process makes what is missing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from w2s.claim import Claim
from w2s.errors import MachineError
from w2s.sources import ArchiveSource, FileSource, fetch, resolve
from w2s.sources.cache import cache_dir, is_offline, once


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A source in a package index of this machine."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipper:
        zipper.writestr("toy-1.0/a.txt", b"alpha")
    (tmp_path / "index" / "toy").mkdir(parents=True)
    (tmp_path / "index" / "toy" / "toy-1.0.zip").write_bytes(packed.getvalue())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
    return ArchiveSource(package="toy==1.0", sha256=sha256, file="toy-1.0/a.txt")


def contents(folder: Path) -> dict[str, int]:
    """Every file and folder, with the time of its last change."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(("variable", "value", "offline"), [
    *(("HF_HUB_OFFLINE", value, True) for value in ("1", "ON", "yes", "True", " true ")),
    *(("HF_HUB_OFFLINE", value, False) for value in ("0", "", "off", "no")),
    ("TRANSFORMERS_OFFLINE", "1", True),
])  # fmt: skip
def test_one_variable_switches_every_download_off(toy, monkeypatch, tmp_path, variable, value, offline):
    monkeypatch.setenv(variable, value)
    assert is_offline() == offline
    if not offline:
        assert fetch(toy).path.read_bytes() == b"alpha"
        return
    with pytest.raises(MachineError, match=r"toy==1.0 is not in the cache .*HF_HUB_OFFLINE.*`w2s prefetch SWEEP`"):
        fetch(toy)
    assert not (tmp_path / "cache").exists()


def wait_for_nobody() -> NoReturn:
    pytest.fail("a reader wanted a lock")


def test_who_reads_takes_no_lock_and_writes_nothing(toy):
    fetch(toy)
    (name,) = {f"package-{path.name}" for path in (cache_dir() / "packages").iterdir()}
    held = Claim(cache_dir() / "locks" / f"{name}.json")
    assert held.take()
    try:
        before = contents(cache_dir())
        assert fetch(toy).path.read_bytes() == b"alpha"
        assert once(name, lambda: "there", wait_for_nobody, wait_for_nobody) == "there"
        assert contents(cache_dir()) == before
    finally:
        held.release()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Modes do not bind root, a mount does."""
    commands = [["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]]
    if os.geteuid() != 0 or any(subprocess.run(c, capture_output=True, check=False).returncode for c in commands):
        pytest.skip("mounting a folder read-only needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_cache_serves_what_it_has(toy, tmp_path):
    (tmp_path / "mine.jsonl").write_text("{}")
    os.utime(tmp_path / "mine.jsonl", (1_000_000_000, 1_000_000_000))
    path = fetch(toy).path
    with read_only(cache_dir()):
        assert fetch(toy).path == path
        # Hashes that cannot be remembered are made again.
        assert fetch(resolve(FileSource(file="mine.jsonl"), tmp_path, "t")).path == tmp_path / "mine.jsonl"
        with pytest.raises(MachineError, match=r"read-only: set W2S_CACHE .* or run `w2s prefetch SWEEP`"):
            fetch(toy.model_copy(update={"package": "other==1.0"}))


MAKER = """\
import os, sys, time
from pathlib import Path
from w2s.sources.cache import once
made = Path(sys.argv[1])
def make():
    with (made.parent / "makers").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    made.write_text("whole")
    return made
print(once("thing", lambda: made if made.exists() else None, make).read_text())
"""


def test_of_many_processes_one_makes_what_all_want(toy, tmp_path):
    command = [sys.executable, "-c", MAKER, str(tmp_path / "made")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in running] == ["whole\n"] * 4
    assert len((tmp_path / "makers").read_text().splitlines()) == 1
    assert list((cache_dir() / "locks").iterdir()) == []


def test_what_a_killed_process_holds_is_taken_over(toy, tmp_path):
    holder = (
        "import os, signal, sys; from pathlib import Path; from w2s.claim import Claim\n"
        "path = Path(sys.argv[1]); path.parent.mkdir(parents=True)\n"
        "assert Claim(path).take(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    place = cache_dir() / "locks" / "thing.json"
    subprocess.run([sys.executable, "-c", holder, str(place)], check=False)
    assert place.exists()
    assert once("thing", lambda: None, lambda: "made", wait_for_nobody) == "made"
    assert not place.exists()


def test_a_maker_that_fails_holds_nothing(toy):
    def fails() -> NoReturn:
        raise MachineError("no")

    with pytest.raises(MachineError, match="no"):
        once("thing", lambda: None, fails)
    assert list((cache_dir() / "locks").iterdir()) == []


HASHER = """\
import sys
from w2s.sources.cache import content_sha256
from pathlib import Path
print(content_sha256(Path(sys.argv[1])))
"""


def test_processes_that_hash_one_file_at_once_leave_one_whole_note(toy, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"x" * 3_000_000)
    os.utime(file, (1_000_000_000, 1_000_000_000))
    command = [sys.executable, "-c", HASHER, str(file)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {process.communicate()[0].strip() for process in running} == {hashlib.sha256(b"x" * 3_000_000).hexdigest()}
    (note,) = (cache_dir() / "hashes").iterdir()
    assert json.loads(note.read_text())["path"] == str(file)
    # From then on nobody writes: with the note there, the same question changes nothing.
    before = contents(cache_dir())
    subprocess.run(command, check=True, capture_output=True)
    assert contents(cache_dir()) == before
