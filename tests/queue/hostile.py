"""Hostile frames, made from one integer."""

import math
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from crawler.errors import MessageError
from crawler.model import ImageRecord, Outcome, Request, RobotsRules
from crawler.queue import protocol, wire
from crawler.queue.protocol import RESULTS, TASKS
from tests.queue.evil import evil_pickle

_ODD: tuple[object, ...] = (
    2**63,
    2**64 - 1,
    -(2**63),
    -1,
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    True,
    None,
    "",
    "x" * 300,
    b"\xff",
    [],
    {},
)
_NAMES = ("#GETVALUE", "shutdown", "debug_info", "get_methods", "__class__", "close", "lease\0", "", "hello" * 1_000)
_IDENTS = (None, TASKS, RESULTS, "0", "get_dict", "/etc/passwd", "\ud7ff")

#: Calls as workers make them.
_REAL: tuple[tuple[object, ...], ...] = (
    (TASKS, "hello", ("me", 2)),
    (TASKS, "stats", ()),
    (TASKS, "extend", ("me", ("1.ab.cd", "t"), 60.0)),
    (RESULTS, "records", (0, 1_000)),
    (
        RESULTS,
        "put",
        ("me", (Outcome(status="done", token="1.ab.cd", record=ImageRecord(url="http://a.example/")),), ()),
    ),
    (RESULTS, "put", ("me", (Outcome(status="retry", token="1.ab.cd", robots=RobotsRules(text="a")),), ("turn",))),
    (None, "create", (TASKS,)),
)


class Hostile:
    """An endless supply of frames.

    Args:
        seed: the same frames for the same seed.
        marker: the file that the pickles among them would create.
    """

    def __init__(self, seed: int, marker: Path) -> None:
        self._dice = random.Random(seed)  # noqa: S311  # not secret
        self._pickle = evil_pickle(marker)

    def frames(self, number: int) -> Iterator[bytes]:
        """Yield contents of frames, none of which is a lease call that would have to wait."""
        for _ in range(number):
            frame = self._dice.choice(self._KINDS)(self)
            yield b"" if _is_lease(frame) else frame

    def broken(self, number: int) -> Iterator[bytes]:
        """Yield bytes that are no complete frame: truncated, or announcing more than the limit."""
        for frame in self.frames(number):
            size = self._dice.choice([len(frame) + 1, len(frame) + 2**16, 2**31 - 1, 2**32 - 1, wire._CALL_LIMIT])
            yield max(size, 1).to_bytes(4, "big") + frame[: size - 1]

    def _noise(self) -> bytes:
        return self._dice.randbytes(self._dice.randrange(300))

    def _mutated(self) -> bytes:
        frame = bytearray(wire.encode((*self._dice.choice(_REAL), {})))
        for _ in range(self._dice.randrange(1, 4)):
            at = self._dice.randrange(len(frame))
            frame[at : at + self._dice.randrange(3)] = self._dice.randbytes(self._dice.randrange(3))
        return bytes(frame)

    def _deep(self) -> bytes:
        level = self._dice.choice([b"\x91", b"\x81\xa1a", b"\x81\xc0", b"\x92\x90"])
        return self._within(level * self._dice.choice([100, 2_000, 50_000]))

    def _promising(self) -> bytes:
        """Return an announcement of much data without the data."""
        head = self._dice.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
        return self._within(head + struct.pack(">I", self._dice.choice([2**32 - 1, 2**31, 2**20])))

    def _strange(self) -> bytes:
        """Return extension types, times, reserved bytes, or invalid text."""
        return self._within(
            self._dice.choice([b"\xd4\x01\0", b"\xd6\xff\0\0\0\0", b"\xc7\0\x05", b"\xc1", b"\xa2\xff\xfe"])
        )

    def _out_of_range(self) -> bytes:
        arguments = [self._odd() for _ in range(self._dice.randrange(7))]
        ident, method, _ = self._dice.choice(_REAL)
        return wire.encode((ident, method, arguments, {}))

    def _odd_outcome(self) -> bytes:
        fields = self._dice.sample(Outcome.__struct_fields__, 3)
        outcome = {"status": "done", "token": "9" * self._dice.choice([1, 100, 5_000])}
        record = {"url": "u", self._dice.choice(ImageRecord.__struct_fields__): self._odd()}
        odd = outcome | {field: self._odd() for field in fields} | {"record": record}
        return wire.encode((RESULTS, "put", ("me", [odd], []), {}))

    def _unknown(self) -> bytes:
        return wire.encode((self._dice.choice(_IDENTS), self._dice.choice(_NAMES), [], {}))

    def _pickled(self) -> bytes:
        if self._dice.random() < 0.5:
            return self._pickle
        return wire.encode((RESULTS, "put", (self._pickle, [self._pickle], self._pickle), {}))

    def _large(self) -> bytes:
        """Return a huge amount of almost empty values; only sometimes, as it takes a while."""
        if self._dice.random() < 0.9:
            return self._noise()
        few = self._dice.choice([b"\x81\xa3url\xa0" * 40_000, b"\x80" * 200_000, b"\xa0" * 500_000])
        return self._within(b"\xdd" + (len(few) // max(1, few.count(b"url"))).to_bytes(4, "big") + few)

    def _within(self, value: bytes) -> bytes:
        """Put a value at any place of a call."""
        outcome = b"\x82\xa6status\xa4done" + wire.encode(self._dice.choice(["discovered", "record", "robots"]))
        return self._dice.choice(
            [
                value,
                b"\x94" + value,
                b"\x94" + wire.encode(RESULTS) + wire.encode("put") + value,
                b"\x94" + wire.encode(RESULTS) + wire.encode("put") + b"\x93\xa2me" + value,
                b"\x94" + wire.encode(RESULTS) + wire.encode("put") + b"\x93\xa2me\x91" + outcome + value + b"\x90\x80",
                b"\x94" + wire.encode(TASKS) + wire.encode("stats") + b"\x90" + value,
            ]
        )

    def _odd(self) -> object:
        return self._dice.choice(_ODD)

    _KINDS: tuple[Callable[["Hostile"], bytes], ...] = (
        *(_noise, _mutated, _mutated, _deep, _promising, _strange),
        *(_out_of_range, _odd_outcome, _unknown, _pickled, _large),
    )


def _is_lease(frame: bytes) -> bool:
    try:
        return protocol.read_call(frame)[1] == "lease"
    except MessageError:
        return False


def bulky(token: str) -> tuple[Outcome, ...]:
    """Return the most expensive call that is allowed, as far as known: a page of URLs, each on a host of its own."""
    found = tuple(Request(url=f"http://h{number}.example/", kind="image") for number in range(20_000))
    return (Outcome(status="done", token=token, reason="http-404", discovered=found),)
