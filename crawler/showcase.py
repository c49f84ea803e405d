"""The demonstration: the bundled web, crawled by a real master and two downloader processes, against the truth."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from crawler.config import CrawlConfig
from crawler.crawl import Crawl
from crawler.demo import DemoServer
from crawler.errors import ConfigError
from crawler.manifest import read_manifest
from crawler.model import ImageRecord
from crawler.seeds import Source
from crawler.view import Summary, View


class Truth(Struct, frozen=True, kw_only=True):
    """What a crawl of the demo site must find, its URLs being those of one running server."""

    #: Image URL → ``success``, ``failed: reason``, or ``duplicate-group`` if `duplicates` has it.
    images: dict[str, str]
    #: URLs with the same bytes: one of each group is a success, the others are duplicates of it.
    duplicates: tuple[tuple[str, ...], ...] = ()
    #: Pictures that must not be rows: smaller candidates, and what no page shows.
    unwanted: tuple[str, ...] = ()
    #: Image URL → those of its row's ``alt``, ``title`` and ``caption`` that are determined.
    words: dict[str, dict[str, str]] = {}
    #: URL of a picture file, without query → ``sha256 format width height`` of its row.
    pictures: dict[str, dict[str, str | int]] = {}


def demonstrate(
    output: Path | None, *, view: View, on_start: Callable[[Callable[[], None]], None]
) -> tuple[Summary, list[str]]:
    """Crawl the bundled web into ``output`` (None: a new temporary directory); returns the differences to the truth.

    ``on_start`` is given what interrupts the crawl.

    Raises:
        ConfigError: there is a crawl in that directory already.
    """
    place = output or Path(tempfile.mkdtemp(prefix="crawler-demo-"))
    if (place / "frontier.sqlite").exists():
        raise ConfigError(f"{place} has a crawl already; name another directory with -o, or leave it out")
    config = CrawlConfig.load(("the demonstration", {"box": {"workers": 2}}))
    with DemoServer() as server:
        crawl = Crawl(place, config, view=view)
        on_start(crawl.interrupt)
        summary = crawl.run(Source(seeds=(server.url,)))
        return summary, compare(load_truth(server), read_manifest(place / "manifest.jsonl"))


def load_truth(server: DemoServer) -> Truth:
    """What a crawl of the site must find, with the URLs under which the started ``server`` has it."""
    truth, pictures = (server.fill((server.site / name).read_bytes()) for name in ("truth.json", "pictures.json"))
    facts = msgspec.json.decode(pictures, type=dict[str, dict[str, str | int]])
    return msgspec.structs.replace(msgspec.json.decode(truth, type=Truth), pictures=facts)


def compare(truth: Truth, records: Iterable[ImageRecord]) -> list[str]:
    """Every difference between the truth and the rows of a crawl, a line each; empty: all is as it must be."""
    rows: dict[str, ImageRecord] = {}
    lines = []
    for row in records:
        if row.url in rows:
            lines.append(f"URL twice: {row.url}")
        elif row.url not in truth.images:
            lines.append(f"unexpected URL: {row.url}{' (unwanted)' if row.url in truth.unwanted else ''}")
        else:
            lines += _differences(truth, row)
        rows[row.url] = row
    lines += [f"missing URL: {url}" for url in truth.images if url not in rows]
    for group in truth.duplicates:
        first = [url for url in group if url in rows and rows[url].status == "success"]
        if len(first) != 1:
            lines.append(f"wrong group: got {len(first)} successes, want 1: {' '.join(group)}")
    return lines


def _differences(truth: Truth, row: ImageRecord) -> Iterator[str]:
    want = truth.images[row.url]
    got = f"failed: {row.reason}" if row.status == "failed" else row.status
    if got != want and not (want == "duplicate-group" and row.status != "failed"):
        yield f"wrong verdict: {row.url}: got {got}, want {want}"
    facts: dict[str, str | int] = {**truth.words.get(row.url, {})}
    if row.status != "failed":
        facts |= truth.pictures.get(row.final_url.partition("?")[0], {"final_url": "a picture of the site"})
    for field, fact in facts.items():
        found = getattr(row, field)
        if found != fact:
            yield f"wrong {field}: {row.url}: got {found!r}, want {fact!r}"
