"""References in headers and attributes: ``Link``, and the refresh."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.html.link_header import link_header, refresh_target

# --- Link


@pytest.mark.parametrize(
    ("value", "links"),
    [
        ("", []),
        ("</a>", [{"href": "/a"}]),
        ("</a>; rel=preload; as=image", [{"href": "/a", "rel": "preload", "as": "image"}]),
        ('< /a >;REL="icon";TYPE="image/png"', [{"href": "/a", "rel": "icon", "type": "image/png"}]),
        ("</a>; rel=icon, </b>; rel=canonical", [{"href": "/a", "rel": "icon"}, {"href": "/b", "rel": "canonical"}]),
        ("</a,b;c>; rel=icon", [{"href": "/a,b;c", "rel": "icon"}]),
        ('</a>; title="x, <y>; \\"z\\""; rel=icon', [{"href": "/a", "title": 'x, <y>; "z"', "rel": "icon"}]),
        ("</a>; rel=icon; rel=canonical", [{"href": "/a", "rel": "icon"}]),
        ("</a>;crossorigin;rel=icon,", [{"href": "/a", "crossorigin": "", "rel": "icon"}]),
        ("</a>; rel = icon ; ; x", [{"href": "/a", "rel": "icon", "x": ""}]),
        (",, </a>", [{"href": "/a"}]),
        ("nonsense, </a>", []),
        ("</a", []),
    ],
)
def test_a_link_header_is_read_like_link_elements(value: str, links: list[dict[str, str]]) -> None:
    assert list(link_header(value)) == links


_HEADERS = st.text('<>;,="\\ \t/arel') | st.text()


@given(_HEADERS)
def test_any_header_is_read_without_an_exception(value: str) -> None:
    assert all(link["href"] in value for link in link_header(value))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["<", "<a>", '<a>;x="', "<a>;", ", ", "<a>;x=", '<a>;x="\\', ";" * 100])
def test_a_hostile_header_is_read_quickly(piece: str) -> None:
    assert len(link_header(piece * (2_000_000 // len(piece)))) <= 200


# --- refresh


@pytest.mark.parametrize(
    ("content", "target"),
    [
        ("5; url=/a", "/a"),
        ("0;URL='/a b'; x", "/a b"),
        ('0; url="/a', "/a"),
        (" 1.5 , Url = /a ", "/a"),
        ("5 /a", "/a"),
        ("5;/a", "/a"),
        (".5;url=/a", "/a"),
        ("5;urls", "urls"),
        ("5", ""),
        ("5;", ""),
        ("5; url=", ""),
        ("5/a", ""),
        ("x; url=/a", ""),
        ("", ""),
    ],
)
def test_a_refresh_leads_to_the_url_that_browsers_use(content: str, target: str) -> None:
    assert refresh_target(content) == target


@given(st.text("05.;, \"'url=/a") | st.text())
def test_any_refresh_is_read_without_an_exception(content: str) -> None:
    assert refresh_target(content) in content


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["1", "1.", " ", "1; ", "1;url="])
def test_a_hostile_refresh_is_read_quickly(piece: str) -> None:
    assert len(refresh_target(piece * 500_000)) < 100_000
