"""The queue's wire: length-prefixed msgpack of plain data over TCP, as a serializer for `multiprocessing.managers`.

A frame is a 4-byte big-endian length and that many bytes. After the handshake (`crawler.queue.handshake`) each frame
is one msgpack value. Neither this module nor its users ever unpickle.

A crawl's queue always uses TLS (`crawler.queue.tls`), which encloses all frames. Without TLS, for programs that serve a
queue of their own, connections lead to this machine only.

Errors, and their meaning for the connection:

* ``EOFError``: the peer closed the connection between two frames.
* ``OSError`` (``TimeoutError`` when the time allowed is over): the connection broke, or a frame announces more
  than its limit. The stream is no longer reliable; close it.
* `MessageError`: a complete frame is invalid, or a message can't be sent. The stream is intact.
"""

import mmap
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing import AuthenticationError, managers
from typing import Any, Self, TypeAlias, TypeVar, cast

import msgspec

from crawler.errors import AccessError, CrawlerError, MessageError, NetworkError, TLSError
from crawler.queue.address import Address as Address
from crawler.queue.address import format_address as format_address
from crawler.queue.address import parse_address as parse_address
from crawler.queue.address import require_loopback as require_loopback
from crawler.queue.handshake import GREETING, prove_as_master, prove_as_worker
from crawler.urls import is_loopback

T = TypeVar("T")
A = TypeVar("A")

#: Types that may hold a frame.
Buffer: TypeAlias = bytes | mmap.mmap | msgspec.Raw

#: Name of this serializer in `multiprocessing.managers.listener_client`.
SERIALIZER = "crawler"

#: Longest frame, in bytes, before the peer has proved that it knows the key: the limit of the handshake.
_STRANGER_LIMIT = 256
#: Longest call, in bytes; clients split longer ones.
_CALL_LIMIT = 16 * 2**20
#: Longest answer, in bytes: a lease of 1,000 requests with four URLs of 8 KiB each, and with their texts.
_ANSWER_LIMIT = 64 * 2**20

#: Connections that the system queues until the server accepts them.
BACKLOG = 1_024
#: Seconds for the whole handshake, for the greeting of the master, and for connecting.
HANDSHAKE_SECONDS = 5.0
_GREETING_SECONDS = 3.0
_CONNECT_SECONDS = 5.0
#: Seconds in which a peer that is silent without TLS may answer to TLS.
_PROBE_SECONDS = 1.0

_HEADER = 4  # bytes
#: Seconds after which a blocked call wakes up: Windows delivers Ctrl-C only between two system calls.
_SLICE = 1.0
_READ = 64 * 2**10  # bytes requested at once, at least …
_READ_MOST = 256 * 2**10  # … and at most: memory grows with the bytes received, not with the length announced

#: Options that send small frames at once and detect a dead peer in about a minute, where the platform has them.
_OPTION_VALUES = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_OPTION_VALUES["TCP_USER_TIMEOUT"] = 60_000  # milliseconds
_OPTIONS = [(getattr(socket, name), value) for name, value in _OPTION_VALUES.items() if hasattr(socket, name)]

#: Errors of decoding a message that is malformed, of another type, or nested too deep.
UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)

_ENCODER = msgspec.msgpack.Encoder()
_PLAIN: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


class FrameTooLarge(MessageError):
    """Error for a message that is longer than the peer accepts; nothing of it was sent."""


class NoGreeting(TimeoutError):
    """Error for a peer that accepted the connection and sent nothing: not a master, or a master that is too busy."""


def encode(message: object) -> bytes:
    """Return ``message`` as msgpack.

    Raises:
        MessageError: the message contains a value that is not plain data.
    """
    try:
        return _ENCODER.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"can't encode a message: {_one_line(error)}") from error


def decode(frame: Buffer, decoder: "msgspec.msgpack.Decoder[T]") -> T:
    """Return the message in ``frame``, of the decoder's type.

    Raises:
        MessageError: the message is malformed, of another type, or nested too deep.
    """
    try:
        return decoder.decode(frame)
    except UNREADABLE as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> MessageError:
    """Return the `MessageError` for an error of `UNREADABLE`."""
    return MessageError(f"a message violates the queue's protocol: {_one_line(error)}")


