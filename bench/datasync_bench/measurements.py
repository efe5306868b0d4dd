"""The measurements: throughput, size, rate limit, later runs.

Every result is a plain dictionary that goes into ``results.json`` and the report.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from datasync_bench import candidates
from datasync_bench.candidates import CANDIDATES
from datasync_bench.environment import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from datasync_bench.candidates import Candidate
    from datasync_bench.environment import Environment
    from datasync_bench.processes import Usage

LIMIT = 10
WINDOW_SECONDS = 60.0
LATENCY_SECONDS = 4.0
CURSOR_LIFETIME_SECONDS = 120.0
PAGE_EVENTS = 5000
HAND_LOOP_PAUSE_SECONDS = 6.0
HTTP_OK = 200

Result = dict[str, Any]


def comparison(names: Sequence[str], events: int, repeat: int) -> list[Result]:
    """Load the same feed with every candidate, in alternating order.

    Args:
        names: The candidates.
        events: Size of the feed.
        repeat: Counted runs of each, after one that warms up.
    """
    runs: dict[str, list[Result]] = {name: [] for name in names}
    with environment(events) as target:
        candidates.baseline(target, "fetch")
        for number in range(repeat + 1):
            for name in names if number % 2 == 0 else reversed(names):
                result = _load(CANDIDATES[name], target)
                print(f"  {number}/{repeat} {name}: {_short(result)}", flush=True)
                if number:
                    runs[name].append(result)
    return [
        {"name": name, "title": CANDIDATES[name].title, **_summary(runs[name])} for name in names
    ]


def size(sizes: Iterable[int]) -> list[Result]:
    """Load feeds of several sizes with ``tap | target``, to show that memory does not grow."""
    results = []
    for events in sizes:
        with environment(events) as target:
            result = _load(CANDIDATES["pipe"], target)
        print(f"  {events:,}: {_short(result)}", flush=True)
        results.append({"events": events, **_summary([result])})
    return results


def rate_limit(factor: float, windows: int) -> list[Result]:
    """Load under the rate limit of the API and measure how much of it is used.

    Args:
        factor: Divides window, latency, cursor lifetime, page size and the hand-written loop's
            pause; 1 is real time. The headers count whole seconds at any factor.
        windows: Rate-limit windows to fill.
    """
    page = round(PAGE_EVENTS / factor)
    events = page * (windows * LIMIT + 1)
    window = WINDOW_SECONDS / factor
    pause = HAND_LOOP_PAUSE_SECONDS / factor
    runs: dict[str, Callable[[Environment], Usage]] = {
        "tap-datasync": candidates.pipe,
        "dlt, append": lambda target: candidates.dlt(target, "append"),
        "hand-written loop": lambda target: candidates.hand_loop(target, pause),
    }
    options = {
        "limit": LIMIT,
        "window": window,
        "latency": LATENCY_SECONDS / factor,
        "cursor_lifetime": CURSOR_LIFETIME_SECONDS / factor,
        "max_page": page,
    }
    results = []
    for title, run in runs.items():
        # One API for each: a window must not contain requests of the candidate before.
        with environment(events, **options) as target:
            target.clear()
            run(target)
            stats = target.stats()
            served = [each["at"] for each in stats["log"] if each["result"] == HTTP_OK]
            result = {
                "title": title,
                "factor": factor,
                "share": share_of_limit(served, LIMIT, window),
                "rate_limited": stats["rate_limited"],
                "pages": len(served),
                "seconds": served[-1] - served[0],
                "valid": target.complete_rows() == events,
            }
        print(f"  {result}", flush=True)
        results.append(result)
    return results


def later_runs(events: int) -> list[Result]:
    """Load a feed, load it again with the state of the first run, and again without it."""
    results = []
    with environment(events) as target:
        target.clear()
        state: str | None = None
        requests = written = 0
        for title in ("first load", "second run, nothing new", "full refresh of loaded rows"):
            usage = candidates.pipe(target, state if "second" in title else None)
            state = state or usage.output.splitlines()[-1]
            requests_before, written_before = requests, written
            requests, written = target.stats()["requests"], target.written_rows()
            result = {
                "title": title,
                "requests": requests - requests_before,
                "rows_written": written - written_before,
                "seconds": usage.seconds,
                "events_per_second": events / target.active_seconds(usage),
                "valid": target.complete_rows() == events,
            }
            print(f"  {result}", flush=True)
            results.append(result)
    return results


def share_of_limit(arrivals: Sequence[float], limit: int, window_seconds: float) -> float:
    """Return the used share of a rate limit, over the whole windows that requests fill.

    Request ``1 + k * limit`` cannot arrive earlier than ``k`` windows after request 1.

    Args:
        arrivals: Arrival times of requests in seconds, ascending.
        limit: Requests per window.
        window_seconds: Length of a window.

    Raises:
        ValueError: The requests do not fill one window.
    """
    windows = (len(arrivals) - 1) // limit
    if windows < 1:
        message = f"{len(arrivals)} requests do not fill a window of {limit}."
        raise ValueError(message)
    return windows * window_seconds / (arrivals[windows * limit] - arrivals[0])


def _load(candidate: Candidate, target: Environment) -> Result:
    target.clear()
    usage = candidate.run(target)
    return {
        "valid": not candidate.loads or target.complete_rows() == target.events,
        "seconds": usage.seconds,
        "events_per_second": target.events / target.active_seconds(usage),
        "cpu_seconds_per_million": usage.cpu_seconds * 1_000_000 / target.events,
        "peak_mib": usage.peak_mib,
    }


def _summary(runs: Sequence[Result]) -> Result:
    names = ("seconds", "events_per_second", "cpu_seconds_per_million")
    rates = [run["events_per_second"] for run in runs]
    return {
        **{name: statistics.median(run[name] for run in runs) for name in names},
        "range": (min(rates), max(rates)),
        "peak_mib": {
            name: max(run["peak_mib"][name] for run in runs) for name in runs[0]["peak_mib"]
        },
        "valid": all(run["valid"] for run in runs),
    }


def _short(result: Result) -> str:
    peaks = ", ".join(f"{name} {peak:.0f} MiB" for name, peak in result["peak_mib"].items())
    return f"{result['events_per_second']:,.0f} events/s in {result['seconds']:.1f} s; {peaks}"
