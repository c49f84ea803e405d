"""The body of a response: ranges that are requested, bodies that are not decompressed, and invalid responses."""

import contextlib
import random
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPResponse

from crawler.download.downloader import Downloader
from crawler.errors import RequestFailed
from crawler.harvest.harvester import Harvester
from crawler.model import Request
from crawler.net.exchange import Exchange
from crawler.net.fetcher import Canned, CannedFetcher, Conditions, TransferLimits
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.net.response_body import WORTH_RESUMING, NetworkBody
from crawler.robots.robots_txt import RobotsHandler
from crawler.store.local import LocalStore
from tests.support.peer import Peer, serving

FILE = random.Random(1).randbytes(4 * WORTH_RESUMING)  # noqa: S311  # not a secret
TAG = {"ETag": '"v1"', "Accept-Ranges": "bytes"}


def answer(data: bytes, status: int = 200, *, length: int = len(FILE), **fields: str) -> HTTPResponse:
    """Return a response of which only ``data`` arrives."""
    headers = {
        "Content-Length": str(length),
        **TAG,
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    return HTTPResponse(BytesIO(data), headers, status, preload_content=False)


def rest(start: int, end: int | None = None, **fields: str) -> HTTPResponse:
    """Return the part from ``start`` on, truncated at ``end``."""
    where = f"bytes {start}-{len(FILE) - 1}/{len(FILE)}"
    return answer(FILE[start:end], 206, length=len(FILE) - start, **{"Content_Range": where} | fields)


class Line:
    """Responses to the second and later requests; ``asked`` lists their headers."""

    def __init__(self, *answers: HTTPResponse | RequestFailed) -> None:
        self.asked: list[dict[str, str]] = []
        self._answers = iter(answers)
        self.now = 0.0

    def exchange(self) -> Exchange:
        return Exchange(TransferLimits(total=60.0), lambda: self.now, 0.0)

    def again(self, headers: dict[str, str]) -> tuple[HTTPResponse, Exchange]:
        self.asked.append(headers)
        found = next(self._answers)
        if isinstance(found, RequestFailed):
            raise found
        return found, self.exchange()

    def read(self, first: HTTPResponse, before: Callable[[], None] = lambda: None) -> bytes:
        """Return the whole body; close it afterwards."""
        body = NetworkBody(first, self.exchange(), self.again, lambda exchange: None)
        pieces = []
        with contextlib.closing(body):
            while piece := body.read(65_536):
                pieces.append(piece)
                before()
        assert body.received == len(b"".join(pieces))
        return b"".join(pieces)


def failed(line: Line, first: HTTPResponse) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        line.read(first)
    return caught.value


def test_an_interrupted_body_is_resumed_at_its_offset() -> None:
    line = Line(rest(WORTH_RESUMING))
    assert line.read(answer(FILE[:WORTH_RESUMING])) == FILE
    assert line.asked == [{"Range": f"bytes={WORTH_RESUMING}-", "If-Range": '"v1"'}]


def test_an_interrupted_part_is_resumed_again_if_it_is_long_enough() -> None:
    line = Line(rest(WORTH_RESUMING, 2 * WORTH_RESUMING), rest(2 * WORTH_RESUMING))
    assert line.read(answer(FILE[:WORTH_RESUMING])) == FILE
    line = Line(rest(WORTH_RESUMING, 2 * WORTH_RESUMING - 1))
    assert failed(line, answer(FILE[:WORTH_RESUMING])).reason == "truncated"
    assert len(line.asked) == 1


def test_the_number_of_resumptions_is_limited() -> None:
    step, total = WORTH_RESUMING, 4 * WORTH_RESUMING + 1
    parts = [
        answer(bytes(step), 206, length=total - at, Content_Range=f"bytes {at}-{total - 1}/{total}")
        for at in range(step, total - 1, step)
    ]
    line = Line(*parts)
    error = failed(line, answer(bytes(step), length=total))
    assert (error.reason, error.retryable, len(line.asked)) == ("truncated", True, 3)


@pytest.mark.parametrize(
    "first",
    [
        answer(FILE[: WORTH_RESUMING - 1]),
        answer(FILE[:-1], ETag='W/"v1"'),
        answer(FILE[:-1], ETag=""),
        answer(FILE[:-1], ETag='"a" "b"'),
        answer(FILE[:-1], Accept_Ranges="none"),
        answer(FILE[:-1], ETag="", Last_Modified="Mon, 02 Jan 2023 03:04:05 GMT", Date="Mon, 02 Jan 2023 03:05:04 GMT"),
        answer(FILE[:-1], ETag="", Last_Modified="Mon, 02 Jan 2023 03:04:05 GMT"),
        answer(FILE[:-1], ETag="", Last_Modified="yesterday", Date="today"),
    ],
)
def test_a_body_without_a_validator_is_not_resumed(first: HTTPResponse) -> None:
    line = Line()
    assert failed(line, first).reason == "truncated"
    assert line.asked == []


@pytest.mark.parametrize(
    "second",
    [
        answer(FILE),
        answer(b"", 416),
        rest(WORTH_RESUMING + 1),
        rest(WORTH_RESUMING, Content_Range="bytes 0-9/10"),
        rest(WORTH_RESUMING, ETag='"v2"'),
        rest(WORTH_RESUMING, Content_Encoding="gzip"),
        rest(WORTH_RESUMING, Content_Length="9"),
        RequestFailed("timeout", retryable=True),
    ],
)
def test_any_other_response_leaves_the_body_truncated(second: HTTPResponse | RequestFailed) -> None:
    line = Line(second)
    error = failed(line, answer(FILE[:WORTH_RESUMING]))
    assert (error.reason, error.retryable, len(line.asked)) == ("truncated", True, 1)


def test_the_timeout_covers_all_requests() -> None:
    line = Line(rest(WORTH_RESUMING))

    def time_goes_by() -> None:
        line.now += 30.0

    with pytest.raises(RequestFailed, match="timeout"):
        line.read(answer(FILE[:WORTH_RESUMING]), time_goes_by)
    assert line.asked == []


# --- invalid responses


_text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40)
_fields = st.dictionaries(
    st.sampled_from(
        [
            *("location", "retry-after", "date", "x-robots-tag", "tdm-reservation", "content-type", "content-length"),
            *("link", "refresh", "set-cookie", "cache-control", "content-encoding", "etag", "last-modified"),
        ]
    ),
    _text,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("store"))


