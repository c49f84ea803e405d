"""The lock of a directory: one owner at a time, and no files beside it that could be mistaken for others."""

from pathlib import Path

from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.lock import try_to_own


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    release = CrawlDirectory(tmp_path).own()
    assert try_to_own(tmp_path) is None
    release()
    again = try_to_own(tmp_path)
    assert again is not None
    again()


def test_the_lock_is_a_database_without_files_beside_it(tmp_path: Path) -> None:
    release = CrawlDirectory(tmp_path).own()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    release()
    assert (tmp_path / ".lock").read_bytes().startswith(b"SQLite format 3\0")
