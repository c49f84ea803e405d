"""What the ``Referer`` of a request says: as much as the page allows that names it. Pure.

Sources: https://www.w3.org/TR/referrer-policy/ and https://html.spec.whatwg.org/multipage/urls-and-fetching.html#referrer-policy-attributes.
"""

from collections.abc import Mapping
from typing import get_args

from crawler.model import ReferrerPolicy
from crawler.urls import canonicalize, origin

_POLICIES: Mapping[str, ReferrerPolicy] = {word: word for word in get_args(ReferrerPolicy) if word}
#: Words of old that ``<meta>`` still knows.
_OLD: Mapping[str, ReferrerPolicy] = {
    "never": "no-referrer",
    "default": "strict-origin-when-cross-origin",
    "always": "unsafe-url",
    "origin-when-crossorigin": "origin-when-cross-origin",
}
#: Policies that send nothing on the way out of TLS.
_STRICT = frozenset({"no-referrer-when-downgrade", "strict-origin", "strict-origin-when-cross-origin"})
#: Longest ``Referer`` with more than the origin (W3C Referrer Policy §8.4), and characters of a header that are read.
_MAX_REFERRER = 4_096
_MAX_HEADER = 1_000


def header_policy(value: str) -> ReferrerPolicy:
    """The policy that a ``Referrer-Policy`` header sets: its last word that is known; empty: none."""
    words = [word.strip().lower() for word in value[:_MAX_HEADER].split(",")]
    return next((_POLICIES[word] for word in reversed(words) if word in _POLICIES), "")


def meta_policy(content: str) -> ReferrerPolicy:
    """The policy that ``<meta name=referrer>`` sets; empty: none."""
    word = content.strip().lower()
    return _OLD.get(word) or _POLICIES.get(word, "")


def element_policy(attributes: Mapping[str, str]) -> ReferrerPolicy:
    """The policy of an element for what it names; empty: that of its page."""
    if "rel" in attributes and "noreferrer" in attributes["rel"].lower().split():
        return "no-referrer"
    return _POLICIES.get(attributes.get("referrerpolicy", "").strip().lower(), "")


def referrer_for(page: str, location: str, policy: ReferrerPolicy = "") -> str:
    """What is sent as ``Referer`` to ``location`` from ``page``; empty: nothing.

    Without a policy it is that of browsers, ``strict-origin-when-cross-origin``: all of the URL within its origin, the
    bare origin elsewhere, nothing where it would leave TLS. Never a fragment, never credentials.
    """
    policy = policy or "strict-origin-when-cross-origin"
    if policy == "no-referrer" or not page.startswith(("http://", "https://")):
        return ""
    if policy in _STRICT and page.startswith("https:") and location.startswith("http:"):
        return ""
    try:
        url = canonicalize(page)
    except ValueError:
        return ""
    here = origin(url)
    whole = url if len(url) <= _MAX_REFERRER else f"{here}/"
    if policy in ("unsafe-url", "no-referrer-when-downgrade"):
        return whole
    if policy in ("origin", "strict-origin"):
        return f"{here}/"
    if here == origin(location):
        return whole
    return "" if policy == "same-origin" else f"{here}/"
