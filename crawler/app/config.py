"""Settings: one struct for each section, filled from flags, the environment and TOML files.

Precedence: flag, ``CRAWLER_*``, the ``crawl.toml`` of a resumed crawl, ``crawler.toml`` or ``--config``, default.
Names are unique over all sections, so a flag needs no section. The frontier sends workers the settings that they need
(`CrawlConfig.shared`) in its answer to ``hello``; the settings of one machine stay there.

A setting is stated once, as a field: its type with bounds, its default, its text for ``--help`` and the reference, and
its flag if it has one. `SETTINGS` lists them. This module imports only what ``--help`` needs.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, inspect, structs

from crawler.errors import ConfigError
from crawler.version import __version__

if TYPE_CHECKING:
    from crawler.frontier.politeness import Policy

#: Name of the settings file in the current directory.
_LOCAL_FILE = "crawler.toml"

#: The name of a source in error messages, and its tables by section.
Source = tuple[str, Mapping[str, Any]]

#: Every number in the settings is smaller. A larger one is a mistake or infinity; no message or database can hold it.
_TOO_LARGE = 2**53
_Count = Annotated[int, Meta(gt=0, lt=_TOO_LARGE)]
_Number = Annotated[int, Meta(ge=0, lt=_TOO_LARGE)]
_Seconds = Annotated[float, Meta(ge=0, lt=_TOO_LARGE)]
_Timeout = Annotated[float, Meta(gt=0, lt=_TOO_LARGE)]
_Ratio = Annotated[float, Meta(ge=1, lt=_TOO_LARGE)]
_Scope = Literal["page", "path", "host", "domain", "any"]
_Near = Literal["off", "mark", "keep-best"]
_Durability = Literal["none", "batch", "file", "strict"]

_PROXY = re.compile(r"https?://(?:[!-~]*@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")
#: An error of msgspec about a bound: the comparison, the bound, section and key.
_BOUND = re.compile(r"Expected `(?:int|float)` ([<>]=?) (\S+) - at `\$\.(\w+)\.(\w+)`")
_RULES = {">=": "{:g} or more", ">": "above {:g}", "<=": "{:g} or less", "<": "below {:g}"}


def _key(text: str, default: str = "") -> Meta:
    """Describe a setting of the settings file; ``default`` describes an empty default, or replaces it in the texts."""
    return Meta(description=text, extra={"default_text": default})


def _flag(text: str, default: str = "", *, short: str = "", metavar: str = "") -> Meta:
    """Describe a setting with a flag, and a short one if ``short`` names it."""
    return Meta(description=text, extra={"default_text": default, "short": short, "metavar": metavar, "has_flag": True})


#: Former names of settings, which are accepted, and their present names.
OLD_NAMES = {"threads": "connections"}


class CrawlSettings(Struct, frozen=True, kw_only=True):
    """Order and limits. See `crawler help running`."""

    order: Annotated[Literal["fifo", "lifo", "priority"], _flag("Order of requests within a host.")] = "fifo"
    max_images: Annotated[_Count | None, _flag("Save at most this many images.", short="-n")] = None
    max_pages: Annotated[_Count | None, _flag("Crawl at most this many pages.")] = None
    max_host_pages: Annotated[_Count | None, _key("Crawl at most this number of pages of each host.")] = None
    max_host_images: Annotated[_Count | None, _key("Request at most this number of images of each host.")] = None
    patience: Annotated[
        _Seconds, _flag("Maximum seconds to wait, at the end, for hosts that asked the crawler to come back later.")
    ] = 60.0
    pin: Annotated[
        str,
        _flag(
            "Manifest of an earlier crawl: set aside pictures that differ from it; '' turns this off.", metavar="FILE"
        ),
    ] = ""

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits that can end a crawl while URLs wait, such as ``max_images = 300``."""
        names = ("max_images", "max_pages", "max_host_images", "max_host_pages")
        return tuple(f"{name} = {getattr(self, name)}" for name in names if getattr(self, name) is not None)


