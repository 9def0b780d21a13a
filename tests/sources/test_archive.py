"""Archives of a package index: found, checked, unpacked inside their folder, never twice at once."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest

from w2s.claim import Claim
from w2s.errors import MachineError, SpecError
from w2s.sources import ArchiveSource, cache_dir, fetch, is_fetched
from w2s.sources.archive import extract

FILES = {"toy-1.0/README.txt": b"read me", "toy-1.0/data/a.txt": b"alpha", "toy-1.0/data/deep/b.txt": b"beta"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index that is a folder: index/<package>/<archive>. Nothing of this machine's pip settings is left."""
    for key in [k for k in os.environ if k.startswith("PIP_")]:
        monkeypatch.delenv(key)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    return folder


def publish(index: Path, data: bytes, name: str = "toy-1.0.zip") -> ArchiveSource:
    (index / "toy").mkdir(exist_ok=True)
    (index / "toy" / name).write_bytes(data)
    return ArchiveSource(package="toy==1.0", sha256=sha256(data), file="toy-1.0/data/a.txt")


def cached_archive(cache: Path) -> Path:
    return next(cache.glob("packages/*/archive/*"))


def test_a_file_and_a_folder_of_a_zip(index):
    source = publish(index, zipped(FILES))
    assert not is_fetched(source)
    assert fetch(source).path.read_bytes() == b"alpha"
    assert is_fetched(source)
    folder = fetch(source.model_copy(update={"file": "toy-1.0/data"})).path
    assert folder.name == "data"
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {"a.txt", "deep/b.txt"}


def test_a_member_of_an_archive_inside_the_archive(index):
    inner = tarred({"set/train.tsv": b"1\t2\n", "set/test.tsv": b"3\t4\n"})
    source = publish(index, tarred({"toy-1.0/set.tar.gz": inner}), "toy-1.0.tar.gz")
    source = source.model_copy(update={"file": "toy-1.0/set.tar.gz", "member": "set/test.tsv"})
    assert fetch(source).path.read_bytes() == b"3\t4\n"


def test_the_second_fetch_needs_no_index(index, monkeypatch):
    source = publish(index, zipped(FILES))
    first = fetch(source).path
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    assert fetch(source, offline=True).path == first
    # Another file of the same archive comes from the cached archive.
    assert fetch(source.model_copy(update={"file": "toy-1.0/README.txt"}), offline=True).path.read_bytes() == b"read me"


def test_a_wrong_hash_is_refused_and_removed(index, tmp_path):
    source = publish(index, zipped(FILES))
    (index / "toy" / "toy-1.0.zip").write_bytes(zipped({**FILES, "toy-1.0/data/a.txt": b"evil!"}))
    with pytest.raises(MachineError, match=r"toy==1.0.*SHA-256 [0-9a-f]{64}, expected " + source.sha256) as caught:
        fetch(source)
    assert "try again" in str(caught.value).lower()
    assert list((tmp_path / "cache").glob("packages/*/archive/*")) == []
    assert not is_fetched(source)


def test_a_changed_unpacked_file_is_unpacked_again(index):
    source = publish(index, zipped(FILES))
    path = fetch(source).path
    path.write_bytes(b"ALPHA")  # same size, other time and content
    assert fetch(source, offline=True).path.read_bytes() == b"alpha"
    path.unlink()
    assert fetch(source, offline=True).path.read_bytes() == b"alpha"


def test_a_touched_but_equal_file_is_kept(index):
    source = publish(index, zipped(FILES))
    path = fetch(source).path
    os.utime(path, (1, 1))
    before = path.stat().st_ino
    assert fetch(source, offline=True).path.stat().st_ino == before


def test_a_stranger_in_an_unpacked_folder_is_noticed(index):
    source = publish(index, zipped(FILES)).model_copy(update={"file": "toy-1.0/data"})
    folder = fetch(source).path
    (folder / "modeling.py").write_text("import os")
    assert not (fetch(source, offline=True).path / "modeling.py").exists()


def test_a_damaged_cached_archive_is_fetched_anew(index, tmp_path):
    source = publish(index, zipped(FILES))
    path = fetch(source).path
    cached_archive(tmp_path / "cache").write_bytes(b"rubbish")
    path.unlink()
    assert fetch(source).path.read_bytes() == b"alpha"
    cached_archive(tmp_path / "cache").write_bytes(b"rubbish")
    path.unlink()
    with pytest.raises(MachineError, match=r"damaged in the cache and has been removed.*w2s prefetch"):
        fetch(source, offline=True)


def test_offline_and_nothing_cached(index):
    with pytest.raises(MachineError, match=r"toy==1.0 is not in the cache .* `w2s prefetch SWEEP`"):
        fetch(publish(index, zipped(FILES)), offline=True)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"file": "toy-1.0/data/c.txt"},
            r"no 'toy-1.0/data/c.txt' in the archive \(did you mean toy-1.0/data/a.txt\?\)",
        ),
        ({"file": "../toy-1.0/data/a.txt"}, "is not a path inside the archive"),
        ({"file": "/etc/passwd"}, "is not a path inside the archive"),
    ],
)
def test_what_is_not_in_the_archive(index, change, problem):
    source = publish(index, zipped(FILES)).model_copy(update=change)
    with pytest.raises(SpecError, match=problem):
        fetch(source)


