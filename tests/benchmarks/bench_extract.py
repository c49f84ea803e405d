"""Cost of extracting a page, compared with BeautifulSoup on lxml alone: ``python -m tests.benchmarks.bench_extract``.

There are two pages: a gallery of about 18 KB, and a long one of about 300 KB. Each round measures every parser once, in
turn, so that other load on the machine affects all of them. The fastest round of each counts. Time is processor time.
"""

import gc
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

from bs4 import BeautifulSoup

from crawler.harvest.html.extract import extract

URL = "https://www.site.example/gallery/2024/"
ROUNDS = 15

_HEAD = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Gallery</title>
<meta property="og:image" content="/share.jpg"><link rel="icon" href="/icon.png"><link rel="stylesheet" href="/a.css">
<style>.hero { background: url(/hero.jpg) no-repeat } .a, .b { margin: 0 auto; color: #123456 }</style>
<script type="application/ld+json">{"@type": "WebPage", "image": "/share.jpg"}</script></head><body class="page">
"""
_ITEM = """<div class="card card--wide" id="item-{n}" data-id="{n}"><a class="card__link" href="/photo/{n}/summer.html">
<img class="card__image lazy" src="/thumbs/{n}.jpg" data-src="/large/{n}.jpg" width="320" height="240" alt="Hills {n}">
</a><h3 class="card__title">Summer in the hills, part {n}</h3><p class="card__text">Taken on a long walk, with <b>very
much</b> light &amp; some <i>wind</i>, before the rain came and the others went home.</p><ul class="card__tags">
<li>hills</li><li>summer</li><li><a href="/full/{n}.jpg" rel="nofollow">full size</a></li></ul>
<span class="card__date">{n} May</span></div>
"""
_RICH = """<figure class="wide"><picture><source srcset="/w/{n}-400.webp 400w, /w/{n}-800.webp 800w" type="image/webp">
<img src="/w/{n}.jpg" srcset="/w/{n}@2x.jpg 2x" alt=""></picture><figcaption>Number {n}, at dawn</figcaption></figure>
"""


def page(items: int) -> bytes:
    """Return a gallery in which every fourth picture comes in several sizes."""
    rows = (_ITEM.format(n=n) + (_RICH.format(n=n) if n % 4 == 0 else "") for n in range(items))
    return f"{_HEAD}{''.join(rows)}</body></html>".encode()


def measure(readers: dict[str, Callable[[bytes], object]], html: bytes, repeats: int) -> dict[str, float]:
    """Return the seconds that each parser takes for one page."""
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(ROUNDS):
        for name, reader in readers.items():
            gc.collect()
            begin = time.process_time()
            for _ in range(repeats):
                reader(html)
            best[name] = min(best[name], (time.process_time() - begin) / repeats)
    return best


def main() -> None:
    """Measure both pages with every parser that is installed."""
    readers: dict[str, Callable[[bytes], object]] = {
        "BeautifulSoup on lxml": lambda html: BeautifulSoup(html, "lxml"),
        "extract, lxml": lambda html: extract(html, URL),
    }
    if find_spec("selectolax"):
        readers["extract, lexbor"] = lambda html: extract(html, URL, parser="lexbor")
    for items, repeats in ((27, 10), (460, 1)):
        html = page(items)
        found = extract(html, URL)
        sys.stdout.write(f"{len(html) / 1000:.0f} KB, {len(found.images)} images, {len(found.links)} links\n")
        seconds = measure(readers, html, repeats)
        base = seconds["BeautifulSoup on lxml"]
        for name, value in seconds.items():
            sys.stdout.write(f"  {name:<22} {value * 1000:7.2f} ms  {value / base:.2f}\n")


if __name__ == "__main__":
    main()
