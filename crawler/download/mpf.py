"""The index of a JPEG that holds several pictures: 3D, previews, the gain map of an Ultra HDR.

The others stand behind the end of the first one, where readers of JPEG don't look; only the index tells whether they
are there.

Source: CIPA DC-007 (Multi-Picture Format), section 5.2.
"""

import struct

from crawler.errors import InvalidImage

MPF_MAGIC = b"MPF\0"
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ENTRIES = 0xB002
_ENTRY_SIZE = 16


def check_pictures(data: bytes, at: int, stop: int, first_end: int) -> None:
    """Refuse a file that ends before one of its pictures does.

    Programs that write a JPEG anew, or cut off what is behind its first picture, often keep the index; so it is
    believed only where it fits the first one, and something follows that.

    Args:
        data: all of the file.
        at: where the index begins, behind its magic; offsets count from there.
        stop: where its segment ends.
        first_end: where the first picture ends.

    Raises:
        InvalidImage: ``truncated``.
    """
    entries = _entries(data[at:stop])
    first = entries[0][0] if entries else 0
    if not first_end <= first < len(data) or data[first_end:first].strip(b"\0"):  # zeros: padding to a block
        return
    for number, (size, offset) in enumerate(entries[1:], 2):
        if at + offset + size > len(data):
            raise InvalidImage("truncated", f"JPEG ends in its picture {number}")


def _entries(index: bytes) -> list[tuple[int, int]]:
    """Size and offset of each picture in bytes; none where the index makes no sense."""
    order = _ORDERS.get(index[:4])
    if order is None:
        return []
    try:
        directory = struct.unpack_from(order + "I", index, 4)[0]
        for number in range(struct.unpack_from(order + "H", index, directory)[0]):
            tag, _, length, start = struct.unpack_from(order + "HHII", index, directory + 2 + 12 * number)
            if tag == _ENTRIES:
                places = range(start + 4, start + length, _ENTRY_SIZE)
                return [struct.unpack_from(order + "II", index, place) for place in places]
    except struct.error:
        pass
    return []
