"""The join file: the one credential of a crawl, and all that a downloader box needs to know."""

import base64
import hashlib
import ipaddress
import os
import re
import secrets
import shlex
import socket
import ssl
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import Struct

from crawler.engines.wire import Address, format_address, parse_address
from crawler.errors import ConfigError, DiskError

#: Version of the file's form.
VERSION = 1

_KEY_BYTES = 32
_MAX_BYTES = 65_536
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
#: Addresses that stand for all of a machine's → where the machine itself finds them.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound here


class JoinFile(Struct, frozen=True, kw_only=True):
    """Where a crawl's master is and how to prove that one belongs to it."""

    v: int = VERSION
    #: Name of the crawl, for people.
    crawl: str
    #: ``host:port`` of the master, the best first.
    addresses: tuple[str, ...]
    #: Base64 of 32 random bytes. Never shown.
    key: str
    #: Certificate of the master in PEM: TLS, on loopback too. Empty: plain TCP, on loopback only.
    cert: str = ""

    @property
    def authkey(self) -> bytes:
        """The key's bytes."""
        return base64.b64decode(self.key)

    @property
    def mark(self) -> str:
        """What tells this crawl from others; nobody gets from it to the key."""
        return hashlib.blake2b(self.authkey, digest_size=8, person=b"crawl").hexdigest()

    def at(self, address: str) -> Self:
        """The same crawl, reached at ``host:port`` (``--connect``).

        Raises:
            ConfigError: it is no address.
        """
        return msgspec.structs.replace(self, addresses=(format_address(parse_address(address)),))

    def __repr__(self) -> str:
        return f"JoinFile(crawl={self.crawl!r}, addresses={self.addresses!r}, key=…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("crawl", self.crawl), ("addresses", self.addresses)]


def new_key() -> str:
    """A fresh key for a new crawl."""
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii")


def advertised(bound: Address, host: str = "") -> tuple[str, ...]:
    """Addresses for the join file of a master that is bound to ``bound``, the best first.

    Args:
        bound: `crawler.engines.server.Server.address`.
        host: name or address under which others see this machine (``--advertise``).

    A master on a wildcard address gives this machine's name, and loopback for those on this very machine, where the
    name may mean nothing. A worker elsewhere that tries that too meets nobody with the certificate.

    Raises:
        ConfigError: ``host``, or this machine's name, is no host.
    """
    local, port = bound
    loopback = _WILDCARDS.get(local)
    if not host and loopback:
        host = socket.gethostname()
    names = [*([_host(host)] if host else []), loopback or local]
    return tuple(dict.fromkeys(format_address((name, port)) for name in names))


def write_join(path: Path, join: JoinFile) -> None:
    """Write the file so that only its owner can read it, and whole or not at all.

    Raises:
        DiskError: it can't be written.
    """
    write_private(path, msgspec.json.format(msgspec.json.encode(join)) + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Raises:
        DiskError: it can't be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise DiskError(f"can't write {path}: {error.strerror}") from error


def read_join(path: Path) -> JoinFile:
    """Read a join file.

    Raises:
        ConfigError: it is missing, readable by others, not a join file, or of another version.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read the join file {path}: {error.strerror}") from error
    refuse_shared(path, mode)
    return _parse(path, data)


def refuse_shared(path: Path, mode: int) -> None:
    """Refuse a file with a key in it and a mode that lets others at it.

    Raises:
        ConfigError: it is so.
    """
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"others can read the key in {path}; run: chmod 600 {shlex.quote(str(path))}")


def _host(text: str) -> str:
    """A name or address without brackets; `ConfigError` if it is neither."""
    host = text.strip("[]")
    try:
        return host if _NAME.fullmatch(host) else str(ipaddress.ip_address(host))
    except ValueError:
        message = f"{text[:200]!r} is no name or address of a machine; write --advertise HOST, without a port"
        raise ConfigError(message) from None


def _parse(path: Path, data: bytes) -> JoinFile:
    wrong = ConfigError(f"{path} is not a join file; copy the file 'join' from the crawl's directory")
    if len(data) > _MAX_BYTES:
        raise wrong
    try:
        version = msgspec.json.decode(data, type=_Versioned).v
        join = msgspec.json.decode(data, type=JoinFile) if version == VERSION else None
        if join is not None:
            key = base64.b64decode(join.key, validate=True)
            places = [parse_address(address) for address in join.addresses]
            if join.cert:
                ssl.PEM_cert_to_DER_cert(join.cert)
    except (msgspec.MsgspecError, ValueError, RecursionError, ConfigError):
        raise wrong from None  # the cause may quote the key
    if join is None:
        raise ConfigError(f"{path} is of version {version}, not {VERSION}; install the same release on both boxes")
    if len(key) != _KEY_BYTES or not places:
        raise wrong
    return join


class _Versioned(Struct):
    v: int
