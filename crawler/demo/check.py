"""``crawler demo``: crawl the bundled site with a master and two downloader processes, and check the result."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from crawler.app.config import CrawlConfig
from crawler.app.crawl import Crawl
from crawler.app.events import View
from crawler.app.seeds import CrawlInput
from crawler.app.summary import Summary
from crawler.demo.server import DemoServer
from crawler.errors import ConfigError
from crawler.model import ImageRecord
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.manifest import read_manifest


class Truth(Struct, frozen=True, kw_only=True):
    """The expected result of a crawl of the demo site, with the URLs of one running server."""

    #: Image URL → ``success``, ``failed: reason``, or ``duplicate-group`` if `duplicates` has it.
    images: dict[str, str]
    #: Groups of URLs with the same bytes: one of each group is a success, the others are its duplicates.
    duplicates: tuple[tuple[str, ...], ...] = ()
    #: URLs of pictures that must not have rows: smaller candidates, and pictures that no page shows.
    unwanted: tuple[str, ...] = ()
    #: Image URL → the expected ``alt``, ``title`` and ``caption`` of its row, if they are determined.
    words: dict[str, dict[str, str]] = {}
    #: URL of a picture file, without query → ``sha256``, ``format``, ``width`` and ``height`` of its row.
    pictures: dict[str, dict[str, str | int]] = {}


def demonstrate(
    output: Path | None, *, view: View, on_start: Callable[[Callable[[], None]], None]
) -> tuple[Summary, list[str]]:
    """Crawl the bundled site into ``output`` (None: a new temporary directory).

    Return the summary and the differences from the expected result. ``on_start`` gets the function that interrupts the
    crawl.

    Raises:
        ConfigError: the directory already has a crawl.
    """
    directory = output or Path(tempfile.mkdtemp(prefix="crawler-demo-"))
    if CrawlDirectory(directory).exists():
        raise ConfigError(f"{directory} already has a crawl; name another directory with -o, or omit -o")
    config = CrawlConfig.load(("the demo", {"machine": {"workers": 2}}))
    with DemoServer() as server:
        crawl = Crawl(directory, config, view=view)
        on_start(crawl.interrupt)
        summary = crawl.run(CrawlInput(seeds=(server.url,)))
        return summary, compare(load_truth(server), read_manifest(directory / "manifest.jsonl"))


def load_truth(server: DemoServer) -> Truth:
    """Return the expected result of a crawl, with the URLs of the running ``server``."""
    truth, pictures = (server.fill((server.site / name).read_bytes()) for name in ("truth.json", "pictures.json"))
    facts = msgspec.json.decode(pictures, type=dict[str, dict[str, str | int]])
    return msgspec.structs.replace(msgspec.json.decode(truth, type=Truth), pictures=facts)


def compare(truth: Truth, records: Iterable[ImageRecord]) -> list[str]:
    """Return a line for each difference between the expected rows and the rows of a crawl."""
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
        successes = [url for url in group if url in rows and rows[url].status == "success"]
        if len(successes) != 1:
            lines.append(f"wrong group: got {len(successes)} successes, want 1: {' '.join(group)}")
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
        value = getattr(row, field)
        if value != fact:
            yield f"wrong {field}: {row.url}: got {value!r}, want {fact!r}"
