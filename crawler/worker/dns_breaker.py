"""Circuit breaker for the name servers and the proxy of this machine.

A name that does not exist is an answer of the name servers, and a fault of the request. If the name servers are silent,
this machine is at fault: affected requests go back to the queue uncharged, and one request at a time checks whether the
name servers answer again.
"""

import ipaddress
import logging
from collections.abc import Callable
from functools import lru_cache

from crawler.errors import NetworkError
from crawler.model import Outcome
from crawler.urls import is_loopback

_log = logging.getLogger(__name__)

#: Unanswered requests in a row before a warning. The first ones may concern a domain with broken name servers, before
#: any other domain has been resolved.
_WARN_AT = 3
#: Seconds between two attempts while the name servers are silent: the first pause, which is doubled up to the longest.
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class DnsBreaker:
    """Circuit breaker that the outcomes of one worker open and close. The worker calls it under its lock.

    Args:
        patience: seconds after which a machine that never reached a name server gives up.
        clock: monotonic seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float]) -> None:
        self._patience, self._clock = patience, clock
        #: Consecutive requests that neither a name server nor the proxy answered.
        self._unanswered = 0
        self._has_reached = False
        #: Clock times of the first of them, and of the next attempt.
        self._since = self._next_at = 0.0
        self._pause = _PAUSE

    @property
    def is_cut_off(self) -> bool:
        """Whether the name servers are silent, as far as this worker knows."""
        return self._unanswered > 0

    @property
    def may_try(self) -> bool:
        """Whether a request may start now."""
        return not self.is_cut_off or self._clock() >= self._next_at

    def judge(self, outcome: Outcome, host: str) -> Outcome:
        """Return the outcome to report for a request to ``host``: released uncharged if this machine is at fault.

        Raises:
            NetworkError: this worker has never reached a name server, and its patience is over.
        """
        if outcome.down != "resolver":
            if outcome.latency > 0 and _is_name(host):
                if self._unanswered >= _WARN_AT:
                    _log.warning("name servers answer again")
                self._has_reached, self._unanswered = True, 0
            return outcome
        now = self._clock()
        self._unanswered += 1
        if self._unanswered == 1:
            self._since, self._pause = now, _PAUSE
        if self._unanswered == _WARN_AT:
            _log.warning("no name server answers this machine, or the proxy is down: requests wait; check the network")
        if not self._has_reached and now - self._since >= self._patience:
            raise NetworkError(
                "no name server answers this machine, or the proxy is down; check the network and run the command again"
            )
        if now >= self._next_at:
            self._next_at, self._pause = now + self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return Outcome(status="released", token=outcome.token, down="resolver")


@lru_cache(1_024)
def _is_name(host: str) -> bool:
    """Return whether a request to ``host`` needs a name server. An IP address and a loopback name need none."""
    bare = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return not is_loopback(host)
    return False
