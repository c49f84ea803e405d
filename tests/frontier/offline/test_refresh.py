"""A refresh in the ledger: old records hold until new verdicts arrive, and each content always has one success."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from crawler.frontier.ledger.fsck import LedgerCheck
from crawler.frontier.offline.refresh import renew
from crawler.frontier.offline.requeue import requeue_failed
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, ImageRecord, Outcome, PriorFetch, Request, describe
from crawler.stats import FrontierStats
from tests.frontier.fakes import OPEN, FakeClock, Open, done, image, images, lease, page, tokens, turn_ids, urls

#: Two stores, each with a worker.
STORES = ("51" * 8, "52" * 8)
#: URL → content on its server: a number that stands for bytes, or None for a picture that is gone.
Web = dict[str, int | None]


def digest(content: int) -> str:
    return f"{content:064x}"


def answer(request: Request, web: Web, store: str = STORES[0], **fields: Any) -> Outcome:
    """Return the report of an honest downloader about a picture."""
    content, known = web[request.url], request.prior
    if content is None:
        record = describe(request, reason="http-404", http_status=404)
        return Outcome(status="done", reason="http-404", record=record)
    path = f"images/{digest(content)[:2]}/{digest(content)}.png"
    record = describe(request, status="success", store=store, path=path, sha256=digest(content), http_status=200)
    record = structs.replace(record, etag=f'"{content}"', final_url=request.url, bytes=content, format="png")
    if known is not None and known.etag == record.etag:
        record = structs.replace(record, http_status=304, store=known.store, path=known.path)
    return Outcome(status="done", record=structs.replace(record, **fields))


def settle(frontier: SqliteFrontier, web: Web, grant: Grant, worker: int = 0) -> None:
    held = [lease for turn in grant.turns for lease in turn.leases]
    outcomes = [structs.replace(answer(it.request, web, STORES[worker]), token=it.token) for it in held]
    frontier.complete(f"w{worker}", outcomes, turn_ids(grant))


def work_off(frontier: SqliteFrontier, web: Web) -> None:
    while (grant := lease(frontier, "image", worker="w0")).turns:
        settle(frontier, web, grant)


def rows(frontier: SqliteFrontier) -> dict[str, ImageRecord]:
    found = [record for _, record in frontier.records(0, 1_000)]
    assert len({record.url for record in found}) == len(found)
    return {record.url: record for record in found}


def faults(path: Path) -> list[str]:
    found: list[str] = []
    with LedgerCheck(path, is_still=False) as books:
        books.prove(lambda rule, example: found.append(f"{rule}: {example}"), lambda number: None)
    return found


def again(open_file: Open, path: Path, frontier: SqliteFrontier) -> SqliteFrontier:
    """Start another refresh, after the crawl has ended."""
    with frontier.ledger.transaction():
        frontier.ledger.history.end_refresh()
    frontier.close()
    renew(path)
    return open_file()


def known_of(grant: Grant) -> dict[str, PriorFetch | None]:
    return {held.request.url: held.request.prior for turn in grant.turns for held in turn.leases}


@pytest.fixture
def crawled(open_file: Open) -> SqliteFrontier:
    """Build a crawl of four pictures, the first three with the same bytes."""
    frontier = open_file()
    frontier.put(images(4))
    work_off(frontier, WEB)
    return frontier


WEB: Web = {request.url: max(0, n - 2) + 1 for n, request in enumerate(images(4))}


# --- the requests of a refresh


def test_settled_requests_wait_with_their_record_and_the_counts_add_up(
    crawled: SqliteFrontier, open_file: Open, path: Path
) -> None:
    before = rows(crawled)
    frontier = again(open_file, path, crawled)
    stats = frontier.stats()
    assert (stats.discovered, stats.waiting, stats.success, stats.duplicate, stats.bytes) == (4, 4, 0, 0, 0)
    assert (stats.refreshes, stats.changes) == (1, {})
    assert rows(frontier) == before and faults(path) == []
    grant = lease(frontier, worker="w0")
    assert frontier.stats().leased == 4
    known = known_of(grant)
    assert {url: it and (it.etag, it.sha256, it.store) for url, it in known.items()} == {
        url: (f'"{content}"', digest(content or 0), STORES[0]) for url, content in WEB.items()
    }
    settle(frontier, WEB, grant)
    stats = frontier.stats()
    assert (stats.waiting, stats.leased, stats.success, stats.duplicate) == (0, 0, 2, 2)
    assert stats.changes == {"unchanged": 4} and faults(path) == []
    assert {url: row.http_status for url, row in rows(frontier).items()} == dict.fromkeys(WEB, 304)


def test_redirects_are_forgotten_and_lists_and_robots_stay(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put([image(), Request(url="file:///list?images&1&1", kind="list", entries="image"), page()])
    grant = lease(frontier, "image", worker="w0")
    moved = Outcome(status="moved", token=tokens(grant)[0], successor=image(target="http://b.example/2.jpg", hops=1))
    frontier.complete("w0", [moved], turn_ids(grant))
    while (grant := lease(frontier, worker="w0")).turns:
        frontier.complete("w0", done(grant), turn_ids(grant))
    frontier.close()
    found = renew(path)
    assert (found.number, found.requests, found.goes_on) == (1, {"page": 1, "image": 1}, False)
    assert renew(path).goes_on
    assert sorted(urls(lease(open_file()))) == ["http://a.example/", "http://a.example/1.jpg"]


def test_pages_are_revalidated_until_the_terms_change(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put([page(), page("http://a.example/plain")])
    seen = PriorFetch(url="http://a.example/", etag='"a"', last_modified="Mon, 02 Jan 2023 03:04:05 GMT")
    grant = lease(frontier, worker="w0")
    outcomes = [
        Outcome(status="done", token=token, seen=seen if n == 0 else None) for n, token in enumerate(tokens(grant))
    ]
    frontier.complete("w0", outcomes, turn_ids(grant))
    frontier = again(open_file, path, frontier)
    grant = lease(frontier, worker="w0")
    assert known_of(grant) == {"http://a.example/": seen, "http://a.example/plain": None}
    frontier.complete("w0", [Outcome(status="done", token=token, seen=seen) for token in tokens(grant)], [])
    frontier = again(open_file, path, frontier)
    with frontier.ledger.transaction():
        frontier.ledger.history.set_page_terms(b"other settings")
    assert known_of(lease(frontier)) == dict.fromkeys(["http://a.example/", "http://a.example/plain"])


def test_a_refused_picture_is_fetched_in_full_after_the_decoder_changed(open_file: Open, path: Path) -> None:
    def crawl(frontier: SqliteFrontier) -> dict[str, PriorFetch | None]:
        grant = lease(frontier, worker="w0")
        (token,) = tokens(grant)
        refused = ImageRecord(
            url="http://a.example/0.jpg",
            final_url="http://a.example/0.jpg",
            status="failed",
            reason="corrupt",
            etag='"a"',
        )
        frontier.complete("w0", [Outcome(status="done", token=token, reason="corrupt", record=refused)], ())
        frontier.complete("w0", [], turn_ids(grant))
        return known_of(grant)

    def judged_by(terms: str) -> None:
        with frontier.ledger.transaction():
            frontier.ledger.history.set_filter_terms(terms)

    frontier = open_file()
    judged_by("a decoder")
    frontier.put(images(1))
    crawl(frontier)
    held: list[PriorFetch | None] = []
    for terms in ("a decoder", "a better one", "a better one"):
        frontier = again(open_file, path, frontier)
        judged_by(terms)
        held += crawl(frontier).values()
    assert [known is not None and (known.reason, known.etag) for known in held] == [
        ("corrupt", '"a"'),
        False,
        ("corrupt", '"a"'),
    ]


# --- reports of workers


@pytest.mark.parametrize("is_known", [False, True])
def test_for_an_unchanged_picture_the_frontier_keeps_its_own_row(
    open_file: Open, path: Path, crawled: SqliteFrontier, is_known: bool
) -> None:
    frontier = again(open_file, path, crawled)
    lie: dict[str, Any] = {
        "sha256": digest(99),
        "path": f"images/00/{digest(99)}.exe",
        "bytes": 9,
        "width": 7,
        "store": "ff" * 8,
    }
    web = {**WEB, "http://a.example/new.jpg": 5}
    if not is_known:
        settle(frontier, WEB, lease(frontier, worker="w0"))
        frontier.put([image("http://a.example/new.jpg")])
    grant = lease(frontier, worker="w0")
    held = [it for turn in grant.turns for it in turn.leases]
    outcomes = [
        structs.replace(answer(it.request, web, **{**lie, "http_status": 304, "change": "gone"}), token=it.token)
        for it in held
    ]
    before = rows(frontier)
    frontier.complete("w0", outcomes, turn_ids(grant))
    for it in held:
        row = rows(frontier)[it.request.url]
        if is_known:
            was = before[it.request.url]
            assert (row.sha256, row.path, row.bytes, row.width, row.store) == (
                *(was.sha256, was.path, was.bytes, was.width),
                STORES[0],
            )
            assert row.change == "unchanged"
        else:
            assert (row.status, row.reason, row.path, row.sha256) == ("failed", "http-304", "", "")
    assert faults(path) == []


def test_a_worker_can_not_claim_a_prior_fetch_for_a_found_request(open_file: Open) -> None:
    frontier = open_file()
    frontier.put([page()])
    found = image(prior=PriorFetch(url="http://a.example/1.jpg", etag='"secret of another"'))
    (token,) = tokens(grant := lease(frontier, worker="w0"))
    frontier.complete("w0", [Outcome(status="done", token=token, discovered=(found, image()))], turn_ids(grant))
    assert known_of(lease(frontier)) == {"http://a.example/1.jpg": None}


def test_a_picture_in_another_store_keeps_its_store(open_file: Open, path: Path, crawled: SqliteFrontier) -> None:
    frontier = again(open_file, path, crawled)
    grant = lease(frontier, worker="w0")
    held = [it for turn in grant.turns for it in turn.leases]
    outcomes = [
        structs.replace(answer(it.request, WEB, http_status=200, store=STORES[1]), token=it.token) for it in held
    ]
    verdicts = frontier.complete("w0", outcomes, turn_ids(grant))
    assert {verdict.store for verdict in verdicts} == {STORES[0]} == {row.store for row in rows(frontier).values()}
    assert faults(path) == []


# --- contents that move between URLs


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "contents",
    [
        [2, 1, 1, 1],  # the first copy is gone, and the picture that was alone has its bytes
        [2, 2, 2, 1],  # swap two contents
        [None, None, 1, 2],
        [None, None, None, None],
        [3, 4, 5, 6],
        [None, 1, 2, 1],
    ],
)
def test_each_content_has_exactly_one_success(
    open_file: Open, path: Path, crawled: SqliteFrontier, contents: list[int | None], batch: int
) -> None:
    before = rows(crawled)
    frontier = again(open_file, path, crawled)
    web = dict(zip(WEB, contents, strict=True))
    while (grant := lease(frontier, "image", worker="w0", limit=batch)).turns:
        settle(frontier, web, grant)
        assert faults(path) == []
    _check(frontier, web, before)
    stats = frontier.stats()
    frontier.close()
    assert _counts(open_file().stats()) == _counts(stats)


def _check(frontier: SqliteFrontier, web: Web, before: dict[str, ImageRecord]) -> None:
    after = rows(frontier)
    for url, content in web.items():
        row, was = after[url], before[url]
        if content is None:
            assert (row.reason, row.path) == ("http-404", was.path)
            assert row.change == ("gone" if was.reason != "http-404" and was.path else "")
        else:
            assert row.sha256 == digest(content)
            assert row.change == ("new" if not was.path else "unchanged" if was.sha256 == row.sha256 else "changed")
    firsts = [row.sha256 for row in after.values() if row.status == "success"]
    assert len(firsts) == len(set(firsts)) == len({content for content in web.values() if content is not None})


def _counts(stats: FrontierStats) -> tuple[object, ...]:
    changes = {change: number for change, number in stats.changes.items() if number}
    stores = {(store.id, store.pictures) for store in stats.stores}
    return stats.success, stats.duplicate, stats.failed, stats.bytes, stats.refreshes, changes, stores


_contents = st.one_of(st.none(), st.integers(1, 4))


@given(
    webs=st.lists(st.lists(_contents, min_size=6, max_size=6), min_size=2, max_size=4),
    batches=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1), st.booleans()), min_size=1, max_size=12),
)
def test_records_are_consistent_after_any_changes_in_any_order(
    webs: list[list[int | None]], batches: list[tuple[int, int, bool]]
) -> None:
    """Run several refreshes of six pictures by two machines, with restarts in between."""
    with TemporaryDirectory() as folder:
        path, clock = Path(folder, "frontier.sqlite"), FakeClock()

        def opened() -> SqliteFrontier:
            return SqliteFrontier(path, clock=clock, wall=clock, dice=lambda: 0.5, policy=OPEN)

        frontier = opened()
        frontier.put(images(6))
        before: dict[str, ImageRecord] = {}
        for number, contents in enumerate(webs):
            web = {request.url: content for request, content in zip(images(6), contents, strict=True)}
            if number:
                frontier = again(lambda: opened(), path, frontier)
            frontier = _refreshed(frontier, web, batches, opened)
            assert faults(path) == []
            if before:
                _check(frontier, web, before)
            before = rows(frontier)
            stats = frontier.stats()
            assert stats.success + stats.duplicate + stats.failed == stats.discovered == 6
            frontier.close()
            frontier = opened()
            assert _counts(frontier.stats()) == _counts(stats)
        frontier.close()


def _refreshed(
    frontier: SqliteFrontier, web: Web, batches: list[tuple[int, int, bool]], opened: Callable[[], SqliteFrontier]
) -> SqliteFrontier:
    turn = 0
    while True:
        limit, worker, restarts = batches[turn % len(batches)]
        grant = lease(frontier, "image", worker=f"w{worker}", limit=limit)
        if not grant.turns:
            return frontier
        settle(frontier, web, grant, worker)
        turn += 1
        if restarts:
            stats = frontier.stats()
            frontier.close()
            frontier = opened()
            assert _counts(frontier.stats()) == _counts(stats)


# --- with retry


def test_requeued_requests_keep_the_file_saved_before_a_refresh(
    open_file: Open, path: Path, clock: FakeClock, crawled: SqliteFrontier
) -> None:
    frontier = again(open_file, path, crawled)
    frontier.put([image("http://a.example/never.jpg")])
    web: Web = {**dict.fromkeys(WEB), "http://a.example/never.jpg": None}
    work_off(frontier, web)
    kept = rows(frontier)
    frontier.close()
    found = requeue_failed(path, lambda reason: True, patience=0.0, wall=clock.now, before=lambda *_: None)
    assert found.requests == {("image", "http-404"): 5}
    frontier = open_file()
    assert faults(path) == []
    del kept["http://a.example/never.jpg"]
    assert rows(frontier) == kept and frontier.stats().waiting == 5
    work_off(frontier, {**WEB, "http://a.example/never.jpg": 9})
    assert faults(path) == [] and frontier.stats().success == 3
    assert {row.change for row in rows(frontier).values()} == {"unchanged", "new"}
