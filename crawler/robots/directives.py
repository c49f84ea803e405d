"""Robots directives of a response or a page: ``X-Robots-Tag``, ``<meta name=robots>``, ``tdm-reservation``. Pure.

Sources: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag, `crawler.robots.tdmrep`, and the
words that artists' sites use against training on their images.

* ``noindex none noimageindex``, ``noai noimageai noml``, ``unavailable_after: <date>`` after that date, and
  ``tdm-reservation: 1``: the images of a page are not downloaded, nor is an image whose own response has a directive.
* ``nofollow none``: the links of a page are not followed.

All other directives are ignored. Of contradictory directives the strictest applies. The exception is
``tdm-reservation``: the page overrides the header.

Directives are kept as lower-case text: ``noindex`` for every crawler, ``agent:noindex`` for one;
``unavailable_after:<seconds since the epoch>``, ``tdm-reservation:1``.
"""

import functools
import re
from collections.abc import Iterable, Set
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from crawler.robots.tdmrep import tdm_reserved

_TRAINING = frozenset({"noai", "noimageai", "noml"})
#: Directives against downloading the images of the page or the response itself, and those against following links.
NO_IMAGES = frozenset({"noindex", "none", "noimageindex", "tdm-reservation:1", *_TRAINING})
NO_LINKS = frozenset({"nofollow", "none"})

_KNOWN = NO_IMAGES | NO_LINKS
_TDM = frozenset({"tdm-reservation:0", "tdm-reservation:1"})
_ALL_AGENTS = frozenset({"*", "robots"})
#: Most characters of one attribute or header that are read.
_MAX_CHARS = 4_000

_TIME = r"(?:t|\s+)\d{1,2}:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:\s*(?:z|gmt|utc?|[ecmp][sd]t|[+-]\d\d:?\d\d)\b)?"
_DATE = rf"(?:(?:[a-z]{{3,9}},?\s+)?\d{{1,2}}[ -][a-z]{{3,9}}[ -]\d{{2,4}}|\d{{4}}-\d\d-\d\d)(?!\d)(?:{_TIME})?"
#: One part of a list of directives. Values come first, so that no part of a date or a limit is read as a directive.
_PART = re.compile(
    rf"(?P<comma>,)|unavailable_after\s*+:\s*+(?P<date>{_DATE})?|(?P<limit>max-[a-z-]++)\s*+:\s*+(?P<value>[\w.+-]*+)"
    r"|(?P<name>[a-z*][\w*/.-]*+)\s*+:|(?P<word>[\w-]++)",
    re.ASCII,
)
_UNTIL = re.compile(r"(?:([^:]+):)?unavailable_after:(\d+)")

#: The name of an agent: RFC 9309 §2.2.1 allows letters, ``_`` and ``-``; sites also use digits.
_TOKEN = re.compile(r"[\w-]+", re.ASCII)
#: An agent's name as sites write it: with letters of any script, which make it a different name from ours.
_NAME = re.compile(r"[\w\u0300-\u036f-]+")
_BEYOND_ASCII = re.compile(r"(?:%[89a-fA-F][0-9a-fA-F])+")
_PRODUCT = re.compile(r"(?:^|[\s(;,])([a-z_-][\w-]*)/\d", re.ASCII)


@functools.lru_cache(maxsize=64)
def product_tokens(user_agent: str) -> frozenset[str]:
    """Return the product tokens of a ``User-Agent`` header, lower-case: its first word and all with a version."""
    name = user_agent.strip().lower()
    first = _TOKEN.match(name)
    tokens = frozenset(_PRODUCT.findall(name)) | ({first[0]} if first else set())
    return tokens - {"mozilla"} or tokens  # "mozilla" identifies an agent only if it is the only token


