"""Making a PostgreSQL server: its directory, its data, its settings.

Everything is done as the user who runs the server; see `datasync_sandbox.binaries`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from datasync_sandbox import binaries
from datasync_sandbox.errors import SandboxError

if TYPE_CHECKING:
    from pathlib import Path

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    # A loading database on a laptop: few clients, long transactions of COPY.
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "1GB",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    # No replica will ever read the log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
_HBA = "host all all 127.0.0.1/32 scram-sha-256\n"


def make_directory(directory: Path) -> None:
    """Make the directory of a server, for the user who runs it.

    Where that user cannot reach it, the content goes elsewhere and a link takes its place.

    Args:
        directory: Absolute path.

    Raises:
        SandboxError: If it exists and is of no use to that user.
    """
    if not directory.exists():
        directory.unlink(missing_ok=True)  # a link to what was thrown away
        directory.parent.mkdir(parents=True, exist_ok=True)
        if binaries.reachable(directory):
            directory.mkdir(mode=0o700)
        else:
            _make_elsewhere(directory)
        _own(directory)
    elif not binaries.reachable(directory):
        message = (
            f"The user who runs PostgreSQL cannot reach {directory}, because a directory above it "
            "is closed to others; remove it, and it is made anew elsewhere."
        )
        raise SandboxError(message)
    user = binaries.server_user()
    if directory.stat().st_uid != (os.geteuid() if user is None else user.pw_uid):
        message = f"{directory} belongs to another user; remove it, or run this as its owner."
        raise SandboxError(message)


def initialise(data: Path, statements: str, *, durable: bool) -> None:
    """Make the data of a server, all or nothing.

    Args:
        data: Where the data goes; does not exist yet.
        statements: SQL to run in it, one statement a line.
        durable: Whether to wait until it is on the disk.

    Raises:
        SandboxError: If it fails.
    """
    fresh = data.with_name(f"{data.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    done = run(
        "initdb",
        f"--pgdata={fresh}",
        # Without a password the superuser cannot log in over TCP; what runs below needs no login.
        "--username=postgres",
        "--auth-host=scram-sha-256",
        "--auth-local=reject",
        "--encoding=UTF8",
        # The same on every machine, whatever locales it has.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        *(() if durable else ("--no-sync",)),
    )
    if done.returncode:
        message = f"initdb failed: {last_line(done.stderr or done.stdout)}"
        raise SandboxError(message)
    _write(fresh / "pg_hba.conf", _HBA)
    configure(fresh, 0, durable=durable)
    done = run("postgres", "--single", "-D", str(fresh), "postgres", stdin=statements)
    # In this mode a failed statement does not show in the exit code.
    if done.returncode or "ERROR:" in done.stderr or "FATAL:" in done.stderr:
        message = f"The new database could not be set up: {last_line(done.stderr)}"
        raise SandboxError(message)
    fresh.rename(data)


def configure(data: Path, port: int, *, durable: bool) -> None:
    """Write ``postgresql.conf``.

    Args:
        data: Data directory.
        port: Port on loopback; 0 when it does not matter yet.
        durable: Whether to keep ``fsync`` on.
    """
    settings = {**_SETTINGS, "fsync": "on" if durable else "off"}
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    head = [
        "# Written anew at each start by datasync-sandbox.",
        *([f"port = {port}"] if port else []),
    ]
    _write(data / "postgresql.conf", "\n".join([*head, *lines, ""]))


def run(program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as the user who runs the server.

    Args:
        program: Its name.
        *arguments: Its arguments.
        stdin: What it reads.

    Returns:
        How it ended and what it said.
    """
    return subprocess.run(  # noqa: S603 - a program of ours
        [binaries.bin_directory() / program, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=binaries.clean_environment(),
        **binaries.as_server_user(),
    )


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _make_elsewhere(directory: Path) -> None:
    """Put a directory where the server's user can reach it, and a link in its place."""
    data = binaries.ELSEWHERE / "data"
    for parent in (binaries.ELSEWHERE, data):
        parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # A fresh name each time, which the link alone knows: one made from the path would be found
    # by the next project at this path, when this one has been moved and its server still runs.
    target = tempfile.mkdtemp(prefix="pg-", dir=data)
    directory.symlink_to(target, target_is_directory=True)


def _write(path: Path, text: str) -> None:
    """Write a file for the user who runs the server."""
    path.write_text(text)
    _own(path)


def _own(path: Path) -> None:
    """Give a path to the user who runs the server."""
    user = binaries.server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
