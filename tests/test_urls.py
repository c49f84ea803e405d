"""URLs: resolved as in a browser, one canonical form each, and record lines that can't be forged."""

import re
import time

import ada_url
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crawler.urls import (
    MAX_URL_LENGTH,
    canonical_form,
    canonicalize,
    format_record_line,
    host_and_port,
    host_key,
    is_loopback,
    origin,
    page_key,
    parse_record_line,
    resolve,
    without_session,
)

#: Any text, rich in characters with a meaning in a URL, a record line or a terminal.
HOSTILE = st.lists(
    st.sampled_from(["--->", "--->success", "--->failed: dns", "\n", "\r\n", "\u2028", "<", ">", '"', " ", "'", "\\"])
    | st.sampled_from(["%", "%3E", "%zz", "#", "?", "/", "//", "..", "@", ":", "&", "\x00", "\t", "ä", "漢", "🐈"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    max_size=8,
).map("".join)
#: Places in a URL for such text.
PLACES = ["http://A.example/{}", "http://a.example/?{}", "https://a.example/#{}", "http://a:b@a.example:8080/{0}?{0}#{0}",
          "HTTPS://ä.example//{0}/../{0}"]  # fmt: skip
URLS = st.builds(str.format, st.sampled_from(PLACES), HOSTILE)
ANYTHING = st.builds("{}{}".format, st.sampled_from(["http://", "https:", "//", ""]), HOSTILE)


@pytest.mark.parametrize(
    ("base", "reference", "url"),
    [
        ("http://a.example/b/c", "d.jpg", "http://a.example/b/d.jpg"),
        ("http://a.example/b/c", "/d", "http://a.example/d"),
        ("http://a.example/b/c", "../../../d", "http://a.example/d"),
        ("https://a.example/", "//b.example/x", "https://b.example/x"),
        ("http://a.example/b?x#y", "?z", "http://a.example/b?z"),
        ("http://a.example/b", "", "http://a.example/b"),
        ("http://a.example/", " \n x\ty.jpg ", "http://a.example/xy.jpg"),
        ("http://a.example/", "\\b\\c", "http://a.example/b/c"),
        ("http://a.example/b", "http:c", "http://a.example/c"),
        (None, "http:/a.example", "http://a.example/"),
    ],
)
def test_references_resolve_as_in_a_browser(base: str | None, reference: str, url: str) -> None:
    assert resolve(base, reference) == url


@pytest.mark.parametrize(
    "reference",
    ["data:image/png;base64,AA==", "javascript:alert(1)", "mailto:a@b.example", "ftp://a.example/", "file:///etc/passwd",
     "blob:http://a.example/1", "http://", "http://a b/", "http://[::1", "http://a.example:99999/", "http://a%00b/",
     "http://1.2.3.4.5/", "\ud800"],
)  # fmt: skip
def test_a_reference_that_is_not_http_resolves_to_none(reference: str) -> None:
    assert resolve("http://a.example/", reference) is None
    assert resolve(None, reference) is None


@pytest.mark.parametrize(("base", "reference"), [(None, "x.jpg"), ("data:,x", "x.jpg"), ("", "x"), ("rubbish", "/x")])
def test_a_relative_reference_needs_a_base(base: str | None, reference: str) -> None:
    assert resolve(base, reference) is None


@given(ANYTHING, ANYTHING)
def test_resolve_never_raises_and_gives_http_or_none(base: str, reference: str) -> None:
    url = resolve(base, reference)
    assert url is None or re.match(r"https?://[^/]", url)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTP://EXAMPLE.org", "http://example.org/"),
        ("http://user:secret@a.example/x", "http://a.example/x"),
        ("http://user@a.example:8080/@x?@y", "http://a.example:8080/@x?@y"),
        ("http://a.example/x#part", "http://a.example/x"),
        ("http://a.example/x#", "http://a.example/x"),
        ("http://a.example/x?#a?b", "http://a.example/x?"),
        ("http://a.example:80/", "http://a.example/"),
        ("https://a.example:443/", "https://a.example/"),
        ("http://a.example:443/", "http://a.example:443/"),
        ("http://a.example/a/./b/../c", "http://a.example/a/c"),
        ("http://a.example/a/%2e%2e/c", "http://a.example/c"),
        ("http://a.example/ä b?ü=ö", "http://a.example/%C3%A4%20b?%C3%BC=%C3%B6"),
        ("http://a.example/%7Ex?q=%41", "http://a.example/%7Ex?q=%41"),
        ("http://a.example/100%", "http://a.example/100%"),
        ('http://a.example/<">?<">', "http://a.example/%3C%22%3E?%3C%22%3E"),
        ("http://a.example/?b=2&a=1&", "http://a.example/?b=2&a=1&"),
        ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://a。example/", "http://a.example/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7f000001/", "http://127.0.0.1/"),
        ("http://[::0001]:80/", "http://[::1]/"),
    ],
)
def test_a_url_has_one_canonical_form(url: str, canonical: str) -> None:
    assert canonicalize(url) == canonical
    assert canonicalize(canonical) == canonical