class HarvestSettings(Struct, frozen=True, kw_only=True):
    """Pages to crawl. See `crawler help running`."""

    #: The default is deep for a site and shallow for a crawler trap.
    depth: Annotated[
        _Number, _flag("Maximum number of links from a start page (seed) to a page; 0: start pages only.", short="-d")
    ] = 20
    scope: Annotated[_Scope, _flag("Pages to crawl; pictures may be on any host.")] = "host"
    #: Patterns of `crawler.harvest.url_patterns`.
    include: Annotated[
        tuple[str, ...], _flag("Crawl only pages that match, such as /photos/* or re:REGEX.", metavar="PATTERN")
    ] = ()
    exclude: Annotated[tuple[str, ...], _flag("URLs to skip, such as */print/*.", metavar="PATTERN")] = ()
    candidates: Annotated[Literal["largest", "first", "all"], _flag("Which sizes of a picture to download.")] = (
        "largest"
    )
    parser: Annotated[Literal["lxml", "lexbor"], _flag("HTML parser; lexbor needs imgcrawler[fast].")] = "lxml"
    sitemaps: Annotated[bool | None, _key("Read sitemaps; their URLs have no depth.", "true at depth 20 or more")] = (
        None
    )
    lazy: Annotated[tuple[str, ...], _key("Further attributes from which scripts load pictures.")] = ()
    max_page_bytes: Annotated[_Count, _key("Bytes to read of each page.")] = 10 * 2**20

    @property
    def reads_sitemaps(self) -> bool:
        """Whether sitemaps are read. By default not with a depth below 20, which asks only for pages near the seeds."""
        is_whole = self.depth >= HarvestSettings().depth and self.scope != "page"
        return is_whole if self.sitemaps is None else self.sitemaps


class PolitenessSettings(Struct, frozen=True, kw_only=True):
    """Politeness towards hosts. See `crawler help politeness`."""

    delay: Annotated[_Seconds | None, _flag("Minimum seconds between requests to a host.", "1; loopback: 0")] = None
    per_host: Annotated[_Count | None, _flag("Parallel requests per host; only with --delay 0.", "1; loopback: 16")] = (
        None
    )
    robots: Annotated[bool, _flag("Neither request nor obey robots.txt (setting: robots = false).")] = True
    tdmrep: Annotated[bool, _key("Also request /.well-known/tdmrep.json of each origin.")] = False
    user_agent: Annotated[str, _flag("The User-Agent header.", "imgcrawler/VERSION (+CONTACT)")] = ""
    contact: Annotated[str, _flag("Your email address or web page, for the sites you crawl.")] = ""

    @property
    def agent(self) -> str:
        """The ``User-Agent`` header: by default name, version and contact."""
        return self.user_agent or f"imgcrawler/{__version__}" + (f" (+{self.contact})" if self.contact else "")


class FetchSettings(Struct, frozen=True, kw_only=True):
    """Timeouts in seconds, and the minimum speed."""

    connect_timeout: Annotated[_Timeout, _key("Time for a connection.")] = 10.0
    first_byte_timeout: Annotated[_Timeout, _key("Longest silence, and time for all of the headers.")] = 20.0
    total_timeout: Annotated[_Timeout, _key("Time for the whole request.")] = 60.0
    min_speed: Annotated[_Number, _key("Minimum bytes per second of a response.")] = 1024
    speed_window: Annotated[_Timeout, _key("Seconds of waiting over which the speed is measured.")] = 10.0
    http: Annotated[Literal["curl", "requests"], _key("Library that downloads pictures in downloader processes.")] = (
        "curl"
    )


