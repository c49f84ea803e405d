"""File names of images: by content alone, or readable names from the user's template. Pure.

A name depends only on the record and the template, so it is the same on every machine and in every run of a crawl.
Text from the web never changes the structure of a name: only ``{path}`` creates folders. The hash at the end keeps two
images apart; it has at least 128 bits, so that an attacker can't create two images with one name. The same bytes have
the same name by content everywhere, so a second copy is not a second file.
"""

import hashlib
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes, urlsplit

from crawler.errors import ConfigError
from crawler.model import ImageRecord
from crawler.paths import CHARACTERS, MAX_PATH, MAX_SEGMENT, SEPARATORS, is_like_a_picture, is_safe, is_segment, units
from crawler.urls import host_key

#: Longest template in characters, and largest number of folders in a name; deeper folders of a URL are left out.
_MAX_TEMPLATE = 120
_MAX_FOLDERS = 8

#: Characters of a web text that are used; no name has room for more.
_MAX_TEXT = 1_000
#: Digits of the hash if the template does not end with ``{hash}``.
_SHORT = 32
#: Length limit for `sanitize_filename`, above that of any segment, so that it cuts nothing.
_MAX_SANITIZED = 2**16
_PLAIN = frozenset(string.ascii_letters + string.digits + " ()+,-.=_")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_EXTENSION = re.compile(r"[a-z0-9]{1,8}")
_OUTSIDE = rf"[^{CHARACTERS}]"  # slow to compile, and rarely used
_EXTENSION = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{1,4}\Z")


def digest(data: bytes) -> str:
    """Return the SHA-256 of the bytes as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def image_key(sha256: str, extension: str) -> str:
    """Return the key under which an image is stored: ``images/ab/<sha256>.<extension>``.

    Raises:
        ValueError: ``sha256`` or ``extension`` does not have the form that `digest` and `inspect_image` return.
    """
    if not _SHA256.fullmatch(sha256) or not _FILE_EXTENSION.fullmatch(extension):
        raise ValueError(f"invalid hash or extension: {sha256[:80]!r}, {extension[:20]!r}")
    return f"images/{sha256[:2]}/{sha256}.{extension}"


def _host(url: str) -> str:
    try:
        return host_key(url)
    except ValueError:  # there is no page URL
        return ""


def _path(record: ImageRecord) -> tuple[str, ...]:
    """Return the segments of the URL's path. Each is decoded separately, so that an encoded slash divides nothing."""
    parts = [part for part in urlsplit(record.url).path.split("/") if part]
    segments = [unquote_to_bytes(part[: 3 * _MAX_TEXT]).decode("utf-8", "replace") for part in parts]
    return (*segments[:-1], _EXTENSION.sub("", segments[-1])) if segments else ()


def _day(record: ImageRecord, form: str) -> str:
    return datetime.fromtimestamp(record.fetched_at, UTC).strftime(form)


#: Field of a template → its texts in a record; every field except ``path`` has one text.
_FIELDS: dict[str, Callable[[ImageRecord], tuple[str, ...]]] = {
    "host": lambda record: (_host(record.url),),
    "path": _path,
    "file": lambda record: _path(record)[-1:],
    "alt": lambda record: (record.alt,),
    "title": lambda record: (record.title,),
    "page_host": lambda record: (_host(record.page_url),),
    "page_title": lambda record: (record.page_title,),
    "date": lambda record: (_day(record, "%Y-%m-%d"),),
    "year": lambda record: (_day(record, "%Y"),),
    "month": lambda record: (_day(record, "%m"),),
    "day": lambda record: (_day(record, "%d"),),
    "format": lambda record: (record.format,),
    "width": lambda record: (str(record.width),),
    "height": lambda record: (str(record.height),),
    "hash": lambda record: (record.sha256,),
}


class NameTemplate:
    """The template for the keys under which images are stored.

    Args:
        template: text with `_FIELDS` in braces; ``/`` creates folders. Empty: `image_key`, a name by content alone.

    Raises:
        ConfigError: the template has an unknown field, or characters that can't be in a file name.
    """

    def __init__(self, template: str = "") -> None:
        self._template = template
        self._parts = _parse(template) if template else []
        #: Separator before the hash, and number of its digits: all of them if the template ends with ``{hash}``.
        self._separator, self._digits = ".", _SHORT
        if self._parts and self._parts[-1][1] == "hash":
            literal, _ = self._parts.pop()
            self._parts.append((literal, None))
            self._digits = 64
            self._separator = literal[-1] if literal[-1:] in tuple(SEPARATORS) else "."

    def key(self, record: ImageRecord, extension: str) -> str:
        """Return the key for an image, which `crawler.paths.is_picture` accepts.

        Args:
            record: the record, complete except for store and path.
            extension: the extension by content, such as ``jpg``.

        Raises:
            ValueError: hash or extension does not have the form that `digest` and `inspect_image` return.
        """
        by_content = image_key(record.sha256, extension)
        if not self._template:
            return by_content
        *folders, words = _fill(self._parts, record)
        tail = f"{record.sha256[: self._digits]}.{extension}"
        folders = [_tidy(folder) or "_" for folder in folders[:_MAX_FOLDERS]]
        *folders, words = _fit(
            [*folders, _tidy(words)], MAX_PATH - len(f"images/.{tail}"), MAX_SEGMENT - len(f".{tail}")
        )
        name = f"{words}{self._separator}{tail}" if words else tail
        folders = [f"{folder}_" if is_like_a_picture(folder) else folder for folder in folders]
        # With a leading underscore, a segment is never the name of a device of Windows.
        return "/".join(["images", *(part if is_segment(part) else f"_{part}" for part in (*folders, name))])


