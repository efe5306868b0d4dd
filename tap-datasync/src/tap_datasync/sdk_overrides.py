"""Everything that overrides or calls a private part of the Singer SDK, with the reason.

- The SDK writes STATE every 10,000 records, none when the tap ends with an exception, and
  only when a record was written since. A cursor lives for two minutes and belongs to a
  page, so STATE has to follow the records of each page, also when there were none. There is
  no public hook: :meth:`PagedStream._sync_records` replaces the loop of the SDK, and
  ``_tap`` leads to the state writer and to the streams written beside it.
- ``_handle_termination`` would write STATE and exit in the middle of a record, with exit
  code 0; ``_setup_signal_handlers`` covers two signals of four.
- ``_validate_config`` reports settings in the terms of JSON schema, accepts unknown ones
  and reads only whole numbers from the environment.
- ``cb_config`` ends with a traceback for a file that is not a JSON object; its type is
  ``_ConfigInput``. So does reading the environment (``_env_var_config``), and ``load_json``,
  which reads the other files.

``tests/tap/test_sdk_overrides.py`` fails when one of these changes.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import msgspec
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import ConfigValidationError
from singer_sdk.helpers._util import load_json
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib import Catalog, Message, RecordMessage, SchemaMessage
from typing_extensions import override

from tap_datasync import redaction
from tap_datasync.config import validate
from tap_datasync.errors import UsageError
from tap_datasync.signals import TerminatedError, handle_signals, ignore_signals

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from types import FrameType

    import click
    from singer_sdk.helpers import types
    from singer_sdk.plugin_base import _ConfigInput

SHUTDOWN_SECONDS = 8
"""Time after a signal in which the page that is being written may be completed."""


class _Record(msgspec.Struct, gc=False):
    """A RECORD message, its keys in the order of the SDK's."""

    type: str
    stream: str
    record: msgspec.Struct
    time_extracted: datetime


_encode_lines = msgspec.json.Encoder().encode_lines


def _write_output(data: bytes | bytearray) -> None:
    """Write all of the data to standard output.

    With PYTHONUNBUFFERED it is a raw file, which a signal makes write less than it is given.
    """
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[sys.stdout.buffer.write(remaining) :]


class PageWriter(MsgSpecWriter):
    """The SDK's msgspec writer, flushing once a page instead of once a record."""

    @override
    def write_message(self, message: Message) -> None:
        _write_output(self.format_message(message))
        if not isinstance(message, (RecordMessage, SchemaMessage)):
            sys.stdout.buffer.flush()


class GracefulShutdownTap(Tap):
    """A tap that checks all of its input, and ends between two pages, never within one."""

    _is_writing = False
    _pending_signal: int | None = None

    @contextmanager
    def whole_page(self) -> Iterator[None]:
        """Complete the block before a signal ends the tap.

        Raises:
            TerminatedError: A signal arrived meanwhile.
        """
        self._is_writing = True
        yield
        sys.stdout.flush()
        self._is_writing = False
        if self._pending_signal is not None:
            _terminate(self._pending_signal)

    @override
    def _setup_signal_handlers(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handle_signals(self._handle_termination)

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        if not self._is_writing:
            _terminate(signum)
        if self._pending_signal is None:
            self._pending_signal = signum
            # A target that has stopped reading would block the tap forever.
            signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + signum))
            signal.alarm(SHUTDOWN_SECONDS)

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        # A setting that is null is one that is not set.
        self._config = {k: v for k, v in self._config.items() if v is not None}
        self.append_builtin_config(self.config_jsonschema)
        known = self.config_jsonschema["properties"]
        for name, schema in known.items():
            # The environment holds text, and the SDK reads only whole numbers from it.
            if "number" in schema.get("type", ()) and isinstance(self._config.get(name), str):
                with suppress(ValueError):
                    self._config[name] = float(self._config[name])
        redaction.install(str(self._config.get("api_key", "")))
        errors = list(validate(self._config, known))
        if errors and raise_errors:
            raise ConfigValidationError(
                " ".join(errors), errors=errors, schema=self.config_jsonschema
            )
        return errors or super()._validate_config(raise_errors=raise_errors)

    @override
    @classmethod
    def cb_config(
        cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]
    ) -> _ConfigInput:
        try:
            config = super().cb_config(ctx, param, value)
        except FileNotFoundError as error:
            raise UsageError(str(error)) from None
        except (OSError, ValueError, TypeError, RecursionError):
            # Nothing of the file is repeated: it contains the key.
            message = f"The config ({', '.join(value)}) is not a file with a JSON object."
            raise UsageError(message) from None
        if config.parse_env:
            try:
                _ = cls._env_var_config
            except (ValueError, RecursionError) as error:
                message = f"A setting in the environment is not valid: {error}."
                raise UsageError(message) from None
        return config


