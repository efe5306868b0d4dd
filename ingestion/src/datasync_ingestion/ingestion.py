"""One run from start to end: settings, sandbox, state, load, summary."""

from __future__ import annotations

import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click
from datasync_monitor.database import (
    DatabaseRejected,
    DatabaseUnavailable,
    ReconnectingConnection,
)
from datasync_monitor.environment import read_env_file
from datasync_monitor.snapshot import read_checkpoint

from datasync_ingestion import config, database
from datasync_ingestion.errors import (
    EXIT_OK,
    BusyError,
    ConfigError,
    IngestionError,
    Interrupted,
    SignalWatcher,
)
from datasync_ingestion.meltano import MeltanoState, reconcile, stop_orphaned_pipeline
from datasync_ingestion.output import RESUME_NOTE, Hints, ProgressDisplay, Summary
from datasync_ingestion.runner import LoadRunner, RestartPolicy
from datasync_ingestion.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasync_ingestion.config import RunConfig

KEPT_LOGS = 50
LOAD_LOCK_SECONDS = 3.0
_POLL_SECONDS = 0.25
# Settings of Meltano itself that would change what is run, or how its output is read.
_FOREIGN_PREFIXES = ("MELTANO_RUN_", "MELTANO_CLI_LOG", "MELTANO_ENVIRONMENT")


