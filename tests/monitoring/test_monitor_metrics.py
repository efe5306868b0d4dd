"""Prometheus gets the same numbers, under names that its own tools approve of."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scribe import tell

pytest.importorskip(
    "prometheus_client", reason="the extra `metrics` of datasync-monitoring is not installed"
)

from datasync_monitor.database import Settings
from datasync_monitor.health import PATIENCE
from datasync_monitor.metrics import registry
from prometheus_client import generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from scribe import Scribe

ROOM = Path(__file__).parents[2] / "monitoring"
DASHBOARD = ROOM / "grafana" / "dashboard.json"
ALERTS = ROOM / "prometheus" / "alerts.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing (apt-get install prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is missing (apt-get install prometheus)"
)


def scrape(settings: Settings) -> dict[str, float]:
    text = generate_latest(registry(settings, PATIENCE)).decode()
    return {
        sample.name
        + "".join(f"{{{key}={value}}}" for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_numbers_equal_sql(settings: Settings, scribe: Scribe) -> None:
    tell(scribe, "running")
    served = scrape(settings)
    sums = scribe.connection.execute(
        """SELECT count(*), sum(events), sum(emitted), sum(rejected), sum(bytes), sum(waited)
           FROM pages"""
    ).fetchone()
    names = (
        "pages",
        "events_received",
        "events_emitted",
        "events_rejected",
        "received_bytes",
        "rate_limit_wait_seconds",
    )
    assert [served[f"datasync_{name}_total"] for name in names] == [float(value) for value in sums]
    seen, total = scribe.connection.execute(
        "SELECT events_seen, total_events FROM checkpoint"
    ).fetchone()
    assert (served["datasync_walk_events_seen"], served["datasync_api_events"]) == (seen, total)
    assert served["datasync_request_retries_total{cause=503}"] == 3
    assert served["datasync_requests_repeated_total"] == 5
    assert served["datasync_load_state{state=running}"] == 1
    assert (
        sum(value for name, value in served.items() if name.startswith("datasync_load_state")) == 1
    )


@pytest.mark.parametrize("story", ["empty", "running", "waiting", "stuck", "finished"])
def test_every_state_is_told(settings: Settings, scribe: Scribe, story: str) -> None:
    tell(scribe, story)
    state = {"empty": "idle"}.get(story, story)
    assert scrape(settings)[f"datasync_load_state{{state={state}}}"] == 1


def test_without_tables_the_exporter_says_idle(settings: Settings) -> None:
    served = scrape(settings)
    assert (served["datasync_database_up"], served["datasync_load_state{state=idle}"]) == (1, 1)


def test_the_counter_of_repeated_requests_is_there_before_the_first(
    settings: Settings, scribe: Scribe
) -> None:
    scribe.page()
    assert scrape(settings)["datasync_requests_repeated_total"] == 0


def test_without_a_database_only_that_is_said() -> None:
    assert scrape(Settings(port=1)) == {"datasync_database_up": 0}


def test_a_database_that_refuses_is_no_error_of_the_exporter(
    settings: Settings, scribe: Scribe
) -> None:
    scribe.connection.execute("REVOKE SELECT ON pages FROM CURRENT_USER")
    assert scrape(settings) == {"datasync_database_up": 0}


@needs_promtool
@pytest.mark.parametrize("story", ["empty", "waiting", "finished"])
def test_promtool_approves_of_the_metrics(settings: Settings, scribe: Scribe, story: str) -> None:
    tell(scribe, story)
    served = generate_latest(registry(settings, PATIENCE))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=served, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@needs_promtool
def test_promtool_approves_of_the_alerts(tmp_path: Path) -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    story = Path(__file__).with_name("alerts_test.yml").read_text(encoding="utf-8")
    (tmp_path / "test.yml").write_text(
        story.replace("- ALERTS\n", f"- {ALERTS}\n"), encoding="utf-8"
    )
    tested = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
def test_promtool_approves_of_the_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", ROOM / "prometheus" / "prometheus.yml"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_a_panel_of_one_number_asks_for_this_moment_alone() -> None:
    """Of a range, the last number that was not null would stay for as long as the range is."""
    asked = [
        (target.get("instant"), target.get("range"))
        for panel in panels()
        if panel["type"] in {"stat", "gauge"}
        for target in panel["targets"]
    ]
    assert asked == [(True, False)] * 7


def test_the_dashboard_and_the_alerts_ask_for_nothing_that_is_not_served(
    settings: Settings, scribe: Scribe
) -> None:
    tell(scribe, "waiting")
    served = {name.split("{")[0] for name in scrape(settings)} | {
        "datasync_complete_to_timestamp_seconds"
    }
    asked = set(
        re.findall(r"\bdatasync_\w+", " ".join(queries()) + ALERTS.read_text(encoding="utf-8"))
    )
    assert asked - served == set()


@needs_prometheus
def test_a_real_prometheus_answers_every_query_of_the_dashboard(
    settings: Settings, scribe: Scribe, tmp_path: Path
) -> None:
    tell(scribe, "waiting")
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry(settings, PATIENCE))
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs:\n  - job_name: datasync\n"
        "    scrape_interval: 200ms\n    scrape_timeout: 200ms\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{server.server_port}']}}]\n",
        encoding="utf-8",
    )
    port = _free_port()
    prometheus = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}",
         f"--storage.tsdb.path={tmp_path / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for query in queries():
            assert _answers(port, query), query
    finally:
        prometheus.terminate()
        prometheus.wait()
        server.shutdown()
        server.server_close()
        thread.join()


def _answers(port: int, query: str) -> bool:
    """Ask until there is an answer: the first rates need two scrapes."""
    for _ in range(150):
        try:
            if _ask(port, query):
                return True
        except OSError:
            pass  # not up yet
        time.sleep(0.2)
    return False


def _ask(port: int, query: str) -> list[Any]:
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)["data"]["result"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
