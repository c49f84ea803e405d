"""What may be the path of a file in a store, whoever says so: safe on every file system, and named by its content.

A path is relative, has ``/`` between its segments, and means one file everywhere: on file systems that fold case or
normalise (NTFS, APFS, ext4 with casefold) as on those that do not. The last segment of a picture's path ends with its
SHA-256, or the first half of that, and the extension; no folder's name looks so. Two pictures thus never get in each
other's way, however alike the rest of their paths is.
"""

import re

#: Longest segment in bytes of UTF-8: file systems allow 255, and the name of a file that is being written is longer.
MAX_SEGMENT = 200
#: Longest path in units of UTF-16: Windows allows 260, and the store's own directory has to fit in there, too.
MAX_PATH = 160
#: Characters of a name, as the inside of a class of a regular expression. Left out is what some file system refuses
#: or some shell expands, and what nobody sees: controls, blanks but the space, marks of direction and format,
#: whatever file systems ignore (Unicode's Default_Ignorable_Code_Point), private use, surrogates, non-characters.
CHARACTERS = (
    r"A-Za-z0-9 !&'()+,.=@\[\]_\-"
    "\u00a1-\u00ac\u00ae-\u034e\u0350-\u061b\u061d-\u115e\u1161-\u167f\u1681-\u17b3\u17b6-\u180a\u1810-\u1fff"
    "\u2010-\u2027\u2030-\u205e\u2070-\u2fff\u3001-\u3163\u3165-\ud7ff\uf900-\ufdcf\ufdf0-\ufdff\ufe10-\ufefe"
    "\uff00-\uff9f\uffa1-\uffef\U00010000-\U0001bc9f\U0001bca4-\U0001d172\U0001d17b-\U0001fffd"
    "\U00020000-\U0002fffd\U00030000-\U0003fffd"
)
#: What stands between the words of a picture's name and its hash.
SEPARATORS = " ._-"

#: Names of devices on Windows, with any extension, and blanks before it.
_DEVICE = r"(?i:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]) *(?:\.|\Z)"
#: A leading dot hides, a leading dash is an option, and Windows drops dots and blanks at the end.
_SEGMENT = re.compile(rf"(?![ .\-])(?!{_DEVICE})[{CHARACTERS}]+(?<![ .])")
_PICTURE = re.compile(rf"(?:.*[{SEPARATORS}])?([0-9a-f]{{32}})([0-9a-f]{{32}})?\.[a-z0-9]{{1,8}}", re.DOTALL)
#: What the store has for names by content alone, and is faster to check.
_CONTENT_NAME = re.compile(r"images/([0-9a-f]{2})/\1[0-9a-f]{62}\.[a-z0-9]{1,8}")


def is_safe(path: str) -> bool:
    """Whether a path leads to one file below the root of any store, under that very name."""
    if _CONTENT_NAME.fullmatch(path):
        return True
    *folders, _ = segments = path.split("/")
    return (
        units(path) <= MAX_PATH
        and all(is_segment(segment) for segment in segments)
        and not any(is_like_a_picture(folder) for folder in folders)
    )


def is_picture(path: str, sha256: str) -> bool:
    """Whether a safe path may be that of the picture with this SHA-256; a store has its pictures in ``images/``."""
    if len(sha256) == 64 and path[10:74] == sha256 and _CONTENT_NAME.fullmatch(path):
        return True
    match = _PICTURE.fullmatch(path.rpartition("/")[2])
    if match is None or not path.startswith("images/") or len(sha256) != 64:
        return False
    return sha256.startswith(match[1]) and match[2] in (None, sha256[32:]) and is_safe(path)


def hash_in(path: str) -> str:
    """The first 32 digits of the SHA-256 in a picture's path; empty where it is no picture's."""
    match = _PICTURE.fullmatch(path.rpartition("/")[2])
    return match[1] if match is not None else ""


def is_segment(text: str) -> bool:
    """Whether a text is a safe name of a file or a folder."""
    return _SEGMENT.fullmatch(text) is not None and len(text.encode()) <= MAX_SEGMENT


def is_like_a_picture(segment: str) -> bool:
    """Whether a file system that folds case may take a segment for the name of a picture."""
    return _PICTURE.fullmatch(segment.casefold()) is not None


def units(text: str) -> int:
    """Length in units of UTF-16, which is what Windows counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
