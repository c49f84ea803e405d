import json
import os
import socket
from pathlib import Path

import msgspec
import pytest

from crawler.engines.join import JoinFile, advertised, new_key, read_join, write_join
from crawler.errors import ConfigError, DiskError

JOIN = JoinFile(crawl="cats", addresses=("127.0.0.1:5000", "[::1]:5000"), key=new_key())


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_join(tmp_path / "join", JOIN)
    assert read_join(tmp_path / "join") == JOIN
    assert len(JOIN.authkey) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["join"]


def test_writing_again_replaces_it(tmp_path: Path) -> None:
    write_join(tmp_path / "join", JOIN)
    write_join(tmp_path / "join", msgspec.structs.replace(JOIN, crawl="dogs"))
    assert read_join(tmp_path / "join").crawl == "dogs"


def test_the_key_is_never_shown() -> None:
    assert JOIN.key not in f"{JOIN} {JOIN!r} {JOIN.__rich_repr__()} {[JOIN]}"


def test_keys_are_fresh() -> None:
    assert new_key() != new_key()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my join"
    write_join(path, JOIN)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 '{path}'"):
        read_join(path)


def test_another_address_changes_nothing_else() -> None:
    assert JOIN.at("[::1]:7") == msgspec.structs.replace(JOIN, addresses=("[::1]:7",))
    with pytest.raises(ConfigError, match="HOST:PORT"):
        JOIN.at("nowhere")


@pytest.mark.parametrize(
    ("bound", "host", "addresses"),
    [
        (("127.0.0.1", 5), "", ("127.0.0.1:5",)),
        (("127.0.0.1", 5), "127.0.0.1", ("127.0.0.1:5",)),
        (("10.0.0.1", 5), "cats.test", ("cats.test:5", "10.0.0.1:5")),
        (("0.0.0.0", 5), "", ("box:5", "127.0.0.1:5")),
        (("0.0.0.0", 5), "10.0.0.1", ("10.0.0.1:5", "127.0.0.1:5")),
        (("::", 5), "[fd00::1]", ("[fd00::1]:5", "[::1]:5")),
    ],
)
def test_the_address_that_others_reach_comes_first(
    monkeypatch: pytest.MonkeyPatch, bound: tuple[str, int], host: str, addresses: tuple[str, ...]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    assert advertised(bound, host) == addresses


@pytest.mark.parametrize("host", ["box:5000", "two words", "ü.test", "[", "10.0.0.1/8", "a\n"])
def test_what_is_no_host_is_not_advertised(host: str) -> None:
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
        ('{"v": 2, "else": []}', "of version 2, not 1"),
    ],
)
def test_what_is_no_join_file_is_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "join").write_text(text)
    (tmp_path / "join").chmod(0o600)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_join(tmp_path / "join")
    assert "\n" not in str(caught.value)
    assert JOIN.key not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read the join file .*gone"):
        read_join(tmp_path / "gone")


def test_a_place_that_can_not_be_written_is_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="can't write"):
        write_join(tmp_path / "missing" / "join", JOIN)
