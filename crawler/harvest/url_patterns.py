"""URL patterns of ``--include`` and ``--exclude``. Pure, and takes bounded time on any URL.

A pattern is text in which ``*`` stands for any characters. It must match

* the whole URL, if the pattern begins with a scheme: ``https://a.example/photos/*``
* the whole path and query, if it begins with ``/``: ``/photos/*``
* the whole URL without its scheme, otherwise: ``a.example/photos/*``, ``*/print/*``, ``*.gif``

After ``re:`` comes a regular expression that must match the whole URL. Python's may take very long. Therefore an
expression that repeats a group of variable length is refused, and so is one with more than three unbounded repetitions.
One with two or three matches no URL longer than `_LONGEST`.

A plain ``--include`` selects the pages to crawl. A plain ``--exclude`` applies to all URLs. With the prefix ``page:``
or ``image:``, a pattern applies only to pages or only to images. Exclusion wins.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from urllib.parse import quote

from crawler.errors import ConfigError
from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.urls import MAX_URL_LENGTH, canonicalize, host_key

#: Longest pattern.
_MAX_PATTERN = 1_000
#: Unbounded repetitions of a regular expression → the longest URL it may match: backtracking takes at most 0.1 s.
_LONGEST = {0: MAX_URL_LENGTH, 1: MAX_URL_LENGTH, 2: 2_000, 3: 300}

_Matches = Callable[[str], bool]

#: Tokens that the check of a regular expression reads: escapes and sets, which it skips; groups, quantifiers and
#: alternatives.
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<open>\(\??)|(?P<close>\))|(?P<or>\|)"
    r"|(?P<times>[*+?]|\{[0-9]*(?P<range>,)?(?P<most>[0-9]*)\})[?+]?",
    re.DOTALL,
)
#: A bounded repetition of at most so many times does not count.
_FEW = 9
#: Characters of a pattern that are not percent-encoded: printable ASCII.
_KEPT = "".join(map(chr, range(0x21, 0x7F)))


class UrlFilter:
    """Filter of URLs by include and exclude patterns.

    Args:
        include: patterns of which one must match; empty: every URL is included.
        exclude: patterns of which none may match.

    Raises:
        ConfigError: a pattern is invalid.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        include = tuple(include)
        self._include = tuple(_matcher(pattern) for pattern in include)
        self._exclude = tuple(_matcher(pattern) for pattern in exclude)
        #: Patterns of ``include`` without a match so far, and the number of URLs compared while there are any.
        self._unused = {
            pattern: _Unused(matches, pattern) for pattern, matches in zip(include, self._include, strict=True)
        }
        self._compared = count()

    def admits(self, url: str) -> bool:
        """Return whether a canonical URL is included and not excluded."""
        if self._unused:
            self._record(url)
        return (not self._include or any(matches(url) for matches in self._include)) and self.spares(url)

    def spares(self, url: str) -> bool:
        """Return whether no pattern excludes a canonical URL. The parts of a page need no include pattern."""
        return not any(matches(url) for matches in self._exclude)

    def unmatched(self) -> tuple[str, ...]:
        """Return a message for each include pattern without a match: the number of URLs, and a pattern that matches."""
        number = next(self._compared)
        self._compared = count(number)
        return tuple(unused.describe(pattern, number) for pattern, unused in self._unused.items() if number)

    def _record(self, url: str) -> None:
        next(self._compared)
        for pattern, unused in tuple(self._unused.items()):  # another thread may remove a pattern meanwhile
            if unused.matches(url):
                self._unused.pop(pattern, None)
            elif unused.wider is not None and unused.wider(url):
                unused.is_wider_better = True


class _Unused:
    """An include pattern without a match so far."""

    def __init__(self, matches: _Matches, pattern: str) -> None:
        self.matches = matches
        text = pattern.strip()
        is_regex = text.startswith("re:")
        self._wide = f"re:.*{text[3:]}.*" if is_regex else f"{'' if '://' in text else '*'}{text.strip('*')}*"
        self.wider: _Matches | None = None
        with suppress(ConfigError):  # too long, or too slow
            self.wider = _matcher(self._wide)
        self.is_wider_better = False

    def describe(self, pattern: str, number: int) -> str:
        meant = f"; did you mean {self._wide!r}?" if self.is_wider_better else ""
        return f"{pattern!r} matched none of {number} link{'' if number == 1 else 's'}{meant}"


