"""The process in which risky decoders work: pictures in, verdicts out, until its standard input ends.

Started by `crawler.download.decoders` as ``python -m crawler.download.child``. It may crash, hang, or be killed; the
process that started it lives on.
"""

import faulthandler
import os
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from crawler.download.lean import MAX_DECODED
from crawler.download.structure import Outline
from crawler.download.verify import ImageInfo, prove
from crawler.errors import InvalidImage

#: What stands before a picture: its format, the limit of its canvas, of `Outline` frames, pixels and kept bytes, the
#: length of the picture, and whether to tell what it looks like. All integers are big-endian.
JOB = struct.Struct("!8s5Q?")
#: What stands before an answer: its length. The answer is a `Verdict` as MessagePack.
ANSWER = struct.Struct("!I")
#: What is said when all is loaded.
READY = b"ready\n"
#: Seconds after which a picture ends the process, whoever is left to kill it.
_LONGEST = 60.0
#: Bytes that the process may take up besides what it has when it starts: the picture, and what its decoder needs.
_MEMORY = MAX_DECODED + 64 * 2**20


class Verdict(Struct, frozen=True, kw_only=True, array_like=True):
    """What came of a picture: its size in pixels, its frames and what it looks like, or why it is refused."""

    width: int = 0
    height: int = 0
    frames: int = 0
    reason: str = ""
    detail: str = ""
    phash: str = ""


def serve(decide: Callable[..., ImageInfo] = prove) -> None:
    """Answer picture after picture; ``decide`` is what each is put to, as `prove` is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us; we end when our input does
    source, answers = sys.stdin.buffer, _own_output()
    _limit_memory()
    answers.write(READY)
    answers.flush()
    while len(head := source.read(JOB.size)) == JOB.size:
        name, max_pixels, frames, pixels, kept, length, with_phash = JOB.unpack(head)
        found = Outline(
            format=name.rstrip(b"\0").decode(), frames=frames, pixels=pixels, kept=kept, picture=source.read(length)
        )
        # Who started us kills us sooner, if it lives; this needs no interpreter that a decoder may hold.
        faulthandler.dump_traceback_later(_LONGEST, exit=True)
        verdict = _verdict(partial(decide, found, max_pixels, with_phash=with_phash), found.format)
        faulthandler.cancel_dump_traceback_later()
        answer = msgspec.msgpack.encode(verdict)
        answers.write(ANSWER.pack(len(answer)) + answer)
        answers.flush()


def _verdict(decide: Callable[[], ImageInfo], name: str) -> Verdict:
    try:
        info = decide()
        return Verdict(width=info.width, height=info.height, frames=info.frames, phash=info.phash)
    except InvalidImage as error:
        return Verdict(reason=error.reason, detail=error.detail[:300])
    except MemoryError:
        return Verdict(reason="decompression-limit", detail=f"{name}: takes more memory than it may")


def _own_output() -> BinaryIO:
    """The pipe to whoever started us; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    return answers


def _limit_memory() -> None:
    """Let allocations fail before the machine suffers; only Linux tells what there is already and keeps the limit."""
    if sys.platform != "linux":
        return
    import resource

    with suppress(OSError, ValueError):  # no /proc here, or a lower limit already
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    serve()
