import errno
import multiprocessing
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from crawler.errors import AccessError, CrawlerError, MessageError, NetworkError
from crawler.frontier.base import PROTOCOL, Frontier
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, ImageRecord, Outcome, Request, RobotsRules, Verdict, WorkerInfo
from crawler.queue import protocol, wire
from crawler.queue.client import Link, RemoteFrontier, ResultQueueProxy
from crawler.queue.handshake import GREETING
from crawler.queue.join_file import new_key, read_join, write_join
from crawler.queue.manager import TaskQueue
from crawler.queue.protocol import TASKS
from crawler.queue.tls import Certificate
from crawler.stats import FrontierStats
from tests.frontier.fakes import states
from tests.queue.conftest import Serve, join_for
from tests.queue.evil import evil_pickle
from tests.queue.fake_frontier import FakeFrontier


@pytest.fixture
def remote(serve: Serve, frontier: FakeFrontier, cert: Certificate | None) -> Iterator[RemoteFrontier]:
    join = join_for(serve(frontier, tls=cert).address, cert=cert.pem if cert else "")
    remote = RemoteFrontier(join, wait=5, wait_after_loss=5)
    yield remote
    remote.close()


@pytest.fixture
def free_port() -> wire.Address:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return ("127.0.0.1", probe.getsockname()[1])


def test_every_method_of_the_frontier_is_carried_with_its_data(remote: RemoteFrontier, frontier: FakeFrontier) -> None:
    far: Frontier = remote
    assert far.hello("me", PROTOCOL) == frontier.hello("me", PROTOCOL)
    assert far.stats() == frontier.stats()
    grant = far.lease("me", ["image", "robots"], 3, 60.0, 0.0)
    turn = grant.turns[0]
    assert [lease.request for lease in turn.leases] == list(frontier.leased.values())
    assert far.extend("me", [turn.leases[0].token, "gone"], 60.0).lost == ("gone",)
    outcomes = [
        Outcome(status="done", token="t1", record=ImageRecord(url="http://a.test/0.jpg", caption="ü", elapsed=0.25)),
        Outcome(status="retry", token="t2", reason="http-503", retry_in=2.5, overloaded=True),
        Outcome(status="moved", token="t3", successor=Request(url="http://a.test/2.jpg", kind="image", hops=1)),
        Outcome(status="done", token="t1", robots=RobotsRules(crawl_delay=1.5), discovered=(Request(url="u"),)),
    ]
    assert states(far.complete("me", outcomes, [turn.id])) == ("accepted", "accepted", "accepted", "duplicate")
    assert list(frontier.settled.values()) == outcomes[:3]
    assert far.records(0, 10) == frontier.records(0, 10)


def test_an_empty_grant_has_the_time_to_ask_again(remote: RemoteFrontier, frontier: FakeFrontier) -> None:
    frontier.waiting.clear()
    assert remote.lease("me", ["image"], 1, 60.0, 0.0) == Grant(state="wait", retry_in=0.5)


def test_only_the_master_can_put(remote: RemoteFrontier) -> None:
    with pytest.raises(CrawlerError, match="only the master"):
        remote.put([])


def test_a_lease_of_more_than_fits_a_message_is_reduced(remote: RemoteFrontier, frontier: FakeFrontier) -> None:
    frontier.put([Request(url=f"http://b.test/{n}", kind="image") for n in range(1_500)])
    assert len(remote.lease("me", ["image"], 5_000, 60.0, 0.0).turns[0].leases) == 1_000


def test_more_leases_than_fit_a_message_are_renewed_in_several(remote: RemoteFrontier, frontier: FakeFrontier) -> None:
    gone = [f"{n}.{'a' * 16}.{'b' * 16}" for n in range(25_000)]
    token = remote.lease("me", ["image"], 1, 60.0, 0.0).turns[0].leases[0].token
    assert remote.extend("me", [*gone, token], 60.0).lost == tuple(gone)
    assert remote.extend("me", [], 60.0).lost == ()


