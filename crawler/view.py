"""What a crawl tells whoever looks on: how things stand, what was settled, and in the end how it went."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from crawler.model import FrontierStats, ImageRecord
from crawler.near import Near

_log = logging.getLogger(__name__)

#: Reasons with which a seed ends that nobody could reach.
_UNREACHED = frozenset({"dns", "connect", "timeout", "too-slow", "tls", "robots-unreachable", "host-down"})


class View(Protocol):
    """Whoever looks on: bars, lines, or nobody."""

    def update(self, stats: FrontierStats) -> None:
        """How things stand now; called a few times a second."""
        ...

    def results(self, records: Sequence[ImageRecord]) -> None:
        """Image URLs that were settled just now."""
        ...

    def say(self, text: str) -> None:
        """One line for people."""
        ...


class Silence:
    """Nobody looks on."""

    def update(self, stats: FrontierStats) -> None:
        pass

    def results(self, records: Sequence[ImageRecord]) -> None:
        pass

    def say(self, text: str) -> None:
        _log.info("%s", text)


class Summary(Struct, frozen=True, kw_only=True):
    """How a crawl ended."""

    stats: FrontierStats
    output: Path
    #: URL of the store with the pictures; empty: they are in ``output``.
    store: str = ""
    #: Seconds.
    elapsed: float
    interrupted: bool = False
    #: What looks nearly the same; None: nobody asked.
    near: Near | None = None

    @property
    def exit_code(self) -> int:
        """0 done; 4 no seed could be reached; 8 a seed failed or nothing was saved; 130 interrupted."""
        stats = self.stats
        if self.interrupted:
            return 130
        if self.is_unreached:
            return 4
        return 8 if stats.seeds_failed or not stats.success + stats.duplicate else 0

    @property
    def complaint(self) -> str:
        """Why the exit code is not 0, in one line; empty where nothing is to be said."""
        stats = self.stats
        reasons = ", ".join(dict.fromkeys([*stats.page_reasons, *stats.robots_reasons]))
        if self.interrupted:
            return ""
        if self.is_unreached:
            return f"no seed could be reached ({reasons}): check the address and the network"
        if stats.seeds_failed:
            return f"{stats.seeds_failed} of {stats.seeds} seeds failed ({reasons}){self._advice}"
        if stats.success + stats.duplicate:
            return ""
        if not stats.seeds + stats.discovered:
            return "nothing to visit: the lists hold no URL"
        return f"no image was saved{self._advice}"

    @property
    def _advice(self) -> str:
        """What to do where nothing failed but for being on a private network."""
        reasons = {*self.stats.reasons, *self.stats.page_reasons}
        return ": private addresses are visited only with --allow-private" if reasons == {"blocked-address"} else ""

    @property
    def is_unreached(self) -> bool:
        """Whether every seed failed, and for reasons of the network."""
        stats = self.stats
        return 0 < stats.seeds == stats.seeds_failed and stats.page_reasons.keys() <= _UNREACHED
