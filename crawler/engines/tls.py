"""TLS for the queue: one certificate, made by the master on its first start and pinned by every worker.

There is no authority to ask and no name to compare. A worker knows the one certificate it may meet, from the join
file, and compares byte for byte. What that is worth against a relay, somebody between worker and master who passes
their bytes on:

* With a certificate of its own it is found out when the TLS handshake ends, before the worker has answered any
  challenge, so it learns nothing that is derived from the key.
* With the master's certificate, which is no secret, it can't end the handshake at all: in TLS 1.3 the server signs the
  whole of it with its private key (RFC 8446 §4.4.3), and OpenSSL checks that signature whatever is trusted.
* Passing on the bytes as they are it holds ciphertext between two parties who have found each other.
* Answers that it coaxes out of a worker in the clear, on loopback, open no session under TLS: `crawler.engines.wire`
  has both sides prove another key there.

The certificate says who the master is; the key in the join file, which is proved inside of TLS as it is without,
says who may join.
"""

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from crawler.engines.join import refuse_shared, write_private
from crawler.errors import ConfigError, TLSError

log = logging.getLogger(__name__)

#: When the certificate is valid: at any time (RFC 5280 §4.1.2.5 writes "no end" so). No clock is asked when it is made,
#: and none when it is checked, so boxes whose clocks are wrong can work together.
_VALID_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_VALID_UNTIL = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Certificate(Struct, frozen=True, kw_only=True):
    """The master's certificate. Its private key stays in its file."""

    #: What goes into the join file.
    pem: str
    crt: Path
    key: Path


def ensure_certificate(directory: Path) -> Certificate:
    """The certificate of the crawl in ``directory`` (``tls.crt``, ``tls.key``), made where there is none yet.

    Raises:
        ConfigError: the files are damaged, do not belong together, or others can read the key.
        DiskError: they can't be written.
    """
    crt, key = directory / "tls.crt", directory / "tls.key"
    if not crt.exists():
        secret, public = _make()
        write_private(key, secret)
        write_private(crt, public)  # last: a first start that was killed before this line is simply repeated
        log.info("made a certificate: %s", crt)
    certificate = Certificate(pem=_read_pem(crt), crt=crt, key=key)
    server_context(certificate)
    return certificate


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """The master's side of TLS.

    Raises:
        ConfigError: as `ensure_certificate`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # sessions are not resumed, so that each proves the certificate, and nothing comes unasked
    try:
        refuse_shared(certificate.key, certificate.key.stat().st_mode)
        context.load_cert_chain(certificate.crt, certificate.key, password=b"")  # a password would be asked for
    except (ssl.SSLError, FileNotFoundError) as error:
        raise _damaged(certificate.crt) from error
    except OSError as error:
        raise ConfigError(f"can't read {certificate.key}: {error.strerror}") from error
    return context


def client_context(pem: str) -> ssl.SSLContext:
    """A worker's side of TLS: no handshake ends well but with the owner of exactly this certificate.

    A trust store with the certificate in it would do the same, but also ask the clock; to compare bytes is simpler.

    Raises:
        ConfigError: it is no certificate in PEM.
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
    """A socket whose handshake ends well only with the certificate of its context."""

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
    """The one certificate in a file, in the form of our own."""
    try:
        return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(crt.read_text(encoding="ascii")))
    except ValueError as error:
        raise _damaged(crt) from error
    except OSError as error:
        raise ConfigError(f"can't read {crt}: {error.strerror}") from error


def _make() -> tuple[bytes, bytes]:
    """A fresh private key and its certificate, in PEM."""
    from cryptography import x509  # here, as only masters need it and it takes a while to load
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
