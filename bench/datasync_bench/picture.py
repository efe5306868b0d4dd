"""Draws the results: a bar for each contestant, and the curves of growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from datasync_bench.validity import valid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

_COLOURS = {"ours": "#1f77b4", "peer": "#999999", "floor": "#d9c77a", "alone": "#9ecae1"}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write one SVG with all that was measured.

    Args:
        results: The document of a run.
        path: Where to.
    """
    rows = [row for row in valid(results, "comparison") if row["events_per_s"]]
    points = valid(results, "growth")
    parts = [bool(rows), bool(points), bool(points)]
    if not any(parts):
        return
    # Text stays text, and the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}):
        width = 7 * bool(rows) + 8 * bool(points)
        figure, grid = plt.subplots(
            1, sum(parts), figsize=(width, 5), layout="constrained", squeeze=False
        )
        axes = list(grid[0])
        if rows:
            _bars(axes.pop(0), rows)
        if points:
            _rates(axes.pop(0), points)
            _memory(axes.pop(0), points)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _bars(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    rates = [row["events_per_s"] for row in rows]
    medians = [rate["median"] for rate in rates]
    axis.barh(
        [row["title"] for row in rows],
        medians,
        color=[_COLOURS[row["kind"]] for row in rows],
        xerr=[
            [rate["median"] - rate["low"] for rate in rates],
            [rate["high"] - rate["median"] for rate in rates],
        ],
        error_kw={"linewidth": 0.8},
    )
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("events per second without start-up (logarithmic)")
    axis.set_title(f"{rows[0]['events']:,} events")


def _rates(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    for subject in dict.fromkeys(point["subject"] for point in points):
        mine = [point for point in points if point["subject"] == subject]
        known = [(p["events"], p["rate"]["median"]) for p in mine if p["rate"]]
        if known:
            axis.plot(*zip(*known, strict=True), marker="o", label=subject)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("events")
    axis.set_title("events per second")
    axis.legend()


def _memory(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    for subject in ("bulk", "record"):
        for role in ("tap", "target"):
            mine = [p for p in points if p["subject"] == subject and role in p["peaks"]]
            if mine:
                axis.plot(
                    [p["events"] for p in mine],
                    [p["peaks"][role] for p in mine],
                    marker="o",
                    label=f"{role}, {subject}",
                )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("events")
    axis.set_title("peak memory, MiB")
    axis.legend()