class DownloadSettings(Struct, frozen=True, kw_only=True):
    """Pictures to keep, and how they are checked and stored. See `crawler help files`."""

    types: Annotated[tuple[str, ...], _flag("Formats to keep, such as jpeg,png.", "all", metavar="NAMES")] = ()
    min_size: Annotated[_Number, _flag("Minimum length of the shorter side in pixels.")] = 0
    max_aspect: Annotated[_Ratio | None, _flag("Maximum ratio of the longer side to the shorter one.", "any")] = None
    animated: Annotated[Literal["keep", "skip", "only"], _flag("Keep animations, skip them, or keep only them.")] = (
        "keep"
    )
    max_bytes: Annotated[_Count, _flag("Maximum size of a picture.", "20M", metavar="SIZE")] = 20 * 2**20
    verify: Annotated[Literal["decode", "header"], _flag("Decode each picture, or read its header only.")] = "decode"
    near: Annotated[_Near, _flag("Near-duplicates: ignore, mark, or keep only the best file.")] = "off"
    #: Template of `crawler.download.naming`.
    name: Annotated[str, _flag("File names, such as {host}/{path}.", "a hash of the content", metavar="TEMPLATE")] = ""
    durability: Annotated[_Durability, _flag("What survives a power cut; see: crawler help files.")] = "batch"


class QueueSettings(Struct, frozen=True, kw_only=True):
    """The queue server. See `crawler help distributed`."""

    listen: Annotated[str, _flag("Address for downloaders; port 0 picks a free one.", metavar="HOST:PORT")] = (
        "127.0.0.1:0"
    )
    advertise: Annotated[
        str, _flag("Name or address at which downloaders reach this machine.", "its own", metavar="HOST")
    ] = ""
    #: The queue's messages allow no more than an hour.
    lease: Annotated[float, Meta(gt=0, le=3_600), _key("Seconds after which a silent worker loses its leases.")] = 120.0


class MachineSettings(Struct, frozen=True, kw_only=True):
    """This machine. See `crawler help operations` and `crawler help security`."""

    workers: Annotated[
        _Number | None,
        _flag("Downloader processes; 0 for threads only.", "cores, at most 4", short="-w"),
    ] = None
    connections: Annotated[_Count, _flag("Parallel downloads in each downloader process.", short="-t")] = 32
    store: Annotated[
        str,
        _flag("Save pictures at this URL (s3://bucket/prefix); needs imgcrawler[cloud].", "in -o", metavar="URL"),
    ] = ""
    wait: Annotated[_Seconds, _flag("Seconds to wait for the master at start-up.")] = 60.0
    disk_wait: Annotated[_Seconds, _flag("Seconds to wait while the disk is full or fails; then the command ends.")] = (
        600.0
    )
    #: Those of metadata services stay forbidden.
    allow_private: Annotated[bool, _flag("Allow private IP addresses for all URLs, not only for seed URLs.")] = False
    #: ``HTTP_PROXY`` and similar variables are ignored.
    proxy: Annotated[str, _flag("HTTP proxy; if it has a password, set CRAWLER_PROXY instead.", metavar="URL")] = ""
    cookies: Annotated[str, _flag("File of cookies to send, in the Netscape (curl) format.", metavar="FILE")] = ""

    @property
    def processes(self) -> int:
        """Number of downloader processes to start."""
        return min(4, os.cpu_count() or 1) if self.workers is None else self.workers


