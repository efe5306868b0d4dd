"""Side by side: every contestant, several times, in alternating order."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from datasync_bench import contestants, processes
from datasync_bench.numbers import MILLION, Spread, without_startup
from datasync_bench.processes import MEBIBYTE
from datasync_bench.stage import Stage, running_api, running_database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasync_bench.contestants import Contestant
    from datasync_bench.processes import Usage
    from datasync_bench.stage import Loaded

FEW = 5000
"""Events of the small run that start-up is taken from: one page."""


@dataclass
class Trial:
    """One contestant, once: the large and the small run beside each other.

    Attributes:
        usage: The large run.
        small: The run of one page.
        busy: Seconds of the large run from its first request to its end.
        small_busy: The same of the small run.
        loaded: What the large run left.
        database_cpu: CPU seconds of PostgreSQL during the large run.
        api_cpu: CPU seconds of the sandbox API during the large run.
    """

    usage: Usage
    small: Usage
    busy: float
    small_busy: float
    loaded: Loaded | None
    database_cpu: float
    api_cpu: float


@dataclass
class Row:
    """One contestant's results."""

    contestant: Contestant
    events: int
    trials: list[Trial] = field(default_factory=list)

    @property
    def seconds(self) -> Spread:
        """Wall time of the whole run."""
        return Spread.of([trial.usage.seconds for trial in self.trials])

    @property
    def rate(self) -> Spread | None:
        """Events per second without start-up; None where that is lost in the noise."""
        costs = [without_startup(t.busy, t.small_busy, self.events, FEW) for t in self.trials]
        return Spread.of_known([cost and 1 / cost for cost in costs])

    @property
    def cpu(self) -> Spread | None:
        """CPU seconds of the client's processes per million events, without start-up."""
        costs = [without_startup(t.usage.cpu, t.small.cpu, self.events, FEW) for t in self.trials]
        return Spread.of_known([cost and cost * MILLION for cost in costs])

    @property
    def startup(self) -> Spread:
        """Wall time of the small run."""
        return Spread.of([trial.small.seconds for trial in self.trials])

    @property
    def peaks(self) -> dict[str, float]:
        """Largest peak memory of all trials in MiB, by role."""
        found: dict[str, float] = {}
        for trial in self.trials:
            for role, size in trial.usage.peaks.items():
                found[role] = max(found.get(role, 0.0), size / MEBIBYTE)
        return found

    @property
    def is_valid(self) -> bool:
        """Whether every trial has loaded every event, once."""
        counts = [trial.loaded for trial in self.trials if trial.loaded is not None]
        return all(
            count.rows == count.distinct == count.complete == self.events for count in counts
        )

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "name": self.contestant.name,
            "title": self.contestant.title,
            "kind": self.contestant.kind,
            "events": self.events,
            "valid": self.is_valid,
            "wall_s": asdict(self.seconds),
            "events_per_s": self.rate and asdict(self.rate),
            "cpu_s_per_million": self.cpu and asdict(self.cpu),
            "one_page_s": asdict(self.startup),
            "peak_mib": self.peaks,
            "trials": [
                {
                    "wall_s": t.usage.seconds,
                    "one_page_s": t.small.seconds,
                    "from_first_request_s": t.busy,
                    "one_page_from_first_request_s": t.small_busy,
                    "client_cpu_s": t.usage.cpu,
                    "database_cpu_s": t.database_cpu,
                    "api_cpu_s": t.api_cpu,
                    "loaded": t.loaded and asdict(t.loaded),
                }
                for t in self.trials
            ],
        }


def compare(
    chosen: Sequence[Contestant], events: int, repeat: int, *, warm: bool = True
) -> list[Row]:
    """Measure side by side.

    Args:
        chosen: What.
        events: Events of the feed; more than `FEW`.
        repeat: How often.
        warm: Whether everybody runs once before it counts.

    Returns:
        A row for each, in the order of `chosen`.
    """
    rows = [Row(contestant, events) for contestant in chosen]
    with ExitStack() as stack:
        cluster = stack.enter_context(running_database())
        large = Stage(stack.enter_context(running_api(events)), cluster)
        small = Stage(stack.enter_context(running_api(FEW)), cluster)
        if warm:
            warm_up(large, small, chosen)
        for number in range(repeat):
            # There and back again, so that nobody always comes after the same one.
            for row in rows if number % 2 == 0 else reversed(rows):
                row.trials.append(_trial(row.contestant, large, small))
                trial = row.trials[-1]
                print(
                    f"  {number + 1}/{repeat}  {row.contestant.title:<40}"
                    f"{trial.usage.seconds:8.2f} s  (one page {trial.small.seconds:.2f} s)",
                    flush=True,
                )
    return rows


def warm_up(large: Stage, small: Stage, chosen: Sequence[Contestant]) -> None:
    """Let everybody run once, unmeasured: files in the cache, the API's pages made."""
    print("Warming up ...", flush=True)
    for stage in (large, small):
        contestants.floor(stage, "fetch")
        contestants.ready_rows(stage)
    for contestant in chosen:
        small.clear()
        contestant.run(small)


def _trial(contestant: Contestant, large: Stage, small: Stage) -> Trial:
    small.clear()
    few = contestant.run(small)
    few_busy = small.busy_seconds(few)
    large.clear()
    database, api = large.database_pid, large.api.process.pid
    before = processes.cpu_of(database), processes.cpu_of(api)
    usage = contestant.run(large)
    after = processes.cpu_of(database), processes.cpu_of(api)
    return Trial(
        usage=usage,
        small=few,
        busy=large.busy_seconds(usage),
        small_busy=few_busy,
        loaded=large.loaded() if contestant.loads else None,
        database_cpu=after[0] - before[0],
        api_cpu=after[1] - before[1],
    )
