"""The fetcher on TLS: accepted certificates, and the time limit of a handshake."""

import contextlib
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.errors import RequestFailed
from crawler.model import Request
from crawler.net.fetcher import Conditions, TransferLimits
from crawler.net.requests_fetcher import RequestsFetcher
from tests.support.certificates import certificate
from tests.support.peer import Server, answers, dripping_handshake, serving, silent

pytestmark = pytest.mark.usefixtures("near")


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Server, ssl.SSLContext]]:
    """Yield a TLS server, and a context that trusts it."""
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(answers(b"secret")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server, ssl.create_default_context(cafile=path)


def tls_fetch(server: Server, host: str, trust: ssl.SSLContext | None) -> bytes:
    fetcher = RequestsFetcher(TransferLimits(connect=2.0, total=2.0), "test/1.0", tls=trust)
    request = Request(url=f"https://{host}:{server.port}/")
    with contextlib.closing(fetcher), fetcher.fetch(request, Conditions()) as response:
        return response.read()


def test_a_trusted_certificate_is_accepted(secure: tuple[Server, ssl.SSLContext]) -> None:
    server, trust = secure
    assert tls_fetch(server, "127.0.0.1", trust) == b"secret"


def test_an_unknown_certificate_is_a_permanent_failure(secure: tuple[Server, ssl.SSLContext]) -> None:
    with pytest.raises(RequestFailed) as caught:
        tls_fetch(secure[0], "127.0.0.1", None)
    assert (caught.value.reason, caught.value.retryable) == ("tls", False)


def test_a_certificate_for_another_name_is_a_permanent_failure(secure: tuple[Server, ssl.SSLContext]) -> None:
    with pytest.raises(RequestFailed) as caught:
        tls_fetch(secure[0], "localhost", secure[1])
    assert (caught.value.reason, caught.value.retryable) == ("tls", False)


def test_a_dripping_handshake_does_not_outlast_the_connect_timeout() -> None:
    with serving(silent) as server:
        server.talk = dripping_handshake
        started = time.monotonic()
        with pytest.raises(RequestFailed) as caught:
            tls_fetch(server, "127.0.0.1", None)
        assert (caught.value.reason, caught.value.retryable) == ("timeout", True)
        assert 1.5 < time.monotonic() - started < 20


def test_a_server_without_tls_is_a_temporary_failure() -> None:
    with serving(silent) as server, pytest.raises(RequestFailed) as caught:
        server.greeting = b"220 ready\r\n"
        tls_fetch(server, "127.0.0.1", None)
    assert (caught.value.reason, caught.value.retryable) == ("tls", True)
