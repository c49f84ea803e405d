"""A closed terminal: the commands end as after an interrupt, and can be resumed."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crawler.cli.signals import handle_signals
from crawler.demo.server import DemoServer
from tests.support.processes import PATIENCE, commands, downloaders, many_pictures, stats_of, wait_until

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP"),
    pytest.mark.skipif(
        hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
        reason="nohup started the tests, so every command ignores SIGHUP",
    ),
]


@pytest.mark.fire
def test_a_hangup_finishes_current_requests_and_is_logged(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 2)) as server, commands(tmp_path) as start:
        server.hold("/0001.png")
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: stats_of(job).pages_done == 1, "a walked page")
        machine = start("machine", "download", job / "join", "-o", tmp_path / "A")
        wait_until(lambda: len(downloaders(job)) == 1 and stats_of(job).success == 1, "one picture of two")
        for command in (machine, master):
            command.process.send_signal(signal.SIGHUP)
            command.process.send_signal(signal.SIGHUP)  # from the terminal and from the shell
        wait_until(lambda: "Stopping: " in master.said, "a message of the master")
        server.release("/0001.png")
        assert (machine.ends(), master.ends()) == (130, 130), (machine.said, master.said)
    assert "signal=SIGHUP" in (job / "crawl.log").read_text()
    assert "Interrupted after" in master.said and "Traceback" not in master.said + machine.said


def test_a_hangup_sent_twice_at_the_same_instant_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow for a second signal before the handler of the first has run its first line."""
    handlers: dict[int, Any] = {}
    monkeypatch.setattr("crawler.cli.signals.signal.signal", handlers.__setitem__)
    interrupts: list[str] = []

    def interrupt() -> None:
        interrupts.append("interrupt")
        handlers[signal.SIGHUP](signal.SIGHUP, None)

    handle_signals(interrupt)
    handlers[signal.SIGHUP](signal.SIGHUP, None)
    handlers[signal.SIGHUP](signal.SIGHUP, None)
    assert interrupts == ["interrupt"]


@pytest.mark.fire
def test_nohup_survives_a_hangup(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        server.hold("/0001.png")
        shell = [
            "sh",
            "-c",
            'trap "" HUP; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "crawler",
            "run",
            server.url,
            "-w",
            "0",
        ]
        with subprocess.Popen(shell, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: stats_of(tmp_path / "out").success == 1, "one picture of two")
            process.send_signal(signal.SIGHUP)
            server.release("/0001.png")
            assert process.wait(PATIENCE) == 0
    assert stats_of(tmp_path / "out").success == 2
