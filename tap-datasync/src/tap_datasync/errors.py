"""Errors of the tap, and the action and message for every failed request.

::

    TapDataSyncError             a plain message and an exit code
    ├── RetriesExhaustedError    (1) no usable response after all retries
    ├── IncompleteFeedError      (1) the feed ends, or repeats, before all events were read
    ├── NoProgressError          (1) several scans in a row stopped at the same position
    ├── AccessDeniedError        (3) the API rejects the key
    ├── ApiChangedError          (3) wrong address, or an API unlike its documentation
    ├── UsageError               (2) a setting, a file or the environment cannot be used
    └── StateError               (3) state.py: a state that cannot be read
    CursorExpiredError           the cursor is no longer valid; a new scan is needed
    TransportError               no complete response; retried
    InvalidBodyError             a response with status 200 that is no page; retried
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Container

EXIT_RETRY = 1
EXIT_CONFIG = 2
EXIT_PERMANENT = 3


class TapDataSyncError(Exception):
    """Ends the run. Its message is shown to the user as it is."""

    exit_code: ClassVar[int] = EXIT_RETRY


class RetriesExhaustedError(TapDataSyncError):
    """A request failed on every attempt. A later run may succeed."""


class IncompleteFeedError(TapDataSyncError):
    """The feed ended, or repeats itself, before all of its events were read."""


class NoProgressError(TapDataSyncError):
    """New scans are interrupted before they reach new events."""


class AccessDeniedError(TapDataSyncError):
    """The API rejects the key. Waiting does not help."""

    exit_code = EXIT_PERMANENT


class ApiChangedError(TapDataSyncError):
    """The address is wrong, or the API no longer behaves as documented."""

    exit_code = EXIT_PERMANENT


class UsageError(TapDataSyncError):
    """A setting, a file given on the command line, a proxy or certificates cannot be used."""

    exit_code = EXIT_CONFIG


class CursorExpiredError(Exception):
    """The cursor is no longer valid. The message is the reason, without a full stop."""


class TransportError(Exception):
    """No complete response was received.

    Args:
        cause: Key in ``pages.retries``.
        message: What happened, without key, cursor or address.
        counted: Whether the API may have counted the request against the rate limit.
    """

    def __init__(self, cause: str, message: str, *, counted: bool) -> None:
        super().__init__(message)
        self.cause = cause
        self.counted = counted


class InvalidBodyError(Exception):
    """The body of a response with status 200 is not a page of events."""

    cause = "invalid_body"


class ResponseAction(Enum):
    """What to do about a request that did not return a page."""

    RETRY = "retry"
    """Send it again after a pause; a bounded number of times."""
    RATE_LIMITED = "rate limited"
    """Send it again when the rate limit permits; does not use up a retry."""
    RESET_PAGINATION = "reset pagination"
    """The cursor is not valid: start a new scan at the newest event."""
    FAIL = "fail"
    """End the run."""


@dataclass(frozen=True, slots=True)
class ErrorResolution:
    """How one failed request is handled.

    Attributes:
        action: What to do.
        cause: Key in ``pages.retries``.
        message: A whole sentence where the run ends, a reason without full stop otherwise.
        error: The exception to raise where the action is ``FAIL``.
    """

    action: ResponseAction
    cause: str
    message: str
    error: type[TapDataSyncError] = RetriesExhaustedError


_RETRY, _FAIL = ResponseAction.RETRY, ResponseAction.FAIL

# The first row that holds the status decides.
_STATUSES: tuple[tuple[Container[int], ResponseAction, str, type[TapDataSyncError]], ...] = (
    ({429}, ResponseAction.RATE_LIMITED, "rate limit exceeded ({})", RetriesExhaustedError),
    (
        {401, 403},
        _FAIL,
        "The API rejected the key ({}). Check api_key: keys expire within hours.",
        AccessDeniedError,
    ),
    (
        {301, 302, 303, 307, 308},
        _FAIL,
        "The API responded with a redirect ({}). It is not followed: set api_url to its target.",
        ApiChangedError,
    ),
    (
        {404, 405, 410},
        _FAIL,
        "No events found at this address ({}). Check api_url.",
        ApiChangedError,
    ),
    (
        {407},
        _FAIL,
        "The proxy requires authentication ({}). Check HTTPS_PROXY and HTTP_PROXY.",
        UsageError,
    ),
    ({408}, _RETRY, "request timed out at the server ({})", RetriesExhaustedError),
    (
        {409, 421, 423, 424, 425},
        _RETRY,
        "request not accepted at present ({})",
        RetriesExhaustedError,
    ),
    (
        range(400, 500),
        _FAIL,
        "The API rejected the request ({}). It no longer behaves as documented.",
        ApiChangedError,
    ),
    ({502}, _RETRY, "bad gateway ({})", RetriesExhaustedError),
    ({503}, _RETRY, "service unavailable ({})", RetriesExhaustedError),
    ({504}, _RETRY, "gateway timeout ({})", RetriesExhaustedError),
    (range(500, 1000), _RETRY, "server error ({})", RetriesExhaustedError),
    (range(100, 400), _RETRY, "unexpected status ({})", RetriesExhaustedError),
)


def interpret_response(
    status: int, *, code: str | None, with_cursor: bool
) -> ErrorResolution | None:
    """Return what to do about a response.

    Args:
        status: HTTP status.
        code: ``code`` of the API's JSON error body, if it has one.
        with_cursor: Whether the request had a cursor.

    Returns:
        The resolution; ``None`` for status 200, whose body is to be parsed.
    """
    if status == 200:  # noqa: PLR2004 - the one status with a page
        return None
    label = f"HTTP {status}" + (f", {code}" if code else "")
    names_cursor = status in {404, 410, 422} and (code or "").startswith("CURSOR_")
    if with_cursor and (status == 400 or names_cursor):  # noqa: PLR2004
        return ErrorResolution(
            ResponseAction.RESET_PAGINATION,
            "cursor_refused",
            f"the API rejected its cursor ({label})",
        )
    action, message, error = next(row[1:] for row in _STATUSES if status in row[0])
    return ErrorResolution(action, f"http_{status}", message.format(label), error)


def interpret_exception(error: TransportError | InvalidBodyError) -> ErrorResolution:
    """Return what to do where there is no response, or no page in it."""
    return ErrorResolution(_RETRY, error.cause, str(error))
