"""How the lanes do while the table grows: events per second and memory at several sizes."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from datasync_bench import contestants
from datasync_bench.comparison import FEW
from datasync_bench.numbers import Spread, Tenths, memory_tenths, tenths, without_startup
from datasync_bench.processes import MEBIBYTE
from datasync_bench.stage import Stage, running_api, running_database

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasync_bench.processes import Usage

SUBJECTS: dict[str, tuple[str, Callable[[Stage], Usage]]] = {
    "bulk": ("bulk lane", lambda stage: contestants.piped(stage, bulk=True)),
    "record": ("record lane", lambda stage: contestants.piped(stage, bulk=False)),
    "copy": ("COPY", lambda stage: contestants.ready_floor(stage, "copy")),
    "upsert": ("COPY and ON CONFLICT", lambda stage: contestants.ready_floor(stage, "upsert")),
    "keyless": ("the same without a key", lambda stage: contestants.ready_floor(stage, "keyless")),
}
_PAGES_FOR_TENTHS = 100


@dataclass(frozen=True)
class Load:
    """One load.

    Attributes:
        rate: Events per second without start-up; None where that is lost in the noise.
        ends: Events per second of the first tenth and the last; None where it is too short.
        peaks: Peak memory in MiB, by role.
        growth: MiB by which each role's resident memory grew from its second tenth to its last.
        valid: Whether every event is there, once.
    """

    rate: float | None
    ends: Tenths | None
    peaks: dict[str, float]
    growth: dict[str, float]
    valid: bool

    def sentence(self) -> str:
        """What came out, in short."""
        ends = (
            ""
            if self.ends is None
            else f", first tenth {self.ends.first:,.0f}, last tenth {self.ends.last:,.0f}"
        )
        peaks = ", ".join(f"{role} {peak:.0f} MiB" for role, peak in self.peaks.items())
        rate = "lost in the noise" if self.rate is None else f"{self.rate:,.0f} events/s"
        return f"{rate}{ends}; {peaks}"


@dataclass(frozen=True)
class Point:
    """Loads of one size.

    Attributes:
        subject: Key of `SUBJECTS`.
        events: Size of the feed.
        loads: At least one.
    """

    subject: str
    events: int
    loads: list[Load]

    def document(self) -> dict[str, Any]:
        """Medians and ranges, the worst of memory, and every single load, as JSON values."""
        rate = Spread.of_known([load.rate for load in self.loads])
        ends = [load.ends for load in self.loads if load.ends is not None]
        return {
            "subject": self.subject,
            "events": self.events,
            "valid": all(load.valid for load in self.loads),
            "rate": rate and asdict(rate),
            "first": asdict(Spread.of([end.first for end in ends])) if ends else None,
            "last": asdict(Spread.of([end.last for end in ends])) if ends else None,
            "change": asdict(Spread.of([end.change for end in ends])) if ends else None,
            "peaks": _largest([load.peaks for load in self.loads]),
            "growth": _largest([load.growth for load in self.loads]),
            "loads": [asdict(load) for load in self.loads],
        }


def grow(sizes: Sequence[int], subjects: Sequence[str], repeat: int) -> list[Point]:
    """Load each size in each way."""
    points = []
    with ExitStack() as stack:
        cluster = stack.enter_context(running_database())
        small = Stage(stack.enter_context(running_api(FEW)), cluster)
        contestants.ready_rows(small)
        few = {subject: _small_seconds(small, subject) for subject in subjects}
        for size in sizes:
            with running_api(size) as api:
                stage = Stage(api, cluster)
                contestants.floor(stage, "fetch")
                contestants.ready_rows(stage)
                mine = [Point(subject, size, []) for subject in subjects]
                for number in range(repeat):
                    # There and back again, so that nobody always comes after the same one.
                    for point in mine if number % 2 == 0 else reversed(mine):
                        load = _load(stage, point.subject, few[point.subject])
                        point.loads.append(load)
                        said = f"{point.subject:<8}{size:>9,}: {load.sentence()}"
                        print(f"  {number + 1}/{repeat}  {said}", flush=True)
                points += mine
    return points


def _small_seconds(small: Stage, subject: str) -> float:
    busy = []
    for _ in range(3):
        small.clear()
        busy.append(small.busy_seconds(SUBJECTS[subject][1](small)))
    return statistics.median(busy)


def _load(stage: Stage, subject: str, few: float) -> Load:
    stage.clear()
    usage = SUBJECTS[subject][1](stage)
    loaded, commits, size = stage.loaded(), stage.commits(), stage.api.events
    growth = {}
    for role, samples in usage.memory.items():
        early, late = memory_tenths(samples)
        growth[role] = (late - early) / MEBIBYTE
    cost = without_startup(stage.busy_seconds(usage), few, size, FEW)
    return Load(
        rate=cost and 1 / cost,
        ends=tenths(commits) if len(commits) >= _PAGES_FOR_TENTHS else None,
        peaks={role: peak / MEBIBYTE for role, peak in usage.peaks.items()},
        growth=growth,
        valid=loaded.rows == loaded.distinct == loaded.complete == size,
    )


def _largest(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    # A process that was gone too soon was never looked at: its role is missing in that load.
    roles = dict.fromkeys(role for each in found for role in each)
    return {role: max(each[role] for each in found if role in each) for role in roles}
