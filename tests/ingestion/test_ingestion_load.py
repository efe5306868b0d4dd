"""The load around its attempts: what is tried again, what ends it, and what is noted of it."""

from __future__ import annotations

import errno
import io
import os
import signal
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion import database, processes, runs
from datasync_ingestion.database import Checkpoint, Door
from datasync_ingestion.errors import IngestionError
from datasync_ingestion.interrupts import Interrupts, StoppedError
from datasync_ingestion.load import Load, Tools
from datasync_ingestion.outcomes import End
from ingestion_helpers import FINISH, failed, nowhere

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.testing import Cluster
    from ingestion_helpers import Checkout


@dataclass
class Screen:
    """A view without a terminal."""

    tick: Callable[[], None] = lambda: None
    blind: bool = False
    note: str | None = None
    said: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.said.append(message)


@dataclass
class Policy:
    """Starts again as often as told, and remembers what it was told."""

    restarts: int = 0
    moved: list[bool] = field(default_factory=list)

    def pause(self, *, moved: bool) -> float | None:
        self.moved.append(moved)
        return 0.0 if len(self.moved) <= self.restarts else None


def make_load(  # noqa: PLR0913 - what a load is made of
    checkout: Checkout,
    door: Any,
    run: runs.Run,
    *,
    policy: Policy | None = None,
    screen: Screen | None = None,
    revive: Callable[[], bool] = lambda: True,
    interrupts: Interrupts | None = None,
    log: io.StringIO | None = None,
    verbose: bool = False,
) -> tuple[Load, io.StringIO]:
    log = log or io.StringIO()
    env = {**os.environ, "MELTANO_PROJECT_ROOT": str(checkout.root), "API_KEY": "k"}
    if isinstance(door, Door):
        at = door._database
        env |= {"DB_HOST": at.host, "DB_PORT": str(at.port), "DB_USER": at.user}
        env |= {"DB_PASSWORD": at.password, "DB_NAME": at.name}
    tools: Any = Tools(
        root=checkout.root,
        env=env,
        door=door,
        view=screen or Screen(),
        log=log,
        interrupts=interrupts or Interrupts(),
        revive=revive,
        verbose=verbose,
    )
    return Load(tools, run, policy), log


def noted(cluster: Cluster) -> list[str]:
    return cluster.sql("SELECT outcome, message FROM runs ORDER BY id").splitlines()


@pytest.fixture
def run(door: Door) -> runs.Run:
    return door.ask(lambda connection: runs.begin(connection, "sandbox"))


def test_a_stand_in_that_does_not_start_again_does_not_end_the_load(
    checkout: Checkout, door: Door, run: runs.Run
) -> None:
    def revive() -> bool:
        message = "Port 8765 is taken."
        raise IngestionError(message)

    checkout.play(failed(1, "The API does not answer."), FINISH)
    load, _ = make_load(checkout, door, run, policy=Policy(restarts=1), revive=revive)
    assert load.run().end is End.FINISHED
    assert load.restarts == 1


def test_a_stand_in_that_comes_back_elsewhere_ends_it_and_that_is_noted(
    checkout: Checkout, empty: Cluster, door: Door, run: runs.Run
) -> None:
    """What runs was told the old address, and would ask there for ever."""
    sentence = "The sandbox came back at another address: run this again."
    checkout.play(failed(1, "The API does not answer."))
    load, log = make_load(checkout, door, run, policy=Policy(), revive=lambda: False)
    with pytest.raises(IngestionError, match=sentence):
        load.run()
    assert noted(empty) == [f"failed|{sentence}"]
    assert log.getvalue().endswith(f"error    supervisor      {sentence}\n")


def test_while_the_database_is_blind_its_stand_in_is_looked_after(
    checkout: Checkout, door: Door, run: runs.Run
) -> None:
    """Also in the midst of an attempt, which is ended when the stand-in is elsewhere."""
    checkout.play({"tap": {"seconds": 60}})
    screen = Screen()
    screen.tick = lambda: setattr(screen, "blind", bool(checkout.asked("run")))
    load, _ = make_load(checkout, door, run, screen=screen, revive=lambda: False)
    with pytest.raises(IngestionError, match="another address"):
        load.run()
    assert processes.members(checkout.asked("run")[0]["session"]) == []


