"""The words of the crawl: frozen, plain data that travels between processes and rests in the frontier.

Seconds are floats. Nothing here does any work beyond building another value: no sockets, no clocks, no loggers. What
travels in thousands is ``gc=False``: such values hold no cycle, so the garbage collector need not look at them.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from crawler.errors import RequestFailed
from crawler.known import PIN_MISMATCH, Change, ETag, HttpDate, Known, Url, quarantined
from crawler.known import Count as _Count
from crawler.known import Reason as _Reason
from crawler.known import Seconds as _Seconds
from crawler.known import StoreId as _StoreId
from crawler.paths import is_picture

#: What a request is for: a page to harvest, an image to download, the rules of an origin, a list to read, a part of a
#: page (style sheet, frame, feed, sitemap), which is no page of its own.
Kind = Literal["page", "image", "robots", "list", "part"]

#: What came of a lease: settled for good, to be tried again, given back untouched, goes on elsewhere.
OutcomeStatus = Literal["done", "retry", "released", "moved"]

#: How much of a page's URL may be told to whom (W3C Referrer Policy §3); empty: what browsers do where nobody says.
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
RecordStatus = Literal["success", "duplicate", "failed"]

#: What an outcome was to the frontier: the first verdict on a request, a later one, or one from an unknown lease.
VerdictState = Literal["accepted", "duplicate", "stale"]

#: ``work``: turns are attached; ``wait``: nothing now, ask again; ``draining``: stopping, finish what you
#: hold; ``drained``: the crawl is over.
GrantState = Literal["work", "wait", "draining", "drained"]

#: Every reason besides ``http-<code>`` with which a request may end.
REASONS = frozenset(
    {
        *("timeout", "too-slow", "dns", "connect", "tls", "too-large", "too-small", "filtered"),
        *("decompression-limit", "truncated", "not-an-image", "unsupported-format", "corrupt", "pixels-limit"),
        *("robots", "robots-unreachable", "opted-out", "blocked-address", "bad-url", "unsupported-scheme"),
        *("redirect-limit", "rate-limited", "host-down", "trap", "poison", "disk", "lost-file"),
        *("pin-mismatch", "hook", "cancelled", "internal"),
    }
)

#: Requests in a row, different ones, for which no connection could be made: then the host is down, not they wrong.
MISSES = 5
#: A turn is no more work than this, seconds, so that its lease outlives it by far.
TURN_SECONDS = 10.0

#: Most requests of one outcome, a page's worth, and most sitemaps of one robots.txt that a worker elsewhere may send.
MAX_FOUND, MAX_SITEMAPS = 20_000, 1_000
#: What a picture looks like (`crawler.download.phash`).
_Phash = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{128})?\Z")]


class Request(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What to visit. Its identity is ``(kind, url)``; the rest is how it was found and where it stands."""

    #: Canonical URL (`crawler.urls.canonicalize`), under which it is remembered for ever.
    url: str
    kind: Kind = "page"
    #: Where to fetch instead of ``url``, after redirects; empty: ``url`` itself.
    target: str = ""
    #: Redirects followed so far.
    hops: _Count = 0
    #: Links between the seed and here; an image has the depth of its page.
    depth: _Count = 0
    #: For ``part``: documents between the page and it, 1 for a style sheet, 2 for one that this imports.
    nesting: _Count = 0
    #: Greater goes first, with ``--order priority``.
    priority: Annotated[int, Meta(ge=-(2**53), le=2**53)] = 0
    #: Seed URL that this branch of the crawl began with; scope is measured against it.
    seed: str = ""
    #: URL of the page that names it; empty for seeds and lists.
    referrer: str = ""
    #: How much of that it allows to be sent as ``Referer``.
    referrer_policy: ReferrerPolicy = ""
    #: Mechanism that names it, such as ``img``, ``srcset`` or ``og:image``.
    source: str = ""
    #: The picture to fetch instead where this one can't be had: the thumbnail of a full-size picture.
    fallback: str = ""
    #: Words found around an image.
    alt: str = ""
    title: str = ""
    caption: str = ""
    #: Text of the link around it, and the heading before it.
    link_text: str = ""
    heading: str = ""
    #: Title and language (BCP 47) of its page.
    page_title: str = ""
    language: str = ""
    #: Address or name of its licence, as far as the page tells.
    license: str = ""
    #: Pixels of the page that it is to cover; 0: not declared.
    declared_width: _Count = 0
    declared_height: _Count = 0
    #: The other columns of the list that names it, as a JSON object; empty: there are none.
    columns: str = ""
    #: For ``robots``: the rules found so far, while another file of the origin is asked for.
    rules: "RobotsRules | None" = None
    #: For ``list``: what its lines are, and the byte to read on from.
    entries: Kind = "page"
    offset: _Count = 0
    #: What an earlier visit has brought. Only the frontier says so, with a lease.
    known: Known | None = None

    @property
    def location(self) -> str:
        """The URL to fetch now."""
        return self.target or self.url

    @property
    def is_seed(self) -> bool:
        """Whether the user named this page."""
        return self.kind == "page" and not self.depth


