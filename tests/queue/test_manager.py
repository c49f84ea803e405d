import errno
import math
import pickle
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from multiprocessing import AuthenticationError, managers
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from crawler.errors import AccessError, ConfigError, CrawlerError, MessageError
from crawler.frontier.base import PROTOCOL
from crawler.model import Grant, ImageRecord, Outcome, Request, RobotsRules
from crawler.queue import manager, protocol, wire
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import write_join
from crawler.queue.manager import QueueManager, TaskQueue
from crawler.queue.protocol import RESULTS, TASKS
from crawler.queue.server import Server
from crawler.stats import FrontierStats
from tests.frontier.fakes import states
from tests.queue.conftest import Serve, join_for
from tests.queue.evil import evil_pickle
from tests.queue.fake_frontier import FakeFrontier

AUTHKEY = join_for(("127.0.0.1", 1)).authkey


class Caller:
    """A peer that knows the key and sends any calls."""

    def __init__(self, server: Server, authkey: bytes = AUTHKEY) -> None:
        self.channel = wire.connect(server.listener.address, authkey)
        self.channel.allow(10)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def call(self, *message: object) -> tuple[str, Any]:
        self.channel.send(message)
        return self.answer()

    def answer(self) -> tuple[str, Any]:
        kind, result = self.channel.recv()
        return kind, result


def assert_serving(server: Server) -> None:
    with Caller(server) as caller:
        assert caller.call(TASKS, "stats", [], {})[0] == "#RETURN"


def read_to_end(sock: socket.socket) -> bytes:
    """Read until the peer closes; the sockets' own timeout fails a test if it does not."""
    return b"".join(iter(lambda: sock.recv(4096), b""))


def test_the_usual_pattern_of_managers_works(serve: Serve, frontier: FakeFrontier, tmp_path: Path) -> None:
    class Manager(QueueManager):
        pass

    Manager.register("get_task_queue")
    Manager.register("get_result_queue")
    server = serve(frontier)
    write_join(tmp_path / "join", join_for(server.listener.address))

    with Manager.from_join(tmp_path / "join") as master:
        tasks, results = master.get_task_queue(), master.get_result_queue()
        assert tasks.hello("me", PROTOCOL)["delay"] == 1.0
        grant = tasks.lease("me", ["image"], limit=2, seconds=60, wait=1)
        tokens = [lease.token for lease in grant.turns[0].leases]
        assert states(results.put("me", [Outcome(status="done", token=token) for token in tokens])) == ("accepted",) * 2
    assert frontier.stats().waiting == 3


@pytest.mark.parametrize("function", [manager.get_task_queue, manager.get_result_queue])
def test_registered_functions_pickle_by_name(function: Callable[..., object]) -> None:
    assert pickle.loads(pickle.dumps(function)) is function  # noqa: S301  # our own
    assert "<" not in function.__qualname__


def test_two_crawls_in_one_process_do_not_collide(serve: Serve) -> None:
    for waiting in (1, 2):
        frontier = FakeFrontier(["http://a.test/"] * waiting)
        with Caller(serve(frontier)) as caller:
            assert caller.call(TASKS, "stats", [], {})[1]["waiting"] == waiting


def test_the_end_of_a_worker_s_last_connection_reports_its_departure(frontier: FakeFrontier) -> None:
    departed: queue.SimpleQueue[str] = queue.SimpleQueue()
    server = QueueManager(authkey=AUTHKEY, frontier=frontier).get_server(on_departure=departed.put)
    server.start()
    ask: tuple[object, ...] = (RESULTS, "put", ["w1", [], []], {})
    with Caller(server) as silent, Caller(server) as other:
        silent.call(TASKS, "stats", [], {})
        other.call(RESULTS, "put", ["w2", [], []], {})
        with Caller(server) as one:
            assert one.call(*ask)[0] == "#RETURN"
            with Caller(server) as two:
                assert two.call(*ask)[0] == "#RETURN"
        assert departed.get(timeout=60) == "w1"
    assert departed.get(timeout=60) == "w2"
    server.stop()
    assert departed.empty()


