"""From one image URL to one record: fetched, checked, stored, described."""

import logging
import time
from typing import Literal

from msgspec import structs

from crawler.consent import NO_IMAGES, header_directives, objection
from crawler.download.decoders import Decoders
from crawler.download.dedup import digest
from crawler.download.header import Header, read_header
from crawler.download.naming import Naming
from crawler.download.verify import MAX_PIXELS, ImageInfo, examine, is_risky, load_decoders, prove
from crawler.download.wanted import Animations, Wanted, as_header
from crawler.errors import RequestFailed
from crawler.fetcher import Conditions, Fetcher, Response, redirected, revalidating
from crawler.known import OF_CONTENT, Known
from crawler.model import ImageRecord, Outcome, Request, describe, failure
from crawler.paths import is_picture
from crawler.storage import BlobStore

_log = logging.getLogger(__name__)

#: Types of which servers that choose by it send what they send to browsers.
_ACCEPT = "image/avif,image/webp,image/apng,image/*,*/*;q=0.8"
#: Bytes that are read in the hope that the header tells enough; some have long profiles before it.
_HEADER_BYTES = 65_536
#: Verdicts that need no more of a picture than its beginning; what is not transferred then was spared.
_SPARING = frozenset({"filtered", "too-small", "too-large", "pixels-limit", "not-an-image", "unsupported-format"})


