"""The rules of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WindowKind = Literal["sliding", "fixed", "aligned"]
LastPage = Literal["exact", "empty"]

BASE = "/api/v1"
"""Path of the API; a client's ``api_url`` ends in it."""

HOST = "127.0.0.1"
"""Address that the sandbox listens on by default."""

STATS_PATH = "/__sandbox__/stats"
"""Path of the request log, outside the API."""


@dataclass(frozen=True)
class ApiConfig:
    """The rules of the API.

    Attributes:
        key: The one valid API key.
        limit: Requests per window.
        window: Length of the window in seconds.
        window_kind: ``sliding``: the last ``limit`` requests, each of which leaves one window
            later; ``fixed``: from the first request after the previous window;
            ``aligned``: from multiples of the window on the clock.
        cursor_lifetime: Seconds that a cursor lives, from the arrival of the request that
            issued it.
        latency: Least and greatest time that a reply takes, in seconds.
        max_page: Events per page at most; a greater limit is capped without notice.
        last_page: Whether the last page says ``hasMore: false`` (``exact``) or an ``empty``
            page follows it.
        key_lifetime: Seconds from its first use after which the key has expired.
        key_requests: Requests after which the key has expired.
    """

    key: str = "sandbox-key"
    limit: int = 10
    window: float = 60.0
    window_kind: WindowKind = "sliding"
    cursor_lifetime: float = 120.0
    latency: tuple[float, float] = (0.0, 0.0)
    max_page: int = 5000
    last_page: LastPage = "exact"
    key_lifetime: float | None = None
    key_requests: int | None = None
