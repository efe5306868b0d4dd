"""Malformed events: one table of each way in which an event was seen, or expected, to be wrong.

Each kind comes with what a table should hold for it: a field that cannot be typed is NULL, a
timestamp in any notation is the UTC instant that it names, characters that PostgreSQL cannot
hold are replaced. Where more than one value is right, the column is named as ambiguous.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from datasync_sandbox.data.timestamps import from_millis

if TYPE_CHECKING:
    from collections.abc import Callable

REPLACEMENT = "\ufffd"
"""Replaces a character that PostgreSQL cannot hold."""

_COLUMNS = ("id", "session_id", "user_id", "type", "name", "properties", "timestamp", "session")
_COLUMN_OF = {"sessionId": "session_id", "userId": "user_id"}
_OFFSET = timezone(timedelta(hours=2))

_Event = dict[str, Any]


@dataclass(frozen=True)
class MalformedEvent:
    """What is sent in the place of an event.

    Attributes:
        kind: A name from `MALFORMED_KINDS`.
        raw_event: JSON text.
        valid: Whether the event is right, only written in another way; ``None`` where both
            views can be defended.
        expected: Columns that differ from those of the valid event.
        ambiguous: Columns for which more than one value is right.
    """

    kind: str
    raw_event: str
    valid: bool | None
    expected: dict[str, Any]
    ambiguous: frozenset[str]


@dataclass(frozen=True)
class MalformedKind:
    """How to make one kind of malformed event.

    Attributes:
        help: One line for the user.
        make: From the event and its timestamp in milliseconds to what is sent: a value that is
            written as JSON, or JSON text as `_RawJson`.
        expected: See `MalformedEvent`; or a function of the event and its milliseconds.
        valid: See `MalformedEvent`.
        ambiguous: See `MalformedEvent`.
    """

    help: str
    make: Callable[[_Event, int], Any]
    expected: dict[str, Any] | Callable[[_Event, int], dict[str, Any]] = field(default_factory=dict)
    valid: bool | None = False
    ambiguous: tuple[str, ...] = ()


class _RawJson(str):
    """JSON text that is sent as it is."""

    __slots__ = ()


def corrupt(kind: str, event: _Event, millis: int) -> MalformedEvent:
    """Return the malformed form of an event.

    Args:
        kind: A name from `MALFORMED_KINDS`.
        event: The event as the API shows it.
        millis: Its timestamp, in milliseconds since 1970.
    """
    recipe = MALFORMED_KINDS[kind]
    made = recipe.make(event, millis)
    raw_event = made if isinstance(made, _RawJson) else json.dumps(made, separators=(",", ":"))
    expected = recipe.expected(event, millis) if callable(recipe.expected) else recipe.expected
    return MalformedEvent(kind, str(raw_event), recipe.valid, expected, frozenset(recipe.ambiguous))


def _field(name: str, value: Any) -> Callable[[_Event, int], Any]:
    """Give a field another value; a function is called with the milliseconds."""
    return lambda event, millis: {**event, name: value(millis) if callable(value) else value}


def _without(name: str) -> Callable[[_Event, int], Any]:
    return lambda event, _: {key: value for key, value in event.items() if key != name}


def _instead(text: str) -> Callable[[_Event, int], Any]:
    """Send other JSON in the event's place."""
    return lambda _event, _millis: _RawJson(text)


def _literal(name: str, literal: str) -> Callable[[_Event, int], Any]:
    """Give a field a JSON literal that Python would not write itself."""

    def make(event: _Event, _millis: int) -> _RawJson:
        dumped = json.dumps({**event, name: "\0literal"}, separators=(",", ":"))
        return _RawJson(dumped.replace('"\\u0000literal"', literal))

    return make


def _null(name: str) -> dict[str, Any]:
    return {_COLUMN_OF.get(name, name): None}


_NO_ROW: dict[str, Any] = dict.fromkeys(_COLUMNS)
"""Expected of an event without an id, which reaches rejected_events alone."""