@pytest.mark.parametrize(
    "name", ["data/../../evil.txt", "data//abs/../../../evil.txt", "data/..\\..\\evil.txt", "data/c:evil"]
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_may_not_leave_their_folder(tmp_path, name, pack):
    archive = tmp_path / "bad"
    archive.write_bytes(pack({"data/good.txt": b"good", name: b"evil"}))
    with pytest.raises(MachineError, match="is a link or leaves its folder"):
        extract(archive, "data", tmp_path / "out" / "in", "bad")
    assert not list(tmp_path.rglob("*evil*"))
    # Not the folder, but the good file alone, can be had: what is not asked for is not written.
    extract(archive, "data/good.txt", tmp_path / "out" / "in2", "bad")
    assert (tmp_path / "out" / "in2" / "good.txt").read_bytes() == b"good"


def test_links_are_refused(tmp_path):
    archive = tmp_path / "links.tar.gz"
    archive.write_bytes(tarred({"data/a.txt": b"a"}, links={"data/passwd": "/etc/passwd"}))
    with pytest.raises(MachineError, match="is a link"):
        extract(archive, "data", tmp_path / "out", "links")
    info = zipfile.ZipInfo("data/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as zipper:
        zipper.writestr(info, "/etc/passwd")
    with pytest.raises(MachineError, match="is a link"):
        extract(tmp_path / "links.zip", "data", tmp_path / "out", "links")


def test_not_an_archive(index):
    with pytest.raises(MachineError, match="neither a zip nor a tar archive"):
        fetch(publish(index, b"<html>404</html>"))


def test_no_such_version_says_where_it_looked(index):
    source = publish(index, zipped(FILES)).model_copy(update={"package": "toy==2.0"})
    with pytest.raises(MachineError, match=r"toy==2.0: no package index gave(.|\n)*of version 2.0 it has no file"):
        fetch(source)
    with pytest.raises(MachineError, match="no such folder"):
        fetch(source.model_copy(update={"package": "other==2.0"}))


def test_a_cache_that_cannot_be_written(index, tmp_path, monkeypatch):
    source = publish(index, zipped(FILES))
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="set W2S_CACHE"):
        fetch(source)


class _Index(http.server.BaseHTTPRequestHandler):
    """A package index over HTTP: two files of one version, told apart by hash only."""

    pages: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        data = self.pages.get(self.path)
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_):
        pass


def test_an_index_over_http(index, monkeypatch):
    wanted, other = zipped(FILES), zipped({"toy-1.0/x": b"x"})
    page = (
        f'<a href="/files/toy-1.0-py2-none-any.whl#sha256={sha256(other)}">toy-1.0-py2-none-any.whl</a>'
        f'<a href="/files/toy-1.0-py3-none-any.whl#sha256={sha256(wanted)}">toy-1.0-py3-none-any.whl</a>'
    )
    _Index.pages = {
        "/simple/toy/": page.encode(),
        "/files/toy-1.0-py2-none-any.whl": other,
        "/files/toy-1.0-py3-none-any.whl": wanted,
    }
    _Index.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.as_uri())
    seen: list[tuple[str, int, int]] = []
    try:
        source = ArchiveSource(package="toy==1.0", sha256=sha256(wanted), file="toy-1.0/README.txt")
        assert fetch(source, report=lambda *step: seen.append(step)).path.read_bytes() == b"read me"
        with pytest.raises(MachineError) as caught:
            fetch(source.model_copy(update={"package": "toi==1.0"}))
    finally:
        server.shutdown()
        server.server_close()
    assert _Index.asked == ["/simple/toy/", "/files/toy-1.0-py3-none-any.whl", "/simple/toi/"]
    assert ("download toy-1.0-py3-none-any.whl", len(wanted), len(wanted)) in seen
    assert "no package toi" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_processes_at_once(index, tmp_path):
    """Both get the file, the archive is stored once, nothing half-written stays."""
    source = publish(index, zipped({**FILES, "toy-1.0/data/big.bin": b"0" * 3_000_000}))
    program = (
        "import sys; from w2s.sources import ArchiveSource, fetch;"
        "print(fetch(ArchiveSource.model_validate_json(sys.argv[1])).path.read_text())"
    )
    source = source.model_copy(update={"file": "toy-1.0/data/a.txt"})
    command = [sys.executable, "-c", program, source.model_dump_json()]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["alpha"] * 3
    home = next((tmp_path / "cache" / "packages").iterdir())
    assert sorted(len(p.name) for p in home.iterdir()) == [7, 16]  # archive, and one unpacked part
    assert [p.name for p in (home / "archive").iterdir()] == ["toy-1.0.zip"]


def test_a_waiting_process_says_so(index):
    source = publish(index, zipped(FILES))
    seen: list[str] = []

    def report(what: str, done: int, total: int) -> None:
        seen.append(what)
        held.release()  # what the other process does when it is done

    name = f"package-toy==1.0-{source.sha256[:16]}"
    (cache_dir() / "locks").mkdir(parents=True)
    held = Claim(cache_dir() / "locks" / f"{name}.json")
    assert held.take()
    assert fetch(source, report=report).path.read_bytes() == b"alpha"
    assert seen[0] == "wait for another process that fetches toy==1.0"
