"""Signals that end the tap. Imports nothing heavy: handlers are set before the SDK loads."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

STOPPED = "Stopped by {}. The next run resumes from the last saved state."


class TerminatedError(BaseException):
    """A signal ends the tap. Not an ``Exception``, so that nothing handles it as an error."""

    def __init__(self, signum: int) -> None:
        super().__init__(STOPPED.format(signal.Signals(signum).name))
        self.exit_code = 128 + signum


def handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Call a handler on each of the signals; with nohup the hangup stays ignored."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def exit_on_signals() -> None:
    """End at once on a signal, until the tap sets its own handlers: nothing is written yet."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        handle_signals(_exit)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    except KeyboardInterrupt:
        _exit(signal.SIGINT, None)


def ignore_signals() -> None:
    """Let no further signal break off the end of the process."""
    # Not SIG_IGN: Python prints a traceback for a signal that has come already.
    handle_signals(lambda *_: None)


def _exit(signum: int, frame: FrameType | None) -> None:
    del frame
    os.write(2, f"{STOPPED.format(signal.Signals(signum).name)}\n".encode())
    os._exit(128 + signum)
