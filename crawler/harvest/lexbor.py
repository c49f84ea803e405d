"""HTML text to the tree that browsers build, by way of selectolax and its engine lexbor: an extra, many times as fast.

The engine has no limits, and the rules of browsers cost quadratic time and memory on markup that nobody writes by
accident. Pages that might hold such markup are left to `crawler.harvest.tree`, which has limits.

On pages that nest well both name the same. They differ where markup is wrong: browsers, and so this parser, drop forms
in forms, cells outside of tables and what stands beside frames, and go on reading text after ``<iframe/>``; lxml does
not.

Source of the rules: https://html.spec.whatwg.org/multipage/parsing.html#tree-construction.
"""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler.harvest import tree
from crawler.harvest.flat import FRAMES, TEXTS
from crawler.harvest.stream import MAX_DEPTH, MAX_ELEMENTS, Attributes, Visitor, shorten

#: ``<`` signs of a page: a tag may look at every element that is open, and so at as many.
_MAX_TAGS = 25_000
#: Elements that may come into being because formatting, such as ``<b>``, goes on in the next paragraph.
_MAX_REPEATED = 2_000_000
#: Attributes of one element; each is compared with those before it.
_MAX_ATTRIBUTES = 300
#: Names in one page, which are kept in a table that does not grow; and the shortest page with so many.
_MAX_NAMES = 50_000
_MANY_NAMES = 2**18

#: One attribute, read exactly as the standard's tokenizer reads it; possessive, so that nothing is read twice.
_ATTRIBUTE = r"""[\s/]*+ [^\s/>] [^\s/>=]*+ (?: \s*+ = \s*+ (?: "[^"]*+"?+ | '[^']*+'?+ | [^\s>]*+ ) )?+"""
_TOO_MANY_ATTRIBUTES = re.compile(rf"<[a-zA-Z][^\s/>]*+ (?:{_ATTRIBUTE}){{{_MAX_ATTRIBUTES}}}", re.VERBOSE)
#: What an attribute's name may be.
_NAME = re.compile(r"[^\s/>=]++")
#: A ``<base>`` that browsers take for text, and that would end the ``<noscript>`` in a head around it.
_SPARE_BASE = re.compile(r"<noscript(?=[\s/>])[^<]*+(?:<(?!/?noscript|base[\s/])[^<]*+)*+<base", re.IGNORECASE)
#: A start tag of formatting: all of it where it ends beyond doubt, else its name.
_NAMES = "b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u"
_FORMATTING = re.compile(
    rf"""<( (?:{_NAMES}) (?:\s+[\w-]+="[^"<>]*")* \s*> | (?:{_NAMES})(?=[\s/>]) )""", re.IGNORECASE | re.VERBOSE
)


def feed(text: str, visitor: Visitor) -> bool:
    """Tell ``visitor`` what lexbor makes of ``text``, and the caller whether a limit cut something off."""
    shortened = shorten(text)
    if not _is_harmless(shortened):
        return tree.feed(text, visitor)
    root = LexborHTMLParser(shortened).root
    return root is not None and _tell(root, visitor)


def _tell(root: LexborNode, visitor: Visitor) -> bool:
    """Walk the tree, without recursion; whether a limit ended the walk, or what is nested too deep was told flat."""
    cut = is_full = False
    elements = depth = 0
    pending: list[LexborNode | None] = [root]  # what is to be told; None: an element ends
    while pending:
        node = pending.pop()
        if node is None:
            depth -= 1
            visitor.leave()
            continue
        is_full = is_full or elements == MAX_ELEMENTS
        if is_full or visitor.full:
            continue  # only ends are told any more
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
    return attributes  # type: ignore[return-value]  # there is no None in it


def _content(template: LexborNode) -> LexborNode | None:
    """The first node within a template, which is a tree of its own."""
    fragments = template.template_fragments()
    return fragments[0].first_child if fragments else None


def _is_harmless(text: str) -> bool:
    """Whether a parser that keeps to the rules takes neither long over ``text`` nor `_SPARE_BASE` for a base.

    Some harmless pages are refused.
    """
    tags = text.count("<")
    if tags > _MAX_TAGS or _TOO_MANY_ATTRIBUTES.search(text) or _SPARE_BASE.search(text):
        return False
    if len(text) > _MANY_NAMES and len(set(_NAME.findall(text))) > _MAX_NAMES:
        return False
    formatting = _FORMATTING.findall(text)
    whole = {tag for tag in formatting if tag.endswith(">")}
    doubtful = sum(not tag.endswith(">") for tag in formatting)
    return (3 * len(whole) + doubtful) * tags <= _MAX_REPEATED  # no more than three that are equal go on
