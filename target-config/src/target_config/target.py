"""The target: line → buffer → COPY → checkpoint → STATE; and its command line."""

from __future__ import annotations

import copy
import decimal
import gc
import io
import logging
import os
import re
import signal
import sys
import textwrap
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn, cast

import click
import msgspec
import sqlalchemy.exc
from psycopg import sql
from singer_sdk.exceptions import (
    ConfigValidationError,
    InvalidRecord,
    MissingKeyPropertiesError,
)
from target_postgres.target import TargetPostgres
from typing_extensions import override

from target_config.connector import CheckpointConnector, LoadLock
from target_config.errors import InvalidDataError, SettingsError, TargetError, redact
from target_config.reader import read_lines
from target_config.sdk_overrides import ConfigInput, PatchedTarget
from target_config.shutdown import Shutdown
from target_config.sink import CheckpointSink
from target_config.tables import ensure_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import PurePath

    import psycopg

MAX_BUFFERED_BYTES = 8 * 1024 * 1024
"""Rows are written at a STATE, and earlier if their lines are larger: a page takes about 3 MB."""

MAX_MESSAGE_LENGTH = 300
"""Characters of an unexpected error that are logged: it may quote a whole Singer message."""

GARBAGE_THRESHOLD = 50_000
"""Objects created between two runs of the garbage collector."""

DEFAULTS: dict[str, Any] = {
    "default_target_schema": "public",
    "use_copy": True,
    # The tables have no _sdc columns, which activate_version needs.
    "add_record_metadata": False,
    "activate_version": False,
    # The tap validates each page; validating each record again takes half of the target's time.
    "validate_records": False,
    # More than a page, so that a page is one batch, written at its STATE.
    "batch_size_rows": 10_000,
}

# How Singer taps write a record: msgspec and json.dumps keep the order type, stream, record.
_RECORD = re.compile(rb'\{\s*"type"\s*:\s*"RECORD"\s*,\s*"stream"\s*:\s*"([^"\\]+)"\s*,')

_NO_PREFIX = b"\n"
"""No line begins with it."""

_UPSERT_CHECKPOINT = """
    INSERT INTO {} AS c (id, state, updated_at) VALUES (1, %s, now())
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at
"""

_decoder = msgspec.json.Decoder(float_hook=decimal.Decimal)


class _StateMessage(msgspec.Struct):
    value: msgspec.Raw


def _config_jsonschema() -> dict[str, Any]:
    """Return the stock target's settings with our defaults; none is added or removed."""
    stock: dict[str, Any] = {"properties": dict(TargetPostgres.config_jsonschema["properties"])}
    TargetPostgres.append_builtin_config(stock)
    # Copied last: the SDK's own settings are one object for all targets.
    schema = copy.deepcopy(TargetPostgres.config_jsonschema | stock)
    for name, value in DEFAULTS.items():
        schema["properties"][name]["default"] = value
    return schema


