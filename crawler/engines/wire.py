"""The queue's wire: length-prefixed msgpack of plain data over TCP, as a serializer for `multiprocessing.managers`.

A frame is a 4-byte big-endian length and that many bytes, which is what the standard library's handshake
(`multiprocessing.connection.deliver_challenge` and ``answer_challenge``) speaks too. After the handshake each frame
is one msgpack value. Nothing here, or built on this, ever unpickles.

Without TLS the wire leads to this machine only. Under it (`crawler.engines.tls`) everything that is said here, the
standard library's handshake too, is said inside.

What may go wrong, and what it means for the connection:

* ``EOFError``: the peer hung up between two frames.
* ``OSError`` (``TimeoutError`` when the time allowed is over): the connection broke, or a frame announces more
  than its limit. The stream can't be trusted any more; close it.
* `MessageError`: a whole frame came, but it says nothing valid; or a message can't be sent. The stream is intact.
"""

import hmac
import mmap
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing import AuthenticationError, managers
from multiprocessing.connection import answer_challenge, deliver_challenge
from typing import Any, Self, TypeAlias, TypeVar

import msgspec

from crawler.engines.address import Address as Address
from crawler.engines.address import format_address as format_address
from crawler.engines.address import parse_address as parse_address
from crawler.engines.address import require_loopback as require_loopback
from crawler.errors import AccessError, CrawlerError, MessageError, NetworkError, TLSError
from crawler.urls import is_loopback

T = TypeVar("T")
A = TypeVar("A")

#: What a frame may be kept in.
Buffer: TypeAlias = bytes | mmap.mmap | msgspec.Raw

#: Name of this serializer in `multiprocessing.managers.listener_client`.
SERIALIZER = "crawler"

#: Longest frame before the peer has proved that it knows the key; the handshake's own limit.
STRANGER_LIMIT = 256
#: Longest call; clients split what is longer.
CALL_LIMIT = 16 * 2**20
#: Longest answer: a lease of 1,000 requests each of whose four URLs is 8 KiB long, and their words.
ANSWER_LIMIT = 64 * 2**20

#: Connections that the system keeps for us until we take them.
BACKLOG = 1_024
#: Seconds a peer has for the whole handshake, and the master for its first word.
HANDSHAKE_SECONDS = 5.0
GREETING_SECONDS = 3.0
CONNECT_SECONDS = 5.0
#: Seconds in which somebody who is silent in the clear may answer to TLS.
PROBE_SECONDS = 1.0

_GREETING = b"#CHALLENGE#"
_HEADER = 4  # bytes
#: Seconds after which a blocked call looks up: Windows delivers Ctrl-C only between two system calls.
_SLICE = 1.0
_READ = 64 * 2**10  # bytes asked for at once, at least …
_READ_MOST = 256 * 2**10  # … and at most: memory is taken as bytes come, not as headers promise

#: Small frames are not held back, and a dead peer is found out in about a minute, where the platform has the options.
_WISHES = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_WISHES["TCP_USER_TIMEOUT"] = 60_000  # milliseconds
_OPTIONS = [(getattr(socket, name), value) for name, value in _WISHES.items() if hasattr(socket, name)]

#: What decoding raises where a message is malformed, of another type, or nested too deep.
UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)

_ENCODER = msgspec.msgpack.Encoder()
_PLAIN: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


class FrameTooLarge(MessageError):
    """A message of ours is longer than the other side reads; nothing of it was sent."""


class NoGreeting(TimeoutError):
    """Somebody accepted the connection and said nothing: no master, or one that is too busy just now."""


def encode(message: object) -> bytes:
    """``message`` as msgpack.

    Raises:
        MessageError: it holds something that is not plain data.
    """
    try:
        return _ENCODER.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"a message can't be put into words: {_one_line(error)}") from error


