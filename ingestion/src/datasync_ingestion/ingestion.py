"""One run from start to end: settings, sandbox, state, load, summary."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from datasync_monitor.database import (
    DatabaseRejected,
    DatabaseUnavailable,
    ReconnectingConnection,
)
from datasync_monitor.environment import read_env_file
from datasync_monitor.snapshot import read_checkpoint

from datasync_ingestion import config, database, output
from datasync_ingestion.errors import EXIT_OK, BusyError, ConfigError, IngestionError
from datasync_ingestion.meltano import exclusive_lock, stop_orphaned_pipeline
from datasync_ingestion.output import Hints, ProgressDisplay, Summary
from datasync_ingestion.runner import Action, LoadRunner, RestartPolicy, RunContext
from datasync_ingestion.sandbox import Sandbox
from datasync_ingestion.signals import Interrupted, SignalWatcher
from datasync_ingestion.state_sync import (
    MeltanoState,
    SourceChange,
    check_source_change,
    reconcile,
    source_label,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from datasync_monitor.database import DatabaseSettings

    from datasync_ingestion.config import Api, RunConfig

KEPT_LOGS = 50
LOAD_LOCK_SECONDS = 3.0
_POLL_SECONDS = 0.25
# Settings of Meltano itself that would change what is run, or how its output is read.
_FOREIGN_PREFIXES = ("MELTANO_RUN_", "MELTANO_CLI_LOG", "MELTANO_ENVIRONMENT")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line.

    Attributes:
        full_refresh: Whether to scan from the newest to the oldest event again.
        no_restart: Whether a failed attempt ends the run.
        verbose: Whether the full log is shown.
        sandbox: Options for the sandbox.
    """

    full_refresh: bool = False
    no_restart: bool = False
    verbose: bool = False
    sandbox: tuple[str, ...] = ()


