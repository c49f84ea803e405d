"""The address guard: one lookup for each connection, checked addresses, and exemptions by seeds."""

import datetime
import errno
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crawler.errors import NoHandles, RequestFailed
from crawler.model import Request
from crawler.net.address_guard import _MAX_EXEMPT, Exemption, Guard, exemptions
from crawler.net.fetcher import Conditions, TransferLimits
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.urls import canonicalize, host_and_port
from tests.support.network import PUBLIC, Network, web
from tests.support.peer import Server, answers, serving

SECOND = "93.184.216.35"
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "unknown")
SILENT = socket.gaierror(socket.EAI_AGAIN, "try again")

#: Installs a network with these names, as in `Network`.
Install = Callable[..., Network]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Yield a function that installs a network with two public addresses of one site, which echoes requests."""

    def made(names: dict[str, list[object]], **routes: object) -> Network:
        known = {PUBLIC: site, SECOND: site} | routes.pop("routes", {})  # type: ignore[operator]  # a dictionary
        network = Network(names, known)  # type: ignore[arg-type]  # as the tests write them
        network.install(monkeypatch)
        return network

    with web(lambda host, path: (200, {}, f"{host} {path}".encode())) as site:
        yield made


def fetch(url: str, guard: Guard | None = None, limits: TransferLimits | None = None) -> str:
    fetcher = RequestsFetcher(limits or TransferLimits(connect=4.0), guard=guard)
    with closing(fetcher), fetcher.fetch(Request(url=url), Conditions()) as response:
        return response.read().decode()


def failure(url: str, guard: Guard | None = None) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        fetch(url, guard)
    return caught.value


# --- connecting


def test_a_public_name_is_looked_up_once_and_its_address_is_used(install: Install) -> None:
    network = install({"site.example": [[PUBLIC]]})
    assert fetch("http://site.example/a?b") == "site.example /a?b"
    assert network.questions == {"site.example": 1}
    assert [journey[:2] for journey in network.journeys] == [(PUBLIC, 80)]


def test_a_name_that_becomes_private_at_the_second_lookup_is_refused_then(install: Install) -> None:
    network = install({"site.example": [[PUBLIC], ["127.0.0.1"]]})
    with closing(RequestsFetcher()) as fetcher:
        with fetcher.fetch(Request(url="http://site.example/"), Conditions()) as response:
            assert response.read()
        with pytest.raises(RequestFailed, match=r"blocked-address: site\.example:80 is loopback"):
            fetcher.fetch(Request(url="http://site.example/"), Conditions())
    assert network.questions["site.example"] == 2 and len(network.journeys) == 1


def test_of_mixed_addresses_only_the_public_ones_are_tried(install: Install) -> None:
    network = install({"site.example": [["127.0.0.1", "::1", "10.0.0.1", PUBLIC]]})
    assert fetch("http://site.example/")
    assert [journey[0] for journey in network.journeys] == [PUBLIC]


def test_addresses_are_tried_in_order_and_share_the_time(install: Install) -> None:
    network = install({"site.example": [[PUBLIC, SECOND]]}, routes={PUBLIC: ConnectionRefusedError(111, "refused")})
    assert fetch("http://site.example/")
    (first, _, least), (second, _, rest) = network.journeys
    assert (first, second) == (PUBLIC, SECOND)
    assert least is not None and rest is not None and least <= 2.0 < rest <= 4.0


@pytest.mark.parametrize(
    ("answer", "route", "said"),
    [
        (UNKNOWN, None, ("dns", True, "host")),
        (SILENT, None, ("dns", True, "resolver")),
        ([PUBLIC, SECOND], ConnectionRefusedError(111, "refused"), ("connect", True, "host")),
        ([PUBLIC, SECOND], TimeoutError("timed out"), ("timeout", True, "host")),
        ([PUBLIC, SECOND], OSError(101, "Network is unreachable"), ("connect", True, "host")),
        (["10.0.0.1"], None, ("blocked-address", False, "")),
    ],
)
def test_each_failure_has_its_reason(
    install: Install, answer: object, route: OSError | None, said: tuple[str, bool, str]
) -> None:
    install({"site.example": [answer]}, routes={PUBLIC: route, SECOND: route} if route else {})
    error = failure("http://site.example/")
    assert (error.reason, error.retryable, error.down) == said


def test_an_invalid_name_is_a_bad_url(install: Install) -> None:
    install({})
    assert failure(f"http://{'a' * 64}.example/").reason == "bad-url"


@pytest.mark.parametrize("port", [22, 25, 6000, 6667])
def test_ports_of_other_protocols_are_refused_without_a_lookup(install: Install, port: int) -> None:
    network = install({"site.example": [[PUBLIC]]})
    exempt = [Exemption(host="127.0.0.1", port=port, addresses=("127.0.0.1",))]
    for guard in (Guard(), Guard(allow_private=True), Guard(exempt)):
        assert failure(f"http://site.example:{port}/", guard).reason == "blocked-address"
        assert failure(f"http://127.0.0.1:{port}/", guard).reason == "blocked-address"
    assert not network.questions and not network.journeys


def test_a_refusal_is_logged_once_for_each_address_with_one_warning(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install({"inner.example": [["10.0.0.1"]]})
    guard = Guard()
    with caplog.at_level(logging.INFO, "crawler.net.address_guard"):
        for url in ("http://inner.example/1", "http://inner.example/2", "http://192.168.0.1/"):
            failure(url, guard)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "refused to connect to inner.example, port 80, which is private (--allow-private permits it)" in caplog.text


def certificate(folder: Path, name: str) -> Path:
    """Return key and certificate of a host of that name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now - hour, now + hour)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, path = serialization.Encoding.PEM, folder / "server.pem"
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + made.public_bytes(encoding))
    return path


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Server, ssl.SSLContext, list[object]]]:
    """Yield a TLS server for ``site.example``, a context that trusts it, and the names asked for by SNI."""
    path, asked = certificate(tmp_path, "site.example"), list[object]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.sni_callback = lambda sock, name, old: asked.append(name)
    with serving(answers(b"secret")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server, ssl.create_default_context(cafile=path), asked


@pytest.mark.parametrize(("host", "reason"), [("site.example", ""), ("other.example", "tls")])
def test_tls_uses_the_name_and_not_the_address(
    install: Install, secure: tuple[Server, ssl.SSLContext, list[object]], host: str, reason: str
) -> None:
    server, trust, asked = secure
    install({host: [[PUBLIC]]}, routes={PUBLIC: ("127.0.0.1", server.port)})
    with closing(RequestsFetcher(TransferLimits(connect=4.0, total=4.0), tls=trust)) as fetcher:
        try:
            with fetcher.fetch(Request(url=f"https://{host}/"), Conditions()) as response:
                outcome = response.read().decode()
        except RequestFailed as error:
            outcome = error.reason
    assert outcome == (reason or "secret") and asked == [host]


# --- exemptions


def permits(guard: Guard, host: str, port: int, address: str) -> bool:
    return not guard.objection(host, port, address)


def by_seeds(*seeds: str, look_up: bool = True) -> Guard:
    return Guard(exemptions(seeds, look_up=look_up))


def test_a_seed_exempts_only_its_own_host_and_port() -> None:
    guard = by_seeds("http://127.0.0.1:8900/a", "http://10.0.0.1/")
    assert permits(guard, "127.0.0.1", 8900, "127.0.0.1") and permits(guard, "10.0.0.1", 80, "10.0.0.1")
    assert not permits(guard, "127.0.0.1", 8901, "127.0.0.1")
    assert not permits(guard, "127.0.0.2", 8900, "127.0.0.2")
    assert not permits(guard, "::1", 8900, "::1")
    assert not permits(guard, "10.0.0.1", 443, "10.0.0.1")
    assert not permits(guard, "evil.example", 8900, "127.0.0.1")


def test_localhost_is_equivalent_to_its_address() -> None:
    guard = by_seeds("http://127.0.0.1:8900/")
    assert permits(guard, "localhost", 8900, "127.0.0.1") and not permits(guard, "localhost", 8900, "::1")
    guard = by_seeds("http://localhost:8900/")
    assert all(permits(guard, host, 8900, "::1") for host in ("localhost", "localhost.", "a.localhost", "::1"))
    assert not permits(guard, "localhost", 8900, "10.0.0.1")


@pytest.mark.parametrize("spelling", ["127.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "[::1]"])
def test_any_spelling_of_a_seed_is_recognised(spelling: str) -> None:
    (found,) = exemptions([f"http://{spelling}:8900/"], look_up=False)
    guard = Guard([found])
    assert permits(guard, found.host, 8900, found.addresses[0])


def test_a_private_name_exempts_only_its_addresses_at_the_start(install: Install) -> None:
    install({"wiki.example": [["10.0.0.5", "fd00::5"], ["10.0.0.6"]]})
    guard = by_seeds("http://wiki.example/")
    assert permits(guard, "wiki.example", 80, "10.0.0.5") and permits(guard, "wiki.example", 80, "fd00::5")
    assert not permits(guard, "wiki.example", 80, "10.0.0.6")
    assert not permits(guard, "10.0.0.5", 80, "10.0.0.5")


@pytest.mark.parametrize(
    "first",
    [[PUBLIC], [PUBLIC, "127.0.0.1"], ["169.254.169.254"], ["127.0.0.1", "100.100.100.200"], ["fe80::1%1"], UNKNOWN],
)
def test_a_name_that_is_public_at_the_start_exempts_nothing_later(install: Install, first: object) -> None:
    install({"evil.example": [first, ["127.0.0.1"]]})
    guard = by_seeds("http://evil.example/")
    assert guard.exemptions == ()
    assert failure("http://evil.example/", guard).reason == "blocked-address"


def test_lists_exempt_addresses_without_a_lookup(install: Install) -> None:
    network = install({"wiki.example": [["10.0.0.5"]]})
    guard = by_seeds("http://wiki.example/", "http://8.8.8.8/", "http://10.0.0.1/", look_up=False)
    assert [each.host for each in guard.exemptions] == ["10.0.0.1"] and not network.questions


def test_allowing_private_addresses_does_not_allow_metadata_services() -> None:
    guard = Guard(allow_private=True)
    for address in ("127.0.0.1", "10.0.0.1", "fd00::1", "fe80::1", "100.64.0.1", "::ffff:192.168.0.1"):
        assert permits(guard, "any.example", 80, address)
    for address in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254"):
        assert not permits(guard, "any.example", 80, address)
        url = canonicalize(f"http://{f'[{address}]' if ':' in address else address}/")
        assert permits(by_seeds(url), *host_and_port(url), address)


def test_exemptions_are_sent_as_plain_data_and_invalid_ones_are_refused() -> None:
    sent = msgspec.to_builtins(by_seeds("http://localhost:8900/").exemptions)
    assert (
        Guard(msgspec.convert(sent, tuple[Exemption, ...])).exemptions == by_seeds("http://localhost:8900/").exemptions
    )
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([{"host": "x", "port": 1, "addresses": ["everything"]}], tuple[Exemption, ...])


def test_an_exemption_is_added_once_and_their_number_is_limited() -> None:
    guard = Guard()
    one = functools.partial(Exemption, port=80, addresses=("10.0.0.1",))
    assert guard.exempt([one(host="10.0.0.1")]) and not guard.exempt([one(host="10.0.0.1")])
    guard.exempt(one(host=f"h{number}") for number in range(_MAX_EXEMPT + 5))
    assert len(guard.exemptions) == _MAX_EXEMPT


# --- attribution of silence


def test_broken_name_servers_of_a_domain_are_distinguished_from_a_lost_network(install: Install) -> None:
    guard = Guard()
    install({"good.example": [[PUBLIC], [PUBLIC], SILENT], "broken.example": [SILENT]})
    assert failure("http://broken.example/", guard).down == "resolver"  # no known name to compare with
    assert fetch("http://good.example/", guard)
    assert failure("http://broken.example/", guard).down == "host"
    assert failure("http://broken.example/", guard).down == "resolver"  # now the known name is silent, too


def test_a_lack_of_file_descriptors_is_not_attributed_to_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("crawler.net.address_guard.socket.socket", refuse)
    with pytest.raises(NoHandles, match="ulimit -n"):
        Guard(allow_private=True).connect("127.0.0.1", 8_000, 1.0)
