"""Names of pictures: by content alone, or readable ones by the user's template; pure.

A name is made of nothing but the record and the template, so it is the same on every box and in every life of a crawl.
Text from the web is a name's words, never its structure: only ``{path}`` makes folders. What keeps two pictures apart
is the hash at the end, 128 bits of it at least, for which nobody can make two pictures fit.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes, urlsplit

from pathvalidate import sanitize_filename

from crawler.download.dedup import image_key
from crawler.errors import ConfigError
from crawler.model import ImageRecord
from crawler.paths import CHARACTERS, MAX_PATH, MAX_SEGMENT, SEPARATORS, is_like_a_picture, is_safe, is_segment, units
from crawler.urls import host_key

#: Longest template, and most folders of a name; deeper ones of a URL are left out.
MAX_TEMPLATE = 120
MAX_FOLDERS = 8

#: Characters of a text from the web that are looked at; more fit no name.
_MAX_TEXT = 1_000
#: Digits of a hash that was not asked for.
_SHORT = 32
#: More than any segment has before it is cut.
_MAX_SANITIZED = 2**16
_PLAIN = frozenset(string.ascii_letters + string.digits + " ()+,-.=_")
_OUTSIDE = re.compile(rf"[^{CHARACTERS}]")
_EXTENSION = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{1,4}\Z")


def _host(url: str) -> str:
    try:
        return host_key(url)
    except ValueError:  # no page has named it
        return ""


def _path(record: ImageRecord) -> tuple[str, ...]:
    """The segments of the URL's path, decoded one by one, so that an encoded slash divides nothing."""
    parts = [part for part in urlsplit(record.url).path.split("/") if part]
    texts = [unquote_to_bytes(part[: 3 * _MAX_TEXT]).decode("utf-8", "replace") for part in parts]
    return (*texts[:-1], _EXTENSION.sub("", texts[-1])) if texts else ()


def _day(record: ImageRecord, form: str) -> str:
    return datetime.fromtimestamp(record.fetched_at, UTC).strftime(form)


#: Field → what a record says; every one but ``path`` is one text.
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
FIELDS = tuple(_FIELDS)


class Naming:
    """Makes the key under which a picture is stored.

    Args:
        template: text with `FIELDS` in braces; ``/`` makes folders. Empty: `image_key`, a name by content alone.

    Raises:
        ConfigError: the template has an unknown field, or what can't be in a file name.
    """

    def __init__(self, template: str = "") -> None:
        self._template = template
        self._parts = _read(template) if template else []
        #: What stands before the hash, and how many digits of it: all of them where they are asked for.
        self._separator, self._digits = ".", _SHORT
        if self._parts and self._parts[-1][1] == "hash":
            literal, _ = self._parts.pop()
            self._parts.append((literal, None))
            self._digits = 64
            self._separator = literal[-1] if literal[-1:] in tuple(SEPARATORS) else "."

    def key(self, record: ImageRecord, extension: str) -> str:
        """The key for a saved picture, which `crawler.paths.is_picture` accepts.

        Args:
            record: with everything but store and path.
            extension: by the content, such as ``jpg``.

        Raises:
            ValueError: hash or extension is not what `digest` and `inspect_image` give.
        """
        by_content = image_key(record.sha256, extension)
        if not self._template:
            return by_content
        *folders, words = _fill(self._parts, record)
        tail = f"{record.sha256[: self._digits]}.{extension}"
        folders = [_tidy(folder) or "_" for folder in folders[:MAX_FOLDERS]]
        *folders, words = _fit(
            [*folders, _tidy(words)], MAX_PATH - len(f"images/.{tail}"), MAX_SEGMENT - len(f".{tail}")
        )
        name = f"{words}{self._separator}{tail}" if words else tail
        folders = [f"{folder}_" if is_like_a_picture(folder) else folder for folder in folders]
        return "/".join(["images", *(_undeviced(segment) for segment in (*folders, name))])


