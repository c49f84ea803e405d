"""The index of a JPEG that contains several images: 3D, previews, the gain map of an Ultra HDR.

The other images follow the end of the first one, where JPEG decoders don't look; only the index shows whether they are
present.

Source: CIPA DC-007 (Multi-Picture Format), section 5.2.
"""

import struct

from crawler.errors import InvalidImage

MPF_MAGIC = b"MPF\0"
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ENTRIES = 0xB002
_ENTRY_SIZE = 16


def check_pictures(data: bytes, at: int, stop: int, first_end: int) -> None:
    """Refuse a file that ends before one of its images does.

    Programs that rewrite a JPEG, or cut it after its first image, often keep the index. So the index counts only if it
    agrees with the first image, and more data follows that.

    Args:
        data: the complete file.
        at: start of the index, after its magic; its offsets count from there.
        stop: end of its segment.
        first_end: end of the first image.

    Raises:
        InvalidImage: ``truncated``.
    """
    entries = _entries(data[at:stop])
    first = entries[0][0] if entries else 0
    if not first_end <= first < len(data) or data[first_end:first].strip(b"\0"):  # zeros: padding to a block
        return
    for number, (size, offset) in enumerate(entries[1:], 2):
        if at + offset + size > len(data):
            raise InvalidImage("truncated", f"JPEG ends within image {number}")


def _entries(index: bytes) -> list[tuple[int, int]]:
    """Return size and offset of each image in bytes, or nothing if the index is invalid."""
    order = _ORDERS.get(index[:4])
    if order is None:
        return []
    try:
        directory = struct.unpack_from(order + "I", index, 4)[0]
        for number in range(struct.unpack_from(order + "H", index, directory)[0]):
            tag, _, length, start = struct.unpack_from(order + "HHII", index, directory + 2 + 12 * number)
            if tag == _ENTRIES:
                offsets = range(start + 4, start + length, _ENTRY_SIZE)
                return [struct.unpack_from(order + "II", index, offset) for offset in offsets]
    except struct.error:
        pass
    return []
