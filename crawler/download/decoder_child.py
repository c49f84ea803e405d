"""The decoder process: it reads images from standard input and writes results to standard output until its input ends.

`crawler.download.decoder_pool` starts it as ``python -m crawler.download.decoder_child`` for risky decoders. It may
crash, hang or be killed without any effect on the process that started it.
"""

import faulthandler
import os
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from crawler.download.formats.base import Outline
from crawler.download.native_decoders import MAX_DECODED
from crawler.download.verify import ImageInfo, prove
from crawler.errors import InvalidImage

#: Header of an image: its format, the limit of its canvas, the frames, pixels and kept bytes of its `Outline`, the
#: length of the image in bytes, and whether to compute its perceptual hash. All integers are big-endian.
JOB = struct.Struct("!8s5Q?")
#: Header of an answer: its length in bytes. The answer is a `DecoderResult` as MessagePack.
ANSWER = struct.Struct("!I")
#: First output, written when all modules are loaded.
READY = b"ready\n"
#: Seconds after which an image ends the process, even if the process that started it is gone.
_MAX_SECONDS = 60.0
#: Bytes that the process may allocate in addition to those at its start: the image, and the memory of its decoder.
_MEMORY = MAX_DECODED + 64 * 2**20


class DecoderResult(Struct, frozen=True, kw_only=True, array_like=True):
    """The result for an image: its size in pixels, its frames and its perceptual hash, or why it is refused."""

    width: int = 0
    height: int = 0
    frames: int = 0
    reason: str = ""
    detail: str = ""
    phash: str = ""


def serve(decide: Callable[..., ImageInfo] = prove) -> None:
    """Answer images until the input ends; ``decide`` checks each one, with the signature of `prove`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker; this process ends with its input
    source, answers = sys.stdin.buffer, _own_output()
    _limit_memory()
    answers.write(READY)
    answers.flush()
    while len(head := source.read(JOB.size)) == JOB.size:
        name, max_pixels, frames, pixels, kept, length, with_phash = JOB.unpack(head)
        outline = Outline(
            format=name.rstrip(b"\0").decode(), frames=frames, pixels=pixels, kept=kept, picture=source.read(length)
        )
        # A worker that is alive kills this process sooner. This works even if a decoder holds the interpreter's lock.
        faulthandler.dump_traceback_later(_MAX_SECONDS, exit=True)
        try:
            info = decide(outline, max_pixels, with_phash=with_phash)
            result = DecoderResult(width=info.width, height=info.height, frames=info.frames, phash=info.phash)
        except InvalidImage as error:
            result = DecoderResult(reason=error.reason, detail=error.detail[:300])
        except MemoryError:
            detail = f"{outline.format}: needs more memory than allowed"
            result = DecoderResult(reason="decompression-limit", detail=detail)
        faulthandler.cancel_dump_traceback_later()
        answer = msgspec.msgpack.encode(result)
        answers.write(ANSWER.pack(len(answer)) + answer)
        answers.flush()


def _own_output() -> BinaryIO:
    """Return the pipe to the worker, and redirect all output of libraries to the null device."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    return answers


def _limit_memory() -> None:
    """Limit the memory of this process. Only Linux reports the memory in use and enforces the limit."""
    if sys.platform != "linux":
        return
    import resource

    with suppress(OSError, ValueError):  # no /proc, or there is a lower limit already
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    serve()