class Ingestion:
    """Runs the pipeline of one checkout."""

    def __init__(self, root: Path, options: Options, signals: SignalWatcher) -> None:
        """Store the arguments; `run` starts the load.

        Args:
            root: The checkout, which contains `meltano.yml`.
            options: From the command line.
            signals: Reports signals.
        """
        self._root = root
        self._options = options
        self._signals = signals
        self._directory = root / ".run"
        self._sandbox = Sandbox(root, signals)
        self._hints = Hints.from_environment(os.environ)
        self._plugin_settings: tuple[str, ...] = ()

    def run(self) -> int:
        """Load; returns the exit code.

        Raises:
            IngestionError: The load cannot start or continue.
            Interrupted: A signal arrived; what this run started is stopped.
        """
        self._check_root()
        selected = self._resolve()
        with self._checkout_lock():
            try:
                return self._run(selected)
            except Interrupted:
                self._sandbox.stop_started()
                # The terminal may be closed.
                with suppress(OSError):
                    output.info(f"Stopped. {output.RESUME_NOTE}")
                raise
            except DatabaseRejected as error:
                raise ConfigError(str(error)) from error
            except DatabaseUnavailable as error:
                raise IngestionError(str(error)) from error

    def stop_sandbox(self) -> int:
        """Stop the sandbox; returns the exit code.

        Raises:
            BusyError: A run is in progress.
        """
        self._check_root()
        with self._checkout_lock():
            output.info(self._sandbox.stop())
        return EXIT_OK

    def _check_root(self) -> None:
        if not (self._root / "meltano.yml").is_file():
            message = f"{self._root} contains no meltano.yml: start this with run-ingestion.sh."
            raise ConfigError(message)

    @contextmanager
    def _checkout_lock(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with exclusive_lock(self._directory / "run.lock", self._hints.stop):
            if stop_orphaned_pipeline(self._root):
                output.info("Stopped a pipeline left running by a killed run.")
            yield

    def _resolve(self) -> RunConfig:
        try:
            env_file = read_env_file(self._root / ".env")
            settings = config.merge(os.environ, env_file)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        selected = config.resolve(settings, in_container=self._hints.in_container)
        if self._options.sandbox and not selected.uses_sandbox:
            message = (
                f"{self._options.sandbox[0]} is not an option of run-ingestion.sh; options of the "
                "sandbox are accepted only where API_KEY is not set."
            )
            raise ConfigError(message)
        self._plugin_settings = config.plugin_settings({*os.environ, *env_file})
        return selected

    def _run(self, selected: RunConfig) -> int:
        for notice in selected.notices:
            output.info(notice)
        state = MeltanoState(self._root, self._meltano_environment(), self._signals)
        with ThreadPoolExecutor(1) as pool:
            # Meltano takes seconds to return its state; the sandbox starts meanwhile.
            saved = pool.submit(state.read)
            api, settings = self._resolve_addresses(selected)
        output.info(f"API:      {api.url}{' (sample events)' if selected.uses_sandbox else ''}")
        embedded = selected.database is None
        output.info(f"Database: {settings.location}{' (embedded)' if embedded else ''}")
        with self._connection(settings) as connection:
            source = source_label(selected, self._sandbox.feed)
            self._prepare_database(connection, source, embedded=embedded)
            checkpoint = connection.run(read_checkpoint)
            update = reconcile(
                saved.result(),
                checkpoint.state if checkpoint else None,
                full_refresh=self._options.full_refresh,
            )
            if update:
                output.info(update.reason)
                state.apply(update)
            env = self._meltano_environment(
                **config.pipeline_environment(api, settings, selected.page_size)
            )
            return self._load(connection, env, source, embedded=embedded)

    def _resolve_addresses(self, selected: RunConfig) -> tuple[Api, DatabaseSettings]:
        """Return the addresses of API and database; starts the sandbox if it is used."""
        if selected.api and selected.database:
            return selected.api, selected.database
        api, settings = self._sandbox.start(self._options.sandbox, with_api=selected.uses_sandbox)
        chosen = selected.api or api
        assert chosen is not None  # noqa: S101 - one of the two
        return chosen, settings

    def _connection(self, settings: DatabaseSettings) -> ReconnectingConnection:
        return ReconnectingConnection(
            settings,
            application_name=database.APPLICATION_NAME,
            read_only=False,
            # Counting the rows of a large table may take minutes.
            statement_timeout_seconds=0,
            sleep=self._signals.sleep,
        )

    def _prepare_database(
        self, connection: ReconnectingConnection, source: str, *, embedded: bool
    ) -> None:
        """Check tables, load lock and source; empties the tables if the samples changed."""
        settings = connection.settings

        connection.run(
            lambda conn: database.check_tables(conn, settings),
            attempts=database.CONNECT_ATTEMPTS,
        )
        self._check_load_lock(connection)
        last = connection.run(database.last_source)
        removal = self._hints.removal(embedded=embedded)
        change = check_source_change(last, source, settings.location, removal)
        if change is SourceChange.TRUNCATE:
            output.info("The sandbox serves other sample events: removing the previous ones.")
            connection.run(database.truncate_load)

    def _check_load_lock(self, connection: ReconnectingConnection) -> None:
        # The server may take some seconds to detect that a killed target has ended.
        deadline = time.monotonic() + LOAD_LOCK_SECONDS
        while holder := connection.run(database.load_lock_holder):
            if time.monotonic() > deadline:
                location = connection.settings.location
                message = (
                    f"Another load into the database {location} is in progress ({holder}): "
                    "wait for it, or stop it where it was started."
                )
                raise BusyError(message)
            self._signals.sleep(_POLL_SECONDS)

    def _load(
        self,
        connection: ReconnectingConnection,
        env: Mapping[str, str],
        source: str,
        *,
        embedded: bool,
    ) -> int:
        settings = connection.settings
        path = self._new_log()
        started = time.monotonic()
        run = connection.run(lambda conn: database.begin_run(conn, settings, source))
        with (
            path.open("a", encoding="utf-8", buffering=1) as log,
            ProgressDisplay(ReconnectingConnection(settings)) as display,
        ):
            context = RunContext(
                root=self._root,
                env=env,
                database=connection,
                display=display,
                log=log,
                signals=self._signals,
                ensure_sandbox=self._sandbox.ensure_running,
                plugin_settings=self._plugin_settings,
                verbose=self._options.verbose,
            )
            runner = LoadRunner(context, run, None if self._options.no_restart else RestartPolicy())
            outcome = runner.run()
            seconds = time.monotonic() - started
            if outcome.action is Action.FINISH:
                rows = connection.run(
                    lambda conn: database.end_run(conn, run, "finished"),
                    attempts=database.CONNECT_ATTEMPTS,
                )
                display.refresh(last=True)
        log_hint = self._hints.log(path.relative_to(self._root))
        if outcome.action is not Action.FINISH:
            output.error(outcome.message)
            output.error(f"{output.RESUME_NOTE} Full log: {log_hint}")
            return outcome.exit_code
        checkpoint = connection.run(read_checkpoint)
        summary = Summary(
            rows=rows,
            rows_before=run.events_before,
            total_events=checkpoint.total_events if checkpoint else None,
            rejected=connection.run(lambda conn: database.count_rows(conn, "rejected_events")),
            seconds=seconds,
            restarts=runner.restarts,
            query=self._hints.query(settings, embedded=embedded),
            log=log_hint,
            sandbox_runs=embedded,
        )
        output.info("\n".join(summary.lines()))
        return EXIT_OK

    def _new_log(self) -> Path:
        """Return the path of a new log; the oldest logs are deleted."""
        directory = self._directory / "log"
        directory.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(directory.glob("*.log"))[: 1 - KEPT_LOGS]:
            old.unlink(missing_ok=True)
        return directory / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.log"

    def _meltano_environment(self, **settings: str) -> dict[str, str]:
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN_PREFIXES)
        }
        return {**env, **settings, "MELTANO_PROJECT_ROOT": str(self._root), "NO_COLOR": "1"}
