"""Events that do not fit: each way in which an event was seen, or feared, to be wrong.

Every kind comes with what is right to make of it by the contract: a field that cannot
be typed is NULL, a timestamp in any spelling is the UTC instant it names, characters
that PostgreSQL cannot hold are replaced. Where more than one reading is right, the
field is named in ``loose`` and a test should leave it alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from datasync_sandbox.dirt import (
    REPLACEMENT,
    SHIFT,
    Dirt,
    DirtKind,
    RawJson,
    changed,
    column,
    fraction,
    nothing,
    null,
    only,
    stamped,
    whole_seconds,
    with_number,
    without,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: dict[str, DirtKind] = {}
"""Every kind of dirt, by name."""


def soil(kind: str, event: dict[str, Any], millis: int) -> Dirt:
    """Make a clean event dirty.

    Args:
        kind: A name from `KINDS`.
        event: The event as the API shows it.
        millis: Its instant, in milliseconds since 1970.

    Returns:
        The dirty event.
    """
    how = KINDS[kind]
    made = how.make(event, millis)
    raw = made if isinstance(made, RawJson) else json.dumps(made, separators=(",", ":"))
    return Dirt(kind, str(raw), how.fits, how.changes(event, millis), frozenset(how.loose))


def _kinds() -> None:
    """Fill `KINDS`."""
    name: str
    value: Any
    for name in ("sessionId", "userId", "type", "name", "properties", "timestamp", "session"):
        KINDS[f"missing-{name}"] = DirtKind(f"no field {name}", without(name), null(name))
        KINDS[f"null-{name}"] = DirtKind(f"{name} is null", changed(name, None), null(name))
    for name, value in (
        ("sessionId", 7),
        ("userId", {"id": "u"}),
        ("type", True),
        ("name", ["a", "b"]),
    ):
        KINDS[f"wrong-{name}"] = DirtKind(
            f"{name} is {json.dumps(value)}",
            changed(name, value),
            null(name),
            loose=(column(name),),
        )
    for name, value in (
        ("properties", "page=/home"),
        ("properties", [1, 2]),
        ("session", "s"),
        ("session", 3.5),
    ):
        suffix = type(value).__name__
        KINDS[f"wrong-{name}-{suffix}"] = DirtKind(
            f"{name} is a JSON {suffix}", changed(name, value), null(name), loose=(name,)
        )
    for name, raw in (
        ("null", "null"),
        ("number", "17"),
        ("text", '"event"'),
        ("list", "[]"),
        ("object", "{}"),
    ):
        KINDS[f"event-{name}"] = DirtKind(f"the event itself is {raw}", only(raw), nothing)
    KINDS["missing-id"] = DirtKind("no field id", without("id"), nothing)
    for name, value in (("null", None), ("empty", ""), ("object", {"uuid": "x"})):
        KINDS[f"id-{name}"] = DirtKind(f"id is {json.dumps(value)}", changed("id", value), nothing)
    _character_kinds()
    _timestamp_kinds()
    _other_kinds()


def _character_kinds() -> None:
    """NULs and lone surrogates, which PostgreSQL cannot hold, at any depth."""
    for name, bad in (("nul", "\0"), ("surrogate", "\ud83d")):
        KINDS[f"{name}-name"] = DirtKind(
            f"a {name} in name",
            changed("name", f"a{bad}b"),
            lambda _e, _m: {"name": f"a{REPLACEMENT}b"},
        )
        KINDS[f"{name}-deep"] = DirtKind(
            f"a {name} far down in properties",
            changed("properties", {"a": [{"b": {"c": [f"x{bad}y", 1]}}]}),
            lambda _e, _m: {"properties": {"a": [{"b": {"c": [f"x{REPLACEMENT}y", 1]}}]}},
        )
        KINDS[f"{name}-key"] = DirtKind(
            f"a {name} in a key of properties",
            changed("properties", {"page": "/home", f"k{bad}": 1}),
            lambda _e, _m: {"properties": {"page": "/home", f"k{REPLACEMENT}": 1}},
        )
    KINDS["emoji"] = DirtKind(
        "characters beyond the basic plane, as surrogate pairs and plain",
        lambda event, _m: RawJson(
            json.dumps({**event, "name": "event_\U0001f600"}).replace('"/home"', '"/\U0001f3e0"')
        ),
        lambda _e, _m: {"name": "event_\U0001f600", "properties": {"page": "/\U0001f3e0"}},
        fits=True,
    )


def _timestamp_kinds() -> None:
    """Each spelling that was reported, and what is no timestamp at all."""
    spellings: dict[str, tuple[str, Callable[[int], Any]]] = {
        "micros": ("Unix microseconds", lambda ms: ms * 1000),
        "text-millis": ("Unix milliseconds as text", str),
        "text-decimal": (
            "Unix seconds with decimals as text",
            lambda ms: f"{ms // 1000}{fraction(ms)}",
        ),
        "decimal": ("Unix seconds with decimals", lambda ms: ms / 1000),
        "space": (
            "a space instead of T",
            lambda ms: written(ms, "%Y-%m-%d %H:%M:%S") + fraction(ms) + "Z",
        ),
        "no-zone": ("no zone, which is UTC", lambda ms: written(ms) + fraction(ms)),
        "offset": ("an offset", lambda ms: written(ms, zone=SHIFT) + fraction(ms) + "+02:00"),
        "offset-short": (
            "an offset without colon",
            lambda ms: written(ms, zone=SHIFT) + fraction(ms) + "+0200",
        ),
        "six-digits": (
            "microseconds in the fraction",
            lambda ms: written(ms) + fraction(ms) + "000Z",
        ),
    }
    for name, (text, write) in spellings.items():
        KINDS[f"time-{name}"] = DirtKind(f"timestamp: {text}", stamped(write), fits=True)
    for name, front, inside, back in (
        ("zero-width", "\u200b", "\u200d", "\ufeff"),
        ("control", "\u0007", "\0", "\r\n"),
    ):
        # Cleaned or NULL: both are right, as long as nothing else is made of it.
        KINDS[f"time-{name}"] = DirtKind(
            f"timestamp: {name} characters in it",
            stamped(_around(front, inside, back)),
            fits=None,
            loose=("timestamp",),
        )
    KINDS["time-seconds"] = DirtKind(
        "timestamp: Unix seconds", stamped(lambda ms: ms // 1000), whole_seconds, fits=True
    )
    KINDS["time-text-seconds"] = DirtKind(
        "timestamp: Unix seconds as text",
        stamped(lambda ms: str(ms // 1000)),
        whole_seconds,
        fits=True,
    )
    KINDS["time-no-fraction"] = DirtKind(
        "timestamp: ISO 8601 in whole seconds",
        stamped(lambda ms: written(ms) + "Z"),
        whole_seconds,
        fits=True,
    )
    for name, value in (
        ("word", "yesterday"),
        ("empty", ""),
        ("february-30", "2026-02-30T00:00:00.000Z"),
        ("object", {"seconds": 1}),
        ("bool", True),
    ):
        KINDS[f"time-{name}"] = DirtKind(
            f"timestamp is {json.dumps(value)}", changed("timestamp", value), null("timestamp")
        )
    for name, text in (
        ("huge", "1e308"),
        ("overflow", "1e400"),
        ("far", "9" * 30),
        ("minus", "-1e18"),
    ):
        KINDS[f"time-{name}"] = DirtKind(
            f"timestamp is {text}", with_number("timestamp", text), null("timestamp")
        )


def _around(front: str, inside: str, back: str) -> Callable[[int], str]:
    """Write a timestamp with other characters in three places."""
    return lambda ms: f"{front}{written(ms)}{inside}{fraction(ms)}Z{back}"


def _other_kinds() -> None:
    """Unknown fields, absurd numbers and sizes."""
    KINDS["unknown-field"] = DirtKind(
        "a field nobody knows", changed("schemaVersion", 2), fits=True
    )
    KINDS["unknown-deep"] = DirtKind(
        "an unknown key in session, which the column holds",
        lambda event, _m: {**event, "session": {**event["session"], "os": {"name": "x"}}},
        lambda event, _m: {"session": {**event["session"], "os": {"name": "x"}}},
        fits=True,
    )
    KINDS["number-overflow"] = DirtKind(
        "a number in properties that no float holds",
        with_number("properties", '{"n":1e400}'),
        fits=None,
        loose=("properties",),
    )
    KINDS["number-long"] = DirtKind(
        "an integer of 100 digits in properties",
        changed("properties", {"n": 10**99 + 7}),
        lambda _e, _m: {"properties": {"n": 10**99 + 7}},
        fits=None,
        loose=("properties",),
    )
    KINDS["long-name"] = DirtKind(
        "a name of 20,000 characters",
        changed("name", "n" * 20_000),
        lambda _e, _m: {"name": "n" * 20_000},
        fits=True,
    )
    nested: Any = {"page": "/home"}
    for _ in range(60):
        nested = {"in": nested}
    KINDS["deep"] = DirtKind(
        "properties 60 levels deep",
        changed("properties", nested),
        lambda _e, _m: {"properties": nested},
        fits=True,
    )
    KINDS["empty-properties"] = DirtKind(
        "properties is {}", changed("properties", {}), lambda _e, _m: {"properties": {}}, fits=True
    )


_kinds()
