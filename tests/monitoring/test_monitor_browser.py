"""The dashboard in a real browser: each state, numbers equal to SQL, no outside request.

`MONITOR_SCREENSHOTS=<directory>` keeps a picture of each state there.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from datasync_monitor import words
from datasync_monitor.database import Settings
from scribe import T0, Scribe, apply_tables, database, tell, writer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytest.importorskip("streamlit", reason="the extra `web` of datasync-monitoring is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing (apt-get install chromium)"),
]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_sandbox.testing import Cluster
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 60_000
TABLES = '[data-testid="stDataFrame"]'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium; a sandbox inside a container's root is not to be had."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def dashboard(settings: Settings) -> Iterator[str]:
    """Run `datasync-monitor web` as a user does, and give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DB_HOST": settings.host,
        "DB_PORT": str(settings.port),
        "DB_USER": settings.user,
        "DB_PASSWORD": settings.password,
        "DB_NAME": settings.dbname,
    }
    command = [
        sys.executable,
        "-m",
        "datasync_monitor.cli",
        "web",
        "--port",
        str(port),
        "--every",
        "0.5",
    ]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait_until_it_serves(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_until_it_serves(port: int) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health"):
                return
        except (urllib.error.URLError, ConnectionError):  # noqa: PERF203 - it waits anyway
            time.sleep(0.2)
    pytest.fail("the dashboard does not serve")


class Watched:
    """A tab that remembers what it asked for, and what it complained of."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def shows(self, text: str) -> None:
        """Wait until the page shows this text."""
        self.page.get_by_text(text).first.wait_for(timeout=PATIENCE_MS)

    def metric(self, label: str) -> str:
        """Give the value of the card with this label."""
        card = self.page.locator('[data-testid="stMetric"]', has_text=label)
        card.wait_for(timeout=PATIENCE_MS)
        return card.locator('[data-testid="stMetricValue"]').inner_text()

    def outside(self) -> set[str]:
        """Every host that was asked and is not the dashboard."""
        hosts = {
            urlsplit(url).hostname for url in self.asked if not url.startswith(("data:", "blob:"))
        }
        return {str(host) for host in hosts} - {"127.0.0.1"}

    def photograph(self, name: str) -> None:
        """Keep a picture of the whole page, if a place for it is named."""
        place = os.environ.get("MONITOR_SCREENSHOTS")
        if place is None:
            return
        self.page.wait_for_timeout(6000)
        height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        self.page.set_viewport_size({"width": 1280, "height": height})
        self.page.wait_for_timeout(4000)
        self.page.screenshot(path=Path(place) / f"dashboard-{name}.png")


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Settings:
    """Name a database for this module: starting a dashboard for each test would take minutes."""
    return database(cluster, "monitoring_browser")


@pytest.fixture
def settings(place: Settings) -> Settings:
    """Give that database without any table."""
    with writer(place) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return place


@pytest.fixture(scope="module")
def url(place: Settings) -> Iterator[str]:
    """Run one dashboard for this module."""
    with dashboard(place) as url:
        yield url


@pytest.fixture
def look(browser: Browser, settings: Settings, url: str) -> Iterator[Watched]:  # noqa: ARG001
    """Open a tab on a database without any table."""
    watched = Watched(browser, url)
    yield watched
    watched.page.close()


def test_an_empty_database_is_said_and_fills_by_itself(scribe: Scribe, look: Watched) -> None:
    look.shows("Nothing loaded yet")
    look.shows("idle")
    look.photograph("empty")
    tell(scribe, "running")
    look.shows("running: 85,000 of 100,000 events, 85.0 %")
    assert look.errors == []


def test_a_database_without_tables_is_an_empty_one(settings: Settings, look: Watched) -> None:
    look.shows("Nothing loaded yet")
    with writer(settings) as connection:
        apply_tables(connection)
        tell(Scribe(connection), "running")
    look.shows("running: 85,000 of 100,000 events, 85.0 %")


def test_a_running_load_shows_the_numbers_of_sql(scribe: Scribe, look: Watched) -> None:
    tell(scribe, "running")
    look.shows("running: 85,000 of 100,000 events, 85.0 %")
    row = scribe.connection.execute(
        """SELECT events_seen, round(100.0 * events_seen / total_events, 1),
                  (SELECT count(*) FROM rejected_events) FROM checkpoint"""
    ).fetchone()
    assert row is not None
    assert look.metric("Events of this walk") == words.count(row[0])
    assert look.metric("Done") == f"{row[1]} %"
    assert look.metric("Rejected events") == str(row[2])
    assert look.metric("Requests left") == "3 of 10"
    by_type = scribe.connection.execute(
        "SELECT type, count(*) FROM events GROUP BY type"
    ).fetchall()
    for name, events in by_type:
        look.shows(f"{events:,} · {100 * events / 85_000:.1f} %")
        look.shows(name)
    look.shows("All 85,000 events counted.")
    look.shows("The reasons of the newest 1,000, and the newest 3 themselves.")
    look.photograph("running")
    assert look.errors == []


def test_it_refreshes_by_itself(scribe: Scribe, look: Watched) -> None:
    tell(scribe, "running")
    look.shows("85,000 of 100,000 events")
    scribe.page(remaining=2)
    look.shows("90,000 of 100,000 events")


def test_waiting_for_the_limit_is_said_as_such(scribe: Scribe, look: Watched) -> None:
    tell(scribe, "waiting")
    look.shows("waiting: 50,000 of 100,000 events, 50.0 %, waiting")
    assert look.metric("Requests left") == "0 of 10"
    look.photograph("waiting")


def test_a_stuck_load_is_seen_at_once(scribe: Scribe, look: Watched) -> None:
    tell(scribe, "stuck")
    look.shows("The load is stuck: nothing has moved for 15 min")
    assert look.metric("Time left") == "-"
    assert look.metric("Cursor lives") == "expired"
    look.photograph("stuck")


def test_a_finished_load_says_what_is_loaded(scribe: Scribe, look: Watched) -> None:
    tell(scribe, "finished")
    look.shows(f"everything up to {T0:%Y-%m-%d %H:%M:%S} UTC is loaded")
    assert look.metric("Done") == "100.0 %"
    look.page.locator(TABLES).first.wait_for(timeout=PATIENCE_MS)
    look.photograph("finished")
    assert look.errors == []


def test_a_database_that_goes_away_and_returns(
    cluster: Cluster, scribe: Scribe, look: Watched
) -> None:
    tell(scribe, "finished")
    look.shows("100,000 events in the last walk")
    look.shows("All 100,000 events counted.")
    port = cluster.port
    cluster.stop("immediate")
    try:
        look.shows("database unreachable")
        assert look.metric("Events of this walk") == "100,000", "what was known stays on the page"
        look.photograph("unreachable")
    finally:
        cluster.start(port)
    look.page.get_by_text("database unreachable").wait_for(state="detached", timeout=PATIENCE_MS)
    look.shows("finished")
    assert look.errors == []


def test_a_database_that_was_never_there_is_waited_for(cluster: Cluster, browser: Browser) -> None:
    settings = Settings(cluster.host, cluster.port, cluster.user, cluster.password, "not_yet")
    with dashboard(settings) as url:
        watched = Watched(browser, url)
        watched.shows("database unreachable")
        database(cluster, "not_yet")
        watched.shows("Nothing loaded yet")
        watched.page.close()


def test_nothing_is_asked_of_the_outside(scribe: Scribe, look: Watched) -> None:
    tell(scribe, "finished")
    look.shows("By type")
    look.page.locator(TABLES).first.wait_for(timeout=PATIENCE_MS)
    look.page.get_by_text("24 h", exact=True).click()
    look.shows("Events per second, each")
    look.page.wait_for_timeout(3000)
    assert len(look.asked) > 10
    assert look.outside() == set()


def test_it_listens_on_loopback_only(look: Watched) -> None:
    port = urlsplit(look.page.url).port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(
            ("192.0.2.1", 9)
        )  # sends nothing; picks the address that the outside would see
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection((address, port), timeout=5)


@pytest.mark.parametrize("width", [400, 1920])
def test_nothing_is_cut_off_on_a_phone_or_a_wide_screen(
    scribe: Scribe, look: Watched, width: int
) -> None:
    tell(scribe, "running")
    look.page.set_viewport_size({"width": width, "height": 900})
    look.shows("running: 85,000 of 100,000 events")
    # The charts are drawn anew in the new width, a moment after the page has it.
    look.page.wait_for_function(
        """() => {
            const main = document.querySelector('[data-testid="stMain"]');
            return main.scrollWidth <= main.clientWidth;
        }""",
        timeout=PATIENCE_MS,
    )
