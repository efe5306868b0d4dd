"""The charts of the page, as Vega-Lite specifications.

The data lies in the layers of a specification. Streamlit converts data at its top level with pandas
and pyarrow, 250 MB that nothing else here needs. Times carry their zone, because Vega takes others
as local to the browser.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from datasync_monitor.web.queries import EventStats, Timeline

Spec: TypeAlias = dict[str, Any]

BLUE, GREEN, AMBER, SLATE = "#2563eb", "#0f9d76", "#d97706", "#64748b"
_PALETTE = [BLUE, GREEN, AMBER, "#7c3aed", "#0891b2", "#db2777", SLATE, "#84cc16"]
_HEIGHT = 200
_ROW_HEIGHT = 34
_CHART_WIDTH = 450
"""Pixels, about; for the width of bars."""

_INTEGERS = {"tickMinStep": 1, "tickCount": 4}


def throughput(timeline: Timeline) -> Spec:
    """Events per second."""
    mark = {
        "type": "area",
        "interpolate": "step-after",
        "color": BLUE,
        "opacity": 0.18,
        "line": {"color": BLUE},
    }
    return _over_time(timeline, mark, _number("rate", "events/s", format="~s", tickCount=4))


def rate_limit(timeline: Timeline) -> Spec:
    """Pages as bars, and the lowest number of requests left as a line."""
    line = {
        "type": "line",
        "color": AMBER,
        "interpolate": "step-after",
        "point": {"color": AMBER, "size": 18},
    }
    bars = _over_time(
        timeline,
        {"type": "bar", "color": GREEN, "opacity": 0.55},
        _number("pages", "pages", titleColor=GREEN, **_INTEGERS),
    )
    left = _over_time(
        timeline, line, _number("remaining", "requests left", titleColor=AMBER, **_INTEGERS)
    )
    left["layer"][0]["transform"] = [{"filter": "isValid(datum.remaining)"}]
    bars["layer"] += left["layer"]
    return {**bars, "resolve": {"scale": {"y": "independent"}}}


def rate_limit_waits(timeline: Timeline) -> Spec | None:
    """Seconds spent waiting for the rate limit; None where there were none."""
    if not any(bucket["wait"] for bucket in timeline.buckets):
        return None
    mark = {"type": "bar", "color": SLATE, "opacity": 0.7}
    y = {**_number("wait", "seconds", tickCount=4), "scale": {"domainMin": 0}}
    return _over_time(timeline, mark, y)


def retries(timeline: Timeline) -> Spec | None:
    """Retries by cause; None where there were none."""
    if not timeline.retries:
        return None
    color = {
        "field": "cause",
        "type": "nominal",
        "title": None,
        "scale": {"range": _PALETTE[2:]},
        "legend": {"orient": "top"},
    }
    y = _number("retries", "retries", **_INTEGERS)
    return _over_time(timeline, {"type": "bar"}, y, data=timeline.retries, color=color)


def events_by_type(stats: EventStats) -> Spec:
    """Events by type, the most frequent on top."""
    total, counts = stats.events, stats.by_type()
    data = [
        {"type": name, "events": events, "label": f"{events:,} · {100 * events / total:.1f} %"}
        for name, events in counts.items()
    ]
    encoding = {
        "y": {
            "field": "type",
            "type": "nominal",
            "title": None,
            "sort": None,
            "axis": {"labelLimit": 160},
        },
        "x": {
            "field": "events",
            "type": "quantitative",
            "axis": None,
            "scale": {"domain": [0, 1.45 * max(counts.values())]},  # leaves space for the labels
        },
    }
    bars = {
        "mark": {"type": "bar", "color": BLUE, "cornerRadiusEnd": 3, "height": {"band": 0.65}},
        "encoding": encoding,
    }
    labels = {
        "mark": {"type": "text", "align": "left", "dx": 6, "color": SLATE},
        "encoding": {**encoding, "text": {"field": "label"}},
    }
    return _chart(data, bars, labels, height=max(_HEIGHT, _ROW_HEIGHT * len(data)))


def events_over_time(stats: EventStats) -> Spec:
    """Events over their own timestamps, stacked by type."""
    width, counts = stats.over_time()
    types = list(stats.by_type())
    data = [
        {"at": at.isoformat(), "to": (at + width).isoformat(), "type": name, "events": events}
        for (at, name), events in counts.items()
    ]
    bars = {
        "mark": {"type": "bar", "binSpacing": 1, "tooltip": True},
        "encoding": {
            "x": _time("%d %b" if width > timedelta(hours=1) else "%d %b %H:%M"),
            "x2": {"field": "to"},
            "y": {**_number("events", "events", format="~s", tickCount=5), "aggregate": "sum"},
            "color": {
                "field": "type",
                "type": "nominal",
                "title": None,
                "sort": types,
                "scale": {"domain": types, "range": _PALETTE},
                "legend": {"orient": "top", "columns": 4, "symbolType": "square"},
            },
        },
    }
    return _chart(data, bars, height=max(_HEIGHT, _ROW_HEIGHT * len(types)))


def _chart(data: list[Spec], *layers: Spec, height: int = _HEIGHT) -> Spec:
    return {
        "height": height,
        "config": {"timeFormat": "%d %b %H:%M:%S"},  # of the tooltips
        "layer": [{"data": {"values": data}, **layer} for layer in layers],
    }


def _over_time(
    timeline: Timeline, mark: Spec, y: Spec, *, data: list[Spec] | None = None, **channels: Spec
) -> Spec:
    """Return a chart with a time axis that is the same in all charts of a timeline."""
    rows = timeline.buckets if data is None else data
    first, last = timeline.buckets[0]["at"], timeline.buckets[-1]["at"] + timeline.width
    if last - first < timedelta(minutes=10):
        time_format = "%H:%M:%S"
    else:
        time_format = "%H:%M" if last - first <= timedelta(days=1) else "%d %b"
    x = _time(time_format, domain=[first.isoformat(), last.isoformat()])
    if mark["type"] == "bar":
        width = max(2.0, 0.8 * _CHART_WIDTH / len(timeline.buckets))
        mark = {**mark, "align": "left", "size": width, "clip": True}
    layer = {"mark": {**mark, "tooltip": True}, "encoding": {"x": x, "y": y, **channels}}
    return _chart([{**row, "at": row["at"].isoformat()} for row in rows], layer)


def _time(time_format: str, **scale: Any) -> Spec:
    return {
        "field": "at",
        "type": "temporal",
        "title": None,
        "scale": {"type": "utc", **scale},
        "axis": {"format": time_format, "labelOverlap": True, "tickCount": 6},
    }


def _number(name: str, title: str, **axis: Any) -> Spec:
    return {"field": name, "type": "quantitative", "title": title, "axis": axis}
