"""TDM Reservation Protocol: the value of a reservation of text and data mining rights, and an origin's file. Pure.

Source: https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/. A reservation may be in three places: the
file ``/.well-known/tdmrep.json``, the header ``tdm-reservation`` of a response, and ``<meta name=tdm-reservation>`` of
a page. The later place overrides the earlier. But a URL that the file reserves is not requested at all, so nothing can
override the file there.

Only the necessary rules of a file are kept, as lines ``Tdm-reservation: 1 /path``. A robots.txt parser ignores these
lines, so they are appended to the text of the origin's robots rules, and stored and sent with it.
"""

import functools
import re
from urllib.parse import quote

import msgspec

#: Path of the file on its origin, and most bytes that are read; a longer file counts as missing.
PATH = "/.well-known/tdmrep.json"
MAX_BYTES = 1024 * 1024
#: Most characters kept of the rules of one origin.
MAX_TEXT = 256 * 1024

_FIELD = "Tdm-reservation: "
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
_STARS = re.compile(r"\*+")
_ESCAPE = re.compile(r"%([0-9a-f]{2})", re.IGNORECASE)
#: Characters that are compared unescaped: unreserved ones (RFC 3986 §2.3), and the two that patterns must escape.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~*$")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def tdm_reserved(value: str) -> bool | None:
    """Return whether this value of ``tdm-reservation`` reserves the rights, or None if it is invalid (§5.1)."""
    return {"1": True, "0": False}.get(value.strip())


def parse_tdmrep(data: bytes) -> str:
    """Return the rules of a ``tdmrep.json`` as lines of text, or "" if nothing is reserved. Never raises."""
    try:
        document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf")) if len(data) <= MAX_BYTES else []
    except (ValueError, RecursionError):
        return ""
    rules: dict[str, str] = {}
    for rule in document if isinstance(document, list) else [document]:
        if isinstance(rule, dict) and isinstance(location := rule.get("location"), str):
            value = str(rule.get("tdm-reservation"))
            if value in ("0", "1"):  # a rule with another value is ignored
                rules.setdefault(_pattern(location), value)
    while (
        rules and list(rules.values())[-1] == "0"
    ):  # the last rules change nothing: without a rule, nothing is reserved
        rules.popitem()
    text = "".join(f"{_FIELD}{value} {pattern}\n" for pattern, value in rules.items())
    return text if len(text) <= MAX_TEXT else text[: text.rfind("\n", 0, MAX_TEXT) + 1]


def tdm_allowed(rules: str, url: str) -> bool:
    """Return whether rules made by `parse_tdmrep`, among other lines, allow ``url``. The first match decides."""
    if _FIELD not in rules:
        return True
    path = _ORIGIN.sub("", url, count=1).partition("#")[0]
    path = _plain(_quoted(path if path.startswith("/") else f"/{path}"))
    return not next((reserved for reserved, pieces, ends in _parsed(rules) if _matches(pieces, ends, path)), False)


@functools.lru_cache(maxsize=256)
def _parsed(rules: str) -> tuple[tuple[bool, tuple[str, ...], bool], ...]:
    """Return for each rule: whether it reserves, the pattern's text between stars, and whether it ends with ``$``."""
    parsed = []
    for line in rules.split("\n"):
        value, _, pattern = line.removeprefix(_FIELD).partition(" ")
        if line.startswith(_FIELD):
            pieces = tuple(map(_plain, pattern.removesuffix("$").split("*")))
            parsed.append((value == "1", pieces, pattern.endswith("$")))
    return tuple(parsed)


def _matches(pieces: tuple[str, ...], ends: bool, path: str) -> bool:
    """Return whether ``path`` begins with the pieces, with any text between them (RFC 9309 §2.2.3). Linear time."""
    first, *others = pieces
    if not path.startswith(first):
        return False
    at = len(first)
    last = others.pop() if ends and others else None
    for piece in others:
        start = path.find(piece, at)
        if start < 0:
            return False
        at = start + len(piece)
    if last is None:
        return at == len(path) if ends else True
    return len(path) - at >= len(last) and path.endswith(last)


def _pattern(location: str) -> str:
    """Return a location as a path pattern of printable characters."""
    pattern = _STARS.sub("*", _quoted(_ORIGIN.sub("", location.strip(), count=1)))
    return pattern if pattern.startswith(("/", "*")) else f"/{pattern}"


def _quoted(text: str) -> str:
    return quote(text, safe=_PRINTABLE, errors="replace")


def _plain(text: str) -> str:
    """Return the normalised form of text, so that equal octets compare equal."""
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _PLAIN else escape[0].upper()
