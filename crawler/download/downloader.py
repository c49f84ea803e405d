"""The handler of image requests: it fetches, checks and stores one image, and returns its record."""

import logging
import time
from typing import Literal

from msgspec import structs

from crawler.download.decoder_pool import DecoderPool
from crawler.download.formats.base import ImageHeader
from crawler.download.formats.detect import read_header
from crawler.download.image_filter import Animations, ImageFilter, as_header
from crawler.download.naming import NameTemplate, digest
from crawler.download.verify import MAX_PIXELS, ImageInfo, examine, is_risky, load_decoders, prove
from crawler.errors import RequestFailed
from crawler.handler import failure, redirected, revalidating
from crawler.model import OF_CONTENT, ImageRecord, Outcome, PriorFetch, Request, describe
from crawler.net.fetcher import Conditions, Fetcher, Response
from crawler.paths import is_picture
from crawler.robots.directives import NO_IMAGES, header_directives, objection
from crawler.store.base import BlobStore

_log = logging.getLogger(__name__)

#: Most redirects followed from one image.
MAX_REDIRECTS = 20
#: ``Accept`` header with which servers that negotiate the type send the same image as to browsers.
_ACCEPT = "image/avif,image/webp,image/apng,image/*,*/*;q=0.8"
#: Bytes in which an image's size is looked for; some files have long profiles before it.
_HEADER_BYTES = 65_536
#: Reasons that need only the beginning of an image; the bytes that are not transferred then count as spared.
_EARLY_REASONS = frozenset({"filtered", "too-small", "too-large", "pixels-limit", "not-an-image", "unsupported-format"})