def _parse(template: str) -> list[tuple[str, str | None]]:
    """Return the parts of a template: literal text, and the field after it."""
    if len(template) > _MAX_TEMPLATE:
        raise ConfigError(
            f"the name template has {len(template)} characters, and must not be longer than {_MAX_TEMPLATE}"
        )
    try:
        parts = [(literal, field, spec or how) for literal, field, spec, how in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(f"the name template {template!r} is invalid: {error}") from error
    for literal, field, extra in parts:
        if field is not None and field not in _FIELDS:
            raise ConfigError(f"there is no field {{{field}}} for the name template (known: {', '.join(_FIELDS)})")
        if extra:
            raise ConfigError(f"the name template must contain {{{field}}} without {extra!r}")
        if refused := re.search(_OUTSIDE, literal.replace("/", "")):
            raise ConfigError(f"the name template must not contain {refused[0]!r}, which some file systems forbid")
    skeleton = "".join(literal + ("x" if field else "") for literal, field, _ in parts)
    for segment in skeleton.split("/"):
        if not is_safe(segment):
            problem = f"the segment {segment!r}" if segment else "an empty segment"
            raise ConfigError(
                f"the name template {template!r} must not contain {problem}, which some file systems forbid"
            )
    if skeleton.count("/") > _MAX_FOLDERS:
        raise ConfigError(f"the name template must not contain more than {_MAX_FOLDERS} folders")
    return [(literal, field) for literal, field, _ in parts]


def _fill(parts: list[tuple[str, str | None]], record: ImageRecord) -> list[str]:
    """Return the segments of a name, with the fields replaced by the record's texts."""
    segments = [""]

    def add(texts: Iterator[str]) -> None:
        segments[-1] += next(texts, "")
        segments.extend(texts)

    for literal, field in parts:
        add(iter(literal.split("/")))
        if field is not None:
            add(_clean(text) for text in _FIELDS[field](record))
    return segments


def _clean(text: str) -> str:
    """Return a text from the web in characters that any file system allows."""
    text = unicodedata.normalize("NFC", text[:_MAX_TEXT])
    return "".join(char if char in _PLAIN else _replacement(char) for char in text)


def _replacement(char: str) -> str:
    """Return the character, or one that may replace it, or "" for an invisible character."""
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category[0] != "C" and not re.match(_OUTSIDE, char):
        return char
    return "" if category in ("Cc", "Cf", "Mn") else "_"


def _tidy(segment: str) -> str:
    """Return the segment without repeated or outer separators and without leading combining marks; it may be empty."""
    segment = unicodedata.normalize("NFC", segment)
    segment = _trimmed(re.sub(r"_{2,}", "_", re.sub(r" {2,}", " ", segment)))
    from pathvalidate import sanitize_filename  # only templates need it

    return sanitize_filename(segment, replacement_text="_", platform="universal", max_len=_MAX_SANITIZED)


def _trimmed(segment: str) -> str:
    segment = segment.strip(SEPARATORS)
    while segment and unicodedata.category(segment[0])[0] == "M":  # its base character was removed
        segment = segment[1:].lstrip(SEPARATORS)
    return segment


def _fit(segments: list[str], max_units: int, last_bytes: int) -> list[str]:
    """Cut the longest segments until all fit.

    Args:
        segments: folders, and the text of the file name.
        max_units: UTF-16 units for all of them, with a slash after each folder.
        last_bytes: UTF-8 bytes for the last one.
    """
    max_units -= 3 * len(segments)  # a slash, and underscores that may be added
    sizes = [units(segment) for segment in segments]
    limit = next(limit for limit in range(max(sizes), -1, -1) if sum(min(size, limit) for size in sizes) <= max_units)
    *folders, words = segments
    return [*(_cut(folder, limit, MAX_SEGMENT - 2) or "_" for folder in folders), _cut(words, limit, last_bytes - 1)]


def _cut(segment: str, limit: int, size: int) -> str:
    cut = segment
    while units(cut) > limit or len(cut.encode()) > size:
        cut = cut[:-1]
    return cut if cut == segment else _trimmed(cut)
