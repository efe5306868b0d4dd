"""Parses the body of a response into a page: events as records, and rejected events.

Example of a page::

    {"data": [{"id": "...", "timestamp": 1769541612369, ...}, ...],
     "pagination": {"limit": 5000, "hasMore": true, "nextCursor": "...",
                    "cursorExpiresIn": 116},
     "meta": {"total": 3000000, "returned": 5000, "requestId": "..."}}

A page whose events are all valid is decoded in one step, and the objects of its events are
passed through as the text that was received. Any other page is parsed event by event, and
an invalid event field by field: what cannot be typed becomes null with an error, and an
event without a usable id has only errors. So one invalid event does not cost the others.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from tap_datasync.errors import InvalidBodyError
from tap_datasync.lenient_json import (
    MAX_DIGITS,
    NOT_JSON_NUMBER,
    UNREADABLE,
    JSONTextError,
    has_suspicious_escape,
    load,
    sanitize,
    sanitize_text,
    split_array,
    split_object,
)
from tap_datasync.timestamps import (
    format_timestamp,
    from_milliseconds,
    parse_timestamp,
    strip_invisible,
    to_utc,
)

if TYPE_CHECKING:
    from tap_datasync.rate_limit import RateLimitHeaders

MAX_CURSOR_CHARACTERS = 2**13
"""Longest cursor: few servers take a longer address."""

MAX_CURSOR_LIFETIME_SECONDS = 86_400

MAX_OBJECT_BYTES = 2**20
"""Longest ``properties`` or ``session``, and longest text of a rejected event. Meltano fails
permanently at a line of 5 MiB (half its ``elt.buffer_size``)."""

MAX_TEXT_CHARACTERS = 2**16
"""Longest text in a column."""

MAX_ID_CHARACTERS = 500
"""Longest id: an index of PostgreSQL takes no more than 2704 bytes."""

_MAX_LENIENT_BYTES = 16 * 2**20
_MAX_LENIENT_COMMAS = 2 * 10**6
"""Bounds of a body that is parsed event by event, which takes many times its size in memory."""

_MAX_TOTAL = 2**53
_MAX_ERRORS = 20
_MAX_ERROR_CHARACTERS = 300
_MAX_UNKNOWN_FIELDS = 20
_MAX_FIELD_CHARACTERS = 100

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


class ParsedEvent(msgspec.Struct, gc=False):
    """What one event was parsed to.

    Attributes:
        record: The record; ``None`` without an id.
        errors: What is invalid or missing; empty for a valid event.
        unknown_fields: Names of undocumented fields.
        invalid: Whether an error is more than a missing, null or repaired field, or there
            is no id.
        text: The event's JSON text; empty for a valid event.
        identity: What tells an event from others, whatever the spelling of its timestamp,
            which depends on its position on the page. Empty for a valid event.
    """

    record: EventRecord | None
    errors: list[str] = msgspec.field(default_factory=list)
    unknown_fields: frozenset[str] = frozenset()
    invalid: bool = False
    text: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event with errors, as it was received.

    Attributes:
        event_id: Its id, if it has one.
        errors: What is invalid or missing.
        raw_event: The event's JSON text.
        rejection_id: SHA-256 of the event in hex, whatever the spelling of its timestamp: an
            event that is read again at another position is rejected under the same id.
    """

    event_id: str | None
    errors: list[str]
    raw_event: str
    rejection_id: str


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """One page, and how it was fetched.

    Attributes:
        records: Events with an id, in the order of the API: newest first.
        rejections: Events with errors; those with an id are among the records too.
        returned: Events on the page.
        has_more: ``pagination.hasMore``; ``None`` where it is missing.
        next_cursor: Position of the next page; ``None`` where there is none.
        expires_in: Seconds until it expires; ``None`` where that is missing or unusable.
        total: Events in the whole feed.
        unknown_fields: Some of the events' undocumented fields.
        invalid_events: Events with an invalid field or without id; a missing field alone
            does not count.
        corrupted: Whether the body had what is neither UTF-8 nor JSON and was replaced: a
            second response may be intact.
        requested_at: When the request was sent.
        received_at: When the response was complete.
        response_bytes: Size of the body, decompressed.
        rate_limit: Rate limit headers of the response, if it has them.
    """

    records: list[EventRecord]
    rejections: list[Rejection]
    returned: int
    has_more: bool | None
    next_cursor: str | None
    expires_in: float | None
    total: int
    unknown_fields: frozenset[str]
    invalid_events: int
    corrupted: bool
    requested_at: datetime
    received_at: datetime
    response_bytes: int
    rate_limit: RateLimitHeaders | None


