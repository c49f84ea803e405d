"""The join file: the one credential of a crawl, with all that a downloader machine needs to connect."""

import base64
import hashlib
import ipaddress
import logging
import os
import re
import secrets
import shlex
import socket
import ssl
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import Struct

from crawler.errors import ConfigError
from crawler.queue.interfaces import own_addresses
from crawler.queue.wire import Address, format_address, parse_address
from crawler.store.disk import disk_faults, sync_directories, write_file

log = logging.getLogger(__name__)

#: Version of the file format.
VERSION = 1

_KEY_BYTES = 32
_MAX_BYTES = 65_536
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
#: Wildcard address → loopback address at which the machine itself reaches it.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound here


class JoinFile(Struct, frozen=True, kw_only=True):
    """Contents of a join file: the addresses of a crawl's master, and the key that admits workers."""

    v: int = VERSION
    #: Name of the crawl, for display.
    crawl: str
    #: ``host:port`` of the master, the best first.
    addresses: tuple[str, ...]
    #: Base64 of 32 random bytes. Never shown.
    key: str
    #: Certificate of the master in PEM, for TLS (on loopback, too), or empty for plain TCP on loopback only.
    cert: str = ""

    @property
    def authkey(self) -> bytes:
        """The key's bytes."""
        return base64.b64decode(self.key)

    @property
    def mark(self) -> str:
        """Identifier of this crawl. The key cannot be derived from it."""
        return hashlib.blake2b(self.authkey, digest_size=8, person=b"crawl").hexdigest()

    def at(self, place: str) -> Self:
        """Return a copy with the address ``host:port``, or ``host`` and the port of this file (``--connect``).

        Raises:
            ConfigError: ``place`` has neither form.
        """
        try:
            address = parse_address(place)
        except ConfigError:
            host = place.removeprefix("[").removesuffix("]")
            if not _is_host(host):
                message = f"{place[:200]!r} is not an address; write HOST, HOST:PORT or [IPV6]:PORT"
                raise ConfigError(message) from None
            address = host, parse_address(self.addresses[0])[1]
        return msgspec.structs.replace(self, addresses=(format_address(address),))

    def __repr__(self) -> str:
        return f"JoinFile(crawl={self.crawl!r}, addresses={self.addresses!r}, key=…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("crawl", self.crawl), ("addresses", self.addresses)]


def new_key() -> str:
    """Return a random key for a new crawl."""
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii")


def advertised(bound: Address, host: str = "") -> tuple[str, ...]:
    """Return addresses for the join file of a master that is bound to ``bound``, the best first.

    Args:
        bound: `crawler.queue.server.Server.address`.
        host: name or address under which other machines see this machine (``--advertise``).

    A master on a wildcard address advertises every address of this machine, its name, and loopback for workers on this
    machine. If a remote worker meets another program at one of them, that program does not have the certificate.

    Raises:
        ConfigError: ``host`` is not a host name or address.
    """
    local, port = bound
    loopback = _WILDCARDS.get(local)
    names = [_host(host)] if host else []
    if loopback:
        name = socket.gethostname()
        names += [*own_addresses(ipv6=local == "::"), *([name] if not host and _is_host(name) else []), loopback]
    else:
        names.append(local)
    return tuple(dict.fromkeys(format_address((name, port)) for name in names))


