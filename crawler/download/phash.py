"""What a picture looks like, as a text that is nearly the same for pictures that look nearly the same.

Two things of it: *forms*, whether it gets brighter to the right and downwards in each of 8 x 8 places (a difference
hash), and *colours*, those of its 4 x 4 parts. Forms alone take a red shirt for a blue one, and a white page for
another; colours alone take one meadow for another. How alike is alike says `crawler.download.likeness`.
"""

import struct

from PIL import Image

#: Pixels of the shorter side from which the hash is taken without a loss; decoders need not give more.
SIDE = 64

_PLACES, _PARTS = 8, 4
#: Brighter by more than this, of 255, and than this part of all that is between its darkest and its brightest place:
#: what a JPEG adds to a plain ground is less, and what a cut shifts in a soft one.
_STEP, _STEP_PART = 2, 0.05
#: A plain ground has fewer of the 128 bits of form, and no part that is so far from another, of 255.
_LEAST_FORMS, _LEAST_COLORS = 4, 24
#: Modes that are made smaller by leaving pixels out: of palettes and of more than eight bits nothing else can be.
_STIFF = ("P", "PA", "1", "I", "F")


def perceptual_hash(image: Image.Image) -> str:
    """The 128 hex digits of a decoded picture; empty where it is a plain ground, or of a mode that is not known."""
    try:
        small = _on_white(_shrunk(image))
    except (ValueError, OSError):  # Pillow converts most modes into most others
        return ""
    grey = small.getchannel(0).resize((_PLACES + 1, _PLACES + 1), Image.Resampling.LANCZOS).tobytes()
    forms = _forms(grey)
    colors = small.resize((_PARTS, _PARTS), Image.Resampling.BOX).tobytes()
    if sum(word.bit_count() for word in forms) < _LEAST_FORMS and _spread(colors) < _LEAST_COLORS:
        return ""
    return (struct.pack(">8H", *forms) + colors).hex()


def _forms(grey: bytes) -> list[int]:
    """Eight words of 16 bits, each with bits from all over the picture: pictures that share a border share no word."""
    words = [0] * _PLACES
    step = max(_STEP, int((max(grey) - min(grey)) * _STEP_PART))
    for y in range(_PLACES):
        for x in range(_PLACES):
            here = y * (_PLACES + 1) + x
            right = grey[here + 1] > grey[here] + step
            below = grey[here + _PLACES + 1] > grey[here] + step
            for turn, bit in ((0, right), (_PLACES // 2, below)):
                word = (x + 3 * y + turn) % _PLACES
                words[word] = words[word] << 1 | bit
    return words


def _spread(colors: bytes) -> int:
    """How far apart the parts are at most, in brightness or in one of the two colours."""
    return max(max(channel) - min(channel) for channel in (colors[0::3], colors[1::3], colors[2::3]))


def _shrunk(image: Image.Image) -> Image.Image:
    """Not much more than is needed, so that what follows costs the same for any size."""
    if image.mode.startswith(_STIFF):
        side = 8 * SIDE
        size = min(image.width, side), min(image.height, side)
        return image if size == image.size else image.resize(size, Image.Resampling.NEAREST)
    factor = min(image.width, image.height) // (2 * SIDE)
    return image.reduce(factor) if factor > 1 else image


def _on_white(image: Image.Image) -> Image.Image:
    """Brightness and colours, as a page shows them: what is transparent lies on white."""
    if image.mode.startswith(("I", "F")):
        _, highest = image.getextrema()
        scale = 1 / 256 if isinstance(highest, int | float) and highest > 255 else 1.0  # of sixteen bits, or of eight
        image = image.convert("F").point(lambda value: value * scale).convert("L")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(ground, picture).convert("RGB")
    if image.mode not in ("L", "RGB", "YCbCr"):
        image = image.convert("RGB")
    return image.convert("YCbCr")
