"""Style sheets: properties that name a picture, properties that do not, and hostile sheets."""

import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.html.css import MAX_TEXT, MAX_URLS, CssUrl, Sheet, declaration_images, decode_sheet, read_sheet


def urls(text: str) -> list[str]:
    return [image.url for image in read_sheet(text).images]


def values(value: str) -> list[str]:
    return [image.url for image in declaration_images(f"background: {value}")]


# --- values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("url(a.png)", ["a.png"]),
        ("URL( a.png )", ["a.png"]),
        ("url('a b.png')", ["a b.png"]),
        ('url( "a.png" )', ["a.png"]),
        ("url(a.png", ["a.png"]),
        ("url('a.png", ["a.png"]),
        ("src('a.png')", ["a.png"]),
        ("src(var(--x))", []),
        (r"u\72 l(a.png)", ["a.png"]),
        (r"url(a\29 \(.png)", ["a)(.png"]),
        ("url('a\\\nb.png')", ["ab.png"]),
        ("url(a b.png)", []),
        ("url(a'b.png)", []),
        ("url('a\nb.png') red", []),
        ("url()url('')url( )", []),
        ("url(#a) url('#b')", []),
        ("red url(a.png) 0 0 / cover, url(b.png) !important", ["a.png", "b.png"]),
        ("linear-gradient(red, blue), url(a.png)", ["a.png"]),
        ("var(--x, url(a.png))", ["a.png"]),
        ("light-dark(url(a.png), url(b.png))", ["a.png", "b.png"]),
        ("cross-fade(url(a.png) 20%, url(b.png))", ["a.png", "b.png"]),
        ("image(ltr 'a.png', red)", ["a.png"]),
        ("'a.png' attr(b) format('c')", []),
        ("/* url(a.png) */ url(b.png)", ["b.png"]),
        ("url(data:image/png;base64,AA;}==), url(b.png)", ["data:image/png;base64,AA;}==", "b.png"]),
        (r"url(\d800.png)", ["\ufffd.png"]),
    ],
)
def test_values_are_parsed_as_in_browsers(value: str, expected: list[str]) -> None:
    assert values(value) == expected


def test_alternatives_share_a_group_and_have_a_density() -> None:
    text = "image-set('a' 1x, url(b) 192dpi type('image/avif'), src('c') 3DPPX, 'd'), url(e)"
    found = declaration_images(f"Background:{text}")
    assert [(image.url, image.density) for image in found] == [("a", 1), ("b", 2), ("c", 3), ("d", None), ("e", None)]
    assert [image.group == found[0].group for image in found] == [True, True, True, True, False]
    assert {image.property for image in found} == {"background"}


def test_the_prefixed_image_set_is_read_too() -> None:
    assert declaration_images("content:-webkit-image-set(url(a) 2x)") == (CssUrl("a", 0, 2.0, "content"),)


@pytest.mark.parametrize("resolution", ["0x", "-1x", "1e999x", "2px", "calc(1x)", "2"])
def test_an_invalid_resolution_is_ignored(resolution: str) -> None:
    assert declaration_images(f"mask:image-set('a' {resolution})") == (CssUrl("a", 0, None, "mask"),)


def test_pictures_shown_together_have_separate_groups() -> None:
    found = declaration_images("background: url(a), cross-fade(url(b), url(c)); mask: url(d)")
    assert [image.group for image in found] == [0, 1, 2, 3]


# --- properties


@pytest.mark.parametrize(
    "name",
    [
        *("background", "background-image", "border-image", "border-image-source", "list-style", "list-style-image"),
        *("content", "cursor", "mask", "-webkit-mask-image", "shape-outside", "--hero", "symbols"),
    ],
)
def test_these_properties_name_pictures(name: str) -> None:
    assert urls(f"a {{ {name}: url(a.png) }}") == ["a.png"]


@pytest.mark.parametrize("name", ["behavior", "filter", "clip-path", "fill", "-moz-binding", "marker-end", "src"])
def test_these_properties_name_no_picture(name: str) -> None:
    assert urls(f"a {{ {name}: url(a.svg) }}") == []


@pytest.mark.parametrize("file", ["a.woff2", "a.TTF?#iefix", "a.css", "a.htc"])
def test_files_of_other_kinds_are_not_pictures(file: str) -> None:
    assert urls(f":root {{ --file: url({file}) }}") == []


