"""Data types of the crawl: immutable values that processes exchange and the frontier stores.

Seconds are floats. Functions here only build other values: no sockets, no clocks, no loggers. Types with thousands of
instances have ``gc=False``: their instances form no cycles, so the garbage collector may skip them.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from crawler.paths import is_picture, is_safe

#: URLs and reasons that a remote worker may send. Both are written to record lines, which must not be forgeable.
Url = Annotated[str, Meta(pattern=r"\A[!-;=?-~]*\Z")]
Reason = Annotated[str, Meta(pattern=r"\A[a-z0-9-]{0,64}\Z")]
#: Ids of stores that a remote master may send.
_StoreId = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{16})?\Z")]
#: Header values by which a server recognises its own version of a file (RFC 9110 §8.8). They are only sent back to it.
ETag = Annotated[str, Meta(pattern=r"\A[ -~]{0,256}\Z")]
_HttpDate = Annotated[str, Meta(pattern=r"\A[ -~]{0,64}\Z")]
#: Counts and seconds: never negative, NaN or infinite, and never more than a database column holds.
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=2**53)]

#: Result of a refresh for an image URL, compared with the bytes saved for it before: the same bytes, other bytes, no
#: longer available (404, 410), or saved for the first time. Empty: nothing to compare, or a temporary failure.
Change = Literal["", "unchanged", "changed", "gone", "new"]

#: Reasons that depend on the bytes alone: another header or setting does not help; another decoder might.
OF_CONTENT = frozenset({"not-an-image", "truncated", "corrupt"})

#: Reason of a picture whose bytes differ from those in the manifest of ``--pin``.
PIN_MISMATCH = "pin-mismatch"

#: Kind of a request: a page to harvest, an image to download, the robots.txt of an origin, a list to read, or a part
#: of a page (style sheet, frame, feed, sitemap), which does not count as a page.
Kind = Literal["page", "image", "robots", "list", "part"]

#: Result of a lease: settled for good, to be retried, returned without an attempt, or continued at another target.
OutcomeStatus = Literal["done", "retry", "released", "moved"]

#: How much of a page's URL may be sent to which server (W3C Referrer Policy §3). Empty: the default of browsers.
ReferrerPolicy = Literal[
    "",
    "no-referrer",
    "no-referrer-when-downgrade",
    "same-origin",
    "origin",
    "strict-origin",
    "origin-when-cross-origin",
    "strict-origin-when-cross-origin",
    "unsafe-url",
]

#: Final state of an image URL.
_RecordStatus = Literal["success", "duplicate", "failed"]

#: How the frontier classifies an outcome: the first one of a request, a later one, or one of an unknown lease.
VerdictState = Literal["accepted", "duplicate", "stale"]

#: ``work``: turns are attached. ``wait``: no work now, call again. ``draining``: the crawl stops; the worker finishes
#: its leases. ``drained``: the crawl is over.
GrantState = Literal["work", "wait", "draining", "drained"]

#: Reasons with which a request may end, besides ``http-<code>``, with their texts in the reference. The temporary ones
#: are faults of the network, of a busy or broken host, or of our own machines.
TEMPORARY_REASONS = {
    "timeout": "no response in time (2 attempts), or a response that takes longer than `total_timeout`",
    "too-slow": "slower than `min_speed` (2 attempts)",
    "dns": "the host name does not exist (5 attempts)",
    "connect": "no connection, or one that ends before the response (5 attempts); not HTTP, or with two lengths",
    "tls": "TLS failed (5 attempts), or the certificate is wrong",
    "truncated": "the response was cut off (5 attempts), or the file itself ends early",
    "robots-unreachable": "its robots.txt is unavailable (0 attempts)",
    "rate-limited": "its host, or its own response, asked for a pause that is longer than `patience`",
    "host-down": "its host was down until the end (0 attempts)",
    "poison": "its decoder crashed a worker and a process of its own; or a hundred deliveries of it alone were lost",
    "lost-file": "a list that cannot be read again; or a picture that `verify --repair` has queued, of a silent host",
    "disk": "reserved",
    "cancelled": "interrupted by the crawler (0 attempts)",
    "internal": "a bug of this program, or a downloader's result that the master did not accept; please report it",
}
#: The lasting ones hold until the site, its content or the settings change.
LASTING_REASONS = {
    "too-large": "longer than `max_bytes`, or headers of more than 64 KiB or 100 lines",
    "too-small": "below `min_size`",
    "filtered": "excluded by `types`, `max_aspect` or `animated`",
    "decompression-limit": "longer than `max_bytes` once it is unpacked; more than 65,536 parts or frames; "
    "a decoder that takes over 15 s or too much memory",
    "pixels-limit": "a canvas of more than 50 megapixels, or one that takes over 224 MB to decode: "
    "a progressive JPEG without subsampling of more than 39",
    "not-an-image": "a page, a text, or an empty response",
    "unsupported-format": "a format, or a content or transfer coding, that is not supported, such as nested codings",
    "corrupt": "cannot be decoded, or its decoder crashes",
    "robots": "its robots.txt forbids it",
    "opted-out": "the site asks crawlers to leave it alone",
    "blocked-address": "an address that must not be visited; see `crawler help security`",
    "bad-url": "a redirect to an invalid URL, to one of more than 8,192 characters, or to two at once",
    "unsupported-scheme": "a redirect to a scheme other than http and https",
    "redirect-limit": "more than twenty redirects",
    "trap": "crawler trap, endless generated pages: 500 pages of one kind in a row (100 of a calendar, or with session "
    "ids) had no new picture and no link to another kind. Up to seven pages in progress are still finished",
    PIN_MISMATCH: "its bytes differ from the pin; the file is in `quarantine/`",
    "hook": "reserved",
}
REASONS = TEMPORARY_REASONS | LASTING_REASONS

#: Different requests in a row without a connection, after which the host counts as down, not the requests as faulty.
MISSES = 5
#: Most seconds of work in one turn; a lease is valid for much longer.
TURN_SECONDS = 10.0

#: Most requests in one outcome (those of one page), and most sitemaps of one robots.txt, that a remote worker may send.
MAX_FOUND, MAX_SITEMAPS = 20_000, 1_000
#: Perceptual hash of a picture (`crawler.download.phash_compute`).
_Phash = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{128})?\Z")]


class PriorFetch(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Result of a previous fetch. Its validators let the server skip a body that has not changed."""

    #: The URL whose response had the validators, after redirects; they are sent to no other URL.
    url: Url
    etag: ETag = ""
    last_modified: _HttpDate = ""
    #: For images: why the bytes were not a picture (`OF_CONTENT`); this holds as long as the bytes are the same.
    reason: Reason = ""
    #: For images that were saved: where the file is, and its contents.
    store: _StoreId = ""
    path: str = ""
    sha256: Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{64})?\Z")] = ""
    bytes: Count = 0
    format: Annotated[str, Meta(pattern=r"\A[a-z0-9]{0,16}\Z")] = ""
    #: Pixels.
    width: Count = 0
    height: Count = 0

    def __post_init__(self) -> None:
        """Raise ValueError if the path, which may come from a remote peer, is not safe."""
        if self.path and not is_safe(self.path):
            raise ValueError("path of a previous fetch is not safe")