def test_an_unsafe_path_from_a_master_is_refused(
    remote: RemoteFrontier, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    astray = (Verdict(status="duplicate", store="ab" * 8, path="images/../../.ssh/id"),)
    monkeypatch.setattr(frontier, "complete", lambda worker, outcomes, ended_turns: astray)
    with pytest.raises(MessageError, match="invalid file path"):
        remote.complete("me", [Outcome(status="done", token="t1")], [])


def test_records_are_fetched_in_pages(remote: RemoteFrontier, frontier: FakeFrontier) -> None:
    frontier.rows = [ImageRecord(url=f"http://a.test/{n}") for n in range(2_500)]
    assert remote.records(10, 2_200) == frontier.records(10, 2_200)
    assert remote.records(0, 9_999) == frontier.records(0, 9_999)


def test_results_too_long_for_one_message_are_sent_in_several(
    serve: Serve, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_CALL_LIMIT", 5_000)
    remote = RemoteFrontier(join_for(serve(frontier).address))
    remote.lease("me", ["image"], 5, 60.0, 0.0)
    long, longer = (Request(url="http://a.test/", alt="x" * size) for size in (2_000, 6_000))
    outcomes = [Outcome(status="done", token=f"t{n}", discovered=(long,)) for n in range(1, 6)]
    assert states(remote.complete("me", outcomes, ["turn"])) == ("accepted",) * 5
    remote.complete("me", [Outcome(status="done", token="t1", discovered=(longer,))], [])
    remote.close()
    assert [outcome.reason for outcome in frontier.settled.values()] == [""] * 5


def test_many_threads_call_at_once_and_share_few_connections(remote: RemoteFrontier, frontier: FakeFrontier) -> None:
    frontier.put([Request(url=f"http://b.test/{n}", kind="image") for n in range(395)])
    tokens: list[str] = []

    def work() -> None:
        for _ in range(50):
            tokens.extend(lease.token for lease in remote.lease("me", ["image"], 1, 60.0, 0.0).turns[0].leases)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tokens)) == 400


def test_the_same_frontier_continues_after_a_restart_of_the_master(serve: Serve, frontier: FakeFrontier) -> None:
    first = serve(frontier)
    waits: list[tuple[float, str]] = []
    restarted = threading.Event()

    def on_wait(left: float, reason: str) -> None:
        waits.append((left, reason))
        if not restarted.is_set():
            restarted.set()
            serve(frontier, first.address)

    remote = RemoteFrontier(join_for(first.address), wait_after_loss=7, on_wait=on_wait)
    remote.stats()
    first.stop()
    assert remote.stats().waiting == 5
    assert 6 < waits[0][0] <= 7
    remote.close()


def test_a_restart_between_two_calls_is_not_noticed(serve: Serve, frontier: FakeFrontier) -> None:
    first = serve(frontier)
    waits: list[float] = []
    remote = RemoteFrontier(join_for(first.address), on_wait=lambda left, _: waits.append(left))
    remote.stats()
    first.stop()
    serve(frontier, first.address)
    assert remote.stats().waiting == 5
    assert not waits
    remote.close()