def test_the_reason_for_giving_up_is_in_the_log_and_in_the_table(
    checkout: Checkout, empty: Cluster, door: Door, run: runs.Run
) -> None:
    checkout.play(failed(1, "The API does not answer."))
    load, log = make_load(checkout, door, run, policy=Policy())
    sentence = "The API does not answer. Nothing has moved over 0 restarts: giving up."
    assert load.run().reason == sentence
    assert log.getvalue().endswith(f"error    supervisor      {sentence}\n")
    assert noted(empty) == [f"failed|{sentence}"]


def test_no_note_waits_for_a_database_that_is_away(checkout: Checkout) -> None:
    """What is asked does: how far the load is decides on what follows."""
    pauses: list[float] = []
    door = Door(nowhere(), pauses.append)
    checkout.play(failed(1, "No."), failed(1, "No."))
    load, _ = make_load(checkout, door, runs.Run(1, 0), policy=Policy(restarts=1))
    assert load.run().end is End.GIVE_UP
    # At the beginning and after each of the two attempts.
    assert len(pauses) == 3 * (database.ATTEMPTS - 1)


def test_a_checkpoint_that_cannot_be_read_has_not_moved(checkout: Checkout) -> None:
    noon = datetime(2026, 1, 27, 12, tzinfo=timezone.utc)
    known = Checkpoint({}, noon, walk_open=True, complete_to=None, total_events=5)
    answers: list[Checkpoint | None] = [known, None, known]

    class Flickering:
        def ask(self, question: Any, **_: Any) -> Checkpoint | None:
            if question is not database.checkpoint:
                return None
            if (answer := answers.pop(0)) is None:
                message = "PostgreSQL cannot be reached."
                raise IngestionError(message)
            return answer

    policy = Policy(restarts=1)
    checkout.play(failed(1, "No."), failed(1, "No."))
    load, _ = make_load(checkout, Flickering(), runs.Run(1, 0), policy=policy)
    load.run()
    assert policy.moved == [False, False]


class Gone(Screen):
    """A terminal that goes away when the tap runs."""

    def __init__(self, log: io.StringIO, before: Callable[[], None] = lambda: None) -> None:
        super().__init__(tick=self._fail_in_time)
        self._log, self._before = log, before

    def _fail_in_time(self) -> None:
        if "Page 1" in self._log.getvalue():
            self._before()
            raise OSError(errno.EIO, "Input/output error")

    def say(self, _message: str) -> None:
        self._fail_in_time()


def test_an_output_that_has_gone_stops_the_pipeline_and_the_log_goes_on(
    checkout: Checkout, empty: Cluster, door: Door, run: runs.Run
) -> None:
    checkout.play({"tap": {"seconds": 60}})
    log = io.StringIO()
    load, _ = make_load(checkout, door, run, screen=Gone(log), log=log, verbose=True)
    with pytest.raises(OSError, match="Input/output error"):
        load.run()
    assert processes.members(checkout.asked("run")[0]["session"]) == []
    assert "Block run completed" in log.getvalue()
    assert noted(empty) == ["failed|[Errno 5] Input/output error"]


def test_a_terminal_that_was_closed_counts_as_its_signal(
    checkout: Checkout, empty: Cluster, door: Door, run: runs.Run
) -> None:
    """It fails to be written to before anybody looks at the SIGHUP that came with that."""
    interrupts = Interrupts()
    checkout.play({"tap": {"seconds": 60}})
    log = io.StringIO()
    screen = Gone(log, lambda: setattr(interrupts, "received", signal.SIGHUP))
    load, _ = make_load(checkout, door, run, screen=screen, log=log, interrupts=interrupts)
    with pytest.raises(StoppedError) as caught:
        load.run()
    assert caught.value.exit_code == 129
    assert noted(empty) == ["stopped|"]