# --- sheets


@pytest.mark.parametrize(
    "sheet",
    [
        "a{background:url(a)}",
        "@media print { a { color: red; background: url(a) } }",
        "@layer x { @supports (background: url(no)) { @container c (width > 1px) { a { background: url(a) } } } }",
        "a { color: red; &:hover { background: url(a) } }",
        "a { b:hover { c: d } background: url(a) }",
        "@page { background: url(a) } @counter-style x { symbols: url(b) }",
        "<!-- a { background: url(a) } -->",
        "/* } */ a { content: '}'; background: url(a) }",
        "} a { background: url(a) }",
        "a { background: url(a)",
        "@font-face { src: url(no) } a { background: url(a) }",
        "a:not([href='{']) { background: url(a) }",
        "a { --x: { background: url(a) } }",
    ],
)
def test_pictures_are_found_in_nested_rules(sheet: str) -> None:
    assert urls(sheet)[0] == "a"


@pytest.mark.parametrize(
    "sheet",
    [
        "@font-face { font-family: x; src: url(a) format('woff') }",
        "@media print { /* x */ @Font-Face { src: url(a); x: url(b) } }",
        "@namespace url(a);",
        "@document url(a) { b { color: red } }",
        "@-moz-document url-prefix(a) { b { color: red } }",
        "background: url(a);",
        "/* a { background: url(a) }",
        "a { content: 'url(a)' }",
    ],
)
def test_these_sheets_name_no_picture(sheet: str) -> None:
    assert read_sheet(sheet) == Sheet()


def test_a_style_attribute_is_a_list_of_declarations() -> None:
    found = declaration_images("color: red; background: url(a); ; mask: url(b)")
    assert [(image.url, image.property) for image in found] == [("a", "background"), ("b", "mask")]


@pytest.mark.parametrize(
    ("sheet", "expected"),
    [
        ("@import 'a.css'; @import url(b.css) screen; @IMPORT URL('c.css') layer(x);", ("a.css", "b.css", "c.css")),
        ("@charset 'utf-8'; @layer x; /* y */ @import 'a;b.css'; ;", ("a;b.css",)),
        ("<!-- @import src('a.css')", ("a.css",)),
        ("a { color: red } @import 'late.css';", ()),
        ("@namespace svg 'x'; @import 'late.css';", ()),
        ("@media all { @import 'inner.css'; }", ()),
        ("@import; @import ''; @import x; @import url();", ()),
    ],
)
def test_imports_are_further_sheets(sheet: str, expected: tuple[str, ...]) -> None:
    assert read_sheet(sheet) == Sheet(imports=expected)


# --- bytes


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ("é".encode(), ""),
        ("\ufeffé".encode(), "text/css; charset=latin1"),
        ("\ufeffé".encode("utf-16-le"), ""),
        ("é".encode("latin-1"), "text/css; charset=latin1"),
        ('@charset "utf-8";é'.encode("latin-1"), "text/css; charset=latin1"),
        ('@charset "latin1";é'.encode("latin-1"), ""),
        ('@charset "latin1";é'.encode("latin-1"), "text/css; charset=unknown-é"),
        ('@charset "utf-16";é'.encode(), ""),
        ("@charset 'latin1';é".encode(), ""),
    ],
)
def test_bytes_are_decoded_by_the_standard(data: bytes, content_type: str) -> None:
    assert decode_sheet(data, content_type).endswith("é")


def test_invalid_bytes_are_replaced() -> None:
    assert decode_sheet(b"\xff") == "\ufffd"


@given(st.binary(), st.text())
def test_any_bytes_are_decoded(data: bytes, content_type: str) -> None:
    assert decode_sheet(data, content_type).isprintable() in (True, False)


# --- hostile text


def test_urls_are_capped() -> None:
    sheet = read_sheet("a { background: url(a), url(b) }" * MAX_URLS)
    assert (len(sheet.images), sheet.truncated) == (MAX_URLS, True)


def test_text_is_capped() -> None:
    sheet = read_sheet("a { background: url(a) }" + " " * MAX_TEXT + "a { background: url(b) }")
    assert ([image.url for image in sheet.images], sheet.truncated) == (["a"], True)


