"""The tables of the dashboard, as columns of plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasync_monitor import words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from datasync_monitor.history import Run
    from datasync_monitor.shape import Rejected


def runs(rows: Sequence[Run]) -> list[dict[str, Any]]:
    """One line a run, newest first."""
    return [
        {
            "start (UTC)": _moment(run.started),
            "end (UTC)": _moment(run.ended),
            "took": words.duration(run.ended - run.started),
            "outcome": run.outcome,
            "pages": run.pages,
            "events": run.events,
            "handed to the loader": run.emitted,
            "rejected": run.rejected,
            "retries": run.retries,
            "waited": f"{run.waited:,.0f} s",
            "run": run.run_id,
        }
        for run in rows
    ]


def rejected(rows: Sequence[Rejected]) -> list[dict[str, Any]]:
    """One line a rejected event, newest first."""
    return [
        {
            "when (UTC)": _moment(row.rejected_at),
            "event": row.event_id or "(no id)",
            "reasons": "; ".join(map(str, row.reasons)),
            "as it came": row.raw,
            "page": row.page,
        }
        for row in rows
    ]


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
