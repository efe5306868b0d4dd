"""Puts results into the pages that quote them; pure but for `write`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasync_bench.paths import BENCH, ROOT
from datasync_bench.report import count, markdown, table
from datasync_bench.validity import valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


class MissingPartError(LookupError):
    """The results lack what a page quotes."""


def write(results: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """Bring the pages up to date.

    Args:
        results: The document of a run, as `cli` writes it.

    Yields:
        Each page, and whether the results had all that it quotes; if not, it is left as it was.
    """
    for path, text_of in _PAGES.items():
        yield path, _put(path, text_of, results)


def _put(
    path: Path, text_of: Callable[[Mapping[str, Any]], str], results: Mapping[str, Any]
) -> bool:
    try:
        text = text_of(results)
    except MissingPartError:
        return False
    path.write_text(insert(path.read_text(), text))
    return True


def insert(page: str, text: str) -> str:
    """Put a text between the markers of a page.

    Raises:
        ValueError: The page has no markers.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        message = f"The page has no {BEGIN} and {END}."
        raise ValueError(message)
    return f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}"


def report(results: Mapping[str, Any]) -> str:
    """The whole report, below its picture.

    Raises:
        MissingPartError: The comparison or the growth was not measured.
    """
    for part in ("comparison", "growth"):
        _part(results, part)
    return f"![Events per second of everybody, and growth](results.svg)\n\n{markdown(results)}"


def headline(results: Mapping[str, Any]) -> str:
    """Two sentences for those who read no table.

    Raises:
        MissingPartError: The comparison, the growth or the run in real time was not measured.
    """
    rate = {name: row["events_per_s"]["median"] for name, row in _rows(results).items()}
    shares = {pace["name"]: pace for pace in _part(results, "real")}
    points = [p for p in _part(results, "growth") if p["subject"] == "bulk"]
    try:
        record, bulk, hand = (
            shares[name] for name in ("record lane", "bulk lane", "hand-written loop")
        )
        against_hand, against_dlt = (rate["bulk"] / rate[name] for name in ("hand", "dlt-append"))
        smallest = min(points, key=lambda point: point["events"])
        largest = max(points, key=lambda point: point["events"])
        tap, target, small_tap, small_target = (
            point["peaks"][role] for point in (largest, smallest) for role in ("tap", "target")
        )
    except (KeyError, ValueError) as error:
        raise MissingPartError(str(error)) from error
    refused = record["refused"] + bulk["refused"]
    return (
        f"Under the API's real limit the lanes use {record['share']:.3f} and {bulk['share']:.3f} "
        f"of it with {refused or 'no'} 429, where a hand-written loop with a fixed pause uses "
        f"{hand['share']:.2f}.\nWithout a limit the bulk lane loads {count(rate['bulk'])} events/s "
        f"on {results['machine']['cores']} cores, {against_hand:.1f} times as many as that loop "
        f"and {against_dlt:.1f} times as many as dlt\n(`append`), in "
        f"{tap:.0f} MiB and {target:.0f} MiB of memory for tap and loader at "
        f"{largest['events']:,} events, and in {small_tap:.0f} MiB and {small_target:.0f} MiB at "
        f"{smallest['events']:,}."
    )


def peers(results: Mapping[str, Any]) -> str:
    """One line for each program, with what its users feel.

    Raises:
        MissingPartError: The comparison or the run in real time was not measured.
    """
    rows = _rows(results)
    real = {pace["name"]: pace for pace in _part(results, "real")}
    lines = []
    for name, pace in (
        ("record-meltano", "record lane"),
        ("bulk-meltano", "bulk lane"),
        ("dlt-append", "dlt, append"),
        ("dlt-merge", ""),
        ("plain-meltano", ""),
        ("hand", "hand-written loop"),
    ):
        if name not in rows or (pace and pace not in real):
            raise MissingPartError(name)
        row = rows[name]
        limited = [""] * 2
        if pace:
            limited = [f"{real[pace]['share']:.3f}", f"{real[pace]['refused']}"]
        lines.append(
            [
                row["title"],
                count(row["events_per_s"]["median"]),
                f"{row['cpu_s_per_million']['median']:.0f}" if row["cpu_s_per_million"] else "",
                f"{max(row['peak_mib'].values()):.0f}",
                *limited,
            ]
        )
    head = (
        *("", "events/s without a limit", "CPU s per million", "largest process, MiB"),
        *("share of the real limit used", "429s"),
    )
    return "\n".join(table(head, lines))


def _rows(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        row["name"]: row for row in _part(results, "comparison") if row["events_per_s"] is not None
    }


def _part(results: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    part = valid(results, name)
    if not part:
        raise MissingPartError(name)
    return part


_PAGES: dict[Path, Callable[[Mapping[str, Any]], str]] = {
    BENCH / "README.md": report,
    ROOT / "README.md": headline,
    ROOT / "docs" / "comparison.md": peers,
}