#: What a record has from its request, whatever a worker says: how it was found, and the words around it.
FOUND = (
    *("source", "alt", "title", "caption", "link_text", "heading", "page_title", "language", "license"),
    *("declared_width", "declared_height", "columns", "depth"),
)


class Lease(Struct, frozen=True, gc=False, kw_only=True):
    """A request on loan to one worker, until its verdict or until the time is up."""

    request: Request
    #: Names this delivery to this worker; nobody else can complete it.
    token: str
    #: How often the request was handed out, this time included.
    deliveries: int = 1


class Turn(Struct, frozen=True, gc=False, kw_only=True):
    """The right to one host for a while, with the leases to work off one after the other."""

    id: str
    #: Host key (`crawler.urls.host_key`).
    host: str
    #: Seconds from the start of one request to the start of the next.
    gap: float = 0.0
    #: The part of it that the site itself asks for (Crawl-delay), below which no dice may go.
    least_gap: float = 0.0
    #: Origin → the robots.txt lines that concern us; a missing origin has no rules.
    robots: dict[str, str] = {}
    leases: tuple[Lease, ...] = ()


class Grant(Struct, frozen=True, gc=False, kw_only=True):
    """Answer to a call for work."""

    turns: tuple[Turn, ...] = ()
    state: GrantState = "wait"
    #: Seconds after which asking again may bring work.
    retry_in: float = 0.0
    #: Whether this life of the frontier has not had the worker's ``hello``, or would answer it otherwise now.
    is_stranger: bool = False


class Renewal(Struct, frozen=True, kw_only=True):
    """Answer to the renewal of leases."""

    #: Tokens that are lost: others may have got their requests.
    lost: tuple[str, ...] = ()
    #: Hosts of the others that want to be left alone, by anybody, and for how many seconds from now.
    quiet: dict[str, float] = {}


class RobotsRules(Struct, frozen=True, gc=False, kw_only=True):
    """What one origin's robots.txt means for us (RFC 9309), and its tdmrep.json where that is asked for."""

    #: Lines that concern our agent, then those of `crawler.tdm`; empty: everything is allowed.
    text: str = ""
    #: False: the file could not be had for now, so the origin must not be visited (RFC 9309 §2.3.1.4).
    reachable: bool = True
    #: Seconds between requests that the file asks for, if it does.
    crawl_delay: _Seconds | None = None
    #: URLs of the ``Sitemap:`` lines.
    sitemaps: Annotated[tuple[str, ...], Meta(max_length=MAX_SITEMAPS)] = ()
    #: Seconds for which this may be believed.
    lifetime: _Seconds = 86_400.0


