"""How a run ends early: errors and signals, with their exit codes.

```
IngestionError       1   trying again later may help
├── ConfigError      2   a setting, an option or the database has to be changed by the user
└── BusyError       75   another load is running
Interrupted    128 + n   a signal arrived; raised where the run checks for one
```

Exit code 3 has no exception here: only the tap ends with it, see `runner.classify`.
"""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import FrameType

EXIT_OK = 0
EXIT_RETRY = 1
EXIT_CONFIG = 2
EXIT_PERMANENT = 3
EXIT_BUSY = 75
"""`EX_TEMPFAIL` of sysexits.h."""

_POLL_SECONDS = 0.1
_KILL_AFTER_SECONDS = 3.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class IngestionError(Exception):
    """The run ends. The message is for the user."""

    exit_code: ClassVar[int] = EXIT_RETRY


class ConfigError(IngestionError):
    """Something that the user set is wrong, and has to be changed."""

    exit_code = EXIT_CONFIG


class BusyError(IngestionError):
    """Another load is running in this checkout or into this database."""

    exit_code = EXIT_BUSY


class Interrupted(Exception):  # noqa: N818 - named as KeyboardInterrupt, which it stands for
    """A signal ends the run."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class SignalWatcher:
    """Keeps the first signal that arrives, until `check` or `sleep` raises it.

    Attributes:
        received: The number of that signal; None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def install(self) -> None:
        """Handle SIGINT, SIGTERM, SIGHUP and SIGQUIT from now on.

        An ignored signal stays ignored: `nohup` and background jobs of a shell rely on that.
        """
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number

    def check(self) -> None:
        """Raise if a signal arrived.

        Raises:
            Interrupted: One did.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a signal arrives.

        Raises:
            Interrupted: A signal arrived.
        """
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(_POLL_SECONDS, remaining))
        self.check()

    def run(
        self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a short command to its end, or terminate it when a signal arrives.

        The command gets its own session, so that Ctrl-C in the terminal does not reach it.

        Raises:
            Interrupted: A signal arrived; the command has ended.
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
                    out, err = process.communicate(timeout=_POLL_SECONDS)
                except subprocess.TimeoutExpired:  # noqa: PERF203 - polls for a signal
                    if self.received is not None:
                        _terminate(process)
                else:
                    self.check()
                    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_KILL_AFTER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
