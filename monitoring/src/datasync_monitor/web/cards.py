"""The numbers at the top of the page, as words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasync_monitor import words
from datasync_monitor.health import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_monitor.progress import Progress


def rows(progress: Progress) -> tuple[tuple[tuple[str, str, str], ...], ...]:
    """Lay the numbers out: a label, a value, and what belongs beside it."""
    total = (
        "so far"
        if progress.total is None
        else f"of {words.count(progress.total)} that the API counts"
    )
    life, age, budget = progress.cursor_life, progress.checkpoint_age, progress.budget
    wait = budget.wait(progress.now) if budget else None
    repeated = words.plural(sum(progress.retries.values()), "request repeated", "requests repeated")
    moving = progress.state in {State.RUNNING, State.WAITING}
    took = (
        progress.moved_at - progress.started_at
        if progress.moved_at and progress.started_at
        else None
    )
    return (
        (
            ("Events of this walk", words.count(progress.seen), total),
            (
                "Done",
                _or_dash(progress.fraction, words.percent),
                words.plural(progress.pages, "page"),
            ),
            (
                "Speed",
                _or_dash(progress.rate, words.per_second),
                "over the last 5 minutes" if moving else "in its last 5 minutes",
            ),
            ("Took", _or_dash(took, words.duration), "from first request to checkpoint")
            if progress.state is State.FINISHED
            else (
                "Time left",
                _or_dash(progress.eta, words.duration),
                "with the API's limit counted in",
            ),
        ),
        (
            (
                "Requests left",
                f"{budget.remaining} of {budget.limit}" if budget else "-",
                f"waiting {words.duration(wait)}" if wait and moving else "after the last page",
            ),
            (
                "Cursor lives",
                _or_dash(life, lambda span: words.duration(span) if span else "expired"),
                "no walk is open" if life is None else "and with it the walk's place",
            ),
            ("Checkpoint age", _or_dash(age, words.duration), "since the loader last wrote it"),
            (
                "Rejected events",
                words.count(progress.rejected),
                f"{words.plural(progress.restarts, 'restart')}, {repeated}",
            ),
        ),
    )


def _or_dash(value: Any, say: Callable[[Any], str]) -> str:
    return "-" if value is None else say(value)
