"""From one image URL to one record: fetched, checked, stored, described."""

import logging
import time

from msgspec import structs

from crawler.consent import NO_IMAGES, header_directives, objection
from crawler.download.dedup import digest, image_key
from crawler.download.verify import MAX_PIXELS, ImageInfo, inspect_image
from crawler.errors import RequestFailed
from crawler.fetcher import Conditions, Fetcher, Response, redirected
from crawler.model import ImageRecord, Outcome, Request, describe, failure
from crawler.storage import BlobStore

_log = logging.getLogger(__name__)

#: Types of which servers that choose by it send what they send to browsers.
_ACCEPT = "image/avif,image/webp,image/apng,image/*,*/*;q=0.8"


class Downloader:
    """The handler of ``image`` requests; any thread may call it.

    Args:
        fetcher: brings the answers.
        store: keeps the bytes.
        types: formats to keep, as `ImageInfo.format` or ``extension`` names them; None: all.
        max_bytes: longest body.
        min_size: pixels that the smaller side must have.
        max_pixels: largest canvas.
        redirects: hops that are followed.
        agent: our name in headers that speak to one agent; of a whole ``User-Agent`` the product counts.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        store: BlobStore,
        *,
        types: frozenset[str] | None = None,
        max_bytes: int = 20 * 2**20,
        min_size: int = 0,
        max_pixels: int = MAX_PIXELS,
        redirects: int = 5,
        agent: str = "imgcrawler",
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self._types = types
        self._conditions = Conditions(accept=_ACCEPT, max_bytes=max_bytes)
        self._min_size = min_size
        self._max_pixels = max_pixels
        self._redirects = redirects
        self._agent = agent

    def handle(self, request: Request) -> Outcome:
        """Download one image; whatever the network or the bytes do ends in the outcome.

        Raises:
            DiskError: the store refuses, for which no URL is to blame.
        """
        started = time.monotonic()
        try:
            response = self._fetcher.fetch(request, self._conditions)
        except RequestFailed as error:
            return failure(request, error, time.monotonic() - started)
        with response:
            try:
                return self._receive(request, response)
            except RequestFailed as error:
                error.http_status = error.http_status or response.status
                return structs.replace(failure(request, error, response.elapsed), received=response.received)

    def _receive(self, request: Request, response: Response) -> Outcome:
        if response.location is not None:
            return redirected(request, response, self._redirects)
        response.raise_for_status()
        self._respect_opt_outs(response)
        data = response.read()
        info = inspect_image(data, max_pixels=self._max_pixels)
        self._filter(info)
        record, is_new = self._save(request, response, data, info)
        return Outcome(
            status="done", record=record, latency=response.elapsed, received=response.received, stored=is_new
        )

    def _respect_opt_outs(self, response: Response) -> None:
        headers = response.headers
        asked = header_directives(headers.getlist("x-robots-tag"), headers.getlist("tdm-reservation"))
        directive = objection(asked, NO_IMAGES, self._agent, time.time())
        if directive:
            _log.info("action=opt-out url=%s directive=%s", response.url, directive)
            raise RequestFailed("opted-out", directive)

    def _filter(self, info: ImageInfo) -> None:
        if self._types is not None and not self._types & {info.format, info.extension}:
            raise RequestFailed("filtered", f"type {info.format}")
        if min(info.width, info.height) < self._min_size:
            raise RequestFailed("too-small", f"{info.width}x{info.height} pixels")

    def _save(self, request: Request, response: Response, data: bytes, info: ImageInfo) -> tuple[ImageRecord, bool]:
        """The record, and whether the store had the bytes not yet."""
        sha256 = digest(data)
        path = image_key(sha256, info.extension)
        is_new = self._store.put(path, data)
        record = describe(
            request,
            status="success",
            final_url=response.url,
            store=self._store.id,
            path=path,
            sha256=sha256,
            bytes=len(data),
            format=info.format,
            width=info.width,
            height=info.height,
            http_status=response.status,
            fetched_at=time.time(),
            elapsed=response.elapsed,
        )
        return record, is_new
