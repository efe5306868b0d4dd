"""The progress without a terminal: one line a page, made for logs and grep."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING

from datasync_monitor import words
from datasync_monitor.health import State

if TYPE_CHECKING:
    from datasync_monitor.progress import Progress

_EVERY = timedelta(seconds=5)


def line(progress: Progress) -> str:
    """Say everything that the bar says, as `key=value` after the moment and the state.

    Seconds where a number has no unit; a value that is not known is left out.
    """
    last = progress.last_page
    parts: list[tuple[str, object]] = [("page", progress.pages), ("events", progress.seen)]
    if progress.total is not None:
        parts.append(("total", progress.total))
    if progress.fraction is not None:
        parts.append(("percent", words.percent(progress.fraction).removesuffix(" %")))
    if progress.rate is not None:
        parts.append(("rate", f"{progress.rate:.1f}/s"))
    if progress.eta is not None:
        parts.append(("eta", f"{progress.eta.total_seconds():.0f}s"))
    if progress.budget is not None:
        parts.append(("budget", f"{progress.budget.remaining}/{progress.budget.limit}"))
        wait = progress.budget.wait(progress.now)
        if wait is not None and progress.state is State.WAITING:
            parts.append(("wait", f"{ceil(wait.total_seconds())}s"))
    if progress.cursor_life is not None:
        parts.append(("cursor", f"{progress.cursor_life.total_seconds():.0f}s"))
    parts += [("rejected", progress.rejected), ("restarts", progress.restarts)]
    parts.append(("retries", sum(progress.retries.values())))
    if progress.checkpoint_age is not None:
        parts.append(("checkpoint_age", f"{progress.checkpoint_age.total_seconds():.0f}s"))
    if last is not None:
        parts.append(("run", last.run_id))
    facts = " ".join(f"{key}={value}" for key, value in parts)
    return f"{progress.now:%Y-%m-%dT%H:%M:%SZ} {progress.state} {facts} | {progress.activity}"


class PlainLines:
    """Decides which readings become lines: what is new, and not more than one in five seconds."""

    def __init__(self) -> None:
        self._said_at: datetime | None = None
        self._said: tuple[object, ...] = ()

    def next(self, progress: Progress) -> str | None:
        """Return the line for this reading, or None when there is nothing to say yet."""
        last = progress.last_page
        news = (progress.state, progress.seen, last and (last.run_id, last.page))
        if news == self._said:
            return None
        if self._said_at is not None and progress.now - self._said_at < _EVERY:
            return None
        return self._say(progress, news)

    def last(self, progress: Progress) -> str:
        """Return the closing line, which is said however short ago the one before was."""
        return self._say(progress, (progress.state, progress.seen))

    def _say(self, progress: Progress, news: tuple[object, ...]) -> str:
        self._said_at, self._said = progress.now, news
        return line(progress)