@dataclass
class Ingestion:
    """Runs the pipeline of one checkout.

    Attributes:
        root: The checkout, which contains `meltano.yml`.
        signals: Reports signals.
        sandbox_options: Options for the sandbox.
        full_refresh: Whether to scan from the newest to the oldest event again.
        no_restart: Whether a failed attempt ends the run.
        verbose: Whether the full log is shown.

    Raises:
        ConfigError: The directory is not a checkout.
    """

    root: Path
    signals: SignalWatcher
    sandbox_options: tuple[str, ...] = ()
    full_refresh: bool = False
    no_restart: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        if not (self.root / "meltano.yml").is_file():
            message = f"{self.root} contains no meltano.yml: start this with run-ingestion.sh."
            raise ConfigError(message)
        self._directory = self.root / ".run"
        self._sandbox = Sandbox(self.root, self.signals)
        # The image sets the variable.
        self._hints = Hints(in_container=os.environ.get("DATASYNC_CONTAINER") == "1")

    def run(self) -> int:
        """Load; returns the exit code.

        Raises:
            IngestionError: The load cannot start or continue.
            Interrupted: A signal arrived; what this run started is stopped.
        """
        selected = self._resolve()
        with self._checkout_lock():
            try:
                return self._run(selected)
            except Interrupted:
                self._sandbox.stop_started()
                # The terminal may be closed.
                with suppress(OSError):
                    click.echo(f"Stopped. {RESUME_NOTE}")
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
        with self._checkout_lock():
            click.echo(self._sandbox.stop())
        return EXIT_OK

    @contextmanager
    def _checkout_lock(self) -> Iterator[None]:
        """Hold the lock of the checkout; the kernel releases it however the process ends."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with (self._directory / "run.lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(20).strip() or "unknown"
                message = (
                    f"Another run is in progress here (process {holder}): wait for it, or stop it "
                    f"{self._hints.stop}."
                )
                raise BusyError(message) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            if stop_orphaned_pipeline(self.root):
                click.echo("Stopped a pipeline left running by a killed run.")
            yield

    def _resolve(self) -> RunConfig:
        try:
            env_file = read_env_file(self.root / ".env")
            selected = config.resolve(os.environ, env_file, in_container=self._hints.in_container)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.sandbox_options and not selected.uses_sandbox:
            message = (
                f"{self.sandbox_options[0]} is not an option of run-ingestion.sh; options of the "
                "sandbox are accepted only where API_KEY is not set."
            )
            raise ConfigError(message)
        return selected

    def _run(self, selected: RunConfig) -> int:
        for notice in selected.notices:
            click.echo(notice)
        state = MeltanoState(self.root, self._meltano_environment(), self.signals)
        with ThreadPoolExecutor(1) as pool:
            # Meltano takes seconds to return its state; the sandbox starts meanwhile.
            saved = pool.submit(state.read)
            api, settings = self._sandbox.start(selected, self.sandbox_options)
        click.echo(f"API:      {api.url}{' (sample events)' if selected.uses_sandbox else ''}")
        embedded = selected.database is None
        click.echo(f"Database: {settings.location}{' (embedded)' if embedded else ''}")
        with ReconnectingConnection(
            settings,
            application_name=database.APPLICATION_NAME,
            read_only=False,
            # Counting the rows of a large table may take minutes.
            statement_timeout_seconds=0,
            sleep=self.signals.sleep,
        ) as connection:
            source = selected.source(self._sandbox.feed)
            self._prepare_database(connection, source, embedded=embedded)
            checkpoint = connection.run(read_checkpoint)
            change = reconcile(
                saved.result(),
                checkpoint.state if checkpoint else None,
                full_refresh=self.full_refresh,
            )
            if change:
                new_state, reason = change
                click.echo(reason)
                state.write(new_state)
            env = self._meltano_environment(
                **config.pipeline_environment(api, settings, selected.page_size)
            )
            return self._load(connection, env, source, selected)

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
        if database.check_source_change(last, source, settings, embedded=embedded):
            click.echo("The sandbox serves other sample events: removing the previous ones.")
            connection.run(database.truncate_load)

    def _check_load_lock(self, connection: ReconnectingConnection) -> None:
        # The server may take some seconds to detect that a killed target has ended.
        deadline = time.monotonic() + LOAD_LOCK_SECONDS
        while holder := connection.run(database.load_lock_holder):
            if time.monotonic() > deadline:
                message = (
                    f"Another load into the database {connection.settings.location} is in progress "
                    f"({holder}): wait for it, or stop it where it was started."
                )
                raise BusyError(message)
            self.signals.sleep(_POLL_SECONDS)

    def _load(
        self,
        connection: ReconnectingConnection,
        env: dict[str, str],
        source: str,
        selected: RunConfig,
    ) -> int:
        settings = connection.settings
        path = self._new_log()
        started = time.monotonic()
        row = connection.run(lambda conn: database.begin_run(conn, settings, source))
        with (
            path.open("a", encoding="utf-8", buffering=1) as log,
            ProgressDisplay(ReconnectingConnection(settings)) as display,
        ):
            runner = LoadRunner(
                root=self.root,
                env=env,
                database=connection,
                row=row,
                display=display,
                log=log,
                signals=self.signals,
                ensure_sandbox=self._sandbox.ensure_running,
                policy=None if self.no_restart else RestartPolicy(),
                plugin_settings=selected.plugin_settings,
                verbose=self.verbose,
            )
            outcome = runner.run()
            seconds = time.monotonic() - started
            if outcome.exit_code == EXIT_OK:
                rows = connection.run(
                    lambda conn: database.end_run(conn, row, "finished"),
                    attempts=database.CONNECT_ATTEMPTS,
                )
                display.refresh(last=True)
        log_hint = self._hints.log(path.relative_to(self.root))
        if outcome.exit_code != EXIT_OK:
            click.echo(outcome.message, err=True)
            click.echo(f"{RESUME_NOTE} Full log: {log_hint}", err=True)
            return outcome.exit_code
        checkpoint = connection.run(read_checkpoint)
        embedded = selected.database is None
        summary = Summary(
            rows=rows,
            rows_before=row.events_before,
            total_events=checkpoint.total_events if checkpoint else None,
            rejected=connection.run(lambda conn: database.count_rows(conn, "rejected_events")),
            seconds=seconds,
            restarts=runner.restarts,
            query=self._hints.query(settings, embedded=embedded),
            log=log_hint,
            sandbox_runs=embedded,
        )
        click.echo("\n".join(summary.lines()))
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
        return {**env, **settings, "MELTANO_PROJECT_ROOT": str(self.root), "NO_COLOR": "1"}
