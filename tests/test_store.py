from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import fake_nfs  # type: ignore[import-not-found]
import pyarrow
import pyarrow.parquet
import pytest

from w2s.disk import disk_errors, file_sha256, write_json
from w2s.errors import MachineError, SpecError, StepError
from w2s.store import Staged, Store

A = "a" * 64
B = "a" * 8 + "b" * 56


@pytest.fixture(params=["store", "a'; echo b\n ü"])
def store(request, tmp_path):
    return Store(tmp_path / request.param)


def put(
    store: Store, digest: str = A, text: str = "content", kind: str = "train", replace: bool = False, **manifest
) -> Path:
    with store.staging(kind, digest) as staged:
        (staged.folder / "predictions").mkdir()
        (staged.folder / "predictions" / "test.txt").write_text(text)
        return staged.commit({"spec": {}, **manifest}, replace=replace)


def everything(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


# Commit


def test_an_artifact_is_there_when_it_is_committed_and_not_before(store):
    with store.staging("train", A) as staged:
        (staged.folder / "x.txt").write_text("x")
        assert not store.has("train", A)
        assert list(store.artifacts()) == []
        staged.commit({"wall_s": 1.5})
    assert store.manifest("train", A) == {
        "kind": "train",
        "digest": A,
        "wall_s": 1.5,
        "files": {"x.txt": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
    }
    assert everything(store) == {f"train/aa/{A}/x.txt", f"train/aa/{A}/manifest.json"}
    assert list(store.artifacts()) == [("train", A)]


def test_what_is_not_committed_is_gone_however_the_block_ends(store):
    with store.staging("train", A) as staged:
        (staged.folder / "x.txt").write_text("x")
    with contextlib.suppress(ValueError), store.staging("train", A) as staged:
        (staged.folder / "x.txt").write_text("x")
        raise ValueError
    assert everything(store) == set()
    assert list((store.root / "train" / "aa").iterdir()) == []


def test_the_first_finished_writer_wins_and_replace_puts_the_second_in_its_place(store):
    put(store, text="first")
    put(store, text="second")
    file = store.path("train", A) / "predictions" / "test.txt"
    assert file.read_text() == "first"
    put(store, text="third", replace=True)
    assert file.read_text() == "third"
    assert store.damage("train", A) == []
    assert [path.name for path in store.path("train", A).parent.iterdir()] == [A]


def test_a_damaged_artifact_is_replaced(store):
    put(store, text="first")
    (store.path("train", A) / "manifest.json").write_text('{"half": ')
    assert not store.has("train", A)
    put(store, text="second")
    assert store.has("train", A)
    assert (store.path("train", A) / "predictions" / "test.txt").read_text() == "second"
    assert [path.name for path in store.path("train", A).parent.iterdir()] == [A]


class Killed(BaseException):
    """Ends a writer where it stands, like SIGKILL: see `killed_at`."""


def killed_at(store: Store, monkeypatch: pytest.MonkeyPatch, renames: int, removes_one: bool = False) -> None:
    """A writer that replaces an artifact is killed after so many renames of artifacts, with nothing tidied up."""
    rename, rmtree, left = Path.rename, shutil.rmtree, [renames]

    def counted(path: Path, to: Path) -> Path:
        if A not in Path(to).name:  # a JSON file
            return rename(path, to)
        if not left[0]:
            raise Killed
        left[0] -= 1
        return rename(path, to)

    def dies(path: Path, **_: object) -> None:
        if removes_one and "-old-" in Path(path).name:
            next(p for p in Path(path).rglob("*") if p.is_file() and p.name != "manifest.json").unlink()
        raise Killed

    staged = Staged(store, "train", A, store.path("train", A).parent / f".{A}-{'0' * 32}")
    (staged.folder / "predictions").mkdir(parents=True)
    (staged.folder / "predictions" / "test.txt").write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted)
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(Killed):
            staged.commit({"spec": {}}, replace=True)
    assert shutil.rmtree is rmtree


@pytest.mark.parametrize(("renames", "kept"), [(0, "old"), (1, "old"), (2, "new")])
@pytest.mark.parametrize("by", ["claim", "clear_work"])
def test_a_writer_that_is_killed_while_it_replaces_leaves_the_old_artifact_or_the_new(
    renames, kept, by, store, monkeypatch
):
    place = put(store, text="old")
    killed_at(store, monkeypatch, renames)
    assert store.has("train", A) is (renames != 1)
    if by == "claim":
        claim = store.claim(A)
        assert claim is not None
        assert store.has("train", A)  # before the step decides what is to be done
        claim.release()
    store.clear_work("train", A)
    assert store.damage("train", A) == []
    assert (place / "predictions" / "test.txt").read_text() == kept
    assert [path.name for path in place.parent.iterdir()] == [A]
    put(store, text="newest", replace=True)
    assert (place / "predictions" / "test.txt").read_text() == "newest"


def test_what_was_being_removed_is_not_put_back(store, monkeypatch):
    place = put(store, text="old")
    killed_at(store, monkeypatch, renames=2, removes_one=True)
    shutil.rmtree(place)  # by a user, say
    assert store.claim(A) is not None
    assert not store.has("train", A)
    put(store, text="again")
    store.clear_work("train", A)
    assert [path.name for path in place.parent.iterdir()] == [A]


def test_a_rename_that_fails_puts_the_old_artifact_back_at_once(store, monkeypatch):
    place, rename = put(store, text="old"), Path.rename
    failed: list[Path] = []

    def fails(path: Path, to: Path) -> Path:
        if to == place and not failed:
            failed.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(MachineError, match="the disk is full"):
        put(store, text="new", replace=True)
    assert failed
    assert (place / "predictions" / "test.txt").read_text() == "old"
    assert [path.name for path in place.parent.iterdir()] == [A]


def test_what_another_writer_put_aside_meanwhile_need_not_be_put_aside(store, monkeypatch):
    place, rename = put(store, text="old"), Path.rename

    def late(path: Path, to: Path) -> Path:
        if path == place:
            shutil.rmtree(place)
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", late)
    put(store, text="new", replace=True)
    assert (place / "predictions" / "test.txt").read_text() == "new"
    assert [path.name for path in place.parent.iterdir()] == [A]


def test_many_writers_at_once_leave_one_whole_artifact(store):
    barrier = threading.Barrier(6)
    raised = []

    def write(text: str) -> None:
        try:
            barrier.wait()
            put(store, text=text)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=write, args=(str(n),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    assert store.damage("train", A) == []
    assert [path.name for path in store.path("train", A).parent.iterdir()] == [A]


def test_the_manifest_is_written_after_every_file_was_synced(store, monkeypatch):
    order: list[str] = []
    sync, rename = os.fsync, Path.rename

    def noted_sync(handle: int) -> None:
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def noted_rename(path: Path, to: Path) -> Path:
        order.append(f"rename to {to.name}")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    put(store)
    manifest = order.index("rename to manifest.json")
    assert {"test.txt", "predictions"} <= set(order[:manifest])
    assert order.index(f"rename to {A}") > manifest
    assert order[-1] == "aa"


def test_a_second_run_with_another_commit_of_its_source_is_put_on_record(store):
    put(store, fetched=[{"source": "s", "commit": "1"}])
    put(store, fetched=[{"source": "s", "commit": "1"}])
    assert store.conflicts() == []
    put(store, fetched=[{"source": "s", "commit": "2"}])
    [conflict] = store.conflicts()
    assert (conflict["digest"], conflict["kept"][0]["commit"], conflict["second"][0]["commit"]) == (A, "1", "2")
    assert list(store.artifacts()) == [("train", A)]  # the records are no artifacts


# Verify and read


def test_a_local_source_that_was_moved_is_no_conflict(store):
    put(store, fetched=[{"source": {"file": "/here", "sha256": "1"}, "commit": None}])
    put(store, fetched=[{"source": {"file": "/there", "sha256": "1"}, "commit": None}])
    assert store.conflicts() == []


def test_every_kind_of_damage_is_told(store):
    place = put(store, text="good")
    assert store.damage("train", A) == []
    (place / "predictions" / "test.txt").write_text("evil")
    assert store.damage("train", A) == [f"{place}/predictions/test.txt: content differs from the manifest"]
    (place / "predictions" / "test.txt").unlink()
    (place / "extra.txt").write_text("?")
    assert store.damage("train", A) == [
        f"{place}/predictions/test.txt: missing",
        f"{place}/extra.txt: not in the manifest",
    ]
    moved = store.path("train", B)
    shutil.copytree(place, moved)
    assert f"{moved}/manifest.json: belongs to train {A}" in store.damage("train", B)
    for broken in ("", "[]", "{}", '{"files": 3}', "\x00"):
        (place / "manifest.json").write_text(broken)
        assert store.damage("train", A) == [f"{place}: no readable manifest.json"]
        assert store.manifest("train", A) is None


def test_a_table_is_read_by_columns_and_a_damaged_one_says_what_to_do(store):
    with store.staging("train", A) as staged:
        pyarrow.parquet.write_table(pyarrow.table({"a": [1], "b": ["x"]}), staged.folder / "t.parquet")
        staged.commit({})
    assert store.read_table("train", A, "t.parquet", ["b"]).to_pydict() == {"b": ["x"]}
    (store.path("train", A) / "t.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(StepError, match="; remove the folder"):
        store.read_table("train", A, "t.parquet")
    with pytest.raises(StepError, match="damaged"):
        store.read_table("train", A, "absent.parquet")
    with pytest.raises(StepError, match=f"train {B[:12]} is not finished"):
        store.read_table("train", B, "t.parquet")


def test_a_step_is_found_by_the_start_of_its_digest(store):
    put(store, A)
    put(store, B, kind="materialize")
    store.fail(A, "an older try of it")
    store.fail("c" * 64, "unfinished")
    assert store.find("aaaaaaaaa") == ("train", A)
    assert store.find("aaaaaaaab") == ("materialize", B)
    assert store.find("cccc") == ("work", "c" * 64)
    with pytest.raises(SpecError, match="fits 2 steps"):
        store.find("aaaaaaaa")
    with pytest.raises(SpecError, match="starts with 'dddd'; `w2s plan YAML` lists the steps of a sweep"):
        store.find("dddd")
    for wrong in ("aaa", "", "*aaa", "../x", "AAAA"):
        with pytest.raises(SpecError, match="at least 4 hexadecimal digits"):
            store.find(wrong)


def test_a_store_that_is_not_there_is_empty(tmp_path):
    store = Store(tmp_path / "none")
    assert not store.has("train", A)
    assert store.failure(A) is None
    assert not store.is_claimed(A)
    assert list(store.artifacts()) == []
    assert store.conflicts() == []
    assert not store.root.exists()  # asking writes nothing


def test_what_lies_about_in_a_store_is_no_artifact(store):
    put(store)
    for stray in ("notes.txt", "train/notes.txt", f"train/aa/.{B}-dead", "work/notes.txt"):
        (store.root / stray).parent.mkdir(parents=True, exist_ok=True)
        (store.root / stray).write_text("")
    assert list(store.artifacts()) == [("train", A)]
    assert store.overview().finished == {A}
    assert store.overview().begun == set()


def test_no_folder_has_an_entry_for_every_step(store):
    """16 million steps of a kind would be 65,536 in each of the 256 folders; here each of 256 steps has its own."""
    digests = [f"{number:02x}" + "0" * 62 for number in range(256)]
    for digest in digests:
        store.path("train", digest).mkdir(parents=True)
        store.fail(digest, "reason")
    overview = store.overview()
    assert overview.finished == overview.begun == set(digests)
    for folder in ("train", "work"):
        assert len(list((store.root / folder).iterdir())) == 256
        assert {len(list(shard.iterdir())) for shard in (store.root / folder).iterdir()} == {1}


# Overview


def test_an_overview_of_nothing_is_empty(tmp_path):
    overview = Store(tmp_path / "none").overview()
    assert overview.finished == overview.begun == set()
    assert not overview.is_claimed(A)
    assert overview.failure(A) is None
    assert not (tmp_path / "none").exists()  # asking writes nothing


def test_an_overview_tells_what_the_store_tells(store):
    put(store, A)
    claim = store.claim(B)
    store.fail("c" * 64, "reason")
    overview = store.overview()
    assert overview.finished == {A}
    assert overview.begun == {B, "c" * 64}
    for digest in (A, B, "c" * 64, "d" * 64):
        assert overview.is_claimed(digest) == store.is_claimed(digest) == (digest == B)
        assert overview.failure(digest) == store.failure(digest)
    claim.release()


def test_an_overview_opens_no_manifest_and_a_damaged_artifact_is_for_others_to_find(store):
    (put(store, A) / "manifest.json").write_text("{")
    assert store.overview().finished == {A}
    assert not store.has("train", A)
    assert store.damage("train", A) != []


def test_an_artifact_that_this_host_believes_absent_is_seen_after_a_refresh(store, monkeypatch):
    fake_nfs.mount(monkeypatch)
    assert not store.has("train", A)
    put(store, A)
    assert not store.has("train", A), "what the refresh is for"
    store.refresh("train", B)  # of the same folder
    assert store.has("train", A)
    assert [path.name for path in store.path("train", A).parent.iterdir()] == [A]


def test_a_refresh_finds_nothing_where_nothing_is_and_refuses_nothing(store, tmp_path):
    store.refresh("train", A)
    assert list(store.artifacts()) == []
    (tmp_path / "file").write_text("no folder")
    Store(tmp_path / "file").refresh("train", A)


def test_many_claims_of_other_hosts_cost_one_look_at_the_clock_of_the_disk(store, monkeypatch):
    """Nor is anything written beside the claims; asked one by one, each claim has a look of its own."""
    digests = [f"{number:064x}" for number in range(20)]
    for digest in digests:
        store.work(digest).mkdir(parents=True)
        (store.work(digest) / "claim.json").write_text('{"host": "another-machine"}')
    os.utime(store.work(digests[0]) / "claim.json", (0, 0))
    probes: list[Path] = []
    touch = Path.touch
    monkeypatch.setattr(Path, "touch", lambda path, *rest: (probes.append(path), touch(path, *rest)))
    overview = store.overview()
    assert [overview.is_claimed(digest) for digest in digests] == [False] + [True] * 19
    assert [path.parent for path in probes] == [store.root / "work"]
    assert [store.is_claimed(digest) for digest in digests] == [False] + [True] * 19
    assert len(probes) == 1 + 20


# Work


def test_a_claim_keeps_others_away_until_it_is_released(store):
    claim = store.claim(A)
    assert claim is not None
    assert store.is_claimed(A)
    assert store.claim(A) is None
    assert not store.is_claimed(B)
    claim.release()
    assert not store.is_claimed(A)
    again = store.claim(A)
    assert again is not None
    again.release()


def test_a_failure_is_kept_with_its_log_until_the_step_succeeds(store):
    store.fail(A, "loss is not finite", "detail")
    store.log_path(A).write_text("log")
    with store.staging("train", A) as left:  # as of a writer that was killed
        shutil.copytree(left.folder, left.folder.with_name(f".{A}-dead"))
    failure = store.failure(A)
    assert failure is not None
    assert (failure["reason"], failure["detail"]) == ("loss is not finite", "detail")
    store.fail(A, "second")
    assert (store.failure(A) or {})["reason"] == "second"
    put(store, A)
    put(store, B)
    store.clear_work("train", A)
    assert store.failure(A) is None
    assert not store.work(A).exists()
    assert {p.name for p in store.path("train", A).parent.iterdir()} == {A, B}


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"ü": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_file_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Bad disks


@contextlib.contextmanager
def as_nobody():
    """Permissions count: root, to whom they do not, becomes nobody meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_without_permission_is_refused_in_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    store = Store(tmp_path / "store")
    try:
        for act in (store.require_writable, lambda: put(store), lambda: store.claim(A), lambda: store.fail(A, "x")):
            with as_nobody(), pytest.raises(MachineError, match="no permission to write: choose another folder"):
                act()
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for store in (Store(tmp_path / "file"), Store(tmp_path / "file" / "below")):
        for act in (store.require_writable, lambda s=store: put(s), lambda s=store: s.claim(A)):
            with pytest.raises(MachineError, match="a file stands where a folder is needed"):
                act()
        assert not store.has("train", A)
        assert not store.is_claimed(A)


def test_a_writable_folder_is_made_and_left_clean(store):
    store.require_writable()
    assert list(store.root.iterdir()) == []


def test_a_disk_that_is_full_for_a_file_of_the_step(store):
    def write() -> None:
        with store.staging("train", A) as staged:
            (staged.folder / "x").symlink_to("/dev/full")
            (staged.folder / "x").write_text("x")

    with pytest.raises(MachineError, match="the disk is full: free some space"):
        write()
    assert everything(store) == set()


def test_a_step_that_may_not_read_a_users_file_does_not_blame_the_store(store, tmp_path):
    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with pytest.raises(PermissionError), store.staging("train", A):
        refused(tmp_path / "model.safetensors")
    # Control: in the store it is the store's error.
    with pytest.raises(MachineError, match="no permission to write"), store.staging("train", A) as staged:
        refused(staged.folder / "x")
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "no such file", "model")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB of its own, and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    options = ["-t", "tmpfs", "-o", "size=256k,nr_inodes=200", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount a small disk")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


def test_a_disk_that_fills_up_while_committing_leaves_a_clean_store(small_disk):
    folder, _ = small_disk
    store = Store(folder / "store")
    put(store, A)
    before = everything(store)

    def write() -> None:
        with store.staging("train", B) as staged:
            (staged.folder / "x").write_text("x")
            fill(folder)
            staged.commit({})

    with pytest.raises(MachineError, match="the disk is full"):
        write()
    (folder / "filler").unlink()
    assert everything(store) == before
    assert store.damage("train", A) == []
    put(store, B)  # and with space it goes on
    assert store.has("train", B)


def test_safetensors_on_a_full_disk(small_disk):
    """The library's own error, which is no OSError."""
    numpy = pytest.importorskip("numpy")
    safetensors = pytest.importorskip("safetensors.numpy")
    folder, _ = small_disk
    with pytest.raises(MachineError, match=f"{folder}: the disk is full: free some space"), disk_errors(folder):
        safetensors.save_file({"a": numpy.zeros(1 << 17)}, folder / "a.safetensors")
    with pytest.raises(Exception, match="os error 2") as other, disk_errors(folder):
        safetensors.save_file({"a": numpy.zeros(1)}, folder / "none" / "a.safetensors")
    assert type(other.value).__name__ == "SafetensorError"


def test_a_claim_on_a_full_disk_leaves_nothing_that_blocks_the_next(small_disk):
    folder, _ = small_disk
    store = Store(folder / "store")
    store.work(A).mkdir(parents=True)
    fill(folder)
    with pytest.raises(MachineError, match="the disk is full"):
        store.claim(A)
    with pytest.raises(MachineError, match="the disk is full"):
        store.fail(A, "reason")
    (folder / "filler").unlink()
    assert everything(store) == set()
    claim = store.claim(A)
    assert claim is not None
    claim.release()


def test_a_read_only_disk_can_be_read_and_says_that_it_cannot_be_written(small_disk):
    folder, make_read_only = small_disk
    store = Store(folder / "store")
    put(store, A)
    claim = store.claim(B)
    assert claim is not None
    make_read_only()
    for act in (
        store.require_writable,
        lambda: put(store, B),
        lambda: store.claim("c" * 64),
        lambda: store.fail(A, "x"),
    ):
        with pytest.raises(MachineError, match="the disk is read-only: choose another folder"):
            act()
    assert store.has("train", A)
    assert store.damage("train", A) == []
    assert store.find("aaaaaaaaa") == ("train", A)
    assert store.is_claimed(B)


def test_what_a_worker_left_that_was_killed_after_its_commit_is_tidied_up(store):
    """But not under the hands of one that lives."""
    place = put(store)
    claim = store.claim(A)
    store.log_path(A).write_text("log")
    (place.parent / f".{A}-dead").mkdir()
    store.tidy("train", A)
    assert store.log_path(A).exists()
    claim.release()
    store.tidy("train", A)
    assert everything(store) == {f"train/aa/{A}/predictions/test.txt", f"train/aa/{A}/manifest.json"}
    assert not (place.parent / f".{A}-dead").exists()
    assert not store.work(A).exists()
    store.tidy("train", A)  # nothing there, nothing done
