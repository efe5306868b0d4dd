"""The dashboard in a real browser: each state, numbers equal to the tables, no outside request.

`MONITOR_SCREENSHOTS=<directory>` keeps a screenshot of each state there.
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
from datasync_monitor import formatting
from table_writer import T0, connect, create_database, environment, write_load

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytest.importorskip("streamlit", reason="the extra `web` of datasync-monitoring is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing (apt-get install chromium)"),
]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_monitor.database import DatabaseSettings
    from datasync_sandbox.testing import Cluster
    from playwright.sync_api import Browser, Page
    from table_writer import TableWriter

TIMEOUT_MS = 60_000
TABLES = ".datasync-table"
CHARTS = '[data-testid="stVegaLiteChart"]'

# Heavy dependencies of Streamlit that this dashboard does without; an image may leave them out.
UNUSED_PACKAGES = ("altair", "git", "numpy", "pandas", "PIL", "pyarrow", "pydeck")
BLOCKER = f"""
import sys
for name in {UNUSED_PACKAGES}:
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium. Its sandbox is not available to root; loopback needs no proxy."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        browser.close()


@contextmanager
def dashboard(settings: DatabaseSettings, directory: Path) -> Iterator[str]:
    """Run `datasync-monitor web`, without the packages that it does not use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (directory / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    variables = {**os.environ, **environment(settings), "PYTHONPATH": str(directory)}
    command = [sys.executable, "-m", "datasync_monitor.cli", "web"]
    options = ["--port", str(port), "--interval", "0.5"]
    server = subprocess.Popen([*command, *options], env=variables, stdout=subprocess.DEVNULL)
    try:
        wait_until_healthy(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_until_healthy(port: int) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        try:
            with opener.open(f"http://127.0.0.1:{port}/_stcore/health"):
                return
        except (urllib.error.URLError, ConnectionError):  # noqa: PERF203 - it waits anyway
            time.sleep(0.2)
    pytest.fail("the dashboard is not healthy after a minute")


class Tab:
    """A tab of the browser that records its requests and errors."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.page.get_by_text(text).first.wait_for(timeout=TIMEOUT_MS)

    def wait_for_metric(self, label: str, value: str) -> None:
        """Wait until the card with this label shows a value.

        Not read at once: a refresh may replace the cards one after the other.
        """
        card = self.page.locator('[data-testid="stMetric"]', has_text=label)
        shown = card.locator('[data-testid="stMetricValue"]', has_text=value)
        shown.wait_for(timeout=TIMEOUT_MS)
        assert shown.inner_text() == value

    def other_hosts(self) -> set[str]:
        """Return every requested host that is not the dashboard."""
        hosts = {
            urlsplit(url).hostname
            for url in self.requests
            if not url.startswith(("data:", "blob:"))
        }
        return {str(host) for host in hosts} - {"127.0.0.1"}

    def screenshot(self, name: str) -> None:
        """Keep a screenshot of the whole page, where a directory is given."""
        directory = os.environ.get("MONITOR_SCREENSHOTS")
        if directory is None:
            return
        self.page.wait_for_timeout(6000)
        height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        self.page.set_viewport_size({"width": 1280, "height": height})
        self.page.wait_for_timeout(4000)
        self.page.screenshot(path=Path(directory) / f"dashboard-{name}.png")


@pytest.fixture(scope="session")
def shared_settings(cluster: Cluster) -> DatabaseSettings:
    """Name one database for all tests: a dashboard for each of them would take minutes."""
    return create_database(cluster, "monitoring_browser")


@pytest.fixture
def settings(shared_settings: DatabaseSettings) -> DatabaseSettings:
    """Name that database, without tables."""
    with connect(shared_settings) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return shared_settings


