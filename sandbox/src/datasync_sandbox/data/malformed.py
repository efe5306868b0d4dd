"""Malformed events: one table of each way in which an event was seen, or expected, to be wrong.

Each kind comes with what a table should hold for it: a field that cannot be typed is NULL, a
timestamp in any notation is the UTC instant that it names, characters that PostgreSQL cannot
hold are replaced. Where more than one value is right, the column is named as ambiguous.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

from datasync_sandbox.data.timestamps import from_millis

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ("id", "session_id", "user_id", "type", "name", "properties", "timestamp", "session")
"""Columns of the table, in their order."""

REPLACEMENT = "\ufffd"
"""Replaces a character that PostgreSQL cannot hold."""

_COLUMN_OF = {"sessionId": "session_id", "userId": "user_id"}
_ISO = "%Y-%m-%dT%H:%M:%S"
_OFFSET = timezone(timedelta(hours=2))


@dataclass(frozen=True)
class MalformedEvent:
    """What is sent in the place of an event.

    Attributes:
        kind: A name from `MALFORMED_KINDS`.
        raw_event: JSON text.
        expected: Columns that differ from those of the valid event.
    """

    kind: str
    raw_event: str
    expected: dict[str, Any]


@dataclass(frozen=True)
class MalformedKind:
    """How to make one kind of malformed event.

    Attributes:
        help: One line for the user.
        make: From the event and its timestamp in milliseconds to what is sent: a document, or
            the text of one.
        expected: See `MalformedEvent`; or a function of the event and its milliseconds.
        valid: Whether the event is right, only written in another way; ``None`` where both
            views can be defended.
        ambiguous: Columns for which more than one value is right.
    """

    help: str
    make: Callable[[dict[str, Any], int], Any]
    expected: Any = field(default_factory=dict)
    valid: bool | None = False
    ambiguous: tuple[str, ...] = ()


def corrupt(kind: str, event: dict[str, Any], millis: int) -> MalformedEvent:
    """Return the malformed form of an event, given as the API shows it, and its milliseconds."""
    recipe = MALFORMED_KINDS[kind]
    made = recipe.make(event, millis)
    raw_event = made if isinstance(made, str) else _dumps(made)
    expected = recipe.expected(event, millis) if callable(recipe.expected) else recipe.expected
    return MalformedEvent(kind, raw_event, expected)


def _dumps(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def _with(name: str, value: Any) -> Callable[[dict[str, Any], int], Any]:
    """Give a field another value; a function is called with the milliseconds."""
    return lambda event, millis: {**event, name: value(millis) if callable(value) else value}


def _without(name: str) -> Callable[[dict[str, Any], int], Any]:
    return lambda event, _: {key: value for key, value in event.items() if key != name}


def _with_literal(name: str, literal: str) -> Callable[[dict[str, Any], int], Any]:
    """Give a field a JSON literal that Python would not write."""
    return lambda event, _: _dumps({**event, name: "\0"}).replace('"\\u0000"', literal)


def _with_os(event: dict[str, Any], _millis: int) -> dict[str, Any]:
    return {"session": {**event["session"], "os": {"name": "x"}}}


def _time(form: str, zone: timezone = timezone.utc) -> Callable[[int], str]:
    """Write a timestamp; ``{}`` in the form becomes the milliseconds."""

    def write(millis: int) -> str:
        text = from_millis(millis).astimezone(zone).strftime(form)
        return text.replace("{}", f".{millis % 1000:03}")

    return write


def _nested(levels: int) -> Any:
    return {"in": _nested(levels - 1)} if levels else {"page": "/home"}


def _rejected(name: str, value: Any, *, ambiguous: bool = False) -> MalformedKind:
    """A field with a value that cannot be typed: NULL."""
    column = _COLUMN_OF.get(name, name)
    columns = (column,) if ambiguous else ()
    return MalformedKind(
        f"{name} is {json.dumps(value)}", _with(name, value), {column: None}, ambiguous=columns
    )


def _kept(name: str, value: Any, text: str) -> MalformedKind:
    """A field with an unusual value that the column keeps."""
    return MalformedKind(text, _with(name, value), {name: value}, valid=True)


def _written(text: str, write: Callable[[int], Any], **changes: Any) -> MalformedKind:
    """The timestamp in another notation."""
    return MalformedKind(
        f"timestamp: {text}", _with("timestamp", write), **{"valid": True, **changes}
    )


def _in_seconds(_event: dict[str, Any], millis: int) -> dict[str, Any]:
    """Return what to expect of a notation that loses the milliseconds."""
    return {"timestamp": from_millis(millis // 1000 * 1000)}


def _number(literal: str) -> MalformedKind:
    """A timestamp that is no time."""
    make = _with_literal("timestamp", literal)
    return MalformedKind(f"timestamp is {literal}", make, {"timestamp": None})


def _without_row(text: str, make: Callable[[dict[str, Any], int], Any]) -> MalformedKind:
    """An event without an id, which reaches rejected_events alone."""
    return MalformedKind(text, make, dict.fromkeys(COLUMNS))


def _constant(text: str) -> Callable[[dict[str, Any], int], Any]:
    return lambda _event, _millis: text


def _characters(name: str, bad: str) -> dict[str, MalformedKind]:
    """A character that PostgreSQL cannot hold, in a text, deep in an object, and in a key."""
    places: dict[str, tuple[str, str, Callable[[str], Any]]] = {
        "name": ("name", "name", lambda c: f"a{c}b"),
        "deep": ("properties", "far down in properties", lambda c: {"a": [{"b": [f"x{c}y", 1]}]}),
        "key": ("properties", "a key of properties", lambda c: {"page": "/home", f"k{c}": 1}),
    }
    return {
        f"{name}-{place}": MalformedKind(
            f"a {name} in {text}", _with(column, value(bad)), {column: value(REPLACEMENT)}
        )
        for place, (column, text, value) in places.items()
    }


_INSTEAD = {"null": "null", "number": "17", "text": '"event"', "list": "[]", "object": "{}"}
# Cleaned or NULL: both are right.
_UNCLEAR: Any = {"valid": None, "ambiguous": ("timestamp",)}
_FIELDS = ("sessionId", "userId", "type", "name", "properties", "timestamp", "session")

MALFORMED_KINDS: dict[str, MalformedKind] = {
    **{
        f"missing-{name}": MalformedKind(
            f"no field {name}", _without(name), {_COLUMN_OF.get(name, name): None}
        )
        for name in _FIELDS
    },
    **{f"null-{name}": _rejected(name, None) for name in _FIELDS},
    "wrong-sessionId": _rejected("sessionId", 7, ambiguous=True),
    "wrong-userId": _rejected("userId", {"id": "u"}, ambiguous=True),
    "wrong-type": _rejected("type", value=True, ambiguous=True),
    "wrong-name": _rejected("name", ["a", "b"], ambiguous=True),
    "wrong-properties-str": _rejected("properties", "page=/home", ambiguous=True),
    "wrong-properties-list": _rejected("properties", [1, 2], ambiguous=True),
    "wrong-session-str": _rejected("session", "s", ambiguous=True),
    "wrong-session-float": _rejected("session", 3.5, ambiguous=True),
    "missing-id": _without_row("no field id", _without("id")),
    "id-null": _without_row("id is null", _with("id", None)),
    "id-empty": _without_row("id is empty", _with("id", "")),
    "id-object": _without_row("id is an object", _with("id", {"uuid": "x"})),
    **{
        f"event-{name}": _without_row(f"the event itself is {text}", _constant(text))
        for name, text in _INSTEAD.items()
    },
    **_characters("nul", "\0"),
    **_characters("surrogate", "\ud83d"),
    "emoji": MalformedKind(
        "characters beyond the basic plane, as surrogate pairs and plain",
        lambda event, _: _dumps({**event, "name": "event_\U0001f600"}).replace(
            '"/home"', '"/\U0001f3e0"'
        ),
        {"name": "event_\U0001f600", "properties": {"page": "/\U0001f3e0"}},
        valid=True,
    ),
    "time-micros": _written("Unix microseconds", lambda ms: ms * 1000),
    "time-text-millis": _written("Unix milliseconds as text", str),
    "time-text-decimal": _written(
        "Unix seconds with decimals as text", lambda ms: f"{ms // 1000}.{ms % 1000:03}"
    ),
    "time-decimal": _written("Unix seconds with decimals", lambda ms: ms / 1000),
    "time-space": _written("a space instead of T", _time("%Y-%m-%d %H:%M:%S{}Z")),
    "time-no-zone": _written("no zone, which is UTC", _time(_ISO + "{}")),
    "time-offset": _written("an offset", _time(_ISO + "{}+02:00", _OFFSET)),
    "time-offset-short": _written("an offset without colon", _time(_ISO + "{}+0200", _OFFSET)),
    "time-six-digits": _written("microseconds in the fraction", _time(_ISO + "{}000Z")),
    "time-seconds": _written("Unix seconds", lambda ms: ms // 1000, expected=_in_seconds),
    "time-text-seconds": _written(
        "Unix seconds as text", lambda ms: str(ms // 1000), expected=_in_seconds
    ),
    "time-no-fraction": _written(
        "ISO 8601 in whole seconds", _time(_ISO + "Z"), expected=_in_seconds
    ),
    "time-zero-width": _written(
        "zero-width characters in it", _time(f"\u200b{_ISO}\u200d{{}}Z\ufeff"), **_UNCLEAR
    ),
    # The NUL is put in afterwards, because strftime may stop there.
    "time-control": _written(
        "control characters in it",
        lambda ms: _time(f"\u0007{_ISO}@{{}}Z\r\n")(ms).replace("@", "\0"),
        **_UNCLEAR,
    ),
    "time-word": _rejected("timestamp", "yesterday"),
    "time-empty": _rejected("timestamp", ""),
    "time-february-30": _rejected("timestamp", "2026-02-30T00:00:00.000Z"),
    "time-object": _rejected("timestamp", {"seconds": 1}),
    "time-bool": _rejected("timestamp", value=True),
    "time-huge": _number("1e308"),
    "time-overflow": _number("1e400"),
    "time-far": _number("9" * 30),
    "time-minus": _number("-1e18"),
    "unknown-field": MalformedKind("an unknown field", _with("schemaVersion", 2), valid=True),
    "unknown-deep": MalformedKind(
        "an unknown key in session, which the column keeps",
        lambda event, millis: {**event, **_with_os(event, millis)},
        _with_os,
        valid=True,
    ),
    "number-overflow": MalformedKind(
        "a number in properties that no float holds",
        _with_literal("properties", '{"n":1e400}'),
        valid=None,
        ambiguous=("properties",),
    ),
    "number-long": MalformedKind(
        "an integer of 100 digits in properties",
        _with("properties", {"n": 10**99 + 7}),
        valid=None,
        ambiguous=("properties",),
    ),
    "long-name": _kept("name", "n" * 20_000, "a name of 20,000 characters"),
    "deep": _kept("properties", _nested(60), "properties 60 levels deep"),
    "empty-properties": _kept("properties", {}, "properties is {}"),
}
"""Every kind of malformed event, by name."""
