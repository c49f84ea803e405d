"""Names by content: the same bytes have the same name everywhere, so a second copy is no second file."""

import hashlib
import re

_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXTENSION = re.compile(r"[a-z0-9]{1,8}")
#: Formats whose files are named otherwise.
_EXTENSIONS = {"jpeg": "jpg"}


def extension_of(image_format: str) -> str:
    """The file name extension of a format, without a dot."""
    return _EXTENSIONS.get(image_format, image_format)


def digest(data: bytes) -> str:
    """SHA-256 of the bytes, in 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def image_key(sha256: str, extension: str) -> str:
    """The key under which an image is stored: ``images/ab/<sha256>.<extension>``.

    Raises:
        ValueError: ``sha256`` or ``extension`` is not what `digest` and `inspect_image` give.
    """
    if not _SHA256.fullmatch(sha256) or not _EXTENSION.fullmatch(extension):
        raise ValueError(f"no content name: {sha256[:80]!r}, {extension[:20]!r}")
    return f"images/{sha256[:2]}/{sha256}.{extension}"
