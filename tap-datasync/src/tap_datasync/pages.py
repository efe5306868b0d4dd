"""Decodes one page of the API and checks it as a whole.

Example of a page::

    {"data": [{"id": "...", "timestamp": 1769541612369, ...}, ...],
     "pagination": {"limit": 5000, "hasMore": true, "nextCursor": "...",
                    "cursorExpiresIn": 116},
     "meta": {"total": 3000000, "returned": 5000, "requestId": "..."}}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import msgspec

from tap_datasync.events import (
    FIELDS,
    MAX_OBJECT_BYTES,
    NO_NUMBER,
    DocumentedEvent,
    EventRecord,
    RawEvent,
    TypedEvent,
    fit,
    may_hold_unstorable,
    type_event,
)
from tap_datasync.failures import BrokenPageError
from tap_datasync.jsontext import JSONTextError, split_array, split_object


class _Pagination(msgspec.Struct, rename="camel"):
    has_more: bool | None = None
    next_cursor: str | None = None
    cursor_expires_in: float | None = None


class _Meta(msgspec.Struct):
    total: int
    returned: int | None = None


class _DocumentedPage(msgspec.Struct):
    data: list[DocumentedEvent]
    pagination: _Pagination
    meta: _Meta


class _WiderPage(msgspec.Struct):
    data: list[RawEvent]
    pagination: _Pagination
    meta: _Meta


class _FieldNames(msgspec.Struct):
    data: list[dict[str, msgspec.Raw]]


class _AnyPage(msgspec.Struct):
    data: list[msgspec.Raw]
    pagination: _Pagination
    meta: _Meta


_DOCUMENTED = msgspec.json.Decoder(_DocumentedPage)
_WIDER = msgspec.json.Decoder(_WiderPage)
_NAMES = msgspec.json.Decoder(_FieldNames)
_ANY = msgspec.json.Decoder(_AnyPage)

_MAX_REASONS = 20
_REASON_CHARACTERS = 300

_Envelope = _DocumentedPage | _WiderPage | _AnyPage
_MISFIT = (ValueError, msgspec.DecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Rejection:
    """One event that did not fit, as it came.

    Attributes:
        event_id: Its id, where it has one.
        reasons: What did not fit.
        raw: The event's JSON text, escapes and all.
        rejection_id: SHA-256 of the event, in hex: the same event is rejected once, also
            when it is read again at another place.
    """

    event_id: str | None
    reasons: list[str]
    raw: str
    rejection_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """One checked page.

    Attributes:
        records: Rows, newest first, as far as the events have an id.
        rejections: Events that did not fit.
        returned: Events on the page, good and bad.
        has_more: What the API says; ``None`` where it says nothing.
        next_cursor: Where the next page starts; ``None`` where it is not said.
        expires_in: Seconds that the cursor has left, where it is said.
        total: Events in the whole set.
        size: Bytes of the body.
        unknown: Names of undocumented fields.
        misfits: Events of which something could not be typed, missing fields aside.
        damaged: Whether the body held what neither UTF-8 nor JSON knows, and what had to
            be replaced: it may come better when it is asked for again.
    """

    records: list[EventRecord]
    rejections: list[Rejection]
    returned: int
    has_more: bool | None
    next_cursor: str | None
    expires_in: float | None
    total: int
    size: int = 0
    unknown: frozenset[str] = field(default_factory=frozenset)
    misfits: int = 0
    damaged: bool = False


def decode_page(body: bytes) -> Page:
    """Decode and check a page.

    Args:
        body: The reply's body.

    Returns:
        The page, every event on it typed.

    Raises:
        BrokenPageError: The body is no page; nothing of it may be used.
    """
    size = len(body)
    if b"\n" in body or b"\r" in body:
        body = _on_one_line(body)
    page = None if may_hold_unstorable(body) else _decode_fitting(body)
    if page is None:
        envelope, events = _open(body)
        odd = any(reason.endswith(NO_NUMBER) for _, event in events for reason in event.reasons)
        page = replace(_typed(envelope, events), damaged=odd or not _is_text(body))
    return replace(page, size=size)


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _on_one_line(body: bytes) -> bytes:
    # Objects are passed through as text, and a Singer message is one line.
    try:
        return msgspec.json.format(body, indent=-1)
    except _MISFIT:
        return body


def _decode_fitting(body: bytes) -> Page | None:
    """Decode a page of which every event fits; ``None`` for any other."""
    try:
        page = _DOCUMENTED.decode(body)
        return _checked(page, [fit(event) for event in page.data], [])
    except _MISFIT:
        pass  # Perhaps it only has more fields than are documented.
    try:
        wider = _WIDER.decode(body)
        records = [fit(event) for event in wider.data]
        unknown = frozenset().union(*_NAMES.decode(body).data) - FIELDS
    except _MISFIT:
        return None
    return _checked(wider, records, [], unknown=unknown)


def _open(body: bytes) -> tuple[_AnyPage, list[tuple[str, TypedEvent]]]:
    try:
        page = _ANY.decode(body)
        texts = [bytes(event).decode() for event in page.data]
    except msgspec.ValidationError as error:
        msg = f"the reply is not a page of events: {error}"
        raise BrokenPageError(msg) from error
    except _MISFIT as error:
        return _open_text(body, error)
    return page, [(text, type_event(text)) for text in texts]


def _open_text(body: bytes, error: Exception) -> tuple[_AnyPage, list[tuple[str, TypedEvent]]]:
    text = body.decode("utf-8", "replace")
    try:
        members = split_object(text)
        texts = split_array(members.pop("data", ""))
        envelope = ",".join(f'"{k}":{members.get(k, "null")}' for k in ("pagination", "meta"))
        page = _ANY.decode(f'{{"data":[],{envelope}}}')
    except (JSONTextError, msgspec.DecodeError, RecursionError) as second:
        msg = f"the reply is not a page of events: {error}"
        raise BrokenPageError(msg) from second
    events = [(text, type_event(text)) for text in texts]
    if isinstance(error, UnicodeDecodeError):
        for text, event in events:
            if "\ufffd" in text:
                event.reasons.append("invalid UTF-8 replaced")
                event.misfits += 1
    return page, events


def _typed(page: _Envelope, typed: list[tuple[str, TypedEvent]]) -> Page:
    rejected = [(text, event) for text, event in typed if event.reasons]
    return _checked(
        page,
        [event.record for _, event in typed if event.record is not None],
        [
            Rejection(
                event.event_id, _few(event.reasons), _kept_text(text), _digest(event.identity)
            )
            for text, event in rejected
        ],
        returned=len(typed),
        unknown=frozenset(name for _, event in typed for name in event.unknown),
        misfits=sum(event.misfits > 0 for _, event in rejected),
    )


def _few(reasons: list[str]) -> list[str]:
    """Return as many reasons, each as long, as somebody would read."""
    few = [reason[:_REASON_CHARACTERS] for reason in reasons[:_MAX_REASONS]]
    return few + [f"and {len(reasons) - len(few)} more"] * (len(reasons) > len(few))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _kept_text(text: str) -> str:
    """Return an event's text as a database and a Singer line can hold it."""
    if len(text) > MAX_OBJECT_BYTES:
        text = f"{text[:MAX_OBJECT_BYTES]} (cut off)"
    # JSON forbids a NUL that is not escaped, and a database cannot hold it.
    return text.replace("\0", "\\u0000")


def _checked(  # noqa: PLR0913 - the parts of one page
    page: _Envelope,
    records: list[EventRecord],
    rejections: list[Rejection],
    *,
    returned: int | None = None,
    unknown: frozenset[str] = frozenset(),
    misfits: int = 0,
) -> Page:
    returned = len(records) if returned is None else returned
    if page.meta.total < 0:
        msg = "the reply's meta.total is negative"
        raise BrokenPageError(msg)
    if page.meta.returned not in {None, returned}:
        msg = f"the reply holds {returned} events, but says {page.meta.returned}"
        raise BrokenPageError(msg)
    return Page(
        records=records,
        rejections=rejections,
        returned=returned,
        has_more=page.pagination.has_more,
        next_cursor=page.pagination.next_cursor or None,
        expires_in=page.pagination.cursor_expires_in,
        total=page.meta.total,
        unknown=unknown,
        misfits=misfits,
    )
