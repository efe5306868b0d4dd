"""Client of the API: pages within the rate limit, with bounded retries and waits.

The transport is an object with one method, so that tests and the simulation can replace
HTTP by an API in the same process. The clock is injected for the same reason.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Protocol

import msgspec

from tap_datasync.errors import (
    CursorExpiredError,
    ErrorResolution,
    InvalidBodyError,
    ResponseAction,
    RetriesExhaustedError,
    TransportError,
    interpret_exception,
    interpret_response,
)
from tap_datasync.parsing import MAX_CURSOR_CHARACTERS
from tap_datasync.rate_limit import (
    RateLimiter,
    RateLimitHeaders,
    exponential_backoff,
    retry_after,
)

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from tap_datasync.parsing import FetchedPage

MAX_ATTEMPTS = 8
"""Attempts for one page; with the pauses between them about ninety seconds."""

MAX_RETRY_DELAY_SECONDS = 30.0
"""Longest pause between two attempts."""

MAX_WAIT_SECONDS = 3600.0
"""Longest time that is waited for one page because the API asks for it."""

CLOCK_GRACE = timedelta(seconds=5)
"""How long after its expiry a cursor is still tried: a request costs less than a new scan."""

_LONGEST_SLEEP_SECONDS = 0.5
_LOGGED_WAIT_SECONDS = 2.0


class Clock(Protocol):
    """Clock of the tap."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never decreases."""

    def now(self) -> datetime:
        """Return the wall clock as an aware datetime in UTC."""

    def sleep(self, seconds: float) -> None:
        """Sleep for a number of seconds."""


class SystemClock:
    """Clock of the operating system."""

    def monotonic(self) -> float:
        """Return :func:`time.monotonic`."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the wall clock in UTC."""
        return datetime.now(tz=timezone.utc)

    def sleep(self, seconds: float) -> None:
        """Sleep; a signal handler that raises ends the sleep.

        In short steps: a signal that arrives just before a sleep is handled after it.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LONGEST_SLEEP_SECONDS))


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response before it is interpreted: status, headers (any case), body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Sends one request for a page."""

    def get(self, cursor: str | None, limit: int) -> RawResponse:
        """Return the response.

        Raises:
            TransportError: No complete response was received.
        """


@dataclass(slots=True)
class RequestStats:
    """Effort since the last page that was emitted.

    Attributes:
        retries: Repeated requests by cause; see ``pages.retries``.
        rate_limit_wait_seconds: Time waited because the API asked for it.
    """

    retries: Counter[str] = field(default_factory=Counter)
    rate_limit_wait_seconds: float = 0.0


class _ErrorBody(msgspec.Struct):
    code: str | None = None


