"""One run from beginning to end: what is needed is found or started, then it is loaded."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from datasync_ingestion import database, errors, logs, pipeline, runs, settings, sources
from datasync_ingestion.console import complain, say
from datasync_ingestion.interrupts import Interrupts, StoppedError
from datasync_ingestion.load import Load, Tools
from datasync_ingestion.lock import only_one
from datasync_ingestion.outcomes import End
from datasync_ingestion.restarts import RestartPolicy
from datasync_ingestion.sources import Change
from datasync_ingestion.standins import StandIns
from datasync_ingestion.states import Correction, MeltanoState, correct
from datasync_ingestion.summary import Summary
from datasync_ingestion.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from datasync_ingestion.database import Door
    from datasync_ingestion.settings import Api, Database, Plan

_EVERYTHING = "Everything is loaded once more, from the newest event to the oldest."
# Of Meltano's own settings, those that would change what we ask of it or read from it.
_FOREIGN = ("MELTANO_RUN_", "MELTANO_CLI_LOG", "MELTANO_ENVIRONMENT")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.

    Attributes:
        bulk: Whether the tap writes files that the loader copies.
        full_refresh: Whether to walk to the oldest event once more.
        restart: Whether a failed run is started again.
        verbose: Whether the tools' own log is shown.
        sandbox: Options for the sandbox.
    """

    bulk: bool = False
    full_refresh: bool = False
    restart: bool = True
    verbose: bool = False
    sandbox: tuple[str, ...] = ()


class Supervisor:
    """Runs the pipeline of one checkout."""

    def __init__(self, root: Path, options: Options, interrupts: Interrupts) -> None:
        """Prepare a run; nothing happens yet.

        Args:
            root: The checkout, with `meltano.yml` in it.
            options: From the command line.
            interrupts: Tells of signals.
        """
        self._root = root
        self._options = options
        self._interrupts = interrupts
        self._directory = root / ".run"
        self._standins = StandIns(root, interrupts)

    def run(self) -> int:
        """Run it; returns the exit code.

        Raises:
            IngestionError: It cannot begin.
        """
        plan = self._plan()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with only_one(self._directory / "run.lock"):
            if pipeline.clear_the_way(self._root):
                say("A run that was killed had left its pipeline behind; it is ended.")
            try:
                return self._run(plan)
            except StoppedError as stopped:
                self._standins.stop_started()
                # A terminal that was closed hears nothing any more.
                with suppress(OSError):
                    say("Stopped. What is loaded stays, and the next run goes on from there.")
                return stopped.exit_code

    def stop_standins(self) -> str:
        """Stop the sandbox; returns what it says.

        Raises:
            BusyError: A run is under way.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with only_one(self._directory / "run.lock"):
            pipeline.clear_the_way(self._root)
            return self._standins.stop()

    def _plan(self) -> Plan:
        dotenv = dotenv_values(self._root / ".env")
        settings.refuse_meltano_names(os.environ, dotenv)
        plan = settings.decide(settings.merge(os.environ, dotenv))
        if self._options.sandbox and not plan.made_up:
            message = (
                f"'{self._options.sandbox[0]}' is no option, or one of the sandbox, "
                "which is not used here."
            )
            raise errors.UsageError(message)
        return plan

    def _run(self, plan: Plan) -> int:
        for remark in plan.remarks:
            say(remark)
        state = MeltanoState(self._root, self._meltano_environment(), self._interrupts)
        with ThreadPoolExecutor(1) as pool:
            # Meltano takes seconds to say what it knows; the stand-ins start meanwhile.
            known = pool.submit(state.read)
            api, target = self._stand_in(plan)
        say(f"API:      {api.url}{' (sandbox: made-up events)' if plan.made_up else ''}")
        say(f"Database: {target.place}{' (embedded)' if plan.database is None else ''}")
        source = sources.name(plan, self._standins.directory)
        with database.Door(target, self._interrupts.sleep) as door:
            correction = self._mind_the_source(door, source, target)
            if correction is None:
                checkpoint = door.ask(database.checkpoint)
                correction = correct(known.result(), checkpoint.state if checkpoint else None)
            if correction:
                say(correction.reason)
                state.apply(correction)
            env = self._meltano_environment(**settings.environment(api, target, plan.page_size))
            return self._load(door, env, source, plan, target)

    def _load(
        self, door: Door, env: Mapping[str, str], source: str, plan: Plan, target: Database
    ) -> int:
        directory = self._directory / "log"
        directory.mkdir(mode=0o700, exist_ok=True)
        logs.prune(directory)
        path = directory / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.log"
        started = time.monotonic()
        run = door.ask(lambda connection: runs.begin(connection, source))
        policy = RestartPolicy() if self._options.restart else None
        with (
            path.open("a", encoding="utf-8", buffering=1) as log,
            View(target, door.ask(database.now)) as view,
        ):
            tools = Tools(
                root=self._root,
                env=env,
                door=door,
                view=view,
                log=log,
                interrupts=self._interrupts,
                revive=self._standins.revive,
                verbose=self._options.verbose,
            )
            load = Load(tools, run, policy)
            outcome = load.run()
            seconds = time.monotonic() - started
            view.tick(last=True)
        where = path.relative_to(self._root)
        if outcome.end is not End.FINISHED:
            complain(outcome.reason)
            complain(
                f"What is loaded stays, and the next run goes on from there. The full log: {where}"
            )
            return outcome.exit_code
        checkpoint = door.ask(database.checkpoint)
        summary = Summary(
            in_table=door.ask(lambda connection: runs.end(connection, run, "finished")),
            before=run.events_before,
            reported=checkpoint.total_events if checkpoint else None,
            rejected=door.ask(lambda connection: database.count(connection, "rejected_events")),
            seconds=seconds,
            restarts=load.restarts,
            database=target,
            embedded=plan.database is None,
            log=where,
        )
        say("\n".join(summary.lines()))
        return errors.OK

    def _stand_in(self, plan: Plan) -> tuple[Api, Database]:
        """Return API and database, of which those that are not real are started."""
        if plan.api and plan.database:
            return plan.api, plan.database
        api, target = self._standins.start(self._options.sandbox, api=plan.made_up)
        chosen = plan.api or api
        assert chosen is not None  # noqa: S101 - the one or the other
        return chosen, target

    def _mind_the_source(self, door: Door, source: str, target: Database) -> Correction | None:
        """Look at whose events the database holds; returns what that does to the state."""
        change = sources.compare(door.ask(runs.last_source), source, target.place)
        if change is Change.FORGET:
            say(
                "The sandbox serves other events than before: the made-up ones of then are removed."
            )
            door.ask(database.forget_events)
        if change is Change.WALK:
            return Correction(None, f"The address of the API has changed. {_EVERYTHING}")
        return Correction(None, _EVERYTHING) if self._options.full_refresh else None

    def _meltano_environment(self, **more: str) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        env.update(more, MELTANO_PROJECT_ROOT=str(self._root), NO_COLOR="1")
        if self._options.bulk:
            env["TAP_DATASYNC_BATCH_CONFIG"] = pipeline.batch_config(self._directory / "batches")
        return env
