"""`crawler help`: the pages of the guide in the terminal."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import crawler
from crawler.cli.commands import cli
from crawler.cli.guide_pages import topics
from tests.support.calls import Call, calls

GUIDE = Path(crawler.__file__).parent / "guide"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


def test_the_topics_are_listed_with_their_titles(call: Call) -> None:
    ended = call("help")
    assert (ended.code, ended.err) == (0, "")
    assert {line.split()[0] for line in ended.out.splitlines() if line.startswith("  ")} == topics().keys()
    assert "running" in topics() and topics()["running"] == "Running a crawl"


@pytest.mark.parametrize("topic", topics())
def test_a_page_is_shown_as_it_is(call: Call, topic: str) -> None:
    ended = call("help", topic)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.strip() == (GUIDE / f"{topic}.md").read_text(encoding="utf-8").strip()


def test_the_help_of_a_command_is_shown(call: Call) -> None:
    ended = call("help", "gather")
    assert ended.code == 0 and ended.out.startswith("Usage: crawler gather ")


@pytest.mark.parametrize("name", sorted(cli.commands.keys() - {"help"}))
def test_the_help_of_a_command_names_a_page(call: Call, name: str) -> None:
    *_, last = call(name, "--help").out.split()
    assert last in topics()


def test_the_flags_of_settings_are_grouped_by_section(call: Call) -> None:
    first, *groups = re.split(r"\n\n(?=[A-Z][\w, ]+:\n)", call("run", "--help").out.partition("\nOptions:\n")[2])
    assert "--output" in first and "--debug" in first and "--depth" not in first
    flags = {text.partition(":")[0]: re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.MULTILINE) for text in groups}
    assert {"depth", "scope"} <= set(flags["Pages to crawl"]) and "no-robots" in flags["Politeness towards hosts"]
    assert flags["The queue server"] == ["listen", "advertise"] and "workers" in flags["This machine"]


@pytest.mark.parametrize(
    ("topic", "hint"), [("polite", "Did you mean 'politeness'?"), ("zzz", "Topics: cookbook, distributed, ")]
)
def test_an_unknown_topic_is_an_error_of_one_line(call: Call, topic: str, hint: str) -> None:
    ended = call("help", topic)
    assert ended.code == 2 and hint in ended.complaint
