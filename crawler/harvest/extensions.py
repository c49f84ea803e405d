"""File extensions in URLs, and which of them belong to images."""

import re

#: File extensions of images. A link that ends in one leads to an image.
IMAGE_EXTENSIONS = frozenset(
    {
        *("apng", "avif", "bmp", "gif", "heic", "heif", "ico", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl"),
        *("pjp", "pjpeg", "png", "svg", "svgz", "tif", "tiff", "webp"),
    }
)

#: The part of a URL before the host.
_BEFORE_HOST = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)


def extension(url: str) -> str:
    """Return the lower-case extension in a URL's path, without the dot, or "" if it has none."""
    if "." not in url:
        return ""
    path = url.partition("#")[0].partition("?")[0].rstrip()
    start, dot = path.rfind("/") + 1, path.rfind(".")
    if dot < start:
        return ""
    if path.endswith("//", 0, start) and _BEFORE_HOST.fullmatch(path, 0, start):
        return ""  # without a path, the last part is the host: ``example.jp2`` is not an image
    return path[dot + 1 :].lower()
