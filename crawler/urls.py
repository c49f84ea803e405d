"""URLs: resolved as a browser does, remembered under one spelling, written in lines nobody can forge.

Resolution follows the WHATWG URL Standard (https://url.spec.whatwg.org/) by way of ada-url, the parser of
Node.js; nothing here parses a URL by hand.
"""

import ipaddress
import re

import ada_url

#: Longest URL that is followed; longer ones are traps or data in disguise.
MAX_URL_LENGTH = 8_192

_SEPARATOR = "--->"
#: The left side of a record line: printable ASCII of a canonical URL, which never holds ``<`` or ``>``.
_RECORD_LINE = re.compile(r"(https?://[!-;=?-~]+)--->(success|failed: [a-z0-9-]+)")
#: A host key or an address as a user writes it: nothing that a parser would take for another part of a URL, or drop.
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_UNSAFE = str.maketrans({"<": "%3C", ">": "%3E", '"': "%22", " ": "%20"})


def resolve(base: str | None, reference: str) -> str | None:
    """Absolute URL of ``reference`` as found on ``base``, or None where it is no http(s) URL."""
    try:
        href = ada_url.join_url(base, reference) if base else ada_url.normalize_url(reference)
    except (ValueError, UnicodeEncodeError):
        return None
    return href if href.startswith(("http://", "https://")) else None


def canonicalize(url: str) -> str:
    """The one spelling under which a URL is remembered: WHATWG form, no fragment, no credentials, pure ASCII.

    Raises:
        ValueError: it is no http(s) URL, or longer than `MAX_URL_LENGTH`.
    """
    href = resolve(None, url)
    if href is None:
        raise ValueError(f"not an http(s) URL: {url[:200]!r}")
    if "#" in href or "@" in href:
        parts = ada_url.URL(href)
        parts.hash = parts.username = parts.password = ""
        href = parts.href
    href = href.translate(_UNSAFE)
    if len(href) > MAX_URL_LENGTH:
        raise ValueError(f"URL of {len(href)} characters, longer than {MAX_URL_LENGTH}")
    return href


def host_key(url: str) -> str:
    """Lower-case ASCII host, with the port unless it is the scheme's own: what politeness is counted by."""
    return ada_url.URL(url).host


def origin(url: str) -> str:
    """Scheme, host and port (RFC 6454): what robots.txt rules hold for."""
    return ada_url.URL(url).origin


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, names this machine itself.

    That is ``localhost`` and ``*.localhost`` (RFC 6761 §6.3), 127.0.0.0/8 and ::1, in every spelling that a browser
    takes for one of them. The wildcard addresses are not: whoever listens on them is reached from elsewhere.
    """
    if not _HOST.fullmatch(host):
        return False
    bare_ipv6 = host.count(":") > 1 and not host.startswith("[")
    try:
        parts = ada_url.URL(f"http://[{host}]/" if bare_ipv6 else f"http://{host}/")
    except ValueError:
        return False
    if parts.host_type == ada_url.HostType.DEFAULT:
        return f".{parts.hostname.removesuffix('.')}".endswith(".localhost")
    address = ipaddress.ip_address(parts.hostname.strip("[]"))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback  # Python looks through a mapped address only from 3.13 on


def format_record_line(url: str, reason: str = "") -> str:
    """``url--->success``, or ``url--->failed: reason``; ``url`` must be canonical, so it can't hold ``--->``."""
    return f"{url}{_SEPARATOR}{f'failed: {reason}' if reason else 'success'}"


def parse_record_line(line: str) -> tuple[str, str]:
    """URL and reason (empty: success) of a record line.

    Raises:
        ValueError: the line is not one that `format_record_line` writes.
    """
    match = _RECORD_LINE.fullmatch(line.rstrip("\r\n"))
    if match is None:
        raise ValueError(f"not a record line: {line[:200]!r}")
    verdict = match[2]
    return match[1], "" if verdict == "success" else verdict.removeprefix("failed: ")
