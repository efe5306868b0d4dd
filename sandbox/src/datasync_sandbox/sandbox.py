"""The sandbox of a directory: its API, its database, and the files with their addresses."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasync_sandbox.background import BackgroundApi
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.postgres.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from datasync_sandbox.options import ApiOptions


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
        options.make_model()  # a wrong option is reported here, not in a log
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
