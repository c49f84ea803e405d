"""From the bytes of a feed or sitemap to text that an XML parser reads to its end. Pure.

Browsers give up at the first fault of such a file. Its readers do not, and so its writers make many.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from html.entities import html5

from crawler.harvest.charset import decode

#: Bytes that are read, after decompression: what one sitemap may hold.
MAX_BYTES = 50 * 2**20
#: Character references of one file that are looked at.
MAX_REFERENCES = 1_000_000

#: Bytes in one piece of the text.
_PIECE = 65_536
#: An ampersand and, where it begins one, the rest of a reference by name.
_REFERENCE = re.compile(r"&(?!#)([A-Za-z][A-Za-z0-9]{0,31};)?")
#: Longest reference, so that none is cut in two.
_MAX_REFERENCE = 40
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


def _inflated(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces, decompressed where it is gzip."""
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
    """``data`` as text, in pieces.

    Raises:
        ValueError: it is longer than `MAX_BYTES`.
    """
    decoder: codecs.IncrementalDecoder | None = None
    length = 0
    for piece in _inflated(data):
        length += len(piece)
        if length > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        if decoder is None:
            piece = piece.lstrip()
            # The last character of a piece may be cut in two; up to its last tag it is whole.
            _, codec = decode(piece[: piece.rfind(b">") + 1], content_type)
            decoder = codecs.getincrementaldecoder(codec)("replace") if piece else None
            yield decoder.decode(piece).removeprefix("\ufeff") if decoder else ""
        else:
            yield decoder.decode(piece)


def repaired(texts: Iterable[str]) -> Iterator[str]:
    """``texts`` with all references by number: the parser forgets those by name after the first fault of a file.

    An ampersand that begins none stands for itself, and so does the name of an entity that HTML does not know: what
    a file declares itself is never expanded. HTML in a CDATA section means the same afterwards.

    Raises:
        ValueError: there are more references than `MAX_REFERENCES`.
    """
    rest = ""
    references = 0
    for piece in texts:
        text = rest + piece
        end = text.rfind("&", max(0, len(text) - _MAX_REFERENCE))
        text, rest = (text[:end], text[end:]) if end >= 0 else (text, "")
        references += text.count("&")
        if references > MAX_REFERENCES:
            raise ValueError(f"more than {MAX_REFERENCES} references")
        yield _NO_XML.sub("\ufffd", _REFERENCE.sub(_numbered, text))
    yield _NO_XML.sub("\ufffd", _REFERENCE.sub(_numbered, rest))


def _numbered(match: re.Match[str]) -> str:
    name = match[1] or ""
    letters = html5.get(name)
    return "".join(f"&#{ord(letter)};" for letter in letters) if letters else f"&#38;{name}"
