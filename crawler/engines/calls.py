"""What may be said over the queue: every method, the types and bounds of its arguments, the type of its answer.

A call is ``(ident, method, arguments, {})``, an answer ``("#RETURN", result)`` or ``("#ERROR", error)``: the shape of
`multiprocessing.managers`. ``ident`` is the registered name of an object, or None for the server itself. What is not
listed here does not exist for the other side.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from crawler.engines import wire
from crawler.errors import CrawlerError, MessageError, from_wire
from crawler.model import (
    MAX_FOUND,
    About,
    FrontierStats,
    Grant,
    ImageRecord,
    Kind,
    Outcome,
    Renewal,
    Request,
    RobotsRules,
    Verdict,
)
from crawler.paths import is_picture
from crawler.urls import is_spelled

#: Registered names, and thereby identifiers, of the two queues; they outlive a restart of the master.
TASKS = "get_task_queue"
RESULTS = "get_result_queue"

#: Most requests of one lease, and most records of one answer.
MAX_LEASE = 1_000
#: Longest that a lease call waits for work, in seconds: a worker that was killed meanwhile occupies a thread so long.
MAX_WAIT = 20.0
#: Most outcomes, tokens or turns of one call. The requests that its outcomes bring are `MAX_FOUND` together at most.
MAX_BATCH = 10_000
#: Longest request or record, in bytes: a thousand of them fit into an answer. Longest rules of an origin.
MAX_PART = 64 * 2**10
MAX_RULES = 4 * 2**20
#: No part of an outcome up to this length can be too long.
_UNSUSPECTED = 60_000
#: After so many bytes of records an answer ends, and what it takes up at most: more is asked for with another call.
RECORDS_BYTES = 4 * 2**20

_Name = Annotated[str, Meta(max_length=128)]
_Names = Annotated[tuple[_Name, ...], Meta(max_length=MAX_BATCH)]
#: Any name but those of the master's own workers.
_Worker = Annotated[str, Meta(pattern=r"\A(?!(?:harvester|downloader)\Z)[A-Za-z0-9_.:/-]{1,128}\Z")]
_Seconds = Annotated[float, Meta(ge=0, le=3_600)]
_Count = Annotated[int, Meta(ge=1, le=MAX_LEASE)]
_Limit = Annotated[int, Meta(ge=0, le=MAX_LEASE)]
_WORDS = re.compile(r"[ -~]{0,64}")
_INT64 = 2**63
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Arguments(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Arguments by position; none of them."""


class _NameArgument(_Arguments, frozen=True):
    name: _Name


class _Hello(Struct, frozen=True, array_like=True):
    """Grows at its end only, so that releases of any age can tell each other which of them is the older one."""

    worker: _Worker
    protocol: _Number
    about: About = About()

    def __post_init__(self) -> None:
        about = self.about
        if not all(_WORDS.fullmatch(text) for text in (about.release, about.system, about.python, about.life)):
            raise ValueError("a worker's words about itself must be short and printable")
        if not 0 <= about.wall < _INT64:
            raise ValueError("a worker's clock is out of range")


class _Lease(_Arguments, frozen=True):
    worker: _Worker
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=5)]
    #: 0: no work, only how things stand.
    limit: _Limit
    seconds: _Seconds
    wait: _Seconds


class _Extend(_Arguments, frozen=True):
    worker: _Worker
    tokens: _Names
    seconds: _Seconds


class _Put(_Arguments, frozen=True):
    worker: _Worker
    #: Read one after the other by `_read_outcomes`: six bytes of the frame may become hundreds in memory.
    outcomes: Annotated[tuple[Raw, ...], Meta(max_length=MAX_BATCH)]
    ended_turns: _Names


class _Records(_Arguments, frozen=True):
    after: _Number
    limit: _Count


class Signature:
    """One method as the wire sees it."""

    def __init__(self, arguments: type[Struct], answer: Any) -> None:
        self._arguments = msgspec.msgpack.Decoder(arguments)
        self._answer = msgspec.msgpack.Decoder(answer)

    def read_arguments(self, raw: Raw) -> tuple[Any, ...]:
        """The arguments of a call, or `MessageError`."""
        arguments = wire.decode(raw, self._arguments)
        if isinstance(arguments, _Put):
            return arguments.worker, _read_outcomes(arguments.outcomes), arguments.ended_turns
        return msgspec.structs.astuple(arguments)

    def read_answer(self, raw: Raw) -> Any:
        """The result in an answer, or `MessageError`."""
        return wire.decode(raw, self._answer)


#: Ident → method → signature.
SIGNATURES: dict[str | None, dict[str, Signature]] = {
    None: {
        "dummy": Signature(_Arguments, None),
        "create": Signature(_NameArgument, tuple[str, tuple[str, ...]]),
        "accept_connection": Signature(_NameArgument, None),
        "incref": Signature(_NameArgument, None),
        "decref": Signature(_NameArgument, None),
    },
    TASKS: {
        "hello": Signature(_Hello, dict[str, Any]),
        "lease": Signature(_Lease, Grant),
        "extend": Signature(_Extend, Renewal),
        "stats": Signature(_Arguments, FrontierStats),
    },
    RESULTS: {
        "put": Signature(_Put, tuple[Verdict, ...]),
        "records": Signature(_Records, tuple[tuple[int, ImageRecord], ...]),
    },
}


