"""Protocol of the queue: every method, the types and limits of its arguments, and the type of its answer.

A call is ``(ident, method, arguments, {})``, an answer ``("#RETURN", result)`` or ``("#ERROR", error)``: the shape of
`multiprocessing.managers`. ``ident`` is the registered name of an object, or None for the server itself. A peer cannot
call a method that is not listed here.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from crawler.errors import CrawlerError, MessageError, from_wire
from crawler.model import (
    MAX_FOUND,
    Grant,
    ImageRecord,
    Kind,
    Outcome,
    Renewal,
    Request,
    RobotsRules,
    Verdict,
    WorkerInfo,
)
from crawler.paths import is_picture
from crawler.queue import wire
from crawler.stats import FrontierStats
from crawler.urls import is_spelled

#: Registered names, and thereby identifiers, of the two queues. They are the same after a restart of the master.
TASKS = "get_task_queue"
RESULTS = "get_result_queue"

#: Most requests of one lease, and most records of one answer.
MAX_LEASE = 1_000
#: Longest wait of a lease call for work, in seconds. The call of a worker that was killed occupies a thread that long.
MAX_WAIT = 20.0
#: Most outcomes, tokens or turns of one call. All outcomes of a call bring at most `MAX_FOUND` requests.
MAX_BATCH = 10_000
#: Longest new request, in bytes: a thousand of them fit into an answer. A record or a successor may be longer: it has a
#: further URL, and measured values.
_MAX_PART = 64 * 2**10
_MAX_RETURNED = _MAX_PART + 20 * 2**10
#: Longest rules of an origin, in bytes, with their sitemaps and without: the answer to a downloader's lease holds the
#: rules of 16 origins and their requests.
_MAX_RULES = 3 * 2**20
MAX_LINES = 2**21
#: Outcomes up to this length, in bytes, have no part that is too long.
_SAFE_BYTES = 60_000
#: Bytes of records after which an answer ends, and memory that is reserved for it. More records need another call.
RECORDS_BYTES = 4 * 2**20

_Name = Annotated[str, Meta(max_length=128)]
_Names = Annotated[tuple[_Name, ...], Meta(max_length=MAX_BATCH)]
#: Any worker name except those of the master's own workers.
_Worker = Annotated[str, Meta(pattern=r"\A(?!(?:harvester|downloader)\Z)[A-Za-z0-9_.:/-]{1,128}\Z")]
_Seconds = Annotated[float, Meta(ge=0, le=3_600)]
_Count = Annotated[int, Meta(ge=1, le=MAX_LEASE)]
_Limit = Annotated[int, Meta(ge=0, le=MAX_LEASE)]
_INFO_TEXT = re.compile(r"[ -~]{0,64}")
_INT64 = 2**63
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Arguments(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of positional arguments; by itself, no arguments."""


class _NameArgument(_Arguments, frozen=True):
    name: _Name


class _Hello(Struct, frozen=True, array_like=True):
    """Arguments of ``hello``. New ones are added at the end only, so that releases of any age can compare versions."""

    worker: _Worker
    protocol: _Number
    about: WorkerInfo = WorkerInfo()

    def __post_init__(self) -> None:
        about = self.about
        if not all(_INFO_TEXT.fullmatch(text) for text in (about.release, about.system, about.python, about.life)):
            raise ValueError("a worker's description of itself must be short and printable")
        if not 0 <= about.wall < _INT64:
            raise ValueError("a worker's clock is out of range")


class _Lease(_Arguments, frozen=True):
    worker: _Worker
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=5)]
    #: With 0, only the state is reported.
    limit: _Limit
    seconds: _Seconds
    wait: _Seconds


class _Extend(_Arguments, frozen=True):
    worker: _Worker
    tokens: _Names
    seconds: _Seconds


class _Put(_Arguments, frozen=True):
    worker: _Worker
    #: `_read_outcomes` decodes them one after the other: six bytes of the frame may become hundreds in memory.
    outcomes: Annotated[tuple[Raw, ...], Meta(max_length=MAX_BATCH)]
    ended_turns: _Names


class _Records(_Arguments, frozen=True):
    after: _Number
    limit: _Count


class Signature:
    """Types of the arguments and of the answer of one method."""

    def __init__(self, arguments: type[Struct], answer: Any) -> None:
        self._arguments = msgspec.msgpack.Decoder(arguments)
        self._answer = msgspec.msgpack.Decoder(answer)

    def read_arguments(self, raw: Raw) -> tuple[Any, ...]:
        """Return the arguments of a call; raise `MessageError` if they are invalid."""
        arguments = wire.decode(raw, self._arguments)
        if isinstance(arguments, _Put):
            return arguments.worker, _read_outcomes(arguments.outcomes), arguments.ended_turns
        return msgspec.structs.astuple(arguments)

    def read_answer(self, raw: Raw) -> Any:
        """Return the result in an answer; raise `MessageError` if it is invalid."""
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


#: Methods whose first argument is the name of the calling worker.
OF_WORKERS = frozenset({"hello", "lease", "extend", "put"})


