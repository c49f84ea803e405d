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

from crawler.errors import ConfigError, DiskError, DiskTrouble
from crawler.store import disk as syncing
from crawler.store.base import Durability
from crawler.store.disk import write_file
from crawler.store.files import NoFile
from crawler.store.local import LocalStore

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
def test_a_blob_is_stored_once_and_read_back(tmp_path: Path, durability: Durability) -> None:
    store = LocalStore(tmp_path, durability)
    assert store.put(KEY, b"bytes")
    assert not store.put(KEY, b"bytes")
    store.flush()
    with store.open(KEY) as file:
        assert file.read() == b"bytes"
    assert files_in(tmp_path) == [KEY]


def test_missing_blobs_are_reported_as_missing(store: LocalStore) -> None:
    assert not store.exists(KEY)
    with pytest.raises(FileNotFoundError):
        store.open(KEY)


def test_reading_creates_no_directory(store: LocalStore) -> None:
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
    target = place.parents[3] / "elsewhere"  # the very same bytes, but in a file of another program
    if not target.exists():
        target.write_bytes(b"bytes")
    place.symlink_to(target)


#: Entries with the name of a file that are not regular files.
ODD_THINGS: dict[str, Callable[[Path], None]] = {"directory": _add_directory}
if os.name != "nt":  # there, links need a privilege
    ODD_THINGS |= {"link": _add_link, "pipe": os.mkfifo}


@pytest.mark.parametrize("add", ODD_THINGS.values(), ids=list(ODD_THINGS))
def test_an_entry_that_is_not_a_regular_file_is_not_opened_and_is_moved_away(
    store: LocalStore, add: Callable[[Path], None]
) -> None:
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


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("key", [KEY, "images/ab/cd/x.jpg", "images/cd/ab/x.jpg"])
def test_a_link_instead_of_a_folder_does_not_lead_out_of_the_store(store: LocalStore, tmp_path: Path, key: str) -> None:
    outside = tmp_path / "outside"
    inner = key.partition("/ab/")[2]
    write_file(outside / inner, [b"bytes"], sync=False)
    link = store.root / key.removesuffix(f"/{inner}")
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    store.remove(key)
    assert not store.move_aside(key)
    assert files_in(outside) == [inner]
    assert store.put(key, b"bytes"), "a file outside the store must not be found"
    assert files_in(outside) == [inner] and not link.is_symlink()
    (aside,) = (store.root / "damaged").iterdir()
    assert aside.is_symlink() and aside.name.startswith("ab.")
    store.remove(key)
    assert not store.exists(key)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_folder_that_another_program_replaces_with_a_link_is_noticed_by_the_next_put(
    store: LocalStore, tmp_path: Path
) -> None:
    store.put(KEY, b"bytes")
    outside, folder = tmp_path / "outside", (store.root / KEY).parent
    folder.rename(outside)
    folder.symlink_to(outside)
    assert store.put("images/ab/next.jpg", b"bytes")
    assert files_in(outside) == ["abcd.jpg"] and not folder.is_symlink()


