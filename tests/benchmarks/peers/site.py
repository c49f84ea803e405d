"""The seeded site that every program downloads: pictures, two galleries, and lists of URLs.

The same seed and the same release of Pillow give the same bytes. A picture is one of a few JPEGs with a comment of its
own, so all files differ, and to make a gigabyte of them takes seconds.
"""

import hashlib
import io
import math
import random
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from PIL import Image

SEED = 20_261_130
PICTURES_PER_PAGE, PAGES_PER_PART = 20, 10
#: Pictures of one size that are made with the encoder; all others are copies with another comment.
_BASES = 40
_THUMBNAILS = 10
_WORDS = "harbour light evening boat river stone garden winter market bridge morning old street window tower cloud"
_PLACEHOLDER = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw=="

#: The ways in which a page of the other gallery names its pictures. ``{u}`` is the path, ``{a}`` the whole URL.
HEAD_WAYS = (
    '<meta property="og:image" content="{a}">',
    '<meta name="twitter:image" content="{a}">',
    '<link rel="image_src" href="{u}">',
    '<link rel="preload" as="image" href="{u}">',
    '<style>.hero {{ background: #eee url("{u}") no-repeat }}</style>',
    '<script type="application/ld+json">{{"@context": "https://schema.org", "@type": "ImageObject", '
    '"contentUrl": "{a}"}}</script>',
)
BODY_WAYS = (
    '<img src="{u}" alt="{t}">',
    '<img src="/thumbs/0.jpg" srcset="/thumbs/1.jpg 320w, {u} 1280w" sizes="100vw" alt="{t}">',
    '<picture><source type="image/jpeg" srcset="{u}"><img src="' + _PLACEHOLDER + '" alt="{t}"></picture>',
    '<img src="' + _PLACEHOLDER + '" data-src="{u}" alt="{t}">',
    '<img src="' + _PLACEHOLDER + '" data-srcset="/thumbs/2.jpg 1x, {u} 2x" alt="{t}">',
    "<div style=\"background-image: url('{u}')\">{t}</div>",
    '<div data-background-image="{u}">{t}</div>',
    '<video controls poster="{u}"></video>',
    '<a href="{u}">{t}</a>',
    '<a href="{u}"><img src="/thumbs/3.jpg" alt="{t}"></a>',
    '<noscript><img src="{u}" alt="{t}"></noscript>',
    '<input type="image" src="{u}" alt="{t}">',
    '<object type="image/jpeg" data="{u}">{t}</object>',
    '<svg width="90" height="60"><image href="{u}" width="90" height="60"/></svg>',
)


class Album(Struct, frozen=True):
    """Pictures of one size, as files of the site."""

    paths: list[str]
    #: SHA-256 of each file.
    digests: frozenset[bytes]