class CrawlConfig(Struct, frozen=True, kw_only=True):
    """All settings of a crawl, by section."""

    crawl: CrawlSettings = CrawlSettings()
    harvest: HarvestSettings = HarvestSettings()
    politeness: PolitenessSettings = PolitenessSettings()
    fetch: FetchSettings = FetchSettings()
    download: DownloadSettings = DownloadSettings()
    queue: QueueSettings = QueueSettings()
    machine: MachineSettings = MachineSettings()

    @classmethod
    def load(cls, *sources: Source) -> Self:
        """Merge sources, the strongest last.

        Raises:
            ConfigError: a section or key is unknown, or a value is invalid.
        """
        merged: dict[str, dict[str, Any]] = {}
        for source, tables in sources:
            for section, table in tables.items():
                merged.setdefault(section, {}).update(_checked(source, section, table))
            try:  # source by source, so that the message names the right one
                msgspec.convert(tables, cls)
            except (msgspec.ValidationError, OverflowError) as error:
                raise ConfigError(f"{source}: {_explain(str(error), tables)}") from error
        config = msgspec.convert(merged, cls)
        config.check()
        return config

    def check(self) -> None:
        """Raise `ConfigError` for texts, and for combinations of settings, that no crawl can work with."""
        from crawler.download.naming import NameTemplate
        from crawler.harvest.url_patterns import build_filters
        from crawler.store.bucket import check_url

        near = self.download.near
        if near != "off" and self.download.verify == "header":
            raise ConfigError(f"near = {near!r} needs decoded pictures: set verify to 'decode', or near to 'off'")
        NameTemplate(self.download.name)
        build_filters(self.harvest.include, self.harvest.exclude)
        if self.machine.store:
            check_url(self.machine.store)
        if self.machine.proxy and not _PROXY.fullmatch(self.machine.proxy):  # no value: it may hold a password
            raise ConfigError("proxy must be the URL of an HTTP proxy, such as http://proxy.example:3128")
        if not (self.politeness.agent.isascii() and self.politeness.agent.isprintable()):
            raise ConfigError("user_agent and contact must each be a single line of printable ASCII characters")

    def shared(self) -> dict[str, Any]:
        """Return the settings that downloaders get: all except those of the machine and the address of the queue."""
        tables = self.own()
        tables["queue"] = {"lease": self.queue.lease}
        del tables["crawl"]["pin"]
        return tables

    def own(self) -> dict[str, dict[str, Any]]:
        """Return every setting of the crawl, with its defaults: all sections except the machine's."""
        tables: dict[str, dict[str, Any]] = msgspec.to_builtins(self)
        del tables["machine"]
        return tables

    def to_toml(self) -> str:
        """Return the text of a TOML file with the settings that differ from their defaults."""
        lines = []
        for section, table in self.own().items():
            if changed := {k: v for k, v in table.items() if v != SETTINGS[k].default and v is not None}:
                lines += [f"[{section}]", *(f"{k} = {toml(v)}" for k, v in changed.items()), ""]
        return "\n".join(lines)


class Setting(Struct, frozen=True, kw_only=True):
    """A setting as its field declares it."""

    section: str
    #: Title of the section: the first sentence of its docstring.
    title: str
    name: str
    #: Type, with bounds; and the values of a choice, in the order of the field.
    type: inspect.Type
    choices: tuple[str, ...]
    default: Any
    #: Description, and the text that replaces the default in it.
    text: str
    default_text: str
    has_flag: bool = False
    short: str = ""
    metavar: str = ""

    @property
    def flag(self) -> str:
        """The flag: ``--key``, or ``--no-key`` for a setting that is on by default."""
        return f"--{'no-' if self.default is True else ''}{self.name.replace('_', '-')}"


def _declared() -> Iterator[Setting]:
    config: Any = inspect.type_info(CrawlConfig)
    for section in config.fields:
        about = {"section": section.name, "title": section.type.cls.__doc__.partition(".")[0]}
        for field, hint in zip(section.type.fields, structs.fields(section.type.cls), strict=True):
            kind = get_args(hint.type)[0]
            values = {"name": field.name, "type": field.type.type, "default": field.default, **field.type.extra}
            values["choices"] = get_args(kind) if get_origin(kind) is Literal else ()
            yield Setting(text=field.type.extra_json_schema["description"], **about, **values)


#: All settings by name, in the order of the sections.
SETTINGS = {setting.name: setting for setting in _declared()}


def policy(config: CrawlConfig) -> "Policy":
    """Return the policy of the frontier: pace, order and limits."""
    from crawler.frontier.politeness import Policy

    settings = structs.asdict(config.crawl) | structs.asdict(config.politeness)
    same = {name: settings[name] for name in Policy.__struct_fields__ if name in settings}
    return Policy(sitemaps=config.harvest.reads_sitemaps, **same)


