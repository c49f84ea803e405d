"""Pages as trees."""

from crawler.harvest.soup import soup


def test_a_page_is_decoded_by_its_header_and_can_be_searched() -> None:
    page = soup("<p class='a b'>é<img src=1>".encode("latin-1"), "text/html; charset=latin-1")
    assert [str(tag) for tag in page.select("p.a > img")] == ['<img src="1"/>']
    assert page.get_text() == "é"
