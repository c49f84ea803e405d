"""The smallest frontier: one turn per lease call, no hosts, no expiry, no disk. For tests of the transport of calls."""

import threading
from collections.abc import Sequence
from typing import Any

from crawler.errors import AccessError
from crawler.frontier.base import PROTOCOL
from crawler.model import Grant, ImageRecord, Kind, Lease, Outcome, Renewal, Request, Turn, Verdict, WorkerInfo
from crawler.stats import FrontierStats

_UNKNOWN = WorkerInfo()


class FakeFrontier:
    def __init__(self, urls: Sequence[str] = ()) -> None:
        self.waiting = [Request(url=url, kind="image") for url in urls]
        self.leased: dict[str, Request] = {}
        self.settled: dict[str, Outcome] = {}
        self.rows: list[ImageRecord] = []
        self.waits: list[float] = []
        self.changed = threading.Condition()
        self.deliveries = 0

    def hello(self, worker: str, protocol: int, about: WorkerInfo = _UNKNOWN) -> dict[str, Any]:
        if protocol != PROTOCOL:
            raise AccessError(f"protocol {protocol} is not {PROTOCOL}")
        return {"user_agent": "test/1", "types": ["jpeg", "png"], "delay": 1.0}

    def put(self, requests: Sequence[Request]) -> int:
        with self.changed:
            self.waiting += requests
            self.changed.notify_all()
        return len(requests)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        with self.changed:
            self.waits.append(wait)
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.waiting, wait):
                return Grant(state="wait", retry_in=0.5)
            leases = tuple(self._lend(request) for request in self.waiting[:limit])
            del self.waiting[:limit]
        turn = Turn(id=f"turn-{leases[0].token}", host="a.test", robots={"http://a.test": ""}, leases=leases)
        return Grant(turns=(turn,), state="work")

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        return Renewal(lost=tuple(token for token in tokens if token not in self.leased))

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        with self.changed:
            verdicts = tuple(self._settle(outcome) for outcome in outcomes)
            self.changed.notify_all()
        return verdicts

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        return tuple(enumerate(self.rows, start=1))[after : after + limit]

    def stats(self) -> FrontierStats:
        return FrontierStats(waiting=len(self.waiting), leased=len(self.leased), reasons={"http-404": 2})

    def close(self) -> None:
        pass

    def _lend(self, request: Request) -> Lease:
        self.deliveries += 1
        self.leased[token := f"t{self.deliveries}"] = request
        return Lease(request=request, token=token)

    def _settle(self, outcome: Outcome) -> Verdict:
        if outcome.token in self.settled:
            return Verdict(state="duplicate")
        request = self.leased.pop(outcome.token, None)
        if request is None:
            return Verdict(state="stale")
        if outcome.status == "released":
            self.waiting.append(request)
            return Verdict()
        self.settled[outcome.token] = outcome
        if outcome.record is not None:
            self.rows.append(outcome.record)
        return Verdict()
