"""Decoding and repair of feeds and sitemaps, so that an XML parser can read them to the end. Pure.

Browsers stop at the first error of such a file. Feed readers do not, so many feeds have errors.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from html.entities import html5

from crawler.harvest.charset import decode

#: Most bytes that are read, after decompression: the limit of a sitemap.
MAX_BYTES = 50 * 2**20
#: Most character references of one file.
_MAX_REFERENCES = 1_000_000

#: Bytes in one piece of the text.
_PIECE = 65_536
#: An ampersand, with the rest of a named reference if it begins one.
_REFERENCE = re.compile(r"&(?!#)([A-Za-z][A-Za-z0-9]{0,31};)?")
#: Longest reference: a piece is never cut inside one.
_MAX_REFERENCE = 40
_INVALID_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+"  # slow to compile, and rarely used


def _inflated(data: bytes) -> Iterator[bytes]:
    """Yield ``data`` in pieces, decompressed if it is gzip."""
    inflate = zlib.decompressobj(wbits=31) if data.startswith(b"\x1f\x8b") else None
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        if inflate is None:
            yield piece
            continue
        while not inflate.eof and (output := inflate.decompress(piece, _PIECE)):
            yield output
            piece = inflate.unconsumed_tail


def decoded(data: bytes, content_type: str) -> Iterator[str]:
    """Yield ``data`` as text, in pieces.

    Raises:
        ValueError: the data is longer than `MAX_BYTES`.
    """
    decoder: codecs.IncrementalDecoder | None = None
    length = 0
    for piece in _inflated(data):
        length += len(piece)
        if length > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        if decoder is None:
            piece = piece.lstrip()
            # The piece may end inside a character, but up to its last tag it is complete.
            _, codec = decode(piece[: piece.rfind(b">") + 1], content_type)
            decoder = codecs.getincrementaldecoder(codec)("replace") if piece else None
            yield decoder.decode(piece).removeprefix("\ufeff") if decoder else ""
        else:
            yield decoder.decode(piece)


def repaired(texts: Iterable[str]) -> Iterator[str]:
    """Yield ``texts`` with named references made numeric: after an error in the file, the parser drops named ones.

    An ampersand outside of a reference is escaped, and so is that of an entity that HTML does not define: entities
    that the file declares are never expanded. HTML in a CDATA section keeps its meaning.

    Raises:
        ValueError: the texts have more than `_MAX_REFERENCES` references.
    """
    rest = ""
    references = 0
    for piece in texts:
        text = rest + piece
        end = text.rfind("&", max(0, len(text) - _MAX_REFERENCE))
        text, rest = (text[:end], text[end:]) if end >= 0 else (text, "")
        references += text.count("&")
        if references > _MAX_REFERENCES:
            raise ValueError(f"more than {_MAX_REFERENCES} references")
        yield re.sub(_INVALID_XML, "\ufffd", _REFERENCE.sub(_numbered, text))
    yield re.sub(_INVALID_XML, "\ufffd", _REFERENCE.sub(_numbered, rest))


def _numbered(match: re.Match[str]) -> str:
    name = match[1] or ""
    letters = html5.get(name)
    return "".join(f"&#{ord(letter)};" for letter in letters) if letters else f"&#38;{name}"
