"""Types one event: from the API's JSON to the columns of the stream ``events``.

An event that fits is decoded in one step, its objects passed through as the text that
came. Everything else is looked at field by field: what cannot be typed becomes null,
with a reason, and an event without an id has only reasons.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal

import msgspec

from tap_datasync.jsontext import JSONTextError, split_object
from tap_datasync.timestamps import (
    format_timestamp,
    from_milliseconds,
    parse_timestamp,
    to_utc,
    visible,
)

MAX_OBJECT_BYTES = 2**20
"""Longest ``properties`` or ``session``, and longest text of a rejected event. Meltano
fails for good at a line of 5 MiB (half its ``elt.buffer_size``)."""

MAX_TEXT_CHARACTERS = 2**16
"""Longest text in a column."""

MAX_ID_CHARACTERS = 500
"""Longest id: PostgreSQL's index on a primary key takes no more than 2704 bytes."""

NO_NUMBER = "which is no JSON number"
"""End of the reason for a NaN or an infinity."""

_MAX_DEPTH = 100
_MAX_DIGITS = 1000
"""PostgreSQL's numeric and Python's int have limits; no measured value comes near."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_ESCAPED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_MILLISECONDS = range(10**11, 10**14)


class EventRecord(msgspec.Struct, gc=False):
    """One row of the stream ``events``; the two objects are JSON text."""

    id: str
    session_id: str | None
    user_id: str | None
    type: str | None
    name: str | None
    properties: msgspec.Raw | None
    timestamp: datetime | None
    session: msgspec.Raw | None


class RawEvent(msgspec.Struct, rename="camel", gc=False):
    """An event with all documented fields, and perhaps others."""

    id: str
    session_id: str
    user_id: str
    type: str
    name: str
    properties: msgspec.Raw
    timestamp: int | datetime
    session: msgspec.Raw


class DocumentedEvent(RawEvent, forbid_unknown_fields=True):
    """An event exactly as documented."""


FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(RawEvent))
"""The documented names."""


def _check_number(text: str) -> None:
    """Refuse a number with an exponent that PostgreSQL would refuse, with all its page."""
    try:
        fits = abs(Decimal(text).adjusted()) <= _MAX_DIGITS and len(text) <= _MAX_DIGITS
    except ArithmeticError:
        fits = False
    if not fits:
        msg = "number out of range"
        raise ValueError(msg)


_OBJECT = msgspec.json.Decoder(dict[str, object], float_hook=_check_number)
_EVENT = msgspec.json.Decoder(DocumentedEvent)
_ENCODE = msgspec.json.Encoder(decimal_format="number").encode


class TypedEvent(msgspec.Struct, gc=False):
    """What became of one event.

    Attributes:
        record: The row; ``None`` where there is no id.
        event_id: The id, where there is one.
        reasons: What did not fit; empty for a good event.
        unknown: Names of fields that are not documented.
        misfits: How many of the reasons say more than that a field is missing or null.
        identity: What tells a rejected event from others: its text, but for the spelling of
            its time, which changes with its place on a page. Empty for a good event.
    """

    record: EventRecord | None
    event_id: str | None
    reasons: list[str]
    unknown: list[str]
    misfits: int
    identity: str = ""


def may_hold_unstorable(body: bytes) -> bool:
    """Say whether JSON holds an escaped NUL or surrogate; a pair is reported too."""
    return _ESCAPED.search(body) is not None


def fit(raw: RawEvent) -> EventRecord:
    """Turn a documented event into a row.

    Raises:
        ValueError: Something does not fit after all; see :func:`type_event`.
    """
    moment = raw.timestamp
    if isinstance(moment, datetime):
        moment = to_utc(moment)
    elif moment in _MILLISECONDS:
        moment = from_milliseconds(moment)
    else:
        moment = parse_timestamp(moment)
    texts = len(raw.session_id) + len(raw.user_id) + len(raw.type) + len(raw.name)
    if (
        not 0 < len(raw.id) <= MAX_ID_CHARACTERS
        or texts > MAX_TEXT_CHARACTERS
        or len(raw.properties) + len(raw.session) > MAX_OBJECT_BYTES
    ):
        msg = "out of bounds"
        raise ValueError(msg)
    # Decoding refuses what is no object, and numbers that no database can hold.
    _OBJECT.decode(raw.properties)
    _OBJECT.decode(raw.session)
    return EventRecord(
        raw.id,
        raw.session_id,
        raw.user_id,
        raw.type,
        raw.name,
        raw.properties,
        moment,
        raw.session,
    )


def type_event(text: str) -> TypedEvent:
    """Type one event, whatever it is.

    Args:
        text: The event's JSON text; may hold what JSON forbids, such as ``NaN``.

    Returns:
        The row and what did not fit.
    """
    on_one_line = "\n" not in text and "\r" not in text
    if on_one_line and not _ESCAPED.search(text.encode("utf-8", "replace")):
        try:
            record = fit(_EVENT.decode(text))
        except (ValueError, msgspec.DecodeError, RecursionError):
            pass  # Looked at field by field below.
        else:
            return TypedEvent(record, record.id, [], [], 0)
    try:
        members = split_object(text)
    except JSONTextError:
        return TypedEvent(None, None, ["the event is not a JSON object"], [], 1, text)
    return _type_members(members)


class _Members:
    """An event's fields, as text; collects what does not fit."""

    def __init__(self, members: dict[str, str]) -> None:
        self.texts = members
        self.reasons: list[str] = []
        self.absent = 0

    def value(self, name: str) -> object:
        """Return a field's value; ``None``, with a reason, where there is none."""
        text = self.texts.get(name)
        if text is None or text == "null":
            self.reasons.append(f"{name}: " + ("missing" if text is None else "null"))
            self.absent += 1
            return None
        value = _load(text)
        if isinstance(value, float):
            self.reasons.append(f"{name}: is {value}, {NO_NUMBER}")
            return None
        return value

    def text(self, name: str) -> str | None:
        value = self.value(name)
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS:
            self.reasons.append(f"{name}: longer than {MAX_TEXT_CHARACTERS} characters")
            return None
        if value is None or isinstance(value, str):
            return value and _storable(value, name, self.reasons)
        self.reasons.append(f"{name}: is not a string")
        return None

    def json_object(self, name: str) -> msgspec.Raw | None:
        value = self.value(name)
        if value is None:
            return None
        return _clean_object(value, self.texts[name], name, self.reasons)

    def identifier(self) -> str | None:
        value = self.value("id")
        if isinstance(value, str) and len(value) > MAX_ID_CHARACTERS:
            self.reasons.append(f"id: longer than {MAX_ID_CHARACTERS} characters")
            return None
        if isinstance(value, str) and value:
            return _storable(value, "id", self.reasons)
        if isinstance(value, Decimal) and value.is_finite() and _is_whole(value):
            self.reasons.append("id: is a number, kept as text")
            return str(value)
        if value is not None:
            self.reasons.append("id: is not a string" if value else "id: empty")
        return None

    def moment(self) -> datetime | None:
        value = self.value("timestamp")
        if isinstance(value, Decimal) and value.is_finite():
            value = int(value) if _is_whole(value) else float(value)
        if value is None:
            return None
        try:
            moment = parse_timestamp(value)
        except ValueError as error:
            self.reasons.append(f"timestamp: {error}")
            return None
        if isinstance(value, str) and visible(value) != value.strip():
            self.reasons.append("timestamp: invisible characters removed")
        return moment