@pytest.mark.parametrize("key", ["images/x.jpg", KEY, "images/ab/cd/x.jpg"])
@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_to_an_unmounted_disk_is_a_temporary_fault(store: LocalStore, tmp_path: Path, key: str) -> None:
    store.root.mkdir()
    (store.root / "images").symlink_to(tmp_path / "unmounted")
    with pytest.raises(DiskTrouble, match="mount that disk"):
        store.put(key, b"bytes")
    assert store.put("quarantine/ab/abcd.jpg", b"bytes"), "its folder is on a disk that is there"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_the_folder_of_all_pictures_may_be_a_link(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    store.root.mkdir()
    (store.root / "images").symlink_to(tmp_path / "big")
    assert store.put(KEY, b"bytes") and files_in(tmp_path / "big") == ["ab/abcd.jpg"]
    store.flush([KEY])
    store.remove(KEY)
    assert files_in(tmp_path / "big") == []


def test_a_path_below_a_regular_file_does_not_exist(store: LocalStore) -> None:
    write_file(store.root / "images/ab", [b"no folder"], sync=False)
    assert not store.exists(KEY)
    with pytest.raises(FileNotFoundError):
        store.open(KEY)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(store: LocalStore, umask: int) -> None:
    before = os.umask(umask)
    try:
        store.put(KEY, b"bytes")
    finally:
        os.umask(before)
    assert (store.root / KEY).stat().st_mode & 0o777 == 0o666 & ~umask


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
        with pytest.raises(ValueError, match="unsafe key"):
            door(key)


@given(st.text())
def test_any_key_stays_inside_or_is_refused(key: str) -> None:
    root = Path("/srv/store")
    try:
        path = Path(LocalStore(root)._path(key))
    except ValueError:
        return
    assert path.is_relative_to(root)
    assert path.relative_to(root).as_posix() == key
    assert ".." not in path.parts


@given(st.from_regex(r"[a-z]{1,9}/[0-9a-f]{2}/[0-9a-f]{64}\.[a-z0-9]{1,5}", fullmatch=True))
def test_every_content_name_is_a_valid_key(key: str) -> None:
    assert LocalStore(Path("out"))._path(key) == str(Path("out", key))


def test_one_file_under_two_keys_does_not_count_as_two_files(store: LocalStore) -> None:
    store.put(KEY, b"bytes")
    other = "images/Boats/été.jpg"
    assert not store.are_two(KEY, other) and not store.are_two(KEY, KEY)
    (store.root / other).parent.mkdir()
    (store.root / other).hardlink_to(store.root / KEY)  # as on a case-insensitive file system
    assert not store.are_two(KEY, other)
    store.remove(other)
    store.put(other, b"bytes")
    assert store.are_two(KEY, other)


def test_id_is_made_once_and_kept(store: LocalStore) -> None:
    assert len(bytes.fromhex(store.id)) == 8
    assert LocalStore(store.root).id == store.id
    assert files_in(store.root) == ["store.json"]


def test_processes_that_start_together_agree_on_the_id(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert LocalStore(store.root).id == store.id == LocalStore(store.root).id


def test_id_is_made_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    assert store.id
    assert files_in(store.root) == ["store.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"v": 2, "id": "0123456789abcdef"}', '{"v": 1, "id": 5}', "\xff"])
def test_a_damaged_id_is_left_to_the_user(store: LocalStore, content: str) -> None:
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
def test_a_disk_failure_is_reported_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, advice: str
) -> None:
    store = LocalStore(tmp_path, "file")
    with monkeypatch.context() as broken, pytest.raises(DiskError, match=advice) as caught:
        broken.setattr(os, call, failing(code))
        broken.setattr(os, "link", failing(errno.EPERM))  # so that a new file is named by replacing, too
        store.put(KEY, b"bytes")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []
    assert store.put(KEY, b"bytes")


def test_a_disk_that_accepts_only_some_bytes_at_a_time_gets_all_of_them(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:3]))
    assert store.put(KEY, b"0123456789")
    monkeypatch.undo()
    assert (store.root / KEY).read_bytes() == b"0123456789"


def test_many_small_chunks_are_written_in_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = os.write

    def count(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", count)
    write_file(tmp_path / "rows", (b"%06d\n" % number for number in range(20_000)), sync=False)
    monkeypatch.undo()
    assert (tmp_path / "rows").read_bytes().splitlines() == [b"%06d" % number for number in range(20_000)]
    assert len(sizes) == 3


def test_an_empty_file_is_written_and_an_interrupted_one_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    write_file(tmp_path / "new" / "empty", [], sync=True)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "new" / "half", broken(), sync=False)
    assert files_in(tmp_path) == ["new/empty"]


