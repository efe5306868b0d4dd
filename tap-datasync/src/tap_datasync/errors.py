"""What can go wrong, what is done about it, and what the user is told.

::

    TapDataSyncError            one plain sentence, and an exit code
    +-- RetriesExhaustedError   (1) the API did not answer properly; try again later
    +-- IncompleteFeedError     (1) the API ends, or loops, before all events are seen
    +-- NoProgressError         (1) walk after walk is cut off at the same place
    +-- AccessDeniedError       (3) the key is refused
    +-- ApiChangedError         (3) the address is wrong or the API is not as documented
    +-- SurroundingsError       (2) the environment names a proxy or certificates of no use
    +-- UsageError              (2) tap.py: a setting or a file cannot be used
    +-- BulkDirectoryError      (2) bulk.py: the directory for bulk files cannot be used
    +-- BulkFileError           (1) bulk.py: a page cannot be written
    +-- BookmarkError           (3) bookmark.py: the state cannot be understood
    TransportError              no usable answer; retried
    BrokenPageError             an answer that is no page; retried
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

EXIT_TRY_AGAIN = 1
EXIT_CONFIG = 2
EXIT_HOPELESS = 3


class TapDataSyncError(Exception):
    """The run cannot go on. The message is the sentence that the user reads."""

    exit_code: ClassVar[int] = EXIT_TRY_AGAIN


class RetriesExhaustedError(TapDataSyncError):
    """One request failed again and again. A later run may succeed."""


class IncompleteFeedError(TapDataSyncError):
    """The API says that it is done, but has not given all it counts."""


class NoProgressError(TapDataSyncError):
    """New walks keep being cut off before they reach anything new."""


class AccessDeniedError(TapDataSyncError):
    """The API refuses the key. Waiting does not help."""

    exit_code = EXIT_HOPELESS


class ApiChangedError(TapDataSyncError):
    """The address is wrong, or the API is not the documented one any more."""

    exit_code = EXIT_HOPELESS


class SurroundingsError(TapDataSyncError):
    """What the environment says about connections cannot be used."""

    exit_code = EXIT_CONFIG


class TransportError(Exception):
    """No answer, or half of one.

    Args:
        cause: One word for the log and for ``pages.retries``.
        message: What happened, for people. Holds neither key nor cursor.
        counted: Whether the API may have counted the request against the limit.
    """

    def __init__(self, cause: str, message: str, *, counted: bool) -> None:
        """Remember what happened."""
        super().__init__(message)
        self.cause = cause
        self.counted = counted


class BrokenPageError(Exception):
    """A reply with status 200 that is not a page of events."""


class Action(Enum):
    """What is done about a reply that is not a page."""

    RETRY = "retry"
    """Ask again, a little later; a bounded number of times."""
    WAIT = "wait"
    """The limit is used up: ask again when the API says so; costs no retry."""
    NEW_WALK = "new walk"
    """The cursor is gone: begin at the newest event, skip what is loaded."""
    STOP = "stop"
    """Nothing that the tap can do would help."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reply means."""

    action: Action
    cause: str
    message: str
    error: type[TapDataSyncError] = RetriesExhaustedError


_GATEWAY = {
    408: "the request timed out at the server",
    425: "the server is not ready",
    500: "the server failed",
    502: "a gateway got no answer",
    503: "the service is unavailable",
    504: "a gateway timed out",
}
_LAST_REDIRECT = 399


def judge(status: int, *, code: str | None, with_cursor: bool) -> Verdict | None:
    """Say what a reply's status means.

    Args:
        status: HTTP status.
        code: The ``code`` of the API's JSON error body, where there is one.
        with_cursor: Whether the request carried a cursor.

    Returns:
        The verdict; ``None`` for 200, whose body has to be looked at.
    """
    said = f"HTTP {status}" + (f", {code}" if code else "")
    if status == 200:  # noqa: PLR2004 - the one status with a body worth reading
        return None
    if status == 429:  # noqa: PLR2004
        return Verdict(Action.WAIT, "429", "the API's limit is used up")
    if status in _GATEWAY or status > 504:  # noqa: PLR2004
        reason = _GATEWAY.get(status, "the server failed")
        return Verdict(Action.RETRY, str(status), f"{reason} ({said})")
    if status == 400 and with_cursor:  # noqa: PLR2004
        return Verdict(Action.NEW_WALK, "cursor", f"the API refuses the cursor ({said})")
    if status in {401, 403}:
        return Verdict(
            Action.STOP,
            str(status),
            f"The API refuses the key ({said}). Check api_key: keys live for a few hours.",
            AccessDeniedError,
        )
    if 300 <= status <= _LAST_REDIRECT:  # noqa: PLR2004
        message = (
            f"The API answers with a redirect ({said}), and the key is sent nowhere but "
            "to api_url. Set api_url to the new address if it is right."
        )
    elif status in {404, 405, 410}:
        message = f"There are no events at this address ({said}). Check api_url."
    else:
        message = f"The API refuses the request ({said}). It is not as documented any more."
    return Verdict(Action.STOP, str(status), message, ApiChangedError)