@given(st.sampled_from([200, 206, 301, 302, 404, 429, 503, 999]), _fields, st.binary(max_size=60))
def test_no_header_makes_a_handler_raise(store: LocalStore, status: int, headers: dict[str, str], body: bytes) -> None:
    url = "http://a.example/robots.txt"
    fetcher = CannedFetcher({url: Canned(status=status, headers=headers, body=body)})
    for kind, handler in (
        ("image", Downloader(fetcher, store)),
        ("page", Harvester(fetcher)),
        ("robots", RobotsHandler(fetcher, "test/1.0")),
    ):
        outcome = handler.handle(Request(url=url, kind=kind, seed=url))  # type: ignore[arg-type]
        assert outcome.reason != "internal"


def mangled(dice: random.Random) -> bytes:
    """Return a response with some bytes that are wrong, missing, or repeated."""
    data = bytearray(
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"
        b"Set-Cookie: a=b\r\nLocation: /x\r\nContent-Length: 9\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
    )
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data))
        data[at : at + dice.randint(0, 3)] = dice.choice([b"", b"\0", b"\xff", b"\r\n", b"-1", b": ", b"9" * 30])
    return bytes(data)


def test_any_bytes_give_a_response_or_a_failure() -> None:
    dice = random.Random(2026)  # noqa: S311  # the same bytes in each run
    ended = 0

    def script(peer: Peer) -> None:
        peer.send(mangled(dice))
        peer.stop()

    fetcher = RequestsFetcher(TransferLimits(connect=5.0, first_byte=5.0, total=5.0), "test/1.0")
    with serving(script) as server, contextlib.closing(fetcher):
        for _ in range(300):
            with (
                contextlib.suppress(RequestFailed),
                fetcher.fetch(Request(url=server.url), Conditions(max_bytes=1_000)) as response,
            ):
                response.read()
            ended += 1
    assert ended == 300