def _missing_and_wrong_fields() -> dict[str, MalformedKind]:
    kinds = {}
    value: Any
    for name in ("sessionId", "userId", "type", "name", "properties", "timestamp", "session"):
        kinds[f"missing-{name}"] = MalformedKind(f"no field {name}", _without(name), _null(name))
        kinds[f"null-{name}"] = MalformedKind(f"{name} is null", _field(name, None), _null(name))
    for name, value in (
        ("sessionId", 7),
        ("userId", {"id": "u"}),
        ("type", True),
        ("name", ["a", "b"]),
        ("properties", "page=/home"),
        ("properties", [1, 2]),
        ("session", "s"),
        ("session", 3.5),
    ):
        is_object = name in {"properties", "session"}
        suffix = f"-{type(value).__name__}" if is_object else ""
        kinds[f"wrong-{name}{suffix}"] = MalformedKind(
            f"{name} is {json.dumps(value)}",
            _field(name, value),
            _null(name),
            ambiguous=(_COLUMN_OF.get(name, name),),
        )
    kinds["missing-id"] = MalformedKind("no field id", _without("id"), _NO_ROW)
    for suffix, value in (("null", None), ("empty", ""), ("object", {"uuid": "x"})):
        kinds[f"id-{suffix}"] = MalformedKind(
            f"id is {json.dumps(value)}", _field("id", value), _NO_ROW
        )
    for suffix, text in (
        ("null", "null"),
        ("number", "17"),
        ("text", '"event"'),
        ("list", "[]"),
        ("object", "{}"),
    ):
        kinds[f"event-{suffix}"] = MalformedKind(
            f"the event itself is {text}", _instead(text), _NO_ROW
        )
    return kinds


def _characters() -> dict[str, MalformedKind]:
    """NULs and lone surrogates, which PostgreSQL cannot hold, at any depth."""
    kinds = {}
    for name, bad in (("nul", "\0"), ("surrogate", "\ud83d")):
        for suffix, place, column, document in (
            ("name", "name", "name", "a{}b"),
            ("deep", "far down in properties", "properties", '{"a":[{"b":{"c":["x{}y",1]}}]}'),
            ("key", "a key of properties", "properties", '{"page":"/home","k{}":1}'),
        ):
            sent, held = (document.replace("{}", c) for c in (bad, REPLACEMENT))
            if column == "properties":
                sent, held = json.loads(sent, strict=False), json.loads(held)
            kinds[f"{name}-{suffix}"] = MalformedKind(
                f"a {name} in {place}", _field(column, sent), {column: held}
            )
    kinds["emoji"] = MalformedKind(
        "characters beyond the basic plane, as surrogate pairs and plain",
        lambda event, _: _RawJson(
            json.dumps({**event, "name": "event_\U0001f600"}).replace('"/home"', '"/\U0001f3e0"')
        ),
        {"name": "event_\U0001f600", "properties": {"page": "/\U0001f3e0"}},
        valid=True,
    )
    return kinds


def _time(millis: int, form: str, zone: timezone = timezone.utc) -> str:
    """Write a timestamp; ``{}`` in the form becomes the milliseconds."""
    text = from_millis(millis).astimezone(zone).strftime(form)
    return text.replace("{}", f".{millis % 1000:03}")


