"""The health check: one line and an exit code, for a container or a cron job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from datasync_monitor.database import Settings, Unreachable, connect, translated
from datasync_monitor.progress import read_progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta


class Verdict(IntEnum):
    """The exit codes of `datasync-monitor check`."""

    HEALTHY = 0
    """Running and moving, waiting for the API's limit, finished, or nothing ever begun."""
    STUCK = 1
    """A walk has not ended, and nothing has moved for longer than any announced wait."""
    NO_DATABASE = 2
    """It does not answer, or refuses to be read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict with its one line of text."""

    verdict: Verdict
    text: str


def check(
    settings: Settings, *, patience: timedelta, clock: Callable[[], datetime] | None = None
) -> Outcome:
    """Look at the database once and judge."""
    try:
        with connect(settings) as connection, translated(connection, settings):
            progress = read_progress(
                connection, schema=settings.schema, clock=clock, patience=patience
            )
    except Unreachable as error:
        return Outcome(Verdict.NO_DATABASE, str(error))
    return Outcome(Verdict.HEALTHY if progress.state.healthy else Verdict.STUCK, progress.headline)
