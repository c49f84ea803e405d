"""Settings: one small struct per room, filled from flags, the environment and TOML files.

Precedence: flag, ``CRAWLER_*``, the ``crawl.toml`` of a crawl that goes on, ``crawler.toml`` or ``--config``, default.
Names are unique over all sections, so a flag needs no section. What workers need to know (`CrawlConfig.shared`) travels
to them with the frontier's greeting; what concerns one box only stays there.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct, structs

from crawler import __version__
from crawler.cloud import check_url
from crawler.download.naming import Naming
from crawler.errors import ConfigError
from crawler.harvest.filters import build_filters

#: Names of the settings file of a crawl, and of the one that is read where a command is started.
CRAWL_FILE = "crawl.toml"
LOCAL_FILE = "crawler.toml"
#: Longest lease in seconds; the queue's messages allow no more.
MAX_LEASE = 3_600.0

#: No setting reaches it: what is as large is a slip, or an infinity, and fits no message and no database.
_TOO_MUCH = 2**53
_PROXY = re.compile(r"https?://(?:[!-~]*@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")


class CrawlSettings(Struct, frozen=True, kw_only=True):
    """Bounds of the crawl."""

    order: Literal["fifo", "lifo", "priority"] = "fifo"
    max_images: int | None = None
    max_pages: int | None = None
    #: The same for each host by itself; for images, failed ones count too.
    max_host_pages: int | None = None
    max_host_images: int | None = None
    #: Seconds that the end waits for hosts that asked us to stay away.
    patience: float = 60.0
    #: File of image URLs and the SHA-256 that each must have; empty: none. The master alone reads it.
    pin: str = ""


class HarvestSettings(Struct, frozen=True, kw_only=True):
    """Which pages are walked."""

    scope: Literal["page", "path", "host", "domain", "any"] = "host"
    #: Links from a seed; the default is deep for a site and shallow for a trap.
    depth: int = 20
    max_page_bytes: int = 10 * 2**20
    #: Patterns of `crawler.harvest.filters`.
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Which of the alternatives of one picture are taken.
    candidates: Literal["largest", "first", "all"] = "largest"
    #: Whether sitemaps are read, which know no depth; None: where whole sites are walked.
    sitemaps: bool | None = None
    parser: Literal["lxml", "lexbor"] = "lxml"
    #: Attributes in which scripts of these sites keep pictures, besides the many that are known.
    lazy: tuple[str, ...] = ()

    @property
    def reads_sitemaps(self) -> bool:
        """Whether sitemaps are read: a smaller depth than the default asks for what is near the seeds."""
        is_whole = self.depth >= HarvestSettings().depth and self.scope != "page"
        return is_whole if self.sitemaps is None else self.sitemaps


class PolitenessSettings(Struct, frozen=True, kw_only=True):
    """How we behave towards hosts."""

    #: Seconds between two requests to a host; None: 1.0, on loopback 0.
    delay: float | None = None
    #: Turns at a time for a host without a delay; None: 1, on loopback 16.
    per_host: int | None = None
    robots: bool = True
    #: Whether ``/.well-known/tdmrep.json`` is asked for too: one request more for each origin.
    tdmrep: bool = False
    user_agent: str = ""
    #: Mail address or URL of whoever runs the crawl; part of the user agent.
    contact: str = ""

    @property
    def agent(self) -> str:
        """The ``User-Agent`` header: honest about name, version and contact."""
        return self.user_agent or f"imgcrawler/{__version__}" + (f" (+{self.contact})" if self.contact else "")


class FetchSettings(Struct, frozen=True, kw_only=True):
    """Time-outs in seconds, and the slowest that is borne."""

    connect_timeout: float = 10.0
    first_byte_timeout: float = 20.0
    total_timeout: float = 60.0
    #: Bytes per second that an answer must bring, over so many seconds of waiting for it.
    min_speed: int = 1024
    speed_window: float = 10.0


class DownloadSettings(Struct, frozen=True, kw_only=True):
    """Which pictures are kept, and how surely."""

    #: Formats to keep; empty: all that are known.
    types: tuple[str, ...] = ()
    max_bytes: int = 20 * 2**20
    #: Pixels that the shorter side must have.
    min_size: int = 0
    #: Template of `crawler.download.naming`; empty: named by content alone.
    name: str = ""
    #: How many times as long as the shorter side the longer one may be; None: any.
    max_aspect: float | None = None
    #: What is done about animations.
    animated: Literal["keep", "skip", "only"] = "keep"
    #: ``decode``: all of a picture is decoded; ``header``: type, size and a container that is whole are enough.
    verify: Literal["decode", "header"] = "decode"
    #: What is done about pictures that look nearly the same: nothing; they are told; only the best file is kept.
    near: Literal["off", "mark", "keep-best"] = "off"
    durability: Literal["none", "batch", "file", "strict"] = "batch"

    def check(self) -> None:
        """Refuse what can't be, by itself or together; raises `ConfigError`."""
        if self.max_aspect is not None and not 1 <= self.max_aspect < _TOO_MUCH:
            raise ConfigError(f"max_aspect must be a number from 1 up, not {self.max_aspect}")
        if self.near != "off" and self.verify == "header":
            raise ConfigError(f"near = {self.near!r} needs decoded pictures: set verify to 'decode', or near to 'off'")
        Naming(self.name)