@pytest.fixture(scope="session")
def url(
    shared_settings: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with dashboard(shared_settings, tmp_path_factory.mktemp("dashboard")) as url:
        yield url


@pytest.fixture
def tab(browser: Browser, settings: DatabaseSettings, url: str) -> Iterator[Tab]:  # noqa: ARG001
    """Open the dashboard; the database has no tables yet."""
    tab = Tab(browser, url)
    yield tab
    assert tab.errors == []
    tab.page.close()


def test_the_page_of_an_empty_database_updates_itself(writer: TableWriter, tab: Tab) -> None:
    tab.wait_for("Nothing loaded yet")
    tab.wait_for("idle")
    tab.screenshot("empty")
    write_load(writer, "running")
    tab.wait_for("running: 85,000 of 100,000 events, 85.0 %")
    writer.page(remaining=2)
    tab.wait_for("90,000 of 100,000 events")


def test_a_running_load_shows_the_numbers_of_the_tables(writer: TableWriter, tab: Tab) -> None:
    write_load(writer, "running")
    tab.wait_for("running: 85,000 of 100,000 events, 85.0 %")
    seen, percent, rejected = writer.connection.execute(
        """SELECT events_seen, round(100.0 * events_seen / events_expected, 1),
                  (SELECT count(*) FROM rejected_events) FROM checkpoint"""
    ).fetchone()
    tab.wait_for_metric("Events of this scan", formatting.count(seen))
    tab.wait_for_metric("Done", f"{percent} %")
    tab.wait_for_metric("Rejected events", str(rejected))
    tab.wait_for_metric("Requests left", "3 of 10")
    types = writer.connection.execute("SELECT type, count(*) FROM events GROUP BY 1").fetchall()
    for name, events in types:
        tab.wait_for(f"{events:,} · {100 * events / 85_000:.1f} %")
        tab.wait_for(name)
    tab.wait_for("All 85,000 events counted.")
    tab.wait_for("Errors of the newest 1,000, and the newest 3 in full.")
    tab.wait_for("timestamp: cannot be read")
    tab.screenshot("running")


def test_a_wait_for_the_rate_limit_is_shown(writer: TableWriter, tab: Tab) -> None:
    write_load(writer, "waiting")
    tab.wait_for("waiting: 50,000 of 100,000 events, 50.0 %, waiting")
    tab.wait_for_metric("Requests left", "0 of 10")
    tab.screenshot("waiting")


def test_a_stuck_load_is_shown_with_its_reason(writer: TableWriter, tab: Tab) -> None:
    write_load(writer, "stuck")
    tab.wait_for("The load is stuck: no progress for 15 min")
    tab.wait_for_metric("Time left", "—")
    tab.wait_for_metric("Cursor expires in", "expired")
    tab.screenshot("stuck")


def test_a_finished_load_is_shown_with_its_watermark(writer: TableWriter, tab: Tab) -> None:
    write_load(writer, "finished")
    tab.wait_for(f"loaded up to {T0:%Y-%m-%d %H:%M:%S} UTC")
    tab.wait_for_metric("Done", "100.0 %")
    tab.page.locator(TABLES).first.wait_for(timeout=TIMEOUT_MS)
    tab.screenshot("finished")


def test_a_database_that_goes_away_and_returns(
    cluster: Cluster, writer: TableWriter, tab: Tab
) -> None:
    write_load(writer, "finished")
    tab.wait_for("100,000 events in the last scan")
    tab.wait_for("All 100,000 events counted.")
    port = cluster.port
    cluster.stop("immediate")
    try:
        tab.wait_for("database unavailable")
        tab.wait_for_metric("Events of this scan", "100,000")
        tab.screenshot("unavailable")
    finally:
        cluster.start(port)
    tab.page.get_by_text("database unavailable").wait_for(state="detached", timeout=TIMEOUT_MS)
    tab.wait_for("finished")


def test_a_database_that_does_not_exist_yet_is_waited_for(
    cluster: Cluster, browser: Browser, tmp_path: Path
) -> None:
    settings = create_database(cluster, "not_yet")
    with connect(create_database(cluster, "other")) as connection:
        connection.execute("DROP DATABASE not_yet")
    with dashboard(settings, tmp_path) as url:
        tab = Tab(browser, url)
        tab.wait_for("database unavailable")
        create_database(cluster, "not_yet")
        tab.wait_for("Nothing loaded yet")
        tab.page.close()


def test_no_other_host_is_requested(writer: TableWriter, tab: Tab) -> None:
    write_load(writer, "finished")
    tab.wait_for("By type")
    tab.page.locator(CHARTS).first.wait_for(timeout=TIMEOUT_MS)
    tab.page.get_by_text("24 h", exact=True).click()
    tab.wait_for("Events per second")
    tab.page.wait_for_timeout(3000)
    assert len(tab.requests) > 10
    assert tab.other_hosts() == set()


def test_the_text_of_an_event_is_not_interpreted(writer: TableWriter, tab: Tab) -> None:
    write_load(writer, "running")
    writer.connection.execute(
        "UPDATE rejected_events SET raw_event = %s", ("<b>bold</b> **bold** <script>x</script>",)
    )
    tab.wait_for("<b>bold</b> **bold** <script>x</script>")


def test_it_listens_on_loopback_only(tab: Tab) -> None:
    port = urlsplit(tab.page.url).port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; selects the address of the route
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection((address, port), timeout=5)


@pytest.mark.parametrize("width", [400, 1920])
def test_the_page_fits_a_phone_and_a_wide_screen(writer: TableWriter, tab: Tab, width: int) -> None:
    write_load(writer, "running")
    tab.page.set_viewport_size({"width": width, "height": 900})
    tab.wait_for("running: 85,000 of 100,000 events")
    # The charts follow the width a little later than the page.
    tab.page.wait_for_function(
        """() => {
            const main = document.querySelector('[data-testid="stMain"]');
            return main.scrollWidth <= main.clientWidth;
        }""",
        timeout=TIMEOUT_MS,
    )