def decode(frame: Buffer, decoder: "msgspec.msgpack.Decoder[T]") -> T:
    """What ``frame`` says, if it is of the decoder's type.

    Raises:
        MessageError: it is malformed, of another type, or nested too deep.
    """
    try:
        return decoder.decode(frame)
    except UNREADABLE as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> MessageError:
    """What one of the errors of `UNREADABLE` means."""
    return MessageError(f"a message breaks the rules of the queue: {_one_line(error)}")


class Channel:
    """One connection that speaks in frames; what `multiprocessing.managers` takes for a connection.

    One thread at a time may use it, except for `abort`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox = bytearray()
        self._is_aborted = False
        self._deadline: float | None = None
        #: Longest frame that is read and sent, in bytes.
        self.reads = self.sends = STRANGER_LIMIT
        #: Who is at the other end, for the log, and its address.
        self.peer, self.host = "somebody who left", ""
        with suppress(OSError):  # a peer that has gone already is found out at the first read
            self.host, port = sock.getpeername()[:2]
            self.peer = format_address((self.host, port))

    def tune(self) -> Self:
        """Set the options of `_OPTIONS`; returns the channel."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _OPTIONS:
                self._sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return self

    @property
    def is_local(self) -> bool:
        """Whether the other end is on this machine."""
        return is_loopback(self.host) or self.host == self._sock.getsockname()[0]

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return isinstance(self._sock, ssl.SSLSocket)

    def secure(self, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        """Speak TLS from now on; the handshake takes its part of the time allowed.

        Raises:
            TLSError: the peer's certificate is not the pinned one.
            OSError, EOFError: the connection broke; `ssl.SSLError`: the peer said something that is no TLS of ours.
        """
        if self._inbox:
            raise OSError("something was said in the clear already")
        sock = context.wrap_socket(self._sock, server_side=server_side, do_handshake_on_connect=False)
        self._sock = sock
        if self._is_aborted:  # perhaps when the socket was neither the old one nor the new
            raise EOFError("the connection was closed")
        try:
            self._patiently(sock.do_handshake, False)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError) as error:
            raise EOFError("the connection was closed") from error

    def allow(self, seconds: float | None) -> None:
        """Let everything from now on take ``seconds`` together; None: as long as it likes."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def send_bytes(self, data: bytes) -> None:
        """Send one frame, header and content in one write: two would wait 40 ms for each other's acknowledgement."""
        if len(data) > self.sends:
            raise FrameTooLarge(f"a message of {len(data)} bytes is longer than the {self.sends} that are read")
        frame = memoryview(len(data).to_bytes(_HEADER, "big") + data)
        while frame:
            frame = frame[self._patiently(self._sock.send, frame) :]

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive one frame of at most ``maxlength`` bytes and never more than the channel's limit."""
        size = self.announced(maxlength)
        self._fill(_HEADER + size)
        with memoryview(self._inbox) as view:
            frame = bytes(view[_HEADER : _HEADER + size])
        del self._inbox[: _HEADER + size]
        return frame

    def recv_large(self) -> mmap.mmap:
        """Receive one frame into memory of its own, which the system has back when it is let go."""
        size = self.announced()
        frame = mmap.mmap(-1, size)
        begin = self._inbox[_HEADER : _HEADER + size]
        frame[: len(begin)] = begin
        del self._inbox[: _HEADER + len(begin)]
        view = memoryview(frame)[len(begin) :]
        while view:
            number = self._patiently(self._sock.recv_into, view[:_READ_MOST])
            if not number:
                raise OSError("the connection ended within a frame")
            view = view[number:]
        return frame

    def announced(self, maxlength: int | None = None) -> int:
        """Length of the next frame, of which only the header is waited for."""
        limit = self.reads if maxlength is None else min(maxlength, self.reads)
        size = int.from_bytes(self.peek(_HEADER), "big")
        if size > limit:
            raise OSError(f"a frame of {size} bytes is announced, {limit} are allowed")
        return size

    def send(self, message: object) -> None:
        """Send plain data."""
        self.send_bytes(encode(message))

    def recv(self) -> Any:
        """Receive plain data."""
        return decode(self.recv_bytes(), _PLAIN)

    def peek(self, size: int) -> bytes:
        """The next ``size`` bytes, which stay to be received."""
        self._fill(size)
        return bytes(self._inbox[:size])

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last frame, neither data nor the end; never blocks."""
        self._sock.settimeout(0)
        try:
            self._inbox += self._sock.recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError):
            return not self._inbox
        except OSError:
            return False
        return False

    def fileno(self) -> int:
        """Descriptor of the socket, -1 when closed."""
        return self._sock.fileno()

    def abort(self) -> None:
        """End the connection from any thread: whoever is blocked in it wakes with an error."""
        self._is_aborted = True
        with suppress(OSError):
            # SSLSocket's own shutdown() takes TLS off first: what another thread is sending would go in the clear
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._sock.close()

    def _fill(self, size: int) -> None:
        """Wait until ``size`` bytes are there."""
        while (missing := size - len(self._inbox)) > 0:
            chunk = self._patiently(self._sock.recv, min(max(missing, _READ), _READ_MOST))
            if not chunk and self._inbox:
                raise OSError("the connection ended within a frame")
            if not chunk:
                raise EOFError("the connection was closed")
            self._inbox += chunk

    def _patiently(self, operation: Callable[[A], T], argument: A) -> T:
        """Run a socket operation in slices until the deadline."""
        while True:
            left = _SLICE if self._deadline is None else self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the other side took too long")
            self._sock.settimeout(min(left, _SLICE))
            with suppress(TimeoutError):
                return operation(argument)


class Listener:
    """A bound socket that gives `Channel` objects; what `multiprocessing.managers.Server` takes for a listener.

    Raises:
        OSError: the address can't be had.
    """

    def __init__(self, address: Address | None = None, backlog: int = BACKLOG) -> None:
        host, port = address or ("127.0.0.1", 0)
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        is_dual = place[0] == "::" and socket.has_dualstack_ipv6()  # then it stands for all IPv4 addresses too
        self._sock = socket.create_server(
            (str(place[0]), port), family=family, backlog=max(backlog, BACKLOG), dualstack_ipv6=is_dual
        )
        #: Where it is bound, with the port that port 0 became.
        self.address: Address = self._sock.getsockname()[:2]

    def accept(self) -> Channel:
        """The next connection; ``TimeoutError`` after a second without one."""
        self._sock.settimeout(_SLICE)
        sock, _ = self._sock.accept()
        return Channel(sock)

    def accept_more(self) -> Channel | None:
        """The next connection if somebody waits for one, else None."""
        self._sock.settimeout(0)
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return None
        return Channel(sock)

    def abort(self) -> None:
        """Wake the thread that is in `accept`, where the platform does so; elsewhere it wakes within a second."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._sock.close()


