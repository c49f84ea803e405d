"""TLS for the queue: one certificate, made by the master on its first start and pinned by every worker.

There is no certificate authority and no name to compare. A worker takes the one valid certificate from the join file
and compares it byte for byte. This protects against a relay, a machine between worker and master that forwards bytes:

* A relay with a certificate of its own is detected when the TLS handshake ends. The worker has not answered any
  greeting by then, so the relay learns nothing that is derived from the key.
* A relay with the master's certificate, which is not secret, cannot complete the handshake: in TLS 1.3 the server signs
  all of it with its private key (RFC 8446 §4.4.3), and OpenSSL checks that signature even if it verifies nothing else.
* A relay that forwards the bytes unchanged sees only ciphertext between the worker and the master.
* Proofs that a relay obtains from a worker without TLS, on loopback, open no session under TLS: they contain their
  place (`crawler.queue.handshake`).

The certificate identifies the master. The key in the join file, which is proved inside TLS as it is without TLS, admits
the worker.
"""

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from crawler.errors import ConfigError, TLSError
from crawler.queue.join_file import refuse_shared, write_private

log = logging.getLogger(__name__)

#: Validity of the certificate: any time (RFC 5280 §4.1.2.5 writes "no end" this way). Making and checking it does not
#: depend on a clock, so machines with wrong clocks can work together.
_VALID_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_VALID_UNTIL = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Certificate(Struct, frozen=True, kw_only=True):
    """Certificate of a master. The private key stays in its file."""

    #: Certificate for the join file.
    pem: str
    crt: Path
    key: Path


def ensure_certificate(directory: Path) -> Certificate:
    """Return the certificate of the crawl in ``directory`` (``tls.crt``, ``tls.key``); make it if it does not exist.

    Raises:
        ConfigError: the files are damaged, do not belong together, or others can read the key.
        DiskError: the files can't be written.
    """
    crt, key = directory / "tls.crt", directory / "tls.key"
    if not crt.exists():
        secret, public = _make()
        write_private(key, secret)
        write_private(crt, public)  # last: if a first start is killed before this line, the next one repeats it
        log.info("created a certificate: %s", crt)
    certificate = Certificate(pem=_read_pem(crt), crt=crt, key=key)
    server_context(certificate)
    return certificate


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """Return the TLS context of a master.

    Raises:
        ConfigError: as `ensure_certificate`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no resumption: each session proves the certificate, and no data arrives unrequested
    try:
        refuse_shared(certificate.key, certificate.key.stat().st_mode)
        context.load_cert_chain(certificate.crt, certificate.key, password=b"")  # else OpenSSL would prompt
    except (ssl.SSLError, FileNotFoundError) as error:
        raise _damaged(certificate.crt) from error
    except OSError as error:
        raise ConfigError(f"can't read {certificate.key}: {error.strerror}") from error
    return context


def client_context(pem: str) -> ssl.SSLContext:
    """Return the TLS context of a worker. A handshake succeeds only with the owner of exactly this certificate.

    A trust store that contains the certificate would do the same, but depends on the clock; comparing bytes is simpler.

    Raises:
        ConfigError: ``pem`` is not a certificate in PEM.
    """
    context = _PinningContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no chain, no name, no dates: _PinnedSocket compares the whole certificate
    try:
        context.pin = ssl.PEM_cert_to_DER_cert(pem)
    except ValueError as error:
        raise ConfigError("the certificate in the join file is damaged; copy the join file again") from error
    return context


class _PinnedSocket(ssl.SSLSocket):
    """Socket whose handshake succeeds only with the certificate of its context."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        context = self.context
        if not isinstance(context, _PinningContext) or self.getpeercert(binary_form=True) != context.pin:
            raise TLSError("the master's certificate is not the one in the join file: copy the join file again")


class _PinningContext(ssl.SSLContext):
    sslsocket_class = _PinnedSocket
    #: The certificate in DER.
    pin = b""


def _damaged(crt: Path) -> ConfigError:
    return ConfigError(
        f"{crt} and tls.key beside it are damaged or do not belong together; delete both, start again,"
        " and copy the new join file to the downloaders"
    )


def _read_pem(crt: Path) -> str:
    """Return the certificate in a file, as normalized PEM."""
    try:
        return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(crt.read_text(encoding="ascii")))
    except ValueError as error:
        raise _damaged(crt) from error
    except OSError as error:
        raise ConfigError(f"can't read {crt}: {error.strerror}") from error


def _make() -> tuple[bytes, bytes]:
    """Return a new private key and its certificate, in PEM."""
    from cryptography import x509  # imported here, because only masters need it and it loads slowly
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "crawler")])
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret, certificate.public_bytes(serialization.Encoding.PEM)
