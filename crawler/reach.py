"""Whether this box reaches the network's name servers, and its proxy; if not, no request is to blame.

A name that does not exist is the name's fault, and an answer. Silence of the name servers is ours: what meets it goes
back uncharged, and one request at a time finds out whether they are back.
"""

import ipaddress
import logging
from collections.abc import Callable

from crawler.errors import NetworkError
from crawler.model import Outcome
from crawler.urls import is_loopback

_log = logging.getLogger(__name__)

#: Silences in a row that are worth a line: the first may be of a domain whose servers are broken, while none is known
#: that answers.
_TOLD = 3
#: Seconds between two attempts while it is: at first, doubled up to the most.
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Reach:
    """What the outcomes of one worker tell of its box. The worker calls it under its lock.

    Args:
        patience: seconds after which a box that never reached a name server gives up.
        clock: monotonic seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float]) -> None:
        self._patience, self._clock = patience, clock
        self._silences = 0
        self._has_reached = False
        #: Clock time of the first silence, and before which nothing is tried.
        self._since = self._next_at = 0.0
        self._pause = _PAUSE

    @property
    def is_cut_off(self) -> bool:
        """Whether name servers are silent, as far as is known."""
        return self._silences > 0

    @property
    def may_try(self) -> bool:
        """Whether a request may be begun now."""
        return not self.is_cut_off or self._clock() >= self._next_at

    def judge(self, outcome: Outcome, host: str) -> Outcome:
        """The outcome of a visit to a host, as it is to be told: given back uncharged if only this box is to blame.

        Raises:
            NetworkError: nothing was ever reached, for as long as we may wait.
        """
        if outcome.down != "resolver":
            if outcome.latency > 0 and _is_name(host):
                self._reached()
            return outcome
        now = self._clock()
        self._silences += 1
        if self._silences == 1:
            self._since, self._pause = now, _PAUSE
        if self._silences == _TOLD:
            _log.warning(
                "no name server answers this machine, or its proxy is gone: what is to be fetched waits until one does"
            )
        if not self._has_reached and now - self._since >= self._patience:
            raise NetworkError(
                "no name server answers this machine, or its proxy is gone; check its network and run the command again"
            )
        if now >= self._next_at:
            self._next_at, self._pause = now + self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return Outcome(status="released", token=outcome.token, down="resolver")

    def _reached(self) -> None:
        if self._silences >= _TOLD:
            _log.warning("name servers answer again")
        self._has_reached, self._silences = True, 0


def _is_name(host: str) -> bool:
    """Whether somebody had to be asked where it is; an address is reached without."""
    bare = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return not is_loopback(host)
    return False
