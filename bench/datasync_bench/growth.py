"""How the lanes do while the table grows: events per second and memory at several sizes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from datasync_bench import contestants
from datasync_bench.comparison import FEW
from datasync_bench.numbers import memory_tenths, tenths, without_startup
from datasync_bench.processes import MEBIBYTE
from datasync_bench.stage import Stage, running_api, running_database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasync_bench.processes import Usage

SUBJECTS: dict[str, tuple[str, Callable[[Stage], Usage]]] = {
    "bulk": ("bulk lane", lambda stage: contestants.piped(stage, bulk=True)),
    "record": ("record lane", lambda stage: contestants.piped(stage, bulk=False)),
    "upsert": ("COPY and ON CONFLICT", lambda stage: contestants.ready_floor(stage, "upsert")),
    "keyless": ("the same without a key", lambda stage: contestants.ready_floor(stage, "keyless")),
}
_PAGES_FOR_TENTHS = 100


@dataclass(frozen=True)
class Point:
    """One load of one size.

    Attributes:
        subject: Key of `SUBJECTS`.
        events: Size of the feed.
        rate: Events per second without start-up; None where that is lost in the noise.
        first: Events per second in the first tenth; None where the load is too short.
        last: The same in the last tenth.
        peaks: Peak memory in MiB, by role.
        growth: MiB by which each role's resident memory grew from its second tenth to its last.
        valid: Whether every event is there, once.
    """

    subject: str
    events: int
    rate: float | None
    first: float | None
    last: float | None
    peaks: dict[str, float]
    growth: dict[str, float]
    valid: bool

    def sentence(self) -> str:
        """What came out, in short."""
        ends = (
            ""
            if self.first is None or self.last is None
            else f", first tenth {self.first:,.0f}, last tenth {self.last:,.0f}"
        )
        peaks = ", ".join(f"{role} {peak:.0f} MiB" for role, peak in self.peaks.items())
        rate = "lost in the noise" if self.rate is None else f"{self.rate:,.0f} events/s"
        return f"{self.subject:<8}{self.events:>9,}: {rate}{ends}; {peaks}"

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)


def grow(sizes: Sequence[int], subjects: Sequence[str]) -> list[Point]:
    """Load each size in each way, once."""
    points = []
    with ExitStack() as stack:
        cluster = stack.enter_context(running_database())
        small = Stage(stack.enter_context(running_api(FEW)), cluster)
        few: dict[str, float] = {}
        contestants.ready_rows(small)
        for subject in subjects:
            busy = []
            for _ in range(3):
                small.clear()
                busy.append(small.busy_seconds(SUBJECTS[subject][1](small)))
            few[subject] = sorted(busy)[1]
        for size in sizes:
            with running_api(size) as api:
                stage = Stage(api, cluster)
                contestants.floor(stage, "fetch")
                contestants.ready_rows(stage)
                for subject in subjects:
                    points.append(_point(stage, subject, few[subject]))
                    print(f"  {points[-1].sentence()}", flush=True)
    return points


def _point(stage: Stage, subject: str, few: float) -> Point:
    stage.clear()
    usage = SUBJECTS[subject][1](stage)
    loaded, commits, size = stage.loaded(), stage.commits(), stage.api.events
    parts = tenths(commits) if len(commits) >= _PAGES_FOR_TENTHS else None
    growth = {}
    for role, samples in usage.memory.items():
        early, late = memory_tenths(samples)
        growth[role] = (late - early) / MEBIBYTE
    cost = without_startup(stage.busy_seconds(usage), few, size, FEW)
    return Point(
        subject=subject,
        events=size,
        rate=cost and 1 / cost,
        first=None if parts is None else parts.first,
        last=None if parts is None else parts.last,
        peaks={role: peak / MEBIBYTE for role, peak in usage.peaks.items()},
        growth=growth,
        valid=loaded.rows == loaded.distinct == loaded.complete == size,
    )
