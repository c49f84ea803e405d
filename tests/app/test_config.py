"""Settings: precedence of sources, one-line messages for mistakes that name the key, and the settings file."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crawler.app.config import (
    _LOCAL_FILE,
    SETTINGS,
    CrawlConfig,
    CrawlSettings,
    DownloadSettings,
    FetchSettings,
    HarvestSettings,
    MachineSettings,
    PolitenessSettings,
    QueueSettings,
    from_flags,
    read_toml,
    settings_for,
)
from crawler.cli import commands
from crawler.errors import ConfigError

COUNTS = st.integers(1, 2**53 - 1)
SECONDS = st.floats(0, 1e15)
ABOVE_ZERO = st.floats(1e-300, 1e15)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
CONFIGS = st.builds(
    CrawlConfig,
    crawl=st.builds(
        CrawlSettings, order=st.sampled_from(["fifo", "lifo", "priority"]), max_images=st.none() | COUNTS,
        max_pages=st.none() | COUNTS, patience=SECONDS,
    ),
    harvest=st.builds(
        HarvestSettings, scope=st.sampled_from(["page", "path", "host", "domain", "any"]), depth=st.integers(0, 99),
        max_page_bytes=COUNTS,
    ),
    politeness=st.builds(
        PolitenessSettings, delay=st.none() | SECONDS, per_host=st.none() | COUNTS, robots=st.booleans(),
        user_agent=ASCII, contact=ASCII,
    ),
    fetch=st.builds(
        FetchSettings, connect_timeout=ABOVE_ZERO, first_byte_timeout=ABOVE_ZERO, total_timeout=ABOVE_ZERO
    ),
    download=st.builds(
        DownloadSettings, types=st.lists(TEXT, max_size=3).map(tuple), max_bytes=COUNTS, min_size=st.integers(0, 999),
        durability=st.sampled_from(["none", "batch", "file", "strict"]), max_aspect=st.none() | st.floats(1, 1e9),
        animated=st.sampled_from(["keep", "skip", "only"]), verify=st.sampled_from(["decode", "header"]),
    ),
    queue=st.builds(QueueSettings, listen=TEXT, lease=st.floats(0.1, 3_600)),
)  # fmt: skip

#: Run the settings of a crawl in a directory of its own: ``crawl.toml``, ``crawler.toml``, flags → config and changes.
Settle = Callable[..., tuple[CrawlConfig, str]]


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settle:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()

    def settings(*, crawl: str | None = None, local: str | None = None, **flags: Any) -> tuple[CrawlConfig, str]:
        for path, text in ((tmp_path / "out" / "crawl.toml", crawl), (tmp_path / _LOCAL_FILE, local)):
            if text is not None:
                path.write_text(text, encoding="utf-8")
        return settings_for(tmp_path / "out", [("the test", from_flags(flags))])

    return settings


def refused(*sources: tuple[str, dict[str, Any]]) -> str:
    with pytest.raises(ConfigError) as caught:
        CrawlConfig.load(*sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- precedence

FLAG, ENVIRONMENT = ["--depth", "1"], {"CRAWLER_DEPTH": "2"}
CRAWL, LOCAL = "[harvest]\ndepth = 3", "[harvest]\ndepth = 4"


@pytest.mark.parametrize(
    ("arguments", "environment", "crawl", "local", "depth"),
    [
        (FLAG, ENVIRONMENT, CRAWL, LOCAL, 1),
        ([], ENVIRONMENT, CRAWL, LOCAL, 2),
        ([], {}, CRAWL, LOCAL, 3),
        ([], {}, None, LOCAL, 4),
        ([], {}, None, None, 20),
        ([], {}, "", LOCAL, 20),  # a crawl that was started with the default keeps it
    ],
)
def test_the_setting_of_highest_precedence_wins(
    settle: Settle,
    monkeypatch: pytest.MonkeyPatch,
    *,
    arguments: list[str],
    environment: dict[str, str],
    crawl: str | None,
    local: str | None,
    depth: int,
) -> None:
    monkeypatch.delenv("CRAWLER_DEPTH", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    flag = commands.run.make_context("run", [*arguments, "http://a.example/"]).params["depth"]
    assert settle(crawl=crawl, local=local, depth=flag)[0].harvest.depth == depth


def test_sources_are_merged_key_by_key() -> None:
    config = CrawlConfig.load(("a", {"harvest": {"depth": 1, "scope": "any"}}), ("b", {"harvest": {"depth": 2}}))
    assert config.harvest == HarvestSettings(depth=2, scope="any")


def test_a_named_file_replaces_the_local_one(settle: Settle, tmp_path: Path) -> None:
    settle(local=LOCAL)
    named = tmp_path / "mine.toml"
    named.write_text("[harvest]\nscope = 'any'", encoding="utf-8")
    assert settings_for(tmp_path / "out", config_file=named)[0].harvest == HarvestSettings(scope="any")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read .*mine\.toml"):
        settings_for(tmp_path, config_file=tmp_path / "mine.toml")


def test_machine_settings_come_from_this_machine(settle: Settle) -> None:
    config, changes = settle(crawl=CRAWL, local="[machine]\nconnections = 7", workers=2)
    assert (config.machine.connections, config.machine.workers, config.harvest.depth) == (7, 2, 3)
    assert changes == ""


# --- a crawl that is resumed


def test_a_crawl_resumed_without_changes_reports_none(settle: Settle) -> None:
    assert settle(crawl=CRAWL, depth=3)[1] == ""


def test_a_changed_flag_is_reported_with_its_old_value(settle: Settle) -> None:
    assert settle(crawl=CRAWL, depth=5, max_images=10, types=("jpeg",))[1] == (
        'max_images = 10 (was unset), depth = 5 (was 3), types = ["jpeg"] (was [])'
    )


def test_a_flag_reset_to_the_default_is_a_change(settle: Settle) -> None:
    config, changes = settle(crawl=CRAWL, depth=20)
    assert (config.harvest.depth, changes) == (20, "depth = 20 (was 3)")


def test_a_new_crawl_has_no_changes(settle: Settle) -> None:
    assert settle(depth=5)[1] == ""


def test_a_damaged_settings_file_is_named(settle: Settle) -> None:
    with pytest.raises(ConfigError, match=r"out.crawl\.toml: "):
        settle(crawl="[harvest")


# --- mistakes


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"harvset": {}}, "f.toml: unknown section [harvset]. Did you mean 'harvest'?"),
        ({"harvest": {"dept": 1}}, "f.toml: unknown key 'dept' in [harvest]. Did you mean 'depth'?"),
        (
            {"harvest": {"zzz": 1}},
            "f.toml: unknown key 'zzz' in [harvest] (known: candidates, depth, exclude, include, "
            "lazy, max_page_bytes, parser, scope, sitemaps)",
        ),
        ({"harvest": 5}, "f.toml: harvest is the name of a section; write [harvest] and its keys in the lines below"),
        (
            {"harvest": [{}]},
            "f.toml: harvest is the name of a section; write [harvest] and its keys in the lines below",
        ),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(tables: dict[str, Any], complaint: str) -> None:
    assert refused(("f.toml", tables)) == complaint


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("harvest", "depth", "5"),
        ("harvest", "depth", 5.5),
        ("harvest", "depth", [5]),
        ("harvest", "scope", "galaxy"),
        ("crawl", "max_images", True),
        ("politeness", "robots", "no"),
        ("politeness", "delay", "slow"),
        ("download", "types", "jpeg"),
        ("download", "types", [1]),
        ("download", "animated", "never"),
        ("download", "verify", True),
        ("queue", "listen", 80),
    ],
)
def test_a_wrong_type_is_one_line_that_names_source_and_key(section: str, key: str, value: object) -> None:
    complaint = refused(
        ("a.toml", {}), ("f.toml", {section: {key: value}}), ("command line", {"harvest": {"depth": 1}})
    )
    assert complaint.startswith("f.toml: ")
    assert f"`{section}.{key}" in complaint


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("value", [0, -1, 2**53, 10**400])
@pytest.mark.parametrize("key", ["max_images", "max_pages", "per_host", "max_bytes", "max_page_bytes", "connections"])
def test_a_count_is_above_zero_and_not_absurdly_large(key: str, value: int) -> None:
    assert key in refused(("f", {SETTINGS[key].section: {key: value}}))


@pytest.mark.parametrize("value", [0.99, 0.0, -4.0, NAN, INFINITY])
def test_the_minimum_side_is_at_most_the_longer_one(value: float) -> None:
    rule = "below 2**53" if value == INFINITY else "1 or more"
    assert f"max_aspect must be {rule}, not {value:g}" in refused(("f", {"download": {"max_aspect": value}}))


@pytest.mark.parametrize("near", ["mark", "keep-best"])
def test_near_duplicates_need_decoding(near: str) -> None:
    complaint = refused(("command line", {"download": {"near": near, "verify": "header"}}))
    assert complaint.startswith(f"near = '{near}' needs decoded pictures: ") and "\n" not in complaint
    CrawlConfig.load(("f", {"download": {"near": "off", "verify": "header"}}))
    CrawlConfig.load(("f", {"download": {"near": near}}))


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INFINITY])
@pytest.mark.parametrize("key", ["lease", "connect_timeout", "first_byte_timeout", "total_timeout"])
def test_a_timeout_is_a_number_above_zero(key: str, value: float) -> None:
    assert key in refused(("f", {SETTINGS[key].section: {key: value}}))


@pytest.mark.parametrize("value", [-1, -INFINITY, NAN, INFINITY])
@pytest.mark.parametrize("key", ["delay", "patience", "wait"])
def test_a_pause_is_zero_or_more(key: str, value: float) -> None:
    assert key in refused(("f", {SETTINGS[key].section: {key: value}}))
    assert CrawlConfig.load(("f", {SETTINGS[key].section: {key: 0}}))


@pytest.mark.parametrize("key", ["user_agent", "contact"])
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00", "Москва", "a\x7f", "\u2028"])
def test_the_user_agent_fits_in_a_header(key: str, value: str) -> None:
    assert "user_agent and contact" in refused(("f", {"politeness": {key: value}}))


def test_a_setting_given_as_a_flag_needs_no_section() -> None:
    assert from_flags({"depth": 1, "delay": None, "min_size": 2}) == {
        "harvest": {"depth": 1},
        "download": {"min_size": 2},
    }


def test_a_former_name_of_a_setting_is_accepted() -> None:
    assert from_flags({"threads": 2}) == {"machine": {"connections": 2}}
    assert CrawlConfig.load(("f", {"machine": {"threads": 2}})).machine.connections == 2


def test_an_unknown_flag_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'dept'\. Did you mean 'depth'\?"):
        from_flags({"dept": 1})


def test_names_are_unique_over_all_sections() -> None:
    names = [name for room in msgspec.to_builtins(CrawlConfig()).values() for name in room]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("data", [b"a = [", b"\xff", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"f\.toml: "):
        read_toml(tmp_path / "f.toml")


def test_a_directory_is_not_a_settings_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        read_toml(tmp_path)


# --- as a file, and for the downloaders


@given(CONFIGS)
@example(CrawlConfig(download=DownloadSettings(types=("\x7f", "\x00", '"\\', "🐈"))))
def test_a_settings_file_preserves_the_config(config: CrawlConfig) -> None:
    config.check()
    assert CrawlConfig.load(("crawl.toml", tomllib.loads(config.to_toml()))) == config


def test_defaults_make_an_empty_file() -> None:
    assert CrawlConfig().to_toml() == ""


def test_a_settings_file_is_readable_by_people(tmp_path: Path) -> None:
    config = CrawlConfig.load(
        ("f", {"harvest": {"depth": 3}, "download": {"types": ["jpeg", "png"]}, "machine": {"wait": 1}})
    )
    assert config.to_toml() == '[harvest]\ndepth = 3\n\n[download]\ntypes = ["jpeg", "png"]\n'


@pytest.mark.parametrize("proxy", ["http://proxy.example:3128", "https://me:pass%20word@[::1]:3128/", "http://p"])
def test_the_proxy_of_a_machine_is_not_shared(proxy: str) -> None:
    config = CrawlConfig.load(("f", {"machine": {"proxy": proxy, "cookies": "mine.txt"}}))
    assert (config.machine.proxy, config.machine.cookies) == (proxy, "mine.txt")
    assert config.to_toml() == "" and "proxy" not in str(config.shared())


@pytest.mark.parametrize(
    "proxy", ["me:secret@proxy", "socks5://me:secret@proxy", "http://me:secret@", "http://a b:secret@p"]
)
def test_an_invalid_proxy_is_refused_without_showing_its_password(proxy: str) -> None:
    with pytest.raises(ConfigError, match="proxy must be the URL of an HTTP proxy") as caught:
        CrawlConfig.load(("f", {"machine": {"proxy": proxy}}))
    assert "secret" not in str(caught.value)


@given(CONFIGS, st.integers(1, 99))
def test_downloaders_receive_all_settings_but_those_of_the_machine(config: CrawlConfig, threads: int) -> None:
    here = msgspec.structs.replace(config, machine=MachineSettings(workers=3, connections=threads, wait=7.5))
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(here.shared()))
    assert set(told) == set(CrawlConfig.__struct_fields__) - {"machine"}
    assert not {key for table in told.values() for key in table} & {
        *MachineSettings.__struct_fields__,
        "listen",
        "tls",
        "advertise",
    }
    there = CrawlConfig.load(("the master's settings", told))
    assert there == msgspec.structs.replace(config, queue=QueueSettings(lease=config.queue.lease))


@pytest.mark.parametrize(
    ("fields", "agent"),
    [
        ({}, "imgcrawler/"),
        ({"contact": "me@a.example"}, "(+me@a.example)"),
        ({"user_agent": "mine", "contact": "me@a.example"}, "mine"),
    ],
)
def test_the_user_agent_identifies_the_crawler(fields: dict[str, Any], agent: str) -> None:
    assert agent in PolitenessSettings(**fields).agent


@pytest.mark.parametrize(("workers", "processes"), [(0, 0), (3, 3), (64, 64)])
def test_the_number_of_processes_is_as_set(workers: int, processes: int) -> None:
    assert MachineSettings(workers=workers).processes == processes


@pytest.mark.parametrize(("cores", "processes"), [(None, 1), (1, 1), (2, 2), (64, 4)])
def test_by_default_there_is_a_process_for_each_core_up_to_four(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, processes: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert MachineSettings().processes == processes


def test_a_key_of_another_section_is_suggested_with_it() -> None:
    hint = r"unknown key 'workrs' in \[download\]. Did you mean 'workers' in \[machine\]\?"
    with pytest.raises(ConfigError, match=hint):
        CrawlConfig.load(("crawler.toml", {"download": {"workrs": 2}}))


def test_a_lease_longer_than_the_queue_allows_is_refused() -> None:
    with pytest.raises(ConfigError, match="lease must be 3600 or less, not 7200"):
        CrawlConfig.load(("crawler.toml", {"queue": {"lease": 7200}}))
