"""The progress in a terminal: a live bar, or log lines where there is none."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import IO, TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from datasync_monitor import formatting
from datasync_monitor.database import DatabaseUnavailable, ReconnectingConnection
from datasync_monitor.progress import State, read_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import ConsoleOptions, RenderResult

    from datasync_monitor.database import DatabaseSettings
    from datasync_monitor.progress import Progress

_STYLES = {
    State.IDLE: "dim",
    State.RUNNING: "cyan",
    State.WAITING: "yellow",
    State.STUCK: "bold red",
    State.FINISHED: "green",
}
_BAR_WIDTH = 40
_CURSOR_ALERT = timedelta(seconds=30)
_LINE_INTERVAL = timedelta(seconds=5)


def is_live(stream: IO[str]) -> bool:
    """Whether the stream is a terminal on which a line can be replaced."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown", ""}


@dataclass(frozen=True, slots=True)
class ProgressView:
    """A rich renderable of one `Progress`, with an optional note below it.

    Narrow terminals get the same values in more lines, broken between values.
    """

    progress: Progress
    note: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the values out for the console's width."""
        width, ascii_only = options.max_width, options.ascii_only
        separator = Text(" | " if ascii_only else " · ", style="dim")
        bar = self._bar(min(_BAR_WIDTH, width - 18), ascii_only=ascii_only)
        lines = [*_flow([bar, *self._amounts()], separator, width)]
        lines += _flow(self._details(), separator, width)
        for line in lines:
            line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
        if self.note:
            lines += Text(self.note, style="magenta").wrap(console, width)
        yield Group(*lines)

    def _bar(self, width: int, *, ascii_only: bool) -> Text:
        progress, style = self.progress, _STYLES[self.progress.state]
        bar = Text().append(f"{progress.state!s:<9}", style=style)
        filled, empty = ("#", "-") if ascii_only else ("━", "─")
        done = int(max(0, width) * (progress.fraction or 0.0))
        bar.append(filled * done, style=style).append(empty * (width - done), style="dim")
        if progress.fraction is not None:
            bar.append(f" {formatting.percent(progress.fraction):>7}", style="bold")
        return bar

    def _amounts(self) -> Iterator[Text]:
        progress = self.progress
        yield Text(progress.amount)
        if progress.rate is not None:
            yield Text(formatting.per_second(progress.rate))
        if progress.time_left is not None:
            yield Text(f"{formatting.duration(progress.time_left)} left", style="bold")

    def _details(self) -> Iterator[Text]:
        progress = self.progress
        yield Text(progress.activity, style=_STYLES[progress.state])
        totals = progress.snapshot.totals
        if totals.pages:
            yield Text(formatting.plural(totals.pages, "page"))
        lifetime = progress.cursor_lifetime
        if lifetime is not None:
            text = f"cursor {formatting.duration(lifetime)}" if lifetime else "cursor expired"
            yield Text(text, style="red" if lifetime < _CURSOR_ALERT else "")
        if totals.pages:
            for number, text in (
                (totals.rejected, f"{formatting.count(totals.rejected)} rejected"),
                (progress.restarts, formatting.plural(progress.restarts, "restart")),
            ):
                yield Text(text, style="yellow" if number else "")
        if progress.retried_requests:
            yield Text(formatting.plural(progress.retried_requests, "retry", "retries"))
        age = progress.checkpoint_age
        if age is not None and progress.state is not State.FINISHED:
            yield Text(f"checkpoint {formatting.duration(age)} old")


def _flow(values: Iterable[Text], separator: Text, width: int) -> list[Text]:
    """Join values into lines of at most `width` cells, broken between values."""
    lines: list[Text] = []
    for value in values:
        if lines and lines[-1].cell_len + separator.cell_len + value.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], separator, value)
        else:
            lines.append(value)
    return lines


