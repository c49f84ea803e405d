"""Generated pictures like those of people: no two of a kind are the same, though many have one layout."""

import math
from collections.abc import Callable
from io import BytesIO
from random import Random

from PIL import Image, ImageDraw, ImageFilter, ImageOps

#: Pixels.
SIZE = (320, 240)

Color = tuple[int, int, int]


def scene(number: int) -> Image.Image:
    """Return the same picture for the same number; kinds take turns."""
    return _KINDS[number % len(_KINDS)](Random(number))  # noqa: S311  # pictures, not secrets


def resized(picture: Image.Image, part: float = 0.5) -> Image.Image:
    return picture.resize((round(picture.width * part), round(picture.height * part)), Image.Resampling.BICUBIC)


def recompressed(picture: Image.Image, quality: int = 50) -> Image.Image:
    """Return the picture after JPEG compression of that quality."""
    return Image.open(BytesIO(file_of(picture, "JPEG", quality=quality)))


def cropped(picture: Image.Image, part: float = 0.02) -> Image.Image:
    """Remove that share of its width and height, all of it on one side: the worst case."""
    return picture.crop((round(picture.width * part), round(picture.height * part), *picture.size))


def file_of(picture: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _color(dice: Random) -> Color:
    return dice.randrange(256), dice.randrange(256), dice.randrange(256)


def _clouds(dice: Random, cells: int) -> Image.Image:
    """Return grey noise with that number of cells across, smooth between them."""
    tall = max(2, cells * SIZE[1] // SIZE[0])
    return Image.frombytes("L", (cells, tall), dice.randbytes(cells * tall)).resize(SIZE, Image.Resampling.BICUBIC)


def _photo(dice: Random) -> Image.Image:
    """Draw large forms, small ones on them, and grain, as in a photograph."""
    grey = Image.blend(_clouds(dice, dice.randrange(4, 7)), _clouds(dice, 20), 0.3)
    grey = Image.blend(grey, _clouds(dice, 160), 0.15)
    return ImageOps.colorize(grey, _color(dice), _color(dice), _color(dice))


def _landscape(dice: Random) -> Image.Image:
    """Draw sky above and hills below: one layout for all of them."""
    picture = ImageOps.colorize(_clouds(dice, 8), (90, 120, 200), (230, 235, 255))
    pencil = ImageDraw.Draw(picture)
    for depth in range(3):
        base, waves = 100 + 45 * depth, [(dice.uniform(4, 22), dice.uniform(0.5, 5), dice.uniform(0, 7)) for _ in "abc"]
        ridge = [
            (x, base + sum(height * math.sin(pace * x / 50 + at) for height, pace, at in waves))
            for x in range(0, SIZE[0] + 8, 8)
        ]
        shade = dice.randrange(30, 90) + 30 * depth
        pencil.polygon([(0, SIZE[1]), *ridge, (SIZE[0], SIZE[1])], fill=(shade // 2, shade, shade // 3))
    return Image.blend(picture, Image.merge("RGB", [_clouds(dice, 80)] * 3), 0.1)


def _shapes(dice: Random) -> Image.Image:
    picture = Image.new("RGB", SIZE, _color(dice))
    pencil = ImageDraw.Draw(picture)
    for _ in range(dice.randrange(5, 12)):
        x, y, width, height = (dice.randrange(end) for end in (*SIZE, *SIZE))
        draw = pencil.ellipse if dice.random() < 0.5 else pencil.rectangle
        draw((x - width // 3, y - height // 3, x + width // 3, y + height // 3), fill=_color(dice))
    return picture


def _goods(dice: Random) -> Image.Image:
    """Draw one object on white, in the middle, as in a web shop."""
    picture = Image.new("RGB", SIZE, "white")
    pencil, color = ImageDraw.Draw(picture), _color(dice)
    corners = dice.randrange(5, 14)
    points = [
        (160 + 110 * dice.uniform(0.4, 1) * math.cos(at), 120 + 100 * dice.uniform(0.4, 1) * math.sin(at))
        for at in (2 * math.pi * corner / corners for corner in range(corners))
    ]
    pencil.polygon(points, fill=color)
    for _ in range(4):
        x, y, radius = dice.randrange(100, 220), dice.randrange(80, 160), dice.randrange(6, 30)
        pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_color(dice))
    return picture.filter(ImageFilter.GaussianBlur(1))


def _page(dice: Random) -> Image.Image:
    """Draw a page of text: headline, lines, a figure somewhere."""
    picture = Image.new("RGB", SIZE, "white")
    pencil = ImageDraw.Draw(picture)
    pencil.text((14, 8), "".join(dice.choices("ABCDEFGHIKLMNO ", k=14)), fill="black", font_size=26)
    y = 44
    while y < SIZE[1] - 16:
        length = dice.randrange(4, 46)
        pencil.text((14, y), "".join(dice.choices("abcdefghiklmnoprstu  ", k=length)), fill="black", font_size=12)
        y += dice.choice([14, 14, 14, 24])
    x, y = dice.randrange(20, 220), dice.randrange(60, 160)
    pencil.rectangle((x, y, x + dice.randrange(50, 100), y + dice.randrange(40, 80)), fill=_color(dice))
    return picture


def _chart(dice: Random) -> Image.Image:
    picture = Image.new("RGB", SIZE, "white")
    pencil, color = ImageDraw.Draw(picture), _color(dice)
    pencil.line((30, 10, 30, 220, 310, 220), fill="black", width=2)
    for column in range(12):
        top = dice.randrange(20, 215)
        pencil.rectangle((36 + 23 * column, top, 52 + 23 * column, 219), fill=color)
    return picture


def _texture(dice: Random) -> Image.Image:
    """Draw waves of some length and direction, bent by others: woven, or wooden."""
    wide, tall = SIZE[0] // 4, SIZE[1] // 4
    length, turn, bend = dice.uniform(9, 40), dice.uniform(0, math.pi), dice.uniform(2, 9)
    across, down, phase = math.cos(turn) / length, math.sin(turn) / length, dice.uniform(0, 7)
    waves = bytes(
        round(127 + 120 * math.sin(2 * math.pi * (x * across + y * down) + bend * math.sin(x / 23 + y / 31 + phase)))
        for y in range(tall)
        for x in range(wide)
    )
    grey = Image.frombytes("L", (wide, tall), waves).resize(SIZE, Image.Resampling.BICUBIC)
    return ImageOps.colorize(grey, _color(dice), _color(dice))


def _gradient(dice: Random) -> Image.Image:
    """Draw a soft background with a few lights on it."""
    ground = Image.frombytes("L", (2, 2), dice.randbytes(4)).resize(SIZE, Image.Resampling.BICUBIC)
    pencil = ImageDraw.Draw(ground)
    for _ in range(6):
        x, y, radius = dice.randrange(SIZE[0]), dice.randrange(SIZE[1]), dice.randrange(12, 60)
        pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dice.randrange(256))
    return ImageOps.colorize(ground.filter(ImageFilter.GaussianBlur(9)), _color(dice), _color(dice))


_KINDS: tuple[Callable[[Random], Image.Image], ...] = (
    *(_photo, _landscape, _shapes, _goods, _page, _chart, _texture, _gradient),
)