def _whole_seconds(_event: _Event, millis: int) -> dict[str, datetime]:
    return {"timestamp": from_millis(millis // 1000 * 1000)}


_ISO = "%Y-%m-%dT%H:%M:%S"


def _timestamps() -> dict[str, MalformedKind]:
    """Each notation that was reported, and what is no timestamp at all."""
    notations: dict[str, tuple[str, Callable[[int], Any]]] = {
        "micros": ("Unix microseconds", lambda ms: ms * 1000),
        "text-millis": ("Unix milliseconds as text", str),
        "text-decimal": (
            "Unix seconds with decimals as text",
            lambda ms: f"{ms // 1000}.{ms % 1000:03}",
        ),
        "decimal": ("Unix seconds with decimals", lambda ms: ms / 1000),
        "space": ("a space instead of T", lambda ms: _time(ms, "%Y-%m-%d %H:%M:%S{}Z")),
        "no-zone": ("no zone, which is UTC", lambda ms: _time(ms, _ISO + "{}")),
        "offset": ("an offset", lambda ms: _time(ms, _ISO + "{}+02:00", _OFFSET)),
        "offset-short": (
            "an offset without colon",
            lambda ms: _time(ms, _ISO + "{}+0200", _OFFSET),
        ),
        "six-digits": ("microseconds in the fraction", lambda ms: _time(ms, _ISO + "{}000Z")),
    }
    seconds: dict[str, tuple[str, Callable[[int], Any]]] = {
        "seconds": ("Unix seconds", lambda ms: ms // 1000),
        "text-seconds": ("Unix seconds as text", lambda ms: str(ms // 1000)),
        "no-fraction": ("ISO 8601 in whole seconds", lambda ms: _time(ms, _ISO + "Z")),
    }
    # Cleaned or NULL: both are right.
    unclear: dict[str, tuple[str, Callable[[int], Any]]] = {
        "zero-width": (
            "zero-width characters in it",
            lambda ms: _time(ms, f"\u200b{_ISO}\u200d{{}}Z\ufeff"),
        ),
        "control": (
            "control characters in it",
            lambda ms: "\u0007" + _time(ms, _ISO) + "\0" + f".{ms % 1000:03}Z\r\n",
        ),
    }
    kinds = {}
    for name, (text, write) in notations.items():
        kinds[name] = MalformedKind(text, _field("timestamp", write), valid=True)
    for name, (text, write) in seconds.items():
        kinds[name] = MalformedKind(text, _field("timestamp", write), _whole_seconds, valid=True)
    for name, (text, write) in unclear.items():
        kinds[name] = MalformedKind(
            text, _field("timestamp", write), valid=None, ambiguous=("timestamp",)
        )
    for name, value in (
        ("word", "yesterday"),
        ("empty", ""),
        ("february-30", "2026-02-30T00:00:00.000Z"),
        ("object", {"seconds": 1}),
        ("bool", True),
    ):
        kinds[name] = MalformedKind(
            json.dumps(value), _field("timestamp", value), _null("timestamp")
        )
    for name, literal in (
        ("huge", "1e308"),
        ("overflow", "1e400"),
        ("far", "9" * 30),
        ("minus", "-1e18"),
    ):
        kinds[name] = MalformedKind(literal, _literal("timestamp", literal), _null("timestamp"))
    return {
        f"time-{name}": MalformedKind(
            f"timestamp: {kind.help}", kind.make, kind.expected, kind.valid, kind.ambiguous
        )
        for name, kind in kinds.items()
    }


def _nested(levels: int) -> Any:
    document: Any = {"page": "/home"}
    for _ in range(levels):
        document = {"in": document}
    return document


def _with_os(event: _Event, _millis: int) -> dict[str, Any]:
    return {"session": {**event["session"], "os": {"name": "x"}}}


_OTHERS = {
    "unknown-field": MalformedKind("an unknown field", _field("schemaVersion", 2), valid=True),
    "unknown-deep": MalformedKind(
        "an unknown key in session, which the column keeps",
        lambda event, millis: {**event, **_with_os(event, millis)},
        _with_os,
        valid=True,
    ),
    "number-overflow": MalformedKind(
        "a number in properties that no float holds",
        _literal("properties", '{"n":1e400}'),
        valid=None,
        ambiguous=("properties",),
    ),
    "number-long": MalformedKind(
        "an integer of 100 digits in properties",
        _field("properties", {"n": 10**99 + 7}),
        {"properties": {"n": 10**99 + 7}},
        valid=None,
        ambiguous=("properties",),
    ),
    "long-name": MalformedKind(
        "a name of 20,000 characters",
        _field("name", "n" * 20_000),
        {"name": "n" * 20_000},
        valid=True,
    ),
    "deep": MalformedKind(
        "properties 60 levels deep",
        _field("properties", _nested(60)),
        {"properties": _nested(60)},
        valid=True,
    ),
    "empty-properties": MalformedKind(
        "properties is {}", _field("properties", {}), {"properties": {}}, valid=True
    ),
}

MALFORMED_KINDS: dict[str, MalformedKind] = {
    **_missing_and_wrong_fields(),
    **_characters(),
    **_timestamps(),
    **_OTHERS,
}
"""Every kind of malformed event, by name."""