class QueueSettings(Struct, frozen=True, kw_only=True):
    """The managed queue."""

    listen: str = "127.0.0.1:0"
    #: ``auto``: TLS wherever others than this machine can reach the queue; ``always``: on loopback, too.
    tls: Literal["auto", "always"] = "auto"
    #: Name or address under which others reach this machine; empty: what it is bound to, or its own name.
    advertise: str = ""
    #: Seconds for which a request is lent to a worker that is not heard of.
    lease: float = 120.0


class BoxSettings(Struct, frozen=True, kw_only=True):
    """This box's own; never sent to others."""

    #: Downloader processes; 0: threads of the master. None: one for each core, at most 4.
    workers: int | None = None
    #: Downloads at a time in each of them.
    threads: int = 16
    #: Seconds that a downloader waits for its master at first.
    wait: float = 60.0
    #: Seconds for which a disk may refuse (full, over quota, read-only, failing) before the command ends; 0: none.
    disk_wait: float = 600.0
    #: Whether pictures may come from private addresses, those of metadata services apart.
    allow_private: bool = False
    #: URL of the proxy through which everything is fetched; empty: none. The environment's own settings do not count.
    proxy: str = ""
    #: File of cookies, in the format of Netscape and curl; empty: none.
    cookies: str = ""
    #: URL of the store in which this box saves (`crawler.cloud`); empty: the directory of the output.
    store: str = ""

    @property
    def processes(self) -> int:
        """Downloader processes to start here."""
        return min(4, os.cpu_count() or 1) if self.workers is None else self.workers


