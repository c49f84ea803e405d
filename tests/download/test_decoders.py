import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crawler.download.child import ANSWER, JOB, READY
from crawler.download.decoders import Decoders
from crawler.download.structure import Outline
from crawler.download.verify import MAX_LOOKED_AT, MAX_PIXELS, examine, inspect_image, is_risky
from crawler.errors import InvalidImage, NoHandles
from tests.download.pictures import MAKERS, large, picture
from tests.download.scenes import file_of, scene
from tests.processes import wait_until

WEBP = examine(picture("WEBP"), MAX_PIXELS)
#: How a process begins whose decoder is the code that follows.
CHILD = """
import os, sys, time
from crawler.download import child, verify
def decide(found, max_pixels, with_phash):
    if found.frames == 1:
        return verify.prove(found, max_pixels)
"""
BAD = Outline(format="webp", frames=2, picture=b"")

Make = Callable[..., Decoders]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Decoders] = []

    def decoders(code: str = "", **options: float) -> Decoders:
        command = {"command": (sys.executable, "-c", f"{CHILD}    {code}\nchild.serve(decide)")} if code else {}
        made.append(Decoders(**{"processes": 1, **options, **command}))  # type: ignore[arg-type]
        return made[-1]

    yield decoders
    for one in made:
        one.close()


def reason_for(decoders: Decoders, found: Outline = BAD) -> str:
    with pytest.raises(InvalidImage) as caught:
        decoders.prove(found, MAX_PIXELS)
    return caught.value.reason


@pytest.mark.parametrize("name", MAKERS)
def test_a_child_says_what_this_process_says(name: str, make: Make) -> None:
    data = MAKERS[name]()
    assert make().prove(examine(data, MAX_PIXELS), MAX_PIXELS) == inspect_image(data)


@pytest.mark.parametrize("name", MAKERS)
def test_a_child_says_what_a_picture_looks_like_if_it_is_asked(name: str, make: Make) -> None:
    data = MAKERS[name]()
    found = make().prove(examine(data, MAX_PIXELS), MAX_PIXELS, with_phash=True)
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
def test_what_it_looks_like_is_128_hex_digits_or_nothing(
    says: str, is_asked: bool, is_believed: bool, make: Make
) -> None:
    code = f"return verify.image_info('webp', 2, 2, 2, {says})"
    if not is_believed:
        with pytest.raises(InvalidImage, match="its decoder crashed"):
            make(code).prove(BAD, MAX_PIXELS, with_phash=is_asked)
        return
    found = make(code).prove(BAD, MAX_PIXELS, with_phash=is_asked)
    assert found.phash == ("ab" * 64 if is_asked and "ab" in says else "")


@pytest.mark.parametrize(("name", "options"), [("WEBP", {"method": 0}), ("AVIF", {"speed": 10})])
def test_a_picture_too_large_to_be_decoded_twice_has_no_looks_and_is_whole(
    name: str, options: dict[str, int], make: Make
) -> None:
    decoders, height = make(), 2_500
    for width, digits in ((MAX_LOOKED_AT // height, 128), (MAX_LOOKED_AT // height + 1, 0)):
        found = examine(file_of(scene(0).resize((width, height)), name, **options), MAX_PIXELS)
        info = decoders.prove(found, MAX_PIXELS, with_phash=True)
        assert (info.width, info.height, len(info.phash)) == (width, height, digits)


def test_it_is_started_when_it_is_needed_and_kept(make: Make) -> None:
    decoders = make()
    assert decoders.pids == []
    seen = {decoders.prove(WEBP, MAX_PIXELS).width and tuple(decoders.pids) for _ in range(5)}
    assert len(seen) == 1
    assert len(decoders.pids) == 1


def test_a_verdict_against_a_picture_is_brought_back(make: Make) -> None:
    with pytest.raises(InvalidImage, match="webp: a container that readers don't open"):
        make().prove(Outline(format="webp", picture=WEBP.picture[:-40]), MAX_PIXELS)
    assert reason_for(make(), Outline(format="tiff", picture=b"II*\0")) == "corrupt"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.abort()", "corrupt"),
        ("sys.exit()", "corrupt"),
        ("time.sleep(60)", "decompression-limit"),
        ("exec('while True: pass')", "decompression-limit"),
        ("raise MemoryError", "decompression-limit"),
    ],
)
def test_a_decoder_that_fails_costs_one_picture(code: str, reason: str, make: Make) -> None:
    decoders = make(code, seconds=2.0)
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61
    assert reason_for(decoders) == reason
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit of memory")
def test_a_decoder_that_eats_memory_costs_one_picture(make: Make) -> None:
    decoders = make("bytearray(400 << 20)")
    assert reason_for(decoders) == "decompression-limit"
    assert decoders.prove(WEBP, MAX_PIXELS).width == 61


