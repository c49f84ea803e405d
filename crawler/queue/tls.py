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
import secrets
import ssl
from pathlib import Path

from msgspec import Struct

from crawler.errors import ConfigError, TLSError
from crawler.queue.join_file import refuse_shared, write_private

log = logging.getLogger(__name__)

#: Validity of the certificate: any time (RFC 5280 §4.1.2.5 writes "no end" this way). Making and checking it does not
#: depend on a clock, so machines with wrong clocks can work together.
_VALID_FROM, _VALID_UNTIL = b"000101000000Z", b"99991231235959Z"

#: Tags of DER (X.690), and the constant parts of a certificate: its version, the object identifiers of its signature
#: algorithm (RFC 5758 §3.2) and of its common name.
_INTEGER, _BIT_STRING, _UTF8_STRING, _UTC_TIME, _GENERALIZED_TIME, _SEQUENCE, _SET = 2, 3, 12, 23, 24, 48, 49
_VERSION_3 = bytes.fromhex("a003020102")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_COMMON_NAME = bytes.fromhex("0603550403")


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
    from cryptography.hazmat.primitives import hashes, serialization  # imported here, because only masters need it
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    content = _certificate_content(public, b"\x01" + secrets.token_bytes(15))
    signature = key.sign(content, ec.ECDSA(hashes.SHA256()))
    certificate = _der(_SEQUENCE, content, _ECDSA_WITH_SHA256, _der(_BIT_STRING, b"\0", signature))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret, ssl.DER_cert_to_PEM_cert(certificate).encode()


def _certificate_content(public: bytes, serial: bytes) -> bytes:
    """Return what is signed of a certificate (RFC 5280 §4.1), for a public key in DER.

    `cryptography.x509` would do the same, but takes 20 ms to load, and all but the key and the number is constant.
    """
    name = _der(_SEQUENCE, _der(_SET, _der(_SEQUENCE, _COMMON_NAME, _der(_UTF8_STRING, b"crawler"))))
    validity = _der(_SEQUENCE, _der(_UTC_TIME, _VALID_FROM), _der(_GENERALIZED_TIME, _VALID_UNTIL))
    return _der(_SEQUENCE, _VERSION_3, _der(_INTEGER, serial), _ECDSA_WITH_SHA256, name, validity, name, public)


def _der(tag: int, *parts: bytes) -> bytes:
    """Return a value in DER (X.690): its tag, its length, and its content."""
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x81" + bytes([size]) if size < 256 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content
