"""The three streams: the events, those that did not fit, and the tap's own work."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from singer_sdk import typing as th
from singer_sdk.singerlib import RecordMessage
from typing_extensions import override

from tap_datasync.bookmark import Bookmark
from tap_datasync.bulk import BulkDirectory, BulkDirectoryError
from tap_datasync.client import PageClient
from tap_datasync.clock import Clock, SystemClock
from tap_datasync.extraction import ExtractedPage, Extraction
from tap_datasync.progress import ProgressLog
from tap_datasync.singer import BatchConfig, PagewiseStream, SilentStream
from tap_datasync.timestamps import format_timestamp
from tap_datasync.transport import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

_Json = dict[str, Any]

# Numbers that a float would change, or cannot hold at all, are kept as they came.
_DECODER = msgspec.json.Decoder(_Json, float_hook=Decimal)


class RejectedEventsStream(SilentStream):
    """Events that did not fit, as they came. Written while ``events`` is synced."""

    name = "rejected_events"
    primary_keys: ClassVar[list[str]] = ["rejection_id"]
    schema: ClassVar[_Json] = th.PropertiesList(
        th.Property(
            "rejection_id",
            th.StringType,
            required=True,
            description="SHA-256 of the event, however its time was spelt.",
        ),
        th.Property("event_id", th.StringType, description="The id, where there is one."),
        # Without `items`: with them a Postgres target makes an array, not JSONB.
        th.Property(
            "reasons",
            th.CustomType({"type": ["array", "null"]}),
            description="What did not fit.",
        ),
        th.Property("raw", th.StringType, description="The event's JSON text."),
        th.Property("run_id", th.StringType, description="The run that met it."),
        th.Property("page", th.IntegerType, description="The page of that run."),
        th.Property("rejected_at", th.DateTimeType, description="When."),
    ).to_dict()


class PagesStream(SilentStream):
    """One record a page: how it came. Written while ``events`` is synced."""

    name = "pages"
    primary_keys: ClassVar[list[str]] = ["run_id", "page"]
    schema: ClassVar[_Json] = th.PropertiesList(
        th.Property("run_id", th.StringType, required=True, description="One tap process."),
        th.Property("page", th.IntegerType, required=True, description="1 is its first."),
        th.Property("requested_at", th.DateTimeType, description="Request sent."),
        th.Property("received_at", th.DateTimeType, description="Reply complete."),
        th.Property("bytes", th.IntegerType, description="Size of the reply's body."),
        th.Property("events", th.IntegerType, description="Events on the page."),
        th.Property("emitted", th.IntegerType, description="Events sent to the target."),
        th.Property("skipped", th.IntegerType, description="Events loaded before."),
        th.Property("rejected", th.IntegerType, description="Events that did not fit."),
        th.Property(
            "retries",
            th.ObjectType(additional_properties=th.IntegerType),
            description="Cause to count, since the page before.",
        ),
        th.Property("waited", th.NumberType, description="Seconds waited for the limit, likewise."),
        th.Property("budget_limit", th.IntegerType, description="Requests per window."),
        th.Property("budget_remaining", th.IntegerType, description="Requests left."),
        th.Property("budget_reset", th.IntegerType, description="Seconds until one comes back."),
        th.Property("cursor_expires_at", th.DateTimeType, description="End of the next cursor."),
        th.Property("oldest", th.DateTimeType, description="Oldest event on the page."),
        th.Property("newest", th.DateTimeType, description="Newest event on the page."),
        th.Property("events_seen", th.IntegerType, description="Of this walk, so far."),
        th.Property("total_events", th.IntegerType, description="What the API counts."),
    ).to_dict()


class EventsStream(PagewiseStream):
    """All events, newest first, resumed by cursor."""

    name = "events"
    primary_keys: ClassVar[list[str]] = ["id"]
    replication_key = "timestamp"
    schema: ClassVar[_Json] = th.PropertiesList(
        th.Property("id", th.StringType, required=True, description="UUID of the event."),
        th.Property("session_id", th.StringType, description="UUID of the session."),
        th.Property("user_id", th.StringType, description="UUID of the user."),
        th.Property("type", th.StringType, description="page_view, click, purchase, ..."),
        th.Property("name", th.StringType, description="Name of the event."),
        th.Property(
            "properties",
            th.ObjectType(additional_properties=True),
            description="What the event carries.",
        ),
        th.Property("timestamp", th.DateTimeType, description="When it happened, in UTC."),
        th.Property(
            "session",
            th.ObjectType(additional_properties=True),
            description="Device and browser.",
        ),
    ).to_dict()

    clock: Clock = SystemClock()

    @override
    def get_replication_key_signpost(self, context: Any = None) -> None:
        """Give none: it would be one more timestamp in the state, of no use."""

    @override
    def sync_pages(self, batch_config: BatchConfig | None) -> None:
        run_id = str(uuid.uuid4())
        bulk = self._bulk_directory(batch_config, run_id)
        extraction, client = self._extraction()
        progress = ProgressLog(self.logger, self.clock.monotonic())
        finished = False
        siblings = [s for n in ("pages", "rejected_events") if (s := self.sibling(n))]
        with self._whole_page():
            for stream in siblings:
                self.write_schema_of(stream)
        try:
            for page in extraction.pages():
                with self._whole_page():
                    self._emit(page, run_id, bulk)
                    self.save_state(page.taken.bookmark.to_state())
                progress.page(page, self.clock.monotonic(), client.budget.window)
                self.record_counter.increment(len(page.taken.emit))
                if not extraction.walk.finished:
                    self.check_record_limit(progress.emitted)
            finished = True
        finally:
            progress.summary(self.clock.monotonic(), finished=finished)

    def _extraction(self) -> tuple[Extraction, PageClient]:
        client = PageClient(
            HttpTransport(
                self.config["api_url"],
                self.config["api_key"],
                timeout=float(self.config["request_timeout"]),
                logger=self.logger,
            ),
            page_size=self.config["page_size"],
            clock=self.clock,
            logger=self.logger,
        )
        extraction = Extraction(
            client,
            Bookmark.from_state(self.stream_state),
            lookback=timedelta(seconds=float(self.config["lookback"])),
            full=self.replication_method == "FULL_TABLE",
            clock=self.clock,
            logger=self.logger,
        )
        return extraction, client

    def _bulk_directory(
        self, batch_config: BatchConfig | None, run_id: str
    ) -> BulkDirectory | None:
        if batch_config is None:
            return None
        encoding = batch_config.encoding
        if encoding.format != "jsonl" or encoding.compression not in {None, "none"}:
            msg = "batch_config.encoding must be jsonl without compression."
            raise BulkDirectoryError(msg)
        if not self.passes_records_on:
            msg = "batch_config goes neither with stream maps nor with deselected fields."
            raise BulkDirectoryError(msg)
        return BulkDirectory(batch_config.storage.root, run_id)

    @contextmanager
    def _whole_page(self) -> Iterator[None]:
        self.interruptible.begin_page()
        yield
        self.interruptible.end_page()

    def _emit(self, page: ExtractedPage, run_id: str, bulk: BulkDirectory | None) -> None:
        received_at = page.exchange.received_at
        if bulk is not None and page.taken.emit:
            self.write_file(bulk.write(page.number, page.taken.emit))
        elif self.passes_records_on:
            # The record is a Struct, which the writer encodes as it does a dictionary.
            for record in page.taken.emit:
                self.write(RecordMessage(self.name, record, None, received_at))  # type: ignore[arg-type]
        else:
            for record in page.taken.emit:
                self.write_mapped(self, _DECODER.decode(msgspec.json.encode(record)))
        if rejected := self.sibling("rejected_events"):
            for rejection in page.exchange.page.rejections:
                self.write_mapped(
                    rejected,
                    {
                        "rejection_id": rejection.rejection_id,
                        "event_id": rejection.event_id,
                        "reasons": rejection.reasons,
                        "raw": rejection.raw,
                        "run_id": run_id,
                        "page": page.number,
                        "rejected_at": format_timestamp(received_at),
                    },
                )
        if pages := self.sibling("pages"):
            self.write_mapped(pages, _page_record(page, run_id))


def _page_record(page: ExtractedPage, run_id: str) -> _Json:
    exchange, taken, budget = page.exchange, page.taken, page.exchange.budget
    return {
        "run_id": run_id,
        "page": page.number,
        "requested_at": format_timestamp(exchange.requested_at),
        "received_at": format_timestamp(exchange.received_at),
        "bytes": exchange.page.size,
        "events": exchange.page.returned,
        "emitted": len(taken.emit),
        "skipped": taken.skipped,
        "rejected": len(exchange.page.rejections),
        "retries": dict(page.effort.retries),
        "waited": round(page.effort.waited, 3),
        "budget_limit": budget and budget.limit,
        "budget_remaining": budget and budget.remaining,
        "budget_reset": budget and budget.reset,
        "cursor_expires_at": _optional(taken.bookmark.cursor_expires_at),
        "oldest": _optional(taken.oldest),
        "newest": _optional(taken.newest),
        "events_seen": taken.bookmark.events_seen,
        "total_events": taken.bookmark.total_events,
    }


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else format_timestamp(moment)
