"""The pages of the user's guide, for `crawler help`."""

import difflib
from pathlib import Path

from crawler.errors import ConfigError

_FOLDER = Path(__file__).parents[1] / "guide"


def topics() -> dict[str, str]:
    """Return the title of each page by its topic, in alphabetical order."""
    pages = sorted(_FOLDER.glob("*.md"))
    return {page.stem: page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in pages}


def page(topic: str) -> str:
    """Return the text of a page; raises `ConfigError` if there is no such topic."""
    known = topics()
    if topic not in known:
        similar = difflib.get_close_matches(topic, known, n=1)
        hint = f"Did you mean {similar[0]!r}?" if similar else f"Topics: {', '.join(known)}."
        raise ConfigError(f"the guide has no topic {topic!r}. {hint}")
    return (_FOLDER / f"{topic}.md").read_text(encoding="utf-8")
