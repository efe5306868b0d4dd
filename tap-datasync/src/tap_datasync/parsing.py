"""Parses the body of a response into a page of records and rejected events.

Example of a page::

    {"data": [{"id": "...", "timestamp": 1769541612369, ...}, ...],
     "pagination": {"limit": 5000, "hasMore": true, "nextCursor": "...",
                    "cursorExpiresIn": 116},
     "meta": {"total": 3000000, "returned": 5000, "requestId": "..."}}

A page whose events are all valid is decoded in one step. Any other page is parsed event by
event, so that one invalid event does not cost the others.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tap_datasync.errors import InvalidBodyError
from tap_datasync.events import (
    DOCUMENTED_FIELDS,
    MAX_OBJECT_BYTES,
    DocumentedEvent,
    Event,
    EventRecord,
    ParsedEvent,
    parse_event,
    to_record,
)
from tap_datasync.lenient_json import (
    NOT_JSON_NUMBER,
    has_suspicious_escape,
    load,
    split_array,
    split_object,
)

if TYPE_CHECKING:
    from datetime import datetime

    from tap_datasync.rate_limit import RateLimitHeaders

MAX_CURSOR_CHARACTERS = 2**13
"""Longest cursor: few servers take a longer address."""

MAX_CURSOR_LIFETIME_SECONDS = 86_400

_MAX_LENIENT_BYTES = 16 * 2**20
_MAX_LENIENT_COMMAS = 2 * 10**6
"""Bounds of a body that is parsed event by event, which takes many times its size in memory."""

_MAX_TOTAL = 2**53
_MAX_ERRORS = 20
_MAX_ERROR_CHARACTERS = 300
_MAX_UNKNOWN_FIELDS = 20
_MAX_FIELD_CHARACTERS = 100


_INVALID = (ValueError, msgspec.DecodeError, RecursionError)


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


class _Envelope(msgspec.Struct):
    pagination: _Pagination
    meta: _Meta


class _DocumentedPage(_Envelope):
    data: list[DocumentedEvent]


class _PageWithUnknownFields(_Envelope):
    data: list[Event]


class _PageOfAnything(_Envelope):
    data: list[msgspec.Raw]


class _FieldNames(msgspec.Struct):
    data: list[dict[str, msgspec.Raw]]


class _Content(NamedTuple):
    envelope: _Envelope
    returned: int
    records: list[EventRecord]
    invalid: list[ParsedEvent]
    unknown_fields: frozenset[str]
    corrupted: bool


_DOCUMENTED_PAGE = msgspec.json.Decoder(_DocumentedPage)
_PAGE_WITH_UNKNOWN_FIELDS = msgspec.json.Decoder(_PageWithUnknownFields)
_PAGE_OF_ANYTHING = msgspec.json.Decoder(_PageOfAnything)
_FIELD_NAMES = msgspec.json.Decoder(_FieldNames)


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
    content = None if has_suspicious_escape(text) else _parse_valid(text)
    content = content or _parse_leniently(text)
    envelope, returned = content.envelope, content.returned
    pagination, meta = envelope.pagination, envelope.meta
    if not 0 <= meta.total <= _MAX_TOTAL:
        message = "meta.total is negative or too large"
        raise InvalidBodyError(message)
    if meta.returned not in {None, returned}:
        message = f"the page has {returned} events, but meta.returned is {meta.returned}"
        raise InvalidBodyError(message)
    if len(pagination.next_cursor or "") > MAX_CURSOR_CHARACTERS:
        message = f"pagination.nextCursor is longer than {MAX_CURSOR_CHARACTERS} characters"
        raise InvalidBodyError(message)
    return FetchedPage(
        records=content.records,
        rejections=[_reject(event) for event in content.invalid],
        returned=returned,
        has_more=pagination.has_more,
        next_cursor=pagination.next_cursor or None,
        expires_in=_lifetime(pagination.cursor_expires_in),
        total=meta.total,
        unknown_fields=frozenset(
            name[:_MAX_FIELD_CHARACTERS]
            for name in sorted(content.unknown_fields)[:_MAX_UNKNOWN_FIELDS]
        ),
        invalid_events=sum(event.invalid for event in content.invalid),
        corrupted=content.corrupted,
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


def _parse_valid(body: bytes) -> _Content | None:
    """Parse a page on which every event is valid; return ``None`` for any other."""
    page: _DocumentedPage | _PageWithUnknownFields
    unknown_fields: frozenset[str] = frozenset()
    try:
        try:
            page = _DOCUMENTED_PAGE.decode(body)
        except msgspec.ValidationError:
            page = _PAGE_WITH_UNKNOWN_FIELDS.decode(body)
            unknown_fields = frozenset().union(*_FIELD_NAMES.decode(body).data) - DOCUMENTED_FIELDS
        records = [to_record(event) for event in page.data]
    except _INVALID:
        return None
    return _Content(page, len(records), records, [], unknown_fields, corrupted=False)


def _parse_leniently(body: bytes) -> _Content:
    if len(body) > _MAX_LENIENT_BYTES or body.count(b",") > _MAX_LENIENT_COMMAS:
        message = "the response is not a page of valid events, and too large to be parsed further"
        raise InvalidBodyError(message)
    is_utf8 = True
    try:
        page = _PAGE_OF_ANYTHING.decode(body)
        texts = [bytes(event).decode() for event in page.data]
    except msgspec.ValidationError as error:
        message = f"the response is not a page of events: {error}"
        raise InvalidBodyError(message) from error
    except _INVALID as error:
        is_utf8 = not isinstance(error, UnicodeDecodeError)
        page, texts = _split_page(body.decode("utf-8", "replace"), error)
    events = [parse_event(text) for text in texts]
    for text, event in [] if is_utf8 else zip(texts, events, strict=True):
        if "\ufffd" in text:
            event.errors.append("invalid UTF-8 replaced")
            event.invalid, event.text, event.identity = True, text, event.identity or text
    not_json = any(e.endswith(NOT_JSON_NUMBER) for event in events for e in event.errors)
    unknown_fields = frozenset(name for event in events for name in event.unknown_fields)
    return _Content(
        page,
        len(events),
        [event.record for event in events if event.record is not None],
        [event for event in events if event.errors],
        unknown_fields,
        corrupted=not_json or not _is_utf8(body),
    )


def _split_page(text: str, error: Exception) -> tuple[_PageOfAnything, list[str]]:
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
    value = load(bytes(raw).decode())
    try:
        seconds = float(value) if isinstance(value, (Decimal, str)) else -1.0
    except ValueError:
        return None
    return min(seconds, MAX_CURSOR_LIFETIME_SECONDS) if seconds >= 0 else None


def _reject(event: ParsedEvent) -> Rejection:
    errors = [error[:_MAX_ERROR_CHARACTERS] for error in event.errors[:_MAX_ERRORS]]
    if len(event.errors) > _MAX_ERRORS:
        errors.append(f"and {len(event.errors) - _MAX_ERRORS} more")
    text = event.text
    if len(text) > MAX_OBJECT_BYTES:
        text = f"{text[:MAX_OBJECT_BYTES]} (truncated)"
    digest = hashlib.sha256(event.identity.encode("utf-8", "surrogatepass")).hexdigest()
    # A raw NUL is invalid in JSON, and databases cannot store it.
    return Rejection(event.event_id, errors, text.replace("\0", "\\u0000"), digest)
