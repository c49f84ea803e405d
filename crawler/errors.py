"""Every error this package raises on purpose.

::

    CrawlerError                  base of all; an internal fault if nothing finer fits
    ├── ConfigError               a flag, key, seed or file of the user's is wrong
    ├── DiskError                 the output can't be written
    │   └── DiskTrouble           … for now: full, read-only, failing; waiting may help
    │       └── NoHandles         … or doing fewer things at a time
    ├── NetworkError              nobody answers: no master, no DNS, no seed
    ├── TLSError                  the other side is not who the join file says
    ├── AccessError               the key or the protocol version was refused
    ├── MessageError              a message of the queue's wire breaks its rules
    └── RequestFailed             one request failed; it ends in an Outcome, never in an exit
        └── InvalidImage          the bytes are no picture we accept

Each class carries ``code``, the exit code of a command that ends with it, and each survives
`to_wire` and `from_wire`, the only way errors travel between processes (pickle is never read from the
network, tracebacks never leave a process).
"""

from typing import Any, ClassVar


class CrawlerError(Exception):
    """Base of the family; ``str()`` of it is one line that says what, where and what to do."""

    code: ClassVar[int] = 1


class ConfigError(CrawlerError):
    """Something the user wrote is wrong: an option, a key of a file, a seed, a path."""

    code = 2


class DiskError(CrawlerError):
    """The disk refuses: full, read-only, no permission, another crawl owns the directory."""

    code = 3


class DiskTrouble(DiskError):
    """The disk refuses for now: full, over quota, read-only, failing. Waiting may help."""


class NoHandles(DiskTrouble):
    """This process, or its machine, can open nothing more. Fewer things at a time may help."""


class NetworkError(CrawlerError):
    """Nobody answers: no master at the address, no DNS, every seed unreachable."""

    code = 4


class TLSError(CrawlerError):
    """The certificate at the other end is not the one in the join file."""

    code = 5


class AccessError(CrawlerError):
    """The key or the protocol version was refused; trying again will not help."""

    code = 6


class MessageError(CrawlerError):
    """A message breaks the rules of the wire: too large, too deep, not decodable, not allowed."""


class RequestFailed(CrawlerError):
    """One request failed, with a reason of the closed set (see `crawler.model.REASONS`).

    Args:
        reason: the reason code, such as ``http-404`` or ``timeout``.
        detail: one line for people; goes to the log.
        retryable: whether another attempt may end better.
        host_wait: seconds the whole host asked us to stay away (``Retry-After``), if it did.
        overloaded: whether the host said that it is overloaded (429, 503).
        down: what did not answer at all: ``host``, no connection could be made; ``resolver``, no name server told us
            whether the name exists, or our own proxy is not there; empty: somebody answered, or it is not known.
        http_status: status code of the answer, 0 where there was none.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        retryable: bool = False,
        host_wait: float | None = None,
        overloaded: bool = False,
        down: str = "",
        http_status: int = 0,
    ) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.retryable = retryable
        self.host_wait = host_wait
        self.overloaded = overloaded
        self.down = down
        self.http_status = http_status

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class InvalidImage(RequestFailed):
    """The bytes are no picture we accept; ``reason`` says why (``truncated``, ``not-an-image``, …)."""


def to_wire(error: Exception) -> dict[str, Any]:
    """The error as plain data: its class name and arguments, without any traceback."""
    if isinstance(error, RequestFailed):
        return {"type": type(error).__name__, "args": [error.reason, error.detail], "fields": _fields(error)}
    if isinstance(error, CrawlerError):
        return {"type": type(error).__name__, "args": [str(error)]}
    return {"type": "CrawlerError", "args": [f"the other side failed with {type(error).__name__}"]}


def from_wire(data: object) -> CrawlerError:
    """Build the error again; whatever is not of the family becomes a plain `CrawlerError`."""
    data = data if isinstance(data, dict) else {}
    kind = _family().get(str(data.get("type")), CrawlerError)
    args, fields = data.get("args"), data.get("fields")
    words = [arg for arg in args if isinstance(arg, str)] if isinstance(args, list | tuple) else []
    if issubclass(kind, RequestFailed):
        known = fields.items() if isinstance(fields, dict) else ()
        return kind(*(words[:2] or ["internal"]), **{k: v for k, v in known if type(v) in _FIELDS.get(k, ())})
    return kind(words[0] if words else "the other side failed and said nothing more")


_FIELDS: dict[str, tuple[type, ...]] = {
    "retryable": (bool,),
    "host_wait": (float, int, type(None)),
    "overloaded": (bool,),
    "down": (str,),
    "http_status": (int,),
}


def _fields(error: RequestFailed) -> dict[str, Any]:
    return {name: getattr(error, name) for name in _FIELDS}


def _family(root: type[CrawlerError] = CrawlerError) -> dict[str, type[CrawlerError]]:
    """Class name → class, for the whole tree below ``root``."""
    family = {root.__name__: root}
    for child in root.__subclasses__():
        family |= _family(child)
    return family
