"""Write results as Markdown, compare them with thresholds, and update the pages that quote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from datasync_bench.environment import BENCH, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PEAK_MIB = 150
SHARE = 0.99
REQUESTS = 2
REFRESH = 0.3


class Threshold(NamedTuple):
    """A measurement compared with its required value."""

    title: str
    wanted: str
    found: str
    is_met: bool


RATIOS = (
    ("hand-loop", 4.0),
    ("dlt-append", 8.0),
    ("upsert", 0.6),
)
"""Throughput of ``tap | target``, as a multiple of another candidate's."""


def thresholds(results: Mapping[str, Any]) -> Iterator[Threshold]:
    """Compare results with the thresholds; parts that were not measured are left out."""
    rows = {row["name"]: row for row in results.get("comparison", ()) if row["valid"]}
    for name, factor in RATIOS:
        if name in rows and "pipe" in rows:
            ratio = rows["pipe"]["events_per_second"] / rows[name]["events_per_second"]
            title = f"throughput against {rows[name]['title']}"
            yield Threshold(title, f"≥ {factor:g} x", f"{ratio:.2f} x", ratio >= factor)
    for row in results.get("size", ()):
        peak = max(row["peak_mib"].values())
        title = f"largest process, {row['events']:,} events"
        yield Threshold(title, f"≤ {PEAK_MIB} MiB", f"{peak:.0f} MiB", peak <= PEAK_MIB)
    for part in ("rate_limit_scaled", "rate_limit"):
        for row in results.get(part, ())[:1]:
            scale = "real time" if row["factor"] == 1 else f"time scaled by {row['factor']:g}"
            found = f"{row['share']:.3f}, {row['rate_limited']}"
            is_met = row["share"] >= SHARE and not row["rate_limited"]
            title = f"used share of the rate limit, {scale}"
            yield Threshold(title, f"≥ {SHARE}, no 429", found, is_met)
    if later := results.get("later_runs"):
        first, second, refresh = later
        found, is_met = f"{second['requests']}", second["requests"] <= REQUESTS
        yield Threshold("second run, nothing new", f"≤ {REQUESTS} requests", found, is_met)
        ratio = refresh["events_per_second"] / first["events_per_second"]
        title, wanted = "full refresh against first load", f"≥ {REFRESH} x, none written"
        found = f"{ratio:.2f} x, {refresh['rows_written']} rows written"
        is_met = ratio >= REFRESH and not refresh["rows_written"]
        yield Threshold(title, wanted, found, is_met)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the report of all parts that were measured."""
    machine = results["machine"]
    hardware = f"{machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}"
    lines = [f"{hardware}. Load average before the start: {machine['load']}.", ""]
    for part, (title, headings, cells) in _TABLES.items():
        if rows := results.get(part):
            lines += [f"### {title}", "", *_table(headings, map(cells, rows)), ""]
    rows = [[*each[:3], "yes" if each.is_met else "no"] for each in thresholds(results)]
    lines += ["### Thresholds", "", *_table(("", "wanted", "found", "met"), rows)]
    return "\n".join(lines) + "\n"


def summary(results: Mapping[str, Any]) -> str:
    """Return the summary in the project's README.

    Raises:
        KeyError: A part was not measured.
    """
    rate = {row["name"]: row["events_per_second"] for row in results["comparison"]}
    ours, _, loop = results["rate_limit"]
    largest = max(results["size"], key=lambda row: int(row["events"]))
    peaks = largest["peak_mib"]
    return (
        f"Under the API's rate limit the tap uses {ours['share']:.3f} of it with "
        f"{ours['rate_limited'] or 'no'} 429; a hand-written loop with a fixed pause uses "
        f"{loop['share']:.2f}.\nWithout a rate limit, {rate['pipe']:,.0f} events/s are loaded on "
        f"{results['machine']['cores']} cores, {rate['pipe'] / rate['hand-loop']:.1f} times as "
        f"fast as that loop and {rate['pipe'] / rate['dlt-append']:.1f} times as fast as dlt "
        f"(`append`).\nAt {largest['events']:,} events, the tap takes {peaks['tap']:.0f} MiB of "
        f"memory and the target {peaks['target']:.0f} MiB."
    )


def alternatives(results: Mapping[str, Any]) -> str:
    """Return the table of ``docs/comparison.md``.

    Raises:
        KeyError: A part was not measured.
    """
    shares = {row["title"]: row for row in results["rate_limit"]}
    paced_as = {"meltano": "tap-datasync", "dlt-append": "dlt, append"}
    rows = []
    for row in results["comparison"]:
        if row["is_baseline"] or row["name"] == "pipe":
            continue
        paced = shares.get(paced_as.get(row["name"], row["title"]))
        rows.append(
            [
                row["title"],
                f"{row['events_per_second']:,.0f}",
                f"{row['cpu_seconds_per_million']:.0f}",
                f"{max(row['peak_mib'].values()):.0f}",
                f"{paced['share']:.3f}" if paced else "",
            ]
        )
    headings = ("", "events/s", "CPU s per million", "largest process, MiB", "share of rate limit")
    return "\n".join(_table(headings, rows))


def update_pages(results: Mapping[str, Any]) -> list[Path]:
    """Insert results into the pages that quote them; returns the pages.

    Raises:
        KeyError: A part was not measured; no page is changed.
        ValueError: A page has no markers; no page is changed.
    """
    texts = {
        BENCH / "README.md": markdown(results),
        ROOT / "README.md": summary(results),
        ROOT / "docs" / "comparison.md": alternatives(results),
    }
    pages = {path: insert(path.read_text(), text) for path, text in texts.items()}
    for path, page in pages.items():
        path.write_text(page)
    return list(pages)


def insert(page: str, text: str) -> str:
    """Replace the text between the markers of a page.

    Raises:
        ValueError: The page has no markers.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        message = f"The page has no {BEGIN} and {END}."
        raise ValueError(message)
    return f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}"


