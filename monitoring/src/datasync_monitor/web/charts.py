"""The charts of the page, as Vega-Lite specifications.

The data lies in the layers of a specification. Streamlit converts data at its top level with pandas
and pyarrow, 250 MB that nothing else here needs. Times carry their zone, because Vega takes others
as local to the browser.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from datasync_monitor.event_stats import EventStats
    from datasync_monitor.history import Timeline

Spec: TypeAlias = dict[str, Any]

BLUE, GREEN, AMBER, SLATE = "#2563eb", "#0f9d76", "#d97706", "#64748b"
_PALETTE = [BLUE, GREEN, AMBER, "#7c3aed", "#0891b2", "#db2777", SLATE, "#84cc16"]
_HEIGHT = 200
_ROW_HEIGHT = 34
_CHART_WIDTH = 450
"""Pixels, about; for the width of bars."""

_INTEGER_AXIS = {"tickMinStep": 1, "tickCount": 4}


def throughput(timeline: Timeline) -> Spec:
    """Events per second."""
    area = {
        "mark": {
            "type": "area",
            "interpolate": "step-after",
            "color": BLUE,
            "opacity": 0.18,
            "line": {"color": BLUE},
        },
        "encoding": {
            "x": _time_axis(timeline),
            "y": _number("rate", "events/s", {"format": "~s", "tickCount": 4}),
            "tooltip": [_time_tooltip(), _tooltip("rate", "events/s", ",.1f")],
        },
    }
    return _chart(_buckets(timeline), area)


def rate_limit(timeline: Timeline) -> Spec:
    """Pages as bars, and the lowest number of requests left as a line."""
    x = _time_axis(timeline)
    tooltip = [_time_tooltip(), _tooltip("pages", "pages"), _tooltip("remaining", "requests left")]
    bars = {
        "mark": {"type": "bar", "color": GREEN, "opacity": 0.55, **_bar(timeline)},
        "encoding": {
            "x": x,
            "y": _number("pages", "pages", {**_INTEGER_AXIS, "titleColor": GREEN}),
            "tooltip": tooltip,
        },
    }
    line = {
        "transform": [{"filter": "isValid(datum.remaining)"}],
        "mark": {
            "type": "line",
            "color": AMBER,
            "interpolate": "step-after",
            "point": {"color": AMBER, "size": 18},
        },
        "encoding": {
            "x": x,
            "y": _number("remaining", "requests left", {**_INTEGER_AXIS, "titleColor": AMBER}),
            "tooltip": tooltip,
        },
    }
    return {**_chart(_buckets(timeline), bars, line), "resolve": {"scale": {"y": "independent"}}}


def rate_limit_waits(timeline: Timeline) -> Spec | None:
    """Seconds spent waiting for the rate limit; None where there were none."""
    if not any(bucket.rate_limit_wait_seconds for bucket in timeline.buckets):
        return None
    bars = {
        "mark": {"type": "bar", "color": SLATE, "opacity": 0.7, **_bar(timeline)},
        "encoding": {
            "x": _time_axis(timeline),
            "y": {**_number("wait", "seconds", {"tickCount": 4}), "scale": {"domainMin": 0}},
            "tooltip": [_time_tooltip(), _tooltip("wait", "seconds", ",.1f")],
        },
    }
    return _chart(_buckets(timeline), bars)


def retries(timeline: Timeline) -> Spec | None:
    """Retries by cause; None where there were none."""
    if not timeline.retries:
        return None
    data = [
        {"at": count.at.isoformat(), "cause": count.cause, "retries": count.retries}
        for count in timeline.retries
    ]
    bars = {
        "mark": {"type": "bar", **_bar(timeline)},
        "encoding": {
            "x": _time_axis(timeline),
            "y": _number("retries", "retries", _INTEGER_AXIS),
            "color": {
                "field": "cause",
                "type": "nominal",
                "title": None,
                "scale": {"range": _PALETTE[2:]},
                "legend": {"orient": "top"},
            },
            "tooltip": [_time_tooltip(), {"field": "cause"}, _tooltip("retries", "retries")],
        },
    }
    return _chart(data, bars)


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
        "tooltip": [{"field": "type"}, _tooltip("events", "events", ",")],
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
    date_format = "%d %b" if width > timedelta(hours=1) else "%d %b %H:%M"
    bars = {
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": {
                "field": "at",
                "type": "temporal",
                "title": None,
                "scale": {"type": "utc"},
                "axis": {"format": date_format, "labelOverlap": True, "tickCount": 6},
            },
            "x2": {"field": "to"},
            "y": {
                **_number("events", "events", {"format": "~s", "tickCount": 5}),
                "aggregate": "sum",
            },
            "color": {
                "field": "type",
                "type": "nominal",
                "title": None,
                "sort": types,
                "scale": {"domain": types, "range": _PALETTE},
                "legend": {"orient": "top", "columns": 4, "symbolType": "square"},
            },
            "tooltip": [
                _time_tooltip("%d %b %Y %H:%M"),
                {"field": "type"},
                {**_tooltip("events", "events", ","), "aggregate": "sum"},
            ],
        },
    }
    return _chart(data, bars, height=max(_HEIGHT, _ROW_HEIGHT * len(types)))


def _chart(data: list[Spec], *layers: Spec, height: int = _HEIGHT) -> Spec:
    return {"height": height, "layer": [{"data": {"values": data}, **layer} for layer in layers]}


def _buckets(timeline: Timeline) -> list[Spec]:
    return [
        {
            "at": bucket.at.isoformat(),
            "rate": round(bucket.rate, 1),
            "pages": bucket.pages,
            "wait": round(bucket.rate_limit_wait_seconds, 1),
            "remaining": bucket.rate_limit_remaining,
        }
        for bucket in timeline.buckets
    ]


def _time_axis(timeline: Timeline) -> Spec:
    """Return an axis that is the same in all charts of a timeline, so that they can be compared."""
    first, last = timeline.buckets[0].at, timeline.buckets[-1].at + timeline.width
    if last - first < timedelta(minutes=10):
        time_format = "%H:%M:%S"
    else:
        time_format = "%H:%M" if last - first <= timedelta(days=1) else "%d %b"
    return {
        "field": "at",
        "type": "temporal",
        "title": None,
        "scale": {"type": "utc", "domain": [first.isoformat(), last.isoformat()]},
        "axis": {"format": time_format, "labelOverlap": True, "tickCount": 6},
    }


def _bar(timeline: Timeline) -> Spec:
    width = max(2.0, 0.8 * _CHART_WIDTH / len(timeline.buckets))
    return {"align": "left", "size": width, "clip": True}


def _number(name: str, title: str, axis: Spec) -> Spec:
    return {"field": name, "type": "quantitative", "title": title, "axis": axis}


def _tooltip(name: str, title: str, number_format: str = ",") -> Spec:
    return {"field": name, "type": "quantitative", "title": title, "format": number_format}


def _time_tooltip(time_format: str = "%H:%M:%S") -> Spec:
    return {
        "field": "at",
        "type": "temporal",
        "title": "UTC",
        "format": time_format,
        "formatType": "utcFormat",
    }