def _read(template: str) -> list[tuple[str, str | None]]:
    """The pieces of a template: text, and the field behind it."""
    if len(template) > MAX_TEMPLATE:
        raise ConfigError(f"name must not be longer than {MAX_TEMPLATE} characters, not {len(template)}")
    try:
        parts = [(literal, field, spec or how) for literal, field, spec, how in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(f"name {template!r}: {error}") from error
    for literal, field, extra in parts:
        if field is not None and field not in _FIELDS:
            raise ConfigError(f"name has no field {{{field}}} (known: {', '.join(FIELDS)})")
        if extra:
            raise ConfigError(f"name must have {{{field}}} as it is, without {extra!r}")
        if refused := _OUTSIDE.search(literal.replace("/", "")):
            raise ConfigError(f"name must not have {refused[0]!r}, which not every file system allows")
    skeleton = "".join(literal + ("x" if field else "") for literal, field, _ in parts)
    for segment in skeleton.split("/"):
        if not is_safe(segment):
            said = f"{segment!r} of it is a name that" if segment else "an empty name is what"
            raise ConfigError(f"name {template!r} can't be: {said} not every file system allows")
    if skeleton.count("/") > MAX_FOLDERS:
        raise ConfigError(f"name must not have more than {MAX_FOLDERS} folders")
    return [(literal, field) for literal, field, _ in parts]


def _fill(parts: list[tuple[str, str | None]], record: ImageRecord) -> list[str]:
    """The segments of a name, as the record fills them in."""
    segments = [""]

    def add(pieces: Iterator[str]) -> None:
        segments[-1] += next(pieces, "")
        segments.extend(pieces)

    for literal, field in parts:
        add(iter(literal.split("/")))
        if field is not None:
            add(_clean(text) for text in _FIELDS[field](record))
    return segments


def _clean(text: str) -> str:
    """A text from the web, in characters that any file system takes."""
    text = unicodedata.normalize("NFC", text[:_MAX_TEXT])
    return "".join(char if char in _PLAIN else _plain(char) for char in text)


def _plain(char: str) -> str:
    """A character that may stand for this one; nothing, where nobody sees it."""
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category[0] != "C" and not _OUTSIDE.match(char):
        return char
    return "" if category in ("Cc", "Cf", "Mn") else "_"


def _tidy(segment: str) -> str:
    """A segment without a blank or a mark where it is unwanted; maybe empty."""
    segment = unicodedata.normalize("NFC", segment)
    segment = _trimmed(re.sub(r"_{2,}", "_", re.sub(r" {2,}", " ", segment)))
    return sanitize_filename(segment, replacement_text="_", platform="universal", max_len=_MAX_SANITIZED)


def _trimmed(segment: str) -> str:
    segment = segment.strip(SEPARATORS)
    while segment and unicodedata.category(segment[0])[0] == "M":  # it belongs to what is no longer there
        segment = segment[1:].lstrip(SEPARATORS)
    return segment


def _fit(segments: list[str], room: int, last_bytes: int) -> list[str]:
    """Cut the longest segments, as far as is needed.

    Args:
        segments: folders, and the words of the name.
        room: units of UTF-16 for all of them, with a slash behind each folder.
        last_bytes: bytes of UTF-8 for the last one.
    """
    room -= 3 * len(segments)  # a slash, and underlines that may be added
    sizes = [units(segment) for segment in segments]
    limit = next(limit for limit in range(max(sizes), -1, -1) if sum(min(size, limit) for size in sizes) <= room)
    *folders, words = segments
    return [*(_cut(folder, limit, MAX_SEGMENT - 2) or "_" for folder in folders), _cut(words, limit, last_bytes - 1)]


def _cut(segment: str, limit: int, size: int) -> str:
    cut = segment
    while units(cut) > limit or len(cut.encode()) > size:
        cut = cut[:-1]
    return cut if cut == segment else _trimmed(cut)


def _undeviced(segment: str) -> str:
    """The segment, or another one where Windows has a device of that name."""
    return segment if is_segment(segment) else f"_{segment}"
