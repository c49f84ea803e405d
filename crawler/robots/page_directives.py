"""Robots directives in a page's ``<meta>`` elements.

`crawler.robots.directives` defines the meaning of the directives. This module decides which elements contain them, and
for which crawler.
"""

import re

from crawler.robots.directives import read_directives, tdm_directives

#: Names of crawlers. Another meta name, such as ``og:title``, cannot address us.
_AGENT = re.compile(r"[a-z0-9_-]{1,64}")


def parse_directives(name: str, content: str) -> frozenset[str]:
    """Return the directives of one ``<meta name= content=>``, or an empty set if it has another subject."""
    name = name.strip().lower()
    if name == "robots":
        return read_directives(content)
    if name == "tdm-reservation":
        return tdm_directives(content)
    return read_directives(content, name) if _AGENT.fullmatch(name) else frozenset()
