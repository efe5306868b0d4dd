"""What faults do to a page that is about to be sent."""

from __future__ import annotations

import math
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING

from datasync_sandbox.answers import error, too_many
from datasync_sandbox.outcomes import HTML_TYPE, Outcome, Reset, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.draft import Draft


def html_page(draft: Draft, _value: float) -> Outcome:
    """Answer with the page of a bot check."""
    body = b"<!DOCTYPE html><html><body>Checking your browser before you go on...</body></html>"
    return replace(draft.page(body), headers={"Content-Type": HTML_TYPE})


def with_number(literal: str) -> Callable[[Draft, float], Outcome]:
    """Put a number into the first event that JSON does not have."""

    def strike(draft: Draft, _value: float) -> Outcome:
        spoilt = draft.data.replace('"properties":{', f'"properties":{{"value":{literal},', 1)
        # A page without events has no properties; the count takes the number then.
        pagination = (
            draft.pagination
            if spoilt != draft.data
            else {**draft.pagination, "limit": float(literal)}
        )
        return draft.page(draft.body(data=spoilt, pagination=pagination))

    return strike


def bad_utf8(draft: Draft, _value: float) -> Outcome:
    """Put bytes into the page that are no UTF-8."""
    # Inside strings only: decoded with replacement characters, it would pass for JSON.
    body = draft.body().replace(b"event_", b"event_\xff\xfe", 1)
    return draft.page(body.replace(b'"requestId":"', b'"requestId":"\xc3', 1))


def other_end(draft: Draft, **pagination: object) -> Outcome:
    """Serve the page with other words about what comes next; ``...`` leaves a word out."""
    merged = {**draft.pagination, **pagination}
    return draft.page(
        draft.body(pagination={name: value for name, value in merged.items() if value is not ...})
    )


def false_end_empty(draft: Draft, _value: float) -> Outcome:
    """Serve an empty page that claims to be the last."""
    return draft.page(
        draft.body(
            data="",
            pagination={"limit": draft.pagination["limit"], "hasMore": False, "nextCursor": None},
            meta={**draft.meta, "returned": 0},
        )
    )


def empty_page(draft: Draft, cursor: str, left: float) -> Outcome:
    """Serve no events and a cursor that leads to the same place."""
    pagination = {"limit": draft.pagination["limit"], **onward(draft, cursor, left)}
    return draft.page(
        draft.body(data="", pagination=pagination, meta={**draft.meta, "returned": 0})
    )


def onward(draft: Draft, cursor: str, left: float) -> dict[str, object]:
    """Say that the feed goes on at a cursor that has so many seconds left on arrival."""
    expires_in = math.floor(max(0.0, left - draft.delay))
    return {"hasMore": True, "nextCursor": cursor, "cursorExpiresIn": expires_in}


def to_other_host(draft: Draft, _value: float) -> Outcome:
    """Redirect to the same server under its other name."""
    name, _, port = draft.host.partition(":")
    other = "127.0.0.1" if name == "localhost" else "localhost"
    location = f"http://{other}{':' if port else ''}{port}/__sandbox__/elsewhere"
    return Response(302, {"Location": location, **draft.plain_headers()}, b"", draft.delay)


def refuse(
    draft: Draft, seconds: float, *, retry_after: str | None, told: int | None, enforced: bool
) -> Outcome:
    """Refuse with 429.

    Args:
        draft: The page that is not served.
        seconds: How long requests are refused.
        retry_after: The header, or ``None`` to leave it out together with the budget's headers.
        told: Seconds that the body names, or ``None`` for a body without numbers.
        enforced: Whether requests before that are refused as well.
    """
    if enforced:
        draft.block_until(draft.now + seconds)
    headers = {}
    if retry_after is not None:
        headers = {
            **draft.plain_headers(),
            "X-RateLimit-Remaining": "0",
            "Retry-After": retry_after,
        }
        if told is not None:
            headers["X-RateLimit-Reset"] = str(told)
        else:
            del headers["X-RateLimit-Reset"]
    if told is None:
        return error(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded.", headers, draft.delay)
    return too_many(told, int(draft.headers["X-RateLimit-Limit"]), headers, draft.delay)


def seconds_429(draft: Draft, value: float) -> Outcome:
    """Refuse for some seconds, and say so in seconds."""
    told = math.ceil(value)
    return refuse(draft, told, retry_after=str(told), told=told, enforced=True)


def date_429(draft: Draft, value: float) -> Outcome:
    """Refuse for some seconds, and say so by a date."""
    # A date has whole seconds: round up, or waiting until then would be too short.
    until = math.ceil(draft.now + value)
    return refuse(
        draft,
        until - draft.now,
        retry_after=formatdate(until, usegmt=True),
        told=None,
        enforced=True,
    )


def long_429(draft: Draft, value: float) -> Outcome:
    """Refuse for longer than a cursor lives."""
    return seconds_429(draft, draft.cursor_lifetime + value)


def reset_body(draft: Draft, value: float) -> Outcome:
    """Reset the connection behind a share of the body."""
    page = draft.page()
    return Reset(draft.delay, page, int(len(page.body) * min(value, 1.0)))


def truncated(draft: Draft, value: float) -> Outcome:
    """Serve a share of the body as if it were all."""
    page = draft.page()
    return replace(page, body=page.body[: int(len(page.body) * min(value, 0.999))])
