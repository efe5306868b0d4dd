"""The clock that everything else in the tap is given.

Nothing but :meth:`SystemClock.sleep` sleeps, so that tests and the simulation can run
hours of walking in a moment.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol

LONGEST_PIECE = 0.5
"""Seconds after which a sleep looks whether a signal has come."""


class Clock(Protocol):
    """What the tap asks of time."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never runs backwards."""

    def now(self) -> datetime:
        """Return the wall clock as an aware datetime in UTC."""

    def sleep(self, seconds: float) -> None:
        """Pause for a number of seconds."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Return :func:`time.monotonic`."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the wall clock in UTC."""
        return datetime.now(tz=timezone.utc)

    def sleep(self, seconds: float) -> None:
        """Sleep; a signal handler that raises ends the sleep early.

        In short pieces: a signal that comes in the instant before a sleep is handled after it.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LONGEST_PIECE))
