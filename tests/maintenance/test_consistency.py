"""Consistency checks of a crawl: any crawl passes them, and each kind of damage is found and named."""

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import crawler
from crawler.cli.maintenance_text import describe_audit
from crawler.demo.server import DemoServer
from crawler.download.naming import digest, image_key
from crawler.errors import DiskError
from crawler.frontier.ledger.lease_log import LeasedTurn, LeaseLog
from crawler.frontier.sqlite import SqliteFrontier
from crawler.maintenance.verify import VerifyReport, verify
from crawler.model import Grant, Lease, Outcome, OutcomeStatus, Request, describe
from crawler.store.local import LocalStore
from crawler.store.manifest import ManifestWriter
from tests.frontier.disk import copy_of
from tests.frontier.fakes import OPEN, FakeClock, images, lease, page, turn_ids
from tests.support.calls import Call, calls
from tests.support.processes import commands, many_pictures, stats_of, wait_until

Break = Callable[[Path], None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished crawl of the bundled web; tests must not change it."""
    place = tmp_path_factory.mktemp("finished") / "job"
    with DemoServer() as server:
        crawler.run(server.url, output=place)
    return place


@pytest.fixture
def job(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished crawl for one test."""
    return Path(shutil.copytree(finished, tmp_path / "job"))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


def rules(found: VerifyReport) -> set[str]:
    return {fault.rule for fault in found.faults}


# --- consistent crawls


def test_a_finished_crawl_has_no_faults(job: Path, call: Call) -> None:
    found = verify(job)
    assert (found.is_good, found.faults, found.foreign) == (True, (), 0)
    assert found.balance is not None and found.balance.is_finished
    assert found.balance.images["success"] == found.whole > 100
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file() and path.name != ".lock"}
    ended = call("verify", job)
    assert (ended.code, ended.out) == (0, "") and "0 waiting" in ended.err and "records are consistent" in ended.err
    assert before == {path: path.read_bytes() for path in job.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_crawl_stopped_in_the_middle_has_no_faults(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 30)) as server:
        crawler.run(server.url, output=tmp_path / "job", max_images=7)
    found = verify(tmp_path / "job")
    assert found.is_good and found.balance is not None
    assert (found.balance.images, found.balance.is_finished) == ({"success": 7, "waiting": 23}, False)


@pytest.mark.fire
def test_a_running_crawl_is_checked_without_disturbing_it(tmp_path: Path) -> None:
    with commands(tmp_path) as start, DemoServer(many_pictures(tmp_path, 20)) as server:
        server.hold("/0007.png")
        master = start("run", "run", server.url, "-o", tmp_path / "job", "-w", 1)
        wait_until(lambda: stats_of(tmp_path / "job").success > 0, "some pictures")
        found = start("verify", "verify", tmp_path / "job")
        assert found.ends() == 0 and "the crawl is running; records are consistent" in found.said, found.said
        server.release("/0007.png")
        assert master.ends() == 0, master.said
    assert verify(tmp_path / "job").whole == 20


# --- damage


#: Rows that statements may name.
ROWS = {
    "image": "SELECT request FROM record WHERE status = 'success' LIMIT 1",
    "failed": "SELECT request FROM record WHERE status = 'failed' LIMIT 1",
    "success": "SELECT seq FROM record WHERE status = 'success' LIMIT 1",
    "duplicate": "SELECT seq FROM record WHERE status = 'duplicate' LIMIT 1",
}


def sql(*statements: str, **values: str) -> Break:
    def apply(job: Path) -> None:
        with closing(sqlite3.connect(job / "frontier.sqlite")) as db, db:
            rows = {name: db.execute(query).fetchone()[0] for name, query in ROWS.items()}
            for statement in statements:
                assert db.execute(statement, rows | values).rowcount != 0, statement

    return apply


