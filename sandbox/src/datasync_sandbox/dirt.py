"""The tools with which a clean event is spoilt; `datasync_sandbox.dirty` uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

Maker = Callable[[dict[str, Any], int], Any]
"""From the API's event and its milliseconds to JSON text or a value to dump."""

Change = Callable[[dict[str, Any], int], dict[str, Any]]
"""From the same to the columns that differ from the clean event."""

REPLACEMENT = "\ufffd"
"""What stands for a character that PostgreSQL cannot hold."""

SHIFT = timezone(timedelta(hours=2))
"""An offset that is not zero."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_COLUMNS = ("id", "session_id", "user_id", "type", "name", "properties", "timestamp", "session")


@dataclass(frozen=True)
class Dirt:
    """One event that does not fit.

    Attributes:
        kind: A name from `KINDS`.
        raw: The event's JSON text.
        fits: Whether the event is right after all, only spelt in another way;
            ``None`` when one may see it either way.
        changes: Columns that differ from the clean event, by column name.
        loose: Columns for which more than one value is right.
    """

    kind: str
    raw: str
    fits: bool | None = False
    changes: dict[str, Any] = field(default_factory=dict)
    loose: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DirtKind:
    """How to make one kind of dirt.

    Attributes:
        help: One line for people.
        make: Makes the event.
        changes: Names what a table should hold instead.
        fits: See `Dirt`.
        loose: See `Dirt`.
    """

    help: str
    make: Maker
    changes: Change = lambda _event, _millis: {}
    fits: bool | None = False
    loose: tuple[str, ...] = ()


class RawJson(str):
    """JSON text that is to be sent as it is."""

    __slots__ = ()


def column(name: str) -> str:
    """Name the column of a field."""
    return {"sessionId": "session_id", "userId": "user_id"}.get(name, name)


def without(name: str) -> Maker:
    """Leave a field out."""
    return lambda event, _millis: {key: value for key, value in event.items() if key != name}


def only(text: str) -> Maker:
    """Send something else in the event's place."""
    return lambda _event, _millis: RawJson(text)


def changed(name: str, value: Any) -> Maker:
    """Give a field another value."""
    return lambda event, _millis: {**event, name: value}


def null(name: str) -> Change:
    """Expect NULL in the column of a field."""
    return lambda _event, _millis: {column(name): None}


def nothing(_event: dict[str, Any], _millis: int) -> dict[str, Any]:
    """No column is known: the event has no id and reaches the dead letters alone."""
    return dict.fromkeys(_COLUMNS)


def stamped(write: Callable[[int], Any]) -> Maker:
    """Write the timestamp in another way."""
    return lambda event, millis: {**event, "timestamp": write(millis)}


def written(millis: int, form: str = "%Y-%m-%dT%H:%M:%S", zone: timezone = timezone.utc) -> str:
    """Write an instant in whole seconds."""
    return (_EPOCH + timedelta(milliseconds=millis)).astimezone(zone).strftime(form)


def fraction(millis: int) -> str:
    """Write the milliseconds behind the point."""
    return f".{millis % 1000:03}"


def whole_seconds(_event: dict[str, Any], millis: int) -> dict[str, Any]:
    """Expect the timestamp without its milliseconds, which the spelling loses."""
    return {"timestamp": _EPOCH + timedelta(seconds=millis // 1000)}


def with_number(name: str, text: str) -> Maker:
    """Put a number into the event that Python would not write itself."""

    def make(event: dict[str, Any], _millis: int) -> RawJson:
        dumped = json.dumps({**event, name: "\0number"}, separators=(",", ":"))
        return RawJson(dumped.replace('"\\u0000number"', text))

    return make
