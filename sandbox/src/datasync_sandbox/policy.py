"""The rules of the service, and what it notes down about each request."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasync_sandbox.ratelimit import WindowKind

BASE = "/api/v1"
"""Path of the API; a client's ``api_url`` ends in it."""

HOST = "127.0.0.1"
"""The address that the sandbox listens on, unless the API is told otherwise."""

STATS = "/__sandbox__/stats"
"""Path of the request log, outside the API."""


@dataclass(frozen=True)
class ApiConfig:
    """The rules of the service.

    Attributes:
        key: The one key that is let in.
        limit: Requests a window.
        window: Length of the window in seconds.
        window_kind: How the window moves; see `datasync_sandbox.ratelimit`.
        cursor_lifetime: Seconds that a cursor lives, from the arrival of the request that
            issued it.
        latency: Least and greatest time that a reply takes, in seconds.
        max_page: Events a page at most; more are capped in silence.
        last_page: Whether the last page says so itself (``exact``) or an ``empty`` page follows it.
        key_lifetime: Seconds from its first use after which the key is dead.
        key_requests: Requests after which the key is dead.
    """

    key: str = "sandbox-key"
    limit: int = 10
    window: float = 60.0
    window_kind: WindowKind = "sliding"
    cursor_lifetime: float = 120.0
    latency: tuple[float, float] = (0.0, 0.0)
    max_page: int = 5000
    last_page: Literal["exact", "empty"] = "exact"
    key_lifetime: float | None = None
    key_requests: int | None = None


@dataclass
class Exchange:
    """One request to the API, as the log keeps it.

    Attributes:
        at: Arrival, in seconds of the clock.
        method: HTTP method.
        path: Path without the query, which may hold a key.
        page: Number of the page asked for; see `datasync_sandbox.faults`.
        result: HTTP status, or ``reset``, ``no-reply`` or ``refused``.
        fault: Fault that it met.
    """

    at: float
    method: str
    path: str
    page: int | None = None
    result: int | str = 0
    fault: str | None = None


def count_exchanges(log: Iterable[Exchange]) -> dict[str, Any]:
    """Sum up a log.

    Args:
        log: Requests, oldest first.

    Returns:
        Counters and the log itself, as JSON values.
    """
    entries = list(log)
    path = f"{BASE}/events"
    return {
        "pages": sum(entry.result == HTTPStatus.OK and entry.path == path for entry in entries),
        "rate_limited": sum(entry.result == HTTPStatus.TOO_MANY_REQUESTS for entry in entries),
        "arrivals": [entry.at for entry in entries],
        "log": [vars(entry) for entry in entries],
    }