class Channel:
    """Connection that transports frames, with the methods that `multiprocessing.managers` expects of a connection.

    Only one thread at a time may use it, except for `abort`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox = bytearray()
        self._is_aborted = False
        self._deadline: float | None = None
        #: Longest frame that is read, and that is sent, in bytes.
        self.reads = self.sends = _STRANGER_LIMIT
        #: Host and port of the peer, for the log, and its host.
        self.peer, self.host = "a disconnected peer", ""
        with suppress(OSError):  # the peer has disconnected already: the first read reports it
            self.host, port = sock.getpeername()[:2]
            self.peer = format_address((self.host, port))

    def tune(self) -> Self:
        """Set the options of `_OPTIONS`; return the channel."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _OPTIONS:
                self._sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return self

    @property
    def is_local(self) -> bool:
        """Whether the peer is on this machine."""
        return is_loopback(self.host) or self.host == self.own_name[0]

    @property
    def own_name(self) -> tuple[Any, ...]:
        """Socket name of this end."""
        return cast(tuple[Any, ...], self._sock.getsockname())

    @property
    def peer_name(self) -> tuple[Any, ...]:
        """Socket name of the other end."""
        return cast(tuple[Any, ...], self._sock.getpeername())

    @property
    def is_secure(self) -> bool:
        """Whether the connection uses TLS."""
        return isinstance(self._sock, ssl.SSLSocket)

    def secure(self, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        """Use TLS from now on. The handshake counts toward the time allowed.

        Raises:
            TLSError: the peer's certificate is not the pinned one.
            OSError, EOFError: the connection broke; `ssl.SSLError`: the peer sent data that is not TLS as used here.
        """
        if self._inbox:
            raise OSError("the peer has already sent data in the clear")
        sock = context.wrap_socket(self._sock, server_side=server_side, do_handshake_on_connect=False)
        self._sock = sock
        if self._is_aborted:  # perhaps while the sockets were exchanged
            raise EOFError("the connection was closed")
        try:
            self._until_deadline(sock.do_handshake, False)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError) as error:
            raise EOFError("the connection was closed") from error

    def allow(self, seconds: float | None) -> None:
        """Limit the total time of all following operations to ``seconds``, or remove the limit with None."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def send_bytes(self, data: bytes) -> None:
        """Send one frame, header and content in one write: a second write could wait 40 ms for an acknowledgement."""
        if len(data) > self.sends:
            raise FrameTooLarge(f"a message has {len(data)} bytes, but the peer accepts {self.sends}")
        frame = memoryview(len(data).to_bytes(_HEADER, "big") + data)
        while frame:
            frame = frame[self._until_deadline(self._sock.send, frame) :]

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive one frame of at most ``maxlength`` bytes, and at most the channel's limit."""
        size = self.announced(maxlength)
        self._fill(_HEADER + size)
        with memoryview(self._inbox) as view:
            frame = bytes(view[_HEADER : _HEADER + size])
        del self._inbox[: _HEADER + size]
        return frame

    def recv_large(self) -> mmap.mmap:
        """Receive one frame into memory of its own, which returns to the system when the frame is released."""
        size = self.announced()
        frame = mmap.mmap(-1, size)
        begin = self._inbox[_HEADER : _HEADER + size]
        frame[: len(begin)] = begin
        del self._inbox[: _HEADER + len(begin)]
        view = memoryview(frame)[len(begin) :]
        while view:
            number = self._until_deadline(self._sock.recv_into, view[:_READ_MOST])
            if not number:
                raise OSError("the connection ended in the middle of a message")
            view = view[number:]
        return frame

    def announced(self, maxlength: int | None = None) -> int:
        """Return the length of the next frame; wait for its header only."""
        limit = self.reads if maxlength is None else min(maxlength, self.reads)
        size = int.from_bytes(self.peek(_HEADER), "big")
        if size > limit:
            raise OSError(f"a message of {size} bytes was announced; the limit is {limit} bytes")
        return size

    def send(self, message: object) -> None:
        """Send plain data."""
        self.send_bytes(encode(message))

    def recv(self) -> Any:
        """Receive plain data."""
        return decode(self.recv_bytes(), _PLAIN)

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes without consuming them."""
        self._fill(size)
        return bytes(self._inbox[:size])

    def is_quiet(self) -> bool:
        """Return whether nothing has arrived since the last frame, neither data nor the end. Never block."""
        self._sock.settimeout(0)
        try:
            self._inbox += self._sock.recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError):
            return not self._inbox
        except OSError:
            return False
        return False

    def fileno(self) -> int:
        """Return the descriptor of the socket, or -1 if it is closed."""
        return self._sock.fileno()

    def abort(self) -> None:
        """End the connection from any thread. A thread that is blocked in it gets an error."""
        self._is_aborted = True
        with suppress(OSError):
            # SSLSocket.shutdown() removes TLS first: data that another thread is sending would go out in the clear
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. Calling it again does nothing."""
        self._sock.close()

    def _fill(self, size: int) -> None:
        """Receive until ``size`` bytes are buffered."""
        while (missing := size - len(self._inbox)) > 0:
            chunk = self._until_deadline(self._sock.recv, min(max(missing, _READ), _READ_MOST))
            if not chunk and self._inbox:
                raise OSError("the connection ended in the middle of a message")
            if not chunk:
                raise EOFError("the connection was closed")
            self._inbox += chunk

    def _until_deadline(self, operation: Callable[[A], T], argument: A) -> T:
        """Run a socket operation in slices until the deadline."""
        while True:
            left = _SLICE if self._deadline is None else self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the connection timed out")
            self._sock.settimeout(min(left, _SLICE))
            with suppress(TimeoutError):
                return operation(argument)


