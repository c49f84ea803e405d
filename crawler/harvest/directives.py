"""What a page asks of robots, in its ``<meta>`` elements and in the header ``X-Robots-Tag``.

Source: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag, with the words that artists'
sites use against training on their pictures. Directives are lower-case: ``noindex`` is meant for everyone,
``agent:noindex`` for one crawler.
"""

import re
from collections.abc import Set

#: Directives that ask to leave the images of a page alone, and those that ask not to follow its links.
NO_IMAGES = frozenset({"noindex", "none", "noimageindex", "noai", "noimageai", "noml"})
NO_LINKS = frozenset({"nofollow", "none"})

_KNOWN = NO_IMAGES | NO_LINKS
#: Characters of one attribute or header that are read.
_MAX_CONTENT = 4_000
#: Names of crawlers; a meta name that is none, such as ``og:title``, can't address us.
_AGENT = re.compile(r"[a-z0-9_-]{1,64}")


def parse_directives(name: str, content: str) -> frozenset[str]:
    """Directives of one ``<meta name= content=>``; empty where it is about something else."""
    name = name.strip().lower()
    words: set[str] = set()
    for piece in content[:_MAX_CONTENT].lower().split(","):
        # A directive with a value is one word, so that ``max-image-preview: none`` does not read as ``none``.
        words.update(["".join(piece.split())] if ":" in piece else piece.split())
    if name == "robots":
        return frozenset(words)
    return frozenset(f"{name}:{word}" for word in words & _KNOWN) if _AGENT.fullmatch(name) else frozenset()


def parse_header(value: str) -> frozenset[str]:
    """Directives of ``X-Robots-Tag`` headers, joined with commas.

    The join hides where a header that names an agent ends, so the name counts for the one directive it stands
    before: rather a directive too many is obeyed than one too few.
    """
    found: set[str] = set()
    for piece in value[:_MAX_CONTENT].lower().split(","):
        agent, colon, words = (part.strip() for part in piece.rpartition(":"))
        if not colon:
            found.update(words.split())
        elif _AGENT.fullmatch(agent):
            found.update(f"{agent}:{word}" for word in words.split() if word in _KNOWN)
    return frozenset(found)


def forbids(directives: Set[str], forbidden: Set[str], agent: str) -> bool:
    """Whether ``directives`` hold one of ``forbidden`` for everyone or for ``agent``."""
    return any(word in directives or f"{agent.lower()}:{word}" in directives for word in forbidden)