class Downloader:
    """The handler of ``image`` requests; any thread may call it.

    Args:
        fetcher: brings the answers.
        store: keeps the bytes.
        naming: names what is kept; None: by content alone.
        types: formats to keep, as `ImageInfo.format` or ``extension`` names them; None: all.
        max_bytes: longest body.
        min_size: pixels that the shorter side must have.
        max_aspect: how many times as long the longer side may be; None: any.
        animated: ``keep``, ``skip`` or take ``only`` animations.
        max_pixels: largest canvas.
        verify: ``decode`` all of a picture, or be content with its ``header`` and a container that is whole.
        decoders: processes for what is risky to decode; default: a few of its own.
        redirects: hops that are followed.
        with_phash: whether records tell what pictures look like; they do not with ``verify`` set to ``header``.
        agent: our name in headers that speak to one agent; of a whole ``User-Agent`` the product counts.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        store: BlobStore,
        *,
        naming: Naming | None = None,
        types: frozenset[str] | None = None,
        max_bytes: int = 20 * 2**20,
        min_size: int = 0,
        max_aspect: float | None = None,
        animated: Animations = "keep",
        max_pixels: int = MAX_PIXELS,
        verify: Literal["decode", "header"] = "decode",
        decoders: Decoders | None = None,
        redirects: int = 20,
        with_phash: bool = False,
        agent: str = "imgcrawler",
    ) -> None:
        load_decoders()
        self._fetcher = fetcher
        self._store = store
        self._naming = naming or Naming()
        self._conditions = Conditions(accept=_ACCEPT, max_bytes=max_bytes)
        self._wanted = Wanted(
            types=types, min_size=min_size, max_aspect=max_aspect, animated=animated, max_pixels=max_pixels
        )
        self._verify = verify
        self._decoders = decoders or Decoders()
        self._redirects = redirects
        self._with_phash = with_phash
        self._agent = agent

    def handle(self, request: Request) -> Outcome:
        """Download one image; whatever the network or the bytes do ends in the outcome.

        Raises:
            DiskError: the store refuses, for which no URL is to blame.
        """
        started = time.monotonic()
        try:
            response = self._fetcher.fetch(request, self._conditions_for(request))
        except RequestFailed as error:
            return failure(request, error, time.monotonic() - started)
        try:
            with response:
                return self._receive(request, response)
        except RequestFailed as error:
            error.http_status = error.http_status or response.status
            spared = response.spared if error.reason in _SPARING else 0
            outcome = failure(request, error, response.elapsed)
            if outcome.record is not None and error.reason in OF_CONTENT and not error.retryable:
                etag, modified = _validators(request, response)
                record = structs.replace(outcome.record, final_url=response.url, etag=etag, last_modified=modified)
                outcome = structs.replace(outcome, record=record)
            return structs.replace(outcome, received=response.received, spared=spared)

    def close(self) -> None:
        """End the processes that decode; they end with this one in any case."""
        self._decoders.close()

    def _conditions_for(self, request: Request) -> Conditions:
        """With what is known of the picture, unless its file should be here and is not."""
        known = request.known
        is_lost = known is not None and known.store == self._store.id and not self._store.exists(known.path)
        return self._conditions if is_lost else revalidating(self._conditions, request)

    def _receive(self, request: Request, response: Response) -> Outcome:
        if response.location is not None:
            return redirected(request, response, self._redirects)
        if response.is_unchanged and request.known is not None:
            return self._repeat(request, response, request.known)
        response.raise_for_status()
        self._respect_opt_outs(response)
        data = self._read(response)
        info = self._inspect(data)
        self._wanted.check(as_header(info))
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

    def _read(self, response: Response) -> bytes:
        """The body, unless its first bytes say already that nobody wants it."""
        pieces: list[bytes] = []
        size, due, is_open = 0, 0, True
        for piece in response.chunks():
            pieces.append(piece)
            size += len(piece)
            if is_open and size >= due:
                is_open = not self._is_told(b"".join(pieces)) and size < _HEADER_BYTES
                due = size + max(512, size // 4)  # whoever drips bytes must not have each of them looked at
        return b"".join(pieces)

    def _is_told(self, beginning: bytes) -> bool:
        header = read_header(beginning)
        return header is not None and self._wanted.check(header)

    def _inspect(self, data: bytes) -> ImageInfo:
        """What the picture is; raises as `crawler.download.verify.inspect_image` does."""
        max_pixels = self._wanted.max_pixels
        found = examine(data, max_pixels)
        if self._verify == "decode" and is_risky(found):
            return self._decoders.prove(found, max_pixels, with_phash=self._with_phash)
        return prove(found, max_pixels, decode=self._verify == "decode", with_phash=self._with_phash)

    def _repeat(self, request: Request, response: Response, known: Known) -> Outcome:
        """The outcome of a picture that is still the same. What the settings want of it may be something else now."""
        self._respect_opt_outs(response)
        if known.reason:
            raise RequestFailed(known.reason, "still the same")
        self._wanted.check(Header(format=known.format, width=known.width, height=known.height, animated=None))
        is_own = is_picture(known.path, known.sha256)  # else that of another picture, which stands for this one
        record = _record(
            request,
            response,
            store=known.store if is_own else "",
            path=known.path if is_own else "",
            sha256=known.sha256,
            bytes=known.bytes,
            format=known.format,
            width=known.width,
            height=known.height,
        )
        return Outcome(status="done", record=record, latency=response.elapsed, received=response.received)

    def _save(self, request: Request, response: Response, data: bytes, info: ImageInfo) -> tuple[ImageRecord, bool]:
        """The record, and whether the store had the bytes not yet."""
        record = _record(
            request,
            response,
            sha256=digest(data),
            bytes=len(data),
            format=info.format,
            width=info.width,
            height=info.height,
            phash=info.phash,
        )
        path = self._naming.key(record, info.extension)
        known = request.known
        if known is not None and known.store == self._store.id and is_picture(known.path, record.sha256):
            path = known.path  # the same bytes keep their name, also where the file was lost
        is_new = self._store.put(path, data)
        return structs.replace(record, store=self._store.id, path=path), is_new


def _record(request: Request, response: Response, **picture: object) -> ImageRecord:
    """The record of a picture that an answer has brought, or confirmed."""
    etag, modified = _validators(request, response)
    return describe(
        request,
        status="success",
        final_url=response.url,
        http_status=response.status,
        fetched_at=time.time(),
        elapsed=response.elapsed,
        etag=etag,
        last_modified=modified,
        **picture,
    )


def _validators(request: Request, response: Response) -> tuple[str, str]:
    """How to ask the next time; an answer that nothing has changed may leave that as it was."""
    etag, modified = response.validators
    if response.is_unchanged and request.known is not None:
        return etag or request.known.etag, modified or request.known.last_modified
    return etag, modified