def build_filters(include: Iterable[str] = (), exclude: Iterable[str] = ()) -> tuple[UrlFilter, UrlFilter]:
    """Return the filters of pages and of images.

    Raises:
        ConfigError: a pattern is invalid.
    """
    include, exclude = tuple(include), tuple(exclude)
    pages = UrlFilter(_for("page", include, plain=True), _for("page", exclude, plain=True))
    return pages, UrlFilter(_for("image", include, plain=False), _for("image", exclude, plain=True))


def _for(kind: str, patterns: Iterable[str], *, plain: bool) -> list[str]:
    """Return the patterns for a kind: those with its prefix, and if ``plain`` those without a prefix."""
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
    if not text.removeprefix("re:") or len(text) > _MAX_PATTERN:
        raise ConfigError(f"pattern {pattern[:100]!r}: must have 1 to {_MAX_PATTERN:,} characters")
    return _regex(text[3:], text) if text.startswith("re:") else _wildcards(text)


def _wildcards(pattern: str) -> _Matches:
    """Return a matcher that searches each piece between two stars once, after the previous one: no backtracking."""
    slashes, text = _normalized(pattern)
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


def _normalized(pattern: str) -> tuple[int, str]:
    """Return how many slashes of a URL to skip before comparing, and the pattern spelled like a canonical URL."""
    if any(char.isspace() or not char.isprintable() for char in pattern):
        raise ConfigError(f"pattern {pattern!r}: a URL contains no spaces; write %20")
    if "*" not in pattern and "/" not in pattern.partition("://")[2 if "://" in pattern else 0]:
        is_host = "." in pattern and extension(pattern) not in IMAGE_EXTENSIONS
        meant = f"{pattern}/*" if "://" in pattern or is_host else f"*{pattern}*"
        raise ConfigError(f"pattern {pattern!r} can match no URL: it must match a whole URL; did you mean {meant!r}?")
    if pattern.startswith("/"):
        return 3, quote(pattern[1:], _KEPT)
    scheme, mark, rest = pattern.partition("://")
    if not mark or "/" in scheme:
        scheme, mark, rest = "", "", pattern
    host, slash, path = rest.partition("/")
    return 0 if mark else 2, f"{scheme.lower()}{mark}{_host(host, pattern)}{slash}{quote(path, _KEPT)}"


def _host(host: str, pattern: str) -> str:
    """Return the host of a pattern spelled like a canonical URL. A host with a star is not changed."""
    if "*" in host:
        return quote(host, _KEPT)
    try:
        url = canonicalize(f"http://{host}/")
    except ValueError:
        url = ""
    if not url or url != f"http://{host_key(url)}/":
        raise ConfigError(f"pattern {pattern!r}: invalid host {host!r}; to match any host, begin with *")
    return host_key(url)


def _regex(text: str, pattern: str) -> _Matches:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # syntax that Python may interpret differently in future
            compiled = re.compile(text)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ConfigError(f"pattern {pattern!r}: {error}") from error
    longest = _LONGEST.get(_repetitions(text, pattern), 0)
    if not longest:
        bounded = f"{{1,{_FEW}}}"
        raise ConfigError(
            f"pattern {pattern!r}: more than {max(_LONGEST)} repetitions have no upper limit (*, + or {{n,}}); "
            f"limit some of them, for example with {bounded}"
        )
    return lambda url: len(url) <= longest and compiled.fullmatch(url) is not None


def _repetitions(text: str, pattern: str) -> int:
    """Return the number of unbounded repetitions. Raise `ConfigError` if a repeated group has variable length."""
    count = closed_at = 0
    varies, inner = [False], False  # for the open groups, and for the group closed last
    for token in _TOKEN.finditer(text):
        times = token["times"]
        if token["open"]:
            varies.append(False)
        elif token["close"]:
            inner, closed_at = varies.pop(), token.end()
            varies[-1] |= inner
        elif times:
            if inner and token.start() == closed_at and times != "?":
                raise ConfigError(
                    f"pattern {pattern!r}: a repeated group must not contain repetitions or alternatives (too slow)"
                )
            is_exact = times[0] == "{" and not token["range"]
            count += not (is_exact or times == "?" or 0 < int(token["most"] or 0) <= _FEW)
            varies[-1] |= not is_exact
        varies[-1] |= bool(token["or"])
    return count
