"""The page: fragments that refresh by themselves, each at its own pace.

Streamlit runs this file anew for every visitor.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import streamlit as st

from datasync_monitor import words
from datasync_monitor.database import Unreachable
from datasync_monitor.health import State
from datasync_monitor.shape import REJECTED
from datasync_monitor.web import cards, figures, readings, tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_monitor.history import Timeline
    from datasync_monitor.progress import Progress
    from datasync_monitor.shape import Shape

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_WALK = "this walk"
_SPANS = {
    _WALK: None,
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


def _known(name: str, ask: Callable[[], Any]) -> tuple[Any, str]:
    """Ask the database; while it is gone, give what this visitor saw last, or None, and why."""
    try:
        st.session_state[name] = ask()
    except Unreachable as error:
        return st.session_state.get(name), str(error)
    return st.session_state[name], ""


@st.fragment(run_every=readings.OPTIONS.every)
def _now() -> None:
    """Show how far, how fast, how long still, and whether it is alive."""
    progress: Progress | None
    progress, gone = _known("progress", readings.progress)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title("Events load", anchor=False, width="content")
        if gone:
            st.badge("database unreachable", color="red")
        elif progress:
            st.badge(str(progress.state), color=_COLOURS[progress.state])
        st.space("stretch")
        seen = f"as of {progress.now:%Y-%m-%d %H:%M:%S} UTC" if progress else "never reached"
        st.caption(f"{readings.reader().settings.place} · {seen}", width="content")
    if gone:
        st.error(f"{gone} Trying again every {readings.OPTIONS.every:g} s.")
    if progress is None:
        return
    if progress.state is State.STUCK:
        st.error(
            f"The load is stuck: {progress.activity}. Its process hangs, is gone, or gets no "
            "answer from the API; starting it again goes on from the checkpoint."
        )
    _numbers(progress)


def _numbers(progress: Progress) -> None:
    if progress.state is State.IDLE:
        st.info(
            "Nothing loaded yet. This page fills by itself once a load has brought its first page."
        )
        return
    st.progress(progress.fraction or 0.0, text=progress.headline)
    for row in cards.rows(progress):
        for column, (label, value, beside) in zip(st.columns(len(row)), row, strict=True):
            column.metric(label, value, beside, delta_color="off", delta_arrow="off", border=True)


@st.fragment(run_every=readings.OPTIONS.every)
def _history() -> None:
    """Draw the load over time, and list its runs."""
    progress: Progress | None = st.session_state.get("progress")
    if progress is None or progress.last_page is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Over time", anchor=False, width="content")
        st.space("stretch")
        chosen = st.segmented_control(
            "Span",
            list(_SPANS),
            default=_WALK,
            required=True,
            label_visibility="collapsed",
            key="span",
        )
    span = _SPANS[chosen or _WALK]
    since = progress.now - span if span else progress.started_at or progress.now
    until = progress.last_page.received_at if progress.state is State.FINISHED else progress.now
    timeline: Timeline | None
    timeline, _ = _known("timeline", lambda: readings.timeline(_rounded(since), _rounded(until)))
    if timeline is None or not timeline.slices:
        st.caption("No page in this span.")
    else:
        width = words.duration(timeline.width)
        left, right = st.columns(2)
        _chart(left, f"Events per second, each {width}", figures.rate(timeline))
        _chart(right, f"Pages and requests left, each {width}", figures.budget(timeline))
        _chart(left, f"Waiting for the API's limit, each {width}", figures.waits(timeline))
        _chart(right, f"Repeated requests by cause, each {width}", figures.faults(timeline))
    runs, _ = _known("runs", readings.runs)
    if runs:
        st.subheader("Runs", anchor=False)
        grouped = st.column_config.NumberColumn(format="localized")
        counted = ("pages", "events", "handed to the loader", "rejected", "retries")
        st.dataframe(
            tables.runs(runs), hide_index=True, column_config=dict.fromkeys(counted, grouped)
        )


def _rounded(moment: datetime) -> datetime:
    """Cut to a whole refresh, so that visitors at almost the same moment share an answer."""
    step = timedelta(seconds=readings.OPTIONS.every)
    return moment - (moment - _EPOCH) % step


def _chart(place: Any, title: str, chart: Any | None) -> None:
    with place.container(border=True, height="stretch"):
        st.markdown(f"**{title}**")
        if chart is None:
            st.caption("None in this span.")
        else:
            st.altair_chart(chart, width="stretch")


@st.fragment(run_every=readings.SLOWLY_S)
def _contents() -> None:
    """Show what was loaded, so that people see whether it makes sense, and what was not."""
    shape: Shape | None
    shape, refused = _known("shape", readings.shape)
    if refused:
        st.caption(refused)
    if shape is not None and shape.counts:
        st.subheader("What is in the table", anchor=False)
        how = (
            f"All {words.count(shape.events)} events counted."
            if shape.exact
            else f"Estimated from every {words.ordinal(shape.one_in)} block of the table: "
            f"about {words.count(round(shape.events, -4))} events."
        )
        st.caption(f"{how} Times are UTC.")
        left, right = st.columns([2, 3])
        _chart(left, "By type", figures.by_type(shape))
        _chart(
            right, f"By time, each {words.duration(shape.over_time()[0])}", figures.by_hour(shape)
        )
    progress: Progress | None = st.session_state.get("progress")
    known, _ = _known("rejected", readings.rejected)
    if known is None or progress is None or progress.state is State.IDLE:
        return
    reasons, rows = known
    st.subheader("Rejected events", anchor=False)
    if not rows:
        st.caption("None.")
        return
    st.caption(
        f"The reasons of the newest {words.count(REJECTED)}, and the newest {len(rows)} themselves."
    )
    left, right = st.columns([2, 3])
    left.dataframe(
        [{"reason": reason, "events": n} for reason, n in reasons.items()], hide_index=True
    )
    right.dataframe(tables.rejected(rows), hide_index=True)


# An icon of Streamlit's own names would be fetched from Google; this one travels with the page.
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<rect width="16" height="16" rx="3" fill="#2563eb"/>'
    '<path d="M4 11V8M8 11V5M12 11V3" stroke="#fff" stroke-width="2" stroke-linecap="round"/></svg>'
)
st.set_page_config(page_title="Events load", page_icon=_ICON, layout="wide")
st.html(
    "<style>"
    ".stMainBlockContainer { padding-top: 2.5rem; max-width: 90rem; margin: 0 auto; }"
    # A page that refreshes every two seconds must not fade every two seconds.
    '[data-stale="true"] { opacity: 1 !important; }'
    "</style>"
)
_now()
_history()
_contents()
