"""The tap with other Singer targets."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from datasync_sandbox.testing import running_api

from tests.pipeline.pipeline_helpers import TAP, Database, feed_ids, pipe

CSV_TARGET = Path(sys.executable).with_name("target-csv")


def load_with(
    target: Path, config: dict[str, Any], directory: Path, *, malformed: float = 0.0
) -> set[str]:
    """Load sample events with a target; returns the ids that the feed has."""
    with running_api(events=500, limit=1000, malformed=malformed) as api:
        *codes, log = pipe(api, config, directory, target)
        assert codes == [0, 0], log
        state = json.loads((directory / "state.json").read_text())
        assert state["bookmarks"]["events"]["high_watermark"]
        return set(feed_ids(api))


@pytest.mark.skipif(not CSV_TARGET.exists(), reason="target-csv is not installed")
def test_target_csv_writes_every_event(tmp_path: Path) -> None:
    ids = load_with(CSV_TARGET, {"output_path": str(tmp_path)}, tmp_path, malformed=0.3)
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
    ids = load_with(TAP.with_name("target-postgres"), config, tmp_path)
    assert {ident for (ident,) in database.rows("SELECT id FROM events")} == ids
