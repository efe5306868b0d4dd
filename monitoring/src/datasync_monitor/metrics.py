"""The numbers for Prometheus, at `/metrics`.

The database is read at every scrape. The counters are sums over the table `pages`: they survive a
restart of this exporter, and start from 0 again only when the table is emptied.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from datasync_monitor.database import DatabaseUnavailable, ReconnectingConnection
from datasync_monitor.progress import Progress, State, read_progress
from datasync_monitor.snapshot import PageTotals, read_totals

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg
    from prometheus_client.metrics_core import Metric

    from datasync_monitor.database import DatabaseSettings


class LoadCollector(Collector):
    """Reads the database at each scrape."""

    def __init__(self, settings: DatabaseSettings, stall_timeout: timedelta) -> None:
        """Store the settings; the database does not have to be up yet."""
        self._database = ReconnectingConnection(settings)
        self._stall_timeout = stall_timeout

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; while the database is unavailable, `datasync_database_up` alone."""
        started = time.perf_counter()
        up = GaugeMetricFamily("datasync_database_up", "Whether the database can be read.")
        try:
            progress, totals = self._database.run(self._read)
        except DatabaseUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield _load_state(progress)
        yield from _gauges(progress)
        yield from _counters(totals)
        yield GaugeMetricFamily(
            "datasync_scrape_duration_seconds",
            "Time to read the database for this scrape.",
            time.perf_counter() - started,
        )

    def _read(self, connection: psycopg.Connection) -> tuple[Progress, PageTotals]:
        return read_progress(connection, self._stall_timeout), read_totals(connection)


def _load_state(progress: Progress) -> Metric:
    states = GaugeMetricFamily(
        "datasync_load_state", "The state of the load: 1 for the current one.", labels=["state"]
    )
    for state in State:
        states.add_metric([str(state)], float(progress.state is state))
    return states


def _gauges(progress: Progress) -> Iterator[Metric]:
    snapshot = progress.snapshot
    scan, limit, page = snapshot.scan, snapshot.rate_limit, snapshot.last_page
    wait = limit.wait(snapshot.now) or timedelta(0) if limit else None
    for name, text, value in (
        ("scan_events_seen", "Events seen by the newest scan.", snapshot.events_seen),
        ("scan_events_emitted", "Events of the newest scan sent to the target.",
         scan.events_emitted),
        ("scan_events_expected", "Events that the newest scan has to see.",
         snapshot.events_expected),
        ("scan_pages", "Pages of the newest scan.", snapshot.totals.pages),
        ("scan_restarts", "Restarts of the tap within the newest scan.", progress.restarts),
        ("scan_progress_ratio", "Completed part of the newest scan, 0 to 1.", progress.fraction),
        ("scan_remaining_seconds", "Estimated time to the end of the scan.", progress.time_left),
        ("total_events", "Events in the API, by its own count.", scan.total_events),
        ("table_events_estimate", "Rows of the table events, from PostgreSQL's statistics.",
         snapshot.events_in_table),
        ("rate_limit", "Requests that the API allows in a window.", limit.limit if limit else None),
        ("rate_limit_remaining", "Requests left after the last page.",
         limit.remaining if limit else None),
        ("rate_limit_reset_seconds", "Time until the API allows the next request.", wait),
        ("checkpoint_timestamp_seconds", "When the checkpoint was last written.", scan.updated_at),
        ("last_page_timestamp_seconds", "When the last page was received.",
         page.received_at if page else None),
        ("cursor_expires_timestamp_seconds", "When the cursor of the scan in progress expires.",
         scan.cursor_expires_at),
        ("high_watermark_timestamp_seconds", "All events up to this event time are loaded.",
         scan.high_watermark),
    ):  # fmt: skip
        if value is not None:
            yield GaugeMetricFamily(f"datasync_{name}", text, _number(value))


def _number(value: float | timedelta | datetime) -> float:
    """Return a duration in seconds, and a time in seconds since 1970."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.timestamp() if isinstance(value, datetime) else float(value)


def _counters(totals: PageTotals) -> Iterator[Metric]:
    for name, text, value in (
        ("syncs", "Processes of the tap that received at least one page.", totals.syncs),
        ("pages", "Pages received.", totals.pages),
        ("events_received", "Events received, new or not.", totals.events),
        ("events_emitted", "Events sent to the target.", totals.emitted),
        ("events_skipped", "Events skipped, because an earlier scan had loaded them.",
         totals.skipped),
        ("events_rejected", "Events of which a part was invalid.", totals.rejected),
        ("response_bytes", "Bytes of pages received.", totals.response_bytes),
        ("rate_limit_wait_seconds", "Time spent waiting for the rate limit.",
         totals.rate_limit_wait_seconds),
        # Beside the sum by cause: the series of a cause begins with its first retry, which
        # Prometheus does not count as an increase.
        ("requests_retried", "Requests repeated, for any cause.", sum(totals.retries.values())),
    ):  # fmt: skip
        yield CounterMetricFamily(f"datasync_{name}", text, value)
    retries = CounterMetricFamily(
        "datasync_request_retries", "Requests repeated, by cause.", labels=["cause"]
    )
    for cause, count in totals.retries.items():
        retries.add_metric([cause], count)
    yield retries


def registry(settings: DatabaseSettings, stall_timeout: timedelta) -> CollectorRegistry:
    """Return a registry with the metrics of the load, and no others."""
    result = CollectorRegistry(auto_describe=False)
    result.register(LoadCollector(settings, stall_timeout))
    return result


def serve(settings: DatabaseSettings, *, host: str, port: int, stall_timeout: timedelta) -> None:
    """Serve `/metrics` in a thread.

    Raises:
        OSError: the address cannot be used.
    """
    start_http_server(port, addr=host, registry=registry(settings, stall_timeout))
