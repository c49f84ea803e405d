"""Readable file names, made from any text that a hostile site may send."""

import ntpath
import os
import unicodedata
from pathlib import PureWindowsPath
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pathvalidate import is_valid_filename

from crawler.download.naming import _MAX_FOLDERS, NameTemplate, digest, image_key
from crawler.errors import ConfigError
from crawler.model import ImageRecord
from crawler.paths import hash_in, is_picture
from crawler.store.local import LocalStore

SHA = "2a301c2b4d86434f1091fc8b13b3b8c5f11402525dde37f722bcc04aabe4793d"
SHORT = SHA[:32]
#: The test vector of FIPS 180-2 for SHA-256.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#: 2026-02-03 23:59:59 in UTC.
NIGHT = 1_770_163_199.0
#: Records of `test_no_name_is_unsafe_or_ambiguous`, each of which is named in thirteen ways.
EXAMPLES = int(os.environ.get("NAMING_EXAMPLES", "0")) or 10 * settings().max_examples


def name(template: str, extension: str = "jpg", **fields: Any) -> str:
    """Return the name without the pictures folder, its hash and its extension."""
    known: dict[str, Any] = {"url": "https://example.org/gallery/harbour.png", "sha256": SHA, "fetched_at": NIGHT}
    key = NameTemplate(template).key(ImageRecord(**(known | fields)), extension)
    assert is_picture(key, SHA)
    tail = f"{SHORT}.{extension}"
    assert key.startswith("images/") and key.endswith(tail)
    return key.removeprefix("images/").removesuffix(tail).removesuffix(".")


def test_without_a_template_the_name_is_the_content_hash() -> None:
    assert NameTemplate().key(ImageRecord(url="https://a.example/", sha256=SHA), "jpg") == image_key(SHA, "jpg")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{host}/{path}", "example.org/gallery/harbour"),
        ("{file}", "harbour"),
        ("{alt}", "Boats in the harbour"),
        ("{title}", "Evening"),
        ("{page_host}/{page_title}", "example.com_8080/Gallery _1"),
        ("{date}/{file}", "2026-02-03/harbour"),
        ("{year}/{month}/{day}", "2026/02/03"),
        ("{format} {width}x{height}", "png 640x480"),
        ("my pictures/{file}", "my pictures/harbour"),
        ("pictures", "pictures"),
        ("{host}", "example.org"),
    ],
)
def test_a_template_is_filled_from_the_record(template: str, expected: str) -> None:
    words = {"alt": "Boats in\n\tthe  harbour", "title": "Evening", "page_title": "Gallery #1", "format": "png"}
    assert name(template, page_url="http://example.com:8080/g", width=640, height=480, **words) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [("{alt}-{hash}", f"boat-{SHA}"), ("{alt}{hash}", f"boat.{SHA}"), ("{host}/{hash}", f"example.org/{SHA}")],
)
def test_a_hash_at_the_end_is_the_full_hash(template: str, expected: str) -> None:
    record = ImageRecord(url="https://example.org/", alt="boat", sha256=SHA)
    assert NameTemplate(template).key(record, "png") == f"images/{expected}.png"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/", ""),
        ("https://a.example//a///b.jpg", "a/b"),
        ("https://a.example/a/", "a"),
        ("https://a.example/a/b.tar.gz?id=1", "a/b.tar"),
        ("https://a.example/%C3%A4/%E4.jpg", "ä/"),
        ("https://a.example/x%E4y.jpg", "x_y"),
        ("https://a.example/a%2F..%2Fb/c%5Cd.jpg", "a_.._b/c_d"),
        ("https://a.example/%252e%252e/x%00y.jpg", "2e_2e/xy"),
        ("https://a.example/e%CC%81t%C3%A9.jpg", "été"),
        ("https://a.example/" + "/".join("abcdefghijkl"), "a/b/c/d/e/f/g/h/l"),
        ("https://a.example/.git/-rf/~root.jpg", "git/rf/root"),
        ("https://a.example/CON/nul%20.jpg", "CON_/nul_"),
    ],
)
def test_the_path_of_a_url_makes_folders(url: str, expected: str) -> None:
    assert name("{path}", url=url) == expected