def _table(headings: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield "|---|" + "---:|" * (len(headings) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _peaks(row: Mapping[str, Any]) -> str:
    peaks = row["peak_mib"]
    names = [name for name in peaks if name != "program" or len(peaks) == 1]
    return ", ".join(f"{name} {peaks[name]:.0f}".removeprefix("program ") for name in sorted(names))


def _comparison(row: Mapping[str, Any]) -> list[str]:
    low, high = row["range"]
    return [
        row["title"] if row["valid"] else f"{row['title']} (incomplete: void)",
        f"{row['events_per_second']:,.0f}",
        f"{low:,.0f} to {high:,.0f}",
        f"{row['seconds']:.1f}",
        f"{row['cpu_seconds_per_million']:.1f}",
        _peaks(row),
    ]


def _size(row: Mapping[str, Any]) -> list[str]:
    rate = f"{row['events_per_second']:,.0f}"
    return [f"{row['events']:,}", rate, f"{row['seconds']:.1f}", _peaks(row)]


def _rate_limit(row: Mapping[str, Any]) -> list[str]:
    counts = [f"{row['rate_limited']}", f"{row['pages']}"]
    return [row["title"], f"{row['share']:.3f}", *counts, f"{row['seconds']:.1f}"]


def _later_run(row: Mapping[str, Any]) -> list[str]:
    counts = [f"{row['requests']}", f"{row['rows_written']:,}"]
    return [row["title"], *counts, f"{row['seconds']:.1f}"]


_SHARE = ("", "share of the rate limit", "429s", "pages", "seconds")
_TABLES: dict[str, tuple[str, Sequence[str], Any]] = {
    "comparison": (
        "Throughput",
        ("", "events/s", "range", "seconds", "CPU s per million events", "peak memory, MiB"),
        _comparison,
    ),
    "size": ("Size of the feed", ("events", "events/s", "seconds", "peak memory, MiB"), _size),
    "rate_limit_scaled": ("Rate limit, time scaled by 10", _SHARE, _rate_limit),
    "rate_limit": ("Rate limit, real time", _SHARE, _rate_limit),
    "later_runs": ("Later runs", ("", "requests", "rows written", "seconds"), _later_run),
}
