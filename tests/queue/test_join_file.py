import json
import os
import socket
from pathlib import Path

import msgspec
import pytest

from crawler.errors import ConfigError, DiskError
from crawler.queue import join_file
from crawler.queue.join_file import JoinFile, advertised, new_key, read_join, write_join, write_private

JOIN = JoinFile(crawl="cats", addresses=("127.0.0.1:5000", "[::1]:5000"), key=new_key())


def test_a_join_file_is_read_back_as_written(tmp_path: Path) -> None:
    write_join(tmp_path / "join", JOIN)
    assert read_join(tmp_path / "join") == JOIN
    assert len(JOIN.authkey) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["join"]


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    write_join(tmp_path / "join", JOIN)
    write_join(tmp_path / "join", msgspec.structs.replace(JOIN, crawl="dogs"))
    assert read_join(tmp_path / "join").crawl == "dogs"


def test_the_key_is_never_shown() -> None:
    assert JOIN.key not in f"{JOIN} {JOIN!r} {JOIN.__rich_repr__()} {[JOIN]}"


def test_every_key_is_new() -> None:
    assert new_key() != new_key()


@pytest.mark.skipif(os.name != "posix", reason="file modes exist on POSIX only")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_readable_by_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my join"
    write_join(path, JOIN)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 '{path}'"):
        read_join(path)


def test_another_address_changes_nothing_else() -> None:
    assert JOIN.at("[::1]:7") == msgspec.structs.replace(JOIN, addresses=("[::1]:7",))
    with pytest.raises(ConfigError, match="write HOST, HOST:PORT or"):
        JOIN.at("nowhere:70000")


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("machine", "machine:5000"),
        ("10.0.0.1", "10.0.0.1:5000"),
        ("fd00::1", "[fd00::1]:5000"),
        ("[fd00::1]", "[fd00::1]:5000"),
    ],
)
def test_a_host_without_a_port_gets_the_port_of_the_file(place: str, address: str) -> None:
    assert JOIN.at(place).addresses == (address,)


@pytest.mark.parametrize(
    ("bound", "host", "addresses"),
    [
        (("127.0.0.1", 5), "", ("127.0.0.1:5",)),
        (("127.0.0.1", 5), "127.0.0.1", ("127.0.0.1:5",)),
        (("10.0.0.1", 5), "cats.test", ("cats.test:5", "10.0.0.1:5")),
        (("0.0.0.0", 5), "", ("10.0.0.1:5", "10.0.0.2:5", "machine:5", "127.0.0.1:5")),
        (("0.0.0.0", 5), "10.0.0.2", ("10.0.0.2:5", "10.0.0.1:5", "127.0.0.1:5")),
        (("::", 5), "[fd00::1]", ("[fd00::1]:5", "10.0.0.1:5", "10.0.0.2:5", "[fd00::2]:5", "[::1]:5")),
    ],
)
def test_the_address_reachable_from_other_machines_comes_first(
    monkeypatch: pytest.MonkeyPatch, bound: tuple[str, int], host: str, addresses: tuple[str, ...]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "machine")
    own = ("10.0.0.1", "10.0.0.2")
    monkeypatch.setattr(join_file, "own_addresses", lambda *, ipv6: (*own, "fd00::2") if ipv6 else own)
    assert advertised(bound, host) == addresses


@pytest.mark.parametrize("host", ["machine:5000", "two words", "ü.test", "[", "10.0.0.1/8", "a\n"])
def test_an_invalid_host_is_not_advertised(host: str) -> None:
    with pytest.raises(ConfigError, match="--advertise HOST"):
        advertised(("0.0.0.0", 5), host)


def _broken(**fields: object) -> str:
    return json.dumps(json.loads(msgspec.json.encode(JOIN)) | fields)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a join file"),
        ("[" * 100_000, "not a join file"),
        ('{"v": 1}', "not a join file"),
        (_broken(key="c2hvcnQ="), "not a join file"),
        (_broken(key="!" * 44), "not a join file"),
        (_broken(cert="no certificate"), "not a join file"),
        (_broken(addresses=[]), "not a join file"),
        (_broken(addresses=["nowhere"]), "not a join file"),
        (_broken(crawl="x" * 70_000), "not a join file"),
        ('{"v": 2, "else": []}', "has version 2 of the join file, and this release reads version 1"),
    ],
)
def test_an_invalid_join_file_is_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "join").write_text(text)
    (tmp_path / "join").chmod(0o600)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_join(tmp_path / "join")
    assert "\n" not in str(caught.value)
    assert JOIN.key not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read the join file .*gone"):
        read_join(tmp_path / "gone")


def test_an_unwritable_directory_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"can't use .*a file is in the way"):
        write_join(tmp_path / "file" / "join", JOIN)


@pytest.mark.skipif(os.name != "posix", reason="directories are synced on POSIX only")
def test_the_directory_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, bool]] = []
    path = tmp_path / "tls.key"
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_ino, path.exists())))
    write_private(path, b"secret")
    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
