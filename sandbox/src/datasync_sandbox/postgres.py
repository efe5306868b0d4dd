"""A real PostgreSQL 18 in a directory, listening on loopback only.

The server outlives the command that started it: ``pg_ctl`` gives it a session of its
own, so that neither a closed pipe nor Ctrl-C in the caller's terminal reaches it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

from datasync_sandbox import binaries, pgsetup, ports
from datasync_sandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


DEFAULT_DB_PORT = 54329

_SECONDS = "60"


class Cluster:
    """One PostgreSQL server with its data.

    Attributes:
        host: Address that it listens on.
        user: Role for clients: may log in and create databases, and is no superuser.
        password: Its password.
        database: Database that it owns.
    """

    host = "127.0.0.1"
    user = "datasync"
    password = "sandbox"  # noqa: S105 - no secret, see README
    database = "events"

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        """Name the place of a server; nothing is touched yet.

        Args:
            directory: Holds the data and the server's log; made when needed.
            durable: Whether to keep ``fsync`` on.
        """
        self.directory = directory.absolute()
        self._durable = durable

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory.resolve() / "postgres.log"

    @property
    def _data(self) -> Path:
        # Resolved: the link may lie where the server's user cannot follow it.
        return self.directory.resolve() / "data"

    @property
    def port(self) -> int:
        """Port of the running server, else the one it ran on last, else the default."""
        lines = self._pid_file()
        if len(lines) > 3 and lines[3].isdigit():  # noqa: PLR2004 - fourth line of the file
            return int(lines[3])
        with suppress(OSError):
            for line in (self._data / "postgresql.conf").read_text().splitlines():
                if line.startswith("port = "):
                    return int(line.removeprefix("port = "))
        return DEFAULT_DB_PORT

    @property
    def url(self) -> str:
        """Connection URL for clients."""
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}"

    def pid(self) -> int | None:
        """Return the process id of the running server, or ``None``."""
        lines = self._pid_file()
        if not lines or not lines[0].isdigit():
            return None
        # The file of a server that was killed may name what is another process by now.
        with suppress(psutil.Error):
            process = psutil.Process(int(lines[0]))
            if process.name().startswith("postgres") and process.status() != psutil.STATUS_ZOMBIE:
                return process.pid
        return None

    def start(self, port: int | None = None) -> bool:
        """Start the server and wait until it takes connections; make it first when it is new.

        Args:
            port: Port on loopback; 0 picks a free one, ``None`` is the present, last or default.

        Returns:
            Whether it was started now; a running server is left alone.

        Raises:
            SandboxError: If it cannot start, or runs on another port already.
        """
        with self._locked():
            if self.pid() is not None:
                if port and port != self.port:
                    message = (
                        f"The database in {self.directory} already runs on port {self.port}; "
                        "stop it first."
                    )
                    raise SandboxError(message)
                return False
            port = self.port if port is None else port or _free_port()
            _check_free(self.host, port)
            pgsetup.make_directory(self.directory)
            if not self._data.exists():
                pgsetup.initialise(self._data, self._role(), durable=self._durable)
            pgsetup.configure(self._data, port, durable=self._durable)
            self._start()
            return True

    def stop(self, mode: str = "fast") -> bool:
        """Stop the server and wait until it has stopped.

        Args:
            mode: ``fast``, or ``immediate`` as in a crash.

        Returns:
            Whether it ran.

        Raises:
            SandboxError: If it does not stop.
        """
        if self.pid() is None:
            return False
        done = pgsetup.run(
            "pg_ctl", "stop", "-D", str(self._data), "-m", mode, "-w", "-t", _SECONDS
        )
        if done.returncode and self.pid() is not None:
            message = f"PostgreSQL did not stop: {pgsetup.last_line(done.stderr or done.stdout)}"
            raise SandboxError(message)
        return True

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop("immediate")
        if self.directory.is_symlink():
            shutil.rmtree(self.directory.resolve(), ignore_errors=True)
            self.directory.unlink()
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the environment in which ``psql`` finds this server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {
            **kept,
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
        }

    def sql(self, statement: str) -> str:
        """Run SQL through the bundled ``psql``.

        Args:
            statement: One or more statements.

        Returns:
            Rows as lines, columns separated by ``|``.

        Raises:
            SandboxError: If it fails.
        """
        program = binaries.bin_directory() / "psql"
        done = subprocess.run(  # noqa: S603 - a program of ours
            [program, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SandboxError(pgsetup.last_line(done.stderr))
        return done.stdout.rstrip("\n")

    def _role(self) -> str:
        """Write the SQL that makes role and database."""
        return (
            f"CREATE ROLE {self.user} LOGIN CREATEDB PASSWORD '{self.password}';\n"
            f"CREATE DATABASE {self.database} OWNER {self.user};\n"
        )

    def _pid_file(self) -> list[str]:
        """Read ``postmaster.pid``, by lines."""
        try:
            return [
                line.strip() for line in (self._data / "postmaster.pid").read_text().splitlines()
            ]
        except OSError:
            return []

    def _start(self) -> None:
        """Start the server of a complete data directory."""
        size = self.log.stat().st_size if self.log.exists() else 0
        done = pgsetup.run(
            "pg_ctl", "start", "-D", str(self._data), "-l", str(self.log), "-w", "-t", _SECONDS
        )
        if done.returncode:
            reason = self._fatal(size) or pgsetup.last_line(done.stderr or done.stdout)
            see = f"; see {self.log}" if self.log.exists() else ""
            message = f"PostgreSQL did not start: {reason}{see}."
            raise SandboxError(message)
        try:
            self.sql("SELECT 1")
        except SandboxError as error:
            message = f"PostgreSQL runs, but takes no connection on port {self.port}: {error}"
            raise SandboxError(message) from error

    def _fatal(self, start: int) -> str:
        """Return the first fatal line of the log from a place on; empty when there is none."""
        with suppress(FileNotFoundError), self.log.open(errors="replace") as log:
            log.seek(start)
            for line in log:
                if "FATAL:" in line:
                    return line.partition("FATAL:")[2].strip()
        return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others from starting the same server at the same time."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with (self.directory.parent / f".{self.directory.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((Cluster.host, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(host: str, port: int) -> None:
    """Make sure that a port can be had.

    Raises:
        SandboxError: If it cannot.
    """
    try:
        ports.bind(host, port).close()
    except OSError as error:
        message = ports.refusal(error, host, port, "the database")
        raise SandboxError(message) from error
