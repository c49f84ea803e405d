"""Rights to mine that a site reserves (TDM Reservation Protocol): the value, and the file of an origin; pure.

Source: https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/. Three places may say it: the file
``/.well-known/tdmrep.json``, the header ``tdm-reservation`` of an answer, ``<meta name=tdm-reservation>`` of a page;
the later one has the last word. But what the file reserves is not asked for at all, so there the file has it.

Of a file only what is needed is kept, as lines ``Tdm-reservation: 1 /path``. They mean nothing to a reader of
robots.txt, so they are stored and travel behind the origin's robots rules, in the same text.
"""

import functools
import re
from urllib.parse import quote

import msgspec

#: Where the file lies on its origin, and the bytes of it that are read; a longer one counts as missing.
PATH = "/.well-known/tdmrep.json"
MAX_BYTES = 1024 * 1024
#: Characters of the rules of one origin that are kept.
MAX_TEXT = 256 * 1024

_FIELD = "Tdm-reservation: "
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
_STARS = re.compile(r"\*+")
_ESCAPE = re.compile(r"%([0-9a-f]{2})", re.IGNORECASE)
#: What an escape stands for in itself: unreserved characters (RFC 3986 §2.3), and the two that patterns must escape.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~*$")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def tdm_reserved(value: str) -> bool | None:
    """Whether a ``tdm-reservation`` of this value reserves the rights; None: it says nothing that counts (§5.1)."""
    return {"1": True, "0": False}.get(value.strip())


def parse_tdmrep(data: bytes) -> str:
    """The rules of a ``tdmrep.json`` as lines of text; empty: nothing is reserved. Never raises."""
    try:
        found = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf")) if len(data) <= MAX_BYTES else []
    except (ValueError, RecursionError):
        return ""
    rules: dict[str, str] = {}
    for rule in found if isinstance(found, list) else [found]:
        if isinstance(rule, dict) and isinstance(location := rule.get("location"), str):
            value = str(rule.get("tdm-reservation"))
            if value in ("0", "1"):  # what has another counts as not said
                rules.setdefault(_pattern(location), value)
    while rules and list(rules.values())[-1] == "0":  # at the end that is what holds without any rule
        rules.popitem()
    text = "".join(f"{_FIELD}{value} {pattern}\n" for pattern, value in rules.items())
    return text if len(text) <= MAX_TEXT else text[: text.rfind("\n", 0, MAX_TEXT) + 1]


def tdm_allowed(rules: str, url: str) -> bool:
    """Whether rules made by `parse_tdmrep`, among whatever other lines, leave ``url`` free; the first match decides."""
    if _FIELD not in rules:
        return True
    path = _ORIGIN.sub("", url, count=1).partition("#")[0]
    path = _plain(_quoted(path if path.startswith("/") else f"/{path}"))
    return not next((reserved for reserved, pieces, ends in _parsed(rules) if _matches(pieces, ends, path)), False)


@functools.lru_cache(maxsize=256)
def _parsed(rules: str) -> tuple[tuple[bool, tuple[str, ...], bool], ...]:
    """For each rule: whether it reserves, its pattern's text between the stars, and whether that ends with ``$``."""
    parsed = []
    for line in rules.split("\n"):
        value, _, pattern = line.removeprefix(_FIELD).partition(" ")
        if line.startswith(_FIELD):
            pieces = tuple(map(_plain, pattern.removesuffix("$").split("*")))
            parsed.append((value == "1", pieces, pattern.endswith("$")))
    return tuple(parsed)


def _matches(pieces: tuple[str, ...], ends: bool, path: str) -> bool:
    """Whether ``path`` begins with the pieces, with anything between them (RFC 9309 §2.2.3); in linear time."""
    first, *others = pieces
    if not path.startswith(first):
        return False
    at = len(first)
    last = others.pop() if ends and others else None
    for piece in others:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    if last is None:
        return at == len(path) if ends else True
    return len(path) - at >= len(last) and path.endswith(last)


def _pattern(location: str) -> str:
    """A location as one printable word that begins a path."""
    pattern = _STARS.sub("*", _quoted(_ORIGIN.sub("", location.strip(), count=1)))
    return pattern if pattern.startswith(("/", "*")) else f"/{pattern}"


def _quoted(text: str) -> str:
    return quote(text, safe=_PRINTABLE, errors="replace")


def _plain(text: str) -> str:
    """One spelling for all that mean the same octets."""
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _PLAIN else escape[0].upper()
