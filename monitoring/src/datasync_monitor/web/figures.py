"""The charts of the dashboard: data in, Altair charts out."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import altair as alt

if TYPE_CHECKING:
    from datasync_monitor.history import Timeline
    from datasync_monitor.shape import Shape

Figure: TypeAlias = Any
"""An Altair chart; its fluent calls have no types."""

BLUE, GREEN, AMBER, SLATE = "#2563eb", "#0f9d76", "#d97706", "#64748b"
_PALETTE = ["#2563eb", "#0f9d76", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#64748b", "#84cc16"]
_HEIGHT = 200
_FROM_ZERO = alt.Scale(domainMin=0)


def _time_axis(timeline: Timeline) -> alt.X:
    """The same axis under all charts of one timeline, so that they can be compared by eye."""
    first, last = timeline.slices[0].at, timeline.slices[-1].at + timeline.width
    span = last - first
    form = (
        "%H:%M:%S"
        if span < timedelta(minutes=10)
        else "%H:%M"
        if span <= timedelta(days=1)
        else "%d %b"
    )
    axis = alt.Axis(format=form, labelOverlap=True, tickCount=6)
    return alt.X("at:T", title=None, axis=axis).scale(
        type="utc", domain=[first.isoformat(), last.isoformat()]
    )


def _data(values: list[dict[str, Any]]) -> Any:
    return alt.Data(values=values)  # type: ignore[no-untyped-call]


def _bar(timeline: Timeline) -> dict[str, Any]:
    """Bars from the start of their stretch, as wide as some 450 pixels have room for."""
    return {"align": "left", "size": max(2.0, 0.8 * 450 / len(timeline.slices)), "clip": True}


def _points(timeline: Timeline) -> Any:
    # Vega takes times without a zone as local to the browser; the dashboard speaks UTC throughout.
    return _data(
        [
            {
                "at": point.at.isoformat(),
                "rate": round(point.rate, 1),
                "pages": point.pages,
                "waited": round(point.waited, 1),
                "budget": point.budget_remaining,
            }
            for point in timeline.slices
        ]
    )


def rate(timeline: Timeline) -> Figure:
    """Events per second."""
    return (
        alt.Chart(_points(timeline), height=_HEIGHT)
        .mark_area(interpolate="step-after", line={"color": BLUE}, color=BLUE, opacity=0.18)
        .encode(
            _time_axis(timeline),
            alt.Y("rate:Q", title="events/s", axis=alt.Axis(format="~s", tickCount=4)),
            tooltip=[_when(), alt.Tooltip("rate:Q", title="events/s", format=",.1f")],
        )
    )


def budget(timeline: Timeline) -> Figure:
    """Pages as bars, and the least that was left of the request budget as a line."""
    base = alt.Chart(_points(timeline), height=_HEIGHT).encode(_time_axis(timeline))
    tip = [_when(), alt.Tooltip("pages:Q"), alt.Tooltip("budget:Q", title="requests left")]
    pages = base.mark_bar(color=GREEN, opacity=0.55, **_bar(timeline)).encode(
        alt.Y(
            "pages:Q", title="pages", axis=alt.Axis(tickMinStep=1, titleColor=GREEN, tickCount=4)
        ),
        tooltip=tip,
    )
    left = (
        base.transform_filter("isValid(datum.budget)")
        .mark_line(color=AMBER, interpolate="step-after", point={"color": AMBER, "size": 18})
        .encode(
            alt.Y(
                "budget:Q",
                title="requests left",
                axis=alt.Axis(tickMinStep=1, titleColor=AMBER, tickCount=4),
            ),
            tooltip=tip,
        )
    )
    return alt.layer(pages, left).resolve_scale(y="independent")


def waits(timeline: Timeline) -> Figure | None:
    """Seconds spent waiting for the API's limit; None where there was no need to."""
    if not any(point.waited for point in timeline.slices):
        return None
    return (
        alt.Chart(_points(timeline), height=_HEIGHT)
        .mark_bar(color=SLATE, opacity=0.7, **_bar(timeline))
        .encode(
            _time_axis(timeline),
            alt.Y("waited:Q", title="seconds waited", axis=alt.Axis(tickCount=4), scale=_FROM_ZERO),
            tooltip=[_when(), alt.Tooltip("waited:Q", title="seconds", format=",.1f")],
        )
    )


def faults(timeline: Timeline) -> Figure | None:
    """Repeated requests by cause; None where there were none."""
    if not timeline.faults:
        return None
    values: list[dict[str, Any]] = [
        {
            "at": fault.at.isoformat(),
            "cause": fault.cause,
            "retries": fault.retries,
        }
        for fault in timeline.faults
    ]
    return (
        alt.Chart(_data(values), height=_HEIGHT)
        .mark_bar(**_bar(timeline))
        .encode(
            _time_axis(timeline),
            alt.Y(
                "retries:Q", title="repeated requests", axis=alt.Axis(tickMinStep=1, tickCount=4)
            ),
            alt.Color(
                "cause:N",
                title=None,
                scale=alt.Scale(range=_PALETTE[2:]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[_when(), "cause:N", "retries:Q"],
        )
    )


def by_type(shape: Shape) -> Figure:
    """Events by type, the most frequent on top."""
    total = shape.events
    values: list[dict[str, Any]] = [
        {"type": name, "events": events, "label": f"{events:,} · {100 * events / total:.1f} %"}
        for name, events in shape.by_type().items()
    ]
    base = alt.Chart(_data(values), height=max(_HEIGHT, 34 * len(values))).encode(
        alt.Y("type:N", title=None, sort=None, axis=alt.Axis(labelLimit=160)),
        alt.X(
            "events:Q",
            title=None,
            axis=None,
            scale=alt.Scale(domain=[0, 1.45 * max(v["events"] for v in values)]),
        ),
        tooltip=["type:N", alt.Tooltip("events:Q", format=",")],
    )
    bars = base.mark_bar(color=BLUE, cornerRadiusEnd=3, height={"band": 0.65})
    return alt.layer(bars, base.mark_text(align="left", dx=6, color=SLATE).encode(text="label:N"))


def by_hour(shape: Shape) -> Figure:
    """Events over their own time, stacked by type."""
    width, sums = shape.over_time()
    values: list[dict[str, Any]] = [
        {"at": at.isoformat(), "to": (at + width).isoformat(), "type": name, "events": events}
        for (at, name), events in sums.items()
    ]
    order = list(shape.by_type())
    axis = alt.Axis(
        format="%d %b" if width > timedelta(hours=1) else "%d %b %H:%M",
        labelOverlap=True,
        tickCount=6,
    )
    return (
        alt.Chart(_data(values), height=max(_HEIGHT, 34 * len(order)))
        .mark_bar(binSpacing=1)
        .encode(
            alt.X("at:T", title=None, axis=axis).scale(type="utc"),
            alt.X2("to:T"),
            alt.Y("sum(events):Q", title="events", axis=alt.Axis(format="~s", tickCount=5)),
            alt.Color(
                "type:N",
                title=None,
                sort=order,
                scale=alt.Scale(domain=order, range=_PALETTE),
                legend=alt.Legend(orient="top", columns=4, symbolType="square"),
            ),
            tooltip=[
                _when("%d %b %Y %H:%M"),
                "type:N",
                alt.Tooltip("sum(events):Q", title="events", format=","),
            ],
        )
    )


def _when(form: str = "%H:%M:%S") -> alt.Tooltip:
    return alt.Tooltip("at:T", title="UTC", format=form, formatType="utcFormat")
