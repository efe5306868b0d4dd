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
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from datasync_sandbox import SandboxError, ports
from datasync_sandbox.options import HOST
from datasync_sandbox.postgres import programs

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DB_PORT = 54329

_WAIT = ("-w", "-t", "60")
# Lines of postmaster.pid, from 0.
_PID, _DATA, _PORT = 0, 1, 3
_LINK_FILE = "link"
_SETTINGS = """\
# Written by datasync-sandbox at each start.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 60
# A database of a laptop that is being loaded: few clients, long transactions of COPY.
shared_buffers = '256MB'
maintenance_work_mem = '128MB'
effective_cache_size = '1GB'
max_wal_size = '2GB'
min_wal_size = '256MB'
checkpoint_timeout = '15min'
# There are no replicas.
wal_level = minimal
max_wal_senders = 0
jit = off
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
"""


class Cluster:
    """One PostgreSQL server with its data.

    Attributes:
        host: Address that it listens on.
        user: Role for clients: may log in and create databases, and is no superuser.
        database: Database that it owns.
        directory: Holds the data, the password and the server's log; created at the first start.
    """

    host = HOST
    user = "datasync"
    database = "events"

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        """Name the directory of a server; ``durable`` keeps ``fsync`` on."""
        self.directory = directory.absolute()
        self._durable = durable
        if self._is_copied_link():
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
            chosen = ports.choose(wanted, "database", "--db-port", required=required)
            self._make_directory()
            if not self._data.exists():
                self._create_data()
            self._remove_copied_pid_file()
            with ports.bind(HOST, chosen) as bound:
                chosen = bound.getsockname()[1]
            self._configure(self._data, chosen)
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
        done = programs.run("pg_ctl", "stop", "-D", str(self._data), "-m", mode, *_WAIT)
        if done.returncode and self.pid() is not None:
            reason = _error_reason(done.stderr or done.stdout)
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
        return [str(programs.bin_directory() / "psql"), "--no-password", *arguments]

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
            raise SandboxError(_error_reason(done.stderr))
        return done.stdout.rstrip("\n")

    def _is_copied_link(self) -> bool:
        """Return whether the directory is a copy of a link, whose data belongs to the original."""
        if not self.directory.is_symlink():
            return False
        with suppress(OSError):
            original = Path((self._home / _LINK_FILE).read_text())
            return (
                original != self.directory
                and original.is_symlink()
                and original.resolve() == self._home
            )
        return False

    def _make_directory(self) -> None:
        """Create the directory for the user who runs the server.

        Where that user cannot reach it, the content goes to the system's directory, and a link
        takes its place.

        Raises:
            SandboxError: If it exists and that user cannot use it.
        """
        if not self.directory.exists():
            self.directory.unlink(missing_ok=True)  # a link to data that was deleted
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            if programs.reachable(self.directory.parent):
                self.directory.mkdir(mode=0o700)
            else:
                self._make_in_system_directory()
            _give_to_server_user(self.directory)
        elif not programs.reachable(self.directory):
            message = (
                f"The user who runs PostgreSQL cannot reach {self.directory}, because a directory "
                "above it is closed to others. Remove it: the next start creates it elsewhere."
            )
            raise SandboxError(message)

    def _make_in_system_directory(self) -> None:
        data = programs.SYSTEM_DIRECTORY / "data"
        for parent in (programs.SYSTEM_DIRECTORY, data):
            parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # A new name each time, known to the link alone: one derived from the path would lead the
        # next project at this path to the data of one that was moved away.
        target = Path(tempfile.mkdtemp(prefix="pg-", dir=data))
        _write_private(target / _LINK_FILE, str(self.directory))
        self.directory.symlink_to(target, target_is_directory=True)

    def _create_data(self) -> None:
        """Create the data with role and database, completely or not at all.

        Raises:
            SandboxError: If it fails.
        """
        password = secrets.token_urlsafe(12)
        _write_private(self._home / "password", password)
        fresh = self._data.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        done = programs.run(
            "initdb",
            f"--pgdata={fresh}",
            # Without a password the superuser cannot log in over TCP, and need not.
            "--username=postgres",
            "--auth-host=scram-sha-256",
            "--auth-local=reject",
            "--encoding=UTF8",
            # The same on every machine, whatever locales it has.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            *(() if self._durable else ("--no-sync",)),
        )
        if done.returncode:
            reason = _error_reason(done.stderr + done.stdout)
            message = f"The database could not be created in {self._home}: {reason}"
            raise SandboxError(message)
        _write_private(fresh / "pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")
        self._configure(fresh, 0)
        statements = (
            f"CREATE ROLE {self.user} LOGIN CREATEDB PASSWORD '{password}';\n"
            f"CREATE DATABASE {self.database} OWNER {self.user};\n"
        )
        done = programs.run("postgres", "--single", "-D", str(fresh), "postgres", stdin=statements)
        # In this mode a failed statement does not show in the exit code.
        if done.returncode or "ERROR:" in done.stderr or "FATAL:" in done.stderr:
            message = f"The new database could not be set up: {_error_reason(done.stderr)}"
            raise SandboxError(message)
        fresh.rename(self._data)

    def _configure(self, data: Path, port: int) -> None:
        """Write ``postgresql.conf``, without a port if it is 0."""
        port_line = f"port = {port}\n" if port else ""
        fsync = f"fsync = {'on' if self._durable else 'off'}\n"
        _write_private(data / "postgresql.conf", _SETTINGS + port_line + fsync)

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
        done = programs.run("pg_ctl", "start", "-D", str(self._data), "-l", str(self.log), *_WAIT)
        if done.returncode:
            logged = (
                self.log.read_bytes()[size:].decode(errors="replace") if self.log.exists() else ""
            )
            # ERROR lines of the log are those of clients.
            fatal = "\n".join(line for line in logged.splitlines() if " ERROR:" not in line)
            reason = _error_reason(fatal or done.stderr or done.stdout)
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


def _write_private(path: Path, text: str) -> None:
    """Write a file that only the user who runs the server can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    _give_to_server_user(path)


def _give_to_server_user(path: Path) -> None:
    user = programs.server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def _error_reason(text: str) -> str:
    """Return the line of a program's output that names what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return "disk full (No space left on device)."
    for line in lines:
        for mark in ("FATAL:", "PANIC:", "ERROR:", "error:"):
            if mark in line:
                return line.partition(mark)[2].strip()
    return lines[-1] if lines else "no reason given"
