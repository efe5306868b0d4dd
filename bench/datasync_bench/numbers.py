"""The arithmetic of the bench; pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MILLION = 1_000_000


@dataclass(frozen=True)
class Spread:
    """A median with the range that it comes from."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the values of several runs; at least one."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_known(cls, values: Sequence[float | None]) -> Spread | None:
        """Take the values of several runs; None where one of them is not known."""
        known = [value for value in values if value is not None]
        return cls.of(known) if len(known) == len(values) else None


def without_startup(large: float, small: float, events: int, few: int) -> float | None:
    """What one more event costs, once everything runs: the difference of two sizes.

    Starting, connecting, making tables and ending cost the same at both sizes and cancel out.

    Args:
        large: Seconds (or another cost) with `events`.
        small: The same with `few`.
        events: Events of the large run.
        few: Events of the small run.

    Returns:
        Cost per event; None where the large run did not even cost more: it is lost in the noise.
    """
    if events <= few:
        message = f"{events} events are not more than {few}"
        raise ValueError(message)
    return (large - small) / (events - few) if large > small else None


def share_of_limit(arrivals: Sequence[float], limit: int, window: float) -> float:
    """How much of a request limit was used, between the first and the last whole window.

    With the limit used up, request 1 + k x limit arrives k windows after request 1.

    Args:
        arrivals: When the requests arrived, in seconds, in order.
        limit: Requests a window.
        window: Its seconds.

    Raises:
        ValueError: They do not fill a window.
    """
    windows = (len(arrivals) - 1) // limit
    if windows < 1:
        message = f"{len(arrivals)} requests do not fill a window of {limit}"
        raise ValueError(message)
    return windows * window / (arrivals[windows * limit] - arrivals[0])


@dataclass(frozen=True)
class Tenths:
    """Events per second in the first and in the last tenth of a load."""

    first: float
    last: float

    @property
    def change(self) -> float:
        """By which share the last tenth is faster; below 0 it is slower."""
        return self.last / self.first - 1


def tenths(commits: Sequence[tuple[float, int]]) -> Tenths:
    """Compare the first tenth of a load with the last.

    Args:
        commits: For each page in order: when its transaction began (seconds), and its rows.

    Raises:
        ValueError: There are too few pages.
    """
    pages = len(commits) // 10
    if pages < 1:
        message = f"{len(commits)} pages have no tenths"
        raise ValueError(message)

    def rate(part: Sequence[tuple[float, int]]) -> float:
        # From the beginning of its first page to the beginning of the page after its last.
        return sum(rows for _, rows in part[:-1]) / (part[-1][0] - part[0][0])

    return Tenths(first=rate(commits[: pages + 1]), last=rate(commits[-pages - 1 :]))


def memory_tenths(samples: Sequence[tuple[float, int]]) -> tuple[int, int]:
    """The largest memory in the second tenth of a process's time, and in the last.

    In the first it still imports and has not seen a page.

    Args:
        samples: Seconds and bytes, in order; at least one.
    """
    begin, end = samples[0][0], samples[-1][0]
    tenth = (end - begin) / 10
    early = [size for moment, size in samples if moment <= begin + 2 * tenth]
    late = [size for moment, size in samples if moment >= end - tenth]
    return max(early), max(late)