def write_join(path: Path, join: JoinFile) -> None:
    """Write a join file atomically, readable by its owner only.

    Raises:
        DiskError: the file can't be written.
    """
    write_private(path, msgspec.json.format(msgspec.json.encode(join)) + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Write a file atomically, readable by its owner only; flush the file and its name to the disk.

    Raises:
        DiskError: the file can't be written.
    """
    write_file(path, [content], sync=True, mode=0o600)
    with disk_faults(path):
        sync_directories(path.parent, path.parent)


def read_join(path: Path) -> JoinFile:
    """Read a join file.

    Raises:
        ConfigError: the file is missing, readable by others, not a join file, or of another version.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read the join file {path}: {error.strerror}") from error
    refuse_shared(path, mode)
    return _parse(path, data)


def read_piped_join(descriptor: int) -> JoinFile:
    """Read a join file from a pipe that may stay open afterwards, as the master's own downloaders do.

    Raises:
        ConfigError: the input is not a join file, or of another version.
    """
    data = b""
    try:
        while not data.endswith(b"}\n") and len(data) <= _MAX_BYTES and (part := os.read(descriptor, _MAX_BYTES)):
            data += part
    except OSError as error:
        raise ConfigError(f"can't read the join file from standard input: {error.strerror}") from error
    return _parse(Path("standard input"), data)


def to_line(join: JoinFile) -> str:
    """Return the join file as one line, for `read_piped_join`."""
    return msgspec.json.encode(join).decode() + "\n"


def refuse_shared(path: Path, mode: int) -> None:
    """Refuse a file that contains a key and has a mode that gives other users access.

    If the file system keeps no modes, the user cannot correct the mode, so a warning is logged instead.

    Raises:
        ConfigError: other users have access.
    """
    if os.name != "posix" or not stat.S_IMODE(mode) & 0o077:
        return
    if _keeps_modes(path, mode):
        command = f"chmod 600 {shlex.quote(str(path))}"
        raise ConfigError(f"other users of this machine can read the key in {path}; run: {command}")
    _warn_of_modes(path.resolve().parent)


def _keeps_modes(path: Path, mode: int) -> bool:
    """Return whether chmod works on a file. It does not on FAT, exFAT, NTFS, drives of WSL and many network shares."""
    if os.name != "posix":
        return True
    try:
        path.chmod(stat.S_IMODE(mode) & ~0o077)
        is_kept = not stat.S_IMODE(path.stat().st_mode) & 0o077
        path.chmod(stat.S_IMODE(mode))  # only tried: the user decides
    except PermissionError:
        return path.stat().st_uid != os.geteuid()  # another user's file may be on any file system
    except OSError:
        return True
    return is_kept


@lru_cache(maxsize=64)  # once for each directory
def _warn_of_modes(directory: Path) -> None:
    log.warning(
        "other users of this machine can read the keys in %s, because its file system keeps no permissions;"
        " to keep the keys secret, use a directory on another disk",
        directory,
    )


def _host(text: str) -> str:
    """Return a host name or address without brackets.

    Raises:
        ConfigError: ``text`` is neither.
    """
    host = text.strip("[]")
    if not _is_host(host):
        message = f"{text[:200]!r} is not a host name or address; write --advertise HOST, without a port"
        raise ConfigError(message)
    return host if _NAME.fullmatch(host) else str(ipaddress.ip_address(host))


def _is_host(text: str) -> bool:
    """Return whether a text is a host name or an IP address."""
    if _NAME.fullmatch(text):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse(path: Path, data: bytes) -> JoinFile:
    invalid = ConfigError(f"{path} is not a join file; copy the file 'join' from the crawl's directory")
    if len(data) > _MAX_BYTES:
        raise invalid
    try:
        version = msgspec.json.decode(data, type=_Versioned).v
        join = msgspec.json.decode(data, type=JoinFile) if version == VERSION else None
        if join is not None:
            key = base64.b64decode(join.key, validate=True)
            addresses = [parse_address(address) for address in join.addresses]
            if join.cert:
                ssl.PEM_cert_to_DER_cert(join.cert)
    except (msgspec.MsgspecError, ValueError, RecursionError, ConfigError):
        raise invalid from None  # the cause may quote the key
    if join is None:
        versions = f"has version {version} of the join file, and this release reads version {VERSION}"
        raise ConfigError(f"{path} {versions}; install the same release on the master and the downloader")
    if len(key) != _KEY_BYTES or not addresses:
        raise invalid
    return join


class _Versioned(Struct):
    v: int
