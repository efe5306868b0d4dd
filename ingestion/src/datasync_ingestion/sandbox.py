"""The local sandbox, controlled through its command line."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

from datasync_monitor.database import DatabaseSettings

from datasync_ingestion.config import Api
from datasync_ingestion.errors import EXIT_CONFIG, ConfigError, IngestionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from datasync_ingestion.config import RunConfig
    from datasync_ingestion.errors import SignalWatcher

# The parts of the sandbox, and the options that restrict a command to them.
_PARTS = {"api": "--api-only", "database": "--db-only"}


class Sandbox:
    """The sandbox of a checkout.

    Attributes:
        feed: Which sample events its API serves; empty before `start`.
    """

    def __init__(self, root: Path, signals: SignalWatcher) -> None:
        self._root = root
        self._signals = signals
        self._program = root / ".venv" / "bin" / "datasync-sandbox"
        self._started: set[str] = set()
        self._own_api: Api | None = None
        self._addresses: tuple[Api, DatabaseSettings] | None = None
        self.feed = ""

    def start(self, config: RunConfig, options: Sequence[str]) -> tuple[Api, DatabaseSettings]:
        """Start what the run uses of it and is not running, and wait until it responds.

        Args:
            config: The user's own API and database; the sandbox takes the place of a missing one.
            options: For the sandbox's API, from the user.

        Returns:
            The addresses of API and database.

        Raises:
            ConfigError: An option is wrong.
            IngestionError: They do not start.
            Interrupted: A signal arrived.
        """
        if config.api and config.database:
            return config.api, config.database
        self._own_api = config.api
        self._addresses = self._up(*options)
        return self._addresses

    def ensure_running(self) -> bool:
        """Restart the parts that have ended, with the same options and at the same addresses.

        Returns:
            Whether the addresses are unchanged; True also if nothing was started.

        Raises:
            IngestionError: They do not start.
            Interrupted: A signal arrived.
        """
        if self._addresses is None:
            return True
        return self._up("--restore") == self._addresses

    def _up(self, *options: str) -> tuple[Api, DatabaseSettings]:
        only = (_PARTS["database"],) if self._own_api else ()
        done = self._run("up", "--json", *only, *options)
        if done.returncode:
            self._signals.check()
            kind = ConfigError if done.returncode == EXIT_CONFIG else IngestionError
            raise kind(_error_in(done))
        try:
            report = json.loads(done.stdout)
        except ValueError:
            message = "`datasync-sandbox up` failed: its output is not JSON."
            raise IngestionError(message) from None
        self._started |= {
            option for part, option in _PARTS.items() if (report.get(part) or {}).get("started")
        }
        self._signals.check()
        api = self._own_api
        if api is None:
            api = Api(report["api"]["url"], report["api"]["key"])
            self.feed = report["api"]["feed"]
        names = ("host", "port", "user", "password", "name")
        return api, DatabaseSettings(**{name: report["database"][name] for name in names})

    def stop_started(self) -> None:
        """Stop the parts that this run started."""
        for option in sorted(self._started):
            self.stop(option)
        self._started = set()

    def stop(self, *options: str) -> str:
        """Stop it, or the part that an option names; returns the sandbox's report.

        Raises:
            IngestionError: It does not stop.
        """
        done = self._run("down", *options)
        if done.returncode:
            raise IngestionError(_error_in(done))
        return done.stdout.strip()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Not interrupted by a signal, which would leave a partly started sandbox.
        return subprocess.run(  # noqa: S603 - the project's own program
            [self._program, *arguments],
            cwd=self._root,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )


def _error_in(done: subprocess.CompletedProcess[str]) -> str:
    """Return the sandbox's error message."""
    lines = done.stderr.strip().splitlines()
    if not lines:
        return f"The sandbox ended with exit code {done.returncode}."
    return lines[-1].removeprefix("Error: ")
