"""The same numbers for Prometheus. Names and units follow its conventions.

Everything is read when Prometheus asks, so that a number is as old as the scrape and no older. The
counters are sums over the table `pages`: they survive a restart of this exporter, and start again
from nothing only when the table is emptied, which Prometheus takes for a restart.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from datasync_monitor.database import Settings, Unreachable, connect, translated
from datasync_monitor.health import State
from datasync_monitor.history import Totals, read_totals
from datasync_monitor.progress import Progress, read_progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from prometheus_client.metrics_core import Metric


class LoadCollector(Collector):
    """Reads the database at each scrape."""

    def __init__(self, settings: Settings, patience: timedelta) -> None:
        """Remember where the database is; it need not be there yet."""
        self._settings = settings
        self._patience = patience

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, or, while the database is gone, only that it is."""
        started = time.perf_counter()
        try:
            # A connection for each scrape: four in a minute, and none to look after in between.
            with connect(self._settings) as connection, translated(connection, self._settings):
                schema = self._settings.schema
                progress = read_progress(connection, schema=schema, patience=self._patience)
                totals = read_totals(connection, schema)
        except Unreachable:
            yield GaugeMetricFamily("datasync_database_up", "Whether the database answers.", 0)
            return
        yield GaugeMetricFamily("datasync_database_up", "Whether the database answers.", 1)
        yield from _state(progress)
        yield from _walk(progress)
        yield from _moments(progress)
        yield from _counters(totals)
        yield GaugeMetricFamily(
            "datasync_scrape_duration_seconds",
            "Time that reading the database took for this scrape.",
            time.perf_counter() - started,
        )


def _state(progress: Progress) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "datasync_load_state", "The state of the load: 1 for the one that holds.", labels=["state"]
    )
    for state in State:
        states.add_metric([str(state)], float(progress.state is state))
    yield states


def _walk(progress: Progress) -> Iterator[Metric]:
    budget = progress.budget
    wait = budget.wait(progress.now) if budget else None
    rows = (
        ("walk_events_seen", "Events that the newest walk has seen.", progress.seen),
        (
            "walk_events_emitted",
            "Events of those that were handed to the loader.",
            progress.emitted,
        ),
        ("walk_pages", "Pages of the newest walk.", progress.pages),
        (
            "walk_restarts",
            "Times that the tap was started again within the newest walk.",
            progress.restarts,
        ),
        ("walk_progress_ratio", "How much of the newest walk is done, 0 to 1.", progress.fraction),
        (
            "walk_remaining_seconds",
            "Estimated time to the end of the walk.",
            _seconds(progress.eta),
        ),
        ("api_events", "Events that the API says it holds.", progress.total),
        (
            "table_events_estimate",
            "Rows in the table events, by PostgreSQL's statistics.",
            progress.in_table,
        ),
        (
            "request_budget_limit",
            "Requests that the API allows in a window.",
            budget.limit if budget else None,
        ),
        (
            "request_budget_remaining",
            "Requests left after the last page.",
            budget.remaining if budget else None,
        ),
        (
            "request_budget_wait_seconds",
            "Time until the API allows the next request.",
            None if budget is None else _seconds(wait) or 0.0,
        ),
    )
    for name, text, value in rows:
        if value is not None:
            yield GaugeMetricFamily(f"datasync_{name}", text, value)


def _moments(progress: Progress) -> Iterator[Metric]:
    last = progress.last_page
    rows: tuple[tuple[str, str, datetime | None], ...] = (
        ("checkpoint", "When the checkpoint was last written.", progress.checkpoint_at),
        ("last_page", "When the last page was received.", last.received_at if last else None),
        ("cursor_expiry", "When the open walk's cursor dies.", progress.cursor_expires_at),
        (
            "complete_to",
            "Everything up to this moment of event time is loaded.",
            progress.complete_to,
        ),
    )
    for name, text, moment in rows:
        if moment is not None:
            yield GaugeMetricFamily(f"datasync_{name}_timestamp_seconds", text, moment.timestamp())


def _counters(totals: Totals) -> Iterator[Metric]:
    rows = (
        ("runs", "Tap processes that brought at least one page.", totals.runs),
        ("pages", "Pages received.", totals.pages),
        ("events_received", "Events received, whether new or not.", totals.events),
        ("events_emitted", "Events handed to the loader.", totals.emitted),
        (
            "events_skipped",
            "Events passed over, because an earlier walk had loaded them.",
            totals.skipped,
        ),
        ("events_rejected", "Events of which something did not fit.", totals.rejected),
        ("received_bytes", "Bytes of pages received.", totals.bytes),
        ("rate_limit_wait_seconds", "Time spent waiting for the API's limit.", totals.waited),
        # Beside the causes below: none of those is there before it has happened, and Prometheus
        # sees no increase in a series that begins.
        ("requests_repeated", "Requests repeated, for any cause.", sum(totals.retries.values())),
    )
    for name, text, value in rows:
        yield CounterMetricFamily(f"datasync_{name}", text, value)
    retries = CounterMetricFamily(
        "datasync_request_retries", "Requests repeated, by cause.", labels=["cause"]
    )
    for cause, count in totals.retries.items():
        retries.add_metric([cause], count)
    yield retries


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def registry(settings: Settings, patience: timedelta) -> CollectorRegistry:
    """Build a registry that holds nothing but the load."""
    made = CollectorRegistry(auto_describe=False)
    made.register(LoadCollector(settings, patience))
    return made


def serve(settings: Settings, *, host: str, port: int, patience: timedelta) -> None:
    """Serve `/metrics` from a thread of its own.

    Raises:
        OSError: nobody can listen there.
    """
    start_http_server(port, addr=host, registry=registry(settings, patience))
