"""Functions for URLs: resolution as in browsers, one canonical spelling, and record lines that can't be forged.

Resolution follows the WHATWG URL Standard (https://url.spec.whatwg.org/) by means of ada-url, the parser of
Node.js; nothing here parses a URL by hand.
"""

import ipaddress
import re
from functools import lru_cache

import ada_url

#: Longest URL that is followed, in characters; longer ones are traps or embedded data.
MAX_URL_LENGTH = 8_192

_SEPARATOR = "--->"
#: A record line begins with a canonical URL: printable ASCII without ``<`` and ``>``.
_RECORD_LINE = re.compile(r"(https?://[!-;=?-~]+)--->(success|failed: [a-z0-9-]+)")
#: A host key or an address as a user writes it, without characters that a URL parser drops or takes for another part.
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_UNSAFE = str.maketrans({"<": "%3C", ">": "%3E", '"': "%22", " ": "%20"})

#: Parameters that mark a click for a tracker, in lower case. No server chooses a page by them. The list is closed: it
#: omits names that some site may use for another purpose (``ref``, ``source``, ``spm``, ``cid``).
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
_TRACKING_PREFIXES = ("utm_", "mtm_", "hsa_", "matomo_", "piwik_")
#: Parameters that are always session ids, and parameters that are session ids if their value looks like one.
_SESSIONS = frozenset({"jsessionid", "phpsessid", "oscsid", "xtcsid", "zenid", "cftoken"})
_POSSIBLE_SESSIONS = frozenset({"sess", "sessid", "session", "session_id", "sessionid", "sid"})
_SESSION_VALUE = re.compile(r"[0-9a-f]{16,}|(?=[a-z]*[0-9])(?=[0-9]*[a-z])[0-9a-z]{20,}", re.IGNORECASE)
#: Session ids in paths: of servlets and PHP (``/x;jsessionid=1A2B``), and of ASP.NET (``/(S(24 characters))/x``).
_SESSION_SUFFIX = re.compile(r";(?:jsessionid|phpsessid|sessionid)=[^;/]*", re.IGNORECASE)
_SESSION_SEGMENT = re.compile(r"/\((?:[AFX]\([^()/]*\))*S\([a-z0-9]{24}\)(?:[AFX]\([^()/]*\))*\)(?=/)")
#: File names that every server serves for the directory. ``index.php`` and the like are not among them: beside an
#: ``index.html`` they are separate pages, often the one behind the "Enter" link of a title page. To skip that page
#: would lose the site.
_DIRECTORY_PAGE = re.compile(r"(?<!/)/(?:index\.html?|[Dd]efault\.htm)\Z")
#: A percent-encoded byte. One after a stray ``%`` does not match, as decoding it could form a new encoded byte.
_ENCODED = re.compile(r"(?<!%)(?<!%[0-9A-Fa-f])%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
#: Scheme and authority of a URL in the usual form.
_SITE = re.compile(r"https?://[A-Za-z0-9\[][^/]*")


def resolve(base: str | None, reference: str) -> str | None:
    """Return the absolute URL of ``reference`` on the page ``base``, or None if it is not an http(s) URL."""
    try:
        href = ada_url.join_url(base, reference) if base else ada_url.normalize_url(reference)
    except (ValueError, UnicodeEncodeError):
        return None
    return href if href.startswith(("http://", "https://")) else None


def is_spelled(text: str) -> bool:
    """Check whether a text has only characters of canonical URLs, and so can't break or forge a record line."""
    # Ten times as fast as the pattern of `_RECORD_LINE`: the frontier checks every URL more than once.
    return text.isascii() and text.isprintable() and " " not in text and "<" not in text and ">" not in text


def canonicalize(url: str) -> str:
    """Return the canonical spelling of a URL: WHATWG form, no fragment, no credentials, pure ASCII.

    Raises:
        ValueError: it is not an http(s) URL, or is longer than `MAX_URL_LENGTH`.
    """
    href = resolve(None, url)
    if href is None:
        raise ValueError(f"not an http(s) URL: {url[:200]!r}")
    return canonical_form(href)


def canonical_form(href: str) -> str:
    """Return the canonical spelling of a URL that `resolve` has returned.

    Raises:
        ValueError: it is longer than `MAX_URL_LENGTH`.
    """
    if "#" in href or "@" in href:
        parts = ada_url.URL(href)
        parts.hash = parts.username = parts.password = ""
        href = parts.href
    href = href.translate(_UNSAFE)
    if len(href) > MAX_URL_LENGTH:
        raise ValueError(f"URL of {len(href)} characters is longer than {MAX_URL_LENGTH}")
    return href


def page_key(url: str) -> str:
    """Return the key by which a visited page is recognised; ``url`` is canonical, and so is the key.

    URLs that differ in tracking parameters, session ids, the order of parameters, an empty query, needless
    percent-encoding (RFC 3986 §6.2.2) or ``index.html`` have the same key. A caller that knows the URL fetches the URL,
    not its key. Images have no key: their query may be signed, and their bytes are compared anyway.
    """
    path, _, query = without_session(_ENCODED.sub(_normalized, url) if "%" in url else url).partition("?")
    parts = dict.fromkeys(part for part in query.split("&") if part and not _is_tracking(_name(part))) if query else ()
    if not parts:
        return _DIRECTORY_PAGE.sub("/", path) if path.endswith((".htm", ".html")) else path
    return f"{path}?{'&'.join(sorted(parts, key=_name))}"  # a stable sort: equal names keep their order


def without_session(url: str, *, surely: bool = False) -> str:
    """Return the canonical ``url`` without session ids and otherwise unchanged.

    With ``surely``, keep values that may be a hash of the content, as some servers choose a picture by it.
    """
    path, mark, query = url.partition("?")
    if ";" in path or "/(" in path:
        bare = _SESSION_SEGMENT.sub("", _SESSION_SUFFIX.sub("", path))
        if bare != path:
            path = resolve(None, bare) or path  # the removal may have formed a segment ``..``
    if not query:
        return path + mark
    sessions = _SESSIONS | {"cfid"} if "cftoken=" in query.lower() else _SESSIONS  # the two come as a pair
    parts = query.split("&")
    kept = [part for part in parts if not _is_session(part, sessions, surely=surely)]
    return f"{path}?{'&'.join(kept)}" if kept else path


def _is_session(part: str, sessions: frozenset[str], *, surely: bool) -> bool:
    name, _, value = part.partition("=")
    name = name.lower()
    if name in sessions or name.startswith("aspsessionid"):
        return True
    return not surely and name in _POSSIBLE_SESSIONS and _SESSION_VALUE.fullmatch(value) is not None


def _is_tracking(name: str) -> bool:
    return name.lower() in _TRACKING or name.lower().startswith(_TRACKING_PREFIXES)


def _name(part: str) -> str:
    return part.partition("=")[0]


def _normalized(match: re.Match[str]) -> str:
    """Return a percent-encoded byte in RFC 3986's normal form: decoded if it needs no encoding, else in capitals."""
    char = chr(int(match[1], 16))
    return char if char in _UNRESERVED else match[0].upper()


def host_key(url: str) -> str:
    """Return the lower-case ASCII host, with the port unless it is the scheme's default: the key for politeness."""
    return _site(_up_to_path(url))[0]


def host_and_port(url: str) -> tuple[str, int]:
    """Return the lower-case ASCII host (IPv6 without brackets) and the port, which may be the scheme's default."""
    return _site(_up_to_path(url))[1]


def origin(url: str) -> str:
    """Return scheme, host and port (RFC 6454), the unit that robots.txt rules apply to."""
    return _site(_up_to_path(url))[2]


def _up_to_path(url: str) -> str:
    """Return the beginning of a URL that decides its host and its port."""
    site = _SITE.match(url)
    return site[0] if site else url


@lru_cache(maxsize=4_096)  # called several times for each request, of few hosts
def _site(url: str) -> tuple[str, tuple[str, int], str]:
    parts = ada_url.URL(url)
    port = int(parts.port or (443 if parts.protocol == "https:" else 80))
    return parts.host, (parts.hostname.strip("[]"), port), parts.origin


@lru_cache(maxsize=4_096)  # called at each turn of a host
def is_loopback(host: str) -> bool:
    """Check whether a host, with or without a port, names this machine itself.

    These are ``localhost`` and ``*.localhost`` (RFC 6761 §6.3), 127.0.0.0/8 and ::1, in every spelling that a browser
    accepts. Wildcard addresses do not count: other machines can reach a server that listens on them.
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
    return (mapped or address).is_loopback  # Python unwraps a mapped address only since 3.13


def format_record_line(url: str, reason: str = "") -> str:
    """Return ``url--->success``, or ``url--->failed: reason``. ``url`` must be canonical, so it has no ``--->``."""
    return f"{url}{_SEPARATOR}{f'failed: {reason}' if reason else 'success'}"


def parse_record_line(line: str) -> tuple[str, str]:
    """Return the URL and the reason of a record line; the reason of a success is empty.

    Raises:
        ValueError: `format_record_line` does not write such a line.
    """
    match = _RECORD_LINE.fullmatch(line.rstrip("\r\n"))
    if match is None:
        raise ValueError(f"not a record line (URL--->success or URL--->failed: REASON): {line[:200]!r}")
    verdict = match[2]
    return match[1], "" if verdict == "success" else verdict.removeprefix("failed: ")
