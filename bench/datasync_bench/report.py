"""Writes results as Markdown; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasync_bench.goals import judge
from datasync_bench.pacing import LIMIT, REAL_LATENCY, REAL_WINDOW
from datasync_bench.processes import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report.

    Args:
        results: The document of a run; parts that were not measured are left out.
    """
    machine, load = results["machine"], results.get("load", {})
    # One value a command: `--keep` has put what several have measured into one document.
    loads = dict.fromkeys(f"{load[part]}" for part, _, _ in _PARTS if results.get(part))
    where = (
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"PostgreSQL {machine['postgres']} of the sandbox."
    )
    lines = [where]
    if loads:
        lines.append(f"Load of the machine before the bench began: {', '.join(loads)}.")
    lines.append("")
    for part, title, write in _PARTS:
        if results.get(part):
            lines += [f"### {title}", "", *write(results[part]), ""]
    lines += ["### Numbers to reach", "", *_goals(results)]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose first column is words, and the others numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _comparison(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = (
        *("", "events/s", "range", "wall s", "range", "one page s", "CPU s per million"),
        *("peak MiB", "rows", "distinct", "table MiB"),
    )
    yield f"{rows[0]['events']:,} events, medians of {len(rows[0]['trials'])} runs."
    yield ""
    yield from table(head, [_row(row) for row in rows])


def _row(row: Mapping[str, Any]) -> list[str]:
    if not row["valid"]:
        counted = "; ".join(
            f"{t['loaded']['rows']:,} rows, {t['loaded']['distinct']:,} ids" for t in row["trials"]
        )
        return [row["title"], f"void: {counted}", *[""] * 9]
    loaded = row["trials"][-1]["loaded"]
    peaks = ", ".join(
        f"{role} {size:.0f}" if len(row["peak_mib"]) > 1 else f"{size:.0f}"
        for role, size in sorted(row["peak_mib"].items())
        if role != "program" or len(row["peak_mib"]) == 1
    )
    rate, wall, cpu = row["events_per_s"], row["wall_s"], row["cpu_s_per_million"]
    return [
        row["title"],
        *(
            ("lost in the noise", "")
            if rate is None
            else (count(rate["median"]), f"{count(rate['low'])} - {count(rate['high'])}")
        ),
        f"{wall['median']:.2f}",
        f"{wall['low']:.2f} - {wall['high']:.2f}",
        f"{row['one_page_s']['median']:.2f}",
        "" if cpu is None else f"{cpu['median']:.1f}",
        peaks,
        f"{loaded['rows']:,}" if loaded else "",
        f"{loaded['distinct']:,}" if loaded else "",
        f"{loaded['size'] / MEBIBYTE:.0f}" if loaded else "",
    ]


def _growth(points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = (
        *("", "events", "events/s", "first tenth", "last tenth", "change", "range"),
        *("peak MiB", "MiB more at the end"),
    )
    yield f"Medians and ranges of {len(points[0]['loads'])} loads of each size."
    yield ""
    rows = []
    for point in points:
        ends, change = ["", "", "", ""], point["change"]
        if change:
            ends = [count(point[end]["median"]) for end in ("first", "last")]
            ends += [f"{change['median']:+.1%}", f"{change['low']:+.1%} to {change['high']:+.1%}"]
        rows.append(
            [
                point["subject"] + ("" if point["valid"] else " (void)"),
                f"{point['events']:,}",
                count(point["rate"] and point["rate"]["median"]),
                *ends,
                ", ".join(f"{role} {size:.0f}" for role, size in point["peaks"].items()),
                ", ".join(f"{role} {size:+.0f}" for role, size in point["growth"].items()),
            ]
        )
    yield from table(head, rows)
    yield from _share_of_key([point for point in points if point["valid"]])


def _share_of_key(points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What of the time of `upsert` goes away without a primary key, at the largest size."""
    largest = max((point["events"] for point in points), default=0)
    found = {p["subject"]: p for p in points if p["events"] == largest and p["change"]}
    if not {"upsert", "keyless"} <= found.keys():
        return
    keyed, keyless = found["upsert"], found["keyless"]
    shares = [1 - keyed[end]["median"] / keyless[end]["median"] for end in ("first", "last")]
    yield ""
    yield (
        f"The primary key's share of the time of COPY and ON CONFLICT at {largest:,} events: "
        f"{shares[0]:.0%} in the first tenth, {shares[1]:.0%} in the last."
    )


def _paced(paces: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = ("", "share of the limit", "429s", "pages", "seconds")
    factor = paces[0]["factor"]
    yield (
        f"Window {REAL_WINDOW / factor:g} s, latency {REAL_LATENCY / factor:g} s, "
        f"limit {LIMIT} requests a window."
    )
    yield ""
    yield from table(
        head,
        [
            [
                pace["name"] + ("" if pace["valid"] else " (void)"),
                f"{pace['share']:.3f}",
                f"{pace['refused']}",
                f"{pace['requests']}",
                f"{pace['seconds']:.1f}",
            ]
            for pace in paces
        ],
    )


def _again(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = ("", "requests", "wall s, no limit", "s under the real limit, at least", "CPU s")
    yield from table(
        head,
        [
            [
                run["name"],
                f"{run['requests']}",
                f"{run['seconds']:.1f}",
                f"{run['limited']:,.0f}",
                f"{run['cpu']:.1f}",
            ]
            for run in runs
        ],
    )


def _goals(results: Mapping[str, Any]) -> Iterator[str]:
    yield from table(
        ("", "wanted", "found", "reached"),
        [[goal.title, goal.wanted, goal.found or "", goal.verdict] for goal in judge(results)],
    )


def count(number: float | None) -> str:
    """A number as people read it."""
    return "lost in the noise" if number is None else f"{number:,.0f}"


_PARTS = (
    ("comparison", "Side by side", _comparison),
    ("growth", "Growth", _growth),
    ("paced", "Under the limit, time scaled", _paced),
    ("real", "Under the limit, in real time", _paced),
    ("again", "A second run", _again),
)
