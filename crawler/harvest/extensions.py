"""What the name of a file says of it, before a byte of it is here."""

#: File extensions of pictures; a link that ends in one leads to an image.
IMAGE_EXTENSIONS = frozenset(
    {
        *("apng", "avif", "bmp", "gif", "heic", "heif", "ico", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl"),
        *("pjp", "pjpeg", "png", "svg", "svgz", "tif", "tiff", "webp"),
    }
)


def extension(url: str) -> str:
    """Lower-case extension of the file that a URL's path names, without the dot; empty where there is none."""
    path = url.split("#", 1)[0].split("?", 1)[0].rstrip()
    name = path[path.rfind("/") + 1 :]
    # Without a path the last word is a host, and ``example.jp2`` is no picture.
    return name[name.rfind(".") + 1 :].lower() if "." in name and not path.endswith(f"//{name}") else ""
