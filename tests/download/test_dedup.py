import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.download.dedup import digest, image_key

#: The test vector of FIPS 180-2 for SHA-256.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_is_sha256_in_hex() -> None:
    assert digest(b"abc") == ABC


def test_key_is_sharded_by_the_first_two_digits() -> None:
    assert image_key(ABC, "jpg") == f"images/ba/{ABC}.jpg"


@given(st.binary(), st.binary())
def test_same_bytes_same_key(one: bytes, other: bytes) -> None:
    assert (image_key(digest(one), "png") == image_key(digest(other), "png")) == (one == other)


@pytest.mark.parametrize(
    ("sha256", "extension"),
    [("", "jpg"), (ABC.upper(), "jpg"), ("../" + ABC, "jpg"), (ABC, ""), (ABC, "j/g"), (ABC, ".jpg"), (ABC, "jpg\n")],
)
def test_anything_else_is_no_name(sha256: str, extension: str) -> None:
    with pytest.raises(ValueError, match="no content name"):
        image_key(sha256, extension)
