"""The perceptual hash of an image: a text that is nearly the same for images that look nearly the same.

It has two parts: *forms*, whether the image gets brighter to the right and downwards in each of 8 x 8 cells (a
difference hash), and *colours*, those of its 4 x 4 tiles. Forms alone confuse a red shirt with a blue one, and one
white page with another; colours alone confuse one meadow with another. The thresholds are in
`crawler.download.phash_compare`.
"""

import struct

from PIL import Image

#: Pixels of the shorter side that the hash needs; decoders may reduce an image to this size.
SIDE = 64

_CELLS, _TILES = 8, 4
#: Smallest brightness step of a form bit, of 255, and as a fraction of the range between the darkest and the brightest
#: cell: JPEG noise on a plain background, and the shift of a soft image by a crop, are below it.
_STEP, _STEP_FRACTION = 2, 0.05
#: A plain image has fewer of the 128 form bits than this, and less difference between two tiles, of 255.
_MIN_FORMS, _MIN_COLORS = 4, 24
#: Modes that are reduced by leaving out pixels: Pillow can't average palettes and more than eight bits.
_NOT_AVERAGED = ("P", "PA", "1", "I", "F")


def perceptual_hash(image: Image.Image) -> str:
    """Return the 128 hex digits of a decoded image, or "" if it is plain or its mode is unknown."""
    try:
        small = _on_white(_shrunk(image))
    except (ValueError, OSError):  # Pillow can't convert every mode
        return ""
    grey = small.getchannel(0).resize((_CELLS + 1, _CELLS + 1), Image.Resampling.LANCZOS).tobytes()
    forms = _forms(grey)
    colors = small.resize((_TILES, _TILES), Image.Resampling.BOX).tobytes()
    if sum(word.bit_count() for word in forms) < _MIN_FORMS and _spread(colors) < _MIN_COLORS:
        return ""
    return (struct.pack(">8H", *forms) + colors).hex()


def _forms(grey: bytes) -> list[int]:
    """Return eight words of 16 bits, each with bits from the whole image: a common border makes no word equal."""
    words = [0] * _CELLS
    step = max(_STEP, int((max(grey) - min(grey)) * _STEP_FRACTION))
    for y in range(_CELLS):
        for x in range(_CELLS):
            here = y * (_CELLS + 1) + x
            right = grey[here + 1] > grey[here] + step
            below = grey[here + _CELLS + 1] > grey[here] + step
            for shift, bit in ((0, right), (_CELLS // 2, below)):
                word = (x + 3 * y + shift) % _CELLS
                words[word] = words[word] << 1 | bit
    return words


def _spread(colors: bytes) -> int:
    """Return the largest difference between two tiles, in brightness or in one of the two colour channels."""
    return max(max(channel) - min(channel) for channel in (colors[0::3], colors[1::3], colors[2::3]))


def _shrunk(image: Image.Image) -> Image.Image:
    """Return the image reduced to little more than the needed size, so that later steps cost the same for any size."""
    if image.mode.startswith(_NOT_AVERAGED):
        side = 8 * SIDE
        size = min(image.width, side), min(image.height, side)
        return image if size == image.size else image.resize(size, Image.Resampling.NEAREST)
    factor = min(image.width, image.height) // (2 * SIDE)
    return image.reduce(factor) if factor > 1 else image


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image in YCbCr, with its transparent pixels on white, as a page shows them."""
    if image.mode.startswith(("I", "F")):
        _, highest = image.getextrema()
        scale = 1 / 256 if isinstance(highest, int | float) and highest > 255 else 1.0  # sixteen bits, or eight
        image = image.convert("F").point(lambda value: value * scale).convert("L")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        background = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(background, picture).convert("RGB")
    if image.mode not in ("L", "RGB", "YCbCr"):
        image = image.convert("RGB")
    return image.convert("YCbCr")
