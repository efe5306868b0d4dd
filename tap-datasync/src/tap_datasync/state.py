"""State of the stream ``events``: position of the scan, and what is loaded.

The state is flat and every key is always present. Meltano merges states: a key that is
missing from the newer state keeps its old value, and a key that changes between an object
and null cannot be merged at all (``meltano.core.utils.merge``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import msgspec

from tap_datasync.errors import EXIT_PERMANENT, TapDataSyncError
from tap_datasync.timestamps import format_timestamp, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 2

ORDER_TOLERANCE = timedelta(seconds=1)
"""How far a timestamp may rise in a sorted feed: one in whole seconds, between others in
milliseconds, has lost up to a second."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Id = Annotated[str, msgspec.Meta(min_length=1)]


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
            timestamp - self.oldest_at > ORDER_TOLERANCE and self.newest_at - timestamp > lookback
        )


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
    events_seen: Count = 0
    events_emitted: Count = 0
    events_expected: Count | None = None
    total_events: Count | None = None
    known_total: Count | None = None

    @property
    def in_order(self) -> bool:
        """Whether the order of the feed may be relied upon."""
        return self.scan_sorted and self.feed_sorted

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON, every key present."""
        return {"version": VERSION} | asdict(self, dict_factory=_to_json)

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
        for name, kind in get_type_hints(cls, include_extras=True).items():
            if name in state:
                try:
                    values[name] = _read(state[name], kind)
                except (ValueError, KeyError, msgspec.ValidationError) as error:
                    reason = f"its key '{name}' is damaged"
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
                elif loaded.newest_at - oldest_at >= lookback + ORDER_TOLERANCE:
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


def _to_json(items: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(items)
    for name, value in items:
        if isinstance(value, datetime):
            values[name] = format_timestamp(value)
        elif isinstance(value, tuple):
            values[name] = list(value)
    return values


def _read(value: object, kind: Any) -> object:
    """Return a value of a saved state as the type of its field."""
    if kind == str | None:
        return msgspec.convert(value, kind) or None
    if kind == datetime | None:
        text = msgspec.convert(value, str | None)
        return None if text is None else parse_timestamp(text)
    if kind == tuple[TimeRange, ...]:
        return tuple(
            TimeRange(
                newest_at=parse_timestamp(msgspec.convert(one["newest_at"], str)),
                newest_id=msgspec.convert(one["newest_id"], _Id),
                oldest_at=parse_timestamp(msgspec.convert(one["oldest_at"], str)),
            )
            for one in msgspec.convert(value, list[dict[str, Any]])
        )
    return msgspec.convert(value, kind)