class _Pagination(msgspec.Struct, rename="camel"):
    has_more: bool | None = None
    next_cursor: str | None = None
    cursor_expires_in: msgspec.Raw = msgspec.Raw(b"null")


class _Meta(msgspec.Struct):
    total: int
    returned: int | None = None


_Data = TypeVar("_Data")


class _Page(msgspec.Struct, Generic[_Data]):
    data: list[_Data]
    pagination: _Pagination
    meta: _Meta


def _check_number(text: str) -> None:
    """Refuse a number that a database would refuse, together with its whole page."""
    try:
        in_range = abs(Decimal(text).adjusted()) <= MAX_DIGITS and len(text) <= MAX_DIGITS
    except ArithmeticError:
        in_range = False
    if not in_range:
        message = "number out of range"
        raise ValueError(message)


_INVALID = (ValueError, msgspec.DecodeError, RecursionError)

_DOCUMENTED_PAGE = msgspec.json.Decoder(_Page[DocumentedEvent])
_PAGE_WITH_UNKNOWN_FIELDS = msgspec.json.Decoder(_Page[Event])
_PAGE_OF_ANYTHING = msgspec.json.Decoder(_Page[msgspec.Raw])
_PAGE_OF_FIELDS = msgspec.json.Decoder(_Page[dict[str, msgspec.Raw]])
_EVENT = msgspec.json.Decoder(DocumentedEvent)
_OBJECT = msgspec.json.Decoder(dict[str, object], float_hook=_check_number)
_ENCODE = msgspec.json.Encoder(decimal_format="number").encode


def parse_page(
    body: bytes,
    *,
    requested_at: datetime,
    received_at: datetime,
    rate_limit: RateLimitHeaders | None,
) -> FetchedPage:
    """Parse the body of a response.

    Args:
        body: The body.
        requested_at: When the request was sent.
        received_at: When the response was complete.
        rate_limit: Rate limit headers of the response.

    Returns:
        The page with all its events, valid and invalid.

    Raises:
        InvalidBodyError: The body is not a page; nothing of it may be used.
    """
    text = _on_one_line(body)
    valid = None if has_suspicious_escape(text) else _parse_valid(text)
    page, events = valid or _parse_leniently(text)
    pagination, meta = page.pagination, page.meta
    if not 0 <= meta.total <= _MAX_TOTAL:
        message = "meta.total is negative or too large"
        raise InvalidBodyError(message)
    if meta.returned not in {None, len(events)}:
        message = f"the page has {len(events)} events, but meta.returned is {meta.returned}"
        raise InvalidBodyError(message)
    if len(pagination.next_cursor or "") > MAX_CURSOR_CHARACTERS:
        message = f"pagination.nextCursor is longer than {MAX_CURSOR_CHARACTERS} characters"
        raise InvalidBodyError(message)
    unknown_fields = frozenset().union(*(event.unknown_fields for event in events))
    errors = [error for event in events for error in event.errors]
    has_nan = any(error.endswith(NOT_JSON_NUMBER) for error in errors)
    return FetchedPage(
        records=[event.record for event in events if event.record is not None],
        rejections=[_reject(event) for event in events if event.errors],
        returned=len(events),
        has_more=pagination.has_more,
        next_cursor=pagination.next_cursor or None,
        expires_in=_lifetime(pagination.cursor_expires_in),
        total=meta.total,
        unknown_fields=frozenset(
            name[:_MAX_FIELD_CHARACTERS] for name in sorted(unknown_fields)[:_MAX_UNKNOWN_FIELDS]
        ),
        invalid_events=sum(event.invalid for event in events),
        corrupted=has_nan or (valid is None and not _is_utf8(text)),
        requested_at=requested_at,
        received_at=received_at,
        response_bytes=len(body),
        rate_limit=rate_limit,
    )


def _on_one_line(body: bytes) -> bytes:
    # Objects are passed through as text, and a Singer message is one line.
    if b"\n" not in body and b"\r" not in body:
        return body
    try:
        return msgspec.json.format(body, indent=-1)
    except _INVALID:
        return body


