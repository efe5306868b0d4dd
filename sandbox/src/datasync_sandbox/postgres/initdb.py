"""Creating a PostgreSQL server: its directory, its data, its settings.

All of it belongs to the user who runs the server; see `datasync_sandbox.postgres.binaries`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from datasync_sandbox.errors import SandboxError
from datasync_sandbox.postgres import binaries

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
_LINK_FILE = "link"


def make_directory(directory: Path) -> None:
    """Create the directory of a server for the user who runs it.

    Where that user cannot reach it, the content goes to the system's directory, and a link takes
    its place.

    Raises:
        SandboxError: If it exists and that user cannot use it.
    """
    if not directory.exists():
        directory.unlink(missing_ok=True)  # a link to data that was deleted
        directory.parent.mkdir(parents=True, exist_ok=True)
        if binaries.reachable(directory.parent):
            directory.mkdir(mode=0o700)
        else:
            _make_in_system_directory(directory)
        _give_to_server_user(directory)
    elif not binaries.reachable(directory):
        message = (
            f"The user who runs PostgreSQL cannot reach {directory}, because a directory above it "
            "is closed to others. Remove it: the next start creates it elsewhere."
        )
        raise SandboxError(message)


def is_copied_link(directory: Path) -> bool:
    """Return whether a directory is a copy of a link, whose data belongs to the original."""
    if not directory.is_symlink():
        return False
    target = directory.resolve()
    with suppress(OSError):
        original = Path((target / _LINK_FILE).read_text())
        return original != directory and original.is_symlink() and original.resolve() == target
    return False


def write_private(path: Path, text: str) -> None:
    """Write a file that only the user who runs the server can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    _give_to_server_user(path)


def initialise(data: Path, statements: str, *, durable: bool) -> None:
    """Create the data of a server in a new directory, completely or not at all.

    Args:
        data: Directory of the data; does not exist yet.
        statements: SQL to run in it, one statement per line.
        durable: Whether to wait until it is on the disk.

    Raises:
        SandboxError: If it fails.
    """
    fresh = data.with_name(f"{data.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    done = binaries.run(
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
        *(() if durable else ("--no-sync",)),
    )
    if done.returncode:
        reason = error_reason(done.stderr + done.stdout)
        message = f"The database could not be created in {data.parent}: {reason}"
        raise SandboxError(message)
    write_private(fresh / "pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")
    configure(fresh, 0, durable=durable)
    done = binaries.run("postgres", "--single", "-D", str(fresh), "postgres", stdin=statements)
    # In this mode a failed statement does not show in the exit code.
    if done.returncode or "ERROR:" in done.stderr or "FATAL:" in done.stderr:
        message = f"The new database could not be set up: {error_reason(done.stderr)}"
        raise SandboxError(message)
    fresh.rename(data)


def configure(data: Path, port: int, *, durable: bool) -> None:
    """Write ``postgresql.conf``, without a port if it is 0."""
    port_line = f"port = {port}\n" if port else ""
    fsync = f"fsync = {'on' if durable else 'off'}\n"
    write_private(data / "postgresql.conf", _SETTINGS + port_line + fsync)


def error_reason(text: str) -> str:
    """Return the line of a program's output that names what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return "disk full (No space left on device)."
    for line in lines:
        for mark in ("FATAL:", "PANIC:", "ERROR:", "error:"):
            if mark in line:
                return line.partition(mark)[2].strip()
    return lines[-1] if lines else "no reason given"


def _make_in_system_directory(directory: Path) -> None:
    data = binaries.SYSTEM_DIRECTORY / "data"
    for parent in (binaries.SYSTEM_DIRECTORY, data):
        parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # A new name each time, known to the link alone: one derived from the path would lead the next
    # project at this path to the data of one that was moved away.
    target = Path(tempfile.mkdtemp(prefix="pg-", dir=data))
    write_private(target / _LINK_FILE, str(directory))
    directory.symlink_to(target, target_is_directory=True)


def _give_to_server_user(path: Path) -> None:
    user = binaries.server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
