"""The people of the feed: sessions and the users they belong to.

Both follow from a number alone, so that nothing has to be kept.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

DEVICES = ("mobile", "tablet", "desktop")
BROWSERS = ("Chrome", "Safari", "Firefox", "Edge")

EVENTS_A_SESSION = 50
SESSIONS_A_USER = 20
OPEN_SESSIONS = 120
"""How many sessions are under way at one time: the recorded page of 5000 events has 124."""

_KEPT = 8192


@dataclass(frozen=True)
class Visit:
    """One session, with the two pieces of JSON that it adds to each of its events.

    Attributes:
        session_id: UUID of the session.
        user_id: UUID of the user.
        device: One of `DEVICES`.
        browser: One of `BROWSERS`.
        front: JSON from the end of ``id`` to the start of the value of ``type``.
        back: JSON behind the value of ``timestamp``.
    """

    session_id: str
    user_id: str
    device: str
    browser: str
    front: str
    back: str


class Visitors:
    """All sessions of a feed, each made when it is asked for."""

    def __init__(self, seed: int, events: int) -> None:
        """Size the crowd.

        Args:
            seed: Seed of the feed.
            events: Events of the feed; 3,000,000 have 60,000 sessions of 3,000 users.
        """
        self._seed = seed
        self.sessions = max(1, events // EVENTS_A_SESSION)
        self.users = max(1, self.sessions // SESSIONS_A_USER)
        self._made: dict[int, Visit] = {}

    def visit(self, number: int) -> Visit:
        """Return a session.

        Args:
            number: Any integer; it is taken modulo the number of sessions.

        Returns:
            The session, always the same for a number.
        """
        number %= self.sessions
        found = self._made.get(number)
        if found is None:
            if len(self._made) >= _KEPT:
                self._made.clear()
            found = self._made[number] = self._make(number)
        return found

    def _make(self, number: int) -> Visit:
        """Draw a session from its number."""
        drawn = self._draw("session", number)
        user = self._draw("user", int.from_bytes(drawn[16:20], "big") % self.users)
        session_id, user_id = _uuid4(drawn), _uuid4(user)
        device, browser = DEVICES[drawn[20] % len(DEVICES)], BROWSERS[drawn[21] % len(BROWSERS)]
        return Visit(
            session_id,
            user_id,
            device,
            browser,
            front=f'","sessionId":"{session_id}","userId":"{user_id}","type":"',
            back=f',"session":{{"id":"{session_id}",'
            f'"deviceType":"{device}","browser":"{browser}"}}}}',
        )

    def _draw(self, what: str, number: int) -> bytes:
        """Return 32 bytes that follow from the seed and a number."""
        return hashlib.blake2b(f"{self._seed}:{what}:{number}".encode(), digest_size=32).digest()


def _uuid4(raw: bytes) -> str:
    """Shape the first 16 bytes into a version 4 UUID."""
    return str(uuid.UUID(bytes=raw[:16], version=4))
