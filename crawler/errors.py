"""Exceptions that this package raises on purpose.

::

    CrawlerError                  base class; an internal error if no subclass fits
    ├── ConfigError               an option, key, seed or file of the user is wrong
    ├── DiskError                 the output directory can't be written
    │   └── DiskTrouble           … temporarily: full, read-only, failing; waiting may help
    │       └── NoHandles         … out of file descriptors; less concurrency may help
    ├── NetworkError              no connection: master, DNS or every seed unreachable
    ├── TLSError                  the certificate is not the one in the join file
    ├── AccessError               the key or the protocol version was refused
    ├── BusyError                 the master has no memory for a message at the moment
    ├── MessageError              a message breaks the rules of the queue protocol
    └── RequestFailed             one request failed; it ends in an Outcome, never in an exit
        ├── InvalidImage          the bytes are not an acceptable picture
        └── UnreadableHead        libcurl refuses the head of a response; requests may read it

Each class has a ``code``: the exit code of a command that ends with this error. Errors travel between processes
only through `to_wire` and `from_wire`. The program never reads pickle from the network, and tracebacks never leave a
process.
"""

from typing import Any, ClassVar

#: Message for a process that can open no more files, or no more connections.
TOO_MANY_FILES = "too many open files: raise `ulimit -n` or use fewer connections with -t"


class CrawlerError(Exception):
    """Base class. ``str(error)`` is one line: what happened, where, and what to do."""

    code: ClassVar[int] = 1


class ConfigError(CrawlerError):
    """An error in the user's input: an option, a key of a file, a seed, a path."""

    code = 2


class DiskError(CrawlerError):
    """A disk error: full or read-only for longer than ``--disk-wait``, no permission, damaged, or in use elsewhere."""

    code = 3


class DiskTrouble(DiskError):
    """A disk error that may pass: full, over quota, read-only, failing. Waiting may help."""


class NoHandles(DiskTrouble):
    """Out of file descriptors, in this process or on this machine. Less concurrency may help."""


class NetworkError(CrawlerError):
    """No connection: no master at the address, no DNS, or every seed unreachable."""

    code = 4


class TLSError(CrawlerError):
    """The server's certificate is not the one in the join file, or the server does not use TLS."""

    code = 5


class AccessError(CrawlerError):
    """The master refused the key or the protocol version; a retry does not help."""

    code = 6


class BusyError(CrawlerError):
    """The master has no memory for a message at the moment; the client retries."""


class MessageError(CrawlerError):
    """A message that breaks the rules of the protocol: too large, too deep, not decodable, not allowed."""


class RequestFailed(CrawlerError):
    """Failure of one request, with a reason from a closed set (see `crawler.model.REASONS`).

    Args:
        reason: the reason code, such as ``http-404`` or ``timeout``.
        detail: one line for the log.
        retryable: whether a retry may succeed.
        host_wait: seconds for which the host asked clients to stay away (``Retry-After``); None if it did not.
        overloaded: whether the host reported that it is overloaded (429, 503).
        down: the part that did not respond: ``host`` if no connection could be made; ``resolver`` if no name server
            could say whether the name exists, or the user's proxy is unreachable; empty if there was a response, or
            if the part is unknown.
        http_status: status code of the response, or 0 if there was none.
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


class UnreadableHead(RequestFailed):
    """libcurl refuses the whole head of a response because of one line, which browsers skip."""


class InvalidImage(RequestFailed):
    """Bytes that are not an acceptable picture; ``reason`` is ``truncated``, ``not-an-image``, …"""


def to_wire(error: Exception) -> dict[str, Any]:
    """Return an error as plain data: class name and arguments, without a traceback."""
    if isinstance(error, RequestFailed):
        return {"type": type(error).__name__, "args": [error.reason, error.detail], "fields": _fields(error)}
    if isinstance(error, CrawlerError):
        return {"type": type(error).__name__, "args": [str(error)]}
    return {"type": "CrawlerError", "args": [f"the other side failed with {type(error).__name__}"]}


def from_wire(data: object) -> CrawlerError:
    """Return the error that `to_wire` encoded, or a plain `CrawlerError` if the data does not name a subclass."""
    data = data if isinstance(data, dict) else {}
    kind = _subclasses_by_name().get(str(data.get("type")), CrawlerError)
    args, fields = data.get("args"), data.get("fields")
    texts = [arg for arg in args if isinstance(arg, str)] if isinstance(args, list | tuple) else []
    if issubclass(kind, RequestFailed):
        items = fields.items() if isinstance(fields, dict) else ()
        return kind(*(texts[:2] or ["internal"]), **{k: v for k, v in items if type(v) in _FIELDS.get(k, ())})
    return kind(texts[0] if texts else "the other side failed without a message")


_FIELDS: dict[str, tuple[type, ...]] = {
    "retryable": (bool,),
    "host_wait": (float, int, type(None)),
    "overloaded": (bool,),
    "down": (str,),
    "http_status": (int,),
}


def _fields(error: RequestFailed) -> dict[str, Any]:
    return {name: getattr(error, name) for name in _FIELDS}


def _subclasses_by_name(root: type[CrawlerError] = CrawlerError) -> dict[str, type[CrawlerError]]:
    """Return class name → class for ``root`` and all of its subclasses."""
    classes = {root.__name__: root}
    for child in root.__subclasses__():
        classes |= _subclasses_by_name(child)
    return classes
