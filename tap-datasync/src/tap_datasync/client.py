"""Asks the API for pages: within the limit, again after a failure, never for ever.

The transport is a plain object with one method, so that tests and the simulation can
put an API in its place that lives in the same process.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import backoff
import msgspec

from tap_datasync.budget import RateLimit, RequestBudget, retry_after
from tap_datasync.failures import (
    Action,
    BrokenPageError,
    RetriesExhaustedError,
    TransportError,
    Verdict,
    judge,
)
from tap_datasync.pages import Page, decode_page

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from tap_datasync.clock import Clock

MAX_TRIES = 8
"""Times one page is asked for before the run fails; with the pauses, some two minutes."""

MAX_PAUSE = 30.0
"""Longest pause in seconds between two tries."""

MAX_WAIT = 3600.0
"""Longest time in seconds that one page is waited for because of 429s."""

CLOCK_GRACE = timedelta(seconds=5)
"""A cursor is tried this long after its time: a request costs less than a new walk."""

_LONG_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request: status, headers (any case), body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Sends one request for a page."""

    def get(self, cursor: str | None, limit: int) -> Reply:
        """Return the reply.

        Raises:
            TransportError: There was none, or half of one.
        """


class CursorRefusedError(Exception):
    """The API does not take the cursor any more: a new walk has to begin."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A page and how it came.

    Attributes:
        page: The page.
        requested_at: When the request that succeeded went out.
        received_at: When its reply was complete.
        budget: The limit as the reply told it.
    """

    page: Page
    requested_at: datetime
    received_at: datetime
    budget: RateLimit | None


@dataclass(slots=True)
class Effort:
    """What pages have cost since the last one that was emitted."""

    retries: Counter[str] = field(default_factory=Counter)
    waited: float = 0.0


class _Error(msgspec.Struct):
    code: str | None = None


class PageClient:
    """Gets pages through a transport."""

    def __init__(
        self, transport: Transport, *, page_size: int, clock: Clock, logger: logging.Logger
    ) -> None:
        """Use the transport.

        Args:
            transport: Sends requests.
            page_size: Events to ask for in one request.
            clock: Tells the time and sleeps.
            logger: Gets a warning for every failure, with what is done about it.
        """
        self.budget = RequestBudget()
        self.effort = Effort()
        self._transport = transport
        self._page_size = page_size
        self._clock = clock
        self._logger = logger

    def get_page(self, cursor: str | None, expires_at: datetime | None = None) -> Exchange:
        """Get one page, decoded and checked.

        Args:
            cursor: Where the page starts; ``None`` for the newest.
            expires_at: Until when the cursor lives, where that is known: no request is
                spent on a dead one.

        Raises:
            CursorRefusedError: The cursor is not valid any more.
            TapDataSyncError: The page cannot be had.
        """
        waited_from = self.effort.waited
        pauses = backoff.expo(base=2, factor=1, max_value=MAX_PAUSE)
        next(pauses)
        tries = 0
        while True:
            if cursor is not None and expires_at is not None:
                self._check_alive(expires_at)
            outcome = self._try(cursor)
            if isinstance(outcome, Exchange):
                return outcome
            if outcome.action is Action.STOP:
                raise outcome.error(outcome.message)
            if outcome.action is Action.NEW_WALK:
                raise CursorRefusedError(outcome.message)
            self.effort.retries[outcome.cause] += 1
            if outcome.action is Action.WAIT:
                if self.effort.waited - waited_from > MAX_WAIT:
                    msg = "The API kept answering 429 for an hour. Try again later."
                    raise RetriesExhaustedError(msg)
                continue
            tries += 1
            if tries >= MAX_TRIES:
                msg = f"Gave up after {tries} tries: {outcome.message}. Try again later."
                raise RetriesExhaustedError(msg)
            pause = next(pauses)
            self._logger.warning(
                "%s: trying again in %.0f s (try %d of %d)",
                _capitalised(outcome.message),
                pause,
                tries + 1,
                MAX_TRIES,
            )
            self._clock.sleep(pause)

    def _check_alive(self, expires_at: datetime) -> None:
        delay = min(MAX_WAIT, self.budget.delay(self._clock.monotonic()))
        if self._clock.now() + timedelta(seconds=delay) > expires_at + CLOCK_GRACE:
            msg = (
                "its cursor does not outlive the wait for the API's limit"
                if delay
                else "its cursor has expired"
            )
            raise CursorRefusedError(msg)

    def _try(self, cursor: str | None) -> Exchange | Verdict:
        self._wait_for_budget()
        requested_at = self._clock.now()
        self.budget.sent(self._clock.monotonic())
        try:
            reply = self._transport.get(cursor, self._page_size)
        except TransportError as error:
            self.budget.unanswered(counted=error.counted)
            return Verdict(Action.RETRY, error.cause, str(error))
        facts = RateLimit.from_headers(reply.headers)
        verdict = judge(reply.status, code=_error_code(reply.body), with_cursor=cursor is not None)
        if verdict is not None and verdict.action is Action.WAIT:
            self._note_refusal(reply, facts)
            return verdict
        self.budget.answered(facts, self._clock.monotonic())
        if verdict is not None:
            return verdict
        try:
            page = decode_page(reply.body)
        except BrokenPageError as error:
            return Verdict(Action.RETRY, "broken page", str(error))
        return Exchange(page, requested_at, self._clock.now(), facts)

    def _note_refusal(self, reply: Reply, facts: RateLimit | None) -> None:
        wait = self.budget.refused(
            facts, retry_after(reply.headers, self._clock.now()), self._clock.monotonic()
        )
        self._logger.warning("The API's limit is used up (HTTP 429): waiting %.0f s", wait)

    def _wait_for_budget(self) -> None:
        delay = self.budget.delay(self._clock.monotonic())
        if delay <= 0:
            return
        if delay > MAX_WAIT:
            msg = "The API wants to be asked again in more than an hour. Try again later."
            raise RetriesExhaustedError(msg)
        if delay >= _LONG_WAIT:
            self._logger.info("Waiting %.0f s for the API's limit", delay)
        self._clock.sleep(delay)
        self.effort.waited += delay


def _error_code(body: bytes) -> str | None:
    """Return the ``code`` of an error body; other text of the API is not repeated."""
    if len(body) > 10_000:  # noqa: PLR2004 - no error is this long
        return None
    try:
        code = msgspec.json.decode(body, type=_Error).code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return code if code and code.isidentifier() and len(code) < 50 else None  # noqa: PLR2004


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
