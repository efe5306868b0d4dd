"""The API in the background: started, found again, and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

from datasync_sandbox.policy import BASE, HOST, STATS

if TYPE_CHECKING:
    from pathlib import Path

    from datasync_sandbox.options import ApiOptions

KEY_VARIABLE = "DATASYNC_SANDBOX_KEY"
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05


class BackgroundError(Exception):
    """The API could not be started or stopped; the message is one sentence for people."""


@dataclass(frozen=True)
class RunningProcess:
    """What is known of an API in the background.

    Attributes:
        pid: Its process id.
        created: When the process was made, to tell it from a later one with the same id.
        url: Base URL for clients.
        args: Options it was started with, as arguments.
        key: Its API key.
    """

    pid: int
    created: float
    url: str
    args: list[str]
    key: str


class BackgroundApi:
    """The API of one sandbox directory."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; nothing is touched yet.

        Args:
            directory: Holds the process's note (``api.json``) and log (``api.log``).
        """
        self._note = directory / "api.json"
        self.log = directory / "api.log"

    def find(self) -> RunningProcess | None:
        """Return the API that was started from here, if its process lives."""
        try:
            noted = RunningProcess(**json.loads(self._note.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        with suppress(psutil.Error):
            process = psutil.Process(noted.pid)
            if process.create_time() == noted.created and process.status() != psutil.STATUS_ZOMBIE:
                return noted
        return None

    def start(self, options: ApiOptions) -> RunningProcess:
        """Start an API and wait until it answers.

        Args:
            options: Its options.

        Returns:
            The running API.

        Raises:
            BackgroundError: If it ends or does not answer in time.
        """
        args = options.to_args()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            start = log.tell()
            child = subprocess.Popen(  # noqa: S603 - a program of ours
                [sys.executable, "-m", "datasync_sandbox", "api", *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The key goes by the environment: arguments are for all to see.
                env={**os.environ, KEY_VARIABLE: options.key},
                # Ctrl-C in the terminal of whoever starts it is not meant for it.
                start_new_session=True,
            )
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            url = next((line for line in self._said(start) if line.startswith("http://")), None)
            if url and (ask_stats(url) or {}).get("pid") == child.pid:
                created = psutil.Process(child.pid).create_time()
                running = RunningProcess(child.pid, created, url, args, options.key)
                self._note.touch(mode=0o600)
                self._note.write_text(json.dumps(asdict(running), indent=1))
                return running
            if child.poll() is not None:
                said = self._said(start)
                message = (
                    said[-1].removeprefix("Error: ")
                    if said
                    else f"The API ended at once; see {self.log}."
                )
                raise BackgroundError(message)
            time.sleep(_POLL_SECONDS)
        child.kill()
        message = f"The API did not answer within {_START_SECONDS:g} seconds; see {self.log}."
        raise BackgroundError(message)

    def stop(self) -> bool:
        """Stop the API.

        Returns:
            Whether it ran.
        """
        running = self.find()
        if running is not None:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(running.pid)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_SECONDS)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(_STOP_SECONDS)
        self._note.unlink(missing_ok=True)
        return running is not None

    def _said(self, start: int) -> list[str]:
        """Return what the process wrote, by lines."""
        with self.log.open("rb") as log:
            log.seek(start)
            return [
                line.strip()
                for line in log.read().decode(errors="replace").splitlines()
                if line.strip()
            ]


def ask_stats(url: str) -> dict[str, Any] | None:
    """Ask an API for its request log.

    Args:
        url: Base URL of the API.

    Returns:
        See `datasync_sandbox.model.ApiModel.stats`; ``None`` when no sandbox answers there.
    """
    address = url.removesuffix(BASE) + STATS
    if not address.startswith(f"http://{HOST}:"):
        return None
    try:
        # Loopback only, as checked above.
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310
            document: dict[str, Any] = json.load(answer)
            return document
    except (OSError, ValueError):
        return None