class LiveView:
    """Shows the newest `Progress` in place; the final one stays on the screen."""

    def __init__(self, console: Console | None = None) -> None:
        """Prepare the view; nothing is shown yet."""
        self.console = console or Console()
        # Without a thread: the caller refreshes, and no signal or stream is redirected.
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="visible",
        )

    def __enter__(self) -> LiveView:  # noqa: PYI034 - Self is not in the typing of Python 3.10
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, progress: Progress | None, note: str | None = None) -> None:
        """Show this progress with a note below it, or the note alone."""
        view = ProgressView(progress, note) if progress else Text(note or "", style="magenta")
        self._live.update(view, refresh=True)

    def print(self, message: str) -> None:
        """Print a line above the progress, where it stays."""
        self.console.print(Text(message))


class LogLines:
    """Turns the progress into log lines: one for a change, at most one in five seconds.

    A line has the time, the state and `key=value`. Durations are in seconds; a value that is not
    known is left out.
    """

    def __init__(self) -> None:
        """Start with nothing printed."""
        self._printed_at: datetime | None = None
        self._printed: tuple[object, ...] = ()

    def next(self, progress: Progress, *, last: bool = False) -> str | None:
        """Return the line for this progress, or None where none is due; the last one always is."""
        snapshot, page = progress.snapshot, progress.snapshot.last_page
        content = (progress.state, snapshot.events_seen, page and (page.sync_id, page.page))
        early = self._printed_at is not None and snapshot.now - self._printed_at < _LINE_INTERVAL
        if not last and (early or content == self._printed):
            return None
        self._printed_at, self._printed = snapshot.now, content
        return _log_line(progress)


def _log_line(progress: Progress) -> str:
    snapshot, fraction, rate = progress.snapshot, progress.fraction, progress.rate
    page, limit = snapshot.last_page, snapshot.rate_limit
    fields: dict[str, object | None] = {
        "pages": snapshot.totals.pages,
        "events": snapshot.events_seen,
        "expected": snapshot.events_expected,
        "percent": None if fraction is None else formatting.percent(fraction)[:-2],
        "rate": None if rate is None else f"{rate:.1f}/s",
        "time_left": _seconds(progress.time_left),
        "rate_limit": limit and f"{limit.remaining}/{limit.limit}",
        "wait": _seconds(progress.wait),
        "cursor": _seconds(progress.cursor_lifetime),
        "rejected": snapshot.totals.rejected,
        "restarts": progress.restarts,
        "retries": progress.retried_requests,
        "checkpoint_age": _seconds(progress.checkpoint_age),
        "sync": page and page.sync_id,
    }
    known = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
    return f"{snapshot.now:%Y-%m-%dT%H:%M:%SZ} {progress.state} {known} | {progress.activity}"


def _seconds(length: timedelta | None) -> str | None:
    return None if length is None else f"{ceil(length.total_seconds())}s"


def watch(
    settings: DatabaseSettings,
    *,
    stall_timeout: timedelta,
    pause: Callable[[], None],
    follow: bool = False,
) -> None:
    """Show the progress until the load is finished, or with `follow` until interrupted.

    Args:
        settings: where the tables are.
        stall_timeout: see `progress`.
        pause: waits between two readings.
        follow: continue after the end of a scan, for loads that run on a schedule.
    """
    view, lines = LiveView() if is_live(sys.stdout) else None, LogLines()
    progress, reported = None, ""
    with ReconnectingConnection(settings) as database, view or nullcontext():
        while True:
            try:
                progress = database.run(lambda connection: read_progress(connection, stall_timeout))
                error = ""
            except DatabaseUnavailable as unavailable:
                error = f"{unavailable} Trying again."
            finished = not error and progress is not None and progress.state is State.FINISHED
            last = finished and not follow
            if view:
                view.update(progress, error)
            elif error:
                if error != reported:
                    print(error, file=sys.stderr, flush=True)  # noqa: T201
            elif progress and (line := lines.next(progress, last=last)):
                print(line, flush=True)  # noqa: T201
            reported = error
            if last:
                return
            pause()
