"""The options of the API, once for all who need them: command line, background, tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from datasync_sandbox import dirty
from datasync_sandbox.blocks import FeedDefects
from datasync_sandbox.faults import Faults
from datasync_sandbox.feed import NEWEST, Feed
from datasync_sandbox.head import ArrivalRate
from datasync_sandbox.model import ApiModel
from datasync_sandbox.policy import ApiConfig
from datasync_sandbox.stamps import millis_of

if TYPE_CHECKING:
    from datasync_sandbox.ratelimit import WindowKind

_RANGE = re.compile(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?")
_LATE = re.compile(r"(\d*\.?\d+):(\d*\.?\d+)")

DEFAULT_PORT = 8765


@dataclass(frozen=True)
class ApiOptions:
    """All options of ``datasync-sandbox api``, as the command line spells them.

    Attributes:
        port: Port to listen on; 0 picks a free one.
        events: Events of the frozen feed.
        seed: Seed of the feed.
        key: API key.
        limit: Requests a window.
        window: Length of the window in seconds.
        window_kind: How the window moves.
        cursor_lifetime: Seconds that a cursor lives.
        latency: Seconds that a reply takes: ``2`` or ``0-5``.
        max_page: Events a page at most.
        last_page: ``exact`` or ``empty``.
        newest: Timestamp of the newest event, or ``now``.
        arrivals: Events that arrive each second.
        late: ``SHARE:SECONDS`` of arriving events that come late.
        unsorted: Share of events whose timestamp is out of order.
        malformed: Share of events that do not fit.
        malformed_kinds: Kinds of them, separated by commas; empty for all.
        fault: Faults; see `datasync_sandbox.faults`.
        key_lifetime: Seconds from its first use after which the key is dead; 0 is never.
        key_requests: Requests after which the key is dead; 0 is never.
    """

    port: int = DEFAULT_PORT
    # 18 pages: a first load leaves two requests of its last window to those that follow at once.
    events: int = 90_000
    seed: int = 1
    key: str = ApiConfig.key
    limit: int = ApiConfig.limit
    window: float = ApiConfig.window
    window_kind: WindowKind = ApiConfig.window_kind
    cursor_lifetime: float = ApiConfig.cursor_lifetime
    latency: str = "0"
    max_page: int = ApiConfig.max_page
    last_page: Literal["exact", "empty"] = ApiConfig.last_page
    newest: str = NEWEST
    arrivals: float = 0.0
    late: str = ""
    unsorted: float = 0.0
    malformed: float = 0.0
    malformed_kinds: str = ""
    fault: tuple[str, ...] = ()
    key_lifetime: float = 0.0
    key_requests: int = 0

    def make_feed(self) -> Feed:
        """Build the feed.

        Raises:
            ValueError: If an option is wrong; the message is for people.
        """
        late_share, late_seconds = _late(self.late)
        return Feed(
            self.events,
            seed=self.seed,
            newest=_newest(self.newest),
            arrival_rate=ArrivalRate(self.arrivals, late_share, late_seconds),
            defects=FeedDefects(
                unsorted=self.unsorted, malformed=self.malformed, kinds=_kinds(self.malformed_kinds)
            ),
        )

    def make_model(self, started: float | None = None) -> ApiModel:
        """Build the API.

        Args:
            started: Instant from which the feed grows; by default the first request.

        Raises:
            ValueError: If an option is wrong; the message is for people.
        """
        if self.limit < 1 or self.window <= 0 or self.max_page < 1:
            message = "limit, window and max-page must be above 0"
            raise ValueError(message)
        policy = ApiConfig(
            key=self.key,
            limit=self.limit,
            window=self.window,
            window_kind=self.window_kind,
            cursor_lifetime=self.cursor_lifetime,
            latency=_latency(self.latency),
            max_page=self.max_page,
            last_page=self.last_page,
            key_lifetime=self.key_lifetime or None,
            key_requests=self.key_requests or None,
        )
        return ApiModel(self.make_feed(), policy, Faults(self.fault), started=started)

    def to_args(self) -> list[str]:
        """Write the options as arguments of ``datasync-sandbox api``.

        Defaults are left out, and so is the key: arguments are for all to see.
        """
        args = []
        for option in fields(self):
            value: Any = getattr(self, option.name)
            if value == option.default or option.name == "key":
                continue
            name = option.name.replace("_", "-")
            args += [f"--{name}={one}" for one in (value if isinstance(value, tuple) else (value,))]
        return args


def _latency(text: str) -> tuple[float, float]:
    """Read ``2`` or ``0-5``."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        message = f"latency is seconds or a range of seconds, like 2 or 0-5, not {text!r}"
        raise ValueError(message)
    low = float(match[1])
    return low, float(match[2]) if match[2] else low


def _late(text: str) -> tuple[float, float]:
    """Read ``SHARE:SECONDS``."""
    if not text:
        return 0.0, 0.0
    match = _LATE.fullmatch(text.strip())
    if match is None or float(match[1]) > 1:
        message = f"late is SHARE:SECONDS, a share from 0 to 1, like 0.05:600, not {text!r}"
        raise ValueError(message)
    return float(match[1]), float(match[2])


def _newest(text: str) -> int:
    """Read a timestamp or ``now``, as milliseconds since 1970."""
    if text == "now":
        return millis_of(datetime.now(timezone.utc))
    try:
        return millis_of(text)
    except ValueError as error:
        message = f"newest is a timestamp in ISO 8601, or now, not {text!r}"
        raise ValueError(message) from error


def _kinds(text: str) -> tuple[str, ...]:
    """Read kinds of dirt."""
    if not text:
        return tuple(dirty.KINDS)
    kinds = tuple(kind.strip() for kind in text.split(","))
    for kind in kinds:
        if kind not in dirty.KINDS:
            message = f"no dirt is called {kind!r}; --list-malformed names them all"
            raise ValueError(message)
    return kinds