@pytest.mark.parametrize("after", [[], [(None, "accept_connection", ["me"], {})], [(TASKS, "stats", [], {})]])
def test_a_pickle_as_a_call_is_not_executed(
    serve: Serve, frontier: FakeFrontier, tmp_path: Path, after: list[tuple[object, ...]]
) -> None:
    server = serve(frontier)
    with Caller(server) as caller:
        for call in after:
            caller.call(*call)
        caller.channel.send_bytes(evil_pickle(tmp_path / "marker"))
        kind, error = caller.answer()
    assert (kind, error["type"]) == ("#ERROR", "MessageError")
    assert not (tmp_path / "marker").exists()
    assert_serving(server)


def test_a_pickle_as_an_argument_is_not_executed(serve: Serve, frontier: FakeFrontier, tmp_path: Path) -> None:
    with Caller(serve(frontier)) as caller:
        evil = evil_pickle(tmp_path / "marker")
        assert caller.call(RESULTS, "put", [evil, [evil], evil], {})[0] == "#ERROR"
        assert caller.call(None, "create", [evil], {})[0] == "#ERROR"
    assert not (tmp_path / "marker").exists()


def test_the_standard_librarys_pickling_client_is_refused(serve: Serve, frontier: FakeFrontier) -> None:
    server = serve(frontier)
    stock = managers.BaseManager(server.listener.address, AUTHKEY)
    with pytest.raises((AssertionError, AuthenticationError)):  # by version of Python: that is no challenge
        stock.connect()
    assert_serving(server)


METHODS = ["shutdown", "debug_info", "number_of_objects", "get_methods", "stop", "serve_client", "__class__", "", "put"]


@pytest.mark.parametrize("ident", [None, TASKS, "0", "nobody"])
@pytest.mark.parametrize("method", [*METHODS, "#GETVALUE", "__repr__", "close", "_frontier", "lease.__self__"])
def test_unknown_methods_are_refused_and_the_server_continues(
    serve: Serve, frontier: FakeFrontier, ident: str | None, method: str
) -> None:
    server = serve(frontier)
    with Caller(server) as caller:
        kind, error = caller.call(ident, method, [], {})
        assert (kind, error["type"]) == ("#ERROR", "MessageError")
        assert caller.call(None, "dummy", [], {}) == ("#RETURN", None)
    assert_serving(server)


def test_the_standard_methods_of_a_manager_are_answered(serve: Serve, frontier: FakeFrontier) -> None:
    with Caller(serve(frontier)) as caller:
        assert caller.call(None, "create", [TASKS], {}) == ("#RETURN", [TASKS, ["hello", "lease", "extend", "stats"]])
        assert caller.call(None, "create", ["dict"], {})[0] == "#ERROR"
        for method in ("incref", "decref", "decref", "decref"):
            assert caller.call(None, method, [TASKS], {}) == ("#RETURN", None)
        assert caller.call(TASKS, "stats", [], {})[0] == "#RETURN"


NOBODY = {"status": "done", "token": "t"}


@pytest.mark.parametrize(
    ("ident", "method", "arguments"),
    [
        (TASKS, "hello", ["two words", 1]),
        (TASKS, "hello", ["line\n", 1]),
        (TASKS, "hello", ["x" * 129, 1]),
        (TASKS, "hello", ["me", 2**64 - 1]),
        (TASKS, "hello", ["me"]),
        (TASKS, "hello", {"worker": "me", "protocol": 1}),
        (TASKS, "stats", [1]),
        (TASKS, "lease", ["me", ["video"], 1, 1.0, 0.0]),
        (TASKS, "lease", ["me", [], 1, 1.0, 0.0]),
        (TASKS, "lease", ["me", ["image"], 10**6, 1.0, 0.0]),
        (TASKS, "lease", ["me", ["image"], 1, math.nan, 0.0]),
        (TASKS, "lease", ["me", ["image"], 1, 1.0, math.inf]),
        (TASKS, "extend", ["me", ["t"] * 10_001, 1.0]),
        (RESULTS, "records", [-1, 1]),
        (RESULTS, "put", ["me", [NOBODY | {"status": "won"}], []]),
        (RESULTS, "put", ["me", [NOBODY | {"latency": math.nan}], []]),
        (RESULTS, "put", ["me", [NOBODY | {"retry_in": -math.inf}], []]),
        (RESULTS, "put", ["me", [NOBODY | {"record": {"url": "u", "bytes": 2**63}}], []]),
        (RESULTS, "put", ["me", [NOBODY | {"robots": {"lifetime": math.inf}}], []]),
        (RESULTS, "put", ["me", [NOBODY | {"discovered": [{"url": "u", "depth": 2**64 - 1}]}], []]),
    ],
)
def test_arguments_out_of_bounds_are_one_message_error(
    serve: Serve, frontier: FakeFrontier, ident: str, method: str, arguments: object
) -> None:
    with Caller(serve(frontier)) as caller:
        kind, error = caller.call(ident, method, arguments, {})
        assert (kind, error["type"]) == ("#ERROR", "MessageError")
        assert caller.call(TASKS, "stats", [], {"x": None})[0] == "#ERROR"
        assert caller.call(TASKS, "stats", [], {})[0] == "#RETURN"


