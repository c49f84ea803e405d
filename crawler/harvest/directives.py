"""What a page asks of crawlers in its ``<meta>`` elements.

`crawler.consent` knows what the directives mean; here is who speaks in which element.
"""

import re

from crawler.consent import read_directives, tdm_directives

#: Names of crawlers; a meta name that is none, such as ``og:title``, can't address us.
_AGENT = re.compile(r"[a-z0-9_-]{1,64}")


def parse_directives(name: str, content: str) -> frozenset[str]:
    """Directives of one ``<meta name= content=>``; empty where it is about something else."""
    name = name.strip().lower()
    if name == "robots":
        return read_directives(content)
    if name == "tdm-reservation":
        return tdm_directives(content)
    return read_directives(content, name) if _AGENT.fullmatch(name) else frozenset()
