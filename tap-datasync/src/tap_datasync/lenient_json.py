"""Cuts JSON text into the texts of its members, without decoding it.

For pages that a strict parser refuses as a whole (``NaN``, a lone surrogate, a million
brackets) although only one event in them is bad. It keeps each member's text as it
stands, never recurses, and checks no more of the syntax than it needs to find the ends.
"""

from __future__ import annotations

import json
import re

_TOKEN = re.compile(r'["\[\]{},:]|[^\s"\[\]{},:]+')
_OPENING = {"{": "}", "[": "]"}


class JSONTextError(ValueError):
    """The text is not one complete JSON object or array."""


def split_object(text: str) -> dict[str, str]:
    """Return an object's members: decoded key to the value's text.

    Raises:
        JSONTextError: The text is no complete object.
    """
    members: dict[str, str] = {}
    for item in _items(text, "{"):
        end = _token_end(item, 0) if item.startswith('"') else None
        colon = end and _skip(item, end)
        if not colon or item[colon : colon + 1] != ":":
            msg = "a member of an object has no key"
            raise JSONTextError(msg)
        try:
            name = json.loads(item[:end], strict=False)
        except ValueError as error:
            msg = "a key of an object cannot be decoded"
            raise JSONTextError(msg) from error
        members[name] = item[colon + 1 :].strip()
    return members


def split_array(text: str) -> list[str]:
    """Return the texts of an array's items.

    Raises:
        JSONTextError: The text is no complete array.
    """
    return _items(text, "[")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _token_end(text: str, start: int) -> int | None:
    """Return the end of the token that starts there; ``None`` where it has none.

    A string is not matched by an expression: that takes 100 bytes for each escape.
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
    start = _skip(text, 0)
    if text[start : start + 1] != opening:
        msg = f"expected {opening}"
        raise JSONTextError(msg)
    items: list[str] = []
    stack: list[str] = []
    begin = position = start
    while end := _token_end(text, begun := _skip(text, position)):
        token, position = text[begun], end
        if token in _OPENING:
            stack.append(_OPENING[token])
            if len(stack) == 1:
                begin = position
            continue
        closing = token in {"}", "]"}
        if closing and token != stack.pop():
            msg = "brackets do not match"
            raise JSONTextError(msg)
        if (closing and not stack) or (token == "," and len(stack) == 1):  # noqa: S105 - no such token
            item = text[begin:begun].strip()
            if item or not closing or items:
                items.append(item)
            begin = position
        if not stack:
            if text[position:].strip():
                break
            if not all(items):
                break
            return items
    msg = "the text is cut off or not JSON"
    raise JSONTextError(msg)