def test_what_dies_by_another_hand_is_tried_again(make: Make) -> None:
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
def test_a_forged_answer_is_no_verdict(answer: bytes) -> None:
    code = f"import os, sys; os.write(1, {READY + answer!r}); sys.stdin.buffer.read(); "
    decoders = Decoders(1, seconds=2.0, command=(sys.executable, "-c", code + "os._exit(0)"))
    assert reason_for(decoders) in ("corrupt", "decompression-limit")
    decoders.close()


def test_a_forged_reason_is_none() -> None:
    said = b"\x95\x00\x00\x00\xa4evil\xa1x"
    code = f"import os, time; os.write(1, {READY + ANSWER.pack(len(said)) + said!r}); time.sleep(60)"
    decoders = Decoders(1, command=(sys.executable, "-c", code))
    assert reason_for(decoders) == "corrupt"
    decoders.close()


@pytest.mark.parametrize("command", [("/nowhere/python",), (sys.executable, "-c", "")])
def test_where_none_can_be_started_this_process_decodes(
    command: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    decoders = Decoders(1, command=command)
    for _ in range(3):
        assert decoders.prove(WEBP, MAX_PIXELS).width == 61
    assert len(caplog.messages) == 1
    assert reason_for(decoders, Outline(format="tiff", picture=b"II*\0")) == "corrupt"


def test_many_threads_share_a_few(make: Make) -> None:
    decoders = make(processes=2)
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda _: decoders.prove(WEBP, MAX_PIXELS).width, range(40)))
    assert sizes == [61] * 40
    assert 1 <= len(decoders.pids) <= 2


def test_a_hang_does_not_hold_up_the_others(make: Make) -> None:
    decoders = make("time.sleep(60)", processes=2, seconds=5.0)
    reasons: list[str] = []
    hanging = threading.Thread(target=lambda: reasons.append(reason_for(decoders)))
    hanging.start()
    started = time.monotonic()
    assert [decoders.prove(WEBP, MAX_PIXELS).width for _ in range(20)] == [61] * 20
    assert time.monotonic() - started < 4.5
    hanging.join()
    assert reasons == ["decompression-limit"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(sys.platform == "win32", reason="processes are asked after by signals")
@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), 9)"], ids=["end", "kill"])
def test_none_outlives_who_started_it(ending: str) -> None:
    code = f"""
import os
from crawler.download.decoders import Decoders
from crawler.download.verify import MAX_PIXELS, examine
from tests.download.pictures import picture
decoders = Decoders(1)
decoders.prove(examine(picture("WEBP"), MAX_PIXELS), MAX_PIXELS)
os.write(1, str(decoders.pids[0]).encode())
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=60)
    pid = int(done.stdout)
    wait_until(lambda: not is_alive(pid), "the end of the child")


def test_closing_ends_them(make: Make) -> None:
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
def test_what_is_common_and_small_is_decoded_here(data: bytes, risky: bool) -> None:
    assert is_risky(examine(data, MAX_PIXELS)) is risky


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the most memory that a process had")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {"compress_level": 1}),
        ("GIF", "P", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGB", {"method": 0}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
        ("AVIF", "RGB", {"speed": 10, "subsampling": "4:4:4"}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("BMP", "1", {}),
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


def test_a_hanging_one_ends_by_itself_where_nobody_is_left_to_kill_it() -> None:
    code = f"{CHILD}    time.sleep(60)\nchild._LONGEST = 0.5\nchild.serve(decide)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(len(READY)) == READY
        process.stdin.write(JOB.pack(b"webp", MAX_PIXELS, 2, 0, 0, 0, False))
        process.stdin.flush()
        assert process.wait(30) != 0


def test_a_moment_without_handles_is_the_disk_s_trouble_and_passes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    decoders = make()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(NoHandles):
            decoders.prove(WEBP, MAX_PIXELS)
    assert decoders.prove(WEBP, MAX_PIXELS).format == "webp" and len(decoders.pids) == 1
