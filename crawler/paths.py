"""Rules for the path of a file in a store: safe on every file system, and named by the file's content.

The rules hold for every path, also for one that another machine sends. A path is relative, has ``/`` between its
segments, and means the same file on every file system, whether or not that folds case or normalises (NTFS, APFS, ext4
with casefold). The last segment of a picture's path ends with its SHA-256, or the first half of it, and the extension;
no folder has such a name. So the paths of two pictures never collide, however similar the rest of them is.
"""

import re

#: Longest segment in bytes of UTF-8. File systems allow 255; a temporary name while a file is written is longer.
MAX_SEGMENT = 200
#: Longest path in units of UTF-16. Windows allows 260, which include the store's own directory.
MAX_PATH = 160
#: Characters allowed in a name, as the inside of a character class of a regular expression. Excluded are characters
#: that a file system refuses or a shell expands, and invisible ones: controls, blanks except the space, direction and
#: format marks, characters that file systems ignore (Unicode's Default_Ignorable_Code_Point), private use, surrogates,
#: non-characters.
CHARACTERS = (
    r"A-Za-z0-9 !&'()+,.=@\[\]_\-"
    "\u00a1-\u00ac\u00ae-\u034e\u0350-\u061b\u061d-\u115e\u1161-\u167f\u1681-\u17b3\u17b6-\u180a\u1810-\u1fff"
    "\u2010-\u2027\u2030-\u205e\u2070-\u2fff\u3001-\u3163\u3165-\ud7ff\uf900-\ufdcf\ufdf0-\ufdff\ufe10-\ufefe"
    "\uff00-\uff9f\uffa1-\uffef\U00010000-\U0001bc9f\U0001bca4-\U0001d172\U0001d17b-\U0001fffd"
    "\U00020000-\U0002fffd\U00030000-\U0003fffd"
)
#: Characters that may separate the words of a picture's name from its hash.
SEPARATORS = " ._-"

#: Device names of Windows, also with blanks and an extension after them.
_DEVICE = r"(?i:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]) *(?:\.|\Z)"
#: A leading dot hides a file, a leading dash looks like an option, and Windows drops dots and blanks at the end.
_SEGMENT = rf"(?![ .\-])(?!{_DEVICE})[{CHARACTERS}]+(?<![ .])"  # slow to compile, and rarely used
_PICTURE = re.compile(rf"(?:.*[{SEPARATORS}])?([0-9a-f]{{32}})([0-9a-f]{{32}})?\.[a-z0-9]{{1,8}}", re.DOTALL)
#: The paths of a store without a name template; this pattern is faster to check.
_CONTENT_NAME = re.compile(r"images/([0-9a-f]{2})/\1[0-9a-f]{62}\.[a-z0-9]{1,8}")


def is_safe(path: str) -> bool:
    """Check whether a path names exactly one file below the root of any store, without the name being altered."""
    if _CONTENT_NAME.fullmatch(path):
        return True
    *folders, _ = segments = path.split("/")
    return (
        units(path) <= MAX_PATH
        and all(is_segment(segment) for segment in segments)
        and not any(is_like_a_picture(folder) for folder in folders)
    )


def is_picture(path: str, sha256: str) -> bool:
    """Check whether a path is safe and may belong to the picture with this SHA-256; pictures are in ``images/``."""
    if len(sha256) == 64 and path[10:74] == sha256 and _CONTENT_NAME.fullmatch(path):
        return True
    match = _PICTURE.fullmatch(path.rpartition("/")[2])
    if match is None or not path.startswith("images/") or len(sha256) != 64:
        return False
    return sha256.startswith(match[1]) and match[2] in (None, sha256[32:]) and is_safe(path)


def hash_in(path: str) -> str:
    """Return the first 32 digits of the SHA-256 in a picture's path, or "" if the path is not a picture's."""
    match = _PICTURE.fullmatch(path.rpartition("/")[2])
    return match[1] if match is not None else ""


def is_segment(text: str) -> bool:
    """Check whether a text is a safe name for a file or a folder."""
    return re.fullmatch(_SEGMENT, text) is not None and len(text.encode()) <= MAX_SEGMENT


def is_like_a_picture(segment: str) -> bool:
    """Check whether a segment looks like the name of a picture on a file system that folds case."""
    return _PICTURE.fullmatch(segment.casefold()) is not None


def units(text: str) -> int:
    """Return the length in units of UTF-16, the unit of Windows' limits."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