def test_a_known_master_that_does_not_answer_is_tried_again(
    serve: Serve, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve(frontier)
    with socket.socket() as mute:

        def on_wait(left: float, reason: str) -> None:
            mute.close()
            serve(frontier, first.address)

        remote = RemoteFrontier(join_for(first.address), on_wait=on_wait)
        remote.stats()
        first.stop()
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mute.bind(first.address)
        mute.listen()
        monkeypatch.setattr(wire, "_GREETING_SECONDS", 0.3)
        monkeypatch.setattr(wire, "_PROBE_SECONDS", 0.1)
        assert remote.stats().waiting == 5
        remote.close()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_the_response_to_an_interrupted_call_is_not_given_to_the_next(
    remote: RemoteFrontier, monkeypatch: pytest.MonkeyPatch, interrupt: type[BaseException]
) -> None:
    receive, caller = wire.Channel.recv_bytes, threading.current_thread()

    def interrupted(channel: wire.Channel) -> bytes:
        if threading.current_thread() is caller:
            channel.peek(1)  # the response has arrived but is not read
            raise interrupt
        return receive(channel)

    remote.stats()
    with monkeypatch.context() as patch:
        patch.setattr(wire.Channel, "recv_bytes", interrupted)
        with pytest.raises(interrupt):
            remote.lease("me", ["image"], 2, 60.0, 0.0)
    assert isinstance(remote.stats(), FrontierStats)
    assert remote.extend("me", ["gone"], 1.0).lost == ("gone",)


def test_a_wrong_key_is_an_access_error_at_once(serve: Serve, frontier: FakeFrontier) -> None:
    waits: list[float] = []
    join = join_for(serve(frontier).address, key=new_key())
    remote = RemoteFrontier(join, on_wait=lambda left, _: waits.append(left))
    with pytest.raises(AccessError, match=r"127\.0\.0\.1:.* refused the key"):
        remote.stats()
    assert not waits


def test_a_master_that_does_not_know_the_key_is_refused() -> None:
    """Use a fake master that accepts any proof, but can't give one."""

    def welcome_anybody(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            channel = wire.Channel(peer)
            channel.allow(5)
            channel.send_bytes(GREETING + b"c" * 32)
            channel.recv_bytes()
            channel.send_bytes(b"x" * 32)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=welcome_anybody, args=(server,))
        thread.start()
        with pytest.raises(AccessError):
            RemoteFrontier(join_for(server.getsockname())).stats()
        thread.join()


def test_a_pickle_as_a_response_is_not_executed(tmp_path: Path) -> None:
    join = join_for(("127.0.0.1", 1))
    listener = wire.Listener()

    def answer_with_a_pickle() -> None:
        with closing(listener.accept()) as peer:
            wire.admit(peer, join.authkey)
            peer.recv_bytes()
            peer.send_bytes(evil_pickle(tmp_path / "marker"))

    with closing(listener):
        thread = threading.Thread(target=answer_with_a_pickle)
        thread.start()
        with pytest.raises(MessageError):
            RemoteFrontier(join_for(listener.address)).stats()
        thread.join()
    assert not (tmp_path / "marker").exists()


def test_a_silent_port_may_be_an_overloaded_master(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "_GREETING_SECONDS", 0.1)
    monkeypatch.setattr(wire, "_PROBE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(NetworkError, match="not the master of a crawl"):
        RemoteFrontier(join_for(mute.getsockname()), wait=0.5).stats()
    [notice] = [record.message for record in caplog.records if "trying again" in record.message]
    assert "not the master of a crawl" in notice  # after a mistyped port the user need not wait to be informed


def test_a_missing_master_is_waited_for_with_a_countdown(free_port: wire.Address) -> None:
    waits: list[float] = []
    remote = RemoteFrontier(join_for(free_port), wait=0.4, on_wait=lambda left, _: waits.append(left))
    begin = time.monotonic()
    with pytest.raises(NetworkError, match=rf"no answer from 127\.0\.0\.1:{free_port[1]}: .*refused.*firewall"):
        remote.stats()
    assert 0.3 < time.monotonic() - begin < 30
    assert len(waits) > 1
    assert waits == sorted(waits, reverse=True)


def test_a_master_that_starts_late_is_found(serve: Serve, frontier: FakeFrontier, free_port: wire.Address) -> None:
    started = threading.Event()

    def on_wait(left: float, reason: str) -> None:
        if not started.is_set():
            started.set()
            serve(frontier, free_port)

    remote = RemoteFrontier(join_for(free_port), wait=10, on_wait=on_wait)
    assert remote.stats().waiting == 5
    remote.close()


def test_the_stop_event_ends_the_waiting(free_port: wire.Address) -> None:
    stop = threading.Event()
    remote = RemoteFrontier(join_for(free_port), wait=60, stop=stop, on_wait=lambda *_: stop.set())
    begin = time.monotonic()
    with pytest.raises(NetworkError):
        remote.stats()
    assert time.monotonic() - begin < 30


def test_calls_after_stop_succeed_while_they_are_answered(serve: Serve, frontier: FakeFrontier) -> None:
    stop = threading.Event()
    stop.set()
    remote = RemoteFrontier(join_for(serve(frontier).address), stop=stop)
    assert remote.stats().waiting == 5
    remote.close()


def test_close_from_another_thread_ends_a_call(remote: RemoteFrontier, frontier: FakeFrontier) -> None:
    frontier.waiting.clear()

    def close_when_it_waits() -> None:
        with frontier.changed:
            frontier.changed.wait_for(lambda: frontier.waits, 5)
        remote.close()

    closer = threading.Thread(target=close_when_it_waits)
    closer.start()
    begin = time.monotonic()
    with pytest.raises(CrawlerError, match="was closed"):
        remote.lease("me", ["image"], 1, 60.0, 20.0)
    assert time.monotonic() - begin < 15
    closer.join()
    frontier.put([Request(url="http://a.test/", kind="image")])


def test_a_closed_frontier_raises_an_error(remote: RemoteFrontier) -> None:
    remote.stats()
    remote.close()
    with pytest.raises(CrawlerError, match="was closed"):
        remote.stats()


def test_the_first_working_address_is_used_and_remembered(
    serve: Serve, frontier: FakeFrontier, free_port: wire.Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialed: list[wire.Address] = []
    connect = wire.connect

    def watched(address: wire.Address, authkey: bytes, tls: ssl.SSLContext | None) -> wire.Channel:
        dialed.append(address)
        return connect(address, authkey, tls)

    monkeypatch.setattr(wire, "connect", watched)
    server = serve(frontier)
    link = Link([free_port, server.address], join_for(server.address).authkey)
    link.call(TASKS, "stats")
    server.stop()
    serve(frontier, server.address)
    link.call(TASKS, "stats")
    link.close()
    assert dialed == [free_port, server.address, server.address]


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_an_unreachable_network_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object, **__: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(NetworkError, match=rf"{os.strerror(number)}; check the network .* --connect HOST:PORT"):
        RemoteFrontier(join_for(("127.0.0.1", 5000)), wait=0.1).stats()


def _complete_everything(path: Path) -> None:
    """Complete all requests, in a worker process."""
    remote = RemoteFrontier(read_join(path))
    while turns := remote.lease("spawned", ["image"], 2, 60.0, 0.0).turns:
        outcomes = [Outcome(status="done", token=lease.token) for lease in turns[0].leases]
        remote.complete("spawned", outcomes, [turns[0].id])
    remote.close()


def test_a_spawned_process_completes_the_queue(serve: Serve, frontier: FakeFrontier, tmp_path: Path) -> None:
    write_join(tmp_path / "join", join_for(serve(frontier).address))
    process = multiprocessing.get_context("spawn").Process(target=_complete_everything, args=(tmp_path / "join",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert len(frontier.settled) == 5


def test_a_restarted_master_learns_the_workers_again(serve: Serve) -> None:
    told: list[dict[str, object]] = []
    first, second = SqliteFrontier(None, settings={"a": {"b": 1}}), SqliteFrontier(None, settings={"a": {"b": 2}})
    server = serve(first)
    remote = RemoteFrontier(join_for(server.address), on_settings=told.append)
    assert remote.hello("machine/1", PROTOCOL, WorkerInfo(system="Plan 9")) == {"a": {"b": 1}}
    remote.lease("machine/1", ["image"], 1, 60.0, 0.0)
    assert told == []
    server._queues.update({TASKS: TaskQueue(second)})
    remote.lease("machine/1", ["image"], 1, 60.0, 0.0)
    remote.lease("machine/1", ["image"], 1, 60.0, 0.0)
    assert told == [{"a": {"b": 2}}]
    assert [(worker.name, worker.about.system) for worker in second.stats().workers] == [("machine/1", "Plan 9")]
    remote.close()
    first.close()
    second.close()


def test_a_repeated_hello_in_the_same_life_keeps_the_leases(serve: Serve) -> None:
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0))
    frontier.put([Request(url="http://a.test/1.png", kind="image")])
    frontier.hello("machine/1", PROTOCOL)
    frontier.lease("machine/1", ["image"], 1, 60.0, 0.0)
    frontier.hello("machine/1", PROTOCOL, WorkerInfo(stays=True))
    assert frontier.stats().leased == 1
    frontier.hello("machine/1", PROTOCOL)
    assert frontier.stats().leased == 0
    frontier.close()


@pytest.mark.parametrize(
    "verdict",
    [
        {"reason": "x\nhttp://evil.test/--->success"},
        {"status": "success", "store": "../.."},
        {"attempts": -1},
    ],
)
def test_harmful_values_from_a_master_are_refused(verdict: dict[str, object]) -> None:
    frame = wire.encode(["#RETURN", [verdict]])
    with pytest.raises(MessageError):
        protocol.read_answer(frame, protocol.SIGNATURES[protocol.RESULTS]["put"])


def test_a_master_must_answer_each_outcome() -> None:
    class Silent(Link):
        def __init__(self) -> None:
            pass

        def call(self, ident: str | None, method: str, *arguments: object, seconds: float = 0.0) -> object:
            return ()

    with pytest.raises(MessageError, match="confirmed 0 results instead of 1"):
        ResultQueueProxy(Silent()).put("me", [Outcome(status="done", token="t")])


def test_a_call_refused_for_lack_of_memory_is_repeated(
    serve: Serve, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = ["first", "second"]
    complete = frontier.complete

    def sometimes(worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        if refusals:
            raise TimeoutError(refusals.pop())
        return complete(worker, outcomes, ended_turns)

    monkeypatch.setattr(frontier, "complete", sometimes)
    with closing(RemoteFrontier(join_for(serve(frontier).address))) as remote:
        assert states(remote.complete("me", [Outcome(status="done", token="t1")], [])) == ("stale",)
    assert not refusals