class PageClient:
    """Fetches pages of one stream through a transport, within a rate limit of their own."""

    def __init__(
        self,
        transport: Transport,
        parse: Callable[..., FetchedPage],
        *,
        page_size: int,
        clock: Clock,
        logger: logging.Logger,
    ) -> None:
        """Use a transport.

        Args:
            transport: Sends requests.
            parse: Parses a body, like :func:`tap_datasync.parsing.parse_page`.
            page_size: Records per request.
            clock: Wall clock, monotonic clock and sleep.
            logger: Receives a warning for every failed request, with the action taken.
        """
        self.rate_limiter = RateLimiter()
        self.stats = RequestStats()
        self._transport = transport
        self._parse = parse
        self._page_size = page_size
        self._clock = clock
        self._logger = logger
        self._warned: set[str] = set()

    def take_stats(self) -> RequestStats:
        """Return the statistics and start new ones."""
        stats, self.stats = self.stats, RequestStats()
        return stats

    def fetch(self, cursor: str | None, *, expires_at: datetime | None = None) -> FetchedPage:
        """Fetch one page: wait for the rate limit, request, interpret, parse; retry.

        Args:
            cursor: Position of the page; ``None`` for the first one.
            expires_at: When the cursor expires, if that is known: no request is spent, and
                no wait slept, for a cursor that does not outlive it.

        Raises:
            CursorExpiredError: The cursor is no longer valid.
            TapDataSyncError: The page cannot be fetched.
        """
        if cursor is not None and not _is_sendable(cursor):
            message = "its cursor is not valid text"
            raise CursorExpiredError(message)
        waited_before = self.stats.rate_limit_wait_seconds
        delays = exponential_backoff(1, MAX_RETRY_DELAY_SECONDS)
        attempts, delay = 0, 0.0
        while True:
            self._wait(delay, expires_at if cursor is not None else None)
            result = self._request(cursor)
            if not isinstance(result, ErrorResolution):
                return result
            if result.action is ResponseAction.FAIL:
                raise result.error(result.message)
            self.stats.retries[result.cause] += 1
            if result.action is ResponseAction.RESET_PAGINATION:
                raise CursorExpiredError(result.message)
            if self.stats.rate_limit_wait_seconds - waited_before > MAX_WAIT_SECONDS:
                message = f"Waited an hour for the API: {result.message}. Try again later."
                raise RetriesExhaustedError(message)
            if result.action is ResponseAction.RATE_LIMITED:
                delay = 0.0
                continue
            attempts += 1
            if attempts == MAX_ATTEMPTS:
                message = f"Gave up after {attempts} attempts: {result.message}. Try again later."
                raise RetriesExhaustedError(message)
            delay = next(delays)
            self._logger.warning(
                "%s: retrying in %.0f s (attempt %d of %d)",
                result.message[:1].upper() + result.message[1:],
                max(delay, self._rate_limit_delay()),
                attempts + 1,
                MAX_ATTEMPTS,
            )

    def _rate_limit_delay(self) -> float:
        return self.rate_limiter.delay(self._clock.monotonic())

    def _wait(self, delay: float, expires_at: datetime | None) -> None:
        """Wait for the rate limit, and at least for the delay before a retry."""
        rate_limit_delay = self._rate_limit_delay()
        wait = max(delay, rate_limit_delay)
        if expires_at is not None:
            sent_at = self._clock.now() + timedelta(seconds=min(wait, MAX_WAIT_SECONDS))
            if sent_at - CLOCK_GRACE > expires_at:
                verb = "expires before the next request" if wait else "has expired"
                message = f"its cursor {verb}"
                raise CursorExpiredError(message)
        if rate_limit_delay > MAX_WAIT_SECONDS:
            message = "The API permits the next request in more than an hour. Try again later."
            raise RetriesExhaustedError(message)
        if rate_limit_delay > delay:
            self.stats.rate_limit_wait_seconds += rate_limit_delay
            if rate_limit_delay >= _LOGGED_WAIT_SECONDS:
                self._logger.info("Waiting %.0f s for the rate limit", rate_limit_delay)
        if wait > 0:
            self._clock.sleep(wait)

    def _request(self, cursor: str | None) -> FetchedPage | ErrorResolution:
        requested_at = self._clock.now()
        self.rate_limiter.on_request(self._clock.monotonic())
        try:
            response = self._transport.get(cursor, self._page_size)
        except TransportError as error:
            self.rate_limiter.on_no_response(counted=error.counted)
            return interpret_exception(error)
        received_at = self._clock.now()
        resolution = interpret_response(
            response.status, code=_error_code(response.body), with_cursor=cursor is not None
        )
        rate_limit = self._track_rate_limit(response, resolution, received_at)
        if resolution is not None:
            return resolution
        try:
            page = self._parse(
                response.body,
                requested_at=requested_at,
                received_at=received_at,
                rate_limit=rate_limit,
            )
        except InvalidBodyError as error:
            return interpret_exception(error)
        if page.expires_in is None and page.next_cursor is not None:
            self._warn_once("pagination.cursorExpiresIn is missing or not usable: assuming 120 s")
        return page

    def _track_rate_limit(
        self, response: RawResponse, resolution: ErrorResolution | None, received_at: datetime
    ) -> RateLimitHeaders | None:
        headers, now = response.headers, self._clock.monotonic()
        rate_limit = RateLimitHeaders.from_headers(headers, received_at)
        if rate_limit is None and "X-RateLimit-Remaining" in headers:
            self._warn_once(
                "Ignoring X-RateLimit headers that are not whole numbers in their range"
            )
        wait = None if resolution is None else retry_after(headers, received_at)
        if resolution is not None and resolution.action is ResponseAction.RATE_LIMITED:
            wait = self.rate_limiter.on_429(rate_limit, wait, now)
            self._logger.warning("Rate limit exceeded (HTTP 429): waiting %.0f s", wait)
        else:
            self.rate_limiter.on_response(rate_limit, now)
            if wait is not None:
                self.rate_limiter.pause(wait, now)
        return rate_limit

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._logger.warning(message)


def _is_sendable(cursor: str) -> bool:
    """Return whether a cursor, perhaps from an edited state, fits into an address."""
    try:
        cursor.encode()
    except UnicodeEncodeError:
        return False
    return len(cursor) <= MAX_CURSOR_CHARACTERS


def _error_code(body: bytes) -> str | None:
    """Return ``code`` of an error body; no other text of the API is repeated in messages."""
    if len(body) > 8192:  # noqa: PLR2004 - longer than any error
        return None
    try:
        code = msgspec.json.decode(body, type=_ErrorBody).code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return code if code and code.isidentifier() and len(code) < 50 else None  # noqa: PLR2004
