"""The lock of a directory: one owner at a time, who leaves no trace that could be taken for something else."""

from pathlib import Path

from crawler.lock import own, try_to_own


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    release = own(tmp_path)
    assert try_to_own(tmp_path) is None
    release()
    again = try_to_own(tmp_path)
    assert again is not None
    again()


def test_the_file_is_a_database_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    release = own(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    release()
    assert (tmp_path / ".lock").read_bytes().startswith(b"SQLite format 3\0")