def test_a_failed_replacement_leaves_the_old_file(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, b"old")
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    with pytest.raises(DiskError):
        store.put(KEY, b"new")
    assert (store.root / KEY).read_bytes() == b"old"
    assert files_in(store.root) == [KEY]


@pytest.mark.parametrize("durability", ["none", "batch"])
def test_a_copy_that_is_removed_before_a_flush_is_no_disk_error(tmp_path: Path, durability: Durability) -> None:
    """Consider two threads: one finds a picture to exist, and the other removes it, as another store already has it."""
    LocalStore(tmp_path).put(KEY, b"bytes")
    store = LocalStore(tmp_path, durability)
    assert not store.put(KEY, b"bytes")
    store.remove(KEY)
    store.flush([KEY])
    assert not store.exists(KEY)


@pytest.mark.parametrize("name", ["replace", "unlink"])
def test_a_file_that_another_program_has_open_gets_its_name_later(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Simulate Windows, where an open file can be neither replaced nor renamed."""
    if name == "replace":
        store.put(KEY, b"damaged")
    act, refusals = getattr(os, name), [PermissionError(), PermissionError()]

    def busy(*names: Any) -> None:
        if refusals:
            raise refusals.pop()
        act(*names)

    monkeypatch.setattr(syncing, "_REPLACE_ATTEMPTS", 3)
    monkeypatch.setattr(os, name, busy)
    assert store.put(KEY, b"bytes")
    assert not refusals
    assert files_in(store.root) == [KEY]


def _die_before_replace(root: str) -> None:
    def die(*_: Any) -> NoReturn:
        os._exit(9)

    os.link = os.replace = die  # type: ignore[assignment]
    LocalStore(Path(root), "file").put(KEY, b"bytes")


def test_a_process_killed_before_the_rename_leaves_no_file_under_the_name(store: LocalStore) -> None:
    code = f"from tests.store.test_local import _die_before_replace; _die_before_replace({str(store.root)!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 9
    (left,) = files_in(store.root)
    assert left.endswith(".part")
    assert not store.exists(KEY)
    assert LocalStore(store.root).clear_parts() == 1
    assert files_in(store.root) == []


@pytest.mark.parametrize(
    ("writer", "age", "removed"),
    [
        (os.getpid(), 0.0, 1),  # an earlier life with the same process id
        (os.getpid(), -60.0, 0),  # this life
        (os.getppid(), 60.0, 0),  # a live process of the same store
        (os.getppid(), 7_200.0, 1),  # long abandoned
        (2**31 - 2, 60.0, 1),  # no such process
        (10**30, 60.0, 1),
    ],
    ids=["earlier life", "this life", "sibling", "abandoned", "nobody", "no number"],
)
@pytest.mark.skipif(os.name == "nt", reason="the check for live processes needs POSIX")
def test_only_abandoned_part_files_are_removed(store: LocalStore, writer: int, age: float, removed: int) -> None:
    store.put(KEY, b"bytes")
    part = store.root / f"images/ab/.x.jpg.{writer}.0123abcd.part"
    part.write_bytes(b"half")
    os.utime(part, (time.time() - age - 1,) * 2)
    assert LocalStore(store.root).clear_parts() == removed
    assert store.exists(KEY)


def test_part_files_of_other_programs_are_left_alone(store: LocalStore) -> None:
    write_file(store.root / "film.part", [b"bytes"], sync=False)
    assert LocalStore(store.root).clear_parts() == 0


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_part_files_are_removed_on_the_disk_that_pictures_are_linked_to(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    store.root.mkdir()
    (store.root / "images").symlink_to(tmp_path / "big")
    assert store.id
    name = f"images/{'ab' * 32}.jpg"
    store.put(name, b"")  # the remains of it after a power cut
    (store.root / f"images/.x.jpg.{os.getpid()}.0123abcd.part").write_bytes(b"half")
    os.utime(store.root / f"images/.x.jpg.{os.getpid()}.0123abcd.part", (1, 1))
    assert LocalStore(store.root).clear_parts() == 2
    assert files_in(tmp_path / "big") == []


def test_an_obstacle_that_can_t_be_moved_to_another_disk_is_renamed_in_place(
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
    """List the inodes that are synced, with each of the two ways of doing it."""
    calls: list[int] = []

    def sync(number: int) -> int:
        calls.append(os.fstat(number).st_ino)
        return 0

    monkeypatch.setattr(syncing, "_find_syncfs", lambda: sync if request.param == "syncfs" else None)
    monkeypatch.setattr(os, "fsync", sync)
    return calls


def test_flush_syncs_all_files_put_since_the_last_flush(store: LocalStore, synced: list[int]) -> None:
    store.put(KEY, b"bytes")
    synced.clear()
    store.flush()
    assert synced
    synced.clear()
    store.flush()
    assert synced == []


def test_flush_syncs_files_of_another_process(store: LocalStore, synced: list[int]) -> None:
    LocalStore(store.root).put(KEY, b"bytes")
    assert not store.put(KEY, b"bytes")
    store.flush()
    assert synced


@pytest.mark.skipif(os.name == "nt", reason="directories can't be synced on Windows")
def test_without_syncfs_files_and_their_directories_are_synced(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(syncing, "_find_syncfs", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda number: calls.append(os.fstat(number).st_ino))
    store.put(KEY, b"bytes")
    store.flush()
    paths = [KEY, "images/ab", "images", "."]
    assert calls == [(store.root / path).stat().st_ino for path in paths]  # the file before it has its final name


@pytest.mark.parametrize(("durability", "count"), [("none", 0), ("batch", 0), ("file", 1), ("strict", 4)])
@pytest.mark.skipif(os.name == "nt", reason="directories can't be synced on Windows")
def test_a_put_syncs_as_much_as_its_durability_requires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, count: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    LocalStore(tmp_path, durability).put(KEY, b"bytes")
    assert len(calls) == count


@pytest.mark.skipif(not syncing.knows_syncfs(), reason="this system has no syncfs")
def test_syncfs_reports_its_errors() -> None:
    syncfs = syncing._find_syncfs()
    assert syncfs is not None
    assert syncfs(-1) == -1


def test_many_threads_can_put_and_flush_at_once(store: LocalStore) -> None:
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
    """Mount a file system of 256 KiB, which only the superuser can do."""
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("can't mount a small disk here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_really_full_disk_leaves_no_partial_file(tiny_disk: Path) -> None:
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
def test_a_flush_stores_the_time_from_which_files_are_checked(tmp_path: Path, durability: Durability) -> None:
    store = LocalStore(tmp_path, durability)
    assert store.id and store.clear_parts() == 0
    assert (tmp_path / "store.json").stat().st_mtime == 0
    before = time.time()
    store.put(KEY, b"bytes")
    store.flush()
    assert before - 1 <= (tmp_path / "store.json").stat().st_mtime <= time.time()


def test_files_of_other_programs_in_the_directory_are_left_alone(store: LocalStore) -> None:
    others = ["0cc175b9c0f1b6a831c399e269772661.jpg", "mine/thesis-d41d8cd98f00b204e9800998ecf8427e.txt"]
    assert store.id  # its time shows that there was no flush so far
    for name in (*others, "images/ab/photograph.jpg"):
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert store.clear_parts() == 0
    assert files_in(store.root) == sorted([*others, "images/ab/photograph.jpg", "store.json"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_only_regular_files_are_opened_by_the_cleanup(store: LocalStore) -> None:
    assert store.id
    folder = store.root / "images" / "d4"
    folder.mkdir(parents=True)
    os.mkfifo(folder / f"{'d4' * 32}.png")  # opening it would block for ever
    (folder / f"{'d5' * 32}.png").symlink_to("/dev/zero")
    assert store.clear_parts() == 0
