"""Answers of the service that are no pages: errors, and what a gateway says in its stead."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from datasync_sandbox.outcomes import HTML_TYPE, JSON_TYPE, Response

REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
"""Reason phrases, which the service repeats in ``error``."""


def dump(document: Any) -> bytes:
    """Write JSON as the service does, without blanks."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def etag(body: bytes) -> str:
    """Return the weak entity tag of a body, in the form of the service's framework."""
    # base64 of SHA-1 without its padding, behind the length in hexadecimal.
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest())[:27].decode()
    return f'W/"{len(body):x}-{digest}"'


def error(
    status: int, code: str, message: str, headers: dict[str, str], delay: float, **more: Any
) -> Response:
    """Build an error of the API.

    Args:
        status: HTTP status.
        code: Code for machines.
        message: Sentence for people.
        headers: Headers beside the content type.
        delay: Seconds until it is sent.
        **more: Further fields of the body.

    Returns:
        The answer.
    """
    body = dump({"error": REASONS[status], "message": message, "code": code, **more})
    return Response(status, {"Content-Type": JSON_TYPE, **headers}, body, delay)


def gateway(status: int, delay: float) -> Response:
    """Build the HTML that a gateway sends when the API is out of its reach."""
    title = f"{status} {REASONS[status]}"
    body = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Response(status, {"Content-Type": HTML_TYPE}, body.encode(), delay)


def too_many(reset: int, limit: int, headers: dict[str, str], delay: float) -> Response:
    """Build the 429 of the API.

    Args:
        reset: Whole seconds until a request is free.
        limit: Requests a window.
        headers: Headers of the answer.
        delay: Seconds until it is sent.

    Returns:
        The answer.
    """
    return error(
        429,
        "RATE_LIMIT_EXCEEDED",
        f"Rate limit exceeded. Try again in {reset} seconds.",
        headers,
        delay,
        rateLimit={"limit": limit, "remaining": 0, "reset": reset, "retryAfter": reset},
    )
