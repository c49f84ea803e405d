import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crawler.errors import ConfigError, TLSError
from crawler.queue import tls
from crawler.queue.tls import Certificate, client_context, ensure_certificate, server_context
from crawler.queue.wire import Channel, Listener
from tests.queue.conftest import secure


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Yield the master's and the worker's end of a new connection."""
    listener = Listener()
    worker = Channel(socket.create_connection(listener.address, timeout=5))
    master = listener.accept()
    for channel in (master, worker):
        channel.allow(5)
    yield master, worker
    for closable in (master, worker, listener):
        closable.close()


def shake(ends: tuple[Channel, Channel], certificate: Certificate) -> bytes:
    """Put TLS on a connection and send data; return the data that arrives."""
    master, worker = ends
    secure(master, worker, certificate)
    worker.send_bytes(b"hello")
    return master.recv_bytes()


def test_the_certificate_is_made_once_and_kept(tmp_path: Path) -> None:
    first = ensure_certificate(tmp_path)
    assert ensure_certificate(tmp_path) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tls.crt", "tls.key"]
    assert ensure_certificate(tmp_path.parent).pem != first.pem


@pytest.mark.skipif(os.name != "posix", reason="file modes exist on POSIX only")
def test_only_the_owner_can_read_the_key(tmp_path: Path) -> None:
    key = ensure_certificate(tmp_path).key
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        ensure_certificate(tmp_path)


def test_a_first_start_that_was_killed_half_way_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "tls.key").write_bytes(b"of somebody who was killed")
    assert ensure_certificate(tmp_path) == ensure_certificate(tmp_path)


def _locked(key: bytes) -> bytes:
    """Return the key encrypted with a password, for which OpenSSL would ask at the terminal."""
    secret = serialization.load_pem_private_key(key, password=None)
    scheme = serialization.BestAvailableEncryption(b"secret")
    return secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, scheme)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[:150],
    "binary": lambda content: b"\x80" * len(content),
    "locked": _locked,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in ("tls.key", "tls.crt")
        for damage in DAMAGES
        if (name, damage) != ("tls.crt", "locked")
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str, damage: str) -> None:
    ensure_certificate(tmp_path)
    path = tmp_path / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ConfigError, match="delete both") as caught:
        ensure_certificate(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_foreign_key_is_refused(tmp_path: Path, certificate: Certificate) -> None:
    key = ensure_certificate(tmp_path).key
    key.write_bytes(certificate.key.read_bytes())
    with pytest.raises(ConfigError, match="do not belong together"):
        ensure_certificate(tmp_path)
    key.unlink()
    with pytest.raises(ConfigError, match="copy the new join file"):
        ensure_certificate(tmp_path)


def test_the_certificate_is_valid_on_machines_with_any_clock(certificate: Certificate) -> None:
    made = x509.load_pem_x509_certificate(certificate.pem.encode())
    assert made.not_valid_before_utc.year == 2000
    assert made.not_valid_after_utc.year == 9999


@pytest.mark.parametrize("years", [(1999, 2001), (9998, 9999)])
def test_the_dates_of_the_certificate_do_not_matter(
    tmp_path: Path, ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch, years: tuple[int, int]
) -> None:
    monkeypatch.setattr(tls, "_VALID_FROM", datetime(years[0], 1, 1, tzinfo=UTC))
    monkeypatch.setattr(tls, "_VALID_UNTIL", datetime(years[1], 1, 1, tzinfo=UTC))
    assert shake(ends, ensure_certificate(tmp_path)) == b"hello"


def test_another_certificate_is_refused_before_any_data_is_sent(
    tmp_path: Path, ends: tuple[Channel, Channel], certificate: Certificate
) -> None:
    other = ensure_certificate(tmp_path)
    with pytest.raises(TLSError, match="copy the join file again"):
        shake(ends, Certificate(pem=other.pem, crt=certificate.crt, key=certificate.key))
    master, worker = ends
    worker.close()
    with pytest.raises(EOFError):
        master.recv_bytes()


def test_another_certificate_of_the_same_owner_is_refused(
    tmp_path: Path, ends: tuple[Channel, Channel], certificate: Certificate
) -> None:
    """Use a certificate with the same name and the same key that is still a different certificate."""
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.load_pem_x509_certificate(certificate.pem.encode()).subject
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, datetime(2000, 1, 1), datetime(2100, 1, 1))
    crt = tmp_path / "renewed.crt"
    crt.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    with pytest.raises(TLSError):
        shake(ends, Certificate(pem=certificate.pem, crt=crt, key=certificate.key))


def test_only_tls_1_3_is_spoken_and_no_session_is_kept(certificate: Certificate) -> None:
    for context in (server_context(certificate), client_context(certificate.pem)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert server_context(certificate).num_tickets == 0


def test_a_damaged_certificate_in_a_join_file_is_reported(certificate: Certificate) -> None:
    with pytest.raises(ConfigError, match="copy the join file again"):
        client_context(certificate.pem[5:])


def test_abort_does_not_end_the_encryption(
    ends: tuple[Channel, Channel], certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hold back the shutdown itself: data that another thread sends just then must not be sent unencrypted."""
    master, worker = ends
    secure(master, worker, certificate)
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "shutdown", lambda *_: None)
        worker.abort()
    worker.send_bytes(b"secret")
    assert master.recv_bytes() == b"secret"


def test_abort_is_not_lost_between_two_sockets(ends: tuple[Channel, Channel], certificate: Certificate) -> None:
    _, worker = ends
    worker.abort()
    with pytest.raises((EOFError, OSError)):
        worker.secure(client_context(certificate.pem))


def test_data_received_before_tls_is_not_taken_for_secure(
    ends: tuple[Channel, Channel], certificate: Certificate
) -> None:
    master, worker = ends
    master.send_bytes(b"injected")
    worker.peek(1)
    with pytest.raises(OSError, match="in the clear"):
        worker.secure(client_context(certificate.pem))


def test_a_worker_does_not_need_the_package_that_makes_certificates() -> None:
    code = "import sys, crawler.queue.manager; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
