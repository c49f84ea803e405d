"""Mapping of a list's columns to the URL, the words that describe the image, and extra columns. Pure."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from crawler.model import Kind

#: Kind of the rows → most bytes kept of the words and extra columns of one row. The limit for a page is lower, because
#: each image of the page carries the columns of the page's row.
MAX_ROW: Mapping[Kind, int] = {"image": 2**20, "page": 4_096}
#: Most characters kept of a column's name.
_MAX_NAME = 1_000

#: Kind of the rows → names of the URL column, the best first, in any case, and with ``_``, ``-`` or a space.
_PLAIN = ("url", "uri", "link", "href", "address")
_URLS: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("image_url", "imageurl", "img_url", "imgurl", "image_link", "image_src", "image_uri", "img_src", "photo_url"),
        *("picture_url", "src", "contenturl", "content_url", "file_url", "media_url", "download_url", *_PLAIN),
        *("image", "img", "photo", "picture"),
    ),
    "page": ("page_url", "pageurl", "page_link", *_PLAIN, "loc", "site", "website", "page"),
}
#: Column name → field of the request.
_WORDS: Mapping[str, str] = {
    **dict.fromkeys(["alt", "alt_text", "alttext", "image_alt", "img_alt"], "alt"),
    **dict.fromkeys(["title", "image_title", "img_title"], "title"),
    **dict.fromkeys(["caption", "text", "description", "image_caption"], "caption"),
}


class _ColumnMap(Struct, frozen=True):
    """Indices of the columns in a row."""

    url: int
    #: Field (``alt``, ``title``, ``caption``) → index.
    words: dict[str, int]
    #: Name as written → index.
    extra: dict[str, int]


class ListItem(Struct, frozen=True):
    """The content of one row."""

    url: str
    alt: str = ""
    title: str = ""
    caption: str = ""
    #: The extra columns as a JSON object, or empty if there are none.
    columns: str = ""
    #: Whether a part of the row exceeded the limit, or a value cannot be written as JSON.
    is_cut: bool = False


@lru_cache(maxsize=256)
def find_columns(names: tuple[str, ...], entries: Kind) -> _ColumnMap | None:
    """Return the mapping of columns with these names, or None if none of them is a URL column."""
    plain = [name.strip().lower().replace("-", "_").replace(" ", "_") for name in names]
    url = next((plain.index(name) for name in _URLS[entries] if name in plain), None)
    if url is None:
        return None
    words: dict[str, int] = {}
    extra: dict[str, int] = {}
    for index, name in enumerate(names):
        field = _WORDS.get(plain[index], "")
        if field and field not in words:
            words[field] = index
        elif index != url and name.strip():
            extra[name.strip()[:_MAX_NAME]] = index
    return _ColumnMap(url, words, extra)


def read_item(columns: _ColumnMap, values: Sequence[object], room: int) -> ListItem:
    """Return one row, with up to ``room`` bytes of its words and extra columns.

    Raises:
        ValueError: the URL column contains no text.
    """
    url = values[columns.url] if columns.url < len(values) else None
    if not isinstance(url, str) or not (url := url.strip()):
        raise ValueError("no URL")
    words: dict[str, str] = {}
    is_cut = False
    for field, index in columns.words.items():
        value = values[index] if index < len(values) else None
        if isinstance(value, str) and value:
            line = " ".join(value.split())
            words[field] = _fit(line, room)
            is_cut = is_cut or len(words[field]) < len(line)
            room -= len(words[field].encode())
    if not columns.extra:
        return ListItem(url, **words, is_cut=is_cut)
    extra, has_lost = _extra(columns.extra, values, room)
    return ListItem(url, **words, columns=extra, is_cut=is_cut or has_lost)


def _fit(text: str, room: int) -> str:
    """Return as much of a text as fits into ``room`` bytes, cut between characters."""
    if len(text) * 4 <= room:
        return text
    data = text.encode(errors="replace")
    return text if len(data) <= room else data[: max(0, room)].decode(errors="ignore").rstrip()


def _fit_json(text: str, room: int) -> bytes:
    """Return as much of a text as fits into ``room`` bytes of JSON, in which quotes and line ends are longer."""
    text = _fit(text, room - len('""'))
    while len(raw := msgspec.json.encode(text)) > room and text:
        text = text[: len(text) * max(0, room) // len(raw)]
    return raw


def _extra(extra: Mapping[str, int], values: Sequence[object], room: int) -> tuple[str, bool]:
    """Return columns as a JSON object of up to ``room`` bytes, and whether something was cut or left out."""
    kept: dict[str, object] = {}
    size = len("{}")
    is_cut = False
    for name, index in extra.items():
        value = values[index] if index < len(values) else None
        if value is None or value == "":
            continue
        try:
            label = len(msgspec.json.encode(name)) + len(":,")
            raw = msgspec.json.encode(value, enc_hook=str)
            if size + label + len(raw) > room and isinstance(value, str):
                is_cut = True
                raw = _fit_json(value, room - size - label)
        except (ValueError, TypeError, RecursionError):  # text that is not Unicode, deep nesting, or an unsupported key
            is_cut = True
            continue
        if size + label + len(raw) <= room:
            kept[name] = msgspec.Raw(raw)
            size += label + len(raw)
        else:
            is_cut = True
    return (msgspec.json.encode(kept).decode() if kept else ""), is_cut