def connect(address: Address, authkey: bytes, tls: ssl.SSLContext | None = None) -> Channel:
    """A channel to the master at ``address``, both sides having proved that they know the key.

    Args:
        address: where the master is.
        authkey: the crawl's key.
        tls: `crawler.engines.tls.client_context`; None: plain TCP, to this machine only.

    Raises:
        AccessError: one of the two keys is wrong.
        TLSError: the certificate is not the pinned one, or only one of the two sides speaks TLS.
        NetworkError: something else than a master listens there.
        NoGreeting: it may be so, as it says nothing.
        ConfigError: without TLS, it is another machine.
        OSError, EOFError: nobody listens, or the connection broke; trying again may help.
    """
    sock = socket.create_connection(address, timeout=CONNECT_SECONDS)
    channel = Channel(sock).tune()
    try:
        if tls is None:
            require_loopback(sock.getpeername()[:2])  # what the name stands for, whatever it sounds like
        else:
            _secure(channel, address, tls)
        _expect_greeting(channel, address)
        channel.allow(HANDSHAKE_SECONDS)
        secret = _secret(channel, authkey)
        answer_challenge(channel, secret)  # type: ignore[arg-type]  # a Channel is all of Connection it uses
        deliver_challenge(channel, secret)  # type: ignore[arg-type]
    except (AuthenticationError, AssertionError, ValueError) as error:
        channel.close()
        where = format_address(address)
        raise AccessError(f"{where} refused the key; take the join file of this very crawl") from error
    except BaseException:
        channel.close()
        raise
    channel.reads, channel.sends = ANSWER_LIMIT, CALL_LIMIT
    return channel