def test_errors_are_sent_as_codes_and_never_as_tracebacks(
    serve: Serve, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> FrontierStats:
        raise KeyError("/secret/path")

    monkeypatch.setattr(frontier, "stats", fail)
    with Caller(serve(frontier)) as caller:
        kind, error = caller.call(TASKS, "stats", [], {})
    assert (kind, error) == ("#ERROR", {"type": "CrawlerError", "args": ["the other side failed with KeyError"]})
    assert "/secret/path" in caplog.text


def test_the_wait_of_a_lease_call_is_limited(serve: Serve, frontier: FakeFrontier) -> None:
    with Caller(serve(frontier)) as caller:
        caller.call(TASKS, "lease", ["me", ["image"], 1, 60.0, 3_000.0], {})
    assert frontier.waits == [pytest.approx(protocol.MAX_WAIT, abs=1)]


def test_lease_calls_beyond_the_waiting_slots_are_answered_at_once(frontier: FakeFrontier) -> None:
    with patch.object(manager, "_MAX_WAITING", 1):
        tasks = TaskQueue(frontier)
    lent, frontier.waiting = frontier.waiting, []
    first = threading.Thread(target=tasks.lease, args=("first", ["image"], 1, 60.0, 10.0))
    first.start()
    with frontier.changed:
        assert frontier.changed.wait_for(lambda: len(frontier.waits) == 1, 5)
    assert tasks.lease("second", ["image"], 1, 60.0, 0.05).state == "wait"
    assert frontier.waits[1:] == [0.0, 0.0]  # one check at the start, one at the end
    frontier.put(lent)
    first.join()
    assert tasks.lease("third", ["image"], 1, 60.0, 5.0).state == "work"


def test_requests_leased_to_a_disconnected_worker_are_returned_at_once(serve: Serve) -> None:
    frontier = FakeFrontier()
    with Caller(serve(frontier)) as caller:
        caller.channel.send((TASKS, "lease", ["me", ["image"], 1, 60.0, 20.0], {}))
        with frontier.changed:
            assert frontier.changed.wait_for(lambda: frontier.waits, 5)
    frontier.put([Request(url="http://a.test/1.jpg", kind="image")])
    with frontier.changed:
        assert frontier.changed.wait_for(lambda: frontier.deliveries == 1 and frontier.waiting, 5)
    assert not frontier.leased


def test_a_wrong_key_costs_one_log_line(serve: Serve, frontier: FakeFrontier, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(frontier)
    with pytest.raises(AccessError, match="refused the key"):
        Caller(server, b"w" * 32)
    assert_serving(server)
    server.stop()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "wrong key" in caplog.text


@pytest.mark.parametrize(
    "words", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0\0\0\x20ab"]
)
def test_unauthenticated_connections_end_at_the_deadline_while_workers_are_served(
    serve: Serve, frontier: FakeFrontier, words: bytes
) -> None:
    server = serve(frontier, handshake=0.3)
    with socket.create_connection(server.listener.address, timeout=5) as stranger:
        stranger.sendall(words)
        assert_serving(server)
        try:
            said = read_to_end(stranger)
        except ConnectionResetError:  # closed with unread data of ours
            said = b""
    assert len(said) < 100
    assert b"Traceback" not in said


def test_many_silent_connections_do_not_keep_workers_out(serve: Serve, frontier: FakeFrontier) -> None:
    server = serve(frontier, strangers=4, handshake=60)
    crowd = [socket.create_connection(server.listener.address, timeout=5) for _ in range(12)]
    assert_serving(server)
    for stranger in crowd[:8]:  # closed long before the minute is over
        read_to_end(stranger)
    for stranger in crowd:
        stranger.close()


def test_workers_beyond_the_connection_limit_are_served_in_turn(serve: Serve, frontier: FakeFrontier) -> None:
    server = serve(frontier, connections=1)
    join = join_for(server.address)
    with closing(RemoteFrontier(join)) as first, closing(RemoteFrontier(join)) as second:
        assert [worker.stats().waiting for worker in (first, second, first)] == [5, 5, 5]


def test_a_working_connection_is_never_closed_for_another(
    serve: Serve, frontier: FakeFrontier, caplog: pytest.LogCaptureFixture
) -> None:
    frontier.waiting = []
    server = serve(frontier, connections=1)
    with Caller(server) as caller:
        caller.channel.send((TASKS, "lease", ["me", ["image"], 1, 60.0, 20.0], {}))
        with frontier.changed:
            assert frontier.changed.wait_for(lambda: frontier.waits, 5)
        with Caller(server) as late, pytest.raises((EOFError, OSError)):
            late.call(None, "dummy", [], {})
        frontier.put([Request(url="http://a.test/1.jpg", kind="image")])
        assert caller.answer()[0] == "#RETURN"
    assert "too many busy connections (1 in total)" in caplog.text


def test_a_two_gibibyte_frame_is_refused_before_and_after_the_handshake(serve: Serve, frontier: FakeFrontier) -> None:
    server = serve(frontier)
    with socket.create_connection(server.listener.address, timeout=5) as stranger:
        stranger.sendall(b"\x7f\xff\xff\xff")
        assert read_to_end(stranger).startswith(b"\0\0\0")
    with Caller(server) as caller, socket.socket(fileno=socket.dup(caller.channel.fileno())) as same:
        same.settimeout(5)
        same.sendall(b"\x7f\xff\xff\xff")
        assert read_to_end(same) == b""
    assert_serving(server)


@pytest.mark.parametrize("trouble", [OSError(errno.EMFILE, "too many open files"), RuntimeError("no more threads")])
def test_the_server_survives_a_lack_of_descriptors_and_threads(
    serve: Serve, frontier: FakeFrontier, trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(frontier)
    accept, troubles = server.listener.accept, [trouble] * 3

    def failing_accept() -> wire.Channel:
        if troubles:
            raise troubles.pop()
        return accept()

    monkeypatch.setattr(server.listener, "accept_more", lambda: None)
    monkeypatch.setattr(server.listener, "accept", failing_accept)
    with socket.create_connection(server.listener.address):  # ends the current accept
        pass
    assert_serving(server)
    assert not troubles


def test_a_failed_thread_start_costs_only_its_connection(
    serve: Serve, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(frontier)
    with monkeypatch.context() as patch:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        with socket.create_connection(server.listener.address, timeout=5) as unlucky:
            assert read_to_end(unlucky) == b""
    assert_serving(server)


def test_a_response_too_long_for_a_frame_is_an_error_and_keeps_the_connection(
    serve: Serve, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_ANSWER_LIMIT", 10_000)
    frontier.rows = [ImageRecord(url="http://a.test/")] * 1_000
    with Caller(serve(frontier)) as caller:
        assert caller.call(RESULTS, "records", [0, 1_000], {})[1]["type"] == "FrameTooLarge"
        assert caller.call(RESULTS, "records", [0, 2], {})[0] == "#RETURN"


def test_the_longest_lease_fits_into_a_response() -> None:
    long = "http://a.test/" + "x" * 8_178
    request = Request(url=long, target=long, seed=long, referrer=long, kind="image", alt="a" * 8_192, title="t" * 8_192)
    assert len(wire.encode(request)) * protocol.MAX_LEASE < wire._ANSWER_LIMIT


def test_stop_frees_the_port_and_ends_the_threads(serve: Serve, frontier: FakeFrontier) -> None:
    server = serve(frontier)
    with Caller(server) as caller:
        caller.call(None, "dummy", [], {})
        server.stop()
        with pytest.raises((EOFError, OSError)):
            caller.call(None, "dummy", [], {})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("queue-")]
    serve(frontier, server.address)


def test_serve_forever_ends_with_stop(frontier: FakeFrontier) -> None:
    server = QueueManager(authkey=AUTHKEY, frontier=frontier).get_server()
    threading.Timer(0.1, server.stop_event.set).start()
    server.serve_forever()
    assert server.stop_event.is_set()


def test_an_invalid_server_configuration_is_refused_in_one_line(serve: Serve, frontier: FakeFrontier) -> None:
    busy = serve(frontier).listener.address
    for unserved, complaint in [
        (QueueManager(None, AUTHKEY), "no frontier to serve"),
        (QueueManager(None, b"crawler", frontier=frontier), "random"),
        (QueueManager(("0.0.0.0", 0), AUTHKEY, frontier=frontier), "other machines can connect to"),
        (QueueManager(("", 0), AUTHKEY, frontier=frontier), "other machines can connect to"),
        (QueueManager(busy, AUTHKEY, frontier=frontier), r"can't listen on 127.0.0.1.*in use.*Try --listen 127.*:0"),
    ]:
        with pytest.raises(ConfigError, match=complaint):
            unserved.get_server()


@pytest.mark.parametrize(
    ("trouble", "complaint"),
    [
        (
            OSError(errno.EADDRNOTAVAIL, "no"),
            "not an address of this machine. Try --listen HOST:0",
        ),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), "not an address of this machine. Try --listen HOST:0"),
        (OSError(errno.EACCES, "Permission denied"), "127.0.0.1:80: Permission denied. Try --listen 127.0.0.1:0"),
    ],
)
def test_an_unavailable_address_is_named_with_a_remedy(
    frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch, trouble: OSError, complaint: str
) -> None:
    def fail(*_: object, **__: object) -> socket.socket:
        raise trouble

    monkeypatch.setattr(socket, "create_server", fail)
    with pytest.raises(ConfigError, match=complaint):
        QueueManager(("127.0.0.1", 80), AUTHKEY, frontier=frontier).get_server()


def test_a_server_in_another_process_is_refused(frontier: FakeFrontier) -> None:
    with pytest.raises(CrawlerError, match="in the process that has the frontier"):
        QueueManager(authkey=AUTHKEY, frontier=frontier).start()


@pytest.mark.parametrize(("name", "function"), [("get_dict", dict), (TASKS, lambda: None), ("get_list", None)])
def test_only_the_two_queues_can_be_registered(name: str, function: Callable[..., object] | None) -> None:
    with pytest.raises(ConfigError):
        QueueManager.register(name, function)


def test_queues_need_a_connection() -> None:
    with pytest.raises(CrawlerError, match="connect"):
        QueueManager(authkey=AUTHKEY).get_task_queue()


def test_hello_with_another_protocol_is_an_access_error(serve: Serve, frontier: FakeFrontier) -> None:
    queue = QueueManager(serve(frontier).listener.address, AUTHKEY)
    queue.connect()
    with pytest.raises(AccessError, match="protocol"):
        queue.get_task_queue().hello("me", PROTOCOL + 1)
    queue.shutdown()


def test_typed_responses_reach_the_standard_pattern(serve: Serve, frontier: FakeFrontier) -> None:
    with QueueManager(serve(frontier).listener.address, AUTHKEY) as queue:
        assert isinstance(queue.get_task_queue().lease("me", ["image"], 1, 60, 0), Grant)
        assert queue.get_task_queue().extend("me", ["t1", "gone"], 60.0).lost == ("gone",)
        robots = Outcome(status="done", token="t1", robots=RobotsRules(text="Disallow: /x", sitemaps=("http://a/s",)))
        assert states(queue.get_result_queue().put("me", [robots])) == ("accepted",)
    assert frontier.settled["t1"] == robots


def test_a_response_of_the_wrong_shape_is_a_message_error() -> None:
    signature = protocol.SIGNATURES[TASKS]["lease"]
    errors = [["#ERROR", error] for error in (5, {"type": 5}, {"type": "ConfigError", "args": 5})]
    for answer in (None, [], ["#RETURN", 5], ["#PROXY", [[], {}]], *errors):
        with pytest.raises(MessageError):
            protocol.read_answer(wire.encode(answer), signature)