def test_an_endless_number_invalidates_only_its_declaration() -> None:
    assert urls(f"a {{ background: url(a) {'1' * 5_000}; mask: url(b) }}") == ["b"]


def test_the_input_of_the_parser_is_capped() -> None:
    sheet = read_sheet(f"a {{ x: url(a) {'(' * 1_000_000}; mask: url(b) }}")
    assert sheet == Sheet(truncated=True)


@pytest.mark.parametrize("bracket", ["(", "[", "{", "a(", "url(x) (", "image-set("])
def test_a_hundred_thousand_open_brackets_cause_no_recursion(bracket: str) -> None:
    started = process_time()
    assert urls("a { background: url(a); mask: url(b) " + bracket * 100_000)[0] == "a"
    assert declaration_images("background: url(a); mask: url(b) " + bracket * 100_000)[0].url == "a"
    assert process_time() - started < 1


@pytest.mark.parametrize("bracket", ["(", "[", "a(", "image-set("])
def test_functions_may_nest(bracket: str) -> None:
    text = f"background: {bracket * 900} url(a)"
    assert [image.url for image in declaration_images(text)] == ["a"]


_PIECES = [
    *(
        "url(",
        "url(a)",
        'url("',
        "url(a",
        "u\\72l(",
        "a:url(a);",
        "@import 'a';",
        "@import ",
        "@font-face{",
        "image-set(a,",
    ),
    *("a{b:", "a{b:url(x)}", "\\(", "a:\\(;", '"', "'", '"\n', "/*", "/**/", "/", "\\", "#", "@", "1 ", "u+", ",", " "),
    *("<!--", "-", "{", "}", ";", "(", "[", ")"),
]


@pytest.mark.parametrize("piece", _PIECES)
@pytest.mark.parametrize("start", ["url();", "a{b:url() ", "@import url() "])
def test_hostile_text_costs_linear_time(start: str, piece: str, scale: int) -> None:
    started = process_time()
    sheet = read_sheet(start + piece * (scale * MAX_TEXT // 128 // len(piece)))
    assert len(sheet.images) <= MAX_URLS
    assert process_time() - started < 4


_CSS = st.text("{};:()'\"ab \n,/*@-#0") | st.lists(
    st.sampled_from([*_PIECES, "a", "background:", "}", ";", "image-set('a' 2x)", "@media x{", "1x", "src('a')"])
).map("".join)


@given(st.text() | _CSS)
def test_any_text_is_read_without_an_exception(text: str) -> None:
    sheet = read_sheet(text)
    assert all(image.url for image in (*sheet.images, *declaration_images(text)))
    assert all(sheet.imports)


@given(st.text("{};:()'\"ab \n,/*@-#0url") | _CSS.filter(lambda text: "\\" not in text))
def test_every_url_occurs_in_the_text(text: str) -> None:
    sheet = read_sheet(text)
    assert all(url in text for url in [*[image.url for image in sheet.images], *sheet.imports])


_NAMES = st.text("abc/.-é?&=%;{}'()\"\\ #", min_size=1).map(lambda name: f"x{name}")
_WRITTEN = st.sampled_from(
    ["a{{background:{}}}", "@media x{{a{{b:c;mask:{}}}}}", "a{{&:b{{--c:0 {},red;d:e}}}}", "/*'*/a{{content:'\"'{}}}"]
)


@given(st.lists(st.tuples(_NAMES, _WRITTEN)))
def test_a_written_url_is_read_back(rules: list[tuple[str, str]]) -> None:
    def quoted(name: str) -> str:
        return 'url("{}")'.format(name.replace("\\", "\\\\").replace('"', '\\"'))

    sheet = "\n".join(rule.format(quoted(name)) for name, rule in rules)
    assert urls(sheet) == [name for name, _ in rules]


@given(st.lists(st.tuples(_NAMES, _WRITTEN)))
def test_a_written_bare_url_is_read_back(rules: list[tuple[str, str]]) -> None:
    def bare(name: str) -> str:
        return "url({})".format(re.sub(r"([^a-z0-9./])", r"\\\1", name))

    sheet = "\n".join(rule.format(bare(name)) for name, rule in rules)
    assert urls(sheet) == [name for name, _ in rules]
