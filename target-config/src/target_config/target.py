"""The target: rows are committed, then the checkpoint, then the STATE goes on."""

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, ClassVar, cast

import click
import sqlalchemy.exc
from singer_sdk.exceptions import ConfigValidationError

from target_config import batchfiles, checkpoint, sql
from target_config.database import Database
from target_config.failures import SettingsError, secrets_of, without
from target_config.reader import ExactReader
from target_config.sdk_hooks import ConfigInput, HookedTarget
from target_config.settings import config_jsonschema, schema_of
from target_config.shutdown import Shutdown
from target_config.sinks import CheckpointSink

if TYPE_CHECKING:
    from pathlib import Path, PurePath

    from target_config.connector import CheckpointConnector

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


class TargetPostgresCheckpoint(HookedTarget):
    """Loads Singer streams into PostgreSQL, and commits before it checkpoints."""

    package_name = "datasync-target-config"
    config_jsonschema: ClassVar[dict[str, Any]] = config_jsonschema()
    default_sink_class = CheckpointSink
    message_reader_class = ExactReader

    def __init__(
        self,
        config: dict[str, Any] | PurePath | str | list[PurePath | str] | None = None,
        parse_env_config: bool = False,  # noqa: FBT001, FBT002 - the stock signature
        validate_config: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Read the settings; connect nothing yet."""
        self.shutdown = Shutdown()
        self._written_state: dict[str, Any] | None = None
        self._prepared = False
        self._cleaned: set[Path] = set()
        super().__init__(config, parse_env_config, validate_config)
        # The stock target sets 1 and its parent sets 8 again: eight threads for a page of three
        # sinks, and signals that cannot be held off.
        self.max_parallelism = 1
        # Three lines of metrics a page, through Meltano's log; the stream `pages` tells more.
        if self.metrics_logger.level >= logging.INFO:
            self.metrics_logger.setLevel(logging.WARNING)

    @cached_property
    def database(self) -> Database:
        """The database that all sinks and the checkpoint share."""
        try:
            connector = cast("CheckpointConnector", self.target_connector)
            driver = connector.engine.dialect.driver
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            message = "The setting sqlalchemy_url is not the URL of a database."
            raise SettingsError(message) from error
        if driver != "psycopg":
            message = "The setting sqlalchemy_url has to begin with postgresql+psycopg://."
            raise SettingsError(message)
        self.listen_to_signals()
        return Database(connector, self.shutdown)

    def prepare(self) -> None:
        """Reach the database and make its tables, once."""
        if not self._prepared:
            engine, schema = self.database.connector.engine, self._schema
            self.database.run("the tables", lambda: sql.apply(engine, schema))
            self._prepared = True

    @property
    def _schema(self) -> str:
        return schema_of(self.config)

    @override
    def on_state(self, state: dict[str, Any]) -> None:
        """Commit before checkpoint: the one place, in this order.

        A signal waits until all three are done. A failure in one of them ends the run before the
        next. A STATE that says nothing new is not written again; rows before it are.
        """
        self.prepare()
        with self.shutdown.deferred():
            # 1. The rows that came before this STATE are committed, durably.
            self.drain_all()
            if state == self._written_state:
                return
            # 2. The checkpoint is committed.
            engine, schema = self.database.connector.engine, self._schema
            self.database.run("the checkpoint", lambda: checkpoint.save(engine, schema, state))
            # 3. Only now does anybody hear of it.
            checkpoint.hand_on(state)
            self._written_state = state

    def clean_up_beside(self, batch_file: Path) -> None:
        """Remove what a killed run left in the directory of this run's first batch file."""
        if batch_file.parent not in self._cleaned:
            self._cleaned.add(batch_file.parent)
            if removed := batchfiles.remove_leftovers(batch_file):
                self.logger.info("Removed %d batch files of an earlier run.", len(removed))

    @override
    def on_signal(self, signum: int) -> None:
        self.shutdown.handle(signum)

    @classmethod
    @override
    def invoke(  # type: ignore[override]
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: ConfigInput | None = None,
        file_input: IO[str] | None = None,
        apply_sql: bool = False,
    ) -> None:
        """Run the command line: like the SDK's, but the database is reached first.

        A wrong password is told at once, not when the tap has its first page.
        """
        if about:
            cls.print_about(about_format)
            return
        cls.print_version(print_fn=cls.logger.info)
        given = config or ConfigInput()
        try:
            target = cls(config=given.config, parse_env_config=given.parse_env)
        except ConfigValidationError as error:
            message = f"A setting is wrong: {'; '.join(error.errors)}."
            raise SettingsError(without(secrets_of(given.config), message)) from error
        except AssertionError as error:
            # The stock target's own checks of settings that need each other.
            raise SettingsError(str(error)) from error
        target.prepare()
        if not apply_sql:
            target.listen(file_input)

    @classmethod
    @override
    def get_singer_command(cls) -> click.Command:
        command = super().get_singer_command()
        command.params.append(
            click.Option(
                ["--apply-sql"],
                is_flag=True,
                help="Make or mend the tables, load nothing: the stock target needs it once.",
            ),
        )
        return command

    @classmethod
    @override
    def cb_config(
        cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]
    ) -> ConfigInput:
        try:
            return super().cb_config(ctx, param, value)
        except (OSError, ValueError) as error:
            message = f"The settings cannot be read: {error}"
            raise SettingsError(message) from error
