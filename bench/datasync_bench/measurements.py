"""The measurements: throughput, size, rate limit, later runs.

Every result is a plain dictionary that goes into ``results.json`` and the report.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from datasync_bench import candidates
from datasync_bench.environment import database, environment
from datasync_bench.processes import MEBIBYTE

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


def comparison(chosen: Sequence[Candidate], events: int, repeat: int) -> list[Result]:
    """Load the same feed with every candidate, in alternating order.

    Args:
        chosen: The candidates.
        events: Size of the feed.
        repeat: Counted runs of each, after one that warms up.
    """
    runs: dict[str, list[Result]] = {candidate.name: [] for candidate in chosen}
    with ExitStack() as stack:
        settings = stack.enter_context(database())
        target = stack.enter_context(environment(settings, events))
        candidates.baseline(target, "fetch")
        for number in range(repeat + 1):
            order = chosen if number % 2 == 0 else list(reversed(chosen))
            for candidate in order:
                result = _load(candidate, target)
                print(f"  {number}/{repeat} {candidate.name}: {_short(result)}", flush=True)
                if number:
                    runs[candidate.name].append(result)
    return [
        {
            "name": candidate.name,
            "title": candidate.title,
            "is_baseline": candidate.is_baseline,
            **_summary(runs[candidate.name]),
        }
        for candidate in chosen
    ]


def size(sizes: Iterable[int]) -> list[Result]:
    """Load feeds of several sizes with ``tap | target``, to show that memory does not grow."""
    results = []
    with database() as settings:
        for events in sizes:
            with environment(settings, events) as target:
                result = _load(candidates.CANDIDATES["pipe"], target)
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
    pause = HAND_LOOP_PAUSE_SECONDS / factor
    runs: dict[str, Callable[[Environment], Usage]] = {
        "tap-datasync": candidates.pipe,
        "dlt, append": lambda target: candidates.dlt(target, "append"),
        "hand-written loop": lambda target: candidates.hand_loop(target, pause),
    }
    results = []
    with database() as settings:
        for title, run in runs.items():
            # One API for each: a window must not contain requests of the candidate before.
            with environment(
                settings,
                events,
                limit=LIMIT,
                window=WINDOW_SECONDS / factor,
                latency=LATENCY_SECONDS / factor,
                cursor_lifetime=CURSOR_LIFETIME_SECONDS / factor,
                max_page=page,
            ) as target:
                target.clear()
                run(target)
                stats = target.stats()
                served = [each["at"] for each in stats["log"] if each["result"] == HTTP_OK]
                results.append(
                    {
                        "title": title,
                        "factor": factor,
                        "share": share_of_limit(served, LIMIT, WINDOW_SECONDS / factor),
                        "rate_limited": stats["rate_limited"],
                        "pages": len(served),
                        "seconds": served[-1] - served[0],
                        "valid": target.loaded().complete == events,
                    }
                )
            print(f"  {results[-1]}", flush=True)
    return results


def later_runs(events: int) -> list[Result]:
    """Load a feed, load it again with the state of the first run, and again without it."""
    results = []
    with ExitStack() as stack:
        settings = stack.enter_context(database())
        target = stack.enter_context(environment(settings, events))
        target.clear()
        state: str | None = None
        written = 0
        for title in ("first load", "second run, nothing new", "full refresh of loaded rows"):
            requests = target.stats()["requests"]
            usage = candidates.pipe(target, state if "second" in title else None)
            state = state or usage.output.splitlines()[-1]
            seconds = target.active_seconds(usage)
            loaded = target.loaded()
            results.append(
                {
                    "title": title,
                    "requests": target.stats()["requests"] - requests,
                    "rows_written": loaded.writes - written,
                    "seconds": usage.seconds,
                    "events_per_second": events / seconds,
                    "valid": loaded.complete == events,
                }
            )
            written = loaded.writes
            print(f"  {results[-1]}", flush=True)
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
    loaded = target.loaded() if candidate.loads else None
    return _result(usage, target, rows=loaded.complete if loaded else target.events)


def _result(usage: Usage, target: Environment, rows: int) -> Result:
    seconds = target.active_seconds(usage)
    return {
        "valid": rows == target.events,
        "seconds": usage.seconds,
        "events_per_second": target.events / seconds,
        "cpu_seconds_per_million": usage.cpu_seconds * 1_000_000 / target.events,
        "peak_mib": {name: peak / MEBIBYTE for name, peak in usage.peak_bytes.items()},
    }


def _summary(runs: Sequence[Result]) -> Result:
    names = ("seconds", "events_per_second", "cpu_seconds_per_million")
    summary: Result = {name: statistics.median(run[name] for run in runs) for name in names}
    rates = [run["events_per_second"] for run in runs]
    peaks: dict[str, float] = {}
    for run in runs:
        for name, peak in run["peak_mib"].items():
            peaks[name] = max(peaks.get(name, 0.0), peak)
    valid = all(run["valid"] for run in runs)
    return {**summary, "range": (min(rates), max(rates)), "peak_mib": peaks, "valid": valid}


def _short(result: Result) -> str:
    peaks = ", ".join(f"{name} {peak:.0f} MiB" for name, peak in result["peak_mib"].items())
    return f"{result['events_per_second']:,.0f} events/s in {result['seconds']:.1f} s; {peaks}"
