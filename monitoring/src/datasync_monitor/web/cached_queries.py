"""The queries of the page. All visitors share one connection, and each result for one interval."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from datasync_monitor.database import DatabaseSettings, ReconnectingConnection
from datasync_monitor.event_stats import (
    EventStats,
    RejectedEvent,
    read_errors,
    read_event_stats,
    read_rejected,
)
from datasync_monitor.history import Sync, Timeline, read_syncs, read_timeline
from datasync_monitor.progress import Progress, read_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

Result = TypeVar("Result")

# The script's arguments; see `launch.command`.
_SCHEMA, _INTERVAL, _STALL_TIMEOUT = sys.argv[1:4]
INTERVAL_SECONDS = float(_INTERVAL)
SLOW_INTERVAL_SECONDS = 7.5 * INTERVAL_SECONDS
"""Between queries of `events` and `rejected_events`: 15 s by default."""

# A little shorter than the interval, so that a refresh finds no result of the previous one.
_TTL = 0.8 * INTERVAL_SECONDS
_SLOW_TTL = 0.8 * SLOW_INTERVAL_SECONDS


@st.cache_resource
def database() -> ReconnectingConnection:
    """Return the shared connection."""
    return ReconnectingConnection(DatabaseSettings.from_environment(schema=_SCHEMA))


def _run(query: Callable[[psycopg.Connection[Any], str], Result]) -> Result:
    return database().run(lambda connection: query(connection, _SCHEMA))


@st.cache_data(ttl=_TTL, show_spinner=False)
def progress() -> Progress:
    """Read the progress."""
    stall_timeout = timedelta(seconds=float(_STALL_TIMEOUT))
    return _run(
        lambda connection, schema: read_progress(
            connection, schema=schema, stall_timeout=stall_timeout
        )
    )


@st.cache_data(ttl=_TTL, show_spinner=False)
def timeline(since: datetime, until: datetime) -> Timeline:
    """Read the history since `since`; see `read_timeline`."""
    return _run(lambda connection, schema: read_timeline(connection, schema, since, until))


@st.cache_data(ttl=_SLOW_TTL, show_spinner=False)
def syncs() -> tuple[Sync, ...]:
    """Read the newest syncs."""
    return _run(read_syncs)


@st.cache_data(ttl=_SLOW_TTL, show_spinner=False)
def event_stats() -> EventStats:
    """Count or sample the events."""
    return _run(read_event_stats)


@st.cache_data(ttl=_SLOW_TTL, show_spinner=False)
def rejected() -> tuple[dict[str, int], tuple[RejectedEvent, ...]]:
    """Read the errors of the rejected events, and the newest of them."""
    return _run(read_errors), _run(read_rejected)
