"""Message authentication with a shared secret: HMAC-SHA256 over fresh nonces and message numbers.

Each side first sends a hello: MAGIC, its version (2 bytes) and a nonce (16 random bytes). The connection's key is
HMAC(secret, both hellos), so nothing recorded on one connection is valid on another. Every frame then consists of the
body's length (4 bytes), a tag (32 bytes) and the body. The tag is HMAC(key, direction, frame number, body), so a frame
that is replayed, dropped, modified or reflected is refused. Nothing is encrypted: anyone on the network can read along.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from policies.serving.messages import LARGEST, VERSION, Message, pack, unpack
from worldmodel.mistakes import Mistake

MAGIC = b"SEMAGRAM"
HELLO = struct.Struct(">8sH16s")
FRAME = struct.Struct(">I32s")
NUMBER = struct.Struct(">cQ")
SHORTEST, LONGEST = 16, 4096  # minimum and maximum length of a secret in bytes
FIRST = 1 << 15
"""Maximum bytes of the first body, whose sender has yet to prove that it knows the secret; no Begin is larger."""


class Refused(Mistake, ConnectionError):
    """The other side cannot be talked to; the error line says why."""


def read_secret(path: str | Path) -> bytes:
    """Read the secret in a file, without surrounding whitespace.

    Raises ValueError if the file is missing or accessible to others, or the secret is too short or too long.
    """
    path = Path(path)
    if not path.exists():
        raise Mistake(f"secret={path}: no such file; openssl rand -hex 32 makes a secret")
    if path.stat().st_mode & 0o077:
        raise Mistake(f"{path}: others may read it; chmod 600 {path}")
    with path.open("rb") as file:
        secret = file.read(LONGEST + 1).strip()
    if not SHORTEST <= len(secret) <= LONGEST:
        raise Mistake(f"{path}: {len(secret)} bytes; {SHORTEST} to {LONGEST} make a secret: openssl rand -hex 32")
    return secret


def hello() -> bytes:
    """Return a new hello, the first thing that a side sends."""
    return HELLO.pack(MAGIC, VERSION, os.urandom(16))


class Seal:
    """One side of a connection: signs outgoing messages and verifies incoming ones."""

    def __init__(self, secret: bytes, ours: bytes, theirs: bytes, serving: bool):
        """Derive the key from both hellos. Raises Refused if theirs has another protocol or version, or is our own."""
        magic, version, _ = HELLO.unpack(theirs)
        if magic != MAGIC:
            raise Refused("the other side does not speak this protocol")
        if version != VERSION:
            raise Refused(f"the other side speaks version {version} of the protocol, this one {VERSION}")
        if ours == theirs:
            raise Refused("the other side sends back what it gets")
        both = theirs + ours if serving else ours + theirs
        self._key = hmac.digest(secret, both, hashlib.sha256)
        self._ours, self._theirs = (b"P", b"R") if serving else (b"R", b"P")
        self._sent = self._opened = 0
        self._held = bytearray()

    def seal(self, message: Message) -> bytes:
        """Return the signed frame of a message. Raises WrongMessage if it cannot be packed."""
        body = pack(message)
        tag = self._tag(self._ours, self._sent, body)
        self._sent += 1
        return FRAME.pack(len(body), tag) + body

    def open(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes.

        Raises Refused for a frame that is not authentic or too large, and WrongMessage for an invalid body.
        """
        self._held += data
        while len(self._held) >= FRAME.size:
            length, tag = FRAME.unpack_from(self._held)
            most = LARGEST if self._opened else FIRST
            if length > most:
                raise Refused(f"a frame of {length} bytes; at most {most}")
            if len(self._held) < FRAME.size + length:
                return
            body = bytes(self._held[FRAME.size : FRAME.size + length])
            del self._held[: FRAME.size + length]
            if not hmac.compare_digest(tag, self._tag(self._theirs, self._opened, body)):
                why = "changed, repeated or left out" if self._opened else "another secret"
                raise Refused(f"a message that is not authentic: {why}")
            self._opened += 1
            yield unpack(body)

    def _tag(self, direction: bytes, number: int, body: bytes) -> bytes:
        return hmac.digest(self._key, NUMBER.pack(direction, number) + body, hashlib.sha256)
