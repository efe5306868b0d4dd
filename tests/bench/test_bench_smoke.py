from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_bench_runs_from_end_to_end(tmp_path):
    subprocess.run(
        ["sh", "bench/run.sh", "--smoke", "--out", tmp_path], cwd=ROOT, check=True, timeout=900
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["name"] for row in results["comparison"]} >= {"bulk", "record", "dlt-append"}
    assert all(row["valid"] for row in results["comparison"])
    assert {point["subject"] for point in results["growth"]} == {"bulk", "upsert"}
    assert all(point["valid"] for point in results["growth"])
    assert results["again"][0]["requests"] == 1
    assert "### Side by side" in (tmp_path / "results.md").read_text()
    assert "<svg" in (tmp_path / "results.svg").read_text()