def _parse_valid(
    body: bytes,
) -> tuple[_Page[DocumentedEvent] | _Page[Event], list[ParsedEvent]] | None:
    """Parse a page on which every event is valid; return ``None`` for any other."""
    try:
        try:
            documented = _DOCUMENTED_PAGE.decode(body)
            return documented, [ParsedEvent(to_record(event)) for event in documented.data]
        except msgspec.ValidationError:
            page = _PAGE_WITH_UNKNOWN_FIELDS.decode(body)
            fields = _PAGE_OF_FIELDS.decode(body).data
            return page, [
                ParsedEvent(to_record(event), unknown_fields=frozenset(names) - DOCUMENTED_FIELDS)
                for event, names in zip(page.data, fields, strict=True)
            ]
    except _INVALID:
        return None


def _parse_leniently(body: bytes) -> tuple[_Page[msgspec.Raw], list[ParsedEvent]]:
    if len(body) > _MAX_LENIENT_BYTES or body.count(b",") > _MAX_LENIENT_COMMAS:
        message = "the response is not a page of valid events, and too large to be parsed further"
        raise InvalidBodyError(message)
    text = body.decode("utf-8", "replace")
    try:
        page = _PAGE_OF_ANYTHING.decode(text)
        texts = [bytes(event).decode() for event in page.data]
    except msgspec.ValidationError as error:
        message = f"the response is not a page of events: {error}"
        raise InvalidBodyError(message) from error
    except _INVALID as error:
        page, texts = _split_page(text, error)
    events = [parse_event(text) for text in texts]
    if not _is_utf8(body):
        for text, event in zip(texts, events, strict=True):
            if "\ufffd" in text:
                event.errors.append("invalid UTF-8 replaced")
                event.invalid, event.text, event.identity = True, text, event.identity or text
    return page, events


def _split_page(text: str, error: Exception) -> tuple[_Page[msgspec.Raw], list[str]]:
    try:
        members = split_object(text)
        pagination = split_object(members["pagination"])
        lifetime = pagination.pop("cursorExpiresIn", "null")  # May be NaN.
        fields = ",".join(f"{json.dumps(name)}:{value}" for name, value in pagination.items())
        envelope = f'{{"data":[],"pagination":{{{fields}}},"meta":{members["meta"]}}}'
        page = _PAGE_OF_ANYTHING.decode(envelope)
        page.pagination.cursor_expires_in = msgspec.Raw(lifetime)
        return page, split_array(members["data"])
    except (*_INVALID, KeyError) as second:
        message = f"the response is not a page of events: {error}"
        raise InvalidBodyError(message) from second


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lifetime(raw: msgspec.Raw) -> float | None:
    """Return a cursor's lifetime in seconds from a number or a numeric string."""
    value = load(bytes(raw).decode("utf-8", "replace"))
    try:
        seconds = float(value) if isinstance(value, (Decimal, str)) else -1.0
    except ValueError:
        return None
    return min(seconds, MAX_CURSOR_LIFETIME_SECONDS) if seconds >= 0 else None


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
        with suppress(*_INVALID):  # Then it is parsed field by field.
            return ParsedEvent(to_record(_EVENT.decode(text)))
    try:
        fields = _Fields(split_object(text))
    except JSONTextError:
        errors = ["the event is not a JSON object"]
        return ParsedEvent(None, errors, invalid=True, text=text, identity=text)
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
        errors=fields.errors,
        unknown_fields=frozenset(fields.texts) - DOCUMENTED_FIELDS,
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
        return None if value is None else self._checked(name, value, MAX_TEXT_CHARACTERS)

    def _checked(self, name: str, value: object, longest: int) -> str | None:
        if not isinstance(value, str):
            self.errors.append(f"{name}: not a string")
        elif len(value) > longest:
            self.errors.append(f"{name}: longer than {longest} characters")
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
        if value == "":
            self.errors.append("id: empty")
            return None
        return self._checked("id", value, MAX_ID_CHARACTERS)

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


def _reject(event: ParsedEvent) -> Rejection:
    errors = [error[:_MAX_ERROR_CHARACTERS] for error in event.errors[:_MAX_ERRORS]]
    if len(event.errors) > _MAX_ERRORS:
        errors.append(f"and {len(event.errors) - _MAX_ERRORS} more")
    text = event.text
    if len(text) > MAX_OBJECT_BYTES:
        text = f"{text[:MAX_OBJECT_BYTES]} (truncated)"
    event_id = None if event.record is None else event.record.id
    digest = hashlib.sha256(event.identity.encode("utf-8", "surrogatepass")).hexdigest()
    # A raw NUL is invalid in JSON, and databases cannot store it.
    return Rejection(event_id, errors, text.replace("\0", "\\u0000"), digest)
