import pytest

from crawler.net.headers import Headers

SOME = Headers([("ETag", '"a"'), ("X-Robots-Tag", "noindex"), ("x-robots-TAG", "noai"), ("Empty", "")])


@pytest.mark.parametrize("name", ["x-robots-tag", "X-Robots-Tag", "X-ROBOTS-TAG"])
def test_values_of_a_name_are_joined_in_any_spelling(name: str) -> None:
    assert SOME[name] == SOME.get(name) == "noindex, noai"
    assert SOME.getlist(name) == ["noindex", "noai"]
    assert name in SOME


def test_a_missing_name_differs_from_an_empty_value() -> None:
    assert (SOME.get("empty"), SOME.get("date"), SOME.get("date", "")) == ("", None, "")
    assert SOME.getlist("date") == []
    assert "date" not in SOME
    with pytest.raises(KeyError):
        SOME["date"]


def test_names_are_in_lower_case_and_in_order() -> None:
    assert [*SOME.items()] == [("etag", '"a"'), ("x-robots-tag", "noindex, noai"), ("empty", "")]
    assert len(SOME) == 3


def test_values_are_replaced_or_removed() -> None:
    headers = Headers([("A", "1"), ("a", "2"), ("B", "3")])
    headers.replace("A", "4")
    headers.replace("b")
    headers.replace("c")
    assert {**headers} == {"a": "4"}


def test_a_change_of_the_returned_list_changes_no_header() -> None:
    SOME.getlist("etag").append("b")
    assert SOME.getlist("etag") == ['"a"']