def _type_members(members: dict[str, str]) -> TypedEvent:
    event = _Members(members)
    event_id, moment = event.identifier(), event.moment()
    columns = (
        event.text("sessionId"),
        event.text("userId"),
        event.text("type"),
        event.text("name"),
        event.json_object("properties"),
        moment,
        event.json_object("session"),
    )
    return TypedEvent(
        record=None if event_id is None else EventRecord(event_id, *columns),
        event_id=event_id,
        reasons=event.reasons,
        unknown=sorted(members.keys() - FIELDS),
        misfits=max(len(event.reasons) - event.absent, event_id is None),
        identity=_identity(members, moment),
    )


def _identity(members: dict[str, str], moment: datetime | None) -> str:
    spelt = members if moment is None else {**members, "timestamp": format_timestamp(moment)}
    return "\n".join(f"{name}: {text}" for name, text in sorted(spelt.items()))


class _Unreadable:
    """Stands for text that is no JSON value."""


def _load(text: str) -> object:
    """Decode JSON; numbers are Decimals, and only NaN and the infinities floats."""
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal, strict=False)
    except (ValueError, RecursionError, ArithmeticError):
        # A Decimal has a largest exponent, and says so with an ArithmeticError.
        return _Unreadable()


def _storable(value: str, where: str, reasons: list[str]) -> str:
    if not _UNSTORABLE.search(value):
        return value
    reasons.append(f"{where}: NUL or lone surrogate replaced")
    return _UNSTORABLE.sub("\ufffd", value)


def _is_whole(value: Decimal) -> bool:
    return value.as_tuple().exponent == 0 and len(value.as_tuple().digits) < MAX_ID_CHARACTERS


def _clean_object(value: object, text: str, where: str, reasons: list[str]) -> msgspec.Raw | None:
    if len(text) > MAX_OBJECT_BYTES or len(text.encode("utf-8", "replace")) > MAX_OBJECT_BYTES:
        reasons.append(f"{where}: longer than {MAX_OBJECT_BYTES} bytes")
        return None
    if not isinstance(value, dict):
        nested = isinstance(value, _Unreadable) and text.startswith("{")
        reasons.append(f"{where}: " + ("cannot be read" if nested else "is not an object"))
        return None
    before = len(reasons)
    clean = _clean(value, where, reasons, depth=0)
    if len(reasons) == before and _is_one_line_of_json(text):
        return msgspec.Raw(text)
    return msgspec.Raw(_ENCODE(clean))


def _is_one_line_of_json(text: str) -> bool:
    """Say whether the text may be passed through: a Singer message is one line."""
    if "\n" in text or "\r" in text:
        return False
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _clean(value: object, where: str, reasons: list[str], *, depth: int) -> object:
    if isinstance(value, str):
        return _storable(value, where, reasons)
    if isinstance(value, (Decimal, float)):
        return _clean_number(value, where, reasons)
    if isinstance(value, (dict, list)) and depth >= _MAX_DEPTH:
        reasons.append(f"{where}: nested deeper than {_MAX_DEPTH} levels")
        return None
    if isinstance(value, dict):
        return {
            _storable(key, f"{where}, a key", reasons): _clean(
                item, f"{where}.{_UNSTORABLE.sub('?', key)}", reasons, depth=depth + 1
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            _clean(item, f"{where}[{index}]", reasons, depth=depth + 1)
            for index, item in enumerate(value)
        ]
    return value


def _clean_number(value: Decimal | float, where: str, reasons: list[str]) -> Decimal | None:
    # `parse_constant` gives NaN and the infinities as floats; a Decimal is a number.
    if isinstance(value, Decimal):
        digits = len(value.as_tuple().digits)
        if digits <= _MAX_DIGITS and abs(value.adjusted()) <= _MAX_DIGITS:
            return value
        reasons.append(f"{where}: number out of range")
    else:
        reasons.append(f"{where}: is {value}, {NO_NUMBER}")
    return None
