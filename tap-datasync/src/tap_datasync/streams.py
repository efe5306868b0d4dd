"""The three streams: the events, the rejected events, and the pages they came in.

``events`` does not use the SDK's ``get_records``. The SDK would write STATE after 10,000
records and at the end; here a page is the unit: a cursor belongs to a page and expires
after two minutes, so STATE follows the records of every page. The records of the other two
streams belong to the page as well, and are written with it, before that STATE.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from singer_sdk import typing as th
from typing_extensions import override

from tap_datasync.client import Clock, PageClient, RequestStats, SystemClock, Transport
from tap_datasync.errors import CursorExpiredError
from tap_datasync.pagination import REFETCH_DELAY_SECONDS, EventPaginator, PageDecision
from tap_datasync.parsing import parse_page
from tap_datasync.progress import ProgressLog
from tap_datasync.sdk_overrides import DerivedStream, PagedStream
from tap_datasync.state import ScanState
from tap_datasync.timestamps import format_timestamp
from tap_datasync.transport import HttpTransport

if TYPE_CHECKING:
    from tap_datasync.parsing import EventRecord, FetchedPage
    from tap_datasync.scan import Scan

_Json = dict[str, Any]

# Numbers that a float would change, or cannot hold at all, are kept as they are.
_DECODER = msgspec.json.Decoder(_Json, float_hook=Decimal)


def _column(name: str, kind: Any, description: str, *, required: bool = False) -> th.Property[Any]:
    title = name.removesuffix("_seconds").replace("_", " ").capitalize()
    title = re.sub(r"\bid\b", "ID", title, flags=re.IGNORECASE)
    return th.Property(name, kind, required=required, title=title, description=description)


class RejectedEventsStream(DerivedStream):
    """Events that are invalid, as they were received. Written while ``events`` is synced."""

    name = "rejected_events"
    primary_keys: ClassVar[list[str]] = ["rejection_id"]
    schema: ClassVar[_Json] = th.PropertiesList(
        _column(
            "rejection_id",
            th.StringType,
            "SHA-256 of the event, whatever the notation of its timestamp.",
            required=True,
        ),
        _column("event_id", th.StringType, "ID of the event; null if it has none."),
        # Without `items`: with them a PostgreSQL target makes an array, not JSONB.
        _column(
            "errors",
            th.CustomType({"type": ["array", "null"]}),
            "What is invalid, one message for each field.",
        ),
        _column("raw_event", th.StringType, "JSON text of the event."),
        _column("sync_id", th.StringType, "Run of the tap; joins with pages."),
        _column("page", th.IntegerType, "Page of that run, from 1."),
        _column("rejected_at", th.DateTimeType, "When the page was received."),
    ).to_dict()


class PagesStream(DerivedStream):
    """One record for each page: how it was fetched. Written while ``events`` is synced."""

    name = "pages"
    primary_keys: ClassVar[list[str]] = ["sync_id", "page"]
    schema: ClassVar[_Json] = th.PropertiesList(
        _column("sync_id", th.StringType, "Run of the tap (UUID).", required=True),
        _column("page", th.IntegerType, "Page of that run, from 1.", required=True),
        _column("requested_at", th.DateTimeType, "When the request was sent."),
        _column("received_at", th.DateTimeType, "When the response was complete."),
        _column("response_bytes", th.IntegerType, "Size of the body."),
        _column("events", th.IntegerType, "Events on the page."),
        _column("emitted", th.IntegerType, "Events sent to the target."),
        _column("skipped", th.IntegerType, "Events left out because they are loaded."),
        _column("rejected", th.IntegerType, "Events with errors."),
        _column(
            "retries",
            th.ObjectType(additional_properties=th.IntegerType),
            "Repeated requests since the page before, by cause.",
        ),
        _column(
            "rate_limit_wait_seconds",
            th.NumberType,
            "Seconds waited for the rate limit since the page before.",
        ),
        _column("rate_limit", th.IntegerType, "Requests in one window."),
        _column("rate_limit_remaining", th.IntegerType, "Requests left after this one."),
        _column(
            "rate_limit_reset_seconds", th.IntegerType, "Seconds until a request becomes available."
        ),
        _column("cursor_expires_at", th.DateTimeType, "End of the next cursor."),
        _column("oldest_event_at", th.DateTimeType, "Oldest event on the page."),
        _column("newest_event_at", th.DateTimeType, "Newest event on the page."),
        _column("events_seen", th.IntegerType, "Distinct events of the scan so far."),
        _column("events_expected", th.IntegerType, "Events that existed when the scan started."),
        _column("total_events", th.IntegerType, "Highest meta.total of the scan."),
        _column(
            "incremental_to",
            th.DateTimeType,
            "Where an incremental scan ends; null for a scan to the oldest event.",
        ),
    ).to_dict()


class EventsStream(PagedStream):
    """All events, newest first, resumed by cursor."""

    name = "events"
    primary_keys: ClassVar[list[str]] = ["id"]
    replication_key = "timestamp"
    schema: ClassVar[_Json] = th.PropertiesList(
        _column("id", th.StringType, "UUID of the event.", required=True),
        _column("session_id", th.StringType, "UUID of the session."),
        _column("user_id", th.StringType, "UUID of the user."),
        _column("type", th.StringType, "page_view, click, purchase, ..."),
        _column("name", th.StringType, "Name of the event."),
        _column(
            "properties", th.ObjectType(additional_properties=True), "Properties of the event."
        ),
        _column("timestamp", th.DateTimeType, "When the event happened, in UTC."),
        _column(
            "session",
            th.ObjectType(additional_properties=True),
            "Device and browser of the session.",
        ),
    ).to_dict()

    clock: Clock = SystemClock()

    @override
    def sync_pages(self) -> None:
        """Read the feed page by page: the whole way of a page, from top to bottom."""
        sync_id = str(uuid.uuid4())
        client = PageClient(
            self.transport(),
            parse_page,
            page_size=self.config["page_size"],
            clock=self.clock,
            logger=self.logger,
        )
        paginator = EventPaginator(
            ScanState.from_dict(self.stream_state),
            source=self.config["api_url"].rstrip("/"),
            lookback=timedelta(seconds=float(self.config["lookback"])),
            full=self.replication_method == "FULL_TABLE",
            now=self.clock.now(),
            logger=self.logger,
        )
        progress = ProgressLog(self.logger, self.clock)
        self._write_other_schemas()
        finished = False
        try:
            while not paginator.scan.is_finished:
                scan = paginator.scan

                # Wait for the rate limit, request, interpret the response, parse the page.
                try:
                    page = client.fetch(scan.state.cursor, expires_at=scan.state.cursor_expires_at)
                except CursorExpiredError as error:
                    paginator.restart(str(error))
                    continue

                # Verify the page against what is known of the feed.
                check = scan.check(page)
                decision = paginator.decide(check, client.stats.retries)
                if decision is PageDecision.REFETCH:
                    self.clock.sleep(REFETCH_DELAY_SECONDS)
                    continue
                if decision is PageDecision.COUNT_ARRIVALS:
                    scan.note_arrivals(client.fetch(None))
                    check = scan.check(page)
                    decision = paginator.decide(check, client.stats.retries)

                # Decide what to emit. Without a way on, the state stays before the page.
                states = {
                    PageDecision.FAIL: scan.state,
                    PageDecision.ABANDON: scan.interrupt(),
                }
                emit = scan.process_page(check)

                # Emit: RECORDs first, then the STATE that is valid once they are loaded.
                stats = client.take_stats()
                key = {"sync_id": sync_id, "page": progress.pages + 1}
                with self.tap.whole_page():
                    self.write_page(page, emit, key | _page_record(page, emit, scan, stats))
                    self.save_state(states.get(decision, scan.state).to_dict())
                progress.log_page(
                    page,
                    scan.state,
                    stats,
                    emitted=len(emit),
                    window=client.rate_limiter.window,
                )
                self.record_counter.increment(len(emit))
                if decision in states:
                    raise paginator.error()
                if not scan.is_finished:
                    self.check_record_limit(progress.emitted)
            finished = True
        finally:
            progress.log_summary(client.stats, finished=finished)

    def transport(self) -> Transport:
        """Return what sends the requests."""
        return HttpTransport(
            self.config["api_url"],
            self.config["api_key"],
            timeout=float(self.config["request_timeout"]),
            logger=self.logger,
        )

    def write_page(self, page: FetchedPage, emit: list[EventRecord], page_record: _Json) -> None:
        """Write the records of one page, of all three streams.

        Args:
            page: The page.
            emit: Its events that are emitted.
            page_record: Its record of the stream ``pages``.
        """
        if self.emits_unchanged:
            self.write_unchanged(emit, page.received_at)
        else:
            for record in emit:
                self.write_mapped(self, _DECODER.decode(msgspec.json.encode(record)))
        if rejected := self.selected_stream(RejectedEventsStream.name):
            for rejection in page.rejections:
                self.write_mapped(
                    rejected,
                    {
                        "rejection_id": rejection.rejection_id,
                        "event_id": rejection.event_id,
                        "errors": rejection.errors,
                        "raw_event": rejection.raw_event,
                        "sync_id": page_record["sync_id"],
                        "page": page_record["page"],
                        "rejected_at": format_timestamp(page.received_at),
                    },
                )
        if pages := self.selected_stream(PagesStream.name):
            self.write_mapped(pages, page_record)

    def _write_other_schemas(self) -> None:
        with self.tap.whole_page():
            for name in (PagesStream.name, RejectedEventsStream.name):
                if stream := self.selected_stream(name):
                    self.write_schema_of(stream)


def _page_record(
    page: FetchedPage, emit: list[EventRecord], scan: Scan, stats: RequestStats
) -> _Json:
    limit, state = page.rate_limit, scan.state
    timestamps = [record.timestamp for record in page.records if record.timestamp is not None]
    return {
        "requested_at": format_timestamp(page.requested_at),
        "received_at": format_timestamp(page.received_at),
        "response_bytes": page.response_bytes,
        "events": page.returned,
        "emitted": len(emit),
        "skipped": len(page.records) - len(emit),
        "rejected": len(page.rejections),
        "retries": dict(stats.retries),
        "rate_limit_wait_seconds": round(stats.rate_limit_wait_seconds, 3),
        "rate_limit": limit and limit.limit,
        "rate_limit_remaining": limit and limit.remaining,
        "rate_limit_reset_seconds": limit and limit.reset,
        "cursor_expires_at": _optional(state.cursor_expires_at),
        "oldest_event_at": _optional(min(timestamps, default=None)),
        "newest_event_at": _optional(max(timestamps, default=None)),
        "events_seen": state.events_seen,
        "events_expected": state.events_expected,
        "total_events": state.total_events,
        "incremental_to": _optional(scan.incremental_to),
    }


def _optional(timestamp: datetime | None) -> str | None:
    return None if timestamp is None else format_timestamp(timestamp)