class Downloader:
    """The handler of ``image`` requests; any thread may call it.

    Args:
        fetcher: fetches the responses.
        store: stores the images.
        naming: names the stored files; None: by content alone.
        types: formats to save, as in `ImageInfo.format` or ``extension``; None: all.
        max_bytes: longest body in bytes.
        min_size: smallest length of the shorter side in pixels.
        max_aspect: largest ratio of the longer side to the shorter; None: any.
        animated: ``keep`` or ``skip`` animations, or save ``only`` animations.
        max_pixels: largest canvas in pixels.
        verify: ``decode`` the image, or check only its ``header`` and that its container is complete.
        decoders: processes for images that are risky to decode; default: an own pool.
        with_phash: whether records have perceptual hashes; never with ``verify`` set to ``header``.
        agent: our name, for header directives to one agent; in a full ``User-Agent`` only the product counts.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        store: BlobStore,
        *,
        naming: NameTemplate | None = None,
        types: frozenset[str] | None = None,
        max_bytes: int = 20 * 2**20,
        min_size: int = 0,
        max_aspect: float | None = None,
        animated: Animations = "keep",
        max_pixels: int = MAX_PIXELS,
        verify: Literal["decode", "header"] = "decode",
        decoders: DecoderPool | None = None,
        with_phash: bool = False,
        agent: str = "imgcrawler",
    ) -> None:
        load_decoders()
        self._fetcher = fetcher
        self._store = store
        self._template = naming or NameTemplate()
        self._conditions = Conditions(accept=_ACCEPT, max_bytes=max_bytes)
        self._filter = ImageFilter(
            types=types, min_size=min_size, max_aspect=max_aspect, animated=animated, max_pixels=max_pixels
        )
        self._verify = verify
        self._decoder_pool = decoders or DecoderPool()
        self._with_phash = with_phash
        self._agent = agent

    def handle(self, request: Request) -> Outcome:
        """Download one image. Every failure of the network or of the image ends in the outcome.

        Raises:
            DiskError: the store reports an error, which does not count against the URL.
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
            spared = response.spared if error.reason in _EARLY_REASONS else 0
            outcome = failure(request, error, response.elapsed)
            if outcome.record is not None and error.reason in OF_CONTENT and not error.retryable:
                etag, modified = _validators(request, response)
                record = structs.replace(outcome.record, final_url=response.url, etag=etag, last_modified=modified)
                outcome = structs.replace(outcome, record=record)
            return structs.replace(outcome, received=response.received, spared=spared)

    def close(self) -> None:
        """End the decoder processes now; they end with this process in any case."""
        self._decoder_pool.close()

    def _conditions_for(self, request: Request) -> Conditions:
        """Return conditions that revalidate the previous fetch, unless its file is missing in this store."""
        prior = request.prior
        is_lost = prior is not None and prior.store == self._store.id and not self._store.exists(prior.path)
        return self._conditions if is_lost else revalidating(self._conditions, request)

    def _receive(self, request: Request, response: Response) -> Outcome:
        if response.location is not None:
            return redirected(request, response, MAX_REDIRECTS)
        if response.is_unchanged and request.prior is not None:
            return self._confirm(request, response, request.prior)
        response.raise_for_status()
        self._respect_opt_outs(response)
        data = self._read(response)
        info = self._inspect(data, is_suspect=request.is_suspect)
        self._filter.check(as_header(info))
        record, is_new = self._save(request, response, data, info)
        return Outcome(
            status="done", record=record, latency=response.elapsed, received=response.received, stored=is_new
        )

    def _respect_opt_outs(self, response: Response) -> None:
        headers = response.headers
        directives = header_directives(headers.getlist("x-robots-tag"), headers.getlist("tdm-reservation"))
        directive = objection(directives, NO_IMAGES, self._agent, time.time())
        if directive:
            _log.info("action=opt-out url=%s directive=%s", response.url, directive)
            raise RequestFailed("opted-out", directive)

    def _read(self, response: Response) -> bytes:
        """Read the body, unless its first bytes show that the filter refuses the image."""
        chunks: list[bytes] = []
        size, next_check, is_undecided = 0, 0, True
        for chunk in response.chunks():
            chunks.append(chunk)
            size += len(chunk)
            if is_undecided and size >= next_check:
                header = read_header(b"".join(chunks))
                is_undecided = (header is None or not self._filter.check(header)) and size < _HEADER_BYTES
                next_check = size + max(512, size // 4)  # a server that sends single bytes costs few checks
        return b"".join(chunks)

    def _inspect(self, data: bytes, *, is_suspect: bool) -> ImageInfo:
        """Verify the image and return its properties. Raise as `crawler.download.verify.inspect_image` does.

        A suspect is decoded in another process. If that process crashes, this image alone is the cause (``poison``);
        otherwise the image is not the cause of the lost delivery.
        """
        max_pixels = self._filter.max_pixels
        outline = examine(data, max_pixels)
        if self._verify == "decode" and (is_suspect or is_risky(outline)):
            of_crash = "poison" if is_suspect else "corrupt"
            return self._decoder_pool.prove(outline, max_pixels, with_phash=self._with_phash, of_crash=of_crash)
        return prove(outline, max_pixels, decode=self._verify == "decode", with_phash=self._with_phash)

    def _confirm(self, request: Request, response: Response, prior: PriorFetch) -> Outcome:
        """Return the outcome of an unchanged image. It is filtered again, because the settings may have changed."""
        self._respect_opt_outs(response)
        if prior.reason:
            raise RequestFailed(prior.reason, "unchanged")
        self._filter.check(ImageHeader(format=prior.format, width=prior.width, height=prior.height, animated=None))
        is_own = is_picture(prior.path, prior.sha256)  # otherwise the file of another image that represents this one
        record = _record(
            request,
            response,
            store=prior.store if is_own else "",
            path=prior.path if is_own else "",
            sha256=prior.sha256,
            bytes=prior.bytes,
            format=prior.format,
            width=prior.width,
            height=prior.height,
        )
        return Outcome(status="done", record=record, latency=response.elapsed, received=response.received)

    def _save(self, request: Request, response: Response, data: bytes, info: ImageInfo) -> tuple[ImageRecord, bool]:
        """Store the image; return its record, and whether its bytes were new to the store."""
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
        path = self._template.key(record, info.extension)
        prior = request.prior
        if prior is not None and prior.store == self._store.id and is_picture(prior.path, record.sha256):
            path = prior.path  # the same bytes keep their name, even if the file was lost
        is_new = self._store.put(path, data)
        return structs.replace(record, store=self._store.id, path=path), is_new


def _record(request: Request, response: Response, **picture: object) -> ImageRecord:
    """Return the record of an image that a response has delivered or confirmed."""
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
    """Return ETag and Last-Modified for the next request; a 304 without them keeps the previous ones."""
    etag, modified = response.validators
    if response.is_unchanged and request.prior is not None:
        return etag or request.prior.etag, modified or request.prior.last_modified
    return etag, modified
