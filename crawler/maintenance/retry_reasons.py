"""Which failed requests `crawler retry` requeues: the classes of reasons, and the reasons of ``--only``."""

import difflib
import re
from collections.abc import Callable, Iterable

from crawler.errors import ConfigError
from crawler.model import REASONS, TEMPORARY_REASONS

#: Reasons that are retried unless the user names others: the temporary ones.
TEMPORARY = frozenset({*TEMPORARY_REASONS, "http-408", "http-425", "http-429", "http-5xx"})

_HTTP = re.compile(r"http-[1-9](?:[0-9]{2}|xx)")


def parse_reasons(texts: Iterable[str]) -> frozenset[str]:
    """Return the reasons of ``--only``, separated by commas: known ones, ``http-<code>`` or ``http-<digit>xx``.

    Raises:
        ConfigError: a reason is unknown, or there is no reason.
    """
    words = [word.strip().lower() for text in texts for word in text.split(",")]
    reasons = frozenset(word for word in words if word)
    for word in sorted(reasons):
        if word not in REASONS and not _HTTP.fullmatch(word):
            raise ConfigError(f"--only: unknown reason {word!r}{_guess(word)}")
    if not reasons:
        raise ConfigError("--only needs the reasons to retry, such as timeout,http-5xx")
    return reasons


def reason_filter(reasons: frozenset[str]) -> Callable[[str], bool]:
    """Return a function that returns whether a reason is one of these, or in a class of them."""
    return lambda reason: reason in reasons or (reason.startswith("http-") and f"{reason[:6]}xx" in reasons)


def _guess(word: str) -> str:
    """Return the end of a message about an unknown reason: similar reasons, or all known ones."""
    known = [*REASONS, *(f"http-{n}xx" for n in (3, 4, 5))]
    code = re.search(r"[1-9](?:[0-9]{2}|xx)", word)
    near = [f"http-{code[0]}"] if code else difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f". Did you mean {' or '.join(map(repr, near))}?"
    return f" (known: {', '.join(sorted(REASONS))}, http-CODE such as http-404, http-4xx, http-5xx)"
