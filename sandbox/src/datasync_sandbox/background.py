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
from datasync_sandbox.api.config import BASE, HOST, KEY_VARIABLE, STATS_PATH
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.options import ApiOptions

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
        options: Its options as they were given.
    """

    pid: int
    started_at: float
    url: str
    options: ApiOptions

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return urlsplit(self.url).port or 0

    @property
    def feed_name(self) -> str:
        """Names its events: equal for APIs that serve the same ones."""
        name = self.options.feed_name()
        return f"{name} started={self.started_at:.0f}" if self.options.newest == "now" else name


class BackgroundApi:
    """The API of one sandbox directory, which holds ``api.json`` and ``api.log``.

    Attributes:
        log: Its log.
        notice: What the last start has to report, such as another port than the default.
    """

    def __init__(self, directory: Path) -> None:
        self.log = directory / "api.log"
        self.notice = ""
        self._directory = directory
        self._record = directory / "api.json"

    def last(self) -> ApiProcess | None:
        """Return the API that was started last and not stopped, whether it still runs or not."""
        try:
            record = json.loads(self._record.read_text())
            options = record.pop("options")
            options["fault"] = tuple(options["fault"])
            return ApiProcess(**record, options=ApiOptions(**options))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def find(self) -> ApiProcess | None:
        """Return the API that runs in this directory."""
        last = self.last()
        with suppress(psutil.Error):
            if last and "datasync_sandbox" in psutil.Process(last.pid).cmdline():
                # The process of the directory of which this one is a copy works elsewhere.
                return last if ports.works_in(last.pid, self._directory) else None
        return None

    def start(self, options: ApiOptions, *, port_required: bool = True) -> None:
        """Start an API and wait until it replies.

        Args:
            options: Its options.
            port_required: Whether it must listen on the port of the options; otherwise it takes
                a free one if that is in use.

        Raises:
            SandboxError: If it ends or does not reply in time.
        """
        port, self.notice = ports.choose(options.port, "API", "--port", required=port_required)
        self._directory.mkdir(parents=True, exist_ok=True)
        arguments = replace(options, port=port).to_args()
        with self.log.open("ab") as log:
            start = log.tell()
            child = subprocess.Popen(  # noqa: S603 - this package
                [sys.executable, "-m", "datasync_sandbox", "api", *arguments],
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
            record = asdict(ApiProcess(child.pid, time.time(), url, options))
            self._record.touch(mode=0o600)
            self._record.write_text(json.dumps(record, indent=1))
        except BaseException:
            # Without the record it would not be found again.
            child.kill()
            child.wait()
            raise

    def stop(self) -> bool:
        """Stop the API, by SIGKILL if SIGTERM does not suffice.

        Returns:
            Whether it ran.

        Raises:
            SandboxError: If it does not end.
        """
        running = self.find()
        if running:
            api = f"The API (pid {running.pid})"
            try:
                process = psutil.Process(running.pid)
                process.terminate()
                if not self._ends(process):
                    process.kill()
                    if not self._ends(process):
                        message = f"{api} does not end, not even after SIGKILL."
                        raise SandboxError(message)
            except psutil.AccessDenied:
                message = f"{api} belongs to another user; stop it as that user."
                raise SandboxError(message) from None
            except psutil.NoSuchProcess:
                pass  # it has ended by itself
        self._record.unlink(missing_ok=True)
        return running is not None

    def _ends(self, process: psutil.Process) -> bool:
        """Wait until the API has ended, or is a zombie: a container may have no init to reap it."""
        until = time.monotonic() + _STOP_SECONDS
        while self.find():
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_SECONDS)
        with suppress(psutil.Error):
            process.wait(0)  # reaps it if it is a child of this process
        return True

    def _wait(self, child: subprocess.Popen[bytes], start: int) -> str:
        """Wait until an API replies, whose log begins at ``start``; return its URL.

        Raises:
            SandboxError: If it ends or does not reply in time.
        """
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            ended = child.poll() is not None  # before the log is read, which is then complete
            with self.log.open("rb") as log:
                log.seek(start)
                lines = log.read().decode(errors="replace").strip().splitlines()
            url = next((line for line in lines if line.startswith("http://")), None)
            if url and (fetch_stats(url) or {}).get("pid") == child.pid:
                return url
            if ended:
                reason = lines[-1].removeprefix("Error: ") if lines else f"see {self.log}."
                message = f"The API did not start: {reason}"
                raise SandboxError(message)
            time.sleep(_POLL_SECONDS)
        message = f"The API did not reply within {_START_SECONDS:g} seconds; see {self.log}."
        raise SandboxError(message)


def fetch_stats(url: str) -> dict[str, Any] | None:
    """Return the request log of an API on loopback, or ``None`` if no sandbox replies there.

    See `ApiModel.stats`.
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