class CrawlConfig(Struct, frozen=True, kw_only=True):
    """All settings of a crawl, by room."""

    crawl: CrawlSettings = CrawlSettings()
    harvest: HarvestSettings = HarvestSettings()
    politeness: PolitenessSettings = PolitenessSettings()
    fetch: FetchSettings = FetchSettings()
    download: DownloadSettings = DownloadSettings()
    queue: QueueSettings = QueueSettings()
    box: BoxSettings = BoxSettings()

    @classmethod
    def load(cls, *sources: tuple[str, Mapping[str, Any]]) -> Self:
        """Merge sources, the strongest last; each with the name that errors call it by.

        Raises:
            ConfigError: an unknown section or key, or a value that can't be.
        """
        merged: dict[str, dict[str, Any]] = {}
        for where, tables in sources:
            for section, table in tables.items():
                merged.setdefault(section, {}).update(_checked(where, section, table))
            try:  # source by source, so that the message names the right one
                msgspec.convert(tables, cls)
            except (msgspec.ValidationError, OverflowError) as error:
                raise ConfigError(f"{where}: {str(error).replace('`$.', '`')}") from error
        config = msgspec.convert(merged, cls)
        config.check()
        return config

    def check(self) -> None:
        """Refuse values that no crawl can work with; raises `ConfigError`."""
        positive = {
            "max_bytes": self.download.max_bytes,
            "max_page_bytes": self.harvest.max_page_bytes,
            "threads": self.box.threads,
            "lease": self.queue.lease,
            "connect_timeout": self.fetch.connect_timeout,
            "first_byte_timeout": self.fetch.first_byte_timeout,
            "total_timeout": self.fetch.total_timeout,
            "speed_window": self.fetch.speed_window,
            "max_images": self.crawl.max_images,
            "max_pages": self.crawl.max_pages,
            "max_host_pages": self.crawl.max_host_pages,
            "max_host_images": self.crawl.max_host_images,
            "per_host": self.politeness.per_host,
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < _TOO_MUCH:
                raise ConfigError(f"{name} must be a number above 0, not {value}")
        for name, number in (
            ("delay", self.politeness.delay),
            ("depth", self.harvest.depth),
            ("patience", self.crawl.patience),
            ("wait", self.box.wait),
            ("disk_wait", self.box.disk_wait),
            ("workers", self.box.workers),
            ("min_size", self.download.min_size),
            ("min_speed", self.fetch.min_speed),
        ):
            if number is not None and not 0 <= number < _TOO_MUCH:
                raise ConfigError(f"{name} must be a number from 0 up, not {number}")
        self.download.check()
        build_filters(self.harvest.include, self.harvest.exclude)
        if self.box.store:
            check_url(self.box.store)
        if self.box.proxy and not _PROXY.fullmatch(self.box.proxy):  # without the value: it may hold a password
            raise ConfigError("proxy must be the URL of an HTTP proxy, such as http://proxy.example:3128")
        if self.queue.lease > MAX_LEASE:
            raise ConfigError(f"lease must not be above {MAX_LEASE:g} seconds, not {self.queue.lease:g}")
        if not (self.politeness.agent.isascii() and self.politeness.agent.isprintable()):
            raise ConfigError("user_agent and contact must be one line of printable ASCII")

    def shared(self) -> dict[str, Any]:
        """What downloaders are told: every section but the box's and where the queue is."""
        tables = self.own()
        tables["queue"] = {"lease": self.queue.lease}
        del tables["crawl"]["pin"]
        return tables

    def own(self) -> dict[str, dict[str, Any]]:
        """What belongs to the crawl wherever it runs: every section but the box's, with every key."""
        tables: dict[str, dict[str, Any]] = msgspec.to_builtins(self)
        del tables["box"]
        return tables

    def to_toml(self) -> str:
        """The settings as a TOML file; what is at its default is left out."""
        lines = []
        for section in self.__struct_fields__:
            room, default = getattr(self, section), getattr(type(self)(), section)
            changed = {k: v for k, v in structs.asdict(room).items() if v != getattr(default, k) and v is not None}
            if changed and section != "box":
                lines += [f"[{section}]", *(f"{k} = {_toml(v)}" for k, v in changed.items()), ""]
        return "\n".join(lines)


def settings_for(output: Path, flags: Mapping[str, Any], config_file: Path | None = None) -> tuple[CrawlConfig, str]:
    """The settings of the crawl in ``output``, and what differs from those it had before, as one line.

    Raises:
        ConfigError: an unknown key, or a value that can't be.
    """
    local = config_file or Path(LOCAL_FILE)
    sources = [(str(local), read_toml(local))] if config_file or local.exists() else []
    saved = output / CRAWL_FILE
    before = CrawlConfig.load((str(saved), read_toml(saved))) if saved.exists() else None
    if before is not None:  # with its defaults: they too were decided when the crawl began
        sources.append((str(saved), before.own()))
    config = CrawlConfig.load(*sources, ("command line", from_flags(flags)))
    return config, ", ".join(_changes(before, config)) if before is not None else ""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it can't be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def from_flags(flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Flags by name → tables by section; None, or none of several, means that the flag was not given."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in flags.items():
        if value is not None and value != ():
            tables.setdefault(section_of(name), {})[name] = value
    return tables


def section_of(name: str) -> str:
    """The section that has a key of that name; raises `ConfigError` with the nearest name where none has."""
    sections = _sections()
    for section, names in sections.items():
        if name in names:
            return section
    raise ConfigError(f"unknown setting {name!r}{_guess(name, [n for names in sections.values() for n in names])}")


def _changes(before: CrawlConfig, after: CrawlConfig) -> Iterator[str]:
    """Every setting of the crawl's own that differs, as ``key = new (was old)``."""
    old = before.own()
    for section, table in after.own().items():
        for key, value in table.items():
            if value != old[section][key]:
                new, was = ("unset" if known is None else _toml(known) for known in (value, old[section][key]))
                yield f"{key} = {new} (was {was})"


def _sections() -> dict[str, tuple[str, ...]]:
    return {name: tuple(getattr(CrawlConfig(), name).__struct_fields__) for name in CrawlConfig.__struct_fields__}


def _checked(where: str, section: str, table: object) -> dict[str, Any]:
    """A section's table, with every key known."""
    sections = _sections()
    if section not in sections:
        raise ConfigError(f"{where}: unknown section [{section}]{_guess(section, list(sections))}")
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {section} must be a section: [{section}]")
    for key in table:
        if key not in sections[section]:
            raise ConfigError(f"{where}: unknown key {key!r} in [{section}]{_guess_key(key, section)}")
    return dict(table)


def _guess_key(name: str, section: str) -> str:
    """What may have been meant: a key of the section, or else of another one."""
    sections = _sections()
    if not difflib.get_close_matches(name, sections[section], n=1):
        for other, names in sections.items():
            if near := difflib.get_close_matches(name, names, n=1):
                return f". Did you mean {near[0]!r} in [{other}]?"
    return _guess(name, list(sections[section]))


def _guess(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f". Did you mean {near[0]!r}?" if near else f" (known: {', '.join(sorted(known))})"


def _toml(value: object) -> str:
    """A scalar or a list of strings; JSON writes those as TOML does, but for DEL and characters beyond U+FFFF."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