class _Failure(Struct, frozen=True):
    """Error as `crawler.errors.to_wire` writes it."""

    type: str
    args: tuple[str, ...] = ()
    fields: dict[str, bool | int | float | str | None] = {}


_CALL = msgspec.msgpack.Decoder(tuple[str | None, str, Raw, Annotated[dict[str, None], Meta(max_length=0)]])
_ANSWER = msgspec.msgpack.Decoder(tuple[str, Raw])
_FAILURE = msgspec.msgpack.Decoder(_Failure)


def write_call(ident: str | None, method: str, arguments: tuple[Any, ...]) -> bytes:
    """Return the frame of a call."""
    return wire.encode((ident, method, arguments, {}))


def read_call(frame: wire.Buffer) -> tuple[str | None, str, tuple[Any, ...]]:
    """Return ident, method and arguments of a call.

    Raises:
        MessageError: the method does not exist, or the arguments are invalid.
    """
    ident, method, raw, _ = wire.decode(frame, _CALL)
    signature = SIGNATURES.get(ident, {}).get(method)
    if signature is None:
        advice = "install the same release on the master and the downloader"
        raise MessageError(f"the master's queue has no method {method[:50]!r}; {advice}")
    return ident, method, signature.read_arguments(raw)


def read_answer(frame: bytes, signature: Signature) -> Any:
    """Return the result in an answer. A `CrawlerError` in it is returned, too, not raised.

    Raises:
        MessageError: the frame is not a valid answer to this method.
    """
    kind, raw = wire.decode(frame, _ANSWER)
    if kind == "#RETURN":
        return signature.read_answer(raw)
    if kind == "#ERROR":
        error: CrawlerError = from_wire(msgspec.to_builtins(wire.decode(raw, _FAILURE)))
        return error
    raise MessageError("the master answered with neither a result nor an error")


def found_in(outcomes: Sequence[Outcome]) -> int:
    """Return how many requests these outcomes bring."""
    return sum(len(outcome.discovered) for outcome in outcomes)


def _read_outcomes(raws: tuple[Raw, ...]) -> tuple[Outcome, ...]:
    """Return the outcomes of a call, each checked before the next is decoded.

    Raises:
        MessageError: an outcome is invalid.
    """
    try:
        return tuple(_checked(raws))
    except wire.UNREADABLE as error:
        raise wire.unreadable(error) from error


def _checked(raws: tuple[Raw, ...]) -> Iterator[Outcome]:
    remaining = MAX_FOUND
    decode = _OUTCOME.decode
    for raw in raws:
        outcome = decode(raw)
        remaining -= len(outcome.discovered)
        if remaining < 0:
            raise ValueError(f"a call brings more than {MAX_FOUND} requests")
        for new in outcome.discovered:
            if not is_spelled(f"{new.url}{new.target}{new.fallback}{new.referrer}{new.seed}"):
                raise ValueError("a URL of a request contains characters that a URL must not contain")
        moved = outcome.successor  # the frontier uses only its target
        if moved is not None and not is_spelled(f"{moved.url}{moved.target}{moved.fallback}"):
            raise ValueError("a URL of a request contains characters that a URL must not contain")
        if memoryview(raw).nbytes > _SAFE_BYTES:
            _check_sizes(outcome)
        if outcome.record is not None:
            _check_record(outcome.record)
        yield outcome


_OUTCOME = msgspec.msgpack.Decoder(Outcome)


def _check_sizes(outcome: Outcome) -> None:
    """Raise ValueError if a part of an outcome is too long for later answers, or for the memory of their receiver.

    Each long field of an outcome is one part. The rules in a successor are another one.
    """
    moved, rules = outcome.successor, outcome.robots
    parts: list[tuple[Request | RobotsRules | ImageRecord | None, int]]
    parts = [(new, _MAX_PART) for new in outcome.discovered]
    if moved is not None:
        parts += [(msgspec.structs.replace(moved, rules=None), _MAX_RETURNED), (moved.rules, _MAX_RULES)]
    parts += [(outcome.record, _MAX_RETURNED), (rules, _MAX_RULES)]
    for part, most in parts:
        if isinstance(part, RobotsRules) and len(part.text.encode()) > MAX_LINES:
            raise ValueError("the text of the RobotsRules is too long")
        if part is not None and len(wire.encode(part)) > most:
            raise ValueError(f"the {type(part).__name__} is too long")


#: Store, format and hash of a record, a line each.
_RECORD = re.compile(r"(?:[0-9a-f]{16})?\n[a-z0-9]{0,16}\n(?:[0-9a-f]{64})?")


def _check_record(record: ImageRecord) -> None:
    """Raise ValueError for a value that no downloader writes: users join manifest paths, and programs read the rows."""
    path, url = record.path, record.final_url
    is_valid = (not path or is_picture(path, record.sha256)) and (
        not url or (url.startswith(("http://", "https://")) and is_spelled(url))
    )
    if record.other_rows or not is_valid or not _RECORD.fullmatch(f"{record.store}\n{record.format}\n{record.sha256}"):
        raise ValueError("a field of the record has a value that no downloader writes")
