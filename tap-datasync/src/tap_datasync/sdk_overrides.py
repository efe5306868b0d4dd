"""The one module that replaces what the Singer SDK does, and why.

The SDK writes STATE every 10,000 records, none when the tap dies by an exception, and
only when a record was written since. A cursor lives for two minutes and belongs to a
page, so STATE has to follow each page's records, also when there were none. There is no
public hook for that: :meth:`PagewiseStream._sync_records` and ``_sync_batches`` replace
the SDK's loops. ``_tap`` gives the streams beside this one and the state writer, and
``_handle_termination`` is where the SDK takes signals: it would write STATE and exit in
the middle of a record. The BATCH message's classes live in a private module.

``tests/tap/test_singer.py`` fails when the SDK changes the form of these. Beside them
``tap.py`` overrides how settings are checked, which is a hook by its name only.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.helpers._batch import (
    BaseBatchFileEncoding,
    SDKBatchMessage,
)
from singer_sdk.helpers._batch import (
    BatchConfig as BatchConfig,  # noqa: PLC0414 - streams.py takes it from here
)
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib import Message, RecordMessage, SchemaMessage
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from singer_sdk.helpers import types

GRACE = 8
"""Seconds that a page being written has after a signal, before the tap just ends."""


class TerminatedError(BaseException):
    """A signal asked the tap to end. Not an ``Exception``: nothing may swallow it."""

    def __init__(self, signum: int) -> None:
        """Remember the signal."""
        super().__init__(f"terminated by signal {signum}")
        self.exit_code = 128 + signum


def _terminate(signum: int) -> NoReturn:
    # A second signal would break off the ending of the first. It is not set to SIG_IGN: Python
    # prints a traceback for one that has come already.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise TerminatedError(signum)


class PageWriter(MsgSpecWriter):
    """The SDK's msgspec writer, flushing once a page instead of once a record."""

    @override
    def write_message(self, message: Message) -> None:
        sys.stdout.buffer.write(self.format_message(message))
        if not isinstance(message, (RecordMessage, SchemaMessage)):
            sys.stdout.buffer.flush()


class Interruptible(Tap):
    """A tap that ends between two pages, never within one."""

    _writing = False
    _pending: int | None = None

    def begin_page(self) -> None:
        """From now on a signal waits for :meth:`end_page`."""
        self._writing = True

    def end_page(self) -> None:
        """Flush, and give way to a signal that came meanwhile.

        Raises:
            TerminatedError: One came.
        """
        sys.stdout.flush()
        self._writing = False
        if self._pending is not None:
            _terminate(self._pending)

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        if not self._writing:
            _terminate(signum)
        if self._pending is None:
            self._pending = signum
            # A target that has stopped reading would keep the tap here for ever.
            signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + signum))
            signal.alarm(GRACE)


class SilentStream(Stream):
    """A stream whose records another stream writes; syncing it adds only its SCHEMA."""

    @override
    def get_batch_config(self, config: Any) -> BatchConfig | None:
        return None

    @override
    def get_records(self, context: types.Context | None) -> list[types.Record]:
        return []


class PagewiseStream(Stream):
    """A stream that is synced page by page, STATE after each."""

    def sync_pages(self, batch_config: BatchConfig | None) -> None:
        """Emit page after page with the methods below.

        Args:
            batch_config: Where bulk files go; ``None`` for RECORD messages.
        """
        raise NotImplementedError

    @property
    def passes_records_on(self) -> bool:
        """Whether records leave as they are: no stream maps, nothing deselected."""
        return (
            all(
                type(stream_map) is SameRecordTransform and not stream_map.flattening_enabled
                for stream_map in self.stream_maps
            )
            and all(self.mask.get(("properties", name), True) for name in self.schema["properties"])
            and self.effective_schema["properties"].keys() >= self.schema["properties"].keys()
        )

    def sibling(self, name: str) -> Stream | None:
        """Return another stream of the tap, if it is selected."""
        stream = self._tap.streams[name]
        return stream if stream.selected else None

    def write_schema_of(self, stream: Stream) -> None:
        """Write another stream's SCHEMA."""
        stream._write_schema_message()  # noqa: SLF001

    def write_mapped(self, stream: Stream, record: dict[str, Any]) -> None:
        """Write a record through selection, type conformance and stream maps."""
        stream._write_record_message(record)  # noqa: SLF001

    def write(self, message: Message) -> None:
        """Write a message as it is."""
        self._tap.write_message(message)

    def write_file(self, address: str) -> None:
        """Write a BATCH message for one file of JSON lines."""
        encoding = BaseBatchFileEncoding("jsonl", "none")
        self.write(SDKBatchMessage(self.name, encoding, [address]))

    def save_state(self, bookmark: dict[str, Any]) -> None:
        """Write STATE with this stream's bookmark, if it has changed."""
        self.stream_state.update(bookmark)
        self._tap.state_writer.write_state(self._tap.state)
        self.state_manager.is_flushed = True

    @property
    def interruptible(self) -> Interruptible:
        """The tap, for :meth:`Interruptible.begin_page`."""
        if not isinstance(self._tap, Interruptible):
            msg = "the stream's tap must be an Interruptible"
            raise TypeError(msg)
        return self._tap

    def check_record_limit(self, records: int) -> None:
        """End a test run (``--test``) that has seen enough records."""
        self._check_max_record_limit(current_record_index=records)

    @override
    def get_records(self, context: types.Context | None) -> list[types.Record]:
        msg = "this stream is synced page by page"
        raise NotImplementedError(msg)

    @override
    def _sync_records(
        self, context: types.Context | None = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any]]:
        with self.get_record_counter() as self.record_counter, self.get_sync_timer():
            self.sync_pages(None)
        # The SDK iterates over records; they have been written already.
        yield from ()

    @override
    def _sync_batches(
        self, batch_config: BatchConfig, context: types.Context | None = None
    ) -> None:
        with self.get_record_counter() as self.record_counter, self.get_sync_timer():
            self.sync_pages(batch_config)
