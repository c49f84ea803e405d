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
from crawler.download.verify import MAX_PIXELS, ImageInfo, examine, is_risky, prove
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
#: Bytes that are checked within a few milliseconds, and the first bytes of formats that are decoded in this process:
#: JPEG, PNG and GIF.
_HEAVY_BYTES = {"decode": 256 * 1024, "header": 2 * 2**20}
_LIGHT_FORMATS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")
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
        self._fetcher = fetcher
        self.store = store
        self.template = naming or NameTemplate()
        self.conditions = Conditions(accept=_ACCEPT, max_bytes=max_bytes)
        self.filter = ImageFilter(
            types=types, min_size=min_size, max_aspect=max_aspect, animated=animated, max_pixels=max_pixels
        )
        self._verify = verify
        #: Bytes of an image above which its check takes longer than an event loop may stand still.
        self.heavy_bytes = _HEAVY_BYTES[verify]
        self._decoder_pool = decoders or DecoderPool()
        self._with_phash = with_phash
        self.agent = agent

    def handle(self, request: Request) -> Outcome:
        """Download one image. Every failure of the network or of the image ends in the outcome.

        Raises:
            DiskError: the store reports an error, which does not count against the URL.
        """
        download = self.open(request)
        try:
            with self._fetcher.fetch(request, download.conditions) as response:
                if download.begin(response):
                    for piece in response.chunks():
                        download.feed(piece)
                return download.finish()
        except RequestFailed as error:
            return download.fail(error)

    def open(self, request: Request) -> "Download":
        """Return the receiver of the response to a request, for a fetcher that runs many requests at a time."""
        return Download(self, request)

    def inspect(self, data: bytes, *, is_suspect: bool) -> ImageInfo:
        """Verify an image and return its properties. Raise as `crawler.download.verify.inspect_image` does.

        A suspect is decoded in another process. If that process crashes, this image alone is the cause (``poison``);
        otherwise the image is not the cause of the lost delivery.
        """
        max_pixels = self.filter.max_pixels
        outline = examine(data, max_pixels)
        if self._verify == "decode" and (is_suspect or is_risky(outline)):
            of_crash = "poison" if is_suspect else "corrupt"
            return self._decoder_pool.prove(outline, max_pixels, with_phash=self._with_phash, of_crash=of_crash)
        return prove(outline, max_pixels, decode=self._verify == "decode", with_phash=self._with_phash)

    def close(self) -> None:
        """End the decoder processes now; they end with this process in any case."""
        self._decoder_pool.close()


class Download:
    """One image as it arrives: a `crawler.net.fetcher.Receiver`.

    Args:
        downloader: its filters, store and decoders.
        request: the image's request.
    """

    def __init__(self, downloader: Downloader, request: Request) -> None:
        self._downloader, self._request = downloader, request
        self._started = time.monotonic()
        self._response: Response | None = None
        self._pieces: list[bytes] = []
        #: Bytes that have come.
        self.size = self._next_check = 0
        self._is_undecided = True
        #: The outcome, if it is known without the body.
        self._early: Outcome | None = None
        self.conditions = self._conditions()

    @property
    def is_heavy(self) -> bool:
        """Whether `finish` may take more than a millisecond or two, so that it must not run in an event loop."""
        if self._early is not None or not self._pieces:
            return False
        if (
            self.size > self._downloader.heavy_bytes
            or self._request.is_suspect
            or not self._downloader.store.is_buffered
        ):
            return True
        return not self._pieces[0].startswith(_LIGHT_FORMATS)

    def begin(self, response: Response) -> bool:
        self._response = response
        request = self._request
        if response.location is not None:
            self._early = redirected(request, response, MAX_REDIRECTS)
        elif response.is_unchanged and request.prior is not None:
            self._early = self._confirm(response, request.prior)
        else:
            response.raise_for_status()
            self._respect_opt_outs(response)
        return self._early is None

    def feed(self, piece: bytes) -> None:
        """Keep a piece, unless the first bytes of the image show that the filter refuses it."""
        self._pieces.append(piece)
        self.size += len(piece)
        if self._is_undecided and self.size >= self._next_check:
            header = read_header(b"".join(self._pieces))
            check = self._downloader.filter.check
            self._is_undecided = (header is None or not check(header)) and self.size < _HEADER_BYTES
            self._next_check = self.size + max(512, self.size // 4)  # many small pieces cost few checks

    def finish(self) -> Outcome:
        try:
            data, self._pieces = b"".join(self._pieces), []  # the pieces need as much memory as the whole
            return self._early or self._save(data)
        except RequestFailed as error:
            return self.fail(error)

    def fail(self, error: RequestFailed) -> Outcome:
        request, response = self._request, self._response
        if response is None:
            return failure(request, error, time.monotonic() - self._started)
        error.http_status = error.http_status or response.status
        spared = response.spared if error.reason in _EARLY_REASONS else 0
        outcome = failure(request, error, response.elapsed)
        if outcome.record is not None and error.reason in OF_CONTENT and not error.retryable:
            etag, modified = _validators(request, response)
            record = structs.replace(outcome.record, final_url=response.url, etag=etag, last_modified=modified)
            outcome = structs.replace(outcome, record=record)
        return structs.replace(outcome, received=response.received, spared=spared)

    def _conditions(self) -> Conditions:
        """Return conditions that revalidate the previous fetch, unless its file is missing in this store."""
        downloader, prior = self._downloader, self._request.prior
        store = downloader.store
        is_lost = prior is not None and prior.store == store.id and not store.exists(prior.path)
        return downloader.conditions if is_lost else revalidating(downloader.conditions, self._request)

    def _respect_opt_outs(self, response: Response) -> None:
        headers = response.headers
        directives = header_directives(headers.getlist("x-robots-tag"), headers.getlist("tdm-reservation"))
        directive = objection(directives, NO_IMAGES, self._downloader.agent, time.time())
        if directive:
            _log.info("action=opt-out url=%s directive=%s", response.url, directive)
            raise RequestFailed("opted-out", directive)

    def _confirm(self, response: Response, prior: PriorFetch) -> Outcome:
        """Return the outcome of an unchanged image. It is filtered again, because the settings may have changed."""
        self._respect_opt_outs(response)
        if prior.reason:
            raise RequestFailed(prior.reason, "unchanged")
        header = ImageHeader(format=prior.format, width=prior.width, height=prior.height, animated=None)
        self._downloader.filter.check(header)
        is_own = is_picture(prior.path, prior.sha256)  # otherwise the file of another image that represents this one
        record = _record(
            self._request,
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

    def _save(self, data: bytes) -> Outcome:
        """Verify and store the image; return its outcome."""
        request, response, downloader = self._request, self._response, self._downloader
        assert response is not None  # noqa: S101  # `begin` comes first
        info = downloader.inspect(data, is_suspect=request.is_suspect)
        downloader.filter.check(as_header(info))
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
        path = downloader.template.key(record, info.extension)
        prior = request.prior
        if prior is not None and prior.store == downloader.store.id and is_picture(prior.path, record.sha256):
            path = prior.path  # the same bytes keep their name, even if the file was lost
        is_new = downloader.store.put(path, data)
        record = structs.replace(record, store=downloader.store.id, path=path)
        return Outcome(
            status="done", record=record, latency=response.elapsed, received=response.received, stored=is_new
        )


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