class ImageRecord(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One row of the manifest: what became of one image URL. Where people read it, every name is there (`row_json`)."""

    url: str
    final_url: str = ""
    status: RecordStatus = "failed"
    #: Empty for success, else one of `REASONS` or ``http-<code>``.
    reason: str = ""
    page_url: str = ""
    source: str = ""
    alt: str = ""
    title: str = ""
    caption: str = ""
    #: Text of the link around it, and the heading before it.
    link_text: str = ""
    heading: str = ""
    #: Title and language (BCP 47) of its page.
    page_title: str = ""
    language: str = ""
    #: Address or name of its licence, as far as the page tells.
    license: str = ""
    #: Pixels of the page that it is to cover; 0: not declared.
    declared_width: _Count = 0
    declared_height: _Count = 0
    #: The other columns of the list that names it, as a JSON object; empty: there are none.
    columns: str = ""
    #: Id of the store that has the file (``store.json``), and the file's path in it.
    store: str = ""
    path: str = ""
    sha256: str = ""
    bytes: _Count = 0
    format: str = ""
    #: Pixels.
    width: _Count = 0
    height: _Count = 0
    #: What it looks like, in 128 hex digits; empty: nobody asked, or it is a plain ground.
    phash: _Phash = ""
    #: URL of the best of the pictures that look nearly the same; empty: it is that itself, or there are no others.
    near: Url = ""
    http_status: _Count = 0
    attempts: _Count = 0
    worker: str = ""
    #: Time of the verdict, seconds since the epoch.
    fetched_at: _Seconds = 0.0
    #: Seconds that the last attempt took.
    elapsed: _Seconds = 0.0
    depth: _Count = 0
    #: Headers of the answer, by which a refresh asks whether the file is still the same.
    etag: ETag = ""
    last_modified: HttpDate = ""
    change: Change = ""

    @property
    def is_dropped(self) -> bool:
        """Whether it has no file of its own any more: store and path are those of the picture that it is near to."""
        return self.status == "duplicate" and self.near != "" and not is_picture(self.path, self.sha256)


class Outcome(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What came of one request. Handlers leave ``token`` empty; the worker fills it in."""

    status: OutcomeStatus
    token: Annotated[str, Meta(max_length=128)] = ""
    #: Why it is not a success; empty where it is.
    reason: _Reason = ""
    #: Requests found on the way, to be put in the same transaction.
    discovered: Annotated[tuple[Request, ...], Meta(max_length=MAX_FOUND)] = ()
    #: The manifest row, for images that are settled (also with ``retry``: used if that was the last attempt).
    record: ImageRecord | None = None
    #: ``moved``: the request as it goes on (another target, another offset); same kind and url.
    successor: Request | None = None
    #: ``retry``: not before so many seconds; None: the frontier's back-off decides.
    retry_in: _Seconds | None = None
    #: What was learned of the host: seconds it asked us to stay away, whether it is overloaded, seconds per request.
    host_wait: _Seconds | None = None
    overloaded: bool = False
    latency: _Seconds = 0.0
    #: What did not answer at all: the host (no connection could be made), or the name servers of the worker's box; or
    #: the box's own disk refuses.
    down: Literal["", "host", "resolver", "disk"] = ""
    #: For ``robots`` requests: the rules.
    robots: RobotsRules | None = None
    #: For ``page`` and ``part`` requests: how to ask the next time whether the document is still the same.
    seen: Known | None = None
    #: For ``list`` requests: lines that were no URL.
    rejected: _Count = 0
    #: Bytes that came over the network, and those announced that did not have to, as nobody wants the picture.
    received: _Count = 0
    spared: _Count = 0
    #: Whether the picture's bytes were new to the worker's store.
    stored: bool = False


class Verdict(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The frontier's answer to one outcome.

    Where this worker has settled an image, now or in a call whose answer was lost, it tells what the manifest row says.
    """

    state: VerdictState = "accepted"
    #: None: no row of this worker's was written.
    status: RecordStatus | None = None
    reason: _Reason = ""
    #: Where the picture is, if not where this worker has saved it: the first copy of the bytes.
    store: _StoreId = ""
    path: str = ""
    attempts: Annotated[int, Meta(ge=0, le=2**31)] = 0
    #: Whether the worker's copy is one too many: the store that has the first one is at work, too, or is its own. For
    #: `PIN_MISMATCH`: whether no other record names it.
    is_spare: bool = False
    change: Change = ""


class About(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of its box when it joins; for people only."""

    #: Release of this package, such as ``0.1.0``.
    release: str = ""
    #: Such as ``Linux 6.1`` or ``Windows 11``, and the version of Python.
    system: str = ""
    python: str = ""
    #: Its wall clock when this life of it began, seconds since the epoch; of two lives, the later one counts.
    wall: float = 0.0
    #: Whether it says so again in the same life, to a master that has forgotten it: what it holds stays its own.
    stays: bool = False
    #: Names this life of it, so that a hello that is heard twice frees nothing the second time; empty: it has no name.
    life: str = ""


class WorkerStats(Struct, frozen=True, kw_only=True):
    """One worker as the frontier sees it."""

    name: str
    leases: int = 0
    settled: int = 0
    #: Requests settled per second, lately.
    rate: float = 0.0
    #: Seconds since its last call.
    silent: float = 0.0
    #: Seconds until what it holds is given to others; None while it renews its leases in time.
    loses_in: float | None = None
    #: Whether its last call for work was answered with ``drained`` or ``draining``.
    is_told: bool = False
    about: About = About()
    #: Seconds by which its wall clock was ahead of the master's when it joined.
    clock_ahead: float = 0.0


class StoreStats(Struct, frozen=True, kw_only=True):
    """One store as the frontier's records know it."""

    id: str
    #: The worker that was the first to save into it; its name begins with that of its box.
    worker: str = ""
    #: Pictures, each counted where its first copy is.
    pictures: int = 0


class FrontierStats(Struct, frozen=True, kw_only=True):
    """The one source of every number shown. Images: waiting + leased + success + duplicate + failed = discovered."""

    state: GrantState = "wait"
    is_paused: bool = False
    discovered: int = 0
    waiting: int = 0
    leased: int = 0
    success: int = 0
    duplicate: int = 0
    failed: int = 0
    #: Pages, counted apart; ``pages_done`` without the failed ones.
    pages_waiting: int = 0
    pages_leased: int = 0
    pages_done: int = 0
    pages_failed: int = 0
    #: Pages that the user named, and those of them that could not be had.
    seeds: int = 0
    seeds_failed: int = 0
    #: Lists still being read.
    lists_open: int = 0
    #: Reason → number, for failed images and for failed pages, the most frequent first.
    reasons: dict[str, int] = {}
    page_reasons: dict[str, int] = {}
    #: The same for the robots.txt of origins that could not be had.
    robots_reasons: dict[str, int] = {}
    #: Bytes of saved images, each counted once.
    bytes: _Count = 0
    #: How often the crawl was refreshed, this time included, and what has come of the last time: change → image URLs.
    refreshes: int = 0
    changes: dict[str, int] = {}
    #: Hosts seen, and hosts with something waiting.
    hosts: int = 0
    hosts_waiting: int = 0
    #: Those of them that are down, as far as is known.
    hosts_down: int = 0
    #: The only host with something waiting and the gap in seconds it must keep, where that limits the crawl.
    limiting_host: str = ""
    limiting_gap: float = 0.0
    #: Lines of input lists that were no URL.
    bad_lines: int = 0
    #: Bytes that were announced and not transferred, thanks to filters and limits.
    spared: int = 0
    #: What is wrong with the master's disk, such as ``disk full``; empty: nothing.
    trouble: str = ""
    #: Where the pictures are, the fullest store first.
    stores: tuple[StoreStats, ...] = ()
    workers: tuple[WorkerStats, ...] = ()


def describe(request: Request, **fields: object) -> ImageRecord:
    """The record of ``request`` with what is known before any fetch; ``fields`` fill in or override the rest."""
    known: dict[str, object] = {name: getattr(request, name) for name in FOUND}
    known |= {"url": request.url, "final_url": request.location, "page_url": request.referrer}
    return ImageRecord(**(known | fields))  # type: ignore[arg-type]  # fields are checked by their users' tests


def decided(record: ImageRecord, verdict: Verdict, worker: str) -> ImageRecord:
    """A worker's record as the frontier's verdict has settled it: the row of the manifest."""
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


def failure(request: Request, error: RequestFailed, elapsed: float = 0.0) -> Outcome:
    """The outcome of a request that failed with ``error`` after ``elapsed`` seconds."""
    record = None
    if request.kind == "image":
        record = describe(request, reason=error.reason, http_status=error.http_status, elapsed=elapsed)
    return Outcome(
        status="retry" if error.retryable else "done",
        reason=error.reason,
        record=record,
        host_wait=error.host_wait,
        overloaded=error.overloaded,
        down=error.down,  # type: ignore[arg-type]  # one of them
        latency=elapsed,
    )