class Listener:
    """Bound socket that accepts `Channel` objects, with the methods that `multiprocessing.managers.Server` expects.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(self, address: Address | None = None, backlog: int = BACKLOG) -> None:
        host, port = address or ("127.0.0.1", 0)
        family, _, _, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        is_dual = resolved[0] == "::" and socket.has_dualstack_ipv6()  # "::" includes all IPv4 addresses then
        self._sock = socket.create_server(
            (str(resolved[0]), port), family=family, backlog=max(backlog, BACKLOG), dualstack_ipv6=is_dual
        )
        #: Bound address, with the port that the system chose for port 0.
        self.address: Address = self._sock.getsockname()[:2]

    def accept(self) -> Channel:
        """Return the next connection; raise ``TimeoutError`` after a second without one."""
        self._sock.settimeout(_SLICE)
        sock, _ = self._sock.accept()
        return Channel(sock)

    def accept_more(self) -> Channel | None:
        """Return the next connection if one is waiting, else None."""
        self._sock.settimeout(0)
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return None
        return Channel(sock)

    def abort(self) -> None:
        """Wake the thread in `accept`, if the platform supports it; otherwise the thread wakes within a second."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Calling it again does nothing."""
        self._sock.close()


def connect(address: Address, authkey: bytes, tls: ssl.SSLContext | None = None) -> Channel:
    """Return a channel to the master at ``address`` after both sides have proved that they know the key.

    Args:
        address: address of the master.
        authkey: the crawl's key.
        tls: `crawler.queue.tls.client_context`, or None for plain TCP to this machine only.

    Raises:
        AccessError: the two sides have different keys.
        TLSError: the certificate is not the pinned one, or only one of the two sides uses TLS.
        NetworkError: another program listens at the address.
        NoGreeting: another program may listen at the address: it sends nothing.
        ConfigError: the address is on another machine, and there is no TLS.
        OSError, EOFError: no program listens, or the connection broke; a retry may help.
    """
    sock = socket.create_connection(address, timeout=_CONNECT_SECONDS)
    channel = Channel(sock).tune()
    try:
        if tls is None:
            require_loopback(sock.getpeername()[:2])  # the resolved address counts, not the name
        else:
            _secure(channel, address, tls)
        _expect_greeting(channel, address)
        channel.allow(HANDSHAKE_SECONDS)
        prove_as_worker(channel, authkey, _place(channel, channel.peer_name))
    except AuthenticationError as error:
        channel.close()
        advice = "use the join file of this crawl" + ("" if tls else ", and no tunnel without TLS")
        raise AccessError(f"{format_address(address)} refused the key; {advice}") from error
    except BaseException:
        channel.close()
        raise
    channel.reads, channel.sends = _ANSWER_LIMIT, _CALL_LIMIT
    return channel


