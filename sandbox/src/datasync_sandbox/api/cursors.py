"""Cursors: signed, limited in time, and readable by this server alone.

A client cannot make, change or extend one. A server with the same secret accepts cursors that
an earlier process issued, as a real service does after a deployment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from datasync_sandbox.data.feed import Place


@dataclass(frozen=True)
class Cursor:
    """What a cursor stands for.

    Attributes:
        page: Number of the page that it leads to; the request without a cursor gets page 1.
        after: End of the page before; ``None`` is the start of the feed.
        expires: When it expires, in seconds of the clock.
    """

    page: int
    after: Place | None
    expires: float


class CursorCodec:
    """Encodes and decodes cursors."""

    def __init__(self, secret: str) -> None:
        """Derive the signing key from any text."""
        self._serializer = URLSafeSerializer(
            secret, salt="cursor", signer_kwargs={"digest_method": hashlib.sha256}
        )

    def encode(self, cursor: Cursor) -> str:
        """Return the text of a cursor; the same cursor always has the same text."""
        after = [cursor.after.position, *cursor.after.key] if cursor.after else None
        return str(self._serializer.dumps([cursor.page, cursor.expires, after]))

    def decode(self, text: str) -> Cursor | None:
        """Return the cursor, expired or not; ``None`` if it was not issued with this secret."""
        try:
            page, expires, after = self._serializer.loads(text)
        except (BadData, ValueError):
            return None
        if after is None:
            return Cursor(page, None, expires)
        position, shard, millis, event_id = after
        return Cursor(page, Place(position, (shard, millis, event_id)), expires)