@pytest.mark.parametrize(
    "url", ["", "a.example", "/x", "ftp://a.example/", "http://", "http://xn--a-ä.example/", "\udcff"]
)
def test_a_url_that_is_not_http_has_no_canonical_form(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        canonicalize(url)


def test_the_longest_url_is_accepted_and_a_longer_one_is_not() -> None:
    longest = "http://a.example/".ljust(MAX_URL_LENGTH, "x")
    assert canonicalize(longest) == longest
    assert canonicalize(f"{longest}#{longest}") == longest
    with pytest.raises(ValueError, match=f"longer than {MAX_URL_LENGTH}"):
        canonicalize(longest + "x")
    with pytest.raises(ValueError, match="longer than"):
        canonicalize(longest[:-1] + "ä")


def test_an_error_message_about_a_url_is_short() -> None:
    with pytest.raises(ValueError, match="not an http") as caught:
        canonicalize("x" * 1_000_000)
    assert len(str(caught.value)) < 300


@given(st.sampled_from(["http://a.example/b/c?d", "https://a:b@a.example:8080/"]), URLS | ANYTHING | HOSTILE)
@example("http://a.example/", "http://a:b@a.example/c#d")
def test_a_resolved_url_needs_no_second_parsing(base: str, reference: str) -> None:
    href = resolve(base, reference)
    if href is not None:
        assert canonical_form(href) == canonicalize(href)


@given(URLS | ANYTHING)
def test_canonical_urls_are_stable_plain_ascii(url: str) -> None:
    try:
        canonical = canonicalize(url)
    except ValueError:
        return
    assert canonicalize(canonical) == canonical
    assert re.fullmatch(r"https?://[^/?#@]+/[!-~]*", canonical)
    assert not set(canonical) & set('<>" #')


# --- page keys


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/x?", "/x"),
        ("/x?&&", "/x"),
        ("/x?b=2&a=1", "/x?a=1&b=2"),
        ("/x?a=2&b&a=1&a=2", "/x?a=2&a=1&b"),
        ("/x?utm_source=n&UTM_Medium=m&id=7&gclid=1&fbclid=2&mc_eid=3", "/x?id=7"),
        ("/x?utm=1&ref=2&source=3", "/x?ref=2&source=3&utm=1"),
        ("/x?%75tm_source=n", "/x"),
        ("/%7ex/%c3%a4?q=%41%2f", "/~x/%C3%A4?q=A%2F"),
        ("/100%/%%361/%4%31", "/100%/%%361/%4%31"),
        ("/x/index.html", "/x/"),
        ("/Default.htm?utm_source=n", "/"),
        ("/index.html?p=1", "/index.html?p=1"),
        ("/index.php", "/index.php"),
        ("/myindex.html", "/myindex.html"),
        ("//index.html", "//index.html"),
        ("/X?A=B", "/X?A=B"),
    ],
)
def test_each_page_has_one_key(path: str, key: str) -> None:
    assert page_key(f"http://a.example{path}") == f"http://a.example{key}"


