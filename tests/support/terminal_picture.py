"""Draws ``fixtures/terminal.svg``: a terminal in the middle of a crawl of a site on this machine.

``python -m tests.support.terminal_picture`` runs the crawl in tmux, which must be installed, and writes the file.
"""

import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from crawler.demo.server import DemoServer
from tests.support.processes import many_pictures, stats_of, wait_until

_COLUMNS, _LINES = 108, 9
_PICTURES, _SHOWN = 420, 230
#: Pixels of a character and of a line.
_WIDTH, _HEIGHT = 8.4, 18
_FILE = Path(__file__).parents[2] / "fixtures" / "terminal.svg"


def drawn(lines: list[str]) -> str:
    """Return an SVG of these lines of text on a dark ground."""
    width, height = round(_COLUMNS * _WIDTH + 24), _HEIGHT * len(lines) + 24
    rows = "\n".join(
        f'<text x="12" y="{_HEIGHT * number + 26}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<rect width="100%" height="100%" rx="6" fill="#1d2229"/>\n'
        f'<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#d5dbe3">\n{rows}\n</g>\n'
        "</svg>\n"
    )


def captured(folder: Path) -> list[str]:
    """Return the lines of a terminal of `_COLUMNS` columns while a crawl runs in it."""
    tmux = ("tmux", "-L", "terminal-picture")
    with DemoServer(
        many_pictures(folder, _PICTURES), {f"/{n:04}.png": {"delay": 0.3} for n in range(_PICTURES)}
    ) as site:
        size = ("-x", str(_COLUMNS), "-y", str(_LINES))
        shell = f"cd {folder} && PATH={Path(sys.executable).parent}:$PATH PS1='$ ' exec sh"
        subprocess.run([*tmux, "new-session", "-d", *size, shell], check=True)
        try:
            subprocess.run([*tmux, "send-keys", f"crawler run {site.url} -o out", "Enter"], check=True)
            wait_until(lambda: stats_of(folder / "out").success >= _SHOWN, "the middle of the crawl")
            done = subprocess.run([*tmux, "capture-pane", "-p"], check=True, capture_output=True, encoding="utf-8")
            wait_until(lambda: stats_of(folder / "out").success == _PICTURES, "the end of the crawl")
        finally:
            subprocess.run([*tmux, "kill-server"], check=True)
    return done.stdout.rstrip().splitlines()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        _FILE.write_text(drawn(captured(Path(name))), encoding="utf-8")
