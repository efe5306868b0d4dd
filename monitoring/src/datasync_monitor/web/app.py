"""The page: three fragments that refresh themselves, each at its own interval.

Streamlit runs this file for every visitor. All visitors share one connection, and each result for
one interval.
"""

from __future__ import annotations

import html
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from datasync_monitor import formatting
from datasync_monitor.database import (
    DatabaseSettings,
    DatabaseUnavailable,
    ReconnectingConnection,
)
from datasync_monitor.progress import Progress, State, read_progress
from datasync_monitor.web import charts
from datasync_monitor.web.queries import (
    REJECTED,
    EventStats,
    Timeline,
    read_event_stats,
    read_rejected,
    read_syncs,
    read_timeline,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# The script's arguments; see `cli.web`.
_SCHEMA = sys.argv[1]
_INTERVAL, _STALL_TIMEOUT = (timedelta(seconds=float(argument)) for argument in sys.argv[2:4])
_SLOW_INTERVAL = 7.5 * _INTERVAL
"""Between queries of `events` and `rejected_events`: 15 s by default."""

_Result = TypeVar("_Result")

_THIS_SCAN = "this scan"
_PERIODS = {
    _THIS_SCAN: None,
    "15 min": timedelta(minutes=15),
    "1 h": timedelta(hours=1),
    "24 h": timedelta(hours=24),
    "7 d": timedelta(days=7),
}
_COLOURS: dict[State, Any] = {
    State.IDLE: "gray",
    State.RUNNING: "blue",
    State.WAITING: "orange",
    State.STUCK: "red",
    State.FINISHED: "green",
}
_STYLE = """
<style>
.stMainBlockContainer { padding-top: 2.5rem; max-width: 90rem; margin: 0 auto; }
/* A page that refreshes every two seconds must not fade every two seconds. */
[data-stale="true"] { opacity: 1 !important; }
.datasync-table { overflow: auto; max-height: 26rem; }
.datasync-table table { border-collapse: collapse; width: 100%; font-size: 0.85rem; }
.datasync-table th, .datasync-table td {
  text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid #e5e7eb; white-space: nowrap;
}
.datasync-table .number { text-align: right; font-variant-numeric: tabular-nums; }
</style>
"""
# An icon named in Streamlit's own way would be fetched from Google.
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<rect width="16" height="16" rx="3" fill="#2563eb"/>'
    '<path d="M4 11V8M8 11V5M12 11V3" stroke="#fff" stroke-width="2" stroke-linecap="round"/></svg>'
)


@st.cache_resource
def _database() -> ReconnectingConnection:
    return ReconnectingConnection(DatabaseSettings.from_environment(schema=_SCHEMA))


# Cached a little shorter than the interval, so that a refresh finds no result of the previous one.
@st.cache_data(ttl=0.8 * _INTERVAL, show_spinner=False)
def _current_progress() -> Progress:
    return _database().run(lambda connection: read_progress(connection, _STALL_TIMEOUT))


@st.cache_data(ttl=0.8 * _INTERVAL, show_spinner=False)
def _timeline(period: str, _progress: Progress) -> Timeline:
    """Read a timeline up to now. The cache has one for each period, whatever the progress."""
    snapshot, length = _progress.snapshot, _PERIODS[period]
    since = snapshot.now - length if length else snapshot.totals.started_at or snapshot.now
    until = snapshot.now
    if _progress.state is State.FINISHED and snapshot.last_page:
        until = snapshot.last_page.received_at
    return _database().run(lambda connection: read_timeline(connection, since, until))


@st.cache_data(ttl=0.8 * _SLOW_INTERVAL, show_spinner=False)
def _syncs() -> list[dict[str, Any]]:
    return _database().run(read_syncs)


@st.cache_data(ttl=0.8 * _SLOW_INTERVAL, show_spinner=False)
def _event_stats() -> EventStats:
    return _database().run(read_event_stats)


@st.cache_data(ttl=0.8 * _SLOW_INTERVAL, show_spinner=False)
def _rejected() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return _database().run(read_rejected)


def _read(name: str, query: Callable[..., _Result], *arguments: Any) -> tuple[_Result | None, str]:
    """Return a result and no error, or this visitor's last result (or None) and the error."""
    try:
        st.session_state[name] = query(*arguments)
    except DatabaseUnavailable as error:
        return st.session_state.get(name), str(error)
    return st.session_state[name], ""


@st.fragment(run_every=_INTERVAL)
def _show_progress() -> None:
    progress, error = _read("progress", _current_progress)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title("Events load", anchor=False, width="content")
        if error:
            st.badge("database unavailable", color="red")
        elif progress:
            st.badge(str(progress.state), color=_COLOURS[progress.state])
        st.space("stretch")
        as_of = (
            f"as of {progress.snapshot.now:%Y-%m-%d %H:%M:%S} UTC" if progress else "not read yet"
        )
        st.caption(f"{_database().settings.location} · {as_of}", width="content")
    if error:
        st.error(f"{error} Trying again every {_INTERVAL.total_seconds():g} s.")
    if progress is None:
        return
    if progress.state is State.IDLE:
        st.info("Nothing loaded yet. This page updates itself when a load has its first page.")
        return
    if progress.state is State.STUCK:
        st.error(
            f"The load is stuck: {progress.activity}. Start it again: it resumes from the "
            "checkpoint. If its process is still running, stop it first."
        )
    st.progress(progress.fraction or 0.0, text=progress.headline)
    columns = [*st.columns(4), *st.columns(4)]
    for column, (label, value, remark) in zip(columns, _metrics(progress), strict=True):
        column.metric(label, value, remark, delta_color="off", delta_arrow="off", border=True)