@pytest.mark.parametrize(
    ("path", "bare"),
    [
        ("/x;jsessionid=1A2B.node1?a=1", "/x?a=1"),
        ("/x;JSESSIONID=1/y;z=2", "/x/y;z=2"),
        ("/a/..;jsessionid=1", "/"),
        ("/?PHPSESSID=1&b=1&a=%7e&ASPSESSIONIDQQ=X", "/?b=1&a=%7e"),
        ("/?sid=0123456789abcdef0123456789abcdef", "/"),
        ("/?sid=abcdefghij0123456789k&&", "/?&"),
        ("/?s=best-cameras-of-2023-reviewed&sid=12", "/?s=best-cameras-of-2023-reviewed&sid=12"),
        ("/?s=photographyphotography", "/?s=photographyphotography"),
        ("/?CFID=12&CFTOKEN=34", "/"),
        ("/?cfid=12", "/?cfid=12"),
        ("/(S(abcdefghijklmnopqrstuv12))/x", "/x"),
        ("/(X(1)S(abcdefghijklmnopqrstuv12))/x", "/x"),
        ("/(S(cat))/x", "/(S(cat))/x"),
        ("/x?", "/x?"),
    ],
)
def test_sessions_are_removed_from_a_url(path: str, bare: str) -> None:
    assert without_session(f"http://a.example{path}") == f"http://a.example{bare}"


#: Canonical URLs with many parts that matter to keys.
_NAMES = ["index.html", "utm_x=1", ";jsessionid=1", "sid=", "0123456789abcdef", "cfid=1", "cftoken=1", "(S(", "))"]
PAGES = st.lists(
    st.sampled_from(
        [*_NAMES, "abcdefghijklmnopqrstuvwx", "/", "?", "&", "=", "%", "%41", "%2e", "..", "%7", "a", "B", ";"]
    ),
    max_size=14,
).map(lambda pieces: canonicalize(f"http://a.example/{''.join(pieces)}"))


@settings(max_examples=10 * settings().max_examples)
@given(PAGES | URLS.map(canonicalize))
@example("http://a.example/%7E;jsessionid=%")
@example("http://a.example/a/..;jsessionid=1/index.html")
def test_keys_are_stable_canonical_and_of_the_same_host(url: str) -> None:
    key = page_key(url)
    assert page_key(key) == key == canonicalize(key)
    assert (origin(key), len(key) <= len(url)) == (origin(url), True)
    assert without_session(key) == key


@given(st.permutations(["a=1", "b=2", "c", "d=", "utm_source=x"]))
def test_the_order_of_parameters_does_not_matter(parts: list[str]) -> None:
    assert page_key(f"http://a.example/?{'&'.join(parts)}") == "http://a.example/?a=1&b=2&c&d="