@pytest.mark.parametrize(
    ("alt", "expected"),
    [
        ("", ""),
        ("../../etc/passwd", "etc_passwd"),
        ("C:\\Windows\\nul", "C_Windows_nul"),
        *((device, f"{device}_") for device in ("nul", "Con", "LPT9", "com1", "COM²", "AUX")),
        ("nul .jpg", "_nul .jpg"),
        ("nul.", "nul_"),
        ("CONIN$", "CONIN"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\u0301accent", "accent"),
        ("soft\u00adhyphen \ue000 \ufffd", "softhyphen"),
        ("...hidden...", "hidden"),
        ("-rf *", "rf"),
        ('a:b|c?d<e>f"g%h$i`j~k;l', "a_b_c_d_e_f_g_h_i_j_k_l"),
        ("한국어 \u1112\u1161\u11ab", "한국어 한"),
        ("שלום", "שלום"),
        ("\ud800", ""),
    ],
)
def test_text_from_the_web_is_kept_in_names(alt: str, expected: str) -> None:
    assert name("{alt}", alt=alt) == expected


def test_an_empty_folder_name_becomes_an_underscore() -> None:
    assert name("{alt}/{title}/{file}") == "_/_/harbour"


def test_a_folder_that_is_named_like_a_picture_is_renamed() -> None:
    file = f"boat.{SHORT}.jpg"
    assert name("{path}", url=f"https://a.example/{file}/x.png") == f"{file}_/x"
    assert name("{path}", url=f"https://a.example/{file.upper()}/x.png") == f"{file.upper()}_/x"


@pytest.mark.parametrize("letter", ["x", "ä", "漢", "😀"])
def test_long_texts_are_cut_to_fit_and_short_ones_are_not(letter: str) -> None:
    cut = name("{host}/{alt}/{title}", alt=letter * 5_000, title=letter * 5_000)
    host, alt, title = cut.split("/")
    assert host == "example.org"
    assert min(len(alt), len(title)) > 15


def test_the_same_record_has_the_same_name_and_other_bytes_another() -> None:
    records = [ImageRecord(url="https://a.example/x.jpg", alt="cat", sha256=digest(data)) for data in (b"1", b"2")]
    keys = {NameTemplate("{alt}").key(record, "jpg") for record in records * 2}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{host}/{nmae}", r"there is no field \{nmae\} for the name template \(known: host, path, file"),
        ("{}", "no field"),
        ("{0}", "no field"),
        ("{alt.x}", "no field"),
        ("{alt!r}", "without 'r'"),
        ("{alt:>99999}", "without '>99999'"),
        ("{alt", "expected '}'"),
        ("alt}", "Single '}'"),
        ("a:b", "must not contain ':'"),
        ("{{x}}", "must not contain '{'"),
        ("a\\b", "must not contain"),
        ("a\u202e", "must not contain"),
        ("/etc/{file}", "an empty segment"),
        ("a//b", "an empty segment"),
        ("{host}/", "an empty segment"),
        ("../{file}", "the segment '..'"),
        (".hidden/{file}", r"the segment '\.hidden'"),
        ("con/{file}", "the segment 'con'"),
        ("x" * 121, "not be longer than 120"),
        ("{host}/" * 9 + "x", "more than 8 folders"),
    ],
)
def test_an_invalid_template_is_refused_in_one_line(template: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        NameTemplate(template)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("sha256", "extension"), [("", "jpg"), ("ab" * 32, "../x"), ("g" * 64, "jpg")])
def test_only_hashes_and_extensions_end_a_name(sha256: str, extension: str) -> None:
    with pytest.raises(ValueError, match="invalid hash or extension"):
        NameTemplate("{alt}").key(ImageRecord(url="https://a.example/", sha256=sha256), extension)


# --- hostile text

_NASTY = st.sampled_from(
    [
        *(
            "..",
            ".",
            "CON",
            "nul .jpg",
            "com1.x",
            "LPT¹",
            "COM³.tar",
            "conin$",
            "aux.",
            "\u202egpj",
            "\u200b",
            "~1",
            "-",
        ),
        *(f"boat.{SHORT}.jpg", f"BOAT.{SHORT.upper()}.JPG", f"{SHORT}.png", SHA, f"x{SHORT}", f"\ufb00.{SHORT}.jpg"),
        *(
            "a/../../b",
            "\\\\server\\x",
            "C:",
            "a:b",
            "%2e%2e%2f",
            "é",
            "e\u0301",
            "ß",
            "SS",
            "İ",
            "ſ",
            "\u212a",
            "x" * 300,
        ),
        *(
            "漢" * 100,
            "😀" * 90,
            "a" + "\u0301" * 300,
            " ",
            "_ _",
            "\ud800",
            "\U000e0041",
            "\u115f",
            "\ufe0f",
            "=\u0338",
        ),
        *("store.json", ".x.jpg.1-2.0123abcd.part", "\x00", "\n", "con" + " " * 60 + ".x", "a" * 8 + ".", "\u037e"),
    ]
)
_TEXT = st.one_of(_NASTY, st.text(max_size=40), st.builds(str.__add__, _NASTY, _NASTY))
_NAMINGS = [
    NameTemplate(template)
    for template in (
        *("{alt}", "{host}/{path}", "{path}", "{file}", "{path}{alt}", "{alt}{title}/{file}", "{alt}-{hash}", "{hash}"),
        *("{page_title}/{date}/{alt}", "con{alt}/nul{title}", "{alt}.{title}", "{path}/{path}/{path}", "{hash}/{alt}"),
    )
]
_RECORDS = st.builds(
    lambda path, alt, title, sha256: ImageRecord(
        url="https://a.example/" + quote(path.encode("utf-8", "surrogatepass"), safe="/%"),
        alt=alt,
        title=title,
        page_title=title,
        sha256=sha256,
        fetched_at=NIGHT,
    ),
    st.lists(_TEXT, max_size=4).map("/".join),
    _TEXT,
    _TEXT,
    st.one_of(st.just(SHA), st.integers().map(lambda number: digest(b"%d" % number))),
)


