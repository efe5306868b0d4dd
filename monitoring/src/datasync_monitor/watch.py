"""The live view of a load that runs somewhere else."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

from datasync_monitor.database import Settings, Unreachable
from datasync_monitor.health import State
from datasync_monitor.plain import PlainLines
from datasync_monitor.progress import Progress, read_progress
from datasync_monitor.reader import Reader
from datasync_monitor.terminal import LiveView, is_live

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from datetime import timedelta

    import psycopg


def readings(
    settings: Settings, *, patience: timedelta
) -> Generator[Progress | Unreachable, None, None]:
    """Read the progress again and again, for ever; a database that is gone is a reading too.

    The caller sets the pace: nothing is read before the next item is asked for. Close the
    generator to close the connection.
    """
    reader = Reader(settings)
    try:
        while True:
            try:
                yield reader.read(_read, patience)
            except Unreachable as error:  # noqa: PERF203 - the database is slower
                yield error
    finally:
        reader.close()


def _read(connection: psycopg.Connection, schema: str, patience: timedelta) -> Progress:
    return read_progress(connection, schema=schema, patience=patience)


def watch(
    settings: Settings, *, patience: timedelta, pause: Callable[[], None], follow: bool = False
) -> None:
    """Show the progress until the load is finished, or for ever with `follow`.

    Args:
        settings: where the tables are.
        patience: how long silence is allowed beyond every announced wait.
        pause: waits from one reading to the next.
        follow: go on after the end of a walk, for loads that start by themselves.
    """
    show = _live if is_live(sys.stdout) else _lines
    with closing(readings(settings, patience=patience)) as looking:
        show(looking, pause, follow=follow)


def _live(
    looking: Iterable[Progress | Unreachable], pause: Callable[[], None], *, follow: bool
) -> None:
    shown: Progress | None = None
    with LiveView() as view:
        for reading in looking:
            if isinstance(reading, Unreachable):
                view.update(shown, note=f"{reading} Trying again.")
            else:
                shown = reading
                view.update(reading)
                if reading.state is State.FINISHED and not follow:
                    break
            pause()


def _lines(
    looking: Iterable[Progress | Unreachable], pause: Callable[[], None], *, follow: bool
) -> None:
    lines, complaint = PlainLines(), ""
    for reading in looking:
        if isinstance(reading, Unreachable):
            if str(reading) != complaint:
                complaint = str(reading)
                print(f"{complaint} Trying again.", file=sys.stderr, flush=True)  # noqa: T201
        else:
            complaint = ""
            if reading.state is State.FINISHED and not follow:
                print(lines.last(reading), flush=True)  # noqa: T201
                break
            line = lines.next(reading)
            if line:
                print(line, flush=True)  # noqa: T201
        pause()
