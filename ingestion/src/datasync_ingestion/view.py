"""What the user sees while it runs: the view of `datasync-monitor`, fed from here."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from datasync_monitor.database import Settings, Unreachable
from datasync_monitor.plain import PlainLines
from datasync_monitor.progress import read_progress
from datasync_monitor.reader import Reader
from datasync_monitor.terminal import LiveView, is_live

from datasync_ingestion.console import say

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from datasync_monitor.health import State
    from typing_extensions import Self

    from datasync_ingestion.settings import Database

_EVERY_S = 1.0


class View:
    """A live bar on a terminal, and lines otherwise."""

    def __init__(self, database: Database, since: datetime) -> None:
        """Prepare it.

        Args:
            database: Where the progress is read.
            since: When this run began, by the database's clock.
        """
        self._reader = Reader(
            Settings(
                host=database.host,
                port=database.port,
                user=database.user,
                password=database.password,
                dbname=database.name,
            )
        )
        self._since = since
        self._live = LiveView() if is_live(sys.stdout) else None
        self._lines = PlainLines()
        self._said: tuple[State, int] | None = None
        self._next = 0.0
        self.note: str | None = None
        self.blind = False
        """Whether the last reading failed."""
        self._complained = False

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            # A terminal that has gone away needs no tidying up.
            with suppress(OSError):
                self._live.__exit__(kind, error, trace)
        self._reader.close()

    def say(self, message: str) -> None:
        """Put a line where it stays."""
        if self._live:
            self._live.say(message)
        else:
            say(message)

    def tick(self, *, last: bool = False) -> None:
        """Show the progress anew when it is time.

        Args:
            last: Whether this is the end, for which it is time in any case.
        """
        if not last and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        try:
            progress = self._reader.read(
                lambda connection, schema: read_progress(
                    connection, schema=schema, since=self._since
                )
            )
            self.blind = False
        except Unreachable as error:
            # The loader copes with it and tells of it; the view comes back by itself.
            self.blind = True
            if not self._complained:
                self._complained = True
                self.say(f"The progress cannot be shown for now. {error}")
            return
        if self._live:
            self._live.update(progress, self.note)
        elif last and (progress.state, progress.seen) == self._said:
            pass
        elif line := self._lines.last(progress) if last else self._lines.next(progress):
            self._said = (progress.state, progress.seen)
            say(line)