def is_reserved(segment: str) -> bool:
    """Return whether Python itself takes the name for a Windows device."""
    is_reserved_name = getattr(ntpath, "isreserved", None)  # Python 3.13 and newer
    return bool(is_reserved_name(segment) if is_reserved_name else PureWindowsPath(segment).is_reserved())


def folded(path: str) -> str:
    """Return the path in a file system that normalises, folds case, ignores invisible characters and strips ends."""
    seen = "".join(char for char in unicodedata.normalize("NFD", path) if unicodedata.category(char) != "Cf")
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFD", seen.casefold()).upper().casefold())
    return "/".join(segment.rstrip(" .") for segment in text.split("/"))


class Disk:
    """All names so far: each belongs to one picture, and none of them is a folder as well."""

    def __init__(self) -> None:
        self._files: dict[int, str] = {}
        self._folders: set[int] = set()

    def add(self, key: str, sha256: str) -> None:
        path = folded(key)
        assert self._files.setdefault(hash(path), sha256) == sha256
        folders = path.split("/")[:-1]
        self._folders |= {hash("/".join(folders[:depth])) for depth in range(1, len(folders) + 1)}
        assert not self._folders & {hash(path)}
        assert not self._files.keys() & {hash("/".join(folders[:depth])) for depth in range(1, len(folders) + 1)}


DISK = Disk()


@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(_RECORDS)
def test_no_name_is_unsafe_or_ambiguous(record: ImageRecord) -> None:
    for naming in _NAMINGS:
        check_name(naming.key(record, "jpg"), record)


def check_name(key: str, record: ImageRecord) -> None:
    top, *segments = key.split("/")
    assert top == "images" and 1 <= len(segments) <= _MAX_FOLDERS + 1
    assert is_picture(key, record.sha256) and hash_in(key) == record.sha256[:32] and key.endswith(".jpg")
    assert len(key.encode("utf-16-le")) // 2 <= 160 and unicodedata.is_normalized("NFC", key)
    for segment in segments:
        assert not is_reserved(segment) and is_valid_filename(segment, platform="universal")
        assert segment == segment.strip(" ") and segment[0] not in ".-~" and segment[-1] != "."
        assert len(segment.encode()) <= 200 and not set(segment) & set('\\:*?"<>|~%$`;\0')
        assert not {unicodedata.category(char) for char in segment} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    DISK.add(key, record.sha256)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(record=_RECORDS)
def test_names_work_as_files_in_a_real_directory(tmp_path_factory: pytest.TempPathFactory, record: ImageRecord) -> None:
    root = tmp_path_factory.getbasetemp() / "names"
    store = LocalStore(root, "none")
    for key in {naming.key(record, "jpg") for naming in _NAMINGS}:
        store.put(key, record.sha256.encode())
        assert (root / key).read_bytes() == record.sha256.encode()
        names = {unicodedata.normalize("NFC", path.name) for path in (root / key).parent.iterdir()}
        assert key.rpartition("/")[2] in names


# --- names by content


def test_digest_is_sha256_in_hex() -> None:
    assert digest(b"abc") == ABC


def test_key_is_sharded_by_the_first_two_digits() -> None:
    assert image_key(ABC, "jpg") == f"images/ba/{ABC}.jpg"


@given(st.binary(), st.binary())
def test_the_same_bytes_have_the_same_key(one: bytes, other: bytes) -> None:
    assert (image_key(digest(one), "png") == image_key(digest(other), "png")) == (one == other)


@pytest.mark.parametrize(
    ("sha256", "extension"),
    [("", "jpg"), (ABC.upper(), "jpg"), ("../" + ABC, "jpg"), (ABC, ""), (ABC, "j/g"), (ABC, ".jpg"), (ABC, "jpg\n")],
)
def test_anything_else_is_not_a_content_name(sha256: str, extension: str) -> None:
    with pytest.raises(ValueError, match="invalid hash or extension"):
        image_key(sha256, extension)