def settings_for(
    output: Path, given: Iterable[Source] = (), config_file: Path | None = None
) -> tuple[CrawlConfig, str]:
    """Return the settings of the crawl in ``output``, and their changes since the last run in one line.

    ``given`` are the sources that override all files.

    Raises:
        ConfigError: a key is unknown, or a value is invalid.
    """
    from crawler.store.crawl_directory import CrawlDirectory

    local = config_file or Path(_LOCAL_FILE)
    sources: list[Source] = [(str(local), read_toml(local))] if config_file or local.exists() else []
    saved = CrawlDirectory(output).settings
    before = CrawlConfig.load((str(saved), read_toml(saved))) if saved.exists() else None
    if before is not None:  # with the defaults: a resumed crawl keeps them, too
        sources.append((str(saved), before.own()))
    config = CrawlConfig.load(*sources, *given)
    return config, ", ".join(_changes(before, config)) if before is not None else ""


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: the file can't be read or is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def from_flags(flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the flags as tables by section; a flag that is None or () was not given.

    Raises:
        ConfigError: there is no such setting.
    """
    tables: dict[str, dict[str, Any]] = {}
    for given, value in flags.items():
        name = OLD_NAMES.get(given, given)
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name!r}{_guess(name, SETTINGS)}")
        if value is not None and value != ():
            tables.setdefault(SETTINGS[name].section, {})[name] = value
    return tables


def toml(value: object) -> str:
    """Return the TOML of a scalar or a list of strings: their JSON, except for DEL and characters beyond U+FFFF."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _changes(before: CrawlConfig, after: CrawlConfig) -> Iterator[str]:
    """Yield each changed setting of the crawl as ``key = new (was old)``."""
    old = before.own()
    for section, table in after.own().items():
        for key, value in table.items():
            if value != old[section][key]:
                new, was = ("unset" if setting is None else toml(setting) for setting in (value, old[section][key]))
                yield f"{key} = {new} (was {was})"


def _checked(source: str, section: str, table: object) -> dict[str, Any]:
    """Return a section's table, or raise `ConfigError` if the section or a key is unknown."""
    if section not in CrawlConfig.__struct_fields__:
        raise ConfigError(f"{source}: unknown section [{section}]{_guess(section, CrawlConfig.__struct_fields__)}")
    if not isinstance(table, Mapping):
        raise ConfigError(
            f"{source}: {section} is the name of a section; write [{section}] and its keys in the lines below"
        )
    keys = [setting.name for setting in SETTINGS.values() if setting.section == section]
    table = {str(OLD_NAMES.get(key, key)): value for key, value in table.items()}
    for key in table:
        if key not in keys:
            raise ConfigError(f"{source}: unknown key {key!r} in [{section}]{_guess_key(key, keys)}")
    return table


def _guess_key(name: str, keys: list[str]) -> str:
    """Return a hint: the same key in another section, a similar one of this section, or of another section."""
    if name in SETTINGS:
        return f": it belongs in [{SETTINGS[name].section}]"
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    if near and not difflib.get_close_matches(name, keys, n=1):
        return f". Did you mean {near[0]!r} in [{SETTINGS[near[0]].section}]?"
    return _guess(name, keys)


def _guess(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f". Did you mean {near[0]!r}?" if near else f" (known: {', '.join(sorted(known))})"


def _explain(error: str, tables: Mapping[str, Any]) -> str:
    """Return what msgspec says about a value; for a number out of bounds, with the number."""
    match = _BOUND.match(error)
    if match is None:
        return error.replace("`$.", "`")
    comparison, bound, section, key = match.groups()
    rule = "below 2**53" if float(bound) >= _TOO_LARGE - 1 else _RULES[comparison].format(float(bound))
    value = tables[section][key]
    return f"{key} must be {rule}, not {f'{value:g}' if isinstance(value, float) else value}"
