"""Transfers that end with the header: real connections, and the bytes that the server sends on them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import crawler
from crawler.app.config import CrawlConfig
from crawler.download.downloader import Downloader
from crawler.model import Outcome, Request
from crawler.net.address_guard import Guard
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.store.local import LocalStore
from tests.download.pictures import large, picture
from tests.support.peer import Peer, serving

PIECE, PAUSE = 16_384, 0.005  # bytes, seconds
PICTURE = picture("PNG", 1_400, 1_250)


class Slow:
    """A server that sends a large picture bit by bit, and counts the bytes."""

    def __init__(self, body: bytes) -> None:
        self.body, self.sent = body, 0
        self.is_over = threading.Event()

    def __call__(self, peer: Peer) -> None:
        try:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.body))
            for start in range(0, len(self.body), PIECE):
                peer.send(self.body[start : start + PIECE])
                self.sent += PIECE
                time.sleep(PAUSE)  # the slowness itself; the test waits for no state
        finally:
            self.is_over.set()


@pytest.fixture
def fetcher() -> Iterator[RequestsFetcher]:
    fetcher = RequestsFetcher(guard=Guard(allow_private=True))
    yield fetcher
    fetcher.close()


def download(fetcher: RequestsFetcher, path: Path, url: str, **options: object) -> Outcome:
    downloader = Downloader(fetcher, LocalStore(path), **options)  # type: ignore[arg-type]
    return downloader.handle(Request(url=url, kind="image"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"types": frozenset({"jpeg"})}, "filtered"),
        ({"min_size": 1_300}, "too-small"),
        ({"max_aspect": 1.1}, "filtered"),
        ({"max_pixels": 1_000_000}, "pixels-limit"),
        ({"max_bytes": 1_000_000}, "too-large"),
    ],
)
def test_a_transfer_ends_when_the_header_is_filtered(
    fetcher: RequestsFetcher, tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    body = PICTURE.ljust(5_000_000, b"\0")
    slow = Slow(body)
    with serving(slow) as server:
        outcome = download(fetcher, tmp_path, server.url + "big.png", **options)
        assert slow.is_over.wait(10)
    assert outcome.reason == reason
    assert slow.sent < 200_000
    assert outcome.received < 200_000
    assert outcome.spared == len(body) - outcome.received


def test_a_wanted_picture_is_transferred_in_full(fetcher: RequestsFetcher, tmp_path: Path) -> None:
    slow = Slow(PICTURE)
    with serving(slow) as server:
        outcome = download(fetcher, tmp_path, server.url + "big.png", types=frozenset({"png"}), min_size=1_000)
    assert (outcome.reason, outcome.received, outcome.spared) == ("", len(PICTURE), 0)


def test_a_crawl_reports_the_bytes_it_has_spared(tmp_path: Path) -> None:
    body = large("PNG", 3_000).ljust(5_000_000, b"\0")
    slow = Slow(body)

    def site(peer: Peer) -> None:
        if peer.server.connections == 1:
            page = b"<img src=/big.png>"
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n" % len(page))
            peer.send(b"Connection: close\r\n\r\n" + page)
            peer.stop()
        else:
            slow(peer)

    with serving(site) as server:
        summary = crawler.run(
            server.url, output=tmp_path / "out", depth=0, workers=0, robots=False, sitemaps=False, types=("gif",)
        )
        assert slow.is_over.wait(10)
    assert summary.stats.reasons == {"filtered": 1}
    assert 4_800_000 < summary.stats.spared < 5_000_000
    assert slow.sent < 200_000
    assert CrawlConfig().download.types == ()
