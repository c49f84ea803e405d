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
    path = url.split("#", 1)[0].split("?", 1)[0].rstrip()
    name = path[path.rfind("/") + 1 :]
    if "." not in name:
        return ""
    before = len(path) - len(name)
    if path.endswith("//", 0, before) and _BEFORE_HOST.fullmatch(path, 0, before):
        return ""  # without a path, the last part is the host: ``example.jp2`` is not an image
    return name[name.rfind(".") + 1 :].lower()