@pytest.mark.parametrize(
    "unit", ["%", "%41", "a&", "sid=&", ";", ";jsessionid=", "/(S(", "/(A(1)", "/..;sessionid=", "[", "?"]
)
@pytest.mark.parametrize("place", ["/{}", "/?{}"])
def test_the_key_of_the_longest_url_is_found_quickly(place: str, unit: str) -> None:
    url = canonicalize(f"http://a.example{place.format(unit * (8_000 // len(unit)))}")
    start = time.process_time()
    page_key(url)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("url", "key", "where"),
    [
        ("http://a.example/x", "a.example", "http://a.example"),
        ("https://a.example:443/", "a.example", "https://a.example"),
        ("https://a.example:8443/", "a.example:8443", "https://a.example:8443"),
        ("http://[::1]:81/", "[::1]:81", "http://[::1]:81"),
        ("http://Ä.example/", "xn--4ca.example", "http://xn--4ca.example"),
    ],
)
def test_hosts_and_origins_are_extracted(url: str, key: str, where: str) -> None:
    assert (host_key(url), origin(url)) == (key, where)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "localhost:8080", "foo.localhost", "a.b.localhost.:80", "127.0.0.1", "127.0.0.1:80",
     "127.255.0.9", "127.1", "0x7f.1", "2130706433", "127.0.0.1.", "[::1]", "[::1]:80", "::1", "[0:0::1]",
     "::ffff:127.0.0.1", "[::ffff:7f00:1]:80"],
)  # fmt: skip
def test_these_hosts_are_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", ":80", "example.org", "localhost.evil.com", "notlocalhost", "evil-localhost", "127.0.0.1.evil.com",
     "127.evil.com", "128.0.0.1", "0.0.0.0", "[::]", "::", "192.168.0.1:80", "[::ffff:10.0.0.1]", "[fe80::1]", "::2",
     "localhost:99999", "localhost/", "x@localhost", "evil.com#.localhost", "evil.com/.localhost",
     "evil.com\\.localhost", "evil.com?.localhost", "local\nhost", "%6cocalhost", "[::1", "::1]:80", "[localhost]",
     "1.2.3.4.5"],
)  # fmt: skip
def test_these_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


@settings(max_examples=20 * settings().max_examples)  # in five places each
@given(HOSTILE, st.sampled_from(["", "dns", "http-404", "not-an-image"]))
@example("--->success", "dns")
@example("\nhttp://b.example/--->success", "dns")
@example("--->failed: dns#--->success", "")
def test_record_lines_are_read_back_as_written(text: str, reason: str) -> None:
    for place in PLACES:
        canonical = canonicalize(place.format(text))
        line = format_record_line(canonical, reason)
        assert line.isascii()
        assert line.isprintable()
        assert line.count("--->") == 1
        assert parse_record_line(line) == (canonical, reason)


@pytest.mark.parametrize("line", ["http://a.example/x--->success", "https://a.example/--->failed: http-404"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_record_lines_may_have_any_line_end(line: str, end: str) -> None:
    assert format_record_line(*parse_record_line(line + end)) == line


@pytest.mark.parametrize(
    "line",
    ["", "\n", "http://a.example/", "--->success", "http://--->success", "http://a.example/--->", "success",
     "http://a.example/--->Success", "http://a.example/--->success ", " http://a.example/--->success",
     "http://a.example/--->failed", "http://a.example/--->failed: ", "http://a.example/--->failed:dns",
     "http://a.example/--->failed: DNS", "http://a.example/--->failed: no such", "ftp://a.example/--->success",
     "HTTP://a.example/--->success", "http://a.example/--->success--->success", "http://a.example/ä--->success",
     "http://a.example/ b--->success", "http://a.example/\nhttp://b.example/--->success", "http://a.example/-->success",
     "http://a.example/--->success\nhttp://b.example/--->success", "http://a.example/\x00--->success"],
)  # fmt: skip
def test_other_lines_are_not_record_lines(line: str) -> None:
    with pytest.raises(ValueError, match="not a record line"):
        parse_record_line(line)


@given(st.sampled_from(["http://", "https://", "http:///", "https:/", "http:\\\\"]), st.text(max_size=30))
@settings(max_examples=1_000)
def test_the_site_of_a_url_does_not_depend_on_its_path(scheme: str, rest: str) -> None:
    """The functions read only the beginning of a URL, up to the path."""
    try:
        parts = ada_url.URL(scheme + rest)
    except ValueError:
        for function in (host_key, host_and_port, origin):
            with pytest.raises(ValueError):  # of ada, without a text
                function(scheme + rest)
    else:
        assert (host_key(scheme + rest), origin(scheme + rest)) == (parts.host, parts.origin)
        assert host_and_port(scheme + rest)[0] == parts.hostname.strip("[]")