class DerivedStream(Stream):
    """A stream whose records another stream writes; syncing it adds only its SCHEMA."""

    @override
    def get_records(self, context: types.Context | None) -> list[types.Record]:
        return []


class PagedStream(Stream):
    """A stream that is synced page by page, with STATE after each."""

    @override
    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        # The SDK adds this line to every failure; `tap.run` logs what has happened.
        if not message.startswith("An unhandled error occurred"):
            super().log(message, *args, level=level, **kwargs)

    def sync_pages(self) -> None:
        """Emit page after page with the methods below."""
        raise NotImplementedError

    @property
    def tap(self) -> GracefulShutdownTap:
        """The tap, for :meth:`GracefulShutdownTap.whole_page`."""
        return cast("GracefulShutdownTap", self._tap)

    @property
    def emits_unchanged(self) -> bool:
        """Whether records are emitted as they are: no stream maps, nothing deselected."""
        return (
            all(
                type(stream_map) is SameRecordTransform and not stream_map.flattening_enabled
                for stream_map in self.stream_maps
            )
            and all(self.mask.get(("properties", name), True) for name in self.schema["properties"])
            and self.effective_schema["properties"].keys() >= self.schema["properties"].keys()
        )

    def selected_stream(self, name: str) -> Stream | None:
        """Return another stream of the tap, if it is selected."""
        stream = self._tap.streams[name]
        return stream if stream.selected else None

    def write_schema_of(self, stream: Stream) -> None:
        """Write the SCHEMA of another stream."""
        stream._write_schema_message()  # noqa: SLF001

    def write_mapped(self, stream: Stream, record: dict[str, Any]) -> None:
        """Write a record through selection, type conformance and stream maps."""
        stream._write_record_message(record)  # noqa: SLF001

    def write_unchanged(self, records: Sequence[msgspec.Struct], time_extracted: datetime) -> None:
        """Write RECORD messages of this stream, as they are and all at once.

        The SDK's writer handles one record at a time, which takes most of the tap's CPU time.
        """
        messages = [_Record("RECORD", self.name, record, time_extracted) for record in records]
        _write_output(_encode_lines(messages))

    def save_state(self, state: dict[str, Any]) -> None:
        """Write STATE with the state of this stream, if it has changed."""
        self.stream_state.update(state)
        self._tap.state_writer.write_state(self._tap.state)
        self.state_manager.is_flushed = True

    def check_record_limit(self, records: int) -> None:
        """End a test run (``--test``) that has enough records."""
        self._check_max_record_limit(current_record_index=records)

    @override
    def get_replication_key_signpost(self, context: types.Context | None = None) -> None:
        """Return none: it would add a timestamp to the state that nothing uses."""

    @override
    def get_records(self, context: types.Context | None) -> list[types.Record]:
        message = "this stream is synced page by page"
        raise NotImplementedError(message)

    @override
    def _sync_records(
        self, context: types.Context | None = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any]]:
        with self.get_record_counter() as self.record_counter, self.get_sync_timer():
            self.sync_pages()
        # The SDK iterates over records; they have been written already.
        yield from ()


def read_document(file: IO[str], option: str) -> IO[str]:
    """Return the content of a file given with ``--state`` or ``--catalog``.

    Raises:
        UsageError: It is not a JSON object, or not a catalog.
    """
    try:
        text = file.read()
        document = load_json(text)
        if not isinstance(document, dict):
            raise TypeError  # noqa: TRY301 - reported like all the others
        if option == "catalog":
            Catalog.from_dict(document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        message = f"The file given with --{option} does not hold a {option} as JSON."
        raise UsageError(message) from None
    return io.StringIO(text)


def _terminate(signum: int) -> NoReturn:
    ignore_signals()
    raise TerminatedError(signum)
