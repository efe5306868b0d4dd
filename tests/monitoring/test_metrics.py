"""The metrics equal the tables; Prometheus accepts them, the alerts and the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.monitoring.monitoring_helpers import free_port, server_process, write_load

pytest.importorskip(
    "prometheus_client", reason="the extra `metrics` of datasync-monitoring is not installed"
)

from datasync_monitor.database import DatabaseSettings
from datasync_monitor.metrics import registry
from datasync_monitor.progress import STALL_TIMEOUT
from prometheus_client import generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.monitoring.monitoring_helpers import TableWriter

PACKAGE = Path(__file__).parents[2] / "monitoring"
DASHBOARD = PACKAGE / "grafana" / "dashboard.json"
ALERTS = PACKAGE / "prometheus" / "alerts.yml"
# Loopback never goes through a proxy of the environment.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing (apt-get install prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is missing (apt-get install prometheus)"
)


def scrape(settings: DatabaseSettings) -> dict[str, float]:
    text = generate_latest(registry(settings, STALL_TIMEOUT)).decode()
    return {
        sample.name
        + "".join(f"{{{key}={value}}}" for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_metrics_equal_the_tables(settings: DatabaseSettings, writer: TableWriter) -> None:
    write_load(writer, "running")
    metrics = scrape(settings)
    sums = writer.connection.execute(
        """SELECT count(*), sum(events), sum(emitted), sum(rejected), sum(response_bytes),
                  sum(rate_limit_wait_seconds), count(DISTINCT sync_id) FROM pages"""
    ).fetchone()
    names = ("pages", "events_received", "events_emitted", "events_rejected", "response_bytes")
    names += ("rate_limit_wait_seconds", "syncs")
    values = [metrics[f"datasync_{name}_total"] for name in names]
    assert values == [float(value) for value in sums]
    columns = ("events_seen", "events_emitted", "events_expected")
    row = writer.connection.execute(f"SELECT {', '.join(columns)} FROM checkpoint").fetchone()
    assert [metrics[f"datasync_scan_{name}"] for name in columns] == list(row)
    assert metrics["datasync_total_events"] == 100_000
    assert (metrics["datasync_rate_limit"], metrics["datasync_rate_limit_remaining"]) == (10, 3)
    assert metrics["datasync_rate_limit_reset_seconds"] == 0
    assert metrics["datasync_request_retries_total{cause=http_503}"] == 3
    assert metrics["datasync_requests_retried_total"] == 5
    states = {name: value for name, value in metrics.items() if "load_state" in name}
    assert states["datasync_load_state{state=running}"] == sum(states.values()) == 1


@pytest.mark.parametrize("state", ["idle", "running", "waiting", "stuck", "finished"])
def test_each_state_is_exported_in_the_format_of_prometheus(
    settings: DatabaseSettings, writer: TableWriter, state: str
) -> None:
    write_load(writer, state)
    metrics = scrape(settings)
    assert metrics[f"datasync_load_state{{state={state}}}"] == 1
    assert (metrics.get("datasync_rate_limit_reset_seconds", 0) > 0) == (state == "waiting")
    if PROMTOOL:
        text = generate_latest(registry(settings, STALL_TIMEOUT))
        command = [PROMTOOL, "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_without_tables_the_state_is_idle(settings: DatabaseSettings) -> None:
    metrics = scrape(settings)
    assert (metrics["datasync_database_up"], metrics["datasync_load_state{state=idle}"]) == (1, 1)
    # The counter exists before the first retry.
    assert metrics["datasync_requests_retried_total"] == 0


def test_without_a_database_only_that_is_exported() -> None:
    assert scrape(DatabaseSettings("127.0.0.1", port=1)) == {"datasync_database_up": 0}


@needs_promtool
def test_promtool_accepts_configuration_alerts_and_their_tests(tmp_path: Path) -> None:
    tests = Path(__file__).with_name("alerts_test.yml").read_text(encoding="utf-8")
    tests_file = tmp_path / "alerts_test.yml"
    tests_file.write_text(tests.replace("- ALERTS\n", f"- {ALERTS}\n"), encoding="utf-8")
    # The configuration names the rules, which are checked with it.
    configuration = PACKAGE / "prometheus" / "prometheus.yml"
    for command in (["check", "config", configuration], ["test", "rules", tests_file]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_panels_of_one_number_query_the_current_value() -> None:
    """Of a range, the last number would be shown as long as the range lasts."""
    modes = [
        (target.get("instant"), target.get("range"))
        for panel in panels()
        if panel["type"] in {"stat", "gauge"}
        for target in panel["targets"]
    ]
    assert modes == [(True, False)] * 7


def test_dashboard_and_alerts_use_existing_metrics_only(
    settings: DatabaseSettings, writer: TableWriter
) -> None:
    write_load(writer, "waiting")
    exported = {name.split("{")[0] for name in scrape(settings)}
    exported.add("datasync_high_watermark_timestamp_seconds")  # after the first finished scan
    text = " ".join(queries()) + ALERTS.read_text(encoding="utf-8")
    assert set(re.findall(r"\bdatasync_\w+", text)) - exported == set()


@needs_prometheus
def test_a_real_prometheus_answers_every_query_of_the_dashboard(
    settings: DatabaseSettings, writer: TableWriter, tmp_path: Path
) -> None:
    write_load(writer, "waiting")
    server, thread = start_http_server(
        0, addr="127.0.0.1", registry=registry(settings, STALL_TIMEOUT)
    )
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs:\n  - job_name: datasync\n"
        "    scrape_interval: 200ms\n    scrape_timeout: 200ms\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{server.server_port}']}}]\n",
        encoding="utf-8",
    )
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    try:
        with server_process(command, port):
            assert [query for query in queries() if not has_answer(port, query)] == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def has_answer(port: int, query: str) -> bool:
    """Query until there is a result: the first rates need two scrapes."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    for _ in range(150):
        try:
            with OPENER.open(url) as reply:
                if json.load(reply)["data"]["result"]:
                    return True
        except OSError:
            pass  # not up yet
        time.sleep(0.2)
    return False
