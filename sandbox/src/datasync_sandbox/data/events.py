"""Sample events, each computed from the seed of the feed and its own number.

Nothing is stored: a feed of millions starts at once and takes no memory. Events are computed
in chunks because one hash over a chunk is much cheaper than one for each event; the chunks
last used are kept.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from datasync_sandbox.data.malformed import MalformedEvent, corrupt
from datasync_sandbox.data.timestamps import isoformat

if TYPE_CHECKING:
    from datasync_sandbox.options import FeedOptions

INTERVAL_MILLIS = 864
"""Milliseconds between two events: 100,000 events a day."""

TIE_INTERVAL = 500
"""Three neighbours share a millisecond every so many events: ties across the usual page ends."""

TYPE_SHARES = {
    "page_view": 7,
    "click": 5,
    "api_call": 2,
    "form_submit": 2,
    "scroll": 1,
    "purchase": 1,
    "error": 1,
    "video_play": 1,
}
"""Types and their shares, in twentieths."""

UNSORTED_MILLIS = 7_200_000
"""Milliseconds by which the timestamp of an unsorted event is off at most, either way."""

EVENTS_PER_SESSION = 50
SESSIONS_PER_USER = 20
OPEN_SESSIONS = 120
"""Sessions at any one time: a recorded page of 5000 events has 124."""

_CHUNK = 1000
_CACHED_CHUNKS = 32
_DEVICES = ("mobile", "tablet", "desktop")
_BROWSERS = ("Chrome", "Safari", "Firefox", "Edge")
_TYPES = [name for name, share in TYPE_SHARES.items() for _ in range(share)]
_BASE36 = bytes(b"0123456789abcdefghijklmnopqrstuvwxyz"[byte % 36] for byte in range(256))
# Of each event: id, letters of the name, and 16-bit draws of type, session and timestamp.
_DRAWS = struct.Struct(">16s6sHHH")
_Draws = tuple[bytes, bytes, int, int, int]

OrderKey = tuple[int, int, str]
"""Place of an event in the feed, descending: shard (negative), milliseconds since 1970, id."""


# Named tuples: a page of 5000 events takes half as long as with dataclasses.
class Session(NamedTuple):
    """A session and the user it belongs to, with its part of each event's JSON.

    Attributes:
        id: UUID.
        user_id: UUID.
        json_ids: JSON from ``sessionId`` to ``userId``.
        json_object: JSON of ``session``.
    """

    id: str
    user_id: str
    json_ids: str
    json_object: str


class Event(NamedTuple):
    """One event of the feed.

    Attributes:
        order: Its place in the feed.
        id: UUID.
        session: Its session.
        type: One of `TYPE_SHARES`.
        name: ``event_`` and six characters.
        millis: Timestamp, in milliseconds since 1970; that of its place unless it is unsorted.
        malformed: What is sent in its place; ``None`` for a valid event.
    """

    order: OrderKey
    id: str
    session: Session
    type: str
    name: str
    millis: int
    malformed: MalformedEvent | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the valid event as the API shows it, with the timestamp in ISO 8601."""
        valid = self._replace(malformed=None)
        document: dict[str, Any] = json.loads(valid.to_json(as_millis=False))
        return document

    def to_json(self, *, as_millis: bool) -> str:
        """Return the event as the API sends it, its timestamp as milliseconds or as a text."""
        if self.malformed:
            return self.malformed.raw_event
        timestamp = self.millis if as_millis else f'"{isoformat(self.millis)}"'
        return (
            f'{{"id":"{self.id}",{self.session.json_ids},"type":"{self.type}",'
            f'"name":"{self.name}","properties":{{"page":"/home"}},'
            f'"timestamp":{timestamp},"session":{self.session.json_object}}}'
        )


