"""The bulk lane's files: one page each, JSON lines, in a private directory.

The loader deletes a file once its rows are committed. What a killed run left is deleted
when the next one starts: its events are sent again.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from tap_datasync.failures import EXIT_CONFIG, TapDataSyncError

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = re.compile(r"events-[0-9a-f-]{36}-\d+\.jsonl(\.part)?")
_ENCODER = msgspec.json.Encoder()


class BulkDirectoryError(TapDataSyncError):
    """The directory for bulk files cannot be used."""

    exit_code = EXIT_CONFIG


class BulkFileError(TapDataSyncError):
    """A page cannot be written: the disk is full, say. A later run may succeed."""


class BulkDirectory:
    """The directory that holds the pages on their way to the loader."""

    def __init__(self, root: str, run_id: str) -> None:
        """Make the directory, private, and remove what an earlier run left.

        Args:
            root: ``file://`` address or path.
            run_id: Part of the files' names.

        Raises:
            BulkDirectoryError: It is not a directory of ours alone.
        """
        parts = urlsplit(root)
        if parts.scheme not in {"", "file"} or parts.netloc:
            msg = f"batch_config.storage.root must be a local directory, not '{root}'."
            raise BulkDirectoryError(msg)
        place = unquote(parts.path) if parts.scheme else root
        self._path = Path(place).absolute()
        self._run_id = run_id
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._path.lstat()
        except OSError as error:
            msg = f"The directory for bulk files cannot be made: {error}."
            raise BulkDirectoryError(msg) from error
        if not stat.S_ISDIR(status.st_mode):
            msg = f"The directory for bulk files, {self._path}, is a link. Name where it leads."
            raise BulkDirectoryError(msg)
        if status.st_uid != os.geteuid():
            msg = f"The directory for bulk files, {self._path}, belongs to somebody else."
            raise BulkDirectoryError(msg)
        if status.st_mode & 0o077:
            msg = (
                f"The directory for bulk files, {self._path}, is open to others. Make it "
                "private (chmod 700), or name one that does not exist yet."
            )
            raise BulkDirectoryError(msg)
        try:
            for path in self._path.iterdir():
                if _NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    path.unlink(missing_ok=True)
        except OSError as error:
            msg = f"The directory for bulk files cannot be cleaned: {error}."
            raise BulkDirectoryError(msg) from error

    def write(self, number: int, records: Iterable[msgspec.Struct]) -> str:
        """Write one page's records; returns the file's address.

        The file gets its name only when it is whole.

        Raises:
            BulkFileError: The disk does not take it.
        """
        path = self._path / f"events-{self._run_id}-{number:06}.jsonl"
        part = path.with_suffix(".jsonl.part")
        try:
            part.write_bytes(_ENCODER.encode_lines(records))
            part.rename(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            msg = f"A page cannot be written to {path.parent}: {error.strerror}."
            raise BulkFileError(msg) from error
        return path.as_uri()
