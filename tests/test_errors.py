"""Errors: the class hierarchy, the exit codes, and the transfer from process to process."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler import errors
from crawler.cli.guide_pages import page
from crawler.errors import (
    AccessError,
    ConfigError,
    CrawlerError,
    DiskError,
    InvalidImage,
    MessageError,
    NetworkError,
    RequestFailed,
    TLSError,
    from_wire,
    to_wire,
)
from crawler.queue import wire


def below(root: type[CrawlerError]) -> Iterator[type[CrawlerError]]:
    yield root
    for child in root.__subclasses__():
        yield from below(child)


FAMILY = [kind for kind in below(CrawlerError) if kind.__module__.startswith("crawler.")]
FAILURES = [kind for kind in FAMILY if issubclass(kind, RequestFailed)]
CODECS: list[Callable[[Any], Any]] = [
    lambda data: msgspec.msgpack.decode(msgspec.msgpack.encode(data)),
    lambda data: msgspec.json.decode(msgspec.json.encode(data)),
]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


def drawn_tree() -> dict[str, str]:
    """Return class → parent, as the docstring of the module draws it."""
    branch: list[tuple[int, str]] = []
    parents = {}
    for line in re.findall(r"^    [│├└─ ]*[A-Z]\w+  .*$", errors.__doc__ or "", re.MULTILINE):
        name = re.search(r"\w+", line)
        assert name is not None
        branch = [(column, above) for column, above in branch if column < name.start()]
        parents[name[0]] = branch[-1][1] if branch else "Exception"
        branch.append((name.start(), name[0]))
    return parents


@pytest.mark.parametrize("codec", CODECS, ids=["msgpack", "json"])
@pytest.mark.parametrize("kind", [kind for kind in FAMILY if kind not in FAILURES])
def test_an_error_survives_the_wire(kind: type[CrawlerError], codec: Callable[[Any], Any]) -> None:
    there = from_wire(codec(to_wire(kind("can't use /tmp/ä: say 'please'"))))
    assert (type(there), str(there)) == (kind, "can't use /tmp/ä: say 'please'")


@pytest.mark.parametrize("codec", CODECS, ids=["msgpack", "json"])
@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_survives_the_wire_with_its_fields(kind: type[RequestFailed], codec: Callable[[Any], Any]) -> None:
    here = kind("http-503", "busy", retryable=True, host_wait=2.5, overloaded=True, http_status=503)
    there = from_wire(codec(to_wire(here)))
    assert type(there) is kind
    assert vars(there) == vars(here)
    assert str(there) == "http-503: busy"


def test_the_wire_s_own_errors_are_in_the_hierarchy() -> None:
    assert wire.FrameTooLarge in FAMILY


def test_a_foreign_error_is_sent_without_its_text() -> None:
    data = to_wire(ValueError("the key is 1234"))
    assert "1234" not in str(data)
    assert str(from_wire(data)) == "the other side failed with ValueError"


@pytest.mark.parametrize("type_", [None, 5, "KeyboardInterrupt", "ValueError", "object", "to_wire", ["ConfigError"]])
def test_an_unknown_class_becomes_a_plain_error(type_: object) -> None:
    error = from_wire({"type": type_, "args": ["words"], "fields": {"code": 0}})
    assert (type(error), str(error), error.code) == (CrawlerError, "words", 1)


@pytest.mark.parametrize("data", [None, 5, "text", b"bytes", [], ["ConfigError"], {}, {"args": 5}, {"args": [5]}])
def test_invalid_data_become_a_plain_error_with_a_message(data: object) -> None:
    error = from_wire(data)
    assert (type(error), str(error)) == (CrawlerError, "the other side failed without a message")


@pytest.mark.parametrize("args", [None, 5, "text", {"a": "b"}, [["deep"]]])
def test_hostile_arguments_never_become_text(args: object) -> None:
    assert str(from_wire({"type": "DiskError", "args": args})) == "the other side failed without a message"


@pytest.mark.parametrize(
    ("name", "value"),
    [("host_wait", "soon"), ("retryable", 1), ("overloaded", "no"), ("http_status", 4.5), ("reason", "x"), ("self", 1)],
)
def test_a_hostile_field_is_dropped(name: str, value: object) -> None:
    error = from_wire({"type": "RequestFailed", "args": ["dns"], "fields": {name: value}})
    assert vars(error) == vars(RequestFailed("dns"))


@given(st.fixed_dictionaries({}, optional={"type": PLAIN | st.just("InvalidImage"), "args": PLAIN, "fields": PLAIN}))
def test_any_data_become_an_error_of_the_hierarchy(data: object) -> None:
    error = from_wire(data)
    assert type(error) in FAMILY
    assert str(error) is not None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (CrawlerError, "An internal error"),
        (MessageError, "An internal error"),
        (ConfigError, "An error in the user's input"),
        (DiskError, "A disk error"),
        (NetworkError, "No connection"),
        (TLSError, "The server's certificate"),
        (AccessError, "The master refused the key"),
    ],
)
def test_exit_codes_are_those_of_the_reference(kind: type[CrawlerError], words: str) -> None:
    assert f"| {kind.code} | {words}" in page("reference")


def test_the_tree_in_the_docstring_matches_the_classes() -> None:
    assert drawn_tree() == {
        kind.__name__: kind.__mro__[1].__name__ for kind in FAMILY if kind.__module__ == errors.__name__
    }


def test_the_text_of_a_failure_without_detail_is_its_reason() -> None:
    assert str(InvalidImage("truncated")) == "truncated"
