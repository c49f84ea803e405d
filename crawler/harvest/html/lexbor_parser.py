"""HTML parser that builds the same tree as browsers, with selectolax and its engine lexbor: an optional, faster parser.

The engine has no limits, and the rules of browsers take quadratic time and memory on some hostile markup. Pages that
might hold such markup are passed to `crawler.harvest.html.lxml_parser`, which has limits.

On well-nested pages both parsers give the same results. They differ on invalid markup: browsers, and so this parser,
drop forms in forms, cells outside of tables and content next to frames, and read the rest after ``<iframe/>`` as text;
lxml does not.

Source of the rules: https://html.spec.whatwg.org/multipage/parsing.html#tree-construction.
"""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler.harvest.html import lxml_parser
from crawler.harvest.html.flat_scan import FRAMES, TEXTS
from crawler.harvest.html.visitor import MAX_DEPTH, MAX_ELEMENTS, Attributes, Visitor, shorten

#: Most ``<`` signs of a page: one tag may visit every open element, so their number is limited.
_MAX_TAGS = 25_000
#: Most elements created because formatting, such as ``<b>``, continues in the next paragraph.
_MAX_REPEATED = 2_000_000
#: Most attributes of one element; the engine compares each with those before it.
_MAX_ATTRIBUTES = 300
#: Most names in one page, which the engine keeps in a table that does not grow; and the length from which pages are
#: checked for it.
_MAX_NAMES = 50_000
_MANY_NAMES = 2**18

#: One attribute, read exactly as the standard's tokenizer reads it; possessive, so that nothing is read twice.
_ATTRIBUTE = r"""[\s/]*+ [^\s/>] [^\s/>=]*+ (?: \s*+ = \s*+ (?: "[^"]*+"?+ | '[^']*+'?+ | [^\s>]*+ ) )?+"""
_TOO_MANY_ATTRIBUTES = re.compile(rf"<[a-zA-Z][^\s/>]*+ (?:{_ATTRIBUTE}){{{_MAX_ATTRIBUTES}}}", re.VERBOSE)
#: An attribute's name.
_NAME = re.compile(r"[^\s/>=]++")
#: A ``<base>`` that browsers read as text, but that would end the ``<noscript>`` around it in a head.
_SPARE_BASE = re.compile(r"<noscript(?=[\s/>])[^<]*+(?:<(?!/?noscript|base[\s/])[^<]*+)*+<base", re.IGNORECASE)
#: A start tag of formatting: the whole tag if its end is certain, else only its name.
_NAMES = "b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u"
_FORMATTING = re.compile(
    rf"""<( (?:{_NAMES}) (?:\s+[\w-]+="[^"<>]*")* \s*> | (?:{_NAMES})(?=[\s/>]) )""", re.IGNORECASE | re.VERBOSE
)


def feed(text: str, visitor: Visitor) -> bool:
    """Parse ``text`` with lexbor and report it to ``visitor``. Return whether a limit cut something off."""
    shortened = shorten(text)
    if not _is_harmless(shortened):
        return lxml_parser.feed(text, visitor)
    root = LexborHTMLParser(shortened).root
    return root is not None and _report(root, visitor)


def _report(root: LexborNode, visitor: Visitor) -> bool:
    """Walk the tree without recursion. Return whether a limit ended the walk or flattened elements nested too deep."""
    cut = is_full = False
    elements = depth = 0
    pending: list[LexborNode | None] = [root]  # nodes to report; None: the end of an element
    while pending:
        node = pending.pop()
        if node is None:
            depth -= 1
            visitor.leave()
            continue
        is_full = is_full or elements == MAX_ELEMENTS
        if is_full or visitor.full:
            continue  # from here on, only ends are reported
        if (following := node.next) is not None:
            pending.append(following)
        name = node.tag or "-"
        if name == "-text":
            visitor.text(node.text_content or "")
        elif not name.startswith("-"):
            elements += 1
            visitor.enter(name.lower(), _attributes(node))
            if depth < MAX_DEPTH or name in FRAMES or name in TEXTS:
                depth += 1
                pending.append(None)
            else:
                cut = True
                visitor.leave()
            child = node.first_child or (_content(node) if name == "template" else None)
            if child is not None:
                pending.append(child)
    return cut or is_full


def _attributes(node: LexborNode) -> Attributes:
    attributes = node.attributes
    if None in attributes.values():
        return {name: value or "" for name, value in attributes.items()}
    return attributes  # type: ignore[return-value]  # no value is None


def _content(template: LexborNode) -> LexborNode | None:
    """Return the first node inside a template, which has a tree of its own."""
    fragments = template.template_fragments()
    return fragments[0].first_child if fragments else None


def _is_harmless(text: str) -> bool:
    """Return whether a standard parser reads ``text`` quickly and without mistaking a `_SPARE_BASE` for a base.

    Some harmless pages are refused.
    """
    tags = text.count("<")
    if tags > _MAX_TAGS or _TOO_MANY_ATTRIBUTES.search(text) or _SPARE_BASE.search(text):
        return False
    if len(text) > _MANY_NAMES and len(set(_NAME.findall(text))) > _MAX_NAMES:
        return False
    if 3 * (tags - text.count("</")) * tags <= _MAX_REPEATED:
        return True  # even if every start tag is one of formatting
    formatting = _FORMATTING.findall(text)
    whole = {tag for tag in formatting if tag.endswith(">")}
    doubtful = sum(not tag.endswith(">") for tag in formatting)
    return (3 * len(whole) + doubtful) * tags <= _MAX_REPEATED  # at most three equal ones continue