def names(value: str) -> frozenset[str]:
    """Return the token by which a site names an agent, with and without digits at its end (``Foobot/2``, ``Foobot2``).

    Other characters than ASCII may be percent-encoded, in UTF-8 or else Latin-1.
    """
    match = _NAME.match(_BEYOND_ASCII.sub(_letters, value).lower())
    return frozenset({match[0], match[0].rstrip("0123456789")}) if match else frozenset()


def _letters(escapes: re.Match[str]) -> str:
    data = bytes.fromhex(escapes[0].replace("%", ""))
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_directives(text: str, agent: str = "") -> frozenset[str]:
    """Return the directives of one header or attribute, addressed to ``agent`` (empty: to every crawler).

    A name, as in ``otherbot: noindex, nofollow``, applies to all following directives of its header. But proxies may
    join headers with commas (RFC 9110 §5.3). Therefore a word against training after a comma applies to every crawler:
    search engines do not use these words, and obeying one too many is better than one too few.
    """
    directives: set[str] = set()
    addressee, is_loose = agent, False
    for part in _PART.finditer(text[:_MAX_CHARS].lower()):
        kind = part.lastgroup
        if kind == "name":
            addressee, is_loose = "" if part["name"] in _ALL_AGENTS else part["name"], False
        elif kind == "comma":
            is_loose = addressee != agent
        elif kind == "date":
            seconds = _seconds(part["date"])
            directives |= set() if seconds is None else {_addressed(addressee, f"unavailable_after:{seconds}")}
        elif kind == "word" and part["word"] in _KNOWN:
            directives.add(_addressed("" if is_loose and part["word"] in _TRAINING else addressee, part["word"]))
        elif kind and not addressee:  # keep an unknown directive only if it is for every crawler
            directives.add(part[0] if kind == "word" else f"{part['limit']}:{part['value']}")
    return frozenset(directives)


def header_directives(robots_tags: Iterable[str], reservations: Iterable[str] = ()) -> frozenset[str]:
    """Return the directives of a response from the values of its ``X-Robots-Tag`` and ``tdm-reservation`` headers."""
    directives = frozenset[str]().union(*map(read_directives, robots_tags))
    return directives.union(*map(tdm_directives, ",".join(reservations).split(",")))


def tdm_directives(value: str) -> frozenset[str]:
    """Return a value of ``tdm-reservation`` as a set of one directive, or an empty set if the value is invalid."""
    reserved = tdm_reserved(value)
    return frozenset() if reserved is None else frozenset({f"tdm-reservation:{int(reserved)}"})


def together(header: Set[str], page: Set[str]) -> frozenset[str]:
    """Return the directives of a response and its page. The page's ``tdm-reservation`` overrides the header's."""
    return frozenset(page | (header - _TDM if page & _TDM else header))


def objection(directives: Set[str], words: Set[str], agent: str, now: float) -> str:
    """Return the directive addressed to us that is one of ``words``, or "" if there is none.

    Args:
        words: `NO_IMAGES` or `NO_LINKS`.
        agent: our product token, or the whole ``User-Agent``.
        now: seconds since the epoch; after its date, ``unavailable_after`` means ``noindex``.
    """
    ours = product_tokens(agent)
    for directive in sorted(directives):
        name, _, word = directive.partition(":")
        if directive in words or (word in words and names(name) & ours):
            return directive
        until = _UNTIL.fullmatch(directive) if "noindex" in words else None
        if until and int(until[2]) <= now and (until[1] is None or names(until[1]) & ours):
            return directive
    return ""


def _addressed(agent: str, directive: str) -> str:
    return f"{agent}:{directive}" if agent else directive


def _seconds(date: str) -> int | None:
    """Return a date (RFC 822, RFC 850, ISO 8601; UTC if it has no zone) as seconds since the epoch, or None."""
    try:
        if date[4:5] == "-":
            moment = datetime.fromisoformat(date.upper())
        else:
            moment = parsedate_to_datetime(date if ":" in date else f"{date} 00:00")
        return max(0, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
