"""`CurlFetcher` for tests: one fetch after the other, each with its response and its body."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from crawler.errors import CrawlerError, RequestFailed
from crawler.model import Outcome, Request
from crawler.net.address_guard import Guard
from crawler.net.curl_fetcher import CurlFetcher
from crawler.net.event_loop import EventLoop
from crawler.net.fetcher import Conditions, Response, TransferLimits
from crawler.net.request_headers import RequestHeaders

#: Seconds after which a test gives up.
_PATIENCE = 20.0


class Kept:
    """A receiver that keeps the response and the body."""

    def __init__(self, conditions: Conditions, *, wants_body: bool = True) -> None:
        self.conditions, self._wants_body = conditions, wants_body
        self.response: Response | None = None
        self.pieces: list[bytes] = []
        self.ended = threading.Event()
        self.error: CrawlerError | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def begin(self, response: Response) -> bool:
        self.response = response
        return self._wants_body

    def feed(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def finish(self) -> Outcome:
        return Outcome(status="done")

    def fail(self, error: RequestFailed) -> Outcome:
        return Outcome(status="done", reason=error.reason)

    def take_end(self, error: CrawlerError | None) -> None:
        self.error = error
        self.ended.set()


class Curl:
    """A `CurlFetcher` whose loop runs in a thread."""

    def __init__(self, loop: EventLoop, fetcher: CurlFetcher) -> None:
        self.loop, self.fetcher = loop, fetcher

    def start(self, url: str, conditions: Conditions | None = None, *, wants_body: bool = True, **fields: Any) -> Kept:
        """Start a fetch; it ends later."""
        kept = Kept(conditions or Conditions(), wants_body=wants_body)
        request = Request(url=url, **fields)
        self.loop.call(lambda: self.fetcher.start(request, kept, kept.take_end))
        return kept

    def get(self, url: str, conditions: Conditions | None = None, *, wants_body: bool = True, **fields: Any) -> Kept:
        """Fetch a URL; raise what ended the fetch, or return the response with its body."""
        kept = self.start(url, conditions, wants_body=wants_body, **fields)
        assert kept.ended.wait(_PATIENCE), "the fetch does not end"
        if kept.error is not None:
            raise kept.error
        return kept


@contextlib.contextmanager
def curl(limits: TransferLimits | None = None, headers: RequestHeaders | None = None, **options: Any) -> Iterator[Curl]:
    """Provide a fetcher that may visit this machine, unless it is given another guard."""
    loop = EventLoop()
    options = {"guard": Guard(allow_private=True), **options}
    fetcher = CurlFetcher(loop, limits, headers or RequestHeaders("test/1.0"), **options)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield Curl(loop, fetcher)
    finally:
        loop.stop()
        thread.join(_PATIENCE)
        fetcher.close()
        loop.close()
