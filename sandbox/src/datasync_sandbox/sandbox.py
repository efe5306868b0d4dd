"""The sandbox of a directory: its API and its database in the background, and their addresses."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from datasync_sandbox import SandboxError, ports
from datasync_sandbox.api.model import ApiModel
from datasync_sandbox.options import BASE, HOST, KEY_VARIABLE, STATS_PATH, ApiOptions
from datasync_sandbox.postgres.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Collection
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
    """

    def __init__(self, directory: Path) -> None:
        self.log = directory / "api.log"
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
        port = ports.choose(options.port, "API", "--port", required=port_required)
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
            _write(self._record, [json.dumps(record, indent=1)])
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


class Sandbox:
    """API and database of one directory.

    Attributes:
        api: The API.
        database: The database.
        environment_file: How to reach what runs, for shells and for datasync-monitor.
    """

    def __init__(self, directory: Path) -> None:
        """Name the directory, which need not exist.

        Raises:
            SandboxError: If it belongs to another user.
        """
        directory = directory.absolute()
        _check_owner(directory)
        self.api = BackgroundApi(directory)
        self.database = Cluster(directory / "pg")
        self.environment_file = directory / "env"
        # Meltano reads it by the include_paths of meltano.yml.
        self._meltano_file = directory / "meltano.yml"
        # Port of the database that was started last and not stopped, as api.json is of the API.
        self._database_record = directory / "db.port"
        self._started: list[BackgroundApi | Cluster] = []

    def up(
        self,
        options: ApiOptions,
        given: Collection[str],
        *,
        api: bool = True,
        database: bool = True,
        db_port: int | None = None,
    ) -> None:
        """Start API and database, and wait until both reply. If one fails, neither is left.

        What runs is left alone, except for an API with other options or another key than those
        given, which is started again.

        Args:
            options: Options of the API.
            given: Names of the options that the user has set; the others are defaults.
            api: Whether to start the API.
            database: Whether to start the database.
            db_port: Port of the database; see `Cluster.start`.

        Raises:
            ValueError: If an option is wrong.
            SandboxError: If one of them does not start.
        """
        try:
            if api:
                self._start_api(options, given)
            if database:
                self._start_database(db_port)
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._write_files()

    def restore(self, *, api: bool = True, database: bool = True) -> None:
        """Start again what ran last and has died: with the same options, key and ports.

        Raises:
            SandboxError: If one of them does not start.
        """
        last = self.api.last()
        try:
            if api and last and not self.api.find():
                self.api.start(replace(last.options, port=last.port))
                self._started.append(self.api)
            if database and self._database_record.exists() and self.database.pid() is None:
                self._start_database(int(self._database_record.read_text()))
        finally:
            self._write_files()

    def down(self, *, api: bool = True, database: bool = True) -> tuple[bool, bool]:
        """Stop API and database; the data stays.

        Returns:
            Whether the API ran, and whether the database ran.

        Raises:
            SandboxError: If one of them does not stop.
        """
        try:
            api_ran = api and self.api.stop()
            database_ran = database and self.database.stop()
            if database:
                self._database_record.unlink(missing_ok=True)
            return api_ran, database_ran
        finally:
            self._write_files()

    def status(self) -> dict[str, dict[str, Any] | None]:
        """Return how to reach what runs, as JSON values; ``started`` is whether `up` started it."""
        status: dict[str, dict[str, Any] | None] = {"api": None, "database": None}
        if running := self.api.find():
            status["api"] = {
                "url": running.url,
                "key": running.options.key,
                "feed": running.feed_name,
                "pid": running.pid,
                "started": self.api in self._started,
            }
        if pid := self.database.pid():
            status["database"] = {
                "host": self.database.host,
                "port": self.database.port,
                "user": self.database.user,
                "password": self.database.password,
                "name": self.database.database,
                "pid": pid,
                "started": self.database in self._started,
            }
        return status

    def _start_api(self, options: ApiOptions, given: Collection[str]) -> None:
        ApiModel(options)  # a wrong option is reported here, not in a log
        running, last = self.api.find(), self.api.last()
        if "key" not in given:
            options = replace(options, key=last.options.key if last else secrets.token_urlsafe(12))
        if running:
            present, described = running.options, set(given) - {"key"}
            if not described:
                options = replace(present, key=options.key)
            elif "port" not in given or options.port in {0, running.port}:
                present = replace(present, port=options.port)
            if options == present:
                return
            self.api.stop()
        self.api.start(options, port_required="port" in given)
        self._started.append(self.api)

    def _start_database(self, port: int | None) -> None:
        if self.database.start(port):
            self._started.append(self.database)
        _write(self._database_record, [str(self.database.port)])

    def _roll_back(self) -> None:
        """Stop what this call has started."""
        for half in self._started:
            with suppress(SandboxError):
                half.stop()
            if half is self.database:
                self._database_record.unlink(missing_ok=True)
        self._started.clear()

    def _write_files(self) -> None:
        """Write how to reach what runs; no files when nothing does."""
        status = self.status()
        api, database = status["api"], status["database"]
        environment: dict[str, str] = {}
        meltano: dict[str, str] = {}
        if api:
            environment |= {"API_BASE_URL": api["url"], "API_KEY": api["key"]}
            meltano |= {"SANDBOX_API_URL": api["url"], "SANDBOX_API_KEY": api["key"]}
        if database:
            for name in ("host", "port", "user", "password", "name"):
                environment[f"DB_{name.upper()}"] = str(database[name])
                meltano[f"SANDBOX_DB_{name.upper()}"] = str(database[name])
        lines = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
        _write(self.environment_file, lines)
        # Names of their own: Meltano lets `env` override the environment of the terminal.
        lines = [f"  {name}: {json.dumps(value)}" for name, value in meltano.items()]
        _write(self._meltano_file, ["env:", *lines] if lines else [])


def _check_owner(directory: Path) -> None:
    """Refuse a sandbox of another user.

    Raises:
        SandboxError: If it is one, as after a first start with sudo.
    """
    for path in (directory, directory / "api.json", directory / "pg"):
        with suppress(FileNotFoundError):
            owner = path.lstat().st_uid
            if os.geteuid() not in {0, owner}:
                message = (
                    f"{path} belongs to another user (uid {owner}): the sandbox was started as "
                    "that user, perhaps with sudo. Stop it as that user, then remove it with: "
                    f"sudo rm -r {shlex.quote(str(directory))}"
                )
                raise SandboxError(message)


def _write(path: Path, lines: list[str]) -> None:
    """Write a file for its owner alone, or remove it when there are no lines."""
    if lines:
        path.touch(mode=0o600)
        path.write_text("".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


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
