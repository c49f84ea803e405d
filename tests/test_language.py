"""Plain English: words and phrases that this project does not use, in code, comments, messages and documents."""

import re
from pathlib import Path

import pytest

import crawler

PACKAGE = Path(crawler.__file__).parent
ROOT = PACKAGE.parent
TEXTS = [ROOT / "README.md", *sorted(PACKAGE.rglob("*.md")), *sorted(PACKAGE.rglob("*.py"))]

#: Pronouns without an actor, and phrases that a reader has to translate.
ODD = re.compile(
    r"\b(?i:nobody|somebody|everybody|anybody|whoever|whatever|whichever|is told|are told|goes on|gone on with)\b"
    r"|(?<!\bthere )\b(?:is|are) none\b"
)
#: A sentence that begins with a noun clause instead of a noun. Questions are left out.
CLAUSE = re.compile(r"(?:^|[.:;!] |\"\"\"|# |#: )(?:What|Who) (?!is new)[a-z][^?\n]*$", re.MULTILINE)


def places(pattern: re.Pattern[str], path: Path) -> list[str]:
    """Return file, line and match of each place where the pattern stands."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for number, line in lines if pattern.search(line)]


@pytest.mark.parametrize("pattern", [ODD, CLAUSE], ids=["words", "noun clauses"])
def test_texts_are_in_plain_english(pattern: re.Pattern[str]) -> None:
    assert [place for path in TEXTS for place in places(pattern, path)] == []
