"""Log lines: their destinations; remote text in them can neither steer a terminal nor forge another line."""

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.cli.logs import set_up
from crawler.errors import DiskError
from crawler.text import printable

LOG = logging.getLogger("crawler.somewhere")
ESCAPES = "\x1b]0;owned\x07 \x9b2J \r \u202egnp.exe \u2066 \u200f \u2028 \x00"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger("crawler")
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def crawl_log(directory: Path) -> list[str]:
    return (directory / "crawl.log").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 漢 🐈", "plain ä 漢 🐈"),
        ("one\ntwo", "one two"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\r\x9b\x7f", "\\u000d\\u009b\\u007f"),
        ("\u202e\u2066\u2029\u061c", "\\u202e\\u2066\\u2029\\u061c"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_hostile_text_stays_on_one_harmless_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(tmp_path, quiet=False, verbose=False, debug=False)
    LOG.warning("no answer from %s", f"x\n2026-01-01 CRITICAL forged {ESCAPES}")
    (line,) = crawl_log(tmp_path)
    screen = capsys.readouterr().err
    for text in (line, screen.rstrip("\n")):
        assert "forged" in text
        assert text.isprintable()
    assert screen.count("\n") == 1


def test_a_traceback_is_kept_in_the_file_and_forges_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(tmp_path, quiet=False, verbose=False, debug=False)
    try:
        raise ValueError(f"x\n2026-01-01 CRITICAL forged {ESCAPES}")
    except ValueError:
        LOG.warning("that went wrong", exc_info=True)
    first, *rest = crawl_log(tmp_path)
    assert first.endswith("WARNING crawler.somewhere that went wrong")
    assert any("forged" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert capsys.readouterr().err == "crawler: that went wrong\n"


def test_tracebacks_are_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(None, quiet=False, verbose=False, debug=True)
    try:
        raise ValueError("the reason")
    except ValueError:
        LOG.exception("that went wrong")
    assert "ValueError: the reason" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quiet", "verbose", "debug", "shown"),
    [
        (False, False, False, ["WARNING", "ERROR"]),
        (True, False, False, ["ERROR"]),
        (False, True, False, ["INFO", "WARNING", "ERROR"]),
        (False, False, True, ["DEBUG", "INFO", "WARNING", "ERROR"]),
    ],
)
def test_the_screen_shows_the_requested_level(
    capsys: pytest.CaptureFixture[str], *, quiet: bool, verbose: bool, debug: bool, shown: list[str]
) -> None:
    set_up(None, quiet=quiet, verbose=verbose, debug=debug)
    for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
        LOG.log(getattr(logging, level), level)
    assert capsys.readouterr().err.splitlines() == [f"crawler: {level}" for level in shown]


def test_the_file_has_every_important_line_even_if_the_screen_is_quiet(tmp_path: Path) -> None:
    set_up(tmp_path, quiet=True, verbose=False, debug=False)
    LOG.debug("a detail")
    LOG.info("of note")
    (line,) = crawl_log(tmp_path)
    assert line.endswith("INFO crawler.somewhere of note")


def test_setting_up_twice_duplicates_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        set_up(tmp_path, quiet=False, verbose=False, debug=False)
    LOG.warning("once")
    assert len(crawl_log(tmp_path)) == 1
    assert capsys.readouterr().err == "crawler: once\n"


def test_a_missing_directory_gets_no_log(tmp_path: Path) -> None:
    set_up(tmp_path / "out", quiet=True, verbose=False, debug=False)
    assert not (tmp_path / "out").exists()


def test_an_unwritable_log_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "crawl.log").mkdir()
    with pytest.raises(DiskError, match=r"crawl\.log"):
        set_up(tmp_path, quiet=True, verbose=False, debug=False)


class ClosedTerminal(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_closed_terminal_stops_no_logging_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, quiet=False, verbose=False, debug=False)
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    LOG.warning("nobody reads this")
    assert len(crawl_log(tmp_path)) == 1


def test_unencodable_text_is_written_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("crawler"), "propagate", False)  # pytest can't print it everywhere either
    set_up(tmp_path, quiet=True, verbose=False, debug=False)
    LOG.warning("%s", "\udcff")
    assert crawl_log(tmp_path)[0].endswith("\\udcff")
