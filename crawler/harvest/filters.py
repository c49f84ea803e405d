"""``--include`` and ``--exclude``: which URLs the user wants, by patterns. Pure, and bounded on any URL.

A pattern is text in which ``*`` stands for any characters; it must match the whole of

* the URL, where it begins with a scheme: ``https://a.example/photos/*``
* path and query, where it begins with ``/``: ``/photos/*``
* the URL without its scheme, otherwise: ``a.example/photos/*``, ``*/print/*``, ``*.gif``

Behind ``re:`` stands a regular expression that must match the whole URL. Python's may take for ever, so one that
repeats a group that varies itself is refused, and so are more than three open repetitions; those with two or three
match no URL that is longer than `LONGEST` says.

A plain ``--include`` says which pages are walked, a plain ``--exclude`` what is not fetched at all; ``page:`` or
``image:`` in front makes either a matter of pages or of images only. Exclusion wins.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from urllib.parse import quote

from crawler.errors import ConfigError
from crawler.urls import MAX_URL_LENGTH, canonicalize, host_key

#: Longest pattern.
MAX_PATTERN = 1_000
#: Open repetitions of a regular expression → the longest URL it is tried on: backtracking takes 0.1 s at worst.
LONGEST = {0: MAX_URL_LENGTH, 1: MAX_URL_LENGTH, 2: 2_000, 3: 300}

_Matches = Callable[[str], bool]

#: What the guard looks at in a regular expression: escapes and sets, to pass over; groups, quantifiers, alternatives.
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<open>\(\??)|(?P<close>\))|(?P<or>\|)"
    r"|(?P<times>[*+?]|\{[0-9]*(?P<range>,)?(?P<most>[0-9]*)\})[?+]?",
    re.DOTALL,
)
#: A bounded repetition up to so many times counts as none.
_FEW = 9
#: Printable ASCII that a pattern keeps as it is.
_KEPT = "".join(map(chr, range(0x21, 0x7F)))


class Filter:
    """What one kind of request is admitted by.

    Args:
        include: patterns of which one must match; none: everything may come.
        exclude: patterns of which none may match.

    Raises:
        ConfigError: a pattern can't be used.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = tuple(_matcher(pattern) for pattern in include)
        self._exclude = tuple(_matcher(pattern) for pattern in exclude)

    def admits(self, url: str) -> bool:
        """Whether a canonical URL is wanted."""
        return (not self._include or any(matches(url) for matches in self._include)) and self.spares(url)

    def spares(self, url: str) -> bool:
        """Whether no pattern excludes a canonical URL; what a page is made of need not be included by itself."""
        return not any(matches(url) for matches in self._exclude)


def build_filters(include: Iterable[str] = (), exclude: Iterable[str] = ()) -> tuple[Filter, Filter]:
    """The filters of pages and of images.

    Raises:
        ConfigError: a pattern can't be used.
    """
    include, exclude = tuple(include), tuple(exclude)
    pages = Filter(_for("page", include, plain=True), _for("page", exclude, plain=True))
    return pages, Filter(_for("image", include, plain=False), _for("image", exclude, plain=True))


def _for(kind: str, patterns: Iterable[str], *, plain: bool) -> list[str]:
    """The patterns that concern a kind: those with its prefix, and with ``plain`` those without any."""
    chosen = []
    for pattern in patterns:
        prefix, colon, rest = pattern.partition(":")
        if colon and prefix in ("page", "image"):
            chosen += [rest] if prefix == kind else []
        elif plain:
            chosen.append(pattern)
    return chosen


def _matcher(pattern: str) -> _Matches:
    text = pattern.strip()
    if not text.removeprefix("re:") or len(text) > MAX_PATTERN:
        raise ConfigError(f"pattern {pattern[:100]!r}: must have 1 to {MAX_PATTERN:,} characters")
    return _regex(text[3:], text) if text.startswith("re:") else _wildcards(text)


def _wildcards(pattern: str) -> _Matches:
    """Each piece between two stars is looked for once, from where the last one ended: no way back is ever needed."""
    slashes, text = _spelled(pattern)
    first, *middle = text.split("*")
    last = middle.pop() if middle else None

    def matches(url: str) -> bool:
        rest = url.split("/", slashes)[-1] if slashes else url
        if last is None or not rest.startswith(first):
            return rest == first
        at = len(first)
        for piece in middle:
            at = rest.find(piece, at)
            if at < 0:
                return False
            at += len(piece)
        return rest.endswith(last) and len(rest) - len(last) >= at

    return matches


def _spelled(pattern: str) -> tuple[int, str]:
    """How many slashes of a URL come before what is compared, and the pattern in the spelling of canonical URLs."""
    if any(char.isspace() or not char.isprintable() for char in pattern):
        raise ConfigError(f"pattern {pattern!r}: a URL has no spaces; write %20")
    if pattern.startswith("/"):
        return 3, quote(pattern[1:], _KEPT)
    scheme, mark, rest = pattern.partition("://")
    if not mark or "/" in scheme:
        scheme, mark, rest = "", "", pattern
    host, slash, path = rest.partition("/")
    return 0 if mark else 2, f"{scheme.lower()}{mark}{_host(host, pattern)}{slash}{quote(path, _KEPT)}"


def _host(host: str, pattern: str) -> str:
    """The host of a pattern as canonical URLs spell it; with a star in it, it may be no host at all, and stays."""
    if "*" in host:
        return quote(host, _KEPT)
    try:
        url = canonicalize(f"http://{host}/")
    except ValueError:
        url = ""
    if not url or url != f"http://{host_key(url)}/":
        raise ConfigError(f"pattern {pattern!r}: {host!r} is no host; what may stand anywhere begins with *")
    return host_key(url)


def _regex(text: str, pattern: str) -> _Matches:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python may read differently one day
            compiled = re.compile(text)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ConfigError(f"pattern {pattern!r}: {error}") from error
    longest = LONGEST.get(_repetitions(text, pattern), 0)
    if not longest:
        few = f"{{1,{_FEW}}}"
        raise ConfigError(f"pattern {pattern!r}: more than {max(LONGEST)} of * + {{n,}}; {few} may do for some")
    return lambda url: len(url) <= longest and compiled.fullmatch(url) is not None


def _repetitions(text: str, pattern: str) -> int:
    """Open repetitions of a regular expression; raises `ConfigError` where a repeated group varies itself."""
    count = closed_at = 0
    varies, inner = [False], False  # of the groups that are open, and of the one that was closed last
    for token in _TOKEN.finditer(text):
        times = token["times"]
        if token["open"]:
            varies.append(False)
        elif token["close"]:
            inner, closed_at = varies.pop(), token.end()
            varies[-1] |= inner
        elif times:
            if inner and token.start() == closed_at and times != "?":
                raise ConfigError(f"pattern {pattern!r}: a repeated group varies itself, which may take for ever")
            is_exact = times[0] == "{" and not token["range"]
            count += not (is_exact or times == "?" or 0 < int(token["most"] or 0) <= _FEW)
            varies[-1] |= not is_exact
        varies[-1] |= bool(token["or"])
    return count
