"""The dashboard in a real browser: each state, numbers equal to the tables, no outside request.

`MONITOR_SCREENSHOTS=<directory>` keeps a screenshot of each state there.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.monitoring.monitoring_helpers import (
    environment,
    free_port,
    server_process,
    settings_of,
    write_load,
)

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

    from tests.monitoring.monitoring_helpers import TableWriter

expect = playwright.expect
expect.set_options(timeout=60_000)

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


@pytest.fixture(scope="module")
def url(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run `datasync-monitor web`, without the packages that it does not use, for all tests."""
    directory, port = tmp_path_factory.mktemp("dashboard"), free_port()
    (directory / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    command = [sys.executable, "-m", "datasync_monitor.cli", "web"]
    options = ["--port", str(port), "--interval", "0.5"]
    variables = {**os.environ, **environment(settings_of(cluster)), "PYTHONPATH": str(directory)}
    with server_process([*command, *options], port, env=variables):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def page(browser: Browser, writer: TableWriter, url: str) -> Iterator[Page]:  # noqa: ARG001
    """Open the dashboard in a tab; the tables are empty."""
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    yield page
    assert errors == []
    page.close()


def expect_text(page: Page, text: str) -> None:
    expect(page.get_by_text(text).first).to_be_visible()


def expect_metric(page: Page, label: str, value: str) -> None:
    card = page.get_by_test_id("stMetric").filter(has_text=label)
    expect(card.get_by_test_id("stMetricValue")).to_have_text(value)


def screenshot(page: Page, name: str) -> None:
    """Keep a screenshot of the whole page, where a directory is given."""
    directory = os.environ.get("MONITOR_SCREENSHOTS")
    if directory is None:
        return
    page.wait_for_timeout(6000)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": 1280, "height": height})
    page.wait_for_timeout(4000)
    page.screenshot(path=Path(directory) / f"dashboard-{name}.png")


def test_the_page_of_an_empty_database_updates_itself(writer: TableWriter, page: Page) -> None:
    expect_text(page, "Nothing loaded yet")
    expect_text(page, "idle")
    screenshot(page, "empty")
    write_load(writer, "running")
    expect_text(page, "running: 85,000 of 100,000 events, 85.0 %")
    writer.page(remaining=2)
    expect_text(page, "90,000 of 100,000 events")


@pytest.mark.parametrize(
    ("state", "text", "metrics"),
    [
        (
            "waiting",
            "waiting: 50,000 of 100,000 events, 50.0 %, waiting",
            {"Requests left": "0 of 10"},
        ),
        (
            "stuck",
            "The load is stuck: no progress for 15 min",
            {"Time left": "—", "Cursor expires in": "expired"},
        ),
        ("finished", "loaded up to 2026-01-27 19:00:00 UTC", {"Done": "100.0 %"}),
    ],
)
def test_each_state_is_shown(
    writer: TableWriter, page: Page, state: str, text: str, metrics: dict[str, str]
) -> None:
    write_load(writer, state)
    expect_text(page, text)
    for label, value in metrics.items():
        expect_metric(page, label, value)
    screenshot(page, state)


def test_a_running_load_shows_the_numbers_of_the_tables(writer: TableWriter, page: Page) -> None:
    write_load(writer, "running")
    expect_text(page, "running: 85,000 of 100,000 events, 85.0 %")
    expect_metric(page, "Events of this scan", "85,000")
    expect_metric(page, "Done", "85.0 %")
    expect_metric(page, "Rejected events", "3")
    expect_metric(page, "Requests left", "3 of 10")
    types = writer.connection.execute("SELECT type, count(*) FROM events GROUP BY 1").fetchall()
    for name, events in types:
        expect_text(page, f"{events:,} · {100 * events / 85_000:.1f} %")
        expect_text(page, name)
    expect_text(page, "All 85,000 events counted.")
    expect_text(page, "Errors of the newest 1,000, and the newest 3 in full.")
    expect_text(page, "timestamp: cannot be read")
    screenshot(page, "running")
    # The text of an event is not interpreted.
    text = "<b>bold</b> **bold** <script>x</script>"
    writer.connection.execute("UPDATE rejected_events SET raw_event = %s", (text,))
    expect_text(page, text)


def test_a_database_that_goes_away_and_returns(
    cluster: Cluster, browser: Browser, url: str, writer: TableWriter, page: Page
) -> None:
    """A tab keeps its last values; one that is opened meanwhile has none."""
    write_load(writer, "finished")
    expect_text(page, "100,000 events in the last scan")
    expect_text(page, "All 100,000 events counted.")
    port = cluster.port
    cluster.stop("immediate")
    try:
        expect_text(page, "database unavailable")
        expect_metric(page, "Events of this scan", "100,000")
        screenshot(page, "unavailable")
        new = browser.new_page()
        new.goto(url)
        expect_text(new, "database unavailable")
        expect_text(new, "not read yet")
    finally:
        cluster.start(port)
    for tab in (page, new):
        expect(tab.get_by_text("database unavailable")).not_to_be_attached()
        expect_text(tab, "finished")
    new.close()


def test_no_other_host_is_requested(browser: Browser, url: str, writer: TableWriter) -> None:
    write_load(writer, "finished")
    requests: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    page.goto(url)
    expect_text(page, "By type")
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible()
    page.get_by_text("24 h", exact=True).click()
    expect_text(page, "Events per second")
    page.wait_for_timeout(3000)
    page.close()
    assert len(requests) > 10
    external = [address for address in requests if not address.startswith(("data:", "blob:"))]
    assert {urlsplit(address).hostname for address in external} == {"127.0.0.1"}


def test_it_listens_on_loopback_only(url: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; selects the address of the route
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection((address, urlsplit(url).port), timeout=5)


@pytest.mark.parametrize("width", [400, 1920])
def test_the_page_fits_a_phone_and_a_wide_screen(
    writer: TableWriter, page: Page, width: int
) -> None:
    write_load(writer, "running")
    page.set_viewport_size({"width": width, "height": 900})
    expect_text(page, "running: 85,000 of 100,000 events")
    # The charts follow the width a little later than the page.
    page.wait_for_function(
        """() => {
            const main = document.querySelector('[data-testid="stMain"]');
            return main.scrollWidth <= main.clientWidth;
        }""",
        timeout=60_000,
    )
