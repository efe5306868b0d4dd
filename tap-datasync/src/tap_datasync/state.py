"""The bookmark of the stream ``events``: what a walk leaves behind for the next run.

Keys are set to null, never removed: Meltano merges states, and a removed key would come
back with its old value.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tap_datasync.failures import EXIT_HOPELESS, TapDataSyncError
from tap_datasync.timestamps import format_timestamp, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

VERSION = 1

ORDER_SLACK = timedelta(seconds=1)
"""How far an event's time may lie below its place in the feed: one that is spelt in whole
seconds, between others in milliseconds, has lost up to so much. Nothing that lies this
close to the edge of what is loaded is taken for loaded."""

DAMAGED = (
    "The state cannot be read: it was edited or damaged. Restore it with "
    "'meltano state set', or start with --full-refresh."
)


class BookmarkError(TapDataSyncError):
    """The state is none of ours, or of a newer version."""

    exit_code = EXIT_HOPELESS


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time whose inside is loaded.

    Its ends are not: a page may have ended between two events of the same instant.

    Attributes:
        newest: The upper end.
        oldest: The lower end.
    """

    newest: datetime
    oldest: datetime

    def covers(self, moment: datetime, lookback: timedelta) -> bool:
        """Say whether an event of that instant is loaded for certain.

        Args:
            moment: The event's timestamp.
            lookback: How late an event may arrive: below the newest end, so much is
                loaded again.
        """
        late = max(lookback, ORDER_SLACK)
        return self.oldest + ORDER_SLACK < moment < self.newest - late

    def to_state(self) -> dict[str, str]:
        """Return the span as JSON."""
        return {
            "newest": format_timestamp(self.newest),
            "oldest": format_timestamp(self.oldest),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, str]) -> Span:
        """Read a span from JSON."""
        return cls(parse_timestamp(state["newest"]), parse_timestamp(state["oldest"]))


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where the walk stands.

    Attributes:
        cursor: Where the next page of the unfinished walk starts; ``None`` when no walk
            is open.
        cursor_expires_at: Until when the cursor lives, as far as it is known.
        walk: The time that this walk has emitted; ``None`` before its first page, and
            while its order cannot be trusted.
        unsorted_newest: The newest end of a walk whose order cannot be trusted.
        loaded: Spans of earlier walks that were cut off, newest first, disjoint.
        complete_to: Everything up to this instant is loaded.
        events_seen: Events that this walk has passed, emitted or not.
        events_emitted: Events that this walk has emitted.
        total_events: What the API counts (``meta.total``).
    """

    cursor: str | None = None
    cursor_expires_at: datetime | None = None
    walk: Span | None = None
    unsorted_newest: datetime | None = None
    loaded: tuple[Span, ...] = field(default=())
    complete_to: datetime | None = None
    events_seen: int = 0
    events_emitted: int = 0
    total_events: int | None = None

    def to_state(self) -> dict[str, Any]:
        """Return the bookmark as JSON, every key present.

        A walk whose order cannot be trusted has a ``newest`` and no ``oldest``.
        """
        walk: dict[str, str | None] | None = None
        if self.walk:
            walk = {**self.walk.to_state()}
        elif self.unsorted_newest:
            walk = {"newest": format_timestamp(self.unsorted_newest), "oldest": None}
        return {
            "version": VERSION,
            "cursor": self.cursor,
            "cursor_expires_at": _format(self.cursor_expires_at),
            "walk": walk,
            "loaded": [span.to_state() for span in self.loaded],
            "complete_to": _format(self.complete_to),
            "events_seen": self.events_seen,
            "events_emitted": self.events_emitted,
            "total_events": self.total_events,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Bookmark:
        """Read a bookmark from JSON; an empty one is a fresh start.

        Raises:
            BookmarkError: It cannot be understood.
        """
        if state.get("version") is None:
            return cls()
        if state["version"] != VERSION:
            msg = (
                f"The state is of version {state['version']}, this tap knows version "
                f"{VERSION}. Use the tap that wrote it, or start with --full-refresh."
            )
            raise BookmarkError(msg)
        try:
            walk, cursor, total = (state.get(k) for k in ("walk", "cursor", "total_events"))
            if not isinstance(cursor, (str, type(None))):
                msg = "the cursor is not a string"
                raise TypeError(msg)  # noqa: TRY301 - told like all the others
            unsorted = walk["newest"] if walk and walk["oldest"] is None else None
            return cls(
                cursor=cursor or None,
                cursor_expires_at=_parse(state.get("cursor_expires_at")),
                walk=Span.from_state(walk) if walk and walk["oldest"] is not None else None,
                unsorted_newest=_parse(unsorted),
                loaded=tuple(Span.from_state(span) for span in state.get("loaded") or ()),
                complete_to=_parse(state.get("complete_to")),
                events_seen=int(state.get("events_seen") or 0),
                events_emitted=int(state.get("events_emitted") or 0),
                total_events=None if total is None else int(total),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BookmarkError(DAMAGED) from error

    def cut_off(self, lookback: timedelta) -> Bookmark:
        """Close an unfinished walk: what it emitted becomes a span of ``loaded``.

        A span is swallowed by the walk that has passed it, late arrivals included. One
        that the walk has only touched keeps its newest end, and the walk's span ends
        there, so that the zone in which late events may sit is read again. Of a walk whose
        order cannot be trusted nothing is kept.

        Args:
            lookback: See :meth:`Span.covers`.
        """
        loaded = list(self.loaded)
        if self.walk is not None:
            newest, oldest = self.walk.newest, self.walk.oldest
            rest: list[Span] = []
            for span in loaded:
                if oldest > span.newest:
                    rest.append(span)
                elif oldest + ORDER_SLACK <= span.newest - max(lookback, ORDER_SLACK):
                    oldest = min(oldest, span.oldest)
                else:
                    oldest = span.newest
                    rest.append(span)
            loaded = [Span(newest, oldest), *rest] if newest > oldest else rest
        return replace(self._without_walk(), loaded=tuple(loaded))

    def finished(self) -> Bookmark:
        """Close a walk that has reached its end.

        One that went to the very end has loaded all, whether sorted or not.
        """
        newest = self.walk.newest if self.walk else self.unsorted_newest or self.complete_to
        if newest is not None and self.complete_to is not None:
            newest = max(newest, self.complete_to)
        return replace(self._without_walk(), loaded=(), complete_to=newest)

    def _without_walk(self) -> Bookmark:
        return replace(self, cursor=None, cursor_expires_at=None, walk=None, unsorted_newest=None)


def _format(moment: datetime | None) -> str | None:
    return None if moment is None else format_timestamp(moment)


def _parse(text: str | None) -> datetime | None:
    return None if text is None else parse_timestamp(text)
