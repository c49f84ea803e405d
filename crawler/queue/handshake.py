"""Handshake in which the two ends of a queue connection prove to each other that they know the key of the crawl.

1. The master sends the greeting and a nonce.
2. The worker sends a nonce and its proof.
3. The master sends its proof, or a refusal.

A proof is an HMAC with the key over the role of its sender, the version of this handshake, the place and both nonces.
The role makes a reflected proof worthless: a worker's proof never passes for a master's. Without TLS the place is the
master's address and port, as each end sees them on its own side of this connection. A relay that listens elsewhere,
such as on a former port of the master, therefore connects two ends that do not agree. Under TLS the certificate
identifies the master and the place is "TLS", so that tunnels work: a proof given without TLS is worthless there.
"""

import hmac
import secrets
from multiprocessing import AuthenticationError
from typing import Literal, Protocol

import msgspec

#: First bytes that a master sends; the number is the version of the handshake.
GREETING = b"#CRAWLER-1#"
_REFUSAL = b"#REFUSED#"
_NONCE = 32  # bytes

_Role = Literal["master", "worker"]


class Frames(Protocol):
    """Transport of the handshake: a `crawler.queue.wire.Channel`."""

    def send_bytes(self, data: bytes) -> None: ...
    def recv_bytes(self) -> bytes: ...


def prove_as_worker(frames: Frames, key: bytes, place: str) -> None:
    """Run the worker's side of the handshake.

    Raises:
        AuthenticationError: the master refuses the key, or does not prove that it knows it.
    """
    greeting, mine = frames.recv_bytes(), secrets.token_bytes(_NONCE)
    theirs = greeting[len(GREETING) :]
    if not greeting.startswith(GREETING) or len(theirs) != _NONCE:
        raise AuthenticationError("it does not answer like a master; check the address in the join file")
    frames.send_bytes(mine + _proof(key, "worker", place, theirs, mine))
    if not hmac.compare_digest(frames.recv_bytes(), _proof(key, "master", place, theirs, mine)):
        raise AuthenticationError("the master does not accept the key; copy the join file again")


def prove_as_master(frames: Frames, key: bytes, place: str) -> None:
    """Run the master's side of the handshake.

    Raises:
        AuthenticationError: the worker does not prove that it knows the key.
    """
    mine = secrets.token_bytes(_NONCE)
    frames.send_bytes(GREETING + mine)
    answer = frames.recv_bytes()
    theirs = answer[:_NONCE]
    if not hmac.compare_digest(answer[_NONCE:], _proof(key, "worker", place, mine, theirs)):
        frames.send_bytes(_REFUSAL)
        raise AuthenticationError("wrong key")
    frames.send_bytes(_proof(key, "master", place, mine, theirs))


def _proof(key: bytes, role: _Role, place: str, of_master: bytes, of_worker: bytes) -> bytes:
    return hmac.digest(key, msgspec.msgpack.encode((GREETING, role, place, of_master, of_worker)), "sha256")
