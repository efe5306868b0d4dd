"""State of the stream ``events``: position of the scan, and what is loaded.

The state is flat and every key is always present. Meltano merges states: a key that is
missing from the newer state keeps its old value, and a key that changes between an object
and null cannot be merged at all (``meltano.core.utils.merge``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tap_datasync.errors import EXIT_PERMANENT, TapDataSyncError
from tap_datasync.timestamps import format_timestamp, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 2

ORDER_TOLERANCE = timedelta(seconds=1)
"""How far a timestamp may rise in a sorted feed: one in whole seconds, between others in
milliseconds, has lost up to a second."""

_MAX_INTEGER = 2**63


class StateError(TapDataSyncError):
    """The state cannot be used."""

    exit_code = EXIT_PERMANENT

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The state cannot be used: {reason}. Nothing was changed. Restore it with "
            "'meltano state set', or load everything again with --full-refresh."
        )


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range of time that an interrupted scan has emitted.

    Attributes:
        newest_at: Upper end.
        newest_id: Id of the event at the upper end.
        oldest_at: Lower end.
    """

    newest_at: datetime
    newest_id: str
    oldest_at: datetime

    def contains(self, timestamp: datetime, lookback: timedelta) -> bool:
        """Return whether an event with this timestamp is loaded for certain.

        The ends are excluded, because a page may end between two events of equal
        timestamps. So is the lookback below the newest end, where events may arrive late.
        """
        return (
            timestamp - self.oldest_at > ORDER_TOLERANCE
            and self.newest_at - timestamp > lookback_of(lookback)
        )

    def to_dict(self) -> dict[str, str]:
        """Return the range as JSON."""
        return {
            "newest_at": format_timestamp(self.newest_at),
            "newest_id": self.newest_id,
            "oldest_at": format_timestamp(self.oldest_at),
        }


