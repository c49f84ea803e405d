"""The words of a page: text as it goes by, and the spans of it that somebody will ask for."""

#: Characters kept of an alt text, a title, a caption.
MAX_TEXT = 1_000
#: Characters that are looked at for them; white space may be more than words.
_MAX_RAW = 10 * MAX_TEXT


class Words:
    """Text in document order, of which spans may overlap and nest as elements do.

    Text is only kept while a span is open; a span that is never ended goes on to the end.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        #: Spans that are open.
        self.open = 0
        self._starts: list[int] = []
        self._ends: dict[int, int] = {}
        self._read: dict[int, str] = {}
        self._text: str | None = None

    def begin(self) -> int:
        """Open a span; the answer is its number."""
        self.open += 1
        self._starts.append(self._length)
        return len(self._starts) - 1

    def add(self, text: str) -> None:
        """Text stands here."""
        if self.open:
            self._pieces.append(text)
            self._length += len(text)

    def end(self, span: int) -> None:
        """Close a span."""
        self.open -= 1
        self._ends[span] = self._length

    def of(self, span: int | None) -> str:
        """The words of a span, up to `MAX_TEXT` characters; to be asked when all the text is there."""
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
    """``text`` with its white space collapsed, up to `MAX_TEXT` characters."""
    if not text:
        return ""
    return " ".join(text[:_MAX_RAW].split())[:MAX_TEXT].rstrip()