def lines(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Break:
    def apply(job: Path) -> None:
        before = (job / name).read_bytes().splitlines(keepends=True)
        (job / name).write_bytes(b"".join(change(before)))

    return apply


def in_record(row: str, old: str, new: str) -> Break:
    """Change the JSON of a record."""
    change = "UPDATE record_data SET data = CAST(replace(CAST(data AS TEXT), :old, :new) AS BLOB) WHERE seq = "
    return sql(f"{change}:{row} AND instr(CAST(data AS TEXT), :old)", old=old, new=new)


def add_part(job: Path) -> None:
    (job / "images" / "ab").mkdir(exist_ok=True)
    (job / "images" / "ab" / ".x.jpg.123.0123abcd.part").write_bytes(b"half")


def add_link(job: Path) -> None:
    (job / "images" / "out").symlink_to(job.parent, target_is_directory=True)


def add_lease(job: Path) -> None:
    journal = LeaseLog(job / "leases.log")
    journal.write(LeasedTurn(turn="t", worker="w", host="h", rows=(1,), seconds=1.0, era="e"))
    journal.close()


BREAKS: dict[str, tuple[Break, str]] = {
    "a record is gone": (sql("DELETE FROM record WHERE seq = :success"), "a settled image has no record"),
    "a request is gone": (sql("DELETE FROM request WHERE id = :image"), "a record belongs to no request"),
    "a settled one waits": (
        sql("UPDATE request SET state = 0 WHERE id = :image"),
        "a waiting image already has a record",
    ),
    "another URL": (
        in_record("success", '"url":"http://', '"url":"http://x.'),
        "a record and its request have different URLs",
    ),
    "another status": (
        in_record("success", '"status":"success"', '"status":"failed"'),
        "a record and its request have different results",
    ),
    "another status in its column": (
        sql("UPDATE record SET status = 'duplicate' WHERE seq = :success"),
        "the columns of a record differ from its data",
    ),
    "another reason": (
        sql("UPDATE request SET reason = 'dns' WHERE id = :failed"),
        "a record and its request have different results",
    ),
    "a reason of one's own": (
        sql("UPDATE request SET reason = 'moon-phase' WHERE id = :failed"),
        "a request has a reason that does not fit its state",
    ),
    "done for a reason": (
        sql("UPDATE request SET reason = 'dns' WHERE id = :image"),
        "a request has a reason that does not fit its state",
    ),
    "an unknown state": (sql("UPDATE request SET state = 7 WHERE id = :image"), "a request can't be read"),
    "states and total": (sql("UPDATE request SET state = 7 WHERE id = :image"), "the states do not add up"),
    "a duplicate's path": (
        in_record("duplicate", '"path":"images/', '"path":"images/0'),
        "a duplicate has no first copy at its path",
    ),
    "a duplicate's store": (
        in_record("duplicate", '"store":"', '"store":"0'),
        "a duplicate has no first copy at its path",
    ),
    "a first copy that is none": (
        sql("UPDATE record SET copy = NULL WHERE seq = :success"),
        "the columns of a record differ from its data",
    ),
    "a page is gone": (
        sql("DELETE FROM request_data WHERE id = 2", "DELETE FROM request WHERE id = 2"),
        "requests are missing",
    ),
    "data of nobody's": (
        sql("DELETE FROM request WHERE id = 2"),
        "a row belongs to a request, record or origin that does not exist",
    ),
    "a key of nobody's": (
        sql("INSERT INTO request_index VALUES (5, 999999)"),
        "a row belongs to a request, record or origin that does not exist",
    ),
    "a host that is none": (
        sql("INSERT INTO host VALUES ('x.example', x'7b')"),
        "the health of a host can't be read",
    ),
    "a time that is none": (
        sql("UPDATE origin SET rules_until = 'soon' WHERE id = 1"),
        "the robots rules of a host can't be read",
    ),
    "a number that is none": (
        sql("INSERT INTO meta VALUES ('copy_index', x'616263')"),
        "a counter or the last refresh can't be read",
    ),
    "two first copies": (
        sql(
            "UPDATE record SET copy = (SELECT copy FROM record WHERE status = 'success' LIMIT 1) WHERE seq ="
            " (SELECT MAX(seq) FROM record WHERE status = 'success')"
        ),
        "two successes have the same content, or the index lacks one",
    ),
    "a key of another copy": (
        sql("INSERT INTO copy_index SELECT copy, seq + 1 FROM record WHERE seq = :success"),
        "two successes have the same content, or the index lacks one",
    ),
    "a key of another request": (
        sql("INSERT INTO request_index SELECT hash, id + 1 FROM request WHERE id = :image"),
        "two requests have the same URL, or the index lacks one",
    ),
    "a key that was not written": (
        sql("INSERT INTO meta VALUES ('request_index', x'3939')"),
        "two requests have the same URL, or the index lacks one",
    ),
    "a path of another content": (
        in_record("success", '"path":"images/', '"path":"image/'),
        "a record has an invalid path or SHA-256",
    ),
    "an unreadable row of a list": (
        sql("INSERT INTO list_row VALUES (1, :image, 7, 0, 1, x'7b')"),
        "a row of a list can't be read",
    ),
    "a row of a list for nothing": (
        sql("INSERT INTO list_row VALUES (1, 999999, 7, 0, 2, x'7b7d')"),
        "a row belongs to a request, record or origin that does not exist",
    ),
    "a record that is none": (
        sql("UPDATE record_data SET data = x'7b' WHERE seq = :success"),
        "a record can't be read",
    ),
    "a request that is none": (
        sql("UPDATE request_data SET data = x'7b' WHERE id = :image"),
        "a request can't be read",
    ),
    "a URL twice": (
        sql(
            "INSERT INTO request SELECT 999999, hash, kind, origin, priority, seed, state, attempts, not_before,"
            " reason, record FROM request WHERE id = :image",
            "INSERT INTO request_data SELECT 999999, data FROM request_data WHERE id = :image",
        ),
        "two requests have the same URL, or the index lacks one",
    ),
    "a record of a page": (
        sql(
            "UPDATE request SET record = :success WHERE id = (SELECT id FROM request WHERE kind = 0 LIMIT 1)",
        ),
        "a request that is not for an image has a record",
    ),
    "another host": (
        sql("UPDATE request SET origin = 1 + (origin = 1) WHERE id = :image"),
        "a request is queued at the wrong host",
    ),
    "no host": (
        sql("UPDATE request SET origin = 999 WHERE id = :image"),
        "a row belongs to a request, record or origin that does not exist",
    ),
    "another kind": (
        sql("UPDATE request SET kind = 0 WHERE id = :image"),
        "a request is queued with the wrong kind, priority or seed flag",
    ),
    "another priority": (
        sql("UPDATE request SET priority = 5 WHERE id = :image"),
        "a request is queued with the wrong kind, priority or seed flag",
    ),
    "rules that are none": (
        sql("UPDATE origin SET rules = x'7b' WHERE rules NOTNULL"),
        "the robots rules of a host can't be read",
    ),
    "another key": (
        sql("UPDATE meta SET value = x'00' WHERE name = 'secret'"),
        "a request is indexed under the wrong URL",
    ),
    "an index apart from its table": (
        sql(
            "PRAGMA writable_schema = 1",
            "UPDATE sqlite_master SET sql = replace(sql, 'WHERE seed', 'WHERE NOT seed') WHERE name = 'seed'",
        ),
        "the database is damaged",
    ),
    "a row is gone": (lines("manifest.jsonl", lambda rows: rows[:-1]), "manifest.jsonl ends before the records do"),
    "a row too many": (
        lines("manifest.jsonl", lambda rows: [*rows, rows[0]]),
        "manifest.jsonl has more lines than the records",
    ),
    "rows in another order": (
        lines("manifest.jsonl", lambda rows: [rows[1], rows[0], *rows[2:]]),
        "manifest.jsonl differs from the records",
    ),
    "a torn row": (
        lines("manifest.jsonl", lambda rows: [*rows[:-1], rows[-1][:9]]),
        "manifest.jsonl ends with an incomplete line",
    ),
    "no results": (lambda job: (job / "results.txt").unlink(), "results.txt ends before the records do"),
    "a forged line": (
        lines("results.txt", lambda rows: [b"http://x/--->success--->success\n", *rows[1:]]),
        "results.txt has a malformed line",
    ),
    "another verdict": (
        lines("results.txt", lambda rows: [rows[0].replace(b"--->", b"/x--->"), *rows[1:]]),
        "results.txt differs from the records",
    ),
    "an unfinished file": (add_part, "an unfinished file was left behind"),
    "an open lease": (add_lease, "a lease is open in a finished crawl"),
}


@pytest.mark.parametrize(("harm", "rule"), BREAKS.values(), ids=list(BREAKS))
def test_each_kind_of_damage_is_named(job: Path, harm: Break, rule: str, call: Call) -> None:
    harm(job)
    assert rule in rules(verify(job))
    ended = call("verify", job)
    assert ended.code == 9 and f"  {rule}: " in ended.err and "Traceback" not in ended.err


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_out_of_the_directory_is_named(job: Path) -> None:
    add_link(job)
    assert rules(verify(job)) == {"a link leads out of the directory"}


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_the_pictures_folder_may_be_a_link_to_another_disk(job: Path, tmp_path: Path) -> None:
    before = verify(job)
    (job / "images").rename(tmp_path / "big")
    (job / "images").symlink_to(tmp_path / "big", target_is_directory=True)
    assert verify(job) == before
    (tmp_path / "big" / "stranger.jpg").write_bytes(b"who?")
    (tmp_path / "big" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "big" / "pipe")
    add_part(job)
    found = verify(job)
    assert (found.whole, found.spare, found.foreign) == (before.whole, before.spare, 3)
    assert rules(found) == {"an unfinished file was left behind"}


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_counts_never_fall_below_zero(job: Path, tmp_path: Path) -> None:
    folder = next(path for path in (job / "images").iterdir() if path.is_dir())
    folder.rename(tmp_path / "far")
    folder.symlink_to(tmp_path / "far", target_is_directory=True)
    found = verify(job)
    assert found.spare == 0 and rules(found) == {"a link leads out of the directory"}


def test_examples_are_few_and_can_not_steer_a_terminal(job: Path, call: Call) -> None:
    lines("results.txt", lambda rows: [b"\x1b[2Jhttp://x/\n", *rows[1:]])(job)
    sql("UPDATE request SET reason = char(27) || 'x' WHERE state != 1")(job)
    ended = call("verify", job)
    assert ended.code == 9 and "\x1b" not in ended.err and " more: --json lists them all\n" in ended.err
    assert len(ended.err.splitlines()) < 20


def test_in_an_unfinished_crawl_an_intact_file_may_precede_its_record(job: Path) -> None:
    sql("UPDATE meta SET value = x'31' WHERE name = 'at-work'")(job)
    data = b"not recorded yet"
    LocalStore(job).put(image_key(digest(data), "jpg"), data)
    add_part(job)
    add_lease(job)
    lines("manifest.jsonl", lambda rows: [*rows[:-2], rows[-1][:9]])(job)
    found = verify(job)
    assert (found.is_good, found.early, found.foreign, found.faults) == (True, 1, 0, ())
    (job / "images" / "stranger.jpg").write_bytes(b"who?")
    assert verify(job).foreign == 1


# --- kills at any moment


class Scripted:
    """A crawl whose worker, master and disk are one thread, so that it can be stopped between any two steps."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        folder.mkdir()
        self.path, self._dice = folder / "frontier.sqlite", dice
        self._store = LocalStore(folder, "none")
        self._clock = FakeClock()
        self._frontier = SqliteFrontier(self.path, OPEN, clock=self._clock, wall=self._clock, dice=dice.random)
        self._frontier.put([page(), *images(30), *images(10, "b.example")])
        self._manifest = ManifestWriter(folder)
        self._manifest.resume(self._frontier.records)
        self._held: list[Grant] = []
        self._steps = [self._lease, self._save, self._settle, self._append, self._lose]

    def step(self) -> None:
        self._dice.choice(self._steps)()

    def close(self) -> None:
        self._manifest.close()
        self._frontier.close()

    def _lease(self) -> None:
        self._held.append(lease(self._frontier, worker="w1", limit=self._dice.randrange(1, 6)))

    def _save(self) -> None:
        """Write a file whose record does not exist yet."""
        for request in self._requests():
            self._store.put(image_key(digest(self._bytes(request)), "jpg"), self._bytes(request))

    def _settle(self) -> None:
        for grant in self._held:
            self._frontier.complete("w1", [self._outcome(held) for held in leases_of(grant)], turn_ids(grant))
        self._held.clear()

    def _append(self) -> None:
        """Append a random number of rows; sometimes the last one only in part."""
        self._manifest.append(self._frontier.records(self._manifest.last, self._dice.randrange(1, 9)))

    def _lose(self) -> None:
        self._clock.go(self._dice.choice([1.0, 200.0]))

    def _requests(self) -> list[Request]:
        return [held.request for grant in self._held for held in leases_of(grant) if held.request.kind == "image"]

    def _bytes(self, request: Request) -> bytes:
        return b"picture %d" % (len(request.url) * 31 + sum(request.url.encode()) % 7)  # some are the same

    def _outcome(self, held: Lease) -> Outcome:
        if held.request.kind != "image":
            return Outcome(status="done", token=held.token, discovered=tuple(images(9, "c.example")))
        if self._dice.random() < 0.3:
            endings: list[tuple[OutcomeStatus, str]] = [("retry", "connect"), ("done", "http-404"), ("released", "")]
            status, reason = self._dice.choice(endings)
            return Outcome(status=status, token=held.token, reason=reason)
        data = self._bytes(held.request)
        self._store.put(image_key(digest(data), "jpg"), data)
        fields = {"store": self._store.id, "path": image_key(digest(data), "jpg"), "sha256": digest(data)}
        record = describe(held.request, status="success", bytes=len(data), **fields)
        return Outcome(status="done", token=held.token, record=record)


def leases_of(grant: Grant) -> list[Lease]:
    return [held for turn in grant.turns for held in turn.leases]


@pytest.mark.fire
@pytest.mark.parametrize("seed", range(8))
def test_a_crawl_killed_between_any_two_steps_has_no_faults(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311  # repeatable kills
    crawl = Scripted(tmp_path / "job", dice)
    states: Counter[str] = Counter()
    for _ in range(25):
        for _ in range(dice.randrange(1, 6)):
            crawl.step()
        job = copy_of(crawl.path).parent
        found = verify(job)
        assert found.is_good, describe_audit(found)
        assert found.balance is not None and not found.balance.is_finished
        states.update(found.balance.images)
        shutil.rmtree(job)
    crawl.close()
    assert states.keys() == {"waiting", "success", "duplicate", "failed"}


@pytest.mark.fire
def test_a_really_killed_crawl_has_no_faults_at_once_and_in_the_end(tmp_path: Path) -> None:
    job, dice, number = tmp_path / "job", random.Random(3), 150  # noqa: S311
    faults = {f"/{n:04}.png": {"delay": 0.05} for n in range(number)}
    with commands(tmp_path) as start, DemoServer(many_pictures(tmp_path, number), faults) as server:
        command = ("run", server.url, "-o", job, "-w", 0, "-t", 2, "--durability", "none")
        enough = 0
        for life in range(4):
            enough += dice.randrange(10, 30)
            master = start(f"life{life}", *command)
            wait_until(lambda: stats_of(job).success >= enough, "some pictures")  # noqa: B023
            master.kill()
            found = verify(job)
            assert found.is_good and found.whole >= enough, describe_audit(found)
        last = start("last", *command)
        assert last.ends() == 0, last.said
    found = verify(job)
    assert (found.is_good, found.whole) == (True, number), describe_audit(found)
    assert found.balance is not None and found.balance.is_finished


def test_a_crawl_of_another_release_is_not_called_damaged(tmp_path: Path) -> None:
    SqliteFrontier(tmp_path / "frontier.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "frontier.sqlite")) as database:
        database.execute("PRAGMA user_version = 1")
    with pytest.raises(DiskError, match="written by another release"):
        verify(tmp_path)
