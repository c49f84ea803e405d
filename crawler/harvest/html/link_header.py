"""Parsers for URLs in ``Link`` headers, and in ``Refresh`` headers and ``<meta http-equiv=refresh>``."""

import re

#: Most characters of a header or an attribute that are read, and most links of one header.
_MAX_TEXT = 65_536
_MAX_LINKS = 200
_QUOTED = r'"(?:[^"\\]++|\\.)*+"?'
_LINK = re.compile(rf"[\s,]*+<([^>]*+)>((?:[^,\"]++|{_QUOTED})*+)", re.DOTALL)
_PARAMETER = re.compile(rf";\s*+([^\s=;\"]++)(?:\s*+=\s*+({_QUOTED}|[^;\"]*+))?+", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_REFRESH = re.compile(
    r"""\s*+ (?: [0-9]++[0-9.]*+ | \.[0-9.]*+ ) (?: \s*+[;,]\s*+ | \s++ ) (?:url\s*+=\s*+)?+
    (?: "([^"]*+) | '([^']*+) | (.++) )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def link_header(value: str) -> tuple[dict[str, str], ...]:
    """Return the links of a ``Link`` header, each as the attributes of the equivalent ``<link>`` element.

    Source: https://www.rfc-editor.org/rfc/rfc8288#section-3. ``href`` is as written, not resolved.
    """
    links: list[dict[str, str]] = []
    position = 0
    value = value[:_MAX_TEXT]
    while len(links) < _MAX_LINKS and (link := _LINK.match(value, position)):
        attributes = {"href": link[1].strip()}
        for name, content in _PARAMETER.findall(link[2]):
            attributes.setdefault(name.lower(), _unquoted(content.strip()))
        links.append(attributes)
        position = link.end()
    return tuple(links)


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(r"\1", text[1:].removesuffix('"')) if text.startswith('"') else text


def refresh_target(content: str) -> str:
    """Return the target of ``<meta http-equiv=refresh>`` as written, or "" if it only reloads the page.

    Source: https://html.spec.whatwg.org/multipage/semantics.html#shared-declarative-refresh-steps.
    """
    match = _REFRESH.match(content[:_MAX_TEXT])
    return next((group.strip() for group in match.groups() if group), "") if match else ""