@dataclass(frozen=True, slots=True)
class ScanState:
    """Position of the scan, and what is loaded.

    Attributes:
        source: ``api_url`` of the feed, without trailing slash.
        cursor: Position of the next page; ``None`` before the first page of a scan.
        cursor_expires_at: When the cursor expires.
        scan_newest_at: Newest timestamp that the scan has emitted, future ones aside.
        scan_newest_id: Id of that event.
        scan_oldest_at: Timestamp down to which the scan has emitted everything.
        scan_last_id: Id of the last event of the last page.
        scan_anchors: Ids of high watermark and loaded ranges that the scan has met: what they
            stand for is loaded in this feed.
        scan_has_gaps: Whether events may be missing between those that this scan has read.
        scan_sorted: Whether this scan has been sorted so far.
        feed_sorted: Whether the feed is known to be sorted: false from the first violation
            until a whole scan was sorted.
        loaded_ranges: Ranges of earlier, interrupted scans, newest first, disjoint.
        high_watermark: Everything up to this timestamp is loaded.
        high_watermark_id: Id of the event at the high watermark.
        events_seen: Distinct events of the scan so far.
        events_emitted: Events that the scan has emitted.
        events_expected: Events that existed when the scan started.
        total_events: Highest ``meta.total`` of the scan.
        known_total: Events that the feed has held: highest ``meta.total`` of the last finished
            scan, or what an interrupted scan has read since.
    """

    source: str | None = None
    cursor: str | None = None
    cursor_expires_at: datetime | None = None
    scan_newest_at: datetime | None = None
    scan_newest_id: str | None = None
    scan_oldest_at: datetime | None = None
    scan_last_id: str | None = None
    scan_anchors: tuple[str, ...] = ()
    scan_has_gaps: bool = False
    scan_sorted: bool = True
    feed_sorted: bool = True
    loaded_ranges: tuple[TimeRange, ...] = ()
    high_watermark: datetime | None = None
    high_watermark_id: str | None = None
    events_seen: int = 0
    events_emitted: int = 0
    events_expected: int | None = None
    total_events: int | None = None
    known_total: int | None = None

    @property
    def in_order(self) -> bool:
        """Whether the order of the feed may be relied upon."""
        return self.scan_sorted and self.feed_sorted

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON, every key present."""
        state: dict[str, Any] = {"version": VERSION}
        for field in fields(self):
            value = getattr(self, field.name)
            state[field.name] = format_timestamp(value) if isinstance(value, datetime) else value
        return state | {
            "scan_anchors": list(self.scan_anchors),
            "loaded_ranges": [one.to_dict() for one in self.loaded_ranges],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ScanState:
        """Read a state; an empty one is a fresh start, unknown keys are ignored.

        Raises:
            StateError: It is of another version or tap, or damaged.
        """
        if not state:
            return cls()
        version = state.get("version")
        if version != VERSION or isinstance(version, bool):
            found = f"version {version}" if isinstance(version, int) else "another tap"
            reason = f"it is of {found}, this tap requires version {VERSION}"
            raise StateError(reason)
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in state:
                try:
                    values[field.name] = _READERS[field.name](state[field.name])
                except (ValueError, TypeError, KeyError) as error:
                    reason = f"its key '{field.name}' is damaged"
                    raise StateError(reason) from error
        return cls(**values)

    def start_scan(self) -> ScanState:
        """Return the state of a scan that starts at the newest event."""
        return replace(
            self._without_position(),
            events_seen=0,
            events_emitted=0,
            events_expected=None,
            total_events=None,
        )

    def interrupt(self, lookback: timedelta) -> ScanState:
        """Close an unfinished scan: the range that it has emitted becomes a loaded range.

        A loaded range that the scan has passed, lookback included, is joined with it. One
        that it has only reached keeps its newest end, and the new range ends there: events
        that arrived late are still to be read. Nothing is recorded while the order of the
        feed cannot be relied upon.
        """
        if self.scan_has_gaps or not self.in_order:
            kept = () if not self.in_order else self.loaded_ranges
            return replace(self._without_position(), loaded_ranges=kept)
        known_total = max(self.known_total or 0, self.events_seen) or None
        interrupted = replace(self._without_position(), known_total=known_total)
        newest_at, newest_id, oldest_at = (
            self.scan_newest_at,
            self.scan_newest_id,
            self.scan_oldest_at,
        )
        ranges = list(self.loaded_ranges)
        if newest_at is not None and newest_id is not None and oldest_at is not None:
            older: list[TimeRange] = []
            for loaded in self.loaded_ranges:
                if oldest_at > loaded.newest_at:
                    older.append(loaded)
                elif loaded.newest_at - oldest_at >= lookback_of(lookback) + ORDER_TOLERANCE:
                    oldest_at = min(oldest_at, loaded.oldest_at)
                else:
                    oldest_at = loaded.newest_at
                    older.append(loaded)
            new = [TimeRange(newest_at, newest_id, oldest_at)] if newest_at > oldest_at else []
            ranges = new + older
        return replace(interrupted, loaded_ranges=tuple(ranges))

    def finish(self, *, at_oldest_event: bool) -> ScanState:
        """Close a finished scan and move the high watermark.

        Args:
            at_oldest_event: Whether the scan went to the oldest event, and did not stop at
                what was loaded.
        """
        finished = replace(
            self._without_position(), loaded_ranges=(), known_total=self.total_events
        )
        newest_at, known = self.scan_newest_at, self.high_watermark
        if at_oldest_event:
            finished = replace(finished, feed_sorted=self.scan_sorted)
        elif newest_at is None or (known is not None and newest_at < known):
            return finished
        return replace(finished, high_watermark=newest_at, high_watermark_id=self.scan_newest_id)

    def _without_position(self) -> ScanState:
        return replace(
            self,
            cursor=None,
            cursor_expires_at=None,
            scan_newest_at=None,
            scan_newest_id=None,
            scan_oldest_at=None,
            scan_last_id=None,
            scan_anchors=(),
            scan_has_gaps=False,
            scan_sorted=True,
        )


def lookback_of(lookback: timedelta) -> timedelta:
    """Return how far below a loaded timestamp events are read again."""
    return max(lookback, ORDER_TOLERANCE)


def _timestamp(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError
    return parse_timestamp(value)


def _text(value: object) -> str | None:
    if not isinstance(value, (str, type(None))):
        raise TypeError
    return value or None


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _optional_count(value: object) -> int | None:
    return None if value is None else _count(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    if not 0 <= value < _MAX_INTEGER:
        raise ValueError
    return value


def _ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError
    return tuple(value)


def _ranges(value: object) -> tuple[TimeRange, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_range(one) for one in value)


def _range(value: dict[str, Any]) -> TimeRange:
    newest_at, newest_id, oldest_at = (
        _timestamp(value["newest_at"]),
        _text(value["newest_id"]),
        _timestamp(value["oldest_at"]),
    )
    if newest_at is None or newest_id is None or oldest_at is None:
        raise TypeError
    return TimeRange(newest_at, newest_id, oldest_at)


_READERS = {
    "source": _text,
    "cursor": _text,
    "cursor_expires_at": _timestamp,
    "scan_newest_at": _timestamp,
    "scan_newest_id": _text,
    "scan_oldest_at": _timestamp,
    "scan_last_id": _text,
    "scan_anchors": _ids,
    "scan_has_gaps": _flag,
    "scan_sorted": _flag,
    "feed_sorted": _flag,
    "loaded_ranges": _ranges,
    "high_watermark": _timestamp,
    "high_watermark_id": _text,
    "events_seen": _count,
    "events_emitted": _count,
    "events_expected": _optional_count,
    "total_events": _optional_count,
    "known_total": _optional_count,
}
