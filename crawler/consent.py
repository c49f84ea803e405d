"""What an answer or a page asks of crawlers: ``X-Robots-Tag``, ``<meta name=robots>``, ``tdm-reservation``; pure.

Sources: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag, `crawler.tdm`, and the words
that artists' sites use against training on their pictures.

* ``noindex none noimageindex``, ``noai noimageai noml``, ``unavailable_after: <date>`` once that is past, and
  ``tdm-reservation: 1``: the pictures of a page are left alone, and so is a picture whose own answer says it.
* ``nofollow none``: the links of a page are not followed.

Everything else asks nothing of us. Of contrary directives the strictest holds, but for ``tdm-reservation``, of which
the page's word counts more than its header's.

Directives are kept as lower-case text: ``noindex`` is meant for everyone, ``agent:noindex`` for one crawler;
``unavailable_after:<seconds since the epoch>``, ``tdm-reservation:1``.
"""

import functools
import re
from collections.abc import Iterable, Set
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from crawler.tdm import tdm_reserved

_TRAINING = frozenset({"noai", "noimageai", "noml"})
#: Directives that ask to leave pictures alone, those of the page or the answer itself; and those about links.
NO_IMAGES = frozenset({"noindex", "none", "noimageindex", "tdm-reservation:1", *_TRAINING})
NO_LINKS = frozenset({"nofollow", "none"})

_KNOWN = NO_IMAGES | NO_LINKS
_TDM = frozenset({"tdm-reservation:0", "tdm-reservation:1"})
_EVERYBODY = frozenset({"*", "robots"})
#: Characters of one attribute or header that are read.
_MAX_CHARS = 4_000

_TIME = r"(?:t|\s+)\d{1,2}:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:\s*(?:z|gmt|utc?|[ecmp][sd]t|[+-]\d\d:?\d\d)\b)?"
_DATE = rf"(?:(?:[a-z]{{3,9}},?\s+)?\d{{1,2}}[ -][a-z]{{3,9}}[ -]\d{{2,4}}|\d{{4}}-\d\d-\d\d)(?!\d)(?:{_TIME})?"
#: One part of a list of directives. Values come first, so that no part of a date or of a limit reads as a directive.
_PART = re.compile(
    rf"(?P<comma>,)|unavailable_after\s*+:\s*+(?P<date>{_DATE})?|(?P<limit>max-[a-z-]++)\s*+:\s*+(?P<value>[\w.+-]*+)"
    r"|(?P<name>[a-z*][\w*/.-]*+)\s*+:|(?P<word>[\w-]++)",
    re.ASCII,
)
_UNTIL = re.compile(r"(?:([^:]+):)?unavailable_after:(\d+)")

#: The name of an agent: RFC 9309 §2.2.1 allows letters, ``_`` and ``-``; digits occur.
_TOKEN = re.compile(r"[\w-]+", re.ASCII)
_PRODUCT = re.compile(r"(?:^|[\s(;,])([a-z_-][\w-]*)/\d", re.ASCII)


@functools.lru_cache(maxsize=64)
def product_tokens(user_agent: str) -> frozenset[str]:
    """Product tokens of a ``User-Agent`` header, lower-case: its first word and all that have a version."""
    name = user_agent.strip().lower()
    first = _TOKEN.match(name)
    tokens = frozenset(_PRODUCT.findall(name)) | ({first[0]} if first else set())
    return tokens - {"mozilla"} or tokens  # which names nobody, unless it is all there is


def names(value: str) -> frozenset[str]:
    """The token by which a site names an agent, with and without digits at its end (``Foobot/2``, ``Foobot2``)."""
    match = _TOKEN.match(value.lower())
    return frozenset({match[0], match[0].rstrip("0123456789")}) if match else frozenset()


def read_directives(text: str, agent: str = "") -> frozenset[str]:
    """The directives of one header or attribute, meant for ``agent`` (empty: for everyone).

    A name, as in ``otherbot: noindex, nofollow``, binds what follows it in its header. But proxies may join headers
    with commas (RFC 9110 §5.3), so behind a comma the words against training, which no search engine knows, count for
    everyone: of those, rather one too many is obeyed than one too few.
    """
    found: set[str] = set()
    meant, is_loose = agent, False
    for part in _PART.finditer(text[:_MAX_CHARS].lower()):
        kind = part.lastgroup
        if kind == "name":
            meant, is_loose = "" if part["name"] in _EVERYBODY else part["name"], False
        elif kind == "comma":
            is_loose = meant != agent
        elif kind == "date":
            seconds = _seconds(part["date"])
            found |= set() if seconds is None else {_bound(meant, f"unavailable_after:{seconds}")}
        elif kind == "word" and part["word"] in _KNOWN:
            found.add(_bound("" if is_loose and part["word"] in _TRAINING else meant, part["word"]))
        elif kind and not meant:  # what we do not know is kept only where it is meant for everyone
            found.add(part[0] if kind == "word" else f"{part['limit']}:{part['value']}")
    return frozenset(found)


def header_directives(robots_tags: Iterable[str], reservations: Iterable[str] = ()) -> frozenset[str]:
    """The directives of an answer: the values of its headers ``X-Robots-Tag`` and ``tdm-reservation``, one by one."""
    found = frozenset[str]().union(*map(read_directives, robots_tags))
    return found.union(*map(tdm_directives, ",".join(reservations).split(",")))


def tdm_directives(value: str) -> frozenset[str]:
    """A value of ``tdm-reservation`` as a directive; empty where it says nothing that counts."""
    reserved = tdm_reserved(value)
    return frozenset() if reserved is None else frozenset({f"tdm-reservation:{int(reserved)}"})


def together(header: Set[str], page: Set[str]) -> frozenset[str]:
    """What an answer and the page in it ask for, where on ``tdm-reservation`` the page has the last word."""
    return frozenset(page | (header - _TDM if page & _TDM else header))


def objection(directives: Set[str], words: Set[str], agent: str, now: float) -> str:
    """The directive that asks us for one of ``words``; empty: none does.

    Args:
        words: `NO_IMAGES` or `NO_LINKS`.
        agent: our product token, or the whole ``User-Agent``.
        now: seconds since the epoch; ``unavailable_after`` means ``noindex`` from then on.
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


def _bound(agent: str, directive: str) -> str:
    return f"{agent}:{directive}" if agent else directive


def _seconds(date: str) -> int | None:
    """A date (RFC 822, RFC 850, ISO 8601; UTC where it names no zone) as seconds since the epoch."""
    try:
        if date[4:5] == "-":
            moment = datetime.fromisoformat(date.upper())
        else:
            moment = parsedate_to_datetime(date if ":" in date else f"{date} 00:00")
        return max(0, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
