import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler import storage
from crawler import sync as syncing
from crawler.entries import NoFile
from crawler.errors import ConfigError, DiskError
from crawler.storage import Durability, LocalStore, write_file

KEY = "images/ab/abcd.jpg"
DURABILITIES: list[Durability] = ["none", "batch", "file", "strict"]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


def files_in(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_blob_is_kept_once_and_read_back(tmp_path: Path, durability: Durability) -> None:
    store = LocalStore(tmp_path, durability)
    assert store.put(KEY, b"bytes")
    assert not store.put(KEY, b"bytes")
    store.flush()
    with store.open(KEY) as file:
        assert file.read() == b"bytes"
    assert files_in(tmp_path) == [KEY]


def test_absent_blobs_are_said_to_be_absent(store: LocalStore) -> None:
    assert not store.exists(KEY)
    with pytest.raises(FileNotFoundError):
        store.open(KEY)


def test_looking_makes_no_directory(store: LocalStore) -> None:
    assert (store.exists(KEY), store.clear_parts()) == (False, 0)
    assert not store.root.exists()


@pytest.mark.parametrize("damaged", [b"", b"bytez", b"bytes and more"])
def test_a_damaged_file_is_replaced(store: LocalStore, damaged: bytes) -> None:
    store.put(KEY, damaged)
    assert store.put(KEY, b"bytes")
    assert (store.root / KEY).read_bytes() == b"bytes"


def _add_directory(place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("mine")


def _add_link(place: Path) -> None:
    target = place.parents[3] / "elsewhere"  # the very same bytes, but somebody else's
    if not target.exists():
        target.write_bytes(b"bytes")
    place.symlink_to(target)


#: What may be in a file's place, and is none.
ODD_THINGS: dict[str, Callable[[Path], None]] = {"directory": _add_directory}
if os.name != "nt":  # there, links need a privilege
    ODD_THINGS |= {"link": _add_link, "pipe": os.mkfifo}


@pytest.mark.parametrize("add", ODD_THINGS.values(), ids=list(ODD_THINGS))
def test_what_is_no_file_is_not_opened_and_makes_room(store: LocalStore, add: Callable[[Path], None]) -> None:
    path = store.root / KEY
    path.parent.mkdir(parents=True)
    add(path)
    odd = path.lstat()
    store.remove(KEY)
    with pytest.raises(NoFile):
        store.open(KEY)
    assert not store.exists(KEY)
    assert store.put(KEY, b"bytes") and not store.put(KEY, b"bytes") and store.exists(KEY)
    (aside,) = (store.root / "damaged").iterdir()
    assert aside.lstat().st_ino == odd.st_ino and aside.name.startswith(path.name)


def test_below_a_file_there_is_nothing(store: LocalStore) -> None:
    write_file(store.root / "images/ab", [b"no folder"], sync=False)
    assert not store.exists(KEY)
    with pytest.raises(FileNotFoundError):
        store.open(KEY)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such modes")
def test_files_can_be_read_by_others_once_they_are_whole(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(os, "fsync", lambda number: modes.append(os.fstat(number).st_mode & 0o777))
    LocalStore(store.root, "file").put(KEY, b"bytes")
    assert modes == [0o600]
    assert (store.root / KEY).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/etc/passwd", "..", "../x", "images/../../x", "images//x", "images/", "./x", "."),
        *("C:/x", "c:x", "images\\x", "\\\\server\\x", "x\0", "x\n", "x\x7f", "x ", " x", "x.", "-/.hidden"),
        *("CON", "con.jpg", "images/NUL.png", "aux", "COM1", "lpt9.x", "nul .x", "x" * 201, "a/~", "a/*", "a/\u202e"),
    ],
)
def test_unsafe_keys_are_refused(store: LocalStore, key: str) -> None:
    for door in (store.exists, store.open, lambda key: store.put(key, b"")):
        with pytest.raises(ValueError, match="no safe key"):
            door(key)


@given(st.text())
def test_any_key_stays_inside_or_is_refused(key: str) -> None:
    root = Path("/srv/store")
    try:
        path = LocalStore(root)._path(key)
    except ValueError:
        return
    assert path.is_relative_to(root)
    assert path.relative_to(root).as_posix() == key
    assert ".." not in path.parts


@given(st.from_regex(r"[a-z]{1,9}/[0-9a-f]{2}/[0-9a-f]{64}\.[a-z0-9]{1,5}", fullmatch=True))
def test_content_names_are_keys(key: str) -> None:
    assert LocalStore(Path("out"))._path(key) == Path("out", key)


def test_one_file_under_two_keys_is_no_two_files(store: LocalStore) -> None:
    store.put(KEY, b"bytes")
    other = "images/Boats/été.jpg"
    assert not store.are_two(KEY, other) and not store.are_two(KEY, KEY)
    (store.root / other).parent.mkdir()
    (store.root / other).hardlink_to(store.root / KEY)  # as a file system that folds case has it
    assert not store.are_two(KEY, other)
    store.remove(other)
    store.put(other, b"bytes")
    assert store.are_two(KEY, other)


def test_id_is_made_once_and_kept(store: LocalStore) -> None:
    assert len(bytes.fromhex(store.id)) == 8
    assert LocalStore(store.root).id == store.id
    assert files_in(store.root) == ["store.json"]


def test_siblings_that_start_together_agree_on_the_id(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert LocalStore(store.root).id == store.id == LocalStore(store.root).id


def test_id_is_made_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    assert store.id
    assert files_in(store.root) == ["store.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"v": 2, "id": "0123456789abcdef"}', '{"v": 1, "id": 5}', "\xff"])
def test_a_damaged_id_is_the_users_business(store: LocalStore, content: str) -> None:
    write_file(store.root / "store.json", [content.encode("latin-1")], sync=False)
    with pytest.raises(ConfigError, match=r"store\.json is damaged"):
        _ = store.id


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        *((errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission"), (errno.EIO, "errors")),
        *((errno.EMFILE, "ulimit"), (errno.EDQUOT, "quota"), (errno.EFBIG, "large")),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_disk_that_refuses_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, advice: str
) -> None:
    store = LocalStore(tmp_path, "file")
    with monkeypatch.context() as broken, pytest.raises(DiskError, match=advice) as caught:
        broken.setattr(os, call, failing(code))
        store.put(KEY, b"bytes")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []
    assert store.put(KEY, b"bytes")


def test_a_refused_replacement_leaves_the_old_file(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, b"old")
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    with pytest.raises(DiskError):
        store.put(KEY, b"new")
    assert (store.root / KEY).read_bytes() == b"old"
    assert files_in(store.root) == [KEY]


def test_a_file_that_somebody_has_open_is_replaced_later(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, refusals = os.replace, [PermissionError(), PermissionError()]

    def busy(*names: Any) -> None:
        if refusals:
            raise refusals.pop()
        replace(*names)

    monkeypatch.setattr(storage, "_REPLACE_ATTEMPTS", 3)
    monkeypatch.setattr(os, "replace", busy)
    assert store.put(KEY, b"bytes")


def _die_before_replace(root: str) -> None:
    def die(*_: Any) -> NoReturn:
        os._exit(9)

    os.replace = die  # type: ignore[assignment]
    LocalStore(Path(root), "file").put(KEY, b"bytes")


def test_a_process_killed_before_the_rename_leaves_no_file_under_the_name(store: LocalStore) -> None:
    code = f"from tests.test_storage import _die_before_replace; _die_before_replace({str(store.root)!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 9
    (left,) = files_in(store.root)
    assert left.endswith(".part")
    assert not store.exists(KEY)
    assert LocalStore(store.root).clear_parts() == 1
    assert files_in(store.root) == []


@pytest.mark.parametrize(
    ("writer", "age", "removed"),
    [
        (os.getpid(), 0.0, 1),  # an earlier life with the same number
        (os.getpid(), -60.0, 0),  # this life
        (os.getppid(), 60.0, 0),  # a sibling at work
        (os.getppid(), 7_200.0, 1),  # long abandoned
        (2**31 - 2, 60.0, 1),  # nobody
        (10**30, 60.0, 1),
    ],
    ids=["earlier life", "this life", "sibling", "abandoned", "nobody", "no number"],
)
@pytest.mark.skipif(os.name == "nt", reason="nobody can be asked there")
def test_only_what_nobody_writes_any_more_is_removed(store: LocalStore, writer: int, age: float, removed: int) -> None:
    store.put(KEY, b"bytes")
    part = store.root / f"images/ab/.x.jpg.{writer}.0123abcd.part"
    part.write_bytes(b"half")
    os.utime(part, (time.time() - age - 1,) * 2)
    assert LocalStore(store.root).clear_parts() == removed
    assert store.exists(KEY)


def test_other_peoples_part_files_are_left_alone(store: LocalStore) -> None:
    write_file(store.root / "film.part", [b"bytes"], sync=False)
    assert LocalStore(store.root).clear_parts() == 0


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_what_is_left_behind_is_removed_on_the_disk_that_pictures_are_linked_to(
    store: LocalStore, tmp_path: Path
) -> None:
    (tmp_path / "big").mkdir()
    store.root.mkdir()
    (store.root / "images").symlink_to(tmp_path / "big")
    assert store.id
    name = f"images/{'ab' * 32}.jpg"
    store.put(name, b"")  # what a power cut has left of it
    (store.root / f"images/.x.jpg.{os.getpid()}.0123abcd.part").write_bytes(b"half")
    os.utime(store.root / f"images/.x.jpg.{os.getpid()}.0123abcd.part", (1, 1))
    assert LocalStore(store.root).clear_parts() == 2
    assert files_in(tmp_path / "big") == []


def test_what_is_in_the_way_on_another_disk_stays_there_under_another_name(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, rename = f"images/{'ab' * 32}.jpg", Path.rename
    (store.root / name / "theirs").mkdir(parents=True)

    def refuse(path: Path, place: Path) -> Path:
        if "damaged" in place.parts:
            raise OSError(errno.EXDEV, "another disk")
        return rename(path, place)

    monkeypatch.setattr(Path, "rename", refuse)
    store.put(name, b"whole")
    assert (store.root / name).read_bytes() == b"whole"
    (aside,) = (store.root / "images").glob("*.damaged")
    assert (aside / "theirs").is_dir()


@pytest.fixture(params=["syncfs", "fsync"])
def synced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lists what is brought to the disk, with each of the two ways of doing it."""
    calls: list[int] = []

    def sync(number: int) -> int:
        calls.append(os.fstat(number).st_ino)
        return 0

    monkeypatch.setattr(syncing, "_find_syncfs", lambda: sync if request.param == "syncfs" else None)
    monkeypatch.setattr(os, "fsync", sync)
    return calls


def test_flush_syncs_what_was_put_since_the_last(store: LocalStore, synced: list[int]) -> None:
    store.put(KEY, b"bytes")
    assert synced == []
    store.flush()
    assert synced
    synced.clear()
    store.flush()
    assert synced == []


def test_flush_covers_what_another_process_wrote(store: LocalStore, synced: list[int]) -> None:
    LocalStore(store.root).put(KEY, b"bytes")
    assert not store.put(KEY, b"bytes")
    store.flush()
    assert synced


@pytest.mark.skipif(os.name == "nt", reason="directories can't be synced there")
def test_without_syncfs_files_and_their_directories_are_synced(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(syncing, "_find_syncfs", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda number: calls.append(os.fstat(number).st_ino))
    store.put(KEY, b"bytes")
    store.flush()
    paths = [KEY, "images/ab", "images", "."]
    assert calls == [(store.root / path).stat().st_ino for path in paths]


@pytest.mark.parametrize(("durability", "count"), [("none", 0), ("batch", 0), ("file", 1), ("strict", 4)])
@pytest.mark.skipif(os.name == "nt", reason="directories can't be synced there")
def test_a_put_syncs_what_its_durability_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, count: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    LocalStore(tmp_path, durability).put(KEY, b"bytes")
    assert len(calls) == count


def test_after_a_failed_flush_doubtful_files_are_gone(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalStore(store.root).put("images/old.jpg", b"recorded long ago")
    store.put("images/old.jpg", b"recorded long ago")
    store.put(KEY, b"bytes")
    with monkeypatch.context() as broken, pytest.raises(DiskError, match="reports errors"):
        broken.setattr(syncing, "_find_syncfs", lambda: failing(errno.EIO))
        store.flush()
    assert files_in(store.root) == ["images/old.jpg"]
    assert store.put(KEY, b"bytes")


@pytest.mark.skipif(syncing._find_syncfs() is None, reason="no syncfs here")
def test_syncfs_reports_its_errors() -> None:
    syncfs = syncing._find_syncfs()
    assert syncfs is not None
    assert syncfs(-1) == -1


def test_many_threads_may_put_and_flush(store: LocalStore) -> None:
    def work(thread: int) -> None:
        for number in range(20):
            store.put(f"images/{number}.jpg", b"shared %d" % number)
            store.put(f"images/{thread}-{number}.jpg", b"own")
        store.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files_in(store.root)) == 20 + 8 * 20
    assert (store.root / "images/7.jpg").read_bytes() == b"shared 7"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; only the superuser may make one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("can't mount a small disk here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_really_full_disk_leaves_no_half_file(tiny_disk: Path) -> None:
    store = LocalStore(tiny_disk)
    with pytest.raises(DiskError, match="the disk is full"):
        for number in range(100):
            store.put(f"images/{number}.jpg", bytes([number]) * 10_000)
    kept = files_in(tiny_disk)
    assert 10 < len(kept) < 40
    assert {(tiny_disk / name).stat().st_size for name in kept} == {10_000}
    (tiny_disk / kept[0]).unlink()
    assert store.put("images/again.jpg", b"x" * 10_000)


def test_a_name_without_its_bytes_is_removed_if_no_flush_came_after_it(store: LocalStore) -> None:
    def key(data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        return f"images/{name[:2]}/{name}.png"

    assert store.id
    for data in (b"flushed", b"flushed, and spoilt long after", b"whole", b"spoilt", b"torn"):
        store.put(key(data), data)
        if data.startswith(b"flushed"):
            store.flush()
            os.utime(store.root / key(data), (1_000_000_000, 1_000_000_000))
    for data in (b"spoilt", b"torn", b"flushed, and spoilt long after"):
        path = store.root / key(data)
        times = path.stat().st_atime, path.stat().st_mtime
        path.write_bytes(data[:3] if data == b"torn" else bytes(len(data)))
        os.utime(path, times)
    assert LocalStore(store.root).clear_parts() == 2
    left = [key(b"flushed"), key(b"flushed, and spoilt long after"), key(b"whole")]  # the second is for `verify`
    assert files_in(store.root) == sorted([*left, "store.json"])
    assert LocalStore(store.root).clear_parts() == 0


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_flush_tells_from_when_on_files_are_looked_at(tmp_path: Path, durability: Durability) -> None:
    store = LocalStore(tmp_path, durability)
    assert store.id and store.clear_parts() == 0
    assert (tmp_path / "store.json").stat().st_mtime == 0
    before = time.time()
    store.put(KEY, b"bytes")
    store.flush()
    assert before - 1 <= (tmp_path / "store.json").stat().st_mtime <= time.time()


def test_what_others_have_in_the_directory_is_left_alone(store: LocalStore) -> None:
    others = ["0cc175b9c0f1b6a831c399e269772661.jpg", "mine/thesis-d41d8cd98f00b204e9800998ecf8427e.txt"]
    assert store.id  # whose time says that nothing was flushed yet
    for name in (*others, "images/ab/photograph.jpg"):
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert store.clear_parts() == 0
    assert files_in(store.root) == sorted([*others, "images/ab/photograph.jpg", "store.json"])


@pytest.mark.skipif(os.name == "nt", reason="no such files here")
def test_what_is_no_file_is_not_opened(store: LocalStore) -> None:
    assert store.id
    folder = store.root / "images" / "d4"
    folder.mkdir(parents=True)
    os.mkfifo(folder / f"{'d4' * 32}.png")  # whoever opens it waits for ever
    (folder / f"{'d5' * 32}.png").symlink_to("/dev/zero")
    assert store.clear_parts() == 0