class _Failure(Struct, frozen=True):
    """An error as `crawler.errors.to_wire` writes it."""

    type: str
    args: tuple[str, ...] = ()
    fields: dict[str, bool | int | float | str | None] = {}


_CALL = msgspec.msgpack.Decoder(tuple[str | None, str, Raw, Annotated[dict[str, None], Meta(max_length=0)]])
_ANSWER = msgspec.msgpack.Decoder(tuple[str, Raw])
_FAILURE = msgspec.msgpack.Decoder(_Failure)


def write_call(ident: str | None, method: str, arguments: tuple[Any, ...]) -> bytes:
    """The frame of a call."""
    return wire.encode((ident, method, arguments, {}))


def read_call(frame: wire.Buffer) -> tuple[str | None, str, tuple[Any, ...]]:
    """Ident, method and arguments of a call; `MessageError` if there is no such method or the arguments are wrong."""
    ident, method, raw, _ = wire.decode(frame, _CALL)
    signature = SIGNATURES.get(ident, {}).get(method)
    if signature is None:
        raise MessageError("the queue has no such method")
    return ident, method, signature.read_arguments(raw)


def read_answer(frame: bytes, signature: Signature) -> Any:
    """The result that an answer brings; a `CrawlerError` that it brings instead is returned, not raised.

    Raises:
        MessageError: it is no valid answer to this method.
    """
    kind, raw = wire.decode(frame, _ANSWER)
    if kind == "#RETURN":
        return signature.read_answer(raw)
    if kind == "#ERROR":
        error: CrawlerError = from_wire(msgspec.to_builtins(wire.decode(raw, _FAILURE)))
        return error
    raise MessageError("the master answered with neither a result nor an error")


def found_in(outcomes: Sequence[Outcome]) -> int:
    """How many requests these outcomes bring."""
    return sum(len(outcome.discovered) for outcome in outcomes)


def _read_outcomes(raws: tuple[Raw, ...]) -> tuple[Outcome, ...]:
    """The outcomes of a call, each checked before the next is read, or `MessageError`."""
    try:
        return tuple(_checked(raws))
    except wire.UNREADABLE as error:
        raise wire.unreadable(error) from error


def _checked(raws: tuple[Raw, ...]) -> Iterator[Outcome]:
    room = MAX_FOUND
    read = _OUTCOME.decode
    for raw in raws:
        outcome = read(raw)
        room -= len(outcome.discovered)
        if room < 0:
            raise ValueError(f"a call brings more than {MAX_FOUND} requests")
        for request in outcome.discovered if outcome.successor is None else (*outcome.discovered, outcome.successor):
            if not (is_spelled(request.url) and is_spelled(request.fallback)):
                raise ValueError("a request's URL is none")
        for part in _parts(outcome) if memoryview(raw).nbytes > _UNSUSPECTED else ():
            _check_size(part)
        if outcome.record is not None:
            _check_record(outcome.record)
        yield outcome


_OUTCOME = msgspec.msgpack.Decoder(Outcome)


def _parts(outcome: Outcome) -> Iterator[Outcome | Request | RobotsRules | ImageRecord]:
    yield outcome
    yield from outcome.discovered
    carried = outcome.successor.rules if outcome.successor else None
    for part in (outcome.record, outcome.successor, outcome.robots, carried):
        if part is not None:
            yield part


def _check_size(part: Outcome | Request | RobotsRules | ImageRecord) -> None:
    """Refuse what would make answers too long for their frames, or fill the memory of whoever gets them."""
    if isinstance(part, Outcome):
        return  # what may be long in it is a part of its own; so are the rules that a request carries
    if isinstance(part, Request) and part.rules is not None:
        part = msgspec.structs.replace(part, rules=None)
    if len(wire.encode(part)) > (MAX_RULES if isinstance(part, RobotsRules) else MAX_PART):
        raise ValueError(f"the {type(part).__name__} is too long")


#: Store, format, final URL and hash of a record, a line each.
_RECORD = re.compile(r"(?:[0-9a-f]{16})?\n[a-z0-9]{0,16}\n(?:[0-9a-f]{64})?")


def _check_record(record: ImageRecord) -> None:
    """Refuse what no downloader of ours writes: people join paths from the manifest, and programs read its rows."""
    path, url = record.path, record.final_url
    is_sound = (not path or is_picture(path, record.sha256)) and (
        not url or (url.startswith(("http://", "https://")) and is_spelled(url))
    )
    if not is_sound or not _RECORD.fullmatch(f"{record.store}\n{record.format}\n{record.sha256}"):
        raise ValueError("a field of the record is not what a downloader writes")
