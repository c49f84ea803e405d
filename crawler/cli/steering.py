"""The commands that show the state of a crawl, and those that stop, pause and resume it."""

from pathlib import Path
from typing import Any

import click
import msgspec

from crawler.app.orders import MasterOrder, give_order
from crawler.app.status import look_at
from crawler.cli.text import describe_counts
from crawler.cli.worker_text import describe_stores, describe_workers, matching
from crawler.errors import ConfigError
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.local import LocalStore


def status_command(directory: Path, *, as_json: bool) -> int:
    """Run ``status``."""
    stats, is_running = look_at(directory)
    if as_json:
        click.echo(msgspec.json.encode(stats))
        return 0
    state = {"drained": "finished", "draining": "stopping"}.get(stats.state, "running" if is_running else "stopped")
    state = "paused" if stats.is_paused else state
    click.echo(f"{directory}: {state}; {describe_counts(stats)}")
    stores = describe_stores(stats, LocalStore(directory).known_id or "")
    for line in [*([f"  {stores}"] if stores else []), *(describe_workers(stats) if is_running else [])]:
        click.echo(line)
    return 0


def order_command(directory: Path, what: Any, worker: str | None = None) -> int:
    """Run ``stop``, ``pause`` or ``resume``."""
    if not CrawlDirectory(directory).is_running():
        raise ConfigError(f"no crawl is running in {directory}")
    if worker is None:
        give_order(directory, MasterOrder(what=what))
        return 0
    names = matching(look_at(directory)[0], worker, LocalStore(directory).known_id or "")
    if not names:
        raise ConfigError(f"no active downloader is named {worker!r}; to list them: crawler status {directory}")
    for name in names:
        give_order(directory, MasterOrder(what=what, worker=name))
    return 0