class TargetPostgresCheckpoint(PatchedTarget):
    """Loads Singer streams into PostgreSQL, and commits before it checkpoints."""

    package_name = "datasync-target-config"
    config_jsonschema: ClassVar[dict[str, Any]] = _config_jsonschema()
    default_sink_class = CheckpointSink

    def __init__(
        self,
        config: dict[str, Any] | PurePath | str | list[PurePath | str] | None = None,
        parse_env_config: bool = False,  # noqa: FBT001, FBT002 - the stock signature
        validate_config: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Read the settings; the first use of the database connects."""
        super().__init__(config, parse_env_config, validate_config)
        self.shutdown = Shutdown()
        self.shutdown.install()
        # The stock target sets 1 and its parent sets 8 again: eight threads for three sinks.
        self.max_parallelism = 1
        # Three lines of metrics per page; the stream `pages` has more detail.
        if self.metrics_logger.level >= logging.INFO:
            self.metrics_logger.setLevel(logging.WARNING)
        if "batch_config" in self.config:
            message = "The setting batch_config is not supported: remove it."
            raise SettingsError(message)
        self._lines: dict[str, list[bytes]] = {}
        self._buffered_bytes = 0
        self._last_state: str | None = None

    @property
    def schema_name(self) -> str:
        """Schema of the tables; null and an empty name mean the default too."""
        return str(self.config.get("default_target_schema") or DEFAULTS["default_target_schema"])

    @cached_property
    @override
    def target_connector(self) -> CheckpointConnector:
        try:
            connector = CheckpointConnector(dict(self.config), self.shutdown)
            driver = connector.engine.dialect.driver
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            message = "The setting sqlalchemy_url is not the URL of a database."
            raise SettingsError(message) from error
        if driver != "psycopg":
            message = "The setting sqlalchemy_url has to begin with postgresql+psycopg://."
            raise SettingsError(message)
        # The SSH tunnel of the stock connector sets handlers of its own.
        self.shutdown.install()
        return connector

    @cached_property
    def lock(self) -> LoadLock:
        """Held while tables are created and rows are loaded."""
        return LoadLock(self.target_connector, self.schema_name)

    def load(self, file: IO[Any] | None = None) -> None:
        """Create the tables that are missing, and load all messages of a file, stdin by default.

        A record of a stream that nothing changes stays a line of bytes until a STATE arrives: then
        the lines are copied, and the STATE is acknowledged (`_commit`). Other messages are decoded.

        Raises:
            TargetError: If the load cannot continue; what was acknowledged is committed.
        """
        with self.lock:
            self.target_connector.run_transaction(
                "the tables", lambda cursor: ensure_tables(cursor, self.schema_name)
            )
            prefix, lines = _NO_PREFIX, None
            for line in read_lines(file or sys.stdin):
                # Most lines are records of the same stream as the one before: one comparison.
                if not line.startswith(prefix):
                    prefix, lines = self._find_buffer(line)
                if lines is None:
                    self._process(line)
                else:
                    lines.append(line)
                    self._buffered_bytes += len(line)
                if self._buffered_bytes > MAX_BUFFERED_BYTES:
                    self._write_rows()
            self._write_rows()

    def _find_buffer(self, line: bytes) -> tuple[bytes, list[bytes] | None]:
        """Return the buffer of a record's stream, and the prefix of all lines that belong in it."""
        if record := _RECORD.match(line):
            stream = record[1].decode(errors="replace")
            if stream in self._lines:
                return record[0], self._lines[stream]
        return _NO_PREFIX, None

    def _process(self, line: bytes) -> None:
        """Process a message that `load` does not buffer itself."""
        try:
            message = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            text = f"A line of the input is not JSON: {error}."
            raise InvalidDataError(text) from error
        match message:
            case {"type": "RECORD", "stream": str(stream), "record": dict()}:
                self._buffered_bytes += len(line)
                if stream in self._lines:
                    self._lines[stream].append(line)
                else:
                    self._transform(stream, message)
            case {"type": "STATE", "value": _}:
                self._commit(bytes(msgspec.json.decode(line, type=_StateMessage).value).decode())
            case {"type": "SCHEMA", "stream": str(stream), "schema": {"properties": dict()}}:
                # Rows before it have the columns of the schema before.
                self._write_rows()
                self.process_schema(message)
                self._choose_path(stream)
            case {"type": "ACTIVATE_VERSION", "stream": str(), "version": int()}:
                self._write_rows()
                self.process_activate_version(message)
            case {"type": "BATCH"}:
                text = (
                    "BATCH messages are not supported, and RECORD messages are as fast: "
                    "remove the setting batch_config of the tap."
                )
                raise SettingsError(text)
            case _:
                text = "A line of the input is not a Singer message."
                raise InvalidDataError(text)

    def _transform(self, stream: str, message: dict[str, Any]) -> None:
        """Pass a record through the SDK: stream maps, metadata columns, flattening, validation."""
        if stream not in self.mapper.stream_maps:
            text = f'A record of "{stream}" precedes the schema of the stream.'
            raise InvalidDataError(text)
        try:
            self.process_record(message)
        except (InvalidRecord, MissingKeyPropertiesError) as error:
            # The error quotes the record: data, which must not reach the log.
            text = f'A record of "{stream}" does not match its schema ({type(error).__name__}).'
            raise InvalidDataError(text) from error

    def _choose_path(self, stream: str) -> None:
        """Buffer the lines of a stream that nothing changes; the SDK processes the others."""
        self._lines.pop(stream, None)
        if self.sink_exists(stream) and cast("CheckpointSink", self.get_sink(stream)).takes_lines:
            self._lines[stream] = []

    def _commit(self, state: str) -> None:
        """Commit before checkpoint, in this order and nowhere else.

        Signals are deferred until all three steps are done. An error in one of them ends the load
        before the next. A STATE that repeats the last one is not written again.
        """
        with self.shutdown.deferred():
            # 1. The rows before this STATE are committed, durably.
            self._write_rows()
            if state == self._last_state:
                return
            # 2. The checkpoint is committed, if no other load has taken a lost lock.
            self.lock.hold()
            self.target_connector.run_transaction(
                "the checkpoint", lambda cursor: self._save_checkpoint(cursor, state)
            )
            # 3. The STATE is printed.
            _print_state(state)
            self._last_state = state

    def _save_checkpoint(self, cursor: psycopg.Cursor[Any], state: str) -> None:
        """Write the STATE as the one row of `checkpoint`; a trigger derives the other columns."""
        table = sql.Identifier(self.schema_name, "checkpoint")
        cursor.execute(sql.SQL(_UPSERT_CHECKPOINT).format(table), (state,))

    def _write_rows(self) -> None:
        """Commit all rows in memory."""
        with self.shutdown.deferred():
            for stream, lines in self._lines.items():
                cast("CheckpointSink", self.get_sink(stream)).write_lines(lines)
                lines.clear()
            self._buffered_bytes = 0
            self.drain_all()

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
        """Run the command line: like the SDK's, but an error of the settings is one line."""
        if about:
            cls.print_about(about_format)
            return
        cls.print_version(print_fn=cls.logger.info)
        given = config or ConfigInput()
        try:
            target = cls(config=given.config, parse_env_config=given.parse_env)
        except ConfigValidationError as error:
            message = f"Invalid settings: {'; '.join(error.errors)}."
            raise SettingsError(redact(message, given.config)) from error
        except AssertionError as error:
            # The stock target's own checks of settings that depend on each other.
            raise SettingsError(str(error)) from error
        # A load of nothing creates the tables.
        target.load(io.BytesIO() if apply_sql else file_input)

    @classmethod
    @override
    def get_singer_command(cls) -> click.Command:
        command = super().get_singer_command()
        command.params.append(
            click.Option(
                ["--apply-sql"],
                is_flag=True,
                help="Create the tables and exit, for instance before a load by target-postgres.",
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


def _print_state(state: str) -> None:
    """Print the STATE on stdout, one line, and flush: Meltano saves it at once."""
    try:
        sys.stdout.write(f"{state}\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        # What is left in the buffer must not fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = (
            "stdout is closed: the STATE cannot be printed. Rows and checkpoint are committed."
        )
        raise TargetError(message) from error


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `target-postgres-checkpoint`.

    Exit codes: 0 all input is loaded; 1 try again; 2 settings, privileges or tables; 3 invalid
    data; 75 another load is running; 128 + signal.
    """
    command = TargetPostgresCheckpoint.cli
    logger = TargetPostgresCheckpoint.logger
    # Rows hold no cycles and live until they are written. With its default threshold the collector
    # visits them, and all imported modules, for a sixth of the time.
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        code = command.main(
            arguments, prog_name="target-postgres-checkpoint", standalone_mode=False
        )
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > 128:  # noqa: PLR2004
            name = signal.Signals(end.code - 128).name
            logger.warning("Stopped by %s; everything up to the last STATE is committed.", name)
            # At its own end the interpreter would let the next signal kill it.
            os._exit(end.code)
        raise
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except TargetError as error:
        logger.critical("%s", error, extra={"exit_code": error.exit_code})
        sys.exit(error.exit_code)
    except Exception as error:
        message = textwrap.shorten(str(error), MAX_MESSAGE_LENGTH, placeholder=" ...")
        logger.critical(
            "Unexpected error: %s: %s", type(error).__name__, message, extra={"exit_code": 1}
        )
        logger.debug("Traceback:", exc_info=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
