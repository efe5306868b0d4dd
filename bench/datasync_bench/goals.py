"""The numbers that the project set itself, and whether a run has reached them; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasync_bench.validity import valid

if TYPE_CHECKING:
    from collections.abc import Mapping

PEAK_MIB = 150
SHARE = 0.99
REQUESTS_AGAIN = 2
TAP_RATE = 60_000
STEADY = 0.1


@dataclass(frozen=True)
class Goal:
    """One number.

    Attributes:
        title: What is compared.
        wanted: What was to be reached, for people.
        found: What this run found, for people; None where it was not measured.
        reached: Whether it was reached; None where it was not measured, or cannot be told.
    """

    title: str
    wanted: str
    found: str | None = None
    reached: bool | None = None

    @property
    def verdict(self) -> str:
        """One word for the table."""
        if self.reached is None:
            return "not measured" if self.found is None else "too noisy to tell"
        return "yes" if self.reached else "no"


def judge(results: Mapping[str, Any]) -> list[Goal]:
    """Compare results with the goals.

    Args:
        results: The document of a run, as `cli` writes it; every part may be missing.
    """
    rows = {
        row["name"]: row for row in valid(results, "comparison") if row["events_per_s"] is not None
    }
    growth = valid(results, "growth")
    return [
        *(_ratio(rows, lane, peer, wanted) for lane, peer, wanted in _RATIOS),
        _tap_rate(rows),
        *_shares([*valid(results, "paced"), *valid(results, "real")]),
        *_peaks(growth),
        *_tenths(growth),
        _again(results.get("again", [])),
    ]


_RATIOS = (
    ("bulk", "hand", 2.0),
    ("bulk-meltano", "hand", 2.0),
    ("bulk", "dlt-append", 5.0),
    ("bulk-meltano", "dlt-append", 5.0),
    ("bulk", "upsert", 0.6),
    ("bulk-meltano", "upsert", 0.6),
)


def _ratio(rows: Mapping[str, Any], lane: str, peer: str, wanted: float) -> Goal:
    if lane not in rows or peer not in rows:
        return Goal(f"{lane} against {peer}", f"{wanted:g} x")
    ours, theirs = (rows[name]["events_per_s"]["median"] for name in (lane, peer))
    title = f"{rows[lane]['title']}, against {rows[peer]['title']}"
    return Goal(title, f"{wanted:g} x", f"{ours / theirs:.2f} x", ours / theirs >= wanted)


def _tap_rate(rows: Mapping[str, Any]) -> Goal:
    title, wanted = "our tap alone, records", f"{TAP_RATE:,} events/s"
    if "tap-record" not in rows:
        return Goal(title, wanted)
    rate = rows["tap-record"]["events_per_s"]["median"]
    return Goal(title, wanted, f"{rate:,.0f} events/s", rate >= TAP_RATE)


def _shares(paces: list[Mapping[str, Any]]) -> list[Goal]:
    wanted = f"{SHARE}, no 429"
    found = []
    for pace in (pace for pace in paces if pace["name"].endswith("lane")):
        scale = "in real time" if pace["factor"] == 1 else f"time scaled by {pace['factor']:g}"
        text = f"{pace['share']:.3f}, {pace['refused']} x 429"
        reached = pace["share"] >= SHARE and not pace["refused"]
        found.append(Goal(f"share of the limit, {pace['name']}, {scale}", wanted, text, reached))
    return found or [Goal("share of the limit", wanted)]


def _peaks(growth: list[Mapping[str, Any]]) -> list[Goal]:
    wanted = f"{PEAK_MIB} MiB each"
    found = []
    for point in growth:
        if point["subject"] in {"bulk", "record"} and {"tap", "target"} <= point["peaks"].keys():
            tap, target = (point["peaks"][role] for role in ("tap", "target"))
            title = f"peak memory, {point['subject']} lane, {point['events']:,} events"
            text = f"tap {tap:.0f} MiB, target {target:.0f} MiB"
            found.append(Goal(title, wanted, text, max(tap, target) <= PEAK_MIB))
    return found or [Goal("peak memory", wanted)]


def _tenths(growth: list[Mapping[str, Any]]) -> list[Goal]:
    wanted = "within 10 %"
    found = []
    for point in growth:
        if point["subject"] in {"bulk", "record"} and point["change"]:
            change = point["change"]["median"]
            title = f"last tenth against first, {point['subject']} lane, {point['events']:,} events"
            # No load gains speed by itself: what gains more than this has met other work before.
            reached = None if change > STEADY else change >= -STEADY
            found.append(Goal(title, wanted, f"{change:+.1%}", reached))
    return found or [Goal("last tenth against first", wanted)]


def _again(again: list[Mapping[str, Any]]) -> Goal:
    title, wanted = "second run, nothing new", f"at most {REQUESTS_AGAIN} requests"
    if not again:
        return Goal(title, wanted)
    requests = again[0]["requests"]
    return Goal(title, wanted, f"{requests}", requests <= REQUESTS_AGAIN)
