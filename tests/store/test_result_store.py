"""A result store's own records: outcomes noted, reported, settled and repaired; and duplicates of files elsewhere."""

from hashlib import sha256
from pathlib import Path

import pytest
from msgspec import structs

from crawler.errors import DiskError, RequestFailed
from crawler.handler import failure
from crawler.model import ImageRecord, Outcome, Request, Verdict, describe
from crawler.store.bucket import Store
from crawler.store.local import LocalStore
from crawler.store.lock import try_to_own
from crawler.store.manifest import read_manifest
from crawler.store.result_store import OwnResultStore, ResultStore, claim, result_store_for

OTHER = "0" * 16


def saved(store: Store, number: int) -> Outcome:
    """Put a picture into the store; return its outcome."""
    data = b"picture %d" % number
    digest = sha256(data).hexdigest()
    path = f"images/{digest[:2]}/{digest}.jpg"
    is_new = store.put(path, data)
    request = Request(url=f"http://a.test/{number}.jpg", kind="image")
    record = describe(request, status="success", store=store.id, path=path, sha256=digest, fetched_at=float(number))
    return Outcome(status="done", token=f"t{number}", record=record, stored=is_new)


def shelf_in(folder: Path, slot: int = 0, worker: str = "machine/1", crawl: str = "x") -> "Noting":
    return Noting(LocalStore(folder), worker, slot, crawl, folder)


class Noting(OwnResultStore):
    def take(self, outcomes: list[Outcome]) -> None:
        """Do the steps of a worker before it reports."""
        for outcome in outcomes:
            self.note(outcome)
        self.keep(outcomes)
        self.close()


def unsettled(folder: Path, slot: int = 0) -> list[Outcome]:
    """Return the outcomes that the next life in that slot finds in the outbox."""
    shelf = shelf_in(folder, slot)
    found = [outcome for left in shelf.unacknowledged() for outcome in left.outcomes]
    shelf.close()
    return found


def rows(folder: Path) -> list[ImageRecord]:
    return list(read_manifest(folder / "manifest.jsonl"))


SUCCESS = Verdict(status="success", attempts=1)
ELSEWHERE = Verdict(status="duplicate", store=OTHER, path="images/aa/other.jpg", attempts=1, is_spare=True)
LOST = Verdict(status="duplicate", store=OTHER, path="images/aa/other.jpg", attempts=1)