def make_jpeg(rng: random.Random, size: int) -> bytes:
    """Return a JPEG of about ``size`` bytes: smooth shapes with some noise, with the shape of a photograph."""
    pixels = (size - 600) * 4.1  # what this noise needs, behind the tables of a JPEG
    width = round(math.sqrt(pixels * 1.5) / 16) * 16
    height = max(16, round(pixels / width / 16) * 16)
    coarse = Image.frombytes("RGB", (width // 16, height // 16), rng.randbytes(width // 16 * (height // 16) * 3))
    noise = Image.frombytes("L", (width // 2, height // 2), rng.randbytes(width // 2 * (height // 2)))
    picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
    grain = noise.resize((width, height), Image.Resampling.BILINEAR).convert("RGB")
    out = io.BytesIO()
    Image.blend(picture, grain, 0.15).save(out, "JPEG", quality=85)
    return out.getvalue()


def make_pictures(number: int, size: int, seed: int = SEED) -> Iterator[bytes]:
    """Yield different JPEGs of about ``size`` bytes on average, from 0.4 to 1.6 times as large."""
    rng = random.Random(seed * size)  # noqa: S311  # pictures, not secrets
    bases = [make_jpeg(rng, round(size * (0.4 + 1.2 * step / (_BASES - 1)))) for step in range(_BASES)]
    for index in range(number):
        base, comment = bases[index % _BASES], f"picture {index} of {number}, seed {seed}".encode()
        yield base[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + base[2:]


def write_album(root: Path, name: str, number: int, size: int) -> Album:
    """Write pictures into the folder ``name`` of the site."""
    (root / name).mkdir(parents=True)
    paths, digests = [], set()
    for index, data in enumerate(make_pictures(number, size)):
        paths.append(f"/{name}/{index:05}.jpg")
        (root / paths[-1][1:]).write_bytes(data)
        digests.add(hashlib.sha256(data).digest())
    return Album(paths, frozenset(digests))


def write_thumbnails(root: Path) -> None:
    """Write the few thumbnails that all pages share. They are not among the pictures to be found."""
    write_album(root, "thumbs", _THUMBNAILS, 2_000)
    for path in (root / "thumbs").iterdir():
        path.rename(path.with_stem(str(int(path.stem))))


def write_gallery(root: Path, name: str, album: Album, base: str) -> list[str]:
    """Write a gallery: a start page, pages of its parts, and pages with twenty pictures; return the paths of the last.

    The gallery ``named`` names each picture of a page in a different way. Another one links to half of the pictures
    behind thumbnails and shows the other half.
    """
    folder = root / name
    folder.mkdir()
    body = _named_page if name == "named" else _plain_page
    starts = range(0, len(album.paths), PICTURES_PER_PAGE)
    pages = [f"/{name}/page-{index:04}.html" for index in range(len(starts))]
    for index, start in enumerate(starts):
        head, content = body(album.paths[start : start + PICTURES_PER_PAGE], base)
        around = [pages[index - 1], pages[(index + 1) % len(pages)], f"/{name}/"]
        (root / pages[index][1:]).write_text(_page(f"Page {index}", head, content, around), encoding="utf-8")
    parts = []
    for start in range(0, len(pages), PAGES_PER_PART):
        parts.append(f"/{name}/part-{start // PAGES_PER_PART:03}.html")
        links = _links(pages[start : start + PAGES_PER_PART])
        (root / parts[-1][1:]).write_text(_page(f"Part {len(parts)}", "", links, [f"/{name}/"]), encoding="utf-8")
    (folder / "index.html").write_text(_page("Gallery", "", _links(parts), []), encoding="utf-8")
    return pages


def _plain_page(paths: list[str], base: str) -> tuple[str, str]:
    linked = '<li><a href="{u}"><img src="/thumbs/{n}.jpg" alt="{t}"></a><p>{w}</p></li>'
    shown = '<li><img src="{u}" alt="{t}"><p>{w}</p></li>'
    items = [
        (linked if index % 2 else shown).format(u=path, n=index // 2 % _THUMBNAILS, t=_text(path, 3), w=_text(path, 20))
        for index, path in enumerate(paths)
    ]
    return "", "<ul>\n" + "\n".join(items) + "\n</ul>"


def _named_page(paths: list[str], base: str) -> tuple[str, str]:
    ways = [*HEAD_WAYS, *BODY_WAYS]
    named = [way.format(u=path, a=base + path, t=_text(path, 3)) for way, path in zip(ways, paths, strict=False)]
    head, body = named[: len(HEAD_WAYS)], named[len(HEAD_WAYS) :]
    return "\n".join(head), "\n".join(f"{item}<p>{_text(item, 20)}</p>" for item in body)


def _page(title: str, head: str, body: str, links: list[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n{head}\n</head>\n'
        f"<body><nav>{_links(links)}</nav><h1>{title}</h1>\n<p>{_text(title, 250)}</p>\n{body}\n</body></html>\n"
    )


def _links(paths: list[str]) -> str:
    return "\n".join(f'<a href="{path}">{path}</a>' for path in paths)


def _text(seed: str, words: int) -> str:
    """Return words that depend on nothing but the seed."""
    return " ".join(random.Random(seed).choices(_WORDS.split(), k=words))  # noqa: S311  # words, not secrets
