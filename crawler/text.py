"""Makes text from untrusted sources safe to display."""

import re

#: Characters that control a terminal or reorder its text: C0, C1, line separators, bidirectional controls.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return the text as one line, with escapes in place of characters that control a terminal."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", " ".join(text.split("\n")))
