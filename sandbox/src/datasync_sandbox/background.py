"""The API in the background: started, found again, and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from datasync_sandbox import ports
from datasync_sandbox.api.config import BASE, HOST, STATS_PATH
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.options import KEY_VARIABLE, ApiOptions

if TYPE_CHECKING:
    from pathlib import Path

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
# Loopback is reached directly, whatever proxy the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class ApiProcess:
    """An API in the background.

    Attributes:
        pid: Its process id.
        started_at: When it was started, in seconds since 1970.
        url: Base URL for clients.
        key: Its API key.
        options: Its options as they were given, the key left out.
    """

    pid: int
    started_at: float
    url: str
    key: str
    options: dict[str, Any]

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return urlsplit(self.url).port or 0

    @property
    def api_options(self) -> ApiOptions:
        """Its options."""
        options = {**self.options, "fault": tuple(self.options["fault"])}
        return ApiOptions(**options, key=self.key)

    @property
    def feed_name(self) -> str:
        """Names its events: equal for APIs that serve the same ones."""
        name = self.api_options.feed_name()
        return f"{name} started={self.started_at:.0f}" if self.options["newest"] == "now" else name


class BackgroundApi:
    """The API of one sandbox directory.

    Attributes:
        log: Its log.
        notice: What the last start has to report, such as another port than the default.
    """

    def __init__(self, directory: Path) -> None:
        """Name the directory, which need not exist: it holds ``api.json`` and ``api.log``."""
        self.log = directory / "api.log"
        self.notice = ""
        self._directory = directory
        self._record = directory / "api.json"

    def last(self) -> ApiProcess | None:
        """Return the API that was started last and not stopped, whether it still runs or not."""
        try:
            return ApiProcess(**json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def find(self) -> ApiProcess | None:
        """Return the API that runs in this directory."""
        last = self.last()
        with suppress(psutil.Error):
            if last and "datasync_sandbox" in psutil.Process(last.pid).cmdline():
                # The process of the directory of which this one is a copy works elsewhere.
                return last if ports.works_in(last.pid, self._directory) else None
        return None

    def start(self, options: ApiOptions, *, port_required: bool = True) -> ApiProcess:
        """Start an API and wait until it replies.

        Args:
            options: Its options.
            port_required: Whether it must listen on the port of the options; otherwise it takes
                a free one if that is in use.

        Raises:
            SandboxError: If it ends or does not reply in time.
        """
        port, self.notice = ports.choose(
            options.port, required=port_required, purpose="API", option="--port"
        )
        self._directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            start = log.tell()
            child = subprocess.Popen(  # noqa: S603 - this package
                [
                    sys.executable,
                    "-m",
                    "datasync_sandbox",
                    "api",
                    *replace(options, port=port).to_args(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its working directory names the sandbox that it belongs to; see `find`.
                cwd=self._directory,
                # Other users can see arguments, so the key is in the environment.
                env={**os.environ, KEY_VARIABLE: options.key},
                # Ctrl-C in the terminal of the caller must not reach it.
                start_new_session=True,
            )
        try:
            url = self._wait(child, start)
            values = {name: value for name, value in asdict(options).items() if name != "key"}
            running = ApiProcess(child.pid, time.time(), url, options.key, values)
            self._record.touch(mode=0o600)
            self._record.write_text(json.dumps(asdict(running), indent=1))
        except BaseException:
            # Without the record it would not be found again.
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
            _terminate(running.pid)
        self._record.unlink(missing_ok=True)
        return running is not None

    def _wait(self, child: subprocess.Popen[bytes], start: int) -> str:
        """Wait until an API replies; return its URL.

        Args:
            child: Its process.
            start: Where its own lines begin in the log.

        Raises:
            SandboxError: If it ends or does not reply in time.
        """
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            lines = self._log_lines(start)
            url = next((line for line in lines if line.startswith("http://")), None)
            if url and (fetch_stats(url) or {}).get("pid") == child.pid:
                return url
            if child.poll() is not None:
                lines = self._log_lines(start)
                reason = lines[-1].removeprefix("Error: ") if lines else f"see {self.log}."
                message = f"The API did not start: {reason}"
                raise SandboxError(message)
            time.sleep(_POLL_SECONDS)
        message = f"The API did not reply within {_START_SECONDS:g} seconds; see {self.log}."
        raise SandboxError(message)

    def _log_lines(self, start: int) -> list[str]:
        """Return lines of the log from a place on."""
        with self.log.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]


def fetch_stats(url: str) -> dict[str, Any] | None:
    """Return the request log of an API on loopback; see `ApiModel.stats`.

    Args:
        url: Base URL of the API.

    Returns:
        ``None`` if no sandbox replies there.
    """
    address = url.removesuffix(BASE) + STATS_PATH
    if not address.startswith(f"http://{HOST}:"):
        return None
    try:
        with _DIRECT.open(address, timeout=2) as reply:
            document: dict[str, Any] = json.load(reply)
            return document
    except (OSError, ValueError):
        return None


def _terminate(pid: int) -> None:
    """End a process, by SIGKILL if SIGTERM does not suffice.

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
        message = f"The API (pid {pid}) belongs to another user; stop it as that user."
        raise SandboxError(message) from error
    except psutil.TimeoutExpired as error:
        message = f"The API (pid {pid}) does not end, not even after SIGKILL."
        raise SandboxError(message) from error
