"""A real PostgreSQL 18 in a directory, listening on loopback only.

The server outlives the command that started it: ``pg_ctl`` gives it a session of its own, so that
neither a closed pipe nor Ctrl-C in the caller's terminal reaches it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from datasync_sandbox import ports
from datasync_sandbox.api.config import HOST
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.postgres import binaries, initdb

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DB_PORT = 54329

_WAIT = ("-w", "-t", "60")
# Lines of postmaster.pid, from 0.
_PID, _DATA, _PORT = 0, 1, 3


class Cluster:
    """One PostgreSQL server with its data.

    Attributes:
        host: Address that it listens on.
        user: Role for clients: may log in and create databases, and is no superuser.
        database: Database that it owns.
        directory: Holds the data, the password and the server's log; created at the first start.
        notice: What the last start has to report, such as another port than the default.
    """

    host = HOST
    user = "datasync"
    database = "events"

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        """Name the directory of a server; ``durable`` keeps ``fsync`` on."""
        self.directory = directory.absolute()
        self.notice = ""
        self._durable = durable
        if initdb.is_copied_link(self.directory):
            self.directory.unlink()

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._home / "postgres.log"

    @property
    def password(self) -> str:
        """Password of the role, drawn when the database was created.

        Raises:
            SandboxError: If it was not created yet.
        """
        try:
            return (self._home / "password").read_text()
        except OSError as error:
            message = f"There is no database in {self.directory}: {error.strerror}."
            raise SandboxError(message) from error

    @property
    def port(self) -> int:
        """Port of the running server, else the one it ran on last, else the default."""
        if self.pid():
            with suppress(IndexError, ValueError):
                return int(self._pid_file()[_PORT])
        with suppress(OSError):
            for line in (self._data / "postgresql.conf").read_text().splitlines():
                if line.startswith("port = "):
                    return int(line.removeprefix("port = "))
        return DEFAULT_DB_PORT

    @property
    def url(self) -> str:
        """Connection URL for clients."""
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}"

    @property
    def _home(self) -> Path:
        # Resolved: the link may lie where the server's user cannot follow it.
        return self.directory.resolve()

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def pid(self) -> int | None:
        """Return the process id of the running server, or ``None``."""
        # The file may be of a killed server, or of the server of which this is a copy.
        with suppress(psutil.Error, IndexError, ValueError):
            process = psutil.Process(int(self._pid_file()[_PID]))
            is_server = process.name().startswith("postgres")
            alive = process.status() != psutil.STATUS_ZOMBIE
            if is_server and alive and ports.works_in(process.pid, self._data):
                return process.pid
        return None

    def start(self, port: int | None = None) -> bool:
        """Start the server and wait until it accepts connections; create it first if it is new.

        Args:
            port: Port on loopback; 0 picks a free one; ``None`` is the present, the last or the
                default one, or a free one if that is in use.

        Returns:
            Whether it was started now; a running server is left alone.

        Raises:
            SandboxError: If it cannot start, or runs on another port already.
        """
        with self._locked():
            if self.pid() is not None:
                if port and port != self.port:
                    message = (
                        f"The database in {self.directory} runs on port {self.port} already. "
                        "Stop it first: datasync-sandbox down --db-only"
                    )
                    raise SandboxError(message)
                return False
            wanted, required = (self.port, False) if port is None else (port, True)
            chosen, self.notice = ports.choose(wanted, "database", "--db-port", required=required)
            initdb.make_directory(self.directory)
            if not self._data.exists():
                password = secrets.token_urlsafe(12)
                initdb.write_private(self._home / "password", password)
                statements = (
                    f"CREATE ROLE {self.user} LOGIN CREATEDB PASSWORD '{password}';\n"
                    f"CREATE DATABASE {self.database} OWNER {self.user};\n"
                )
                initdb.initialise(self._data, statements, durable=self._durable)
            self._remove_copied_pid_file()
            with ports.bind(HOST, chosen) as bound:
                chosen = bound.getsockname()[1]
            initdb.configure(self._data, chosen, durable=self._durable)
            self._start()
            return True

    def stop(self, mode: str = "fast") -> bool:
        """Stop the server and wait until it has stopped; ``immediate`` is as in a crash.

        Returns:
            Whether it ran.

        Raises:
            SandboxError: If it does not stop.
        """
        if self.pid() is None:
            return False
        done = binaries.run("pg_ctl", "stop", "-D", str(self._data), "-m", mode, *_WAIT)
        if done.returncode and self.pid() is not None:
            reason = initdb.error_reason(done.stderr or done.stdout)
            message = f"PostgreSQL did not stop: {reason}"
            raise SandboxError(message)
        return True

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop("immediate")
        if self.directory.is_symlink():
            shutil.rmtree(self._home, ignore_errors=True)
            self.directory.unlink()
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the environment in which ``psql`` connects to this server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {
            **kept,
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
        }

    def psql_command(self, *arguments: str) -> list[str]:
        """Return the command of the bundled ``psql``, which never asks for a password."""
        return [str(binaries.bin_directory() / "psql"), "--no-password", *arguments]

    def sql(self, statement: str) -> str:
        """Run one or more SQL statements through ``psql``.

        Returns:
            Rows as lines, columns separated by ``|``.

        Raises:
            SandboxError: If it fails.
        """
        done = subprocess.run(  # noqa: S603 - a program of the wheel
            self.psql_command("-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SandboxError(initdb.error_reason(done.stderr))
        return done.stdout.rstrip("\n")

    def _pid_file(self) -> list[str]:
        """Return the lines of ``postmaster.pid``."""
        with suppress(OSError):
            text = (self._data / "postmaster.pid").read_text()
            return [line.strip() for line in text.splitlines()]
        return []

    def _remove_copied_pid_file(self) -> None:
        """Remove the ``postmaster.pid`` of the directory of which this one is a copy.

        Any other is left to PostgreSQL, which replaces its own only where that is safe.
        """
        lines = self._pid_file()
        if len(lines) > _DATA:
            named = Path(lines[_DATA])
            if named.exists() and not named.samefile(self._data):
                (self._data / "postmaster.pid").unlink()

    def _start(self) -> None:
        """Start the server of a complete data directory."""
        size = self.log.stat().st_size if self.log.exists() else 0
        done = binaries.run("pg_ctl", "start", "-D", str(self._data), "-l", str(self.log), *_WAIT)
        if done.returncode:
            logged = (
                self.log.read_bytes()[size:].decode(errors="replace") if self.log.exists() else ""
            )
            # ERROR lines of the log are those of clients.
            fatal = "\n".join(line for line in logged.splitlines() if " ERROR:" not in line)
            reason = initdb.error_reason(fatal or done.stderr or done.stdout)
            see = f" See {self.log}." if logged else ""
            message = f"PostgreSQL did not start: {reason.rstrip('.')}.{see}"
            raise SandboxError(message)
        try:
            self.sql("SELECT 1")
        except SandboxError as error:
            message = f"PostgreSQL runs, but refuses connections on port {self.port}: {error}"
            raise SandboxError(message) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from starting the same server at the same time."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with (self.directory.parent / f".{self.directory.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
