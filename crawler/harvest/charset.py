"""Decoding of pages as browsers do it, and encoding of a URL's query in the page's own encoding.

Sources: https://encoding.spec.whatwg.org/ (labels, through webencodings) and
https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from email.message import Message
from functools import cache, lru_cache
from itertools import chain
from urllib.parse import quote

import webencodings  # type: ignore[import-untyped]  # published without type hints

#: Encodings of pages whose queries are encoded in UTF-8.
_UTF8_OUTPUT = frozenset({"utf-8", "utf-16-le", "utf-16-be", "replacement"})
#: Codec → wider codec that the standard uses for the same label.
_WIDER = {"gbk": "gb18030"}
#: Prefixes of codecs with bytes that are undefined in Python, but C1 controls in browsers.
_INCOMPLETE = ("cp125", "cp874")
#: Most decoding errors of one page that are handled one by one.
_MAX_ERRORS = 10_000
#: ASCII characters that are not percent-encoded in a query.
_QUERY_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "\"#<>'")
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"<meta(?=[\s/])", re.IGNORECASE)
#: One attribute; possessive, so that nothing is read twice.
_ATTRIBUTE = re.compile(
    rb"""[\s/]*+ ([^\s/>][^\s/>=]*+) (?: \s*+=\s*+ (?: "([^"]*+)"? | '([^']*+)'? | ([^\s>]*+) ) )?+""", re.VERBOSE
)
_CHARSET = re.compile(rb"charset\s*=\s*(?:\"([^\"]+)\"|'([^']+)'|([^\s;\"']+))", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"<\?xml\s[^>]{0,256}?\sencoding\s*=\s*[\"']([^\"'>]+)")
#: Bytes searched for a declaration: enough for a long head. The standard requires 1,024, but browsers read more.
_PRESCAN = 65_536
#: An item of a comma-separated list, and a media type.
_LISTED = re.compile(r"(?:[^,\"]++|\"[^\"]*+\"?+)++")
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]++/[!#$%&'*+.^_`|~0-9a-z-]++")
#: Most characters of a Content-Type header that are read.
_MAX_HEADER = 1_000
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))


def decode(body: bytes | str, content_type: str | None) -> tuple[str, str]:
    """Return the text of a page and the Python name of its encoding. Invalid bytes become U+FFFD.

    The encoding is the first of: byte order mark, the header's charset, the page's own declaration, UTF-8 if the
    body is valid UTF-8, windows-1252.
    """
    if isinstance(body, str):
        return body.encode("utf-8", "replace").decode("utf-8").removeprefix("\ufeff"), "utf-8"
    for mark, unicode in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(unicode, "replace"), unicode
    codec = _codec(charset_of(content_type)) or _declared(body)
    if codec == "replacement":  # encodings used only in attacks today: the whole body becomes one U+FFFD
        return "\ufffd", codec
    if codec:
        return _decoded(body, codec), codec
    try:
        return body.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return _decoded(body, "cp1252"), "cp1252"


def _decoded(body: bytes, codec: str) -> str:
    """Decode text by the standard, also where Python's codec differs from it."""
    if codec.startswith(_INCOMPLETE):
        return codecs.charmap_decode(body, "replace", _letters(codec))[0]
    codec = _WIDER.get(codec, codec)
    text = body.decode(codec, "replace")
    if codec in _ERROR_HANDLERS and 0 < text.count("\ufffd") <= _MAX_ERRORS:
        return body.decode(codec, _ERROR_HANDLERS[codec])
    return text


@cache
def _letters(codec: str) -> str:
    """Return the character of each byte. An undefined byte below 0xA0 is the control character of the same number."""
    letters = bytes(range(256)).decode(codec, "replace")
    return "".join(chr(n) if letter == "\ufffd" and n < 0xA0 else letter for n, letter in enumerate(letters))


def _euro(error: UnicodeError) -> tuple[str, int]:
    """Decode 0x80 as the euro sign (https://encoding.spec.whatwg.org/#gb18030-decoder)."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return ("€", error.start + 1) if error.object[error.start] == 0x80 else ("\ufffd", error.end)


def _row_13(error: UnicodeError) -> tuple[str, int]:
    """Decode row 13 of JIS X 0208, which Python supports in Shift_JIS only.

    Source: https://encoding.spec.whatwg.org/#index-jis0208.
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    lead, cell = (*error.object[error.start : error.start + 2], 0, 0)[:2]
    if lead != 0xAD or not 0xA1 <= cell <= 0xFE:
        return "\ufffd", error.end
    trail = cell - 0xA1 + (0x41 if cell >= 0xE0 else 0x40)
    return bytes((0x87, trail)).decode("cp932", "replace")[0], error.start + 2


