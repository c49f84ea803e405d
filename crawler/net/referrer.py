"""The ``Referer`` header of a request, within the referrer policy of the page that names the URL. Pure.

Sources: https://www.w3.org/TR/referrer-policy/ and https://html.spec.whatwg.org/multipage/urls-and-fetching.html#referrer-policy-attributes.
"""

from collections.abc import Mapping
from typing import get_args

from crawler.model import ReferrerPolicy
from crawler.urls import canonicalize, origin

_POLICIES: Mapping[str, ReferrerPolicy] = {word: word for word in get_args(ReferrerPolicy) if word}
#: Legacy keywords that ``<meta>`` still accepts.
_LEGACY: Mapping[str, ReferrerPolicy] = {
    "never": "no-referrer",
    "default": "strict-origin-when-cross-origin",
    "always": "unsafe-url",
    "origin-when-crossorigin": "origin-when-cross-origin",
}
#: Policies that send nothing from https to http.
_STRICT = frozenset({"no-referrer-when-downgrade", "strict-origin", "strict-origin-when-cross-origin"})
#: Longest ``Referer`` with more than the origin (W3C Referrer Policy §8.4), and the characters read of a policy header.
_MAX_REFERRER = 4_096
_MAX_HEADER = 1_000


def header_policy(value: str) -> ReferrerPolicy:
    """Return the policy of a ``Referrer-Policy`` header, which is its last known keyword, or "" if it has none."""
    words = [word.strip().lower() for word in value[:_MAX_HEADER].split(",")]
    return next((_POLICIES[word] for word in reversed(words) if word in _POLICIES), "")


def meta_policy(content: str) -> ReferrerPolicy:
    """Return the policy of ``<meta name=referrer>``, or "" if it has none."""
    word = content.strip().lower()
    return _LEGACY.get(word) or _POLICIES.get(word, "")


def element_policy(attributes: Mapping[str, str]) -> ReferrerPolicy:
    """Return the policy of an element for the URLs in it, or "" if the policy of its page applies."""
    if "rel" in attributes and "noreferrer" in attributes["rel"].lower().split():
        return "no-referrer"
    return _POLICIES.get(attributes["referrerpolicy"].strip().lower(), "") if "referrerpolicy" in attributes else ""


def referrer_for(page: str, location: str, policy: ReferrerPolicy = "") -> str:
    """Return the ``Referer`` to send to ``location`` from ``page``, or "" to send none.

    Without a policy, the default of browsers applies, ``strict-origin-when-cross-origin``: the full URL within its
    origin, only the origin elsewhere, nothing from https to http. The value never has a fragment or credentials.
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
    page_origin = origin(url)
    origin_only = f"{page_origin}/"
    full = url if len(url) <= _MAX_REFERRER else origin_only
    if policy in ("unsafe-url", "no-referrer-when-downgrade"):
        return full
    if policy in ("origin", "strict-origin"):
        return origin_only
    if page_origin == origin(location):
        return full
    return "" if policy == "same-origin" else origin_only
