"""Which column of a list is what: the URL, the words for the picture, and the rest, which is carried along. Pure."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from crawler.model import Kind

#: Characters kept of one value, and bytes of the JSON text of all that is carried along.
MAX_VALUE = 1_000
MAX_EXTRA = 4_096

#: Names of a URL's column, the best first, for what the rows are; a name counts in any case, with ``-`` or a space too.
_PLAIN = ("url", "uri", "link", "href", "address")
_URLS: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("image_url", "imageurl", "img_url", "imgurl", "image_link", "image_src", "image_uri", "img_src", "photo_url"),
        *("picture_url", "src", "contenturl", "content_url", "file_url", "media_url", "download_url", *_PLAIN),
        *("image", "img", "photo", "picture"),
    ),
    "page": ("page_url", "pageurl", "page_link", *_PLAIN, "loc", "site", "website", "page"),
}
#: Column → field of the request that it is.
_WORDS: Mapping[str, str] = {
    **dict.fromkeys(["alt", "alt_text", "alttext", "image_alt", "img_alt"], "alt"),
    **dict.fromkeys(["title", "image_title", "img_title"], "title"),
    **dict.fromkeys(["caption", "text", "description", "image_caption"], "caption"),
}


class Columns(Struct, frozen=True):
    """Where in a row what stands, as indices."""

    url: int
    #: Field (``alt``, ``title``, ``caption``) → index.
    words: dict[str, int]
    #: Name as written → index.
    extra: dict[str, int]


class Item(Struct, frozen=True):
    """What a row says of one URL."""

    url: str
    alt: str = ""
    title: str = ""
    caption: str = ""
    #: The other columns as a JSON object; empty: there are none.
    columns: str = ""


@lru_cache(maxsize=256)
def find_columns(names: tuple[str, ...], entries: Kind) -> Columns | None:
    """What the columns of these names are; None where none of them is a URL's."""
    plain = [_plain(name) for name in names]
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
            extra[name.strip()[:MAX_VALUE]] = index
    return Columns(url, words, extra)


def read_item(columns: Columns, values: Sequence[object]) -> Item:
    """One row.

    Raises:
        ValueError: where its URL should stand there is no text.
    """
    url = values[columns.url] if columns.url < len(values) else None
    if not isinstance(url, str) or not (url := url.strip()):
        raise ValueError("no URL")
    words = {field: _words(values[index]) for field, index in columns.words.items() if index < len(values)}
    return Item(url, **words, columns=_extra(columns.extra, values) if columns.extra else "")


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _words(value: object) -> str:
    """A value as one line of text."""
    return " ".join(value[: 10 * MAX_VALUE].split())[:MAX_VALUE].rstrip() if isinstance(value, str) else ""


def _extra(extra: Mapping[str, int], values: Sequence[object]) -> str:
    """Columns as a JSON object; texts are cut, and what has no room, or no value, is left out."""
    kept: dict[str, object] = {}
    size = len("{}")
    for name, index in extra.items():
        value = values[index] if index < len(values) else None
        value = value[:MAX_VALUE] if isinstance(value, str) else value
        if value is None or value == "":
            continue
        try:
            raw = msgspec.Raw(msgspec.json.encode(value, enc_hook=str))
            length = len(msgspec.json.encode(name)) + len(raw) + len(":,")
        except (ValueError, TypeError, RecursionError):  # a text that is not Unicode, a nest, a strange key
            continue
        if size + length <= MAX_EXTRA:
            kept[name] = raw
            size += length
    return msgspec.json.encode(kept).decode() if kept else ""
