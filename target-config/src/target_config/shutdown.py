"""SIGTERM, SIGINT and SIGHUP: finish the transaction in progress or drop the page, then exit."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

GRACE_SECONDS = 8.0
"""Maximum time that work in progress may take after a signal. Docker kills after ten seconds."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Shutdown:
    """Defers signals while work is in progress.

    Outside of `deferred` a signal ends the process at once: the rows in memory belong to a page
    without a STATE, and the tap sends them again. Inside, the work is finished first, or aborted
    after `grace` seconds; PostgreSQL rolls back a transaction that is aborted. Either way no
    STATE is printed that is not committed. The exit code is 128 + signal.
    """

    def __init__(
        self,
        *,
        grace: float = GRACE_SECONDS,
        exit_now: Callable[[int], object] = os._exit,
    ) -> None:
        """Start with no signal received.

        Args:
            grace: Seconds that work in progress may take after a signal.
            exit_now: Ends the process without any clean-up.
        """
        self._grace = grace
        self._exit_now = exit_now
        self._signal: int | None = None
        self._depth = 0

    def install(self) -> None:
        """Handle the signals of this module; a signal that is ignored (nohup) stays ignored."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.handle)

    def handle(self, signum: int, _frame: FrameType | None = None) -> None:
        """Handle a signal; runs in the main thread between two byte codes, so it must not log.

        The first signal counts; what follows must not break off the end of the process.

        Raises:
            SystemExit: If no work is in progress.
        """
        if self._signal is not None:
            return
        self._signal = signum
        signal.signal(signal.SIGALRM, self._out_of_time)
        signal.setitimer(signal.ITIMER_REAL, self._grace)
        if not self._depth:
            raise SystemExit(128 + signum)

    def _out_of_time(self, _signum: int, _frame: FrameType | None) -> None:
        # The database or the reader of stdout hangs: clean-up would hang there as well.
        self._exit_now(128 + (self._signal or signal.SIGTERM))

    def exit_if_requested(self) -> None:
        """Exit if a signal was received: the caller has no work in progress."""
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer signals until the work inside is done; may be nested."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if not self._depth:
            self.exit_if_requested()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow signals again, for a pause between two attempts inside `deferred`."""
        self.exit_if_requested()
        depth, self._depth = self._depth, 0
        try:
            yield
        finally:
            self._depth = depth