def admit(channel: Channel, authkey: bytes, tls: ssl.SSLContext | None = None) -> None:
    """Run the master's side of the handshake, including TLS.

    Raises:
        AccessError: the worker does not prove that it knows the key.
        OSError, EOFError: the peer disconnected, took too long, or does not use TLS.
    """
    channel.tune()
    if tls is not None:
        channel.secure(tls, server_side=True)
    try:
        prove_as_master(channel, authkey, _place(channel, channel.own_name))
    except AuthenticationError as error:
        raise AccessError("wrong key") from error
    channel.reads, channel.sends = _CALL_LIMIT, _ANSWER_LIMIT


def _expect_greeting(channel: Channel, address: Address) -> None:
    """Raise an error unless the peer sends a master's greeting; send nothing that is derived from the key before."""
    try:
        is_master = _has_greeting(channel)
    except TimeoutError as error:
        if not channel.is_secure and _speaks_tls(channel):
            raise TLSError(
                f"{format_address(address)} uses TLS, but the join file has no certificate: copy the join file again"
            ) from error
        raise NoGreeting(_not_a_master(address)) from error
    if not is_master:
        raise NetworkError(_not_a_master(address))


def _has_greeting(channel: Channel) -> bool:
    channel.allow(_GREETING_SECONDS)
    return channel.peek(_HEADER + len(GREETING))[_HEADER:] == GREETING


def _secure(channel: Channel, address: Address, tls: ssl.SSLContext) -> None:
    """Run a worker's TLS handshake; convert every failure to an error that explains it."""
    channel.allow(_GREETING_SECONDS)
    try:
        channel.secure(tls)
    except TLSError as error:
        raise TLSError(f"{format_address(address)}: {error}") from error
    except TimeoutError as error:
        raise NoGreeting(_not_a_master(address)) from error
    except ssl.SSLError as error:
        raise _explain_tls_failure(address) from error


def _explain_tls_failure(address: Address) -> CrawlerError:
    """Return the error for a peer that does not use TLS as a master does. Connect again for that, but send nothing."""
    with (
        suppress(OSError, EOFError),
        closing(Channel(socket.create_connection(address, timeout=_CONNECT_SECONDS))) as probe,
    ):
        if _has_greeting(probe):
            where = format_address(address)
            return TLSError(f"{where} does not use TLS, but the join file has a certificate: copy the join file again")
    return NetworkError(_not_a_master(address))


def _speaks_tls(channel: Channel) -> bool:
    """Return whether a peer that is silent without TLS answers to TLS. Nothing else is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the connection ends here, so trust does not matter
    channel.allow(_PROBE_SECONDS)
    try:
        channel.secure(context)
    except (OSError, EOFError):
        return False
    return True


def _place(channel: Channel, master: tuple[Any, ...]) -> str:
    """Return the place for the handshake; ``master`` is the socket name of the master's end."""
    return "TLS" if channel.is_secure else format_address((master[0], master[1]))


def _not_a_master(address: Address) -> str:
    where = format_address(address)
    return (
        f"a program listens on {where}, but it is not the master of a crawl: check the address, or --connect HOST:PORT"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# The standard library has no other way to register a serializer.
managers.listener_client[SERIALIZER] = (Listener, connect)  # type: ignore[attr-defined]  # typeshed leaves it out
