"""What an earlier visit has brought, and what texts and numbers from elsewhere may be."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from crawler.paths import is_safe

#: What a worker elsewhere may send as a URL and as a reason; both end up in record lines, which nobody may forge.
Url = Annotated[str, Meta(pattern=r"\A[!-;=?-~]*\Z")]
Reason = Annotated[str, Meta(pattern=r"\A[a-z0-9-]{0,64}\Z")]
#: What a master elsewhere may say of a store: its id.
StoreId = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{16})?\Z")]
#: Header texts by which a server knows its own version of a file again (RFC 9110 §8.8); they are only ever sent back.
ETag = Annotated[str, Meta(pattern=r"\A[ -~]{0,256}\Z")]
HttpDate = Annotated[str, Meta(pattern=r"\A[ -~]{0,64}\Z")]
#: What is counted, and seconds: never negative, never NaN or infinite, never more than a database column holds.
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=2**53)]

#: What a refresh has made of an image URL, compared with the bytes that were saved for it before: the same, others,
#: none to be had any more (404, 410), saved for the first time. Empty: nothing to compare, or not to be had for now.
Change = Literal["", "unchanged", "changed", "gone", "new"]

#: Reasons that lie in the bytes alone: no header or setting makes a picture of them, at most another decoder.
OF_CONTENT = frozenset({"not-an-image", "truncated", "corrupt"})

#: The reason of a picture whose bytes are others than the list of pins says.
PIN_MISMATCH = "pin-mismatch"


class Known(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What an earlier visit has brought: asked for with these validators, a server need not send it again."""

    #: The URL that gave the validators, after redirects; no other one is asked with them.
    url: Url
    etag: ETag = ""
    last_modified: HttpDate = ""
    #: For pictures: why what came was none, so that it is none again while it is the same (`OF_CONTENT`).
    reason: Reason = ""
    #: Else where the file is, and what is in it.
    store: StoreId = ""
    path: str = ""
    sha256: Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{64})?\Z")] = ""
    bytes: Count = 0
    format: Annotated[str, Meta(pattern=r"\A[a-z0-9]{0,16}\Z")] = ""
    #: Pixels.
    width: Count = 0
    height: Count = 0

    def __post_init__(self) -> None:
        """Nobody can be led astray by a path; raises ValueError."""
        if self.path and not is_safe(self.path):
            raise ValueError("a known path is none of a store")


def quarantined(path: str) -> str:
    """Where the file of a picture goes whose bytes are not the pinned ones."""
    return f"quarantine/{path.removeprefix('images/')}" if path.startswith("images/") else path


def released(path: str) -> str:
    """Where such a file came from; the reverse of `quarantined`."""
    return f"images/{path.removeprefix('quarantine/')}" if path.startswith("quarantine/") else path
