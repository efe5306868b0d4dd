"""Reads JSON that a strict parser refuses as a whole although only a part of it is invalid.

``split_object`` and ``split_array`` cut a text into the texts of its members, without
decoding them. They keep each text as it is, never recurse, and check no more of the syntax
than is needed to find the ends. ``load`` and ``sanitize`` decode one of these texts and
replace what a database cannot store.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

MAX_DEPTH = 100
"""Deepest nesting of a value that is kept when it has to be sanitized."""

MAX_DIGITS = 1000
"""Digits, and exponent, of a number that is kept: databases and Python have limits."""

NOT_JSON_NUMBER = "not a JSON number"
"""End of the error for a NaN or an infinity."""

UNREADABLE = object()
"""Result of :func:`load` for a text that is no JSON value."""

_MAX_BRACKETS = 10**6
_TOKEN = re.compile(r'["\[\]{},:]|[^\s"\[\]{},:]+')
_CLOSING = {"{": "}", "[": "]"}
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SUSPICIOUS_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


class JSONTextError(ValueError):
    """The text is not one complete JSON object or array."""


def split_object(text: str) -> dict[str, str]:
    """Return an object's members: decoded key to the text of the value.

    Raises:
        JSONTextError: The text is not a complete object.
    """
    members: dict[str, str] = {}
    for item in _items(text, "{"):
        end = _token_end(item, 0) if item.startswith('"') else None
        colon = end and _skip_whitespace(item, end)
        if not colon or item[colon : colon + 1] != ":":
            message = "a member of an object has no key"
            raise JSONTextError(message)
        try:
            name = json.loads(item[:end], strict=False)
        except ValueError as error:
            message = "a key of an object cannot be decoded"
            raise JSONTextError(message) from error
        members[name] = item[colon + 1 :].strip()
    return members


def split_array(text: str) -> list[str]:
    """Return the texts of an array's items.

    Raises:
        JSONTextError: The text is not a complete array.
    """
    return _items(text, "[")


def _skip_whitespace(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _token_end(text: str, start: int) -> int | None:
    """Return the end of the token at a position; ``None`` where it has none.

    A string is not matched by an expression, which takes 100 bytes for each escape.
    """
    if text[start : start + 1] != '"':
        match = _TOKEN.match(text, start)
        return match and match.end()
    quote = text.find('"', start + 1)
    while quote > 0:
        backslashes = quote
        while text[backslashes - 1] == "\\":
            backslashes -= 1
        if (quote - backslashes) % 2 == 0:
            return quote + 1
        quote = text.find('"', quote + 1)
    return None


def _items(text: str, opening: str) -> list[str]:  # noqa: C901 - one pass, one loop
    position = begin = _skip_whitespace(text, 0)
    if text[position : position + 1] != opening:
        message = f"expected {opening}"
        raise JSONTextError(message)
    items: list[str] = []
    open_brackets: list[str] = []
    while end := _token_end(text, start := _skip_whitespace(text, position)):
        character, position = text[start], end
        if character in _CLOSING:
            open_brackets.append(_CLOSING[character])
            if len(open_brackets) == 1:
                begin = position
            elif len(open_brackets) > _MAX_BRACKETS:
                break
            continue
        is_closing = character in {"}", "]"}
        if is_closing and character != open_brackets.pop():
            message = "brackets do not match"
            raise JSONTextError(message)
        if (is_closing and not open_brackets) or (character == "," and len(open_brackets) == 1):
            item = text[begin:start].strip()
            if item or not is_closing or items:
                items.append(item)
            begin = position
        if not open_brackets:
            if text[position:].strip() or not all(items):
                break
            return items
    message = "the text is truncated or not JSON"
    raise JSONTextError(message)


def has_suspicious_escape(text: bytes) -> bool:
    """Return whether JSON contains an escaped NUL or surrogate, valid pairs included."""
    return _SUSPICIOUS_ESCAPE.search(text) is not None


def load(text: str) -> object:
    """Decode JSON: numbers become ``Decimal``, only NaN and the infinities ``float``.

    Returns:
        The value; :data:`UNREADABLE` where the text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal, strict=False)
    except (ValueError, RecursionError, ArithmeticError):
        # A Decimal has a largest exponent, and raises an ArithmeticError beyond it.
        return UNREADABLE


def sanitize_text(text: str, where: str, errors: list[str]) -> str:
    """Return a text without NUL and lone surrogates; adds an error if it had any."""
    if not _UNSTORABLE.search(text):
        return text
    errors.append(f"{where}: NUL or lone surrogate replaced")
    return _UNSTORABLE.sub("\ufffd", text)


def sanitize(value: object, where: str, errors: list[str], *, depth: int = 0) -> object:
    """Return a value of :func:`load` without what a database cannot store.

    Args:
        value: The value.
        where: Its name, for the errors.
        errors: Receives an error for each replacement.
        depth: Levels above the value.
    """
    if isinstance(value, str):
        return sanitize_text(value, where, errors)
    if isinstance(value, (Decimal, float)):
        return _sanitize_number(value, where, errors)
    if isinstance(value, (dict, list)) and depth >= MAX_DEPTH:
        errors.append(f"{where}: nested deeper than {MAX_DEPTH} levels")
        return None
    if isinstance(value, dict):
        return {
            sanitize_text(key, f"{where}, a key", errors): sanitize(
                item, f"{where}.{_UNSTORABLE.sub('?', key)}", errors, depth=depth + 1
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            sanitize(item, f"{where}[{index}]", errors, depth=depth + 1)
            for index, item in enumerate(value)
        ]
    return value


def _sanitize_number(value: Decimal | float, where: str, errors: list[str]) -> Decimal | None:
    if isinstance(value, float):
        errors.append(f"{where}: {value} is {NOT_JSON_NUMBER}")
    elif len(value.as_tuple().digits) > MAX_DIGITS or abs(value.adjusted()) > MAX_DIGITS:
        errors.append(f"{where}: number out of range")
    else:
        return value
    return None