#: Codec → name of the error handler that completes it.
_ERROR_HANDLERS = {"gb18030": "crawler.euro", "euc_jp": "crawler.row-13"}
codecs.register_error("crawler.euro", _euro)
codecs.register_error("crawler.row-13", _row_13)


def encode_query(reference: str, codec: str) -> str:
    """Return ``reference`` with the non-ASCII characters of its query percent-encoded in the page's encoding.

    Browsers do the same (https://url.spec.whatwg.org/#query-state). ``codec`` is the one that `decode` returned.
    """
    if codec in _UTF8_OUTPUT or reference.isascii():
        return reference
    reference, hash_mark, fragment = reference.partition("#")
    path, mark, query = reference.partition("?")
    query = _NON_ASCII.sub(lambda match: _percent(match[0], codec), query)
    return f"{path}{mark}{query}{hash_mark}{fragment}"


def _percent(text: str, codec: str) -> str:
    try:
        return quote(text.encode(codec), safe=_QUERY_SAFE)
    except UnicodeEncodeError:
        if len(text) == 1:
            byte = b"\x80" if text == "€" else text.encode("latin-1", "ignore")
            is_byte = byte != b"" and _decoded(byte, codec) == text  # Python can decode it here, but not encode it
            return quote(byte) if is_byte else f"%26%23{ord(text)}%3B"
        return "".join(_percent(letter, codec) for letter in text)


def content_type_of(values: Iterable[str]) -> str:
    """Return the last valid media type of several ``Content-Type`` headers, or of a list in one header.

    The charset of an earlier value of the same type is kept (https://fetch.spec.whatwg.org/#content-type-header).
    """
    content_type = charset = ""
    for value in values:
        content_type = content_type or value[:_MAX_HEADER].partition(";")[0].strip().lower()  # if no value is valid
        for item in _LISTED.findall(value[:_MAX_HEADER]):
            media_type = item.partition(";")[0].strip().lower()
            if not _MEDIA_TYPE.fullmatch(media_type) or media_type == "*/*":
                continue
            if media_type != content_type.partition(";")[0]:
                charset = ""
            charset = charset_of(item) or charset
            content_type = f'{media_type};charset="{charset}"' if charset else media_type
    return content_type


def charset_of(content_type: str | None) -> str | None:
    """Return the charset parameter of a ``Content-Type`` header, or None."""
    return _charset_of((content_type or "")[:_MAX_HEADER])


@lru_cache(maxsize=256)
def _charset_of(content_type: str) -> str | None:
    message = Message()
    message["content-type"] = re.sub(r"[\r\n]+", " ", content_type)
    charset = message.get_param("charset")
    return charset if isinstance(charset, str) else None


def _declared(body: bytes) -> str | None:
    """Return the codec that the page declares. UTF-16 counts as UTF-8, as the declaration was readable as ASCII."""
    head = _COMMENT.sub(b"", body[:_PRESCAN])
    xml = _XML_CHARSET.match(head)
    labels = chain([xml[1]] if xml else [], _labels(head))
    codec = next((codec for label in labels if (codec := _codec(label.decode("latin-1")))), None)
    return "utf-8" if codec in ("utf-16-le", "utf-16-be") else codec


def _labels(head: bytes) -> Iterator[bytes]:
    """Yield the encodings that the ``<meta>`` elements of a page declare."""
    position = 0
    while meta := _META.search(head, position):
        position = meta.end()
        attributes: dict[bytes, bytes] = {}
        while match := _ATTRIBUTE.match(head, position):
            attributes.setdefault(match[1].lower(), match[2] or match[3] or match[4] or b"")
            position = match.end()
        if b"charset" in attributes:
            yield attributes[b"charset"]
        elif attributes.get(b"http-equiv", b"").strip().lower() == b"content-type":
            content = _CHARSET.search(attributes.get(b"content", b""))
            yield next(filter(None, content.groups()), b"") if content else b""


def _codec(label: str | None) -> str | None:
    """Return Python's name of the encoding with this label, or None if the label is unknown."""
    encoding = webencodings.lookup(label) if label and label.isascii() else None
    if encoding is None or encoding.name == "x-user-defined":  # windows-1252 in a page, by the standard
        return encoding and "cp1252"
    return str(encoding.codec_info.name)
