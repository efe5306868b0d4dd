"""Events as a table should hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasync_sandbox.blocks import Block, event_fields
from datasync_sandbox.stamps import instant, iso, millis_of

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True)
class ExpectedRow:
    """One event as a table should hold it.

    Attributes:
        id: Primary key; ``None`` when the event has none and belongs to the dead letters alone.
        session_id: UUID of the session.
        user_id: UUID of the user.
        type: Type of the event.
        name: Name of the event.
        properties: JSON object.
        timestamp: Aware, UTC, whole milliseconds.
        session: JSON object.
        malformed: Kind of malformed event, or ``None`` for a clean event.
        valid: Whether nothing about the event needs a dead letter; ``None`` when one may see it
            either way.
        ambiguous: Columns for which another value is right too.
        raw_event: JSON text of a dirty event, ``None`` for a clean one (its text depends on its place).
    """

    id: str | None
    session_id: str | None
    user_id: str | None
    type: str | None
    name: str | None
    properties: dict[str, Any] | None
    timestamp: datetime | None
    session: dict[str, Any] | None
    malformed: str | None = None
    valid: bool | None = True
    ambiguous: frozenset[str] = frozenset()
    raw_event: str | None = None


def row_of(block: Block, index: int) -> ExpectedRow:
    """Turn an event into the row that it should become."""
    fields = event_fields(block, index)
    columns: dict[str, Any] = {
        "id": fields["id"],
        "session_id": fields["sessionId"],
        "user_id": fields["userId"],
        "type": fields["type"],
        "name": fields["name"],
        "properties": fields["properties"],
        "timestamp": instant(block.shown[index]),
        "session": fields["session"],
    }
    dirt = block.odd.get(index)
    if dirt is None:
        return ExpectedRow(**columns)
    columns.update(dirt.changes)
    return ExpectedRow(
        **columns, malformed=dirt.kind, valid=dirt.fits, ambiguous=dirt.loose, raw_event=dirt.raw
    )


def row_fields(row: ExpectedRow) -> dict[str, Any]:
    """Return a row's columns as JSON values, the timestamp as ``2026-01-27T19:20:12.369Z``."""
    stamp = row.timestamp
    return {
        "id": row.id,
        "session_id": row.session_id,
        "user_id": row.user_id,
        "type": row.type,
        "name": row.name,
        "properties": row.properties,
        "timestamp": stamp and iso(millis_of(stamp)),
        "session": row.session,
    }