def _metrics(progress: Progress) -> tuple[tuple[str, str | None, str], ...]:
    """Return label, value and remark of each metric; Streamlit shows None as a dash."""
    snapshot, lifetime, rate = progress.snapshot, progress.cursor_lifetime, progress.rate
    limit, totals, expected = snapshot.rate_limit, snapshot.totals, snapshot.events_expected
    restarts = formatting.plural(progress.restarts, "restart")
    time_left = ("Time left", _duration(progress.time_left), "including waits for the rate limit")
    if progress.state is State.FINISHED:
        last, first = snapshot.last_activity_at, totals.started_at
        took = last - first if last and first else None
        time_left = ("Duration", _duration(took), "from first request to last page")
    return (
        (
            "Events of this scan",
            formatting.count(snapshot.events_seen),
            "so far" if expected is None else f"of {formatting.count(expected)} expected",
        ),
        (
            "Done",
            None if progress.fraction is None else formatting.percent(progress.fraction),
            formatting.plural(totals.pages, "page"),
        ),
        (
            "Throughput",
            None if rate is None else formatting.per_second(rate),
            "over the last 5 minutes of the scan",
        ),
        time_left,
        (
            "Requests left",
            f"{limit.remaining} of {limit.limit}" if limit else None,
            f"waiting {_duration(progress.wait)}" if progress.wait else "after the last page",
        ),
        (
            "Cursor expires in",
            _duration(lifetime) if lifetime or lifetime is None else "expired",
            "no scan in progress" if lifetime is None else "of the scan in progress",
        ),
        ("Checkpoint age", _duration(progress.checkpoint_age), "since it was last written"),
        (
            "Rejected events",
            formatting.count(totals.rejected),
            f"{restarts}, {formatting.plural(progress.retried_requests, 'retry', 'retries')}",
        ),
    )


def _duration(length: timedelta | None) -> str | None:
    return None if length is None else formatting.duration(length)


@st.fragment(run_every=_INTERVAL)
def _show_history() -> None:
    progress: Progress | None = st.session_state.get("progress")
    if progress is None or not progress.snapshot.pages:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Over time", anchor=False, width="content")
        st.space("stretch")
        chosen = st.segmented_control(
            "Period",
            list(_PERIODS),
            default=_THIS_SCAN,
            required=True,
            label_visibility="collapsed",
            key="period",
        )
    timeline, _ = _read("timeline", _timeline, chosen or _THIS_SCAN, progress)
    if timeline is None or not timeline.buckets:
        st.caption("No page in this period.")
    else:
        per = f"per {formatting.duration(timeline.width)}"
        left, right = st.columns(2)
        _show_chart(left, "Events per second", charts.throughput(timeline))
        _show_chart(right, f"Pages {per}, and requests left", charts.rate_limit(timeline))
        _show_chart(left, f"Rate limit waits {per}", charts.rate_limit_waits(timeline))
        _show_chart(right, f"Retries by cause {per}", charts.retries(timeline))
    syncs, _ = _read("syncs", _syncs)
    if syncs:
        st.subheader("Syncs", anchor=False)
        st.caption("Times are UTC.")
        _show_table(st, syncs)


@st.fragment(run_every=_SLOW_INTERVAL)
def _show_events() -> None:
    stats, error = _read("event_stats", _event_stats)
    if error:
        st.caption(error)
    if stats is not None and stats.counts:
        st.subheader("Loaded events", anchor=False)
        st.caption(f"{_precision(stats)} Times are UTC.")
        left, right = st.columns([2, 3])
        width = formatting.duration(stats.over_time()[0])
        _show_chart(left, "By type", charts.events_by_type(stats))
        _show_chart(right, f"By time, per {width}", charts.events_over_time(stats))
    progress: Progress | None = st.session_state.get("progress")
    rejected, _ = _read("rejected", _rejected)
    if rejected is None or progress is None or progress.state is State.IDLE:
        return
    errors, newest = rejected
    st.subheader("Rejected events", anchor=False)
    if not newest:
        st.caption("None.")
        return
    st.caption(f"Errors of the newest {REJECTED:,}, and the newest {len(newest)} in full.")
    left, right = st.columns([2, 3])
    _show_table(left, errors)
    _show_table(right, newest)


def _precision(stats: EventStats) -> str:
    if stats.sampling_interval == 1:
        return f"All {formatting.count(stats.events)} events counted."
    about = formatting.count(round(stats.events, -4))
    return (
        f"About {about} events, estimated from 1 in {stats.sampling_interval} blocks of the table."
    )


def _show_chart(column: Any, title: str, spec: charts.Spec | None) -> None:
    with column.container(border=True, height="stretch"):
        st.markdown(f"**{title}**")
        if spec is None:
            st.caption("None in this period.")
        else:
            st.vega_lite_chart(spec, width="stretch")


def _show_table(column: Any, rows: list[dict[str, Any]]) -> None:
    """Show rows as an HTML table; `st.dataframe` would need pandas and pyarrow."""
    if not rows:
        return
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    column.html(
        f'<div class="datasync-table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    if isinstance(value, datetime):
        value = f"{value:%Y-%m-%d %H:%M:%S}"
    elif isinstance(value, timedelta):
        value = formatting.duration(value)
    return f"<td>{html.escape(value or '')}</td>"


st.set_page_config(page_title="Events load", page_icon=_ICON, layout="wide")
st.html(_STYLE)
_show_progress()
_show_history()
_show_events()