class Request(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A request of the crawl. Its identity is ``(kind, url)``; the other fields are its origin and its progress."""

    #: Canonical URL (`crawler.urls.canonicalize`); never changes.
    url: str
    kind: Kind = "page"
    #: URL to fetch instead of ``url``, after redirects; empty: ``url`` itself.
    target: str = ""
    #: Redirects followed so far.
    hops: Count = 0
    #: Number of links from the seed to this page; an image has the depth of its page.
    depth: Count = 0
    #: For ``part``: levels below the page: 1 for a style sheet, 2 for a style sheet that it imports.
    nesting: Count = 0
    #: With ``--order priority``, higher values go first.
    priority: Annotated[int, Meta(ge=-(2**53), le=2**53)] = 0
    #: Seed URL from which the request was reached; the scope of the crawl refers to it.
    seed: str = ""
    #: URL of the page that names the request; empty for seeds and lists.
    referrer: str = ""
    #: How much of ``referrer`` that page allows in the ``Referer`` header.
    referrer_policy: ReferrerPolicy = ""
    #: Mechanism that names the request, such as ``img``, ``srcset`` or ``og:image``.
    source: str = ""
    #: URL to fetch if this one fails: the thumbnail of a full-size picture, or the http URL of a seed that the user
    #: gave without a scheme.
    fallback: str = ""
    #: Texts found with an image.
    alt: str = ""
    title: str = ""
    caption: str = ""
    #: Text of the link around it, and the heading before it.
    link_text: str = ""
    heading: str = ""
    #: Title and language (BCP 47) of its page.
    page_title: str = ""
    language: str = ""
    #: Address or name of its licence, if the page states it.
    license: str = ""
    #: Pixels of the page that it is to cover; 0: not declared.
    declared_width: Count = 0
    declared_height: Count = 0
    #: The other columns of the list that names it, as a JSON object; empty: there are none.
    columns: str = ""
    #: For ``robots``: the rules found so far, while another file of the origin is requested.
    rules: "RobotsRules | None" = None
    #: For ``list``: the kind of its lines, and the byte offset from which to continue.
    entries: Kind = "page"
    offset: Count = 0
    #: Result of a previous fetch. Only the frontier sets it, in a lease.
    prior: PriorFetch | None = None
    #: Whether an earlier delivery was lost, possibly because the content crashed the worker. Only `work_off` sets it.
    is_suspect: bool = False

    @property
    def location(self) -> str:
        """URL to fetch now."""
        return self.target or self.url

    @property
    def is_seed(self) -> bool:
        """Whether the user named this page."""
        return self.kind == "page" and not self.depth


#: Fields that a record takes from its request and not from the worker: how it was found, and the texts around it.
FOUND = (
    *("source", "alt", "title", "caption", "link_text", "heading", "page_title", "language", "license"),
    *("declared_width", "declared_height", "columns", "depth"),
)


class Lease(Struct, frozen=True, gc=False, kw_only=True):
    """A request that one worker holds until the verdict, or until the lease expires."""

    request: Request
    #: Identifies this delivery to this worker; no other worker can complete it.
    token: str
    #: How often the request was delivered, this time included.
    deliveries: int = 1


class Turn(Struct, frozen=True, gc=False, kw_only=True):
    """Permission to use one host for a while, with the leases to process one after the other."""

    id: str
    #: Host key (`crawler.urls.host_key`).
    host: str
    #: Minimum seconds from the start of one request to the start of the next.
    gap: float = 0.0
    #: The part of the gap that the site demands (Crawl-delay); it counts from the end of a request.
    least_gap: float = 0.0
    #: Origin → the robots.txt lines that apply to this crawler; an origin that is not in it has no rules.
    robots: dict[str, str] = {}
    leases: tuple[Lease, ...] = ()


class Grant(Struct, frozen=True, gc=False, kw_only=True):
    """The master's reply to a worker's request for work."""

    turns: tuple[Turn, ...] = ()
    state: GrantState = "wait"
    #: Seconds to wait before the next request for work.
    retry_in: float = 0.0
    #: Whether the worker must say ``hello`` again: this run of the frontier has not received it, or its reply changed.
    is_stranger: bool = False


class Renewal(Struct, frozen=True, kw_only=True):
    """The master's reply to the renewal of leases."""

    #: Tokens of lost leases; other workers may hold their requests.
    lost: tuple[str, ...] = ()
    #: For the other leases: hosts that no worker may contact → for how many seconds from now.
    quiet: dict[str, float] = {}


class RobotsRules(Struct, frozen=True, gc=False, kw_only=True):
    """Rules of one origin's robots.txt for this crawler (RFC 9309), and of its tdmrep.json if the user wants that."""

    #: Lines for this crawler's user agent, then those of `crawler.robots.tdmrep`; empty: everything is allowed.
    text: str = ""
    #: False if the file is temporarily unavailable, so the origin must not be visited (RFC 9309 §2.3.1.4).
    reachable: bool = True
    #: Seconds between requests that the file demands; None if it demands none.
    crawl_delay: Seconds | None = None
    #: URLs of the ``Sitemap:`` lines.
    sitemaps: Annotated[tuple[str, ...], Meta(max_length=MAX_SITEMAPS)] = ()
    #: Seconds for which the rules are valid.
    lifetime: Seconds = 86_400.0


class ListRow(Struct, frozen=True, gc=False, kw_only=True):
    """Metadata of an image URL from one row of a list."""

    alt: str = ""
    title: str = ""
    caption: str = ""
    #: The other columns, as a JSON object; empty: there are none.
    columns: str = ""


class ImageRecord(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One row of the manifest: the result of one image URL. The manifest file has every field (`row_json`)."""

    url: str  #: canonical URL
    final_url: str = ""  #: URL after redirects
    status: _RecordStatus = "failed"  #: ``success``, ``failed``, or ``duplicate``: the same bytes were saved before
    reason: str = ""  #: why it failed: one of `REASONS`, or ``http-<code>``; empty: it did not
    page_url: str = ""  #: page that names the image
    source: str = ""  #: mechanism that names it, such as ``img``, ``srcset`` or ``og:image``
    alt: str = ""  #: alternative text
    title: str = ""  #: title of the image
    caption: str = ""  #: caption
    link_text: str = ""  #: text of the link around it
    heading: str = ""  #: heading before it
    page_title: str = ""  #: title of its page
    language: str = ""  #: language of its page (BCP 47)
    license: str = ""  #: address or name of its licence, if the page states it
    declared_width: Count = 0  #: pixels of the page that it is to cover; 0: not declared
    declared_height: Count = 0  #: the same for the height
    columns: str = ""  #: other columns of the list that names it, as a JSON object; empty: there are none
    other_rows: tuple[ListRow, ...] = ()  #: further rows of lists that name the URL; only the master adds them
    store: str = ""  #: id of the store that has the file (``store.json``); for a duplicate, that of the first copy
    path: str = ""  #: path of the file in the store
    sha256: str = ""  #: SHA-256 of the file
    bytes: Count = 0  #: size of the file
    format: str = ""  #: format of the file, such as ``jpeg``
    width: Count = 0  #: pixels
    height: Count = 0  #: pixels
    phash: _Phash = ""  #: perceptual hash, 128 hex digits; empty: not requested, or a picture of a single colour
    near: Url = ""  #: URL of the best of near-identical pictures; empty: it is this one, or there are no others
    http_status: Count = 0  #: status code of the last response; 0: there was none
    attempts: Count = 0  #: number of attempts
    worker: str = ""  #: name of the downloader
    fetched_at: Seconds = 0.0  #: time of the verdict, seconds since the epoch
    elapsed: Seconds = 0.0  #: seconds of the last attempt
    depth: Count = 0  #: number of links from the seed to its page
    etag: ETag = ""  #: response header with which a refresh asks whether the file is unchanged
    last_modified: _HttpDate = ""  #: the same
    change: Change = ""  #: after a refresh: ``unchanged``, ``changed``, ``gone`` or ``new``; else empty

    @property
    def is_dropped(self) -> bool:
        """Whether the picture's own file was deleted; store and path are then those of the ``near`` picture."""
        return self.status == "duplicate" and self.near != "" and not is_picture(self.path, self.sha256)


class Outcome(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Result of one request. Handlers leave ``token`` empty; the worker fills it in."""

    status: OutcomeStatus
    token: Annotated[str, Meta(max_length=128)] = ""
    #: Reason of a failure; empty for a success.
    reason: Reason = ""
    #: Requests found by the handler; the frontier adds them in the same transaction.
    discovered: Annotated[tuple[Request, ...], Meta(max_length=MAX_FOUND)] = ()
    #: Manifest row of a settled image. With ``retry``, it is used if that was the last attempt.
    record: ImageRecord | None = None
    #: ``moved``: the request with another target or offset, and the same kind and url.
    successor: Request | None = None
    #: ``retry``: minimum seconds until the next attempt; None: the frontier's backoff decides.
    retry_in: Seconds | None = None
    #: State of the host: seconds for which it asked clients to stay away; whether it is overloaded; seconds a request.
    host_wait: Seconds | None = None
    overloaded: bool = False
    latency: Seconds = 0.0
    #: The part that failed: the host (no connection), the name servers of the worker's machine, or that machine's disk.
    down: Literal["", "host", "resolver", "disk"] = ""
    #: For ``robots`` requests: the rules.
    robots: RobotsRules | None = None
    #: For ``page`` and ``part`` requests: validators for the next fetch of the document.
    seen: PriorFetch | None = None
    #: For ``list`` requests: lines that are not URLs, and rows with text that was cut.
    rejected: Count = 0
    shortened: Count = 0
    #: Bytes received over the network, and bytes that were announced but not transferred, as the picture is unwanted.
    received: Count = 0
    spared: Count = 0
    #: Whether the picture's bytes were new in the worker's store.
    stored: bool = False


class Verdict(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The frontier's reply to one outcome.

    If this worker settled an image, in this call or in one whose reply was lost, the fields repeat the manifest row.
    """

    state: VerdictState = "accepted"
    #: None if there is no manifest row from this worker.
    status: _RecordStatus | None = None
    reason: Reason = ""
    #: Where the first copy of the bytes is, if it is not the file that this worker saved.
    store: _StoreId = ""
    path: str = ""
    attempts: Annotated[int, Meta(ge=0, le=2**31)] = 0
    #: Whether the worker's copy is superfluous: its own store, or one that is online, has the first copy. For
    #: `PIN_MISMATCH`: whether no other record names the file.
    is_spare: bool = False
    change: Change = ""


class WorkerInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's description of its machine and its current run, which it sends when it joins."""

    #: For display only: release of this package, such as ``0.1.0``.
    release: str = ""
    #: For display only: operating system, such as ``Linux 6.1`` or ``Windows 11``, and version of Python.
    system: str = ""
    python: str = ""
    #: The worker's wall clock at the start of this run, seconds since the epoch; of two runs, the later one counts.
    wall: float = 0.0
    #: Whether the worker repeats its hello in the same run, to a master that was restarted: it keeps its leases.
    stays: bool = False
    #: Id of this run, so that a hello that arrives twice frees no leases the second time; empty: no id.
    life: str = ""


def describe(request: Request, **fields: object) -> ImageRecord:
    """Return the record of ``request`` with the values known before any fetch; ``fields`` add or override values."""
    values: dict[str, object] = {name: getattr(request, name) for name in FOUND}
    values |= {"url": request.url, "final_url": request.location, "page_url": request.referrer}
    return ImageRecord(**(values | fields))  # type: ignore[arg-type]  # the callers' tests check the fields


def decided(record: ImageRecord, verdict: Verdict, worker: str) -> ImageRecord:
    """Return the manifest row: a worker's record as settled by the frontier's verdict."""
    status = verdict.status or record.status
    path = verdict.path or record.path
    return structs.replace(
        record,
        status=status,
        reason=verdict.reason,
        store=verdict.store or record.store,
        path=quarantined(path) if verdict.reason == PIN_MISMATCH else path,
        change=verdict.change,
        attempts=verdict.attempts,
        worker=worker,
    )


def quarantined(path: str) -> str:
    """Return the quarantine path for the file of a picture whose bytes differ from the pinned ones."""
    return f"quarantine/{path.removeprefix('images/')}" if path.startswith("images/") else path


def released(path: str) -> str:
    """Return the original path of a file in quarantine; the reverse of `quarantined`."""
    return f"images/{path.removeprefix('quarantine/')}" if path.startswith("quarantine/") else path
