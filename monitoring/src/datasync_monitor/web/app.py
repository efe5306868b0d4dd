"""The page: three fragments that refresh themselves, each at its own interval.

Streamlit runs this file for every visitor.
"""

from __future__ import annotations

import html
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import streamlit as st

from datasync_monitor import formatting
from datasync_monitor.database import DatabaseUnavailable
from datasync_monitor.event_stats import REJECTED, EventStats
from datasync_monitor.health import State
from datasync_monitor.web import cached_queries, charts, metric_cards

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_monitor.history import Timeline
    from datasync_monitor.progress import Progress

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
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


def _read(name: str, query: Callable[[], Any]) -> tuple[Any, str]:
    """Return a result and no error, or this visitor's last result (or None) and the error."""
    try:
        st.session_state[name] = query()
    except DatabaseUnavailable as error:
        return st.session_state.get(name), str(error)
    return st.session_state[name], ""


@st.fragment(run_every=cached_queries.INTERVAL_SECONDS)
def _show_progress() -> None:
    progress: Progress | None
    progress, error = _read("progress", cached_queries.progress)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title("Events load", anchor=False, width="content")
        if error:
            st.badge("database unavailable", color="red")
        elif progress:
            st.badge(str(progress.state), color=_COLOURS[progress.state])
        st.space("stretch")
        as_of = f"as of {progress.now:%Y-%m-%d %H:%M:%S} UTC" if progress else "not read yet"
        location = cached_queries.database().settings.location
        st.caption(f"{location} · {as_of}", width="content")
    if error:
        st.error(f"{error} Trying again every {cached_queries.INTERVAL_SECONDS:g} s.")
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
    for cards in (metric_cards.scan_cards(progress), metric_cards.detail_cards(progress)):
        for column, card in zip(st.columns(len(cards)), cards, strict=True):
            column.metric(*card, delta_color="off", delta_arrow="off", border=True)


@st.fragment(run_every=cached_queries.INTERVAL_SECONDS)
def _show_history() -> None:
    progress: Progress | None = st.session_state.get("progress")
    last_page = progress.snapshot.last_page if progress else None
    if progress is None or last_page is None:
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
    period = _PERIODS[chosen or _THIS_SCAN]
    since = progress.now - period if period else progress.totals.started_at or progress.now
    finished = progress.state is State.FINISHED
    until = last_page.received_at if finished else progress.now
    timeline: Timeline | None
    timeline, _ = _read(
        "timeline", lambda: cached_queries.timeline(_round_down(since), _round_down(until))
    )
    if timeline is None or not timeline.buckets:
        st.caption("No page in this period.")
    else:
        per = f"per {formatting.duration(timeline.width)}"
        left, right = st.columns(2)
        _show_chart(left, "Events per second", charts.throughput(timeline))
        _show_chart(right, f"Pages {per}, and requests left", charts.rate_limit(timeline))
        _show_chart(left, f"Rate limit waits {per}", charts.rate_limit_waits(timeline))
        _show_chart(right, f"Retries by cause {per}", charts.retries(timeline))
    syncs, _ = _read("syncs", cached_queries.syncs)
    if syncs:
        st.subheader("Syncs", anchor=False)
        _show_table(st, metric_cards.sync_table(syncs))


def _round_down(at: datetime) -> datetime:
    """Round to a whole interval, so that visitors at almost the same time share a result."""
    return at - (at - _EPOCH) % timedelta(seconds=cached_queries.INTERVAL_SECONDS)


@st.fragment(run_every=cached_queries.SLOW_INTERVAL_SECONDS)
def _show_events() -> None:
    stats: EventStats | None
    stats, error = _read("event_stats", cached_queries.event_stats)
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
    rejected, _ = _read("rejected", cached_queries.rejected)
    if rejected is None or progress is None or progress.state is State.IDLE:
        return
    errors, newest = rejected
    st.subheader("Rejected events", anchor=False)
    if not newest:
        st.caption("None.")
        return
    st.caption(f"Errors of the newest {REJECTED:,}, and the newest {len(newest)} in full.")
    left, right = st.columns([2, 3])
    _show_table(left, [{"error": error, "events": events} for error, events in errors.items()])
    _show_table(right, metric_cards.rejected_table(newest))


def _precision(stats: EventStats) -> str:
    if stats.exact:
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
    head = "".join(
        f"<th{_alignment(value)}>{html.escape(name)}</th>" for name, value in rows[0].items()
    )
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    column.html(
        f'<div class="datasync-table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value or "")
    return f"<td{_alignment(value)}>{html.escape(text)}</td>"


def _alignment(value: Any) -> str:
    return ' class="number"' if isinstance(value, int) else ""


st.set_page_config(page_title="Events load", page_icon=_ICON, layout="wide")
st.html(_STYLE)
_show_progress()
_show_history()
_show_events()
