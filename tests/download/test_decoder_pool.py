import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crawler.download.decoder_child import ANSWER, JOB, READY
from crawler.download.decoder_pool import DecoderPool
from crawler.download.formats.base import Outline
from crawler.download.verify import _MAX_LOOKED_AT, MAX_PIXELS, examine, inspect_image, is_risky
from crawler.errors import InvalidImage, NoHandles
from tests.download.pictures import MAKERS, large, picture
from tests.download.scenes import file_of, scene
from tests.support.processes import wait_until

WEBP = examine(picture("WEBP"), MAX_PIXELS)
#: The start of a process whose decoder is the code that follows.
CHILD = """
import os, sys, time
from crawler.download import decoder_child, verify
def decide(found, max_pixels, with_phash):
    if found.frames == 1:
        return verify.prove(found, max_pixels)
"""
BAD = Outline(format="webp", frames=2, picture=b"")

Make = Callable[..., DecoderPool]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[DecoderPool] = []

    def decoders(code: str = "", **options: float) -> DecoderPool:
        command = {"command": (sys.executable, "-c", f"{CHILD}    {code}\ndecoder_child.serve(decide)")} if code else {}
        made.append(DecoderPool(**{"processes": 1, **options, **command}))  # type: ignore[arg-type]
        return made[-1]

    yield decoders
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[DecoderPool]:
    """Yield decoders that no test damages, so that they start only once."""
    decoders = DecoderPool(processes=1)
    yield decoders
    decoders.close()


def reason_for(decoders: DecoderPool, found: Outline = BAD) -> str:
    with pytest.raises(InvalidImage) as caught:
        decoders.prove(found, MAX_PIXELS)
    return caught.value.reason


@pytest.mark.parametrize("name", MAKERS)
def test_a_child_process_gives_the_verdict_of_this_process(name: str, shared: DecoderPool) -> None:
    data = MAKERS[name]()
    assert shared.prove(examine(data, MAX_PIXELS), MAX_PIXELS) == inspect_image(data)


@pytest.mark.parametrize("name", MAKERS)
def test_a_child_process_returns_a_perceptual_hash_on_request(name: str, shared: DecoderPool) -> None:
    data = MAKERS[name]()
    found = shared.prove(examine(data, MAX_PIXELS), MAX_PIXELS, with_phash=True)
    assert found == inspect_image(data, with_phash=True) and len(found.phash) == 128


@pytest.mark.parametrize(
    ("says", "is_asked", "is_believed"),
    [
        ("'ab' * 64", True, True),
        ("''", True, True),
        ("'ab' * 64", False, True),
        ("'AB' * 64", True, False),
        ("'ab' * 63", True, False),
        ("'ab' * 64 + chr(10)", True, False),
        ("'<script>'", True, False),
    ],
)
def test_the_perceptual_hash_is_128_hex_digits_or_empty(
    says: str, is_asked: bool, is_believed: bool, make: Make
) -> None:
    code = f"return verify.ImageInfo('webp', 2, 2, 2, {says})"
    if not is_believed:
        with pytest.raises(InvalidImage, match="the decoder crashed"):
            make(code).prove(BAD, MAX_PIXELS, with_phash=is_asked)
        return
    found = make(code).prove(BAD, MAX_PIXELS, with_phash=is_asked)
    assert found.phash == ("ab" * 64 if is_asked and "ab" in says else "")


@pytest.mark.parametrize(
    ("name", "options"), [("WEBP", {"method": 0}), pytest.param("AVIF", {"speed": 10}, marks=pytest.mark.fire)]
)
def test_a_picture_too_large_to_decode_twice_has_no_perceptual_hash_and_is_accepted(
    name: str, options: dict[str, int], make: Make
) -> None:
    decoders, height = make(), 2_500
    for width, digits in ((_MAX_LOOKED_AT // height, 128), (_MAX_LOOKED_AT // height + 1, 0)):
        found = examine(file_of(scene(0).resize((width, height)), name, **options), MAX_PIXELS)
        info = decoders.prove(found, MAX_PIXELS, with_phash=True)
        assert (info.width, info.height, len(info.phash)) == (width, height, digits)


def test_a_child_starts_when_needed_and_is_reused(make: Make) -> None:
    decoders = make()
    assert decoders.pids == []
    seen = {decoders.prove(WEBP, MAX_PIXELS).width and tuple(decoders.pids) for _ in range(5)}
    assert len(seen) == 1
    assert len(decoders.pids) == 1


def test_a_rejection_is_returned_to_the_parent(make: Make) -> None:
    with pytest.raises(InvalidImage, match="webp: libwebp rejects the container"):
        make().prove(Outline(format="webp", picture=WEBP.picture[:-40]), MAX_PIXELS)
    assert reason_for(make(), Outline(format="tiff", picture=b"II*\0")) == "corrupt"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.abort()", "corrupt"),
        ("sys.exit()", "corrupt"),
        ("time.sleep(60)", "decompression-limit"),
        pytest.param("exec('while True: pass')", "decompression-limit", marks=pytest.mark.fire),
        ("raise MemoryError", "decompression-limit"),
    ],
)
def test_a_decoder_that_fails_costs_one_picture(code: str, reason: str, make: Make) -> None:
    decoders = make(code, seconds=2.0)
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61
    assert reason_for(decoders) == reason
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a memory limit")
def test_a_decoder_that_exhausts_memory_costs_one_picture(make: Make) -> None:
    decoders = make("bytearray(400 << 20)")
    assert reason_for(decoders) == "decompression-limit"
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61


def test_a_child_killed_from_outside_is_retried(make: Make) -> None:
    decoders = make()
    decoders.prove(WEBP, MAX_PIXELS)
    (pid,) = decoders.pids
    os.kill(pid, 9 if sys.platform != "win32" else 15)
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61
    assert decoders.pids != [pid]


