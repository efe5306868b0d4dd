"""Batch files on disk: which they are, and who removes them.

The tap owns the directory: it makes it (0700), writes one file a page and cleans up at its own
start. The loader removes each file after the commit of its rows. When it is killed in between, the
file stays; the tap's next start removes it, and so does `remove_leftovers`, for taps that do not.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from target_config.failures import InputError


def local_path(url: str) -> Path:
    """Return the path of a manifest entry: a file:// URL, or a plain absolute path.

    Raises:
        InputError: If it is not a file of this machine.
    """
    parts = urlsplit(url)
    path = Path(unquote(parts.path) if parts.scheme else url)
    if (
        parts.scheme not in {"", "file"}
        or parts.netloc not in {"", "localhost"}
        or not path.is_absolute()
    ):
        message = f"Batch file {url} is not a local file."
        raise InputError(message)
    return path


def remove(path: Path) -> None:
    """Remove a file whose rows are committed; it may be gone already. No link is followed."""
    path.unlink(missing_ok=True)


def remove_leftovers(first: Path) -> list[Path]:
    """Remove what a killed run left beside the first file of this run.

    A leftover is older than the first file that this run's tap has written, since a tap writes one
    after the other: files of this run that still wait for their BATCH message are never touched.
    Only regular files of the same kind (same suffixes) go, only in a directory that is ours alone,
    and links are neither followed nor removed.

    Returns:
        The files that were removed.
    """
    try:
        folder, limit = first.parent.lstat(), first.lstat().st_mtime_ns
    except FileNotFoundError:
        return []  # loading it will say so
    ours = folder.st_uid == os.geteuid() and not folder.st_mode & 0o077
    if not stat.S_ISDIR(folder.st_mode) or not ours:
        return []
    removed = []
    with os.scandir(first.parent) as entries:
        for entry in entries:
            path = Path(entry.path)
            if path.suffixes != first.suffixes or not entry.is_file(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_mtime_ns < limit:
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed
