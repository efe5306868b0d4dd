"""Write results as Markdown, compare them with thresholds, and update the pages that quote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from datasync_bench.environment import BENCH, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PEAK_MIB = 150
SHARE = 0.99
REQUESTS = 2
REFRESH = 0.3

RATIOS = {"hand-loop": 4.0, "dlt-append": 8.0, "upsert": 0.6}
"""Throughput of ``tap | target``, as a multiple of another candidate's."""

ALTERNATIVES = {
    "meltano": "tap-datasync",
    "sdk-tap": None,
    "dlt-append": "dlt, append",
    "dlt-merge": None,
    "hand-loop": "hand-written loop",
}
"""Rows of ``docs/comparison.md``, each with its row of the rate limit."""

_RATE = {"events/s": "{events_per_second:,.0f}"}
_SECONDS = {"seconds": "{seconds:.1f}"}
_PEAKS = {"peak memory, MiB": "{peaks}"}
_RATE_LIMIT = {
    "": "{title}",
    "share of the rate limit": "{share:.3f}",
    "429s": "{rate_limited}",
    "pages": "{pages}",
    **_SECONDS,
}
TABLES = (
    (
        "comparison",
        "Throughput",
        {
            "": "{title}{void}",
            **_RATE,
            "range": "{range[0]:,.0f} to {range[1]:,.0f}",
            **_SECONDS,
            "CPU s per million events": "{cpu_seconds_per_million:.1f}",
            **_PEAKS,
        },
    ),
    ("size", "Size of the feed", {"events": "{events:,}", **_RATE, **_SECONDS, **_PEAKS}),
    ("rate_limit_scaled", "Rate limit, time scaled by 10", _RATE_LIMIT),
    ("rate_limit", "Rate limit, real time", _RATE_LIMIT),
    (
        "later_runs",
        "Later runs",
        {
            "": "{title}",
            "requests": "{requests}",
            "rows written": "{rows_written:,}",
            **_SECONDS,
        },
    ),
)
"""Part, title, and columns: the heading and the text of a cell from its row."""


class Threshold(NamedTuple):
    """A measurement compared with its required value."""

    title: str
    wanted: str
    found: str
    is_met: bool


def thresholds(results: Mapping[str, Any]) -> Iterator[Threshold]:
    """Compare results with the thresholds; parts that were not measured are left out."""
    rows = {row["name"]: row for row in results.get("comparison", ()) if row["valid"]}
    for name, factor in RATIOS.items():
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
    for part, title, columns in TABLES:
        if rows := results.get(part):
            lines += [f"### {title}", "", *_table(columns, rows), ""]
    rows = [
        {**each._asdict(), "met": "yes" if each.is_met else "no"} for each in thresholds(results)
    ]
    columns = {"": "{title}", "wanted": "{wanted}", "found": "{found}", "met": "{met}"}
    lines += ["### Thresholds", "", *_table(columns, rows)]
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
    shares = {row["title"]: f"{row['share']:.3f}" for row in results["rate_limit"]}
    rows = [
        {
            **row,
            "largest": max(row["peak_mib"].values()),
            "share": shares.get(ALTERNATIVES[row["name"]], ""),
        }
        for row in results["comparison"]
        if row["name"] in ALTERNATIVES
    ]
    columns = {
        "": "{title}",
        **_RATE,
        "CPU s per million": "{cpu_seconds_per_million:.0f}",
        "largest process, MiB": "{largest:.0f}",
        "share of rate limit": "{share}",
    }
    return "\n".join(_table(columns, rows))


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


def _table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for row in rows:
        values = {
            **row,
            "peaks": _peaks(row.get("peak_mib", {})),
            "void": "" if row.get("valid", True) else " (incomplete: void)",
        }
        yield f"| {' | '.join(column.format_map(values) for column in columns.values())} |"


def _peaks(peaks: Mapping[str, float]) -> str:
    if len(peaks) == 1:
        return "".join(f"{peak:.0f}" for peak in peaks.values())
    return ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items())
