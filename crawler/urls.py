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

#: Parameters that mark a click for a tracker, in lower case: no server chooses a page by them. The list is closed;
#: what might mean something elsewhere (``ref``, ``source``, ``spm``, ``cid``) is not in it.
_TRACKING = frozenset(
    {
        *("__hsfp", "__hssc", "__hstc", "_ga", "_gac", "_gl", "_hsenc", "_hsmi", "_openstat", "dclid", "epik"),
        *("fbclid", "gad_campaignid", "gad_source", "gbraid", "gclid", "gclsrc", "hsctatracking", "igsh", "igshid"),
        *("li_fat_id", "mc_cid", "mc_eid", "mkt_tok", "ml_subscriber", "ml_subscriber_hash", "msclkid"),
        *("oly_anon_id", "oly_enc_id", "pk_campaign", "pk_content", "pk_keyword", "pk_kwd", "pk_medium", "pk_source"),
        *("rb_clickid", "srsltid", "ttclid", "twclid", "vero_conv", "vero_id", "wbraid", "wickedid", "yclid"),
        *("ymclid", "ysclid"),
    }
)
_TRACKING_FAMILIES = ("utm_", "mtm_", "hsa_", "matomo_", "piwik_")
#: Parameters that are session ids by name alone, and those that are where their value looks like one.
_SESSIONS = frozenset({"jsessionid", "phpsessid", "oscsid", "xtcsid", "zenid", "cftoken"})
_PERHAPS_SESSIONS = frozenset({"sess", "sessid", "session", "session_id", "sessionid", "sid"})
_SESSION_VALUE = re.compile(r"[0-9a-f]{16,}|(?=[a-z]*[0-9])(?=[0-9]*[a-z])[0-9a-z]{20,}", re.IGNORECASE)
#: Session ids in paths: of servlets and PHP (``/x;jsessionid=1A2B``), and of ASP.NET (``/(S(24 characters))/x``).
_SESSION_SUFFIX = re.compile(r";(?:jsessionid|phpsessid|sessionid)=[^;/]*", re.IGNORECASE)
_SESSION_SEGMENT = re.compile(r"/\((?:[AFX]\([^()/]*\))*S\([a-z0-9]{24}\)(?:[AFX]\([^()/]*\))*\)(?=/)")
#: What servers show for a directory wherever it exists. Not ``index.php`` and its like: beside an ``index.html`` they
#: are a page of their own, often the one behind the "Enter" of a title page, and to skip it loses the site.
_DIRECTORY_PAGE = re.compile(r"(?<!/)/(?:index\.html?|[Dd]efault\.htm)\Z")
#: A percent-encoded byte; one behind a stray ``%`` is left alone, lest decoding it makes a new one.
_ENCODED = re.compile(r"(?<!%)(?<!%[0-9A-Fa-f])%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def resolve(base: str | None, reference: str) -> str | None:
    """Absolute URL of ``reference`` as found on ``base``, or None where it is no http(s) URL."""
    try:
        href = ada_url.join_url(base, reference) if base else ada_url.normalize_url(reference)
    except (ValueError, UnicodeEncodeError):
        return None
    return href if href.startswith(("http://", "https://")) else None


def is_spelled(text: str) -> bool:
    """Whether a text is made of what canonical URLs are made of, and so can't break or forge a record line."""
    # Ten times as fast as the pattern of `_RECORD_LINE`, for the frontier, which looks at every URL more than once.
    return text.isascii() and text.isprintable() and " " not in text and "<" not in text and ">" not in text


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


def page_key(url: str) -> str:
    """The spelling under which a page is remembered as visited; ``url`` is canonical, and so is the key.

    URLs that differ in tracking parameters, session ids, the order of parameters, an empty query, needless
    percent-encoding (RFC 3986 §6.2.2) or ``index.html`` lead to one page. Never to be fetched where the URL itself is
    known, and never for images: their query may be signed, and their bytes are compared anyway.
    """
    path, _, query = without_session(_ENCODED.sub(_plainly, url)).partition("?")
    parts = dict.fromkeys(part for part in query.split("&") if part and not _is_tracking(_name(part)))
    if not parts:
        return _DIRECTORY_PAGE.sub("/", path)
    return f"{path}?{'&'.join(sorted(parts, key=_name))}"  # of one name, the first stays the first


def without_session(url: str, *, surely: bool = False) -> str:
    """The canonical ``url`` without session ids, otherwise letter by letter as it was.

    With ``surely``, what may as well be a hash of the content, by which a picture is chosen, is left in.
    """
    path, mark, query = url.partition("?")
    bare = _SESSION_SEGMENT.sub("", _SESSION_SUFFIX.sub("", path))
    if bare != path:
        path = resolve(None, bare) or path  # a segment that was no ``..`` may be one now
    if not query:
        return path + mark
    sessions = _SESSIONS | {"cfid"} if "cftoken=" in query.lower() else _SESSIONS  # they come in pairs
    parts = query.split("&")
    kept = [part for part in parts if not _is_session(part, sessions, surely=surely)]
    return f"{path}?{'&'.join(kept)}" if kept else path


def _is_session(part: str, sessions: frozenset[str], *, surely: bool) -> bool:
    name, _, value = part.partition("=")
    name = name.lower()
    if name in sessions or name.startswith("aspsessionid"):
        return True
    return not surely and name in _PERHAPS_SESSIONS and _SESSION_VALUE.fullmatch(value) is not None


def _is_tracking(name: str) -> bool:
    return name.lower() in _TRACKING or name.lower().startswith(_TRACKING_FAMILIES)


def _name(part: str) -> str:
    return part.partition("=")[0]


def _plainly(match: re.Match[str]) -> str:
    """A percent-encoded byte as RFC 3986 wants it: decoded where it needs no encoding, else in capitals."""
    char = chr(int(match[1], 16))
    return char if char in _UNRESERVED else match[0].upper()


def host_key(url: str) -> str:
    """Lower-case ASCII host, with the port unless it is the scheme's own: what politeness is counted by."""
    return ada_url.URL(url).host


def host_and_port(url: str) -> tuple[str, int]:
    """Lower-case ASCII host, an IPv6 address without its brackets, and the port, the scheme's own included."""
    parts = ada_url.URL(url)
    return parts.hostname.strip("[]"), int(parts.port or (443 if parts.protocol == "https:" else 80))


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
