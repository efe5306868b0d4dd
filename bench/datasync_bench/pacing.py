"""Under the API's limit: how much of it is used, and what a second run costs.

The limit is scaled in time: window, latency, cursor and the hand-written loop's pause by the same
factor, and the pages too, since a program's own time does not scale by itself. What does not scale
are the headers: they count whole seconds, so that the window has to stay several of them.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from datasync_bench import contestants
from datasync_bench.numbers import share_of_limit
from datasync_bench.stage import Stage, running_api, running_database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasync_bench.processes import Usage

LIMIT = 10
REAL_WINDOW = 60.0
REAL_LATENCY = 4.0
REAL_CURSOR = 120.0
REAL_PAGE = 5000
REAL_PAUSE = 6.0


@dataclass(frozen=True)
class Pace:
    """How one program used the limit.

    Attributes:
        name: The program.
        factor: By how much time was scaled; 1 is the real thing.
        share: Part of the limit that was used.
        requests: Requests that were answered with a page.
        refused: Requests that were answered with 429.
        seconds: From the first request to the last.
        events: Events of the feed.
        rows: Rows afterwards; the run is void if they are not as many.
    """

    name: str
    factor: float
    share: float
    requests: int
    refused: int
    seconds: float
    events: int
    rows: int

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {**asdict(self), "valid": self.rows == self.events}


def subjects(factor: float) -> dict[str, Callable[[Stage], Usage]]:
    """The programs, the pause scaled."""
    return {
        "record lane": lambda stage: contestants.piped(stage, bulk=False),
        "bulk lane": lambda stage: contestants.piped(stage, bulk=True),
        "hand-written loop": lambda stage: contestants.hand(stage, REAL_PAUSE / factor),
        "dlt, append": lambda stage: contestants.dlt(stage, "append", "insert_values"),
    }


def pace(factor: float, windows: int, names: Sequence[str]) -> list[Pace]:
    """Let programs load under the limit, one after the other.

    Args:
        factor: By how much to scale time.
        windows: Whole windows to measure.
        names: Keys of `subjects`.
    """
    page = round(REAL_PAGE / factor)
    events = page * (windows * LIMIT + 1)
    found = []
    with ExitStack() as stack:
        cluster = stack.enter_context(running_database())
        for name in names:
            # An API for each: the window of one must not hold the requests of another.
            with running_api(
                events,
                limit=LIMIT,
                window=REAL_WINDOW / factor,
                latency=f"{REAL_LATENCY / factor:g}",
                cursor_lifetime=REAL_CURSOR / factor,
                max_page=page,
            ) as api:
                stage = Stage(api, cluster)
                stage.clear()
                subjects(factor)[name](stage)
                found.append(_judge(name, factor, stage))
                print(f"  {found[-1]}", flush=True)
    return found


def _judge(name: str, factor: float, stage: Stage) -> Pace:
    stats = stage.api.stats()
    served = [entry["at"] for entry in stats["log"] if entry["result"] == 200]  # noqa: PLR2004
    return Pace(
        name=name,
        factor=factor,
        share=share_of_limit(served, LIMIT, REAL_WINDOW / factor),
        requests=len(served),
        refused=stats["rate_limited"],
        seconds=served[-1] - served[0],
        events=stage.api.events,
        rows=stage.loaded().rows,
    )


@dataclass(frozen=True)
class Again:
    """A second run on a feed in which nothing is new.

    Attributes:
        name: How it was run.
        requests: Requests that it took.
        seconds: Its wall time, start-up included.
        cpu: Its CPU seconds.
        limited: Seconds that the requests take under the real limit, at least.
    """

    name: str
    requests: int
    seconds: float
    cpu: float
    limited: float

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)


def run_again(events: int) -> list[Again]:
    """Load a feed, load it again with the state of the first run, and again without it."""
    found = []
    with ExitStack() as stack:
        cluster = stack.enter_context(running_database())
        stage = Stage(stack.enter_context(running_api(events)), cluster)
        stage.clear()
        first = contestants.piped(stage, bulk=True)
        directory = contestants.scratch("again")
        state = directory / "state.json"
        state.write_text(first.output.splitlines()[-1])
        for name, saved in (("with the state of the first run", state), ("a full walk", None)):
            before = stage.api.stats()["requests"]
            usage = contestants.piped(stage, bulk=True, state=saved)
            requests = stage.api.stats()["requests"] - before
            windows = (requests - 1) // LIMIT
            limited = windows * REAL_WINDOW + (requests - windows * LIMIT) * REAL_LATENCY
            found.append(Again(name, requests, usage.seconds, usage.cpu, limited))
            print(f"  {found[-1]}", flush=True)
        shutil.rmtree(directory)
    return found
