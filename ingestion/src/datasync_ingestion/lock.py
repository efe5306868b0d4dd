"""One run at a time in a checkout."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from datasync_ingestion.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock while the body runs; the kernel lets go of it however we end.

    Args:
        path: The lock's file; it holds the process id of its owner.

    Raises:
        BusyError: Another run holds it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            message = (
                f"Another run is under way here (process {owner or 'unknown'}): "
                "wait for it, or stop it with Ctrl-C."
            )
            raise BusyError(message) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
