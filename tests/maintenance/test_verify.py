"""Files compared with records across several stores, some of them missing; and gathering."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crawler.app.config import CrawlConfig, policy
from crawler.download.naming import digest, image_key
from crawler.errors import ConfigError
from crawler.frontier.sqlite import SqliteFrontier
from crawler.maintenance.gather import gather
from crawler.maintenance.verify import verify
from crawler.model import Outcome, describe
from crawler.stats import StoreStats
from crawler.store.local import LocalStore
from tests.frontier.fakes import image, lease, turn_ids
from tests.support.processes import manifest_of

Fill = Callable[..., list[LocalStore]]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    place = tmp_path / "job"
    place.mkdir()
    return place


@pytest.fixture
def stores(job: Path, tmp_path: Path) -> list[LocalStore]:
    """Return a finished crawl whose nine pictures are in three stores, three in each."""
    made = [LocalStore(tmp_path / name) for name in "ABC"]
    frontier = SqliteFrontier(
        job / "frontier.sqlite", policy(CrawlConfig.load(("", {"politeness": {"robots": False}})))
    )
    frontier.put([image(f"http://127.0.0.1/{n}.jpg") for n in range(9)])
    while (grant := lease(frontier)).turns:
        for turn in grant.turns:
            for leased in turn.leases:
                number = int(leased.request.url[-5])
                data = b"picture %d" % number
                store, key = made[number % 3], image_key(digest(data), "jpg")
                store.put(key, data)
                record = describe(
                    leased.request, status="success", store=store.id, path=key, sha256=digest(data), bytes=len(data)
                )
                frontier.complete("w1", [Outcome(status="done", token=leased.token, record=record)], ())
        frontier.complete("w1", [], turn_ids(grant))
    frontier.close()
    return made


def files(place: Path) -> list[Path]:
    return [path for path in (place / "images").rglob("*") if path.is_file()]


def counts(stores: tuple[StoreStats, ...]) -> dict[str, int]:
    return {store.id: store.pictures for store in stores}


def test_pictures_in_stores_that_are_not_checked_are_elsewhere(job: Path, stores: list[LocalStore]) -> None:
    found = verify(job)
    assert (found.whole, found.missing, found.is_good) == (0, 0, True)
    assert counts(found.elsewhere) == {store.id: 3 for store in stores}
    found = verify(job, [stores[0].root])
    assert (found.whole, sum(counts(found.elsewhere).values())) == (3, 6)


def test_missing_damaged_and_foreign_files_are_distinguished(job: Path, stores: list[LocalStore]) -> None:
    first, second, _ = sorted(files(stores[0].root))
    first.unlink()
    second.write_bytes(b"rotten")
    (stores[0].root / "images" / "stranger.jpg").write_bytes(b"who?")
    found = verify(job, [store.root for store in stores])
    assert (found.whole, found.missing, found.damaged, found.foreign) == (7, 1, 1, 1)
    assert not found.is_good and len(found.examples) == 3


def test_files_that_are_not_named_like_pictures_belong_to_the_user(job: Path, stores: list[LocalStore]) -> None:
    images = stores[0].root / "images"
    for name in ("metadata.jsonl", "README", "f6/notes.txt"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).touch()
    found = verify(job, [store.root for store in stores])
    assert (found.whole, found.foreign, found.other, found.is_good) == (9, 0, 3, True)
    for number, name in enumerate(["stranger.jpg", "stranger.WEBP", f"{'ab' * 32}.txt"], 1):
        (images / name).touch()
        found = verify(job, [store.root for store in stores])
        assert (found.foreign, found.other, found.is_good) == (number, 3, False)


def test_gathering_copies_pictures_and_reports_those_still_elsewhere(job: Path, stores: list[LocalStore]) -> None:
    shutil.rmtree(stores[2].root)  # a machine that is gone
    done = gather(job, [stores[0].root, stores[1].root])
    assert (done.pictures, done.missing, counts(done.elsewhere)) == (6, 0, {stores[2].id: 3})
    here = LocalStore(job).id
    assert sorted(row.store == here for row in manifest_of(job)) == [False] * 3 + [True] * 6
    assert len(files(job)) == 6
    found = verify(job)
    assert (found.whole, counts(found.elsewhere), found.is_good) == (6, {stores[2].id: 3}, True)


def test_gathering_twice_changes_nothing(job: Path, stores: list[LocalStore]) -> None:
    gather(job, [store.root for store in stores])
    again = gather(job, [store.root for store in stores])
    assert (again.pictures, again.missing, again.elsewhere) == (0, 0, ())
    assert verify(job).whole == 9


def test_a_damaged_picture_is_not_gathered(job: Path, stores: list[LocalStore]) -> None:
    files(stores[0].root)[0].write_bytes(b"rotten")
    done = gather(job, [stores[0].root])
    assert (done.pictures, done.missing) == (2, 1)
    assert verify(job).whole == 2


def test_a_record_can_not_point_outside_a_store(job: Path, stores: list[LocalStore], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    frontier = SqliteFrontier(
        job / "frontier.sqlite", policy(CrawlConfig.load(("", {"politeness": {"robots": False}})))
    )
    frontier.put([image("http://127.0.0.1/evil.jpg")])
    grant = lease(frontier)
    [leased] = grant.turns[0].leases
    sha256 = digest(b"secret")
    record = describe(leased.request, status="success", store=stores[0].id, path="../secret", sha256=sha256, bytes=6)
    frontier.complete("w1", [Outcome(status="done", token=leased.token, record=record)], turn_ids(grant))
    frontier.close()
    assert verify(job, [stores[0].root]).missing == 1
    assert gather(job, [stores[0].root]).missing == 1


def test_only_stores_are_gathered(job: Path, stores: list[LocalStore], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a store"):
        gather(job, [tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="is not a crawl directory"):
        gather(tmp_path, [stores[0].root])
