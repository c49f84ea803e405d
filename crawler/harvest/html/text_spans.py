"""Spans of a page's text, collected during a walk over the page."""

#: Most characters kept of an alt text, a title or a caption.
MAX_TEXT = 1_000
#: Most characters read for them, as there may be more white space than words.
_MAX_RAW = 10 * MAX_TEXT


class TextSpans:
    """Text in document order, with spans that may overlap and nest like elements.

    Text is kept only while a span is open. A span without an end extends to the end of the text.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        #: Number of open spans.
        self.open = 0
        self._starts: list[int] = []
        self._ends: dict[int, int] = {}
        self._read: dict[int, str] = {}
        self._text: str | None = None

    def begin(self) -> int:
        """Open a span and return its number."""
        self.open += 1
        self._starts.append(self._length)
        return len(self._starts) - 1

    def add(self, text: str) -> None:
        """Add text at the current position."""
        if self.open:
            self._pieces.append(text)
            self._length += len(text)

    def end(self, span: int) -> None:
        """Close a span."""
        self.open -= 1
        self._ends[span] = self._length

    def of(self, span: int | None) -> str:
        """Return the words of a span, up to `MAX_TEXT` characters. Call this only when all text is added."""
        if span is None:
            return ""
        if span not in self._read:
            if self._text is None:
                self._text = "".join(self._pieces)
            start = self._starts[span]
            end = min(self._ends.get(span, self._length), start + _MAX_RAW)
            self._read[span] = collapse(self._text[start:end])
        return self._read[span]


def collapse(text: str) -> str:
    """Return ``text`` with its white space collapsed, up to `MAX_TEXT` characters."""
    if not text:
        return ""
    return " ".join(text[:_MAX_RAW].split())[:MAX_TEXT].rstrip()
