"""SIGTERM and SIGINT: finish the transaction in hand or drop the page, then go."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

GRACE_SECONDS = 8.0
"""Longest time that work under way may take after a signal. Docker kills after ten seconds."""


class Shutdown:
    """Decides when a signal may end the process.

    Outside of `deferred` it ends at once: what is in memory is of no page that was acknowledged,
    and the tap will send it again. Inside, the work is finished first, or cut off after `grace`
    seconds; a transaction that is cut off is rolled back by PostgreSQL and was never reported.
    Either way nothing is printed that is not committed. The exit code is 128 + signal: 143 or 130.
    """

    def __init__(
        self,
        *,
        grace: float = GRACE_SECONDS,
        exit_now: Callable[[int], object] = os._exit,
    ) -> None:
        """Start with no signal received.

        Args:
            grace: Seconds that work under way may go on after a signal.
            exit_now: Ends the process without any clean-up.
        """
        self._grace = grace
        self._exit_now = exit_now
        self._signal: int | None = None
        self._at_work = 0

    def handle(self, signum: int, _frame: FrameType | None = None) -> None:
        """Take a signal; runs in the main thread between two byte codes, so it must not log.

        Raises:
            SystemExit: If nothing is under way.
        """
        if not self._at_work:
            raise SystemExit(128 + signum)
        if self._signal is None:
            self._signal = signum
            signal.signal(signal.SIGALRM, self._out_of_time)
            signal.setitimer(signal.ITIMER_REAL, self._grace)

    def _out_of_time(self, _signum: int, _frame: FrameType | None) -> None:
        # The database hangs, or nobody reads our stdout: clean-up would hang there as well.
        self._exit_now(128 + (self._signal or signal.SIGTERM))

    def leave_if_asked(self) -> None:
        """End here if a signal came: the caller is at a point where nothing is half done."""
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold signals off until the work inside is done; may be nested."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
        if not self._at_work:
            self.leave_if_asked()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let signals through again, for a pause between two attempts inside `deferred`."""
        self.leave_if_asked()
        at_work, self._at_work = self._at_work, 0
        try:
            yield
        finally:
            self._at_work = at_work
