"""Parses one event: from the API's JSON to the columns of the stream ``events``.

A valid event is decoded in one step, and its objects are passed through as the text that was
received. An invalid one is parsed field by field: what cannot be typed becomes null with an
error, and an event without a usable id has only errors.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from tap_datasync.lenient_json import (
    MAX_DIGITS,
    NOT_JSON_NUMBER,
    UNREADABLE,
    JSONTextError,
    has_suspicious_escape,
    load,
    sanitize,
    sanitize_text,
    split_object,
)
from tap_datasync.timestamps import (
    format_timestamp,
    from_milliseconds,
    parse_timestamp,
    strip_invisible,
    to_utc,
)

MAX_OBJECT_BYTES = 2**20
"""Longest ``properties`` or ``session``, and longest text of a rejected event. Meltano fails
permanently at a line of 5 MiB (half its ``elt.buffer_size``)."""

MAX_TEXT_CHARACTERS = 2**16
"""Longest text in a column."""

MAX_ID_CHARACTERS = 500
"""Longest id: an index of PostgreSQL takes no more than 2704 bytes."""

_MILLISECONDS = range(10**11, 10**14)


class EventRecord(msgspec.Struct, gc=False):
    """One record of the stream ``events``; the two objects are JSON text."""

    id: str
    session_id: str | None
    user_id: str | None
    type: str | None
    name: str | None
    properties: msgspec.Raw | None
    timestamp: datetime | None
    session: msgspec.Raw | None


class ParsedEvent(msgspec.Struct, gc=False):
    """What one event was parsed to.

    Attributes:
        record: The record; ``None`` without an id.
        event_id: The id, if there is one.
        errors: What is invalid or missing; empty for a valid event.
        unknown_fields: Names of undocumented fields.
        invalid: Whether an error is more than a missing, null or repaired field, or there
            is no id.
        text: The event's JSON text; empty for a valid event.
        identity: What tells an event from others, whatever the spelling of its timestamp,
            which depends on its position on the page. Empty for a valid event.
    """

    record: EventRecord | None
    event_id: str | None
    errors: list[str]
    unknown_fields: list[str]
    invalid: bool = False
    text: str = ""
    identity: str = ""


class Event(msgspec.Struct, rename="camel", gc=False):
    """An event with all documented fields, and perhaps others."""

    id: str
    session_id: str
    user_id: str
    type: str
    name: str
    properties: msgspec.Raw
    timestamp: int | datetime
    session: msgspec.Raw


class DocumentedEvent(Event, forbid_unknown_fields=True):
    """An event with exactly the documented fields."""


DOCUMENTED_FIELDS = frozenset(f.encode_name for f in msgspec.structs.fields(Event))


def _check_number(text: str) -> None:
    """Refuse a number that a database would refuse, together with its whole page."""
    try:
        in_range = abs(Decimal(text).adjusted()) <= MAX_DIGITS and len(text) <= MAX_DIGITS
    except ArithmeticError:
        in_range = False
    if not in_range:
        message = "number out of range"
        raise ValueError(message)


_EVENT = msgspec.json.Decoder(DocumentedEvent)
_OBJECT = msgspec.json.Decoder(dict[str, object], float_hook=_check_number)
_ENCODE = msgspec.json.Encoder(decimal_format="number").encode


def to_record(event: Event) -> EventRecord:
    """Convert a documented event to a record.

    Raises:
        ValueError: A value is out of bounds; see :func:`parse_event`.
    """
    timestamp = event.timestamp
    if isinstance(timestamp, datetime):
        timestamp = to_utc(timestamp)
    elif timestamp in _MILLISECONDS:
        timestamp = from_milliseconds(timestamp)
    else:
        timestamp = parse_timestamp(timestamp)
    characters = len(event.session_id) + len(event.user_id) + len(event.type) + len(event.name)
    if (
        not 0 < len(event.id) <= MAX_ID_CHARACTERS
        or characters > MAX_TEXT_CHARACTERS
        or len(event.properties) + len(event.session) > MAX_OBJECT_BYTES
    ):
        message = "out of bounds"
        raise ValueError(message)
    # Decoding refuses what is not an object, and numbers that no database can store.
    _OBJECT.decode(event.properties)
    _OBJECT.decode(event.session)
    return EventRecord(
        event.id,
        event.session_id,
        event.user_id,
        event.type,
        event.name,
        event.properties,
        timestamp,
        event.session,
    )


def parse_event(text: str) -> ParsedEvent:
    """Parse one event, valid or not.

    Args:
        text: The event's JSON text; may have what JSON forbids, such as ``NaN``.

    Returns:
        The record and the errors.
    """
    is_one_line = "\n" not in text and "\r" not in text
    if is_one_line and not has_suspicious_escape(text.encode("utf-8", "replace")):
        try:
            record = to_record(_EVENT.decode(text))
        except (ValueError, msgspec.DecodeError, RecursionError):
            pass  # Parsed field by field below.
        else:
            return ParsedEvent(record, record.id, [], [])
    try:
        fields = _Fields(split_object(text))
    except JSONTextError:
        errors = ["the event is not a JSON object"]
        return ParsedEvent(None, None, errors, [], invalid=True, text=text, identity=text)
    event_id, timestamp = fields.identifier(), fields.timestamp()
    columns = (
        fields.text("sessionId"),
        fields.text("userId"),
        fields.text("type"),
        fields.text("name"),
        fields.json_object("properties"),
        timestamp,
        fields.json_object("session"),
    )
    return ParsedEvent(
        record=None if event_id is None else EventRecord(event_id, *columns),
        event_id=event_id,
        errors=fields.errors,
        unknown_fields=sorted(fields.texts.keys() - DOCUMENTED_FIELDS),
        invalid=event_id is None or len(fields.errors) > fields.minor,
        text=text,
        identity=_identity(fields.texts, timestamp),
    )


def _identity(texts: dict[str, str], timestamp: datetime | None) -> str:
    if timestamp is not None:
        texts = {**texts, "timestamp": format_timestamp(timestamp)}
    return "\n".join(f"{name}: {text}" for name, text in sorted(texts.items()))


class _Fields:
    """The fields of an event that is not valid as a whole; collects errors."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        self.errors: list[str] = []
        # Errors of fields that are missing, or of values that are repaired without loss.
        self.minor = 0

    def _value(self, name: str) -> object:
        """Return a field's value; ``None``, with an error, where it has none."""
        text = self.texts.get(name)
        if text is None or text == "null":
            self.errors.append(f"{name}: " + ("missing" if text is None else "null"))
            self.minor += 1
            return None
        value = load(text)
        if isinstance(value, float):
            self.errors.append(f"{name}: {value} is {NOT_JSON_NUMBER}")
            return None
        return value

    def text(self, name: str) -> str | None:
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.errors.append(f"{name}: not a string")
        elif len(value) > MAX_TEXT_CHARACTERS:
            self.errors.append(f"{name}: longer than {MAX_TEXT_CHARACTERS} characters")
        else:
            return sanitize_text(value, name, self.errors)
        return None

    def identifier(self) -> str | None:
        value = self._value("id")
        if value is None:
            return None
        if isinstance(value, Decimal) and _is_whole(value):
            self.errors.append("id: a number, kept as text")
            return str(value)
        if not isinstance(value, str):
            self.errors.append("id: not a string")
        elif not value:
            self.errors.append("id: empty")
        elif len(value) > MAX_ID_CHARACTERS:
            self.errors.append(f"id: longer than {MAX_ID_CHARACTERS} characters")
        else:
            return sanitize_text(value, "id", self.errors)
        return None

    def timestamp(self) -> datetime | None:
        value = self._value("timestamp")
        if value is None:
            return None
        if isinstance(value, Decimal):
            value = int(value) if _is_whole(value) else float(value)
        try:
            timestamp = parse_timestamp(value)
        except ValueError as error:
            self.errors.append(f"timestamp: {error}")
            return None
        if isinstance(value, str) and strip_invisible(value) != value.strip():
            self.errors.append("timestamp: invisible characters removed")
            self.minor += 1
        return timestamp

    def json_object(self, name: str) -> msgspec.Raw | None:
        value = self._value(name)
        if value is None:
            return None
        text = self.texts[name]
        if len(text.encode("utf-8", "replace")) > MAX_OBJECT_BYTES:
            self.errors.append(f"{name}: longer than {MAX_OBJECT_BYTES} bytes")
        elif value is UNREADABLE and text.startswith("{"):
            self.errors.append(f"{name}: cannot be read")
        elif not isinstance(value, dict):
            self.errors.append(f"{name}: not an object")
        else:
            before = len(self.errors)
            clean = sanitize(value, name, self.errors)
            if len(self.errors) == before and _is_one_line_of_json(text):
                return msgspec.Raw(text)
            return msgspec.Raw(_ENCODE(clean))
        return None


def _is_whole(value: Decimal) -> bool:
    return value.as_tuple().exponent == 0 and len(value.as_tuple().digits) < MAX_ID_CHARACTERS


def _is_one_line_of_json(text: str) -> bool:
    if "\n" in text or "\r" in text:
        return False
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True
