"""The tap with other Singer targets."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasync_sandbox.testing import running_api

from tests.pipeline.pipeline_helpers import TAP, Database, feed_ids

BIN = Path(sys.executable).parent
CSV_TARGET = BIN / "target-csv"
EVENTS = 500


def pipe_into(target: Path, config: object, directory: Path, *, malformed: float = 0.0) -> set[str]:
    """Load sample events with a target; returns the ids that the feed has."""
    with running_api(events=EVENTS, limit=1000, malformed=malformed) as api:
        tap_config, target_config = directory / "tap.json", directory / "target.json"
        tap_config.write_text(json.dumps({"api_url": api.url, "api_key": api.key}))
        target_config.write_text(json.dumps(config))
        with subprocess.Popen([TAP, "--config", tap_config], stdout=subprocess.PIPE) as tap:
            done = subprocess.run(
                [target, "--config", target_config],
                check=False,
                stdin=tap.stdout,
                capture_output=True,
                text=True,
            )
        assert (tap.returncode, done.returncode) == (0, 0), done.stderr
        state = json.loads(done.stdout.splitlines()[-1])
        assert state["bookmarks"]["events"]["high_watermark"]
        return set(feed_ids(api))


@pytest.mark.skipif(not CSV_TARGET.exists(), reason="target-csv is not installed")
def test_target_csv_writes_every_event(tmp_path: Path) -> None:
    ids = pipe_into(CSV_TARGET, {"output_path": str(tmp_path)}, tmp_path, malformed=0.3)
    (path,) = tmp_path.glob("events*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == ids
    assert list(tmp_path.glob("rejected_events*.csv"))


def test_stock_target_postgres_loads_every_event(database: Database, tmp_path: Path) -> None:
    config = {
        **database.target_config(),
        "default_target_schema": "public",
        "add_record_metadata": False,
        "activate_version": False,
    }
    ids = pipe_into(TAP.with_name("target-postgres"), config, tmp_path)
    assert {ident for (ident,) in database.rows("SELECT id FROM events")} == ids