@pytest.mark.parametrize(
    "answer",
    [
        b"\x80" * 20,
        ANSWER.pack(2**31) + b"x",
        ANSWER.pack(1) + b"\xc0",
        ANSWER.pack(6) + b"\x95\x00\x00\x00\xa0\xa0",
        b"",
    ],
    ids=["noise", "endless", "nothing", "no size", "end"],
)
def test_a_forged_answer_is_not_accepted(answer: bytes) -> None:
    code = f"import os, sys; os.write(1, {READY + answer!r}); sys.stdin.buffer.read(); "
    decoders = DecoderPool(1, seconds=2.0, command=(sys.executable, "-c", code + "os._exit(0)"))
    assert reason_for(decoders) in ("corrupt", "decompression-limit")
    decoders.close()


def test_a_forged_reason_is_not_accepted() -> None:
    said = b"\x95\x00\x00\x00\xa4evil\xa1x"
    code = f"import os, time; os.write(1, {READY + ANSWER.pack(len(said)) + said!r}); time.sleep(60)"
    decoders = DecoderPool(1, command=(sys.executable, "-c", code))
    assert reason_for(decoders) == "corrupt"
    decoders.close()


@pytest.mark.parametrize("command", [("/nowhere/python",), (sys.executable, "-c", "")])
def test_if_no_child_starts_this_process_decodes(command: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    decoders = DecoderPool(1, command=command)
    for _ in range(3):
        assert decoders.prove(WEBP, MAX_PIXELS).width == 61
    assert len(caplog.messages) == 1
    assert reason_for(decoders, Outline(format="tiff", picture=b"II*\0")) == "corrupt"


def test_many_threads_share_a_few_children(make: Make) -> None:
    decoders = make(processes=2)
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda _: decoders.prove(WEBP, MAX_PIXELS).width, range(40)))
    assert sizes == [61] * 40
    assert 1 <= len(decoders.pids) <= 2


def test_a_hang_does_not_block_the_others(make: Make) -> None:
    decoders = make("time.sleep(60)", processes=2, seconds=10.0)
    reasons: list[str] = []
    hanging = threading.Thread(target=lambda: reasons.append(reason_for(decoders)))
    hanging.start()
    assert [decoders.prove(WEBP, MAX_PIXELS).width for _ in range(20)] == [61] * 20
    assert hanging.is_alive()
    hanging.join()
    assert reasons == ["decompression-limit"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(sys.platform == "win32", reason="the check for live processes uses signals")
@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), 9)"], ids=["end", "kill"])
def test_no_child_outlives_its_parent(ending: str) -> None:
    code = f"""
import os
from crawler.download.decoder_pool import DecoderPool
from crawler.download.verify import MAX_PIXELS, examine
from tests.download.pictures import picture
decoders = DecoderPool(1)
decoders.prove(examine(picture("WEBP"), MAX_PIXELS), MAX_PIXELS)
os.write(1, str(decoders.pids[0]).encode())
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=60)
    pid = int(done.stdout)
    wait_until(lambda: not is_alive(pid), "the end of the child")


def test_closing_ends_the_children(make: Make) -> None:
    decoders = make()
    decoders.prove(WEBP, MAX_PIXELS)
    decoders.close()
    assert decoders.pids == []
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61


@pytest.mark.parametrize(
    ("data", "risky"),
    [
        *((MAKERS[name](), False) for name in ("jpeg", "jpeg-progressive", "png", "gif", "png-animated")),
        *((MAKERS[name](), True) for name in ("webp", "avif", "tiff", "bmp", "ico")),
        (large("PNG", 3_000, "L"), True),
        (large("JPEG", 5_000, "L"), False),
        (large("JPEG", 3_500, progressive=True), True),
    ],
)
def test_small_common_formats_are_decoded_in_this_process(data: bytes, risky: bool) -> None:
    assert is_risky(examine(data, MAX_PIXELS)) is risky


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the peak memory of a process")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("GIF", "P", {}),
        ("BMP", "1", {}),
        *(  # making them takes this process hundreds of megabytes and seconds
            pytest.param(*case, marks=pytest.mark.fire)
            for case in (
                ("PNG", "RGBA", {"compress_level": 1}),
                ("JPEG", "RGB", {"progressive": True}),
                ("WEBP", "RGB", {"method": 0}),
                ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
                ("AVIF", "RGB", {"speed": 10, "subsampling": "4:4:4"}),
                ("TIFF", "RGB", {"compression": "tiff_lzw"}),
            )
        ),
    ],
)
def test_the_largest_pictures_take_less_than_300_mb(
    kind: str, mode: str, options: dict[str, object], make: Make
) -> None:
    decoders = make()
    found = examine(large(kind, 7_000, mode, **options), MAX_PIXELS)
    assert decoders.prove(found, MAX_PIXELS).width == 7_000
    (pid,) = decoders.pids
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    most = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert most < 300_000_000 // 1024


def test_a_hanging_child_ends_by_itself_after_its_parent_died() -> None:
    code = f"{CHILD}    time.sleep(60)\ndecoder_child._MAX_SECONDS = 0.5\ndecoder_child.serve(decide)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(len(READY)) == READY
        process.stdin.write(JOB.pack(b"webp", MAX_PIXELS, 2, 0, 0, 0, False))
        process.stdin.flush()
        assert process.wait(30) != 0


def test_a_short_lack_of_file_descriptors_is_a_temporary_disk_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    decoders = make()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(NoHandles):
            decoders.prove(WEBP, MAX_PIXELS)
    assert decoders.prove(WEBP, MAX_PIXELS).format == "webp" and len(decoders.pids) == 1
