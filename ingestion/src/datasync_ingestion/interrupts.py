"""Signals, turned into an exception at a place that is fit for it."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import FrameType

_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """A signal asked the run to end."""

    def __init__(self, number: int) -> None:
        """Remember the signal."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """Remembers the first signal; whoever waits asks for it."""

    def __init__(self) -> None:
        """Start with no signal received."""
        self.received: int | None = None

    def install(self) -> None:
        """Take SIGINT, SIGTERM and SIGHUP from now on.

        One that is ignored stays so: `nohup` and a shell's background jobs ask for that.
        """
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number

    def check(self) -> None:
        """End here if a signal came.

        Raises:
            StoppedError: One did.
        """
        if self.received is not None:
            raise StoppedError(self.received)

    def sleep(self, seconds: float) -> None:
        """Sleep, or end at a signal.

        Raises:
            StoppedError: A signal came.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(_POLL_S, left))
        self.check()

    def run(
        self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that ends by itself, and end it at a signal.

        It gets a session of its own: Ctrl-C in the terminal reaches only us.

        Raises:
            StoppedError: A signal came; the command was asked to end first.
        """
        with subprocess.Popen(  # noqa: S603 - the project's own programs
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            while True:
                try:
                    out, err = process.communicate(timeout=_POLL_S)
                except subprocess.TimeoutExpired:  # noqa: PERF203 - the loop waits anyway
                    if self.received is not None:
                        process.terminate()
                        process.communicate()
                        self.check()
                else:
                    return subprocess.CompletedProcess(command, process.returncode, out, err)