class EventGenerator:
    """Computes the events of one feed."""

    def __init__(self, options: FeedOptions, newest: int) -> None:
        """Describe a feed whose newest event has a timestamp in milliseconds since 1970."""
        self._seed = options.seed
        self._events = options.events
        self._newest = newest
        self._options = options
        self._kinds = options.kinds
        self._sessions = max(1, options.events // EVENTS_PER_SESSION)
        self._users = max(1, self._sessions // SESSIONS_PER_USER)
        self._chunk = lru_cache(maxsize=_CACHED_CHUNKS)(self._compute_chunk)
        self._session = lru_cache(maxsize=8192)(self._compute_session)

    def event(self, index: int) -> Event:
        """Return an event of the frozen part of the feed; 0 is the newest."""
        return self._chunk(index // _CHUNK)[index % _CHUNK]

    def arrival(self, number: int, millis: int) -> Event:
        """Return an event that arrives later, 0 first, with a timestamp in milliseconds."""
        draws: Any = _DRAWS.unpack(self._digest(f"arrival:{number}", _DRAWS.size))
        return self._event(-1 - number, draws, millis)

    def _compute_chunk(self, chunk: int) -> list[Event]:
        """Compute a run of events."""
        first = chunk * _CHUNK
        count = min(_CHUNK, self._events - first)
        drawn: Any = _DRAWS.iter_unpack(self._digest(f"chunk:{chunk}", _DRAWS.size * count))
        return [
            self._event(first + at, each, self._millis(first + at, each[-1]))
            for at, each in enumerate(drawn)
        ]

    def _millis(self, index: int, draw: int) -> int:
        """Return the timestamp that belongs to a place: descending, with ties."""
        tie = _tie(index)
        if tie is None:
            jitter = draw * INTERVAL_MILLIS >> 16 if index else 0
            return self._newest - index * INTERVAL_MILLIS + jitter
        return self._newest - (index - tie) * INTERVAL_MILLIS

    def _event(self, index: int, draws: _Draws, millis: int) -> Event:
        raw_id, letters, type_draw, session_draw, _ = draws
        text = raw_id.hex()
        tie = _tie(index) if index > 0 else None
        # Events that share a millisecond are ordered by id: the first digit sees to it.
        first = text[0] if tie is None else "c84"[tie]
        event_id = (
            f"{first}{text[1:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[raw_id[8] & 3]}"
            f"{text[17:20]}-{text[20:]}"
        )
        session = (index // EVENTS_PER_SESSION + (session_draw * OPEN_SESSIONS >> 16)) % (
            self._sessions
        )
        event = Event(
            (-(index % self._options.shards), millis, event_id),
            event_id,
            self._session(session),
            _TYPES[type_draw * len(_TYPES) >> 16],
            f"event_{letters.translate(_BASE36).decode()}",
            millis,
        )
        has_defects = self._options.unsorted or self._options.malformed
        return self._with_defects(event, index) if has_defects else event

    def _with_defects(self, event: Event, index: int) -> Event:
        """Return the event, perhaps unsorted or malformed."""
        draw = random.Random(f"{self._seed}:defects:{index}")  # noqa: S311 - repeatable on purpose
        if draw.random() < self._options.unsorted:
            offset = draw.randint(-UNSORTED_MILLIS, UNSORTED_MILLIS)
            event = event._replace(millis=event.millis + offset)
        if draw.random() < self._options.malformed:
            kind = draw.choice(self._kinds)
            event = event._replace(malformed=corrupt(kind, event.to_dict(), event.millis))
        return event

    def _compute_session(self, number: int) -> Session:
        drawn = self._digest(f"session:{number}", 22)
        user = int.from_bytes(drawn[16:20], "big") % self._users
        session_id, user_id = _uuid4(drawn), _uuid4(self._digest(f"user:{user}", 16))
        device = _DEVICES[drawn[20] % len(_DEVICES)]
        browser = _BROWSERS[drawn[21] % len(_BROWSERS)]
        return Session(
            session_id,
            user_id,
            f'"sessionId":"{session_id}","userId":"{user_id}"',
            f'{{"id":"{session_id}","deviceType":"{device}","browser":"{browser}"}}',
        )

    def _digest(self, purpose: str, size: int) -> bytes:
        """Return bytes that follow from the seed and a purpose."""
        return hashlib.shake_128(f"{self._seed}:{purpose}".encode()).digest(size)


def _tie(index: int) -> int | None:
    """Return the place of an event within three that share a millisecond, if it is one of them."""
    place = (index + 1) % TIE_INTERVAL
    return place if place < 3 and index > 1 else None  # noqa: PLR2004 - three events


def _uuid4(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw[:16], version=4))