def test_rows_have_the_verdict_of_the_frontier(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    outcomes = [saved(shelf.store, 1), saved(shelf.store, 2)]
    shelf.take(outcomes)
    shelf.settle(outcomes, [SUCCESS, ELSEWHERE])
    first, second = rows(tmp_path)
    assert (first.status, first.store, first.worker, first.attempts) == ("success", shelf.store.id, "machine/1", 1)
    assert (second.status, second.store, second.path) == ("duplicate", OTHER, "images/aa/other.jpg")
    assert (tmp_path / "results.txt").read_text() == "http://a.test/1.jpg--->success\nhttp://a.test/2.jpg--->success\n"


def test_failures_have_rows_and_outcomes_that_are_not_final_have_none(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    request = Request(url="http://a.test/x.jpg", kind="image")
    outcomes = [failure(request, RequestFailed("http-404")), failure(request, RequestFailed("timeout", retryable=True))]
    shelf.take(outcomes)
    shelf.settle(outcomes, [Verdict(status="failed", reason="http-404", attempts=1), Verdict()])
    assert [row.reason for row in rows(tmp_path)] == ["http-404"]


def test_a_duplicate_whose_first_copy_is_elsewhere_is_removed(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    kept, removed = saved(shelf.store, 1), saved(shelf.store, 2)
    shelf.settle([kept, removed], [SUCCESS, ELSEWHERE])
    assert kept.record and removed.record
    assert shelf.store.exists(kept.record.path) and not shelf.store.exists(removed.record.path)


def named(store: Store, name: str) -> Outcome:
    """Put the same picture under a name of its own."""
    digest = sha256(b"picture").hexdigest()
    path = f"images/{name}.{digest[:32]}.jpg"
    request = Request(url=f"http://a.test/{name}.jpg", kind="image")
    record = describe(request, status="success", store=store.id, path=path, sha256=digest, fetched_at=1.0)
    return Outcome(status="done", token=name, record=record, stored=store.put(path, b"picture"))


def test_a_duplicate_under_another_name_is_removed_if_the_first_copy_exists(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    first, copy = named(shelf.store, "dog"), named(shelf.store, "cat")
    assert first.record and copy.record
    double = Verdict(status="duplicate", store=shelf.store.id, path=first.record.path, attempts=1, is_spare=True)
    shelf.settle([first, copy], [SUCCESS, double])
    assert shelf.store.exists(first.record.path) and not shelf.store.exists(copy.record.path)
    assert [row.path for row in rows(tmp_path)] == [first.record.path] * 2
    shelf.store.remove(first.record.path)
    last = named(shelf.store, "owl")
    shelf.settle([last], [double])
    assert last.record and shelf.store.exists(last.record.path)


def test_a_file_with_two_names_is_never_removed(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    first = named(shelf.store, "Dog")
    assert first.record
    path = first.record.path.replace("Dog", "dog")
    (tmp_path / path).hardlink_to(tmp_path / first.record.path)  # as on a case-insensitive file system
    copy = structs.replace(first, record=structs.replace(first.record, path=path))
    double = Verdict(status="duplicate", store=shelf.store.id, path=first.record.path, attempts=1, is_spare=True)
    shelf.settle([copy], [double])
    assert shelf.store.exists(path)


def test_files_from_before_this_crawl_are_never_removed(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    saved(shelf.store, 1)
    again = saved(shelf.store, 1)
    shelf.settle([again], [ELSEWHERE])
    assert again.record and shelf.store.exists(again.record.path)


def test_unacknowledged_outcomes_are_reported_again_in_the_next_life(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    outcomes = [saved(shelf.store, 1), saved(shelf.store, 2)]
    shelf.take(outcomes)  # and now it is killed
    again = shelf_in(tmp_path, worker="renamed/1")
    (note,) = again.unacknowledged()
    assert (note.worker, note.outcomes) == ("machine/1", outcomes)
    again.settle(outcomes, [SUCCESS, Verdict(state="stale")], worker=note.worker)
    note.forget()
    assert [(row.url, row.worker) for row in rows(tmp_path)] == [("http://a.test/1.jpg", "machine/1")]
    assert unsettled(tmp_path) == []


def test_the_outbox_of_a_dead_process_is_reported_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path, slot=1)
    outcome = saved(shelf.store, 1)
    shelf.take([outcome])
    release = try_to_own(tmp_path, name=".lock-1")
    assert release is not None and unsettled(tmp_path, slot=0) == []
    release()
    assert unsettled(tmp_path, slot=0) == [outcome]


def test_a_file_that_a_row_refers_to_is_not_spare(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    first = saved(shelf.store, 1)
    assert first.record
    again = structs.replace(first, record=structs.replace(first.record, url="http://b.test/1.jpg"))
    shelf.settle([first], [SUCCESS])  # of one crawl
    shelf.take([again])  # of another one, killed
    (outcome,) = unsettled(tmp_path)
    assert not outcome.stored


def test_two_crawls_can_not_use_a_store_at_the_same_time(tmp_path: Path) -> None:
    shelf_in(tmp_path, slot=0, crawl="x")
    release = try_to_own(tmp_path, name=".lock-0")
    assert release is not None
    with pytest.raises(DiskError, match="another crawl is running"):
        shelf_in(tmp_path, slot=1, crawl="y")
    release()
    shelf_in(tmp_path, slot=1, crawl="y")


def test_two_downloaders_of_one_crawl_may_start_in_a_new_directory_at_once(tmp_path: Path) -> None:
    numbers = []
    for slot in (0, 1):  # both have their number before either has its result store
        claim(tmp_path, "x")
        numbers.append(try_to_own(tmp_path, name=f".lock-{slot}"))
    assert None not in numbers
    shelves = [shelf_in(tmp_path, slot=slot, crawl="x") for slot in (0, 1)]
    assert len(shelves) == 2
    with pytest.raises(DiskError, match="another crawl is running"):
        claim(tmp_path, "y")


def test_a_duplicate_stays_if_the_first_copy_may_be_lost(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    outcome = saved(shelf.store, 1)
    shelf.settle([outcome], [LOST])
    assert outcome.record and shelf.store.exists(outcome.record.path)


def test_a_store_without_its_id_file_restores_it(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    name, outcome = shelf.store.id, saved(shelf.store, 1)
    (tmp_path / "store.json").unlink()
    shelf.take([outcome])
    assert LocalStore(tmp_path).id == name


def test_an_outcome_with_its_row_is_not_reported_again(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    outcomes = [saved(shelf.store, 1)]
    shelf.take(outcomes)
    noted = (tmp_path / ".told-0.jsonl").read_bytes()
    shelf.settle(outcomes, [SUCCESS])
    (tmp_path / ".told-0.jsonl").write_bytes(noted)  # killed between the row and the removal from the outbox
    assert unsettled(tmp_path) == []


@pytest.mark.parametrize("harm", ["missing", "torn", "note"])
def test_an_outcome_whose_file_is_lost_is_not_reported(tmp_path: Path, harm: str) -> None:
    shelf = shelf_in(tmp_path)
    outcome = saved(shelf.store, 1)
    shelf.take([outcome])
    assert outcome.record
    place, note = tmp_path / outcome.record.path, tmp_path / ".told-0.jsonl"
    if harm == "missing":
        place.unlink()
    elif harm == "torn":
        place.write_bytes(b"pic")
    else:
        note.write_bytes(note.read_bytes()[:-9])
    assert unsettled(tmp_path) == []


def test_a_torn_line_is_cut_while_other_processes_append(tmp_path: Path) -> None:
    one, two = shelf_in(tmp_path, 0), shelf_in(tmp_path, 1)
    first, second = saved(one.store, 1), saved(two.store, 2)
    one.settle([first], [SUCCESS])
    with (tmp_path / "manifest.jsonl").open("ab") as file:
        file.write(b'{"url":"http://a.te')  # a third process was killed
    two.settle([second], [SUCCESS])
    assert [row.url for row in rows(tmp_path)] == ["http://a.test/1.jpg", "http://a.test/2.jpg"]
    assert len((tmp_path / "results.txt").read_text().splitlines()) == 2


def test_a_results_line_missing_for_its_row_is_restored_at_the_start(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    shelf.settle([saved(shelf.store, 1)], [SUCCESS])
    (tmp_path / "results.txt").write_text("")
    shelf_in(tmp_path)
    assert (tmp_path / "results.txt").read_text() == "http://a.test/1.jpg--->success\n"


def test_the_crawl_s_own_directory_has_only_the_master_s_records(tmp_path: Path) -> None:
    (tmp_path / "frontier.sqlite").touch()
    shelf = result_store_for(LocalStore(tmp_path), "machine/1", 0, "x", tmp_path)
    shelf.settle([saved(shelf.store, 1)], [SUCCESS])
    assert type(shelf) is ResultStore and not (tmp_path / "manifest.jsonl").exists()


def test_records_that_stay_locked_are_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = shelf_in(tmp_path)
    monkeypatch.setattr("crawler.store.result_store._PATIENCE", 0.0)
    release = try_to_own(tmp_path, name=".lock-manifest")
    assert release is not None
    with pytest.raises(DiskError, match="still locks the records"):
        shelf.settle([saved(shelf.store, 1)], [SUCCESS])
    release()


def test_repeated_settling_writes_the_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = shelf_in(tmp_path)
    outcomes = [saved(shelf.store, 1)]
    shelf.take(outcomes)
    remove, refusals = shelf.store.remove, iter([DiskError("it refuses"), DiskError("it refuses")])

    def refusing(key: str) -> None:
        for refusal in refusals:
            raise refusal
        remove(key)

    monkeypatch.setattr(shelf.store, "remove", refusing)
    for _ in range(2):
        with pytest.raises(DiskError, match="it refuses"):
            shelf.settle(outcomes, [ELSEWHERE])
    shelf.settle(outcomes, [ELSEWHERE])
    assert [row.status for row in rows(tmp_path)] == ["duplicate"]
    assert not list((tmp_path / "images").rglob("*.jpg")) and unsettled(tmp_path, slot=0) == []
