"""The command of a downloader: it reads the flags, works for a master, and prints what it has saved."""

import threading
from pathlib import Path
from typing import Any

from crawler.app.config import CrawlConfig
from crawler.app.downloader_node import DownloaderNode
from crawler.cli.options import sources_of
from crawler.cli.progress_bars import DownloadLine
from crawler.cli.signals import end_with_parent, handle_signals
from crawler.cli.text import count
from crawler.engines.local import ThreadEngine
from crawler.errors import DiskTrouble, NetworkError
from crawler.queue.join_file import read_piped_join

#: Why a downloader ends, by the last state that the master sent.
_ENDINGS = {"drained": "The crawl is over", "draining": "Stopped by the master"}


def download_command(
    join: Path, output: Path, flags: dict[str, Any], *, connect: str | None, slot: int | None, quiet: bool
) -> int:
    """Run ``download``: the worker in a thread, signals and the status line in this one.

    Args:
        join: the join file; ``-``: standard input.
        output: the directory of this machine's pictures.
        flags: the settings of this machine.
        connect: see `DownloaderNode`.
        slot: see `DownloaderNode`; a process with a given slot was started by a master on this machine.
        quiet: show no status line.
    """
    line = DownloadLine(quiet=quiet or slot is not None)
    config = CrawlConfig.load(*sources_of(flags))
    source = read_piped_join(0) if str(join) == "-" else join
    node = DownloaderNode(source, output, config, connect=connect, slot=slot, on_wait=line.wait)
    engine = ThreadEngine(node)
    stops = 0

    def interrupt() -> None:
        nonlocal stops
        stops += 1
        line.say("Stopping: finishing downloads in progress (Ctrl-C again aborts)" if stops == 1 else "Aborted")
        engine.stop(now=stops > 1)

    handle_signals(interrupt)
    if slot is not None:
        threading.Thread(target=end_with_parent, args=(engine,), daemon=True).start()
    try:
        engine.start()
        while not engine.wait(0.25) and stops < 2:
            line.update(node.progress)
    except (NetworkError, DiskTrouble):
        if not stops:  # else the user has ended the wait for the master or the disk
            raise
    finally:
        line.close()
    progress = node.progress
    ending = "Interrupted" if stops else _ENDINGS.get(node.state or "", "Done")
    saved = f"{count(progress.saved, 'image')} saved in {config.machine.store or output}"
    duplicate = f", {progress.duplicates} duplicate" if progress.duplicates else ""
    unchanged = f", {progress.unchanged} unchanged" if progress.unchanged else ""
    line.say(f"{ending}: {saved}{duplicate}{unchanged}, {progress.failed} failed.")
    return 130 if stops else 0
