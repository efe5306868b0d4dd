"""The API in the background: started, found again, and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

from datasync_sandbox.errors import SandboxError
from datasync_sandbox.policy import BASE, HOST, STATS

if TYPE_CHECKING:
    from pathlib import Path

    from datasync_sandbox.options import ApiOptions

KEY_VARIABLE = "DATASYNC_SANDBOX_KEY"
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
# Loopback is reached directly, whatever proxy the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class ApiProcess:
    """What is known of an API in the background.

    Attributes:
        pid: Its process id.
        created: When it was started, in seconds since 1970; a feed that ends ``now`` is another
            one each time.
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

    def find(self) -> ApiProcess | None:
        """Return the API that was started from here, if its process lives."""
        try:
            noted = ApiProcess(**json.loads(self._note.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        with suppress(psutil.Error):
            # Not by its birth, which moves when the machine's clock is set.
            if psutil.Process(noted.pid).cmdline()[1:] == _command(noted.args)[1:]:
                return noted
        return None

    def start(self, options: ApiOptions) -> ApiProcess:
        """Start an API and wait until it answers.

        Args:
            options: Its options.

        Returns:
            The running API.

        Raises:
            SandboxError: If it ends or does not answer in time.
        """
        args = options.to_args()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            start = log.tell()
            child = subprocess.Popen(  # noqa: S603 - a program of ours
                _command(args),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The key goes by the environment: arguments are for all to see.
                env={**os.environ, KEY_VARIABLE: options.key},
                # Ctrl-C in the terminal of whoever starts it is not meant for it.
                start_new_session=True,
            )
        try:
            url = self._wait(child, start)
            running = ApiProcess(child.pid, time.time(), url, args, options.key)
            self._note.touch(mode=0o600)
            self._note.write_text(json.dumps(asdict(running), indent=1))
        except BaseException:
            # Without a note nobody would find it again.
            child.kill()
            child.wait()
            raise
        return running

    def stop(self) -> bool:
        """Stop the API.

        Returns:
            Whether it ran.

        Raises:
            SandboxError: If it does not end.
        """
        running = self.find()
        if running is not None:
            _end(running.pid)
        self._note.unlink(missing_ok=True)
        return running is not None

    def _wait(self, child: subprocess.Popen[bytes], start: int) -> str:
        """Wait until an API answers; return its URL.

        Args:
            child: Its process.
            start: Where in the log its own lines begin.

        Raises:
            SandboxError: If it ends or does not answer in time.
        """
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            url = next((line for line in self._said(start) if line.startswith("http://")), None)
            if url and (fetch_stats(url) or {}).get("pid") == child.pid:
                return url
            if child.poll() is not None:
                said = self._said(start)
                message = (
                    said[-1].removeprefix("Error: ")
                    if said
                    else f"The API ended at once; see {self.log}."
                )
                raise SandboxError(message)
            time.sleep(_POLL_SECONDS)
        message = f"The API did not answer within {_START_SECONDS:g} seconds; see {self.log}."
        raise SandboxError(message)

    def _said(self, start: int) -> list[str]:
        """Return what the process wrote, by lines."""
        with self.log.open("rb") as log:
            log.seek(start)
            return [
                line.strip()
                for line in log.read().decode(errors="replace").splitlines()
                if line.strip()
            ]


def fetch_stats(url: str) -> dict[str, Any] | None:
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
        with _DIRECT.open(address, timeout=2) as answer:
            document: dict[str, Any] = json.load(answer)
            return document
    except (OSError, ValueError):
        return None


def _command(args: list[str]) -> list[str]:
    """Return the command line of an API; its process is known by it."""
    return [sys.executable, "-m", "datasync_sandbox", "api", *args]


def _end(pid: int) -> None:
    """End a process, by force if it takes long.

    Raises:
        SandboxError: If it does not end.
    """
    try:
        process = psutil.Process(pid)
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        message = f"The API (pid {pid}) belongs to another user, who has to stop it."
        raise SandboxError(message) from error
    except psutil.TimeoutExpired as error:
        message = f"The API (pid {pid}) does not end, not even when it is killed."
        raise SandboxError(message) from error
