"""Calculations and report of the benchmark; `sh bench/run.sh --smoke` runs all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from datasync_bench import cli, measurements, processes, report  # noqa: E402


@pytest.mark.parametrize(
    ("arrivals", "share"),
    [
        ([number // 10 * 6.0 + number % 10 * 0.1 for number in range(31)], 1.0),
        # The last requests do not fill a window.
        ([number // 10 * 6.0 + number % 10 * 0.1 for number in range(37)], 1.0),
        ([number * 6.0 for number in range(21)], 0.1),
    ],
)
def test_share_counts_whole_windows(arrivals, share):
    assert measurements.share_of_limit(arrivals, 10, 6.0) == pytest.approx(share)


def test_share_needs_a_full_window():
    with pytest.raises(ValueError, match="do not fill a window"):
        measurements.share_of_limit([0.0] * 10, 10, 6.0)


MEASURE = """
import json, os, pathlib, sys
from dataclasses import asdict
from datasync_bench import processes

usage = processes.run(json.load(sys.stdin), env=os.environ, directory=pathlib.Path.cwd())
print(json.dumps(asdict(usage)))
"""


def test_measures_every_command_of_a_pipe(tmp_path):
    commands = {
        "tap": [sys.executable, "-c", "print('x' * 100_000)"],
        "target": [sys.executable, "-c", "import sys; b' ' * 2**27; print(len(sys.stdin.read()))"],
    }
    # In a small process: the peak of a command includes the process that starts it.
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=json.dumps(commands),
        env={**os.environ, "PYTHONPATH": str(ROOT / "bench")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    usage = json.loads(done.stdout)
    assert usage["output"] == "100001\n"
    assert usage["seconds"] > 0
    assert usage["cpu_seconds"] > 0
    assert usage["peak_mib"]["tap"] < 128 <= usage["peak_mib"]["target"]


def test_failure_of_a_measured_command_shows_its_log(tmp_path):
    commands = {"tap": [sys.executable, "-c", "raise SystemExit('disk full')"]}
    with pytest.raises(processes.CommandError, match="disk full"):
        processes.run(commands, env=os.environ, directory=tmp_path)


def row(name: str, rate: float, **more: object) -> dict:
    return {
        "name": name,
        "title": name,
        "events_per_second": rate,
        "range": (rate, rate),
        "seconds": 1.0,
        "cpu_seconds_per_million": 5.0,
        "peak_mib": {"tap": 60.0, "target": 90.0},
        "valid": True,
        **more,
    }


@pytest.fixture
def results() -> dict:
    paced = {"factor": 1.0, "rate_limited": 0, "pages": 21, "seconds": 120.0, "valid": True}
    later = {"rows_written": 0, "requests": 1, "seconds": 1.0, "valid": True}
    names = {"meltano": 80e3, "dlt-append": 10e3, "hand-loop": 20e3, "upsert": 100e3}
    return {
        "machine": {"cores": 2, "memory_gib": 24, "python": "3.11.7", "load": 0.1},
        "comparison": [row("pipe", 100e3), *(row(name, rate) for name, rate in names.items())],
        "size": [row("pipe", 100e3, events=3_000_000)],
        "rate_limit": [
            {"title": "tap-datasync", "share": 0.997, **paced},
            {"title": "dlt, append", "share": 0.93, **paced},
            {"title": "hand-loop", "share": 0.56, **paced},
        ],
        "later_runs": [
            {"title": title, "events_per_second": rate, **later}
            for title, rate in (("first", 100e3), ("second", 1e3), ("refresh", 50e3))
        ],
    }


def test_reports_no_missed_threshold(results):
    assert [each.title for each in report.thresholds(results) if not each.is_met] == []


@pytest.mark.parametrize(
    ("part", "index", "change", "title"),
    [
        ("comparison", 3, {"events_per_second": 90e3}, "throughput against hand-loop"),
        ("size", 0, {"peak_mib": {"tap": 151.0}}, "largest process, 3,000,000 events"),
        ("rate_limit", 0, {"rate_limited": 1}, "used share of the rate limit, real time"),
        ("later_runs", 1, {"requests": 3}, "second run, nothing new"),
        ("later_runs", 2, {"rows_written": 1}, "full refresh against first load"),
    ],
)
def test_reports_missed_threshold(results, part, index, change, title):
    results[part][index].update(change)
    assert [each.title for each in report.thresholds(results) if not each.is_met] == [title]


def test_incomplete_load_is_void(results):
    results["comparison"][0]["valid"] = False
    assert "| pipe (incomplete: void) |" in report.markdown(results)
    assert not any("throughput" in each.title for each in report.thresholds(results))


PAGES = ("bench/README.md", "README.md", "docs/comparison.md")
EMPTY = f"before\n{report.BEGIN}\noutdated\n{report.END}\nafter"


def pages(root):
    return [(root / name).read_text() for name in PAGES]


@pytest.fixture
def bench(tmp_path, results, monkeypatch):
    """Return a function that runs the command with `results`, in a project of its own."""
    for name in PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(EMPTY)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    for module in (cli, report):
        monkeypatch.setattr(module, "BENCH", tmp_path / "bench")
    monkeypatch.setattr(cli, "WORK", tmp_path / "bench" / ".work")
    for part in ("comparison", "size", "rate_limit", "later_runs"):
        monkeypatch.setattr(measurements, part, lambda *_, part=part: results[part])
    return lambda *arguments: CliRunner().invoke(cli.main, arguments)


def test_pages_are_updated_from_a_complete_run(bench, tmp_path, results):
    results["comparison"][1]["peak_mib"] = {"meltano": 130.0}
    assert bench("--update-pages").exit_code == 0
    report_page, readme, comparison = pages(tmp_path)
    for page in (report_page, readme, comparison):
        assert page.startswith(f"before\n{report.BEGIN}\n\n")
        assert page.endswith(f"\n\n{report.END}\nafter")
        assert "outdated" not in page
    assert "| pipe | 100,000 | 100,000 to 100,000 | 1.0 | 5.0 | tap 60, target 90 |" in report_page
    assert "| meltano | 80,000 | 80,000 to 80,000 | 1.0 | 5.0 | 130 |" in report_page
    assert "0.997 of it with no 429" in readme
    assert "| meltano | 80,000 | 5 | 130 | 0.997 |" in comparison
    assert "upsert" not in comparison


@pytest.mark.parametrize("part", ["comparison", "size", "rate_limit", "later_runs"])
def test_no_page_quotes_a_void_row(bench, tmp_path, results, part):
    results[part][-1]["valid"] = False
    done = bench("--update-pages")
    assert done.exit_code == 1
    assert "its row is void, and the pages stay as they are." in done.stderr
    assert pages(tmp_path) == [EMPTY] * 3


def test_no_page_is_updated_without_all_that_is_quoted(bench, tmp_path):
    done = bench("--part", "comparison", "--part", "size", "--update-pages")
    assert done.exit_code == 1
    assert done.stderr == "Error: The pages quote a part that was not measured: 'rate_limit'.\n"
    assert pages(tmp_path) == [EMPTY] * 3


def test_no_page_is_updated_where_one_has_no_markers(bench, tmp_path):
    (tmp_path / PAGES[-1]).write_text("no markers")
    assert bench("--update-pages").exit_code == 1
    assert pages(tmp_path) == [EMPTY, EMPTY, "no markers"]


def test_a_smoke_run_updates_no_page_and_no_measured_results(bench, tmp_path):
    done = bench("--smoke", "--update-pages")
    assert done.exit_code == 2
    assert "Error: --smoke measures nothing" in done.stderr
    assert bench("--smoke").exit_code == 0
    assert (tmp_path / "bench" / ".work" / "smoke" / "results.json").exists()
    assert not (tmp_path / "bench" / "out").exists()
    assert pages(tmp_path) == [EMPTY] * 3


@pytest.mark.parametrize(
    "error", [processes.CommandError, OSError, RuntimeError, ValueError, psycopg.OperationalError]
)
def test_a_failed_measurement_is_one_message_and_keeps_what_was_measured(
    bench, tmp_path, monkeypatch, error
):
    def fail(*_):
        message = "disk full"
        raise error(message)

    monkeypatch.setattr(measurements, "size", fail)
    done = bench("--out", str(tmp_path / "out"))
    assert (done.exit_code, done.stderr) == (1, "Error: disk full\n")
    measured = json.loads((tmp_path / "out" / "results.json").read_text())
    assert measured.keys() == {"machine", "comparison"}


@pytest.mark.slow
def test_benchmark_runs_from_end_to_end(tmp_path):
    command = ["sh", "bench/run.sh", "--smoke", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    assert "### Throughput" in (tmp_path / "results.md").read_text()
