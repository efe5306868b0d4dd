"""Opaque, signed cursors.

The real service hands out readable JSON in base64. Ours cannot be read, changed or
extended, so that no client can come to lean on what is inside: a cursor is a place
in the feed for a limited time, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasync_sandbox.blocks import Key

_FIELDS = struct.Struct(">qIq16s")
_TAG_BYTES = 12


class CursorMalformedError(Exception):
    """The text is not a cursor of this server."""


class CursorExpiredError(Exception):
    """The cursor has outlived its time."""

    def __init__(self, seconds: float) -> None:
        """Remember how long it has been dead.

        Args:
            seconds: Seconds since it expired.
        """
        self.seconds = seconds
        super().__init__(f"Cursor expired {math.ceil(seconds / 60)} minute(s) ago")


@dataclass(frozen=True)
class Cursor:
    """What a cursor stands for.

    Attributes:
        page: Number of the page that it leads to; the head of the feed is page 1.
        after: The page holds events behind this one; ``None`` is the head.
        expires: The instant, in seconds of the clock, from which it is refused.
    """

    page: int
    after: Key | None
    expires: float

    def check(self, now: float) -> None:
        """Refuse a cursor whose time is over.

        Args:
            now: Seconds of the clock.

        Raises:
            CursorExpiredError: If it has expired.
        """
        if now >= self.expires:
            raise CursorExpiredError(now - self.expires)


class CursorMint:
    """Seals cursors and opens them again."""

    def __init__(self, secret: str) -> None:
        """Derive the signing key.

        Args:
            secret: Anything. The same secret opens cursors that an earlier process
                sealed, as with a real service that is deployed anew.
        """
        self._key = hashlib.sha256(secret.encode()).digest()

    def seal(self, cursor: Cursor) -> str:
        """Return the text of a cursor. The same cursor always has the same text."""
        stamp, ident = (
            (0, bytes(16))
            if cursor.after is None
            else (cursor.after[0], uuid.UUID(cursor.after[1]).bytes)
        )
        # The head is told from a real place by the stamp's lowest bit.
        marked = stamp * 2 + (cursor.after is not None)
        plain = _FIELDS.pack(math.floor(cursor.expires * 1e6), cursor.page, marked, ident)
        tag = hmac.digest(self._key, plain, "sha256")[:_TAG_BYTES]
        return base64.urlsafe_b64encode(tag + self._mask(plain, tag)).decode().rstrip("=")

    def open(self, text: str) -> Cursor:
        """Read a cursor, without looking at the clock.

        Args:
            text: What a client sent.

        Returns:
            What was sealed.

        Raises:
            CursorMalformedError: If this is not a cursor of ours.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise CursorMalformedError from error
        if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
            raise CursorMalformedError  # another spelling of the same bytes
        tag, sealed = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        plain = self._mask(sealed, tag)
        if len(plain) != _FIELDS.size or not hmac.compare_digest(
            tag, hmac.digest(self._key, plain, "sha256")[:_TAG_BYTES]
        ):
            raise CursorMalformedError
        micros, page, marked, ident = _FIELDS.unpack(plain)
        after = (marked // 2, str(uuid.UUID(bytes=ident))) if marked % 2 else None
        return Cursor(page, after, micros / 1e6)

    def _mask(self, text: bytes, tag: bytes) -> bytes:
        """Encrypt or decrypt: XOR with a stream that only the key and the tag give."""
        stream = hashlib.shake_256(self._key + tag).digest(len(text))
        return bytes(a ^ b for a, b in zip(text, stream, strict=True))
