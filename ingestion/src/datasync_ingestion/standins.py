"""The sandbox, through its command line: API and database for who has neither."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dotenv import dotenv_values

from datasync_ingestion.errors import IngestionError, UsageError
from datasync_ingestion.settings import Api, Database

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from datasync_ingestion.interrupts import Interrupts

_CLICK_USAGE = 2
# What `datasync-sandbox status` says of an API that does not run.
_NOT_RUNNING = "API:      not running"
# Where its API finds its key.
_KEY_VARIABLE = "DATASYNC_SANDBOX_KEY"


class StandIns:
    """The stand-ins of one checkout.

    Attributes:
        directory: Theirs: data, logs, and `env` with how to reach them.
        started: Those that were started by us, as options of `down`.
    """

    def __init__(self, root: Path, interrupts: Interrupts) -> None:
        """Name the place; nothing is started yet."""
        self._root = root
        self._interrupts = interrupts
        self._program = root / ".venv" / "bin" / "datasync-sandbox"
        self.directory = root / ".sandbox"
        self.started: set[str] = set()
        self._given: tuple[Api | None, Database] | None = None
        self._options: list[str] = []
        self._key = ""

    def start(self, options: Sequence[str], *, api: bool) -> tuple[Api | None, Database]:
        """Start what does not run yet, and wait until it answers.

        Args:
            options: For the API, as the user gave them.
            api: Whether the API is wanted, or the database alone.

        Returns:
            How to reach them.

        Raises:
            UsageError: An option is wrong.
            IngestionError: They do not start.
            StoppedError: A signal came.
        """
        self._given = self._up(options, api=api)
        if api:
            # What it was really started with: one that ran already was taken as it is.
            note = json.loads((self.directory / "api.json").read_text())
            self._options, self._key = note["args"], note["key"]
        return self._given

    def revive(self) -> bool:
        """Start again what has died, as it was: with the same options, at the same address.

        Returns:
            Whether all is where it was; so it is, too, where nothing was started.

        Raises:
            IngestionError: They do not start.
            StoppedError: A signal came.
        """
        if self._given is None:
            return True
        api, _ = self._given
        if api is None:
            return self._up((), api=False) == self._given
        # One that lives is left alone if it is asked for in its own words.
        if _NOT_RUNNING in self._sandbox("status").stdout:
            # Port 0 would be another one each time.
            rest = [option for option in self._options if not option.startswith("--port=")]
            self._options = [*rest, f"--port={urlsplit(api.url).port}"]
        # The key in the environment: arguments are for all to see.
        found = self._up(self._options, api=True, **{_KEY_VARIABLE: self._key})
        return found == self._given

    def _up(self, options: Sequence[str], *, api: bool, **env: str) -> tuple[Api | None, Database]:
        only = [] if api else ["--db-only"]
        done = self._sandbox("up", *only, *options, **env)
        self.started |= _started(done.stdout)
        self._interrupts.check()
        if done.returncode:
            raise (UsageError if done.returncode == _CLICK_USAGE else IngestionError)(_said(done))
        said = {name: value or "" for name, value in dotenv_values(self.directory / "env").items()}
        database = Database(
            host=said["DB_HOST"],
            port=int(said["DB_PORT"]),
            user=said["DB_USER"],
            password=said["DB_PASSWORD"],
            name=said["DB_NAME"],
        )
        return (Api(said["API_BASE_URL"], said["API_KEY"]) if api else None), database

    def stop_started(self) -> None:
        """Stop what this run started, and leave what ran before."""
        for option in sorted(self.started):
            self._down(option)
        self.started = set()

    def stop(self) -> str:
        """Stop both; returns what the sandbox says."""
        return self._down()

    def _down(self, *options: str) -> str:
        done = self._sandbox("down", *options)
        if done.returncode:
            raise IngestionError(_said(done))
        return done.stdout.strip()

    def _sandbox(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        # A signal does not end it: it takes a moment only, and half of a sandbox would
        # be found by nobody. In its own session Ctrl-C does not reach it either.
        return subprocess.run(  # noqa: S603 - the project's own program
            [self._program, *words],
            cwd=self._root,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the sentence with which the sandbox failed."""
    lines = done.stderr.strip().splitlines() or [f"The sandbox failed with {done.returncode}."]
    return lines[-1].removeprefix("Error: ")


def _started(said: str) -> set[str]:
    """Read from what `datasync-sandbox up` says which of them did not run before.

    A line of one that runs holds its process id: `API:      http://... (already running, pid 7)`.
    """
    options = {"API": "--api-only", "Database": "--db-only"}
    return {
        options[part]
        for part, _, rest in (line.partition(":") for line in said.splitlines())
        if part in options and "pid " in rest and "already running" not in rest
    }