def admit(channel: Channel, authkey: bytes, tls: ssl.SSLContext | None = None) -> None:
    """The master's half of the handshake, TLS included: the peer proves first that it knows the key.

    Raises:
        AccessError: it does not.
        OSError, EOFError: it left, talked too long, or something else than TLS.
    """
    channel.tune()
    if tls is not None:
        channel.secure(tls, server_side=True)
    secret = _secret(channel, authkey)
    try:
        deliver_challenge(channel, secret)  # type: ignore[arg-type]  # as above
        answer_challenge(channel, secret)  # type: ignore[arg-type]
    except (AuthenticationError, AssertionError, ValueError) as error:
        raise AccessError("wrong key") from error
    channel.reads, channel.sends = CALL_LIMIT, ANSWER_LIMIT


def _expect_greeting(channel: Channel, address: Address) -> None:
    """See that a master speaks first, before anything derived from the key is said."""
    try:
        is_master = _hears_greeting(channel)
    except TimeoutError as error:
        if not channel.is_secure and _speaks_tls(channel):
            raise TLSError(
                f"{format_address(address)} speaks TLS, and the join file has no certificate: copy the join file again"
            ) from error
        raise NoGreeting(_stranger(address)) from error
    if not is_master:
        raise NetworkError(_stranger(address))


def _hears_greeting(channel: Channel) -> bool:
    channel.allow(GREETING_SECONDS)
    return channel.peek(_HEADER + len(_GREETING))[_HEADER:] == _GREETING


def _secure(channel: Channel, address: Address, tls: ssl.SSLContext) -> None:
    """A worker's TLS handshake, with a name for whatever goes wrong."""
    channel.allow(GREETING_SECONDS)
    try:
        channel.secure(tls)
    except TLSError as error:
        raise TLSError(f"{format_address(address)}: {error}") from error
    except TimeoutError as error:
        raise NoGreeting(_stranger(address)) from error
    except ssl.SSLError as error:
        raise _recognize(address) from error


def _recognize(address: Address) -> CrawlerError:
    """Who it is that does not speak TLS as a master does; nothing is said to find out."""
    with (
        suppress(OSError, EOFError),
        closing(Channel(socket.create_connection(address, timeout=CONNECT_SECONDS))) as probe,
    ):
        if _hears_greeting(probe):
            where = format_address(address)
            return TLSError(f"{where} speaks no TLS, and the join file has a certificate: copy the join file again")
    return NetworkError(_stranger(address))


def _speaks_tls(channel: Channel) -> bool:
    """Whether somebody who is silent in the clear answers to TLS; nothing else is said to find out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nobody is trusted: the connection ends here
    channel.allow(PROBE_SECONDS)
    try:
        channel.secure(context)
    except (OSError, EOFError):
        return False
    return True


def _secret(channel: Channel, authkey: bytes) -> bytes:
    """What both sides prove to know; another secret under TLS, so that no relay can use answers given in the clear."""
    return hmac.digest(authkey, b"crawler queue under TLS", "sha256") if channel.is_secure else authkey


def _stranger(address: Address) -> str:
    place = format_address(address)
    return f"something listens on {place}, but it is not a crawler harvester: check the address, or --connect HOST:PORT"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# The one registration the standard library offers for a serializer: a table of its own.
managers.listener_client[SERIALIZER] = (Listener, connect)  # type: ignore[attr-defined]  # typeshed leaves it out
